//! What is wrong with a text, and what a kernel did wrong.

use std::fmt;

/// A text that is not PTX, or not the part of it that is executed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line of the text, from 1.
    pub line: u32,
    /// What is wrong there.
    pub why: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for ParseError {}

/// What kind of fault a kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An access outside all buffers, or outside shared, local or constant memory.
    OutOfBounds,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// Two threads touch the same byte of shared memory, one of them to write, with nothing that orders them.
    Race,
    /// Threads of a block do not all wait at the same barrier.
    Barrier,
    /// A shuffle, vote, reduction or matrix operation without all the lanes that it names.
    Convergence,
    /// A shuffle reads a lane that does not take part.
    InactiveLane,
    /// A register, or a byte of shared or local memory, is read before anything was written there.
    Uninitialised,
    /// Bytes are touched that an asynchronous copy still writes.
    PendingCopy,
    /// A product of a warp group reads what a thread has not shown its units by `fence.proxy.async`, with a
    /// barrier after it.
    ProxyFence,
    /// A product's registers are touched, or what it reads is written, before it is waited for.
    PendingProduct,
    /// A product of a warp group without `wgmma.fence` after its registers were written.
    ProductFence,
    /// A descriptor of an operand that is none, or of a layout that is not known here.
    Descriptor,
    /// The kernel executes more instructions than it may.
    EndlessLoop,
    /// The kernel says so itself, by `trap`.
    Trap,
    /// The launch does not fit the kernel: too many threads, too few bytes of parameters, and the like.
    Launch,
}

/// A fault, and where it showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kernel.
    pub kernel: String,
    /// The line of its text; 0 for faults of the launch itself.
    pub line: u32,
    /// The block's place in the grid.
    pub block: [u32; 3],
    /// The thread's number in its block, where one thread is at fault.
    pub thread: Option<u32>,
    /// What kind of fault it is.
    pub reason: Reason,
    /// What happened, in words.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { kernel, line, block: [x, y, z], thread, why, .. } = self;
        write!(f, "{kernel} line {line}, block ({x}, {y}, {z})")?;
        if let Some(thread) = thread {
            write!(f, ", warp {} lane {}", thread / 32, thread % 32)?;
        }
        write!(f, ": {why}")
    }
}

impl std::error::Error for Fault {}

/// A fault inside an instruction, before it is known where the instruction stands.
pub(crate) struct Broken {
    pub(crate) reason: Reason,
    /// The lane of the warp.
    pub(crate) lane: Option<u32>,
    /// The register that was never written, if it is about that.
    pub(crate) register: Option<u32>,
    pub(crate) why: String,
}

impl Broken {
    pub(crate) fn new(reason: Reason, lane: impl Into<Option<u32>>, why: String) -> Broken {
        Broken { reason, lane: lane.into(), register: None, why }
    }
}
