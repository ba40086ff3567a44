//! Text to token ids and back.
//!
//! One front door for each kind of file ([`Tokenizer::from_json`], [`Tokenizer::from_sentencepiece`],
//! [`Tokenizer::from_gguf`] and others) leads to one engine, the `tokenizers` crate. What this module adds to
//! it: user text can never become a
//! special token ([`Special::Text`]), decoding that is the same whole or token by token ([`Stream`]), stop
//! strings ([`Stops`]), and errors that name file and field.

mod bytes;
mod characters;
mod charsmap;
mod chatglm;
mod config;
mod cost;
mod error;
mod gguf;
mod guarded;
mod json;
mod merges;
mod pangu;
mod preparation;
mod sentencepiece;
mod stops;
mod stream;
mod wordpiece;
mod words;
mod world;

pub use config::{AddedText, TokenizerConfig};
pub use cost::bytes_to_encode;
pub use error::TokenizerError;
pub use gguf::GgufVocabulary;
pub use stops::{Passed, Stops};
pub use stream::Stream;

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Spelling, Utf8};
use guarded::{Added, Guarded, Subwords};
use preparation::Preparation;
use tokenizers::normalizers::Replace;
use tokenizers::{
    AddedToken, Decoder, DecoderWrapper, Model, NormalizedString, Normalizer, PostProcessorWrapper,
    PreTokenizerWrapper, TokenizerImpl,
};

type Engine = TokenizerImpl<Guarded, Preparation, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Whether strings such as `<|im_end|>` in a text stand for their token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// They do: for text that the program or a chat template wrote.
    Parse,
    /// They are ordinary characters: for text of users. Tokens that the vocabulary adds without calling them
    /// special (runs of spaces, `<think>`) are found in both modes, as in the reference.
    Text,
}

/// A vocabulary and its rules; immutable, shared between threads by `Arc`.
pub struct Tokenizer {
    parse: Engine,
    text: Engine,
    model: Guarded,
    spelling: Spelling,
    /// The bytes of tokens that the spelling does not tell.
    spelled: HashMap<u32, Vec<u8>>,
    decoder: Option<DecoderWrapper>,
    added: HashMap<u32, AddedToken>,
    /// Contents of special tokens, longest first.
    special_texts: Vec<String>,
    vocabulary_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Further tokens before and after each prompt.
    opening: Vec<u32>,
    closing: Vec<u32>,
}

/// No vocabulary comes near this; a higher id is a damaged file, and would make its reader allocate.
const VOCABULARY_MAX: usize = 1 << 24;

/// Runs code of the `tokenizers` crate, which indexes and unwraps on vocabularies that contradict
/// themselves. The files are strangers', so such a panic ends here and becomes an error.
fn contained<T>(
    failed: impl FnOnce(String) -> TokenizerError,
    work: impl FnOnce() -> Result<T, TokenizerError>,
) -> Result<T, TokenizerError> {
    // What the work shares is either dropped with the error or a cache that is whole at every step.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(failed(format!("the vocabulary contradicts itself ({words})")))
    })
}

/// What a front door gathers from its file.
struct Parts {
    file: &'static str,
    model: Subwords,
    preparation: Option<Preparation>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    decoder: Option<DecoderWrapper>,
    spelling: Spelling,
    spelled: HashMap<u32, Vec<u8>>,
    added: Vec<(u32, AddedToken)>,
}

