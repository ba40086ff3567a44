//! A processor's target for so many threads: attention of few rows leaves no thread without work.

use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::target::{Artifact, Caps, EmitError, Target};

/// A target whose kernels keep a number of threads busy.
pub(super) struct Cores {
    inner: Box<dyn Target>,
    caps: Caps,
}

impl Cores {
    /// The target for so many threads.
    pub(super) fn new(inner: Box<dyn Target>, threads: usize) -> Cores {
        let caps = caps(&*inner, threads);
        Cores { inner, caps }
    }
}

/// What a target's kernels may count on where so many threads run them.
pub fn caps(target: &dyn Target, threads: usize) -> Caps {
    let attend_groups = u32::try_from(threads).unwrap_or(u32::MAX);
    Caps { attend_groups, ..target.caps().clone() }
}

impl Target for Cores {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn variant(&self) -> String {
        self.inner.variant()
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn emit(&self, kernel: &Kernel) -> Result<Artifact, EmitError> {
        self.inner.emit(kernel)
    }
}
