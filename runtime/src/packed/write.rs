//! Writes a packed file beside the work, under a name that says that it is not whole yet.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::table::{Entry, Head};
use super::{Moment, PackedFolder};
use crate::error::Error;
use crate::os;

/// Why there is no packed file.
pub(super) enum Refusal {
    /// Another process is writing it.
    Busy,
    /// The disk has no room for it.
    Space {
        /// Bytes of the file.
        need: u64,
        /// Bytes that may still be written.
        free: u64,
    },
    /// The system refuses.
    System(&'static str, io::Error),
    /// The weights could not be had.
    Weights(Error),
}

/// Bytes that are written at once, each time at a multiple of them. Two huge pages: Linux then keeps the file in huge
/// pages and maps it by them, wherever planes begin.
const UNIT: usize = 4 << 20;

/// Writes a file from its beginning to its end, by units.
struct Units<'a> {
    file: &'a mut File,
    filled: Vec<u8>,
    /// Bytes so far.
    at: u64,
}

impl Units<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(UNIT - self.filled.len()));
            self.filled.extend_from_slice(now);
            self.at += now.len() as u64;
            bytes = rest;
            if self.filled.len() == UNIT {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.filled)?;
        self.filled.clear();
        Ok(())
    }

    /// Fills up to where a plane begins.
    fn skip_to(&mut self, offset: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < offset {
            self.write(&ZEROS[..(offset - self.at).min(4096) as usize])?;
        }
        Ok(())
    }
}

/// Gives the bytes of a chunk of a plane.
pub(crate) type Chunks<'a> = dyn FnMut(usize, usize) -> Result<Vec<u8>, Error> + 'a;

/// Where the file that is written has its name.
pub(super) fn temporary(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

/// Writes a packed file. Only a whole one gets its name; of any other nothing is left, or what the next start removes.
pub(super) fn write(
    folder: &PackedFolder,
    path: &Path,
    head: &mut Head,
    chunks: &mut Chunks<'_>,
) -> Result<(), Refusal> {
    let temporary = temporary(path);
    let Some(mut file) = locked(&temporary).map_err(|error| Refusal::System("create", error))? else {
        return Err(Refusal::Busy);
    };
    if path.exists() {
        // It was finished by another process between our look and our lock.
        let _ = fs::remove_file(&temporary);
        return Ok(());
    }
    let written = fill(folder, &mut file, path, head, chunks).and_then(|()| {
        folder.moment(Moment::Name).and_then(|()| fs::rename(&temporary, path)).map_err(failed)
    });
    if written.is_err() && !folder.is_dead() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn failed(error: io::Error) -> Refusal {
    Refusal::System("write", error)
}

/// The file under its temporary name, empty, and ours alone; nothing if somebody else has it. What a process that died
/// has left there is taken over.
fn locked(temporary: &Path) -> io::Result<Option<File>> {
    let file = os::open_private_file(temporary)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
        Ok(()) => {}
    }
    // Whoever had it before may have given it its name, or removed it, before we had the lock.
    if !os::is_at(&file, temporary) {
        return Ok(None);
    }
    file.set_len(0)?;
    Ok(Some(file))
}

fn fill(
    folder: &PackedFolder,
    file: &mut File,
    path: &Path,
    head: &mut Head,
    chunks: &mut Chunks<'_>,
) -> Result<(), Refusal> {
    let need = head.planes.last().map_or(0, |plane| plane.offset + plane.len);
    let parent = path.parent().unwrap_or(Path::new(""));
    if let Some(free) = (folder.room)(parent).filter(|free| *free < need) {
        return Err(Refusal::Space { need, free });
    }
    folder.moment(Moment::Length).and_then(|()| file.set_len(need)).map_err(failed)?;
    let mut units = Units { file, filled: Vec::with_capacity(UNIT), at: 0 };
    for (number, plane) in head.planes.iter_mut().enumerate() {
        units.skip_to(plane.offset).map_err(failed)?;
        for chunk in 0..Entry::chunks(plane.len, plane.chunk_bytes) as usize {
            let bytes = chunks(number, chunk).map_err(Refusal::Weights)?;
            plane.sums[chunk] = xxh3_64(&bytes);
            folder.moment(Moment::Chunk).and_then(|()| units.write(&bytes)).map_err(failed)?;
        }
    }
    units.flush().map_err(failed)?;
    let head = head.encode().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    folder.moment(Moment::Head).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&head)).map_err(failed)
    // Not synchronised to the disk, which would take as long as the disk takes: a file torn by a power cut fails its
    // hashes and is made again.
}
