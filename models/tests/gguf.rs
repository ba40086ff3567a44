//! GGUF: what a sound file amounts to, and what the parser must refuse.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use jtllm_models::checkpoint::gguf::{self, Header, Split, Value};
use jtllm_models::{Checkpoint, LoadError};

#[path = "support/allocated.rs"]
mod allocated;
#[path = "support/gguf_file.rs"]
mod gguf_file;

use gguf_file::{GgufFile, array, text};

fn parse(bytes: &[u8]) -> Result<Header, LoadError> {
    gguf::parse(bytes, Path::new("model.gguf"))
}

/// Writes the file and opens it as a model.
fn open(file: &GgufFile) -> Result<Checkpoint, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    Checkpoint::open(&path)
}

#[track_caller]
fn says(error: LoadError, parts: &[&str]) {
    assert_eq!(error.exit_code(), 4, "{error}");
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
}

/// Breaks a sound file and expects the parser to refuse it with these words.
#[track_caller]
fn refuses(break_it: impl FnOnce(&mut GgufFile), parts: &[&str]) {
    let mut file = GgufFile::llama();
    break_it(&mut file);
    says(parse(&file.bytes()).unwrap_err(), parts);
}

fn u32(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

#[test]
fn a_sound_file_is_read_under_hugging_face_names() {
    for version in [2, 3] {
        let mut file = GgufFile::llama();
        file.version = version;
        let checkpoint = open(&file).unwrap();
        let config = checkpoint.config();
        assert_eq!(config.architecture().unwrap(), "LlamaForCausalLM");
        assert_eq!(config.model_type().unwrap(), "llama");
        let any = 1..=1000;
        for (field, value) in [
            ("hidden_size", 64),
            ("num_hidden_layers", 2),
            ("intermediate_size", 96),
            ("num_attention_heads", 4),
            ("num_key_value_heads", 2),
            ("max_position_embeddings", 128),
            ("vocab_size", 5),
        ] {
            assert_eq!(config.count(field, any.clone()).unwrap(), value, "{field}");
        }
        assert_eq!(config.number("rms_norm_eps", 0.0..=1.0).unwrap(), 1e-5, "the decimal that was meant");
        assert_eq!(config.rope_theta().unwrap(), 1e5);
        assert!(config.rope_scaling().unwrap().is_none());
        assert!(config.raw("partial_rotary_factor").is_none());
        assert!(config.flag("tie_word_embeddings").unwrap(), "there is no output.weight");
        assert!(config.rope_interleaved);
        assert_eq!(config.eos_ids().unwrap(), [2]);

        let key = checkpoint.locate("model.layers.1.self_attn.k_proj.weight").unwrap();
        assert_eq!((key.encoding, &key.shape[..]), ("q4_1", &[32, 64][..]));
        let piece = &key.pieces[0];
        assert_eq!((piece.rows, piece.cols, piece.stride, piece.len), (32, 64, 40, 1280));
        assert_eq!(piece.offset % 32, 0);
        assert!(piece.bytes().iter().enumerate().all(|(index, &byte)| byte == index as u8));
        for name in ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.gate_proj.weight"]
        {
            assert!(checkpoint.tensor(name).is_some(), "{name}");
        }
        let tokens = checkpoint.gguf().unwrap().get("tokenizer.ggml.tokens").unwrap().texts().unwrap();
        assert_eq!(tokens.iter().collect::<Vec<_>>(), ["<unk>", "<s>", "</s>", "a", "b"]);
        assert_eq!((tokens.get(4), tokens.get(5)), (Some("b"), None));
        assert!(checkpoint.file("tokenizer.json").unwrap().is_none());
    }
}

#[test]
fn qwen2_keeps_the_order_of_its_rows_and_has_biases() {
    let mut file = GgufFile::llama();
    for (key, ..) in &mut file.keys {
        *key = key.replace("llama.", "qwen2.");
    }
    file.set("general.architecture", 8, text("qwen2"));
    file.tensor("blk.0.attn_q.bias", &[64], 0, 256);
    file.tensor("output.weight", &[64, 5], 0, 1280);
    let checkpoint = open(&file).unwrap();
    assert!(!checkpoint.config().rope_interleaved);
    assert!(!checkpoint.config().flag("tie_word_embeddings").unwrap());
    assert_eq!(checkpoint.config().architecture().unwrap(), "Qwen2ForCausalLM");
    assert!(checkpoint.tensor("model.layers.0.self_attn.q_proj.bias").is_some());
    assert!(checkpoint.tensor("lm_head.weight").is_some());
}

#[test]
fn values_keep_their_types() {
    let mut file = GgufFile::llama();
    file.set("test.u8", 0, vec![255]);
    file.set("test.i8", 1, vec![255]);
    file.set("test.u16", 2, vec![1, 2]);
    file.set("test.i16", 3, vec![0, 128]);
    file.set("test.i32", 5, (-5i32).to_le_bytes().to_vec());
    file.set("test.bool", 7, vec![1]);
    file.set("test.u64", 10, u64::MAX.to_le_bytes().to_vec());
    file.set("test.i64", 11, i64::MIN.to_le_bytes().to_vec());
    file.set("test.f64", 12, 0.1f64.to_le_bytes().to_vec());
    file.set("test.types", 9, array(5, &[(-1i32).to_le_bytes().to_vec(), u32(7)]));
    file.set("test.scores", 9, array(6, &[(-0.5f32).to_le_bytes().to_vec()]));
    let metadata = parse(&file.bytes()).unwrap().metadata;
    let get = |key: &str| metadata.get(&format!("test.{key}")).unwrap();
    assert_eq!(*get("u8"), Value::U8(255));
    assert_eq!(*get("i8"), Value::I8(-1));
    assert_eq!(*get("u16"), Value::U16(513));
    assert_eq!(*get("i16"), Value::I16(i16::MIN));
    assert_eq!((get("i32").integer(), get("i32").unsigned()), (Some(-5), None));
    assert_eq!(get("bool").flag(), Some(true));
    assert_eq!(get("u64").unsigned(), Some(u64::MAX));
    assert_eq!(get("i64").integer(), Some(i64::MIN.into()));
    assert_eq!(get("f64").float(), Some(0.1));
    assert_eq!(get("types").integers(), Some(vec![-1, 7]));
    assert_eq!(get("scores").floats(), Some(&[-0.5][..]));
    assert_eq!(metadata.iter().next().unwrap().0, "general.architecture");
}

#[test]
fn every_block_type_has_the_size_that_ggml_gives_it() {
    for block in gguf::BLOCKS {
        let mut file = GgufFile::llama();
        file.tensor("extra", &[2 * block.elements, 3], block.id, 6 * block.bytes as usize);
        file.tensor("after", &[1], 0, 4);
        let header = parse(&file.bytes()).unwrap();
        let extra = &header.tensors[header.tensors.len() - 2];
        assert_eq!((extra.block, extra.len), (*block, 6 * block.bytes));
        assert_eq!(extra.shape, [3, 2 * block.elements]);
    }
}

#[test]
fn rope_scaling_and_ends_of_an_answer() {
    let mut file = GgufFile::llama();
    file.set("llama.rope.scaling.type", 8, text("yarn"));
    file.set("llama.rope.scaling.factor", 6, 4f32.to_le_bytes().to_vec());
    file.set("llama.rope.scaling.original_context_length", 4, u32(32));
    file.set("llama.rope.dimension_count", 4, u32(8));
    file.set("tokenizer.ggml.eot_token_id", 4, u32(4));
    file.set("tokenizer.ggml.eom_token_id", 4, u32(2));
    file.set("general.sampling.temp", 6, 0.7f32.to_le_bytes().to_vec());
    file.set("general.sampling.top_k", 5, u32(20));
    file.set("llama.attention.sliding_window", 4, u32(0));
    let checkpoint = open(&file).unwrap();
    let config = checkpoint.config();
    let scaling = config.rope_scaling().unwrap().unwrap();
    assert_eq!(scaling.text("rope_type").unwrap(), "yarn");
    assert_eq!(scaling.number("factor", 1.0..=64.0).unwrap(), 4.0);
    assert_eq!(scaling.count("original_max_position_embeddings", 1..=1000).unwrap(), 32);
    assert_eq!(config.number("partial_rotary_factor", 0.0..=1.0).unwrap(), 0.5);
    assert_eq!(config.eos_ids().unwrap(), [2, 4]);
    assert_eq!(config.optional_count("sliding_window", 1..=1000).unwrap(), None);
    let generation = config.generation().unwrap();
    assert_eq!((generation.temperature, generation.top_k), (Some(0.7), Some(20)));
}

#[test]
fn a_table_of_rope_factors_becomes_a_field() {
    let mut file = GgufFile::llama();
    file.tensor("rope_freqs.weight", &[8], 0, 0);
    file.tensors.last_mut().unwrap().bytes =
        [1f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0].iter().flat_map(|factor| factor.to_le_bytes()).collect();
    let scaling = open(&file).unwrap().config().rope_scaling().unwrap().unwrap();
    assert_eq!(scaling.text("rope_type").unwrap(), "factors");
    assert_eq!(scaling.numbers("factors", 0.0..=100.0).unwrap()[7], 8.0);
    file.tensors.last_mut().unwrap().bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    says(open(&file).unwrap_err(), &["tensor \"rope_freqs.weight\"", "not a positive number"]);
}

#[test]
fn f18_wrong_magic_and_versions() {
    refuses(|file| file.magic = *b"GGML", &["at byte 0", "wrong magic GGML"]);
    refuses(|file| file.version = 1, &["GGUF version 1 is not supported", "versions 2 and 3"]);
    refuses(|file| file.version = 99, &["GGUF version 99 is not supported"]);
    refuses(|file| file.version = 3u32.swap_bytes(), &["big-endian GGUF is not supported"]);
    says(parse(b"GG").unwrap_err(), &["truncated: expected 4, found 2 bytes"]);
    says(parse(b"").unwrap_err(), &["truncated"]);
}

#[test]
fn f19_huge_key_count_allocates_nothing() {
    let mut file = GgufFile::llama();
    for count in [1 << 60, u64::MAX, 1 << 16, 6500] {
        file.key_count = Some(count);
        let bytes = file.bytes();
        let (error, peak) = allocated::peak(|| parse(&bytes).unwrap_err());
        says(error, &[&format!("{count} metadata keys"), "at most"]);
        assert!(peak < 1 << 16, "{peak} bytes");
    }
}

#[test]
fn f20_huge_tensor_count_allocates_nothing() {
    let mut file = GgufFile::llama();
    for count in [1 << 60, u64::MAX, 1 << 17, 5000] {
        file.tensor_count = Some(count);
        let bytes = file.bytes();
        let (error, peak) = allocated::peak(|| parse(&bytes).unwrap_err());
        says(error, &[&format!("{count} tensors"), "at most"]);
        assert!(peak < 1 << 16, "{peak} bytes");
    }
}

#[test]
fn f21_string_longer_than_the_file() {
    for length in [1u64 << 40, u64::MAX, 100_000] {
        let value = length.to_le_bytes().to_vec();
        let mut file = GgufFile::llama();
        file.set("general.name", 8, value.clone());
        let bytes = file.bytes();
        let (error, peak) = allocated::peak(|| parse(&bytes).unwrap_err());
        says(error, &[&format!("{length} bytes of a string"), "room for"]);
        assert!(peak < 1 << 16, "{peak} bytes");
        refuses(|file| file.set("general.tags", 9, array(8, &[value])), &["bytes of a string", "room for"]);
    }
    let endless = [u32(4), (1u64 << 61).to_le_bytes().to_vec()].concat();
    refuses(|file| file.set("general.tags", 9, endless), &["array elements", "room for"]);
    let invalid = [1u64.to_le_bytes().to_vec(), vec![0xff]].concat();
    refuses(|file| file.set("general.name", 8, invalid), &["invalid UTF-8"]);
    refuses(|file| file.set("general.name", 13, vec![]), &["\"general.name\"", "unknown value type 13"]);
    refuses(|file| file.set("test", 7, vec![2]), &["\"test\"", "truth value 2"]);
}

#[test]
fn f22_arrays_nested_too_deep() {
    let nested = |depth: usize| (1..depth).fold(array(0, &[vec![1]]), |inner, _| array(9, &[inner]));
    let mut file = GgufFile::llama();
    file.set("test.nested", 9, nested(64));
    assert!(parse(&file.bytes()).is_ok());
    refuses(|file| file.set("test.nested", 9, nested(65)), &["\"test.nested\"", "deeper than 64"]);
    let wide = array(9, &vec![array(0, &[]); (1 << 16) + 1]);
    refuses(|file| file.set("test.wide", 9, wide), &["65537 inner arrays", "at most 65536"]);
}

#[test]
fn f23_alignment_that_is_no_power_of_two_or_too_large() {
    for alignment in [0u64, 3, 1 << 40, 1 << 21] {
        let bytes = alignment.to_le_bytes().to_vec();
        let parts = ["general.alignment", "a power of two", &format!("found {alignment}")];
        refuses(|file| file.set("general.alignment", 10, bytes), &parts);
    }
    refuses(|file| file.set("general.alignment", 6, u32(0)), &["general.alignment"]);
    for alignment in [8, 64, 4096] {
        let mut file = GgufFile::llama();
        file.alignment = alignment;
        file.set("general.alignment", 4, u32(alignment as u32));
        let header = parse(&file.bytes()).unwrap();
        assert!(header.tensors.iter().all(|tensor| tensor.offset % alignment == 0));
    }
}

#[test]
fn f24_duplicate_key() {
    refuses(|file| file.keys.push(file.keys[1].clone()), &["\"llama.block_count\" comes twice"]);
    refuses(
        |file| file.tensors.push(file.tensors[1].clone()),
        &["\"blk.0.attn_norm.weight\"", "comes twice"],
    );
}

#[test]
fn f25_dimensions_out_of_range() {
    let with = |dimensions: &'static [u64]| move |file: &mut GgufFile| file.tensor("w", dimensions, 0, 4);
    refuses(with(&[1, 1, 1, 1, 1]), &["tensor \"w\"", "5 dimensions"]);
    refuses(with(&[]), &["tensor \"w\"", "0 dimensions"]);
    refuses(with(&[4, 0]), &["tensor \"w\"", "dimension 0"]);
    refuses(with(&[u64::MAX]), &["tensor \"w\"", "dimension -1"]);
    refuses(|file| file.tensor("", &[1], 0, 4), &["name is empty"]);
}

#[test]
fn f26_element_count_overflows() {
    let with =
        |dimensions: &'static [u64], kind| move |file: &mut GgufFile| file.tensor("w", dimensions, kind, 4);
    refuses(with(&[1 << 32, 1 << 32], 0), &["tensor \"w\"", "overflows"]);
    refuses(with(&[1 << 62, 2, 2], 24), &["tensor \"w\"", "overflows"]);
    refuses(with(&[1 << 62], 0), &["tensor \"w\"", "overflows"]);
    // Bytes that fit in 64 bits and in no file: the length that the file would need is said.
    refuses(with(&[1 << 58], 0), &["truncated: expected 11529215"]);
}

#[test]
fn f27_offset_unaligned_or_beyond_the_end() {
    let with = |offset| move |file: &mut GgufFile| file.tensors[3].offset = Some(offset);
    refuses(with(7), &["tensor \"blk.0.attn_k.weight\"", "unaligned offset 7"]);
    refuses(with(1 << 40), &["tensor \"blk.0.attn_k.weight\"", "offset 1099511627776, expected"]);
    refuses(with(u64::MAX - 31), &["tensor \"blk.0.attn_k.weight\"", "expected"]);
    refuses(with(0), &["tensor \"blk.0.attn_k.weight\"", "offset 0, expected"]);
    let whole = GgufFile::llama().bytes();
    let found = whole.len() / 2;
    says(parse(&whole[..found]).unwrap_err(), &["truncated: expected", &format!("found {found} bytes")]);
}

#[test]
fn f28_unknown_block_type() {
    for kind in [255, 4, 36, u32::MAX] {
        let parts = ["tensor \"w\"", &format!("unknown ggml type {kind}")];
        refuses(|file| file.tensor("w", &[32], kind, 4), &parts);
    }
}

#[test]
fn f29_row_that_does_not_fill_its_blocks() {
    let parts = ["tensor \"w\"", "row of 33 elements", "q4_0 needs a multiple of 32"];
    refuses(|file| file.tensor("w", &[33, 32], 2, 594), &parts);
    refuses(|file| file.tensor("w", &[128, 2], 12, 144), &["q4_k needs a multiple of 256"]);
}

#[test]
fn f30_zero_counts() {
    for key in ["attention.head_count", "attention.head_count_kv", "block_count", "embedding_length"] {
        let key = format!("llama.{key}");
        let mut file = GgufFile::llama();
        file.set(&key, 4, u32(0));
        says(open(&file).unwrap_err(), &[&key, "at least 1", "found 0"]);
        file.set(&key, 8, text("four"));
        says(open(&file).unwrap_err(), &[&key, "found \"four\""]);
    }
    let mut file = GgufFile::llama();
    file.keys.retain(|(key, ..)| key != "llama.block_count");
    says(open(&file).unwrap_err(), &["llama.block_count", "found nothing"]);
    file = GgufFile::llama();
    file.set("llama.attention.head_count_kv", 9, array(5, &[u32(2), u32(2)]));
    assert_eq!(open(&file).unwrap().config().count("num_key_value_heads", 1..=9).unwrap(), 2);
    file.set("llama.attention.head_count_kv", 9, array(5, &[u32(2), u32(1)]));
    says(open(&file).unwrap_err(), &["head_count_kv", "the same for every layer"]);
    file = GgufFile::llama();
    file.set("llama.rope.dimension_count", 4, u32(17));
    says(open(&file).unwrap_err(), &["rope.dimension_count", "at most 16"]);
    file = GgufFile::llama();
    file.set("llama.attention.layer_norm_rms_epsilon", 6, f32::NAN.to_le_bytes().to_vec());
    says(open(&file).unwrap_err(), &["layer_norm_rms_epsilon", "finite"]);
}

#[test]
fn f31_vocabulary_and_embedding_disagree() {
    let mut file = GgufFile::llama();
    file.set("tokenizer.ggml.tokens", 9, array(8, &["a", "b"].map(text)));
    says(open(&file).unwrap_err(), &["token_embd.weight", "5 rows", "2 tokens"]);
    let mut file = GgufFile::llama();
    file.set("llama.vocab_size", 4, u32(6));
    says(open(&file).unwrap_err(), &["token_embd.weight", "5 rows", "llama.vocab_size says 6"]);
    file.tensors.remove(0);
    says(open(&file).unwrap_err(), &["tensors missing", "token_embd.weight"]);
}

/// A file of Gemma 3 with what its converter writes.
fn gemma3() -> GgufFile {
    let mut file = GgufFile::llama();
    file.set("general.architecture", 8, text("gemma3"));
    for (key, _, _) in &mut file.keys {
        *key = key.replace("llama.", "gemma3.");
    }
    file.set("gemma3.attention.sliding_window", 4, u32(8));
    file.set("gemma3.attention.key_length", 4, u32(24));
    file
}

#[test]
fn gemma3_leaves_to_its_reader_which_layers_have_a_window_and_how_scores_are_scaled() {
    let field = |file: &GgufFile, name: &str| open(file).unwrap().config().raw(name).cloned();
    let file = gemma3();
    assert_eq!(field(&file, "norms_include_one"), Some(true.into()));
    assert_eq!(field(&file, "query_pre_attn_scalar"), Some(24.into()));
    assert_eq!((field(&file, "layer_types"), field(&file, "sliding_window")), (None, Some(8.into())));
    // The largest model divides its width by its heads.
    let mut large = gemma3();
    large.set("gemma3.block_count", 4, u32(62));
    assert_eq!(field(&large, "query_pre_attn_scalar"), Some(16.into()));
    let pattern = "gemma3.attention.sliding_window_pattern";
    let mut every = gemma3();
    every.set(pattern, 4, u32(3));
    assert_eq!(field(&every, "sliding_window_pattern"), Some(3.into()));
    let mut listed = gemma3();
    listed.set(pattern, 9, array(7, &[vec![1], vec![0]]));
    let types = serde_json::json!(["sliding_attention", "full_attention"]);
    assert_eq!(field(&listed, "layer_types"), Some(types));
    let mut none = gemma3();
    none.keys.retain(|(key, ..)| !key.contains("sliding"));
    let types = serde_json::json!(["full_attention", "full_attention"]);
    assert_eq!(field(&none, "layer_types"), Some(types));
    every.set(pattern, 8, text("often"));
    says(open(&every).unwrap_err(), &[pattern, "a whole number of at least 1", "often"]);
}

#[test]
fn unknown_architectures_are_named() {
    let mut file = GgufFile::llama();
    file.set("general.architecture", 8, text("marsupial"));
    says(open(&file).unwrap_err(), &["\"marsupial\" is not supported", "llama, qwen2"]);
    file.keys.retain(|(key, ..)| key != "general.architecture");
    says(open(&file).unwrap_err(), &["general.architecture", "found nothing"]);
}

#[test]
fn split_files_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let write = |number: u16, tensors: std::ops::Range<usize>| {
        let mut file = GgufFile::llama();
        let all = file.tensors.clone();
        file.tensors = all[tensors].to_vec();
        file.set("split.no", 2, number.to_le_bytes().to_vec());
        file.set("split.count", 2, 3u16.to_le_bytes().to_vec());
        file.set("split.tensors.count", 5, u32(all.len() as u32));
        let path = folder.path().join(format!("tiny-{:05}-of-00003.gguf", number + 1));
        std::fs::write(&path, file.bytes()).unwrap();
        path
    };
    write(0, 0..0);
    let second = write(1, 0..9);
    says(Checkpoint::open(&second).unwrap_err(), &["1 split files missing", "tiny-00003-of-00003.gguf"]);
    let third = write(2, 9..20);
    for path in [&second, &third, &folder.path().to_owned()] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(checkpoint.tensors().count(), 20);
        assert_eq!(checkpoint.config().count("vocab_size", 1..=9).unwrap(), 5);
    }
    write(2, 9..19);
    says(Checkpoint::open(&second).unwrap_err(), &["split.tensors.count", "expected 19", "found 20"]);
    write(2, 8..19);
    says(Checkpoint::open(&second).unwrap_err(), &["comes twice"]);
    std::fs::rename(write(0, 0..0), &third).unwrap();
    std::fs::copy(&third, write(0, 0..0)).unwrap();
    says(Checkpoint::open(&second).unwrap_err(), &["split.no", "expected 2", "found 0"]);

    std::fs::write(folder.path().join("other.gguf"), GgufFile::llama().bytes()).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    says(error, &["2 GGUF models", "other.gguf", "tiny-00001-of-00003.gguf"]);
    assert_eq!(Split::of("a-00004-of-00003.gguf"), None);
    assert_eq!(Split::of("a-0001-of-0003.gguf"), None);
}
