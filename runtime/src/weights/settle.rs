//! Weights leave the mapping of their file for large pages once a model is seen to be used.
//!
//! A mapping makes a first answer quick and costs nothing that a short one would not use. But its pages have 4 KiB: a core
//! streams 14.4 GB/s from them where memory with 2 MiB pages gives 17.1, and a decoded token reads all weights. What copying
//! costs depends on the system: a few tokens' time where memory is at hand, but many answers' in a virtual machine whose host
//! has to find each page first. So copying begins when some tokens were decoded, looks at its own pace, and ends if it is
//! slow: what has settled by then has, all else stays where it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::device::{self, Mem};
use crate::machine::{HugePages, Machine};

/// Fewer bytes stay in caches, or cost nothing.
const LEAST_BYTES: u64 = 32 << 20;

/// So many bytes are copied before the pace is looked at.
const SAMPLE_BYTES: u64 = 8 << 20;

/// The slowest pace that is worth it, in bytes a second: sixty tokens earn it back.
const LEAST_RATE: f64 = 1.5e9;

/// Memory that is left to others.
const SPARED_BYTES: u64 = 1 << 30;

/// A thread that copies weights to large pages; ends with its value.
pub(super) struct Settling {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Settling {
    /// Begins, if so many bytes are worth it and this machine has room and large pages for them: room twice, because its
    /// files' pages stay in the system's cache as long as nobody else wants them.
    pub(super) fn begin(parts: Vec<Mem>) -> Option<Settling> {
        let bytes: u64 = parts.iter().map(Mem::len).sum();
        if bytes < LEAST_BYTES {
            return None;
        }
        let machine = Machine::probe();
        let has_pages = matches!(machine.huge_pages, HugePages::Always | HugePages::OnRequest);
        if !has_pages || machine.memory.available_bytes? < 2 * bytes + SPARED_BYTES {
            return None;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = move || {
            let begin = Instant::now();
            let mut go_on = |copied: u64| {
                let is_fast =
                    copied < SAMPLE_BYTES || copied as f64 / begin.elapsed().as_secs_f64() >= LEAST_RATE;
                is_fast && !stopped.load(Ordering::Relaxed)
            };
            // Where there is no memory after all, weights stay where they are, as correct and not as fast.
            let _ = device::settle(&parts, &mut go_on);
        };
        let thread = thread::Builder::new().name("jtllm-settle".to_owned()).spawn(work).ok();
        Some(Settling { thread, stop })
    }

    /// Whether nothing is copied any more.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A thread that panicked has said so on its way.
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}
