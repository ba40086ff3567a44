//! From kernels to what a device loads. Nobody else in this crate asks a target for code.

use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::kernel::verify::verify;
use jtllm_codegen::target::{Artifact, Target, fits};

use crate::cache::KernelCache;
use crate::error::Error;
use crate::network::lines;

/// A kernel for a target, and whether the cache had it under this key.
///
/// # Errors
/// The target cannot bind what the kernel binds, which no key tells; the kernel breaks a rule; or the target has no way
/// to compute it.
pub(crate) fn artifact(
    target: &dyn Target,
    cache: Option<(&KernelCache, u128)>,
    kernel: &Kernel,
) -> Result<(Artifact, bool), Error> {
    fits(kernel, target.caps())?;
    if let Some(bytes) = cache.and_then(|(cache, key)| cache.get(key)) {
        return Ok((Artifact { bytes }, true));
    }
    let faulty = |faults: String| Error::Graph { graph: format!("kernel {}", kernel.name), faults };
    verify(kernel, target.caps()).map_err(|faults| faulty(lines(&faults)))?;
    let artifact = target.emit(kernel)?;
    if let Some((cache, key)) = cache {
        // One that cannot be kept is compiled again next time.
        cache.keep(key, &artifact.bytes);
    }
    Ok((artifact, false))
}
