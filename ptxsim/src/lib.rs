//! Executes PTX kernels without a GPU, and reports what hardware would let pass.
//!
//! [`parse`] turns a text into kernels of a closed list of instructions; a [`Launch`] runs one of them on the
//! buffers of a [`Memory`]. The warps of a block run in lockstep, one after another up to the next barrier; the
//! lanes of a warp that are at the lowest place of the code go first, so that lanes which parted meet again.
//!
//! # What is checked
//!
//! Every fault names the kernel, the line, the block and the lane ([`Fault`]):
//!
//! * accesses outside of buffers, whose addresses are never used again, and misaligned ones;
//! * races in shared memory: between warps within the stretch between two barriers, and between the lanes of a warp
//!   unless `bar.warp.sync` or a barrier stands between (shuffles do not order memory);
//! * barriers that only some lanes of a warp reach, that only some threads of a block reach, or several at once;
//! * shuffles, votes and matrix operations that a lane misses which they name, and reads of lanes that take no part;
//! * reading registers, shared or local memory before anything was written; fresh buffers are filled with `0xFF`;
//! * touching what an asynchronous copy writes before its thread has waited for it;
//! * products of warp groups (`wgmma`): operands that `fence.proxy.async` and a barrier have not shown to the
//!   units, or that are written meanwhile; sums that are touched before the wait, or written without
//!   `wgmma.fence` before the product; warps of a group that do not multiply the same;
//! * more instructions than the launch allows.
//!
//! # Where it differs from hardware
//!
//! * `ex2`, `lg2`, `rcp`, `rsqrt`, `sqrt`, `sin`, `cos`, `tanh` with `.approx`, and `div` with `.approx` or
//!   `.full`, are computed in double precision and rounded once; hardware is wrong by one or two units in the
//!   last place.
//! * Products of warp groups follow our reading of the language's specification (see `run/group.rs`): no hardware has
//!   been compared. Only layouts that are not swizzled are known.
//! * Subnormal numbers are kept unless `.ftz` says otherwise, as on hardware; `.approx` functions of hardware flush
//!   some of them even so.
//! * Products of matrices add in single precision, in the order of the depth; hardware keeps other partial sums.
//! * `fma` of halves is computed in double precision before it is rounded.
//! * Lockstep hides what happens when the lanes of a warp run at different speeds, except for the races above.
//!   Global memory is not checked for races.
//!
//! # What this crate does not know
//!
//! Drivers, streams, graphs of launches, time. Kernels of tensors: it knows PTX alone.

mod decode;
mod error;
mod instruction;
mod kernel;
mod lexer;
mod parse;
mod run;
mod types;

pub use error::{Fault, ParseError, Reason};
pub use kernel::{Kernel, Module, Parameter};
pub use parse::parse;
pub use run::memory::{Memory, MemoryError};
pub use run::{Launch, Stats};
pub use types::Type;
