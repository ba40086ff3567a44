//! Memory into which a reader's threads put bytes while the executor reads other bytes of it.

use std::fmt;
use std::io;
use std::ptr::NonNull;

use crate::os::Pages;

/// A fixed range of zeroed memory that begins at a block's border (on Unix, at a huge page's).
///
/// It takes no more than its length, and the system gives it its pages as they are first written to.
pub struct Memory {
    pages: Pages,
    len: u64,
}

// SAFETY: a memory is plain bytes owned by this value and bound to no thread.
unsafe impl Send for Memory {}

// SAFETY: what is shared gives out addresses; who may touch the bytes is said where that is done.
unsafe impl Sync for Memory {}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.len)
    }
}

impl Memory {
    /// Memory of so many bytes.
    ///
    /// # Errors
    /// What the system says; `OutOfMemory` where the length does not fit an address.
    pub fn new(len: u64) -> io::Result<Memory> {
        let bytes = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Memory { pages: Pages::new(bytes)?, len })
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The place of some bytes.
    ///
    /// # Panics
    /// If they are not all in this memory, which is a fault of the caller's books.
    pub fn span(&self, offset: u64, len: u64) -> Span {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len), "{len} bytes at {offset} of {}", self.len);
        // SAFETY: the offset is at most the memory's length.
        let start = unsafe { self.pages.start().add(offset as usize) };
        Span { start, len: len as usize }
    }
}

/// Where some bytes lie in memory that somebody else keeps. Having one gives no right to touch them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it is an address and a number; who may touch the bytes is said where that is done.
unsafe impl Send for Span {}

impl Span {
    /// The place of a slice's bytes.
    pub fn of(bytes: &mut [u8]) -> Span {
        let len = bytes.len();
        Span { start: NonNull::from(bytes).cast(), len }
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte.
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// A part of it.
    ///
    /// # Panics
    /// If it is not all in there.
    pub fn part(&self, at: usize, len: usize) -> Span {
        assert!(at <= self.len && len <= self.len - at, "{len} bytes at {at} of {}", self.len);
        // SAFETY: the place is inside the same memory.
        Span { start: unsafe { self.start.add(at) }, len }
    }

    /// The first `at` bytes, or as many as there are, and the rest.
    pub fn split(&self, at: usize) -> (Span, Span) {
        let at = at.min(self.len);
        (self.part(0, at), self.part(at, self.len - at))
    }

    /// The bytes.
    ///
    /// # Safety
    /// They are there for `'a`, and nobody writes to them meanwhile.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: as the caller says.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to be written.
    ///
    /// # Safety
    /// They are there for `'a`, and nobody else reads or writes them meanwhile.
    pub unsafe fn bytes_mut<'a>(self) -> &'a mut [u8] {
        // SAFETY: as the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
