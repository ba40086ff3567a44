//! Pages and private files on Unix systems.

use std::ffi::c_void;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};

use super::HUGE_PAGE_BYTES;

/// Bytes of one page.
pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// Lets the system have the pages of a mapped file. Whoever reads them again finds what the file has.
pub fn release(map: &memmap2::Mmap, range: std::ops::Range<usize>) {
    // SAFETY: the mapping is of a file and read-only: a page that is gone comes back with the same bytes.
    let _refused =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
}

/// Zeroed anonymous pages that this value owns, writable until [`Mapping::into_code`].
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is plain memory owned by this value and bound to no thread.
unsafe impl Send for Mapping {}
// SAFETY: the only things that a shared reference gives are the address and the length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps at least `bytes` bytes, rounded up to whole pages. From [`HUGE_PAGE_BYTES`] on, the start is aligned to a
    /// huge page and the system is asked for huge pages; a refusal of those costs speed only and is not an error.
    ///
    /// # Errors
    /// `InvalidInput` for zero bytes, `OutOfMemory` where the length overflows, else what the system says.
    pub fn new(bytes: usize) -> io::Result<Mapping> {
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a mapping of 0 bytes"));
        }
        let page = page_size();
        let bytes = round_up(bytes, page)?;
        if bytes < HUGE_PAGE_BYTES {
            return map(bytes);
        }
        let mut mapping = map(round_up(bytes, HUGE_PAGE_BYTES)?
            .checked_add(HUGE_PAGE_BYTES - page)
            .ok_or_else(too_long)?)?;
        mapping.trim(bytes)?;
        #[cfg(target_os = "linux")]
        {
            // SAFETY: the range is exactly this mapping, and the advice does not change its contents.
            let _ = unsafe {
                mm::madvise(mapping.start.as_ptr().cast(), mapping.bytes, mm::Advice::LinuxHugepage)
            };
        }
        Ok(mapping)
    }

    /// The first byte, aligned to a page.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Bytes mapped: the length asked for, rounded up to whole pages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes the pages readable and executable, no longer writable, and makes the new instructions visible to every
    /// core of the process.
    ///
    /// # Errors
    /// `Unsupported` on an architecture whose instruction caches this module cannot flush, else what the system says.
    pub fn into_code(self) -> io::Result<Mapping> {
        // SAFETY: the range is this mapping; nobody holds a reference into it, since `self` is moved in.
        unsafe {
            flush_instructions(self.start.as_ptr(), self.bytes)?;
            mm::mprotect(self.start.as_ptr().cast(), self.bytes, MprotectFlags::READ | MprotectFlags::EXEC)?;
        }
        synchronise_cores();
        Ok(self)
    }

    /// Gives back what lies before the first huge-page boundary and after `bytes` from there.
    fn trim(&mut self, bytes: usize) -> io::Result<()> {
        let before = self.start.as_ptr().align_offset(HUGE_PAGE_BYTES);
        let after = self.bytes - before - bytes;
        // SAFETY: both ranges are whole pages inside this mapping, untouched so far, and are forgotten here before
        // anyone else learns of them.
        unsafe {
            if before > 0 {
                mm::munmap(self.start.as_ptr().cast(), before)?;
                self.start = self.start.add(before);
                self.bytes -= before;
            }
            if after > 0 {
                mm::munmap(self.start.as_ptr().add(bytes).cast(), after)?;
                self.bytes = bytes;
            }
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what this value owns, and whoever borrowed from it is gone.
        let outcome = unsafe { mm::munmap(self.start.as_ptr().cast::<c_void>(), self.bytes) };
        debug_assert!(outcome.is_ok(), "unmapping {} bytes: {outcome:?}", self.bytes);
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, "the length overflows the address space")
}

fn round_up(bytes: usize, step: usize) -> io::Result<usize> {
    bytes.checked_next_multiple_of(step).ok_or_else(too_long)
}

fn map(bytes: usize) -> io::Result<Mapping> {
    // SAFETY: no address is asked for, so no existing mapping can be replaced.
    let start = unsafe {
        mm::mmap_anonymous(
            std::ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )?
    };
    let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
    Ok(Mapping { start, bytes })
}

