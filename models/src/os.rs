//! The operating-system calls of this crate, each with a portable fallback.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// What tells one file from another, and one state of it from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Device and inode; zero where the platform has none.
    pub node: (u64, u64),
    /// Length in bytes.
    pub len: u64,
    /// Time of the last change of the contents, where the platform keeps it.
    pub modified: Option<SystemTime>,
}

impl Identity {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Identity { node: node(metadata), len: metadata.len(), modified: metadata.modified().ok() }
    }
}

/// Opens for reading. A pipe that nobody writes to, or a device, does not block the call; the caller looks
/// at what it got before it reads.
#[cfg(unix)]
pub(crate) fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let nonblocking = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(nonblocking.bits().cast_signed()).open(path)
}

/// Opens for reading.
#[cfg(not(unix))]
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

/// Reads some bytes at `offset` without moving the file's position; 0 at or past its end.
#[cfg(unix)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

/// Reads some bytes at `offset`; 0 at or past the end of the file.
#[cfg(windows)]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

/// Reads some bytes at `offset`; 0 at or past the end of the file.
#[cfg(not(any(unix, windows)))]
pub(crate) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    use std::io::{Read, Seek, SeekFrom};
    let mut own = file.try_clone()?;
    own.seek(SeekFrom::Start(offset))?;
    own.read(buffer)
}

/// Says whether only a few pages of a mapped file will be touched. Nothing depends on it.
#[cfg(unix)]
pub(crate) fn expect_few(map: &memmap2::Mmap, few: bool) {
    let _ = map.advise(if few { memmap2::Advice::Random } else { memmap2::Advice::Normal });
}

/// The system finds that out by itself.
#[cfg(not(unix))]
pub(crate) fn expect_few(_map: &memmap2::Mmap, _few: bool) {}

/// Takes a mapped file's pages out of this process's memory and, where nobody else uses them, out of the system's.
#[cfg(target_os = "linux")]
pub(crate) fn give_back(map: &memmap2::Mmap, file: &File) {
    // SAFETY: the pages are a file's, shared and only read: touched again, they are the file's bytes again.
    let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// Pages of files are the system's own affair here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give_back(_map: &memmap2::Mmap, _file: &File) {}

#[cfg(unix)]
fn node(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn node(_metadata: &Metadata) -> (u64, u64) {
    (0, 0)
}

/// What a path leads to, in words.
pub(crate) fn kind(metadata: &Metadata) -> &'static str {
    let file_type = metadata.file_type();
    if file_type.is_dir() {
        return "a directory";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if file_type.is_fifo() {
            return "a pipe";
        }
        if file_type.is_socket() {
            return "a socket";
        }
        if file_type.is_char_device() || file_type.is_block_device() {
            return "a device";
        }
    }
    if file_type.is_file() { "a regular file" } else { "something else" }
}

/// A feature of this processor without which the cryptography of TLS does not run.
#[cfg(target_arch = "x86_64")]
pub(crate) fn lacks_for_tls() -> Option<&'static str> {
    let needed = [
        ("AES", is_x86_feature_detected!("aes")),
        ("PCLMULQDQ", is_x86_feature_detected!("pclmulqdq")),
        ("BMI1", is_x86_feature_detected!("bmi1")),
        ("BMI2", is_x86_feature_detected!("bmi2")),
        ("ADX", is_x86_feature_detected!("adx")),
        ("AVX2", is_x86_feature_detected!("avx2")),
    ];
    needed.into_iter().find(|(_, present)| !present).map(|(name, _)| name)
}

/// A feature of this processor without which the cryptography of TLS does not run.
#[cfg(target_arch = "aarch64")]
pub(crate) fn lacks_for_tls() -> Option<&'static str> {
    use std::arch::is_aarch64_feature_detected as has;
    let needed =
        [("NEON", has!("neon")), ("AES", has!("aes")), ("PMULL", has!("pmull")), ("SHA2", has!("sha2"))];
    needed.into_iter().find(|(_, present)| !present).map(|(name, _)| name)
}

/// Bytes that may still be written below a folder; `None` where the platform does not tell.
#[cfg(unix)]
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Bytes that may still be written below a folder: this platform's standard library does not tell.
#[cfg(not(unix))]
pub(crate) fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

/// Makes `link` lead to the file `to`, which is given from the link's own folder.
#[cfg(unix)]
pub(crate) fn symlink(to: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, link)
}

/// Makes `link` lead to the file `to`, which is given from the link's own folder.
#[cfg(windows)]
pub(crate) fn symlink(to: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, link)
}

/// There are no symbolic links here.
#[cfg(not(any(unix, windows)))]
pub(crate) fn symlink(_to: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes what was renamed into a folder survive a crash of the machine.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Folders cannot be opened here; their changes reach the disk in the system's own time.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}
