//! Memory: buffers that the caller registers, the code's constants and the frame.

use crate::error::{Broken, Reason};

/// How far buffers are apart, as a power of two.
const APART: u32 = 40;
/// Bytes for frames.
const STACK: usize = 1 << 20;
/// The stack may grow by so much before it is touched.
const PAGE: u64 = 4096;
/// What lies around buffers.
const UNKNOWN: u8 = 0xa5;

/// Where the code is loaded.
pub(crate) const CODE: u64 = 1 << APART;
const POINTERS: u64 = 2 << APART;
const SYMBOLS: u64 = 3 << APART;
const FRAMES: u64 = 4 << APART;
/// The first buffer's number among all of them.
const FIRST: usize = 4;

/// A parameter's memory.
pub enum Buffer<'a> {
    /// The function reads it.
    Read {
        /// What is there.
        bytes: &'a [u8],
        /// The bytes of an element: it begins at a multiple of them.
        element: usize,
    },
    /// The function writes it, and may read it.
    Write {
        /// What is there, before and after.
        bytes: &'a mut [u8],
        /// The bytes of an element: it begins at a multiple of them.
        element: usize,
    },
}

impl Buffer<'_> {
    fn element(&self) -> usize {
        match self {
            Buffer::Read { element, .. } | Buffer::Write { element, .. } => *element,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Buffer::Read { bytes, .. } => bytes,
            Buffer::Write { bytes, .. } => bytes,
        }
    }
}

/// Frames, and which of their bytes were written.
struct Stack {
    bytes: Vec<u8>,
    written: Vec<bool>,
    /// The lowest address that was touched.
    lowest: u64,
}

pub(crate) struct Memory<'a> {
    code: &'a [u8],
    /// Where the constants begin.
    constants: usize,
    pointers: Vec<u8>,
    symbols: Vec<u8>,
    stack: Stack,
    buffers: Vec<Buffer<'a>>,
}

/// Where a buffer begins: elements are where they must be, and no better.
fn base(number: usize, element: usize) -> u64 {
    ((number + FIRST + 1) as u64) << APART | PAGE | element as u64
}

/// Where the stack pointer is when the function is called: 8 bytes beside a multiple of 16.
pub(crate) fn stack_top() -> u64 {
    FRAMES + STACK as u64 + 8
}

