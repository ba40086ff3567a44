//! Weights in memory: adopted from a mapped file where they lie as kernels want them, else taken apart into
//! planes once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Mutex;

use jtllm_codegen::schedule::layout;
use jtllm_ir::format::{Format, Plane, split_plane_name};
use jtllm_ir::{DType, Expr, Layout};
use rayon::prelude::*;

use crate::device::{Bytes, Device, Mem, Span};
use crate::error::{DeviceError, Error};

/// Consecutive rows of a tensor in a file, or as many columns of them as one of several files has.
#[derive(Clone)]
pub struct Piece {
    /// The file's bytes.
    pub bytes: Bytes,
    /// Where the first row begins.
    pub offset: u64,
    /// How many rows.
    pub rows: u64,
    /// How many numbers of each row.
    pub cols: u64,
    /// Bytes from one row to the next.
    pub stride: u64,
}

/// A tensor as its files hold it.
#[derive(Clone)]
pub struct Source {
    /// How its numbers are packed.
    pub format: &'static Format,
    /// Its shape in numbers, outermost first.
    pub shape: Vec<u64>,
    /// The rectangles that cover it: those beside each other from left to right, then those below.
    pub pieces: Vec<Piece>,
}

impl Source {
    /// A tensor whose rows stand one after another at the beginning of `bytes`.
    pub fn whole(format: &'static Format, shape: &[u64], bytes: Bytes) -> Source {
        let mut source = Source { format, shape: shape.to_vec(), pieces: Vec::new() };
        let (rows, stride) = (source.matrix().0, source.row_bytes());
        let cols = source.matrix().1;
        source.pieces.push(Piece { bytes, offset: 0, rows, cols, stride });
        source
    }

    /// Rows, and numbers of a row; a vector is one row.
    fn matrix(&self) -> (u64, u64) {
        match self.shape.as_slice() {
            [] => (1, 1),
            [columns] => (1, *columns),
            [rows @ .., columns] => (rows.iter().product(), *columns),
        }
    }

    fn row_bytes(&self) -> u64 {
        self.matrix().1 / self.format.block as u64 * self.format.block_bytes as u64
    }

    /// The bytes of one row, put together from those of all files that have a part of it.
    fn row(&self, mut row: u64) -> Option<Cow<'_, [u8]>> {
        let (_, columns) = self.matrix();
        let mut found: Option<Cow<'_, [u8]>> = None;
        let mut left = 0;
        for piece in &self.pieces {
            if row < piece.rows {
                let part = self.row_of(piece, row)?;
                match &mut found {
                    None => found = Some(Cow::Borrowed(part)),
                    Some(before) => before.to_mut().extend_from_slice(part),
                }
            }
            left += piece.cols;
            if left == columns && found.is_some() {
                return found;
            }
            if left == columns {
                left = 0;
                row = row.checked_sub(piece.rows)?;
            }
        }
        None
    }

    fn row_of<'a>(&self, piece: &'a Piece, row: u64) -> Option<&'a [u8]> {
        let len = piece.cols / self.format.block as u64 * self.format.block_bytes as u64;
        let start = usize::try_from(piece.offset + row * piece.stride).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        let all: &[u8] = (*piece.bytes).as_ref();
        all.get(start..end)
    }

    /// Whether all rows stand one after another.
    fn contiguous(&self) -> Option<&Piece> {
        match self.pieces.as_slice() {
            [piece] if piece.rows <= 1 || piece.stride == self.row_bytes() => Some(piece),
            _ => None,
        }
    }
}

/// Where tensors come from, by name.
pub type Locate<'a> = dyn Fn(&str) -> Option<Source> + Send + Sync + 'a;

/// A plane that a graph reads.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The leaf's name.
    pub name: String,
    /// The type of the plane's elements.
    pub dtype: DType,
    /// The plane's shape.
    pub shape: Vec<i64>,
}

/// The planes of a model's weights, by leaf name.
#[derive(Default)]
pub struct Weights {
    planes: HashMap<String, Span>,
    sources: HashMap<String, Source>,
    /// Bytes read where they lie in the files.
    pub adopted_bytes: u64,
    /// Bytes of memory of our own.
    pub copied_bytes: u64,
}

