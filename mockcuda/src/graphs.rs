//! Graphs: what a stream was told while it was captured.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use crate::code::Code;
use crate::device::current;
use crate::entry::{entries, put};
use crate::queue::{Task, driver};
use crate::settings::Settings;

/// Fails if captures are to be refused at that point.
pub(crate) fn refuses(point: u64, code: Code) -> Result<(), Code> {
    if Settings::get().no_capture == Some(point) { Err(code) } else { Ok(()) }
}

entries! {
    /// From here on a stream's tasks become a graph.
    fn cuStreamBeginCapture_v2(stream: *mut c_void, _mode: c_int) {
        current()?;
        let mut driver = driver();
        driver.check()?;
        driver.not_captured(stream as usize)?;
        refuses(1, Code::CAPTURE_UNSUPPORTED)?;
        driver.stream(stream as usize)?.capture = Some(Vec::new());
        Ok(())
    }

    /// Whether a stream is captured.
    fn cuStreamIsCapturing(stream: *mut c_void, status: *mut c_int) {
        put(status, c_int::from(driver().stream(stream as usize)?.capture.is_some()))
    }

    /// The graph of what a stream was told.
    fn cuStreamEndCapture(stream: *mut c_void, graph: *mut *mut c_void) {
        current()?;
        let mut driver = driver();
        let tasks = driver.stream(stream as usize)?.capture.take().ok_or(Code::INVALID_VALUE)?;
        // What was captured is gone all the same, as on hardware.
        refuses(2, Code::CAPTURE_INVALIDATED)?;
        refuses(3, Code::CAPTURE_INVALIDATED)?;
        let handle = driver.handle();
        driver.graphs.insert(handle, Arc::new(tasks));
        put(graph, handle as *mut c_void)
    }

    /// Makes a graph ready to be launched.
    fn cuGraphInstantiateWithFlags(executable: *mut *mut c_void, graph: *mut c_void, _flags: u64) {
        current()?;
        let mut driver = driver();
        let tasks = driver.graphs.get(&(graph as usize)).cloned().ok_or(Code::INVALID_HANDLE)?;
        refuses(4, Code::OUT_OF_MEMORY)?;
        let handle = driver.handle();
        driver.graphs.insert(handle, tasks);
        put(executable, handle as *mut c_void)
    }

    /// Runs a graph in the order of a stream.
    fn cuGraphLaunch(executable: *mut c_void, stream: *mut c_void) {
        current()?;
        let mut driver = driver();
        let tasks = driver.graphs.get(&(executable as usize)).cloned().ok_or(Code::INVALID_HANDLE)?;
        Settings::get().log(format_args!("graph {} tasks", tasks.len()));
        driver.push(stream as usize, Task::Graph(tasks))
    }

    /// Brings a graph to the device ahead of its first launch.
    fn cuGraphUpload(executable: *mut c_void, _stream: *mut c_void) {
        driver().graphs.get(&(executable as usize)).map(|_| ()).ok_or(Code::INVALID_HANDLE)
    }

    /// Forgets a graph.
    fn cuGraphDestroy(graph: *mut c_void) {
        driver().graphs.remove(&(graph as usize)).map(|_| ()).ok_or(Code::INVALID_HANDLE)
    }

    /// Forgets a graph that was made ready.
    fn cuGraphExecDestroy(executable: *mut c_void) {
        driver().graphs.remove(&(executable as usize)).map(|_| ()).ok_or(Code::INVALID_HANDLE)
    }
}
