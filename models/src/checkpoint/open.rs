//! From a path to a [`Checkpoint`]: which files there are, and what their headers say together.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gguf::{self, Split};
use super::index::{self, Index};
use super::names::{self, Architecture, Named};
use super::storage::read_small;
use super::{Checkpoint, Piece, SideFiles, Storage, TensorEntry, forms, quantised, safetensors};
use crate::config::{Config, MAX_CONFIG};
use crate::error::LoadError;

const SAFETENSORS: &str = "model.safetensors";

/// Tensors with the files that they lie in.
pub(super) struct Weights {
    pub(super) tensors: Vec<TensorEntry>,
    pub(super) storages: Vec<Arc<Storage>>,
}

pub(super) fn open(path: &Path) -> Result<Checkpoint, LoadError> {
    let metadata = std::fs::metadata(path).map_err(|error| LoadError::io(path, "open", error))?;
    if metadata.is_file() && path.extension().is_some_and(|extension| extension == "safetensors") {
        return Err(LoadError::Unsupported {
            file: path.to_owned(),
            what: "a safetensors file without its folder".to_owned(),
            supported: "name the folder that has config.json as well".to_owned(),
        });
    }
    if !metadata.is_dir() && forms::is_torch(path) {
        return forms::open_file(path);
    }
    if !metadata.is_dir() {
        return gguf_model(path, path, SideFiles::None);
    }
    let has = |name: &str| path.join(name).exists();
    if has(SAFETENSORS) || has(index::FILE) {
        return huggingface_folder(path);
    }
    match gguf_of_folder(path)? {
        Some(file) => gguf_model(path, &file, SideFiles::Folder(path.to_owned())),
        None => forms::open_folder(path)?.ok_or_else(|| no_weights(path)),
    }
}

fn no_weights(folder: &Path) -> LoadError {
    LoadError::NoWeights {
        folder: folder.to_owned(),
        names: [SAFETENSORS, index::FILE, "*.gguf"]
            .into_iter()
            .chain(forms::files())
            .map(str::to_owned)
            .collect(),
    }
}

fn huggingface_folder(folder: &Path) -> Result<Checkpoint, LoadError> {
    let config = configured(folder)?;
    let single = folder.join(SAFETENSORS);
    let weights = if single.exists() {
        safetensors_file(Arc::new(Storage::open(&single)?))?
    } else {
        shards(folder, &index::read(&folder.join(index::FILE))?, safetensors_file)?
    };
    let weights = quantised::joined(&config, weights)?;
    Ok(Checkpoint::new(folder, SideFiles::Folder(folder.to_owned()), config, weights))
}

/// The hyperparameters of a folder, with the sampling that its authors recommend.
pub(super) fn configured(folder: &Path) -> Result<Config, LoadError> {
    let config = configuration(folder)?;
    let generation_file = folder.join("generation_config.json");
    match read_small(&generation_file, MAX_CONFIG)? {
        Some(generation) => config.with_generation(&generation, &generation_file),
        None => Ok(config),
    }
}

/// The hyperparameters of a folder: Hugging Face's `config.json`, or the arguments that PanGu-alpha's Megatron
/// code was started with.
fn configuration(folder: &Path) -> Result<Config, LoadError> {
    let file = folder.join("config.json");
    if let Some(bytes) = read_small(&file, MAX_CONFIG)? {
        return Config::from_json(&bytes, &file);
    }
    let file = folder.join("args.json");
    if let Some(bytes) = read_small(&file, MAX_CONFIG)? {
        return Ok(Config::from_json(&bytes, &file)?.of_architecture("PanguAlpha"));
    }
    let names = vec!["config.json".to_owned()];
    Err(LoadError::Missing { file: folder.to_owned(), what: "files", names })
}

pub(super) fn safetensors_file(storage: Arc<Storage>) -> Result<Weights, LoadError> {
    let header = safetensors::parse(storage.as_ref().as_ref(), storage.path())?;
    let tensors = header.tensors.into_iter().map(|tensor| safetensors_entry(&storage, tensor)).collect();
    Ok(Weights { tensors, storages: vec![storage] })
}

