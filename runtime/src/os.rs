//! Calls to the operating system, with portable fallbacks.

use std::io;
use std::sync::atomic::AtomicU32;

/// Pages of memory, mapped anonymously; unmapped on drop.
pub(crate) struct Pages {
    address: *mut u8,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; whoever shares it answers for its contents.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Where the mapping begins.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.address
    }

    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(unix)]
mod platform {
    use super::*;
    use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

    impl Pages {
        /// Zeroed memory of at least `len` bytes that can be read and written.
        pub(crate) fn map(len: usize) -> io::Result<Pages> {
            let len = len.max(1);
            // SAFETY: a fresh private mapping overlaps nothing.
            let address = unsafe {
                mmap_anonymous(
                    std::ptr::null_mut(),
                    len,
                    ProtFlags::READ | ProtFlags::WRITE,
                    MapFlags::PRIVATE,
                )
            }?;
            Ok(Pages { address: address.cast(), len })
        }

        /// From now on the mapping can be executed and no longer written.
        pub(crate) fn make_executable(&self) -> io::Result<()> {
            // SAFETY: the range is this mapping; nobody holds a mutable reference into it.
            unsafe { mprotect(self.address.cast(), self.len, MprotectFlags::READ | MprotectFlags::EXEC) }?;
            Ok(())
        }

        /// Asks for pages of 2 MB; a wish, so that a refusal is no error.
        pub(crate) fn wish_huge(&self) {
            #[cfg(target_os = "linux")]
            // SAFETY: the advice changes how the range is backed, not what it holds.
            let _refused = unsafe { madvise(self.address.cast(), self.len, Advice::LinuxHugepage) };
            #[cfg(not(target_os = "linux"))]
            let _ = (madvise as unsafe fn(_, _, _) -> _, Advice::Normal);
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: the range is this mapping, and its owner is going away.
            let _failed = unsafe { munmap(self.address.cast(), self.len) };
        }
    }
}

#[cfg(not(unix))]
mod platform {
    use super::*;
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    fn layout(len: usize) -> io::Result<Layout> {
        Layout::from_size_align(len.max(1), 4096).map_err(io::Error::other)
    }

    impl Pages {
        /// Zeroed memory of at least `len` bytes that can be read and written.
        pub(crate) fn map(len: usize) -> io::Result<Pages> {
            // SAFETY: the layout is not empty.
            let address = unsafe { alloc_zeroed(layout(len)?) };
            if address.is_null() {
                Err(io::ErrorKind::OutOfMemory.into())
            } else {
                Ok(Pages { address, len: len.max(1) })
            }
        }

        /// Not possible here: use the interpreter.
        pub(crate) fn make_executable(&self) -> io::Result<()> {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "executable memory is not implemented on this system",
            ))
        }

        /// No such pages here.
        pub(crate) fn wish_huge(&self) {}
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            if let Ok(layout) = layout(self.len) {
                // SAFETY: allocated above with the same layout.
                unsafe { dealloc(self.address, layout) }
            }
        }
    }
}

/// Sleeps until `word` no longer holds `seen`, or for no reason at all.
pub(crate) fn wait_while(word: &AtomicU32, seen: u32) {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::futex;
        let _woken = futex::wait(word, futex::Flags::PRIVATE, seen, None);
    }
    #[cfg(not(target_os = "linux"))]
    if word.load(std::sync::atomic::Ordering::Acquire) == seen {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

/// Wakes whoever sleeps on `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    #[cfg(target_os = "linux")]
    {
        use rustix::thread::futex;
        let _woken = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = word;
}

/// The logical processors that this process may run on.
pub(crate) fn allowed_processors() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        return (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
    }
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Keeps the calling thread on one processor; a wish, so that a refusal is no error.
pub(crate) fn pin_to(processor: usize) {
    #[cfg(target_os = "linux")]
    {
        let mut set = rustix::thread::CpuSet::new();
        set.set(processor);
        let _refused = rustix::thread::sched_setaffinity(None, &set);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = processor;
}
