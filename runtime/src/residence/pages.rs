//! Keys and values that come and go: a blob for each state of pages, of as many of its first pages as are in use.
//!
//! Attention reads all pages of a state in one launch, so a state lies in one piece. It is as long as the pages that any
//! sequence has, with some more so that it need not grow with each token; where everything fits it is as long as it can
//! get. What a pass writes of it is known before: of what rests in the swap file no more is written again.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jtllm_swap::file::{SUM_BYTES, SwapFile};
use jtllm_swap::{BlobId, Residency, SwapError};

use super::{Kept, Lies, Limit, Residence, State};
use crate::device::{Mem, lent};
use crate::error::Error;

/// Opens a swap file.
pub type OpenSwap = dyn Fn() -> Result<SwapFile, SwapError> + Send + Sync;

/// Where keys and values go for which memory has no room.
#[derive(Clone)]
pub struct Spill {
    /// Opens a file for them.
    pub open: Arc<OpenSwap>,
    /// Whether a model whose keys and values cannot go there is refused.
    pub required: bool,
}

impl Spill {
    /// To files in a folder, without names where the system allows that.
    pub fn to(folder: &Path) -> Spill {
        let folder: PathBuf = folder.to_owned();
        Spill { open: Arc::new(move || SwapFile::create(&folder, SWAP_MAX)), required: true }
    }
}

impl fmt::Debug for Spill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spill").field("required", &self.required).finish_non_exhaustive()
    }
}

/// The most bytes of a swap file: what there is of a disk is looked at when it grows.
pub(super) const SWAP_MAX: u64 = 1 << 60;

/// States grow by so many pages at a time, and an eighth of what they have.
const STEP_PAGES: u64 = 32;

/// Where so much less is used than there is room for, states get shorter.
const SHRINK: u64 = 4;

/// Which pages are used.
#[derive(Debug, Default)]
pub(super) struct Use {
    /// As many of the first pages as hold all that sequences have.
    used: u64,
    /// Those that the pass writes to.
    written: Range<u64>,
    /// As many as states have in memory or in the swap file; none if they have all there are.
    room: Option<u64>,
}

impl Use {
    /// Pages that states had better have.
    fn wanted(&self) -> u64 {
        (self.used + self.used / 8).next_multiple_of(STEP_PAGES).max(STEP_PAGES)
    }

    /// Whether states had better have more or fewer pages than they have.
    fn is_wrong(&self) -> bool {
        self.room.is_some_and(|room| self.used > room || self.wanted() < room / SHRINK)
    }
}

/// An error of blobs, where a disk that is full has a name of its own.
pub(super) fn spilled(error: SwapError) -> Error {
    if error.is_disk_full() { Error::SwapSpace(error) } else { Error::Swap(error) }
}

impl State {
    /// The swap file, if there is to be one: another one where a residency could not begin and took it along.
    pub(super) fn swap_file(&mut self, limit: &Limit) -> Result<Option<SwapFile>, Error> {
        match (self.swap.take(), &limit.spill) {
            (None, Some(spill)) => (spill.open)().map(Some).map_err(Error::Swap),
            (swap, _) => Ok(swap),
        }
    }

    /// Has states be as long as they can get, or else as is wanted now; gives the bytes that all blobs take then.
    pub(super) fn lengthen(&mut self, to_the_most: bool) -> u64 {
        let room = Some(self.pages.wanted()).filter(|_| !to_the_most);
        self.pages.room = room;
        for kept in &mut self.blobs {
            if let Lies::Paged { page_bytes } = kept.lies {
                // Whole chunks, so that what the swap file has of a longer one can be read in a part.
                let bytes = room.map(|pages| (page_bytes * pages).next_multiple_of(SUM_BYTES));
                kept.len = bytes.unwrap_or(u64::MAX).min(kept.mem.len());
            }
        }
        self.blobs.iter().map(Kept::taken).sum()
    }
}

impl Residence {
    /// Whether keys and values may leave memory for a swap file.
    pub fn spills(&self) -> bool {
        self.spills
    }

    /// Takes a state of pages in, of so many bytes each. Its memory may be used in a launch of a step that names it.
    pub(crate) fn add_pages(&self, page_bytes: u64, pages: u64) -> Result<(BlobId, Mem), Error> {
        let mut state = self.lock();
        let mem = lent(page_bytes * pages);
        let lies = Lies::Paged { page_bytes };
        let blob = state.take_in(Kept { lies, len: 0, mem: mem.clone() })?;
        Ok((blob, mem))
    }

    /// Says which pages sequences have, and to which of them the next pass writes.
    ///
    /// # Errors
    /// States must have another length, and what they hold cannot be written to the swap file.
    pub(crate) fn use_pages(&self, used: u64, written: Range<u64>) -> Result<(), Error> {
        let mut state = self.lock();
        state.pages.used = used;
        state.pages.written = written;
        match state.residency.is_some() && state.pages.is_wrong() {
            true => state.retire(),
            false => Ok(()),
        }
    }

    /// Gives up what states hold, in memory and in the swap file: nobody wants it any more.
    pub(crate) fn forget_pages(&self) {
        let mut state = self.lock();
        // A launch that failed uses nothing any more.
        let _failed = state.let_go();
        let State { residency, blobs, swap, .. } = &mut *state;
        for (_, number) in blobs.iter().zip(0..).filter(|(kept, _)| kept.is_paged()) {
            if let Some(residency) = residency {
                // What does not end to move keeps its bytes, which nobody reads.
                let _late = residency.discard(BlobId(number));
            }
            if let Some(swap) = swap {
                swap.forget(BlobId(number));
            }
        }
    }
}

/// Notes that a step is about to write to these states.
pub(super) fn change(
    residency: &mut Residency,
    blobs: &[Kept],
    pages: &Use,
    states: &[BlobId],
) -> Result<(), SwapError> {
    for state in states {
        let Lies::Paged { page_bytes } = blobs[state.0 as usize].lies else { continue };
        residency.change_part(*state, pages.written.start * page_bytes..pages.written.end * page_bytes)?;
    }
    Ok(())
}
