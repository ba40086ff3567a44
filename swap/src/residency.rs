//! What an executor talks to: blobs of files and blobs of its own, in one memory of a fixed size.
//!
//! Before each step it pins the step's blobs, and unpins them after. What comes next is read meanwhile. The memory is
//! the budget: what is in flight lies in it, and what is evicted leaves it before anything takes its place.

mod device;
mod road;

pub use device::{Copied, Mover};

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::file::SwapFile;
use crate::memory::{Memory, Span};
use crate::reader::{FileId, Reader, Requests, Sums};
use crate::store::{BLOCK_BYTES, Store};
use crate::{Agenda, Blob, BlobId, Budget, Ledger, Policy, Source, SwapError, Tick, Tier, Traffic};
use road::Road;

/// How a residency is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of memory for blobs, what is in flight included.
    pub memory_bytes: u64,
    /// What stays in it and how far ahead blobs are read.
    pub policy: Policy,
    /// The same for a device's memory, where there is one.
    pub device_policy: Policy,
    /// How they are read.
    pub requests: Requests,
    /// Where blobs that no file has are written when they must leave; without a folder they cannot.
    pub swap_folder: Option<PathBuf>,
    /// The most bytes that are written there.
    pub swap_bytes: u64,
    /// How long a pin waits for one move to end.
    pub wait_max: Duration,
    /// Pins that wait give up once this is set, until it is taken back.
    pub cancel: Arc<AtomicBool>,
}

impl Options {
    /// So much memory, an eighth of which (64 MiB to 512 MiB) is for what does not stay; of a device's, what one step uses
    /// and one blob more. No swap file.
    pub fn new(memory_bytes: u64) -> Options {
        let ring_bytes = (memory_bytes / 8).clamp(64 << 20, 512 << 20);
        Options {
            memory_bytes,
            policy: Policy::Stream { ring_bytes },
            device_policy: Policy::Stream { ring_bytes: 0 },
            requests: Requests::default(),
            swap_folder: None,
            swap_bytes: 0,
            wait_max: Duration::from_secs(60),
            cancel: Arc::default(),
        }
    }
}

/// A run of bytes of a file.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file.
    pub file: FileId,
    /// Where they begin. In memory they begin as far behind a block's border as there.
    pub at: u64,
    /// How many.
    pub len: u64,
    /// Their hashes, if somebody kept them: then no wrong byte is ever seen.
    pub sums: Option<Sums>,
}

/// What it has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written to the swap file.
    pub bytes_written: u64,
    /// Bytes between the memories of host and device, both ways.
    pub bytes_copied: u64,
    /// How often a pin waited.
    pub stalls: u64,
    /// How long pins waited in all.
    pub stall: Duration,
    /// Bytes of memory that blobs take now, those in flight included.
    pub used_bytes: u64,
    /// The most that they ever took.
    pub peak_bytes: u64,
    /// How long the swap file is.
    pub swap_bytes: u64,
}

/// Blobs in memory when they are used, for one executor thread.
///
/// When it is dropped its threads end, and its memory goes. If a file hangs, that is waited for as long as a pin would, or not
/// at all after a pin has given up; then threads that the system does not let go of stay, and the memory with them. So
/// whoever wants other memory in its place calls [`Residency::rest`] before.
#[derive(Debug)]
pub struct Residency {
    traffic: Traffic,
    road: Road,
}

impl Residency {
    /// Sets memory aside and starts threads.
    ///
    /// # Errors
    /// `Memory` if the system has none; `Folder` if the swap folder is of no use.
    pub fn new(options: &Options) -> Result<Residency, SwapError> {
        let swap = match &options.swap_folder {
            Some(folder) => Some(SwapFile::create(folder, options.swap_bytes)?),
            None => None,
        };
        Residency::with(options, swap, None)
    }

    /// The same with this swap file, and for a device: then blobs are pinned in its memory, and the host's is on the way.
    ///
    /// # Errors
    /// `Memory` if the system has none; `Io` if the swap file is of no use.
    pub fn with(
        options: &Options,
        swap: Option<SwapFile>,
        mover: Option<Box<dyn Mover>>,
    ) -> Result<Residency, SwapError> {
        let memory_bytes = options.memory_bytes / BLOCK_BYTES * BLOCK_BYTES;
        let swap_bytes = if swap.is_some() { options.swap_bytes } else { 0 };
        let device_bytes = mover.as_ref().map_or(0, |mover| mover.bytes() / BLOCK_BYTES * BLOCK_BYTES);
        let budget = Budget::unlimited().with(Tier::Host, memory_bytes).with(Tier::Disk, swap_bytes);
        let mut tiers = vec![(Tier::Host, options.policy)];
        tiers.extend(mover.is_some().then_some((Tier::Device, options.device_policy)));
        let memory = Memory::new(memory_bytes)
            .map_err(|error| SwapError::Memory { len: memory_bytes, why: error.to_string() })?;
        let mut traffic = Traffic::new(budget.with(Tier::Device, device_bytes), &tiers);
        if let Some(mover) = &mover {
            traffic.divide(mover.piece_bytes());
        }
        let road = Road::new(Reader::new(options.requests), memory, swap, mover, options)?;
        Ok(Residency { traffic, road })
    }

