//! Executable memory: written, then protected, never both at once.

use std::io;

use crate::os::Pages;

/// Functions begin at multiples of this.
const ALIGNMENT: usize = 64;

/// Finished machine code that can run.
pub struct CodeMemory {
    pages: Pages,
    entries: Vec<usize>,
}

impl CodeMemory {
    /// Copies functions (position-independent, without relocations) into executable memory.
    pub fn new(functions: &[&[u8]]) -> io::Result<CodeMemory> {
        let mut entries = Vec::with_capacity(functions.len());
        let mut len = 0usize;
        for function in functions {
            entries.push(len);
            len += function.len().next_multiple_of(ALIGNMENT);
        }
        let pages = Pages::map(len)?;
        for (entry, function) in entries.iter().zip(functions) {
            // SAFETY: the mapping is fresh, holds `len` bytes, and nobody else knows it yet.
            unsafe {
                std::ptr::copy_nonoverlapping(function.as_ptr(), pages.as_ptr().add(*entry), function.len())
            }
        }
        pages.make_executable()?;
        Ok(CodeMemory { pages, entries })
    }

    /// Where function `index` begins.
    pub fn entry(&self, index: usize) -> *const u8 {
        // SAFETY: entries lie inside the mapping.
        unsafe { self.pages.as_ptr().add(self.entries[index]) }
    }
}
