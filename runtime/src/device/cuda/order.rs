//! Two streams, and what orders them.
//!
//! Launches go to one stream, copies to and from the host to the other, so that weights come while kernels run. Each
//! memory remembers the last launch and the last copy that touched it; a stream waits for the other only if that has
//! touched what is needed now since the last time it waited.

use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::sys;

use super::calls::{self, DriverError};
use super::driver::{Event, Pinned, Stream};

/// Bytes of pinned memory that are given to the copy stream at once, and how many such parts there are.
const PART: usize = 4 << 20;
const PARTS: usize = 4;

/// The same for what comes and goes: while one is copied the other is written to.
const FILLER_PARTS: usize = 2;

type Done = Result<(), DriverError>;

/// When a memory was last touched.
#[derive(Default)]
pub(super) struct Touched {
    /// The number of the launch.
    launch: AtomicU64,
    /// The number of the copy.
    copy: AtomicU64,
}

/// Pinned memory through which bytes go up: filled from part to part, each used again when its copies are over.
struct Stage {
    memory: Pinned,
    /// For each part the end of its copies, once it is full.
    done: Vec<Option<Event>>,
    part: usize,
    used: usize,
}

impl Stage {
    fn new(parts: usize) -> Result<Stage, DriverError> {
        let memory = Pinned::new(PART * parts)?;
        Ok(Stage { memory, done: (0..parts).map(|_| None).collect(), part: 0, used: 0 })
    }

    /// Copies host bytes to an address, in the order of a stream; they are no longer needed when this returns.
    fn copy(&mut self, to: sys::CUdeviceptr, bytes: &[u8], stream: &Stream) -> Done {
        let mut done = 0;
        while done < bytes.len() {
            if self.used == PART {
                self.next_part(stream)?;
            }
            let len = (bytes.len() - done).min(PART - self.used);
            let start = self.part * PART + self.used;
            self.memory.bytes(start, len).copy_from_slice(&bytes[done..done + len]);
            let from = self.memory.address(start);
            // SAFETY: the caller owns so many bytes at the address; the pinned part is not changed before its
            // copies are over.
            unsafe {
                calls::cuMemcpyHtoDAsync_v2(to + done as u64, from, len, stream.0)?;
            }
            // Neighbouring bytes of pinned memory in one cache line would go back and forth.
            self.used = (self.used + len).next_multiple_of(256).min(PART);
            done += len;
        }
        Ok(())
    }

    fn next_part(&mut self, stream: &Stream) -> Done {
        match &self.done[self.part] {
            Some(event) => event.record(stream)?,
            None => {
                let event = Event::new()?;
                event.record(stream)?;
                self.done[self.part] = Some(event);
            }
        }
        self.part = (self.part + 1) % self.done.len();
        self.used = 0;
        match &self.done[self.part] {
            Some(event) => event.synchronize(),
            None => Ok(()),
        }
    }
}

/// A stream of its own for what comes and goes while launches run: nothing waits for it but whoever copies, and it waits
/// for memory to be there, once.
pub(super) struct Filler {
    stage: Stage,
    stream: Stream,
    copied: Event,
    /// For each part of pinned memory that something has arrived in it.
    arrived: [Event; FILLER_PARTS],
    /// The last copy that it is behind.
    copies_waited: u64,
}

impl Filler {
    pub(super) fn new() -> Result<Filler, DriverError> {
        let (stage, stream, copied) = (Stage::new(FILLER_PARTS)?, Stream::new()?, Event::new()?);
        Ok(Filler { stage, stream, copied, arrived: [Event::new()?, Event::new()?], copies_waited: 0 })
    }

    /// A memory is about to be touched that copies may still have to touch: it begins with zeros, for one.
    pub(super) fn before(&mut self, touched: &Touched, streams: &Streams) -> Done {
        if touched.copy.load(Ordering::Relaxed) > self.copies_waited {
            self.stream.wait(&self.copied, &streams.copy)?;
            self.copies_waited = streams.copies;
        }
        Ok(())
    }

    /// Copies host bytes to an address, and waits until they have arrived.
    pub(super) fn fill(&mut self, to: sys::CUdeviceptr, bytes: &[u8]) -> Done {
        self.stage.copy(to, bytes, &self.stream)?;
        // SAFETY: the stream is alive.
        unsafe { calls::cuStreamSynchronize(self.stream.0) }
    }

