//! `jtllm plan` foresees what `jtllm run` then does, and refuses what it refuses.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{jtllm, stderr, stdout};
use xtask::synthetic::Synthetic;

fn json_of(cache: &Path, arguments: &[&str]) -> Value {
    let output = jtllm(arguments).env("JTLLM_CACHE", cache).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

/// A model of so many layers in 16 bits, 6.6 MB a layer.
fn model(folder: &Path, layers: u64) -> String {
    let file = folder.join("m.gguf");
    Synthetic::of("chatglm2-100m", "bf16", Some(layers)).unwrap().write(&file, &mut |_| {}).unwrap();
    file.to_str().unwrap().to_owned()
}

const FLAGS: [&str; 6] = ["-t", "1", "-c", "256", "--backend", "cpu"];

#[test]
fn what_streams_is_foreseen_to_the_byte_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), 28);
    let limit = ["--mem-limit", "160MB", "--json"];
    let plan = json_of(folder.path(), &[&["plan", model.as_str()][..], &FLAGS, &limit].concat());
    let number = |of: &Value, name: &str| of[name].as_f64().unwrap_or_else(|| panic!("{name}: {of}"));
    let (weights, read) = (number(&plan, "weights"), number(&plan, "weights_read"));
    assert!((1.8e8..2.0e8).contains(&weights) && read > 0.1 * weights && read < 0.95 * weights, "{plan}");
    assert!(number(&plan, "peak") <= 160e6 && number(&plan, "peak") > 130e6, "{plan}");
    assert!(number(&plan, "tokens_per_s") > 0.0 && number(&plan, "disk_bytes_per_s") > 1e6, "{plan}");
    let seconds = number(&plan, "seconds");
    assert!(number(&plan, "stall_seconds") < seconds);
    let knobs = plan["knobs"].as_array().unwrap();
    assert!(knobs.iter().any(|knob| knob["what"].as_str().unwrap().contains("--mem-limit")), "{plan}");
    assert!(knobs.iter().any(|knob| knob["what"] == "4-bit weights (Q4_0)"), "{plan}");
    let best = knobs.iter().map(|knob| number(knob, "tokens_per_s")).fold(0.0, f64::max);
    assert!(best >= number(&plan, "tokens_per_s"), "{plan}");
    // Two runs differ in the tokens of the longer one alone, each of which is a pass.
    let run = |tokens: &str| {
        let asked = ["run", &model, "--raw", "-p", "x", "--ignore-eos", "--temp", "0", "-n", tokens];
        json_of(folder.path(), &[&asked[..], &FLAGS, &limit].concat())["memory"].clone()
    };
    let (short, long) = (run("4"), run("12"));
    let passes = number(&long, "passes") - number(&short, "passes");
    let each = (number(&long, "bytes_read") - number(&short, "bytes_read")) / passes;
    assert!(passes >= 1.0 && (each / read - 1.0).abs() < 0.1, "foreseen {read}, read {each}: {short} {long}");
}

