//! The operating system as this crate sees it: pages, waiting, cores, private files.
//!
//! Every call into the operating system that the standard library lacks is behind this module. `linux` and `unix`
//! hold the real ones; `portable` does without, so that other systems build and run, slower or with a typed refusal
//! (only executable memory is refused). `portable` is compiled everywhere, so that its tests run everywhere.

#[cfg(unix)]
pub mod fault;
#[cfg(target_os = "linux")]
pub mod linux;
pub mod portable;
#[cfg(unix)]
pub mod unix;

#[cfg(target_os = "linux")]
pub use linux::{
    allowed_cpus, current_cpu, may_have_graphics, pin, trim_heap, wait, wake_all, yield_to_others,
};
#[cfg(not(target_os = "linux"))]
pub use portable::{
    allowed_cpus, current_cpu, may_have_graphics, pin, trim_heap, wait, wake_all, yield_to_others,
};

#[cfg(unix)]
pub use fault::{Watched, is_lost};
#[cfg(not(unix))]
pub use portable::{
    Mapping, Watched, bytes_of_path, check_private, create_private_file, create_private_folder, free_bytes,
    is_lost, open_private_file, page_size, path_of_bytes, release, survive_file_limits,
};
#[cfg(unix)]
pub use unix::{
    Mapping, bytes_of_path, check_private, create_private_file, create_private_folder, free_bytes,
    open_private_file, page_size, path_of_bytes, release, survive_file_limits,
};

/// Bytes of one huge page, the step in which large buffers are aligned.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;
