//! The driver's functions, with results that are numbers.
//!
//! `cudarc` declares results as an enum of the codes that one version of CUDA had, and a value that is none of an enum's
//! must not exist: a newer driver with a new code would make this program's behaviour undefined. So the functions are
//! looked up and called here; types, constants and the library come from `cudarc`.
#![allow(non_snake_case, clippy::too_many_arguments)] // Functions are as the driver has them.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::*;

/// What a function of the driver gives if it fails: any number but 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DriverError(u32);

impl DriverError {
    pub(super) const OUT_OF_MEMORY: DriverError = DriverError(2);
    pub(super) const NOT_READY: DriverError = DriverError(600);
}

type Done = Result<(), DriverError>;

fn done(code: u32) -> Done {
    if code == 0 { Ok(()) } else { Err(DriverError(code)) }
}

macro_rules! functions {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {
        struct Functions { $($name: unsafe extern "system" fn($($type),*) -> u32,)* }

        impl Functions {
            /// All of them, or the name of the first that the driver lacks.
            fn find() -> Result<Functions, &'static str> {
                // SAFETY: NVIDIA's library does nothing when it is loaded that could harm, and its functions have these
                // signatures in every version that has them.
                unsafe {
                    let library = culib();
                    Ok(Functions {
                        $($name: *library.get(stringify!($name).as_bytes()).map_err(|_| stringify!($name))?,)*
                    })
                }
            }
        }

        $(
            /// As the driver's documentation says.
            ///
            /// # Safety
            /// What the documentation asks for; and [`find`] has succeeded.
            pub(super) unsafe fn $name($($argument: $type),*) -> Done {
                let functions = FUNCTIONS.get().expect("the driver is made ready before it is used");
                // SAFETY: the caller promises it.
                done(unsafe { (functions.$name)($($argument),*) })
            }
        )*
    };
}

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();

/// Looks all functions up, or gives the name of the first that the driver lacks: calling it would end the program.
pub(super) fn find() -> Result<(), &'static str> {
    let found = Functions::find()?;
    // Another thread may have found the same.
    let _found_before = FUNCTIONS.set(found);
    Ok(())
}

/// The version that the driver supports, which it may be asked for before all else; none if it cannot tell.
///
/// # Errors
/// It has not even a function for that.
pub(super) fn version() -> Result<Option<u32>, &'static str> {
    const NAME: &str = "cuDriverGetVersion";
    type Function = unsafe extern "system" fn(*mut c_int) -> u32;
    let mut version = 0;
    // SAFETY: as for all others; it writes one number.
    let told = unsafe {
        let function = culib().get::<Function>(NAME.as_bytes()).map_err(|_| NAME)?;
        done(function(&mut version))
    };
    Ok(told.ok().and_then(|()| u32::try_from(version).ok()))
}

/// What a function makes that writes it to where it is told.
///
/// # Safety
/// A `T` of zeros is a value, and the function writes none that is not.
pub(super) unsafe fn made<T>(call: impl FnOnce(*mut T) -> Done) -> Result<T, DriverError> {
    let mut value = std::mem::MaybeUninit::zeroed();
    call(value.as_mut_ptr())?;
    // SAFETY: the caller promises that zeros are a value, as is what the function wrote.
    Ok(unsafe { value.assume_init() })
}

/// What the driver says of an error.
pub(super) fn words(error: DriverError) -> String {
    let text = |call: unsafe fn(u32, *mut *const c_char) -> Done| {
        // SAFETY: a pointer of zeros is one.
        let found = unsafe { made(|to| call(error.0, to)) }.ok().filter(|text| !text.is_null())?;
        // SAFETY: the driver gives texts that end with a zero and are there for ever.
        Some(unsafe { CStr::from_ptr(found) }.to_string_lossy().into_owned())
    };
    match (text(cuGetErrorName), text(cuGetErrorString)) {
        (Some(name), Some(words)) => format!("{name}: {words}"),
        _ => format!("error {}, which this driver does not explain", error.0),
    }
}

functions! {
    cuInit(flags: c_uint);
    cuDeviceGetCount(count: *mut c_int);
    cuDeviceGet(device: *mut CUdevice, number: c_int);
    cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
    cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
    cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    cuCtxSetCurrent(context: CUcontext);
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    cuMemAlloc_v2(address: *mut CUdeviceptr, len: usize);
    cuMemFree_v2(address: CUdeviceptr);
    cuMemAllocAsync(address: *mut CUdeviceptr, len: usize, stream: CUstream);
    cuMemFreeAsync(address: CUdeviceptr, stream: CUstream);
    cuDeviceGetDefaultMemPool(pool: *mut CUmemoryPool, device: CUdevice);
    cuMemPoolSetAttribute(pool: CUmemoryPool, attribute: CUmemPool_attribute, value: *mut c_void);
    cuMemPoolGetAttribute(pool: CUmemoryPool, attribute: CUmemPool_attribute, value: *mut c_void);
    cuMemHostAlloc(address: *mut *mut c_void, len: usize, flags: c_uint);
    cuMemFreeHost(address: *mut c_void);
    cuMemsetD8Async(to: CUdeviceptr, byte: c_uchar, len: usize, stream: CUstream);
    cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, len: usize, stream: CUstream);
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, len: usize, stream: CUstream);
    cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, len: usize, stream: CUstream);
    cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    cuStreamDestroy_v2(stream: CUstream);
    cuStreamSynchronize(stream: CUstream);
    cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    cuEventCreate(event: *mut CUevent, flags: c_uint);
    cuEventDestroy_v2(event: CUevent);
    cuEventRecord(event: CUevent, stream: CUstream);
    cuEventSynchronize(event: CUevent);
    cuEventQuery(event: CUevent);
    cuModuleLoadDataEx(
        module: *mut CUmodule,
        text: *const c_void,
        count: c_uint,
        options: *mut CUjit_option,
        values: *mut *mut c_void
    );
    cuModuleUnload(module: CUmodule);
    cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int);
    cuLaunchKernel(
        function: CUfunction,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: CUstream,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void
    );
    cuGraphInstantiateWithFlags(executable: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
    cuGraphLaunch(executable: CUgraphExec, stream: CUstream);
    cuGraphDestroy(graph: CUgraph);
    cuGraphExecDestroy(executable: CUgraphExec);
    cuGetErrorName(code: u32, name: *mut *const c_char);
    cuGetErrorString(code: u32, words: *mut *const c_char);
}