fn safetensors_entry(storage: &Arc<Storage>, tensor: safetensors::Tensor) -> TensorEntry {
    let safetensors::Tensor { name, element, shape, offset, len } = tensor;
    // A row of packed elements may end inside a byte; then the whole tensor is one row.
    let whole_rows = shape.last().is_none_or(|cols| cols % 8 * element.bits % 8 == 0);
    let piece = match whole_rows {
        true => rows_piece(storage, &shape, offset, len),
        false => rows_piece(storage, &[shape.iter().product()], offset, len),
    };
    TensorEntry { name, encoding: element.encoding, shape, pieces: vec![piece] }
}

/// A piece that holds a whole tensor without gaps between its rows.
fn rows_piece(storage: &Arc<Storage>, shape: &[u64], offset: u64, len: u64) -> Piece {
    let (cols, rows) = match shape.split_last() {
        Some((cols, outer)) => (*cols, outer.iter().product()),
        None => (1, 1),
    };
    let stride = len.checked_div(rows).unwrap_or(0);
    Piece { storage: Arc::clone(storage), offset, len, rows, cols, stride }
}

/// The tensors of all shards that an index names; `read` gives those of one.
pub(super) fn shards(
    folder: &Path,
    index: &Index,
    read: fn(Arc<Storage>) -> Result<Weights, LoadError>,
) -> Result<Weights, LoadError> {
    let absent: Vec<String> =
        index.shards.keys().filter(|shard| !folder.join(shard).exists()).cloned().collect();
    if !absent.is_empty() {
        return Err(LoadError::Missing { file: index.file.clone(), what: "shards", names: absent });
    }
    let mut weights = Weights { tensors: Vec::new(), storages: Vec::new() };
    let mut found = HashSet::new();
    let mut elsewhere = Vec::new();
    for shard in index.shards.keys() {
        let storage = Arc::new(Storage::open(&folder.join(shard))?);
        let part = read(storage)?;
        weights.storages.extend(part.storages);
        for entry in part.tensors {
            match index.shard_of.get(&entry.name) {
                Some(expected) if expected == shard => {
                    found.insert(entry.name.clone());
                    weights.tensors.push(entry);
                }
                Some(_) => elsewhere.push((entry.name, shard)),
                // A tensor that the index does not list is not part of the model.
                None => {}
            }
        }
    }
    let mut absent: Vec<&String> = index.shard_of.keys().filter(|name| !found.contains(*name)).collect();
    absent.sort();
    let Some(first) = absent.first() else {
        return Ok(weights);
    };
    if let Some((name, shard)) = elsewhere.iter().find(|(name, _)| !found.contains(name)) {
        let why = format!("the index places it in {}, but it is in {shard}", index.shard_of[name]);
        return Err(LoadError::tensor(&index.file, name, why));
    }
    let why = format!("the index places it in {}, which does not have it", index.shard_of[*first]);
    Err(LoadError::tensor(&index.file, first, why))
}

/// The one GGUF model of a folder: a single file, or the first of a single split set.
fn gguf_of_folder(folder: &Path) -> Result<Option<PathBuf>, LoadError> {
    let fault = |error| LoadError::io(folder, "list", error);
    let mut models = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let name = entry.map_err(fault)?.file_name();
        let Some(name) = name.to_str().filter(|name| name.ends_with(".gguf")) else {
            continue;
        };
        models.push(Split::of(name).map_or(name.to_owned(), |split| split.name(1)));
    }
    models.sort();
    models.dedup();
    match models.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(folder.join(one))),
        several => Err(LoadError::Unsupported {
            file: folder.to_owned(),
            what: format!("a folder with {} GGUF models", several.len()),
            supported: format!("name one of them: {}", several.join(", ")),
        }),
    }
}