/// What is missing, as an error says it, in MB.
fn missing(said: &str) -> f64 {
    let number = said.split("error: ").nth(1).and_then(|rest| rest.split(" MB are missing").next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{said}"))
}

/// Weights of a vocabulary, a tokenizer and kernels take as much here as what streams.
#[test]
fn a_model_with_a_real_vocabulary_is_foreseen() {
    const MODEL: &str = "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    let Some(model) = support::asset(MODEL) else { return };
    let folder = tempfile::tempdir().unwrap();
    let flags = ["-t", "1", "-c", "800", "--backend", "cpu"];
    let number = |of: &Value, name: &str| of[name].as_f64().unwrap_or_else(|| panic!("{name}: {of}"));
    // Most of the context is used, and chunks of a prompt.
    let prompt = "The sea is wide and deep and blue. ".repeat(60);
    let own = ["run", &model, "--raw", "-p", &prompt, "--ignore-eos", "--temp", "0", "--json"];
    let run = |limit: &str, tokens: &str, guesses: &str| {
        let more = ["--mem-limit", limit, "-n", tokens, "--spec-type", guesses];
        json_of(folder.path(), &[&own[..], &flags, &more].concat())
    };
    for limit in ["175MB", "200MB"] {
        let plan = ["plan", &model, "--json", "--mem-limit", limit];
        let plan = json_of(folder.path(), &[&plan[..], &flags].concat());
        let (short, long) = (run(limit, "8", "none"), run(limit, "40", "none"));
        let more = |name: &str| number(&long["memory"], name) - number(&short["memory"], name);
        let (foreseen, read) = (number(&plan, "weights_read"), more("bytes_read") / more("passes"));
        println!("{limit}: {foreseen} a pass foreseen, {read} read; {plan} {}", long["memory"]);
        assert!((read / foreseen - 1.0).abs() < 0.08, "{limit}: {foreseen} foreseen, {read} read");
        // Whoever shares the machine makes it slow.
        let foreseen = number(&plan, "tokens_per_s");
        let measured = number(&long["timings"], "predicted_per_second");
        println!("{limit}: {foreseen} tokens a second foreseen, {measured} run");
        assert!((0.2..5.0).contains(&(measured / foreseen)), "{foreseen} foreseen, {measured} run");
        // With guesses all plans are used, and the context is nearly full.
        let full = run(limit, "220", "auto");
        if full["memory"]["peak_resident"].is_u64() {
            let (foreseen, peak) = (number(&plan, "peak"), number(&full["memory"], "peak_resident"));
            println!("{limit}: {foreseen} bytes at the most foreseen, {peak} held");
            assert!((peak / foreseen - 1.0).abs() < 0.05, "{limit}: {foreseen} foreseen, {peak} held");
        }
    }
    // What is missing is the same for both; with a little more, both go.
    let say = |command: &[&str], limit: &str| {
        let arguments = [command, &flags, &["--mem-limit", limit]].concat();
        jtllm(&arguments).env("JTLLM_CACHE", folder.path()).output().unwrap()
    };
    let commands = [&["plan", &model][..], &["run", &model, "-p", "x", "-n", "1"]];
    let [plan, run] = commands.map(|command| missing(&stderr(&say(command, "100MB"))));
    assert!((plan - run).abs() < 4.0, "{plan} MB are missing to the plan, {run} to the run");
    let enough = format!("{}MB", (100.0 + plan.max(run) + 4.0).ceil());
    for command in commands {
        let output = say(command, &enough);
        assert!(output.status.success(), "{enough}: {}", stderr(&output));
    }
}

#[test]
fn what_fits_reads_nothing_and_is_bound_by_memory() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), 3);
    let plan = json_of(folder.path(), &[&["plan", model.as_str(), "--json"][..], &FLAGS].concat());
    assert_eq!(
        (plan["weights_read"].as_f64(), &plan["bottleneck"]),
        (Some(0.0), &Value::from("memory")),
        "{plan}"
    );
    let output = jtllm(&[&["plan", model.as_str(), "--mem-limit", "1GB"][..], &FLAGS].concat())
        .env("JTLLM_CACHE", folder.path())
        .output()
        .unwrap();
    let text = stdout(&output);
    for part in [
        "weights",
        "keys, values, states",
        "buffers",
        "at the most",
        "limit       1.0 GB",
        "bottleneck  memory",
    ] {
        assert!(text.contains(part), "{part}: {text} {}", stderr(&output));
    }
}

