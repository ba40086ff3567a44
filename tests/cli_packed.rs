//! Packed weights as a user meets them: the second start maps them, damage is told, `clean-cache` frees them.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{isolate, jtllm, stderr, stdout};
use xtask::synthetic::Synthetic;

/// A model with packed weights; `None` where it was not fetched.
fn model() -> Option<String> {
    let Some(folder) = std::env::var_os("JTLLM_TEST_ASSETS") else {
        println!("skipped: JTLLM_TEST_ASSETS is not set (tests/fetch-assets.sh DIR fetches a packed model)");
        return None;
    };
    let file = Path::new(&folder).join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    Some(file.to_str().unwrap().to_owned())
}

fn command(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = jtllm(arguments);
    command.env("JTLLM_CACHE", cache);
    command
}

fn asked(cache: &Path, model: &str) -> Command {
    let arguments = ["run", model, "-p", "Hi", "-n", "3", "--temp", "0", "--backend", "cpu"];
    command(cache, &arguments)
}

/// The answer of a run that succeeds, and what it said.
fn answer(cache: &Path, model: &str) -> (String, String) {
    let output = asked(cache, model).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    (stdout(&output), stderr(&output))
}

fn packed(cache: &Path) -> Vec<PathBuf> {
    let Ok(folder) = fs::read_dir(cache.join("packed")) else { return Vec::new() };
    folder.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_second_start_maps_and_a_damaged_file_ends_the_run() {
    let Some(model) = model() else { return };
    let cache = tempfile::tempdir().unwrap();
    let (first, said) = answer(cache.path(), &model);
    assert!(said.contains(" copied") && !said.contains("packed file"), "{said}");
    let (second, said) = answer(cache.path(), &model);
    assert_eq!(second, first);
    assert!(said.contains("in the packed file") && !said.contains("copied"), "{said}");
    let file = packed(cache.path()).pop().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let output: Output = asked(cache.path(), &model).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.contains(file.to_str().unwrap()) && told.contains("start again"), "{told}");
    assert_eq!(stdout(&output).trim(), "", "no token comes from bad data");
    assert!(!file.exists());
    assert_eq!(answer(cache.path(), &model).0, first);
    assert!(file.exists());
    // Where nothing can be kept it is said once, and the answer is the same.
    let (same, said) = answer(Path::new("/dev/null/x"), &model);
    assert_eq!(same, first);
    assert_eq!(said.matches("packed weights stay in memory").count(), 1, "{said}");
}

/// A small model with packed weights, below a folder.
fn synthetic(folder: &Path) -> String {
    let file = folder.join("llama-tiny-q4_0.gguf");
    Synthetic::of("llama-tiny", "q4_0", None).unwrap().write(&file, &mut |_| {}).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn what_cannot_be_kept_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthetic(folder.path());
    let (expected, said) = answer(&folder.path().join("cache"), &model);
    assert!(!said.contains("not kept") && !said.contains("stay in memory"), "{said}");
    let (same, said) = answer(Path::new("/dev/null/x"), &model);
    assert_eq!(same, expected);
    for what in [
        "compiled kernels are not kept: /dev/null/x/kernels: ",
        "packed weights stay in memory: /dev/null/x/packed: ",
    ] {
        assert_eq!(said.matches(what).count(), 1, "{said}");
    }
    assert_eq!(said.matches("are not kept").count() + said.matches("stay in memory").count(), 2, "{said}");
}

