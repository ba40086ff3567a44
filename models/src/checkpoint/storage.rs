//! Where the bytes of a checkpoint rest: a mapped file, or memory of the program itself.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::LoadError;
use crate::os::{self, Identity};

/// Read-only bytes with a name.
///
/// `as_ref` gives all of them. Of a file they are a shared mapping, so nothing is read before it is touched
/// and the system's page cache is the only copy. The price: when another program shortens the file, touching
/// a page beyond its new end ends the process (SIGBUS on Unix). Who cannot rule that out reads with
/// [`Storage::read_at`], which returns an error instead, or asks [`Storage::verify_unchanged`] at points of
/// their choice. A file that is deleted or replaced by renaming stays whole for its holder.
#[derive(Debug)]
pub struct Storage {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    /// An empty file has no mapping.
    Mapped {
        map: Option<Mmap>,
        file: File,
        identity: Identity,
    },
    Embedded(&'static [u8]),
}

impl Storage {
    /// Maps a regular file. Follows symbolic links; refuses directories, pipes, sockets and devices without
    /// opening them for longer than it takes to see what they are.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let (file, identity) = open_regular(path)?;
        // Who cleans up sees that it is in use. Where locks are not to be had nobody is kept from anything.
        let _ = file.try_lock_shared();
        let map = match identity.len {
            0 => None,
            // SAFETY: the mapping is read-only and private to this value; the file's bytes are plain data to
            // which no type invariant is attached, so a concurrent write can change numbers but not break
            // memory safety. Shortening the file is the documented hazard above.
            _ => Some(unsafe { Mmap::map(&file) }.map_err(|error| LoadError::io(path, "map", error))?),
        };
        Ok(Storage { path: path.to_owned(), bytes: Bytes::Mapped { map, file, identity } })
    }

    /// Takes bytes that are part of the program; `name` stands for the path in errors.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Self {
        Storage { path: PathBuf::from(name), bytes: Bytes::Embedded(bytes) }
    }

    /// The path given to [`Storage::open`], or the name given to [`Storage::embedded`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes, as it was on opening.
    pub fn len(&self) -> u64 {
        self.as_ref().len() as u64
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.as_ref().is_empty()
    }

    /// Device, inode, length and time of change as they were on opening; nothing for embedded bytes.
    pub fn identity(&self) -> Option<Identity> {
        match &self.bytes {
            Bytes::Mapped { identity, .. } => Some(*identity),
            Bytes::Embedded(_) => None,
        }
    }

    /// Has somebody read a few places of the file, around which nothing else is read from the disk: systems read megabytes
    /// around each place of a mapped file that is touched.
    pub fn sparsely<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        let Bytes::Mapped { map: Some(map), .. } = &self.bytes else { return read(self.as_ref()) };
        os::expect_few(map, true);
        let found = read(map);
        os::expect_few(map, false);
        found
    }

    /// Lets the system forget what it keeps of the file in memory for us: what is touched again is read again.
    pub fn give_back(&self) {
        if let Bytes::Mapped { map: Some(map), file, .. } = &self.bytes {
            os::give_back(map, file);
        }
    }

    /// Fails with [`LoadError::Changed`] when the file was written to, shortened, extended, or replaced by
    /// another under the same path. A file that was deleted is still held whole and counts as unchanged.
    pub fn verify_unchanged(&self) -> Result<(), LoadError> {
        self.verify_held()?;
        match (&self.bytes, std::fs::metadata(&self.path)) {
            (Bytes::Mapped { identity, .. }, Ok(other)) if Identity::of(&other).node != identity.node => {
                let (file, why) = (self.path.clone(), "another file took its place".to_owned());
                Err(LoadError::Changed { file, why })
            }
            _ => Ok(()),
        }
    }

    /// The same for the file that is held, whatever has become of its path: one system call.
    pub fn verify_held(&self) -> Result<(), LoadError> {
        let Bytes::Mapped { file, identity, .. } = &self.bytes else {
            return Ok(());
        };
        let changed = |why: String| Err(LoadError::Changed { file: self.path.clone(), why });
        let held = file.metadata().map_err(|error| LoadError::io(&self.path, "examine", error))?;
        let now = Identity::of(&held);
        if now.len != identity.len {
            return changed(format!("it had {} bytes and has {} now", identity.len, now.len));
        }
        if now.modified != identity.modified {
            return changed("it was written to".to_owned());
        }
        Ok(())
    }

    /// Fills `buffer` with the bytes from `offset` on by a read of the file, not through the mapping: bytes
    /// that are no longer there are [`LoadError::Truncated`], never a signal.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), LoadError> {
        let wanted = offset.saturating_add(buffer.len() as u64);
        let truncated = |found| LoadError::Truncated { file: self.path.clone(), expected: wanted, found };
        let file = match &self.bytes {
            Bytes::Mapped { file, .. } => file,
            Bytes::Embedded(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let source = bytes.get(start..).and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(source.ok_or_else(|| truncated(self.len()))?);
                return Ok(());
            }
        };
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset.saturating_add(filled as u64);
            match os::read_at(file, &mut buffer[filled..], at) {
                Ok(0) => return Err(truncated(at)),
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LoadError::io(&self.path, "read", error)),
            }
        }
        Ok(())
    }
}

impl Storage {
    /// Maps the pages of a range, which is going to be read, all at once.
    pub fn fetch(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Bytes::Mapped { map: Some(map), .. } = &self.bytes {
            // A refusal costs speed alone.
            let _refused = map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len());
        }
        #[cfg(not(target_os = "linux"))]
        let _mapped_when_read = range;
    }

    /// Lets the system have the pages of a range: nobody is going to read it for long. It comes back from the file when
    /// somebody does.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped { map: Some(map), .. } = &self.bytes {
            // SAFETY: the mapping is of a file and read-only: a page that is gone comes back with the file's bytes.
            let _refused = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
        #[cfg(not(unix))]
        let _stays = range;
    }
}

impl AsRef<[u8]> for Storage {
    fn as_ref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped { map: Some(map), .. } => map,
            Bytes::Mapped { map: None, .. } => &[],
            Bytes::Embedded(bytes) => bytes,
        }
    }
}

/// Reads a whole file of at most `limit` bytes; `None` if there is none.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let (file, identity) = open_regular(path)?;
    if identity.len > limit {
        return Err(LoadError::Unsupported {
            file: path.to_owned(),
            what: format!("a file of {} bytes in this place", identity.len),
            supported: format!("it may have {limit} bytes at most"),
        });
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(|error| LoadError::io(path, "read", error))?;
    Ok(Some(bytes))
}

/// The kind is looked at before opening, since opening a device can have effects, and after, since the path
/// may have changed hands in between.
fn open_regular(path: &Path) -> Result<(File, Identity), LoadError> {
    let require_regular = |metadata: &std::fs::Metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(LoadError::NotRegular { file: path.to_owned(), kind: os::kind(metadata) }),
    };
    let before = std::fs::metadata(path).map_err(|error| LoadError::io(path, "examine", error))?;
    require_regular(&before)?;
    let file = os::open(path).map_err(|error| LoadError::io(path, "open", error))?;
    let held = file.metadata().map_err(|error| LoadError::io(path, "examine", error))?;
    require_regular(&held)?;
    Ok((file, Identity::of(&held)))
}
