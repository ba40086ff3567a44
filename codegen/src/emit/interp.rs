//! The fourth target: kernels as their own text, for the interpreter to read back.

use crate::kernel::Kernel;
use crate::target::{Artifact, Caps, EmitError, Target};

/// Emits the canonical text of a kernel. With it every schedule runs on any machine, under the
/// capabilities of any other.
#[derive(Clone, Debug)]
pub struct Interp {
    caps: Caps,
}

impl Interp {
    /// The interpreter in the place of a target with these capabilities.
    pub fn new(caps: Caps) -> Interp {
        Interp { caps }
    }
}

impl Target for Interp {
    fn name(&self) -> &'static str {
        "interp"
    }

    fn variant(&self) -> String {
        let Caps { lanes, threads, matrix, dot2, signed_bytes, .. } = self.caps;
        let kind = if threads { "threads" } else { "vector" };
        let beside = [(matrix.is_some(), " matrix"), (dot2, " dot2"), (signed_bytes, " signed bytes")];
        let beside: String = beside.into_iter().filter(|has| has.0).map(|has| has.1).collect();
        format!("{lanes} {kind}{beside}")
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn emit(&self, kernel: &Kernel) -> Result<Artifact, EmitError> {
        Ok(Artifact { bytes: kernel.canonical_text().into_bytes() })
    }
}
