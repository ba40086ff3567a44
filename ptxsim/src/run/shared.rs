//! Shared memory, with a record of who touched each byte last.
//!
//! Time is counted by a clock that goes on at every barrier, of the block or of a warp. Two touches of a byte by
//! different threads, one of them a write, are a race unless the earlier one lies before the last barrier that both
//! threads passed.

use crate::error::{Broken, Reason};

/// Who touched a byte, and when.
#[derive(Clone, Copy, Default)]
struct Touch {
    time: u32,
    who: Who,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Who {
    #[default]
    Nobody,
    Thread(u16),
    /// Several lanes of that warp.
    Lanes(u16),
    /// Threads of several warps.
    Warps,
    /// Atomic operations, which are no race with each other.
    Atomic,
    /// A copy that this thread has not waited for.
    Copy(u16),
}

/// How a byte is touched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Read,
    Write,
    Atomic,
    /// The destination of a copy that begins, or ends.
    CopyBegins,
    CopyEnds,
}

/// The memory of a block.
pub(crate) struct Shared {
    bytes: Vec<u8>,
    written: Vec<Touch>,
    read: Vec<Touch>,
    /// The clock; it goes on from block to block, so that nothing need be cleared.
    now: u32,
    /// When the block began, and when it passed its last barrier.
    begin: u32,
    barrier: u32,
}

/// A thread that touches memory, and when its warp last passed a barrier.
#[derive(Clone, Copy)]
pub(crate) struct Toucher {
    pub(crate) thread: u16,
    pub(crate) warp_barrier: u32,
}

impl Shared {
    pub(crate) fn new(len: usize) -> Shared {
        Shared {
            bytes: vec![0xFF; len],
            written: vec![Touch::default(); len],
            read: vec![Touch::default(); len],
            now: 1,
            begin: 1,
            barrier: 1,
        }
    }

    /// Fresh memory for the next block.
    pub(crate) fn begin_block(&mut self) -> u32 {
        self.bytes.fill(0xFF);
        self.now += 1;
        self.begin = self.now;
        self.barrier = self.now;
        self.now
    }

    /// All threads of the block meet.
    pub(crate) fn pass_barrier(&mut self) -> u32 {
        self.now += 1;
        self.barrier = self.now;
        self.now
    }

    /// The lanes of a warp meet.
    pub(crate) fn pass_warp_barrier(&mut self) -> u32 {
        self.now += 1;
        self.now
    }

    /// Whether an earlier touch could have happened at the same time as one of `by` now.
    fn is_unordered(&self, touch: Touch, by: Toucher) -> bool {
        if touch.time < self.barrier {
            return false;
        }
        match touch.who {
            Who::Nobody => false,
            Who::Thread(thread) | Who::Copy(thread) if thread == by.thread => false,
            Who::Thread(thread) | Who::Copy(thread) if thread / 32 == by.thread / 32 => {
                touch.time >= by.warp_barrier
            }
            Who::Lanes(warp) if warp == by.thread / 32 => touch.time >= by.warp_barrier,
            _ => true,
        }
    }

    /// Checks that `len` bytes at an address are there and may be touched so by that thread.
    #[inline]
    pub(crate) fn touch(
        &mut self,
        address: u64,
        len: usize,
        manner: Manner,
        by: Toucher,
    ) -> Result<usize, Broken> {
        let lane = u32::from(by.thread % 32);
        let broken = |reason, why| Err(Broken::new(reason, lane, why));
        if !address.is_multiple_of(len as u64) {
            let why =
                format!("an access of {len} bytes of shared memory at {address}, no multiple of its size");
            return broken(Reason::Misaligned, why);
        }
        let all = self.bytes.len() as u64;
        if address >= all || address + len as u64 > all {
            let far = address.saturating_add(len as u64) - all;
            let why = format!(
                "out of bounds: {len} bytes at byte {address} of {all} of shared memory, {far} too far"
            );
            return broken(Reason::OutOfBounds, why);
        }
        let start = address as usize;
        for at in start..start + len {
            if let Err((reason, why)) = self.touch_byte(at, manner, by) {
                return broken(reason, format!("byte {at} of shared memory: {why}"));
            }
        }
        Ok(start)
    }