    /// Copies from an address to the host, and waits for it: while one part arrives the one before is copied on.
    pub(super) fn fetch(&mut self, from: sys::CUdeviceptr, bytes: &mut [u8]) -> Done {
        let (len, parts) = (bytes.len(), bytes.len().div_ceil(PART));
        for number in 0..=parts {
            if number < parts {
                let (start, part) = (number * PART, number % FILLER_PARTS);
                let to = self.stage.memory.address(part * PART);
                // SAFETY: the caller owns so many bytes at the address; nobody looks at the pinned bytes before the event.
                unsafe {
                    calls::cuMemcpyDtoHAsync_v2(
                        to,
                        from + start as u64,
                        PART.min(len - start),
                        self.stream.0,
                    )?;
                }
                self.arrived[part].record(&self.stream)?;
            }
            if let Some(before) = number.checked_sub(1) {
                let (start, part) = (before * PART, before % FILLER_PARTS);
                self.arrived[part].synchronize()?;
                let there = &mut bytes[start..len.min(start + PART)];
                there.copy_from_slice(self.stage.memory.bytes(part * PART, there.len()));
            }
        }
        Ok(())
    }
}

/// The streams of a device.
pub(super) struct Streams {
    pub(super) compute: Stream,
    pub(super) copy: Stream,
    computed: Event,
    copied: Event,
    /// Launches and copies so far.
    launches: u64,
    copies: u64,
    /// The last launch that the copy stream is behind, and the last copy that the compute stream is behind.
    launches_waited: u64,
    copies_waited: u64,
    up: Stage,
    down: Pinned,
}

impl Streams {
    pub(super) fn new() -> Result<Streams, DriverError> {
        Ok(Streams {
            compute: Stream::new()?,
            copy: Stream::new()?,
            computed: Event::new()?,
            copied: Event::new()?,
            launches: 0,
            copies: 0,
            launches_waited: 0,
            copies_waited: 0,
            up: Stage::new(PARTS)?,
            down: Pinned::new(PART)?,
        })
    }

    /// A launch is about to be given to the compute stream that touches these memories.
    pub(super) fn before_launch<'a>(&mut self, touched: impl Iterator<Item = &'a Touched>) -> Done {
        self.launches += 1;
        let mut last = 0;
        for touched in touched {
            last = last.max(touched.copy.load(Ordering::Relaxed));
            touched.launch.store(self.launches, Ordering::Relaxed);
        }
        if last > self.copies_waited {
            self.join_copies()?;
        }
        Ok(())
    }

    /// Orders the compute stream behind all copies so far.
    pub(super) fn join_copies(&mut self) -> Done {
        self.compute.wait(&self.copied, &self.copy)?;
        self.copies_waited = self.copies;
        Ok(())
    }

    /// A copy is about to be given to the copy stream that touches this memory.
    pub(super) fn before_copy(&mut self, touched: &Touched) -> Done {
        self.copies += 1;
        touched.copy.store(self.copies, Ordering::Relaxed);
        if touched.launch.load(Ordering::Relaxed) > self.launches_waited {
            self.copy.wait(&self.computed, &self.compute)?;
            self.launches_waited = self.launches;
        }
        Ok(())
    }

    /// Copies host bytes to an address; they are no longer needed when this returns.
    pub(super) fn upload(&mut self, to: sys::CUdeviceptr, bytes: &[u8]) -> Done {
        self.up.copy(to, bytes, &self.copy)
    }

    /// Waits for everything so far.
    pub(super) fn finish(&mut self) -> Done {
        // SAFETY: both streams are alive.
        unsafe {
            calls::cuStreamSynchronize(self.copy.0)?;
            calls::cuStreamSynchronize(self.compute.0)
        }
    }

    /// Copies from an address to the host, and waits for it.
    pub(super) fn download(&mut self, from: sys::CUdeviceptr, bytes: &mut [u8]) -> Done {
        for (at, chunk) in bytes.chunks_mut(PART).enumerate() {
            let start = from + (at * PART) as u64;
            // SAFETY: the caller owns so many bytes at the address; nobody looks at the pinned bytes before the
            // stream is done.
            unsafe {
                let to = self.down.address(0);
                calls::cuMemcpyDtoHAsync_v2(to, start, chunk.len(), self.copy.0)?;
                calls::cuStreamSynchronize(self.copy.0)?;
            }
            chunk.copy_from_slice(self.down.bytes(0, chunk.len()));
        }
        Ok(())
    }
}