impl Weights {
    /// Makes sure that every wanted plane is in memory.
    pub fn bind(&mut self, device: &dyn Device, wanted: &[Wanted], locate: &Locate<'_>) -> Result<(), Error> {
        for plane in wanted {
            if self.planes.contains_key(&plane.name) {
                continue;
            }
            let (weight, _) = split_plane_name(&plane.name);
            let source = self.source(weight, locate)?.clone();
            self.check(plane, weight, &source)?;
            match adopt(device, &source) {
                Some(mem) => {
                    self.adopted_bytes += mem.len();
                    self.planes.insert(plane.name.clone(), mem.span());
                }
                None => self.unpack(device, weight, &source)?,
            }
        }
        Ok(())
    }

    /// A bound plane.
    pub fn plane(&self, name: &str) -> Option<&Span> {
        self.planes.get(name)
    }

    /// Where a tensor comes from.
    pub fn source(&mut self, weight: &str, locate: &Locate<'_>) -> Result<&Source, Error> {
        if !self.sources.contains_key(weight) {
            let missing = || Error::Weight {
                name: weight.to_owned(),
                why: "the model's files have no such tensor".to_owned(),
            };
            let source = locate(weight).ok_or_else(missing)?;
            let block = source.format.block as u64;
            if source.matrix().1 % block != 0 {
                let why =
                    format!("rows of {} numbers do not divide into blocks of {block}", source.matrix().1);
                return Err(Error::Weight { name: weight.to_owned(), why });
            }
            self.sources.insert(weight.to_owned(), source);
        }
        Ok(&self.sources[weight])
    }

    /// Copies rows of a plane's weight, unpacked and row-major, to `out`: row `rows[t]` to place `t`.
    pub fn gather(&self, plane: &str, rows: &[u32], out: &mut [u8]) -> Result<(), Error> {
        let (weight, suffix) = split_plane_name(plane);
        let wrong = |why: String| Error::Weight { name: weight.to_owned(), why };
        let source = self.sources.get(weight).ok_or_else(|| wrong("it was never located".to_owned()))?;
        let format = source.format;
        let which = format.own_planes().iter().position(|p| p.suffix == suffix);
        let which = which.ok_or_else(|| wrong(format!("format {} has no plane {suffix}", format.name)))?;
        let mut buffers = Buffers::new(format, source.matrix().1 as usize);
        let width = buffers.rows[which].len();
        for (place, row) in rows.iter().enumerate() {
            let bytes = source.row(u64::from(*row));
            let bytes = bytes.ok_or_else(|| wrong(format!("its file ends before row {row}")))?;
            buffers.unpack(format, &bytes);
            out[place * width..][..width].copy_from_slice(&buffers.rows[which]);
        }
        Ok(())
    }

    fn check(&self, plane: &Wanted, weight: &str, source: &Source) -> Result<(), Error> {
        let wrong = |why: String| Err(Error::Weight { name: weight.to_owned(), why });
        let (_, suffix) = split_plane_name(&plane.name);
        let Some(found) =
            source.format.own_planes().iter().find(|p| p.suffix == suffix && p.dtype == plane.dtype)
        else {
            return wrong(format!("format {} has no plane {suffix} of {}", source.format.name, plane.dtype));
        };
        let mut shape: Vec<i64> = source.shape.iter().map(|n| *n as i64).collect();
        if let Some(last) = shape.last_mut() {
            *last /= found.span as i64;
        }
        if shape != plane.shape {
            return wrong(format!("its shape is {shape:?}, the graph wants {:?}", plane.shape));
        }
        Ok(())
    }

