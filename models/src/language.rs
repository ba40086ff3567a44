//! The words of a checkpoint: its tokenizer, its chat template and the tokens that end an answer, wherever
//! its files keep them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Map;

use crate::chat::{ChatError, ChatTemplate, Message};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::gguf::{Metadata, Value};
use crate::error::LoadError;
use crate::manner::{self, Manner};
use crate::tokenizer::{GgufVocabulary, Special, Tokenizer, TokenizerConfig, TokenizerError};

/// Special tokens that end an answer in some family, under the names that files give them: a model that
/// has one may emit it although its configuration names another.
const ENDS: [&str; 13] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<|eot|>",
    "<|user|>",
    "<|observation|>",
    "<eop>",
    "<eom>",
    "</s>",
];

/// Why a checkpoint's words could not be read. The text names the checkpoint.
#[derive(Debug)]
pub enum LanguageError {
    /// A file could not be read.
    Load(LoadError),
    /// A vocabulary is malformed.
    Tokenizer {
        /// The checkpoint.
        path: String,
        /// What is wrong.
        error: TokenizerError,
    },
    /// The chat template is malformed.
    Chat {
        /// The checkpoint.
        path: String,
        /// What is wrong.
        error: ChatError,
    },
    /// No file of the checkpoint holds a vocabulary.
    NoTokenizer {
        /// The checkpoint.
        path: String,
    },
}

impl fmt::Display for LanguageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LanguageError::Load(error) => error.fmt(f),
            LanguageError::Tokenizer { path, error } => write!(f, "{path}: {error}"),
            LanguageError::Chat { path, error } => write!(f, "{path}: {error}"),
            LanguageError::NoTokenizer { path } => {
                let names = VOCABULARIES.map(|(name, _)| name).join(", ");
                write!(f, "{path} has no tokenizer: expected one of {names}, or GGUF metadata")
            }
        }
    }
}

impl std::error::Error for LanguageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LanguageError::Load(error) => Some(error),
            LanguageError::Tokenizer { error, .. } => Some(error),
            LanguageError::Chat { error, .. } => Some(error),
            LanguageError::NoTokenizer { .. } => None,
        }
    }
}

impl From<LoadError> for LanguageError {
    fn from(error: LoadError) -> Self {
        LanguageError::Load(error)
    }
}

/// Where a chat template came from, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// One of the model's files, or GGUF metadata.
    File(&'static str),
    /// A built-in template, chosen by the model's name.
    Name(String),
    /// The caller.
    Given,
}

/// A tokenizer, a chat template if there is one, and the ends of answers.
#[derive(Debug)]
pub struct Language {
    /// The vocabulary.
    pub tokenizer: Arc<Tokenizer>,
    /// How a conversation becomes a prompt, and where that came from.
    pub template: Option<(ChatTemplate, Origin)>,
    /// The tokens that end an answer: those of the configuration, and the vocabulary's own.
    pub end_ids: Vec<u32>,
    /// The manner of the model's family.
    pub family: &'static Manner,
    /// The manner of those who made the template in use.
    pub prompted: &'static Manner,
    path: String,
}

impl Language {
    /// Reads the words of a checkpoint.
    pub fn of(checkpoint: &Checkpoint) -> Result<Language, LanguageError> {
        let path = checkpoint.path().display().to_string();
        let fault = |error| LanguageError::Tokenizer { path: path.clone(), error };
        let config = match checkpoint.file("tokenizer_config.json")? {
            Some(bytes) => TokenizerConfig::from_json(&bytes).map_err(fault)?,
            None => TokenizerConfig::default(),
        };
        let tokenizer = tokenizer(checkpoint, &config)?;
        let end_ids = end_ids(checkpoint, &tokenizer)?;
        let name = name_of_template(checkpoint);
        let family = name.map_or(&manner::PLAIN, manner::of);
        let (tokenizer, prompted) = (Arc::new(tokenizer), &manner::PLAIN);
        let mut language = Language { tokenizer, template: None, end_ids, family, prompted, path };
        if let Some((source, origin)) = template_source(checkpoint, &config)? {
            let template = language.compile(&source)?;
            let template = if origin == Origin::File(PARTS) { template.of_parts() } else { template };
            language.template = Some((template, origin));
        } else if let Some(name) = name {
            let template = language.named(name)?;
            language.template = Some((template, Origin::Name(name.to_owned())));
            language.prompted = family;
        }
        Ok(language)
    }

