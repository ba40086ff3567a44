//! The same calls by means of the standard library alone.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::HUGE_PAGE_BYTES;

/// All words share one queue: a thread woken for another word looks, and sleeps again.
static QUEUE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

/// Sleeps while `*word == expected`. May return early for no reason; the caller looks again.
pub fn wait(word: &AtomicU32, expected: u32) {
    let guard = QUEUE.0.lock().unwrap_or_else(PoisonError::into_inner);
    if word.load(Ordering::SeqCst) == expected {
        drop(QUEUE.1.wait(guard).unwrap_or_else(PoisonError::into_inner));
    }
}

/// Wakes every thread that sleeps in [`wait`] on this word. The word is changed first.
pub fn wake_all(_word: &AtomicU32) {
    // Taking the lock orders the change of the word before the look of whoever is about to sleep.
    let _guard = QUEUE.0.lock().unwrap_or_else(PoisonError::into_inner);
    QUEUE.1.notify_all();
}

/// As many CPUs as the standard library counts, numbered from 0; never empty.
pub fn allowed_cpus() -> Vec<usize> {
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Not known before drivers are asked.
pub fn may_have_graphics() -> bool {
    true
}

/// Not known.
pub fn current_cpu() -> Option<usize> {
    None
}

/// Binding is not available.
///
/// # Errors
/// Always `Unsupported`.
pub fn pin(_cpus: &[usize]) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "threads cannot be bound to cores on this system"))
}

/// What is said of a mapping whose file is shortened is the system's own affair here.
#[derive(Debug)]
pub struct Watched;

impl Watched {
    /// Nothing is watched.
    pub fn new(_bytes: &[u8]) -> Watched {
        Watched
    }

    /// As [`is_lost`].
    pub fn is_lost(&self) -> bool {
        false
    }
}

/// Whether a page was missing: nobody knows.
pub fn is_lost(_bytes: &[u8]) -> bool {
    false
}

/// Pages stay.
pub fn release(_map: &memmap2::Mmap, _range: std::ops::Range<usize>) {}

/// The page size that every supported system has at least.
pub fn page_size() -> usize {
    4096
}

/// Zeroed memory aligned like pages, which this value owns.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: a mapping is plain memory owned by this value and bound to no thread.
unsafe impl Send for Mapping {}
// SAFETY: the only things that a shared reference gives are the address and the length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Takes at least `bytes` zeroed bytes, rounded up to whole pages, on a page boundary (a huge page's from
    /// [`HUGE_PAGE_BYTES`] on).
    ///
    /// # Errors
    /// `InvalidInput` for zero bytes, `OutOfMemory` where the length overflows or the memory is not to be had.
    pub fn new(bytes: usize) -> io::Result<Mapping> {
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a mapping of 0 bytes"));
        }
        let too_long =
            || io::Error::new(io::ErrorKind::OutOfMemory, "the length overflows the address space");
        let align = if bytes < HUGE_PAGE_BYTES { page_size() } else { HUGE_PAGE_BYTES };
        let size = bytes.checked_next_multiple_of(page_size()).ok_or_else(too_long)?;
        let layout = Layout::from_size_align(size, align).map_err(|_| too_long())?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) });
        Ok(Mapping { start: start.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?, layout })
    }

    /// The first byte, aligned to a page.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes taken: the length asked for, rounded up to whole pages.
    pub fn bytes(&self) -> usize {
        self.layout.size()
    }

    /// Executable memory needs the operating system.
    ///
    /// # Errors
    /// Always `Unsupported`.
    pub fn into_code(self) -> io::Result<Mapping> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "no executable memory on this system"))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the block came from `alloc_zeroed` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// Creates the folder and those above it; who may read it is left to the system's default.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Creates a new file for writing; fails where the name exists.
pub fn create_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Opens a file for writing, which is created if it is not there.
pub fn open_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

/// Files have no limits that kill.
pub fn survive_file_limits() {}

/// Not known.
pub fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

/// A path as bytes that give it back; `None` if it is no Unicode.
pub fn bytes_of_path(path: &Path) -> Option<Vec<u8>> {
    Some(path.to_str()?.as_bytes().to_vec())
}

/// The path of which these are the bytes.
pub fn path_of_bytes(bytes: &[u8]) -> Option<PathBuf> {
    Some(PathBuf::from(std::str::from_utf8(bytes).ok()?))
}

/// Would give freed memory back to the system; other systems' allocators do so by themselves, or cannot be asked.
pub fn trim_heap() {}

/// Priorities are left alone.
pub fn yield_to_others() {}

/// Whether the path is a folder; owners are not known here.
///
/// # Errors
/// A sentence on what is wrong.
pub fn check_private(path: &Path) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err("not a folder".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
