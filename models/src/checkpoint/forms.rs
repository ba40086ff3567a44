//! Folders and files of PyTorch's pickles, one row for each form in which models are published.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::open::{self, Weights};
use super::{Checkpoint, Piece, SideFiles, Storage, TensorEntry, index, quantised, torch};
use crate::config::Config;
use crate::error::LoadError;

mod llama;
mod pangu;
mod rwkv;

/// The name of Hugging Face's pickle, and of the index of several.
const PICKLE: &str = "pytorch_model.bin";
const PICKLE_INDEX: &str = "pytorch_model.bin.index.json";

/// A form of checkpoint that fills a folder.
struct Form {
    /// The file that tells it.
    file: &'static str,
    /// That file, if the folder has it.
    find: fn(&Path) -> Result<Option<PathBuf>, LoadError>,
    /// Opens the folder (first) by that file (second).
    open: fn(&Path, &Path) -> Result<Checkpoint, LoadError>,
}

static FORMS: &[Form] = &[
    Form {
        file: PICKLE,
        find: |folder| Ok(existing(folder, PICKLE)),
        open: |folder, file| huggingface(folder, torch_file(file)?),
    },
    Form {
        file: PICKLE_INDEX,
        find: |folder| Ok(existing(folder, PICKLE_INDEX)),
        open: |folder, file| {
            let index = index::read(file)?;
            huggingface(folder, open::shards(folder, &index, torch_storage)?)
        },
    },
    Form { file: llama::FILE, find: |folder| Ok(existing(folder, llama::FILE)), open: llama::open },
    Form { file: pangu::FILE, find: pangu::find, open: pangu::open },
    Form { file: "*.pth", find: rwkv::find, open: |folder, file| rwkv::open(folder, folder, file) },
];

fn existing(folder: &Path, name: &str) -> Option<PathBuf> {
    Some(folder.join(name)).filter(|file| file.exists())
}

/// The files by which folders of all forms are told.
pub(super) fn files() -> impl Iterator<Item = &'static str> {
    FORMS.iter().map(|form| form.file)
}

/// Opens a folder of one of the forms; `None` if it is of none.
pub(super) fn open_folder(folder: &Path) -> Result<Option<Checkpoint>, LoadError> {
    for form in FORMS {
        if let Some(file) = (form.find)(folder)? {
            return (form.open)(folder, &file).map(Some);
        }
    }
    Ok(None)
}

/// Whether a file goes by a name of torch's files.
pub(super) fn is_torch(file: &Path) -> bool {
    file.extension().is_some_and(|extension| ["pth", "pt", "bin"].iter().any(|known| extension == *known))
}

/// Opens a file that is named by itself: only RWKV's tensors say all about their model. Its tokenizer is looked
/// for beside it.
pub(super) fn open_file(file: &Path) -> Result<Checkpoint, LoadError> {
    rwkv::open(file, file.parent().unwrap_or(Path::new("")), file)
}

fn huggingface(folder: &Path, weights: Weights) -> Result<Checkpoint, LoadError> {
    let config = open::configured(folder)?;
    let weights = quantised::joined(&config, weights)?;
    Ok(checkpoint(folder, folder, config, weights))
}

fn checkpoint(path: &Path, folder: &Path, config: Config, weights: Weights) -> Checkpoint {
    Checkpoint::new(path, SideFiles::Folder(folder.to_owned()), config, weights)
}

fn torch_file(file: &Path) -> Result<Weights, LoadError> {
    torch_storage(Arc::new(Storage::open(file)?))
}

fn torch_storage(storage: Arc<Storage>) -> Result<Weights, LoadError> {
    let tensors = torch::parse(storage.as_ref().as_ref(), storage.path())?.tensors()?;
    Ok(weights(storage, tensors))
}

fn weights(storage: Arc<Storage>, tensors: Vec<torch::Tensor>) -> Weights {
    let tensors = tensors.into_iter().map(|tensor| entry(&storage, tensor)).collect();
    Weights { tensors, storages: vec![storage] }
}

fn entry(storage: &Arc<Storage>, tensor: torch::Tensor) -> TensorEntry {
    let torch::Tensor { name, element, shape, offset, len, rows, cols, stride } = tensor;
    let piece = Piece { storage: Arc::clone(storage), offset, len, rows, cols, stride };
    TensorEntry { name, encoding: element.encoding, shape, pieces: vec![piece] }
}

/// The shape of a tensor that must be there with so many dimensions.
fn shape<'a>(weights: &'a Weights, name: &str, dimensions: usize) -> Result<&'a [u64], LoadError> {
    let file = || weights.storages.first().map(|storage| storage.path().to_owned()).unwrap_or_default();
    let entry = weights
        .tensors
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| LoadError::Missing { file: file(), what: "tensors", names: vec![name.to_owned()] })?;
    if entry.shape.len() != dimensions || entry.shape.contains(&0) {
        let why = format!("shape {:?}, expected {dimensions} dimensions with elements", entry.shape);
        return Err(LoadError::tensor(&file(), name, why));
    }
    Ok(&entry.shape)
}

/// How many layers there are: one more than the highest number between `prefix` and a full stop.
fn layers(weights: &Weights, prefix: &str) -> u64 {
    let number =
        |entry: &TensorEntry| entry.name.strip_prefix(prefix)?.split_once('.')?.0.parse::<u32>().ok();
    weights.tensors.iter().filter_map(number).max().map_or(0, |last| u64::from(last) + 1)
}
