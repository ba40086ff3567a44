//! `--mem-limit` is kept: what the process takes is measured by a control group, where one can be made.
#![allow(clippy::unwrap_used)]

#[path = "cli/group.rs"]
mod group;
#[path = "cli/support.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use group::{Group, run};
use serde_json::Value;
use support::{failure, isolate, stderr};
use tempfile::TempDir;
use xtask::synthetic::Synthetic;

/// What the system may keep for a process beside what the process counts: its program's pages, its pipes.
const BESIDE: u64 = 64 << 20;

/// What a group may have beyond a limit: more than is looked for, so that it is seen if it is taken.
const LOOSE: u64 = 8 * BESIDE;

/// Bytes of what is written all the same: kernels that were compiled, the entry for `jtllm ps`.
const WRITTEN: u64 = 1 << 20;

/// More than what one step reads.
const STEP: u64 = 40 << 20;

const TOKENS: &str = "6";

/// More, for what each of them costs.
const MORE_TOKENS: &str = "38";

/// A model of some 200 MB.
fn model(folder: &Path, encoding: &str, layers: u64) -> (PathBuf, u64) {
    let file = folder.join("model.gguf");
    let model = Synthetic::of("llama-1.1b", encoding, Some(layers)).unwrap();
    model.write(&file, &mut |_| {}).unwrap();
    (file, model.bytes())
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

/// A prompt: a few words, or more than a chunk.
enum Prompt {
    Short,
    Chunks,
}

/// What is run within a limit that lets a part of the weights stay.
struct Case {
    name: &'static str,
    encoding: &'static str,
    layers: u64,
    limit: u64,
    threads: &'static str,
    prompt: Prompt,
}

/// Generates within a limit: the same tokens, within the limit from the first start on, and of weights nothing is written.
fn check(case: &Case) {
    let Case { name, limit, threads, .. } = *case;
    let folder = TempDir::new().unwrap();
    let (file, all) = model(folder.path(), case.encoding, case.layers);
    let model = file.to_str().unwrap();
    let (prompt, context) = match case.prompt {
        Prompt::Short => ("Memory is".to_owned(), "128"),
        Prompt::Chunks => ("Memory is ".repeat(500), "4096"),
    };
    let own = ["run", model, "--raw", "-p", &prompt, "--temp", "0", "-c", context, "-t", threads, "--json"];
    let flags = |tokens| [&own[..], &["--ignore-eos", "-n", tokens]].concat();
    let free = answer(&run(None, folder.path(), &flags(TOKENS)));
    assert_eq!(free["memory"], Value::Null);
    let chunks = free["prompt_ids"].as_array().unwrap().len() > 512;
    assert_eq!(chunks, matches!(case.prompt, Prompt::Chunks), "{name}: {} tokens", free["prompt_ids"]);
    // Packed weights are made again within the limit: that is to be kept too.
    let packed = TempDir::new().unwrap();
    let text = limit.to_string();
    let group = Group::new(name, limit + LOOSE);
    let within = |start: usize, tokens, guesses| {
        let flags = [&flags(tokens)[..], &["--mem-limit", &text, "--spec-type", guesses]].concat();
        let output = run(group.as_ref(), packed.path(), &flags);
        println!("{name} {start}: {}", stderr(&output));
        let found = answer(&output);
        let memory = found["memory"].clone();
        let [rest, stay, weights] = ["rest", "weights_stay", "weights"].map(|key| number(&memory, key));
        assert!(weights > all / 2 && stay < weights, "{memory}");
        assert!(rest + stay <= limit, "{memory}");
        is_within(&memory, limit);
        if let Some(peak) = group.as_ref().and_then(Group::peak) {
            println!("{name} {start}: peak {peak} of {limit}");
            assert!(peak < limit + BESIDE, "{peak} above {limit}");
        }
        (found["ids"].clone(), memory)
    };
    for start in 0..2 {
        let (ids, memory) = within(start, TOKENS, "auto");
        assert_eq!(ids, free["ids"], "{name} {start}");
        // What the system itself counts: of weights nothing is written, once they are packed.
        if start == 1 && memory["disk_written"].is_u64() {
            assert!(number(&memory, "disk_written") < WRITTEN, "{memory}");
        }
    }
    // What a pass reads is the difference of two runs, of which one is longer and all else is the same.
    let [short, long] =
        [(2, TOKENS), (3, MORE_TOKENS)].map(|(start, tokens)| within(start, tokens, "none").1);
    let streams =
        number(&long, "weights") - number(&long, "weights_stay").min(number(&short, "weights_stay"));
    let more = |key| number(&long, key).saturating_sub(number(&short, key));
    let wanted = streams * more("passes");
    println!("{name}: {} read of {wanted} in {} passes", more("bytes_read"), more("passes"));
    assert!(more("passes") > 0 && wanted > 0, "{short} {long}");
    assert!(more("bytes_read") * 100 <= wanted * 105, "{wanted}: {short} {long}");
    if long["disk_read"].is_u64() {
        assert!(more("disk_read") * 100 <= wanted * 105, "{wanted}: {short} {long}");
    }
}

fn number(of: &Value, key: &str) -> u64 {
    of[key].as_u64().unwrap_or_else(|| panic!("{key}: {of}"))
}

const SHORT: Case =
    Case { name: "", encoding: "bf16", layers: 2, limit: 350_000_000, threads: "1", prompt: Prompt::Short };

#[test]
fn s11_weights_of_a_file_stream_within_a_limit_and_are_not_written() {
    check(&Case { name: "bf16", ..SHORT });
}

#[test]
fn s11_packed_weights_stream_within_a_limit_and_are_not_written() {
    check(&Case { name: "q4", encoding: "q4_0", layers: 6, limit: 250_000_000, ..SHORT });
}

#[test]
fn s11_weights_stream_to_two_threads_and_for_prompts_of_several_chunks() {
    let case = Case { name: "chunks", limit: 400_000_000, threads: "2", prompt: Prompt::Chunks, ..SHORT };
    check(&case);
    check(&Case { name: "chunks-q4", encoding: "q4_0", layers: 6, limit: 300_000_000, ..case });
}

/// The head has 131 MB: more than the memory that is left for weights, and with all else more than the limit.
#[test]
fn a_head_that_is_larger_than_the_memory_for_weights_streams_in_ranges() {
    check(&Case { name: "head", layers: 1, limit: 150_000_000, ..SHORT });
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
        let Some(group) = Group::new(&format!("default{context}"), all + room) else {
            return println!("nothing limits a process here without a flag");
        };
        for start in 0..4 {
            let found = run(&group, context);
            assert_eq!(found["memory"] == Value::Null, fits, "{context} {start}: {}", found["memory"]);
        }
    }
    let Some(group) = Group::new("default-small", all * 3 / 4) else { return };
    for flags in [&[][..], &[], &["--mem-limit", "4GB"]] {
        let arguments = [&own[..], &["128", "--json", "--ignore-eos"], flags].concat();
        let output = group::run(Some(&group), folder.path(), &arguments);
        let memory = &answer(&output)["memory"];
        let number = |key: &str| memory[key].as_u64().unwrap();
        assert!(number("weights_stay") < number("weights"), "{flags:?}: {memory}");
        // Nobody was killed, and so much stays that most of the group is used.
        assert!(number("weights_stay") + number("rest") > all / 2, "{flags:?}: {memory}");
        let is_lower = stderr(&output).contains("a memory limit of 4.0 GB: the control group has ");
        assert_eq!(is_lower, !flags.is_empty(), "{}", stderr(&output));
    }
}

