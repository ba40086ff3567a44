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
        let matrix = if self.caps.matrix.is_some() { " matrix" } else { "" };
        let dot2 = if self.caps.dot2 { " dot2" } else { "" };
        format!("{} {}{matrix}{dot2}", self.caps.lanes, if self.caps.threads { "threads" } else { "vector" })
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn emit(&self, kernel: &Kernel) -> Result<Artifact, EmitError> {
        Ok(Artifact { bytes: kernel.canonical_text().into_bytes() })
    }
}
