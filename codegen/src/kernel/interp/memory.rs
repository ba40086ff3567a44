//! Memories during a run: elements in and out of registers, bounds, races.

use jtllm_ir::DType;

use super::InterpError;
use crate::kernel::Memory;

/// The register that holds the element at `offset`, which is in bounds.
pub(super) fn decode(dtype: DType, bytes: &[u8], offset: usize) -> u32 {
    let at = offset * dtype.size();
    match dtype {
        DType::F32 | DType::I32 | DType::U32 => {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        }
        DType::F16 => half::f16::from_bits(u16::from_le_bytes([bytes[at], bytes[at + 1]])).to_f32().to_bits(),
        DType::BF16 => u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])) << 16,
        DType::I8 => i32::from(bytes[at] as i8) as u32,
        DType::U8 | DType::Bool => u32::from(bytes[at]),
    }
}

/// Writes a register to the element at `offset`, which is in bounds.
pub(super) fn encode(dtype: DType, bytes: &mut [u8], offset: usize, register: u32) {
    let at = offset * dtype.size();
    match dtype {
        DType::F32 | DType::I32 | DType::U32 => bytes[at..at + 4].copy_from_slice(&register.to_le_bytes()),
        DType::F16 => {
            let half = half::f16::from_f32(f32::from_bits(register));
            bytes[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        DType::BF16 => {
            let half = half::bf16::from_f32(f32::from_bits(register));
            bytes[at..at + 2].copy_from_slice(&half.to_le_bytes());
        }
        DType::I8 | DType::U8 | DType::Bool => bytes[at] = register as u8,
    }
}

/// Who touched an element of shared memory, and in which stretch between barriers.
#[derive(Clone, Copy, Default)]
struct Touch {
    written: u64,
    writer: u32,
    read: u64,
    reader: u32,
    /// The group of lanes, by the stretch with which it began, that has a copy to it under way.
    under_way: u64,
    /// How often lanes had published when it was written.
    published: u64,
    /// Products under way that read it, of the group that began with that stretch.
    readers: (u64, u32),
}

/// Several lanes.
const SEVERAL: u32 = u32::MAX;

/// What lanes did to shared memory since the last barrier.
pub(super) struct Races {
    touches: Vec<Vec<Touch>>,
    /// Numbers the stretches between barriers, from 1.
    stretch: u64,
    /// The stretch with which the group began.
    first: u64,
    /// How often lanes have published, and how often they had at the last barrier.
    published: u64,
    visible: u64,
}

/// The place of an access, for the error's words.
#[derive(Clone, Copy)]
pub(super) struct Access {
    pub(super) shared: u16,
    pub(super) offset: usize,
    pub(super) lane: u32,
    pub(super) group: u64,
}

impl Races {
    pub(super) fn new(lens: impl Iterator<Item = usize>) -> Races {
        let touches = lens.map(|len| vec![Touch::default(); len]).collect();
        Races { touches, stretch: 0, first: 0, published: 0, visible: 0 }
    }

    pub(super) fn begin_group(&mut self) {
        self.stretch += 1;
        self.first = self.stretch;
    }

    pub(super) fn barrier(&mut self) {
        self.stretch += 1;
        self.visible = self.published;
    }

    pub(super) fn publish(&mut self) {
        self.published += 1;
    }

    /// A product that reads the element for a team begins: lanes have published it before the last barrier.
    pub(super) fn begin_product(&mut self, access: Access) -> Result<(), InterpError> {
        self.read(access)?;
        self.read(Access { lane: access.lane + 1, ..access })?;
        let (first, visible) = (self.first, self.visible);
        let touch = &mut self.touches[usize::from(access.shared)][access.offset];
        if touch.published >= visible {
            let (memory, offset) = (Memory::Shared(access.shared), access.offset as i64);
            return Err(InterpError::Unpublished { memory, offset, group: access.group, lane: access.lane });
        }
        let before = if touch.readers.0 == first { touch.readers.1 } else { 0 };
        touch.readers = (first, before + 1);
        Ok(())
    }

    /// A product that reads the element is done, as its lanes know; others will at the next barrier.
    pub(super) fn end_product(&mut self, access: Access) -> Result<(), InterpError> {
        self.touches[usize::from(access.shared)][access.offset].readers.1 -= 1;
        self.read(access)?;
        self.read(Access { lane: access.lane + 1, ..access })
    }

    pub(super) fn read(&mut self, access: Access) -> Result<(), InterpError> {
        let first = self.first;
        let touch = &mut self.touches[usize::from(access.shared)][access.offset];
        if touch.under_way == first {
            return Err(under_way(access, "loads"));
        }
        if touch.written < self.first {
            let memory = Memory::Shared(access.shared);
            let (offset, group, lane) = (access.offset as i64, access.group, access.lane);
            return Err(InterpError::Undefined { memory, offset, group, lane });
        }
        if touch.written == self.stretch && touch.writer != access.lane {
            return Err(race(access, "loads", touch.writer));
        }
        if touch.read == self.stretch && touch.reader != access.lane {
            touch.reader = SEVERAL;
        } else {
            (touch.read, touch.reader) = (self.stretch, access.lane);
        }
        Ok(())
    }

    pub(super) fn write(&mut self, access: Access) -> Result<(), InterpError> {
        self.write_by(access, access.lane)
    }

    /// A store by some lane of a warp that begins with the access's: whichever it is, nobody knows.
    pub(super) fn write_by_warp(&mut self, access: Access) -> Result<(), InterpError> {
        self.write_by(access, SEVERAL)
    }

    fn write_by(&mut self, access: Access, lane: u32) -> Result<(), InterpError> {
        let (first, stretch, published) = (self.first, self.stretch, self.published);
        let touch = &mut self.touches[usize::from(access.shared)][access.offset];
        if touch.under_way == first {
            return Err(under_way(access, "stores"));
        }
        if touch.readers.0 == first && touch.readers.1 > 0 {
            let (memory, offset) = (Memory::Shared(access.shared), access.offset as i64);
            return Err(InterpError::Multiplied { memory, offset, group: access.group, lane: access.lane });
        }
        if touch.written == stretch && (touch.writer != lane || lane == SEVERAL) {
            return Err(race(access, "stores", touch.writer));
        }
        if touch.read == stretch && (touch.reader != lane || lane == SEVERAL) {
            return Err(race(access, "stores", touch.reader));
        }
        (touch.written, touch.writer, touch.published) = (stretch, lane, published);
        Ok(())
    }

    /// An asynchronous copy to the element begins.
    pub(super) fn begin_copy(&mut self, access: Access) -> Result<(), InterpError> {
        self.write(access)?;
        self.touches[usize::from(access.shared)][access.offset].under_way = self.first;
        Ok(())
    }

    /// An asynchronous copy to the element arrives; from now on it counts as written by its lane.
    pub(super) fn end_copy(&mut self, access: Access) {
        let (stretch, published) = (self.stretch, self.published);
        let touch = &mut self.touches[usize::from(access.shared)][access.offset];
        (touch.under_way, touch.written, touch.writer) = (0, stretch, access.lane);
        touch.published = published;
    }
}
fn under_way(access: Access, does: &'static str) -> InterpError {
    InterpError::UnderWay {
        memory: Memory::Shared(access.shared),
        offset: access.offset as i64,
        group: access.group,
        lane: access.lane,
        does,
    }
}

fn race(access: Access, does: &'static str, other: u32) -> InterpError {
    InterpError::Race {
        memory: Memory::Shared(access.shared),
        offset: access.offset as i64,
        group: access.group,
        lane: access.lane,
        does,
        other: (other != SEVERAL).then_some(other),
    }
}
