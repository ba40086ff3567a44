//! What a user should know of what is kept on disk, told to whoever wants to hear it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Hears what a user should know.
pub type Tell = dyn Fn(&str) + Send + Sync;

/// Tells it; by default nobody listens.
#[derive(Default)]
pub(crate) struct Voice {
    tell: Option<Box<Tell>>,
    told: AtomicBool,
}

impl Voice {
    pub(crate) fn to(tell: Box<Tell>) -> Voice {
        Voice { tell: Some(tell), told: AtomicBool::new(false) }
    }

    pub(crate) fn say(&self, what: &str) {
        if let Some(tell) = &self.tell {
            tell(what);
        }
    }

    /// Says only the first of the things that are said once.
    pub(crate) fn say_once(&self, what: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.say(what);
        }
    }
}

impl fmt::Debug for Voice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Voice").field("told", &self.told).finish_non_exhaustive()
    }
}
