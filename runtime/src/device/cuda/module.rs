//! Kernels as the driver compiles them.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::sys;
use jtllm_codegen::emit::ptx;
use jtllm_codegen::kernel::Kernel;

use super::Core;
use super::calls::{self, made, words};

/// Bytes that the driver may write about a text.
const LOG_BYTES: usize = 16 << 10;

/// A kernel in the device's own code.
pub(super) struct Loaded {
    /// Keeps the context alive in which the module lies.
    core: Arc<Core>,
    module: sys::CUmodule,
    pub(super) function: sys::CUfunction,
    /// Threads of a block, and bytes of its memory that the launch asks for.
    pub(super) lanes: u32,
    pub(super) shared_bytes: u32,
}

// SAFETY: the driver lets any thread launch a function.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if self.core.context.bind().is_ok() {
            // SAFETY: it was loaded once and is launched no more; the driver waits for launches of it.
            let _gone = unsafe { calls::cuModuleUnload(self.module) };
        }
    }
}

/// Has the driver compile a text.
pub(super) fn load(core: &Arc<Core>, kernel: &Kernel, text: &[u8]) -> Result<Loaded, String> {
    core.context.bind().map_err(words)?;
    let text = CString::new(text).map_err(|error| error.to_string())?;
    let module = compile(&text)?;
    let mut loaded = Loaded {
        core: core.clone(),
        module,
        function: std::ptr::null_mut(),
        lanes: kernel.lanes,
        shared_bytes: 0,
    };
    let entry = CString::new(ptx::ENTRY).map_err(|error| error.to_string())?;
    // SAFETY: the module was just loaded.
    loaded.function =
        unsafe { made(|to| calls::cuModuleGetFunction(to, module, entry.as_ptr())) }.map_err(words)?;
    loaded.shared_bytes = ptx::dynamic_bytes(kernel);
    if loaded.shared_bytes > 0 {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = loaded.shared_bytes;
        // SAFETY: the function belongs to the module.
        unsafe { calls::cuFuncSetAttribute(loaded.function, attribute, bytes as i32) }
            .map_err(|error| format!("{bytes} bytes of shared memory: {}", words(error)))?;
    }
    Ok(loaded)
}

fn compile(text: &CString) -> Result<sys::CUmodule, String> {
    let mut log = vec![0u8; LOG_BYTES];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The driver takes a size in the place of a pointer.
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(LOG_BYTES)];
    let mut module = std::ptr::null_mut();
    // SAFETY: the text ends with a zero, and the log is as long as the option says.
    let done = unsafe {
        calls::cuModuleLoadDataEx(
            &mut module,
            text.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    done.map_err(|error| {
        let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
        let log = String::from_utf8_lossy(&log[..end]);
        format!("{}\n{}", words(error), log.trim_end())
    })?;
    Ok(module)
}
