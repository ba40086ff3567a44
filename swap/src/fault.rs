//! A store with which things go wrong, for tests of what stands above it.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::store::{Action, Store};

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// What is asked.
    pub action: Action,
    /// How many calls with this action came before.
    pub number: u64,
    /// Where in the store; for a length, that length.
    pub at: u64,
    /// How many bytes.
    pub len: usize,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The call fails.
    Error(io::ErrorKind),
    /// No more than so many bytes are read or written.
    Short(usize),
    /// A bit of what is read is another one, counted from the first.
    Flip(usize),
    /// The call takes so much longer.
    Slow(Duration),
}

/// Says what goes wrong with a call, if anything.
pub type Script = dyn Fn(Call) -> Option<Fault> + Send + Sync;

/// A store that does what another one does, unless its script says otherwise.
pub struct FaultStore {
    inner: Box<dyn Store>,
    script: Box<Script>,
    calls: [AtomicU64; 4],
}

impl FaultStore {
    /// Puts a script before a store.
    pub fn new(
        inner: impl Store + 'static,
        script: impl Fn(Call) -> Option<Fault> + Send + Sync + 'static,
    ) -> FaultStore {
        FaultStore { inner: Box::new(inner), script: Box::new(script), calls: Default::default() }
    }

    /// How many calls there were with this action.
    pub fn calls(&self, action: Action) -> u64 {
        self.calls[action as usize].load(Ordering::Relaxed)
    }

    /// Notes a call; gives what the script says that the caller must see to.
    fn enter(&self, action: Action, at: u64, len: usize) -> io::Result<Option<Fault>> {
        let number = self.calls[action as usize].fetch_add(1, Ordering::Relaxed);
        match (self.script)(Call { action, number, at, len }) {
            Some(Fault::Error(kind)) => Err(kind.into()),
            Some(Fault::Slow(time)) => {
                std::thread::sleep(time);
                Ok(None)
            }
            other => Ok(other),
        }
    }
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStore").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Store for FaultStore {
    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<usize> {
        match self.enter(Action::Read, at, out.len())? {
            Some(Fault::Short(most)) => {
                let most = most.clamp(1, out.len().max(1)).min(out.len());
                self.inner.read(at, &mut out[..most])
            }
            Some(Fault::Flip(bit)) => {
                let count = self.inner.read(at, out)?;
                if let Some(byte) = out[..count].get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                Ok(count)
            }
            _ => self.inner.read(at, out),
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        match self.enter(Action::Write, at, bytes.len())? {
            Some(Fault::Short(most)) => {
                let most = most.clamp(1, bytes.len().max(1)).min(bytes.len());
                self.inner.write(at, &bytes[..most])
            }
            _ => self.inner.write(at, bytes),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.enter(Action::SetLen, len, 0)?;
        self.inner.set_len(len)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn sync(&self) -> io::Result<()> {
        self.enter(Action::Sync, 0, 0)?;
        self.inner.sync()
    }

    fn is_direct(&self) -> bool {
        self.inner.is_direct()
    }
}
