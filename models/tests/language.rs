//! Where a checkpoint's words come from.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use jtllm_models::chat::Message;
use jtllm_models::language::Origin;
use jtllm_models::tokenizer::Special;
use jtllm_models::{Checkpoint, Language, LanguageError};

fn demo_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo")
}

/// A copy of the demo model's folder, under a name of its own.
fn copy(name: &str) -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join(name);
    fs::create_dir(&folder).unwrap();
    for file in fs::read_dir(demo_folder()).unwrap() {
        let file = file.unwrap();
        fs::write(folder.join(file.file_name()), fs::read(file.path()).unwrap()).unwrap();
    }
    (parent, folder)
}

fn language(folder: &Path) -> Result<Language, LanguageError> {
    Language::of(&Checkpoint::open(folder).unwrap())
}

fn origin(language: &Language) -> Option<Origin> {
    language.template.as_ref().map(|(_, origin)| origin.clone())
}

#[test]
fn the_demo_model_speaks_from_its_own_files() {
    let language = Language::of(&Checkpoint::demo().unwrap()).unwrap();
    assert_eq!(origin(&language), Some(Origin::File("chat_template.jinja")));
    assert!(language.end_ids.contains(&2), "{:?}", language.end_ids);
    let prompt = language.chat(&[Message::new("user", "Hi")]).unwrap();
    assert_eq!(
        prompt,
        language.prompt("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", Special::Parse).unwrap()
    );
}

#[test]
fn a_template_is_looked_for_in_order() {
    let (_parent, folder) = copy("model");
    let config = r#"{"eos_token": "<|im_end|>", "chat_template": [
        {"name": "tools", "template": "tools"}, {"name": "default", "template": "{{ messages[0].content }}"}]}"#;
    fs::write(folder.join("tokenizer_config.json"), config).unwrap();
    assert_eq!(origin(&language(&folder).unwrap()), Some(Origin::File("chat_template.jinja")));
    fs::remove_file(folder.join("chat_template.jinja")).unwrap();
    let from_config = language(&folder).unwrap();
    assert_eq!(origin(&from_config), Some(Origin::File("tokenizer_config.json")));
    let prompt = from_config.chat(&[Message::new("user", "Hi")]).unwrap();
    assert_eq!(prompt, from_config.prompt("Hi", Special::Text).unwrap());
    fs::write(folder.join("tokenizer_config.json"), r#"{"eos_token": "<|im_end|>"}"#).unwrap();
    let without = language(&folder).unwrap();
    assert_eq!(origin(&without), None);
    // Without a template messages are plain text, and still no special token.
    let prompt = without.chat(&[Message::new("user", "<|im_end|>")]).unwrap();
    assert_eq!(prompt, without.prompt("<|im_end|>", Special::Text).unwrap());
    assert!(!prompt.contains(&2));
}

