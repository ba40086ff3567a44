//! `--kv-spill` and `--swap-dir`: keys and values go to a swap file within `--mem-limit`, which nobody else can read and
//! which goes with its process.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

#[path = "cli/support.rs"]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jtllm_runtime::swap::os;
use serde_json::Value;
use support::{FRANCE, failure, jtllm, stderr, stdout};
use tempfile::TempDir;
use xtask::synthetic::Synthetic;

/// Each with keys and values of 512 bytes a position: 59 MB of all in a context of 4096.
const LAYERS: u64 = 28;
const POSITION: u64 = 512;

/// What is left for weights, keys and values: enough for what one step uses, and for the ring that goes through.
const LEFT: u64 = 38_000_000;

/// Bytes of what is written all the same: kernels that were compiled, the entry for `jtllm ps`.
const WRITTEN: u64 = 1 << 20;

/// The model's file, which all tests share, and a limit that leaves so much that keys and values must move as soon as a
/// conversation has begun.
fn model() -> &'static (String, String) {
    static MODEL: OnceLock<(String, String)> = OnceLock::new();
    MODEL.get_or_init(|| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("spill.gguf");
        Synthetic::of("chatglm2-100m", "bf16", Some(LAYERS)).unwrap().write(&file, &mut |_| {}).unwrap();
        let model = file.to_str().unwrap().to_owned();
        let folder = swap_folder().unwrap();
        let flags = ["--mem-limit", "4GB", "--kv-spill", "--swap-dir", folder.path().to_str().unwrap()];
        let output = command(&model, "2", &flags).output().unwrap();
        let rest = json_of(&output)["memory"]["rest"].as_u64().unwrap();
        // Of the margin a part follows from the limit.
        (model, (rest - 4_000_000_000 / 512 + LEFT).to_string())
    })
}

/// A run of so many tokens.
fn command(model: &str, tokens: &str, more: &[&str]) -> Command {
    let own =
        ["run", model, "--raw", "-p", "Memory is", "-n", tokens, "--temp", "0", "-c", "4096", "-t", "1"];
    jtllm(&[&own[..], &["--json", "--ignore-eos", "--backend", "cpu"], more].concat())
}

/// The same within the limit, and with a folder for swap files.
fn within(swap: &Path, tokens: &str) -> Command {
    let (model, limit) = model();
    command(model, tokens, &["--mem-limit", limit, "--kv-spill", "--swap-dir", swap.to_str().unwrap()])
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A folder that is this user's alone, and not the temporary one, which may be in memory. Of who builds there, too, no swap
/// file is taken, and these tests say that they are skipped.
fn swap_folder() -> Option<TempDir> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let is_on_disk = !os::is_in_memory(folder.path());
    if !is_on_disk {
        println!("skipped: {folder:?} lies in memory");
    }
    Some(folder).filter(|_| is_on_disk)
}

/// One that lies in memory, if there is such a thing here.
fn memory_folder() -> Option<TempDir> {
    let folder = tempfile::tempdir_in("/dev/shm").ok().filter(|folder| os::is_in_memory(folder.path()));
    if folder.is_none() {
        println!("skipped: there is no tmpfs at /dev/shm that we may write to");
    }
    folder
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn keys_and_values_leave_memory_and_answers_stay_the_same() {
    let Some(swap) = swap_folder() else { return };
    let (model, limit) = model();
    let free = json_of(&command(model, "6", &[]).output().unwrap());
    let output = within(swap.path(), "6").output().unwrap();
    println!("{}", stderr(&output));
    let found = json_of(&output);
    assert_eq!(found["ids"], free["ids"]);
    let memory = &found["memory"];
    let number = |key: &str| memory[key].as_u64().unwrap();
    assert_eq!(number("pages"), LAYERS * 4096 * POSITION);
    // A few positions are in use, of which states have room for 512.
    assert_eq!(number("pages_now"), LAYERS * 512 * POSITION);
    assert!(number("pages_stay") < number("pages_now") && number("bytes_written") > 0, "{memory}");
    let text = stderr(&output);
    assert!(text.contains("; keys and values: ") && text.contains(" in a full context"), "{text}");
    assert!(names(swap.path()).is_empty());
    // What does not say so stays in memory, for which there is no room; and the error knows a way.
    let output = command(model, "6", &["--mem-limit", limit]).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("with --kv-spill keys and values may go to disk"),
        "{}",
        stderr(&output)
    );
    // It is foreseen, for a full context.
    let plan = ["plan", model, "-t", "1", "-c", "4096", "--backend", "cpu", "--json", "--mem-limit", limit];
    let more = ["--kv-spill", "--swap-dir", swap.path().to_str().unwrap()];
    let plan = json_of(&jtllm(&[&plan[..], &more].concat()).output().unwrap());
    assert_eq!(
        (plan["swap"].as_u64(), plan["cache"].as_u64()),
        (Some(LAYERS * 4096 * POSITION), Some(0)),
        "{plan}"
    );
    assert!(plan["peak"].as_f64().unwrap() <= limit.parse().unwrap(), "{plan}");
}

#[test]
fn s11_of_weights_nothing_is_written() {
    let Some(swap) = swap_folder() else { return };
    let found = json_of(&within(swap.path(), "12").output().unwrap());
    let memory = &found["memory"];
    let number = |key: &str| memory[key].as_u64().unwrap_or_else(|| panic!("{key}: {memory}"));
    assert!(number("bytes_read") > number("weights") && number("bytes_written") > WRITTEN, "{memory}");
    // What is written is keys and values, and no more of them than there are in all passes.
    assert!(number("bytes_written") <= number("pages_now") * (number("passes") + 1), "{memory}");
    assert!(number("disk_written") <= number("bytes_written") + WRITTEN, "{memory}");
}

