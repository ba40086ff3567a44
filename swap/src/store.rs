//! Stores: where bytes lie that are in no memory of ours.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::os::{self, Access};

/// What direct reads and writes are whole multiples of: their place in the file, their length and their address.
/// 512 would do for many disks, 4096 does for all that file systems are made on.
pub const BLOCK_BYTES: u64 = 4096;

/// How often a store may say that it is not ready before that counts as an error, a millisecond each time.
const RETRIES_MAX: u32 = 1000;

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To read.
    Read,
    /// To write.
    Write,
    /// To change its length.
    SetLen,
    /// To bring everything to the disk.
    Sync,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Read => "read",
            Action::Write => "write",
            Action::SetLen => "change the length",
            Action::Sync => "synchronise",
        })
    }
}

/// A range of bytes that can be read and perhaps written, by several threads at once.
pub trait Store: Send + Sync {
    /// Reads bytes from `at` on to the beginning of `out` and says how many: perhaps fewer than fit, none only at
    /// the end of the store. `ErrorKind::Interrupted` and `WouldBlock` ask to be called again.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<usize>;

    /// Writes the beginning of `bytes` from `at` on and says how many, at least one.
    ///
    /// # Errors
    /// What the system says; `Unsupported` where nothing may be written.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Makes the store longer or shorter; new bytes are zeros.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// How many bytes there are.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self) -> io::Result<u64>;

    /// Returns when what was written would survive a power cut.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;

    /// Whether what is read leaves nothing in the system's page cache, as far as that is known so far.
    fn is_direct(&self) -> bool {
        true
    }
}

