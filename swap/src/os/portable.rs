//! The same calls by means of the standard library alone.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::ptr::NonNull;

use super::Access;
use crate::store::BLOCK_BYTES;

/// Whether this system can be asked to leave the page cache out: nobody asks.
pub fn wants_direct() -> bool {
    false
}

/// Opens a file that is there, through the page cache.
pub fn open(path: &Path, access: Access, direct: bool) -> io::Result<File> {
    if direct {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    OpenOptions::new().read(true).write(access == Access::Write).open(path)
}

/// Creates a new file; fails where the name exists.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

/// Files go through the page cache in any case.
pub fn set_direct(_file: &File, direct: bool) -> io::Result<()> {
    if direct { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
}

/// Whether the open file is the one that the path leads to, as far as lengths tell.
pub fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => held.len() == named.len(),
        _ => false,
    }
}

/// The cache is the system's own affair.
pub fn forget_cached(_file: &File, _at: u64, _len: u64) {}

/// Not known.
pub fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

/// Not known.
pub fn is_in_memory(_folder: &Path) -> bool {
    false
}

/// A folder is a folder; whose it is cannot be asked.
pub fn check_private(folder: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(folder)?.is_dir() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is no folder")),
    }
}

/// Zeroed memory aligned like blocks, which this value owns.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    layout: Layout,
}

impl Pages {
    /// Allocates `bytes` bytes.
    pub fn new(bytes: usize) -> io::Result<Pages> {
        let out_of_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let layout =
            Layout::from_size_align(bytes.max(1), BLOCK_BYTES as usize).map_err(|_| out_of_memory())?;
        // SAFETY: the layout has a size above 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(out_of_memory)?;
        Ok(Pages { start, layout })
    }

    /// The first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout, and whoever borrowed from it is gone.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}
