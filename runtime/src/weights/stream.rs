//! Weights within a limit: planes are read from the model's files where they lie there as kernels read them, else from a
//! packed file, which is written first if it is not there. What a launch reads of a plane is a blob.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jtllm_swap::BlobId;
use jtllm_swap::reader::Sums;
use jtllm_swap::store::read_all;
use rayon::prelude::*;

use super::foresee::{Admit, Foreseen, whole_chunks};
use super::pack::Packing;
use super::{Piece, Source, Weights, lying};
use crate::device::{Device, Span};
use crate::error::Error;
use crate::packed::{ByWeight, Kept, PackedFile, Unkept, Written};
use crate::residence::{Files, Opened, Residence, Run};

/// How long we wait before we look again whether another process has written the packed file.
const TURN: Duration = Duration::from_millis(100);

/// How often somebody is told how far packing is, once it has taken as long.
const WORD: Duration = Duration::from_secs(5);

/// Chunks that are packed side by side, each with the rows that it is made of: more would be counted, and one thread
/// writes what they make.
const AT_ONCE: usize = 4;

/// A plane that comes and goes: where a file has it.
pub(super) struct Streamed {
    file: Opened,
    at: u64,
    len: u64,
    /// The hashes of its chunks, if somebody keeps them.
    sums: Option<Sums>,
}

impl Streamed {
    /// All of it, or some of its bytes, as a blob and what kernels are given. Where chunks have hashes a blob is made of
    /// whole ones.
    pub(super) fn part(
        &self,
        residence: &Residence,
        bytes: Option<&Range<u64>>,
    ) -> Result<(BlobId, Span), Error> {
        let Range { start, end } = self.chunks(bytes);
        let all = 0..self.len;
        let bytes = bytes.unwrap_or(&all);
        let sums = self.sums.as_ref().map(|Sums { all, first, chunk_bytes }| {
            let first = first + (start / chunk_bytes) as usize;
            Sums { all: all.clone(), first, chunk_bytes: *chunk_bytes }
        });
        let (blob, mem) = residence.add(&self.file, self.at + start, end - start, sums)?;
        Ok((blob, Span { mem, offset: bytes.start - start, len: bytes.end - bytes.start }))
    }

    /// The run of its file that is the blob for all of it, or some of its bytes.
    pub(super) fn run(&self, bytes: Option<&Range<u64>>) -> Run {
        let Range { start, end } = self.chunks(bytes);
        Run { file: self.file.0.clone(), at: self.at + start, len: end - start }
    }

    fn chunks(&self, bytes: Option<&Range<u64>>) -> Range<u64> {
        whole_chunks(self.len, self.sums.as_ref().map_or(1, |sums| sums.chunk_bytes), bytes)
    }
}

/// Where a file has a tensor as kernels can read it, if one does.
pub(super) fn stream(
    device: &dyn Device,
    residence: &Residence,
    source: &Source,
) -> Result<Option<Streamed>, Error> {
    let Some((piece, len, alignment)) = lying(device, source) else { return Ok(None) };
    let all = (*piece.bytes).as_ref().len() as u64;
    let inside = piece.offset.checked_add(len).is_some_and(|end| end <= all);
    // In a device's own memory blobs begin where they should, wherever they do in their file.
    let is_aligned = residence.is_apart() || piece.offset.is_multiple_of(alignment);
    let Some(path) = piece.file.as_ref().filter(|_| inside && is_aligned) else {
        return Ok(None);
    };
    let file = residence.files().get(path, all)?;
    Ok(Some(Streamed { file, at: piece.offset, len, sums: None }))
}

impl Source {
    /// Some rows as a tensor of their own, in memory: read from files past the page cache.
    ///
    /// # Errors
    /// A file cannot be read, or ends before them.
    pub(crate) fn section(&self, rows: Range<u64>, files: &Files) -> Result<Source, Error> {
        let columns = self.matrix().1;
        let shape = vec![rows.end - rows.start, columns];
        let mut section = Source { format: self.format, shape, pieces: Vec::new() };
        // The first row of the pieces that stand beside each other, and the columns left of the next one.
        let (mut top, mut left) = (0, 0);
        for piece in &self.pieces {
            let (first, end) = (rows.start.max(top), rows.end.min(top + piece.rows));
            if first < end {
                section.pieces.push(self.read(piece, first - top..end - top, files)?);
            }
            left += piece.cols;
            if left == columns {
                (top, left) = (top + piece.rows, 0);
            }
        }
        Ok(section)
    }

    fn read(&self, piece: &Piece, rows: Range<u64>, files: &Files) -> Result<Piece, Error> {
        let row = piece.cols / self.format.block as u64 * self.format.block_bytes as u64;
        let count = rows.end - rows.start;
        let (at, len) = (piece.offset + rows.start * piece.stride, (count - 1) * piece.stride + row);
        let all: &[u8] = (*piece.bytes).as_ref();
        let bytes = match &piece.file {
            Some(path) => {
                let (path, store) = files.get(path, all.len() as u64)?;
                let mut bytes = vec![0; len as usize];
                read_all(&*store, at, &mut bytes).map_err(|error| Error::File {
                    file: path.to_path_buf(),
                    why: format!("cannot read {len} bytes at byte {at}: {error}"),
                })?;
                bytes
            }
            // What is part of the program is in memory anyway. Too few bytes are noticed by who reads a row.
            None => {
                all.get(at as usize..).map(|all| &all[..all.len().min(len as usize)]).unwrap_or(&[]).to_vec()
            }
        };
        let (cols, stride) = (piece.cols, piece.stride);
        Ok(Piece { bytes: Arc::new(bytes), file: None, offset: 0, rows: count, cols, stride })
    }
}

