//! Global memory: buffers at addresses that are never used twice.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::error::{Broken, Reason};

/// Where the first buffer lies. The windows of shared, local and module memory lie far above.
const FIRST: u64 = 0x7000_0000_0000;
/// Every buffer begins at a multiple of this, as a driver's do.
const ALIGNMENT: u64 = 256;
/// Addresses between two buffers that are of none, so that wrong ones rarely meet another buffer.
const GAP: u64 = 1 << 32;

/// A buffer's bytes, which kernels of several threads change.
struct Buffer {
    /// Words, so that every element is aligned.
    words: Box<[AtomicU64]>,
    len: u64,
}

impl Buffer {
    fn address(&self) -> *mut u8 {
        self.words.as_ptr().cast_mut().cast()
    }
}

/// A copy to or from what is not memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryError {
    /// The address.
    pub address: u64,
    /// The bytes.
    pub len: u64,
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x} are not inside of one buffer", self.len, self.address)
    }
}

impl std::error::Error for MemoryError {}

/// The memory of a device.
#[derive(Default)]
pub struct Memory {
    buffers: BTreeMap<u64, Buffer>,
    /// Bytes of the address space that were given away.
    end: u64,
}

impl Memory {
    /// A memory without buffers.
    pub fn new() -> Memory {
        Memory::default()
    }

    /// The address of a new buffer whose bytes are all `0xFF`.
    pub fn alloc(&mut self, len: u64) -> u64 {
        let start = self.reserve(len);
        self.open(start, len);
        start
    }

    /// An address for a buffer that begins later.
    pub fn reserve(&mut self, len: u64) -> u64 {
        let start = (FIRST + self.end).next_multiple_of(ALIGNMENT);
        self.end = start + len + GAP - FIRST;
        start
    }

    /// Begins a buffer at a reserved address; its bytes are all `0xFF`.
    pub fn open(&mut self, start: u64, len: u64) {
        let words = (0..len.div_ceil(8)).map(|_| AtomicU64::new(u64::MAX)).collect();
        self.buffers.insert(start, Buffer { words, len });
    }

    /// Ends a buffer; `None` if none begins there.
    pub fn free(&mut self, start: u64) -> Option<()> {
        self.buffers.remove(&start).map(|_| ())
    }

    /// Where `len` bytes at an address lie, if one buffer has them all.
    fn find(&self, address: u64, len: u64) -> Result<*mut u8, MemoryError> {
        let wrong = MemoryError { address, len };
        let (start, buffer) = self.buffers.range(..=address).next_back().ok_or_else(|| wrong.clone())?;
        let offset = address - start;
        match offset.checked_add(len) {
            // SAFETY: the offset lies inside the buffer.
            Some(end) if end <= buffer.len => Ok(unsafe { buffer.address().add(offset as usize) }),
            _ => Err(wrong),
        }
    }

    /// Copies bytes into a buffer.
    ///
    /// # Errors
    /// They do not lie inside of one.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let place = self.find(address, bytes.len() as u64)?;
        // SAFETY: the buffer has so many bytes there, and `&mut self` keeps kernels away.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        Ok(())
    }

    /// Copies bytes out of a buffer.
    ///
    /// # Errors
    /// They do not lie inside of one.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let place = self.find(address, bytes.len() as u64)?;
        for (at, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: the buffer has so many bytes there; kernels change them atomically.
            *byte = unsafe { AtomicU8::from_ptr(place.add(at)) }.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Sets bytes of a buffer.
    ///
    /// # Errors
    /// They do not lie inside of one.
    pub fn fill(&mut self, address: u64, byte: u8, len: u64) -> Result<(), MemoryError> {
        let place = self.find(address, len)?;
        // SAFETY: the buffer has so many bytes there, and `&mut self` keeps kernels away.
        unsafe { std::ptr::write_bytes(place, byte, len as usize) };
        Ok(())
    }

    /// Copies from one place to another, which may be of one buffer.
    ///
    /// # Errors
    /// One of them does not lie inside of a buffer.
    pub fn copy(&mut self, to: u64, from: u64, len: u64) -> Result<(), MemoryError> {
        let (to, from) = (self.find(to, len)?, self.find(from, len)?);
        // SAFETY: both have so many bytes, and `&mut self` keeps kernels away.
        unsafe { std::ptr::copy(from, to, len as usize) };
        Ok(())
    }

    /// All buffers, for a launch.
    pub(crate) fn view(&self) -> View<'_> {
        let extent = |(start, buffer): (&u64, &Buffer)| Extent {
            start: *start,
            end: *start + buffer.len,
            address: buffer.address() as usize,
        };
        // There is always one, though nothing lies in it.
        let none = Extent { start: u64::MAX, end: 0, address: 0 };
        let extents = self.buffers.iter().map(extent).chain([none]).collect();
        View { extents, last: 0, memory: std::marker::PhantomData }
    }
}

#[derive(Clone, Copy)]
struct Extent {
    start: u64,
    end: u64,
    address: usize,
}

/// The buffers as one thread sees them during a launch.
#[derive(Clone)]
pub(crate) struct View<'a> {
    extents: Vec<Extent>,
    /// The buffer of the last access.
    last: usize,
    memory: std::marker::PhantomData<&'a Memory>,
}

