//! How many tokens are worth guessing.

use std::time::Duration;

/// How sure guesses are, and what passes of more rows cost.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    measured: bool,
}

impl Pace {
    pub(crate) fn new(measured: bool) -> Pace {
        Pace { measured }
    }

    /// Learns whether the token came that had followed `alike` last tokens before.
    pub(crate) fn learn(&mut self, _alike: usize, _right: bool) {}

    /// Learns how long a pass of so many rows took.
    pub(crate) fn took(&mut self, rows: usize, time: Duration) {
        if std::env::var_os("JTLLM_PACE").is_some() {
            eprintln!("{rows} {:.3} ms", time.as_secs_f64() * 1e3);
        }
    }

    /// How many of at most `most` tokens are worth guessing after `alike` tokens that were said before.
    pub(crate) fn count(&self, _alike: usize, most: usize) -> usize {
        if self.measured { 0 } else { most }
    }
}