/// x86 keeps instruction fetch coherent with stores; nothing is to be done.
///
/// # Safety
/// `start..start + bytes` is readable memory.
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
unsafe fn flush_instructions(_start: *mut u8, _bytes: usize) -> io::Result<()> {
    Ok(())
}

/// Cleans the data cache to the point of unification, then drops the instruction cache's lines.
///
/// # Safety
/// `start..start + bytes` is readable memory.
#[cfg(all(target_arch = "aarch64", not(target_vendor = "apple")))]
unsafe fn flush_instructions(start: *mut u8, bytes: usize) -> io::Result<()> {
    use std::arch::asm;
    let (first, end) = (start as usize, start as usize + bytes);
    // SAFETY: these are the maintenance instructions that Linux allows in user mode, on readable addresses.
    unsafe {
        let sizes: usize;
        asm!("mrs {}, ctr_el0", out(reg) sizes, options(nomem, nostack, preserves_flags));
        let (data_line, code_line) = (4usize << (sizes >> 16 & 15), 4usize << (sizes & 15));
        for line in (first & !(data_line - 1)..end).step_by(data_line) {
            asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags));
        }
        asm!("dsb ish", options(nostack, preserves_flags));
        for line in (first & !(code_line - 1)..end).step_by(code_line) {
            asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags));
        }
        asm!("dsb ish", "isb", options(nostack, preserves_flags));
    }
    Ok(())
}

/// Apple's own call, since the cache registers are not readable there.
///
/// # Safety
/// `start..start + bytes` is readable memory.
#[cfg(all(target_arch = "aarch64", target_vendor = "apple"))]
unsafe fn flush_instructions(start: *mut u8, bytes: usize) -> io::Result<()> {
    unsafe extern "C" {
        fn sys_icache_invalidate(start: *mut c_void, bytes: usize);
    }
    // SAFETY: the range is readable by this function's contract.
    unsafe { sys_icache_invalidate(start.cast(), bytes) };
    Ok(())
}

/// # Safety
/// None is needed; the signature is shared.
#[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
unsafe fn flush_instructions(_start: *mut u8, _bytes: usize) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "no way to flush instruction caches on this architecture"))
}

/// Other cores may have fetched ahead at these addresses from an older mapping: each of them is made to start afresh.
/// A kernel without the call (before 4.16) loses only this belt; the caches are clean already.
#[cfg(all(target_arch = "aarch64", target_os = "linux"))]
fn synchronise_cores() {
    use rustix::thread::{MembarrierCommand, membarrier};
    if membarrier(MembarrierCommand::RegisterPrivateExpeditedSyncCore).is_ok() {
        let _ = membarrier(MembarrierCommand::PrivateExpeditedSyncCore);
    }
}

/// Nothing to do: x86 cores synchronise by themselves, Apple's call reaches every core.
#[cfg(not(all(target_arch = "aarch64", target_os = "linux")))]
fn synchronise_cores() {}

/// Creates the folder and those above it, readable by this user alone. One that exists is left as it is.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates a new file for writing, readable by this user alone; fails where the name exists.
pub fn create_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Opens a file for writing, which is created, readable by this user alone, if it is not there.
pub fn open_private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Has a file that grows beyond the limit of the process's files (`ulimit -f`) fail with an error, as one does on a full
/// disk. Unasked, the system kills the process by a signal.
pub fn survive_file_limits() {
    // SAFETY: no handler is installed: the signal is not delivered at all. A refusal leaves all as it was.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Bytes that this user may still write below a folder; `None` where the system does not tell.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// A path as bytes that give it back.
pub fn bytes_of_path(path: &Path) -> Option<Vec<u8>> {
    Some(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec())
}

/// The path of which these are the bytes.
pub fn path_of_bytes(bytes: &[u8]) -> Option<PathBuf> {
    Some(PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes)))
}

/// Whether nobody but this user (and root) can put a file into the folder.
///
/// # Errors
/// A sentence on what is wrong: not a folder, another owner, or writable by others.
pub fn check_private(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let user = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() {
        Err("not a folder".to_owned())
    } else if metadata.uid() != user {
        Err(format!("owned by user {}, not by user {user}", metadata.uid()))
    } else if metadata.mode() & 0o022 != 0 {
        Err(format!("writable by other users (mode {:o})", metadata.mode() & 0o777))
    } else {
        Ok(())
    }
}