impl View<'_> {
    /// Where `len` bytes lie that begin at a multiple of `align`.
    #[inline(always)]
    fn find(&mut self, lane: u32, address: u64, len: u64, align: u64) -> Result<*mut u8, Broken> {
        let last = &self.extents[self.last];
        let inside = address >= last.start && address.wrapping_add(len) <= last.end;
        if inside && address & (align - 1) == 0 {
            return Ok((last.address + (address - last.start) as usize) as *mut u8);
        }
        self.search(lane, address, len, align)
    }

    #[cold]
    fn search(&mut self, lane: u32, address: u64, len: u64, align: u64) -> Result<*mut u8, Broken> {
        if !address.is_multiple_of(align) {
            let why = format!("an access of {align} bytes at {address:#x}, which is no multiple of its size");
            return Err(Broken::new(Reason::Misaligned, lane, why));
        }
        let after = self.extents.partition_point(|extent| extent.start <= address);
        let found = after.checked_sub(1).filter(|at| address.wrapping_add(len) <= self.extents[*at].end);
        let Some(at) = found else {
            return Err(Broken::new(Reason::OutOfBounds, lane, self.outside(address, len)));
        };
        self.last = at;
        let extent = &self.extents[at];
        Ok((extent.address + (address - extent.start) as usize) as *mut u8)
    }

    /// Names the buffer that was probably meant: the one that ends or begins nearby.
    #[cold]
    fn outside(&self, address: u64, len: u64) -> String {
        let after = self.extents.partition_point(|extent| extent.start <= address);
        let before = after.checked_sub(1).map(|at| &self.extents[at]);
        if let Some(Extent { start, end, .. }) = before.filter(|extent| address < extent.end + GAP / 2) {
            let (at, all, far) = (address - start, end - start, address.wrapping_add(len).wrapping_sub(*end));
            return format!(
                "out of bounds: {len} bytes at byte {at} of a buffer of {all} bytes, {far} too far"
            );
        }
        match self.extents.get(after).filter(|extent| extent.start - address < GAP / 2 && extent.end > 0) {
            Some(Extent { start, end, .. }) => format!(
                "out of bounds: {len} bytes at {} bytes before a buffer of {} bytes",
                start - address,
                end - start
            ),
            None => format!("out of bounds: {len} bytes at {address:#x}, where there is no buffer"),
        }
    }

    /// Checks an access of `count` elements together.
    pub(crate) fn check(&mut self, lane: u32, address: u64, len: u64, align: u64) -> Result<(), Broken> {
        self.find(lane, address, len, align).map(|_| ())
    }

    /// An element of 1, 2, 4 or 8 bytes.
    #[inline]
    pub(crate) fn load(&mut self, lane: u32, address: u64, bytes: u8) -> Result<u64, Broken> {
        let place = self.find(lane, address, u64::from(bytes), u64::from(bytes))?;
        // SAFETY: the buffer has so many bytes there, aligned to as many; all kernels access them atomically.
        Ok(unsafe {
            match bytes {
                1 => u64::from(AtomicU8::from_ptr(place).load(Ordering::Relaxed)),
                2 => u64::from(AtomicU16::from_ptr(place.cast()).load(Ordering::Relaxed)),
                4 => u64::from(AtomicU32::from_ptr(place.cast()).load(Ordering::Relaxed)),
                _ => AtomicU64::from_ptr(place.cast()).load(Ordering::Relaxed),
            }
        })
    }

    /// Changes an element of 1, 2, 4 or 8 bytes.
    #[inline]
    pub(crate) fn store(&mut self, lane: u32, address: u64, bytes: u8, value: u64) -> Result<(), Broken> {
        let place = self.find(lane, address, u64::from(bytes), u64::from(bytes))?;
        // SAFETY: as in `load`.
        unsafe {
            match bytes {
                1 => AtomicU8::from_ptr(place).store(value as u8, Ordering::Relaxed),
                2 => AtomicU16::from_ptr(place.cast()).store(value as u16, Ordering::Relaxed),
                4 => AtomicU32::from_ptr(place.cast()).store(value as u32, Ordering::Relaxed),
                _ => AtomicU64::from_ptr(place.cast()).store(value, Ordering::Relaxed),
            }
        }
        Ok(())
    }

    /// Changes an element of 4 or 8 bytes in one piece, and gives what it was.
    pub(crate) fn update(
        &mut self,
        lane: u32,
        address: u64,
        bytes: u8,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Broken> {
        let place = self.find(lane, address, u64::from(bytes), u64::from(bytes))?;
        let order = Ordering::Relaxed;
        // SAFETY: as in `load`.
        let was = unsafe {
            match bytes {
                4 => AtomicU32::from_ptr(place.cast())
                    .fetch_update(order, order, |old| Some(change(u64::from(old)) as u32))
                    .map(u64::from)
                    .unwrap_or_else(u64::from),
                _ => AtomicU64::from_ptr(place.cast())
                    .fetch_update(order, order, |old| Some(change(old)))
                    .unwrap_or_else(|old| old),
            }
        };
        Ok(was)
    }
}
