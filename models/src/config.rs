//! A model's hyperparameters under their Hugging Face names, with checked types and ranges.

use std::ops::{Deref, RangeInclusive};
use std::path::Path;

use serde_json::{Map, Value};

use crate::checkpoint::json;
use crate::error::LoadError;

mod fields;

pub use fields::Fields;

/// The longest `config.json` that is read. Real ones have some kilobytes; parsed, hostile ones take up to
/// thirty times their text.
pub(crate) const MAX_CONFIG: u64 = 1 << 20;

/// The fields of `config.json`, or of GGUF metadata put under the same names, with what belongs to them of
/// `generation_config.json`. Dereferences to its [`Fields`].
#[derive(Debug, Clone)]
pub struct Config {
    fields: Fields,
    generation: Option<Fields>,
    /// How the rows of the q and k projections pair up for RoPE: neighbours (2i, 2i+1) if true, as in Meta's
    /// files and in GGUF of architecture `llama`; halves (i, i + d/2) if false, as in Hugging Face's files
    /// and in GGUF of architecture `qwen2`.
    pub rope_interleaved: bool,
}

impl Deref for Config {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.fields
    }
}

/// The defaults of sampling that a model's authors recommend; `None` where they say nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generation {
    /// Whether to sample at all, or to take the likeliest token.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f64>,
    /// Keeps the likeliest tokens that together reach this probability.
    pub top_p: Option<f64>,
    /// Keeps this many of the likeliest tokens; 0 keeps all.
    pub top_k: Option<u64>,
    /// Keeps tokens at least this likely, relative to the likeliest.
    pub min_p: Option<f64>,
    /// Divides the logits of tokens that were seen.
    pub repetition_penalty: Option<f64>,
    /// Most tokens of prompt and answer together.
    pub max_length: Option<u64>,
    /// Most tokens of an answer.
    pub max_new_tokens: Option<u64>,
}

impl Config {
    /// Reads the text of a `config.json`; `file` names it in errors. The rows of q and k are taken to be in
    /// Hugging Face's order.
    pub fn from_json(bytes: &[u8], file: &Path) -> Result<Self, LoadError> {
        Ok(Config::from_fields(json_object(bytes, file)?, false))
    }

    pub(crate) fn from_fields(fields: Fields, rope_interleaved: bool) -> Self {
        Config { fields, generation: None, rope_interleaved }
    }

    /// The same, of an architecture that the file does not name.
    pub(crate) fn of_architecture(mut self, name: &str) -> Self {
        self.fields = self.fields.with("architectures", Value::from(vec![name]));
        self
    }

    /// The configuration of a part of the model, which stands in an object of this one.
    pub(crate) fn part(&self, field: &str) -> Result<Config, LoadError> {
        let fields = self.object(field)?.ok_or_else(|| self.wrong(field, "an object"))?;
        Ok(Config::from_fields(fields, self.rope_interleaved))
    }

    /// The same with values for fields that it leaves out.
    pub(crate) fn with_defaults(mut self, defaults: &[(&str, u64)]) -> Self {
        for (field, value) in defaults {
            if self.raw(field).is_none() {
                self.fields = self.fields.with(field, Value::from(*value));
            }
        }
        self
    }

    /// Adds the text of a `generation_config.json`.
    pub fn with_generation(mut self, bytes: &[u8], file: &Path) -> Result<Self, LoadError> {
        self.generation = Some(json_object(bytes, file)?);
        Ok(self)
    }

    pub(crate) fn with_generation_fields(mut self, generation: Fields) -> Self {
        self.generation = Some(generation);
        self
    }

    /// The class that the weights belong to: `LlamaForCausalLM`.
    pub fn architecture(&self) -> Result<&str, LoadError> {
        match self.raw("architectures") {
            Some(Value::Array(names)) if names.first().is_some_and(Value::is_string) => {
                Ok(names[0].as_str().expect("the guard saw a string"))
            }
            _ => Err(self.wrong("architectures", "a list that begins with a string")),
        }
    }

    /// The family: `llama`, `qwen2`.
    pub fn model_type(&self) -> Result<&str, LoadError> {
        self.text("model_type")
    }

    /// The element type that the weights were trained or published in, under either of its names (`dtype`,
    /// formerly `torch_dtype`). The files' own types decide; this is for show.
    pub fn dtype(&self) -> Result<Option<&str>, LoadError> {
        match self.optional_text("dtype")? {
            Some(dtype) => Ok(Some(dtype)),
            None => self.optional_text("torch_dtype"),
        }
    }

