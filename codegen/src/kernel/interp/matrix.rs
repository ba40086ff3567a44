//! Fragments, and asynchronous copies on their way.

use std::collections::VecDeque;

use jtllm_ir::DType;

use super::InterpError;
use super::index::Place;
use super::machine::{Machine, UNWRITTEN};
use super::memory::{Access, decode, encode};
use crate::kernel::{CHUNK_BYTES, Fragment, Memory, Role, WARP, matrix::chunk};

/// The contents of every fragment: a tile for each warp, row by row.
pub(super) struct Fragments {
    roles: Vec<Role>,
    pub(super) tiles: Vec<Vec<f32>>,
    warps: usize,
}

impl Fragments {
    pub(super) fn new(fragments: &[Fragment], lanes: usize) -> Fragments {
        let warps = lanes / WARP as usize;
        let size = |role: Role| (role.rows() * role.columns()) as usize;
        Fragments {
            roles: fragments.iter().map(|fragment| fragment.role).collect(),
            tiles: fragments.iter().map(|f| vec![f32::NAN; warps * size(f.role)]).collect(),
            warps,
        }
    }

    pub(super) fn clear(&mut self, sum: usize) {
        self.tiles[sum].fill(0.0);
    }

    /// Adds the products in the order of the depth; a product of two 16-bit numbers is exact.
    pub(super) fn multiply(&mut self, sum: usize, left: usize, right: usize) {
        let depth = Role::Left.columns() as usize;
        let (rows, columns) = (Role::Sum.rows() as usize, Role::Sum.columns() as usize);
        let mut sums = std::mem::take(&mut self.tiles[sum]);
        let operands = self.tiles[left].chunks_exact(rows * depth);
        let operands = operands.zip(self.tiles[right].chunks_exact(columns * depth));
        for (sums, (left, right)) in sums.chunks_exact_mut(rows * columns).zip(operands) {
            for (row, left) in sums.chunks_exact_mut(columns).zip(left.chunks_exact(depth)) {
                for (sum, right) in row.iter_mut().zip(right.chunks_exact(depth)) {
                    *sum = left.iter().zip(right).fold(*sum, |sum, (x, y)| sum + x * y);
                }
            }
        }
        self.tiles[sum] = sums;
    }
}

/// An asynchronous copy.
struct Copy {
    shared: u16,
    offset: usize,
    lane: u32,
    bytes: [u8; CHUNK_BYTES],
}

/// How a tile moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileManner {
    /// Whether memory has the tile's columns as rows.
    pub(super) turned: bool,
    /// Whether it goes to memory.
    pub(super) stores: bool,
}

/// Copies on their way.
#[derive(Default)]
pub(super) struct Staging {
    open: Vec<Copy>,
    groups: VecDeque<Vec<Copy>>,
}

impl Staging {
    pub(super) fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }
}

