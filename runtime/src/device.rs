//! The seam that a new accelerator fills: memory, copies, launches.
//!
//! A device's errors are only those of the world; what a launch may do was checked when its kernel was
//! verified and its plan was built. Copies run between memories that the device owns, never between
//! borrowed slices, so nothing can outlive a borrow.

mod cores;
pub mod cpu;
pub mod cuda;
mod host;
pub mod interp;
pub mod native;
pub mod threads;
pub mod wgpu;

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::target::{Artifact, Target};

use self::threads::PinnedCaller;

pub use crate::error::DeviceError;
pub(crate) use host::{lent, settle};

/// Bytes of a model file or of the binary.
pub trait FileBytes: AsRef<[u8]> + Send + Sync {
    /// Says that this range is going to be read soon: waits until its pages are there, where the system can do that for
    /// many at once.
    fn fetch(&self, range: Range<usize>) {
        let _fetched_when_read = range;
    }

    /// Says that nobody is going to read this range for long. Whoever does finds the same bytes: the system fetches
    /// pages that it has taken from the file again. Bytes that no file has stay where they are.
    fn release(&self, range: Range<usize>) {
        let _stays = range;
    }
}

impl FileBytes for Vec<u8> {}
impl FileBytes for &'static [u8] {}

/// Bytes that whoever reads them shares.
pub type Bytes = Arc<dyn FileBytes>;

/// Memory that a device owns; freed with its last clone.
#[derive(Clone)]
pub struct Mem {
    /// What the device keeps of it.
    pub(crate) inner: Arc<dyn Any + Send + Sync>,
    /// Bytes.
    pub(crate) len: u64,
    /// What somebody else keeps as long as it lives.
    _beside: Option<Arc<dyn Any + Send + Sync>>,
}

impl Mem {
    pub(crate) fn new(inner: Arc<dyn Any + Send + Sync>, len: u64) -> Mem {
        Mem { inner, len, _beside: None }
    }

    /// The same memory, with which something else goes: so a device that stands before another one can count bytes.
    pub fn with(self, beside: Arc<dyn Any + Send + Sync>) -> Mem {
        Mem { _beside: Some(beside), ..self }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of it.
    pub fn span(&self) -> Span {
        Span { mem: self.clone(), offset: 0, len: self.len }
    }
}

/// A part of a memory.
#[derive(Clone)]
pub struct Span {
    /// The memory.
    pub mem: Mem,
    /// Where the part begins, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Its name, for people.
    pub name: String,
    /// Bytes of memory, if known.
    pub memory: Option<u64>,
    /// How many threads compute (CPU devices).
    pub threads: usize,
    /// What it has and does without, and why, for people.
    pub without: Option<String>,
}

/// Loaded code.
#[derive(Clone)]
pub struct Program {
    /// What the device keeps of it.
    inner: Arc<dyn Any + Send + Sync>,
}

impl Program {
    /// Code as its device keeps it.
    pub fn new(inner: impl Any + Send + Sync) -> Program {
        Program { inner: Arc::new(inner) }
    }

    /// What the device keeps; `None` for another device's code.
    pub fn inner<T: Any>(&self) -> Option<&T> {
        self.inner.downcast_ref()
    }
}

/// Launches that were recorded, with the memory that they were given.
pub trait Tape: Send + Sync {
    /// Runs them all, in their order.
    fn replay(&self) -> Result<(), DeviceError>;
}

/// The end of all launches that were given before it was made.
pub trait Mark: Send {
    /// Whether they have ended; asking waits for nothing.
    ///
    /// # Errors
    /// One of them failed.
    fn is_over(&self) -> Result<bool, DeviceError>;

    /// Waits until they have.
    ///
    /// # Errors
    /// As [`Mark::is_over`].
    fn wait(&self) -> Result<(), DeviceError>;
}

/// What became of a recording.
pub enum Recorded {
    /// It can be replayed.
    Tape(Box<dyn Tape>),
    /// The device records nothing.
    Never,
    /// The device records, but would not this time, for this reason.
    Refused(String),
}

/// Memory, copies and launches of one accelerator. Launches run in the order in which they are given.
pub trait Device: Send + Sync {
    /// What it is.
    fn info(&self) -> DeviceInfo;

    /// The emitter whose kernels it loads.
    fn target(&self) -> &dyn Target;

    /// Zeroed memory of `len` bytes, aligned to 256.
    fn alloc(&self, len: u64) -> Result<Mem, DeviceError>;

    /// Memory that *is* part of `bytes`, if the device can read it where it lies; else `None`, and the
    /// caller copies. The part begins at a multiple of `alignment`.
    fn adopt(&self, bytes: &Bytes, offset: u64, len: u64, alignment: u64) -> Option<Mem>;

    /// Whether its memory is the host's: then memory that no launch reads yet may be written from other threads
    /// while launches run.
    fn is_host(&self) -> bool {
        false
    }

    /// Changes memory from the host; returns when `bytes` are no longer needed.
    fn write(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Reads memory after all launches so far.
    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Changes memory to what another has, after all launches so far.
    fn copy(&self, to: &Span, from: &Span) -> Result<(), DeviceError> {
        let mut bytes = vec![0; from.len as usize];
        self.read(from, &mut bytes)?;
        self.write(to, &bytes)
    }

    /// Changes bytes of a memory beside launches that use other bytes of it, from whatever thread; returns when `bytes`
    /// are no longer needed and launches from then on find them. The bytes behind them may change too, up to the next
    /// multiple of 4. Launches that use what stands there have ended, as their [mark](Device::mark) says where there
    /// are marks.
    fn fill(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        self.write(to, bytes)
    }

    /// Reads memory beside launches that use other bytes of it, from whatever thread. Launches that wrote there have ended,
    /// as their [mark](Device::mark) says where there are marks.
    fn fetch(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.read(from, bytes)
    }

    /// The end of all launches so far; none where launches have ended when they return, or whatever is filled later comes
    /// behind them in any case.
    fn mark(&self) -> Result<Option<Box<dyn Mark>>, DeviceError> {
        Ok(None)
    }

    /// The most bytes that one memory can have.
    fn memory_max(&self) -> u64 {
        u64::MAX
    }

    /// Bytes of memory that nobody has taken, if that can be known.
    fn free_memory(&self) -> Option<u64> {
        None
    }

    /// Keeps the launches of `steps` to run them all at once later, if the device can; they do not run now. Inside of
    /// `steps` only launches are allowed. Where nothing comes of it, nothing has happened: the caller launches as ever.
    fn record(&self, steps: &mut dyn FnMut() -> Result<(), DeviceError>) -> Result<Recorded, DeviceError> {
        let _never_called = steps;
        Ok(Recorded::Never)
    }

    /// Waits for all launches so far. A device whose launches return when they are done need not.
    ///
    /// # Errors
    /// One of them failed.
    fn finish(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Keeps the calling thread where launches want it until the guard is dropped: for a pass, not for one launch.
    fn pin(&self) -> Option<PinnedCaller> {
        None
    }

    /// Loads kernels; one program each.
    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError>;

    /// Runs `groups` groups of a program; `symbols` is the symbol block.
    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError>;
}
