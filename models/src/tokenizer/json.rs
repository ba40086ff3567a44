//! Hugging Face's `tokenizer.json`.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper};

use super::bytes::Spelling;
use super::guarded::Subwords;
use super::preparation::Preparation;
use super::{Engine, Parts, Tokenizer, TokenizerError, characters, contained};

const FILE: &str = "tokenizer.json";

/// The file's sections, still as text: each is read by the algorithm that it configures. Truncation and
/// padding are the business of whoever batches, and are left out.
#[derive(Deserialize)]
struct Sections<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(borrow, default)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow, default)]
    decoder: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AddedWithId {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

fn section<T: DeserializeOwned>(
    field: &'static str,
    text: Option<&RawValue>,
) -> Result<Option<T>, TokenizerError> {
    let Some(text) = text.map(RawValue::get).filter(|text| text.trim() != "null") else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|error| TokenizerError::format(FILE, field, error))
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Begin and end tokens come from its post-processor, if that adds any;
    /// [`Tokenizer::with_config`] names them otherwise.
    pub fn from_json(bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
        contained(|why| TokenizerError::format(FILE, "file", why), || Self::read_json(bytes))
    }

    fn read_json(bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
        let sections: Sections<'_> =
            serde_json::from_slice(bytes).map_err(|error| TokenizerError::format(FILE, "file", error))?;
        let added: Vec<AddedWithId> = section("added_tokens", sections.added_tokens)?.unwrap_or_default();
        let model: ModelWrapper = section("model", Some(sections.model))?
            .ok_or_else(|| TokenizerError::format(FILE, "model", "expected an object, found null"))?;
        let unknown = unknown_token(&model);
        let decoder: Option<Value> = section("decoder", sections.decoder)?;
        let unread: Option<Value> = section("normalizer", sections.normalizer)?;
        unread
            .iter()
            .try_for_each(characters::check_json)
            .map_err(|error| TokenizerError::format(FILE, "normalizer", error))?;
        let normalizer: Option<NormalizerWrapper> = section("normalizer", sections.normalizer)?;
        let parts = Parts {
            file: FILE,
            model: Subwords::Listed(Box::new(model)),
            preparation: normalizer.map(Preparation::from),
            pre_tokenizer: section("pre_tokenizer", sections.pre_tokenizer)?,
            spelling: spelling(decoder.as_ref()),
            decoder: section("decoder", sections.decoder)?,
            spelled: HashMap::new(),
            added: added.into_iter().map(|added| (added.id, added.token)).collect(),
        };
        let mut tokenizer = parts.assemble()?;
        tokenizer.unknown = unknown.and_then(|text| tokenizer.token_id(&text));
        let processor = section("post_processor", sections.post_processor)?;
        tokenizer.take_ends(processor)?;
        Ok(tokenizer)
    }

    /// Learns from one letter which tokens the post-processor puts before and after a text.
    fn take_ends(&mut self, processor: Option<PostProcessorWrapper>) -> Result<(), TokenizerError> {
        let Some(processor) = processor else { return Ok(()) };
        let mut engine: Engine = self.parse.clone();
        engine.with_post_processor(Some(processor));
        let ids = |ends: bool| {
            engine
                .encode_fast("a", ends)
                .map(|encoding| encoding.get_ids().to_vec())
                .map_err(|error| TokenizerError::format(FILE, "post_processor", error))
        };
        let (bare, dressed) = (ids(false)?, ids(true)?);
        let Some(at) = (0..dressed.len()).find(|at| dressed[*at..].starts_with(&bare)) else { return Ok(()) };
        if at > 0 {
            self.bos = Some(dressed[0]);
            self.add_bos = true;
        }
        if let Some(last) = dressed.get(at + bare.len()) {
            self.eos = Some(*last);
            self.add_eos = true;
        }
        let count = self.vocabulary_size;
        if let Some(id) = self.bos.into_iter().chain(self.eos).find(|id| *id as usize >= count) {
            let why = format!("expected ids below {count}, found {id}");
            return Err(TokenizerError::format(FILE, "post_processor", why));
        }
        Ok(())
    }
}

fn unknown_token(model: &ModelWrapper) -> Option<String> {
    match model {
        ModelWrapper::BPE(model) => model.get_unk_token().clone(),
        ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
        ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
        ModelWrapper::Unigram(_) => None,
    }
}

/// Recognises the decoders that spell each token by itself.
fn spelling(decoder: Option<&Value>) -> Spelling {
    let kind = |value: &Value| value["type"].as_str().map(str::to_owned).unwrap_or_default();
    let Some(decoder) = decoder else { return Spelling::Joined };
    if kind(decoder) == "ByteLevel" {
        return Spelling::ByteLevel;
    }
    let Some(steps) = decoder["decoders"].as_array() else { return Spelling::Joined };
    let kinds: Vec<String> = steps.iter().map(kind).collect();
    let (start, rest) = kinds.split_at(kinds.len().min(3));
    let spaces =
        steps.first().is_some_and(|step| step["pattern"]["String"] == "\u{2581}" && step["content"] == " ");
    if start != ["Replace", "ByteFallback", "Fuse"] || !spaces {
        return Spelling::Joined;
    }
    match (rest, steps.get(3)) {
        ([], None) => Spelling::Pieces { strip: 0 },
        ([last], Some(step)) if last == "Strip" && step["content"] == " " && step["stop"] == 0 => {
            Spelling::Pieces { strip: step["start"].as_u64().map_or(0, |count| count as usize) }
        }
        _ => Spelling::Joined,
    }
}
