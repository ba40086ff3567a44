//! The probabilities of a run, as llama.cpp's `llama-perplexity --kl-divergence-base` keeps them.
//!
//! `_logits_`, then 32-bit little-endian numbers: tokens of a piece, tokens of the vocabulary, pieces, and the tokens
//! themselves. Then for each predicted place: a scale and the least logarithm as `f32`, and one 16-bit number for each
//! token of the vocabulary (an even number of them), `logarithm = scale * number + least`. Probabilities more than
//! `e^16` times smaller than the largest are the least one.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::statistics::{Kept, Row};
use super::{SHORTEST, Text};

const MAGIC: &[u8; 8] = b"_logits_";

/// Logits further below the largest are not told apart.
const DEPTH: f32 = 16.0;

/// Bytes of a place: scale, least, and an even number of 16-bit numbers.
fn row_bytes(vocabulary: usize) -> usize {
    8 + 2 * vocabulary.next_multiple_of(2)
}

/// Writes a base.
pub(super) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    row: Vec<u8>,
}

impl Writer {
    pub(super) fn create(path: &Path, text: &Text, vocabulary: usize) -> anyhow::Result<Writer> {
        let shown = || format!("{} cannot be written", path.display());
        let mut file = BufWriter::new(File::create(path).with_context(shown)?);
        file.write_all(MAGIC).with_context(shown)?;
        let used = &text.tokens[..text.pieces * text.context];
        let head = [text.context, vocabulary, text.pieces].map(|n| n as u32);
        for number in head.iter().chain(used) {
            file.write_all(&number.to_le_bytes()).with_context(shown)?;
        }
        Ok(Writer { path: path.to_owned(), file, row: vec![0; row_bytes(vocabulary)] })
    }

    /// Keeps the probabilities of a place.
    pub(super) fn row(&mut self, logits: &[f32], row: &Row) -> anyhow::Result<()> {
        let least = row.least.max(row.largest - DEPTH);
        let scale = (row.largest - least) / f32::from(u16::MAX);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        self.row[..4].copy_from_slice(&scale.to_le_bytes());
        self.row[4..8].copy_from_slice(&(least - row.logarithm).to_le_bytes());
        for (place, logit) in self.row[8..].chunks_exact_mut(2).zip(logits) {
            let number = ((logit - least).max(0.0) * inverse).round_ties_even() as u16;
            place.copy_from_slice(&number.to_le_bytes());
        }
        self.file.write_all(&self.row).with_context(|| format!("{} cannot be written", self.path.display()))
    }

    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.file.flush().with_context(|| format!("{} cannot be written", self.path.display()))
    }
}

/// Reads a base.
pub(super) struct Reader {
    pub(super) path: PathBuf,
    file: BufReader<File>,
    /// Bytes of the file.
    len: u64,
    context: usize,
    pub(super) vocabulary: usize,
    pieces: usize,
    row: Vec<u8>,
}

impl Reader {
    pub(super) fn open(path: &Path) -> anyhow::Result<Reader> {
        let shown = path.display();
        let cannot = || format!("{shown} cannot be read");
        let file = File::open(path).with_context(cannot)?;
        let len = file.metadata().with_context(cannot)?.len();
        let mut file = BufReader::new(file);
        let mut head = [0; 20];
        if file.read_exact(&mut head).is_err() || head[..8] != *MAGIC {
            bail!("{shown} has no probabilities: it does not begin with {:?}", "_logits_");
        }
        let number = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| head[at + byte])) as usize;
        let [context, vocabulary, pieces] = [number(8), number(12), number(16)];
        let mut reader =
            Reader { path: path.to_owned(), file, len, context, vocabulary, pieces, row: Vec::new() };
        if context < SHORTEST && reader.expected() == Some(len) {
            bail!("{shown} has pieces of {context} tokens, which predict nothing");
        }
        if context < SHORTEST || vocabulary == 0 || pieces == 0 || reader.expected() != Some(len) {
            bail!(
                "{shown} has {len} bytes, but says it has {pieces} pieces of {context} tokens out of {vocabulary}"
            );
        }
        reader.row = vec![0; row_bytes(vocabulary)];
        Ok(reader)
    }

    /// Bytes that a file with such a head has.
    fn expected(&self) -> Option<u64> {
        let [context, vocabulary, pieces] = [self.context, self.vocabulary, self.pieces].map(|n| n as u64);
        let row = 8 + 2 * vocabulary.next_multiple_of(2);
        let places = context.checked_sub(1 + context / 2)?.checked_mul(pieces)?;
        let tokens = context.checked_mul(pieces)?.checked_mul(4)?;
        places.checked_mul(row)?.checked_add(tokens)?.checked_add(20)
    }

    /// The tokens that were predicted.
    pub(super) fn text(&mut self, begin: Option<u32>) -> anyhow::Result<Text> {
        // No more than the file has, which is what its head says.
        let mut bytes = vec![0; self.context * self.pieces * 4];
        self.file
            .read_exact(&mut bytes)
            .with_context(|| format!("{} cannot be read", self.path.display()))?;
        let tokens = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        Ok(Text { tokens, context: self.context, pieces: self.pieces, begin })
    }

    /// What was kept of the next place.
    pub(super) fn row(&mut self) -> anyhow::Result<Kept<'_>> {
        let shown = || format!("{} became shorter than its {} bytes", self.path.display(), self.len);
        self.file.read_exact(&mut self.row).with_context(shown)?;
        let (head, numbers) = self.row.split_at(8);
        let float = |at: usize| f32::from_le_bytes([0, 1, 2, 3].map(|byte| head[at + byte]));
        let numbers = &numbers.as_chunks::<2>().0[..self.vocabulary];
        let (scale, least) = (float(0), float(4));
        if !(scale >= 0.0 && scale.is_finite() && least.is_finite()) {
            bail!("{} has no probabilities for a place: scale {scale}, least {least}", self.path.display());
        }
        Ok(Kept { scale, least, numbers })
    }
}