    /// The base of RoPE's frequencies: in `rope_parameters` (transformers 5) or beside it (before);
    /// 10000 where neither has it.
    pub fn rope_theta(&self) -> Result<f64, LoadError> {
        const DEFAULT: f64 = 10_000.0;
        const RANGE: RangeInclusive<f64> = 1.0..=1e15;
        if let Some(parameters) = self.object("rope_parameters")?
            && let Some(theta) = parameters.optional_number("rope_theta", RANGE)?
        {
            return Ok(theta);
        }
        Ok(self.optional_number("rope_theta", RANGE)?.unwrap_or(DEFAULT))
    }

    /// How much of each head RoPE turns, in `rope_parameters` or beside it; all where neither says it.
    pub fn partial_rotary_factor(&self) -> Result<f64, LoadError> {
        const FIELD: &str = "partial_rotary_factor";
        if let Some(parameters) = self.object("rope_parameters")?
            && let Some(fraction) = parameters.optional_number(FIELD, 0.0..=1.0)?
        {
            return Ok(fraction);
        }
        Ok(self.optional_number(FIELD, 0.0..=1.0)?.unwrap_or(1.0))
    }

    /// How RoPE is stretched: the members of `rope_parameters` or of `rope_scaling`, of which `rope_type`
    /// (formerly `type`) is always a string here. `None` for plain RoPE.
    ///
    /// GGUF adds one type of its own, `factors`: its list `factors` divides the frequencies one by one.
    pub fn rope_scaling(&self) -> Result<Option<Fields>, LoadError> {
        let found = match self.object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => self.object("rope_scaling")?,
        };
        let Some(scaling) = found else {
            return Ok(None);
        };
        let kind = match scaling.optional_text("rope_type")? {
            Some(kind) => Some(kind),
            None => scaling.optional_text("type")?,
        };
        match kind {
            Some("default") => Ok(None),
            Some(kind) => {
                let kind = Value::from(kind);
                Ok(Some(scaling.with("rope_type", kind)))
            }
            None if scaling.is_empty() || scaling.raw("rope_theta").is_some() => Ok(None),
            None => Err(scaling.wrong("rope_type", "a string")),
        }
    }

    /// Every id that ends an answer, without repetitions: those of `config.json` and of
    /// `generation_config.json`, each a number or a list, or GGUF's eos, eot and eom.
    pub fn eos_ids(&self) -> Result<Vec<u32>, LoadError> {
        let mut ids = Vec::new();
        for fields in std::iter::once(&self.fields).chain(&self.generation) {
            for id in fields.one_or_more("eos_token_id", 0..=u64::from(u32::MAX))? {
                let id = u32::try_from(id).expect("the range ends at the largest u32");
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        Ok(ids)
    }

    /// Whether there is a `generation_config.json`, or what stands for it in GGUF.
    pub fn recommends(&self) -> bool {
        self.generation.is_some()
    }

    /// The recommended sampling: of `generation_config.json`, else of `config.json`, where older models keep
    /// it.
    pub fn generation(&self) -> Result<Generation, LoadError> {
        let fields = self.generation.as_ref().unwrap_or(&self.fields);
        let length = 0..=u64::from(u32::MAX);
        Ok(Generation {
            do_sample: fields.optional_flag("do_sample")?,
            temperature: fields.optional_number("temperature", 0.0..=1e6)?,
            top_p: fields.optional_number("top_p", 0.0..=1.0)?,
            top_k: fields.optional_count("top_k", length.clone())?,
            min_p: fields.optional_number("min_p", 0.0..=1.0)?,
            repetition_penalty: fields.optional_number("repetition_penalty", 1e-6..=1e6)?,
            max_length: fields.optional_count("max_length", length.clone())?,
            max_new_tokens: fields.optional_count("max_new_tokens", length)?,
        })
    }
}

fn json_object(bytes: &[u8], file: &Path) -> Result<Fields, LoadError> {
    let length = bytes.len() as u64;
    if length > MAX_CONFIG {
        let why = format!("{length} bytes of configuration, expected at most {MAX_CONFIG}");
        return Err(LoadError::header(file, MAX_CONFIG, why));
    }
    json::read::<Map<String, Value>>(bytes, file, 0).map(|map| Fields::new(file, map))
}
