//! Host memory as device memory: what the CPU and the interpreter share.

use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Bytes, DeviceError, Mem, Span};
use crate::memory::{ALIGNMENT, HostBuffer};

/// A memory's bytes.
pub(super) enum HostMem {
    /// Memory of our own.
    Owned(HostBuffer),
    /// Part of a file or of the binary; only read.
    Adopted {
        /// Keeps the bytes alive.
        bytes: Bytes,
        /// Where the part begins.
        offset: usize,
        /// The same bytes in memory of our own, once they have [settled](settle) there.
        settled: OnceLock<Settled>,
    },
    /// What others keep, where they have put it; null while it may not be read.
    Lent(AtomicPtr<u8>),
}

/// A part of memory of our own.
pub(super) struct Settled {
    buffer: Arc<HostBuffer>,
    offset: usize,
}

impl HostMem {
    fn address(&self) -> *const u8 {
        match self {
            HostMem::Owned(buffer) => buffer.as_ptr(),
            HostMem::Adopted { bytes, offset, settled } => match settled.get() {
                // SAFETY: the buffer has a place of that length there.
                Some(settled) => unsafe { settled.buffer.as_ptr().add(settled.offset) },
                None => (**bytes).as_ref()[*offset..].as_ptr(),
            },
            HostMem::Lent(place) => {
                let place = place.load(Ordering::Acquire);
                assert!(!place.is_null(), "what is lent is read only while it is there");
                place
            }
        }
    }
}

pub(super) fn alloc(device: &str, len: u64) -> Result<Mem, DeviceError> {
    let out_of_memory = |why: String| DeviceError::OutOfMemory { device: device.to_owned(), need: len, why };
    let size = usize::try_from(len).map_err(|error| out_of_memory(error.to_string()))?;
    let buffer = HostBuffer::new(size).map_err(|error| out_of_memory(error.to_string()))?;
    Ok(Mem::new(Arc::new(HostMem::Owned(buffer)), len))
}

pub(super) fn adopt(bytes: &Bytes, offset: u64, len: u64, alignment: u64) -> Option<Mem> {
    let all: &[u8] = (**bytes).as_ref();
    let start = usize::try_from(offset).ok()?;
    let part = all.get(start..start.checked_add(usize::try_from(len).ok()?)?)?;
    if !(part.as_ptr() as u64).is_multiple_of(alignment) {
        return None;
    }
    let adopted = HostMem::Adopted { bytes: bytes.clone(), offset: start, settled: OnceLock::new() };
    Some(Mem::new(Arc::new(adopted), len))
}

/// Copies parts of files into one memory of our own, whose pages are large, and lets the system have the files' pages.
/// Launches may run meanwhile: until a part is there they read it where it was, and that stays readable. Ends early
/// when `go_on` says no: it is asked before each piece, with the bytes copied so far. Gives the bytes that have settled.
///
/// # Errors
/// The system has no memory for them; then all stay where they are.
pub(crate) fn settle(parts: &[Mem], go_on: &mut dyn FnMut(u64) -> bool) -> Result<u64, DeviceError> {
    const PIECE: usize = 1 << 20;
    let size = |mem: &Mem| (mem.len as usize).next_multiple_of(ALIGNMENT);
    let parts: Vec<(&Mem, &Bytes, usize, &OnceLock<Settled>)> = parts.iter().filter_map(unsettled).collect();
    let total: usize = parts.iter().map(|(mem, ..)| size(mem)).sum();
    let full = |error: crate::memory::MemoryError| DeviceError::OutOfMemory {
        device: "the host".to_owned(),
        need: total as u64,
        why: error.to_string(),
    };
    let buffer = Arc::new(HostBuffer::new(total).map_err(full)?);
    let (mut at, mut bytes_copied, mut bytes_settled) = (0, 0, 0);
    for (mem, bytes, offset, settled) in parts {
        let range = offset..offset + mem.len as usize;
        for (number, piece) in (**bytes).as_ref()[range.clone()].chunks(PIECE).enumerate() {
            if !go_on(bytes_copied) {
                return Ok(bytes_settled);
            }
            // SAFETY: the place lies inside the buffer and belongs to this part alone; nobody reads it before it is
            // made known below.
            unsafe {
                let to = buffer.as_mut_ptr().add(at + number * PIECE);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len());
            }
            bytes_copied += piece.len() as u64;
            // Both copies are resident for no longer than that: who still reads this one brings back what it reads.
            let from = range.start + number * PIECE;
            bytes.release(from..from + piece.len());
        }
        if settled.set(Settled { buffer: buffer.clone(), offset: at }).is_ok() {
            bytes_settled += mem.len;
            bytes.release(range);
        }
        at += size(mem);
    }
    Ok(bytes_settled)
}

/// What is needed to settle a memory, if it is part of a file and has not settled.
fn unsettled(mem: &Mem) -> Option<(&Mem, &Bytes, usize, &OnceLock<Settled>)> {
    match mem.inner.downcast_ref::<HostMem>()? {
        HostMem::Adopted { bytes, offset, settled } if settled.get().is_none() => {
            Some((mem, bytes, *offset, settled))
        }
        _ => None,
    }
}

/// Memory that has an address only now and then: see [`Mem::lend`].
pub(crate) fn lent(len: u64) -> Mem {
    Mem::new(Arc::new(HostMem::Lent(AtomicPtr::default())), len)
}

impl Mem {
    /// Says where the bytes of lent memory are from now on; null: nowhere. Whoever says so keeps them there until the next
    /// word, and lets launches write to them where it is a state that they are of.
    ///
    /// # Panics
    /// If it is no memory that [`lent`] made.
    pub(crate) fn lend(&self, place: *mut u8) {
        let Some(HostMem::Lent(known)) = self.inner.downcast_ref() else {
            panic!("only lent memory changes its place");
        };
        known.store(place, Ordering::Release);
    }
}

/// Where a span begins. Valid for reads of its length; for writes too if the memory is owned, or lent for that. Of a state
/// that is lent that holds for the pages that the pass's tables name.
pub(super) fn address(span: &Span) -> *mut u8 {
    assert!(span.offset + span.len <= span.mem.len, "a span lies inside its memory");
    let mem = span.mem.inner.downcast_ref::<HostMem>().expect("host devices are given host memory");
    // SAFETY: the offset lies inside the memory, as asserted above.
    unsafe { mem.address().add(span.offset as usize).cast_mut() }
}

pub(super) fn write(to: &Span, bytes: &[u8]) {
    assert!(bytes.len() as u64 <= to.len, "a write fits its span");
    let mem = to.mem.inner.downcast_ref::<HostMem>().expect("host devices are given host memory");
    assert!(matches!(mem, HostMem::Owned(_)), "memory of others is only read");
    // SAFETY: the span is owned memory of at least that length. Launches are synchronous, and one that reads a weight
    // waits until that is ready, so nobody else reads or writes it now; `bytes` is a borrowed slice and cannot overlap
    // it.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address(to), bytes.len()) }
}

pub(super) fn read(from: &Span, bytes: &mut [u8]) {
    assert!(bytes.len() as u64 <= from.len, "a read fits its span");
    // SAFETY: the span has at least that many readable bytes and does not overlap the caller's slice.
    unsafe { std::ptr::copy_nonoverlapping(address(from), bytes.as_mut_ptr(), bytes.len()) }
}
