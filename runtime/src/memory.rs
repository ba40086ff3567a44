//! Host memory of our own.

use std::fmt;

use crate::os::Pages;

/// From this size on, 2 MB pages are asked for.
const HUGE_BYTES: usize = 2 << 20;

/// The system has no memory of that size.
#[derive(Debug)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub need: usize,
    /// The system's reason.
    pub why: std::io::Error,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} bytes of memory: {}", self.need, self.why)
    }
}

impl std::error::Error for OutOfMemory {}

/// Zeroed memory, aligned to a page (so to 256 bytes). Its owner answers for who reads and writes it.
pub struct HostBuffer {
    pages: Pages,
}

impl HostBuffer {
    /// A buffer of `len` bytes.
    pub fn zeroed(len: usize) -> Result<HostBuffer, OutOfMemory> {
        let pages = Pages::map(len).map_err(|why| OutOfMemory { need: len, why })?;
        if len >= HUGE_BYTES {
            pages.wish_huge();
        }
        Ok(HostBuffer { pages })
    }

    /// Where it begins.
    pub fn as_ptr(&self) -> *const u8 {
        self.pages.as_ptr()
    }

    /// Where it begins, for writing.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.pages.as_ptr()
    }

    /// Its bytes (1 for an empty one).
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// Never: an empty buffer has one byte.
    pub fn is_empty(&self) -> bool {
        false
    }
}
