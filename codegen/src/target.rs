//! The seam that a new emitter fills: what a target can do, and how it turns a kernel into bytes.

use std::fmt;

use jtllm_ir::{DType, ScalarOp};

use crate::kernel::{Kernel, Stmt, Value};

/// Matrix units: which numbers they multiply. Their sums are `f32`, their warps [`crate::kernel::WARP`] lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Half precision.
    pub f16: bool,
    /// The upper halves of `f32`.
    pub bf16: bool,
    /// Lanes of a group in kernels that use them; a multiple of a warp and a power of two.
    pub lanes: u32,
    /// Lanes of a group whose teams multiply out of shared memory (see [`crate::kernel::Panel`]), a multiple of a
    /// team and a power of two; 0 where there are no such units.
    pub teams: u32,
}

impl Matrix {
    /// Whether they multiply numbers of that type.
    pub fn has(&self, dtype: DType) -> bool {
        match dtype {
            DType::F16 => self.f16,
            DType::BF16 => self.bf16,
            _ => false,
        }
    }
}

/// Fewer lanes than this do not fill tiles that are worth a barrier a step.
pub const TILE_LANES_MIN: u32 = 64;

/// What a target can do, and the parameters that schedules take from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caps {
    /// Lanes of a group: the width of a vector register, or threads of a group; a power of two.
    pub lanes: u32,
    /// Lanes of a group that multiplies tiles of many rows out of shared memory; 0: many rows are multiplied as few are.
    /// They may be more than `lanes`.
    pub tile_lanes: u32,
    /// Whether lanes are threads with memory of their own group (else a vector register, in step).
    pub threads: bool,
    /// Bytes of memory that a group's lanes may share.
    pub shared_bytes: u32,
    /// Buffers that one kernel may bind.
    pub max_bindings: u32,
    /// Bytes of one binding.
    pub max_span: u64,
    /// Rows that packed weights interleave; `None`: rows stay contiguous.
    pub interleave: Option<u32>,
    /// Accumulators that a lane can hold in registers.
    pub accumulators: u32,
    /// Positions of the past that attention takes at a time; a multiple of 16.
    pub attend_block: u32,
    /// Groups that keep the target busy: where queries are fewer, the blocks of their past are shared out among groups. 0:
    /// a query's past is never shared out.
    pub attend_groups: u32,
    /// Bytes that a lane takes of a row of weights at a time, where their depth allows; 0: one number, or one word
    /// of packed ones. Weights are then uploaded, so they start at multiples of 256 bytes.
    pub vector_bytes: u32,
    /// Whether packed weights are multiplied as bytes unless the user says otherwise.
    pub bytes: bool,
    /// Whether there is `dot4_signed`: numbers that take all bits of their bytes are then multiplied with their sign.
    pub signed_bytes: bool,
    /// Whether there is `dot2`: numbers of `bf16` that lie side by side are then multiplied two at a time.
    pub dot2: bool,
    /// Whether weights of `bf16` are multiplied so unless the user says otherwise: not where it takes as long as doing
    /// without.
    pub pairs: bool,
    /// Whether functions such as `exp` must be made of simpler ones.
    pub decompose: bool,
    /// The matrix units, if there are any.
    pub matrix: Option<Matrix>,
    /// Whether lanes can copy from parameters to shared memory behind their own backs. Weights are then memory
    /// of the device's own, which begins at multiples of 256 bytes.
    pub stage: bool,
}

impl Caps {
    /// A processor whose lanes are the elements of a vector register: 4, 8 or 16 of 32 bits.
    pub fn vector(lanes: u32) -> Caps {
        Caps {
            lanes,
            tile_lanes: 0,
            threads: false,
            // A stack array of a group stays in the first-level cache.
            shared_bytes: 64 << 10,
            max_bindings: 64,
            max_span: u64::MAX,
            interleave: Some(16),
            // Four of 16 vector registers, or eight of 32, are left for operands and addresses.
            accumulators: if lanes >= 16 { 24 } else { 12 },
            attend_block: 64,
            attend_groups: 0,
            vector_bytes: 0,
            bytes: false,
            signed_bytes: false,
            dot2: false,
            pairs: false,
            decompose: true,
            matrix: None,
            stage: false,
        }
    }

    /// A graphics processor in miniature, for the interpreter: lanes are threads that share memory.
    pub fn threads(lanes: u32) -> Caps {
        Caps {
            lanes,
            tile_lanes: if lanes >= TILE_LANES_MIN { lanes } else { 0 },
            threads: true,
            shared_bytes: 48 << 10,
            max_bindings: 64,
            max_span: u64::MAX,
            interleave: None,
            accumulators: 32,
            attend_block: 64,
            attend_groups: 1024,
            vector_bytes: 0,
            bytes: false,
            signed_bytes: false,
            dot2: false,
            pairs: false,
            decompose: false,
            matrix: None,
            stage: false,
        }
    }