#[test]
fn flags_change_what_is_foreseen() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), 3);
    let cache = |flags: &[&str]| {
        let common = ["plan", model.as_str(), "--json", "--backend", "cpu"];
        json_of(folder.path(), &[&common[..], flags].concat())["cache"].as_u64().unwrap()
    };
    let plain = cache(&["-c", "256"]);
    assert_eq!(cache(&["-c", "512", "-t", "2"]), 2 * plain);
    assert_eq!(cache(&["-c", "256", "--cache-type-k", "f32", "--cache-type-v", "f32"]), 2 * plain);
    assert_eq!(cache(&["-c", "256", "--cache-type-v", "f32", "--compute", "f32"]) * 2, 3 * plain);
    for wrong in [["--compute", "f8"], ["-t", "0"]] {
        let output = jtllm(&["plan", &model, wrong[0], wrong[1]]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

/// Those that cannot be kept are in memory, and counted once, however far they have come when the process is looked at.
#[test]
fn what_the_program_takes_is_counted_without_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    Synthetic::of("chatglm2-100m", "q8_0", None).unwrap().write(&file, &mut |_| {}).unwrap();
    let own = ["plan", file.to_str().unwrap(), "--json", "--mem-limit", "1GB"];
    let base = |cache: &Path| {
        let plan = json_of(cache, &[&own[..], &FLAGS].concat());
        println!("{plan}");
        plan["base"].as_u64().unwrap()
    };
    let (kept, copied) = (base(folder.path()), base(Path::new("/dev/null/x")));
    assert!(copied < kept + (24 << 20), "{copied} and {kept}: the weights have 100 MB");
}

/// Bytes that come from the disk, and not from the page cache, when all of a file is read.
#[cfg(target_os = "linux")]
fn fetched(file: &Path) -> u64 {
    let mut command = std::process::Command::new("sh");
    let output =
        command.args(["-c", "cat \"$0\" > /dev/null && cat /proc/$$/io"]).arg(file).output().unwrap();
    let text = stdout(&output);
    let read = text.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    read.unwrap_or_else(|| panic!("{text} {}", stderr(&output))).parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_model_stays_in_the_page_cache() {
    // Not the temporary folder, which may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let model = model(folder.path(), 3);
    let file = Path::new(&model);
    let all = file.metadata().unwrap().len();
    // It was written past the page cache.
    if fetched(file) < all / 2 {
        return println!("skipped: this file system keeps every page, or does not count reads");
    }
    for limit in [&[][..], &["--mem-limit", "1GB"]] {
        json_of(folder.path(), &[&["plan", model.as_str(), "--json"][..], &FLAGS, limit].concat());
        let found = fetched(file);
        assert!(found < all / 10, "{limit:?}: {found} of {all} had to be read again");
    }
}

#[test]
fn s14_what_cannot_run_is_refused_before_its_weights_are_packed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    Synthetic::of("chatglm2-100m", "q8_0", Some(3)).unwrap().write(&file, &mut |_| {}).unwrap();
    let (model, cache) = (file.to_str().unwrap(), folder.path().join("cache"));
    let packed = || std::fs::read_dir(cache.join("packed")).map_or(0, |files| files.count());
    let start = |command: &[&str], limit: &str| {
        let arguments = [command, &FLAGS, &["--mem-limit", limit]].concat();
        jtllm(&arguments).env("JTLLM_CACHE", &cache).output().unwrap()
    };
    for command in [&["plan", model][..], &["run", model, "-p", "x", "-n", "1"]] {
        let output = start(command, "30MB");
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("MB are missing: the memory limit is 30.0 MB"),
            "{}",
            stderr(&output)
        );
        assert_eq!(packed(), 0, "{command:?}");
    }
    assert!(start(&["plan", model], "1GB").status.success());
    assert_eq!(packed(), 1);
}

/// The packed file may be on another disk than the model's.
#[test]
fn the_disk_of_what_streams_is_measured() {
    for (encoding, streams) in [("bf16", "m.gguf"), ("q8_0", ".packed")] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.gguf");
        Synthetic::of("chatglm2-100m", encoding, Some(3)).unwrap().write(&file, &mut |_| {}).unwrap();
        let own = ["plan", file.to_str().unwrap(), "--json", "--mem-limit", "1GB"];
        let plan = json_of(folder.path(), &[&own[..], &FLAGS].concat());
        assert!(plan["disk_file"].as_str().unwrap().ends_with(streams), "{plan}");
    }
}

#[test]
fn s14_what_cannot_run_is_refused_with_what_is_missing_by_both() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), 3);
    let mut told = Vec::new();
    for command in [&["plan", model.as_str()][..], &["run", &model, "-p", "x", "-n", "1"]] {
        let begin = Instant::now();
        let output = jtllm(&[command, &FLAGS, &["--mem-limit", "30MB"]].concat())
            .env("JTLLM_CACHE", folder.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains("MB are missing: the memory limit is 30.0 MB"), "{said}");
        assert_eq!(stdout(&output), "");
        // A second for the probes of the disk and of memory; builds for development take their time.
        assert!(begin.elapsed() < Duration::from_secs(20));
        told.push(said);
    }
    let output = jtllm(&["plan", "no-such-model"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let output = jtllm(&["plan", &model, "--backend", "graph"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("is not foreseen"), "{}", stderr(&output));
}