    /// Takes a weight apart into all its planes, in memory of our own.
    fn unpack(&mut self, device: &dyn Device, weight: &str, source: &Source) -> Result<(), Error> {
        let (rows, columns) = source.matrix();
        let caps = device.target().caps();
        let mut planes = Vec::new();
        for plane in source.format.own_planes() {
            let name = source.format.plane_name(weight, plane);
            let mut shape: Vec<Expr> = source.shape.iter().map(|n| Expr::int(*n as i64)).collect();
            if let Some(last) = shape.last_mut() {
                *last = last.clone().div_floor(plane.span as i64);
            }
            let layout = layout(&name, shape.len(), caps);
            let bytes = layout.len(&shape).high() as u64 * plane.dtype.size() as u64;
            planes.push((name, plane, layout, zeroed(bytes)?));
        }
        let group = planes.iter().map(|(_, _, layout, _)| group_rows(*layout)).max().unwrap_or(1);
        let short = Mutex::new(None);
        let mut parts: Vec<_> = planes
            .iter_mut()
            .map(|(_, plane, _, bytes)| {
                let width = columns as usize / plane.span * plane.dtype.size();
                bytes.chunks_mut((width * group).max(1)).collect::<Vec<_>>().into_iter()
            })
            .collect();
        let groups: Vec<Vec<&mut [u8]>> = (0..rows.div_ceil(group as u64))
            .map(|_| parts.iter_mut().filter_map(Iterator::next).collect())
            .collect();
        groups.into_par_iter().enumerate().for_each(|(at, mut chunks)| {
            let first = at as u64 * group as u64;
            let end = (first + group as u64).min(rows);
            if let Err(row) = unpack_group(source, first..end, &mut chunks, columns as usize, group) {
                *short.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(row);
            }
        });
        if let Some(row) = short.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            let why = format!("its file ends before row {row}");
            return Err(Error::Weight { name: weight.to_owned(), why });
        }
        for (name, _, _, bytes) in planes {
            let mem = device.alloc(bytes.len() as u64)?;
            device.write(&mem.span(), &bytes)?;
            self.copied_bytes += mem.len();
            self.planes.insert(name, mem.span());
        }
        Ok(())
    }
}

/// Memory of the host, if there is so much.
pub(crate) fn zeroed(bytes: u64) -> Result<Vec<u8>, Error> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(bytes as usize).map_err(|error| DeviceError::OutOfMemory {
        device: "the host".to_owned(),
        need: bytes,
        why: error.to_string(),
    })?;
    memory.resize(bytes as usize, 0);
    Ok(memory)
}

fn group_rows(layout: Layout) -> usize {
    match layout {
        Layout::RowMajor => 1,
        Layout::RowInterleaved(rows) => rows as usize,
    }
}

fn adopt(device: &dyn Device, source: &Source) -> Option<Mem> {
    let piece = source.contiguous().filter(|_| source.format.is_direct())?;
    let len = source.matrix().0 * source.row_bytes();
    // Asynchronous copies want weights where memory of the device's own would begin.
    let alignment = if device.target().caps().stage { 256 } else { source.format.block_bytes as u64 };
    device.adopt(&piece.bytes, piece.offset, len, alignment)
}

/// One row of each plane.
struct Buffers {
    rows: Vec<Vec<u8>>,
}

impl Buffers {
    fn new(format: &Format, columns: usize) -> Buffers {
        let row = |plane: &Plane| vec![0; columns / plane.span * plane.dtype.size()];
        Buffers { rows: format.own_planes().iter().map(row).collect() }
    }

    fn unpack(&mut self, format: &Format, bytes: &[u8]) {
        let mut parts: Vec<_> = self
            .rows
            .iter_mut()
            .zip(format.own_planes())
            .map(|(row, plane)| row.chunks_exact_mut(format.block / plane.span * plane.dtype.size()))
            .collect();
        for block in bytes.chunks_exact(format.block_bytes) {
            let mut planes: Vec<&mut [u8]> = parts.iter_mut().filter_map(Iterator::next).collect();
            (format.unpack)(block, &mut planes);
        }
    }
}

/// Unpacks neighbouring rows into their part of each plane: interleaved if there are several.
fn unpack_group(
    source: &Source,
    rows: std::ops::Range<u64>,
    chunks: &mut [&mut [u8]],
    columns: usize,
    group: usize,
) -> Result<(), u64> {
    let mut buffers = Buffers::new(source.format, columns);
    for (place, row) in rows.enumerate() {
        buffers.unpack(source.format, &source.row(row).ok_or(row)?);
        for ((chunk, bytes), plane) in chunks.iter_mut().zip(&buffers.rows).zip(source.format.own_planes()) {
            let size = plane.dtype.size();
            for (column, element) in bytes.chunks_exact(size).enumerate() {
                chunk[(column * group + place) * size..][..size].copy_from_slice(element);
            }
        }
    }
    Ok(())
}
