//! Texts that become functions.

use std::ffi::{CStr, c_char, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jtllm_ptxsim::{Kernel, parse};

use crate::code::Code;
use crate::device::current;
use crate::entry::{entries, put};
use crate::queue::driver;
use crate::settings::Settings;

/// A kernel that can be launched.
pub(crate) struct Function {
    pub(crate) kernel: Kernel,
    /// Bytes of shared memory that a launch may ask for.
    pub(crate) dynamic_max: AtomicU32,
}

/// Shared memory of a block without asking.
pub(crate) const SHARED_DEFAULT: u32 = 48 << 10;

const JIT_ERROR_LOG: u32 = 5;
const JIT_ERROR_LOG_BYTES: u32 = 6;
const MAX_DYNAMIC_SHARED: i32 = 8;
const SHARED_BYTES: i32 = 1;
const MAX_THREADS: i32 = 0;

/// The functions of a text, or why there are none.
fn compiled(text: &CStr) -> Result<Vec<Kernel>, (Code, String)> {
    let settings = Settings::get();
    let text = text.to_str().map_err(|error| (Code::INVALID_PTX, error.to_string()))?;
    let module = parse(text).map_err(|error| (Code::INVALID_PTX, format!("ptxas fatal: {error}")))?;
    let (major, minor) = module.version;
    if module.version > settings.ptx_version() {
        let why = format!("ptxas fatal: version {major}.{minor} is newer than the driver's");
        return Err((Code::PTX_VERSION, why));
    }
    let fits = match module.exact {
        true => module.target == settings.capability,
        false => module.target <= settings.capability,
    };
    if !fits {
        let why =
            format!("ptxas fatal: target sm_{} on a device of sm_{}", module.target, settings.capability);
        return Err((Code::NO_BINARY, why));
    }
    if let Some(kernel) = module.kernels().iter().find(|kernel| kernel.shared_bytes() > SHARED_DEFAULT) {
        let bytes = kernel.shared_bytes();
        let why = format!("ptxas error: {} uses too much shared data ({bytes:#x} bytes)", kernel.name());
        return Err((Code::INVALID_PTX, why));
    }
    Ok(module.kernels().to_vec())
}

fn load(text: &CStr) -> Result<usize, (Code, String)> {
    let quietly = |code| (code, String::new());
    current().map_err(quietly)?;
    let kernels = compiled(text)?;
    let mut driver = driver();
    driver.check().map_err(quietly)?;
    let mut handles = Vec::new();
    for kernel in kernels {
        Settings::get().log(format_args!("module {}", kernel.name()));
        let dynamic_max = AtomicU32::new(SHARED_DEFAULT - kernel.shared_bytes());
        let handle = driver.handle();
        driver.functions.insert(handle, Arc::new(Function { kernel, dynamic_max }));
        handles.push(handle);
    }
    let module = driver.handle();
    driver.modules.insert(module, handles);
    Ok(module)
}

/// Writes a message into the buffer that the options name, cut to its size.
unsafe fn report(text: &str, count: c_uint, options: *const u32, values: *const *mut c_void) {
    let count = count as usize;
    if count == 0 || options.is_null() || values.is_null() {
        return;
    }
    // SAFETY: the caller gave arrays of that length.
    let (options, values) =
        unsafe { (std::slice::from_raw_parts(options, count), std::slice::from_raw_parts(values, count)) };
    let value = |wanted: u32| options.iter().position(|option| *option == wanted).map(|at| values[at]);
    let (Some(buffer), Some(bytes)) = (value(JIT_ERROR_LOG), value(JIT_ERROR_LOG_BYTES)) else { return };
    let room = (bytes as usize).saturating_sub(1);
    let len = text.len().min(room);
    if buffer.is_null() || room == 0 {
        return;
    }
    // SAFETY: the caller gave a buffer of so many bytes.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), len);
        *buffer.cast::<u8>().add(len) = 0;
    }
}

fn function(handle: *mut c_void) -> Result<Arc<Function>, Code> {
    driver().functions.get(&(handle as usize)).cloned().ok_or(Code::INVALID_HANDLE)
}

entries! {
    /// Compiles a text.
    fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) {
        let handle = load(CStr::from_ptr(image.cast())).map_err(|(code, why)| {
            eprintln!("[mockcuda] {why}");
            code
        })?;
        put(module, handle as *mut c_void)
    }

    /// Compiles a text, and says in a buffer what is wrong with it.
    fn cuModuleLoadDataEx(
        module: *mut *mut c_void,
        image: *const c_void,
        count: c_uint,
        options: *const u32,
        values: *const *mut c_void
    ) {
        let handle = load(CStr::from_ptr(image.cast())).map_err(|(code, why)| {
            report(&why, count, options, values);
            code
        })?;
        put(module, handle as *mut c_void)
    }

    /// Forgets the functions of a module.
    fn cuModuleUnload(module: *mut c_void) {
        let mut driver = driver();
        let handles = driver.modules.remove(&(module as usize)).ok_or(Code::INVALID_HANDLE)?;
        for handle in handles {
            driver.functions.remove(&handle);
        }
        Ok(())
    }

    /// Finds a function by its name.
    fn cuModuleGetFunction(to: *mut *mut c_void, module: *mut c_void, name: *const c_char) {
        let driver = driver();
        let handles = driver.modules.get(&(module as usize)).ok_or(Code::INVALID_HANDLE)?;
        let name = CStr::from_ptr(name).to_string_lossy();
        let found = handles.iter().find(|handle| driver.functions[*handle].kernel.name() == name);
        put(to, *found.ok_or(Code::NOT_FOUND)? as *mut c_void)
    }

    /// Allows a function more shared memory.
    fn cuFuncSetAttribute(handle: *mut c_void, attribute: i32, value: i32) {
        let function = function(handle)?;
        let value = u32::try_from(value).map_err(|_| Code::INVALID_VALUE)?;
        let most = Settings::get().shared_max() - function.kernel.shared_bytes();
        if attribute != MAX_DYNAMIC_SHARED || value > most {
            return Err(Code::INVALID_VALUE);
        }
        function.dynamic_max.store(value, Ordering::Relaxed);
        Ok(())
    }

    /// What a function needs.
    fn cuFuncGetAttribute(value: *mut i32, attribute: i32, handle: *mut c_void) {
        let function = function(handle)?;
        put(value, match attribute {
            MAX_THREADS => 1024,
            SHARED_BYTES => function.kernel.shared_bytes() as i32,
            MAX_DYNAMIC_SHARED => function.dynamic_max.load(Ordering::Relaxed) as i32,
            _ => return Err(Code::INVALID_VALUE),
        })
    }
}
