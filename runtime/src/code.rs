//! Machine code in executable memory, never writable and executable at once.

use std::fmt;
use std::io;

use crate::os::Mapping;

/// Where functions start: on a cache line of their own.
const ALIGNMENT: usize = 64;

/// Fills the gaps between functions, so that a jump astray traps: `int3` on x86, the undefined `udf` on Arm.
const FILLER: u8 = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) { 0xCC } else { 0x00 };

/// Why code could not be loaded.
#[derive(Debug)]
pub enum CodeError {
    /// A function without instructions.
    Empty {
        /// Its place in the list.
        index: usize,
    },
    /// The system refuses pages, or execution.
    System {
        /// Bytes of all functions together.
        bytes: usize,
        /// The system's answer.
        source: io::Error,
    },
}

impl fmt::Display for CodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodeError::Empty { index } => {
                write!(f, "function {index} has no code; expected at least one byte")
            }
            CodeError::System { bytes, source } => {
                write!(f, "cannot make {bytes} bytes of machine code executable: {source}")
            }
        }
    }
}

impl std::error::Error for CodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CodeError::Empty { .. } => None,
            CodeError::System { source, .. } => Some(source),
        }
    }
}

/// Functions that are loaded together and unloaded together. Their code must not contain relocations.
///
/// A pointer from [`CodeMemory::entry`] is valid only as long as this value lives: whoever keeps one keeps an `Arc` of
/// this value beside it. Nothing registers unwind tables for the code, so a panic must not cross it.
#[derive(Debug)]
pub struct CodeMemory {
    /// None where there are no functions.
    mapping: Option<Mapping>,
    /// Offset of each function.
    starts: Vec<usize>,
}

impl CodeMemory {
    /// Copies the functions into fresh pages, then makes those executable and no longer writable.
    ///
    /// # Errors
    /// A function is empty, or the system refuses pages or execution.
    pub fn new(functions: &[&[u8]]) -> Result<CodeMemory, CodeError> {
        let mut starts = Vec::with_capacity(functions.len());
        let mut end = 0usize;
        for (index, code) in functions.iter().enumerate() {
            if code.is_empty() {
                return Err(CodeError::Empty { index });
            }
            starts.push(end);
            let next = end.checked_add(code.len()).and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
            end = next.ok_or_else(|| CodeError::System {
                bytes: usize::MAX,
                source: io::ErrorKind::OutOfMemory.into(),
            })?;
        }
        if functions.is_empty() {
            return Ok(CodeMemory { mapping: None, starts });
        }
        let refused = |source| CodeError::System { bytes: end, source };
        let mapping = Mapping::new(end).map_err(refused)?;
        // SAFETY: the mapping is at least `end` bytes long, writable, and nobody else knows of it yet.
        let pages = unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr(), mapping.bytes()) };
        pages.fill(FILLER);
        for (&start, code) in starts.iter().zip(functions) {
            pages[start..start + code.len()].copy_from_slice(code);
        }
        Ok(CodeMemory { mapping: Some(mapping.into_code().map_err(refused)?), starts })
    }

    /// The first instruction of a function, by its place in the list, aligned to 64 bytes.
    ///
    /// # Panics
    /// There is no such function.
    pub fn entry(&self, index: usize) -> *const u8 {
        assert!(index < self.starts.len(), "function {index} of {}", self.starts.len());
        let mapping = self.mapping.as_ref().expect("a list with a function has a mapping");
        mapping.as_ptr().wrapping_add(self.starts[index])
    }

    /// Functions.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are no functions.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Bytes of pages taken.
    pub fn bytes(&self) -> usize {
        self.mapping.as_ref().map_or(0, Mapping::bytes)
    }
}
