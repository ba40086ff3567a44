//! `model.safetensors.index.json`, or `pytorch_model.bin.index.json`: which of several files holds each tensor.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::json::{self, Members};
use super::storage::read_small;
use crate::error::{LoadError, quoted};

/// The name under which the index stands in a model's folder.
pub const FILE: &str = "model.safetensors.index.json";

/// The longest index that is read; that of a model of 600 billion parameters has 9 MB.
const LEN_MAX: u64 = 64_000_000;

#[derive(Deserialize)]
struct Raw {
    weight_map: Members<String>,
}

/// A checked index.
#[derive(Debug)]
pub struct Index {
    /// The index file.
    pub file: PathBuf,
    /// The shard of each tensor.
    pub shard_of: HashMap<String, String>,
    /// The shards' file names with one of their tensors each, in alphabetical order.
    pub shards: BTreeMap<String, String>,
}

/// Reads an index that must be there.
pub(crate) fn read(file: &Path) -> Result<Index, LoadError> {
    let bytes = read_small(file, LEN_MAX)?.ok_or_else(|| LoadError::Missing {
        file: file.to_owned(),
        what: "files",
        names: vec![file.display().to_string()],
    })?;
    parse(&bytes, file)
}

/// Reads an index. Shard names must stay inside the model's folder.
pub fn parse(bytes: &[u8], file: &Path) -> Result<Index, LoadError> {
    let Raw { weight_map: Members(members) } = json::read(bytes, file, 0)?;
    let mut shards = BTreeMap::new();
    for (tensor, shard) in &members {
        if !stays_inside(shard) {
            let why = format!("its shard {} is not the name of a file in the model's folder", quoted(shard));
            return Err(LoadError::tensor(file, tensor, why));
        }
        shards.entry(shard.clone()).or_insert_with(|| tensor.clone());
    }
    if shards.is_empty() {
        return Err(LoadError::header(file, 0, "weight_map names no tensor"));
    }
    Ok(Index { file: file.to_owned(), shard_of: members.into_iter().collect(), shards })
}

/// Whether a relative path can only lead to a file of the folder that it starts from, on every platform.
pub(crate) fn stays_inside(path: &str) -> bool {
    let plain = !path.is_empty() && !path.contains(['\\', ':', '\0']);
    plain && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}
