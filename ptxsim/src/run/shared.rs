//! Shared memory, with a record of who touched each byte last.
//!
//! Time is counted by a clock that goes on at every barrier, of the block or of a warp. Two touches of a byte by
//! different threads, one of them a write, are a race unless the earlier one lies before the last barrier that both
//! threads passed.

use crate::error::{Broken, Reason};
use crate::run::units::Units;

/// Who touched a byte, and when: a time, a kind, and the number of a thread or a warp. In one word, because that is
/// written and read at once.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Touch(u64);

impl Touch {
    #[inline]
    fn new(time: u32, kind: Kind, number: u16) -> Touch {
        Touch(u64::from(time) << 32 | (kind as u64) << 16 | u64::from(number))
    }

    #[inline]
    fn time(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline]
    fn is(self, kind: Kind) -> bool {
        self.kind() == kind
    }

    #[inline]
    fn kind(self) -> Kind {
        match (self.0 >> 16) as u16 {
            1 => Kind::Thread,
            2 => Kind::Lanes,
            3 => Kind::Warps,
            4 => Kind::Atomic,
            5 => Kind::Copy,
            6 => Kind::Bytes,
            _ => Kind::Nobody,
        }
    }

    #[inline]
    fn number(self) -> u16 {
        self.0 as u16
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Kind {
    Nobody = 0,
    Thread = 1,
    /// Several lanes of that warp.
    Lanes = 2,
    /// Threads of several warps.
    Warps = 3,
    /// Atomic operations, which are no race with each other.
    Atomic = 4,
    /// A copy that this thread has not waited for.
    Copy = 5,
    /// The bytes of the word have histories of their own.
    Bytes = 6,
}

/// Who wrote a word or a byte last, and who has read it since.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct History {
    written: Touch,
    read: Touch,
}

impl History {
    #[inline]
    fn set(&mut self, manner: Manner, touch: Touch) {
        match manner {
            Manner::Read => self.read = touch,
            _ => self.written = touch,
        }
    }
}

/// Elements are mostly of whole words, whose bytes have one history.
const WORD: usize = 4;

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
    words: Vec<History>,
    /// Those of bytes, where their word says so.
    parts: Vec<[History; WORD]>,
    /// The clock; it goes on from block to block, so that nothing need be cleared.
    now: u32,
    /// When the block began, and when it passed its last barrier.
    begin: u32,
    barrier: u32,
    /// What units that read by themselves know of, if the kernel has products of warp groups.
    pub(crate) units: Option<Units>,
}

/// A thread that touches memory, and when its warp last passed a barrier.
#[derive(Clone, Copy)]
pub(crate) struct Toucher {
    pub(crate) thread: u16,
    pub(crate) warp_barrier: u32,
}

impl Shared {
    pub(crate) fn new(len: usize, units: bool) -> Shared {
        Shared {
            bytes: vec![0xFF; len],
            words: vec![History::default(); len.div_ceil(WORD)],
            parts: vec![[History::default(); WORD]; len.div_ceil(WORD)],
            now: 1,
            begin: 1,
            barrier: 1,
            units: units.then(|| Units::new(len)),
        }
    }

    /// Fresh memory for the next block.
    pub(crate) fn begin_block(&mut self) -> u32 {
        self.bytes.fill(0xFF);
        self.now += 1;
        self.begin = self.now;
        self.barrier = self.now;
        self.units.iter_mut().for_each(Units::begin_block);
        self.now
    }

    /// A thread shows the units what it has written.
    pub(crate) fn fence(&mut self, by: Toucher) {
        let now = self.now;
        self.units.iter_mut().for_each(|units| units.fence(by.thread, now));
    }

    /// A product that reads 16 bytes for a thread's warp group begins.
    pub(crate) fn begin_product(&mut self, address: u64, by: Toucher) -> Result<usize, Broken> {
        let start = self.touch(address, 16, Manner::Read, by)?;
        if let Some(units) = &mut self.units {
            units.begin_product(start, self.barrier).map_err(|reason| at_byte(start, reason, by))?;
        }
        Ok(start)
    }

