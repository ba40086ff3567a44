//! Ids and texts of every vocabulary against what the reference implementations gave.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use jtllm_models::tokenizer::{Special, Stream, Tokenizer};
use serde_json::Value;
use support::{
    asset, atom_tiny, config, demo, demo_tokenizer, fixture, gguf_tokenizer, ids, json, llama2, qwen2_tiny,
};

/// Compares all cases and all streams of one golden file; lists what differs.
fn check(tokenizer: Tokenizer, golden: &Value) {
    let tokenizer = Arc::new(tokenizer);
    let mut faults = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let want = ids(&case["ids"]);
        let found = tokenizer.encode(text, Special::Parse).unwrap();
        if found != want {
            faults.push(format!("encode {text:?}: {found:?}, expected {want:?}"));
        }
        if let Some(with_special) = case.get("ids_with_special") {
            let found = tokenizer.encode_prompt(text, Special::Parse).unwrap();
            if found != ids(with_special) {
                faults.push(format!("encode_prompt {text:?}: {found:?}, expected {with_special}"));
            }
        }
        let (decoded, streamed) = (tokenizer.decode(&want, false), stream(&tokenizer, &want).concat());
        if decoded != case["decoded"].as_str().unwrap() || streamed != decoded {
            faults.push(format!(
                "decode {want:?}: {decoded:?}, streamed {streamed:?}, expected {}",
                case["decoded"]
            ));
        }
        if let Some(skipped) = case.get("decoded_skip_special") {
            let found = tokenizer.decode(&want, true);
            if found != skipped.as_str().unwrap() {
                faults.push(format!("decode without special {want:?}: {found:?}, expected {skipped}"));
            }
        }
    }
    for case in golden["streaming"].as_array().into_iter().flatten() {
        let mut shown = String::new();
        let parts = stream(&tokenizer, &ids(&case["ids"]));
        for (part, prefix) in parts.iter().zip(case["prefix_decodes"].as_array().unwrap()) {
            shown.push_str(part);
            let stable = prefix.as_str().unwrap().trim_end_matches('\u{fffd}');
            if shown != stable {
                faults.push(format!("stream {}: {shown:?}, expected {stable:?}", case["text"]));
            }
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(golden["cases"].as_array().unwrap().len() >= 6);
}

/// What each token emits, and last what the end of the stream does.
fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> Vec<String> {
    let mut stream = Stream::new(Arc::clone(tokenizer), false);
    let mut parts: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
    parts.push(stream.finish());
    parts
}

#[test]
fn t06_llama2_equals_the_golden_ids() {
    check(llama2(), &json(&fixture("tokenizers/llama2/golden.json")));
}

#[test]
fn t06_llama3_equals_the_golden_ids() {
    let Some(file) = asset("llama3/tokenizer.json") else { return };
    let settings = config(&fixture("tokenizers/llama3/tokenizer_config.json"));
    let tokenizer = Tokenizer::from_json(&file).unwrap().with_config(&settings).unwrap();
    check(tokenizer, &json(&fixture("tokenizers/llama3/golden.json")));
}

#[test]
fn t06_qwen3_equals_the_golden_ids() {
    let Some(file) = asset("qwen3/tokenizer.json") else { return };
    let settings = config(&fixture("tokenizers/qwen3/tokenizer_config.json"));
    let tokenizer = Tokenizer::from_json(&file).unwrap().with_config(&settings).unwrap();
    check(tokenizer, &json(&fixture("tokenizers/qwen3/golden.json")));
}

#[test]
fn t06_smollm2_from_gguf_equals_the_golden_ids() {
    let Some(file) = asset("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let tokenizer = gguf_tokenizer(&file);
    assert_eq!(tokenizer.token_id("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.eos(), Some(2));
    assert_eq!(tokenizer.vocab_size(), 49152);
    check(tokenizer, &json(&fixture("tokenizers/smollm2/golden.json")));
}

/// The cases inside model fixtures have the begin token in their ids.
fn check_tokenizer_cases(tokenizer: &Tokenizer, golden: &Value) {
    let cases = golden["tokenizer_cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode_prompt(text, Special::Parse).unwrap();
        assert_eq!(found, ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&found, true), case["decoded"].as_str().unwrap());
    }
    for case in golden["text_generate"].as_array().into_iter().flatten() {
        let found = tokenizer.encode_prompt(case["text"].as_str().unwrap(), Special::Parse).unwrap();
        assert_eq!(found, ids(&case["input_ids"]));
        assert_eq!(tokenizer.decode(&ids(&case["tokens"]), true), case["decoded"].as_str().unwrap());
    }
}

#[test]
fn t06_atom_sentencepiece_equals_the_golden_ids() {
    let tokenizer = atom_tiny();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.unknown()), (Some(1), Some(2), Some(0)));
    assert!(tokenizer.add_bos());
    check_tokenizer_cases(&tokenizer, &json(&fixture("atom-7b-tiny/golden.json")));
}

#[test]
fn t06_qwen2_json_equals_the_golden_ids() {
    let tokenizer = qwen2_tiny();
    assert!(!tokenizer.add_bos());
    assert_eq!(tokenizer.eos(), Some(4));
    check_tokenizer_cases(&tokenizer, &json(&fixture("qwen2-gqa-untied-tiny/golden.json")));
}

#[test]
fn t06_demo_prompts_equal_the_golden_ids() {
    let tokenizer = demo_tokenizer();
    let golden = json(&demo("golden.json"));
    let chats = golden["chat"].as_array().unwrap();
    assert!(!chats.is_empty());
    for chat in chats {
        let input = ids(&chat["input_ids"]);
        let text = tokenizer.decode(&input, false);
        assert_eq!(tokenizer.encode(&text, Special::Parse).unwrap(), input);
    }
}
