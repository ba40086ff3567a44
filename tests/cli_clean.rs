//! `jtllm clean-cache` frees what is ours and nobody uses, and whatever a killed process leaves is used or removed by the
//! next one.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{jtllm, stderr, stdout};
use xtask::synthetic::Synthetic;

fn command(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = jtllm(arguments);
    command.env("JTLLM_CACHE", cache).env("HF_HUB_CACHE", cache.join("hub"));
    command
}

fn run(cache: &Path, arguments: &[&str]) -> Output {
    command(cache, arguments).output().unwrap()
}

fn cleaned(cache: &Path, kind: &str) -> (Value, String) {
    let output = run(cache, &["clean-cache", kind, "--yes", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    (serde_json::from_str(&stdout(&output)).unwrap(), stderr(&output))
}

/// Files with these many bytes each.
fn put(folder: &Path, files: &[(&str, usize)]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![7; *bytes]).unwrap();
    }
}

/// The files below a folder, as paths from there on.
fn files(folder: &Path) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

/// Starts a process and waits until `seen`.
fn until(command: &mut Command, seen: impl Fn() -> bool) -> Child {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !seen() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it never happens");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn swap_files_of_the_dead_go_and_those_of_the_living_stay() {
    let cache = tempfile::tempdir().unwrap();
    let swap = cache.path().join("swap");
    assert_eq!(cleaned(cache.path(), "swap").0, json!([]), "a folder that is not there is no fault");
    put(&swap, &[("jtllm-swap-1-0", 5000), ("jtllm-swap-2-0", 700), ("notes", 9)]);
    fs::create_dir(swap.join("jtllm-swap-folder")).unwrap();
    let living = File::open(swap.join("jtllm-swap-2-0")).unwrap();
    living.lock().unwrap();
    let shown = run(cache.path(), &["clean-cache", "swap"]);
    assert_eq!(shown.status.code(), Some(2), "nobody agreed");
    assert!(stdout(&shown).contains("1 files") && stdout(&shown).contains("5.0 kB"), "{}", stdout(&shown));
    assert_eq!(cleaned(cache.path(), "swap").0, json!([{ "kind": "swap", "bytes": 5000 }]));
    assert_eq!(files(&swap), ["jtllm-swap-2-0", "notes"]);
    drop(living);
    assert_eq!(cleaned(cache.path(), "swap").0, json!([{ "kind": "swap", "bytes": 700 }]));
}

/// A repository of the cache, as a download leaves it; `noted` are the blobs that are ours.
fn repository(hub: &Path, name: &str, blobs: &[(&str, usize)], noted: &[&str]) -> PathBuf {
    let folder = hub.join(format!("models--org--{name}"));
    fs::create_dir_all(&folder).unwrap();
    let blobs: Vec<(String, usize)> =
        blobs.iter().map(|(blob, len)| (format!("blobs/{blob}"), *len)).collect();
    put(&folder, &blobs.iter().map(|(path, len)| (path.as_str(), *len)).collect::<Vec<_>>());
    if !noted.is_empty() {
        fs::write(folder.join(".jtllm"), noted.join("\n")).unwrap();
    }
    folder
}

#[test]
fn models_go_if_we_fetched_them_and_nobody_uses_them() {
    let cache = tempfile::tempdir().unwrap();
    let hub = cache.path().join("hub");
    let ours = repository(&hub, "ours", &[("aa", 100), ("bb.incomplete", 20)], &["bb", "aa"]);
    let used = repository(&hub, "used", &[("cc", 1000)], &["cc"]);
    let coming = repository(&hub, "coming", &[("dd.incomplete", 3000)], &["dd"]);
    let mixed = repository(&hub, "mixed", &[("ee", 50), ("ff", 60)], &["ee"]);
    let theirs = repository(&hub, "theirs", &[("gg", 70)], &[]);
    put(&hub, &[("notes", 1), (".locks/models--org--coming/dd.lock", 0)]);
    let reader = File::open(used.join("blobs/cc")).unwrap();
    reader.lock_shared().unwrap();
    let writer = File::open(hub.join(".locks/models--org--coming/dd.lock")).unwrap();
    writer.lock().unwrap();
    // Who does not name models keeps them.
    for arguments in [&["clean-cache", "--yes"][..], &["clean-cache", "packed", "--yes"]] {
        assert!(run(cache.path(), arguments).status.success());
        assert!(ours.join("blobs/aa").exists());
    }
    let shown = run(cache.path(), &["clean-cache", "models"]);
    assert_eq!(shown.status.code(), Some(2), "nobody agreed");
    assert!(stdout(&shown).contains("3 models") && stdout(&shown).contains("4.1 kB"), "{}", stdout(&shown));
    let told = stderr(&shown);
    assert!(told.contains("org/ours (120 B)") && told.contains("org/mixed (110 B) stays"), "{told}");
    let (deleted, told) = cleaned(cache.path(), "models");
    assert_eq!(deleted, json!([{ "kind": "models", "bytes": 120 }]));
    assert!(told.contains("org/used is in use and stays") && told.contains("org/coming is in use"), "{told}");
    assert!(!ours.exists() && hub.join("notes").exists());
    assert!([&used, &coming, &mixed, &theirs].iter().all(|folder| folder.exists()));
    drop((reader, writer));
    assert_eq!(cleaned(cache.path(), "all").0, json!([{ "kind": "models", "bytes": 4000 }]));
    assert!(!used.exists() && !coming.exists() && mixed.exists() && theirs.exists());
}

