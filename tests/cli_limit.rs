//! `--mem-limit` is kept: what the process takes is measured by a control group, where one can be made.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{failure, isolate, stderr};
use tempfile::TempDir;
use xtask::synthetic::Synthetic;

/// What the system may keep for a process beside what the process counts: its program's pages, its pipes.
const BESIDE: u64 = 64 << 20;

/// What a group may have beyond a limit: more than is looked for, so that it is seen if it is taken.
const LOOSE: u64 = 8 * BESIDE;

/// Bytes that the system reads beside those that were asked for, of the model's header and of its samples.
const READ_AHEAD: u64 = 16 << 20;

/// Bytes of what is written all the same: kernels that were compiled, the entry for `jtllm ps`.
const WRITTEN: u64 = 1 << 20;

/// More than what one step reads.
const STEP: u64 = 40 << 20;

const TOKENS: &str = "6";

/// A model of some 200 MB.
fn model(folder: &Path, encoding: &str, layers: u64) -> (PathBuf, u64) {
    let file = folder.join("model.gguf");
    let model = Synthetic::of("llama-1.1b", encoding, Some(layers)).unwrap();
    model.write(&file, &mut |_| {}).unwrap();
    (file, model.bytes())
}

/// A control group for memory of either version, removed when it goes.
struct Group {
    folder: PathBuf,
    is_unified: bool,
}

