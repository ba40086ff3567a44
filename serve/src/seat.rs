//! Puts a model where its options want it, and elsewhere when a device cannot or can no longer do it.

use std::sync::Arc;

use jtllm_runtime::Error;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Options;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::cpu::{self, Cpu};
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::native;
use jtllm_runtime::machine::resident_bytes;
use jtllm_runtime::need::Need;
use jtllm_runtime::network::{Graphs, Network};
use jtllm_runtime::packed::Keeping;
use jtllm_runtime::reference::Reference;
use jtllm_runtime::residence::Most;
use jtllm_runtime::runner::Runner;
use jtllm_runtime::split::Split;

use crate::engine::EngineError;
use crate::model::{Backend, LoadOptions};
use crate::place::{Layers, OnDevice, OnProcessor, Placement, Size, TooLarge, Way};

/// A tenth of a device's memory is left to whoever draws the screen, and to what is not counted before.
const SPARE: u64 = 10;

/// What a model takes of the host's memory beside what is counted before, at the least.
const UNCOUNTED: u64 = 64 << 20;

/// What runners are made of.
pub(crate) struct Parts {
    pub(crate) graphs: Arc<dyn Graphs>,
    pub(crate) cache: Arc<KernelCache>,
    pub(crate) keeping: Keeping,
    pub(crate) options: LoadOptions,
}

/// A runner and where it is.
pub(crate) struct Seat {
    pub(crate) runner: Box<dyn Runner>,
    pub(crate) placement: Placement,
    device: Option<Arc<dyn Device>>,
}

impl Parts {
    fn positions(&self) -> usize {
        self.options.context.div_ceil(16) * 16 * self.options.sequences
    }

    fn choices(&self) -> Options {
        Options { compute: self.options.compute, ..Options::default() }
    }

    /// Drops a limit of the host's memory that is only for models that do not fit into it, if this one does, with its
    /// keys and values for the whole context: weights count, whether they are mapped or, on a first start, packed.
    ///
    /// # Errors
    /// A graph cannot be built.
    pub(crate) fn drop_needless_limit(&mut self) -> Result<(), EngineError> {
        let limit = &self.options.memory;
        let (Most::Process(bytes), true) = (limit.most, limit.if_needed) else { return Ok(()) };
        let target = native::host().map_err(|error| EngineError::NoDevice(error.to_string()))?.target;
        let caps = cpu::caps(&*target, self.options.threads);
        let need = Need::of(&*self.graphs, &caps, self.positions(), self.options.sequences)?;
        if resident_bytes().unwrap_or(0) + need.all() + UNCOUNTED <= bytes {
            self.options.memory.most = Most::Unlimited;
        }
        Ok(())
    }

    /// Where the options want the model.
    ///
    /// # Errors
    /// What they ask for is not there, or too small.
    pub(crate) fn seat(&self, ways: &[Way]) -> Result<Seat, EngineError> {
        let place = &self.options.place;
        match &self.options.backend {
            Backend::Cpu => self.on_processor(Vec::new()),
            Backend::Graph => {
                self.check_spill("the interpreter of graphs", false)?;
                let runner =
                    Box::new(Reference::new(Box::new(self.graphs.clone()), self.choices(), self.positions()));
                let placement =
                    Placement { backend: "graph", device: None, processor: None, reasons: Vec::new() };
                Ok(Seat { runner, placement, device: None })
            }
            _ if place.layers == Layers::Count(0) => {
                self.on_processor(vec!["no layer was to be elsewhere".to_owned()])
            }
            Backend::Interp(caps) => self.on_device("interp", Arc::new(Interpreter::new((**caps).clone()))),
            Backend::Auto => self.on_any(ways),
            named => {
                let name = named.name();
                let way = ways.iter().find(|way| way.backend == name);
                let absent = || EngineError::NoDevice(format!("there is no backend {name}"));
                let device = (way.ok_or_else(absent)?.open)(place.device, true);
                self.on_device(name, device.map_err(EngineError::NoDevice)?)
            }
        }
    }

