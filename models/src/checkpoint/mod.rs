//! A model's weights: where each tensor lies, and how it is encoded.
//!
//! A checkpoint is opened without reading any weights: files are mapped, headers are checked against the
//! files' lengths, and every tensor becomes pieces of a [`Storage`]. What the graph asks for by name, the
//! caller finds here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Config;
use crate::error::LoadError;

mod demo;
mod forms;
pub mod gguf;
pub mod index;
pub(crate) mod json;
pub mod names;
mod open;
mod quantised;
pub mod safetensors;
pub mod storage;
pub mod torch;

pub use storage::Storage;

/// A rectangle of a tensor's elements in a file. Its first byte need not be aligned to anything.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The bytes that the piece lies in.
    pub storage: Arc<Storage>,
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes, from the first byte of the first row to the last byte of the last.
    pub len: u64,
    /// Rows: of a tensor in one piece, the product of all dimensions but the last.
    pub rows: u64,
    /// Elements of a row: the last dimension, or a part of it.
    pub cols: u64,
    /// Bytes from the beginning of a row to that of the next.
    pub stride: u64,
}

impl Piece {
    /// The piece's bytes, through the mapping (see [`Storage`] on what that means).
    pub fn bytes(&self) -> &[u8] {
        let (start, len) = (self.offset as usize, self.len as usize);
        self.storage
            .as_ref()
            .as_ref()
            .get(start..)
            .and_then(|rest| rest.get(..len))
            .expect("a piece was checked against its storage when the checkpoint was opened")
    }
}

/// A tensor of a checkpoint, under its Hugging Face name.
#[derive(Debug, Clone)]
pub struct TensorEntry {
    /// `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// How elements are stored: an element type of safetensors or a block type of ggml in lower case, such as
    /// `f32`, `bf16`, `q4_0`, `q4_k`. See [`safetensors::ELEMENTS`] and [`gguf::BLOCKS`].
    pub encoding: &'static str,
    /// Dimensions in elements, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// The rectangles that cover the tensor: those beside each other from left to right, then those below.
    pub pieces: Vec<Piece>,
}

/// An opened model: its configuration, its tensors, and the small files beside them.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    side_files: SideFiles,
    config: Config,
    tensors: Vec<TensorEntry>,
    by_name: HashMap<String, usize>,
    gguf: Option<gguf::Metadata>,
    storages: Vec<Arc<Storage>>,
}

/// Where small files such as `tokenizer.json` come from.
#[derive(Debug)]
enum SideFiles {
    /// A GGUF file that was named by itself has none: its neighbours may belong to anything.
    None,
    Folder(PathBuf),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

impl Checkpoint {
    /// Opens a folder in Hugging Face's layout (`config.json` and `model.safetensors`, or shards with their
    /// index), a `.gguf` file (any file of a split set stands for all), or a folder with exactly one GGUF
    /// model. A folder without those may have PyTorch's files instead: `pytorch_model.bin` or its shards,
    /// LLaMA's `params.json` and `consolidated.NN.pth`, PanGu-alpha's Megatron state, or one `.pth` file of
    /// RWKV, which can also be named by itself.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        open::open(path)
    }

    /// Opens the demo model that is part of the program.
    pub fn demo() -> Result<Self, LoadError> {
        demo::open()
    }

    /// The hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The folder or file that was opened; `demo` for the demo model.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A tensor by its Hugging Face name. Files of a bare model, without its head, leave out the name's first
    /// word (`transformer.`, `bert.`), so that counts as the same name if nothing has the whole one.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        let bare = || name.split_once('.').and_then(|(_, bare)| self.by_name.get(bare));
        self.by_name.get(name).or_else(bare).map(|&index| &self.tensors[index])
    }

    /// A tensor that must be there.
    pub fn locate(&self, name: &str) -> Result<&TensorEntry, LoadError> {
        self.tensor(name).ok_or_else(|| LoadError::Missing {
            file: self.path.clone(),
            what: "tensors",
            names: vec![name.to_owned()],
        })
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorEntry> {
        self.tensors.iter()
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().flat_map(|tensor| &tensor.pieces).map(|piece| piece.len).sum()
    }

    /// The files that hold tensors.
    pub fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.storages.iter().map(AsRef::as_ref)
    }

    /// The metadata of a GGUF model, with its vocabulary and chat template; `None` for other formats.
    pub fn gguf(&self) -> Option<&gguf::Metadata> {
        self.gguf.as_ref()
    }

    /// Whether all weight files are still what they were when they were opened.
    pub fn verify_unchanged(&self) -> Result<(), LoadError> {
        self.storages.iter().try_for_each(|storage| storage.verify_unchanged())
    }

    /// Reads a small file of the model's folder, such as `tokenizer.json` or `chat_template.jinja`; `None` if
    /// there is none of this name. More than 64 MB is an error, and so is a name that leads out of the
    /// folder.
    pub fn file(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        const LIMIT: u64 = 64_000_000;
        if !index::stays_inside(name) {
            return Err(LoadError::NotFound {
                name: name.to_owned(),
                why: format!("it is not the name of a file in {}", self.path.display()),
                suggestions: Vec::new(),
            });
        }
        match &self.side_files {
            SideFiles::None => Ok(None),
            SideFiles::Folder(folder) => storage::read_small(&folder.join(name), LIMIT),
            SideFiles::Embedded(files) => {
                Ok(files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.to_vec()))
            }
        }
    }

    fn new(path: &Path, side_files: SideFiles, config: Config, weights: open::Weights) -> Self {
        let by_name =
            weights.tensors.iter().enumerate().map(|(index, entry)| (entry.name.clone(), index)).collect();
        Checkpoint {
            path: path.to_owned(),
            side_files,
            config,
            tensors: weights.tensors,
            by_name,
            gguf: None,
            storages: weights.storages,
        }
    }
}
