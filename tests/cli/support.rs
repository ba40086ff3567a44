//! Runs the built binary, away from the user's own caches.
#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) const FRANCE: &str = "What is the capital of France?";

/// The binary with these arguments.
pub(crate) fn jtllm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jtllm"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    isolate(&mut command);
    command
}

/// Keeps caches, and settings of whoever runs the tests, out of them.
pub(crate) fn isolate(command: &mut Command) {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    command.env("JTLLM_CACHE", scratch.join("cli-cache")).env("HF_HUB_CACHE", scratch.join("no-such-hub"));
    // Nothing listens there: a test that wants a hub names it.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    let own = [
        "HF_HOME",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "MODELSCOPE_ENDPOINT",
        "MODELSCOPE_DOMAIN",
        "JITTOR_HOME",
        "JT_SAVE_MEM",
        "cpu_mem_limit",
        "device_mem_limit",
        "JTLLM_CPU_WITHOUT",
    ];
    let proxies = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    for name in own.iter().chain(&proxies) {
        command.env_remove(name);
    }
    command.env_remove("NO_COLOR").env_remove("RUST_BACKTRACE");
}

/// The path of a fetched model (`tests/fetch-assets.sh`); `None`, said aloud, where it was not fetched.
pub(crate) fn asset(name: &str) -> Option<String> {
    let path = std::env::var_os("JTLLM_TEST_ASSETS").map(|folder| Path::new(&folder).join(name));
    let found = path.filter(|path| path.exists()).map(|path| path.to_str().unwrap().to_owned());
    if found.is_none() {
        println!("skipped: {name} is not in JTLLM_TEST_ASSETS (tests/fetch-assets.sh DIR fetches it)");
    }
    found
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    jtllm(arguments).output().unwrap()
}

/// Runs with this text on stdin.
pub(crate) fn run_with_input(arguments: &[&str], input: &str) -> Output {
    let mut command = jtllm(arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The output of a run that succeeds.
pub(crate) fn answer(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// The JSON output of a run that succeeds.
pub(crate) fn json(arguments: &[&str]) -> Value {
    let text = answer(arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// What a run that fails with this status says on stderr; it must not be a panic.
pub(crate) fn failure(arguments: &[&str], status: i32) -> String {
    let output = run(arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    assert!(!text.contains("panicked"), "{arguments:?}: {text}");
    text
}

pub(crate) fn fixture(name: &str) -> String {
    root().join("tests/fixtures").join(name).display().to_string()
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A copy of a model's folder that a test may damage.
pub(crate) fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::write(copy.path().join(file.file_name()), std::fs::read(file.path()).unwrap()).unwrap();
        }
    }
    copy
}

/// The tiny RWKV-4 in a folder with the first words of the World vocabulary: as many as it has rows for.
pub(crate) fn rwkv() -> (tempfile::TempDir, String) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("rwkv-4-tiny");
    std::fs::create_dir(&folder).unwrap();
    let name = "RWKV-4-tiny.pth";
    std::fs::copy(Path::new(&fixture("rwkv-4-tiny")).join(name), folder.join(name)).unwrap();
    let name = "rwkv_vocab_v20230424.txt";
    let words = std::fs::read_to_string(Path::new(&fixture("tokenizers/rwkv-world")).join(name)).unwrap();
    let words: String = words.lines().take(266).flat_map(|line| [line, "\n"]).collect();
    std::fs::write(folder.join(name), words).unwrap();
    let model = folder.display().to_string();
    (parent, model)
}

/// A copy of the demo model.
pub(crate) fn demo_copy() -> tempfile::TempDir {
    copy_of(&root().join("models/demo"))
}

/// Overwrites a tensor of a folder's `model.safetensors` with copies of `word`.
pub(crate) fn fill_tensor(folder: &Path, name: &str, word: [u8; 2]) {
    let file = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let place = |at: usize| header[name]["data_offsets"][at].as_u64().unwrap() as usize + 8 + length;
    bytes[place(0)..place(1)].chunks_mut(2).for_each(|pair| pair.copy_from_slice(&word));
    std::fs::write(file, bytes).unwrap();
}