impl Weights {
    /// Has a plane come and go.
    pub(super) fn stream_one(&mut self, plane: &str, streamed: Streamed) {
        self.streamed_bytes += streamed.len;
        self.streamed.insert(plane.to_owned(), streamed);
    }

    /// Finds these planes in a packed file, or makes one, and has them come and go from there. Before one is made it asks
    /// whether there is room for that; if there can be none it says why, and has asked whether there is room to copy them.
    pub(super) fn stream_packed(
        &mut self,
        residence: &Residence,
        packings: &[Packing],
        admit: &Admit<'_>,
    ) -> Result<Option<Unkept>, Error> {
        if packings.is_empty() {
            return Ok(None);
        }
        let found = match self.packed_file(packings, admit)? {
            Ok(found) => found,
            Err(why) => {
                residence.cannot_keep(&why.to_string());
                admit(&Foreseen::copying(self, packings))?;
                return Ok(Some(why));
            }
        };
        let path = found.path().into();
        let file = residence.files().get(&path, (**found.bytes()).as_ref().len() as u64)?;
        residence.is_packed(path);
        for plane in packings.iter().flat_map(|packing| &packing.planes) {
            let entry = found.plane(&plane.name);
            let sums = Sums::known(entry.sums.iter().copied(), entry.chunk_bytes);
            let (file, at, len) = (file.clone(), entry.offset, entry.len);
            self.stream_one(&plane.name, Streamed { file, at, len, sums: Some(sums) });
        }
        self.streamed_files.push(found);
        Ok(None)
    }

    fn packed_file(
        &self,
        packings: &[Packing],
        admit: &Admit<'_>,
    ) -> Result<Result<PackedFile, Unkept>, Error> {
        let Some(keeping) = &self.keeping else { return Ok(Err(Unkept::NoFiles)) };
        let mut tried = false;
        loop {
            match keeping.find(packings.iter()) {
                Kept::File(file) => return Ok(Ok(file)),
                Kept::Never(why) => return Ok(Err(why)),
                // Once is enough.
                Kept::Absent(_) if tried => {
                    let why = "somebody removed the file when it was written";
                    return Ok(Err(Unkept::Because(why.to_owned())));
                }
                Kept::Absent(draft) => {
                    // Packing takes as long as reading and writing all of it: not for a limit that is too low.
                    admit(&Foreseen::packing(self, &draft))?;
                    let mut making = Making::new(packings);
                    let planes = packings.iter().map(|packing| packing.planes.len()).collect();
                    let mut chunks = |weight: usize, chunk: usize| {
                        if let Some(word) = making.word() {
                            keeping.folder.say(&word);
                        }
                        making.next(weight, chunk)
                    };
                    match draft.write_past_cache(ByWeight { planes, chunks: &mut chunks })? {
                        Written::Whole => tried = true,
                        Written::Refused(why) => return Ok(Err(why)),
                        Written::Busy => thread::sleep(TURN),
                    }
                }
            }
        }
    }
}

/// Chunks of weights in the order in which they are written, a few of them made ahead.
struct Making<'a> {
    packings: &'a [Packing],
    ahead: VecDeque<Vec<Vec<u8>>>,
    begin: Instant,
    told: Instant,
    /// Bytes so far, and of all planes.
    done: u64,
    all: u64,
}

impl<'a> Making<'a> {
    fn new(packings: &'a [Packing]) -> Making<'a> {
        let all = packings.iter().flat_map(|packing| &packing.planes).map(|plane| plane.len).sum();
        let now = Instant::now();
        Making { packings, ahead: VecDeque::new(), begin: now, told: now, done: 0, all }
    }

    /// The next chunk of a weight, in each of its planes.
    fn next(&mut self, weight: usize, chunk: usize) -> Result<Vec<Vec<u8>>, Error> {
        let packing = &self.packings[weight];
        if self.ahead.is_empty() {
            let step = AT_ONCE.min(rayon::current_num_threads());
            let made = (chunk..(chunk + step).min(packing.chunks())).into_par_iter();
            self.ahead.extend(made.map(|chunk| packing.chunk(chunk)).collect::<Result<Vec<_>, Error>>()?);
        }
        let planes = self.ahead.pop_front().unwrap_or_default();
        self.done += planes.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        Ok(planes)
    }

    /// How far it is, if it is time to say so.
    fn word(&mut self) -> Option<String> {
        if self.told.elapsed() < WORD {
            return None;
        }
        self.told = Instant::now();
        let (done, all) = (self.done as f64 / 1e9, self.all as f64 / 1e9);
        let seconds = self.begin.elapsed().as_secs_f64();
        let left =
            if self.done == 0 { 0.0 } else { seconds * (self.all - self.done) as f64 / self.done as f64 };
        Some(format!("packing weights once, {done:.1} of {all:.1} GB; {left:.0} s are left"))
    }
}
