//! Models with random weights (`cargo xtask synthetic`) run like any other: with them budgets are measured.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use serde_json::Value;
use support::{jtllm, stderr, stdout};
use xtask::synthetic::Synthetic;

#[test]
fn a_synthetic_model_answers_by_its_own_template() {
    let folder = tempfile::tempdir().unwrap();
    for (shape, encoding) in [("chatglm2-tiny", "bf16"), ("chatglm2-tiny", "q4_0"), ("llama-tiny", "q4_0")] {
        let file = folder.path().join(format!("{shape}-{encoding}.gguf"));
        Synthetic::of(shape, encoding, None).unwrap().write(&file, &mut |_| {}).unwrap();
        let file = file.to_str().unwrap();
        let output = jtllm(&["run", file, "-p", "Hi", "-n", "6", "--temp", "0", "--ignore-eos", "--json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let answer: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(answer["ids"].as_array().map(Vec::len), Some(6), "{answer}");
        let prompt = jtllm(&["template", file, "-p", "Hi"]).output().unwrap();
        assert_eq!(
            stdout(&prompt).contains("[Round 1]"),
            shape.starts_with("chatglm2"),
            "{}",
            stdout(&prompt)
        );
    }
}