    /// The text of a token as templates see it.
    fn text(&self, id: Option<u32>) -> Option<String> {
        id.and_then(|id| self.tokenizer.token_text(id))
    }

    fn compile(&self, source: &str) -> Result<ChatTemplate, LanguageError> {
        let (bos, eos) = (self.text(self.tokenizer.bos()), self.text(self.tokenizer.eos()));
        ChatTemplate::new(source, bos.as_deref(), eos.as_deref()).map_err(|error| self.fault(error))
    }

    fn named(&self, name: &str) -> Result<ChatTemplate, LanguageError> {
        let (bos, eos) = (self.text(self.tokenizer.bos()), self.text(self.tokenizer.eos()));
        ChatTemplate::named(name, bos.as_deref(), eos.as_deref()).map_err(|error| self.fault(error))
    }

    fn fault(&self, error: ChatError) -> LanguageError {
        LanguageError::Chat { path: self.path.clone(), error }
    }

    /// Uses the built-in template of that name instead.
    pub fn use_named(&mut self, name: &str) -> Result<(), LanguageError> {
        self.template = Some((self.named(name)?, Origin::Given));
        self.prompted = manner::of(name);
        Ok(())
    }

    /// Uses this template instead.
    pub fn use_source(&mut self, source: &str) -> Result<(), LanguageError> {
        self.template = Some((self.compile(source)?, Origin::Given));
        self.prompted = &manner::PLAIN;
        Ok(())
    }

    /// The prompt of a conversation. Without a template it is the messages' text, one after another; no
    /// part of a message becomes a special token.
    pub fn chat(&self, messages: &[Message]) -> Result<Vec<u32>, LanguageError> {
        if let Some((template, _)) = &self.template {
            let encoded = template.encode(&self.tokenizer, messages, true, &Map::new());
            return encoded.map_err(|error| self.fault(error));
        }
        self.prompt(&without_template(messages), Special::Text)
    }

    /// The text that [`Language::chat`] turns into ids. It does not say which part a user wrote.
    pub fn rendered(&self, messages: &[Message]) -> Result<String, LanguageError> {
        self.render(messages, true)
    }

    /// The text of a conversation that nobody is asked to go on with.
    pub(crate) fn rendered_open(&self, messages: &[Message]) -> Result<String, LanguageError> {
        self.render(messages, false)
    }

    fn render(&self, messages: &[Message], answer: bool) -> Result<String, LanguageError> {
        match &self.template {
            Some((template, _)) => {
                template.render(messages, answer, &Map::new()).map_err(|error| self.fault(error))
            }
            None => Ok(without_template(messages)),
        }
    }

    /// The tokens of a part of a text, none of them special.
    pub(crate) fn plain_ids(&self, text: &str) -> Result<Vec<u32>, LanguageError> {
        let encoded = self.tokenizer.encode(text, Special::Text);
        encoded.map_err(|error| LanguageError::Tokenizer { path: self.path.clone(), error })
    }

    /// The prompt of a text as it stands.
    pub fn prompt(&self, text: &str, special: Special) -> Result<Vec<u32>, LanguageError> {
        let encoded = self.tokenizer.encode_prompt(text, special);
        encoded.map_err(|error| LanguageError::Tokenizer { path: self.path.clone(), error })
    }
}

fn without_template(messages: &[Message]) -> String {
    let texts: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    texts.join("\n")
}

/// What a vocabulary file is read with: its bytes, `tokenizer_config.json` and the checkpoint's other files.
type Reader = fn(&[u8], &TokenizerConfig, &Checkpoint) -> Result<Tokenizer, LanguageError>;

/// The files that hold a vocabulary, the one that says most first.
const VOCABULARIES: [(&str, Reader); 8] = [
    ("tokenizer.json", json),
    ("20B_tokenizer.json", json),
    ("ice_text.model", |bytes, config, at| of(at, Tokenizer::from_ice_text(bytes, config))),
    ("tokenizer.model", sentencepiece),
    ("vocab.model", |bytes, config, at| of(at, Tokenizer::from_pangu(bytes, config))),
    ("rwkv_vocab_v20230424.txt", |bytes, _, at| of(at, Tokenizer::from_rwkv_world(bytes))),
    ("vocab.txt", |bytes, config, at| of(at, Tokenizer::from_wordpiece(bytes, config))),
    ("vocab.json", merges),
];

fn of(checkpoint: &Checkpoint, read: Result<Tokenizer, TokenizerError>) -> Result<Tokenizer, LanguageError> {
    let path = || checkpoint.path().display().to_string();
    read.map_err(|error| LanguageError::Tokenizer { path: path(), error })
}

