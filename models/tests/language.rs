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
fn a_model_without_a_template_is_known_by_its_name() {
    for (name, template) in [
        ("Atom-7B-Chat", "atom-chat"),
        ("Atom-7B", "atom"),
        ("BELLE-LLaMA-7B-2M", "belle"),
        ("Llama-2-7b-chat-hf", "llama2"),
        ("Qwen1.5-0.5B-Chat", "chatml"),
    ] {
        let (_parent, folder) = copy(name);
        fs::remove_file(folder.join("chat_template.jinja")).unwrap();
        // The template for LLaMA 2 and Atom's names a begin token.
        fs::write(
            folder.join("tokenizer_config.json"),
            r#"{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}"#,
        )
        .unwrap();
        assert_eq!(origin(&language(&folder).unwrap()), Some(Origin::Name(template.to_owned())), "{name}");
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
