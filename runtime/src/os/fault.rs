//! Pages of mapped files that cannot be had: the file was shortened, or its disk fails. The system says so with a signal
//! (`SIGBUS`) to whoever reads there, in the middle of a kernel. The handler of this module puts zeros where the bytes are
//! missing, so that the kernel runs on, and notes it; whoever has the mapping [watched](Watched) looks before anybody
//! sees what was computed. Any other such signal goes where it went before.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mm::{self, MapFlags, ProtFlags};

/// The most mappings that are watched at a time. More are mapped all the same, and a missing page of those ends the
/// process, as it does without a handler.
const SLOTS: usize = 1024;

/// A mapping: nothing if it ends at 0.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    taken: AtomicBool,
    lost: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        taken: AtomicBool::new(false),
        lost: AtomicBool::new(false),
    }
}; SLOTS];

/// What was done about the signal before.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: it is written once, before the handler that reads it can be called.
unsafe impl Sync for Before {}

/// Bytes of a page; to ask the system is not for handlers.
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::uninit()));

/// A mapping of a file of which a missing page does not end the process, as long as this value lives.
#[derive(Debug)]
pub struct Watched(Option<usize>);

impl Watched {
    /// Watches these bytes, which are a mapping or a part of one.
    pub fn new(bytes: &[u8]) -> Watched {
        static LISTENING: Once = Once::new();
        LISTENING.call_once(listen);
        let range = bytes.as_ptr_range();
        let free = |slot: &&Slot| !slot.taken.swap(true, Ordering::Acquire);
        let found = TABLE.iter().position(|slot| free(&slot)).filter(|_| !bytes.is_empty());
        if let Some(slot) = found.map(|at| &TABLE[at]) {
            // Of what was lost before the pages are zeros, whoever watches them now.
            slot.lost.store(is_lost(bytes), Ordering::Relaxed);
            slot.start.store(range.start.addr(), Ordering::Relaxed);
            slot.end.store(range.end.addr(), Ordering::Release);
        }
        Watched(found)
    }

    /// As [`is_lost`] of the bytes that are watched, without looking for them.
    pub fn is_lost(&self) -> bool {
        self.0.is_some_and(|at| TABLE[at].lost.load(Ordering::Acquire))
    }
}

/// Whether a page of the mapping that is watched and has these bytes was missing when somebody read it. Then all behind
/// that page are zeros, for good.
pub fn is_lost(bytes: &[u8]) -> bool {
    let address = bytes.as_ptr().addr();
    TABLE.iter().any(|slot| {
        let end = slot.end.load(Ordering::Acquire);
        (slot.start.load(Ordering::Relaxed)..end).contains(&address) && slot.lost.load(Ordering::Acquire)
    })
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(slot) = self.0.map(|at| &TABLE[at]) {
            slot.end.store(0, Ordering::Relaxed);
            slot.taken.store(false, Ordering::Release);
        }
    }
}

fn listen() {
    PAGE_BYTES.store(super::page_size(), Ordering::Relaxed);
    // SAFETY: all zeros are a valid action; the handler has the signature that `SA_SIGINFO` asks for and calls nothing
    // that a handler may not; the place for the action before is written here alone, once.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = missing as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        // First what was before, so that the handler finds it; a system that refuses leaves things as they were.
        if libc::sigaction(libc::SIGBUS, ptr::null(), (*BEFORE.0.get()).as_mut_ptr()) == 0 {
            libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
        }
    }
}

/// Called in the thread that read what is not there. Loads, stores and two system calls, which a handler may make.
extern "C" fn missing(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the system gives a handler with `SA_SIGINFO` a valid description.
    let address = unsafe { (*info).si_addr() }.addr();
    let mut is_ours = false;
    // Several may watch the same mapping, each with a flag of its own.
    for slot in &TABLE {
        let end = slot.end.load(Ordering::Acquire);
        let inside = (slot.start.load(Ordering::Relaxed)..end).contains(&address);
        if inside && fill_with_zeros(address, end) {
            slot.lost.store(true, Ordering::Release);
            is_ours = true;
        }
    }
    if is_ours {
        return;
    }
    // Not ours: the instruction is run again, and its signal goes where it went before.
    // SAFETY: the place was filled before this handler was installed.
    unsafe { libc::sigaction(signal, (*BEFORE.0.get()).as_ptr(), ptr::null_mut()) };
}

/// Puts zeros in the place of a mapped file's pages from this address on.
fn fill_with_zeros(address: usize, end: usize) -> bool {
    let page = PAGE_BYTES.load(Ordering::Relaxed);
    let start = address / page * page;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: the range lies in a mapping of a file that is only read and that its owner has watched, so it is there: it
    // stays mapped, readable, and what is in it now could not be read.
    let mapped = unsafe {
        let place = ptr::with_exposed_provenance_mut::<c_void>(start);
        mm::mmap_anonymous(place, end - start, ProtFlags::READ, flags)
    };
    mapped.is_ok()
}
