//! Control groups, by which the system itself counts what a process takes.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::isolate;

/// A control group for memory of either version, removed when it goes.
pub(crate) struct Group {
    folder: PathBuf,
    is_unified: bool,
}

impl Group {
    /// A new one with this limit; nothing where that is not allowed.
    pub(crate) fn new(name: &str, limit: u64) -> Option<Group> {
        let name = format!("jtllm-test-{name}-{}", std::process::id());
        for (root, is_unified) in [("/sys/fs/cgroup/memory", false), ("/sys/fs/cgroup", true)] {
            let folder = Path::new(root).join(&name);
            let (file, exists) = match is_unified {
                true => ("memory.max", Path::new(root).join("cgroup.controllers").exists()),
                false => ("memory.limit_in_bytes", Path::new(root).join("memory.limit_in_bytes").exists()),
            };
            if !exists || fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Group { folder, is_unified };
            if fs::write(group.folder.join(file), limit.to_string()).is_ok() && group.peak().is_some() {
                // Where there is no swap there is no such file either.
                let _ = fs::write(group.folder.join("memory.swappiness"), "0");
                let _ = fs::write(group.folder.join("memory.swap.max"), "0");
                return Some(group);
            }
        }
        println!("no control group for memory can be made here: the program's own count is looked at");
        None
    }

    /// The most bytes that it has had.
    pub(crate) fn peak(&self) -> Option<u64> {
        let file = if self.is_unified { "memory.peak" } else { "memory.max_usage_in_bytes" };
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Runs the model in a group, which everything that it touches is counted for, and keeps its own counters of bytes.
pub(crate) fn run(group: Option<&Group>, cache: &Path, arguments: &[&str]) -> Output {
    let procs = group.map_or(PathBuf::from("/dev/null"), |group| group.folder.join("cgroup.procs"));
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs);
    command.arg(env!("CARGO_BIN_EXE_jtllm")).args(arguments);
    isolate(&mut command);
    command.env("JTLLM_CACHE", cache).output().unwrap()
}
