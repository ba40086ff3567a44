//! Launches of kernels.

use std::ffi::{c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::code::Code;
use crate::device::current;
use crate::entry::entries;
use crate::graphs::refuses;
use crate::queue::{KernelTask, Task, driver};
use crate::settings::Settings;

entries! {
    /// Launches a function; its parameters are copied now.
    fn cuLaunchKernel(
        function: *mut c_void,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: *mut c_void,
        arguments: *mut *mut c_void,
        _extra: *mut *mut c_void
    ) {
        current()?;
        let mut driver = driver();
        let function = driver.functions.get(&(function as usize)).cloned().ok_or(Code::INVALID_HANDLE)?;
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let fits = grid_x <= i32::MAX as u32 && grid_y <= 65535 && grid_z <= 65535;
        let threads = block.iter().map(|n| u64::from(*n)).product::<u64>();
        if !fits || grid.contains(&0) || threads == 0 || threads > 1024 {
            return Err(Code::INVALID_VALUE);
        }
        if shared_bytes > function.dynamic_max.load(Ordering::Relaxed) {
            return Err(Code::INVALID_VALUE);
        }
        let kernel = &function.kernel;
        let mut parameters = vec![0u8; kernel.parameter_bytes() as usize];
        for (at, parameter) in kernel.parameters().iter().enumerate() {
            let from = (*arguments.add(at)).cast::<u8>();
            let to = &mut parameters[parameter.offset as usize..][..parameter.bytes as usize];
            std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
        }
        let captured = driver.stream(stream as usize)?.capture.is_some();
        if captured {
            refuses(2, Code::CAPTURE_UNSUPPORTED)?;
        }
        Settings::get().log(format_args!("{} {}", if captured { "capture" } else { "launch" }, kernel.name()));
        let task = KernelTask { function, grid, block, shared_bytes, parameters };
        driver.push(stream as usize, Task::Kernel(Arc::new(task)))
    }
}
