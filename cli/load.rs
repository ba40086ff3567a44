//! From a name on the command line to an engine.

use std::collections::HashMap;
use std::path::Path;

use jtllm_models::arch::POSITIONS;
use jtllm_models::{Checkpoint, LoadError};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::ir::DType;
use jtllm_runtime::machine::Machine;
use jtllm_serve::{Backend, Engine, EngineError, LoadOptions, Model};

use crate::args::{BackendName, CacheType, CapsName, ComputeName, MachineArgs};
use crate::download::{Display, client};
use crate::terminal::{self, Style, bytes, say};

/// The name of the built-in model. A folder or file of this name comes first.
pub(crate) const DEMO: &str = "demo";

/// Positions of the context, unless asked for otherwise, for models that were made for more.
const CONTEXT: usize = 4096;

/// Opens a model's files, which are downloaded if they are not here. Without a name, or by that of the demo
/// model, it is the built-in one.
pub(crate) fn checkpoint(name: Option<&str>) -> Result<Checkpoint, LoadError> {
    match name {
        None => Checkpoint::demo(),
        Some(DEMO) if !Path::new(DEMO).exists() => Checkpoint::demo(),
        Some(name) => {
            let display = Display::new();
            Checkpoint::open(&client().open(name, &|event| display.hear(event))?)
        }
    }
}

/// The kernel cache of this user.
pub(crate) fn kernel_cache() -> KernelCache {
    KernelCache::open(None)
}

/// Threads to compute with.
pub(crate) fn threads(asked: Option<u16>) -> usize {
    let own = || Machine::probe().default_threads();
    asked.map_or_else(own, usize::from)
}

/// The type that a flag names.
pub(crate) fn cache_type(flag: CacheType) -> DType {
    match flag {
        CacheType::F32 => DType::F32,
        CacheType::F16 => DType::F16,
        CacheType::Bf16 => DType::BF16,
    }
}

/// The numbers that a flag asks for.
pub(crate) fn compute(flag: ComputeName) -> Compute {
    match flag {
        ComputeName::Auto => Compute::Auto,
        ComputeName::F32 => Compute::F32,
        ComputeName::Bf16 => Compute::Bf16,
        ComputeName::F16 => Compute::F16,
    }
}

/// What a flag asks to compute with; `caps` is for the interpreter of kernels.
pub(crate) fn backend(flag: BackendName, caps: CapsName) -> Backend {
    let caps = match caps {
        CapsName::Vector4 => Caps::vector(4),
        CapsName::Vector8 => Caps::vector(8),
        CapsName::Vector16 => Caps::vector(16),
        CapsName::Threads32 => Caps::threads(32),
        CapsName::Threads128 => Caps::threads(128),
        CapsName::Matrix128 => Caps::threads(128).with_matrix(128),
    };
    match flag {
        BackendName::Cpu => Backend::Cpu,
        BackendName::Cuda => Backend::Cuda(0),
        BackendName::Wgpu => Backend::Wgpu,
        BackendName::Interp => Backend::Interp(Box::new(caps)),
        BackendName::Graph => Backend::Graph,
    }
}

/// A model for one conversation, compiled and in memory.
pub(crate) fn model(checkpoint: Checkpoint, machine: &MachineArgs) -> Result<Model, EngineError> {
    let architecture = jtllm_models::arch::read(checkpoint.config())?;
    let trained = architecture.positions();
    let context = match machine.ctx_size {
        None => trained.min(CONTEXT),
        Some(0) => trained.min(POSITIONS),
        Some(asked) if asked > trained && architecture.positions_are_learned() => {
            say(
                Style::Plain,
                format_args!("the model has {trained} positions and no more: so has the context"),
            );
            trained
        }
        Some(asked) => asked,
    };
    if context > trained {
        let what = format_args!("the model was made for {trained} positions: beyond them answers get worse");
        say(Style::Plain, what);
    }
    let options = LoadOptions {
        backend: backend(machine.backend, CapsName::Vector4),
        threads: threads(machine.threads),
        context,
        compute: compute(machine.compute),
        keys: cache_type(machine.cache_type_k),
        values: cache_type(machine.cache_type_v),
        taps: false,
        sequences: 1,
    };
    let mut model = Model::load(checkpoint, options, kernel_cache())?;
    model.ready()?;
    Ok(model)
}

/// Numbers of all tensors together.
pub(crate) fn parameters(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().map(|tensor| tensor.shape.iter().product::<u64>()).sum()
}

/// The encoding that most of the model's bytes have.
pub(crate) fn dtype(checkpoint: &Checkpoint) -> &'static str {
    let mut sizes: HashMap<&'static str, u64> = HashMap::new();
    for tensor in checkpoint.tensors() {
        *sizes.entry(tensor.encoding).or_default() +=
            tensor.pieces.iter().map(|piece| piece.len).sum::<u64>();
    }
    sizes.into_iter().max_by_key(|(name, size)| (*size, *name)).map_or("empty", |(name, _)| name)
}

/// `1.4 M`, `7.2 B`.
pub(crate) fn count(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{:.1} K", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", number as f64 / 1e6),
        _ => format!("{:.1} B", number as f64 / 1e9),
    }
}

/// Says on stderr what runs, and where it is.
pub(crate) fn announce(engine: &Engine) {
    let model = engine.model();
    let options = &model.options;
    let checkpoint = model.checkpoint();
    let path = checkpoint.path();
    let name =
        path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
    let kind = checkpoint.config().architecture().unwrap_or("unknown architecture");
    let memory = match model.network() {
        Some(network) => format!(
            "weights {} mapped and {} copied, cache {} ({}/{}), buffers {}; \
             kernels: {} compiled, {} from the cache, in {:.3} s",
            bytes(network.weights().adopted_bytes),
            bytes(network.weights().copied_bytes),
            bytes(network.state_bytes()),
            options.keys,
            options.values,
            bytes(network.buffer_bytes()),
            network.compiled.emitted,
            network.compiled.cached,
            network.compiled.time.as_secs_f64(),
        ),
        None => format!("weights {}", bytes(checkpoint.total_bytes())),
    };
    let computes = match (&options.backend, model.network()) {
        (Backend::Graph, _) | (_, None) => {
            format!("graph interpreter, products of {}", products(options.compute, false))
        }
        (_, Some(network)) => {
            let target = network.device().target();
            format!(
                "{} ({}), {}, products of {}",
                network.device().info().name,
                target.name(),
                plural(network.device().info().threads),
                products(options.compute, target.caps().matrix.is_some()),
            )
        }
    };
    terminal::say(
        Style::Faint,
        format_args!(
            "{name}: {kind}, {} parameters, {}; {computes}; context {}; {memory}",
            count(parameters(checkpoint)),
            dtype(checkpoint),
            options.context,
        ),
    );
}

/// The numbers that matrix products multiply.
fn products(compute: Compute, units: bool) -> &'static str {
    match (compute, units) {
        (Compute::Auto, true) => "f32, for prompts 16 bits",
        (Compute::Auto, false) => Compute::F32.name(),
        (chosen, _) => chosen.name(),
    }
}

fn plural(threads: usize) -> String {
    match threads {
        1 => "1 thread".to_owned(),
        many => format!("{many} threads"),
    }
}
