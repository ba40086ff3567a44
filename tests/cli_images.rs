//! Images on the command line.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use serde_json::Value;
use support::{json, jtllm, run, stderr};

const MODELS: [&str; 2] = ["tests/fixtures/llava-1.5-tiny", "tests/fixtures/llava-next-1.6-tiny"];

fn golden(model: &str) -> Value {
    serde_json::from_slice(&std::fs::read(format!("{model}/golden.json")).unwrap()).unwrap()
}

#[test]
fn an_image_stands_before_the_first_message() {
    for model in MODELS {
        let case = &golden(model)["cases"][0];
        let image = format!("{model}/image0.png");
        let found = json(&[
            "run",
            model,
            "--image",
            &image,
            "-p",
            "What is this?",
            "-n",
            "1",
            "--json",
            "--chat-template",
            "llava",
        ]);
        assert_eq!(found["prompt_ids"], case["input_ids"][0], "{model}");
        let two =
            json(&["run", model, "--image", &image, "--image", &image, "-p", "Hi", "-n", "1", "--json"]);
        let tokens =
            |found: &Value| found["prompt_ids"].as_array().unwrap().iter().filter(|id| **id == 290).count();
        assert_eq!(tokens(&two), 2 * tokens(&found));
    }
}

#[test]
fn the_answer_is_the_references() {
    for model in MODELS {
        let golden = golden(model);
        let (case, generate) = (&golden["cases"][0], &golden["generate"][0]);
        let image = format!("{model}/image0.png");
        let prompt = case["text"].as_str().unwrap();
        let more = ["-p", prompt, "--raw", "--temp", "0", "--ignore-eos", "-n", "32", "--json"];
        let exact = ["--cache-type-k", "f32", "--cache-type-v", "f32"];
        let found = json(&[&["run", model, "--image", &image], &more[..], &exact[..]].concat());
        assert_eq!(found["ids"], generate["tokens"], "{model}");
    }
}

#[test]
fn what_cannot_be_shown_is_said() {
    let image = format!("{}/image0.png", MODELS[0]);
    let cases: [(&[&str], &str); 6] = [
        (
            &["run", MODELS[0], "--image", "/dev/zero", "-p", "Hi"],
            "--image /dev/zero: more than 67108864 bytes",
        ),
        (&["run", "--image", &image, "-p", "Hi"], "the model sees no images"),
        (&["run", MODELS[0], "--image", "README.md", "-p", "Hi"], "--image README.md: not an image"),
        (&["run", MODELS[0], "--image", "no.png", "-p", "Hi"], "--image no.png: No such file"),
        (
            &["run", MODELS[0], "--image", &image, "--raw", "-p", "Hi"],
            "has places for 0 images, and there are 1",
        ),
        (
            &["run", MODELS[0], "--image", &image, "--context-shift", "-p", "Hi"],
            "--context-shift does not go with",
        ),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        assert!(!output.status.success());
        assert!(stderr(&output).contains(expected), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn users_cannot_spell_an_image() {
    let found = json(&["run", MODELS[0], "-p", "see <image> there", "-n", "1", "--json"]);
    assert!(!found["prompt_ids"].as_array().unwrap().contains(&Value::from(290)));
    assert!(jtllm(&["run", MODELS[0], "-p", "Hi", "-n", "1"]).output().unwrap().status.success());
}
