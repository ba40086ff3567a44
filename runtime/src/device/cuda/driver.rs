//! The driver's objects, each ended with its last owner, and what is wrong when there is no driver.

use std::ffi::{CStr, c_uint, c_void};
use std::fmt;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

/// The oldest driver whose interface is used: that of CUDA 12.0, release 525.
pub const DRIVER_LEAST: u32 = 12000;

/// The least compute capability, ten times the major number and the minor: kernels are written for Volta and later.
pub const CAPABILITY_LEAST: u32 = 70;

/// Why there is no CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoCuda {
    /// The driver's library was not found.
    NoDriver,
    /// The driver lacks a function, or is older than what is needed.
    TooOld {
        /// The version that the driver gives, where it gives one: 11040 for 11.4.
        version: Option<u32>,
        /// What it lacks, if it is not the version alone.
        missing: Option<&'static str>,
    },
    /// The driver does not start: often because there is no device.
    Driver {
        /// Its words.
        why: String,
    },
    /// There are fewer devices than the number that was asked for.
    NoDevice {
        /// The number, from 0.
        asked: usize,
        /// How many there are.
        found: usize,
    },
    /// The device is older than the kernels.
    TooWeak {
        /// Its name.
        name: String,
        /// Its compute capability, ten times the major number and the minor.
        capability: u32,
    },
}

impl fmt::Display for NoCuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |version: u32| format!("{}.{}", version / 1000, version % 1000 / 10);
        match self {
            NoCuda::NoDriver => f.write_str("no CUDA device: NVIDIA's driver library was not found"),
            NoCuda::TooOld { version: found, missing } => {
                f.write_str("the NVIDIA driver is too old: ")?;
                match found {
                    Some(found) => write!(f, "it supports CUDA {}", version(*found))?,
                    None => f.write_str("it does not say what it supports")?,
                }
                if let Some(missing) = missing {
                    write!(f, " and has no {missing}")?;
                }
                write!(f, "; CUDA {} or newer is needed (release 525)", version(DRIVER_LEAST))
            }
            NoCuda::Driver { why } => write!(f, "no CUDA device: {why}"),
            NoCuda::NoDevice { asked, found } => {
                write!(f, "no CUDA device {asked}: the driver has {found}, numbered from 0")
            }
            NoCuda::TooWeak { name, capability } => write!(
                f,
                "{name} has compute capability {}.{}, at least {}.{} is needed",
                capability / 10,
                capability % 10,
                CAPABILITY_LEAST / 10,
                CAPABILITY_LEAST % 10
            ),
        }
    }
}

impl std::error::Error for NoCuda {}

/// Every function of the driver that this device calls. A driver may lack some; calling one that is missing would
/// end the program.
const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuDeviceGetDefaultMemPool",
    "cuMemPoolSetAttribute",
    "cuMemPoolGetAttribute",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// What the driver says of an error.
pub(super) fn words(error: DriverError) -> String {
    let text = |found: Result<&CStr, DriverError>| found.map(|text| text.to_string_lossy().into_owned());
    match (text(error.error_name()), text(error.error_string())) {
        (Ok(name), Ok(words)) => format!("{name}: {words}"),
        _ => format!("error {}", error.0 as u32),
    }
}

/// Makes the driver ready.
pub(super) fn start() -> Result<(), NoCuda> {
    // SAFETY: NVIDIA's library does nothing when it is loaded that could harm.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoCuda::NoDriver);
    }
    // SAFETY: as above.
    let library = unsafe { sys::culib() };
    let missing = |name: &&&str| {
        // SAFETY: the address is not used, only whether there is one.
        unsafe { library.get::<*const c_void>(name.as_bytes()) }.is_err()
    };
    // Without this one nobody can even ask for the version.
    if let Some(first) = ["cuDriverGetVersion"].iter().find(missing) {
        return Err(NoCuda::TooOld { version: None, missing: Some(first) });
    }
    let missing = FUNCTIONS.iter().find(missing).copied();
    let mut version = 0;
    // SAFETY: the function is there, and may be called before all others.
    let told = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    let version = told.ok().and_then(|()| u32::try_from(version).ok());
    if missing.is_some() || version.is_none_or(|version| version < DRIVER_LEAST) {
        return Err(NoCuda::TooOld { version, missing });
    }
    result::init().map_err(|error| NoCuda::Driver { why: words(error) })
}

