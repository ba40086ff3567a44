//! Launches recorded as a graph: one call launches them all.

use std::sync::Arc;

use cudarc::driver::sys;

use super::calls::{self, DriverError, made, words};
use super::module::Loaded;
use super::{Core, Memory};
use crate::device::Tape;
use crate::error::DeviceError;

/// What the launches of a recording use; a graph knows addresses alone.
#[derive(Default)]
pub(super) struct Uses {
    pub(super) memories: Vec<Arc<Memory>>,
    pub(super) programs: Vec<Arc<Loaded>>,
}

/// A graph that can be launched.
pub(super) struct Graph {
    core: Arc<Core>,
    executable: sys::CUgraphExec,
    uses: Uses,
}

// SAFETY: the driver lets any thread launch a graph; launches of one are ordered by their stream.
unsafe impl Send for Graph {}
// SAFETY: as above.
unsafe impl Sync for Graph {}

/// A stream that keeps what it is given instead of running it; it runs again when this value ends, whatever happened
/// meanwhile.
struct Capture<'a> {
    core: &'a Core,
    stream: sys::CUstream,
    ended: bool,
}

impl Capture<'_> {
    fn begin(core: &Core) -> Result<Capture<'_>, DriverError> {
        let mut streams = core.streams();
        // Nothing of the other stream can be waited for inside a recording.
        streams.join_copies()?;
        let stream = streams.compute.0;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the device.
        unsafe { calls::cuStreamBeginCapture_v2(stream, mode) }?;
        drop(streams);
        *core.recording() = Some(Uses::default());
        Ok(Capture { core, stream, ended: false })
    }

    /// What was kept, and what it uses.
    fn end(&mut self) -> (Result<sys::CUgraph, DriverError>, Uses) {
        self.ended = true;
        let uses = self.core.recording().take().unwrap_or_default();
        // SAFETY: the capture was begun, and ends once.
        (unsafe { made(|to| calls::cuStreamEndCapture(self.stream, to)) }, uses)
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let (Ok(graph), _) = self.end()
            && !graph.is_null()
        {
            // SAFETY: the graph was just made, and nobody else knows of it.
            let _gone = unsafe { calls::cuGraphDestroy(graph) };
        }
    }
}

impl Graph {
    /// What `steps` launches meanwhile, in the stream of launches; or why the driver keeps nothing. Then nothing has
    /// happened, and what is wrong beyond that shows when the same is launched.
    pub(super) fn record(
        core: &Arc<Core>,
        steps: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Graph, String> {
        core.context.bind().map_err(words)?;
        let mut capture = Capture::begin(core).map_err(words)?;
        steps().map_err(|error| error.to_string())?;
        let (graph, uses) = capture.end();
        let graph = graph.map_err(words)?;
        // SAFETY: the graph was just made, and is not needed once it is instantiated.
        let executable = unsafe {
            let executable = made(|to| calls::cuGraphInstantiateWithFlags(to, graph, 0));
            let _gone = calls::cuGraphDestroy(graph);
            executable
        };
        Ok(Graph { core: core.clone(), executable: executable.map_err(words)?, uses })
    }
}

impl Tape for Graph {
    fn replay(&self) -> Result<(), DeviceError> {
        let failed = |error| self.core.failed("recorded launches", error);
        self.core.context.bind().map_err(failed)?;
        let mut streams = self.core.streams();
        streams.before_launch(self.uses.memories.iter().map(|memory| &memory.touched)).map_err(failed)?;
        // SAFETY: the graph, its programs and its memories live as long as this value.
        unsafe { calls::cuGraphLaunch(self.executable, streams.compute.0) }.map_err(failed)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.core.context.bind().is_ok() {
            // SAFETY: it was instantiated once; the driver waits for launches of it.
            let _gone = unsafe { calls::cuGraphExecDestroy(self.executable) };
        }
    }
}
