//! Whether a weight may be read.
//!
//! Weights are brought into memory, or checked there, beside the first pass. A launch waits for those that it reads and
//! for no others; once they are there the wait is one look at a word.

use std::sync::{Arc, OnceLock};

use crate::error::Error;

/// The readiness of one weight: settled once, for good or with the reason why it never will be ready.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<OnceLock<Result<(), Error>>>);

impl Ready {
    /// That of a weight which can be read from the first.
    pub fn now() -> Ready {
        Ready(Arc::new(OnceLock::from(Ok(()))))
    }

    /// Waits until the weight may be read.
    ///
    /// # Errors
    /// It never may: its file is too short or damaged, or the device failed.
    pub fn wait(&self) -> Result<(), Error> {
        match self.0.wait() {
            Ok(()) => Ok(()),
            Err(error) => Err(error.clone()),
        }
    }

    /// Says what became of it; only the first word counts.
    pub(crate) fn settle(&self, outcome: Result<(), Error>) {
        let _later = self.0.set(outcome);
    }
}

/// Settles what its thread leaves open, so that nobody waits for a thread that is gone.
pub(crate) struct Settles(pub(crate) Vec<Ready>);

impl Drop for Settles {
    fn drop(&mut self) {
        for ready in &self.0 {
            ready.settle(Err(Error::Pass { why: "the thread that reads weights has ended".to_owned() }));
        }
    }
}
