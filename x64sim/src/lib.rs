//! Executes kernels assembled for x86-64 without the processor that they are for, and reports what hardware would let
//! pass.
//!
//! [`Program::decode`] takes a function apart into operations of a closed list: the instructions that the assembled
//! target of `codegen` prints, for AVX2 and for AVX-512 (F, BW, DQ, VL, VNNI, VBMI, BF16). A [`Call`] runs the function
//! on buffers, with registers of its own, as a caller on Unix would: four arguments, of which the first two point to the
//! buffers' addresses and to the symbols.
//!
//! # What is checked
//!
//! Every fault names the instruction and where it stands in the code ([`Fault`]):
//!
//! * accesses outside of buffers, of the constants behind the code and of the frame; stores to buffers that are only read;
//!   lanes outside of a mask touch nothing;
//! * reading registers, masks, flags, or bytes of the frame before anything was written there; the bits of a register
//!   above a byte that was set; flags of anything that is no comparison;
//! * accesses below the stack pointer, and a frame that grows by more than a page without touching it;
//! * at the end: registers that a function keeps for its caller, the stack pointer, the control word of floats, and
//!   halves of vectors that `vzeroupper` should have cleared;
//! * arithmetic, but for fused products, while numbers below the least normal one are taken for 0;
//! * gathers whose registers are not apart, quotients that do not fit, more instructions than the call allows.
//!
//! # Where it differs from hardware
//!
//! * Buffers begin at a multiple of what their elements need and at no larger one, so that code which counts on more is
//!   found. They are far apart: an address that is wrong by less than 2^39 is in no other one.
//! * A gather whose index counts single bytes may reach over the ends of a buffer within an aligned word, as code for
//!   elements of 8 and 16 bits does; what lies there is not what a program could know.
//! * Prefetches do nothing. Exceptions of floats are not recorded.
//! * Products of pairs (`vdpbf16ps`) are two fused products without numbers below the least normal one, which is what
//!   hardware was found to do.
//!
//! # What this crate does not know
//!
//! Kernels of tensors, targets, devices, time; instructions that nobody prints.

mod convert;
mod decode;
mod error;
mod float;
mod memory;
mod operation;
mod run;

pub use decode::{Instruction, Program};
pub use error::{DecodeError, Fault, Reason};
pub use memory::Buffer;
pub use run::{Call, Stats};