    /// On the first device that will do, else on the processor.
    fn on_any(&self, ways: &[Way]) -> Result<Seat, EngineError> {
        let place = &self.options.place;
        let mut reasons = Vec::new();
        for way in ways {
            let device = match (way.open)(place.device, place.device.is_some()) {
                Ok(device) => device,
                Err(why) => {
                    reasons.push(why);
                    continue;
                }
            };
            match self.on_device(way.backend, device) {
                Ok(mut seat) => {
                    seat.placement.reasons.splice(0..0, reasons);
                    return Ok(seat);
                }
                Err(EngineError::TooLarge(large)) if !place.required => reasons.push(large.to_string()),
                Err(error) => return Err(error),
            }
        }
        match place.required || place.device.is_some() {
            true => Err(EngineError::NoDevice(format!("no device will do: {}", reasons.join("; ")))),
            false => self.on_processor(reasons),
        }
    }

    /// The processor; that it has fewer threads than were asked for is one more of the reasons.
    fn processor(&self, reasons: &mut Vec<String>) -> Result<(Arc<dyn Device>, OnProcessor), EngineError> {
        let native::Chosen { name, target, lacks } =
            native::host().map_err(|error| EngineError::NoDevice(error.to_string()))?;
        let asked = self.options.threads;
        let cpu = Cpu::new(target, asked);
        let threads = cpu.pool().count();
        let fewer = |why| format!("of {asked} threads the system started {threads}: {why}");
        reasons.extend(cpu.pool().refused().map(fewer));
        Ok((Arc::new(cpu), OnProcessor { threads, code: name, lacks }))
    }

    fn on_processor(&self, mut reasons: Vec<String>) -> Result<Seat, EngineError> {
        let (device, on) = self.processor(&mut reasons)?;
        let (graphs, cache) = (Box::new(self.graphs.clone()), self.cache.clone());
        let network = Network::new(device, graphs, self.choices(), cache, self.positions());
        let runner = Box::new(network.keeping(self.keeping.clone()).within(&self.options.memory)?);
        Ok(Seat {
            runner,
            placement: Placement { backend: "cpu", device: None, processor: Some(on), reasons },
            device: None,
        })
    }

    /// On a device, with as many layers as the options want; those that its memory has no room for, if it is
    /// known, stay on the processor or are refused.
    fn on_device(&self, backend: &'static str, device: Arc<dyn Device>) -> Result<Seat, EngineError> {
        let layers = self.options.place.layers;
        let info = device.info();
        self.check_spill(&info.name, device.is_host() || self.options.place.memory.is_some())?;
        let limit = self.options.place.memory;
        if info.memory.is_none() && limit.is_none() && !matches!(layers, Layers::Count(_)) {
            return self.whole(backend, device, None);
        }
        let need = self.need(&*device)?;
        let all = need.layers.len() + 1;
        let known = device.free_memory().or(info.memory).unwrap_or(u64::MAX);
        // Of a limit nothing is spared: who sets one has decided what others get.
        let have = known.min(limit.unwrap_or(u64::MAX));
        let spared = have.min(known - known / SPARE);
        let count = match layers {
            Layers::Auto if need.all() <= spared => all,
            Layers::Auto => need.most(spared),
            Layers::All => all,
            Layers::Count(count) => count.min(all),
        };
        let fits = count > 0 && need.bytes(count) <= have;
        // Who limits the device and asks for more layers than fit wants them computed there all the same.
        let asked = limit.is_some() && layers != Layers::Auto && self.keeping.has_files();
        if !fits && !asked {
            let need_bytes = need.bytes(count.max(1));
            let most = need.most(have);
            let instead = if limit.is_some() { "-ngl all" } else { "--vram-limit" };
            let instead = Some(instead).filter(|_| self.keeping.has_files());
            let limited = have < known;
            return Err(TooLarge { device: info.name, need: need_bytes, have, most, limited, instead }.into());
        }
        let within = Some(have).filter(|_| !fits);
        let mut seat = self.with_layers(backend, device, [count, all - 1], within)?;
        if layers == Layers::Auto && count < all {
            let (have, all) = (Size(have), Size(need.all()));
            let has = if limit.is_some() { "may hold" } else { "has" };
            seat.placement.reasons.push(format!("{} {has} {have}, and all take {all}", info.name));
        }
        Ok(seat)
    }

    /// Fails if keys and values are to go to a swap file and cannot: out of a device's own memory they go within a limit
    /// of it alone.
    fn check_spill(&self, place: &str, can: bool) -> Result<(), EngineError> {
        let required = self.options.memory.spill.as_ref().is_some_and(|spill| spill.required);
        if required && !can { Err(EngineError::CannotSpill(place.to_owned())) } else { Ok(()) }
    }

    fn need(&self, device: &dyn Device) -> Result<Need, EngineError> {
        Ok(Need::of(&*self.graphs, device.target().caps(), self.positions(), self.options.sequences)?)
    }

