//! The calls of Unix systems; what only Linux has says so.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;

use rustix::mm::{self, MapFlags, ProtFlags};

use super::Access;

/// Whether this system can be asked to leave the page cache out.
pub fn wants_direct() -> bool {
    cfg!(target_os = "linux")
}

/// Opens a file that is there. `direct` leaves the page cache out, which a file system may refuse with
/// `InvalidInput`.
pub fn open(path: &Path, access: Access, direct: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::Write);
    options.custom_flags(direct_flag(direct));
    options.open(path)
}

/// Creates a new file, readable by this user alone; fails where the name exists.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

#[cfg(target_os = "linux")]
fn direct_flag(direct: bool) -> i32 {
    // A terminal or a pipe must not keep the caller waiting for somebody at its other end.
    let mut flags = rustix::fs::OFlags::NONBLOCK;
    flags.set(rustix::fs::OFlags::DIRECT, direct);
    flags.bits() as i32
}

#[cfg(not(target_os = "linux"))]
fn direct_flag(_direct: bool) -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits() as i32
}

/// Has an open file leave the page cache out from now on, or go through it again. The first a file system may refuse with
/// `InvalidInput`.
#[cfg(target_os = "linux")]
pub fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(rustix::fs::OFlags::DIRECT, direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

#[cfg(not(target_os = "linux"))]
pub use super::portable::set_direct;

/// Whether the open file is the one that the path leads to.
pub fn is_at(file: &File, path: &Path) -> bool {
    let node = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => node(held) == node(named),
        _ => false,
    }
}

/// Takes these bytes of a file out of the page cache, where the system can; nothing else depends on it.
pub fn forget_cached(file: &File, at: u64, len: u64) {
    #[cfg(target_os = "linux")]
    {
        let len = std::num::NonZeroU64::new(len);
        let _ = rustix::fs::fadvise(file, at, len, rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, at, len);
}

/// Bytes that this user may still write below a folder; `None` where the system does not tell.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// What Linux calls its file systems that have no disk below them: `tmpfs` and `ramfs`.
#[cfg(target_os = "linux")]
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Whether files of this folder lie in memory, where a control group counts them. What is below a file system of layers
/// (`overlay`) is not asked.
#[cfg(target_os = "linux")]
pub fn is_in_memory(folder: &Path) -> bool {
    // The number has 32 bits, the word for it often more.
    rustix::fs::statfs(folder).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as u32)))
}

/// Not known.
#[cfg(not(target_os = "linux"))]
pub fn is_in_memory(_folder: &Path) -> bool {
    false
}

/// Refuses a folder that is none, belongs to somebody else or may be written by others.
pub fn check_private(folder: &Path) -> io::Result<()> {
    let found = std::fs::symlink_metadata(folder)?;
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned()));
    if found.is_symlink() {
        // Who leads it elsewhere later need not be who asked for it.
        return refuse("it is a symbolic link, and not the folder itself");
    }
    if !found.is_dir() {
        return refuse("it is no folder");
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return refuse("it belongs to another user");
    }
    if found.mode() & 0o022 != 0 {
        return refuse("others may write to it");
    }
    Ok(())
}

/// Zeroed anonymous pages that this value owns.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

/// Where huge pages begin.
const HUGE_PAGE_BYTES: usize = 2 << 20;

impl Pages {
    /// Maps `bytes` bytes that begin at a huge page, which the system is asked for.
    pub fn new(bytes: usize) -> io::Result<Pages> {
        let too_long =
            || io::Error::new(io::ErrorKind::OutOfMemory, "the length overflows the address space");
        let bytes = bytes.max(1).checked_next_multiple_of(HUGE_PAGE_BYTES).ok_or_else(too_long)?;
        let mapped = bytes.checked_add(HUGE_PAGE_BYTES).ok_or_else(too_long)?;
        // SAFETY: no address is asked for, so no existing mapping can be replaced.
        let all = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            mm::mmap_anonymous(std::ptr::null_mut(), mapped, access, MapFlags::PRIVATE)?
        };
        let before = all.cast::<u8>().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: the three ranges are whole pages of the new mapping, of which nobody knows yet; the outer two are
        // forgotten here, and the advice does not change contents.
        unsafe {
            let start = all.cast::<u8>().add(before);
            if before > 0 {
                mm::munmap(all, before)?;
            }
            mm::munmap(start.add(bytes).cast(), HUGE_PAGE_BYTES - before)?;
            #[cfg(target_os = "linux")]
            let _ = mm::madvise(start.cast(), bytes, mm::Advice::LinuxHugepage);
            let start = NonNull::new(start).ok_or_else(|| io::Error::other("mapped at address 0"))?;
            Ok(Pages { start, bytes })
        }
    }

    /// The first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what this value owns, and whoever borrowed from it is gone.
        let outcome = unsafe { mm::munmap(self.start.as_ptr().cast::<c_void>(), self.bytes) };
        debug_assert!(outcome.is_ok(), "unmapping {} bytes: {outcome:?}", self.bytes);
    }
}
