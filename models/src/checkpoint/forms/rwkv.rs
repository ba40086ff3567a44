//! RWKV as BlinkDL publishes it: one `.pth` file whose tensors say all that there is to know of the model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::{checkpoint, layers, shape, weights};
use crate::checkpoint::open::Weights;
use crate::checkpoint::{Checkpoint, Storage, torch};
use crate::config::{Config, Fields};
use crate::error::{LoadError, quoted};

/// A generation, told by a tensor of its first block that those above it in the table do not have.
struct Generation {
    architecture: &'static str,
    tensor: &'static str,
    /// How many dimensions that tensor has.
    dimensions: usize,
    /// Whether the first of them is the number of heads.
    heads: bool,
}

/// From the latest to the first: 7 alone has `r_k`; 6 mixes by what it sees (`time_maa_x`); 5.2 keeps a decay
/// for each coordinate of a head, 5.1 and before one for each head; 5.1 has a gate.
static GENERATIONS: &[Generation] = &[
    Generation { architecture: "Rwkv7", tensor: "blocks.0.att.r_k", dimensions: 2, heads: true },
    Generation { architecture: "Rwkv6", tensor: "blocks.0.att.time_maa_x", dimensions: 3, heads: false },
    Generation { architecture: "Rwkv5_2", tensor: "blocks.0.att.time_faaaa", dimensions: 2, heads: true },
    Generation { architecture: "Rwkv5_1", tensor: "blocks.0.att.gate.weight", dimensions: 2, heads: false },
    Generation { architecture: "Rwkv5", tensor: "blocks.0.att.ln_x.weight", dimensions: 1, heads: false },
    Generation { architecture: "Rwkv4", tensor: "blocks.0.att.time_first", dimensions: 1, heads: false },
];

/// The one `.pth` file of a folder.
pub(super) fn find(folder: &Path) -> Result<Option<PathBuf>, LoadError> {
    let fault = |error| LoadError::io(folder, "list", error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        names.extend(name.to_str().filter(|name| name.ends_with(".pth")).map(str::to_owned));
    }
    names.sort();
    match names.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(folder.join(one))),
        several => Err(LoadError::Unsupported {
            file: folder.to_owned(),
            what: format!("a folder with {} .pth files and no configuration", several.len()),
            supported: format!("name one of them: {}", several.join(", ")),
        }),
    }
}

/// Opens a file, for which `path` stands and beside which `folder` may have a tokenizer.
pub(super) fn open(path: &Path, folder: &Path, file: &Path) -> Result<Checkpoint, LoadError> {
    let storage = Arc::new(Storage::open(file)?);
    let tensors = torch::parse(storage.as_ref().as_ref(), file)?.tensors()?;
    let weights = weights(storage, tensors);
    let config = config(file, &weights)?;
    Ok(checkpoint(path, folder, config, weights))
}

/// The inner widths of pairs of narrow matrices: the field, the first matrix of the pair, and how many stand side
/// by side in it.
fn ranks(architecture: &str) -> &'static [(&'static str, &'static str, u64)] {
    match architecture {
        "Rwkv6" => &[("rank_mixture", "time_maa_w1", 5), ("rank_decay", "time_decay_w1", 1)],
        "Rwkv7" => &[
            ("rank_decay", "w1", 1),
            ("rank_rate", "a1", 1),
            ("rank_value", "v1", 1),
            ("rank_gate", "g1", 1),
        ],
        _ => &[],
    }
}

fn config(file: &Path, weights: &Weights) -> Result<Config, LoadError> {
    let has = |name: &str| weights.tensors.iter().any(|entry| entry.name == name);
    let generation = GENERATIONS.iter().find(|generation| has(generation.tensor));
    let generation = generation.ok_or_else(|| LoadError::Unsupported {
        file: file.to_owned(),
        what: "a PyTorch file by itself that is no RWKV model".to_owned(),
        supported: "name the folder that has its config.json, params.json or \
                    latest_checkpointed_iteration.txt"
            .to_owned(),
    })?;
    // A layer of attention that later generations dropped, and that no reader of RWKV-4 has.
    if let Some(entry) = weights.tensors.iter().find(|entry| entry.name.contains(".tiny_")) {
        return Err(LoadError::Unsupported {
            file: file.to_owned(),
            what: format!("RWKV-4a or 4b (it has tensor {})", quoted(&entry.name)),
            supported: "RWKV-4, 5, 5.1, 5.2, 6 and 7 are".to_owned(),
        });
    }
    let telling = shape(weights, generation.tensor, generation.dimensions)?;
    let heads = match generation.architecture {
        _ if generation.heads => Some(telling[0]),
        "Rwkv6" => Some(shape(weights, "blocks.0.att.time_faaaa", 2)?[0]),
        "Rwkv5" | "Rwkv5_1" => Some(shape(weights, "blocks.0.att.time_decay", 1)?[0]),
        _ => None,
    };
    let embedding = shape(weights, "emb.weight", 2)?;
    let mut fields = json!({
        "architectures": [generation.architecture],
        "model_type": "rwkv",
        "vocab_size": embedding[0],
        "n_embd": embedding[1],
        "n_layer": layers(weights, "blocks."),
        "n_ffn": shape(weights, "blocks.0.ffn.key.weight", 2)?[0],
        "bos_token_id": 0,
        "eos_token_id": 0,
    });
    let fields = fields.as_object_mut().map(std::mem::take).unwrap_or_default();
    let mut fields = Fields::new(file, fields);
    if let Some(heads) = heads {
        fields = fields.with("n_head", heads.into());
    }
    for (field, tensor, parts) in ranks(generation.architecture) {
        let rank = shape(weights, &format!("blocks.0.att.{tensor}"), 2)?[1] / parts;
        fields = fields.with(field, rank.into());
    }
    Ok(Config::from_fields(fields, false))
}
