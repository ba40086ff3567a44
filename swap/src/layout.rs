//! Which blob lies where in one tier's memory, and which of them must go to make room for another.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::Range;

use crate::{BlobId, Tick};

/// How readily a blob leaves: later is readier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    /// When it is wanted again; [`Tick::MAX`] for never, 0 for what is to stay.
    pub(crate) wanted: Tick,
    /// Whether its bytes must be written somewhere first.
    pub(crate) dirty: bool,
}

/// The end of a region at which a blob is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// What stays, so that it lies together.
    Low,
    /// What comes and goes.
    High,
}

/// Bytes that are free, or will be when the blobs in them have gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// When the first of the blobs in it is wanted again; [`Tick::MAX`] if there are none.
    pub(crate) wanted: Tick,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    len: u64,
    owner: Option<BlobId>,
}

impl Segment {
    fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// Segments one after another, while room is looked for: kept to save allocations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// Of each the bytes that would have to go, and those of them that must be written before.
    bytes: VecDeque<[u64; 2]>,
    leaving: u64,
    dirty: u64,
    /// How many segments the run has left behind.
    passed: usize,
    /// Which segments are wanted earlier than all behind them, and when.
    minima: VecDeque<(usize, Tick)>,
}

impl Run {
    fn clear(&mut self) {
        self.bytes.clear();
        self.minima.clear();
        (self.leaving, self.dirty, self.passed) = (0, 0, 0);
    }

    fn push(&mut self, leaving: u64, rank: Rank) {
        let dirty = if rank.dirty { leaving } else { 0 };
        while self.minima.back().is_some_and(|(_, wanted)| *wanted >= rank.wanted) {
            self.minima.pop_back();
        }
        self.minima.push_back((self.passed + self.bytes.len(), rank.wanted));
        self.bytes.push_back([leaving, dirty]);
        self.leaving += leaving;
        self.dirty += dirty;
    }

    fn pop(&mut self) {
        let Some([leaving, dirty]) = self.bytes.pop_front() else { return };
        self.leaving -= leaving;
        self.dirty -= dirty;
        if self.minima.front().is_some_and(|(at, _)| *at == self.passed) {
            self.minima.pop_front();
        }
        self.passed += 1;
    }

    /// When the first of them is wanted.
    fn wanted(&self) -> Tick {
        self.minima.front().map_or(Tick::MAX, |(_, wanted)| *wanted)
    }
}

/// A range of bytes as blobs and what is free between them. Finding room looks at all of it: a few hundred blobs
/// take some microseconds, and no call allocates once the lists have grown.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    len: u64,
    /// Without holes, in order; no two free ones side by side.
    segments: Vec<Segment>,
}

impl Layout {
    pub(crate) fn new(len: u64) -> Layout {
        let mut segments = Vec::new();
        if len > 0 {
            segments.push(Segment { offset: 0, len, owner: None });
        }
        Layout { len, segments }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The blobs that have bytes in a range.
    pub(crate) fn owners(&self, range: Range<u64>) -> impl Iterator<Item = BlobId> {
        let first = self.segments.partition_point(|segment| segment.end() <= range.start);
        let inside = self.segments[first..].iter().take_while(move |segment| segment.offset < range.end);
        inside.filter_map(|segment| segment.owner)
    }

    /// The best place for `len` bytes within a region. `rank` says how readily a blob leaves; nothing if it must not.
    ///
    /// The best place is the one whose blobs are wanted latest; of such, the one with fewest dirty bytes, then the one
    /// with fewest bytes that must go, then the one nearest to the region's end. Each blob is ranked once: the shortest run
    /// with room from one segment on ends no earlier than that from the segment before.
    pub(crate) fn find(
        &self,
        len: u64,
        region: Range<u64>,
        end: End,
        run: &mut Run,
        rank: impl Fn(BlobId) -> Option<Rank>,
    ) -> Option<Window> {
        let mut best: Option<(_, Window)> = None;
        let mut start = self.segments.partition_point(|segment| segment.end() <= region.start);
        let mut next = start;
        run.clear();
        loop {
            let from = self.segments.get(start).map_or(region.end, |first| first.offset.max(region.start));
            let to = if next > start { self.segments[next - 1].end().min(region.end) } else { from };
            if next > start && to - from >= len {
                let offset = match end {
                    End::Low => from,
                    End::High => to - len,
                };
                let place = match end {
                    End::Low => Reverse(offset),
                    End::High => Reverse(u64::MAX - offset),
                };
                let score = (run.wanted(), Reverse(run.dirty), Reverse(run.leaving), place);
                if best.as_ref().is_none_or(|(found, _)| score > *found) {
                    best = Some((score, Window { offset, len, wanted: run.wanted() }));
                }
                run.pop();
                start += 1;
                continue;
            }
            let Some(segment) = self.segments.get(next).filter(|segment| segment.offset < region.end) else {
                return best.map(|(_, window)| window);
            };
            next += 1;
            let free = Rank { wanted: Tick::MAX, dirty: false };
            match segment.owner.map_or(Some(free), &rank) {
                Some(rank) => run.push(if segment.owner.is_some() { segment.len } else { 0 }, rank),
                None => {
                    run.clear();
                    start = next;
                }
            }
        }
    }

    /// Gives bytes that are free to a blob.
    ///
    /// # Panics
    /// If they are not, which is a fault of the caller's books.
    pub(crate) fn take(&mut self, offset: u64, len: u64, owner: BlobId) {
        if len == 0 {
            return;
        }
        let at = self.segments.partition_point(|segment| segment.end() <= offset);
        let found = self.segments[at];
        let fits = found.owner.is_none() && found.offset <= offset && offset + len <= found.end();
        assert!(fits, "{len} bytes at {offset} for {owner} are not free: {found:?}");
        self.segments[at] = Segment { offset, len, owner: Some(owner) };
        let (before, behind) = (offset - found.offset, found.end() - (offset + len));
        if behind > 0 {
            self.segments.insert(at + 1, Segment { offset: offset + len, len: behind, owner: None });
        }
        if before > 0 {
            self.segments.insert(at, Segment { offset: found.offset, len: before, owner: None });
        }
    }

    /// Takes a blob's bytes back.
    ///
    /// # Panics
    /// If it has none there, which is a fault of the caller's books.
    pub(crate) fn free(&mut self, offset: u64, owner: BlobId) {
        let mut at = self.segments.partition_point(|segment| segment.end() <= offset);
        let found = self.segments[at];
        assert!(
            found.offset == offset && found.owner == Some(owner),
            "{owner} is not at {offset}: {found:?}"
        );
        self.segments[at].owner = None;
        if at > 0 && self.segments[at - 1].owner.is_none() {
            self.segments[at - 1].len += found.len;
            self.segments.remove(at);
            at -= 1;
        }
        if let Some(behind) = self.segments.get(at + 1).copied()
            && behind.owner.is_none()
        {
            self.segments[at].len += behind.len;
            self.segments.remove(at + 1);
        }
    }
}

#[cfg(test)]
#[path = "../tests/layout/mod.rs"]
mod tests;
