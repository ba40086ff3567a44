//! Device memory, page-locked host memory, copies.

use std::ffi::{c_int, c_uint, c_void};

use crate::code::{Code, Done};
use crate::device::current;
use crate::entry::{entries, put};
use crate::queue::{Driver, HostBytes, Task, driver};
use crate::settings::Settings;

impl Driver {
    /// Reserves memory, if there is so much.
    fn take(&mut self, len: u64) -> Result<u64, Code> {
        let settings = Settings::get();
        if len == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let sum = self.used.saturating_add(len);
        if sum > settings.memory || settings.alloc_fails.is_some_and(|most| sum > most) {
            return Err(Code::OUT_OF_MEMORY);
        }
        self.used = sum;
        self.reserved = if settings.pools { self.reserved.max(sum) } else { sum };
        let address = self.memory.reserve(len);
        self.lengths.insert(address, len);
        settings.log(format_args!("alloc {len} {sum}"));
        Ok(address)
    }

    fn give_back(&mut self, address: u64) -> Done {
        self.used -= self.lengths.remove(&address).ok_or(Code::INVALID_VALUE)?;
        Ok(())
    }

    /// Whether host bytes lie in page-locked memory, as a whole.
    fn is_locked(&self, address: usize, len: u64) -> bool {
        self.locked.iter().any(|(start, words)| {
            address >= *start && address as u64 + len <= *start as u64 + words.len() as u64 * 8
        })
    }
}

fn handle(stream: *mut c_void) -> usize {
    stream as usize
}

entries! {
    /// Free and total bytes.
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        current()?;
        let memory = Settings::get().memory;
        let driver = driver();
        put(free, (memory - driver.reserved.max(driver.used)) as usize)?;
        put(total, memory as usize)
    }

    /// Memory that exists at once.
    fn cuMemAlloc_v2(address: *mut u64, len: usize) {
        current()?;
        let mut driver = driver();
        driver.check()?;
        let found = driver.take(len as u64)?;
        driver.memory.open(found, len as u64);
        put(address, found)
    }

    /// Ends memory after everything that was asked for.
    fn cuMemFree_v2(address: u64) {
        current()?;
        let mut driver = driver();
        let streams: Vec<usize> = driver.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stream| driver.drain(stream))?;
        driver.give_back(address)?;
        driver.memory.free(address).ok_or(Code::INVALID_VALUE)
    }

    /// Memory that exists from here on in the order of a stream.
    fn cuMemAllocAsync(address: *mut u64, len: usize, stream: *mut c_void) {
        current()?;
        let mut driver = driver();
        driver.check()?;
        if !Settings::get().pools {
            return Err(Code::INVALID_VALUE);
        }
        driver.not_captured(handle(stream))?;
        let found = driver.take(len as u64)?;
        driver.push(handle(stream), Task::Open { address: found, len: len as u64 })?;
        put(address, found)
    }

    /// Ends memory from here on in the order of a stream.
    fn cuMemFreeAsync(address: u64, stream: *mut c_void) {
        current()?;
        let mut driver = driver();
        driver.not_captured(handle(stream))?;
        driver.give_back(address)?;
        driver.push(handle(stream), Task::Close { address })
    }

    /// The pool from which memory comes.
    fn cuDeviceGetDefaultMemPool(pool: *mut *mut c_void, _device: c_int) {
        if !Settings::get().pools {
            return Err(Code::INVALID_VALUE);
        }
        put(pool, 0x200 as *mut c_void)
    }

    /// How much a pool keeps.
    fn cuMemPoolSetAttribute(pool: *mut c_void, attribute: c_int, value: *mut c_void) {
        const RELEASE_THRESHOLD: c_int = 4;
        let known = pool as usize == 0x200 && attribute == RELEASE_THRESHOLD && !value.is_null();
        if known { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    /// What a pool holds, and how much of it is in use.
    fn cuMemPoolGetAttribute(pool: *mut c_void, attribute: c_int, value: *mut c_void) {
        const RESERVED_CURRENT: c_int = 5;
        const USED_CURRENT: c_int = 7;
        if pool as usize != 0x200 {
            return Err(Code::INVALID_VALUE);
        }
        let driver = driver();
        match attribute {
            RESERVED_CURRENT => put(value.cast(), driver.reserved),
            USED_CURRENT => put(value.cast(), driver.used),
            _ => Err(Code::INVALID_VALUE),
        }
    }

    /// Page-locked memory of the host.
    fn cuMemHostAlloc(to: *mut *mut c_void, len: usize, _flags: c_uint) {
        current()?;
        if len == 0 {
            return Err(Code::INVALID_VALUE);
        }
        let mut words = vec![u64::MAX; len.div_ceil(8)];
        let address = words.as_mut_ptr();
        driver().locked.insert(address as usize, words);
        put(to, address.cast())
    }

    /// Ends page-locked memory after everything that was asked for.
    fn cuMemFreeHost(address: *mut c_void) {
        let mut driver = driver();
        let streams: Vec<usize> = driver.streams.keys().copied().collect();
        // What cannot run any more does not touch the memory either.
        let _after_an_error = streams.into_iter().try_for_each(|stream| driver.drain(stream));
        driver.locked.remove(&(address as usize)).map(|_| ()).ok_or(Code::INVALID_VALUE)
    }

    /// Sets bytes.
    fn cuMemsetD8Async(address: u64, byte: u8, len: usize, stream: *mut c_void) {
        current()?;
        driver().push(handle(stream), Task::Fill { address, byte, len: len as u64 })
    }

    /// Copies to the device. Memory that is not page-locked is read at once.
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, len: usize, stream: *mut c_void) {
        current()?;
        let mut driver = driver();
        let from = match driver.is_locked(from as usize, len as u64) {
            true => HostBytes::Locked(from as usize),
            false => {
                driver.not_captured(handle(stream))?;
                HostBytes::Copied(std::slice::from_raw_parts(from.cast::<u8>(), len).into())
            }
        };
        Settings::get().log(format_args!("upload {len}"));
        driver.push(handle(stream), Task::Upload { to, from, len: len as u64 })
    }

    /// Copies from the device. Into memory that is not page-locked it does so at once.
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, len: usize, stream: *mut c_void) {
        current()?;
        let mut driver = driver();
        let locked = driver.is_locked(to as usize, len as u64);
        Settings::get().log(format_args!("download {len}"));
        driver.push(handle(stream), Task::Download { to: to as usize, from, len: len as u64 })?;
        if locked { Ok(()) } else { driver.drain(handle(stream)) }
    }

    /// Copies on the device.
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, len: usize, stream: *mut c_void) {
        current()?;
        driver().push(handle(stream), Task::Copy { to, from, len: len as u64 })
    }
}
