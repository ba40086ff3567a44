//! The driver's objects, each ended with its last owner, and what is wrong when there is no driver.

use std::ffi::{CStr, c_void};
use std::fmt;

use cudarc::driver::sys;

use super::calls::{self, DriverError, made, words};

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

/// Makes the driver ready.
pub(super) fn start() -> Result<(), NoCuda> {
    // SAFETY: NVIDIA's library does nothing when it is loaded that could harm.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoCuda::NoDriver);
    }
    // Without a function for that nobody can even ask for the version.
    let version =
        calls::version().map_err(|missing| NoCuda::TooOld { version: None, missing: Some(missing) })?;
    let missing = calls::find().err();
    if missing.is_some() || version.is_none_or(|version| version < DRIVER_LEAST) {
        return Err(NoCuda::TooOld { version, missing });
    }
    // SAFETY: every function is there.
    unsafe { calls::cuInit(0) }.map_err(|error| NoCuda::Driver { why: words(error) })
}

/// How many devices there are.
pub(super) fn count() -> Result<usize, DriverError> {
    // SAFETY: it writes one number.
    let count = unsafe { made(|to| calls::cuDeviceGetCount(to)) }?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The device of a number from 0, and its name.
pub(super) fn device(number: usize) -> Result<(sys::CUdevice, String), DriverError> {
    // The driver cuts longer names.
    let mut name = [0u8; 256];
    // SAFETY: it writes a number, and a text that ends with a zero into as many bytes as it is told.
    let device = unsafe {
        let device = made(|to| calls::cuDeviceGet(to, number as i32))?;
        calls::cuDeviceGetName(name.as_mut_ptr().cast(), name.len() as i32, device)?;
        device
    };
    let text =
        CStr::from_bytes_until_nul(&name).map_or(String::new(), |text| text.to_string_lossy().into_owned());
    Ok((device, text))
}

/// Bytes of a device's memory.
pub(super) fn total_memory(device: sys::CUdevice) -> Result<usize, DriverError> {
    // SAFETY: the device comes from the driver.
    unsafe { made(|to| calls::cuDeviceTotalMem_v2(to, device)) }
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
        let context = unsafe { made(|to| calls::cuDevicePrimaryCtxRetain(to, device)) }?;
        let context = Context { device, context };
        context.bind()?;
        Ok(context)
    }

    /// Makes it that of the calling thread.
    pub(super) fn bind(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained as long as this value lives.
        unsafe { calls::cuCtxSetCurrent(self.context) }
    }

    /// A property; 0 if the driver does not know of it.
    pub(super) fn attribute(&self, attribute: sys::CUdevice_attribute) -> u32 {
        // SAFETY: the device comes from the driver.
        let found = unsafe { made(|to| calls::cuDeviceGetAttribute(to, attribute, self.device)) };
        found.ok().and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was retained once. A device that is lost cannot be given back either.
        let _gone = unsafe { calls::cuDevicePrimaryCtxRelease_v2(self.device) };
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
        let kind = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current.
        unsafe { made(|to| calls::cuStreamCreate(to, kind)) }.map(Stream)
    }

    /// Goes on after what the other stream was given so far.
    pub(super) fn wait(&self, event: &Event, other: &Stream) -> Result<(), DriverError> {
        event.record(other)?;
        // SAFETY: both are alive; the driver looks at the event's state now, so it may be recorded again.
        unsafe { calls::cuStreamWaitEvent(self.0, event.0, 0) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: it was made once and is used no more.
        let _gone = unsafe { calls::cuStreamDestroy_v2(self.0) };
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
        let kind = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: the context is current.
        unsafe { made(|to| calls::cuEventCreate(to, kind)) }.map(Event)
    }

    /// It happens when the stream has done what it was given so far.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        // SAFETY: both are alive.
        unsafe { calls::cuEventRecord(self.0, stream.0) }
    }

    /// Whether it has happened.
    pub(super) fn has_happened(&self) -> Result<bool, DriverError> {
        // SAFETY: it is alive.
        match unsafe { calls::cuEventQuery(self.0) } {
            Ok(()) => Ok(true),
            Err(DriverError::NOT_READY) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until it has happened.
    pub(super) fn synchronize(&self) -> Result<(), DriverError> {
        // SAFETY: it is alive.
        unsafe { calls::cuEventSynchronize(self.0) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it was made once and is used no more.
        let _gone = unsafe { calls::cuEventDestroy_v2(self.0) };
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
        let address = unsafe { made(|to| calls::cuMemHostAlloc(to, len, 0)) }?.cast();
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
        let _gone = unsafe { calls::cuMemFreeHost(self.address.cast()) };
    }
}
