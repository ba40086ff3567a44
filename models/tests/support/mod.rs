//! Where the vendored files and the fetched vocabularies are, and a small reader of GGUF metadata.
#![allow(dead_code)]

use std::collections::HashMap;
use std::path::PathBuf;

use jtllm_models::tokenizer::{GgufVocabulary, Tokenizer, TokenizerConfig};
use serde_json::Value;

/// A file below `tests/fixtures` of the workspace.
pub(crate) fn fixture(path: &str) -> Vec<u8> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of the demo model.
pub(crate) fn demo(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/demo")).join(name)).unwrap()
}

/// A fetched vocabulary (`tests/fetch-assets.sh`); `None`, said aloud, where it was not fetched.
pub(crate) fn asset(path: &str) -> Option<Vec<u8>> {
    let Some(folder) = std::env::var_os("JTLLM_TEST_ASSETS") else {
        println!("skipped: {path}: JTLLM_TEST_ASSETS is not set (tests/fetch-assets.sh DIR fetches it)");
        return None;
    };
    let path = PathBuf::from(folder).join(path);
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            println!("skipped: {}: {error}", path.display());
            None
        }
    }
}

pub(crate) fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

pub(crate) fn config(bytes: &[u8]) -> TokenizerConfig {
    TokenizerConfig::from_json(bytes).unwrap()
}

pub(crate) fn demo_tokenizer() -> Tokenizer {
    Tokenizer::from_json(&demo("tokenizer.json"))
        .unwrap()
        .with_config(&config(&demo("tokenizer_config.json")))
        .unwrap()
}

pub(crate) fn qwen2_tiny() -> Tokenizer {
    let folder = "qwen2-gqa-untied-tiny";
    Tokenizer::from_json(&fixture(&format!("{folder}/tokenizer.json")))
        .unwrap()
        .with_config(&config(&fixture(&format!("{folder}/tokenizer_config.json"))))
        .unwrap()
}

pub(crate) fn atom_tiny() -> Tokenizer {
    let settings = config(&fixture("atom-7b-tiny/tokenizer_config.json"));
    Tokenizer::from_sentencepiece(&fixture("atom-7b-tiny/tokenizer.model"), &settings).unwrap()
}

pub(crate) fn llama2() -> Tokenizer {
    Tokenizer::from_json(&fixture("tokenizers/llama2/tokenizer.json"))
        .unwrap()
        .with_config(&config(&fixture("tokenizers/llama2/tokenizer_config.json")))
        .unwrap()
}

pub(crate) fn ice_text(path: &str, images: u32) -> Tokenizer {
    let settings = format!(
        r#"{{"bos_token": "<sop>", "eos_token": "<eop>", "unk_token": "<unk>", "num_image_tokens": {images}}}"#
    );
    Tokenizer::from_ice_text(&fixture(path), &config(settings.as_bytes())).unwrap()
}

pub(crate) fn chatglm(path: &str) -> Tokenizer {
    let settings = r#"{"tokenizer_class": "ChatGLMTokenizer", "do_lower_case": false}"#;
    Tokenizer::from_chatglm(&fixture(path), &config(settings.as_bytes())).unwrap()
}

pub(crate) fn pangu() -> Tokenizer {
    Tokenizer::from_pangu(&fixture("tokenizers/pangu/vocab.model"), &TokenizerConfig::default()).unwrap()
}

pub(crate) fn rwkv_world() -> Tokenizer {
    Tokenizer::from_rwkv_world(&fixture("tokenizers/rwkv-world/rwkv_vocab_v20230424.txt")).unwrap()
}

/// One metadata value of a GGUF file, as far as vocabularies need it.
#[derive(Debug)]
pub(crate) enum Meta {
    Number(f64),
    Text(String),
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let length = self.u64() as usize;
        String::from_utf8(self.take(length).to_vec()).unwrap()
    }

    fn number(&mut self, kind: u32) -> f64 {
        match kind {
            0 => f64::from(self.take(1)[0]),
            1 => f64::from(self.take(1)[0] as i8),
            2 => f64::from(u16::from_le_bytes(self.take(2).try_into().unwrap())),
            3 => f64::from(i16::from_le_bytes(self.take(2).try_into().unwrap())),
            4 => f64::from(self.u32()),
            5 => f64::from(self.u32() as i32),
            6 => f64::from(f32::from_bits(self.u32())),
            7 => f64::from(self.take(1)[0]),
            10 => self.u64() as f64,
            11 => self.u64() as i64 as f64,
            12 => f64::from_bits(self.u64()),
            other => panic!("metadata type {other}"),
        }
    }

    fn value(&mut self, kind: u32) -> Meta {
        match kind {
            8 => Meta::Text(self.text()),
            9 => {
                let (kind, count) = (self.u32(), self.u64());
                match kind {
                    8 => Meta::Texts((0..count).map(|_| self.text()).collect()),
                    _ => Meta::Numbers((0..count).map(|_| self.number(kind)).collect()),
                }
            }
            _ => Meta::Number(self.number(kind)),
        }
    }
}

/// The metadata of a GGUF file, by key.
pub(crate) fn gguf_metadata(bytes: &[u8]) -> HashMap<String, Meta> {
    let mut reader = Reader(bytes);
    assert_eq!(reader.take(4), b"GGUF");
    let (_version, _tensors, count) = (reader.u32(), reader.u64(), reader.u64());
    (0..count)
        .map(|_| {
            let key = reader.text();
            let kind = reader.u32();
            (key, reader.value(kind))
        })
        .collect()
}

/// The tokenizer that a GGUF file's metadata describes.
pub(crate) fn gguf_tokenizer(bytes: &[u8]) -> Tokenizer {
    let meta = gguf_metadata(bytes);
    let get = |name: &str| meta.get(&format!("tokenizer.ggml.{name}"));
    let text = |name| match get(name) {
        Some(Meta::Text(text)) => text.as_str(),
        _ => "",
    };
    let texts = |name| match get(name) {
        Some(Meta::Texts(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    let numbers = |name| match get(name) {
        Some(Meta::Numbers(numbers)) => numbers.clone(),
        _ => Vec::new(),
    };
    let number = |name| match get(name) {
        Some(Meta::Number(number)) => Some(*number),
        _ => None,
    };
    Tokenizer::from_gguf(GgufVocabulary {
        model: text("model"),
        pre: text("pre"),
        tokens: texts("tokens"),
        scores: numbers("scores").iter().map(|score| *score as f32).collect(),
        types: numbers("token_type").iter().map(|kind| *kind as i32).collect(),
        merges: texts("merges"),
        bos: number("bos_token_id").map(|id| id as u32),
        eos: number("eos_token_id").map(|id| id as u32),
        unknown: number("unknown_token_id").map(|id| id as u32),
        add_bos: number("add_bos_token").map(|flag| flag != 0.0),
        add_eos: number("add_eos_token").map(|flag| flag != 0.0),
        add_space_prefix: number("add_space_prefix").map(|flag| flag != 0.0),
        lower_case: number("normalizer.lowercase").map(|flag| flag != 0.0),
        strip_accents: number("normalizer.strip_accents").map(|flag| flag != 0.0),
    })
    .unwrap()
}
