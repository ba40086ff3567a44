//! What is counted against a limit, and what is left of it for weights.

use std::fmt;
use std::sync::Arc;

use super::Most;
use crate::machine::resident_bytes;
use crate::os;

/// Threads that read have stacks of which they touch this much, the bytes on their way through it included.
const READING_BYTES: u64 = 1 << 20;

/// What nobody counts one by one: pieces that an allocator keeps, lists of a pass, tables of pages, a share of files that
/// the system keeps for us.
const MARGIN_BYTES: u64 = 16 << 20;

/// Of a limit one part of so many is for the tables of pages: eight bytes for each of 4 KiB.
const MARGIN_SHARE: u64 = 512;

/// Memory of the process that is not weights within the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Bytes of keys, values and states.
    pub cache: u64,
    /// How many of them need not be in memory at once if keys and values may go to a swap file.
    pub spillable: u64,
    /// Bytes of plans' buffers, and of logits on their way out.
    pub buffers: u64,
    /// Bytes of weights that lie in memory of their own.
    pub copied: u64,
}

/// A limit and what it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The limit.
    pub limit: Most,
    /// What the process held before the first pass, weights aside: program, tokenizer, kernels, lists.
    pub base: u64,
    /// What it is going to hold.
    pub own: Own,
    /// Bytes of weights that come and go or stay.
    pub all: u64,
    /// Bytes of keys and values that come and go or stay, when the context is full.
    pub paged: u64,
    /// Bytes of both that one step uses, at most.
    pub step: u64,
    /// Why packed weights cannot come and go, and lie in memory of their own.
    pub unkept: Option<Arc<str>>,
}

impl Counted {
    /// Bytes for all but weights within the limit.
    pub fn rest(&self) -> u64 {
        let Own { cache, buffers, copied, .. } = self.own;
        match self.limit {
            Most::Process(_) => self.base + cache + buffers + copied + READING_BYTES + self.margin(),
            Most::Device(_) => cache + buffers + copied,
            Most::Weights(_) => copied,
            Most::Unlimited => 0,
        }
    }

    /// What nobody counts, and the tables of pages.
    pub fn margin(&self) -> u64 {
        match self.limit {
            Most::Process(limit) => MARGIN_BYTES + limit / MARGIN_SHARE,
            _ => 0,
        }
    }

    /// Bytes that weights may take, and keys and values that come and go.
    ///
    /// # Errors
    /// One step needs more, or all else does.
    pub fn left(&self) -> Result<u64, TooLow> {
        let most = self.most().saturating_sub(self.rest()).min(self.all + self.paged);
        if self.rest() + self.step > self.most() { Err(TooLow(self.clone())) } else { Ok(most) }
    }

    /// The limit in bytes.
    fn most(&self) -> u64 {
        match self.limit {
            Most::Process(limit) | Most::Weights(limit) | Most::Device(limit) => limit,
            Most::Unlimited => u64::MAX,
        }
    }
}

/// A limit that leaves less for weights than one step reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLow(pub Counted);

impl TooLow {
    /// What weights take that do not come and go, and why they do not.
    fn write_copied(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counted { own, unkept, .. } = &self.0;
        if own.copied == 0 {
            return Ok(());
        }
        write!(f, "weights that cannot be read from a file {}", Mb(own.copied))?;
        if let Some(why) = unkept {
            write!(f, " (packed weights cannot be kept: {why})")?;
        }
        f.write_str(", ")
    }

    /// What one step uses, and what would help.
    fn write_step(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counted { own, paged, step, .. } = &self.0;
        let what = if *paged > 0 { "weights, keys and values" } else { "weights" };
        write!(f, "and {what} of one step {}", Mb(*step))?;
        match self.missing() <= own.spillable {
            true => write!(f, "; with --kv-spill keys and values may go to disk, and it would fit"),
            false => Ok(()),
        }
    }

    /// Bytes that are missing: with so many more the limit is enough.
    pub fn missing(&self) -> u64 {
        let Counted { limit, step, .. } = self.0;
        let need = self.0.rest() + step;
        match limit {
            // A share of the limit is not to be used.
            Most::Process(limit) => {
                let need = need - limit / MARGIN_SHARE;
                (need * MARGIN_SHARE).div_ceil(MARGIN_SHARE - 1).saturating_sub(limit)
            }
            Most::Weights(limit) | Most::Device(limit) => need.saturating_sub(limit),
            Most::Unlimited => 0,
        }
    }
}

/// A number of bytes in MB.
struct Mb(u64);

impl fmt::Display for Mb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MB", self.0 as f64 / 1e6)
    }
}

impl fmt::Display for TooLow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counted { limit, base, own, step, .. } = &self.0;
        // Rounded up: who adds what is said has enough.
        let missing = Mb(self.missing().next_multiple_of(100_000));
        match limit {
            Most::Process(limit) => {
                write!(f, "{missing} are missing: the memory limit is {}, ", Mb(*limit))?;
                write!(f, "of which the program itself takes {}, ", Mb(*base))?;
                write!(f, "keys, values and states {}, buffers {}, ", Mb(own.cache), Mb(own.buffers))?;
                write!(f, "reading and what is not counted {}, ", Mb(READING_BYTES + self.0.margin()))?;
                self.write_copied(f)?;
                self.write_step(f)
            }
            Most::Device(limit) => {
                write!(f, "{missing} are missing on the device: its limit is {}, ", Mb(*limit))?;
                write!(f, "of which keys, values and states take {}, ", Mb(own.cache))?;
                write!(f, "buffers {}, ", Mb(own.buffers))?;
                self.write_copied(f)?;
                self.write_step(f)
            }
            _ => {
                write!(f, "{missing} are missing for weights: ")?;
                self.write_copied(f)?;
                write!(f, "one step reads {}", Mb(*step))
            }
        }
    }
}

impl std::error::Error for TooLow {}

/// What the process is taken to hold where the system does not tell: twice what it holds on Linux before weights come.
const HELD_BYTES: u64 = 64 << 20;

/// What the process holds now; what compiling has freed is none of it.
pub(crate) fn held() -> u64 {
    os::trim_heap();
    resident_bytes().unwrap_or(HELD_BYTES)
}
