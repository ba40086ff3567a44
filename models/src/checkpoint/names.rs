//! GGUF under Hugging Face names: one row per tensor, per metadata key and per architecture.
//!
//! The names on the left are those of llama.cpp's `gguf-py/gguf/constants.py`, those on the right those of
//! transformers' model classes, or of the authors where transformers has none.

use std::path::Path;

use super::gguf::{Metadata, Tensor, Value};
use crate::error::LoadError;

mod config;
mod table;

pub(super) use config::config;
pub use table::ARCHITECTURES;

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
    /// Tensors outside of the layers.
    pub tensors: &'static [Row],
    /// What the names of a layer's tensors begin with, before the layer's number and a full stop.
    pub layers: &'static str,
    /// Tensors of a layer: what follows `blk.3.`, and what follows `model.layers.3.`.
    pub layer_tensors: &'static [Row],
    /// Metadata keys, after the architecture's name and a full stop.
    pub keys: &'static [Key],
    /// What the number of tokens is called.
    pub vocabulary: &'static str,
    /// Fields that hold for all files of the architecture: what its converter did, or leaves unsaid.
    pub facts: &'static [(&'static str, Fact)],
    /// Fields that follow from others, or from the tensors.
    derive: fn(&mut config::Derivation<'_>) -> Result<(), LoadError>,
}

/// A tensor under its two names.
pub struct Row {
    /// The name in GGUF, without `.weight` or `.bias`.
    pub gguf: &'static str,
    /// The other name.
    pub name: &'static str,
    /// What the converter did to it.
    pub form: Form,
}

/// How a tensor of a GGUF file stands for others.
#[derive(Clone, Copy)]
pub enum Form {
    /// As it is; its name ends in `.weight` or `.bias` on both sides.
    Same,
    /// As it is, under a name without `.weight`.
    Bare,
    /// A vector that is `[1, 1, n]` under a name without `.weight`.
    Vector,
    /// A vector that is a matrix with a row for each head, under a name without `.weight`.
    Heads,
    /// Vectors stacked into one tensor; each is `[1, 1, n]`, under the row's name and one of these.
    Stack(&'static [&'static str]),
}

/// A metadata key under its two names.
pub struct Key {
    suffix: &'static str,
    field: &'static str,
    kind: Kind,
    required: bool,
}

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

/// The value of a field that no key holds.
#[derive(Clone, Copy)]
pub enum Fact {
    /// A truth value.
    Flag(bool),
    /// A string.
    Text(&'static str),
}

/// The table of frequency divisors for RoPE that some `llama` files carry as a tensor.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// A tensor of a file, or a part of one, as a model asks for it.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    /// Bytes before it in the file's tensor, and its own.
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Architecture {
    /// Finds the row of a file's `general.architecture`.
    pub fn of(metadata: &Metadata, file: &Path) -> Result<&'static Architecture, LoadError> {
        let name = metadata
            .get("general.architecture")
            .and_then(Value::text)
            .ok_or_else(|| config::Source { metadata, file }.wrong("general.architecture", "a string"))?;
        ARCHITECTURES.iter().find(|architecture| architecture.gguf == name).ok_or_else(|| {
            let known: Vec<_> = ARCHITECTURES.iter().map(|architecture| architecture.gguf).collect();
            LoadError::Unsupported {
                file: file.to_owned(),
                what: format!("GGUF architecture {}", crate::error::quoted(name)),
                supported: format!("these are: {}", known.join(", ")),
            }
        })
    }

    /// What a tensor of a file is to the model. One without a row stays what it is, so that nothing is lost.
    pub(super) fn named(&self, tensor: &Tensor, metadata: &Metadata) -> Vec<Named> {
        let whole = |name: String, shape: Vec<u64>| Named { name, shape, offset: 0, len: tensor.len };
        let Some((prefix, row, suffix)) = self.find(&tensor.name) else {
            return vec![whole(tensor.name.clone(), tensor.shape.clone())];
        };
        let name = format!("{prefix}{}", row.name);
        let count: u64 = tensor.shape.iter().product();
        match row.form {
            Form::Same => vec![whole(format!("{name}.{suffix}"), tensor.shape.clone())],
            Form::Bare => vec![whole(name, tensor.shape.clone())],
            Form::Vector => vec![whole(name, vec![1, 1, count])],
            Form::Heads => {
                let width = metadata.get(&format!("{}.wkv.head_size", self.gguf)).and_then(Value::unsigned);
                let shape = match width.filter(|width| *width > 0 && count.is_multiple_of(*width)) {
                    Some(width) => vec![count / width, width],
                    None => tensor.shape.clone(),
                };
                vec![whole(name, shape)]
            }
            Form::Stack(parts) => {
                let number = parts.len() as u64;
                if tensor.shape[0] != number {
                    return vec![whole(tensor.name.clone(), tensor.shape.clone())];
                }
                let len = tensor.len / number;
                let part = |(at, part): (u64, &&str)| Named {
                    name: format!("{name}{part}"),
                    shape: vec![1, 1, count / number],
                    offset: at * len,
                    len,
                };
                (0..).zip(parts).map(part).collect()
            }
        }
    }

    /// What a tensor's other name begins with, its row, and its last word.
    fn find<'a>(&self, gguf: &'a str) -> Option<(String, &'static Row, &'a str)> {
        let (stem, suffix) = gguf.rsplit_once('.')?;
        if let Some(rest) = stem.strip_prefix("blk.") {
            let (layer, part) = rest.split_once('.')?;
            let layer: u32 = layer.parse().ok()?;
            let row = self.layer_tensors.iter().find(|row| row.gguf == part)?;
            return Some((format!("{}{layer}.", self.layers), row, suffix));
        }
        self.tensors.iter().find(|row| row.gguf == stem).map(|row| (String::new(), row, suffix))
    }

    /// The other name of a tensor outside of the layers that has a `.weight`.
    fn weight_name(&self, gguf: &str) -> Option<String> {
        self.tensors.iter().find(|row| row.gguf == gguf).map(|row| format!("{}.weight", row.name))
    }
}