fn json(bytes: &[u8], config: &TokenizerConfig, at: &Checkpoint) -> Result<Tokenizer, LanguageError> {
    of(at, Tokenizer::from_json(bytes).and_then(|tokenizer| tokenizer.with_config(config)))
}

/// ChatGLM2 and 3 share the file's name with LLaMA; only the class of the tokenizer tells them apart.
fn sentencepiece(
    bytes: &[u8],
    config: &TokenizerConfig,
    at: &Checkpoint,
) -> Result<Tokenizer, LanguageError> {
    of(
        at,
        match config.class.as_deref() {
            Some("ChatGLMTokenizer") => Tokenizer::from_chatglm(bytes, config),
            _ => Tokenizer::from_sentencepiece(bytes, config),
        },
    )
}

fn merges(bytes: &[u8], config: &TokenizerConfig, at: &Checkpoint) -> Result<Tokenizer, LanguageError> {
    let missing = || TokenizerError::format("merges.txt", "file", "vocab.json needs it, and it is not there");
    let merges = match at.file("merges.txt")? {
        Some(merges) => merges,
        None => return of(at, Err(missing())),
    };
    let added = at.file("added_tokens.json")?;
    of(at, Tokenizer::from_merges(bytes, &merges, added.as_deref(), config))
}

fn tokenizer(checkpoint: &Checkpoint, config: &TokenizerConfig) -> Result<Tokenizer, LanguageError> {
    for (name, read) in VOCABULARIES {
        if let Some(bytes) = checkpoint.file(name)? {
            return read(&bytes, config, checkpoint);
        }
    }
    match checkpoint.gguf() {
        Some(metadata) => of(checkpoint, Tokenizer::from_gguf(vocabulary(metadata))),
        None => Err(LanguageError::NoTokenizer { path: checkpoint.path().display().to_string() }),
    }
}

fn vocabulary(metadata: &Metadata) -> GgufVocabulary<'_> {
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let text = |key: &str| get(key).and_then(Value::text).unwrap_or_default();
    let texts = |key: &str| -> Vec<String> {
        get(key).and_then(Value::texts).map(|all| all.iter().map(str::to_owned).collect()).unwrap_or_default()
    };
    let id = |key: &str| get(key).and_then(Value::unsigned).and_then(|id| u32::try_from(id).ok());
    let flag = |key: &str| get(key).and_then(Value::flag);
    let types = get("token_type").and_then(Value::integers).unwrap_or_default();
    GgufVocabulary {
        model: text("model"),
        pre: text("pre"),
        tokens: texts("tokens"),
        scores: get("scores").and_then(Value::floats).unwrap_or_default().to_vec(),
        // A number outside the type is no known kind either, and is refused as such.
        types: types.into_iter().map(|kind| i32::try_from(kind).unwrap_or(i32::MAX)).collect(),
        merges: texts("merges"),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unknown: id("unknown_token_id"),
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        add_space_prefix: flag("add_space_prefix"),
        lower_case: flag("normalizer.lowercase"),
        strip_accents: flag("normalizer.strip_accents"),
    }
}