    #[inline]
    fn touch_byte(&mut self, at: usize, manner: Manner, by: Toucher) -> Result<(), (Reason, String)> {
        let (written, read) = (self.written[at], self.read[at]);
        let me = Touch { time: self.now, who: Who::Thread(by.thread) };
        let fresh = written.time < self.begin;
        if let Who::Copy(thread) = written.who
            && !fresh
            && !(manner == Manner::CopyEnds && thread == by.thread)
        {
            let why = format!("a copy that thread {thread} began is not waited for");
            return Err((Reason::PendingCopy, why));
        }
        if fresh && matches!(manner, Manner::Read | Manner::Atomic) {
            return Err((Reason::Uninitialised, "it is read before anything is written there".to_owned()));
        }
        let both = written.who == Who::Atomic && manner == Manner::Atomic;
        if !fresh && !both && self.is_unordered(written, by) {
            let what = if manner == Manner::Read { "reads" } else { "writes" };
            return Err((Reason::Race, race(by, what, written.who, "wrote")));
        }
        if manner == Manner::Read {
            self.read[at] = self.joined(read, by);
            return Ok(());
        }
        if self.is_unordered(read, by) && !(both && read.who == Who::Atomic) {
            return Err((Reason::Race, race(by, "writes", read.who, "read")));
        }
        self.written[at] = match manner {
            Manner::Atomic => Touch { who: Who::Atomic, ..me },
            Manner::CopyBegins => Touch { who: Who::Copy(by.thread), ..me },
            _ => me,
        };
        Ok(())
    }

    /// Who has read a byte when that thread reads it too.
    fn joined(&self, before: Touch, by: Toucher) -> Touch {
        let one = Touch { time: self.now, who: Who::Thread(by.thread) };
        let warp = by.thread / 32;
        let who = match before.who {
            _ if before.time < self.barrier => return one,
            Who::Thread(thread) if thread == by.thread => return one,
            Who::Thread(thread) if thread / 32 == warp => Who::Lanes(warp),
            Who::Lanes(other) if other == warp => Who::Lanes(warp),
            Who::Nobody => return one,
            _ => Who::Warps,
        };
        // Lanes that met since then are in order with this one; all others see its read alone.
        if who == Who::Lanes(warp) && before.time < by.warp_barrier {
            return one;
        }
        Touch { time: self.now, who }
    }

    /// Whether a write of these bytes changes nothing: lanes of a warp may write the same.
    pub(crate) fn is_same(&self, address: u64, value: &[u8], by: Toucher) -> bool {
        let Some(start) = usize::try_from(address).ok() else { return false };
        let Some(bytes) = self.bytes.get(start..start.saturating_add(value.len())) else { return false };
        let lanes = |at: usize| match self.written[at] {
            Touch { time, who: Who::Thread(thread) } => time == self.now && thread / 32 == by.thread / 32,
            _ => false,
        };
        bytes == value && (start..start + value.len()).all(lanes)
    }

    /// The value of so many bytes, which were checked.
    #[inline]
    pub(crate) fn load(&self, at: usize, len: usize) -> u64 {
        let mut value = [0u8; 8];
        value[..len].copy_from_slice(&self.bytes[at..at + len]);
        u64::from_le_bytes(value)
    }

    /// Changes so many bytes, which were checked.
    #[inline]
    pub(crate) fn store(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn race(by: Toucher, what: &str, other: Who, did: &str) -> String {
    let name = |thread: u16| format!("warp {} lane {}", thread / 32, thread % 32);
    let other = match other {
        Who::Thread(thread) | Who::Copy(thread) => name(thread),
        Who::Lanes(warp) => format!("other lanes of warp {warp}"),
        Who::Warps => "another warp".to_owned(),
        Who::Atomic => "an atomic operation".to_owned(),
        Who::Nobody => "nobody".to_owned(),
    };
    format!("a race: {} {what} what {other} {did}, with no barrier between", name(by.thread))
}
