//! Host memory for weights, states and arenas.

use std::fmt;
use std::io;

use crate::os::Mapping;

/// What every [`HostBuffer`] promises of its start, in bytes: whole cache lines and whole vectors of any CPU.
pub const ALIGNMENT: usize = 256;

/// Memory that was not to be had.
#[derive(Debug)]
pub struct MemoryError {
    /// Bytes asked for.
    pub bytes: usize,
    /// The system's answer.
    pub source: io::Error,
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot allocate {} bytes of host memory: {}", self.bytes, self.source)
    }
}

impl std::error::Error for MemoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Zeroed memory of a fixed length, aligned to [`ALIGNMENT`], in 2 MB pages where it is that large and the system has
/// them (4-bit decode reads weights 1.4 times as fast from those).
///
/// Kernels write through [`HostBuffer::as_mut_ptr`] from several threads, so the type is `Sync` although a shared
/// reference gives a pointer for writing. Whoever writes through the pointer promises that no other thread reads or
/// writes the same bytes meanwhile, and that no slice from [`HostBuffer::bytes`] or [`HostBuffer::bytes_mut`] that
/// covers them is in use. Pages are taken from the system when first touched.
#[derive(Debug)]
pub struct HostBuffer {
    mapping: Option<Mapping>,
    len: usize,
}

impl HostBuffer {
    /// A buffer of `len` zero bytes. A length of 0 takes no memory.
    ///
    /// # Errors
    /// The system refuses; the error names the bytes asked for.
    pub fn new(len: usize) -> Result<HostBuffer, MemoryError> {
        if len > isize::MAX as usize {
            let source = io::Error::new(io::ErrorKind::OutOfMemory, "longer than the address space allows");
            return Err(MemoryError { bytes: len, source });
        }
        let mapping = match len {
            0 => None,
            _ => Some(Mapping::new(len).map_err(|source| MemoryError { bytes: len, source })?),
        };
        Ok(HostBuffer { mapping, len })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte, for reading; aligned and not null even where the buffer is empty.
    pub fn as_ptr(&self) -> *const u8 {
        self.as_mut_ptr()
    }

    /// The first byte, for writing under the promise that the type asks for.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.mapping.as_ref().map_or(std::ptr::without_provenance_mut(ALIGNMENT), Mapping::as_ptr)
    }

    /// The bytes, for reading.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes are mapped and initialised (zero at first); nobody writes them through a pointer while
        // the slice is in use, by the promise of the type.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// The bytes, for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the exclusive reference keeps other slices away.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len) }
    }
}
