//! Model files with random weights, in the shapes of well-known models: speed does not depend on what weights are.
//!
//! The file is GGUF (version 3), which llama.cpp reads too. A file may be larger than memory: no more than a few megabytes of it are there at a time.

mod blocks;
mod disk;
mod gguf;
mod shape;
mod vocabulary;

use std::io::{self, Write};
use std::path::Path;

use blocks::{Blocks, ENCODINGS, Encoding};
use disk::Disk;
use gguf::ALIGNMENT;
use shape::{Contents, SHAPES, Tensor};

/// A model that can be written.
pub struct Synthetic {
    beginning: Vec<u8>,
    tensors: Vec<Tensor>,
}

impl Synthetic {
    /// A model of a shape by its name, all matrices in an encoding by its name, with as many layers as the shape has
    /// unless another number is asked for.
    ///
    /// # Errors
    /// What is asked for is not there; the message says what is.
    pub fn of(shape: &str, encoding: &str, layers: Option<u64>) -> Result<Synthetic, String> {
        let known = |names: Vec<&str>| names.join(", ");
        let found = SHAPES.iter().find(|known| known.name == shape);
        let shape = found.ok_or_else(|| {
            format!("there is no shape {shape}, only {}", known(SHAPES.iter().map(|s| s.name).collect()))
        })?;
        let found = ENCODINGS.iter().find(|known| known.name == encoding);
        let encoding: &'static Encoding = found.ok_or_else(|| {
            format!(
                "there is no encoding {encoding}, only {}",
                known(ENCODINGS.iter().map(|e| e.name).collect())
            )
        })?;
        let layers = layers.unwrap_or(shape.layers);
        let tensors = shape.tensors(layers, encoding);
        let is_cut = |tensor: &&Tensor| match tensor.contents {
            Contents::Random(encoding) => !tensor.extents[0].is_multiple_of(encoding.numbers),
            Contents::Ones => false,
        };
        if let Some(cut) = tensors.iter().find(is_cut) {
            let (name, columns, block) = (&cut.name, cut.extents[0], encoding.numbers);
            return Err(format!("{name}: rows of {columns} numbers do not divide into blocks of {block}"));
        }
        Ok(Synthetic { beginning: gguf::beginning(&shape.header(layers, encoding), &tensors), tensors })
    }

    /// How long the file is.
    pub fn bytes(&self) -> u64 {
        let data: u64 = self.tensors.iter().map(|tensor| tensor.bytes().next_multiple_of(ALIGNMENT)).sum();
        self.beginning.len() as u64 + data
    }

    /// Writes the file and tells now and then how many bytes it has. One that is not finished does not stay.
    ///
    /// # Errors
    /// The disk has no room, which is seen before anything is written, or the system refuses.
    pub fn write(&self, path: &Path, tell: &mut dyn FnMut(u64)) -> Result<(), String> {
        let (need, before) = (self.bytes(), path.metadata().map_or(0, |found| found.len()));
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Some(free) = jtllm_swap::os::free_bytes(folder)
            && free.saturating_add(before) < need
        {
            return Err(format!("{} takes {need} bytes, and its disk has {free} left", path.display()));
        }
        self.fill(path, tell).map_err(|error| {
            let _ = std::fs::remove_file(path);
            format!("{}: {error}", path.display())
        })
    }

    fn fill(&self, path: &Path, tell: &mut dyn FnMut(u64)) -> io::Result<()> {
        let mut file = Disk::create(path)?;
        file.write_all(&self.beginning)?;
        let (mut blocks, mut bytes) = (Blocks(0x9E37_79B9_7F4A_7C15), Vec::new());
        for tensor in &self.tensors {
            let mut left = tensor.bytes();
            while left > 0 {
                match tensor.contents {
                    Contents::Ones => bytes = 1f32.to_le_bytes().repeat(tensor.extents[0] as usize),
                    Contents::Random(encoding) => blocks.fill(encoding, &mut bytes),
                }
                let part = left.min(bytes.len() as u64);
                file.write_all(&bytes[..part as usize])?;
                left -= part;
                tell(file.written());
            }
            let padding = tensor.bytes().next_multiple_of(ALIGNMENT) - tensor.bytes();
            file.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
        }
        file.finish()
    }
}