/// What the process may have beside its limit while it is looked at: texts and images that do not fit are refused, and what
/// fits leaves no trace in the peak.
#[test]
fn what_is_tokenised_or_decoded_is_within_the_limit_or_refused() {
    let folder = TempDir::new().unwrap();
    let (file, _) = model(folder.path(), "bf16", 1);
    let (text, picture) = (folder.path().join("text"), folder.path().join("picture.png"));
    // Two bytes of it are two words.
    std::fs::write(&text, "a\n".repeat(100_000)).unwrap();
    image::RgbImage::new(5000, 5000).save(&picture).unwrap();
    let eyes = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/llava-1.5-tiny");
    let with = |what: &'static str, model: &str, flags: &[&str], limit: u64| {
        let group = Group::new(what, limit + LOOSE);
        let limit_text = limit.to_string();
        let own = ["run", model, "-n", "1", "-c", "256", "-t", "1", "--mem-limit", &limit_text];
        let output = run(group.as_ref(), folder.path(), &[&own[..], flags].concat());
        if let Some(peak) = group.as_ref().and_then(Group::peak) {
            println!("{what}: peak {peak} of {limit}");
            assert!(peak < limit + BESIDE / 4, "{what}: {peak} above {limit}");
        }
        (output.status.code(), stderr(&output))
    };
    let (model, text) = (file.to_str().unwrap(), text.to_str().unwrap());
    let (status, said) = with("text-low", model, &["-f", text], 160_000_000);
    assert_eq!(status, Some(5), "{said}");
    assert!(
        said.contains("tokenising a text of 200.0 kB may take ") && said.contains("MB are missing"),
        "{said}"
    );
    // It is tokenised, and longer than the context.
    let (status, said) = with("text", model, &["-f", text], 260_000_000);
    assert!(status == Some(1) && said.contains("256 positions"), "{status:?} {said}");
    let flags = ["-p", "a", "--image", picture.to_str().unwrap()];
    let (status, said) = with("picture-low", eyes, &flags, 120_000_000);
    assert_eq!(status, Some(5), "{said}");
    assert!(said.contains("decoding ") && said.contains("MB are missing"), "{said}");
    let (status, said) = with("picture", eyes, &flags, 700_000_000);
    assert!(status == Some(0) && said.contains("5000 x 5000 pixels"), "{status:?} {said}");
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
