//! The processor target for x86-64: kernels assembled for AVX-512 and AVX2.
//!
//! # What the code is
//!
//! One function of type [`Entry`] without relocations, as the portable target's: constants
//! lie behind the code. It has to lie at a multiple of [`CODE_ALIGN`] bytes.
//!
//! # How it is made
//!
//! * *Selection* turns a kernel into machine operations over virtual registers, in the kernel's order (`select`,
//!   `scalar`, `convert`, `lanes`, `memory`). A group's lanes are the elements of one vector. A value that is the
//!   same for all lanes is a vector too, with the same number everywhere: what combines it with others needs no
//!   case of its own, and where it comes from memory an instruction can spread it on the way. Integers of index
//!   expressions are in general registers (`index`); what a loop does not change is computed before it, and a loop's
//!   coordinate times a factor is a register that each turn adds to. Floats of 16 bits are carried as the equal
//!   `f32`; truth values are masks.
//! * *Cells* are registers that instructions change in place. A load that one operation wants goes into it as its
//!   memory operand.
//! * *Allocation* is a linear scan over intervals (`live`, `allocate`); what does not fit goes to the frame.
//! * *Encoding* is `iced-x86`'s (`encode`). The table of `isa` has a row for each operation.
//!
//! Lanes without part in an access neither load nor store: AVX-512 has masks in its instructions, and AVX2's masked
//! loads and stores do the same.

mod address;
mod ahead;
mod allocate;
mod cells;
mod control;
mod convert;
mod divide;
mod encode;
mod index;
mod isa;
mod join;
mod lanes;
mod live;
mod machine;
mod memory;
mod operation;
mod pairs;
mod scalar;
mod select;
mod store;
mod uses;
mod words;

use jtllm_ir::{DType, ScalarOp};

use self::allocate::{Limits, allocate};
use self::isa::Beside;
pub use self::isa::Level;
pub use super::cranelift::{CODE_ALIGN, Entry};
use crate::kernel::{Kernel, Value};
use crate::target::{Artifact, Caps, EmitError, Target, plain_only};

/// The target `cpu-x64`.
pub struct X64 {
    level: Level,
    beside: Beside,
    caps: Caps,
    limits: Limits,
}

impl X64 {
    /// A level, for the processor that this program runs on.
    ///
    /// # Errors
    /// It has not got it.
    pub fn here(level: Level) -> Result<X64, EmitError> {
        match level.is_here() {
            true => Ok(X64::level(level)),
            false => Err(EmitError::Missing { what: level.needs(), target: "this processor" }),
        }
    }

    /// A level, whether this processor has it or not: code can be looked at anywhere. What a level may have beside is
    /// used where this processor has it.
    pub fn level(level: Level) -> X64 {
        let (beside, caps) = (Beside::here(level), caps(level));
        let here = X64 { level, beside, caps, limits: Limits::of(level) }.with_slow_dot2(beside.slow_dot2);
        if beside.dot { here } else { here.without_dot() }
    }

    /// A level with all that processors may have beside it, whether this one has it or not.
    pub fn complete(level: Level) -> X64 {
        let (beside, caps) = (Beside::all(level), Caps { dot2: level.has_dot2(), ..caps(level) });
        X64 { level, beside, caps, limits: Limits::of(level) }.with_slow_dot2(false)
    }

    /// Whether this processor can run its code.
    pub fn is_here(&self) -> bool {
        let here = Beside::here(self.level);
        let dot2 = !self.caps.dot2 || self.level.has_dot2_here();
        let beside = (here.dot || !self.beside.dot) && (here.bytes_anywhere || !self.beside.bytes_anywhere);
        self.level.is_here() && dot2 && beside
    }

    /// The same for processors without an instruction for products of bytes.
    pub fn without_dot(self) -> X64 {
        // AVX-512 has no instruction that gives bytes signs.
        let caps = Caps { signed_bytes: self.level == Level::Avx2, ..self.caps };
        X64 { beside: Beside { dot: false, ..self.beside }, caps, ..self }
    }

