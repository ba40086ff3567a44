//! Compiled kernels on disk, found by what they are compiled from.
//!
//! The key is a hash of everything that the bytes follow from, so an entry is never stale and never updated. The
//! payload is machine code that will be run: the folder must belong to this user alone, and an entry that differs from
//! what was written in a single bit is dropped and compiled again. Several processes may use one folder: entries
//! appear under their name only when complete.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::os;
use crate::voice::{Tell, Voice};

/// `magic` (8 bytes), `version` (4), `key` (16), length of the payload (8), xxh3-64 of the payload (8), all little
/// endian; then the payload, then the end of the file.
const HEADER_BYTES: usize = 44;
const MAGIC: &[u8; 8] = b"jtkernel";
const VERSION: u32 = 1;

/// No kernel comes near it; a larger file is not ours and is not read.
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// Tells apart the temporary files of one process.
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Hashes the parts that a kernel's bytes follow from: canonical text, target's name, emitter's version, CPU features.
/// Each part's length is hashed too, so that parts cannot run into each other.
pub fn key(parts: &[&[u8]]) -> u128 {
    let mut hash = Xxh3::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.digest128()
}

/// Whether something is kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// In this folder.
    On(PathBuf),
    /// Not at all, for this reason.
    Off(String),
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Entries.
    pub entries: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// A file operation that failed.
#[derive(Debug)]
pub struct CacheError {
    /// The file or folder.
    pub path: PathBuf,
    /// What was tried: `lock`, `write`, `remove`, `list`.
    pub action: &'static str,
    /// The system's answer.
    pub source: io::Error,
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache: cannot {} {}: {}", self.action, self.path.display(), self.source)
    }
}

impl std::error::Error for CacheError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The folder of compiled kernels, or the reason why there is none.
#[derive(Debug)]
pub struct KernelCache {
    status: Status,
    corrupt: AtomicU64,
    voice: Voice,
}

impl KernelCache {
    /// Opens the cache in `folder`, or in the folder `kernels` of `$JTLLM_CACHE`, `$JITTOR_HOME/.cache/jtllm`,
    /// `$XDG_CACHE_HOME/jtllm` or `~/.cache/jtllm`, whichever is given first; creates it where missing. A folder that cannot be used turns the
    /// cache off, with a reason in [`KernelCache::status`]; kernels are then compiled at each start.
    pub fn open(folder: Option<PathBuf>) -> KernelCache {
        KernelCache::open_in(folder, |name| std::env::var_os(name))
    }

    /// As [`KernelCache::open`], with the environment given by a function.
    pub fn open_in(folder: Option<PathBuf>, environment: impl Fn(&str) -> Option<OsString>) -> KernelCache {
        let status = match folder.or_else(|| default_folder("kernels", environment)) {
            None => Status::Off("none of JTLLM_CACHE, XDG_CACHE_HOME and HOME is set".to_owned()),
            Some(folder) => match prepare(&folder) {
                Ok(()) => Status::On(folder),
                Err(why) => Status::Off(format!("{}: {why}", folder.display())),
            },
        };
        KernelCache::with(status)
    }

    /// A cache that keeps nothing, for this reason.
    pub fn off(reason: &str) -> KernelCache {
        KernelCache::with(Status::Off(reason.to_owned()))
    }

    fn with(status: Status) -> KernelCache {
        KernelCache { status, corrupt: AtomicU64::new(0), voice: Voice::default() }
    }

    /// Has somebody told why kernels are not kept, once.
    pub fn telling(self, tell: Box<Tell>) -> KernelCache {
        KernelCache { voice: Voice::to(tell), ..self }
    }

    /// Whether kernels are kept, and where or why not.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Entries found damaged, and dropped, since the cache was opened.
    pub fn corrupt(&self) -> u64 {
        self.corrupt.load(Ordering::Relaxed)
    }