/// A process that answers with a model in the cache of downloads, and with packed weights of it.
#[test]
fn what_a_running_process_uses_stays_until_it_ends() {
    let cache = tempfile::tempdir().unwrap();
    let folder = repository(&cache.path().join("hub"), "m", &[], &["m.gguf"]);
    let file = folder.join("blobs/m.gguf");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    Synthetic::of("llama-tiny", "q4_0", None).unwrap().write(&file, &mut |_| {}).unwrap();
    let name = file.to_str().unwrap();
    assert!(run(cache.path(), &["run", name, "-p", "x", "-n", "1", "--backend", "cpu"]).status.success());
    let packed = || files(&cache.path().join("packed"));
    assert_eq!(packed().len(), 1);
    let long = ["run", name, "-p", "x", "--ignore-eos", "--context-shift", "-c", "64", "--backend", "cpu"];
    let running = || files(&cache.path().join("running")).iter().any(|name| name.ends_with(".json"));
    let mut child = until(&mut command(cache.path(), &long), running);
    let (deleted, told) = cleaned(cache.path(), "all");
    let kinds: Vec<&str> =
        deleted.as_array().unwrap().iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert!(file.exists() && packed().len() == 1, "{deleted} {told}");
    assert!(told.contains("org/m is in use and stays"), "{told}");
    assert!(kinds.contains(&"kernels") && told.contains("in use and stay"), "{deleted} {told}");
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    child.kill().unwrap();
    child.wait().unwrap();
    let (deleted, _) = cleaned(cache.path(), "all");
    assert_eq!(deleted.as_array().unwrap().len(), 2, "{deleted}");
    assert!(!folder.exists() && packed().is_empty());
}

/// `kill -9` at moments all over the first start: while kernels are kept, while weights are packed, while it answers.
#[test]
fn what_a_killed_process_leaves_the_next_one_uses_or_removes() {
    let (cache, models) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = models.path().join("m.gguf");
    Synthetic::of("chatglm2-100m", "q4_0", Some(4)).unwrap().write(&model, &mut |_| {}).unwrap();
    let asked = ["run", model.to_str().unwrap(), "-p", "x", "-n", "2", "--temp", "0", "--backend", "cpu"];
    let begin = Instant::now();
    let expected = run(cache.path(), &asked);
    let whole = begin.elapsed();
    assert!(expected.status.success(), "{}", stderr(&expected));
    let unfinished = |all: &[String]| -> Vec<String> {
        let is_kept = |name: &&String| name.ends_with(".bin") || name.ends_with(".packed");
        all.iter().filter(|name| !is_kept(name)).cloned().collect()
    };
    let mut left = 0;
    for moment in 0..12 {
        for folder in ["kernels", "packed"] {
            if moment % 3 == 0 {
                let _absent = fs::remove_dir_all(cache.path().join(folder));
            }
        }
        let mut child =
            command(cache.path(), &asked).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole * (moment + 1) / 13);
        child.kill().unwrap();
        child.wait().unwrap();
        left += unfinished(&files(cache.path())).len();
        let next = run(cache.path(), &asked);
        assert!(next.status.success(), "{moment}: {}", stderr(&next));
        assert_eq!(stdout(&next), stdout(&expected), "{moment}");
        let all = files(cache.path());
        assert_eq!(unfinished(&all), Vec::<String>::new(), "{moment}");
        assert_eq!(all.iter().filter(|name| name.ends_with(".packed")).count(), 1, "{moment}: {all:?}");
    }
    assert!(left > 0, "no kill left anything, so nothing was tested");
}
