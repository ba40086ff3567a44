//! Launches recorded as a graph: one call launches them all.

use std::sync::Arc;

use cudarc::driver::result;
use cudarc::driver::sys;

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

impl Graph {
    /// What `steps` launches meanwhile, in the stream of launches.
    pub(super) fn record(
        core: &Arc<Core>,
        steps: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Graph, DeviceError> {
        let failed = |error| core.failed("a recording", error);
        core.context.bind().map_err(failed)?;
        let stream = {
            let mut streams = core.streams();
            // Nothing of the other stream can be waited for inside a recording.
            streams.join_copies().map_err(failed)?;
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            // SAFETY: the stream lives as long as the device.
            unsafe { result::stream::begin_capture(streams.compute.0, mode) }.map_err(failed)?;
            streams.compute.0
        };
        *core.recording() = Some(Uses::default());
        let told = steps();
        let uses = core.recording().take().unwrap_or_default();
        // SAFETY: the recording was begun above; it must end even if a step failed.
        let graph = unsafe { result::stream::end_capture(stream) };
        told?;
        let graph = graph.map_err(failed)?;
        // SAFETY: the graph was just made, and is not needed once it is instantiated.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _gone = result::graph::destroy(graph);
            executable
        };
        Ok(Graph { core: core.clone(), executable: executable.map_err(failed)?, uses })
    }
}

impl Tape for Graph {
    fn replay(&self) -> Result<(), DeviceError> {
        let failed = |error| self.core.failed("recorded launches", error);
        self.core.context.bind().map_err(failed)?;
        let mut streams = self.core.streams();
        streams.before_launch(self.uses.memories.iter().map(|memory| &memory.touched)).map_err(failed)?;
        // SAFETY: the graph, its programs and its memories live as long as this value.
        unsafe { result::graph::launch(self.executable, streams.compute.0) }.map_err(failed)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.core.context.bind().is_ok() {
            // SAFETY: it was instantiated once; the driver waits for launches of it.
            let _gone = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}