fn end_ids(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Vec<u32>, LanguageError> {
    let mut ids = checkpoint.config().eos_ids()?;
    let known = ENDS.iter().filter_map(|text| tokenizer.token_id(text));
    ids.extend(known.filter(|id| tokenizer.is_special(*id)).chain(tokenizer.eos()));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The file with the template of a processor, for content that is a list of texts and images.
const PARTS: &str = "chat_template.json";

fn template_of_parts(checkpoint: &Checkpoint) -> Result<Option<String>, LanguageError> {
    let Some(bytes) = checkpoint.file(PARTS)? else { return Ok(None) };
    let file = checkpoint.path().join(PARTS);
    let json: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|error| LoadError::header(&file, 0, format!("expected JSON: {error}")))?;
    match json["chat_template"].as_str() {
        Some(source) => Ok(Some(source.to_owned())),
        None => Err(LoadError::header(&file, 0, "expected a string chat_template").into()),
    }
}

/// The template in the model's files: a file of its own, the tokenizer's configuration, GGUF metadata.
fn template_source(
    checkpoint: &Checkpoint,
    config: &TokenizerConfig,
) -> Result<Option<(String, Origin)>, LanguageError> {
    const FILE: &str = "chat_template.jinja";
    if let Some(bytes) = checkpoint.file(FILE)? {
        let file = checkpoint.path().join(FILE);
        let text = String::from_utf8(bytes).map_err(|error| {
            LoadError::header(&file, error.utf8_error().valid_up_to() as u64, "expected UTF-8")
        })?;
        return Ok(Some((text, Origin::File(FILE))));
    }
    if let Some(source) = template_of_parts(checkpoint)? {
        return Ok(Some((source, Origin::File(PARTS))));
    }
    let templates = &config.chat_templates;
    let default = templates.iter().find(|(name, _)| name == "default").or(templates.first());
    if let Some((_, source)) = default {
        return Ok(Some((source.clone(), Origin::File("tokenizer_config.json"))));
    }
    let source = checkpoint.gguf().and_then(|metadata| metadata.get("tokenizer.chat_template"));
    Ok(source.and_then(Value::text).map(|source| (source.to_owned(), Origin::File("GGUF metadata"))))
}

/// The built-in template for models whose authors published none, by the name that the model goes by.
fn name_of_template(checkpoint: &Checkpoint) -> Option<&'static str> {
    let stated = checkpoint.config().optional_text("_name_or_path").ok().flatten().unwrap_or_default();
    let titled = checkpoint.gguf().and_then(|metadata| metadata.get("general.name")).and_then(Value::text);
    let last = |path: &Path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_default().to_lowercase()
    };
    // In the cache of downloads the folder is named after a revision, and one above it after the model.
    let path = checkpoint.path();
    let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let folders = whole.iter().chain(path.iter()).map(|part| part.to_string_lossy().to_lowercase());
    let cached = folders.rev().find(|part| part.starts_with("models--")).unwrap_or_default();
    let titled = titled.unwrap_or_default().to_lowercase();
    let names = [last(path), last(&whole), cached, last(Path::new(stated)), titled];
    let has = |parts: &[&str]| {
        parts.is_empty() || names.iter().any(|name| parts.iter().all(|part| is_word(name, part)))
    };
    let class = checkpoint.config().architecture().unwrap_or_default();
    let is = |classes: &[&str]| classes.iter().any(|known| class.starts_with(known));
    if class.starts_with("ChatGLM") && checkpoint.config().raw("padded_vocab_size").is_none() {
        return Some("chatglm");
    }
    let rule = NAMED.iter().find(|(classes, parts, _)| is(classes) && has(parts));
    rule.map(|(_, _, template)| *template)
}

/// Which built-in template is whose: beginnings of classes, parts of the model's name, the template. Where the
/// class says it all, there are no parts.
const NAMED: &[(&[&str], &[&str], &str)] = &[
    (&["Llava"], &["1.6", "mistral"], "llava-1.6-mistral"),
    (&["LlavaNext"], &["mistral"], "llava-1.6-mistral"),
    (&["LlavaNext"], &[], "llava-1.6-vicuna"),
    (&["Llava"], &[], "llava"),
    (&["Llama", "Atom"], &["atom", "chat"], "atom-chat"),
    (&["Llama", "Atom"], &["atom"], "atom"),
    (&["Llama", "LLaMA", "Bloom"], &["belle"], "belle"),
    (&["ChatGLM"], &["chatglm3"], "chatglm3"),
    (&["ChatGLM"], &["chatglm2"], "chatglm2"),
    (&["Pangu", "GPTPangu"], &[], "pangu"),
    (&["Rwkv"], &["rwkv", "world"], "rwkv-world"),
    (&["Rwkv"], &[], "rwkv"),
    (&["Moss"], &[], "moss"),
    (&["InternLM2"], &["internlm2", "chat"], "internlm2"),
    (&["Gemma"], &["gemma-3", "-it"], "gemma3"),
    (&["Gemma"], &["gemma", "-it"], "gemma"),
    (&["Llama", "LLaMA"], &["llama-2", "chat"], "llama2"),
    (&["Llama", "LLaMA"], &["llama2", "chat"], "llama2"),
    (&["Llama", "LLaMA"], &["llama-7b"], "llama"),
    (&["Llama", "LLaMA"], &["llama-13b"], "llama"),
    (&["Qwen2"], &["qwen2"], "qwen2"),
    (&["Qwen"], &["qwen"], "chatml"),
];

/// Whether a name has this part, and not only as the end of a longer word.
fn is_word(name: &str, part: &str) -> bool {
    let begins = part.starts_with(char::is_alphanumeric);
    name.match_indices(part).any(|(at, _)| !begins || !name[..at].ends_with(char::is_alphanumeric))
}
