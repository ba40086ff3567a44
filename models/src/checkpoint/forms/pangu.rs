//! PanGu-alpha as PCL publishes it: the folder that Megatron's code keeps its training in.
//!
//! `latest_checkpointed_iteration.txt` names a folder, that holds `mp_rank_00/model_optim_rng.pt`, and there
//! the model is one of several things saved.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{checkpoint, layers, shape, weights};
use crate::checkpoint::open::Weights;
use crate::checkpoint::storage::read_small;
use crate::checkpoint::{Checkpoint, Storage, json, torch};
use crate::config::{Config, Fields, MAX_CONFIG};
use crate::error::{LoadError, quoted};

/// The file that says how far the training came.
pub(super) const FILE: &str = "latest_checkpointed_iteration.txt";
const STATE: [&str; 2] = ["model_optim_rng.pt", "model_optim_rng.pth"];
const WORDS: &str = "language_model.embedding.word_embeddings.weight";
const POSITIONS: &str = "language_model.embedding.position_embeddings.weight";
const LAYERS: &str = "language_model.transformer.layers.";

/// The heads of the two published sizes by their width: shapes do not tell them.
const HEADS: [(u64, u64); 2] = [(2560, 32), (5120, 40)];

/// What the arguments of the training say of the model.
const ARGUMENTS: [&str; 5] =
    ["num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings", "layernorm_epsilon"];

/// The tracker's file in the folder, or in `checkpoint` below it.
pub(super) fn find(folder: &Path) -> Result<Option<PathBuf>, LoadError> {
    Ok([folder.join(FILE), folder.join("checkpoint").join(FILE)].into_iter().find(|file| file.exists()))
}

pub(super) fn open(folder: &Path, tracker: &Path) -> Result<Checkpoint, LoadError> {
    let storage = Arc::new(Storage::open(&state_file(tracker)?)?);
    let contents = torch::parse(storage.as_ref().as_ref(), storage.path())?;
    let tensors = contents.tensors_within(&["model", "language_model"])?;
    let saved = contents.settings("args").unwrap_or_default();
    let weights = weights(Arc::clone(&storage), tensors);
    let config = config(folder, storage.path(), &weights, saved)?;
    Ok(checkpoint(folder, folder, config, weights))
}

/// The file that the tracker leads to.
fn state_file(tracker: &Path) -> Result<PathBuf, LoadError> {
    const TRACKER_MAX: u64 = 64;
    let text = read_small(tracker, TRACKER_MAX)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let iteration = match text.trim() {
        "release" => "release".to_owned(),
        number => {
            let number: u64 = number.parse().map_err(|_| {
                let why = format!("expected the number of an iteration, found {}", quoted(number));
                LoadError::header(tracker, 0, why)
            })?;
            format!("iter_{number:07}")
        }
    };
    let folder = tracker.with_file_name(iteration);
    if folder.join("mp_rank_01").exists() {
        return Err(LoadError::Unsupported {
            file: folder,
            what: "a model in several parallel parts".to_owned(),
            supported: "merge them into mp_rank_00".to_owned(),
        });
    }
    let files = STATE.map(|name| folder.join("mp_rank_00").join(name));
    files.iter().find(|file| file.exists()).cloned().ok_or_else(|| LoadError::NoWeights {
        folder: folder.clone(),
        names: files.iter().map(|file| file.display().to_string()).collect(),
    })
}

/// The arguments that were saved with the model come first, those of `args.json` second, and what shapes tell
/// last. The vocabulary is padded, so that its size is that of its table.
fn config(
    folder: &Path,
    file: &Path,
    weights: &Weights,
    saved: Map<String, Value>,
) -> Result<Config, LoadError> {
    let (words, positions) = (shape(weights, WORDS, 2)?, shape(weights, POSITIONS, 2)?);
    let mut fields = json!({
        "architectures": ["PanguAlpha"],
        "num_layers": layers(weights, LAYERS),
        "hidden_size": words[1],
        "max_position_embeddings": positions[0],
        "vocab_size": words[0],
    });
    let fields = fields.as_object_mut().map(std::mem::take).unwrap_or_default();
    let mut fields = Fields::new(file, fields);
    if let Some((_, heads)) = HEADS.iter().find(|(width, _)| *width == words[1]) {
        fields = fields.with("num_attention_heads", (*heads).into());
    }
    let beside = folder.join("args.json");
    let beside = match read_small(&beside, MAX_CONFIG)? {
        Some(text) => json::read::<Map<String, Value>>(&text, &beside, 0)?,
        None => Map::new(),
    };
    for arguments in [beside, saved] {
        for (name, value) in arguments.into_iter().filter(|(name, _)| ARGUMENTS.contains(&name.as_str())) {
            fields = fields.with(&name, value);
        }
    }
    Ok(Config::from_fields(fields, false))
}
