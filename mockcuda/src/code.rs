//! The results of the driver's functions.

use std::ffi::CStr;

/// A result, by its number in the driver's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Code(pub(crate) i32);

macro_rules! codes {
    ($($name:ident $number:literal $cuda:literal $words:literal,)*) => {
        impl Code {
            $(#[doc = $words] pub(crate) const $name: Code = Code($number);)*
            /// Its name in the interface.
            pub(crate) fn name(self) -> Option<&'static CStr> {
                match self.0 { $($number => Some($cuda),)* _ => None }
            }
            /// What the driver says of it.
            pub(crate) fn words(self) -> Option<&'static CStr> {
                match self.0 { $($number => CStr::from_bytes_with_nul(concat!($words, "\0").as_bytes()).ok(),)* _ => None }
            }
        }
    };
}

codes! {
    SUCCESS 0 c"CUDA_SUCCESS" "no error",
    INVALID_VALUE 1 c"CUDA_ERROR_INVALID_VALUE" "invalid argument",
    OUT_OF_MEMORY 2 c"CUDA_ERROR_OUT_OF_MEMORY" "out of memory",
    NOT_INITIALIZED 3 c"CUDA_ERROR_NOT_INITIALIZED" "initialization error",
    UNAVAILABLE 46 c"CUDA_ERROR_DEVICE_UNAVAILABLE" "CUDA-capable device(s) is/are busy or unavailable",
    NO_DEVICE 100 c"CUDA_ERROR_NO_DEVICE" "no CUDA-capable device is detected",
    INVALID_DEVICE 101 c"CUDA_ERROR_INVALID_DEVICE" "invalid device ordinal",
    INVALID_CONTEXT 201 c"CUDA_ERROR_INVALID_CONTEXT" "invalid device context",
    NO_BINARY 209 c"CUDA_ERROR_NO_BINARY_FOR_GPU" "no kernel image is available for execution on the device",
    INVALID_PTX 218 c"CUDA_ERROR_INVALID_PTX" "a PTX JIT compilation failed",
    PTX_VERSION 222 c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION" "the provided PTX was compiled with an unsupported toolchain.",
    INVALID_HANDLE 400 c"CUDA_ERROR_INVALID_HANDLE" "invalid resource handle",
    NOT_FOUND 500 c"CUDA_ERROR_NOT_FOUND" "named symbol not found",
    NOT_READY 600 c"CUDA_ERROR_NOT_READY" "device not ready",
    ILLEGAL_ADDRESS 700 c"CUDA_ERROR_ILLEGAL_ADDRESS" "an illegal memory access was encountered",
    MISALIGNED 716 c"CUDA_ERROR_MISALIGNED_ADDRESS" "misaligned address",
    LAUNCH_FAILED 719 c"CUDA_ERROR_LAUNCH_FAILED" "unspecified launch failure",
    CAPTURE_UNSUPPORTED 900 c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" "operation not permitted when stream is capturing",
    CAPTURE_INVALIDATED 901 c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" "operation failed due to a previous error during capture",
    CAPTURE_ISOLATION 905 c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION" "dependency created on uncaptured work in another stream",
}

pub(crate) type Done = Result<(), Code>;
