//! Answers in the manner of each family, from its files alone.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use serde_json::{Value, json};
use support::{fixture, stderr};

/// The answer to a question, with what was in force.
fn asked(model: &str, more: &[&str]) -> Value {
    support::json(&[&["run", &fixture(model), "-p", "你好", "--json", "-n", "3"], more].concat())
}

#[test]
fn sampling_is_the_familys_where_nobody_says_otherwise() {
    let cases = [
        ("chatglm-6b-tiny", json!([0.95, 50, 0.7, 0.0, 1.0, 5])),
        ("chatglm2-6b-tiny", json!([0.8, 50, 0.8, 0.0, 1.0, 5])),
        ("atom-7b-tiny", json!([0.95, 50, 0.7, 0.0, 1.0, null])),
    ];
    let seen = |answer: &Value| {
        let fields = ["temperature", "top_k", "top_p", "min_p", "repeat_penalty", "invalid"];
        Value::from_iter(fields.map(|field| answer["sampling"][field].clone()))
    };
    for (model, expected) in cases {
        assert_eq!(seen(&asked(model, &[])), expected, "{model}");
    }
    let flags = ["--temp", "0", "--top-k", "7", "--min-p", "0.25"];
    assert_eq!(seen(&asked("chatglm-6b-tiny", &flags)), json!([0.0, 7, 0.7, 0.25, 1.0, 5]));
}

#[test]
fn an_answer_of_atom_ends_with_its_line() {
    let line = |more: &[&str]| asked("atom-7b-tiny", &[&["--temp", "0"], more].concat());
    // The model prefers what is not a line end; a bias makes it say one at once.
    let id = support::json(&["tokenize", &fixture("atom-7b-tiny"), "--ids", "\n"]);
    let id = id.as_array().unwrap().last().unwrap().as_u64().unwrap();
    let bias = format!("{id}+1000");
    let ended = line(&["-l", &bias]);
    assert_eq!((&ended["finish_reason"], &ended["stop"]), (&json!("stop"), &json!("\n")), "{ended}");
    assert_eq!(ended["text"], "");
    for more in [["--ignore-eos", "-l", &bias].as_slice(), &["--chat-template", "plain", "-l", &bias]] {
        let open = line(more);
        assert_eq!(open["finish_reason"], "length", "{open}");
    }
}

#[test]
fn chatglm_goes_on_where_logits_are_no_numbers_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("chatglm-6b-tiny");
    std::fs::rename(support::copy_of(std::path::Path::new(&fixture("chatglm-6b-tiny"))).keep(), &model)
        .unwrap();
    support::fill_tensor(&model, "transformer.final_layernorm.bias", [0xff, 0xff]);
    let output = support::run(&["run", model.to_str().unwrap(), "-p", "你好", "--json", "-n", "3"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let answer: Value = serde_json::from_str(&support::stdout(&output)).unwrap();
    assert_eq!(answer["ids"], json!([5, 5, 5]));
    assert!(stderr(&output).contains("the logits of 3 tokens were not finite"), "{}", stderr(&output));
    // No other family hides it.
    let demo = support::demo_copy();
    support::fill_tensor(demo.path(), "model.norm.weight", [0xff, 0xff]);
    let text = support::failure(&["run", demo.path().to_str().unwrap(), "-p", "Hi"], 1);
    assert!(text.contains("is not finite"), "{text}");
}

#[test]
fn an_answer_of_rwkv_begins_in_its_first_line_and_ends_by_itself() {
    let (_folder, model) = support::rwkv();
    let line_end = support::json(&["tokenize", &model, "--ids", "\n"])[0].clone();
    for seed in ["1", "2", "3"] {
        let answer = support::json(&["run", &model, "-p", "hello", "--json", "-s", seed]);
        let ids = answer["ids"].as_array().unwrap();
        assert!(!ids[..2].contains(&line_end) && !ids.contains(&json!(0)), "{ids:?}");
        // From the 151st token on line ends become likelier with each, until two of them end the answer.
        assert_eq!((&answer["finish_reason"], &answer["stop"]), (&json!("stop"), &json!("\n\n")), "{answer}");
        assert!(ids.len() < 400, "{} tokens", ids.len());
    }
    // Without a line end in any token nothing but the limit ends it.
    let line_end = line_end.to_string();
    let bias = ["258", "260", "261", "262", "263", "265", &line_end].map(|id| format!("-l{id}-inf"));
    let bias: Vec<&str> = bias.iter().map(String::as_str).collect();
    let output = support::run(&[["run", &model, "-p", "hello"].as_slice(), &bias].concat());
    let said = stderr(&output);
    assert!(said.contains("as rwkv answers: temperature 1, top-k 0, top-p 0.85"), "{said}");
    assert!(said.contains("ended at the model's own limit of 999 tokens; -n sets another"), "{said}");
}