    /// The same with matrix units and asynchronous copies, in groups of `lanes` lanes.
    pub fn with_matrix(self, lanes: u32) -> Caps {
        Caps { matrix: Some(Matrix { f16: true, bf16: true, lanes, teams: 0 }), stage: true, ..self }
    }

    /// The same with `dot2`.
    pub fn with_dot2(self) -> Caps {
        Caps { dot2: true, pairs: true, ..self }
    }

    /// The same with units that multiply for teams, in groups of `lanes` lanes.
    pub fn with_teams(self, lanes: u32) -> Caps {
        Caps { matrix: self.matrix.map(|matrix| Matrix { teams: lanes, ..matrix }), ..self }
    }
}

/// Machine code or source text, ready for a device to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// What the device loads.
    pub bytes: Vec<u8>,
}

/// Why a kernel could not be emitted. Legality is checked before; this is a limit of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EmitError {
    /// The target has no way to compute this.
    Unsupported {
        /// The operation.
        op: ScalarOp,
        /// The type of its operands.
        dtype: DType,
        /// The target.
        target: &'static str,
    },
    /// The target has no such thing at all.
    Missing {
        /// What.
        what: &'static str,
        /// The target.
        target: &'static str,
    },
    /// The kernel needs more of something than there is.
    Limit {
        /// Of what.
        what: &'static str,
        /// How much it needs.
        need: u64,
        /// How much there is.
        have: u64,
    },
    /// The target's own compiler refused; always a fault of ours.
    Refused {
        /// Its words.
        why: String,
    },
}

impl fmt::Display for EmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EmitError::Unsupported { op, dtype, target } => {
                write!(f, "{target} cannot compute {} of {dtype}", op.name())
            }
            EmitError::Missing { what, target } => write!(f, "{target} has no {what}"),
            EmitError::Limit { what, need, have } => {
                write!(f, "a kernel needs {need} {what}, the target has {have}")
            }
            EmitError::Refused { why } => write!(f, "the target's compiler refused a kernel: {why}"),
        }
    }
}

impl std::error::Error for EmitError {}

/// Whether a target can bind what a kernel binds: how many buffers, and how much of each, as far as sizes are known
/// before a pass. Emitters count on it; nobody else checks it.
///
/// # Errors
/// It cannot; what it has and what is needed.
pub fn fits(kernel: &Kernel, caps: &Caps) -> Result<(), EmitError> {
    limit("buffers at a time", kernel.params.len() as u64, u64::from(caps.max_bindings))?;
    for param in &kernel.params {
        let len = param.len.as_int().and_then(|len| u64::try_from(len).ok()).unwrap_or(0);
        limit("bytes in one buffer", len.saturating_mul(param.dtype.size() as u64), caps.max_span)?;
    }
    Ok(())
}

/// An emitter: kernel in, bytes out, without touching a device.
pub trait Target: Send + Sync {
    /// The name, as in `jtllm inspect` and in the kernel cache's keys.
    fn name(&self) -> &'static str;

    /// What else the bytes depend on, such as the processor's features; part of the cache's keys.
    fn variant(&self) -> String;

    /// What the target can do.
    fn caps(&self) -> &Caps;

    /// The kernel as bytes. The kernel [`fits`] [`Target::caps`] and has been verified against them.
    fn emit(&self, kernel: &Kernel) -> Result<Artifact, EmitError>;
}

/// Refuses more of something than there is.
pub(crate) fn limit(what: &'static str, need: u64, have: u64) -> Result<(), EmitError> {
    if need <= have { Ok(()) } else { Err(EmitError::Limit { what, need, have }) }
}

/// Refuses operations for which a target has no code.
pub(crate) fn operations(
    kernel: &Kernel,
    target: &'static str,
    is_supported: impl Fn(ScalarOp) -> bool,
) -> Result<(), EmitError> {
    for record in &kernel.values {
        if let Value::Scalar(op, operands) = &record.value
            && !is_supported(*op)
        {
            let dtype = operands.first().map_or(DType::F32, |x| kernel.record(*x).dtype);
            return Err(EmitError::Unsupported { op: *op, dtype, target });
        }
    }
    Ok(())
}

/// Refuses what a target without matrix units and asynchronous copies cannot do.
pub(crate) fn plain_only(kernel: &Kernel, target: &'static str) -> Result<(), EmitError> {
    fn stages(body: &[Stmt]) -> bool {
        body.iter().any(|stmt| match stmt {
            Stmt::Stage { .. } | Stmt::StageCommit | Stmt::StageWait { .. } => true,
            Stmt::Loop { body, .. } | Stmt::If { body, .. } => stages(body),
            _ => false,
        })
    }
    let what = match kernel.fragments.is_empty() {
        false => "matrix units",
        true if stages(&kernel.body) => "asynchronous copies",
        true => return Ok(()),
    };
    Err(EmitError::Missing { what, target })
}
