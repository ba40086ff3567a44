//! Why a change of the ledger is refused, or bytes did not come.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::store::Action;
use crate::{BlobId, Tier};

/// What was asked of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The file.
    pub path: Arc<Path>,
    /// To read or to write.
    pub action: Action,
    /// Where in the file.
    pub at: u64,
    /// How many bytes.
    pub len: u64,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} bytes at byte {}", self.action, self.len, self.at)
    }
}

/// Why a change of the ledger is refused, or bytes did not come. A refused change changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The swap file has no room, within what it may take or on its disk.
    DiskFull {
        /// The file.
        path: Arc<Path>,
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
    /// The system refused to read or write.
    Io {
        /// The file.
        path: Arc<Path>,
        /// What was asked.
        action: Action,
        /// Where in the file.
        at: u64,
        /// The kind of the system's error.
        kind: io::ErrorKind,
        /// The system's words.
        why: String,
    },
    /// The file failed before, and nothing more is read from it until that is forgiven.
    PreviousIo {
        /// The file.
        path: Arc<Path>,
        /// How it failed.
        why: String,
    },
    /// Bytes are not those that were written, or read before, and were read twice.
    Corrupt {
        /// The file.
        path: Arc<Path>,
        /// Where in the file they begin.
        at: u64,
        /// How many bytes one hash covers.
        len: u64,
    },
    /// A folder cannot have swap files.
    Folder {
        /// The folder.
        path: Arc<Path>,
        /// Why not.
        why: String,
    },
    /// Memory is not to be had.
    Memory {
        /// Its bytes.
        len: u64,
        /// The system's words.
        why: String,
    },
    /// Bytes did not come in the time that somebody was ready to wait.
    Late {
        /// That time.
        waited_ms: u64,
        /// What has not ended; nothing if it is a copy between the memories of host and device.
        asked: Option<Asked>,
    },
    /// Somebody who waited for bytes wants them no more.
    Cancelled,
}

impl SwapError {
    /// Whether the disk had no room.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            SwapError::Full { tier, .. } => *tier == Tier::Disk,
            SwapError::DiskFull { .. } => true,
            SwapError::Io { kind, .. } => matches!(kind, StorageFull | QuotaExceeded | FileTooLarge),
            _ => false,
        }
    }
}

impl fmt::Display for SwapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SwapError::Full { tier, need, have } => {
                write!(f, "{need} bytes are needed on tier {tier}, {have} are free within its budget")
            }
            SwapError::DiskFull { path, need, have } => {
                write!(f, "{}: no room for {need} bytes more, {have} are free", path.display())
            }
            SwapError::Unknown { blob } => write!(f, "{blob} is not registered"),
            SwapError::Absent { blob, tier } => write!(f, "{blob} has no current copy on tier {tier}"),
            SwapError::Pinned { blob, tier } => write!(f, "{blob} is pinned on tier {tier}"),
            SwapError::OnlyCopy { blob, tier } => {
                write!(f, "the copy of {blob} on tier {tier} is the only current one")
            }
            SwapError::Exhausted => f.write_str("the ledger has no more names for blobs"),
            SwapError::Io { path, action, at, why, .. } => {
                write!(f, "{}: cannot {action} at byte {at}: {why}", path.display())
            }
            SwapError::PreviousIo { path, why } => {
                write!(f, "{}: not used any more since it failed: {why}", path.display())
            }
            SwapError::Corrupt { path, at, len } => {
                write!(
                    f,
                    "{}: the {len} bytes at byte {at} are not what they were, read twice",
                    path.display()
                )
            }
            SwapError::Folder { path, why } => {
                write!(f, "{}: no place for swap files: {why}", path.display())
            }
            SwapError::Memory { len, why } => write!(f, "{len} bytes of memory are not to be had: {why}"),
            SwapError::Cancelled => f.write_str("whoever waited for a disk has called that off"),
            SwapError::Late { waited_ms, asked: Some(asked) } => {
                write!(f, "{}: {waited_ms} ms were not enough to {asked}", asked.path.display())
            }
            SwapError::Late { waited_ms, asked: None } => {
                write!(f, "{waited_ms} ms were not enough to copy bytes to a device or back")
            }
        }
    }
}

impl std::error::Error for SwapError {}