/// The system kills a process whose file grows beyond `ulimit -f` by a signal, if it does not ask otherwise.
#[cfg(unix)]
#[test]
fn a_limit_of_files_is_told_as_a_full_disk_is() {
    let folder = tempfile::tempdir().unwrap();
    let model = synthetic(folder.path());
    let limited = |cache: &Path| {
        let mut command = Command::new("sh");
        // Blocks of 512 bytes: less than the packed weights take, and than a kernel does.
        command.args(["-c", "ulimit -f 8 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_jtllm")]);
        command.args(["run", &model, "-p", "Hi", "-n", "3", "--temp", "0", "--backend", "cpu"]);
        isolate(&mut command);
        command.env("JTLLM_CACHE", cache).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{:?}: {}", output.status, stderr(&output));
        (stdout(&output), stderr(&output))
    };
    let cache = folder.path().join("cache");
    let (expected, _) = answer(&cache, &model);
    packed(&cache).iter().for_each(|file| fs::remove_file(file).unwrap());
    // Its kernels are there already.
    let (same, said) = limited(&cache);
    assert_eq!(same, expected);
    let told = format!(
        "packed weights stay in memory: cannot write a file in {}: File too large",
        cache.join("packed").display()
    );
    assert_eq!(said.matches(&told).count(), 1, "{said}");
    assert!(!said.contains("not kept"), "{said}");
    assert!(packed(&cache).is_empty(), "nothing unfinished is left: {:?}", packed(&cache));
    let fresh = folder.path().join("fresh");
    let (same, said) = limited(&fresh);
    assert_eq!(same, expected);
    assert_eq!(said.matches("compiled kernels are not kept: cannot write ").count(), 1, "{said}");
    assert!(packed(&fresh).is_empty());
}

#[test]
fn killed_processes_and_processes_at_once_leave_one_whole_file() {
    let Some(model) = model() else { return };
    let cache = tempfile::tempdir().unwrap();
    let mut child = asked(cache.path(), &model).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while packed(cache.path()).is_empty() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = asked(cache.path(), &model);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let outputs: Vec<Output> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    assert!(outputs.iter().all(|output| output.status.success()), "{}", stderr(&outputs[0]));
    assert_eq!(stdout(&outputs[0]), stdout(&outputs[1]));
    let files = packed(cache.path());
    assert!(files.len() == 1 && files[0].extension().unwrap() == "packed", "{files:?}");
    let (third, said) = answer(cache.path(), &model);
    assert_eq!(third, stdout(&outputs[0]));
    assert!(said.contains("in the packed file"), "{said}");
}

#[test]
fn sizes_are_shown_before_anything_is_deleted() {
    let cache = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| command(cache.path(), arguments).output().unwrap();
    assert!(run(&["run", "-p", "Hi", "-n", "1"]).status.success());
    fs::create_dir_all(cache.path().join("packed")).unwrap();
    fs::write(cache.path().join("packed/0123.packed"), [0; 12_345]).unwrap();
    fs::write(cache.path().join("packed/notes.txt"), "mine").unwrap();
    let doctor = |kind: &str| {
        let found: Value = serde_json::from_str(&stdout(&run(&["doctor", "--json"]))).unwrap();
        (found[kind]["entries"].as_u64().unwrap(), found[kind]["bytes"].as_u64().unwrap())
    };
    assert_eq!(doctor("packed_cache"), (1, 12_345));
    let kernels = doctor("kernel_cache");
    assert!(kernels.0 > 10);
    let text = stdout(&run(&["doctor"]));
    assert!(text.contains("packed     1 in ") && text.contains("12.3 kB"), "{text}");

    let refused = run(&["clean-cache", "packed"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stdout(&refused).contains("12.3 kB") && stderr(&refused).contains("--yes"));
    assert_eq!(doctor("packed_cache"), (1, 12_345), "nobody agreed");

    let done = run(&["clean-cache", "packed", "--yes", "--json"]);
    let deleted: Value = serde_json::from_str(&stdout(&done)).unwrap();
    assert_eq!(deleted, serde_json::json!([{ "kind": "packed", "bytes": 12_345 }]));
    assert_eq!(doctor("packed_cache"), (0, 0));
    assert_eq!(doctor("kernel_cache"), kernels, "another kind");
    assert!(cache.path().join("packed/notes.txt").exists(), "not ours");

    let done = run(&["clean-cache", "--yes"]);
    assert!(done.status.success() && stdout(&done).contains("kernels"), "{}", stdout(&done));
    assert_eq!(doctor("kernel_cache"), (0, 0));
    assert!(stdout(&run(&["clean-cache", "--json"])).trim() == "[]", "there is nothing to ask about");
}
