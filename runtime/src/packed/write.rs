//! Writes a packed file beside the work, under a name that says that it is not whole yet.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use jtllm_swap::os::is_at;
use jtllm_swap::store::{BLOCK_BYTES, FileStore, write_all};
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

/// How bytes go to the file.
pub(super) enum Way<'a> {
    /// From its beginning to its end, through the page cache, where the next start finds them.
    Cached(&'a mut Chunks<'a>),
    /// Weight by weight, past the page cache: what lies there counts as memory.
    PastCache(ByWeight<'a>),
}

/// What gives the bytes of all planes of a weight at once, so that each is read and taken apart once.
pub(crate) struct ByWeight<'a> {
    /// How many planes each weight has.
    pub(crate) planes: Vec<usize>,
    /// Gives the bytes of a chunk of each plane of a weight.
    pub(crate) chunks: &'a mut WeightChunks<'a>,
}

/// What writes a run of bytes to the file.
enum To<'a> {
    /// Whatever is written next follows.
    Next(&'a mut File),
    /// Whole blocks, past the page cache.
    Blocks(&'a FileStore),
}

/// Writes a run of bytes from its beginning to its end, by units.
struct Units<'a> {
    to: To<'a>,
    /// Room for a unit at a block's border, and how much of it is filled.
    buffer: Vec<u8>,
    unit: usize,
    skip: usize,
    filled: usize,
    /// Where the next byte belongs in the file.
    at: u64,
}

impl Units<'_> {
    /// Units of so many bytes, whole blocks, from `at` on, which is at a block's border.
    fn new(to: To<'_>, at: u64, unit: usize) -> Units<'_> {
        let buffer = vec![0; unit + BLOCK_BYTES as usize];
        let skip = buffer.as_ptr().align_offset(BLOCK_BYTES as usize);
        Units { to, buffer, unit, skip, filled: 0, at }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(self.unit - self.filled));
            self.buffer[self.skip + self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            self.at += now.len() as u64;
            bytes = rest;
            if self.filled == self.unit {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        let unit = &mut self.buffer[self.skip..];
        match &mut self.to {
            To::Next(file) => file.write_all(&unit[..filled]),
            To::Blocks(store) => {
                // The last unit ends in zeros up to a block's border: nothing begins there, or the caller cuts them off.
                let whole = filled.next_multiple_of(BLOCK_BYTES as usize);
                unit[filled..whole].fill(0);
                write_all(*store, self.at - filled as u64, &unit[..whole])
            }
        }
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

/// Gives the bytes of a chunk of each plane of a weight.
pub(crate) type WeightChunks<'a> = dyn FnMut(usize, usize) -> Result<Vec<Vec<u8>>, Error> + 'a;

/// Where the file that is written has its name.
pub(super) fn temporary(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

/// Writes a packed file. Only a whole one gets its name; of any other nothing is left, or what the next start removes.
pub(super) fn write(
    folder: &PackedFolder,
    path: &Path,
    head: &mut Head,
    way: Way<'_>,
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
    let written = fill(folder, &mut file, path, head, way).and_then(|()| {
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
    if !is_at(&file, temporary) {
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
    way: Way<'_>,
) -> Result<(), Refusal> {
    let need = head.planes.last().map_or(0, |plane| plane.offset + plane.len);
    let parent = path.parent().unwrap_or(Path::new(""));
    if let Some(free) = (folder.room)(parent).filter(|free| *free < need) {
        return Err(Refusal::Space { need, free });
    }
    folder.moment(Moment::Length).and_then(|()| file.set_len(need)).map_err(failed)?;
    match way {
        Way::Cached(chunks) => in_order(folder, file, &mut head.planes, chunks)?,
        Way::PastCache(chunks) => {
            let store = FileStore::open_for_writing(&temporary(path)).map_err(failed)?;
            by_weight(folder, &store, &mut head.planes, chunks)?;
            file.set_len(need).map_err(failed)?;
        }
    }
    let head = head.encode().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
    folder.moment(Moment::Head).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&head)).map_err(failed)
    // Not synchronised to the disk, which would take as long as the disk takes: a file torn by a power cut fails its
    // hashes and is made again.
}

/// Writes one plane after another.
fn in_order(
    folder: &PackedFolder,
    file: &mut File,
    planes: &mut [Entry],
    chunks: &mut Chunks<'_>,
) -> Result<(), Refusal> {
    let mut units = Units::new(To::Next(file), 0, UNIT);
    for (number, plane) in planes.iter_mut().enumerate() {
        units.skip_to(plane.offset).map_err(failed)?;
        for (chunk, sum) in plane.sums.iter_mut().enumerate() {
            let bytes = chunks(number, chunk).map_err(Refusal::Weights)?;
            put(folder, &mut units, sum, &bytes)?;
        }
    }
    units.flush().map_err(failed)
}

/// Writes the planes of one weight after those of another, each to its own place. What lies between them stays zeros.
fn by_weight(
    folder: &PackedFolder,
    store: &FileStore,
    mut planes: &mut [Entry],
    ByWeight { planes: counts, chunks }: ByWeight<'_>,
) -> Result<(), Refusal> {
    for (weight, count) in counts.into_iter().enumerate() {
        let (own, others) = std::mem::take(&mut planes).split_at_mut(count);
        planes = others;
        // In all as much memory as for a file that is written in order.
        let unit = UNIT / count.max(1) / BLOCK_BYTES as usize * BLOCK_BYTES as usize;
        let mut units: Vec<Units<'_>> =
            own.iter().map(|plane| Units::new(To::Blocks(store), plane.offset, unit)).collect();
        for chunk in 0..own.iter().map(|plane| plane.sums.len()).max().unwrap_or(0) {
            let made = chunks(weight, chunk).map_err(Refusal::Weights)?;
            for ((plane, units), bytes) in own.iter_mut().zip(&mut units).zip(made) {
                // One without bytes has no chunks.
                if let Some(sum) = plane.sums.get_mut(chunk) {
                    put(folder, units, sum, &bytes)?;
                }
            }
        }
        units.iter_mut().try_for_each(Units::flush).map_err(failed)?;
    }
    Ok(())
}

/// Writes a chunk, and keeps its hash.
fn put(folder: &PackedFolder, units: &mut Units<'_>, sum: &mut u64, bytes: &[u8]) -> Result<(), Refusal> {
    *sum = xxh3_64(bytes);
    folder.moment(Moment::Chunk).and_then(|()| units.write(bytes)).map_err(failed)
}
