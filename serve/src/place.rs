//! Where a model runs, and why not elsewhere.

use std::fmt;
use std::sync::Arc;

use jtllm_runtime::device::cuda::Cuda;
use jtllm_runtime::device::wgpu::{Adapter, Choice, NoAdapter, adapters};
use jtllm_runtime::device::{Device, DeviceInfo};
use jtllm_runtime::os::may_have_graphics;

use crate::model::Backend;

/// How many layers run on a device. The head is the first of them, then come the last layers, as llama.cpp
/// counts; the first layers stay on the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Layers {
    /// As many as fit.
    #[default]
    Auto,
    /// All of them, or none.
    All,
    /// The head and so many but one; those that the model does not have are not missed.
    Count(usize),
}

/// What is asked of the device that a model runs on. The processor and the interpreter of graphs ask nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its number among those of its backend; none: the first that will do.
    pub device: Option<usize>,
    /// How much of the model runs there.
    pub layers: Layers,
    /// The most of its memory that the model takes; none: all that there is. If more layers are asked for by
    /// [`Layers::All`] or [`Layers::Count`] than it holds, their weights come and go there.
    pub memory: Option<u64>,
    /// Whether it is an error if nothing does.
    pub required: bool,
}

/// A device, for those who choose one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The backend, by the name that options have for it.
    pub backend: &'static str,
    /// Its number there.
    pub number: usize,
    /// What it calls itself.
    pub name: String,
    /// Whether it computes on the processor: then it is used only by those who ask for it.
    pub is_software: bool,
}

/// Opens a device: the one of that number, or the best; whether one that computes on the processor will do.
pub type Open = dyn Fn(Option<usize>, bool) -> Result<Arc<dyn Device>, String> + Send + Sync;

/// A way to compute that is not the processor's own.
#[derive(Clone)]
pub struct Way {
    /// The backend's name in options.
    pub backend: &'static str,
    /// Opens a device, or says why there is none.
    pub open: Arc<Open>,
    /// The devices of this machine.
    pub list: fn() -> Vec<Found>,
}

/// Every way, in the order in which [`Backend::Auto`] tries them.
pub fn ways() -> Vec<Way> {
    vec![
        Way { backend: "cuda", open: Arc::new(open_cuda), list: list_cuda },
        Way { backend: "wgpu", open: Arc::new(open_adapter), list: list_adapters },
    ]
}

/// The devices of this machine, of every backend.
pub fn devices() -> Vec<Found> {
    ways().iter().flat_map(|way| (way.list)()).collect()
}

fn open_cuda(number: Option<usize>, _: bool) -> Result<Arc<dyn Device>, String> {
    Ok(Arc::new(Cuda::open(number.unwrap_or(0)).map_err(|error| error.to_string())?))
}

fn list_cuda() -> Vec<Found> {
    let found = |number| {
        let name = Cuda::open(number).ok()?.info().name;
        Some(Found { backend: "cuda", number, name, is_software: false })
    };
    (0..Cuda::count().unwrap_or(0)).filter_map(found).collect()
}

/// What the errors of [`Adapter::open`] begin with where there is none.
const NO_ADAPTER: &str = "no graphics adapter";

/// Looking for adapters loads every graphics driver of the system, which takes tens of milliseconds: where there
/// cannot be any hardware, nobody looks.
fn open_adapter(number: Option<usize>, software: bool) -> Result<Arc<dyn Device>, String> {
    if number.is_none() && !software && !may_have_graphics() {
        return Err(NO_ADAPTER.to_owned());
    }
    let choice = Choice { place: number, software, ..Choice::default() };
    match Adapter::open(&choice) {
        Ok(adapter) => Ok(Arc::new(adapter)),
        // Who named no adapter need not read which interfaces were tried.
        Err(NoAdapter(why)) if !software && why.starts_with(NO_ADAPTER) => Err(NO_ADAPTER.to_owned()),
        Err(NoAdapter(why)) => Err(why),
    }
}

fn list_adapters() -> Vec<Found> {
    let found = adapters().into_iter().enumerate();
    found
        .map(|(number, one)| Found { backend: "wgpu", number, name: one.name, is_software: one.is_software })
        .collect()
}

/// A model that takes more memory than its device has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The device.
    pub device: String,
    /// Bytes that the layers that were asked for take: weights, cache and buffers.
    pub need: u64,
    /// Bytes that the device has, or that a limit leaves of them.
    pub have: u64,
    /// Whether it is a limit that leaves so few.
    pub limited: bool,
    /// The largest count of [`Layers::Count`] that fits.
    pub most: usize,
    /// The option with which weights would come and go there, if they can.
    pub instead: Option<&'static str>,
}

