//! `jtllm verify`: it accepts what is right on every backend, and nothing else.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::path::Path;

use serde_json::Value;
use support::{answer, copy_of, failure, fill_tensor, fixture, json, root, run, stderr, stdout};

#[test]
fn a_tiny_llama_passes_on_every_backend() {
    let folder = fixture("llama2-gqa-tiny");
    for backend in ["cpu", "interp", "graph"] {
        let found = json(&["verify", &folder, "--backend", backend, "--json"]);
        assert_eq!((&found["passed"], &found["backend"]), (&Value::from(true), &Value::from(backend)));
        let checks = found["checks"].as_array().unwrap();
        let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
        for name in [
            "logits len33",
            "logits batch",
            "hidden.layer0",
            "hidden.final_norm",
            "generate 0: greedy tokens",
        ] {
            assert!(names.contains(&name), "{backend}: {name} is not in {names:?}");
        }
        for check in checks.iter().filter(|check| !check["bound"].is_null()) {
            assert!(check["bound"].as_f64().unwrap() <= 1e-3 + 1e-9, "{check}");
            assert!(check["max_abs"].as_f64().unwrap() <= check["bound"].as_f64().unwrap(), "{check}");
        }
    }
}

#[test]
fn every_vendored_model_passes_on_the_processor() {
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("tests/fixtures")).unwrap() {
        let folder = entry.unwrap().path();
        let is_model = folder.join("golden.safetensors").exists();
        if is_model {
            let table = answer(&["verify", folder.to_str().unwrap()]);
            let compared =
                ["greedy tokens", "hidden vectors of text"].iter().any(|what| table.contains(what));
            assert!(compared && !table.contains("FAILED"), "{table}");
            count += 1;
        }
    }
    assert!(count >= 27);
}

#[test]
fn other_caps_schedule_other_kernels_and_pass() {
    let folder = fixture("llama2-gqa-tiny");
    for caps in ["vector8", "threads32", "matrix128"] {
        answer(&["verify", &folder, "--backend", "interp", "--caps", caps]);
    }
}

#[test]
fn rounded_operands_are_told_from_float32() {
    let folder = fixture("llama2-gqa-tiny");
    for backend in ["cpu", "interp", "graph"] {
        let arguments = ["verify", &folder, "--backend", backend, "--compute", "bf16"];
        assert!(failure(&arguments, 1).contains("out of tolerance"), "{backend}");
    }
}

#[test]
fn the_demo_model_passes_by_its_tokens_and_largest_logits() {
    let table = answer(&["verify", &fixture("demo"), "--model", "demo"]);
    assert!(table.contains("20/20") && table.contains("chat 19: 10 logits"), "{table}");
}

/// A model of the real world against its golden file; `None` where it was not fetched.
fn real(golden: &str, file: &str) -> Option<String> {
    let Some(folder) = std::env::var_os("JTLLM_TEST_ASSETS") else {
        println!("skipped: {file}: JTLLM_TEST_ASSETS is not set (tests/fetch-assets.sh DIR fetches it)");
        return None;
    };
    let model = Path::new(&folder).join(file);
    Some(answer(&["verify", &fixture(golden), "--model", model.to_str().unwrap()]))
}

#[test]
fn smollm2_passes_by_its_tokens_and_largest_logits() {
    let file = "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
    if let Some(table) = real("real-smollm2-135m-instruct-q4_1", file) {
        assert!(table.contains("raw: texts") && table.contains("raw 4: greedy tokens"), "{table}");
    }
}

#[test]
fn gemma3_passes_by_its_tokens_and_largest_logits() {
    if let Some(table) = real("real-gemma3-270m-q4_k_m", "gemma3-270m/gemma-3-270m-q4_k_m.gguf") {
        assert!(table.contains("raw: texts") && table.contains("raw 9: greedy tokens"), "{table}");
    }
}

#[test]
fn minilm_passes_by_its_embeddings() {
    if let Some(table) = real("real-all-minilm-l6-v2", "minilm") {
        assert!(table.contains("embedding of text 19"), "{table}");
    }
}

#[test]
fn a_wrong_weight_fails() {
    let copy = copy_of(&root().join("tests/fixtures/belle-llama-tiny"));
    let folder = copy.path().to_str().unwrap();
    answer(&["verify", folder]);
    // A gain of 1 for every channel, in half precision.
    fill_tensor(copy.path(), "model.layers.1.post_attention_layernorm.weight", 0x3c00_u16.to_le_bytes());
    let output = run(&["verify", folder]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("FAILED") && stderr(&output).contains("out of tolerance"));
    let rows = stdout(&output);
    let row = |name: &str| rows.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(row("hidden.layer0").ends_with("ok"), "layers before the fault are right: {rows}");
    assert!(row("hidden.layer1").ends_with("FAILED"), "{rows}");
}

#[test]
fn a_wrong_expectation_fails() {
    let copy = copy_of(&root().join("tests/fixtures/belle-llama-tiny"));
    let file = copy.path().join("golden.json");
    let mut golden: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let token = &mut golden["generate"][0]["tokens"][5];
    *token = Value::from(token.as_u64().unwrap() ^ 1);
    std::fs::write(&file, golden.to_string()).unwrap();
    let output = run(&["verify", copy.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("generate 0: greedy tokens"));
}

#[test]
fn damaged_golden_files_are_named() {
    let copy = copy_of(&root().join("tests/fixtures/belle-llama-tiny"));
    let folder = copy.path().to_str().unwrap();
    let file = copy.path().join("golden.json");
    let mut golden: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    golden["cases"][0]["input_ids"][0][0] = Value::from(-1);
    std::fs::write(&file, golden.to_string()).unwrap();
    assert!(failure(&["verify", folder], 4).contains("cases.input_ids"));
    std::fs::write(&file, "{").unwrap();
    assert!(failure(&["verify", folder], 4).contains("golden.json"));
    std::fs::remove_file(&file).unwrap();
    assert!(failure(&["verify", folder], 3).contains("golden.json"));
}
