//! `--backend wgpu`: every model on whatever graphics adapter is here, if only one that computes on the
//! processor.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::path::{Path, PathBuf};

use support::{answer, fixture, jtllm, root, run, stderr, stdout};

/// Whether there is an adapter; if not, says that the test is skipped.
fn is_here() -> bool {
    let found = jtllm_runtime::device::wgpu::adapters();
    if found.is_empty() {
        println!("skipped: no graphics adapter");
    }
    !found.is_empty()
}

fn models() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(root().join("tests/fixtures")).unwrap();
    let mut models: Vec<PathBuf> = folders.map(|entry| entry.unwrap().path()).collect();
    models.retain(|folder| folder.join("golden.safetensors").exists());
    models.sort();
    models
}

/// Checks every second model, beginning with one.
fn verify_every_second(first: usize) {
    if !is_here() {
        return;
    }
    for folder in models().iter().skip(first).step_by(2) {
        let table = answer(&["verify", folder.to_str().unwrap(), "--backend", "wgpu"]);
        let compared = ["greedy tokens", "hidden vectors of text"].iter().any(|what| table.contains(what));
        assert!(compared && !table.contains("FAILED"), "{table}");
    }
}

// Two tests, so that two processors share them.
#[test]
fn even_vendored_models_pass() {
    verify_every_second(0);
}

#[test]
fn odd_vendored_models_pass() {
    verify_every_second(1);
}

#[test]
fn models_pass_with_their_last_layers_on_the_adapter() {
    if !is_here() {
        return;
    }
    for name in ["llama2-gqa-tiny", "chatglm-6b-tiny", "pangu-alpha-tiny", "rwkv-7-tiny", "llava-1.5-tiny"] {
        for layers in ["1", "2"] {
            let table = answer(&["verify", &fixture(name), "--backend", "wgpu", "-ngl", layers]);
            assert!(table.contains("greedy tokens") && !table.contains("FAILED"), "{name}: {table}");
        }
    }
}

#[test]
fn smollm2_gives_the_same_first_32_tokens() {
    if !is_here() {
        return;
    }
    let Some(folder) = std::env::var_os("JTLLM_TEST_ASSETS") else {
        println!("skipped: JTLLM_TEST_ASSETS is not set (tests/fetch-assets.sh DIR fetches models)");
        return;
    };
    let model = Path::new(&folder).join("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    let golden = fixture("real-smollm2-135m-instruct-q4_1");
    let table = answer(&["verify", &golden, "--model", model.to_str().unwrap(), "--backend", "wgpu"]);
    assert!(table.contains("raw 1: greedy tokens") && table.contains("32/32"), "{table}");
}

#[test]
fn the_demo_model_answers() {
    if !is_here() {
        return;
    }
    let found = answer(&["run", "demo", "-p", support::FRANCE, "--temp", "0", "--backend", "wgpu"]);
    assert!(found.contains("Paris"), "{found}");
}

#[test]
fn without_an_adapter_it_says_so() {
    let mut command = jtllm(&["verify", &fixture("llama2-gqa-tiny"), "--backend", "wgpu"]);
    // Where Vulkan is the interface, this hides every driver.
    let hidden = command.env("VK_ICD_FILENAMES", "/nonexistent").env("VK_DRIVER_FILES", "/nonexistent");
    let output = hidden.output().unwrap();
    if cfg!(any(windows, target_os = "macos")) {
        return;
    }
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert!(stderr(&output).contains("no graphics adapter"), "{}", stderr(&output));
    assert!(stdout(&output).is_empty());
    assert!(run(&["verify", &fixture("llama2-gqa-tiny")]).status.success());
}
