//! A packed file that is there: mapped, and compared with its hashes chunk by chunk.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use xxhash_rust::xxh3::xxh3_64;

use super::table::{Entry, FIXED_BYTES, Head};
use crate::device::{Bytes, FileBytes};
use crate::error::Error;
use crate::os;

/// A mapped packed file. What it holds is trusted chunk by chunk, by [`PackedFile::chunk`].
pub(crate) struct PackedFile {
    path: PathBuf,
    bytes: Bytes,
    /// Held for its lock.
    _file: File,
    planes: HashMap<String, Entry>,
}

/// The mapping of a packed file, which nobody changes once it has its name.
struct Mapped(Mmap);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FileBytes for Mapped {
    fn release(&self, range: Range<usize>) {
        os::release(&self.0, range);
    }
}

/// The head of a file; `Ok(None)` where there is no file, or none that can be read.
pub(super) fn head(path: &Path) -> Result<Option<(File, Head)>, String> {
    match fs::symlink_metadata(path) {
        // Opening something else, a pipe say, could wait for ever.
        Ok(metadata) if !metadata.is_file() => return Err("it is no file".to_owned()),
        Ok(_) => {}
        Err(_) => return Ok(None),
    }
    let Ok(mut file) = File::open(path) else { return Ok(None) };
    // For as long as it is open, who cleans up sees that it is in use. Where locks are not to be had, what it holds is
    // still there until it is closed.
    let _ = file.try_lock_shared();
    let Ok(metadata) = file.metadata() else { return Ok(None) };
    let mut bytes = vec![0; FIXED_BYTES];
    let short = |_| "it ends inside of its head".to_owned();
    file.read_exact(&mut bytes).map_err(short)?;
    let length = Head::length(bytes.first_chunk().expect("so many bytes were read"))?;
    if length > metadata.len() {
        return Err("it ends inside of its head".to_owned());
    }
    bytes.resize(length as usize, 0);
    file.read_exact(&mut bytes[FIXED_BYTES..]).map_err(short)?;
    let head = Head::parse(&bytes, metadata.len())?;
    Ok(Some((file, head)))
}

impl PackedFile {
    /// Maps a file whose planes are those of `wanted`, hashes aside.
    pub(super) fn open(path: &Path, wanted: &Head) -> Result<Option<PackedFile>, String> {
        let Some((file, head)) = head(path)? else { return Ok(None) };
        let shape = |plane: &Entry| (plane.name.clone(), plane.len, plane.chunk_bytes);
        if head.key != wanted.key || !head.planes.iter().map(shape).eq(wanted.planes.iter().map(shape)) {
            return Err("it holds other weights than its name says".to_owned());
        }
        // SAFETY: the mapping is read-only, and its bytes are plain data to which no type invariant is attached. The
        // file lies in a folder that is writable by this user alone, and whoever writes packed files never changes one
        // that has its name.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| format!("it cannot be mapped: {error}"))?;
        // A refusal costs speed alone.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let planes = head.planes.into_iter().map(|plane| (plane.name.clone(), plane)).collect();
        Ok(Some(PackedFile { path: path.to_owned(), bytes: Arc::new(Mapped(map)), _file: file, planes }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All its bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where a plane lies.
    pub(crate) fn plane(&self, name: &str) -> &Entry {
        &self.planes[name]
    }

    /// A chunk of a plane that is what was written.
    ///
    /// # Errors
    /// It is not; then the file is removed, so that the next start makes another.
    pub(crate) fn chunk(&self, name: &str, chunk: usize) -> Result<&[u8], Error> {
        let Entry { offset, len, chunk_bytes, sums, .. } = self.plane(name);
        let start = chunk as u64 * chunk_bytes;
        let all: &[u8] = (*self.bytes).as_ref();
        let bytes = &all[(offset + start) as usize..(offset + (start + chunk_bytes).min(*len)) as usize];
        if xxh3_64(bytes) == sums[chunk] {
            return Ok(bytes);
        }
        Err(damaged(&self.path, &format!("chunk {chunk} of {name} is not what was written")))
    }
}

/// Removes a packed file that does not hold what was written, so that the next start makes another; gives the error that
/// says so.
pub(crate) fn damaged(path: &Path, what: &str) -> Error {
    let why = match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            format!("{what}; the file cannot be removed ({error}): remove it, and start again")
        }
        _ => format!("{what}; the file is removed: start again, and weights are packed anew"),
    };
    Error::Packed { file: path.to_owned(), why }
}