impl Parts {
    fn assemble(self) -> Result<Tokenizer, TokenizerError> {
        let mut added = self.added;
        added.retain(|(_, token)| !token.content.is_empty());
        added.sort_by_key(|(id, _)| *id);
        let highest = self.model.vocabulary().values().copied().chain(added.iter().map(|(id, _)| *id)).max();
        if let Some(id) = highest.filter(|id| *id as usize >= VOCABULARY_MAX) {
            let why = format!("id {id} is not below {VOCABULARY_MAX}");
            return Err(TokenizerError::format(self.file, "vocabulary", why));
        }
        let guards = Added {
            ids: added.iter().map(|(id, token)| (token.content.clone(), *id)).collect(),
            special: added
                .iter()
                .filter(|(_, token)| token.special)
                .map(|(id, token)| (*id, token.content.clone()))
                .collect(),
        };
        let model = Guarded::new(self.model, guards);
        let engine = |parse: bool| -> tokenizers::Result<Engine> {
            let mut engine = Engine::new(model.clone());
            engine.with_normalizer(self.preparation.clone())?;
            engine.with_pre_tokenizer(self.pre_tokenizer.clone());
            add_findable(&mut engine, added.iter().map(|(_, token)| token.clone()))?;
            engine.set_encode_special_tokens(!parse);
            Ok(engine)
        };
        let failed = |error| TokenizerError::format(self.file, "added_tokens", error);
        let (parse, text) = (engine(true).map_err(failed)?, engine(false).map_err(failed)?);
        let mut special_texts: Vec<String> =
            added.iter().filter(|(_, token)| token.special).map(|(_, token)| token.content.clone()).collect();
        special_texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Ok(Tokenizer {
            parse,
            text,
            model,
            spelling: self.spelling,
            spelled: self.spelled,
            decoder: self.decoder,
            special_texts,
            vocabulary_size: highest.map_or(0, |id| id as usize + 1),
            added: added.into_iter().collect(),
            bos: None,
            eos: None,
            unknown: None,
            add_bos: false,
            add_eos: false,
            opening: Vec::new(),
            closing: Vec::new(),
        })
    }
}

impl Tokenizer {
    /// The ids of `text`, without begin and end tokens.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let engine = match special {
            Special::Parse => &self.parse,
            Special::Text => &self.text,
        };
        encode_by(engine, text)
    }

    /// The ids of a text in which `mark` keeps parts of user text from being read as special tokens. The
    /// mark itself leaves no trace in the ids.
    pub(crate) fn encode_marked(&self, text: &str, mark: char) -> Result<Vec<u32>, TokenizerError> {
        contained(|why| TokenizerError::Encode { why }, || self.encode_around(text, mark))
    }

    fn encode_around(&self, text: &str, mark: char) -> Result<Vec<u32>, TokenizerError> {
        let failed = |error: tokenizers::Error| TokenizerError::Encode { why: error.to_string() };
        let unmark = Replace::new(mark.to_string(), "").map_err(failed)?;
        let preparation = self.parse.get_normalizer().cloned().unwrap_or_default();
        let mut engine = Engine::new(self.model.clone());
        engine.with_normalizer(Some(preparation.after(unmark))).map_err(failed)?;
        engine.with_pre_tokenizer(self.parse.get_pre_tokenizer().cloned());
        let mut added: Vec<(&u32, &AddedToken)> = self.added.iter().collect();
        added.sort_by_key(|(id, _)| **id);
        // A special token must be found before the marks go, hence never in normalised text.
        let tokens = added.into_iter().map(|(_, token)| {
            let token = token.clone();
            let normalized = token.normalized && !token.special;
            token.normalized(normalized)
        });
        add_findable(&mut engine, tokens).map_err(failed)?;
        encode_by(&engine, text)
    }

    /// The ids of `text` between the tokens of begin and end that this vocabulary asks for.
    pub fn encode_prompt(&self, text: &str, special: Special) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.opening.clone();
        ids.extend(self.bos.filter(|_| self.add_bos));
        ids.extend(self.encode(text, special)?);
        ids.extend(self.eos.filter(|_| self.add_eos));
        ids.extend(&self.closing);
        Ok(ids)
    }

    /// The text of `ids`. Bytes that are not UTF-8 become U+FFFD; ids outside the vocabulary are nothing, as
    /// the rows that pad an embedding table have no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let shown = ids.iter().copied().filter(|id| !(skip_special && self.is_special(*id)));
        if self.spelling == Spelling::Joined {
            let tokens: Vec<String> = shown.filter_map(|id| self.token_text(id)).collect();
            return match &self.decoder {
                Some(decoder) => decode_by(decoder, tokens),
                None => tokens.join(" "),
            };
        }
        let (mut joined, mut out) = (Utf8::new(self.spelling, true), String::new());
        for bytes in shown.filter_map(|id| self.token_bytes(id)) {
            joined.push(&bytes, &mut out);
        }
        joined.finish(&mut out);
        out
    }

    /// The token as the vocabulary writes it, such as `Ġthe` or `▁the`.
    pub fn token_text(&self, id: u32) -> Option<String> {
        match self.added.get(&id) {
            Some(token) => Some(token.content.clone()),
            None => self.model.id_to_token(id),
        }
    }

    /// The bytes that a token adds to a text; `None` outside the vocabulary, and for every token of a
    /// vocabulary whose spelling depends on neighbouring tokens.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        if let Some(bytes) = self.spelled.get(&id) {
            return Some(bytes.clone());
        }
        if let Some(token) = self.added.get(&id) {
            return match self.spelling {
                Spelling::Joined => None,
                // Gemma lists runs of spaces as tokens beside the vocabulary, spelled like its pieces.
                Spelling::Pieces { .. } if !token.special => Some(bytes::piece(&token.content)),
                _ => Some(token.content.clone().into_bytes()),
            };
        }
        let token = self.model.id_to_token(id)?;
        match self.spelling {
            Spelling::ByteLevel => Some(bytes::byte_level(&token).unwrap_or_else(|| token.into_bytes())),
            Spelling::Pieces { .. } => Some(bytes::piece(&token)),
            Spelling::Words => Some(bytes::word(&token)),
            Spelling::Joined => None,
        }
    }

    /// The id of a token written as the vocabulary writes it.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.model.token_to_id(text)
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary_size
    }

    /// The token that begins a text, if the vocabulary names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if the vocabulary names one. A model may have more of them.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token of what cannot be written.
    pub fn unknown(&self) -> Option<u32> {
        self.unknown
    }

    /// Whether a prompt begins with [`Tokenizer::bos`].
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether a prompt ends with [`Tokenizer::eos`].
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// Whether only the program may write this token.
    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|token| token.special)
    }

    /// The texts of all special tokens, longest first.
    pub fn special_texts(&self) -> &[String] {
        &self.special_texts
    }

    /// Takes begin, end and unknown token and their use from `tokenizer_config.json`, where that file names
    /// them. A named token that the vocabulary does not have is an error.
    pub fn with_config(mut self, config: &TokenizerConfig) -> Result<Self, TokenizerError> {
        let find = |field: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => self.token_id(text).map(Some).ok_or_else(|| {
                TokenizerError::format(config::FILE, field, format!("the vocabulary has no token {text:?}"))
            }),
        };
        let (bos, eos) = (find("bos_token", &config.bos)?, find("eos_token", &config.eos)?);
        let unknown = find("unk_token", &config.unknown)?;
        self.bos = bos.or(self.bos);
        self.eos = eos.or(self.eos);
        self.unknown = unknown.or(self.unknown);
        self.add_bos = config.add_bos.unwrap_or(self.add_bos);
        self.add_eos = config.add_eos.unwrap_or(self.add_eos);
        Ok(self)
    }
}

