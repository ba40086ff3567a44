//! The operating system as this crate sees it: files without the page cache, pages, free space on disks.
//!
//! `unix` holds the real calls; `portable` does without, so that other systems build and run: through the page
//! cache there, and with memory of the standard library's. `portable` is compiled everywhere, so that its tests run
//! everywhere.

pub mod portable;
#[cfg(unix)]
pub mod unix;

#[cfg(not(unix))]
pub use portable::{
    Pages, check_private, create_private, forget_cached, free_bytes, is_at, is_in_memory, open, set_direct,
    wants_direct,
};
#[cfg(unix)]
pub use unix::{
    Pages, check_private, create_private, forget_cached, free_bytes, is_at, is_in_memory, open, set_direct,
    wants_direct,
};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading alone.
    Read,
    /// For reading and writing.
    Write,
}
