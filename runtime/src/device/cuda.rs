//! NVIDIA's graphics processors, through their driver, which is loaded when the program runs.
//!
//! Kernels come as PTX and are compiled by the driver. Two streams work at once, one with launches and one with
//! copies, and a third where weights come and go; nobody waits but who reads. Launches that are the same each time are recorded as a graph: sizes are read
//! from memory, so one graph serves every position.

mod calls;
mod driver;
mod module;
mod order;
mod tape;
mod trial;

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use jtllm_codegen::emit::ptx::{Ptx, TEAMS, dispatch};
use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::target::{Artifact, Target};
use rayon::prelude::*;

use super::{Bytes, Device, DeviceError, DeviceInfo, Mark, Mem, Program, Recorded, Span};
use calls::{DriverError, made, words};
use driver::Context;
use driver::Event;
pub use driver::{CAPABILITY_LEAST, DRIVER_LEAST, NoCuda};
use module::Loaded;
use order::{Filler, Streams, Touched};
use tape::{Graph, Uses};

/// What everything that lives on the device keeps alive. Streams end before the context in which they are.
struct Core {
    name: String,
    streams: Mutex<Option<Streams>>,
    /// Made when something first comes beside launches.
    filler: Mutex<Option<Filler>>,
    /// Events of marks that are gone, for the next ones.
    events: Mutex<Vec<Event>>,
    recording: Mutex<Option<Uses>>,
    /// Whether memory comes from a pool, in the order of a stream.
    pools: bool,
    context: Context,
}

/// The streams, for one call.
struct HeldStreams<'a>(MutexGuard<'a, Option<Streams>>);

impl std::ops::Deref for HeldStreams<'_> {
    type Target = Streams;

    fn deref(&self) -> &Streams {
        self.0.as_ref().expect("streams live as long as the device")
    }
}

impl std::ops::DerefMut for HeldStreams<'_> {
    fn deref_mut(&mut self) -> &mut Streams {
        self.0.as_mut().expect("streams live as long as the device")
    }
}

impl Core {
    fn failed(&self, what: &str, error: DriverError) -> DeviceError {
        DeviceError::Run { device: self.name.clone(), why: format!("{what}: {}", words(error)) }
    }

