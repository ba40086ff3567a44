//! From the hidden vectors of a text's tokens to the one vector that stands for the text.
//!
//! What is done to them stands beside the model: in the folders of sentence-transformers in `modules.json` and in the
//! files that it names, in GGUF in the metadata.

use serde_json::Value;

use crate::checkpoint::gguf;
use crate::error::LoadError;
use crate::tokenizer::{Special, Tokenizer, TokenizerError};
use crate::{Checkpoint, checkpoint::json};

/// How many vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// That of the first token, BERT's `[CLS]`.
    First,
    /// The mean of all.
    Mean,
    /// The largest of all, coordinate by coordinate.
    Max,
    /// That of the last token.
    Last,
}

/// What makes an embedding of hidden vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// How many vectors become one.
    pub pooling: Pooling,
    /// Whether the result is divided by its length.
    pub normalise: bool,
    /// The most tokens of a text, its special ones included; the rest of a longer text is left out.
    pub tokens_max: Option<usize>,
}

const MODULES: &str = "modules.json";

impl Embedding {
    /// What a model's files say; `None` where they say nothing.
    ///
    /// # Errors
    /// The files are damaged, or ask for a step that is not known here.
    pub fn of(checkpoint: &Checkpoint) -> Result<Option<Embedding>, LoadError> {
        match checkpoint.file(MODULES)? {
            Some(bytes) => Embedding::of_modules(checkpoint, &bytes),
            None => Embedding::of_metadata(checkpoint),
        }
    }

    fn of_modules(checkpoint: &Checkpoint, bytes: &[u8]) -> Result<Option<Embedding>, LoadError> {
        let modules: Vec<Value> = json::read(bytes, &checkpoint.path().join(MODULES), 0)?;
        let (mut pooling, mut normalise, mut tokens_max) = (None, false, None);
        for module in &modules {
            let folder = module["path"].as_str().unwrap_or_default();
            let file = |name: &str| match folder {
                "" => name.to_owned(),
                folder => format!("{folder}/{name}"),
            };
            match module["type"].as_str().and_then(|kind| kind.rsplit('.').next()) {
                Some("Transformer") => {
                    let found = read(checkpoint, &file("sentence_bert_config.json"))?;
                    tokens_max = found["max_seq_length"].as_u64().map(|most| most as usize);
                }
                Some("Pooling") => pooling = Some(of_flags(checkpoint, &file("config.json"))?),
                Some("Normalize") => normalise = true,
                _ => {
                    let what = format!("module {}", module["type"]);
                    return Err(unsupported(
                        checkpoint,
                        MODULES,
                        what,
                        "Transformer, Pooling and Normalize are",
                    ));
                }
            }
        }
        Ok(pooling.map(|pooling| Embedding { pooling, normalise, tokens_max }))
    }

    /// llama.cpp's numbers; it divides all embeddings by their length.
    fn of_metadata(checkpoint: &Checkpoint) -> Result<Option<Embedding>, LoadError> {
        let Some(metadata) = checkpoint.gguf() else { return Ok(None) };
        let name = metadata.get("general.architecture").and_then(gguf::Value::text).unwrap_or_default();
        let key = format!("{name}.pooling_type");
        let Some(value) = metadata.get(&key) else { return Ok(None) };
        let pooling = match value.unsigned() {
            Some(0) => return Ok(None),
            Some(1) => Pooling::Mean,
            Some(2) => Pooling::First,
            Some(3) => Pooling::Last,
            _ => {
                let (file, expected) = (checkpoint.path().to_owned(), "0 to 3: none, mean, cls, last");
                let (expected, found) = (expected.to_owned(), value.to_string());
                return Err(LoadError::Field { file, field: key, expected, found });
            }
        };
        Ok(Some(Embedding { pooling, normalise: true, tokens_max: None }))
    }

    /// The tokens of a text for a model of so many positions. A text that is too long is cut before the token that
    /// ends it.
    pub fn tokens(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        positions: usize,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = tokenizer.encode_prompt(text, Special::Text)?;
        let most = self.tokens_max.unwrap_or(positions).min(positions).max(1);
        if let (true, Some(last)) = (ids.len() > most, ids.last().copied()) {
            let closed = tokenizer.eos() == Some(last);
            ids.truncate(most - usize::from(closed));
            ids.extend(closed.then_some(last));
        }
        Ok(ids)
    }

    /// One vector of the hidden vectors of a text's tokens, `width` numbers each.
    pub fn vector(&self, hidden: &[f32], width: usize) -> Vec<f32> {
        let rows = || hidden.chunks_exact(width);
        let mut vector = match self.pooling {
            Pooling::First => rows().next().unwrap_or_default().to_vec(),
            Pooling::Last => rows().next_back().unwrap_or_default().to_vec(),
            Pooling::Max => columns(hidden, width, f32::NEG_INFINITY, f32::max),
            Pooling::Mean => {
                let count = rows().len().max(1) as f32;
                columns(hidden, width, 0.0, |sum, x| sum + x).into_iter().map(|sum| sum / count).collect()
            }
        };
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        if self.normalise && length > 0.0 {
            vector.iter_mut().for_each(|x| *x /= length);
        }
        vector
    }
}

fn columns(hidden: &[f32], width: usize, first: f32, join: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let mut joined = vec![first; width];
    for row in hidden.chunks_exact(width) {
        joined.iter_mut().zip(row).for_each(|(sum, x)| *sum = join(*sum, *x));
    }
    joined
}

fn read(checkpoint: &Checkpoint, name: &str) -> Result<Value, LoadError> {
    match checkpoint.file(name)? {
        Some(bytes) => json::read(&bytes, &checkpoint.path().join(name), 0),
        None => Ok(Value::Null),
    }
}

/// One flag for each way, of which one is set.
fn of_flags(checkpoint: &Checkpoint, name: &str) -> Result<Pooling, LoadError> {
    let found = read(checkpoint, name)?;
    let set = |(field, _): &(&String, &Value)| field.starts_with("pooling_mode_");
    let flags = found.as_object().into_iter().flatten().filter(set);
    let set: Vec<&str> =
        flags.filter(|(_, flag)| **flag == Value::Bool(true)).map(|(field, _)| field.as_str()).collect();
    match set.as_slice() {
        ["pooling_mode_cls_token"] => Ok(Pooling::First),
        ["pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["pooling_mode_max_tokens"] => Ok(Pooling::Max),
        ["pooling_mode_lasttoken"] => Ok(Pooling::Last),
        other => {
            let what =
                format!("pooling by {}", if other.is_empty() { "nothing".into() } else { other.join(", ") });
            Err(unsupported(checkpoint, name, what, "one of cls, mean, max and last token is"))
        }
    }
}

fn unsupported(checkpoint: &Checkpoint, name: &str, what: String, supported: &str) -> LoadError {
    LoadError::Unsupported { file: checkpoint.path().join(name), what, supported: supported.to_owned() }
}
