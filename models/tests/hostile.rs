//! Random and damaged files: parsers return, and take no more memory than the file's size and 64 MB.
//! `PROPTEST_CASES` sets how many files are tried.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use jtllm_models::checkpoint::{gguf, index, safetensors};
use jtllm_models::{Checkpoint, Config};
use proptest::collection::vec;
use proptest::prelude::*;

#[path = "support/allocated.rs"]
mod allocated;
#[path = "support/gguf_file.rs"]
mod gguf_file;

/// Most memory beside the file's own size.
const ROOM: u64 = 64 << 20;

/// Gives bytes to every parser. That some are refused is no matter here; that all return is.
fn parse_all(bytes: &[u8]) {
    let file = Path::new("hostile");
    let parsers: [&dyn Fn(); 4] = [
        &|| drop(safetensors::parse(bytes, file).map_err(|error| error.to_string())),
        &|| drop(gguf::parse(bytes, file).map_err(|error| error.to_string())),
        &|| drop(index::parse(bytes, file).map_err(|error| error.to_string())),
        &|| {
            let config = Config::from_json(bytes, file).map_err(|error| error.to_string());
            drop(config.map(|config| (config.eos_ids(), config.rope_scaling(), config.generation())));
        },
    ];
    for parse in parsers {
        let ((), peak) = allocated::peak(parse);
        assert!(peak <= bytes.len() as u64 + ROOM, "{peak} bytes for a file of {}", bytes.len());
    }
}

/// A header of two tensors with some data after it.
fn safetensors_file() -> Vec<u8> {
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"#,
        r#""b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#
    );
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + 32, 0);
    bytes
}

/// A sound GGUF file's head without most of its data, so that damage falls on what is parsed.
fn gguf_head() -> Vec<u8> {
    let mut file = gguf_file::GgufFile::llama();
    file.set("test.nested", 9, gguf_file::array(9, &[gguf_file::array(8, &[gguf_file::text("x")])]));
    let bytes = file.bytes();
    bytes[..3000.min(bytes.len())].to_vec()
}

const INDEX: &str =
    r#"{"metadata":{"total_size":8},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
const CONFIG: &str =
    r#"{"hidden_size":64,"eos_token_id":[1,2],"rope_scaling":{"type":"yarn","factor":4.0},"top_p":0.5}"#;

/// Changes some bytes, writes some of the numbers that overflow, and cuts or extends the end.
fn damage(
    mut bytes: Vec<u8>,
    flips: &[(usize, u8)],
    words: &[(usize, u64)],
    cut: usize,
    tail: &[u8],
) -> Vec<u8> {
    let length = bytes.len();
    for &(at, value) in flips {
        bytes[at % length] = value;
    }
    for &(at, value) in words {
        let at = at % (length - 8);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    bytes.truncate(length - cut % length);
    bytes.extend(tail);
    bytes
}

fn extreme() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(u64::MAX), Just(1 << 63), Just(1 << 60), Just(1 << 32), 0u64..100_000]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        parse_all(&bytes);
        // The same behind each format's first bytes, where it takes longer to be refused.
        parse_all(&[&(bytes.len() as u64 + 1).to_le_bytes(), b"{".as_slice(), &bytes].concat());
        parse_all(&[b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".as_slice(), &bytes].concat());
    }

    #[test]
    fn damaged_models_open_whole_or_not_at_all(
        flips in vec((0..1200usize, any::<u8>()), 0..3),
        words in vec((0..1200usize, extreme()), 0..2),
        factor in any::<f32>(),
    ) {
        let mut file = gguf_file::GgufFile::llama();
        file.set("llama.rope.scaling.type", 8, gguf_file::text("yarn"));
        file.set("llama.rope.scaling.factor", 6, factor.to_le_bytes().to_vec());
        file.set("llama.rope.scaling.attn_factor", 6, factor.to_le_bytes().to_vec());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, damage(file.bytes(), &flips, &words, 0, &[])).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(&path) {
            let read: usize =
                checkpoint.tensors().flat_map(|tensor| &tensor.pieces).map(|piece| piece.bytes().len()).sum();
            prop_assert_eq!(read as u64, checkpoint.total_bytes());
            let config = checkpoint.config();
            let _ = (config.eos_ids(), config.rope_scaling(), config.rope_theta(), config.generation());
            prop_assert!(config.count("num_attention_heads", 1..=u64::from(u32::MAX)).is_ok());
        }
    }

    #[test]
    fn damaged_files_never_panic(
        flips in vec((any::<usize>(), any::<u8>()), 0..4),
        words in vec((any::<usize>(), extreme()), 0..3),
        cut in prop_oneof![Just(0), any::<usize>()],
        tail in vec(any::<u8>(), 0..20),
    ) {
        for sound in [safetensors_file(), gguf_head(), INDEX.into(), CONFIG.into()] {
            parse_all(&damage(sound, &flips, &words, cut, &tail));
        }
    }
}

/// Text of which a parser could make many times as much memory.
#[test]
fn dense_json_stays_within_the_bound() {
    let member = |index: usize| format!(r#""{index}":{{"dtype":"F32","shape":[],"data_offsets":[0,0]}},"#);
    let long = "x".repeat(24 << 20);
    let texts = [
        (0..130_000).map(member).collect::<String>(),
        format!(r#""w":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,0]}},"#, "1,".repeat(12 << 20)),
        format!(r#""__metadata__":{{{}"b":""}},"#, r#""a":"","#.repeat(1 << 21)),
        format!(r#""{long}":{{"dtype":"F32","shape":[],"data_offsets":[0,4]}},"#),
        format!(r#""weight_map":{{{}"b":""}},"#, r#""a":"c","#.repeat(1 << 21)),
        format!(r#""sizes":[{}1],"#, "1,".repeat(524_000)),
        format!(
            r#""sizes":{{{}"b":0}},"#,
            (0..110_000).map(|key| format!(r#""{key}":0,"#)).collect::<String>()
        ),
    ];
    for text in texts {
        let json = format!("{{{}\"end\":{{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}}}", text);
        parse_all(json.as_bytes());
        parse_all(&[&(json.len() as u64).to_le_bytes(), json.as_bytes(), &[0; 4]].concat());
    }
}

/// Values whose memory would be many times their bytes in the file, if they were kept one by one.
#[test]
fn large_arrays_take_no_more_than_their_bytes() {
    let zeros = |kind: u32, count: u64, size: usize| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.resize(bytes.len() + count as usize * size, 0);
        bytes
    };
    for (kind, size) in [(0, 1), (7, 1), (8, 8), (10, 8)] {
        let mut file = gguf_file::GgufFile::llama();
        file.set("test.large", 9, zeros(kind, (32 << 20) / size as u64, size));
        let bytes = file.bytes();
        let (header, peak) = allocated::peak(|| gguf::parse(&bytes, Path::new("large")).unwrap());
        assert!(header.metadata.get("test.large").is_some());
        assert!(peak <= bytes.len() as u64 + (1 << 20), "type {kind}: {peak} bytes");
    }
}
