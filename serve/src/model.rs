//! A model ready to run: the twenty lines of glue between `models` and `runtime`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use jtllm_models::arch::{self, Architecture, Pass, Rows, Weights};
use jtllm_models::checkpoint::Storage;
use jtllm_models::{Checkpoint, LoadError, TensorEntry};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::device::FileBytes;
use jtllm_runtime::ir::{DType, Format, Graph};
use jtllm_runtime::network::{Batch, Bucket, CompileStats, Graphs, Network, Part};
use jtllm_runtime::packed::{Keeping, Origin, PackedFolder};
use jtllm_runtime::residence::outlook::{Change, Outlook, Rates};
use jtllm_runtime::residence::{Limit, Most};
use jtllm_runtime::trace::Trace;
use jtllm_runtime::weights::{Piece, Source};

use crate::engine::EngineError;
use crate::place::{Place, Placement, Way, ways};
use crate::seat::{Parts, Seat};

/// What computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The first of [`ways`] to a device that will do, else the processor.
    Auto,
    /// Machine code on the processor.
    Cpu,
    /// The interpreter of loop IR, scheduled for these caps.
    Interp(Box<Caps>),
    /// NVIDIA's graphics processor, by CUDA.
    Cuda,
    /// A graphics processor, by WebGPU.
    Wgpu,
    /// The interpreter of graphs.
    Graph,
}

/// How a model is loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// What computes.
    pub backend: Backend,
    /// What is asked of the device that does.
    pub place: Place,
    /// Threads of the processor.
    pub threads: usize,
    /// Positions of the context.
    pub context: usize,
    /// Which numbers matrix products multiply.
    pub compute: Compute,
    /// The type in which keys are kept.
    pub keys: DType,
    /// The type in which values are kept.
    pub values: DType,
    /// Whether hidden vectors are kept for comparison.
    pub taps: bool,
    /// Sequences that share the cache; each may have `context` positions.
    pub sequences: usize,
    /// The most that may be held of the host's memory.
    pub memory: Limit,
}

/// What is kept on disk from start to start.
#[derive(Debug)]
pub struct Caches {
    /// Compiled kernels.
    pub kernels: KernelCache,
    /// Packed weights.
    pub packed: PackedFolder,
}

impl From<KernelCache> for Caches {
    /// Packed weights are not kept.
    fn from(kernels: KernelCache) -> Caches {
        Caches { kernels, packed: PackedFolder::off("nobody asked for it") }
    }
}

/// A model ready to run.
pub struct Model {
    checkpoint: Arc<Checkpoint>,
    architecture: Arc<dyn Architecture>,
    parts: Parts,
    seat: Seat,
    /// Hears when the model leaves its device, or runs on it in another way than was to be expected.
    tell: Option<Box<Tell>>,
    /// Whether it was told that launches are not recorded.
    told_refusal: bool,
    /// The files of which it was told that they are read by way of the page cache.
    told_cached_files: BTreeSet<Arc<Path>>,
    /// How it was loaded.
    pub options: LoadOptions,
}

/// Hears why a model that was running goes on elsewhere, or otherwise.
pub type Tell = dyn Fn(&str) + Send;

/// What a model takes of the machine's memory, on all devices together, and what was compiled for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Bytes of weights that are read where they lie in the files.
    pub adopted: u64,
    /// Bytes of weights that are read where they lie in packed files.
    pub packed: u64,
    /// Bytes of weights that come and go within a limit.
    pub streamed: u64,
    /// Bytes of weights in memory of their own.
    pub copied: u64,
    /// Bytes of keys, values and states.
    pub cache: u64,
    /// Bytes of the buffers of passes.
    pub buffers: u64,
    /// What was compiled.
    pub compiled: CompileStats,
}

/// The formats of a checkpoint's tensors.
struct Formats(Arc<Checkpoint>);

impl Weights for Formats {
    fn format(&self, name: &str, shape: &[u64]) -> Result<&'static Format, LoadError> {
        let file = || self.0.path().to_owned();
        let Some(entry) = self.0.tensor(name) else {
            return Err(LoadError::Missing { file: file(), what: "tensors", names: vec![name.to_owned()] });
        };
        if entry.shape != shape {
            let why = format!("its shape is {:?}, the configuration asks for {shape:?}", entry.shape);
            return Err(LoadError::Tensor { file: file(), name: name.to_owned(), why });
        }
        Format::find(entry.encoding).ok_or_else(|| {
            let known: Vec<&str> = jtllm_runtime::ir::format::FORMATS.iter().map(|f| f.name).collect();
            let what = format!("tensor {name} in format {}", entry.encoding);
            LoadError::Unsupported { file: file(), what, supported: known.join(", ") }
        })
    }
}