impl Machine<'_, '_, '_> {
    /// Moves a tile between memory and a fragment, warp by warp.
    pub(super) fn tile(
        &mut self,
        fragment: usize,
        memory: Memory,
        at: Place,
        stride: u32,
        TileManner { turned, stores }: TileManner,
    ) -> Result<(), InterpError> {
        let Memory::Shared(shared) = memory else {
            return Err(InterpError::Malformed { what: format!("a tile in {memory}") });
        };
        self.settled(&[fragment])?;
        let mut tile = std::mem::take(&mut self.fragments.tiles[fragment]);
        let role = self.fragments.roles[fragment];
        let (rows, columns) = (role.rows() as usize, role.columns() as usize);
        for warp in 0..self.fragments.warps {
            let first = self.agreed(memory, at, warp, WARP)?;
            let numbers = &mut tile[warp * rows * columns..][..rows * columns];
            let mut column = vec![0.0; rows];
            for line in 0..if turned { columns } else { rows } {
                let start = first.wrapping_add(line as i64 * i64::from(stride));
                if turned {
                    self.row((shared, start), warp as u32 * WARP, &mut column, stores)?;
                    let places = numbers.iter_mut().skip(line).step_by(columns);
                    places.zip(&column).for_each(|(number, read)| *number = *read);
                } else {
                    let row = &mut numbers[line * columns..][..columns];
                    self.row((shared, start), warp as u32 * WARP, row, stores)?;
                }
            }
        }
        self.fragments.tiles[fragment] = tile;
        Ok(())
    }

    /// Multiplies the rows of sums, warp by warp.
    pub(super) fn scale(
        &mut self,
        sum: usize,
        memory: Memory,
        at: Place,
        stride: u32,
    ) -> Result<(), InterpError> {
        let Memory::Shared(shared) = memory else {
            return Err(InterpError::Malformed { what: format!("factors in {memory}") });
        };
        self.settled(&[sum])?;
        let (rows, columns) = (Role::Sum.rows() as usize, Role::Sum.columns() as usize);
        for warp in 0..self.fragments.warps {
            let first = self.agreed(memory, at, warp, WARP)?;
            for row in 0..rows {
                let mut factor = [0.0];
                let place = first.wrapping_add(row as i64 * i64::from(stride));
                self.elements((shared, place), warp as u32 * WARP, &mut factor, false)?;
                let sums = &mut self.fragments.tiles[sum][(warp * rows + row) * columns..][..columns];
                sums.iter_mut().for_each(|sum| *sum *= factor[0]);
            }
        }
        Ok(())
    }

    /// The place of what so many lanes have together, on which they agree.
    pub(super) fn agreed(
        &self,
        memory: Memory,
        at: Place,
        number: usize,
        together: u32,
    ) -> Result<i64, InterpError> {
        let lanes = number * together as usize..(number + 1) * together as usize;
        let offset = self.indices.at(at, lanes.start);
        match lanes.clone().find(|lane| self.indices.at(at, *lane) != offset) {
            None => Ok(offset),
            Some(lane) => Err(InterpError::Parted { memory, offset, group: self.group, lane: lane as u32 }),
        }
    }

    /// Moves a row of a tile.
    fn row(
        &mut self,
        (shared, start): (u16, i64),
        lane: u32,
        numbers: &mut [f32],
        stores: bool,
    ) -> Result<(), InterpError> {
        self.aligned(Memory::Shared(shared), start, lane)?;
        self.elements((shared, start), lane, numbers, stores)
    }

    /// Moves elements side by side; lane `lane` and the next one stand for all of the warp.
    fn elements(
        &mut self,
        (shared, start): (u16, i64),
        lane: u32,
        numbers: &mut [f32],
        stores: bool,
    ) -> Result<(), InterpError> {
        let memory = Memory::Shared(shared);
        let (dtype, len) = self.facts(memory);
        let group = self.group;
        for (place, number) in (start..).zip(numbers) {
            let offset = self.in_bounds(memory, place, len, lane as usize)?;
            let access = |lane| Access { shared, offset, lane, group };
            if let Some(races) = &mut self.races {
                match stores {
                    true => races.write_by_warp(access(lane))?,
                    false => races.read(access(lane)).and_then(|()| races.read(access(lane + 1)))?,
                }
            }
            let bytes = &mut self.shared[usize::from(shared)];
            match stores {
                true => encode(dtype, bytes, offset, number.to_bits()),
                false => *number = f32::from_bits(decode(dtype, bytes, offset)),
            }
        }
        Ok(())
    }

    /// The type of a memory, in which `offset` is a multiple of 16 bytes.
    pub(super) fn aligned(&self, memory: Memory, offset: i64, lane: u32) -> Result<DType, InterpError> {
        let (dtype, _) = self.facts(memory);
        match offset.rem_euclid(chunk(dtype)) {
            0 => Ok(dtype),
            _ => Err(InterpError::Misaligned { memory, offset, group: self.group, lane }),
        }
    }

    /// Begins the copies of all lanes that take part.
    pub(super) fn stage(&mut self, to: (Memory, Place), from: (Memory, Place)) -> Result<(), InterpError> {
        let (Memory::Shared(shared), Memory::Param(param)) = (to.0, from.0) else {
            return Err(InterpError::Malformed { what: format!("a copy from {} to {}", from.0, to.0) });
        };
        for lane in (0..self.program.lanes).filter(|lane| self.active(*lane)).collect::<Vec<_>>() {
            let dtype = self.aligned(to.0, self.indices.at(to.1, lane), lane as u32)?;
            self.aligned(from.0, self.indices.at(from.1, lane), lane as u32)?;
            let within = |machine: &Self, (memory, place): (Memory, Place)| {
                let (offset, (_, len)) = (machine.indices.at(place, lane), machine.facts(memory));
                machine.in_bounds(memory, offset.saturating_add(chunk(dtype) - 1), len, lane)?;
                machine.in_bounds(memory, offset, len, lane)
            };
            let (offset, source) = (within(self, to)?, within(self, from)?);
            for offset in offset..offset + chunk(dtype) as usize {
                if let Some(races) = &mut self.races {
                    races.begin_copy(Access { shared, offset, lane: lane as u32, group: self.group })?;
                }
            }
            let mut bytes = [0; CHUNK_BYTES];
            let source = &self.params[usize::from(param)].bytes()[source * dtype.size()..];
            bytes.copy_from_slice(&source[..CHUNK_BYTES]);
            self.shared[usize::from(shared)][offset * dtype.size()..][..CHUNK_BYTES].fill(UNWRITTEN);
            self.staging.open.push(Copy { shared, offset, lane: lane as u32, bytes });
        }
        Ok(())
    }

    /// Lets all groups of copies but the newest `pending` arrive.
    pub(super) fn land(&mut self, pending: usize) {
        let landed = self.staging.groups.len().saturating_sub(pending);
        let copies: Vec<Copy> = self.staging.groups.drain(..landed).flatten().collect();
        for Copy { shared, offset, lane, bytes } in copies {
            let (dtype, _) = self.facts(Memory::Shared(shared));
            self.shared[usize::from(shared)][offset * dtype.size()..][..CHUNK_BYTES].copy_from_slice(&bytes);
            if let Some(races) = &mut self.races {
                for offset in offset..offset + chunk(dtype) as usize {
                    races.end_copy(Access { shared, offset, lane, group: self.group });
                }
            }
        }
    }
}