impl Group {
    /// A new one with this limit; nothing where that is not allowed.
    fn new(name: &str, limit: u64) -> Option<Group> {
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
    fn peak(&self) -> Option<u64> {
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
fn run(group: Option<&Group>, cache: &Path, arguments: &[&str]) -> Output {
    let procs = group.map_or(PathBuf::from("/dev/null"), |group| group.folder.join("cgroup.procs"));
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(procs);
    command.arg(env!("CARGO_BIN_EXE_jtllm")).args(arguments);
    isolate(&mut command);
    command.env("JTLLM_CACHE", cache).output().unwrap()
}

fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{:?} {}", output.status, stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the process itself had at the most, where the system tells: also where there is no group.
fn is_within(memory: &Value, limit: u64) {
    if let Some(peak) = memory["peak_resident"].as_u64() {
        assert!(peak < limit + BESIDE, "{peak} above {limit}");
    }
}

/// Generates within a limit that lets a part of the weights stay: the same tokens, within the limit, and of weights nothing
/// is written.
fn check(name: &str, encoding: &str, layers: u64, limit: u64) {
    let folder = TempDir::new().unwrap();
    let (file, all) = model(folder.path(), encoding, layers);
    let model = file.to_str().unwrap();
    let own = ["run", model, "--raw", "-p", "Memory is", "-n", TOKENS, "--temp", "0", "-c", "128", "-t", "1"];
    let free = answer(&run(None, folder.path(), &[&own[..], &["--json", "--ignore-eos"]].concat()));
    assert_eq!(free["memory"], Value::Null);
    // Packed weights are made again within the limit: that is to be kept too.
    let packed = TempDir::new().unwrap();
    let text = limit.to_string();
    let more = ["--json", "--ignore-eos", "--mem-limit", &text];
    let group = Group::new(name, limit + LOOSE);
    for start in 0..2 {
        let output = run(group.as_ref(), packed.path(), &[&own[..], &more].concat());
        println!("{name} {start}: {}", stderr(&output));
        let found = answer(&output);
        assert_eq!(found["ids"], free["ids"], "{name} {start}");
        let memory = &found["memory"];
        let number = |key: &str| memory[key].as_u64().unwrap();
        let (weights, stay) = (number("weights"), number("weights_stay"));
        assert!(weights > all / 2 && stay < weights, "{memory}");
        assert!(number("rest") + stay <= limit, "{memory}");
        is_within(memory, limit);
        let passes = TOKENS.parse::<u64>().unwrap();
        // Of the pass that is not run any more a part was read ahead.
        let most = (weights - stay) * (passes + 1) + stay;
        assert!(number("bytes_read") * 100 <= most * 105, "{memory}");
        // What the system itself counts: of weights nothing is written, once they are packed.
        if let (1, Some(read)) = (start, memory["disk_read"].as_u64()) {
            assert!(read * 100 <= most * 105 + READ_AHEAD * 100, "{memory}");
            assert!(number("disk_written") < WRITTEN, "{memory}");
        }
        if let Some(peak) = group.as_ref().and_then(Group::peak) {
            println!("{name} {start}: peak {peak} of {limit}");
            assert!(peak < limit + BESIDE, "{peak} above {limit}");
        }
    }
}

#[test]
fn s11_weights_of_a_file_stream_within_a_limit_and_are_not_written() {
    check("bf16", "bf16", 2, 350_000_000);
}

#[test]
fn s11_packed_weights_stream_within_a_limit_and_are_not_written() {
    check("q4", "q4_0", 6, 250_000_000);
}

/// The head has 131 MB: more than the memory that is left for weights, and with all else more than the limit.
#[test]
fn a_head_that_is_larger_than_the_memory_for_weights_streams_in_ranges() {
    check("head", "bf16", 1, 150_000_000);
}

/// What is left for weights: all of them, a half, a quarter, an eighth (but for what one step reads).
#[test]
fn s13_the_peak_is_kept_for_every_part_of_the_weights() {
    let folder = TempDir::new().unwrap();
    let (file, _) = model(folder.path(), "bf16", 2);
    let model = file.to_str().unwrap();
    let own = ["run", model, "--raw", "-p", "Memory is", "-n", TOKENS, "--temp", "0", "-c", "128", "-t", "1"];
    let json = ["--json", "--ignore-eos"];
    let free = answer(&run(None, folder.path(), &[&own[..], &json].concat()));
    let within = |limit: u64, group: Option<&Group>| {
        let text = limit.to_string();
        answer(&run(group, folder.path(), &[&own[..], &json, &["--mem-limit", &text]].concat()))
    };
    let first = within(1_000_000_000, None);
    let [all, rest] = ["weights", "rest"].map(|key| first["memory"][key].as_u64().unwrap());
    for part in [1, 2, 4, 8] {
        // What the program itself takes differs a little from run to run.
        let limit = rest + if part == 1 { all + BESIDE / 4 } else { (all / part).max(STEP) };
        let group = Group::new(&format!("part{part}"), limit + LOOSE);
        let found = within(limit, group.as_ref());
        assert_eq!(found["ids"], free["ids"], "a part of {part}");
        let memory = &found["memory"];
        let number = |key: &str| memory[key].as_u64().unwrap();
        assert!(number("rest") + number("weights_stay") <= limit, "{memory}");
        is_within(memory, limit);
        let is_read_once = number("bytes_read") <= number("weights");
        assert_eq!(is_read_once, part == 1, "{memory}");
        if let Some(peak) = group.as_ref().and_then(Group::peak) {
            println!("a part of {part}: peak {peak} of {limit}");
            assert!(peak < limit + BESIDE, "{peak} above {limit}");
        }
    }
}

/// Without a flag the group's limit is one if weights, keys and values do not fit into it, however often the files were
/// read before.
#[test]
fn without_a_flag_the_limit_of_the_group_is_kept_if_the_model_does_not_fit() {
    let folder = TempDir::new().unwrap();
    let (file, all) = model(folder.path(), "bf16", 2);
    let model = file.to_str().unwrap();
    let own = ["run", model, "--raw", "-p", "Memory is", "-n", TOKENS, "--temp", "0", "-t", "1", "-c"];
    let run = |group: &Group, context| {
        let arguments = [&own[..], &[context, "--json", "--ignore-eos"]].concat();
        answer(&run(Some(group), folder.path(), &arguments))
    };
    // Positions take 2 KB: 131072 of them do not fit beside the weights.
    for (room, context, fits) in [(300 << 20, "128", true), (300 << 20, "131072", false)] {
        let Some(group) = Group::new(&format!("default{context}"), all + room) else { return };
        for start in 0..4 {
            let found = run(&group, context);
            assert_eq!(found["memory"] == Value::Null, fits, "{context} {start}: {}", found["memory"]);
        }
    }
    let Some(group) = Group::new("default-small", all * 3 / 4) else { return };
    for start in 0..2 {
        let memory = &run(&group, "128")["memory"];
        let number = |key: &str| memory[key].as_u64().unwrap();
        assert!(number("weights_stay") < number("weights"), "{start}: {memory}");
        // Nobody was killed, and so much stays that most of the group is used.
        assert!(number("weights_stay") + number("rest") > all / 2, "{start}: {memory}");
    }
}

/// In the middle of its passes, several times, for longer than a pass takes.
#[cfg(unix)]
#[test]
fn s17_a_process_that_is_stopped_goes_on_where_it_was() {
    use std::time::Duration;
    let folder = TempDir::new().unwrap();
    let (file, _) = model(folder.path(), "bf16", 2);
    let model = file.to_str().unwrap();
    let own = ["run", model, "--raw", "-p", "Memory is", "-n", "24", "--temp", "0", "-c", "128", "-t", "1"];
    let more = ["--json", "--ignore-eos"];
    let free = answer(&run(None, folder.path(), &[&own[..], &more].concat()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_jtllm"));
    command.args(own).args(more).args(["--mem-limit", "350000000"]);
    isolate(&mut command);
    let child = command.env("JTLLM_CACHE", folder.path()).stdout(std::process::Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut stops = 0;
    while child.try_wait().unwrap().is_none() && stops < 8 {
        std::thread::sleep(Duration::from_millis(300));
        for signal in ["-STOP", "-CONT"] {
            let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
            stops += usize::from(status.success() && signal == "-STOP");
            std::thread::sleep(Duration::from_millis(if signal == "-STOP" { 500 } else { 0 }));
        }
    }
    let found = answer(&child.wait_with_output().unwrap());
    println!("stopped {stops} times, {}", found["memory"]);
    assert!(stops > 1);
    assert_eq!(found["ids"], free["ids"]);
}

/// A folder that cannot be made: what is packed would have to stay in memory, beyond the limit.
#[test]
fn packed_weights_that_cannot_be_kept_are_refused_before_they_are_in_memory() {
    const LIMIT: u64 = 150_000_000;
    let folder = TempDir::new().unwrap();
    let (file, all) = model(folder.path(), "q4_0", 8);
    assert!(all > LIMIT + BESIDE, "{all}");
    let model = file.to_str().unwrap();
    let limit = LIMIT.to_string();
    let flags = ["--backend", "cpu", "-c", "128", "-t", "1", "--mem-limit", &limit];
    for own in [&["plan", model][..], &["run", model, "-p", "a", "-n", "1"]] {
        let group = Group::new(&format!("unkept-{}", own[0]), LIMIT + BESIDE);
        let output = run(group.as_ref(), Path::new("/dev/null/x"), &[own, &flags].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("MB are missing: the memory limit is 150.0 MB"), "{said}");
        assert!(said.contains("packed weights cannot be kept: /dev/null/x/packed: "), "{said}");
        assert!(!said.contains("stay in memory"), "{said}");
        if let Some(peak) = group.as_ref().and_then(Group::peak) {
            println!("{}: peak {peak} of {LIMIT}", own[0]);
            assert!(peak < LIMIT, "{peak} above {LIMIT}");
        }
    }
}

#[test]
fn a_limit_that_is_too_low_is_refused_with_what_is_missing() {
    let folder = TempDir::new().unwrap();
    let (file, _) = model(folder.path(), "q8_0", 1);
    let text = failure(&["run", file.to_str().unwrap(), "-p", "a", "--mem-limit", "60MB"], 5);
    assert!(text.contains("MB are missing: the memory limit is 60.0 MB"), "{text}");
    let text = failure(&["run", "demo", "-p", "a", "--mem-limit", "60 XB"], 2);
    assert!(text.contains("--mem-limit"), "{text}");
}
