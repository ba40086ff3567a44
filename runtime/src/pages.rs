//! Which pages of the cache belong to which sequence.

use std::sync::Arc;

use jtllm_ir::build::PAGE;

/// The pages of all sequences: a free list, and a table for each sequence. A pass shares the tables that it reads, so
/// that none is copied for each token; whoever still holds one keeps it as it was.
#[derive(Debug)]
pub struct PageTable {
    free: Vec<u32>,
    sequences: Vec<Arc<Vec<u32>>>,
    total: usize,
}

/// The cache has no page left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Positions that fit in all.
    pub positions: usize,
}

impl PageTable {
    /// A table of `pages` free pages for `sequences` sequences.
    pub fn new(pages: usize, sequences: usize) -> PageTable {
        let free = (0..pages as u32).rev().collect();
        PageTable { free, sequences: vec![Arc::default(); sequences], total: pages }
    }

    /// Positions that fit in all.
    pub fn positions(&self) -> usize {
        self.total * PAGE as usize
    }

    /// Free pages.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// Makes room for `positions` positions of a sequence; on failure nothing changes.
    pub fn reserve(&mut self, sequence: usize, positions: usize) -> Result<(), Full> {
        let pages = positions.div_ceil(PAGE as usize);
        let missing = pages.saturating_sub(self.sequences[sequence].len());
        if missing > self.free.len() {
            return Err(Full { positions: self.positions() });
        }
        if missing > 0 {
            let from = self.free.len() - missing;
            Arc::make_mut(&mut self.sequences[sequence]).extend(self.free.drain(from..).rev());
        }
        Ok(())
    }

    /// Gives back the pages behind the first `positions` positions of a sequence.
    pub fn truncate(&mut self, sequence: usize, positions: usize) {
        let keep = positions.div_ceil(PAGE as usize).min(self.sequences[sequence].len());
        if keep < self.sequences[sequence].len() {
            let freed = Arc::make_mut(&mut self.sequences[sequence]).split_off(keep);
            self.free.extend(freed.into_iter().rev());
        }
    }

    /// Where a position's key and value go: page * 16 + place.
    pub fn slot(&self, sequence: usize, position: usize) -> Option<i32> {
        let page = self.sequences[sequence].get(position / PAGE as usize)?;
        i32::try_from(i64::from(*page) * PAGE + (position as i64 % PAGE)).ok()
    }

    /// A sequence's pages, in order.
    pub fn pages(&self, sequence: usize) -> &Arc<Vec<u32>> {
        &self.sequences[sequence]
    }
}
