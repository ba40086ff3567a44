//! The target for NVIDIA's graphics processors: kernels as text in PTX, which the driver compiles.
//!
//! # What the text is
//!
//! One entry point, [`ENTRY`], whose block of threads is a group of lanes. Its parameters are addresses of 64
//! bits: the symbol block first, then the kernel's parameters in order. Groups are counted along the first
//! direction of the launch alone ([`dispatch`]); the kernel finds its place in the grid itself. Memory of the
//! group above [`STATIC_BYTES`] is asked for at the launch ([`dynamic_bytes`]).
//!
//! The text names the lowest version and processor that its own instructions need, never the device's: the
//! driver compiles it for whatever is newer. Only what a level adds is used above it, so devices of one level
//! get the same text.
//!
//! # How types are carried
//!
//! A value is one virtual register (a constant stands in the instruction): floats of every width as `f32`,
//! integers of every width in 32 bits with their sign, truth values as predicates. Numbers of 8 and 16 bits are
//! converted where they are loaded and stored. Indices are computed in 32 bits where their bounds prove that
//! they fit, each at the outermost block that has their leaves; addresses have 64 bits.
//!
//! # Matrix units
//!
//! A fragment is the registers in which the instructions want it (`ldmatrix`, `mma.sync`): four words of a left
//! operand, two of a right one, four floats of sums. Where products are 8 deep (level 75), one is two.
//!
//! Where the units multiply out of shared memory by themselves (level 90a), two descriptors say where the operands
//! lie; the sums of a team are one list of registers, those of each fragment in the order that they have for warps.
//!
//! # Loads and stores
//!
//! Elements of one memory that lie side by side, at an address that is provably a multiple of 4, 8 or 16 bytes,
//! come in one load, and go in one store. What no launch of the kernel can write goes through the read-only path (`.nc`): a
//! parameter that is only read, unless one of the same type and length is written, for only states are read and
//! written by one kernel.
//!
//! # How lanes are joined
//!
//! In the order of [`lane_tree`](crate::kernel::lane_tree), bit for bit: distances of 32 and more through memory
//! of the group, each thread adding up its column of the warps, then shuffles.
//!
//! # Where arithmetic differs from the rule
//!
//! The order in which a matrix unit adds its products is its own, and so is what becomes of the last bits in
//! between. Else nowhere but in the payload of what is not a number: sums, products, quotients and roots are rounded to
//! nearest even (`.rn`, which also keeps them from being contracted), `fma.rn` rounds once, subnormal numbers are
//! kept. Functions such as `exp` are made of these: the hardware's are good to 2 units in the last place and
//! differ between generations.

mod function;
mod index;
mod join;
mod matrix;
mod memory;
mod operation;
mod pattern;
mod team;
mod uses;

use jtllm_ir::DType;

use crate::kernel::{Kernel, Value};
use crate::target::{Artifact, Caps, EmitError, Matrix, Target};

/// The name of the entry point.
pub const ENTRY: &str = "main";

/// Groups that a launch may have.
pub const GROUPS_MAX: u64 = (1 << 31) - 1;

/// Bytes of a group's memory that need not be asked for.
pub const STATIC_BYTES: u32 = 48 << 10;

/// Threads of a group.
const LANES: u32 = 128;

/// Sums of all lanes that are joined between two barriers, and thereby how much memory of the group that takes.
const JOINED_TOGETHER: usize = 8;

/// The blocks of a launch of so many groups; `None` if they are more than a launch may have. Each block has as
/// many threads as the kernel has lanes.
pub fn dispatch(groups: u64) -> Option<[u32; 3]> {
    (groups <= GROUPS_MAX).then_some([groups as u32, 1, 1])
}

/// Bytes of a group's memory that the launch of a kernel must ask for, beside what its text declares.
pub fn dynamic_bytes(kernel: &Kernel) -> u32 {
    let bytes = memory::Places::of(kernel).bytes();
    if bytes > STATIC_BYTES { bytes } else { 0 }
}

/// What a capability adds: from which on, the version of the language, and the processor.
const LEVELS: &[(u32, &str, &str)] =
    &[(70, "6.3", "sm_70"), (75, "6.5", "sm_75"), (80, "7.0", "sm_80"), (TEAMS, "8.0", "sm_90a")];

/// The capability of the devices whose units multiply for teams: those alone, for no other runs such a text.
pub const TEAMS: u32 = 90;

/// Lanes of a group with teams: two, so that while one waits the other multiplies.
const TEAM_LANES: u32 = 256;

/// The target `ptx`.
#[derive(Clone, Debug)]
pub struct Ptx {
    level: u32,
    caps: Caps,
}

impl Ptx {
    /// For a device of a compute capability, ten times the major number and the minor (70 to 120), whose groups
    /// may have so many bytes of memory if a launch asks for them.
    pub fn new(capability: u32, shared_bytes: u32) -> Ptx {
        let known = LEVELS.iter().filter(|(from, _, _)| *from <= capability && *from != TEAMS);
        let level = known.map(|(from, _, _)| *from).max().unwrap_or(LEVELS[0].0);
        let joins = LANES * 4 * JOINED_TOGETHER as u32;
        let caps = Caps {
            shared_bytes: shared_bytes.saturating_sub(joins),
            // As many positions as lanes, so that all of them have a score to compute.
            attend_block: LANES,
            vector_bytes: 16,
            matrix: (level >= 75).then_some(Matrix { f16: true, bf16: level >= 80, lanes: LANES, teams: 0 }),
            stage: level >= 80,
            bytes: false,
            decompose: true,
            ..Caps::threads(LANES)
        };
        Ptx { level, caps }
    }

    /// The same for a device of capability [`TEAMS`], with units that multiply for teams.
    pub fn with_teams(self) -> Ptx {
        Ptx { level: TEAMS, caps: self.caps.with_teams(TEAM_LANES) }
    }

    fn check(&self, kernel: &Kernel) -> Result<(), EmitError> {
        let limit = |what, need: u64, have: u64| match need <= have {
            true => Ok(()),
            false => Err(EmitError::Limit { what, need, have }),
        };
        limit("lanes", u64::from(kernel.lanes), 1024)?;
        let shared = kernel.shared.iter().map(|shared| u64::from(shared.len) * shared.dtype.size() as u64);
        limit("bytes of shared memory", shared.sum(), u64::from(self.caps.shared_bytes))?;
        for record in &kernel.values {
            if let Value::Scalar(op, operands) = &record.value {
                let dtype = operands.last().map_or(DType::F32, |x| kernel.record(*x).dtype);
                if !operation::is_supported(*op, dtype) {
                    return Err(EmitError::Unsupported { op: *op, dtype, target: self.name() });
                }
            }
        }
        Ok(())
    }
}

impl Target for Ptx {
    fn name(&self) -> &'static str {
        "ptx"
    }

    fn variant(&self) -> String {
        format!("level {}{}", self.level, if self.level == TEAMS { "a" } else { "" })
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn emit(&self, kernel: &Kernel) -> Result<Artifact, EmitError> {
        self.check(kernel)?;
        Ok(Artifact { bytes: function::emit(kernel, self.level).into_bytes() })
    }
}