    /// Takes a file in; `path` is what errors call it.
    ///
    /// # Errors
    /// `Io` if the store does not know its length.
    pub fn add_file(&mut self, path: &Path, store: Arc<dyn Store>) -> Result<FileId, SwapError> {
        self.road.add_file(path, store)
    }

    /// Takes a blob of a file in. Nothing is read yet.
    ///
    /// # Errors
    /// There are no more names.
    ///
    /// # Panics
    /// If it has no bytes.
    pub fn add(&mut self, kind: &'static str, origin: Origin) -> Result<BlobId, SwapError> {
        let skew = origin.at % BLOCK_BYTES;
        let len = (skew + origin.len).next_multiple_of(BLOCK_BYTES);
        assert!(origin.len > 0, "a blob of {kind} without bytes");
        let blob = self.traffic.register(Blob::new(len, kind, Source::File))?;
        self.road.blobs.push(road::Kept {
            skew: skew as usize,
            len: origin.len as usize,
            origin: Some(origin),
        });
        Ok(blob)
    }

    /// Takes a blob in that no file of others has. It begins with zeros when it is first pinned; or goes on, if a residency
    /// before this one has left bytes of the blob of that number in the swap file, with those, and zeros behind them. One that is shorter than
    /// it was is so by whole chunks of [`SUM_BYTES`](crate::file::SUM_BYTES).
    ///
    /// # Errors
    /// There are no more names.
    ///
    /// # Panics
    /// If it has no bytes.
    pub fn add_own(&mut self, kind: &'static str, len: u64) -> Result<BlobId, SwapError> {
        let blob = Blob::new(len.next_multiple_of(BLOCK_BYTES), kind, Source::Nowhere);
        let blob = self.traffic.register(blob)?;
        self.road.blobs.push(road::Kept { skew: 0, len: len as usize, origin: None });
        if self.road.is_swapped(blob) {
            self.traffic.resume_with(blob)?;
        }
        Ok(blob)
    }

    /// Writes all that is in memory alone to the swap file, from which another residency can go on: see
    /// [`Residency::into_swap`]. Nothing is pinned.
    ///
    /// # Errors
    /// As [`Residency::pin`]; then nothing is lost.
    pub fn save(&mut self) -> Result<(), SwapError> {
        self.traffic.save(&mut self.road)
    }

    /// Waits until nothing is read or written any more, so that the memory goes with the residency. What was to be read ahead
    /// and was not begun need not come for that.
    ///
    /// # Errors
    /// `Late`, `Cancelled`; then all goes on as before.
    pub fn rest(&mut self) -> Result<(), SwapError> {
        self.road.rest()
    }

    /// Ends the residency. What was not [saved](Residency::save) of blobs of our own is lost.
    pub fn into_swap(self) -> Option<SwapFile> {
        self.road.into_swap()
    }

    /// Says when blobs are used from now on, from tick 0 again.
    ///
    /// # Errors
    /// `Full` if the blobs of one tick do not fit.
    pub fn arrange(&mut self, agenda: Agenda) -> Result<(), SwapError> {
        self.traffic.arrange(agenda)
    }

    /// Pins blobs for a tick, all or none, waiting for those that are not there; what comes next is read meanwhile. A
    /// blob may be pinned for several ticks at once.
    ///
    /// # Errors
    /// What hinders one from coming: `Io`, `PreviousIo`, `Corrupt`, `Late`, `Cancelled`; `Full` if they do not fit beside what else
    /// is pinned; `DiskFull` (`Full` without a swap file) if what must leave for them cannot be written.
    pub fn pin(&mut self, tick: Tick, blobs: &[BlobId]) -> Result<(), SwapError> {
        self.traffic.pin(tick, blobs, &mut self.road)
    }

    /// Takes the pins of a tick away.
    ///
    /// # Errors
    /// A blob is not known.
    ///
    /// # Panics
    /// If one is not pinned.
    pub fn unpin(&mut self, tick: Tick, blobs: &[BlobId]) -> Result<(), SwapError> {
        self.traffic.unpin(tick, blobs)
    }

