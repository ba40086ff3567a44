//! The configuration that the metadata of a GGUF file amounts to.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::{Architecture, Fact, Key, Kind};
use crate::checkpoint::gguf::{Header, Metadata, Value};
use crate::config::{Config, Fields};
use crate::error::LoadError;

/// The recommended sampling that newer converters write.
const SAMPLING: &[(&str, &str, Kind)] = &[
    ("general.sampling.temp", "temperature", Kind::Real),
    ("general.sampling.top_p", "top_p", Kind::Real),
    ("general.sampling.top_k", "top_k", Kind::Optional),
    ("general.sampling.min_p", "min_p", Kind::Real),
    ("general.sampling.penalty_repeat", "repetition_penalty", Kind::Real),
];

/// Every id that ends an answer: of the text, of a turn, of a message.
const END_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Metadata with the file's name for errors.
pub(super) struct Source<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) file: &'a Path,
}

impl Source<'_> {
    pub(super) fn wrong(&self, key: &str, expected: &str) -> LoadError {
        LoadError::Field {
            file: self.file.to_owned(),
            field: key.to_owned(),
            expected: expected.to_owned(),
            found: self.metadata.get(key).map_or("nothing".to_owned(), Value::to_string),
        }
    }

    pub(super) fn real(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let number = value.float().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, "a finite floating-point number"))
    }

    /// A whole number. Some converters write one number per layer where the number is the same in each.
    pub(super) fn whole(&self, key: &str, least: u64) -> Result<Option<u64>, LoadError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let number = match value.integers() {
            Some(list) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|other| other == first) => u64::try_from(*first).ok(),
                _ => return Err(self.wrong(key, "one number, or the same for every layer")),
            },
            None => value.unsigned(),
        };
        let number = number.filter(|&number| (least..=u64::from(u32::MAX)).contains(&number));
        number.map(Some).ok_or_else(|| self.wrong(key, &format!("a whole number of at least {least}")))
    }

    fn read(&self, key: &str, kind: Kind) -> Result<Option<Json>, LoadError> {
        Ok(match kind {
            Kind::Size => self.whole(key, 1)?.map(Json::from),
            Kind::Optional => self.whole(key, 0)?.filter(|&number| number != 0).map(Json::from),
            Kind::Real => self.real(key)?.map(Json::from),
        })
    }
}

/// What fields are derived from.
pub(super) struct Derivation<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) fields: Map<String, Json>,
    /// The shape of a tensor by its other name.
    pub(super) shape: &'a dyn Fn(&str) -> Option<Vec<u64>>,
}

impl Derivation<'_> {
    pub(super) fn number(&self, field: &str) -> Option<u64> {
        self.fields.get(field).and_then(Json::as_u64)
    }

    pub(super) fn set(&mut self, field: &str, value: impl Into<Json>) {
        self.fields.insert(field.to_owned(), value.into());
    }
}

/// The configuration that a GGUF file's metadata and tensors amount to. `header` is that of the first file of
/// a set; `shape` gives the shape of a tensor of the whole set by its Hugging Face name; `factors` are the
/// numbers of [`ROPE_FACTORS`](super::ROPE_FACTORS), if it is there.
pub(in crate::checkpoint) fn config(
    architecture: &Architecture,
    header: &Header,
    file: &Path,
    shape: &dyn Fn(&str) -> Option<Vec<u64>>,
    factors: Option<Vec<f32>>,
) -> Result<Config, LoadError> {
    let source = Source { metadata: &header.metadata, file };
    let mut fields = Map::new();
    fields.insert("architectures".to_owned(), json!([architecture.class]));
    fields.insert("model_type".to_owned(), json!(architecture.model_type));
    for Key { suffix, field, kind, required } in architecture.keys {
        let key = format!("{}.{suffix}", architecture.gguf);
        match source.read(&key, *kind)? {
            Some(value) => _ = fields.insert((*field).to_owned(), value),
            None if *required => return Err(source.wrong(&key, "a number")),
            None => {}
        }
    }
    for (field, fact) in architecture.facts {
        let value = match fact {
            Fact::Flag(flag) => json!(flag),
            Fact::Text(text) => json!(text),
        };
        fields.insert((*field).to_owned(), value);
    }
    let vocabulary = vocabulary(architecture, &source, shape)?;
    fields.insert(architecture.vocabulary.to_owned(), json!(vocabulary));
    let output = architecture.weight_name("output").and_then(|name| shape(&name));
    fields.insert("tie_word_embeddings".to_owned(), json!(output.is_none()));
    rope_fraction(architecture, &source, &mut fields)?;
    if let Some(scaling) = rope_scaling(architecture, &source, factors)? {
        fields.insert("rope_scaling".to_owned(), scaling);
    }
    let mut derivation = Derivation { source: &source, fields, shape };
    (architecture.derive)(&mut derivation)?;
    let mut fields = derivation.fields;
    token_ids(&source, &mut fields)?;

    let mut generation = Map::new();
    for &(key, field, kind) in SAMPLING {
        if let Some(value) = source.read(key, kind)? {
            generation.insert(field.to_owned(), value);
        }
    }
    let config = Config::from_fields(Fields::new(file, fields), architecture.rope_interleaved);
    Ok(config.with_generation_fields(Fields::new(file, generation)))
}