    /// The same for processors without an instruction that puts bytes anywhere.
    pub fn without_bytes_anywhere(self) -> X64 {
        X64 { beside: Beside { bytes_anywhere: false, ..self.beside }, ..self }
    }

    /// The same for processors without an instruction for `dot2`.
    pub fn without_dot2(self) -> X64 {
        X64 { caps: Caps { dot2: false, pairs: false, ..self.caps }, ..self }
    }

    /// The same for processors on which products of pairs are made of halves where that is worth it, or are not.
    pub fn with_slow_dot2(self, slow: bool) -> X64 {
        let pairs = self.caps.dot2 && !slow;
        let beside = Beside { slow_dot2: slow, ..self.beside };
        X64 { beside, caps: Caps { pairs, ..self.caps }, ..self }
    }

    /// The same with no more than `most` registers of each class, at least 6: for tests of what happens when there
    /// are too few.
    pub fn with_registers(self, most: usize) -> X64 {
        X64 { limits: self.limits.at_most(most.max(6)), ..self }
    }

    /// Turns down what the target has no code for.
    fn check(&self, kernel: &Kernel) -> Result<(), EmitError> {
        plain_only(kernel, self.name())?;
        let limit = |what, need: u64, have: u64| match need <= have {
            true => Ok(()),
            false => Err(EmitError::Limit { what, need, have }),
        };
        if kernel.lanes != 1 {
            limit("lanes", u64::from(kernel.lanes), u64::from(self.caps.lanes))?;
            limit("lanes at least", u64::from(self.caps.lanes), u64::from(kernel.lanes))?;
        }
        let shared = kernel.shared.iter().map(|s| u64::from(s.len) * s.dtype.size() as u64);
        limit("bytes of shared memory", shared.sum(), u64::from(self.caps.shared_bytes))?;
        for record in &kernel.values {
            if let Value::Scalar(op, operands) = &record.value
                && !match op {
                    ScalarOp::Dot2 => self.caps.dot2,
                    ScalarOp::Dot4Signed => self.caps.signed_bytes,
                    op => is_supported(*op),
                }
            {
                let dtype = operands.first().map_or(DType::F32, |x| kernel.record(*x).dtype);
                return Err(EmitError::Unsupported { op: *op, dtype, target: self.name() });
            }
        }
        Ok(())
    }
}

/// Whether the emitter has code for an operation on every processor; the others have to be decomposed, but for `dot2`
/// and `dot4_signed`, which only kernels for processors that have them contain.
fn is_supported(op: ScalarOp) -> bool {
    use ScalarOp as S;
    !matches!(op, S::Exp | S::Log | S::Rsqrt | S::Sin | S::Cos | S::Tanh | S::Erf | S::Dot2 | S::Dot4Signed)
}

fn caps(level: Level) -> Caps {
    Caps { bytes: true, dot2: level.has_dot2_here(), ..Caps::vector(level.lanes() as u32) }
}

impl Target for X64 {
    fn name(&self) -> &'static str {
        "cpu-x64"
    }

    fn variant(&self) -> String {
        let dot = if self.beside.dot { " vnni" } else { "" };
        let dot2 = match (self.caps.dot2, self.beside.slow_dot2) {
            (false, _) => "",
            (true, false) => " bf16",
            (true, true) => " bf16 by halves",
        };
        let bytes = if self.beside.bytes_anywhere { " vbmi" } else { "" };
        format!("x64 {}{dot}{dot2}{bytes}", self.level.name())
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn emit(&self, kernel: &Kernel) -> Result<Artifact, EmitError> {
        self.check(kernel)?;
        let mut code = select::select(kernel, self.level, self.beside);
        code.prune();
        let places = allocate(&mut code, self.level, self.limits);
        let bytes = encode::encode(&code, &places, self.level)
            .map_err(|error| EmitError::Refused { why: format!("{}: {error}", kernel.name) })?;
        Ok(Artifact { bytes })
    }
}
