//! The operating system as this crate sees it: files without the page cache, pages, free space on disks.
//!
//! `unix` holds the real calls; `portable` does without, so that other systems build and run: through the page
//! cache there, and with memory of the standard library's.

#[cfg(any(not(unix), test))]
pub(crate) mod portable;
#[cfg(unix)]
pub(crate) mod unix;

#[cfg(not(unix))]
pub(crate) use portable::{
    Pages, check_private, create_private, forget_cached, free_bytes, open, stop_direct, wants_direct,
};
#[cfg(unix)]
pub(crate) use unix::{
    Pages, check_private, create_private, forget_cached, free_bytes, open, stop_direct, wants_direct,
};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// For reading alone.
    Read,
    /// For reading and writing.
    Write,
}