/// The number of tokens: the embedding's rows, with which the list of tokens and the vocabulary's size must
/// agree where they are given.
fn vocabulary(
    architecture: &Architecture,
    source: &Source,
    shape: &dyn Fn(&str) -> Option<Vec<u64>>,
) -> Result<u64, LoadError> {
    let missing = |names: &str| LoadError::Missing {
        file: source.file.to_owned(),
        what: "tensors",
        names: vec![names.to_owned()],
    };
    let rows = *architecture
        .weight_name("token_embd")
        .and_then(|name| shape(&name))
        .ok_or_else(|| missing("token_embd.weight"))?
        .first()
        .expect("the parser lets no tensor without dimensions through");
    let tokens = source.metadata.get("tokenizer.ggml.tokens").and_then(Value::texts);
    let size_key = format!("{}.vocab_size", architecture.gguf);
    let claims = [
        ("the list tokenizer.ggml.tokens", tokens.map(|tokens| tokens.len() as u64)),
        (size_key.as_str(), source.whole(&size_key, 1)?),
    ];
    for (what, count) in claims {
        if let Some(count) = count.filter(|&count| count != rows) {
            let why = format!("{rows} rows, but {what} says {count} tokens");
            return Err(LoadError::tensor(source.file, "token_embd.weight", why));
        }
    }
    Ok(rows)
}

/// RoPE over less than a whole head becomes transformers' `partial_rotary_factor`.
fn rope_fraction(
    architecture: &Architecture,
    source: &Source,
    fields: &mut Map<String, Json>,
) -> Result<(), LoadError> {
    let key = format!("{}.rope.dimension_count", architecture.gguf);
    let Some(rotated) = source.whole(&key, 1)? else {
        return Ok(());
    };
    let number = |field: &str| fields.get(field).and_then(Json::as_u64);
    let head =
        number("head_dim").or_else(|| number("hidden_size")?.checked_div(number("num_attention_heads")?));
    let Some(head) = head else { return Ok(()) };
    if rotated > head {
        return Err(source.wrong(&key, &format!("at most {head}, the size of a head")));
    }
    if rotated < head {
        fields.insert("partial_rotary_factor".to_owned(), json!(rotated as f64 / head as f64));
    }
    Ok(())
}

fn rope_scaling(
    architecture: &Architecture,
    source: &Source,
    factors: Option<Vec<f32>>,
) -> Result<Option<Json>, LoadError> {
    if let Some(factors) = factors {
        return Ok(Some(json!({"rope_type": "factors", "factors": factors})));
    }
    let key = |suffix: &str| format!("{}.rope.{suffix}", architecture.gguf);
    let real = |suffix: &str| source.real(&key(suffix));
    // Files of 2023 have the factor of linear scaling alone.
    if let Some(factor) = real("scale_linear")?.filter(|&factor| factor != 1.0) {
        return Ok(Some(json!({"rope_type": "linear", "factor": factor})));
    }
    let type_key = key("scaling.type");
    let kind = match source.metadata.get(&type_key) {
        None => return Ok(None),
        Some(kind) => kind.text().ok_or_else(|| source.wrong(&type_key, "a string"))?,
    };
    if kind == "none" {
        return Ok(None);
    }
    let factor = real("scaling.factor")?.unwrap_or(1.0);
    let mut scaling = Map::new();
    scaling.insert("rope_type".to_owned(), json!(kind));
    scaling.insert("factor".to_owned(), json!(factor));
    if let Some(length) = source.whole(&key("scaling.original_context_length"), 1)? {
        scaling.insert("original_max_position_embeddings".to_owned(), json!(length));
    }
    for (suffix, field) in [("scaling.yarn_beta_fast", "beta_fast"), ("scaling.yarn_beta_slow", "beta_slow")]
    {
        if let Some(value) = real(suffix)? {
            scaling.insert(field.to_owned(), json!(value));
        }
    }
    // GGUF's factor multiplies YaRN's own magnitude; transformers' replaces it.
    if let Some(attention) = real("scaling.attn_factor")?.filter(|_| kind == "yarn") {
        let magnitude = 0.1 * factor.max(1.0).ln() + 1.0;
        scaling.insert("attention_factor".to_owned(), json!(attention * magnitude));
    }
    Ok(Some(Json::Object(scaling)))
}

fn token_ids(source: &Source, fields: &mut Map<String, Json>) -> Result<(), LoadError> {
    if let Some(id) = source.whole("tokenizer.ggml.bos_token_id", 0)? {
        fields.insert("bos_token_id".to_owned(), json!(id));
    }
    let mut ends = Vec::new();
    for key in END_KEYS {
        ends.extend(source.whole(key, 0)?.filter(|id| !ends.contains(id)));
    }
    if !ends.is_empty() {
        fields.insert("eos_token_id".to_owned(), json!(ends));
    }
    Ok(())
}
