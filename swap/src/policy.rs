//! Which blobs stay in memory while others come and go.
//!
//! A pass uses blobs in a ring, again and again in the same order. What was used least recently is then just what is
//! wanted next, so that one blob too many has the usual rule load everything in every pass. Whoever knows the order
//! evicts what is wanted last: then a pass of N equal blobs, C of which fit, loads (N - C)N / (N - 1) of them. But the
//! blobs that are there then lie side by side in the order of use, and the disk rests while they are computed with.
//!
//! So blobs are divided instead: some stay, and the rest goes through a ring of memory. It costs the ring's bytes, and
//! a pass reads every other blob exactly once. Those that stay are spread evenly, so that the disk always has
//! something to do and a ring of a few blobs is enough to keep it busy.

use crate::BlobId;

/// What stays and how far ahead blobs are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Nothing stays by rule; whatever is wanted last makes room. Blobs are loaded ahead if they are used within
    /// `window_bytes` of what is used now: 0 for none.
    FurthestUse {
        /// Bytes of the agenda that are looked at ahead.
        window_bytes: u64,
    },
    /// As much stays as leaves `ring_bytes` for the rest to go through; what one tick uses and the largest blob beside
    /// it, if that is more, so that one can be read while others are used. 0 makes that two slots of equal blobs. Blobs
    /// that are much larger than others stay if they can, so that the ring need not be as large.
    Stream {
        /// The bytes of memory for what does not stay.
        ring_bytes: u64,
    },
}

/// Blobs that are shorter stay whenever they can: reading them costs a request each and saves hardly any memory.
pub const SMALL_BYTES: u64 = 256 << 10;

/// A blob as a policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which.
    pub blob: BlobId,
    /// Its bytes.
    pub len: u64,
    /// Whether it changes, so that leaving costs a write.
    pub changes: bool,
}

impl Policy {
    /// How far ahead blobs are loaded, in bytes of the agenda.
    pub fn window_bytes(&self) -> u64 {
        match self {
            Policy::FurthestUse { window_bytes } => *window_bytes,
            Policy::Stream { .. } => u64::MAX,
        }
    }

    /// Of blobs in the order of their first use, those that stay in `room` bytes: for each, whether it does. `most` says
    /// how many bytes a tick uses at most of all but some blobs.
    pub fn keep(&self, blobs: &[Candidate], room: u64, most: &dyn Fn(&[bool]) -> u64) -> Vec<bool> {
        let all: u64 = blobs.iter().map(|blob| blob.len).sum();
        let (mut kept, ring) = match self {
            _ if all <= room => return vec![true; blobs.len()],
            Policy::FurthestUse { .. } => return vec![false; blobs.len()],
            Policy::Stream { ring_bytes } => largest(blobs, room, *ring_bytes, most),
        };
        let large: u64 = blobs.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(blob, _)| blob.len).sum();
        let mut left = room.saturating_sub(ring).saturating_sub(large);
        let mut take = |kept: &mut bool, len: u64| {
            let fits = !*kept && len <= left;
            if fits {
                *kept = true;
                left -= len;
            }
            fits
        };
        for (kept, blob) in kept.iter_mut().zip(blobs).filter(|(_, blob)| blob.len < SMALL_BYTES) {
            take(kept, blob.len);
        }
        for (kept, blob) in kept.iter_mut().zip(blobs).filter(|(_, blob)| blob.changes) {
            take(kept, blob.len);
        }
        // Of the rest, as much of each stretch as of the whole.
        let rest = |kept: &[bool]| {
            blobs
                .iter()
                .zip(kept)
                .filter(|(_, kept)| !**kept)
                .map(|(blob, _)| u128::from(blob.len))
                .sum::<u128>()
        };
        let before: u64 = blobs.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(blob, _)| blob.len).sum();
        let (total, share) =
            (rest(&kept).max(1), u128::from(room.saturating_sub(ring).saturating_sub(before)));
        let (mut seen, mut staying) = (0u128, 0u128);
        for (kept, blob) in kept.iter_mut().zip(blobs).filter(|(kept, _)| !**kept) {
            let len = u128::from(blob.len);
            seen += len;
            if staying + len <= share * seen / total && take(kept, blob.len) {
                staying += len;
            }
        }
        // What lengths of several kinds have left over.
        for (kept, blob) in kept.iter_mut().zip(blobs) {
            take(kept, blob.len);
        }
        kept
    }
}

/// So many of the largest blobs are looked at: a model has a head and an embedding, and layers that are alike.
const LARGEST_MAX: usize = 16;

/// The largest blobs as far as a ring for the others is the smaller if they stay, and that ring's bytes. A matrix that
/// is twice as long as any other would have the ring twice as long for the one moment of its use.
fn largest(
    blobs: &[Candidate],
    room: u64,
    ring_bytes: u64,
    most: &dyn Fn(&[bool]) -> u64,
) -> (Vec<bool>, u64) {
    let ring = |kept: &[bool]| {
        let others = blobs.iter().zip(kept).filter(|(_, kept)| !**kept);
        let largest = others.map(|(blob, _)| blob.len).max().unwrap_or(0);
        most(kept).saturating_add(largest).max(ring_bytes)
    };
    let mut order: Vec<usize> = (0..blobs.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(blobs[*at].len));
    let mut kept = vec![false; blobs.len()];
    let mut best = (kept.clone(), ring(&kept));
    let mut bytes = 0;
    for at in order.into_iter().take(LARGEST_MAX) {
        kept[at] = true;
        bytes += blobs[at].len;
        let ring = ring(&kept);
        if best.1 == ring_bytes || bytes + ring > room {
            break;
        }
        if ring < best.1 {
            best = (kept.clone(), ring);
        }
    }
    best
}
