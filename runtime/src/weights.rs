//! Weights in memory: adopted from a mapped file where they lie as kernels want them, else taken apart into
//! planes once, and kept in a packed file that later starts map.

mod fetch;
pub(crate) mod foresee;
pub(crate) mod pack;
mod settle;
mod stock;
mod stream;
mod whole;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use jtllm_ir::DType;
use jtllm_ir::format::{Format, split_plane_name};
use jtllm_swap::BlobId;

use crate::device::{Bytes, Device, Mem, Span};
use crate::error::{DeviceError, Error};
use crate::packed::{Keeping, Kept, PackedFile, Unkept};
use crate::ready::Ready;
use crate::residence::Residence;
use fetch::Fetching;
use foresee::Admit;
use pack::{Buffers, Packing};
use settle::Settling;
use stock::{Job, Place, Stock};
use stream::Streamed;
use whole::{RowSums, Watching};

/// Where memory of a device's own begins, and planes of packed files do.
const ADOPTED_ALIGNMENT: u64 = 256;

/// Consecutive rows of a tensor in a file, or as many columns of them as one of several files has.
#[derive(Clone)]
pub struct Piece {
    /// The file's bytes.
    pub bytes: Bytes,
    /// Where the file is; none if the bytes are part of the program.
    pub file: Option<Arc<Path>>,
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
        source.pieces.push(Piece { bytes, file: None, offset: 0, rows, cols, stride });
        source
    }

    /// Rows, and numbers of a row; a vector is one row.
    pub(crate) fn matrix(&self) -> (u64, u64) {
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
    pub(crate) fn row(&self, mut row: u64) -> Option<Cow<'_, [u8]>> {
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

/// A plane that is bound.
#[derive(Clone)]
pub struct Bound {
    /// Its memory.
    pub span: Span,
    /// Whether that may be read.
    pub ready: Ready,
}

/// What a launch is given of a plane.
pub(crate) struct Given {
    pub(crate) span: Span,
    pub(crate) ready: Ready,
    /// What it is in a residence, if it comes and goes: then it may be read in steps that name it.
    pub(crate) blob: Option<BlobId>,
}

/// The planes of a model's weights, by leaf name.
#[derive(Default)]
pub struct Weights {
    planes: HashMap<String, Bound>,
    /// Planes that come and go.
    streamed: HashMap<String, Streamed>,
    sources: HashMap<String, Source>,
    watched: Vec<Watching>,
    rows: RowSums,
    keeping: Option<Keeping>,
    stock: Stock,
    /// What lies in the model's files; packed files have large pages, where there are any.
    mapped: Vec<Mem>,
    fetching: Vec<Fetching>,
    residence: Option<Arc<Residence>>,
    /// Packed files that are read within a limit: while they are open, nobody cleans them away.
    streamed_files: Vec<PackedFile>,
    settling: Option<Settling>,
    /// Bytes read where they lie in the model's files.
    pub adopted_bytes: u64,
    /// Bytes read where they lie in packed files.
    pub packed_bytes: u64,
    /// Bytes that come and go within a limit.
    pub streamed_bytes: u64,
    /// Bytes of memory of our own.
    pub copied_bytes: u64,
}

impl Weights {
    /// Keeps what is packed from now on, and looks there for what was.
    pub fn keep(&mut self, keeping: Keeping) {
        self.keeping = Some(keeping);
    }

    /// Has planes come and go within a limit from now on.
    pub(crate) fn within(&mut self, residence: Arc<Residence>) {
        self.residence = Some(residence);
    }

    /// Where planes come and go, if they do.
    pub(crate) fn residence(&self) -> Option<&Arc<Residence>> {
        self.residence.as_ref()
    }

    /// Finds a place for every wanted plane. Where the device's memory is the host's, planes are filled beside the
    /// first passes, in the order in which they are wanted: whoever reads one waits until it is [ready](Bound::ready).
    pub fn bind(
        &mut self,
        device: &Arc<dyn Device>,
        wanted: &[Wanted],
        locate: &Locate<'_>,
    ) -> Result<(), Error> {
        self.bind_if(&|_| Ok(()), device, wanted, locate)
    }

    /// The same if that is admitted, which is asked where planes come and go: before any is packed or copied.
    pub(crate) fn bind_if(
        &mut self,
        admit: &Admit<'_>,
        device: &Arc<dyn Device>,
        wanted: &[Wanted],
        locate: &Locate<'_>,
    ) -> Result<(), Error> {
        let packings = self.find(device, wanted, locate)?;
        // Numbers that files have as memory wants them go up to a device straight from there.
        let comes_and_goes = self.residence.is_some();
        let (kept, other): (Vec<Packing>, Vec<Packing>) = packings
            .into_iter()
            .partition(|one| device.is_host() || comes_and_goes || !one.source.format.is_direct());
        self.take(device, other, Kept::Never(Unkept::NoFiles))?;
        let found = match self.residence.clone() {
            // What could not be kept while it was packed cannot be kept from memory either.
            Some(residence) => match self.stream_packed(&residence, &kept, admit)? {
                None => return Ok(()),
                Some(why) => Kept::Never(why),
            },
            None => match &self.keeping {
                Some(keeping) => keeping.find(kept.iter()),
                None => Kept::Never(Unkept::NoFiles),
            },
        };
        self.take(device, kept, found)
    }

    /// Has planes that lie in files as kernels read them come and go from there, or adopts them; gives the weights that are
    /// to be taken apart.
    fn find(
        &mut self,
        device: &Arc<dyn Device>,
        wanted: &[Wanted],
        locate: &Locate<'_>,
    ) -> Result<Vec<Packing>, Error> {
        let mut packings: Vec<Packing> = Vec::new();
        let mut pending: HashSet<String> = HashSet::new();
        let mut lying: Vec<(Bytes, Range<usize>)> = Vec::new();
        for plane in wanted {
            if self.is_bound(&plane.name) {
                continue;
            }
            let (weight, _) = split_plane_name(&plane.name);
            let source = self.source(weight, locate)?.clone();
            self.check(plane, weight, &source)?;
            let (streamed, adopted) = match &self.residence {
                Some(residence) => (stream::stream(&**device, residence, &source)?, None),
                None => (None, adopt(&**device, &source)),
            };
            if let Some(streamed) = streamed {
                self.stream_one(&plane.name, streamed);
            } else if let Some(mem) = adopted {
                self.adopted_bytes += mem.len();
                self.mapped.push(mem.clone());
                lying.extend(source.contiguous().map(|piece| {
                    let start = piece.offset as usize;
                    (piece.bytes.clone(), start..start + mem.len() as usize)
                }));
                let bound = Bound { span: mem.span(), ready: Ready::now() };
                self.planes.insert(plane.name.clone(), bound);
            } else if pending.insert(weight.to_owned()) {
                let residence = self.residence.clone();
                packings.push(Packing::of(weight, source, device.target().caps(), residence));
            }
        }
        self.fetching.extend(Fetching::begin(lying));
        Ok(packings)
    }

    /// Gives places to the planes of these weights and has them filled.
    fn take(&mut self, device: &Arc<dyn Device>, packings: Vec<Packing>, kept: Kept) -> Result<(), Error> {
        let (file, draft) = match kept {
            Kept::File(file) => (Some(Arc::new(file)), None),
            Kept::Absent(draft) => (None, Some(draft)),
            Kept::Never(why) => {
                self.keeping.iter().for_each(|keeping| keeping.folder.say_unkept(&why));
                (None, None)
            }
        };
        if let Some(file) = &file {
            self.watch_one(file.bytes(), &file.path().into());
        }
        let mut jobs = Vec::new();
        // Nobody may wait for a plane that nobody fills: none is bound before there is room for all.
        let mut bound = Vec::new();
        for packing in packings {
            let ready = Ready::default();
            let mut places = Vec::new();
            for plane in &packing.planes {
                let lying = file.as_ref().and_then(|file| {
                    let entry = file.plane(&plane.name);
                    device.adopt(file.bytes(), entry.offset, entry.len, ADOPTED_ALIGNMENT)
                });
                let place = match lying {
                    Some(mem) => {
                        self.packed_bytes += mem.len();
                        Place { span: mem.span(), is_filled: true }
                    }
                    None => {
                        let mem = device.alloc(plane.len)?;
                        self.copied_bytes += mem.len();
                        Place { span: mem.span(), is_filled: false }
                    }
                };
                let one = Bound { span: place.span.clone(), ready: ready.clone() };
                bound.push((plane.name.clone(), one));
                places.push(place);
            }
            jobs.push(Job { packing, places, file: file.clone(), ready });
        }
        self.planes.extend(bound);
        // Within a limit what the process holds is counted next: not while it grows.
        let beside = device.is_host() && self.residence.is_none();
        let folder = self.keeping.as_ref().map(|keeping| keeping.folder.clone());
        self.stock.fill(device, jobs, draft, folder, beside)
    }

    /// Begins to copy what lies in the model's files to large pages, beside the passes, if that pays here; once.
    pub fn settle(&mut self, device: &dyn Device) {
        // What streams has no mapping to leave, and large pages already.
        if !device.is_host() || self.settling.is_some() || self.residence.is_some() {
            return;
        }
        self.settling = Settling::begin(self.mapped.clone());
    }

    /// Whether weights are still on their way to large pages.
    pub fn is_settling(&self) -> bool {
        self.settling.as_ref().is_some_and(|settling| !settling.is_over())
    }

    /// Whether a plane has a place, or comes and goes.
    pub(crate) fn is_bound(&self, name: &str) -> bool {
        self.planes.contains_key(name) || self.streamed.contains_key(name)
    }

    /// All of a plane, or some of its bytes, for a launch; nothing if it is not bound.
    ///
    /// # Errors
    /// It comes and goes, and there are more such runs of bytes than can be counted.
    pub(crate) fn given(&self, name: &str, bytes: Option<&Range<u64>>) -> Result<Option<Given>, Error> {
        if let (Some(streamed), Some(residence)) = (self.streamed.get(name), &self.residence) {
            let (blob, span) = streamed.part(residence, bytes)?;
            return Ok(Some(Given { span, ready: Ready::now(), blob: Some(blob) }));
        }
        let given = |Bound { span, ready }: &Bound| {
            let all = 0..span.len;
            let bytes = bytes.unwrap_or(&all);
            let (offset, len) = (span.offset + bytes.start, bytes.end - bytes.start);
            Given { span: Span { mem: span.mem.clone(), offset, len }, ready: ready.clone(), blob: None }
        };
        Ok(self.planes.get(name).map(given))
    }

    /// A plane that has a place of its own.
    pub fn plane(&self, name: &str) -> Option<&Bound> {
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
            self.watch(&source);
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
            let row = u64::from(*row);
            let section = match &self.residence {
                Some(residence) if residence.limits_host() && row < source.matrix().0 => {
                    Some(self.rows.read(weight, source, row, residence.files())?)
                }
                _ => None,
            };
            let bytes = match &section {
                Some(section) => section.row(0),
                None => source.row(row),
            };
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

/// A tensor's bytes as they lie in one file, if kernels can read them as they are: whose they are, and how many.
fn lying<'a>(device: &dyn Device, source: &'a Source) -> Option<(&'a Piece, u64, u64)> {
    let piece = source.contiguous().filter(|_| source.format.is_direct())?;
    let len = source.matrix().0 * source.row_bytes();
    let caps = device.target().caps();
    // Asynchronous copies want weights where memory of the device's own would begin; two numbers may be read as a word.
    let alignment = match source.format.block_bytes as u64 {
        _ if caps.stage => ADOPTED_ALIGNMENT,
        2 if caps.dot2 => 4,
        bytes => bytes,
    };
    Some((piece, len, alignment))
}

fn adopt(device: &dyn Device, source: &Source) -> Option<Mem> {
    let (piece, len, alignment) = lying(device, source)?;
    device.adopt(&piece.bytes, piece.offset, len, alignment)
}
