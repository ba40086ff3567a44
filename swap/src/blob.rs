//! Blobs: what rests and moves as a whole.

use std::fmt;

/// Names a blob of one ledger; printed as `b41`. Numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId(pub u32);

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

/// Where a blob's bytes come from at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// They exist in a file that others keep, which counts as a copy on disk and costs no budget.
    File,
    /// Nowhere: the first copy that is placed begins them.
    Nowhere,
}

/// A run of bytes that rests and moves as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Length in bytes.
    pub len: u64,
    /// What the bytes are for, in one word such as `weights`; the ledger adds up bytes by it.
    pub kind: &'static str,
    /// Where they come from.
    pub source: Source,
    /// Whether bytes exist that no copy on disk has.
    pub dirty: bool,
}

impl Blob {
    /// A blob as it is before anything was placed.
    pub fn new(len: u64, kind: &'static str, source: Source) -> Blob {
        Blob { len, kind, source, dirty: false }
    }
}
