//! A control group of our own: what processes in it have of memory, page cache included, is counted and may be limited.

use std::fs;
use std::path::{Path, PathBuf};

/// The names of files in one version of control groups.
struct Version {
    /// Where groups of memory are.
    root: &'static str,
    limit: &'static str,
    /// The most memory so far.
    peak: &'static str,
    /// What else to write so that the limit holds: files and values.
    further: &'static [(&'static str, &'static str)],
}

const VERSIONS: [Version; 2] = [
    Version {
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        peak: "memory.max_usage_in_bytes",
        further: &[("memory.swappiness", "0")],
    },
    Version {
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        peak: "memory.peak",
        further: &[("memory.swap.max", "0")],
    },
];

/// A group; it goes when it is dropped.
pub(super) struct Group {
    folder: PathBuf,
    version: &'static Version,
}

impl Group {
    /// A group, with a memory limit in bytes or without.
    ///
    /// # Errors
    /// There is no memory controller, or this user may not make groups; the message says what is missing.
    pub(super) fn new(limit: Option<u64>) -> Result<Group, String> {
        let has_memory = |version: &&Version| Path::new(version.root).join(version.limit).exists();
        // The root group of version 2 has no limit of its own, only its children may.
        let v2 = || {
            let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok()?;
            controllers.split_whitespace().any(|name| name == "memory").then_some(&VERSIONS[1])
        };
        let version = VERSIONS.iter().find(has_memory).or_else(v2).ok_or(
            "a memory control group is needed: neither /sys/fs/cgroup/memory (version 1) nor the memory controller in \
             /sys/fs/cgroup/cgroup.controllers (version 2) is there",
        )?;
        if version.root == VERSIONS[1].root {
            let file = "/sys/fs/cgroup/cgroup.subtree_control";
            fs::write(file, "+memory").map_err(|error| format!("{file}: {error}; run as root"))?;
        }
        let folder = Path::new(version.root).join(format!("jtllm-tiers-{}", std::process::id()));
        let failed = |what: &Path, error: std::io::Error| format!("{}: {error}; run as root", what.display());
        fs::create_dir(&folder).map_err(|error| failed(&folder, error))?;
        let group = Group { folder, version };
        if let Some(bytes) = limit {
            let file = group.folder.join(version.limit);
            fs::write(&file, bytes.to_string()).map_err(|error| failed(&file, error))?;
        }
        for (name, value) in version.further {
            // Where there is no swap there is no such file either.
            let _ = fs::write(group.folder.join(name), value);
        }
        Ok(group)
    }

    /// The file to which a process writes its number to be in the group.
    pub(super) fn entrance(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The most memory that processes of the group had, page cache included.
    pub(super) fn peak(&self) -> Option<u64> {
        fs::read_to_string(self.folder.join(self.version.peak)).ok()?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that has just ended may still be in it for a moment.
        for _ in 0..50 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
