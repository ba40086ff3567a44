//! Emitted kernels on disk, by content: an entry is right or it is not there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use xxhash_rust::xxh3::xxh3_64;

/// The first bytes of an entry: what it is, and the version of its form.
const MAGIC: [u8; 8] = *b"jtkern\x00\x01";

/// Bytes before the payload: magic, length, checksum.
const HEADER: usize = 24;

/// A directory of kernels. Without one every lookup misses and nothing is kept.
pub struct KernelCache {
    directory: Option<PathBuf>,
    reason: Option<String>,
    corrupt: AtomicUsize,
    serial: AtomicUsize,
}

/// The directory for kernels: below `$JTLLM_CACHE`, `$XDG_CACHE_HOME/jtllm` or `~/.cache/jtllm`.
pub fn default_directory(environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").or_else(|| set("USERPROFILE"));
    let base = set("JTLLM_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("jtllm")))
        .or_else(|| home().map(|dir| dir.join(".cache").join("jtllm")))?;
    Some(base.join("kernels"))
}

impl KernelCache {
    /// The cache in a directory, which is made if it is not there. If it cannot be made, the cache is off
    /// and [`KernelCache::reason`] says why.
    pub fn open(directory: Option<PathBuf>) -> KernelCache {
        let (directory, reason) = match directory {
            None => (None, Some("no directory for it is known".to_owned())),
            Some(directory) => match make_private(&directory) {
                Ok(()) => (Some(directory), None),
                Err(error) => (None, Some(format!("{}: {error}", directory.display()))),
            },
        };
        KernelCache { directory, reason, corrupt: AtomicUsize::new(0), serial: AtomicUsize::new(0) }
    }

    /// A cache that keeps nothing.
    pub fn off() -> KernelCache {
        KernelCache::open(None)
    }

    /// Why nothing is kept, if so.
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Entries that were found damaged, and dropped.
    pub fn corrupt(&self) -> usize {
        self.corrupt.load(Ordering::Relaxed)
    }

    fn path(&self, key: u128) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(format!("{key:032x}.bin")))
    }

    /// The bytes kept under a key. A damaged entry is removed and missed.
    pub fn get(&self, key: u128) -> Option<Vec<u8>> {
        let path = self.path(key)?;
        let bytes = fs::read(&path).ok()?;
        let payload = checked(&bytes);
        if payload.is_none() {
            self.corrupt.fetch_add(1, Ordering::Relaxed);
            let _gone = fs::remove_file(&path);
        }
        payload.map(<[u8]>::to_vec)
    }

    /// Keeps bytes under a key. What cannot be written is not kept; the next start compiles again.
    pub fn put(&self, key: u128, payload: &[u8]) {
        let Some(path) = self.path(key) else { return };
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{serial}.part", std::process::id()));
        let written = write_entry(&temporary, payload).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _gone = fs::remove_file(&temporary);
        }
    }
}

fn make_private(directory: &Path) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(directory)
}

fn write_entry(path: &Path, payload: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(&MAGIC)?;
    file.write_all(&(payload.len() as u64).to_le_bytes())?;
    file.write_all(&xxh3_64(payload).to_le_bytes())?;
    file.write_all(payload)
}

/// The payload of an entry, if the entry is whole.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (header, payload) = bytes.split_at_checked(HEADER)?;
    let word = |at: usize| header[at..at + 8].try_into().ok().map(u64::from_le_bytes);
    let whole = header[..8] == MAGIC && word(8)? == payload.len() as u64 && word(16)? == xxh3_64(payload);
    whole.then_some(payload)
}
