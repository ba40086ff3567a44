//! The command's files are models that can be read.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use jtllm_models::Checkpoint;

fn xtask(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().unwrap()
}

#[test]
fn synthetic_models_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for encoding in ["f32", "f16", "bf16", "q8_0", "q4_0"] {
        let file = folder.path().join(format!("{encoding}.gguf"));
        let written = xtask(&["synthetic", "llama-tiny", encoding, file.to_str().unwrap()]);
        assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
        let checkpoint = Checkpoint::open(&file).unwrap();
        assert_eq!(checkpoint.tensors().count(), 2 * 9 + 3);
        let query = checkpoint.tensor("model.layers.1.self_attn.q_proj.weight").unwrap();
        assert_eq!((query.encoding, query.shape.as_slice()), (encoding, [64, 64].as_slice()));
    }
}

#[test]
fn what_it_does_not_know_it_refuses() {
    for arguments in [["synthetic", "llama-9b", "f32", "x"], ["synthetic", "llama-tiny", "q9", "x"]] {
        let refused = xtask(&arguments);
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no"));
    }
}