    /// A product that has read 16 bytes is waited for; a warp's lanes count as having read them now.
    pub(crate) fn end_product(&mut self, start: usize, by: Toucher) -> Result<(), Broken> {
        if let Some(units) = &mut self.units {
            units.end_product(start);
        }
        self.touch(start as u64, 16, Manner::Read, by)?;
        self.touch(start as u64, 16, Manner::Read, Toucher { thread: by.thread + 1, ..by })?;
        Ok(())
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
    #[inline]
    fn is_unordered(&self, touch: Touch, by: Toucher) -> bool {
        if touch.time() < self.barrier {
            return false;
        }
        match touch.kind() {
            Kind::Nobody => false,
            Kind::Thread | Kind::Copy if touch.number() == by.thread => false,
            Kind::Thread | Kind::Copy if touch.number() / 32 == by.thread / 32 => {
                touch.time() >= by.warp_barrier
            }
            Kind::Lanes if touch.number() == by.thread / 32 => touch.time() >= by.warp_barrier,
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
        let all = self.bytes.len() as u64;
        if !address.is_multiple_of(len as u64) || address >= all || address + len as u64 > all {
            return Err(misplaced(address, len, all, by));
        }
        let start = address as usize;
        if let (Some(units), true) = (&mut self.units, manner != Manner::Read) {
            units.write(start, len, by.thread).map_err(|reason| at_byte(start, reason, by))?;
        }
        if len < WORD {
            self.touch_bytes(start, len, manner, by)?;
            return Ok(start);
        }
        for word in start / WORD..(start + len) / WORD {
            let history = self.words[word];
            if history.written.is(Kind::Bytes) {
                self.touch_bytes(word * WORD, WORD, manner, by)?;
                let parts = &self.parts[word];
                if parts.iter().all(|part| *part == parts[0]) {
                    self.words[word] = parts[0];
                }
            } else {
                let new = self.touched(history, manner, by).map_err(|x| at_byte(word * WORD, x, by))?;
                self.words[word].set(manner, new);
            }
        }
        Ok(start)
    }

    /// Touches some bytes of one word.
    fn touch_bytes(&mut self, start: usize, len: usize, manner: Manner, by: Toucher) -> Result<(), Broken> {
        let word = start / WORD;
        if !self.words[word].written.is(Kind::Bytes) {
            self.parts[word] = [self.words[word]; WORD];
            self.words[word].written = Touch::new(0, Kind::Bytes, 0);
        }
        for at in start..start + len {
            let new = self.touched(self.parts[word][at % WORD], manner, by);
            let new = new.map_err(|x| at_byte(at, x, by))?;
            self.parts[word][at % WORD].set(manner, new);
        }
        Ok(())
    }

    /// What is known of the reads or of the writes of a byte after it was touched.
    #[inline]
    fn touched(
        &self,
        History { written, read }: History,
        manner: Manner,
        by: Toucher,
    ) -> Result<Touch, (Reason, String)> {
        let fresh = written.time() < self.begin;
        if written.is(Kind::Copy) && !fresh {
            let thread = written.number();
            if !(manner == Manner::CopyEnds && thread == by.thread) {
                let why = format!("a copy that thread {thread} began is not waited for");
                return Err((Reason::PendingCopy, why));
            }
        }
        if fresh && matches!(manner, Manner::Read | Manner::Atomic) {
            return Err((Reason::Uninitialised, "it is read before anything is written there".to_owned()));
        }
        let both = written.is(Kind::Atomic) && manner == Manner::Atomic;
        if !fresh && !both && self.is_unordered(written, by) {
            let what = if manner == Manner::Read { "reads" } else { "writes" };
            return Err((Reason::Race, race(by, what, written, "wrote")));
        }
        if manner == Manner::Read {
            return Ok(self.joined(read, by));
        }
        if self.is_unordered(read, by) {
            return Err((Reason::Race, race(by, "writes", read, "read")));
        }
        let kind = match manner {
            Manner::Atomic => Kind::Atomic,
            Manner::CopyBegins => Kind::Copy,
            _ => Kind::Thread,
        };
        Ok(Touch::new(self.now, kind, by.thread))
    }

    /// Who has read a byte when that thread reads it too.
    #[inline]
    fn joined(&self, before: Touch, by: Toucher) -> Touch {
        let one = Touch::new(self.now, Kind::Thread, by.thread);
        let warp = by.thread / 32;
        let lanes = match before.kind() {
            _ if before.time() < self.barrier => return one,
            Kind::Nobody => return one,
            Kind::Thread if before.number() == by.thread => return one,
            Kind::Thread => before.number() / 32 == warp,
            Kind::Lanes => before.number() == warp,
            _ => false,
        };
        match lanes {
            // Lanes that met since then are in order with this one; all others see its read alone.
            true if before.time() < by.warp_barrier => one,
            true => Touch::new(self.now, Kind::Lanes, warp),
            false => Touch::new(self.now, Kind::Warps, 0),
        }
    }

    /// Whether a write of these bytes changes nothing: lanes of a warp may write the same.
    #[inline]
    pub(crate) fn is_same(&self, address: u64, value: &[u8], by: Toucher) -> bool {
        let Some(start) = usize::try_from(address).ok() else { return false };
        let lanes = |touch: Touch| {
            touch.time() == self.now && touch.kind() == Kind::Thread && touch.number() / 32 == by.thread / 32
        };
        let written = |at: usize| match self.words[at / WORD].written {
            written if written.is(Kind::Bytes) => self.parts[at / WORD][at % WORD].written,
            written => written,
        };
        let end = start.saturating_add(value.len());
        end <= self.bytes.len()
            && (start..end).all(|at| lanes(written(at)))
            && self.bytes[start..end] == *value
    }

    /// The value of so many bytes, which were checked.
    #[inline]
    pub(crate) fn load(&self, at: usize, len: usize) -> u64 {
        let bytes = &self.bytes[at..at + len];
        match *bytes {
            [a] => u64::from(a),
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            _ => bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
        }
    }

    /// Changes so many bytes, which were checked.
    #[inline]
    pub(crate) fn store(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

#[cold]
fn misplaced(address: u64, len: usize, all: u64, by: Toucher) -> Broken {
    let lane = u32::from(by.thread % 32);
    if !address.is_multiple_of(len as u64) {
        let why = format!("an access of {len} bytes of shared memory at {address}, no multiple of its size");
        return Broken::new(Reason::Misaligned, lane, why);
    }
    let far = address.saturating_add(len as u64) - all;
    let why =
        format!("out of bounds: {len} bytes at byte {address} of {all} of shared memory, {far} too far");
    Broken::new(Reason::OutOfBounds, lane, why)
}

#[cold]
fn at_byte(at: usize, (reason, why): (Reason, String), by: Toucher) -> Broken {
    Broken::new(reason, u32::from(by.thread % 32), format!("byte {at} of shared memory: {why}"))
}

#[cold]
fn race(by: Toucher, what: &str, other: Touch, did: &str) -> String {
    let name = |thread: u16| format!("warp {} lane {}", thread / 32, thread % 32);
    let other = match other.kind() {
        Kind::Thread | Kind::Copy => name(other.number()),
        Kind::Lanes => format!("other lanes of warp {}", other.number()),
        Kind::Warps => "another warp".to_owned(),
        Kind::Atomic => "an atomic operation".to_owned(),
        Kind::Nobody | Kind::Bytes => "nobody".to_owned(),
    };
    format!("a race: {} {what} what {other} {did}, with no barrier between", name(by.thread))
}
