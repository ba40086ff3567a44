//! What is wrong with code, and what a function did wrong.

use std::fmt;

/// Code that is not what the assembled target prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// Where the instruction begins, in bytes from the function's.
    pub offset: usize,
    /// The instruction.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x}, {}: {}", self.offset, self.text, self.why)
    }
}

impl std::error::Error for DecodeError {}

/// What kind of fault a function has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// An access outside of all buffers, or one that begins inside and ends outside.
    OutOfBounds,
    /// A store to what is only read.
    ReadOnly,
    /// A register, a mask, flags or bytes of the frame are read before anything was written there.
    Uninitialised,
    /// An access below the stack pointer, or beyond the page behind the lowest that was touched.
    Stack,
    /// Registers that may not be the same are.
    Operands,
    /// A quotient that does not exist or does not fit.
    Division,
    /// A control word of floats that is unknown, or arithmetic that it is not meant for.
    Control,
    /// What a caller counts on does not hold at the end.
    Convention,
    /// The function executes more instructions than it may.
    EndlessLoop,
}

/// A fault, and where it showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where the instruction begins, in bytes from the function's beginning.
    pub offset: usize,
    /// The instruction.
    pub text: String,
    /// What kind of fault it is.
    pub reason: Reason,
    /// What happened, in words.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x}, {}: {}", self.offset, self.text, self.why)
    }
}

impl std::error::Error for Fault {}

/// A fault inside of an instruction, before it is known where the instruction stands.
pub(crate) struct Broken {
    pub(crate) reason: Reason,
    pub(crate) why: String,
}

impl Broken {
    pub(crate) fn new(reason: Reason, why: impl Into<String>) -> Broken {
        Broken { reason, why: why.into() }
    }
}
