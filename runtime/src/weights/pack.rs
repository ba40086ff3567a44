//! How one weight is taken apart into planes: in chunks of whole rows, each by itself.

use std::ops::Range;
use std::sync::Arc;

use jtllm_codegen::schedule::layout;
use jtllm_codegen::target::Caps;
use jtllm_ir::format::{Format, Plane};
use jtllm_ir::{Expr, Layout};

use super::Source;
use crate::error::Error;
use crate::residence::Residence;

/// Part of the identity of packed files: one more for each change of what packing writes. `runtime/tests/packed.rs` has
/// the hashes of what this version writes.
pub const PACKING_VERSION: u32 = 2;

/// The most bytes of a chunk of a plane, unless a group of rows has more: large enough that a thread's turn costs nothing
/// beside the work, small enough that one matrix keeps all threads busy, and that a range of its rows, which is read by
/// whole chunks, has few bytes more than its rows.
const CHUNK_BYTES: u64 = 1 << 20;

/// A plane as it will lie in memory.
pub(crate) struct Target {
    /// The leaf's name.
    pub(crate) name: String,
    pub(crate) layout: Layout,
    /// Bytes, with the padding of rows.
    pub(crate) len: u64,
    /// Bytes of each chunk but the last.
    pub(crate) chunk_bytes: u64,
}

/// A weight that is to be taken apart.
pub(crate) struct Packing {
    pub(crate) weight: String,
    pub(crate) source: Source,
    pub(crate) planes: Vec<Target>,
    /// Within a limit rows are read from files past the page cache, by what reads all else there.
    residence: Option<Arc<Residence>>,
    /// Rows that interleave.
    group: u64,
    chunk_rows: u64,
}

impl Packing {
    pub(crate) fn of(
        weight: &str,
        source: Source,
        caps: &Caps,
        residence: Option<Arc<Residence>>,
    ) -> Packing {
        let format = source.format;
        let columns = source.matrix().1;
        let name = |plane: &Plane| format.plane_name(weight, plane);
        let layouts: Vec<Layout> =
            format.own_planes().iter().map(|plane| layout(&name(plane), source.shape.len(), caps)).collect();
        let group = layouts.iter().map(|layout| group_rows(*layout)).max().unwrap_or(1);
        let width = |plane: &Plane| row_bytes(plane, columns as usize) as u64;
        let widest = format.own_planes().iter().map(width).max().unwrap_or(1).max(1);
        // A power of two of groups: ranges of rows, of which that is as true, then end where chunks do.
        let chunk_rows = group << (CHUNK_BYTES / widest / group).max(1).ilog2();
        let target = |(plane, layout): (&Plane, Layout)| {
            let mut shape: Vec<Expr> = source.shape.iter().map(|n| Expr::int(*n as i64)).collect();
            if let Some(last) = shape.last_mut() {
                *last = last.clone().div_floor(plane.span as i64);
            }
            let len = layout.len(&shape).high().max(0) as u64 * plane.dtype.size() as u64;
            Target { name: name(plane), layout, len, chunk_bytes: (chunk_rows * width(plane)).max(1) }
        };
        let planes = format.own_planes().iter().zip(layouts).map(target).collect();
        Packing { weight: weight.to_owned(), source, planes, residence, group, chunk_rows }
    }

    /// How many chunks each plane has.
    pub(crate) fn chunks(&self) -> usize {
        self.source.matrix().0.div_ceil(self.chunk_rows) as usize
    }

    /// Where a chunk of a plane lies in it.
    pub(crate) fn range(&self, plane: usize, chunk: usize) -> Range<u64> {
        let Target { len, chunk_bytes, .. } = &self.planes[plane];
        let start = (chunk as u64 * chunk_bytes).min(*len);
        start..(start + chunk_bytes).min(*len)
    }

    /// The bytes of a chunk in each plane.
    ///
    /// # Errors
    /// The file ends before them.
    pub(crate) fn chunk(&self, chunk: usize) -> Result<Vec<Vec<u8>>, Error> {
        let (rows, columns) = self.source.matrix();
        let first = chunk as u64 * self.chunk_rows;
        let end = (first + self.chunk_rows).min(rows);
        let mut planes: Vec<Vec<u8>> = (0..self.planes.len())
            .map(|plane| {
                let range = self.range(plane, chunk);
                vec![0; (range.end - range.start) as usize]
            })
            .collect();
        let section = match &self.residence {
            Some(residence) => Some(self.source.section(first..end, residence.files())?),
            None => None,
        };
        let (source, before) = section.as_ref().map_or((&self.source, 0), |section| (section, first));
        let mut buffers = Buffers::new(self.source.format, columns as usize);
        for row in first..end {
            let short = || Error::Weight {
                name: self.weight.clone(),
                why: format!("its file ends before row {row}"),
            };
            buffers.unpack(self.source.format, &source.row(row - before).ok_or_else(short)?);
            let (group, place) = ((row - first) / self.group, ((row - first) % self.group) as usize);
            let own = self.source.format.own_planes();
            for ((all, bytes), plane) in planes.iter_mut().zip(&buffers.rows).zip(own) {
                let group_bytes = bytes.len() * self.group as usize;
                let all = &mut all[group as usize * group_bytes..][..group_bytes];
                match (self.group, plane.dtype.size()) {
                    (1, _) => all.copy_from_slice(bytes),
                    (group, 1) => interleave::<1>(all, bytes, group as usize, place),
                    (group, 2) => interleave::<2>(all, bytes, group as usize, place),
                    (group, 4) => interleave::<4>(all, bytes, group as usize, place),
                    (_, size) => unreachable!("elements of a plane have 1, 2 or 4 bytes, not {size}"),
                }
            }
        }
        Ok(planes)
    }
}

/// Puts the elements of a row between those of its neighbours. The size is known when this is compiled: a copy of a
/// length that is not costs several times as much as the element.
fn interleave<const SIZE: usize>(all: &mut [u8], row: &[u8], group: usize, place: usize) {
    let (all, _) = all.as_chunks_mut::<SIZE>();
    let (row, _) = row.as_chunks::<SIZE>();
    for (column, element) in all.chunks_exact_mut(group).zip(row) {
        column[place] = *element;
    }
}

fn group_rows(layout: Layout) -> u64 {
    match layout {
        Layout::RowMajor => 1,
        Layout::RowInterleaved(rows) => u64::from(rows),
    }
}

fn row_bytes(plane: &Plane, columns: usize) -> usize {
    columns / plane.span * plane.dtype.size()
}

/// One row of each plane.
pub(super) struct Buffers {
    pub(super) rows: Vec<Vec<u8>>,
}

impl Buffers {
    pub(super) fn new(format: &Format, columns: usize) -> Buffers {
        Buffers { rows: format.own_planes().iter().map(|plane| vec![0; row_bytes(plane, columns)]).collect() }
    }

    pub(super) fn unpack(&mut self, format: &Format, bytes: &[u8]) {
        if format.is_direct() {
            self.rows[0].copy_from_slice(bytes);
            return;
        }
        let mut parts: Vec<_> = self
            .rows
            .iter_mut()
            .zip(format.own_planes())
            .map(|(row, plane)| row.chunks_exact_mut(format.block / plane.span * plane.dtype.size()))
            .collect();
        let mut planes: Vec<&mut [u8]> = Vec::with_capacity(parts.len());
        for block in bytes.chunks_exact(format.block_bytes) {
            planes.extend(parts.iter_mut().filter_map(Iterator::next));
            (format.unpack)(block, &mut planes);
            planes.clear();
        }
    }
}