fn gguf_model(path: &Path, file: &Path, side_files: SideFiles) -> Result<Checkpoint, LoadError> {
    let mut headers = Vec::new();
    for (file, split) in gguf_files(file)? {
        let storage = Arc::new(Storage::open(&file)?);
        let header = gguf::parse(storage.as_ref().as_ref(), &file)?;
        if let Some(split) = split {
            split.check(&header, &file)?;
        }
        headers.push((storage, header));
    }
    let (first_storage, first) = headers.first().expect("gguf_files returns at least one file");
    let first_file = first_storage.path().to_owned();
    let architecture = Architecture::of(&first.metadata, &first_file)?;
    let weights = gguf_weights(architecture, &headers)?;
    let count: usize = headers.iter().map(|(_, header)| header.tensors.len()).sum();
    check_split_total(first, &first_file, count as u64)?;
    let shape =
        |name: &str| weights.tensors.iter().find(|entry| entry.name == name).map(|entry| entry.shape.clone());
    let factors = rope_factors(&weights, &first_file)?;
    let config = names::config(architecture, first, &first_file, &shape, factors)?;
    let mut checkpoint = Checkpoint::new(path, side_files, config, weights);
    checkpoint.gguf = headers.into_iter().next().map(|(_, header)| header.metadata);
    Ok(checkpoint)
}

/// A split set says in its first file how many tensors all files have together.
fn check_split_total(first: &gguf::Header, file: &Path, total: u64) -> Result<(), LoadError> {
    const KEY: &str = "split.tensors.count";
    match first.metadata.get(KEY) {
        Some(count) if count.unsigned() != Some(total) => Err(LoadError::Field {
            file: file.to_owned(),
            field: KEY.to_owned(),
            expected: format!("{total}, as many tensors as the files have"),
            found: count.to_string(),
        }),
        _ => Ok(()),
    }
}

/// All files of the model that `file` is, or is a part of.
fn gguf_files(file: &Path) -> Result<Vec<(PathBuf, Option<Split>)>, LoadError> {
    let Some(split) = file.file_name().and_then(|name| name.to_str()).and_then(Split::of) else {
        return Ok(vec![(file.to_owned(), None)]);
    };
    let mut files = Vec::new();
    let mut absent = Vec::new();
    for number in 1..=split.count {
        let name = split.name(number);
        let part = file.with_file_name(&name);
        match part.exists() {
            true => files.push((part, Some(Split { number, ..split.clone() }))),
            false => absent.push(name),
        }
    }
    match absent.is_empty() {
        true => Ok(files),
        false => Err(LoadError::Missing { file: file.to_owned(), what: "split files", names: absent }),
    }
}

fn gguf_weights(
    architecture: &Architecture,
    headers: &[(Arc<Storage>, gguf::Header)],
) -> Result<Weights, LoadError> {
    let metadata = &headers.first().expect("gguf_files returns at least one file").1.metadata;
    let mut names = HashSet::new();
    let mut weights = Weights { tensors: Vec::new(), storages: Vec::new() };
    for (storage, header) in headers {
        weights.storages.push(Arc::clone(storage));
        for tensor in &header.tensors {
            for Named { name, shape, offset, len } in architecture.named(tensor, metadata) {
                if !names.insert(name.clone()) {
                    let why = format!("{name} comes twice");
                    return Err(LoadError::tensor(storage.path(), &tensor.name, why));
                }
                let piece = rows_piece(storage, &shape, tensor.offset + offset, len);
                let encoding = tensor.block.encoding;
                weights.tensors.push(TensorEntry { name, encoding, shape, pieces: vec![piece] });
            }
        }
    }
    Ok(weights)
}

/// The divisors of RoPE's frequencies, one for each pair of a head's numbers: a few hundred bytes, read here
/// because they shape the graph as the other hyperparameters do.
fn rope_factors(weights: &Weights, file: &Path) -> Result<Option<Vec<f32>>, LoadError> {
    const MOST: u64 = 4096;
    let Some(entry) = weights.tensors.iter().find(|entry| entry.name == names::ROPE_FACTORS) else {
        return Ok(None);
    };
    let fault = |why: &str| LoadError::tensor(file, names::ROPE_FACTORS, why);
    let (["f32"], [count], [piece]) = ([entry.encoding], &entry.shape[..], &entry.pieces[..]) else {
        return Err(fault("expected one dimension of f32"));
    };
    if *count > MOST {
        return Err(fault("more numbers than a head can have pairs"));
    }
    let (chunks, _) = piece.bytes().as_chunks::<4>();
    let factors: Vec<f32> = chunks.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect();
    match factors.iter().all(|factor| factor.is_finite() && *factor > 0.0) {
        true => Ok(Some(factors)),
        false => Err(fault("a divisor that is not a positive number")),
    }
}
