//! Streams and events.

use std::ffi::{c_int, c_uint, c_void};

use crate::code::Code;
use crate::device::current;
use crate::entry::{entries, put};
use crate::queue::{Event, Stream, Task, driver};

entries! {
    /// A stream without tasks.
    fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) {
        current()?;
        let mut driver = driver();
        let handle = driver.handle();
        driver.streams.insert(handle, Stream::default());
        put(stream, handle as *mut c_void)
    }

    /// A stream without tasks; all have the same priority.
    fn cuStreamCreateWithPriority(stream: *mut *mut c_void, flags: c_uint, _priority: c_int) {
        match cuStreamCreate(stream, flags) {
            Code::SUCCESS => Ok(()),
            code => Err(code),
        }
    }

    /// Ends a stream; what it still has to do is done.
    fn cuStreamDestroy_v2(stream: *mut c_void) {
        let mut driver = driver();
        let done = driver.drain(stream as usize);
        driver.streams.remove(&(stream as usize)).ok_or(Code::INVALID_HANDLE)?;
        done
    }

    /// Waits for a stream.
    fn cuStreamSynchronize(stream: *mut c_void) {
        current()?;
        driver().drain(stream as usize)
    }

    /// Makes a stream wait for an event.
    fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) {
        current()?;
        let mut driver = driver();
        let count = driver.events.get(&(event as usize)).ok_or(Code::INVALID_HANDLE)?.recorded;
        if driver.not_captured(stream as usize).is_err() {
            return Err(Code::CAPTURE_ISOLATION);
        }
        driver.push(stream as usize, Task::Wait { event: event as usize, count })
    }

    /// An event that has not happened.
    fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) {
        current()?;
        let mut driver = driver();
        let handle = driver.handle();
        driver.events.insert(handle, Event::default());
        put(event, handle as *mut c_void)
    }

    /// Lets an event happen after what a stream has to do.
    fn cuEventRecord(event: *mut c_void, stream: *mut c_void) {
        current()?;
        let mut driver = driver();
        driver.not_captured(stream as usize)?;
        let found = driver.events.get_mut(&(event as usize)).ok_or(Code::INVALID_HANDLE)?;
        found.recorded += 1;
        found.stream = stream as usize;
        let count = found.recorded;
        driver.push(stream as usize, Task::Record { event: event as usize, count })
    }

    /// Waits for an event.
    fn cuEventSynchronize(event: *mut c_void) {
        current()?;
        let mut driver = driver();
        let count = driver.events.get(&(event as usize)).ok_or(Code::INVALID_HANDLE)?.recorded;
        driver.until(event as usize, count)
    }

    /// Whether an event has happened.
    fn cuEventQuery(event: *mut c_void) {
        let driver = driver();
        let event = driver.events.get(&(event as usize)).ok_or(Code::INVALID_HANDLE)?;
        if event.happened < event.recorded { Err(Code::NOT_READY) } else { Ok(()) }
    }

    /// Time between two events, which an interpreter does not have.
    fn cuEventElapsedTime(milliseconds: *mut f32, _from: *mut c_void, _to: *mut c_void) {
        put(milliseconds, 0.0)
    }

    /// Ends an event; who waits for it waits on.
    fn cuEventDestroy_v2(event: *mut c_void) {
        let mut driver = driver();
        let found = driver.events.get(&(event as usize)).ok_or(Code::INVALID_HANDLE)?;
        let count = found.recorded;
        let done = driver.until(event as usize, count);
        driver.events.remove(&(event as usize));
        done
    }
}