    fn streams(&self) -> HeldStreams<'_> {
        HeldStreams(self.streams.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Copies to or from a span beside all launches.
    fn beside(
        &self,
        span: &Span,
        copy: impl FnOnce(&mut Filler) -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let mut filler = self.filler.lock().unwrap_or_else(PoisonError::into_inner);
        self.context.bind()?;
        let filler = match &mut *filler {
            Some(filler) => filler,
            none => none.insert(Filler::new()?),
        };
        filler.before(&memory(span).touched, &self.streams())?;
        copy(filler)
    }

    fn recording(&self) -> MutexGuard<'_, Option<Uses>> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready for what may not happen inside of a recording.
    fn outside(&self, what: &str) -> Result<(), DeviceError> {
        if self.recording().is_some() {
            let why = format!("{what} inside of a recording");
            return Err(DeviceError::Run { device: self.name.clone(), why });
        }
        self.context.bind().map_err(|error| self.failed(what, error))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Streams and pinned memory belong to the context, which goes after them.
        if self.context.bind().is_ok() {
            drop(self.streams.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            drop(self.filler.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            self.events.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}

/// A stretch of device memory.
struct Memory {
    core: Arc<Core>,
    address: sys::CUdeviceptr,
    touched: Touched,
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.core.context.bind().is_err() {
            return;
        }
        let mut streams = self.core.streams();
        // A device that is lost does not take memory back; there is nobody to tell.
        let _gone = streams.before_copy(&self.touched);
        // SAFETY: the memory was allocated once; who launches with it waits for nothing after this.
        let _gone = unsafe {
            match self.core.pools {
                true => calls::cuMemFreeAsync(self.address, streams.copy.0),
                false => calls::cuMemFree_v2(self.address),
            }
        };
    }
}

/// The end of launches on the compute stream.
struct Ended {
    core: Arc<Core>,
    /// Goes back to the device for the next mark.
    event: Option<Event>,
}

impl Ended {
    fn ask<T>(&self, ask: impl FnOnce(&Event) -> Result<T, DriverError>) -> Result<T, DeviceError> {
        let event = self.event.as_ref().expect("it is there until the mark goes");
        let told = self.core.context.bind().and_then(|()| ask(event));
        told.map_err(|error| self.core.failed("a kernel", error))
    }
}

impl Mark for Ended {
    fn is_over(&self) -> Result<bool, DeviceError> {
        self.ask(Event::has_happened)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.ask(Event::synchronize)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.core.events.lock().unwrap_or_else(PoisonError::into_inner).extend(self.event.take());
    }
}

/// A device.
pub struct Cuda {
    core: Arc<Core>,
    target: Ptx,
    capability: u32,
    without: Option<String>,
    total: u64,
}

fn memory(span: &Span) -> &Arc<Memory> {
    span.mem.inner.downcast_ref::<Arc<Memory>>().expect("a CUDA device is given its own memory")
}

/// Where a span begins on the device.
fn address(span: &Span) -> sys::CUdeviceptr {
    assert!(span.offset + span.len <= span.mem.len, "a span lies inside its memory");
    memory(span).address + span.offset
}

impl Cuda {
    /// How many devices there are.
    ///
    /// # Errors
    /// There is no driver, or it is too old or does not start.
    pub fn count() -> Result<usize, NoCuda> {
        driver::start()?;
        driver::count().map_err(|error| NoCuda::Driver { why: words(error) })
    }

    /// The device of that number, from 0, with all that it can do: units that multiply out of shared memory are used
    /// once they have shown that they do it right, unless the environment says `JTLLM_WGMMA=off`.
    ///
    /// # Errors
    /// There is no driver, or no such device, or one of them is too old.
    pub fn open(number: usize) -> Result<Cuda, NoCuda> {
        let device = Cuda::without_teams(number)?;
        if device.capability != TEAMS {
            return Ok(device);
        }
        let target = device.target.clone().with_teams();
        match trial::wanted().and_then(|()| trial::products(&device, &target)) {
            Ok(()) => Ok(Cuda { target, ..device }),
            Err(why) => {
                // What went wrong may have left the context of no use, or even the driver.
                drop(device);
                let without = format!("its units for wgmma are not used: {why}");
                let lost = |after: String| NoCuda::Driver { why: format!("{without}; {after}") };
                let device = Cuda::without_teams(number).map_err(|after| lost(after.to_string()))?;
                let works = device.alloc(1).and_then(|_| device.finish());
                works.map_err(|after| lost(after.to_string()))?;
                Ok(Cuda { without: Some(without), ..device })
            }
        }
    }

    fn without_teams(number: usize) -> Result<Cuda, NoCuda> {
        let found = Cuda::count()?;
        if number >= found {
            return Err(NoCuda::NoDevice { asked: number, found });
        }
        let wrong = |error| NoCuda::Driver { why: words(error) };
        let (device, plain) = driver::device(number).map_err(wrong)?;
        let context = Context::new(device).map_err(wrong)?;
        let major = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
        let minor = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        let capability = major * 10 + minor;
        if capability < CAPABILITY_LEAST {
            return Err(NoCuda::TooWeak { name: plain, capability });
        }
        let shared = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
        let pools = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED) != 0;
        if pools {
            keep_freed_memory(device).map_err(wrong)?;
        }
        let total = driver::total_memory(device).map_err(wrong)? as u64;
        let core = Core {
            name: format!("{plain} (compute capability {major}.{minor})"),
            streams: Mutex::new(Some(Streams::new().map_err(wrong)?)),
            filler: Mutex::default(),
            events: Mutex::default(),
            recording: Mutex::new(None),
            pools,
            context,
        };
        let target = Ptx::new(capability, shared);
        Ok(Cuda { core: Arc::new(core), target, capability, without: None, total })
    }

    fn out_of_memory(&self, need: u64, error: DriverError) -> DeviceError {
        if error != DriverError::OUT_OF_MEMORY {
            return self.core.failed("an allocation", error);
        }
        let free = self.free_memory().map_or(String::new(), |free| format!("{free} bytes are free, "));
        let why = format!("{free}{}", words(error));
        DeviceError::OutOfMemory { device: self.core.name.clone(), need, why }
    }
}

/// Memory that is given back stays with the program: asking the system anew takes long.
fn keep_freed_memory(device: sys::CUdevice) -> Result<(), DriverError> {
    let mut most = u64::MAX;
    // SAFETY: the device comes from the driver, and the attribute is a number of 64 bits.
    unsafe {
        let pool = made(|to| calls::cuDeviceGetDefaultMemPool(to, device))?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        calls::cuMemPoolSetAttribute(pool, attribute, (&raw mut most).cast())
    }
}

/// Bytes that were given back and stay with the program; 0 if the driver does not tell.
fn kept(device: sys::CUdevice) -> u64 {
    let number = |attribute| -> Result<u64, DriverError> {
        let mut value = 0u64;
        // SAFETY: the device comes from the driver, and both attributes are numbers of 64 bits.
        unsafe {
            let pool = made(|to| calls::cuDeviceGetDefaultMemPool(to, device))?;
            calls::cuMemPoolGetAttribute(pool, attribute, (&raw mut value).cast())?;
        }
        Ok(value)
    };
    use sys::CUmemPool_attribute as Pool;
    let reserved = number(Pool::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).unwrap_or(0);
    reserved.saturating_sub(number(Pool::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).unwrap_or(reserved))
}

impl Device for Cuda {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            name: self.core.name.clone(),
            memory: Some(self.total),
            threads: 0,
            without: self.without.clone(),
        }
    }

    fn target(&self) -> &dyn Target {
        &self.target
    }

    fn free_memory(&self) -> Option<u64> {
        self.core.context.bind().ok()?;
        let mut total = 0usize;
        // SAFETY: it writes two numbers.
        let free = unsafe { made(|free| calls::cuMemGetInfo_v2(free, &mut total)) }.ok()?;
        Some(free as u64 + if self.core.pools { kept(self.core.context.device) } else { 0 })
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.core.outside("waiting")?;
        self.core.streams().finish().map_err(|error| self.core.failed("a kernel", error))
    }

    fn alloc(&self, len: u64) -> Result<Mem, DeviceError> {
        self.core.outside("an allocation")?;
        let size = len.max(1);
        let mut streams = self.core.streams();
        // SAFETY: the context is current, and the stream lives as long as the memory.
        let allocated = unsafe {
            match self.core.pools {
                true => made(|to| calls::cuMemAllocAsync(to, size as usize, streams.copy.0)),
                false => made(|to| calls::cuMemAlloc_v2(to, size as usize)),
            }
        };
        let address = match allocated {
            Ok(address) => address,
            Err(error) => {
                drop(streams);
                return Err(self.out_of_memory(len, error));
            }
        };
        let memory = Memory { core: self.core.clone(), address, touched: Touched::default() };
        // SAFETY: so many bytes were just allocated.
        let zeroed = streams
            .before_copy(&memory.touched)
            .and_then(|()| unsafe { calls::cuMemsetD8Async(address, 0, size as usize, streams.copy.0) });
        drop(streams);
        zeroed.map_err(|error| self.core.failed("clearing memory", error))?;
        Ok(Mem::new(Arc::new(Arc::new(memory)), len))
    }

    fn adopt(&self, _: &Bytes, _: u64, _: u64, _: u64) -> Option<Mem> {
        None
    }

    fn write(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(bytes.len() as u64 <= to.len, "a write fits its span");
        self.core.outside("a copy to the device")?;
        let mut streams = self.core.streams();
        let done = streams.before_copy(&memory(to).touched).and_then(|()| streams.upload(address(to), bytes));
        done.map_err(|error| self.core.failed("a copy to the device", error))
    }

    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert!(bytes.len() as u64 <= from.len, "a read fits its span");
        self.core.outside("a copy from the device")?;
        let mut streams = self.core.streams();
        let done =
            streams.before_copy(&memory(from).touched).and_then(|()| streams.download(address(from), bytes));
        done.map_err(|error| self.core.failed("a copy from the device", error))
    }

