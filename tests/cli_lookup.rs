//! Guessed tokens on the command line.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::path::Path;

use serde_json::Value;
use support::{FRANCE, json, run, rwkv, stderr};

const PARAGRAPH: &str = "The old lighthouse at the edge of the harbour had stood for more than two hundred years, and \
    the people of the village told many stories about it. Some said that a captain had built it after his brother was \
    lost in a winter storm, and others believed that a merchant had paid for every stone with silver from the southern \
    islands. Each evening the keeper climbed the narrow stairs, cleaned the great lamp, and wrote a few words about the \
    weather in a heavy book. When the fog came in from the sea, the bell rang once every minute until the morning \
    light returned.";

/// Tokens of the answer that a pass gave.
fn tokens_a_pass(report: &Value) -> f64 {
    let number = |name: &str| report["timings"][name].as_f64().unwrap();
    (number("passes") + number("draft_n_accepted")) / number("passes")
}

fn answers(model: &str, prompt: &str, more: &[&str], types: [&str; 2]) -> [Value; 2] {
    types.map(|name| json(&[&["run", model, "-p", prompt, "--json", "--spec-type", name], more].concat()))
}

/// With the numbers in which a model is multiplied by itself, those of packed weights.
#[test]
fn a_paragraph_repeated_word_for_word_takes_a_fraction_of_the_passes() {
    let Some(assets) = std::env::var_os("JTLLM_TEST_ASSETS") else {
        println!("skipped: SmolLM2: JTLLM_TEST_ASSETS is not set (tests/fetch-assets.sh DIR fetches it)");
        return;
    };
    let model = Path::new(&assets).join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!((90..120).contains(&PARAGRAPH.split_whitespace().count()));
    let prompt = format!("Repeat this paragraph word for word: {PARAGRAPH}");
    let model = model.to_str().unwrap();
    for sampling in [["--temp", "0"], ["--seed", "11"]] {
        let more = [&["-n", "140"], &sampling[..]].concat();
        let [plain, guessed] = answers(model, &prompt, &more, ["none", "ngram-simple"]);
        assert_eq!(guessed["ids"], plain["ids"], "{sampling:?}");
        assert_eq!((tokens_a_pass(&plain), &plain["timings"]["draft_n"]), (1.0, &Value::from(0)));
        let rate = tokens_a_pass(&guessed);
        println!("{sampling:?}: {rate:.2} tokens a pass of {}", guessed["timings"]);
        assert!(rate >= 2.0, "{rate} tokens a pass: {}", guessed["timings"]);
    }
}

/// Where weights come from disk a pass of many rows costs what one of a single row costs.
#[test]
fn a_paragraph_repeated_within_a_limit_reads_the_weights_a_fraction_as_often() {
    let Some(assets) = std::env::var_os("JTLLM_TEST_ASSETS") else {
        println!("skipped: SmolLM2: JTLLM_TEST_ASSETS is not set (tests/fetch-assets.sh DIR fetches it)");
        return;
    };
    let model = Path::new(&assets).join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    let prompt = format!("Repeat this paragraph word for word: {PARAGRAPH}");
    let model = model.to_str().unwrap();
    let more = ["-n", "70", "--temp", "0", "-c", "512"];
    let limited = [&more[..], &["--mem-limit", "220MB"]].concat();
    let [plain, _] = answers(model, &prompt, &more, ["none", "none"]);
    let [one, guessed] = answers(model, &prompt, &limited, ["none", "ngram-simple"]);
    // How often that guesses depends on what passes are seen to take.
    let [weighed, _] = answers(model, &prompt, &limited, ["auto", "none"]);
    for found in [&one, &guessed, &weighed] {
        assert_eq!(found["ids"], plain["ids"]);
    }
    let number = |report: &Value, name: &str| report["memory"][name].as_f64().unwrap();
    assert!(number(&one, "weights_stay") < number(&one, "weights"), "{}", one["memory"]);
    let rate = tokens_a_pass(&guessed);
    println!("{rate:.2} tokens a pass of {}, {}", guessed["timings"], guessed["memory"]);
    assert!(rate >= 2.0, "{rate} tokens a pass: {}", guessed["timings"]);
    assert!(number(&guessed, "bytes_read") < number(&one, "bytes_read") / 2.0);
    // No plan is made for a guess: what is counted is the same with and without.
    assert_eq!(number(&guessed, "buffers"), number(&one, "buffers"));
}

/// The demo model repeats itself after its answer.
const LOOP: &[&str] = &["--ignore-eos", "-n", "60", "--temp", "0"];

#[test]
fn the_line_at_the_end_says_what_guesses_did() {
    let told = |name: &str| {
        let output = run(&[&["run", "-p", FRANCE, "--spec-type", name], LOOP].concat());
        assert!(output.status.success());
        (output.stdout.clone(), stderr(&output))
    };
    let ((plain, without), (guessed, with)) = (told("none"), told("ngram-simple"));
    assert_eq!(plain, guessed);
    assert!(with.contains("up to 15 tokens guessed") && with.contains(" tokens a pass, "), "{with}");
    assert!(!without.contains("guess"), "{without}");
    assert!(told("auto").1.contains("up to 15 tokens guessed where it pays"));
}

#[test]
fn more_tokens_may_have_to_be_alike() {
    let drafted = |size: &str| {
        let more = [LOOP, &["--spec-ngram-size-n", size]].concat();
        let [plain, guessed] = answers("demo", FRANCE, &more, ["none", "ngram-simple"]);
        assert_eq!(plain["ids"], guessed["ids"]);
        guessed["timings"]["draft_n"].clone()
    };
    let [one, ten] = ["1", "10"].map(|size| drafted(size).as_u64().unwrap());
    assert!(one > ten && ten > 0, "{one} {ten}");
}

#[test]
fn a_model_with_a_state_says_that_it_guesses_nothing() {
    let (_folder, model) = rwkv();
    let told = |name: &str| {
        let output = run(&["run", &model, "-p", "Hi", "--raw", "-n", "3", "--spec-type", name]);
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output).matches("no tokens are guessed").count()
    };
    assert_eq!((told("ngram-simple"), told("auto")), (1, 0));
}
