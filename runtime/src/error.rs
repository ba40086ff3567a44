//! What can go wrong at run time.

use std::fmt;
use std::path::PathBuf;

use jtllm_codegen::target::EmitError;
use jtllm_swap::SwapError;

use crate::residence::TooLow;

/// An error of the world: memory, devices, files. Legality was checked before.
#[derive(Clone, Debug)]
pub enum DeviceError {
    /// There is not enough memory.
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        need: u64,
        /// The system's reason.
        why: String,
    },
    /// The model's weights and states do not fit, as is known before any is read.
    TooSmall {
        /// The device.
        device: String,
        /// Bytes of weights and states.
        need: u64,
        /// Bytes of memory that nobody has taken.
        free: u64,
        /// Bytes of memory in all, if known.
        total: Option<u64>,
    },
    /// Emitted code could not be loaded.
    Load {
        /// The device.
        device: String,
        /// The reason.
        why: String,
    },
    /// A kernel failed while it ran.
    Run {
        /// The device.
        device: String,
        /// The reason.
        why: String,
    },
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceError::OutOfMemory { device, need, why } => {
                write!(f, "{device} has no {need} bytes of memory left: {why}")
            }
            DeviceError::TooSmall { device, need, free, total } => {
                write!(f, "the model needs {need} bytes of memory on {device}, which has {free} bytes free")?;
                total.map_or(Ok(()), |total| write!(f, " of {total}"))
            }
            DeviceError::Load { device, why } => write!(f, "{device} cannot load a kernel: {why}"),
            DeviceError::Run { device, why } => write!(f, "a kernel failed on {device}: {why}"),
        }
    }
}

impl std::error::Error for DeviceError {}

/// An error of the runtime.
#[derive(Clone, Debug)]
pub enum Error {
    /// The device failed.
    Device(DeviceError),
    /// The target could not express a kernel.
    Emit(EmitError),
    /// A weight is missing from the model's files, or has another shape or format than its graph wants.
    Weight {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A file of packed weights does not hold what was written to it.
    Packed {
        /// The file.
        file: PathBuf,
        /// What is wrong, and what became of the file.
        why: String,
    },
    /// A model's file cannot be read, or is not what it was when the model was loaded.
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Weights, keys or values do not come or go: a file fails or hangs, a folder takes no swap file, memory is short.
    Swap(SwapError),
    /// The disk has no room for keys and values that do not fit into memory.
    SwapSpace(SwapError),
    /// The memory limit is too low for the model.
    Limit(TooLow),
    /// A graph breaks a rule; always a fault of the program that built it.
    Graph {
        /// The graph's name.
        graph: String,
        /// The faults, one a line.
        faults: String,
    },
    /// The pass does not fit what was planned.
    Pass {
        /// What is wrong.
        why: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Device(error) => error.fmt(f),
            Error::Emit(error) => error.fmt(f),
            Error::Weight { name, why } => write!(f, "weight {name}: {why}"),
            Error::Packed { file, why } => write!(f, "packed weights in {}: {why}", file.display()),
            Error::File { file, why } => write!(f, "{}: {why}", file.display()),
            Error::Swap(error) => swap(error, f),
            Error::SwapSpace(error) => {
                write!(f, "swap space exhausted: {error}; a shorter context needs less, ")?;
                f.write_str("and --swap-dir DIR names a folder on another disk")
            }
            Error::Limit(error) => error.fmt(f),
            Error::Graph { graph, faults } => write!(f, "graph {graph} is malformed: {faults}"),
            Error::Pass { why } => write!(f, "a pass cannot run: {why}"),
        }
    }
}

/// An error of blobs: most name the file and what was to be done with it.
fn swap(error: &SwapError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use SwapError::*;
    match error {
        Folder { .. } => write!(f, "{error}; --swap-dir DIR names another one"),
        Io { .. } | PreviousIo { .. } | Corrupt { .. } | Late { .. } | DiskFull { .. } | Cancelled => {
            write!(f, "{error}")
        }
        Memory { .. }
        | Full { .. }
        | Unknown { .. }
        | Absent { .. }
        | Pinned { .. }
        | OnlyCopy { .. }
        | Exhausted => write!(f, "memory for weights, keys and values: {error}"),
    }
}

impl Error {
    /// Whether a device had no room.
    pub fn is_full(&self) -> bool {
        use DeviceError::{OutOfMemory, TooSmall};
        matches!(self, Error::Limit(_) | Error::Device(OutOfMemory { .. } | TooSmall { .. }))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Device(error) => Some(error),
            Error::Emit(error) => Some(error),
            Error::Swap(error) | Error::SwapSpace(error) => Some(error),
            Error::Limit(error) => Some(error),
            _ => None,
        }
    }
}

impl From<DeviceError> for Error {
    fn from(error: DeviceError) -> Error {
        Error::Device(error)
    }
}

impl From<EmitError> for Error {
    fn from(error: EmitError) -> Error {
        Error::Emit(error)
    }
}