    fn copy(&self, to: &Span, from: &Span) -> Result<(), DeviceError> {
        assert!(from.len <= to.len, "a copy fits its span");
        self.core.outside("a copy on the device")?;
        let mut streams = self.core.streams();
        let touched = [&memory(to).touched, &memory(from).touched];
        // SAFETY: both spans have so many bytes; the streams are ordered for both.
        let done = streams.before_launch(touched.into_iter()).and_then(|()| unsafe {
            calls::cuMemcpyDtoDAsync_v2(address(to), address(from), from.len as usize, streams.compute.0)
        });
        done.map_err(|error| self.core.failed("a copy on the device", error))
    }

    fn fill(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(bytes.len() as u64 <= to.len, "what is filled fits its span");
        let filled = self.core.beside(to, |filler| filler.fill(address(to), bytes));
        filled.map_err(|error| self.core.failed("a copy to the device", error))
    }

    fn fetch(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert!(bytes.len() as u64 <= from.len, "what is fetched fits its span");
        let fetched = self.core.beside(from, |filler| filler.fetch(address(from), bytes));
        fetched.map_err(|error| self.core.failed("a copy from the device", error))
    }

    fn mark(&self) -> Result<Option<Box<dyn Mark>>, DeviceError> {
        let known = self.core.events.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let record = || {
            self.core.context.bind()?;
            let event = known.map_or_else(Event::new, Ok)?;
            event.record(&self.core.streams().compute)?;
            Ok(event)
        };
        let event = record().map_err(|error| self.core.failed("a launch", error))?;
        Ok(Some(Box::new(Ended { core: self.core.clone(), event: Some(event) })))
    }