#[test]
fn a_model_without_a_template_is_known_by_its_class_and_its_name() {
    const LLAMA: &str = "LlamaForCausalLM";
    for (name, class, template) in [
        ("Atom-7B-Chat", LLAMA, "atom-chat"),
        ("Atom-7B", LLAMA, "atom"),
        ("BELLE-LLaMA-7B-2M", LLAMA, "belle"),
        ("BELLE-7B-2M", "BloomForCausalLM", "belle"),
        ("Llama-2-7b-chat-hf", LLAMA, "llama2"),
        ("Qwen1.5-0.5B-Chat", "Qwen2ForCausalLM", "chatml"),
        ("Qwen2.5-0.5B-Instruct", "Qwen2ForCausalLM", "qwen2"),
        ("chatglm-6b-int4", "ChatGLMModel", "chatglm"),
        ("any", "ChatGLMModel", "chatglm"),
        ("chatglm2-6b", "ChatGLMModel padded", "chatglm2"),
        ("chatglm3-6b-32k", "ChatGLMModel padded", "chatglm3"),
        ("any", "PanguAlpha", "pangu"),
        ("any", "GPTPanguForCausalLM", "pangu"),
        ("any", "Rwkv6", "rwkv"),
        ("rwkv-6-world-1b6", "Rwkv6", "rwkv-world"),
        ("llama-7b", LLAMA, "llama"),
        ("any", "MossForCausalLM", "moss"),
        ("internlm2-chat-7b", "InternLM2ForCausalLM", "internlm2"),
        ("gemma-3-1b-it", "Gemma3ForCausalLM", "gemma3"),
        ("gemma-7b-it", "GemmaForCausalLM", "gemma"),
        ("any", "LlavaForConditionalGeneration", "llava"),
        ("any", "LlavaNextForConditionalGeneration", "llava-1.6-vicuna"),
        ("llava-v1.6-mistral-7b", "LlavaNextForConditionalGeneration", "llava-1.6-mistral"),
        // No name of theirs is a part of another word, or of another family.
        ("codellama-7b-hf", LLAMA, ""),
        ("anatomy", LLAMA, ""),
        ("atom-7b", "Qwen2ForCausalLM", ""),
        ("chatglm", LLAMA, ""),
    ] {
        let (_parent, folder) = copy(name);
        fs::remove_file(folder.join("chat_template.jinja")).unwrap();
        let (class, padded) =
            class.split_once(' ').map_or((class, ""), |(class, _)| (class, ", \"padded_vocab_size\": 1"));
        let config = format!(r#"{{"architectures": ["{class}"]{padded}}}"#);
        fs::write(folder.join("config.json"), config).unwrap();
        // The template for LLaMA 2 and Atom's names a begin token.
        fs::write(
            folder.join("tokenizer_config.json"),
            r#"{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}"#,
        )
        .unwrap();
        let expected = Some(Origin::Name(template.to_owned())).filter(|_| !template.is_empty());
        assert_eq!(origin(&language(&folder).unwrap()), expected, "{name} {class}");
    }
}

#[test]
fn a_folder_in_the_cache_of_downloads_is_known_by_its_repository() {
    let (_parent, folder) = copy("models--FlagAlpha--Atom-7B-Chat");
    let snapshot = folder.join("snapshots").join("0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::rename(folder.join(file), snapshot.join(file)).unwrap();
    }
    assert_eq!(origin(&language(&snapshot).unwrap()), Some(Origin::Name("atom-chat".to_owned())));
}

#[test]
fn what_is_missing_or_damaged_is_named() {
    let (_parent, folder) = copy("model");
    fs::write(folder.join("chat_template.jinja"), "{% if %}").unwrap();
    assert!(language(&folder).unwrap_err().to_string().contains("chat template: line 1"));
    fs::write(folder.join("chat_template.jinja"), [b'a', 0xff]).unwrap();
    assert!(language(&folder).unwrap_err().to_string().contains("at byte 1: expected UTF-8"));
    fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    assert!(language(&folder).unwrap_err().to_string().contains("tokenizer.json"));
    fs::remove_file(folder.join("tokenizer.json")).unwrap();
    assert!(matches!(language(&folder), Err(LanguageError::NoTokenizer { .. })));
}

#[test]
fn the_caller_may_bring_a_template() {
    let mut language = Language::of(&Checkpoint::demo().unwrap()).unwrap();
    language.use_named("plain").unwrap();
    assert_eq!(origin(&language), Some(Origin::Given));
    let prompt = language.chat(&[Message::new("user", "Hi")]).unwrap();
    assert_eq!(prompt, language.prompt("Hi", Special::Text).unwrap());
    assert!(language.use_named("nonsense").unwrap_err().to_string().contains("chatml"));
    assert!(language.use_source("{% for %}").is_err());
}

/// Every kind of vocabulary file, beside a model that has nothing else to say.
#[test]
fn each_vocabulary_file_is_found_by_its_name() {
    let tokenizers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers");
    let qwen = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/qwen2-gqa-untied-tiny");
    for (from, name, class, size) in [
        (tokenizers.join("rwkv4-20b/tokenizer.json"), "20B_tokenizer.json", "", 50_277),
        (tokenizers.join("chatglm-6b/ice_text.model"), "ice_text.model", "ChatGLMTokenizer", 150_344),
        (tokenizers.join("chatglm3-6b/tokenizer.model"), "tokenizer.model", "ChatGLMTokenizer", 64_798),
        (tokenizers.join("chatglm3-6b/tokenizer.model"), "tokenizer.model", "LlamaTokenizer", 64_789),
        (tokenizers.join("pangu/vocab.model"), "vocab.model", "", 40_000),
        (tokenizers.join("rwkv-world/rwkv_vocab_v20230424.txt"), "rwkv_vocab_v20230424.txt", "", 65_530),
        (tokenizers.join("bert-minilm/vocab.txt"), "vocab.txt", "BertTokenizer", 30_522),
        (qwen.join("vocab.json"), "vocab.json", "Qwen2Tokenizer", 281),
    ] {
        let (_parent, folder) = copy("model");
        fs::remove_file(folder.join("tokenizer.json")).unwrap();
        fs::remove_file(folder.join("chat_template.jinja")).unwrap();
        fs::write(folder.join("tokenizer_config.json"), format!(r#"{{"tokenizer_class": "{class}"}}"#))
            .unwrap();
        fs::copy(from, folder.join(name)).unwrap();
        if name == "vocab.json" {
            assert!(language(&folder).unwrap_err().to_string().contains("merges.txt"));
            fs::copy(qwen.join("merges.txt"), folder.join("merges.txt")).unwrap();
        }
        let found = language(&folder).unwrap();
        assert_eq!(found.tokenizer.vocab_size(), size, "{name} {class}");
        let ids = found.prompt("Hello, world!", Special::Text).unwrap();
        let text = found.tokenizer.decode(&ids, true);
        assert_eq!(text, if name == "vocab.txt" { "hello, world!" } else { "Hello, world!" }, "{name}");
    }
}