    /// The bytes that were put under this key; none where there are none or where they are not what was put.
    pub fn get(&self, key: u128) -> Option<Vec<u8>> {
        let Status::On(folder) = &self.status else { return None };
        let path = entry(folder, key);
        match load(&path, key) {
            Ok(payload) => payload,
            Err(Damaged) => {
                self.corrupt.fetch_add(1, Ordering::Relaxed);
                // What cannot be removed is replaced by the next `put`, and not trusted until then.
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps these bytes under this key. An older entry is replaced as a whole. Does nothing while the cache is off.
    ///
    /// # Errors
    /// The file could not be written; nothing is left behind, and the caller may go on without the cache.
    pub fn put(&self, key: u128, payload: &[u8]) -> Result<(), CacheError> {
        let Status::On(folder) = &self.status else { return Ok(()) };
        let path = entry(folder, key);
        let failed = |source| CacheError { path: path.clone(), action: "write", source };
        if payload.len() as u64 > PAYLOAD_BYTES_MAX {
            let why = format!("{} bytes are more than the {PAYLOAD_BYTES_MAX} of a kernel", payload.len());
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        let number = WRITES.fetch_add(1, Ordering::Relaxed);
        let temporary = folder.join(format!("{key:032x}.{}.{number}.tmp", std::process::id()));
        let once = || write(&temporary, key, payload).and_then(|()| fs::rename(&temporary, &path));
        let written = match once() {
            // Somebody who opened the cache took it for a dead process's in the moment before it was locked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => once(),
            written => written,
        };
        written.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            failed(source)
        })
    }

    /// As [`KernelCache::put`] for who goes on without: what is in the way is said once.
    pub(crate) fn keep(&self, key: u128, payload: &[u8]) {
        let why = match (&self.status, self.put(key, payload)) {
            (Status::Off(why), _) => why.clone(),
            (Status::On(_), Ok(())) => return,
            (Status::On(_), Err(CacheError { path, action, source })) => {
                format!("cannot {action} {}: {source}", path.display())
            }
        };
        self.voice.say_once(&format!("compiled kernels are not kept: {why}"));
    }

    /// Removes every entry and every temporary file; other files stay.
    ///
    /// # Errors
    /// The folder cannot be listed or a file cannot be removed.
    pub fn clear(&self) -> Result<(), CacheError> {
        let Status::On(folder) = &self.status else { return Ok(()) };
        for path in
            list(folder)?.into_iter().filter(|path| has_extension(path, "bin") || has_extension(path, "tmp"))
        {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(CacheError { path, action: "remove", source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts the entries and their bytes; nothing while the cache is off.
    ///
    /// # Errors
    /// The folder cannot be listed.
    pub fn size(&self) -> Result<Size, CacheError> {
        let Status::On(folder) = &self.status else { return Ok(Size::default()) };
        let entries = list(folder)?.into_iter().filter(|path| has_extension(path, "bin"));
        // An entry that another process removes meanwhile is not counted.
        let lengths = entries.filter_map(|path| Some(fs::metadata(path).ok()?.len()));
        Ok(lengths
            .fold(Size::default(), |size, len| Size { entries: size.entries + 1, bytes: size.bytes + len }))
    }
}

/// An entry that is not what was written.
struct Damaged;

/// The folder of that name among those of this user's caches.
pub(crate) fn default_folder(name: &str, environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let path = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("JTLLM_CACHE")
        .or_else(|| path("JITTOR_HOME").map(|home| home.join(".cache/jtllm")))
        // The XDG rules tell to ignore a relative path.
        .or_else(|| path("XDG_CACHE_HOME").filter(|path| path.is_absolute()).map(|path| path.join("jtllm")))
        .or_else(|| path("HOME").map(|path| path.join(".cache/jtllm")))
        .or_else(|| path("LOCALAPPDATA").map(|path| path.join("jtllm")))
        .map(|path| path.join(name))
}

/// Makes the folder where missing, checks that nobody else can write into it, and sweeps what dead processes left.
fn prepare(folder: &Path) -> Result<(), String> {
    os::create_private_folder(folder).map_err(|error| error.to_string())?;
    os::check_private(folder)?;
    // Who writes one holds its lock. In the moment before that it may be taken for a dead process's: then it is written
    // once more.
    let old = |path: &PathBuf| File::open(path).is_ok_and(|file| file.try_lock().is_ok());
    let files = list(folder).map_err(|error| error.source.to_string())?;
    for path in files.into_iter().filter(|path| has_extension(path, "tmp")).filter(old) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

fn entry(folder: &Path, key: u128) -> PathBuf {
    folder.join(format!("{key:032x}.bin"))
}

pub(crate) fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let failed = |source| CacheError { path: folder.to_owned(), action: "list", source };
    let entries = fs::read_dir(folder).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

fn write(path: &Path, key: u128, payload: &[u8]) -> io::Result<()> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&key.to_le_bytes());
    header.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    header.extend_from_slice(&xxh3_64(payload).to_le_bytes());
    let mut file = os::create_private_file(path)?;
    // Where locks are not to be had, a file that is swept away while it is written is a kernel that is not kept.
    let _ = file.try_lock();
    file.write_all(&header)?;
    // Not synchronised to the disk: an entry torn by a power cut fails its checksum and is compiled again.
    file.write_all(payload)
}

/// Reads an entry; `Ok(None)` where there is none, or none that can be read.
fn load(path: &Path, key: u128) -> Result<Option<Vec<u8>>, Damaged> {
    match fs::symlink_metadata(path) {
        // Opening something else, a pipe say, could wait for ever.
        Ok(metadata) if !metadata.is_file() => return Err(Damaged),
        Ok(_) => {}
        Err(_) => return Ok(None),
    }
    let Ok(mut file) = File::open(path) else { return Ok(None) };
    let Ok(metadata) = file.metadata() else { return Ok(None) };
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(|_| Damaged)?;
    let (magic, rest) = header.split_at(8);
    let (version, rest) = rest.split_at(4);
    let (owner, rest) = rest.split_at(16);
    let (length, checksum) = rest.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("split at 8 bytes"));
    let whole =
        metadata.len().checked_sub(HEADER_BYTES as u64) == Some(length) && length <= PAYLOAD_BYTES_MAX;
    if magic != MAGIC || version != VERSION.to_le_bytes() || owner != key.to_le_bytes() || !whole {
        return Err(Damaged);
    }
    let mut payload = vec![0; length as usize];
    file.read_exact(&mut payload).map_err(|_| Damaged)?;
    if checksum != xxh3_64(&payload).to_le_bytes() { Err(Damaged) } else { Ok(Some(payload)) }
}
