//! LLaMA as Meta publishes it: `params.json`, and `consolidated.NN.pth` for each of the devices that the model
//! was split over.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{checkpoint, shape, torch_file};
use crate::checkpoint::open::Weights;
use crate::checkpoint::storage::read_small;
use crate::checkpoint::{Checkpoint, TensorEntry, json};
use crate::config::{Config, Fields, MAX_CONFIG};
use crate::error::LoadError;

/// The file with the hyperparameters.
pub(super) const FILE: &str = "params.json";

/// The vocabulary of LLaMA 3, whose special tokens are others than those before.
const VOCABULARY_3: u64 = 128_256;

/// How a tensor is split over the files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    /// Each has all of it.
    Whole,
    /// Each has some rows.
    Rows,
    /// Each has some columns.
    Columns,
    /// Each has some columns, or, since LLaMA 3, some rows.
    Either,
}

/// Names outside of the layers, and Hugging Face's.
const TENSORS: &[(&str, &str, Split)] = &[
    ("tok_embeddings.weight", "model.embed_tokens.weight", Split::Either),
    ("norm.weight", "model.norm.weight", Split::Whole),
    ("output.weight", "lm_head.weight", Split::Rows),
];

/// Names after `layers.3.`, and after `model.layers.3.`.
const LAYER_TENSORS: &[(&str, &str, Split)] = &[
    ("attention_norm.weight", "input_layernorm.weight", Split::Whole),
    ("attention.wq.weight", "self_attn.q_proj.weight", Split::Rows),
    ("attention.wk.weight", "self_attn.k_proj.weight", Split::Rows),
    ("attention.wv.weight", "self_attn.v_proj.weight", Split::Rows),
    ("attention.wo.weight", "self_attn.o_proj.weight", Split::Columns),
    ("ffn_norm.weight", "post_attention_layernorm.weight", Split::Whole),
    ("feed_forward.w1.weight", "mlp.gate_proj.weight", Split::Rows),
    ("feed_forward.w2.weight", "mlp.down_proj.weight", Split::Columns),
    ("feed_forward.w3.weight", "mlp.up_proj.weight", Split::Rows),
];

fn name_and_split(name: &str) -> Option<(String, Split)> {
    let find = |table: &[(&str, &'static str, Split)], name: &str| {
        table.iter().find(|(meta, ..)| *meta == name).map(|&(_, name, split)| (name, split))
    };
    if let Some((name, split)) = find(TENSORS, name) {
        return Some((name.to_owned(), split));
    }
    let (layer, part) = name.strip_prefix("layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (part, split) = find(LAYER_TENSORS, part)?;
    Some((format!("model.layers.{layer}.{part}"), split))
}

pub(super) fn open(folder: &Path, file: &Path) -> Result<Checkpoint, LoadError> {
    let bytes = read_small(file, MAX_CONFIG)?.unwrap_or_default();
    let params = Fields::new(file, json::read::<Map<String, Value>>(&bytes, file, 0)?);
    let width = params.count("dim", 1..=1 << 20)?;
    let files = files(folder)?;
    let parts: Vec<Weights> = files.iter().map(|file| torch_file(file)).collect::<Result<_, _>>()?;
    let weights = joined(parts, width)?;
    let rows = shape(&weights, "model.layers.0.self_attn.q_proj.weight", 2)?[0];
    if rows < width && width % rows == 0 {
        let count = files.len() as u64;
        let names = (count..count * (width / rows)).take(1024).map(part_name).collect();
        return Err(LoadError::Missing { file: file.to_owned(), what: "shards", names });
    }
    let config = config(&params, width, &weights)?;
    Ok(checkpoint(folder, folder, config, weights))
}

fn part_name(number: u64) -> String {
    format!("consolidated.{number:02}.pth")
}

/// All parts, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let fault = |error| LoadError::io(folder, "list", error);
    let mut last = 0;
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("consolidated.")?.strip_suffix(".pth"));
        // Three digits are more devices than any of these models was split over.
        let number = number.filter(|number| number.len() <= 3).and_then(|number| number.parse::<u64>().ok());
        last = last.max(number.unwrap_or(0));
    }
    let (here, absent): (Vec<u64>, Vec<u64>) =
        (0..=last).partition(|number| folder.join(part_name(*number)).exists());
    match absent.is_empty() {
        true => Ok(here.into_iter().map(|number| folder.join(part_name(number))).collect()),
        false => Err(LoadError::Missing {
            file: folder.join(FILE),
            what: "shards",
            names: absent.into_iter().map(part_name).collect(),
        }),
    }
}

