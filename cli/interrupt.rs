//! Ctrl-C: the first stops the answer, the second the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::Context;

use crate::failure::INTERRUPTED;

/// Whether an answer is being generated that may be stopped by itself.
static ANSWERING: AtomicBool = AtomicBool::new(false);

/// Whether that answer is to stop.
static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on Ctrl-C ends the program with its own exit status, or, inside of [`answering`], the answer.
pub(crate) fn listen() -> anyhow::Result<()> {
    let heard = || {
        if !ANSWERING.load(Ordering::SeqCst) || STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
    };
    ctrlc::set_handler(heard).context("cannot listen for Ctrl-C")
}

/// Runs `work`, which should look at [`stopped`] now and then and end early.
pub(crate) fn answering<T>(work: impl FnOnce() -> T) -> T {
    STOP.store(false, Ordering::SeqCst);
    ANSWERING.store(true, Ordering::SeqCst);
    let result = work();
    ANSWERING.store(false, Ordering::SeqCst);
    result
}

/// What [`stopped`] looks at, for whoever waits for a disk meanwhile.
pub(crate) fn flag() -> Arc<AtomicBool> {
    STOP.clone()
}

/// Whether Ctrl-C came since the answer began.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}
