//! Mapped weights are given their pages ahead of the first pass, in the order of their use.
//!
//! A page that is not there yet stops a kernel until the system has found it, and what fetches ahead passes over it: the
//! first prompt takes longer so. A thread asks for pages in bulk instead, beside the compiler and the
//! first layers; on one core it takes as long as what it spares.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::device::Bytes;
use crate::machine::Machine;

/// So much is asked for between two looks at whether anybody still wants it.
const PIECE: usize = 16 << 20;

/// A thread that asks for pages; ends with its value.
pub(super) struct Fetching {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Fetching {
    /// Begins, if the machine has room for all of it: else pages would go before they are used.
    pub(super) fn begin(parts: Vec<(Bytes, Range<usize>)>) -> Option<Fetching> {
        let bytes: usize = parts.iter().map(|(_, range)| range.len()).sum();
        if bytes < PIECE || Machine::probe().memory.available_bytes? < bytes as u64 {
            return None;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = move || {
            for (bytes, range) in parts {
                for start in range.clone().step_by(PIECE) {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    bytes.fetch(start..(start + PIECE).min(range.end));
                }
            }
        };
        let thread = thread::Builder::new().name("jtllm-fetch".to_owned()).spawn(work).ok();
        Some(Fetching { thread, stop })
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has said so on its way.
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}