/// Fills `out` from `at` on, however often the store must be asked.
///
/// # Errors
/// `UnexpectedEof` where the store ends before, else what the store says.
pub fn read_all(store: &dyn Store, mut at: u64, mut out: &mut [u8]) -> io::Result<()> {
    let mut retries = 0;
    while !out.is_empty() {
        match patiently(store.read(at, out), &mut retries)? {
            None => {}
            Some(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends at {at}"))),
            Some(count) => {
                out = &mut out[count..];
                at += count as u64;
            }
        }
    }
    Ok(())
}

/// Writes all of `bytes` from `at` on, however often the store must be asked.
///
/// # Errors
/// `WriteZero` where the store takes nothing, else what it says.
pub fn write_all(store: &dyn Store, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
    let mut retries = 0;
    while !bytes.is_empty() {
        match patiently(store.write(at, bytes), &mut retries)? {
            None => {}
            Some(0) => return Err(io::ErrorKind::WriteZero.into()),
            Some(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
        }
    }
    Ok(())
}

/// What came of a call; nothing if it is to be made again.
fn patiently(outcome: io::Result<usize>, retries: &mut u32) -> io::Result<Option<usize>> {
    match outcome {
        Err(error) if *retries < RETRIES_MAX && error.kind() == io::ErrorKind::Interrupted => {
            *retries += 1;
            Ok(None)
        }
        Err(error) if *retries < RETRIES_MAX && error.kind() == io::ErrorKind::WouldBlock => {
            *retries += 1;
            std::thread::sleep(Duration::from_millis(1));
            Ok(None)
        }
        Err(error) => Err(error),
        Ok(count) => {
            *retries = 0;
            Ok(Some(count))
        }
    }
}

/// A file, read past the page cache where its file system allows that.
///
/// Any place and length can be read. What lies in memory as it lies in the file, at the same distance from a multiple
/// of [`BLOCK_BYTES`], goes straight there but for its first and its last block; other bytes are copied. Writes must
/// be whole blocks.
#[derive(Debug)]
pub struct FileStore {
    file: File,
    path: PathBuf,
    direct: AtomicBool,
}

impl FileStore {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// What the system says; `InvalidInput` where it is no regular file.
    pub fn open(path: &Path) -> io::Result<FileStore> {
        FileStore::with(path, Access::Read)
    }

    /// Opens a regular file for reading and writing.
    ///
    /// # Errors
    /// As [`FileStore::open`].
    pub fn open_for_writing(path: &Path) -> io::Result<FileStore> {
        FileStore::with(path, Access::Write)
    }

    /// The same by way of the page cache, out of which each piece is taken when it was read.
    ///
    /// # Errors
    /// As [`FileStore::open`].
    pub fn open_buffered(path: &Path) -> io::Result<FileStore> {
        FileStore::from(os::open(path, Access::Read, false)?, path, false)
    }

    /// A file that is open already, past the page cache from now on if its file system allows that; `path` is where it was
    /// found.
    ///
    /// # Errors
    /// As [`FileStore::open`].
    pub fn of(file: File, path: &Path) -> io::Result<FileStore> {
        let direct = match os::wants_direct().then(|| os::set_direct(&file, true)) {
            Some(Err(error)) if !refuses_direct(&error) => return Err(error),
            outcome => matches!(outcome, Some(Ok(()))),
        };
        FileStore::from(file, path, direct)
    }

    fn with(path: &Path, access: Access) -> io::Result<FileStore> {
        if os::wants_direct() {
            match os::open(path, access, true) {
                Ok(file) => return FileStore::from(file, path, true),
                Err(error) if refuses_direct(&error) => {}
                Err(error) => return Err(error),
            }
        }
        FileStore::from(os::open(path, access, false)?, path, false)
    }

    fn from(file: File, path: &Path, direct: bool) -> io::Result<FileStore> {
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(FileStore { file, path: path.to_owned(), direct: AtomicBool::new(direct) })
    }

    /// Whether the page cache is left out so far. Some file systems refuse only when they are first read from: so
    /// ask after that to tell people.
    pub fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read_direct(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let whole = out.len() as u64 / BLOCK_BYTES * BLOCK_BYTES;
        let aligned = at.is_multiple_of(BLOCK_BYTES) && is_block_aligned(out.as_ptr());
        if aligned && whole > 0 {
            return read_at(&self.file, at, &mut out[..whole as usize]);
        }
        // A few blocks by way of the stack; one if the rest can go straight to memory then.
        let skip = (at % BLOCK_BYTES) as usize;
        let congruent = (out.as_ptr() as usize).wrapping_sub(skip).is_multiple_of(BLOCK_BYTES as usize);
        let mut bounce = Bounce([0; BOUNCE_BYTES]);
        let wanted = if congruent { 1 } else { (skip + out.len()).div_ceil(BLOCK_BYTES as usize) };
        let bytes = (wanted * BLOCK_BYTES as usize).min(BOUNCE_BYTES);
        let found = read_at(&self.file, at - skip as u64, &mut bounce.0[..bytes])?;
        let count = found.saturating_sub(skip).min(out.len());
        out[..count].copy_from_slice(&bounce.0[skip..skip + count]);
        Ok(count)
    }

    fn read_buffered(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let count = read_at(&self.file, at, out)?;
        // Whole pages alone are dropped; blocks round the edges may be dropped twice, which does no harm.
        let first = at / BLOCK_BYTES * BLOCK_BYTES;
        os::forget_cached(&self.file, first, (at + count as u64).next_multiple_of(BLOCK_BYTES) - first);
        Ok(count)
    }

    /// Goes through the page cache from now on.
    fn fall_back(&self) -> io::Result<()> {
        os::set_direct(&self.file, false)?;
        self.direct.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Store for FileStore {
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.is_direct() {
            match self.read_direct(at, out) {
                Err(error) if refuses_direct(&error) => self.fall_back()?,
                outcome => return outcome,
            }
        }
        self.read_buffered(at, out)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let whole = at.is_multiple_of(BLOCK_BYTES)
            && (bytes.len() as u64).is_multiple_of(BLOCK_BYTES)
            && is_block_aligned(bytes.as_ptr());
        if !whole {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "what is written must be whole blocks"));
        }
        if self.is_direct() {
            match write_at(&self.file, at, bytes) {
                Err(error) if refuses_direct(&error) => self.fall_back()?,
                outcome => return outcome,
            }
        }
        let count = write_at(&self.file, at, bytes)?;
        // What is not on the disk yet cannot be dropped.
        self.file.sync_data()?;
        os::forget_cached(&self.file, at, count as u64);
        Ok(count)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn is_direct(&self) -> bool {
        FileStore::is_direct(self)
    }
}

/// Bytes that are read by way of the stack at a time.
const BOUNCE_BYTES: usize = 16 << 10;

#[repr(align(4096))]
struct Bounce([u8; BOUNCE_BYTES]);

fn is_block_aligned(address: *const u8) -> bool {
    (address as usize).is_multiple_of(BLOCK_BYTES as usize)
}

/// What file systems say that have no direct access, or another alignment for it.
fn refuses_direct(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(unix)]
fn read_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, at)
}

#[cfg(unix)]
fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, at)
}

#[cfg(windows)]
fn read_at(file: &File, at: u64, out: &mut [u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, at)
}

#[cfg(windows)]
fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, at)
}

/// Bytes in memory, for tests and for measuring everything but a disk.
pub struct MemoryStore(std::sync::RwLock<Vec<u8>>);

impl MemoryStore {
    /// A store that begins with these bytes.
    pub fn new(bytes: Vec<u8>) -> MemoryStore {
        MemoryStore(std::sync::RwLock::new(bytes))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({:?} bytes)", self.size())
    }
}

impl Store for MemoryStore {
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let start = bytes.len().min(usize::try_from(at).unwrap_or(usize::MAX));
        let count = out.len().min(bytes.len() - start);
        out[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write(&self, at: u64, new: &[u8]) -> io::Result<usize> {
        let mut bytes = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let start = usize::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start.checked_add(new.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if end > bytes.len() {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(new);
        Ok(new.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner).resize(len, 0);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