struct ModelGraphs {
    architecture: Arc<dyn Architecture>,
    formats: Formats,
    keys: DType,
    values: DType,
    taps: bool,
}

impl Graphs for ModelGraphs {
    fn chunk(&self) -> usize {
        self.architecture.chunk()
    }

    fn graph(&self, part: Part, bucket: Bucket) -> Result<Graph, jtllm_runtime::Error> {
        let rows = match bucket {
            Bucket::Fixed(count) => Rows::Fixed(count as i64),
            Bucket::Many => Rows::Many(self.architecture.chunk() as i64),
        };
        let pass = Pass { rows, keys: self.keys, values: self.values, taps: self.taps };
        let graph = match part {
            Part::Body => self.architecture.body(&self.formats, pass),
            Part::Head => self.architecture.head(&self.formats, pass),
            Part::Image => match self.architecture.vision() {
                Some(vision) => vision.graph(&self.formats, pass),
                None => {
                    return Err(jtllm_runtime::Error::Pass { why: "the model sees no images".to_owned() });
                }
            },
        };
        graph.map_err(|error| jtllm_runtime::Error::Pass { why: error.to_string() })
    }
}

/// Checks every tensor that the architecture reads.
fn check(formats: &Formats, architecture: &dyn Architecture) -> Result<(), LoadError> {
    let mut missing = Vec::new();
    for (name, shape) in arch::tensors(architecture)? {
        match formats.format(&name, &shape) {
            Ok(_) => {}
            Err(LoadError::Missing { names, .. }) => missing.extend(names),
            Err(error) => return Err(error),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(LoadError::Missing { file: formats.0.path().to_owned(), what: "tensors", names: missing })
}

/// The files that hold a checkpoint's tensors, by which packed weights are known again; none if there is one that is
/// part of the program, or of which the path says nothing.
fn origins(checkpoint: &Checkpoint) -> Vec<Origin> {
    let origin = |storage: &Storage| {
        let identity = storage.identity()?;
        // A hub's snapshot links to a blob, which other revisions may share.
        let path = std::fs::canonicalize(storage.path()).ok()?;
        Some(storage.sparsely(|bytes| Origin::of(&path, identity.modified, bytes)))
    };
    checkpoint.storages().map(origin).collect::<Option<Vec<Origin>>>().unwrap_or_default()
}

/// A checkpoint's file as the runtime sees it.
struct Lying(Arc<Storage>);

impl AsRef<[u8]> for Lying {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl FileBytes for Lying {
    fn fetch(&self, range: Range<usize>) {
        self.0.fetch(range);
    }

    fn release(&self, range: Range<usize>) {
        self.0.release(range);
    }
}

fn source(entry: &TensorEntry) -> Option<Source> {
    let pieces = entry.pieces.iter().map(|piece| Piece {
        bytes: Arc::new(Lying(piece.storage.clone())),
        file: piece.storage.identity().map(|_| piece.storage.path().into()),
        offset: piece.offset,
        rows: piece.rows,
        cols: piece.cols,
        stride: piece.stride,
    });
    Some(Source {
        format: Format::find(entry.encoding)?,
        shape: entry.shape.clone(),
        pieces: pieces.collect(),
    })
}

impl Model {
    /// Makes a checkpoint ready to run. Kernels are compiled and weights read when a pass first needs them.
    pub fn load(
        checkpoint: Checkpoint,
        options: LoadOptions,
        caches: impl Into<Caches>,
    ) -> Result<Model, EngineError> {
        let architecture = arch::read(checkpoint.config())?;
        Model::with_architecture(checkpoint, architecture.into(), options, caches)
    }

    /// As [`Model::load`], with an architecture of the caller's own, whatever the configuration names.
    pub fn with_architecture(
        checkpoint: Checkpoint,
        architecture: Arc<dyn Architecture>,
        options: LoadOptions,
        caches: impl Into<Caches>,
    ) -> Result<Model, EngineError> {
        Model::by_ways(checkpoint, architecture, options, caches, &ways())
    }

    /// As [`Model::with_architecture`], on devices of the caller's own ways: those of their names take the place
    /// of ours.
    pub fn by_ways(
        checkpoint: Checkpoint,
        architecture: Arc<dyn Architecture>,
        options: LoadOptions,
        caches: impl Into<Caches>,
        ways: &[Way],
    ) -> Result<Model, EngineError> {
        if options.context > arch::POSITIONS {
            return Err(EngineError::ContextTooLong { asked: options.context, most: arch::POSITIONS });
        }
        let checkpoint = Arc::new(checkpoint);
        let formats = Formats(checkpoint.clone());
        check(&formats, &*architecture)?;
        let graphs = Arc::new(ModelGraphs {
            architecture: architecture.clone(),
            formats,
            keys: options.keys,
            values: options.values,
            taps: options.taps,
        });
        let Caches { kernels, packed } = caches.into();
        let keeping = Keeping { folder: Arc::new(packed), origins: origins(&checkpoint) };
        let mut parts = Parts { graphs, cache: Arc::new(kernels), keeping, options };
        parts.drop_needless_limit()?;
        let options = parts.options.clone();
        let seat = parts.seat(ways)?;
        Ok(Model {
            checkpoint,
            architecture,
            parts,
            seat,
            tell: None,
            told_refusal: false,
            told_cached_files: BTreeSet::new(),
            options,
        })
    }

    /// Where it is.
    pub fn placement(&self) -> &Placement {
        &self.seat.placement
    }

    pub(crate) fn device_name(&self) -> String {
        self.seat.placement.device_name().to_owned()
    }

    /// Tells whoever wants to hear it.
    pub(crate) fn say(&self, what: &str) {
        if let Some(tell) = &self.tell {
            tell(what);
        }
    }

    /// Has somebody told when the model leaves its device while it runs, or runs there otherwise.
    pub fn tell(&mut self, tell: Box<Tell>) {
        self.tell = Some(tell);
    }

    /// Goes on elsewhere, with an empty cache, after a device failed; see [`Parts::retreat`].
    pub(crate) fn retreat(&mut self, error: jtllm_runtime::Error) -> Result<(), EngineError> {
        let why = error.to_string();
        self.seat = self.parts.retreat(&self.seat, error, false)?;
        self.say(&format!("{why}; the conversation goes on {}", self.seat.placement.short()));
        Ok(())
    }

    /// Which numbers are multiplied with weights: in decoding, and in prompts. Nothing before [`Model::ready`].
    pub fn products(&self) -> [BTreeSet<Compute>; 2] {
        [Bucket::Fixed(1), Bucket::Many].map(|bucket| {
            let plans = self.networks().into_iter().filter_map(|network| network.plan(Part::Body, bucket));
            plans.flat_map(|plan| plan.compilation.products()).collect()
        })
    }

    /// What it takes of the machine, if kernels run.
    pub fn memory(&self) -> Option<Memory> {
        let mut all = Memory::default();
        for network in self.networks() {
            let (weights, compiled) = (network.weights(), &network.compiled);
            all.adopted += weights.adopted_bytes;
            all.packed += weights.packed_bytes;
            all.copied += weights.copied_bytes;
            all.streamed += weights.streamed_bytes;
            all.cache += network.state_bytes();
            all.buffers += network.buffer_bytes();
            all.compiled.emitted += compiled.emitted;
            all.compiled.cached += compiled.cached;
            all.compiled.time += compiled.time;
        }
        (!self.networks().is_empty()).then_some(all)
    }

    /// The files that it came from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What it is.
    pub fn architecture(&self) -> &dyn Architecture {
        &*self.architecture
    }

    /// The network of the last layers, if kernels run.
    pub fn network(&self) -> Option<&Network> {
        self.networks().pop()
    }

    /// The networks that run kernels, in the order of their layers: none where graphs are interpreted.
    pub fn networks(&self) -> Vec<&Network> {
        self.seat.runner.networks()
    }

    /// Pages of the cache.
    pub fn pages(&self) -> usize {
        self.seat.runner.pages()
    }

    /// Compiles and reads now what the first passes of one sequence need.
    pub fn ready(&mut self) -> Result<(), EngineError> {
        if self.options.memory.most != Most::Unlimited {
            // Headers and vocabularies were read where they lie; what is kept of them is a copy.
            self.checkpoint.storages().for_each(Storage::give_back);
        }
        loop {
            let checkpoint = self.checkpoint.clone();
            let locate = move |name: &str| checkpoint.tensor(name).and_then(source);
            match self.seat.runner.ready(&locate) {
                // Files that are streamed are opened anew: then they must be those of which the header was read.
                Ok(()) => return Ok(self.checkpoint.verify_unchanged()?),
                Err(error) => self.seat = self.parts.retreat(&self.seat, error, true)?,
            }
        }
    }

    /// Has plans for the first passes without reading weights, where there is a limit: then [`Model::outlook`] tells what
    /// they are going to cost. Weights are packed if they never were.
    ///
    /// # Errors
    /// Those of [`Model::ready`]; a limit that is too low is one if weights would have to be packed or copied.
    pub fn prepare(&mut self) -> Result<(), EngineError> {
        // What was mapped to read headers is not the program's own. The system may keep it: whoever asks what a model costs
        // takes no pages from those who run it.
        self.checkpoint.storages().for_each(|storage| storage.release(0..storage.len() as usize));
        let checkpoint = self.checkpoint.clone();
        let locate = move |name: &str| checkpoint.tensor(name).and_then(source);
        Ok(self.seat.runner.prepare(&locate)?)
    }

    /// The seconds of each step of a decoded token when its weights are in memory: measured, see [`Network::rehearse`].
    /// Nothing where [`Model::outlook`] gives nothing.
    ///
    /// # Errors
    /// There is no memory for it, or a kernel fails.
    pub fn rehearse(&self) -> Result<Option<Vec<f64>>, EngineError> {
        match self.networks().as_slice() {
            [one] => Ok(one.rehearse()?),
            _ => Ok(None),
        }
    }

    /// What decoding is going to cost within the limit; nothing without one, or where kernels run elsewhere.
    ///
    /// # Errors
    /// The limit is too low: what is missing, and where.
    pub fn outlook(&self, rates: &Rates, change: &Change) -> Result<Option<Outlook>, EngineError> {
        match self.networks().as_slice() {
            [one] => Ok(one.outlook(rates, change)?),
            _ => Ok(None),
        }
    }

    /// Runs one pass and gives the wanted rows' logits, one after another.
    pub fn pass(&mut self, batch: &Batch, trace: Option<&mut Trace>) -> Result<Vec<f32>, EngineError> {
        let checkpoint = self.checkpoint.clone();
        let locate = move |name: &str| checkpoint.tensor(name).and_then(source);
        let logits = self.seat.runner.pass(batch, &locate, trace)?;
        // Whoever writes to a file that is in use changes numbers under us: then nobody is to see what was made of them.
        self.checkpoint.storages().try_for_each(Storage::verify_held)?;
        self.tell_cached_files();
        // Each plan is refused by itself, for the same reason.
        if let Some(why) = self.networks().iter().find_map(|network| network.refusal())
            && !std::mem::replace(&mut self.told_refusal, true)
        {
            self.say(&format!("{why}; its kernels are launched one by one"));
        }
        Ok(logits)
    }

    /// Says once of each file that it takes memory of the system's beside that of the limit, when it was read from: of the swap
    /// file that may be long after the others.
    fn tell_cached_files(&mut self) {
        let residences = self.networks().into_iter().filter_map(Network::residence);
        let cached: Vec<Arc<Path>> = residences.flat_map(|residence| residence.cached_files()).collect();
        for path in cached {
            if self.told_cached_files.insert(path.clone()) {
                let what = "its file system has no direct reads; they go by way of the page cache";
                self.say(&format!("{}: {what}", path.display()));
            }
        }
    }

    /// Says how many bytes are kept for it beside: rows of images.
    pub(crate) fn keep_beside(&mut self, bytes: u64) -> Result<(), EngineError> {
        Ok(self.seat.runner.keep_beside(bytes)?)
    }

    /// Says that nobody wants what the cache holds.
    pub(crate) fn forget(&mut self) {
        self.seat.runner.forget();
    }

    pub(crate) fn shared_architecture(&self) -> Arc<dyn Architecture> {
        self.architecture.clone()
    }

    /// Runs the pass of a tile of an image that has so many rows; its outputs are taps.
    pub fn look_at(&mut self, tokens: usize, pixels: &[f32]) -> Result<(), EngineError> {
        let checkpoint = self.checkpoint.clone();
        let locate = move |name: &str| checkpoint.tensor(name).and_then(source);
        self.seat.runner.image(tokens, pixels, &locate)?;
        Ok(self.checkpoint.storages().try_for_each(Storage::verify_held)?)
    }

    /// The named output of the last pass (with [`LoadOptions::taps`]), for its first `rows` rows.
    pub fn tap(&mut self, name: &str, rows: usize) -> Result<Vec<f32>, EngineError> {
        Ok(self.seat.runner.tap(name, rows)?)
    }
}
