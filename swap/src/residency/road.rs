//! How a residency's bytes move: between files and memory, by a reader.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::device::{Copied, Device, Mover};
use super::{Options, Origin};
use crate::file::SwapFile;
use crate::memory::Memory;
use crate::reader::{FileId, Job, Outcome, Reader, Ticket};
use crate::store::{Action, Store};
use crate::traffic::{Carrier, Ended, Move};
use crate::{BlobId, SwapError, Tier};

/// A blob as it lies in memory: its bytes begin `skew` bytes behind the first that are set aside.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) skew: usize,
    pub(super) len: usize,
    pub(super) origin: Option<Origin>,
}

/// How long is waited at a time. A process that is stopped meanwhile has not waited for longer: nobody knows what its disk
/// would have done.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long is waited for copies before files are looked at, where both are in flight.
const TURN: Duration = Duration::from_millis(1);

/// Reader and device come before the memory, so that nobody touches it any more when it goes; if the reader hangs, it takes
/// the memory along.
#[derive(Debug)]
pub(super) struct Road {
    pub(super) reader: Reader,
    device: Option<Device>,
    pub(super) memory: Arc<Memory>,
    swap: Option<(SwapFile, FileId)>,
    pub(super) blobs: Vec<Kept>,
    /// The blobs that open jobs move; a few, so that looking through them is quickest.
    moved: Vec<(Ticket, BlobId)>,
    reports: Vec<Outcome>,
    wait_max: Duration,
    cancel: Arc<AtomicBool>,
    /// Why somebody has waited in vain, until something ends or the next request begins.
    given_up: Option<SwapError>,
    pub(super) stalls: u64,
    pub(super) stall: Duration,
    /// Bytes between the memories of host and device.
    pub(super) copied: u64,
}

impl Road {
    pub(super) fn new(
        reader: Reader,
        memory: Memory,
        swap: Option<SwapFile>,
        mover: Option<Box<dyn Mover>>,
        options: &Options,
    ) -> Result<Road, SwapError> {
        let mut road = Road {
            reader,
            device: mover.map(|mover| Device { mover, in_flight: 0 }),
            memory: Arc::new(memory),
            swap: None,
            blobs: Vec::new(),
            moved: Vec::new(),
            reports: Vec::new(),
            wait_max: options.wait_max,
            cancel: options.cancel.clone(),
            given_up: None,
            stalls: 0,
            stall: Duration::ZERO,
            copied: 0,
        };
        if let Some(swap) = swap {
            let file = road.add_file(swap.path(), swap.store())?;
            road.swap = Some((swap, file));
        }
        Ok(road)
    }

    pub(super) fn add_file(&mut self, path: &Path, store: Arc<dyn Store>) -> Result<FileId, SwapError> {
        self.reader.add(path, store).map_err(|error| SwapError::Io {
            path: path.into(),
            action: Action::Read,
            at: 0,
            kind: error.kind(),
            why: error.to_string(),
        })
    }

    /// Whether the swap file has bytes of a blob.
    pub(super) fn is_swapped(&self, blob: BlobId) -> bool {
        self.swap.as_ref().is_some_and(|(swap, _)| swap.find(blob).is_some())
    }

    /// Notes that these bytes of a blob are others than those in the swap file.
    pub(super) fn change(&mut self, blob: BlobId, bytes: Range<u64>) {
        if let Some((swap, _)) = &mut self.swap {
            swap.change(blob, bytes);
        }
    }

    /// The swap file, when nothing moves any more.
    pub(super) fn into_swap(mut self) -> Option<SwapFile> {
        self.swap.take().map(|(swap, _)| swap)
    }

    /// Waits until nothing is read or written any more, and nothing is until somebody waits for a blob again.
    pub(super) fn rest(&mut self) -> Result<(), SwapError> {
        if self.reader.pause(Duration::ZERO) {
            return Ok(());
        }
        let outcome = self.patiently(None, |road, limit| road.reader.pause(limit).then_some(()));
        if outcome.is_err() {
            self.reader.resume();
        }
        outcome
    }

    /// Lets files that failed be tried again, and what did not come be waited for again.
    pub(super) fn forgive(&mut self) {
        self.given_up = None;
        self.reader.forgive();
    }

    pub(super) fn swap(&self) -> Option<&SwapFile> {
        self.swap.as_ref().map(|(swap, _)| swap)
    }

    /// The job that a move is.
    fn job(&mut self, moved: Move) -> Result<Job, SwapError> {
        let kept = &self.blobs[moved.blob.0 as usize];
        let (_, offset) = if moved.to.0 == Tier::Disk { moved.from } else { moved.to };
        let span = self.memory.span(offset, moved.len);
        if moved.to.0 == Tier::Disk {
            let full = SwapError::Full { tier: Tier::Disk, need: moved.len, have: 0 };
            let (swap, file) = self.swap.as_mut().ok_or(full)?;
            // SAFETY: the blob is current and held where it is, so nobody writes to it.
            let (extent, part) = swap.admit(moved.blob, unsafe { span.bytes() })?;
            let span = span.part(part.start as usize, (part.end - part.start) as usize);
            let (file, at, wanted) = (*file, extent.offset + part.start, (0, span.len()));
            return Ok(Job { action: Action::Write, file, at, span, wanted, sums: None });
        }
        if let Some((swap, file)) = &self.swap
            && let Some((extent, sums)) = swap.find(moved.blob)
        {
            // A blob that has grown since then goes on with zeros.
            let (there, beyond) = span.split(extent.len as usize);
            // SAFETY: the memory was set aside just now for bytes that nobody has seen yet.
            unsafe { beyond.bytes_mut() }.fill(0);
            let (sums, wanted) = (Some(sums.clone()), (0, there.len()));
            return Ok(Job {
                action: Action::Read,
                file: *file,
                at: extent.offset,
                span: there,
                wanted,
                sums,
            });
        }
        let origin = kept.origin.as_ref().expect("what is on disk is in its own file or in ours");
        Ok(Job {
            action: Action::Read,
            file: origin.file,
            at: origin.at - kept.skew as u64,
            span,
            wanted: (kept.skew, kept.len),
            sums: origin.sums.clone(),
        })
    }