    /// Begins to read what is used from `tick` on, without waiting: before the first step, or while nothing computes.
    ///
    /// # Errors
    /// None but faults of the books; a failed read is reported to the pin that needs it.
    pub fn prefetch(&mut self, tick: Tick) -> Result<(), SwapError> {
        self.traffic.pin(tick, &[], &mut self.road)
    }

    /// A blob's bytes, if they are in the host's memory; without a device those of pinned blobs are, at the same address
    /// until they are unpinned.
    pub fn bytes(&self, blob: BlobId) -> Option<&[u8]> {
        // SAFETY: the bytes are current, so no read into them is in flight; evicting them takes `&mut self`.
        self.span(blob).map(|span| unsafe { span.bytes() })
    }

    /// Notes that kernels are about to write to a pinned blob. Its copies elsewhere are out of date from now on.
    ///
    /// # Errors
    /// `Absent` if it is not where it is used; `Late` if it is being written elsewhere and that does not end.
    pub fn change(&mut self, blob: BlobId) -> Result<(), SwapError> {
        let len = self.road.blobs[blob.0 as usize].len as u64;
        self.change_part(blob, 0..len)
    }

    /// The same for some of its bytes: of a blob that was written to the swap file before, no others are written again.
    ///
    /// # Errors
    /// As [`Residency::change`].
    pub fn change_part(&mut self, blob: BlobId, bytes: Range<u64>) -> Result<(), SwapError> {
        self.traffic.change(blob, &mut self.road)?;
        self.road.change(blob, bytes);
        Ok(())
    }

    /// A blob's bytes on the host, to be changed where there is no device; what [`Residency::change`] says holds.
    ///
    /// # Errors
    /// As [`Residency::change`]; `Absent` if blobs are used on a device.
    pub fn bytes_mut(&mut self, blob: BlobId) -> Result<&mut [u8], SwapError> {
        if self.traffic.top() != Tier::Host {
            return Err(SwapError::Absent { blob, tier: Tier::Host });
        }
        self.change(blob)?;
        let span = self.span(blob).ok_or(SwapError::Absent { blob, tier: Tier::Host })?;
        // SAFETY: no move of the blob is in flight, and the borrow of `self` keeps others away.
        Ok(unsafe { span.bytes_mut() })
    }

    /// Gives the bytes of a blob of our own up, in memory and in the swap file: pages of a conversation that ended. Pinned
    /// again, it begins with zeros.
    ///
    /// # Errors
    /// `Pinned` if it is; `Late` if it is on its way and does not arrive.
    ///
    /// # Panics
    /// If it is a file's.
    pub fn discard(&mut self, blob: BlobId) -> Result<(), SwapError> {
        assert!(
            self.road.blobs[blob.0 as usize].origin.is_none(),
            "{blob} is a file's, and stays what it is"
        );
        self.traffic.discard(blob, &mut self.road)
    }

    /// Where the blob's bytes begin in the device's memory, if they are there.
    pub fn device_offset(&self, blob: BlobId) -> Option<u64> {
        self.traffic.offset(blob, Tier::Device)
    }

    /// Where the blob's bytes lie on the host, if they are there. Kernels may read there while the blob is pinned, and
    /// write after [`Residency::change`].
    pub fn span(&self, blob: BlobId) -> Option<Span> {
        let offset = self.traffic.offset(blob, Tier::Host)?;
        let kept = &self.road.blobs[blob.0 as usize];
        Some(self.road.memory.span(offset + kept.skew as u64, kept.len as u64))
    }

    /// Whether the policy keeps the blob for good where it is used.
    pub fn stays(&self, blob: BlobId) -> bool {
        self.traffic.stays(blob, self.traffic.top())
    }

    /// Lets files that failed be tried again: what one request could not read the next one may.
    pub fn forgive(&mut self) {
        self.road.forgive();
        self.traffic.resume();
    }

    /// The swap file, if there is one.
    pub fn swap(&self) -> Option<&SwapFile> {
        self.road.swap()
    }

    /// What it has cost so far.
    pub fn counts(&self) -> Counts {
        let (bytes_read, bytes_written) = self.road.reader.traffic();
        let ledger = self.traffic.ledger();
        Counts {
            bytes_read,
            bytes_written,
            bytes_copied: self.road.copied,
            stalls: self.road.stalls,
            stall: self.road.stall,
            used_bytes: ledger.used(Tier::Host),
            peak_bytes: ledger.peak(Tier::Host),
            swap_bytes: self.swap().map_or(0, SwapFile::bytes),
        }
    }

    /// The books.
    pub fn ledger(&self) -> &Ledger {
        self.traffic.ledger()
    }
}
