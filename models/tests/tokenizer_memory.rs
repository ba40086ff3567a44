//! What tokenising takes of memory is foreseen, for every vocabulary and for texts that are cut into few words and many.
#![allow(clippy::unwrap_used)]

#[path = "support/allocated.rs"]
mod allocated;
mod support;

use std::path::Path;

use jtllm_models::chat::Message;
use jtllm_models::tokenizer::{Special, Tokenizer, bytes_to_encode};
use jtllm_models::{Checkpoint, Language};
use support::{asset, chatglm, demo_tokenizer, fixture, gguf_tokenizer, ice_text, llama2, pangu, rwkv_world};

const BYTES: usize = 200_000;

/// Characters of a list, one after another as a generator without a memory for order takes them.
fn drawn(list: &[char], bytes: usize) -> String {
    let mut state = 1u64;
    let mut text = String::new();
    while text.len() < bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        text.push(list[(state >> 33) as usize % list.len()]);
    }
    text
}

fn range(first: char, last: char) -> Vec<char> {
    (first..=last).collect()
}

/// Texts of all kinds, each with its name.
fn texts() -> Vec<(&'static str, String)> {
    let letters: Vec<char> = range('a', 'z');
    let words: Vec<String> = (1..60).map(|long| drawn(&letters, long % 9 + 1)).collect();
    let mut prose = String::new();
    for word in words.iter().cycle() {
        if prose.len() >= BYTES {
            break;
        }
        prose.push_str(word);
        prose.push(' ');
    }
    vec![
        ("prose", prose),
        ("lines of one letter", "a\n".repeat(BYTES / 2)),
        ("words of one letter", "a ".repeat(BYTES / 2)),
        ("one letter", "a".repeat(BYTES)),
        ("letters", drawn(&letters, BYTES)),
        ("digits", drawn(&range('0', '9'), BYTES)),
        ("signs", drawn(&range('!', '/'), BYTES)),
        ("letters and signs", drawn(&['a', '!'], BYTES)),
        ("Chinese", drawn(&range('\u{4e00}', '\u{9f00}'), BYTES)),
        ("pictures", drawn(&range('\u{1f300}', '\u{1f5ff}'), BYTES)),
        ("Korean", drawn(&range('\u{ac00}', '\u{d7a3}'), BYTES)),
        ("Hindi", drawn(&range('\u{900}', '\u{97f}'), BYTES)),
        ("accents", drawn(&range('\u{c0}', '\u{24f}'), BYTES)),
        ("Greek with accents", drawn(&range('\u{1f00}', '\u{1ffe}'), BYTES)),
        ("letters in two sizes", drawn(&['a', 'B'], BYTES)),
        ("a ligature of a sentence", "\u{fdfa}".repeat(BYTES / 3)),
        ("ligatures", drawn(&range('\u{fb50}', '\u{fdc7}'), BYTES)),
        ("squares", drawn(&range('\u{3200}', '\u{33ff}'), BYTES)),
        ("circles", drawn(&range('\u{2460}', '\u{24ff}'), BYTES)),
        ("wide letters", drawn(&range('\u{ff01}', '\u{ffdc}'), BYTES)),
        ("notes", drawn(&range('\u{1d15e}', '\u{1d164}'), BYTES)),
        ("spaces", " ".repeat(BYTES)),
        ("line ends", "\n".repeat(BYTES)),
    ]
}

fn check(name: &str, encode: &dyn Fn(&str)) {
    // What is made once is no part of it.
    encode("a");
    for (kind, text) in texts() {
        let ((), peak) = allocated::peak(|| encode(&text));
        let foreseen = bytes_to_encode(&text);
        println!("{name}, {kind}: {peak} of {foreseen}");
        assert!(peak <= foreseen, "{name}, {kind}: {peak} of {foreseen}");
    }
}

fn check_vocabulary(name: &str, tokenizer: &Tokenizer) {
    check(name, &|text| {
        tokenizer.encode_prompt(text, Special::Parse).unwrap();
    });
}

#[test]
fn what_tokenising_takes_is_foreseen() {
    let bert = Tokenizer::from_json(&fixture("tokenizers/bert-minilm/tokenizer.json")).unwrap();
    let neox = Tokenizer::from_json(&fixture("tokenizers/rwkv4-20b/tokenizer.json")).unwrap();
    check_vocabulary("demo", &demo_tokenizer());
    check_vocabulary("LLaMA2", &llama2());
    check_vocabulary("ChatGLM-6B", &ice_text("tokenizers/chatglm-6b/ice_text.model", 0));
    check_vocabulary("ChatGLM3", &chatglm("tokenizers/chatglm3-6b/tokenizer.model"));
    check_vocabulary("PanGu", &pangu());
    check_vocabulary("RWKV World", &rwkv_world());
    check_vocabulary("BERT", &bert);
    check_vocabulary("GPT-NeoX", &neox);
}

#[test]
fn what_fetched_vocabularies_take_is_foreseen() {
    let of_json = |bytes: Vec<u8>| Tokenizer::from_json(&bytes).unwrap();
    let of_gguf = |bytes: Vec<u8>| gguf_tokenizer(&bytes);
    let found = [
        ("SmolLM2", asset("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf").map(of_gguf)),
        ("Qwen3", asset("qwen3/tokenizer.json").map(of_json)),
        ("LLaMA 3", asset("llama3/tokenizer.json").map(of_json)),
        ("Gemma 3", asset("gemma3-270m/gemma-3-270m-q4_k_m.gguf").map(of_gguf)),
    ];
    for (name, tokenizer) in found {
        if let Some(tokenizer) = tokenizer {
            check_vocabulary(name, &tokenizer);
        }
    }
}

/// A template copies the text, and marks parts of it.
#[test]
fn what_a_prompt_by_a_template_takes_is_foreseen() {
    for folder in ["qwen2-gqa-untied-tiny", "chatglm3-6b-tiny", "atom-7b-tiny"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(folder);
        let language = Language::of(&Checkpoint::open(&path).unwrap()).unwrap();
        check(folder, &|text| {
            language.chat(&[Message::new("user", text)]).unwrap();
        });
    }
}
