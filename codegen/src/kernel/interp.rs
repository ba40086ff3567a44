//! The loop-IR interpreter: the engine of the fourth target, and the meaning of a kernel.
//!
//! A kernel is compiled once into a [`Program`] (index expressions become short lists of steps over `i64`
//! registers, values become rows of 32-bit registers, one per lane) and runs group by group, all lanes in
//! lockstep per statement. Floats are computed in `f32`, each operation rounded once; whatever has no fast
//! path of its own is [`ScalarOp::evaluate`](jtllm_ir::ScalarOp::evaluate).
//!
//! Every access is checked. With [`Options::threads`] lanes are taken for threads: what one lane writes to
//! shared memory another may touch only after a barrier, and every breach is an error. Asynchronous copies arrive
//! at the wait for them and no sooner; until then it is an error to touch where they go.

mod compile;
mod index;
mod machine;
mod matrix;
mod memory;
mod product;
mod scalar;

use std::fmt;
use std::ops::Range;

use super::{FragmentId, Kernel, Memory};

pub use compile::Program;

/// What a launch binds to one parameter; elements are little endian.
#[derive(Debug)]
pub enum Buffer<'a> {
    /// Memory that the kernel may only load from.
    Read(&'a [u8]),
    /// Memory that the kernel may load from and store to.
    Write(&'a mut [u8]),
}

impl Buffer<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Buffer::Read(bytes) => bytes,
            Buffer::Write(bytes) => bytes,
        }
    }
}

/// Everything that a launch binds.
#[derive(Debug)]
pub struct Memories<'a> {
    /// One buffer per parameter, in order.
    pub params: Vec<Buffer<'a>>,
    /// The symbol block, by slot.
    pub symbols: &'a [i32],
}

/// How strictly a kernel is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Take lanes for threads: races in shared memory, and loads of what no lane has written, are errors.
    pub threads: bool,
}

/// Why a run stopped. Groups are numbered flat, direction 0 fastest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterpError {
    /// The kernel is not one; `verify` names every such fault.
    Malformed {
        /// The fault.
        what: String,
    },
    /// A launch binds something that does not fit the kernel.
    Binding {
        /// What does not fit.
        what: String,
    },
    /// An access outside a memory.
    OutOfBounds {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        offset: i64,
        /// How many elements the memory has.
        len: u64,
        /// The group.
        group: u64,
        /// The lane.
        lane: u32,
    },
    /// Two lanes store different values to one element in one statement.
    Conflict {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        offset: i64,
        /// The group.
        group: u64,
        /// Both lanes.
        lanes: [u32; 2],
    },
    /// Two lanes touch one element of shared memory, one of them writes, and no barrier stands between.
    Race {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        offset: i64,
        /// The group.
        group: u64,
        /// The lane that came later.
        lane: u32,
        /// What it did: `loads` or `stores`.
        does: &'static str,
        /// The lane that came first; `None`: several.
        other: Option<u32>,
    },
    /// A lane touches an element of shared memory to which an asynchronous copy is under way.
    UnderWay {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        offset: i64,
        /// The group.
        group: u64,
        /// The lane.
        lane: u32,
        /// What it does: `loads` or `stores`.
        does: &'static str,
    },
    /// A row of a tile, or an asynchronous copy, that does not begin at a multiple of 16 bytes.
    Misaligned {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        offset: i64,
        /// The group.
        group: u64,
        /// The lane.
        lane: u32,
    },
    /// Lanes of a warp do not agree on where a tile begins.
    Parted {
        /// The memory.
        memory: Memory,
        /// The offset of the first lane.
        offset: i64,
        /// The group.
        group: u64,
        /// The lane that has another one.
        lane: u32,
    },
    /// A product reads what no lane has published before the last barrier.
    Unpublished {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        offset: i64,
        /// The group.
        group: u64,
        /// The first lane of the team.
        lane: u32,
    },
    /// A lane stores to what a product under way reads.
    Multiplied {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        offset: i64,
        /// The group.
        group: u64,
        /// The lane.
        lane: u32,
    },
    /// Sums are used while a product of them is under way.
    Unfinished {
        /// The fragment.
        fragment: FragmentId,
        /// The group.
        group: u64,
    },
    /// A load of shared memory that the group has not written.
    Undefined {
        /// The memory.
        memory: Memory,
        /// The element's offset.
        offset: i64,
        /// The group.
        group: u64,
        /// The lane.
        lane: u32,
    },
}

impl fmt::Display for InterpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InterpError::Malformed { what } => write!(f, "not a kernel: {what}"),
            InterpError::Binding { what } => write!(f, "a launch does not fit its kernel: {what}"),
            InterpError::OutOfBounds { memory, offset, len, group, lane } => {
                write!(f, "{memory}[{offset}] is outside of {len} elements (group {group}, lane {lane})")
            }
            InterpError::Conflict { memory, offset, group, lanes: [a, b] } => {
                write!(f, "lanes {a} and {b} store different values to {memory}[{offset}] (group {group})")
            }
            InterpError::Race { memory, offset, group, lane, does, other } => {
                write!(f, "lane {lane} {does} {memory}[{offset}] that ")?;
                match other {
                    Some(other) => write!(f, "lane {other} has touched")?,
                    None => f.write_str("other lanes have touched")?,
                }
                write!(f, " since the last barrier (group {group})")
            }
            InterpError::UnderWay { memory, offset, group, lane, does } => {
                write!(
                    f,
                    "lane {lane} {does} {memory}[{offset}] while a copy to it is under way (group {group})"
                )
            }
            InterpError::Misaligned { memory, offset, group, lane } => {
                let rule = "does not begin at a multiple of 16 bytes";
                write!(f, "{memory}[{offset}] {rule} (group {group}, lane {lane})")
            }
            InterpError::Parted { memory, offset, group, lane } => {
                let rule = "is another place for that lane than for its warp";
                write!(f, "{memory}[{offset}] {rule} (group {group}, lane {lane})")
            }
            InterpError::Unpublished { memory, offset, group, lane } => {
                let rule = "that nobody has published before the last barrier";
                write!(f, "the team of lane {lane} multiplies {memory}[{offset}] {rule} (group {group})")
            }
            InterpError::Multiplied { memory, offset, group, lane } => {
                let rule = "while a product of it is under way";
                write!(f, "lane {lane} stores {memory}[{offset}] {rule} (group {group})")
            }
            InterpError::Unfinished { fragment, group } => {
                write!(f, "f{} is used while a product of it is under way (group {group})", fragment.0)
            }
            InterpError::Undefined { memory, offset, group, lane } => {
                write!(f, "lane {lane} loads {memory}[{offset}] that nothing has written (group {group})")
            }
        }
    }
}

impl std::error::Error for InterpError {}

/// Runs a kernel once for each group in `groups` (flat numbers, direction 0 fastest). What is stored
/// before an error stays stored. To launch a kernel often, keep its [`Program`].
pub fn run_groups(
    kernel: &Kernel,
    memories: &mut Memories<'_>,
    groups: Range<u64>,
    options: Options,
) -> Result<(), InterpError> {
    Program::new(kernel)?.run(memories, groups, options)
}

/// Runs all groups of a kernel's grid.
pub fn run(kernel: &Kernel, memories: &mut Memories<'_>, options: Options) -> Result<(), InterpError> {
    let program = Program::new(kernel)?;
    let groups = program.group_count(memories.symbols)?;
    program.run(memories, 0..groups, options)
}
