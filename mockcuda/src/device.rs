//! Devices, their properties, and the context.

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::code::{Code, Done};
use crate::entry::{entries, put};
use crate::queue::driver;
use crate::settings::Settings;

const NAME: &[u8] = b"PTX interpreter\0";

/// The one context that there is, as a pointer.
const CONTEXT: usize = 0x100;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Fails unless the calling thread has a context.
pub(crate) fn current() -> Done {
    let known = driver().initialised;
    match (known, CURRENT.get()) {
        (false, _) => Err(Code::NOT_INITIALIZED),
        (true, CONTEXT) => Ok(()),
        (true, _) => Err(Code::INVALID_CONTEXT),
    }
}

fn known(device: c_int) -> Done {
    let inside = u32::try_from(device).is_ok_and(|device| device < Settings::get().devices);
    if inside { Ok(()) } else { Err(Code::INVALID_DEVICE) }
}

fn attribute(number: c_int) -> c_int {
    let settings = Settings::get();
    match number {
        1..=3 => 1024,
        4 => 64,
        5 => i32::MAX,
        6 | 7 => 65535,
        8 => crate::modules::SHARED_DEFAULT as i32,
        10 => 32,
        12 => 65536,
        13 => 1_000_000,
        16 => 132,
        38 => 50 << 20,
        39 => 2048,
        41 => 1,
        75 => (settings.capability / 10) as i32,
        76 => (settings.capability % 10) as i32,
        97 => settings.shared_max() as i32,
        115 => i32::from(settings.pools),
        _ => 0,
    }
}

entries! {
    /// Must come before everything else.
    fn cuInit(flags: c_uint) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if Settings::get().devices == 0 {
            return Err(Code::NO_DEVICE);
        }
        driver().initialised = true;
        Ok(())
    }

    /// The version of the interface.
    fn cuDriverGetVersion(version: *mut c_int) {
        put(version, Settings::get().driver_version as c_int)
    }

    /// How many devices there are.
    fn cuDeviceGetCount(count: *mut c_int) {
        put(count, Settings::get().devices as c_int)
    }

    /// A device by its number.
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        known(ordinal)?;
        put(device, ordinal)
    }

    /// A device's name.
    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int) {
        known(device)?;
        let len = usize::try_from(len).unwrap_or(0).min(NAME.len());
        std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, len);
        Ok(())
    }

    /// A property of a device.
    fn cuDeviceGetAttribute(value: *mut c_int, which: c_int, device: c_int) {
        known(device)?;
        put(value, attribute(which))
    }

    /// Bytes of a device's memory.
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) {
        known(device)?;
        put(bytes, Settings::get().memory as usize)
    }

    /// Identifies a device.
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) {
        known(device)?;
        put(uuid, *b"PTX interpreter ")
    }

    /// A device's context, which all who ask share.
    fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) {
        known(device)?;
        driver().retained += 1;
        put(context, CONTEXT as *mut c_void)
    }

    /// Takes back one retaining.
    fn cuDevicePrimaryCtxRelease_v2(device: c_int) {
        known(device)?;
        let mut driver = driver();
        driver.retained = driver.retained.checked_sub(1).ok_or(Code::INVALID_CONTEXT)?;
        Ok(())
    }

    /// Makes a context that of the calling thread.
    fn cuCtxSetCurrent(context: *mut c_void) {
        if context as usize != CONTEXT && !context.is_null() {
            return Err(Code::INVALID_CONTEXT);
        }
        CURRENT.set(context as usize);
        Ok(())
    }

    /// The context of the calling thread.
    fn cuCtxGetCurrent(context: *mut *mut c_void) {
        put(context, CURRENT.get() as *mut c_void)
    }

    /// Waits for everything.
    fn cuCtxSynchronize() {
        current()?;
        let mut driver = driver();
        let streams: Vec<usize> = driver.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| driver.drain(stream))
    }

    /// What the driver calls an error.
    fn cuGetErrorName(code: c_int, name: *mut *const c_char) {
        put(name, Code(code).name().ok_or(Code::INVALID_VALUE)?.as_ptr())
    }

    /// What an error means.
    fn cuGetErrorString(code: c_int, words: *mut *const c_char) {
        put(words, Code(code).words().ok_or(Code::INVALID_VALUE)?.as_ptr())
    }
}