/// Puts the parts of each tensor together, under Hugging Face's names.
fn joined(mut parts: Vec<Weights>, width: u64) -> Result<Weights, LoadError> {
    let storages: Vec<_> = parts.iter().flat_map(|part| part.storages.iter().cloned()).collect();
    for (part, storage) in parts.iter_mut().zip(&storages) {
        // A table of RoPE's angles, which the code made and saved but never read.
        part.tensors.retain(|entry| !entry.name.ends_with("rope.freqs"));
        part.tensors.sort_by(|one, other| one.name.cmp(&other.name));
        if let Some(entry) = part.tensors.iter().find(|entry| name_and_split(&entry.name).is_none()) {
            return Err(LoadError::tensor(storage.path(), &entry.name, "no tensor of LLaMA has this name"));
        }
    }
    let mut parts = parts.into_iter().map(|part| part.tensors);
    let mut tensors = parts.next().unwrap_or_default();
    for (part, storage) in parts.zip(&storages[1..]) {
        let names = |tensors: &[TensorEntry]| -> Vec<String> {
            tensors.iter().map(|entry| entry.name.clone()).collect()
        };
        if names(&part) != names(&tensors) {
            let why = format!("its tensors are not those of {}", part_name(0));
            return Err(LoadError::header(storage.path(), 0, why));
        }
        for (whole, added) in tensors.iter_mut().zip(part) {
            let name = whole.name.clone();
            append(whole, added, width).map_err(|why| LoadError::tensor(storage.path(), &name, why))?;
        }
    }
    for entry in &mut tensors {
        if let Some((name, _)) = name_and_split(&entry.name) {
            entry.name = name;
        }
    }
    Ok(Weights { tensors, storages })
}

/// Adds a part of a tensor to the parts before it.
fn append(whole: &mut TensorEntry, part: TensorEntry, width: u64) -> Result<(), String> {
    let (_, split) = name_and_split(&whole.name).ok_or("no tensor of LLaMA has this name")?;
    let differ = || {
        let (one, other) = (&part.shape, &whole.shape);
        format!(
            "shape {one:?} of {} does not go with {other:?} of {} before it",
            part.encoding, whole.encoding
        )
    };
    if part.encoding != whole.encoding {
        return Err(differ());
    }
    if split == Split::Whole {
        return if part.shape == whole.shape { Ok(()) } else { Err(differ()) };
    }
    let (&[rows, cols], &[rows_before, cols_before]) = (part.shape.as_slice(), whole.shape.as_slice()) else {
        return Err(differ());
    };
    let by_columns = split == Split::Columns || split == Split::Either && cols != width;
    let (same, sum) = match by_columns {
        true => (rows == rows_before, cols_before.checked_add(cols)),
        false => (cols == cols_before, rows_before.checked_add(rows)),
    };
    let sum = sum.filter(|_| same).ok_or_else(differ)?;
    whole.shape[usize::from(by_columns)] = sum;
    whole.pieces.extend(part.pieces);
    Ok(())
}

/// Hugging Face's names for what `params.json` says, and what it leaves to the code that reads it.
fn config(params: &Fields, width: u64, weights: &Weights) -> Result<Config, LoadError> {
    if params.raw("moe").is_some() {
        return Err(params.wrong("moe", "nothing: mixtures of experts are not supported in this form"));
    }
    let few = 1..=4096;
    let embedding = shape(weights, "model.embed_tokens.weight", 2)?;
    let vocabulary = match params.raw("vocab_size").and_then(Value::as_i64) {
        Some(count) if count > 0 => params.count("vocab_size", 1..=1 << 24)?,
        _ => embedding[0],
    };
    let epsilon = params.number("norm_eps", 0.0..=1.0)?;
    let theta = params.optional_number("rope_theta", 1.0..=1e15)?;
    let stretched = params.optional_flag("use_scaled_rope")?.unwrap_or(false);
    let heads = params.count("n_heads", few.clone())?;
    // Meta's code sets no limit; these are the lengths that the generations were trained with.
    let positions = match (theta, stretched) {
        (_, true) => 131_072,
        (Some(_), false) => 8192,
        (None, false) if epsilon >= 9e-6 => 4096,
        (None, false) => 2048,
    };
    let (begin, ends) = match vocabulary {
        VOCABULARY_3 => (128_000, json!([128_001, 128_008, 128_009])),
        _ => (1, json!(2)),
    };
    let mut fields = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": shape(weights, "model.layers.0.mlp.gate_proj.weight", 2)?[0],
        "max_position_embeddings": positions,
        "num_attention_heads": heads,
        "num_key_value_heads": params.optional_count("n_kv_heads", few.clone())?.unwrap_or(heads),
        "num_hidden_layers": params.count("n_layers", few)?,
        "rms_norm_eps": epsilon,
        "rope_theta": theta.unwrap_or(10_000.0),
        "tie_word_embeddings": !weights.tensors.iter().any(|entry| entry.name == "lm_head.weight"),
        "vocab_size": vocabulary,
        "bos_token_id": begin,
        "eos_token_id": ends,
    });
    let fields = fields.as_object_mut().map(std::mem::take).unwrap_or_default();
    let mut fields = Fields::new(params.file(), fields);
    if stretched {
        let factor = params.optional_number("rope_scaling_factor", 1.0..=1e6)?.unwrap_or(8.0);
        let scaling = json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        });
        fields = fields.with("rope_scaling", scaling);
    }
    Ok(Config::from_fields(fields, true))
}
