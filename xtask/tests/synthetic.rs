//! The command's files are models that can be read, and are what they are said to be.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;

use jtllm_models::Checkpoint;
use xtask::synthetic::Synthetic;

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
        assert_eq!(String::from_utf8_lossy(&written.stderr), "", "no progress where nobody sees it");
        let checkpoint = Checkpoint::open(&file).unwrap();
        assert_eq!(checkpoint.tensors().count(), 2 * 9 + 3);
        let query = checkpoint.tensor("model.layers.1.self_attn.q_proj.weight").unwrap();
        assert_eq!((query.encoding, query.shape.as_slice()), (encoding, [64, 64].as_slice()));
    }
}

#[test]
fn chatglm_has_its_tensors_and_its_layers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("glm.gguf");
    for layers in [1, 5] {
        let count = layers.to_string();
        let arguments =
            ["synthetic", "chatglm2-tiny", "q4_0", file.to_str().unwrap(), "--layers", count.as_str()];
        assert!(xtask(&arguments).status.success());
        let checkpoint = Checkpoint::open(&file).unwrap();
        assert_eq!(checkpoint.tensors().count(), layers * 7 + 3);
        let packed =
            checkpoint.tensor("transformer.encoder.layers.0.self_attention.query_key_value.weight").unwrap();
        assert_eq!((packed.encoding, packed.shape.as_slice()), ("q4_0", [64 + 2 * 32, 64].as_slice()));
        let bias =
            checkpoint.tensor("transformer.encoder.layers.0.self_attention.query_key_value.bias").unwrap();
        assert_eq!((bias.encoding, bias.shape.as_slice()), ("f32", [64 + 2 * 32].as_slice()));
    }
}

/// A longer file than fits into the memory that it goes through: it must neither lose nor move a byte.
#[test]
fn files_of_several_pieces_are_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("glm.gguf");
    let model = Synthetic::of("chatglm2-100m", "q8_0", Some(3)).unwrap();
    assert!(model.bytes() > 12 << 20 && !model.bytes().is_multiple_of(4096), "{}", model.bytes());
    let mut told = Vec::new();
    model.write(&file, &mut |bytes| told.push(bytes)).unwrap();
    assert!(told.is_sorted() && *told.last().unwrap() <= model.bytes());
    let bytes = fs::read(&file).unwrap();
    assert_eq!(bytes.len() as u64, model.bytes());
    let checkpoint = Checkpoint::open(&file).unwrap();
    for tensor in checkpoint.tensors().filter(|tensor| tensor.encoding == "q8_0") {
        let piece = &tensor.pieces[0];
        let data = &bytes[piece.offset as usize..(piece.offset + piece.len) as usize];
        let scales = data.chunks_exact(34).map(|block| [block[0], block[1]]);
        assert!(scales.into_iter().all(|scale| scale == [0, 0x08]), "{}", tensor.name);
    }
}

/// What the measurements of budgets are made of: the sizes that they are known by.
#[test]
fn the_large_ones_are_as_long_as_the_real_ones() {
    let gigabytes = |shape, encoding| Synthetic::of(shape, encoding, None).unwrap().bytes() as f64 / 1e9;
    let rounded = |shape, encoding| (gigabytes(shape, encoding) * 100.0).round() / 100.0;
    assert_eq!(rounded("chatglm2-6b", "bf16"), 12.49);
    assert_eq!(rounded("chatglm2-6b", "q4_0"), 3.51);
    assert_eq!(rounded("chatglm2-100m", "bf16"), 0.19);
    assert_eq!(rounded("llama-1.1b", "q4_0"), 0.62);
    assert_eq!(rounded("llama-1.1b", "q4_k"), 0.62);
    let cut = Synthetic::of("llama-tiny", "q4_k", None).err().unwrap();
    assert!(cut.ends_with("rows of 64 numbers do not divide into blocks of 256"), "{cut}");
}

#[test]
fn what_it_does_not_know_it_refuses() {
    for (arguments, why) in [
        (&["synthetic", "llama-9b", "f32", "x"][..], "there is no"),
        (&["synthetic", "llama-tiny", "q9", "x"], "there is no"),
        (&["synthetic", "llama-tiny", "f32", "x", "--layers", "0"], "no number of layers"),
        (&["synthetic", "llama-7b", "f32", "x", "--layers", "1001"], "no number of layers"),
        (&["synthetic", "llama-tiny", "f32", "no/such/folder"], "no/such/folder"),
    ] {
        let refused = xtask(arguments);
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains(why), "{arguments:?}");
    }
}

/// 1000 layers of the 7 B shape in `f32` are more than disks have that anybody tests on.
#[test]
fn a_disk_that_is_too_small_is_seen_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.gguf");
    let refused = xtask(&["synthetic", "llama-7b", "f32", file.to_str().unwrap(), "--layers", "1000"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains(" left"), "{said}");
    assert!(!file.exists());
}
