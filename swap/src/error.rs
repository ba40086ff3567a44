//! Why a change of the ledger is refused.

use std::fmt;

use crate::{BlobId, Tier};

/// Why a change of the ledger is refused. A refused change changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapError {
    /// The tier has not enough room within its budget.
    Full {
        /// The tier.
        tier: Tier,
        /// The bytes asked for.
        need: u64,
        /// The bytes that are free.
        have: u64,
    },
    /// No blob of that name is registered.
    Unknown {
        /// The name.
        blob: BlobId,
    },
    /// The blob has no current copy there.
    Absent {
        /// The blob.
        blob: BlobId,
        /// The tier.
        tier: Tier,
    },
    /// A pin holds the copy in its place.
    Pinned {
        /// The blob.
        blob: BlobId,
        /// The tier of the pinned copy.
        tier: Tier,
    },
    /// No other copy has the blob's bytes.
    OnlyCopy {
        /// The blob.
        blob: BlobId,
        /// The tier of its only current copy.
        tier: Tier,
    },
    /// The ledger has given out every name it has.
    Exhausted,
}

impl fmt::Display for SwapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SwapError::Full { tier, need, have } => {
                write!(f, "{need} bytes are needed on tier {tier}, {have} are free within its budget")
            }
            SwapError::Unknown { blob } => write!(f, "{blob} is not registered"),
            SwapError::Absent { blob, tier } => write!(f, "{blob} has no current copy on tier {tier}"),
            SwapError::Pinned { blob, tier } => write!(f, "{blob} is pinned on tier {tier}"),
            SwapError::OnlyCopy { blob, tier } => {
                write!(f, "the copy of {blob} on tier {tier} is the only current one")
            }
            SwapError::Exhausted => f.write_str("the ledger has no more names for blobs"),
        }
    }
}

impl std::error::Error for SwapError {}