#[test]
fn s09_a_folder_that_takes_no_swap_file_is_refused_at_start() {
    let folder = TempDir::new().unwrap();
    let refused = |path: &Path, why: &str| {
        let asked = ["run", "demo", "-p", "a", "--mem-limit", "2GB", "--kv-spill", "--swap-dir"];
        let text = failure(&[&asked[..], &[path.to_str().unwrap()]].concat(), 2);
        let expected = format!("{}: no place for swap files: {why}", path.display());
        assert!(text.contains(&expected), "{text}");
    };
    refused(&folder.path().join("missing"), "");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    refused(&file, "it is no folder");
    let link = folder.path().join("link");
    symlink("/", &link).unwrap();
    refused(&link, "it is a symbolic link");
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    refused(&open, "others may write to it");
    // Where nobody can make a file, not even root.
    refused(Path::new("/proc/self"), "");
    if let Some(folder) = memory_folder() {
        let why = "its files lie in memory (tmpfs), and not on a disk; --swap-dir DIR names another one";
        refused(folder.path(), why);
    }
    let text = failure(&["run", "demo", "-p", "a", "--swap-dir", folder.path().to_str().unwrap()], 2);
    assert!(text.contains("--swap-dir wants --kv-spill"), "{text}");
    let text = failure(&["run", "demo", "-p", "a", "--kv-spill", "--mem-limit", "-1"], 2);
    assert!(text.contains("--kv-spill wants a limit"), "{text}");
    let text = failure(&["run", "demo", "-p", "a", "--kv-spill", "--backend", "graph"], 2);
    assert!(
        text.contains("--kv-spill: keys and values go to a swap file from the processor's memory"),
        "{text}"
    );
}

#[test]
fn s15_jt_save_mem_alone_is_the_flag_and_is_said_once() {
    let Some(folder) = swap_folder() else { return };
    let run = |folder: &Path, flags: &[&str]| {
        let mut command = jtllm(&[&["run", "-p", FRANCE, "--temp", "0", "-t", "1"], flags].concat());
        command.env("JTLLM_CACHE", folder).env("JT_SAVE_MEM", "1");
        let output = command.output().unwrap();
        assert_eq!(stdout(&output), "The capital of France is Paris.\n", "{}", stderr(&output));
        stderr(&output)
    };
    let text = run(folder.path(), &["--backend", "cpu"]);
    assert_eq!(text.matches("JT_SAVE_MEM=1: --kv-spill").count(), 1, "{text}");
    assert!(text.contains("are there: weights") && text.contains("; keys and values: "), "{text}");
    assert_eq!(fs::metadata(folder.path().join("swap")).unwrap().permissions().mode() & 0o777, 0o700);
    // It asks for what is possible; the flag insists.
    let text = run(folder.path(), &["--backend", "graph"]);
    assert!(text.contains("keys and values stay in memory: the model is"), "{text}");
    if let Some(folder) = memory_folder() {
        let text = run(folder.path(), &["--backend", "cpu"]);
        let swap = folder.path().join("swap");
        let why = format!("keys and values stay in memory: {}: no place for swap files: ", swap.display());
        assert!(text.contains(&why) && !text.contains("; keys and values: "), "{text}");
    }
}

/// A process that is killed when it goes.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A run that has written so much of keys and values, and the swap file that it holds open.
fn spilling(swap: &Path, bytes: u64) -> (Killed, PathBuf) {
    let mut command = within(swap, "4000");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = Killed(command.spawn().unwrap());
    let process = PathBuf::from(format!("/proc/{}", child.0.id()));
    let begin = Instant::now();
    loop {
        assert!(begin.elapsed() < Duration::from_secs(120), "nothing was written");
        std::thread::sleep(Duration::from_millis(20));
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_swap = |path: &PathBuf| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("/jtllm-swap-"))
        };
        let found =
            open.filter(is_swap).find(|path| fs::metadata(path).is_ok_and(|file| file.len() >= bytes));
        if let Some(path) = found {
            return (child, path);
        }
    }
}

#[test]
fn s10_the_swap_file_is_this_users_alone_and_has_no_name() {
    let Some(swap) = swap_folder() else { return };
    let (_child, file) = spilling(swap.path(), 1);
    let found = fs::metadata(&file).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert!(fs::read_link(&file).unwrap().to_string_lossy().ends_with(" (deleted)"));
    assert!(names(swap.path()).is_empty());
}

#[test]
fn s08_what_a_killed_process_leaves_goes_with_it_or_at_the_next_start() {
    let Some(folder) = swap_folder() else { return };
    let swap = folder.path();
    // In the first writes, and after some.
    for bytes in [1, 4 << 20] {
        let (child, _) = spilling(swap, bytes);
        drop(child);
        assert!(names(swap).is_empty(), "{:?}", names(swap));
    }
    // As a process leaves it that dies between making the file and taking its name away, and one that lives.
    let (dead, alive) = ("jtllm-swap-999999999-0", "jtllm-swap-999999999-1");
    fs::write(swap.join(dead), [7; 100]).unwrap();
    fs::write(swap.join(alive), [7; 100]).unwrap();
    let lock = File::open(swap.join(alive)).unwrap();
    lock.try_lock().unwrap();
    json_of(&within(swap, "2").output().unwrap());
    assert_eq!(names(swap), [alive]);
}
