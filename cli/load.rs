//! From a name on the command line to an engine.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use jtllm_models::arch::POSITIONS;
use jtllm_models::{Checkpoint, LoadError};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::ir::DType;
use jtllm_runtime::machine::Machine;
use jtllm_runtime::packed::PackedFolder;
use jtllm_runtime::residence::Limit;
use jtllm_serve::{Backend, Caches, Engine, Layers, LoadOptions, Memory, Model, Place, Speculation};

use crate::args::{BackendName, CacheType, CapsName, ComputeName, MachineArgs, PlaceArgs};
use crate::download::{Display, client};
use crate::environment;
use crate::failure::Usage;
use crate::memory;
use crate::size;
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

/// What this user keeps on disk from start to start.
pub(crate) fn caches() -> Caches {
    let tell = |what: &str| say(Style::Plain, format_args!("{what}"));
    Caches {
        kernels: kernel_cache().telling(Box::new(tell)),
        packed: PackedFolder::open(None).telling(Box::new(tell)),
    }
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
        ComputeName::Int8 => Compute::Int8,
    }
}

/// What flags ask to compute with and where, if they do not say it that of `default`; `caps` is for the
/// interpreter of kernels.
pub(crate) fn place(
    flags: &PlaceArgs,
    default: BackendName,
    caps: CapsName,
) -> Result<(Backend, Place), Usage> {
    let name = flags.backend.unwrap_or(default);
    let layers = flags.n_gpu_layers;
    let wants = flags.device.is_some()
        || flags.require_gpu
        || flags.vram_limit.is_some()
        || layers.is_some_and(|n| n != Layers::Count(0));
    if wants && matches!(name, BackendName::Cpu | BackendName::Graph) {
        let name = if name == BackendName::Cpu { "cpu" } else { "graph" };
        let what = "--device, --n-gpu-layers, --vram-limit and --require-gpu want a backend with devices";
        return Err(Usage(format!("{what}: {name} has none")));
    }
    if flags.require_gpu && layers == Some(Layers::Count(0)) {
        return Err(Usage("--require-gpu does not go with no layers".to_owned()));
    }
    let memory = match name {
        // They have no device that a limit in the environment could mean.
        BackendName::Cpu | BackendName::Graph => None,
        _ => environment::device(flags.vram_limit)?.and_then(size::Limit::bytes),
    };
    let some_fit = name == BackendName::Auto || memory.is_some();
    let own = if some_fit { Layers::Auto } else { Layers::All };
    let layers = layers.unwrap_or(own);
    let place = Place { device: flags.device, layers, memory, required: flags.require_gpu };
    Ok((backend(name, caps), place))
}

/// Says so where threads were asked for and none computes, or more than can compute at once.
pub(crate) fn remark_threads(model: &Model, asked: Option<u16>) {
    let Some(asked) = asked else { return };
    if model.placement().processor.is_some() {
        let Machine { cores, cpu_quota, .. } = Machine::probe();
        let most = cores.cpus.len().min(cpu_quota.unwrap_or(usize::MAX));
        if usize::from(asked) > most {
            let why = "more threads wait for each other";
            say(Style::Plain, format_args!("-t {asked}: no more than {most} can run at once, {why}"));
        }
        return;
    }
    let why = match model.options.backend {
        Backend::Graph | Backend::Interp(_) => "the interpreter has one".to_owned(),
        _ => format!("the model is {}", model.placement()),
    };
    say(Style::Plain, format_args!("-t {asked} has no effect: {why}"));
}

/// Says so where numbers were asked for that nothing is multiplied in.
pub(crate) fn remark_compute(model: &Model) {
    let asked = model.options.compute;
    let [decoding, prompts] = model.products();
    // The interpreter of graphs does as it is told.
    if asked == Compute::Auto || decoding.is_empty() || decoding.contains(&asked) || prompts.contains(&asked)
    {
        return;
    }
    let why = match asked {
        Compute::Int8 => format!("weights of {} have no blocks of integers", dtype(model.checkpoint())),
        _ => format!("weights are of {}", dtype(model.checkpoint())),
    };
    let what =
        format!("--compute {} has no effect: {why}; products are of {}", asked.name(), products(model));
    say(Style::Plain, format_args!("{what}"));
}

