//! The swap file: where bytes go that exist in no other file.
//!
//! Its name is gone from the folder as soon as it is open, where the system allows that: so the file goes with its
//! process, however that ends. Elsewhere, and in the moment before, a lock says that somebody lives: whoever opens a swap
//! file in the same folder removes those of which nobody holds the lock, and no others. A name is taken away by whoever
//! holds the lock of the file that has it, and by nobody else. What a name leads to may change all the same before that
//! (processes in containers have the same numbers): so it is the file that was made that is used, never one of its name.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::os;
use crate::reader::Sums;
use crate::store::{BLOCK_BYTES, FileStore, Store};
use crate::{BlobId, Extent, Space, SwapError};

/// What the names of swap files begin with; what follows are the process and a number.
const PREFIX: &str = "jtllm-swap-";

/// Bytes that one hash covers, and the least that is written again of a blob that changed in a part: what a token adds
/// to a layer's keys is about as much, and a disk does not mind.
pub const SUM_BYTES: u64 = 64 << 10;

/// Tells the files of one process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// How many names are tried before giving up; another process can take one only in the moment in which it is made.
const NAMES_MAX: u32 = 16;

/// The name and the lock of a swap file, given up together.
#[derive(Debug)]
struct Claim {
    path: PathBuf,
    locked: File,
    /// Whether the file has kept its name.
    named: bool,
}

impl Claim {
    /// Locks a file that was just created at this path, and takes its name away; none if somebody takes it for abandoned.
    fn of(file: File, path: PathBuf) -> io::Result<Option<Claim>> {
        match file.try_lock() {
            Ok(()) => {}
            // Whoever has the lock removes the file.
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                let _ = remove(&file, &path);
                return Err(error);
            }
        }
        let mut claim = Claim { path, locked: file, named: true };
        // Where an open file cannot lose its name, it keeps it until it is dropped.
        claim.named = remove(&claim.locked, &claim.path).is_err();
        Ok(Some(claim))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.named {
            let _ = remove(&self.locked, &self.path);
        }
    }
}

/// Takes a file's name away, if it is the file's still.
fn remove(file: &File, path: &Path) -> io::Result<()> {
    if !os::is_at(file, path) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A blob's bytes in the file.
#[derive(Debug)]
struct Resting {
    extent: Extent,
    /// Hashes of what was written, or is being written.
    sums: Sums,
    /// The bytes that have changed in memory since then.
    stale: Range<u64>,
}

/// A file of our own in which blobs rest, each in an extent with hashes.
pub struct SwapFile {
    path: Arc<Path>,
    store: Arc<dyn Store>,
    space: Space,
    /// How long the file is.
    len: u64,
    extents: HashMap<BlobId, Resting>,
    /// How many bytes may be added to the file; nothing if nobody knows.
    room: Box<dyn Fn() -> Option<u64> + Send>,
    _claim: Option<Claim>,
}

impl std::fmt::Debug for SwapFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwapFile").field("path", &self.path).field("len", &self.len).finish_non_exhaustive()
    }
}

impl SwapFile {
    /// Makes a swap file of at most `limit_bytes` in a folder, after removing what dead processes left there.
    ///
    /// # Errors
    /// `Folder` if that is missing, is not this user's alone to write to, lies in memory, or takes no file.
    pub fn create(folder: &Path, limit_bytes: u64) -> Result<SwapFile, SwapError> {
        let refuse = |error: io::Error| SwapError::Folder { path: folder.into(), why: error.to_string() };
        os::check_private(folder).map_err(refuse)?;
        if os::is_in_memory(folder) {
            // What is written there takes the memory that it was to leave, and nobody would count it.
            return Err(refuse(io::Error::other("its files lie in memory (tmpfs), and not on a disk")));
        }
        remove_abandoned(folder).map_err(refuse)?;
        let (claim, store) = claim(folder).map_err(refuse)?;
        let (path, place) = (claim.path.as_path().into(), folder.to_owned());
        let room = Box::new(move || os::free_bytes(&place));
        Ok(SwapFile { _claim: Some(claim), ..SwapFile::over(path, Arc::new(store), limit_bytes, room) })
    }

    /// The same on a store of any kind; `room` says how many bytes may be added to it.
    pub fn over(
        path: Arc<Path>,
        store: Arc<dyn Store>,
        limit_bytes: u64,
        room: Box<dyn Fn() -> Option<u64> + Send>,
    ) -> SwapFile {
        let space = Space::new(limit_bytes / BLOCK_BYTES * BLOCK_BYTES);
        SwapFile { path, store, space, len: 0, extents: HashMap::new(), room, _claim: None }
    }