    /// The copy that a move between the memories is.
    fn copied(&self, moved: Move) -> Copied {
        let kept = &self.blobs[moved.blob.0 as usize];
        let up = moved.to.0 == Tier::Device;
        let ((_, offset), (_, host)) = if up { (moved.to, moved.from) } else { (moved.from, moved.to) };
        let host = self.memory.span(host + kept.skew as u64, kept.len as u64);
        Copied { blob: moved.blob, host, offset, up }
    }

    /// A move that has ended. Waits for one, and counts how long, if a blob needs it.
    fn next(&mut self, waiting: Option<BlobId>) -> Result<Option<Ended>, SwapError> {
        if let Some(ended) = self.poll(Duration::ZERO) {
            self.given_up = None;
            return Ok(Some(ended));
        }
        let Some(blob) = waiting else { return Ok(None) };
        // Whoever has waited in vain, and is clearing up now, does not wait for each blob again.
        if let Some(late @ SwapError::Late { .. }) = &self.given_up {
            return Err(late.clone());
        }
        self.reader.resume();
        self.stalls += 1;
        let start = Instant::now();
        let ended = self.patiently(Some(blob), Road::poll);
        self.stall += start.elapsed();
        ended.map(Some)
    }

    /// Tries, a turn at a time, for as long as somebody is ready to wait.
    fn patiently<T>(
        &mut self,
        blob: Option<BlobId>,
        mut attempt: impl FnMut(&mut Road, Duration) -> Option<T>,
    ) -> Result<T, SwapError> {
        let mut waited = Duration::ZERO;
        let given_up = loop {
            if self.cancel.load(Ordering::Relaxed) {
                break SwapError::Cancelled;
            }
            let turn = self.wait_max.saturating_sub(waited).min(PATIENCE);
            if turn.is_zero() {
                break self.late(blob);
            }
            let start = Instant::now();
            let found = attempt(self, turn);
            waited += start.elapsed().min(turn);
            if let Some(found) = found {
                self.given_up = None;
                return Ok(found);
            }
        };
        self.given_up = Some(given_up.clone());
        Err(given_up)
    }

    /// Says what hangs: what moves the blob that is waited for, or what it waits behind.
    fn late(&self, blob: Option<BlobId>) -> SwapError {
        let waited_ms = u64::try_from(self.wait_max.as_millis()).unwrap_or(u64::MAX);
        let own = self.moved.iter().find(|(_, moved)| Some(*moved) == blob).map(|(ticket, _)| *ticket);
        let copies = self.device.as_ref().is_some_and(|device| device.in_flight > 0);
        let is_copied = blob.is_some() && own.is_none() && copies;
        let asked = if is_copied { None } else { self.reader.in_flight(own) };
        SwapError::Late { waited_ms, asked }
    }

    /// A move that has ended, or nothing after about so long.
    fn poll(&mut self, limit: Duration) -> Option<Ended> {
        let copies = self.device.as_ref().map_or(0, |device| device.in_flight);
        let device_limit = if self.moved.is_empty() { limit } else { limit.min(TURN) };
        if let Some(ended) = self.device.as_mut().and_then(|device| device.ended(device_limit)) {
            return Some(ended);
        }
        if self.reports.is_empty() {
            match limit.is_zero() || copies > 0 {
                true => self.reader.reported(&mut self.reports),
                false => self.reader.wait(&mut self.reports, limit),
            }
        }
        let (ticket, outcome) = self.reports.pop()?;
        let at = self.moved.iter().position(|(open, _)| *open == ticket).expect("each job is reported once");
        Some((self.moved.swap_remove(at).1, outcome))
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        // Whoever has just waited in vain waits a moment more; others for as long as for anything.
        let patience = if self.given_up.is_some() { PATIENCE } else { self.wait_max };
        if !self.reader.pause(patience) {
            // SAFETY: all that is asked of the reader here has its bytes in this memory.
            unsafe { self.reader.leave(self.memory.clone()) };
        }
    }
}

impl Carrier for Road {
    fn start(&mut self, moved: Move, urgent: bool) -> Result<(), SwapError> {
        if moved.from.0 == Tier::Device || moved.to.0 == Tier::Device {
            let copied = self.copied(moved);
            self.copied += copied.host.len() as u64;
            return self.device.as_mut().expect("a tier without a device has no blobs").start(copied);
        }
        let job = self.job(moved)?;
        // SAFETY: the memory is dropped after the reader. What is read into is set aside and not current before the
        // report; what is written is held, and a change of it waits for the report.
        let ticket = unsafe { self.reader.submit(job, urgent) };
        self.moved.push((ticket, moved.blob));
        Ok(())
    }

    fn begin(&mut self, tier: Tier, offset: u64, len: u64) -> Result<(), SwapError> {
        match &mut self.device {
            Some(device) if tier == Tier::Device => return device.mover.zero(offset, len),
            // SAFETY: the bytes were set aside just now, and nobody knows of them yet.
            _ => unsafe { self.memory.span(offset, len).bytes_mut() }.fill(0),
        }
        Ok(())
    }

    fn ended(&mut self, waiting: Option<BlobId>) -> Result<Option<Ended>, SwapError> {
        self.next(waiting)
    }

    fn forget(&mut self, blob: BlobId) {
        if let Some((swap, _)) = &mut self.swap {
            swap.forget(blob);
        }
    }
}