/// `4.3 GB`, or `4.3 MB` where those are none.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..100_000_000 => write!(f, "{:.1} MB", self.0 as f64 / 1e6),
            _ => write!(f, "{:.1} GB", self.0 as f64 / 1e9),
        }
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooLarge { device, need, have, limited, most, instead } = self;
        let (held, asked) = (Size(*have), Size(*need));
        let has = if *limited { "may hold" } else { "has" };
        write!(f, "{device} {has} {held} of memory ({have} bytes), and {asked} ({need} bytes) are needed: ")?;
        match most {
            0 => f.write_str("no layer fits there")?,
            most => write!(f, "-ngl {most} fits")?,
        }
        instead.map_or(Ok(()), |option| write!(f, "; with {option} weights come and go there"))
    }
}

impl std::error::Error for TooLarge {}

/// Where a model was put.
#[derive(Clone, Debug)]
pub struct Placement {
    /// What computes the last layers, by the name that options have for it.
    pub backend: &'static str,
    /// What is on a device, if anything is.
    pub device: Option<OnDevice>,
    /// What is on the processor, if it computes layers too.
    pub processor: Option<OnProcessor>,
    /// Why it is not elsewhere, or not all of it.
    pub reasons: Vec<String>,
}

/// How the processor computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnProcessor {
    /// Its threads.
    pub threads: usize,
    /// What makes its code, by the name that `JTLLM_CPU` has for it.
    pub code: &'static str,
    /// What the processor has not got, if that is why nothing better makes it.
    pub lacks: Option<&'static str>,
}

/// What of a model is on a device.
#[derive(Clone, Debug)]
pub struct OnDevice {
    /// The device.
    pub info: DeviceInfo,
    /// How many layers the model has and how many of them are there, the head with them; `None`: all.
    pub layers: Option<[usize; 2]>,
    /// The bytes of its memory within which weights come and go, if they do.
    pub within: Option<u64>,
}

impl Placement {
    /// Where, without the reasons.
    pub(crate) fn short(&self) -> String {
        Placement { reasons: Vec::new(), ..self.clone() }.to_string()
    }

    /// The device's name, or the processor.
    pub fn device_name(&self) -> &str {
        self.device.as_ref().map_or("the processor", |device| &device.info.name)
    }
}

/// The layers from one to another.
struct Range(usize, usize);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 == self.1 {
            true => write!(f, "layer {}", self.0),
            false => write!(f, "layers {} to {}", self.0, self.1),
        }
    }
}

/// A limit within which weights come and go.
struct Within(Option<u64>);

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |bytes| write!(f, " within {}", Size(bytes)))
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = match self.processor {
            None => String::new(),
            Some(OnProcessor { threads, code, lacks }) => {
                let plural = if threads == 1 { "" } else { "s" };
                let why = lacks.map_or(String::new(), |what| format!(", since there is no {what}"));
                format!(", {threads} thread{plural} with {code}{why}")
            }
        };
        match &self.device {
            None if self.backend == Backend::Graph.name() => f.write_str("on the interpreter of graphs")?,
            None => write!(f, "on the processor{threads}")?,
            Some(OnDevice { info, layers: None, within }) => {
                write!(f, "on {}{}", info.name, Within(*within))?;
            }
            Some(OnDevice { info, layers: Some([_, 0]), within }) => {
                write!(f, "the head on {}{}, ", info.name, Within(*within))?;
                write!(f, "all layers on the processor{threads}")?;
            }
            Some(OnDevice { info, layers: Some([all, here]), within }) => {
                let first = all - here;
                write!(f, "{} and the head on {}{}, ", Range(first, all - 1), info.name, Within(*within))?;
                write!(f, "{} on the processor{threads}", Range(0, first - 1))?;
            }
        }
        match self.reasons.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", self.reasons.join(", ")),
        }
    }
}

impl Backend {
    /// The name that options have for it.
    pub fn name(&self) -> &'static str {
        match self {
            Backend::Auto => "auto",
            Backend::Cpu => "cpu",
            Backend::Interp(_) => "interp",
            Backend::Cuda => "cuda",
            Backend::Wgpu => "wgpu",
            Backend::Graph => "graph",
        }
    }
}
