//! Tiers of memory and the budgets on them.

use std::fmt;

/// A tier of memory, from the fastest to the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Memory that kernels read and write.
    Device,
    /// The machine's main memory, where that is not the device's.
    Host,
    /// Files of our own. A file that others keep is a [`Source`](crate::Source), not a use of this tier.
    Disk,
}

impl Tier {
    /// Every tier, fastest first.
    pub const ALL: [Tier; 3] = [Tier::Device, Tier::Host, Tier::Disk];

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Device => "device",
            Tier::Host => "host",
            Tier::Disk => "disk",
        })
    }
}

/// The most bytes that may be held on each tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    limits: [u64; 3],
}

impl Budget {
    /// No limit on any tier.
    pub fn unlimited() -> Budget {
        Budget { limits: [u64::MAX; 3] }
    }

    /// The same with at most `limit_bytes` on `tier`.
    pub fn with(mut self, tier: Tier, limit_bytes: u64) -> Budget {
        self.limits[tier.index()] = limit_bytes;
        self
    }

    /// The most bytes on `tier`.
    pub fn limit(&self, tier: Tier) -> u64 {
        self.limits[tier.index()]
    }
}