    /// All of the model on a device, whose weights come and go within so many bytes of its memory if any are said.
    fn whole(
        &self,
        backend: &'static str,
        device: Arc<dyn Device>,
        within: Option<u64>,
    ) -> Result<Seat, EngineError> {
        let (graphs, cache) = (Box::new(self.graphs.clone()), self.cache.clone());
        let network = Network::new(device.clone(), graphs, self.choices(), cache, self.positions());
        let network = network.keeping(self.keeping.clone());
        let host = &self.options.memory;
        let runner = Box::new(match within {
            Some(bytes) => network.apart(host, bytes)?,
            None => network.within(host)?,
        });
        let on = OnDevice { info: device.info(), layers: None, within };
        let reasons = on.info.without.iter().cloned().collect();
        let placement = Placement { backend, device: Some(on), processor: None, reasons };
        Ok(Seat { runner, placement, device: Some(device) })
    }

    /// The head and the last `count - 1` of `layers` layers on a device, as [`Parts::whole`] has them all.
    fn with_layers(
        &self,
        backend: &'static str,
        device: Arc<dyn Device>,
        [count, layers]: [usize; 2],
        within: Option<u64>,
    ) -> Result<Seat, EngineError> {
        if count > layers {
            return self.whole(backend, device, within);
        }
        let mut reasons = device.info().without.into_iter().collect();
        let (processor, on_processor) = self.processor(&mut reasons)?;
        let both = [processor, device.clone()];
        let (graphs, cache) = (self.graphs.clone(), self.cache.clone());
        let split = Split::new(both, graphs, layers - count, self.choices(), cache, self.positions());
        let split = split.keeping(&self.keeping);
        let host = &self.options.memory;
        let runner = Box::new(match within {
            Some(bytes) => split.apart(host, bytes)?,
            None => split.within(host)?,
        });
        let on = OnDevice { info: device.info(), layers: Some([layers, count - 1]), within };
        let placement = Placement { backend, device: Some(on), processor: Some(on_processor), reasons };
        Ok(Seat { runner, placement, device: Some(device) })
    }

    /// Where a model goes whose device failed.
    ///
    /// A device that runs out of memory while the model is loaded keeps the layers that it had room for, if the
    /// options leave open how many; the processor takes all, if they leave open what computes.
    ///
    /// # Errors
    /// The options leave nothing open, or it was no device that failed: then it is `error`, told better.
    pub(crate) fn retreat(&self, seat: &Seat, error: Error, loading: bool) -> Result<Seat, EngineError> {
        let (Some(on), Some(device)) = (&seat.placement.device, &seat.device) else {
            return Err(error.into());
        };
        if !matches!(error, Error::Device(_) | Error::Emit(_)) {
            return Err(error.into());
        }
        let place = &self.options.place;
        let mut reasons = seat.placement.reasons.clone();
        reasons.push(error.to_string());
        // What comes and goes takes what it may: fewer layers would not be what was asked for.
        let full = loading && error.is_full() && on.within.is_none();
        let mut told = EngineError::from(error);
        if full {
            let need = self.need(&**device)?;
            let all = need.layers.len() + 1;
            let count = on.layers.map_or(all, |[_, here]| here + 1);
            // What it took before it was full is what it has.
            let have = held(&*seat.runner).min(need.bytes(count).saturating_sub(1));
            let most = need.most(have - have / SPARE).min(count - 1);
            if place.layers == Layers::Auto && most > 0 && reasons.len() <= RETREATS_MAX {
                let layers = [most, all - 1];
                let mut seat = self.with_layers(seat.placement.backend, device.clone(), layers, None)?;
                seat.placement.reasons = reasons;
                return Ok(seat);
            }
            let (device, need) = (on.info.name.clone(), need.bytes(count));
            told = TooLarge { device, need, have, most, limited: false, instead: None }.into();
        }
        match self.options.backend == Backend::Auto && !place.required {
            true => self.on_processor(reasons),
            false => Err(told),
        }
    }
}

/// How often a model tries to fit into a device whose memory is not known.
const RETREATS_MAX: usize = 3;

/// Bytes that the last layers hold of their device's memory.
fn held(runner: &dyn Runner) -> u64 {
    runner
        .networks()
        .last()
        .map_or(0, |network| network.weights().copied_bytes + network.state_bytes() + network.buffer_bytes())
}
