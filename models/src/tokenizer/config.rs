//! `tokenizer_config.json`: what a model's authors add to the bare vocabulary.

use serde_json::{Map, Value};

use super::TokenizerError;

pub(super) const FILE: &str = "tokenizer_config.json";

/// A token that is found in text before the text is cut into words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddedText {
    /// The token's id.
    pub id: u32,
    /// The text that stands for it.
    pub content: String,
    /// Whether only the program may write it.
    pub special: bool,
    /// Whether it is looked for after normalisation.
    pub normalized: bool,
    /// Whether it takes the white space before it.
    pub lstrip: bool,
    /// Whether it takes the white space after it.
    pub rstrip: bool,
    /// Whether it must not touch letters.
    pub single_word: bool,
}

/// The part of `tokenizer_config.json` that changes ids or prompts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizerConfig {
    /// Text of the token that begins a prompt.
    pub bos: Option<String>,
    /// Text of the token that ends an answer.
    pub eos: Option<String>,
    /// Text of the token for what cannot be written.
    pub unknown: Option<String>,
    /// Whether a prompt begins with `bos`; `None` leaves it to the vocabulary.
    pub add_bos: Option<bool>,
    /// Whether a prompt ends with `eos`; `None` leaves it to the vocabulary.
    pub add_eos: Option<bool>,
    /// Whether SentencePiece's leading space is written after each special token too (`legacy`, which is
    /// how LLaMA's first converters worked), or only at the beginning of a text.
    pub legacy: Option<bool>,
    /// Whether a SentencePiece text gets a leading space at all.
    pub add_prefix_space: Option<bool>,
    /// The class that reads the vocabulary in transformers: it tells rules that no file states.
    pub class: Option<String>,
    /// Whether a BERT vocabulary knows no capital letters; it does not unless this says so.
    pub lower_case: Option<bool>,
    /// Whether accents are dropped; `None` does as `lower_case` does.
    pub strip_accents: Option<bool>,
    /// Whether each Chinese character is a word of its own.
    pub chinese_characters: Option<bool>,
    /// How many ids ChatGLM-6B keeps for images before those of text.
    pub image_tokens: Option<u32>,
    /// Tokens beside the vocabulary file.
    pub added: Vec<AddedText>,
    /// Chat templates by name; a file with one template calls it `default`.
    pub chat_templates: Vec<(String, String)>,
}

impl TokenizerConfig {
    /// Reads the JSON text of a `tokenizer_config.json`. Unknown keys are ignored; known keys of a wrong
    /// type are errors that name the key.
    pub fn from_json(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let root: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| TokenizerError::format(FILE, "file", error))?;
        Ok(TokenizerConfig {
            bos: token_text(&root, "bos_token")?,
            eos: token_text(&root, "eos_token")?,
            unknown: token_text(&root, "unk_token")?,
            add_bos: flag(&root, "add_bos_token")?,
            add_eos: flag(&root, "add_eos_token")?,
            legacy: flag(&root, "legacy")?,
            add_prefix_space: flag(&root, "add_prefix_space")?,
            class: token_text(&root, "tokenizer_class")?,
            lower_case: flag(&root, "do_lower_case")?,
            strip_accents: flag(&root, "strip_accents")?,
            chinese_characters: flag(&root, "tokenize_chinese_chars")?,
            image_tokens: count(&root, "num_image_tokens")?,
            added: added_tokens(&root)?,
            chat_templates: chat_templates(&root)?,
        })
    }
}

fn wrong(field: impl Into<String>, expected: &str) -> TokenizerError {
    TokenizerError::format(FILE, field, format!("expected {expected}"))
}

fn flag(map: &Map<String, Value>, key: &str) -> Result<Option<bool>, TokenizerError> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(wrong(key, "true, false or null")),
    }
}

fn count(map: &Map<String, Value>, key: &str) -> Result<Option<u32>, TokenizerError> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().and_then(|count| u32::try_from(count).ok()) {
            Some(count) => Ok(Some(count)),
            None => Err(wrong(key, "a number of tokens")),
        },
    }
}

/// A token is its text, or an object whose `content` is.
fn token_text(map: &Map<String, Value>, key: &str) -> Result<Option<String>, TokenizerError> {
    let text = match map.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => Some(text),
        Some(Value::Object(token)) => match token.get("content") {
            Some(Value::String(text)) => Some(text),
            _ => None,
        },
        Some(_) => None,
    };
    text.map(|text| Some(text.clone())).ok_or_else(|| wrong(key, "a string or an object with content"))
}

fn added_tokens(root: &Map<String, Value>) -> Result<Vec<AddedText>, TokenizerError> {
    const KEY: &str = "added_tokens_decoder";
    let entries = match root.get(KEY) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(wrong(KEY, "an object")),
    };
    let mut added = Vec::with_capacity(entries.len());
    for (id, entry) in entries {
        let field = format!("{KEY}.{id}");
        let number = id.parse::<u32>().map_err(|_| wrong(&field, "a number as the key"))?;
        let entry = entry.as_object().ok_or_else(|| wrong(&field, "an object"))?;
        let content = entry.get("content").and_then(Value::as_str).ok_or_else(|| wrong(&field, "content"))?;
        let is = |key: &str| flag(entry, key).map(Option::unwrap_or_default);
        added.push(AddedText {
            id: number,
            content: content.to_owned(),
            special: is("special")?,
            normalized: is("normalized")?,
            lstrip: is("lstrip")?,
            rstrip: is("rstrip")?,
            single_word: is("single_word")?,
        });
    }
    Ok(added)
}

fn chat_templates(root: &Map<String, Value>) -> Result<Vec<(String, String)>, TokenizerError> {
    const KEY: &str = "chat_template";
    match root.get(KEY) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![("default".to_owned(), source.clone())]),
        Some(Value::Array(entries)) => entries
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                text("name")
                    .zip(text("template"))
                    .ok_or_else(|| wrong(format!("{KEY}[{index}]"), "name and template"))
            })
            .collect(),
        Some(_) => Err(wrong(KEY, "a string or a list")),
    }
}
