//! The way between the host's memory and a device's, which somebody else knows how to go.

use std::fmt;
use std::time::Duration;

use crate::memory::Span;
use crate::traffic::Ended;
use crate::{BlobId, SwapError};

/// A copy between the two memories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The blob.
    pub blob: BlobId,
    /// Its bytes on the host.
    pub host: Span,
    /// Where they are in the device's memory: a multiple of [`BLOCK_BYTES`](crate::store::BLOCK_BYTES).
    pub offset: u64,
    /// Whether they go to the device.
    pub up: bool,
}

/// Whoever copies to and from one device's memory of a fixed size.
///
/// A copy may go on while kernels run that use other bytes. Until it is reported as ended, the host's bytes are there;
/// nobody writes to them, and on the way down nobody else touches them.
pub trait Mover: Send {
    /// How many bytes the device's memory has.
    fn bytes(&self) -> u64;

    /// How many of them lie in one piece of memory: no blob lies over the border between two. A multiple of
    /// [`BLOCK_BYTES`](crate::store::BLOCK_BYTES) if there is a border.
    fn piece_bytes(&self) -> u64 {
        u64::MAX
    }

    /// Begins a copy.
    ///
    /// # Errors
    /// The device refuses.
    fn start(&mut self, copied: Copied) -> Result<(), SwapError>;

    /// A copy that has ended and how, each once; waits up to so long for one if none has. A device that is lost ends all
    /// its copies with errors.
    fn ended(&mut self, limit: Duration) -> Option<Ended>;

    /// Fills bytes of the device's memory with zeros, before any kernel that is launched later.
    ///
    /// # Errors
    /// The device refuses.
    fn zero(&mut self, offset: u64, len: u64) -> Result<(), SwapError>;
}

/// A device's mover and how many of its copies have not ended.
pub(super) struct Device {
    pub(super) mover: Box<dyn Mover>,
    pub(super) in_flight: usize,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({} copies in flight)", self.in_flight)
    }
}

impl Device {
    pub(super) fn start(&mut self, copied: Copied) -> Result<(), SwapError> {
        self.mover.start(copied)?;
        self.in_flight += 1;
        Ok(())
    }

    pub(super) fn ended(&mut self, limit: Duration) -> Option<Ended> {
        if self.in_flight == 0 {
            return None;
        }
        let ended = self.mover.ended(limit)?;
        self.in_flight -= 1;
        Some(ended)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // The host's memory goes after this, and a copy must not find it gone.
        while self.in_flight > 0 {
            self.ended(Duration::from_secs(1));
        }
    }
}