    fn record(&self, steps: &mut dyn FnMut() -> Result<(), DeviceError>) -> Result<Recorded, DeviceError> {
        self.core.outside("a recording")?;
        Ok(match Graph::record(&self.core, steps) {
            Ok(graph) => Recorded::Tape(Box::new(graph)),
            Err(why) => Recorded::Refused(format!("{} records no graph: {why}", self.core.name)),
        })
    }

    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError> {
        let load = |(kernel, artifact): &(&Kernel, Artifact)| {
            let loaded = module::load(&self.core, kernel, &artifact.bytes);
            let refused = |why| DeviceError::Load {
                device: self.core.name.clone(),
                why: format!("{}: {why}", kernel.name),
            };
            loaded.map(|loaded| Program::new(Arc::new(loaded))).map_err(refused)
        };
        kernels.par_iter().map(load).collect()
    }

    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError> {
        let loaded = program.inner::<Arc<Loaded>>().expect("a CUDA device is given its own programs");
        let total = groups.iter().map(|n| u64::from(*n)).product::<u64>();
        if total == 0 {
            return Ok(());
        }
        let grid = dispatch(total).ok_or_else(|| {
            let why = format!("{total} groups are more than one launch may have");
            DeviceError::Run { device: self.core.name.clone(), why }
        })?;
        let failed = |error| self.core.failed("a launch", error);
        self.core.context.bind().map_err(failed)?;
        let spans = || std::iter::once(symbols).chain(args);
        let addresses: Vec<sys::CUdeviceptr> = spans().map(address).collect();
        // The driver copies parameters from where they stand.
        let mut parameters: Vec<*mut c_void> =
            addresses.iter().map(|address| std::ptr::from_ref(address).cast_mut().cast()).collect();
        let mut streams = self.core.streams();
        streams.before_launch(spans().map(|span| &memory(span).touched)).map_err(failed)?;
        if let Some(uses) = self.core.recording().as_mut() {
            uses.memories.extend(spans().map(|span| memory(span).clone()));
            uses.programs.push(loaded.clone());
        }
        // SAFETY: the kernel takes the symbol block and its parameters, all addresses of 64 bits, as its emitter
        // says; its accesses lie inside of them, as was verified, and memory ends in the order of the streams.
        let done = unsafe {
            let [x, y, z] = grid;
            let (lanes, stream, none) = (loaded.lanes, streams.compute.0, std::ptr::null_mut());
            let parameters = parameters.as_mut_ptr();
            calls::cuLaunchKernel(
                loaded.function,
                x,
                y,
                z,
                lanes,
                1,
                1,
                loaded.shared_bytes,
                stream,
                parameters,
                none,
            )
        };
        done.map_err(failed)
    }
}