/// Adds the tokens that can be found in a text. One of which normalisation leaves nothing cannot, and the
/// engine would find that nothing again and again.
fn add_findable(engine: &mut Engine, tokens: impl Iterator<Item = AddedToken>) -> tokenizers::Result<()> {
    let mut findable = Vec::new();
    for token in tokens {
        let mut text = NormalizedString::from(token.content.as_str());
        if let Some(normalizer) = engine.get_normalizer().filter(|_| token.normalized) {
            normalizer.normalize(&mut text)?;
        }
        if !text.is_empty() {
            findable.push(token);
        }
    }
    engine.add_tokens(findable)?;
    Ok(())
}

fn encode_by(engine: &Engine, text: &str) -> Result<Vec<u32>, TokenizerError> {
    let failed = |why| TokenizerError::Encode { why };
    contained(failed, || {
        let encoding = engine.encode_fast(text, false).map_err(|error| failed(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    })
}

/// A decoder that fails gives the tokens as the vocabulary writes them: text is never lost.
fn decode_by(decoder: &DecoderWrapper, tokens: Vec<String>) -> String {
    let plain = tokens.concat();
    let failed = |why| TokenizerError::Encode { why };
    contained(failed, || decoder.decode(tokens).map_err(|error| failed(error.to_string()))).unwrap_or(plain)
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocabulary_size)
            .field("spelling", &self.spelling)
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}
