//! GGUF under Hugging Face names: one row per tensor, per metadata key and per architecture.
//!
//! The names on the left are those of llama.cpp's `gguf-py/gguf/constants.py`, those on the right those of
//! transformers' model classes.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::gguf::{Header, Metadata, Value};
use crate::config::{Config, Fields};
use crate::error::LoadError;

/// What a GGUF architecture is called elsewhere, and what its converter did to the weights.
pub struct Architecture {
    /// `general.architecture`, which also begins the architecture's metadata keys.
    pub gguf: &'static str,
    /// `model_type` in Hugging Face's configuration.
    pub model_type: &'static str,
    /// The first of `architectures` in Hugging Face's configuration.
    pub class: &'static str,
    /// Whether the converter reordered the rows of q and k from RoPE's halves to neighbouring pairs.
    pub rope_interleaved: bool,
    /// Tensors outside of the layers, without `.weight` or `.bias`.
    pub tensors: &'static [(&'static str, &'static str)],
    /// Tensors of a layer: what follows `blk.3.`, and what follows `model.layers.3.`.
    pub layer_tensors: &'static [(&'static str, &'static str)],
}

const DECODER_TENSORS: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

const DECODER_LAYER_TENSORS: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The architectures that GGUF files of are understood. Mistral, SmolLM2, Atom and BELLE-LLaMA files call
/// themselves `llama`.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        gguf: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        rope_interleaved: true,
        tensors: DECODER_TENSORS,
        layer_tensors: DECODER_LAYER_TENSORS,
    },
    Architecture {
        gguf: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        rope_interleaved: false,
        tensors: DECODER_TENSORS,
        layer_tensors: DECODER_LAYER_TENSORS,
    },
];

/// The table of frequency divisors for RoPE that some `llama` files carry as a tensor.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What a metadata key must hold.
#[derive(Clone, Copy)]
enum Kind {
    /// A whole number of at least 1.
    Size,
    /// A whole number; 0 says that the feature is off, and the field is left out.
    Optional,
    /// A floating-point number.
    Real,
}

/// Keys after the architecture's name and a full stop.
const KEYS: &[(&str, &str, Kind)] = &[
    ("context_length", "max_position_embeddings", Kind::Size),
    ("embedding_length", "hidden_size", Kind::Size),
    ("block_count", "num_hidden_layers", Kind::Size),
    ("feed_forward_length", "intermediate_size", Kind::Size),
    ("attention.head_count", "num_attention_heads", Kind::Size),
    ("attention.head_count_kv", "num_key_value_heads", Kind::Size),
    ("attention.key_length", "head_dim", Kind::Size),
    ("attention.sliding_window", "sliding_window", Kind::Optional),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps", Kind::Real),
    ("rope.freq_base", "rope_theta", Kind::Real),
    ("expert_count", "num_local_experts", Kind::Optional),
    ("expert_used_count", "num_experts_per_tok", Kind::Optional),
];

/// Keys without which a file makes no sense, by their Hugging Face names.
const REQUIRED: &[&str] =
    &["hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "rms_norm_eps"];

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

impl Architecture {
    /// Finds the row of a file's `general.architecture`.
    pub fn of(metadata: &Metadata, file: &Path) -> Result<&'static Architecture, LoadError> {
        let name = metadata
            .get("general.architecture")
            .and_then(Value::text)
            .ok_or_else(|| Source { metadata, file }.wrong("general.architecture", "a string"))?;
        ARCHITECTURES.iter().find(|architecture| architecture.gguf == name).ok_or_else(|| {
            let known: Vec<_> = ARCHITECTURES.iter().map(|architecture| architecture.gguf).collect();
            LoadError::Unsupported {
                file: file.to_owned(),
                what: format!("GGUF architecture {}", crate::error::quoted(name)),
                supported: format!("these are: {}", known.join(", ")),
            }
        })
    }

    /// The Hugging Face name of a tensor. A name without a row stays as it is, so that nothing is lost.
    pub fn tensor_name(&self, gguf: &str) -> String {
        self.translate(gguf).unwrap_or_else(|| gguf.to_owned())
    }

    fn translate(&self, gguf: &str) -> Option<String> {
        let (stem, suffix) = gguf.rsplit_once('.')?;
        if let Some(rest) = stem.strip_prefix("blk.") {
            let (layer, part) = rest.split_once('.')?;
            let layer: u32 = layer.parse().ok()?;
            let name = find(self.layer_tensors, part)?;
            return Some(format!("model.layers.{layer}.{name}.{suffix}"));
        }
        find(self.tensors, stem).map(|name| format!("{name}.{suffix}"))
    }
}

fn find(rows: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    rows.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
}

/// Metadata with the file's name for errors.
struct Source<'a> {
    metadata: &'a Metadata,
    file: &'a Path,
}

impl Source<'_> {
    fn wrong(&self, key: &str, expected: &str) -> LoadError {
        LoadError::Field {
            file: self.file.to_owned(),
            field: key.to_owned(),
            expected: expected.to_owned(),
            found: self.metadata.get(key).map_or("nothing".to_owned(), Value::to_string),
        }
    }

    fn real(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.metadata.get(key) else {
            return Ok(None);
        };
        let number = value.float().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.wrong(key, "a finite floating-point number"))
    }

    /// A whole number. Some converters write one number per layer where the number is the same in each.
    fn whole(&self, key: &str, least: u64) -> Result<Option<u64>, LoadError> {
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

/// The configuration that a GGUF file's metadata and tensors amount to. `header` is that of the first file of
/// a set; `shape` gives the shape of a tensor of the whole set by its Hugging Face name; `factors` are the
/// numbers of [`ROPE_FACTORS`], if it is there.
pub(super) fn config(
    architecture: &Architecture,
    header: &Header,
    file: &Path,
    shape: impl Fn(&str) -> Option<Vec<u64>>,
    factors: Option<Vec<f32>>,
) -> Result<Config, LoadError> {
    let source = Source { metadata: &header.metadata, file };
    let mut fields = Map::new();
    fields.insert("architectures".to_owned(), json!([architecture.class]));
    fields.insert("model_type".to_owned(), json!(architecture.model_type));
    for &(suffix, field, kind) in KEYS {
        let key = format!("{}.{suffix}", architecture.gguf);
        match source.read(&key, kind)? {
            Some(value) => _ = fields.insert(field.to_owned(), value),
            None if REQUIRED.contains(&field) => return Err(source.wrong(&key, "a number")),
            None => {}
        }
    }
    let vocabulary = vocabulary(architecture, &source, &shape)?;
    fields.insert("vocab_size".to_owned(), json!(vocabulary));
    fields.insert("tie_word_embeddings".to_owned(), json!(shape("lm_head.weight").is_none()));
    rope_fraction(architecture, &source, &mut fields)?;
    if let Some(scaling) = rope_scaling(architecture, &source, factors)? {
        fields.insert("rope_scaling".to_owned(), scaling);
    }
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
    shape: impl Fn(&str) -> Option<Vec<u64>>,
) -> Result<u64, LoadError> {
    let missing = |names: &str| LoadError::Missing {
        file: source.file.to_owned(),
        what: "tensors",
        names: vec![names.to_owned()],
    };
    let rows = *shape("model.embed_tokens.weight")
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
    let head = number("head_dim")
        .or_else(|| number("hidden_size")?.checked_div(number("num_attention_heads")?))
        .expect("both fields are required, and at least 1");
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