fn backend(flag: BackendName, caps: CapsName) -> Backend {
    let caps = match caps {
        CapsName::Vector4 => Caps::vector(4),
        CapsName::Vector8 => Caps::vector(8),
        CapsName::Vector16 => Caps::vector(16),
        CapsName::Threads32 => Caps::threads(32),
        CapsName::Threads128 => Caps::threads(128),
        CapsName::Matrix128 => Caps::threads(128).with_matrix(128),
    };
    match flag {
        BackendName::Auto => Backend::Auto,
        BackendName::Cpu => Backend::Cpu,
        BackendName::Cuda => Backend::Cuda,
        BackendName::Wgpu => Backend::Wgpu,
        BackendName::Interp => Backend::Interp(Box::new(caps)),
        BackendName::Graph => Backend::Graph,
    }
}

/// A model for one conversation, compiled and in memory.
pub(crate) fn model(checkpoint: Checkpoint, machine: &MachineArgs) -> anyhow::Result<Model> {
    let limit = memory::limit(&machine.memory)?;
    let mut model = unread(checkpoint, machine, limit)?;
    model.ready()?;
    remark_threads(&model, machine.threads);
    remark_compute(&model);
    memory::announce(&model, &machine.memory);
    model.tell(Box::new(|what| say(Style::Alarm, format_args!("{what}"))));
    Ok(model)
}

/// The same before anything is compiled or read, within a limit.
pub(crate) fn unread(checkpoint: Checkpoint, machine: &MachineArgs, memory: Limit) -> anyhow::Result<Model> {
    let (backend, place) = place(&machine.place, BackendName::Auto, CapsName::Vector4)?;
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
        backend,
        place,
        threads: threads(machine.threads),
        context,
        compute: compute(machine.compute),
        keys: cache_type(machine.cache_type_k),
        values: cache_type(machine.cache_type_v),
        taps: false,
        sequences: 1,
        memory,
    };
    Ok(Model::load(checkpoint, options, caches())?)
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
    let memory = match model.memory() {
        Some(memory) => format!(
            "weights {}, cache {} ({}/{}), buffers {}; \
             kernels: {} compiled, {} from the cache, in {:.3} s",
            places(&memory),
            bytes(memory.cache),
            options.keys,
            options.values,
            bytes(memory.buffers),
            memory.compiled.emitted,
            memory.compiled.cached,
            memory.compiled.time.as_secs_f64(),
        ),
        None => format!("weights {}", bytes(checkpoint.total_bytes())),
    };
    let computes = format!("{}, products of {}", model.placement(), products(model));
    terminal::say(
        Style::Faint,
        format_args!(
            "{name}: {kind}, {} parameters, {}; {computes}; context {}{}; {memory}",
            count(parameters(checkpoint)),
            dtype(checkpoint),
            options.context,
            guesses(engine.speculation()),
        ),
    );
}

/// How many tokens are guessed.
fn guesses(speculation: Speculation) -> String {
    match speculation {
        Speculation::Off => String::new(),
        Speculation::Auto(lookup) => format!(", up to {} tokens guessed where it pays", lookup.draft_max),
        Speculation::Always(lookup) => format!(", up to {} tokens guessed", lookup.draft_max),
    }
}

/// Where weights are.
fn places(memory: &Memory) -> String {
    let all = [
        (memory.streamed, "within the limit"),
        (memory.adopted, "mapped"),
        (memory.packed, "in the packed file"),
        (memory.copied, "copied"),
    ];
    let some = |(count, place): &(u64, &str)| (*count > 0).then(|| format!("{} {place}", bytes(*count)));
    match all.iter().filter_map(some).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => bytes(0),
        places => places,
    }
}

/// The numbers that are multiplied with weights.
fn products(model: &Model) -> String {
    let names =
        |types: &BTreeSet<Compute>| types.iter().map(|one| one.name()).collect::<Vec<_>>().join(" and ");
    let [decoding, prompts] = model.products();
    match (decoding.is_empty(), model.options.compute) {
        // The interpreter of graphs does as it is told.
        (true, Compute::Auto) => Compute::F32.name().to_owned(),
        (true, Compute::Int8) => "int8 where weights are packed in bytes, else f32".to_owned(),
        (true, told) => told.name().to_owned(),
        _ if decoding == prompts => names(&decoding),
        _ => format!("{}, for prompts {}", names(&decoding), names(&prompts)),
    }
}
