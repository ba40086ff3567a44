//! A model ready to run: the twenty lines of glue between `models` and `runtime`.

use std::sync::Arc;

use jtllm_models::arch::{self, Architecture, Pass, Rows, Weights};
use jtllm_models::{Checkpoint, LoadError, TensorEntry};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::emit::cranelift::Cranelift;
use jtllm_runtime::codegen::options::{Compute, Options};
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::cuda::Cuda;
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::wgpu::Adapter;
use jtllm_runtime::device::{Bytes, Device};
use jtllm_runtime::ir::{DType, Format, Graph};
use jtllm_runtime::network::{Batch, Bucket, Graphs, Network, Part};
use jtllm_runtime::reference::Reference;
use jtllm_runtime::runner::Runner;
use jtllm_runtime::trace::Trace;
use jtllm_runtime::weights::{Piece, Source};

use crate::engine::EngineError;

/// What computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Machine code on the processor.
    Cpu,
    /// The interpreter of loop IR, scheduled for these caps.
    Interp(Box<Caps>),
    /// NVIDIA's graphics processor of that number, from 0.
    Cuda(usize),
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
}

/// A model ready to run.
pub struct Model {
    checkpoint: Arc<Checkpoint>,
    architecture: Arc<dyn Architecture>,
    runner: Box<dyn Runner>,
    /// How it was loaded.
    pub options: LoadOptions,
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

fn source(entry: &TensorEntry) -> Option<Source> {
    let pieces = entry.pieces.iter().map(|piece| Piece {
        bytes: piece.storage.clone() as Bytes,
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
        cache: KernelCache,
    ) -> Result<Model, EngineError> {
        let architecture = arch::read(checkpoint.config())?;
        Model::with_architecture(checkpoint, architecture.into(), options, cache)
    }

    /// As [`Model::load`], with an architecture of the caller's own, whatever the configuration names.
    pub fn with_architecture(
        checkpoint: Checkpoint,
        architecture: Arc<dyn Architecture>,
        options: LoadOptions,
        cache: KernelCache,
    ) -> Result<Model, EngineError> {
        if options.context > arch::POSITIONS {
            return Err(EngineError::ContextTooLong { asked: options.context, most: arch::POSITIONS });
        }
        let checkpoint = Arc::new(checkpoint);
        let formats = Formats(checkpoint.clone());
        check(&formats, &*architecture)?;
        let graphs = Box::new(ModelGraphs {
            architecture: architecture.clone(),
            formats,
            keys: options.keys,
            values: options.values,
            taps: options.taps,
        });
        let positions = options.context.div_ceil(16) * 16 * options.sequences;
        let choices = Options { compute: options.compute };
        let device: Arc<dyn Device> = match &options.backend {
            Backend::Cpu => {
                let target = Cranelift::host().map_err(jtllm_runtime::Error::from)?;
                Arc::new(Cpu::new(Box::new(target), options.threads))
            }
            Backend::Interp(caps) => Arc::new(Interpreter::new((**caps).clone())),
            Backend::Cuda(number) => Arc::new(Cuda::open(*number).map_err(EngineError::NoCuda)?),
            Backend::Wgpu => Arc::new(Adapter::open().map_err(EngineError::NoAdapter)?),
            Backend::Graph => {
                let runner = Box::new(Reference::new(graphs, choices, positions));
                return Ok(Model { checkpoint, architecture, runner, options });
            }
        };
        let runner = Box::new(Network::new(device, graphs, choices, cache, positions));
        Ok(Model { checkpoint, architecture, runner, options })
    }

    /// The files that it came from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What it is.
    pub fn architecture(&self) -> &dyn Architecture {
        &*self.architecture
    }

    /// The network, if kernels run.
    pub fn network(&self) -> Option<&Network> {
        self.runner.network()
    }

    /// Pages of the cache.
    pub fn pages(&self) -> usize {
        self.runner.pages()
    }

    /// Compiles and reads now what the first passes of one sequence need.
    pub fn ready(&mut self) -> Result<(), EngineError> {
        let checkpoint = self.checkpoint.clone();
        let locate = move |name: &str| checkpoint.tensor(name).and_then(source);
        Ok(self.runner.ready(&locate)?)
    }

    /// Runs one pass and gives the wanted rows' logits, one after another.
    pub fn pass(&mut self, batch: &Batch, trace: Option<&mut Trace>) -> Result<Vec<f32>, EngineError> {
        let checkpoint = self.checkpoint.clone();
        let locate = move |name: &str| checkpoint.tensor(name).and_then(source);
        Ok(self.runner.pass(batch, &locate, trace)?)
    }

    pub(crate) fn shared_architecture(&self) -> Arc<dyn Architecture> {
        self.architecture.clone()
    }

    /// Runs the pass of a tile of an image that has so many rows; its outputs are taps.
    pub fn look_at(&mut self, tokens: usize, pixels: &[f32]) -> Result<(), EngineError> {
        let checkpoint = self.checkpoint.clone();
        let locate = move |name: &str| checkpoint.tensor(name).and_then(source);
        Ok(self.runner.image(tokens, pixels, &locate)?)
    }

    /// The named output of the last pass (with [`LoadOptions::taps`]), for its first `rows` rows.
    pub fn tap(&mut self, name: &str, rows: usize) -> Result<Vec<f32>, EngineError> {
        Ok(self.runner.tap(name, rows)?)
    }
}