/// A device's primary context.
pub(super) struct Context {
    pub(super) device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: the driver lets any thread use a context, once it is made the thread's own.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn new(device: sys::CUdevice) -> Result<Context, DriverError> {
        // SAFETY: the device comes from the driver.
        let context = unsafe { result::primary_ctx::retain(device) }?;
        let context = Context { device, context };
        context.bind()?;
        Ok(context)
    }

    /// Makes it that of the calling thread.
    pub(super) fn bind(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained as long as this value lives.
        unsafe { result::ctx::set_current(self.context) }
    }

    /// A property; 0 if the driver does not know of it.
    pub(super) fn attribute(&self, attribute: sys::CUdevice_attribute) -> u32 {
        // SAFETY: the device comes from the driver.
        let found = unsafe { result::device::get_attribute(self.device, attribute) };
        found.ok().and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was retained once. A device that is lost cannot be given back either.
        let _gone = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// A queue of the device.
pub(super) struct Stream(pub(super) sys::CUstream);

// SAFETY: the driver lets any thread use a stream.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new() -> Result<Stream, DriverError> {
        result::stream::create(result::stream::StreamKind::NonBlocking).map(Stream)
    }

    /// Goes on after what the other stream was given so far.
    pub(super) fn wait(&self, event: &Event, other: &Stream) -> Result<(), DriverError> {
        event.record(other)?;
        // SAFETY: both are alive; the driver looks at the event's state now, so it may be recorded again.
        unsafe { result::stream::wait_event(self.0, event.0, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: it was made once and is used no more.
        let _gone = unsafe { result::stream::destroy(self.0) };
    }
}

/// A moment in a stream.
pub(super) struct Event(sys::CUevent);

// SAFETY: the driver lets any thread use an event.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn new() -> Result<Event, DriverError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map(Event)
    }

    /// It happens when the stream has done what it was given so far.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        // SAFETY: both are alive.
        unsafe { result::event::record(self.0, stream.0) }
    }

    /// Waits until it has happened.
    pub(super) fn synchronize(&self) -> Result<(), DriverError> {
        // SAFETY: it is alive.
        unsafe { result::event::synchronize(self.0) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it was made once and is used no more.
        let _gone = unsafe { result::event::destroy(self.0) };
    }
}

/// Host memory that the device reads and writes by itself.
pub(super) struct Pinned {
    address: *mut u8,
    len: usize,
}

// SAFETY: it is plain memory; who uses it when is the owner's affair.
unsafe impl Send for Pinned {}

impl Pinned {
    pub(super) fn new(len: usize) -> Result<Pinned, DriverError> {
        // SAFETY: the context is current.
        let address = unsafe { result::malloc_host(len, 0 as c_uint) }?.cast();
        Ok(Pinned { address, len })
    }

    /// Bytes that the device is not using.
    pub(super) fn bytes(&mut self, start: usize, len: usize) -> &mut [u8] {
        assert!(start + len <= self.len, "a part of pinned memory lies inside of it");
        // SAFETY: the part lies inside, and its owner waited for the copies of it.
        unsafe { std::slice::from_raw_parts_mut(self.address.add(start), len) }
    }

    /// Where a part begins.
    pub(super) fn address(&self, start: usize) -> *mut c_void {
        assert!(start <= self.len, "a part of pinned memory begins inside of it");
        // SAFETY: the part begins inside.
        unsafe { self.address.add(start).cast() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: it was allocated once; the driver waits for what still uses it.
        let _gone = unsafe { result::free_host(self.address.cast()) };
    }
}
