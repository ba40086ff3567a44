//! Whether files still have what they had: mapped ones of which a part is gone, and rows that are read one by one.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use super::{Source, Weights};
use crate::device::Bytes;
use crate::error::Error;
use crate::os::{self, Watched};
use crate::residence::Files;

/// A mapped file that weights are read from. It is watched for no longer than it is mapped.
pub(super) struct Watching {
    watched: Watched,
    bytes: Bytes,
    path: Arc<Path>,
}

/// What is said of a mapped file of which something was missing when somebody read it.
fn whole(is_lost: bool, path: &Path) -> Result<(), Error> {
    match is_lost {
        false => Ok(()),
        true => Err(Error::File {
            file: path.to_path_buf(),
            why: "a part of it cannot be read any more: it was shortened while it was in use, or its disk fails".to_owned(),
        }),
    }
}

impl Source {
    /// Fails if bytes of its mapped files were missing when somebody read them: what was made of them is worth nothing.
    pub(super) fn check_whole(&self) -> Result<(), Error> {
        let files = self.pieces.iter().filter_map(|piece| Some((&piece.bytes, piece.file.as_ref()?)));
        files.into_iter().try_for_each(|(bytes, path)| whole(os::is_lost((**bytes).as_ref()), path))
    }
}

impl Weights {
    /// Has a page that is missing of these files end passes and not the process.
    pub(super) fn watch(&mut self, source: &Source) {
        for piece in &source.pieces {
            if let Some(path) = &piece.file {
                self.watch_one(&piece.bytes, path);
            }
        }
    }

    /// The same for one file.
    pub(super) fn watch_one(&mut self, bytes: &Bytes, path: &Arc<Path>) {
        let all: &[u8] = (**bytes).as_ref();
        let is_same = |known: &Watching| std::ptr::eq((*known.bytes).as_ref(), all);
        if !self.watched.iter().any(is_same) {
            let (bytes, path) = (bytes.clone(), path.clone());
            self.watched.push(Watching { watched: Watched::new(all), bytes, path });
        }
    }

    /// Fails if bytes of a mapped file were missing when somebody read them.
    pub(crate) fn check_whole(&self) -> Result<(), Error> {
        self.watched.iter().try_for_each(|file| whole(file.watched.is_lost(), &file.path))
    }
}

/// Hashes of the rows that were read one by one, as a token's row of embeddings is. 0: not read yet.
#[derive(Default)]
pub(super) struct RowSums(Mutex<HashMap<String, Vec<u64>>>);

impl RowSums {
    /// A row of a weight, past the page cache: what it was when it was first read.
    ///
    /// # Errors
    /// It cannot be read, or was read twice and is another.
    pub(super) fn read(
        &self,
        weight: &str,
        source: &Source,
        row: u64,
        files: &Files,
    ) -> Result<Source, Error> {
        for _ in 0..2 {
            let section = source.section(row..row + 1, files)?;
            let hash = section.row(0).map_or(0, |bytes| xxh3_64(&bytes));
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !known.contains_key(weight) {
                known.insert(weight.to_owned(), vec![0; source.matrix().0 as usize]);
            }
            let place = known.get_mut(weight).and_then(|rows| rows.get_mut(row as usize));
            match place {
                Some(before) if *before != 0 && *before != hash => {}
                Some(before) => {
                    *before = hash;
                    return Ok(section);
                }
                None => return Ok(section),
            }
        }
        let why = format!("row {row} is not what it was when it was first read, read twice");
        Err(Error::Weight { name: weight.to_owned(), why })
    }
}