impl<'a> Memory<'a> {
    pub(crate) fn new(
        code: &'a [u8],
        constants: usize,
        symbols: &[i32],
        buffers: Vec<Buffer<'a>>,
    ) -> Memory<'a> {
        let bases = buffers.iter().enumerate().map(|(number, buffer)| base(number, buffer.element()));
        let stack = Stack { bytes: vec![0; STACK + 8], written: vec![false; STACK + 8], lowest: stack_top() };
        Memory {
            code,
            constants,
            pointers: bases.flat_map(u64::to_le_bytes).collect(),
            symbols: symbols.iter().flat_map(|symbol| symbol.to_le_bytes()).collect(),
            stack,
            buffers,
        }
    }

    /// The function's first two arguments.
    pub(crate) fn arguments() -> [u64; 2] {
        [POINTERS, SYMBOLS]
    }

    /// A memory that is only read, its name and its first address.
    fn fixed(&self, address: u64) -> Option<(&[u8], String, u64)> {
        Some(match (address >> APART) as usize {
            1 => (self.code, "the code".to_owned(), CODE),
            2 => (&self.pointers, "the parameters' addresses".to_owned(), POINTERS),
            3 => (&self.symbols, "the symbols".to_owned(), SYMBOLS),
            number => {
                let number = number.checked_sub(FIRST + 1)?;
                let buffer = self.buffers.get(number)?;
                (buffer.bytes(), format!("parameter {number}"), base(number, buffer.element()))
            }
        })
    }

    /// Why there is no such access.
    #[cold]
    fn outside(&self, address: u64, count: usize) -> Broken {
        let why = match self.fixed(address) {
            Some((_, _, CODE)) => format!("an access of {count} bytes of the code, which are no constants"),
            Some((bytes, name, base)) => {
                let (at, len) = (address.wrapping_sub(base) as i64, bytes.len());
                format!("an access of {count} bytes at byte {at} of {name}, which has {len}")
            }
            None => format!("an access of {count} bytes at {address:#x}, where nothing is"),
        };
        Broken::new(Reason::OutOfBounds, why)
    }

    /// Whether an address is in the part of memory that is for frames.
    pub(crate) fn is_stack(address: u64) -> bool {
        address >> APART == FRAMES >> APART
    }

    /// The bytes of the stack that an access means.
    fn in_stack(
        &mut self,
        address: u64,
        count: usize,
        pointer: u64,
    ) -> Result<std::ops::Range<usize>, Broken> {
        if address < pointer {
            let why = format!("an access {} bytes below the stack pointer", pointer - address);
            return Err(Broken::new(Reason::Stack, why));
        }
        self.touch(address)?;
        let start = (address - FRAMES) as usize;
        if start + count > self.stack.bytes.len() {
            let why = format!("an access of {count} bytes in the caller's frame");
            return Err(Broken::new(Reason::OutOfBounds, why));
        }
        Ok(start..start + count)
    }

    /// Touches the stack: the system gives it more page by page.
    pub(crate) fn touch(&mut self, address: u64) -> Result<(), Broken> {
        if !Memory::is_stack(address) || address >= stack_top() {
            return Err(Broken::new(Reason::OutOfBounds, "this is not the stack"));
        }
        if address + PAGE < self.stack.lowest {
            let why = format!("{} bytes below what was touched of the stack", self.stack.lowest - address);
            return Err(Broken::new(Reason::Stack, why));
        }
        self.stack.lowest = self.stack.lowest.min(address);
        Ok(())
    }

    /// `N` bytes; `pointer` is the stack's.
    pub(crate) fn read<const N: usize>(&mut self, address: u64, pointer: u64) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        self.read_to(&mut bytes, address, pointer)?;
        Ok(bytes)
    }

    /// Reads as many bytes as there is room for.
    pub(crate) fn read_to(&mut self, to: &mut [u8], address: u64, pointer: u64) -> Result<(), Broken> {
        if Memory::is_stack(address) {
            let range = self.in_stack(address, to.len(), pointer)?;
            if let Some(at) = self.stack.written[range.clone()].iter().position(|written| !written) {
                return Err(unwritten(range.start + at, pointer));
            }
            to.copy_from_slice(&self.stack.bytes[range]);
            return Ok(());
        }
        let found = match (address >> APART) as usize {
            number @ FIRST.. => self.buffers.get(number - FIRST - 1).and_then(|buffer| {
                let start = address.wrapping_sub(base(number - FIRST - 1, buffer.element()));
                inside(buffer.bytes(), start, to.len())
            }),
            1 => inside(self.code, address - CODE, to.len())
                .filter(|_| address - CODE >= self.constants as u64),
            2 => inside(&self.pointers, address - POINTERS, to.len()),
            3 => inside(&self.symbols, address - SYMBOLS, to.len()),
            _ => None,
        };
        match found {
            Some(bytes) => to.copy_from_slice(bytes),
            None => return Err(self.outside(address, to.len())),
        }
        Ok(())
    }

    /// A word that holds an element of 8 or 16 bits: aligned, it may reach over the ends of what has the element, and over
    /// what nobody wrote.
    pub(crate) fn read_around(&mut self, address: u64, pointer: u64) -> Result<u32, Broken> {
        if !address.is_multiple_of(4) {
            return Ok(u32::from_le_bytes(self.read(address, pointer)?));
        }
        let mut bytes = [UNKNOWN; 4];
        let mut first = None;
        let mut found = false;
        for (at, byte) in (0..).zip(&mut bytes) {
            match self.read::<1>(address.wrapping_add(at), pointer) {
                Ok([read]) => (*byte, found) = (read, true),
                Err(broken) => first = first.or(Some(broken)),
            }
        }
        match first {
            Some(broken) if !found => Err(broken),
            _ => Ok(u32::from_le_bytes(bytes)),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8], address: u64, pointer: u64) -> Result<(), Broken> {
        if Memory::is_stack(address) {
            let range = self.in_stack(address, bytes.len(), pointer)?;
            self.stack.written[range.clone()].fill(true);
            self.stack.bytes[range].copy_from_slice(bytes);
            return Ok(());
        }
        let number = ((address >> APART) as usize).wrapping_sub(FIRST + 1);
        match self.buffers.get_mut(number) {
            Some(Buffer::Write { bytes: to, element }) => {
                let start = address.wrapping_sub(base(number, *element));
                let room =
                    usize::try_from(start).ok().and_then(|start| to.get_mut(start..)?.get_mut(..bytes.len()));
                match room {
                    Some(room) => room.copy_from_slice(bytes),
                    None => return Err(self.outside(address, bytes.len())),
                }
                Ok(())
            }
            _ => match self.fixed(address) {
                Some((_, name, _)) => Err(Broken::new(Reason::ReadOnly, format!("a store to {name}"))),
                None => Err(self.outside(address, bytes.len())),
            },
        }
    }

    /// Eight bytes of the stack, and how many of the first ones were written.
    pub(crate) fn read_slot(&mut self, address: u64, pointer: u64) -> Result<(u64, u8), Broken> {
        let range = self.in_stack(address, 8, pointer)?;
        let written = self.stack.written[range.clone()].iter().take_while(|written| **written).count();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.stack.bytes[range]);
        Ok((u64::from_le_bytes(bytes), written as u8))
    }

    /// Keeps a register, of which only the first bytes may mean something.
    pub(crate) fn write_slot(
        &mut self,
        (value, written): (u64, u8),
        address: u64,
        pointer: u64,
    ) -> Result<(), Broken> {
        self.write(&value.to_le_bytes(), address, pointer)?;
        let range = self.in_stack(address, 8, pointer)?;
        self.stack.written[range][usize::from(written)..].fill(false);
        Ok(())
    }
}

fn inside(bytes: &[u8], start: u64, count: usize) -> Option<&[u8]> {
    bytes.get(usize::try_from(start).ok()?..)?.get(..count)
}

#[cold]
fn unwritten(at: usize, pointer: u64) -> Broken {
    let at = FRAMES + at as u64 - pointer;
    Broken::new(Reason::Uninitialised, format!("nobody wrote the byte {at} above the stack pointer"))
}