    /// Where it is, or was when it had a name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    pub fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    /// Finds a place for a blob's bytes and notes their hashes. The caller writes them there: of one that has its place
    /// the bytes that [`SwapFile::change`] named, rounded to whole chunks, else all.
    ///
    /// # Errors
    /// `DiskFull` if the limit or the disk has no room; `Io` if the file does not grow.
    pub fn admit(&mut self, blob: BlobId, bytes: &[u8]) -> Result<(Extent, Range<u64>), SwapError> {
        let need = bytes.len() as u64;
        match self.extents.get_mut(&blob) {
            Some(resting) if resting.extent.len == need => {
                let stale = std::mem::take(&mut resting.stale);
                let part =
                    stale.start / SUM_BYTES * SUM_BYTES..stale.end.next_multiple_of(SUM_BYTES).min(need);
                let changed = Sums::of(&bytes[part.start as usize..part.end as usize], SUM_BYTES);
                let first = (part.start / SUM_BYTES) as usize;
                // Jobs under way keep the hashes that they were given.
                let mut all = resting.sums.hashes();
                all[first..][..changed.all.len()].copy_from_slice(&changed.hashes());
                resting.sums = Sums::known(all, SUM_BYTES);
                return Ok((resting.extent, part));
            }
            // It has grown.
            Some(_) => self.forget(blob),
            None => {}
        }
        let path = self.path.clone();
        let full = |have: u64| SwapError::DiskFull { path: path.clone(), need, have };
        let extent = self.space.allocate(need, BLOCK_BYTES).ok_or_else(|| full(self.space.largest_free()))?;
        if let Err(error) = self.grow(extent.end(), full) {
            self.space.free(extent);
            return Err(error);
        }
        let resting = Resting { extent, sums: Sums::of(bytes, SUM_BYTES), stale: 0..0 };
        self.extents.insert(blob, resting);
        Ok((extent, 0..need))
    }

    /// Notes that these bytes of a blob are not any more what the file has of it, if it has any.
    pub fn change(&mut self, blob: BlobId, bytes: Range<u64>) {
        let Some(Resting { stale, .. }) = self.extents.get_mut(&blob) else { return };
        *stale = match stale.is_empty() {
            true => bytes,
            false => stale.start.min(bytes.start)..stale.end.max(bytes.end),
        };
    }

    /// Makes the file reach to `end`.
    fn grow(&mut self, end: u64, full: impl Fn(u64) -> SwapError) -> Result<(), SwapError> {
        if end <= self.len {
            return Ok(());
        }
        if let Some(room) = (self.room)()
            && room < end - self.len
        {
            return Err(full(room));
        }
        self.store.set_len(end).map_err(|error| SwapError::Io {
            path: self.path.clone(),
            action: crate::store::Action::SetLen,
            at: end,
            kind: error.kind(),
            why: error.to_string(),
        })?;
        self.len = end;
        Ok(())
    }

    /// Where a blob's bytes are, and what they hash to.
    pub fn find(&self, blob: BlobId) -> Option<(Extent, &Sums)> {
        self.extents.get(&blob).map(|resting| (resting.extent, &resting.sums))
    }

    /// Gives a blob's place up. What is behind all others leaves the file too.
    pub fn forget(&mut self, blob: BlobId) {
        let Some(Resting { extent, .. }) = self.extents.remove(&blob) else { return };
        self.space.free(extent);
        let end = self.space.high_water();
        // What cannot be given back now is used again; nothing is lost but room.
        if end < self.len && self.store.set_len(end).is_ok() {
            self.len = end;
        }
    }

    /// How long the file is.
    pub fn bytes(&self) -> u64 {
        self.len
    }
}

/// Makes a file whose lock is ours.
fn claim(folder: &Path) -> io::Result<(Claim, FileStore)> {
    for _ in 0..NAMES_MAX {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{PREFIX}{}-{number}", std::process::id()));
        let file = match os::create_private(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(error),
        };
        // Before we have the lock the file looks abandoned: somebody may be about to remove it.
        if let Some(claim) = Claim::of(file, path)? {
            let store = FileStore::of(claim.locked.try_clone()?, &claim.path)?;
            return Ok((claim, store));
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name for a swap file is taken"))
}

/// A swap file that has a name in a folder and no owner. Its lock is held as long as this is.
#[derive(Debug)]
pub struct Abandoned {
    path: PathBuf,
    locked: File,
}

impl Abandoned {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.locked.metadata().map_or(0, |found| found.len())
    }

    /// Removes it. That somebody else has done that is no fault.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(self) -> io::Result<()> {
        remove(&self.locked, &self.path)
    }
}

/// The swap files in a folder that nobody has locked, one after another: their processes are dead, or have not yet locked
/// them.
///
/// # Errors
/// The folder cannot be listed.
pub fn abandoned(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<Abandoned>>> {
    Ok(fs::read_dir(folder)?.filter_map(|entry| entry.map(unowned).transpose()))
}

/// An entry of a folder, if it is a swap file that nobody has locked.
fn unowned(entry: fs::DirEntry) -> Option<Abandoned> {
    let is_named_so = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
    if !is_named_so || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
        return None;
    }
    let path = entry.path();
    // What we may not open or lock is somebody else's; what is not at its place any more, nobody's.
    let locked = File::open(&path).ok()?;
    let is_unowned = locked.try_lock().is_ok() && os::is_at(&locked, &path);
    is_unowned.then_some(Abandoned { path, locked })
}

/// Removes swap files that nobody has locked.
///
/// # Errors
/// The folder cannot be listed.
pub fn remove_abandoned(folder: &Path) -> io::Result<()> {
    for file in abandoned(folder)? {
        // What cannot be removed takes room and does no other harm.
        let _ = file?.remove();
    }
    Ok(())
}

#[cfg(test)]
#[path = "../tests/claim/mod.rs"]
mod tests;
