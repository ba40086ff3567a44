//! Which pages of the cache belong to which sequence.

use jtllm_ir::build::PAGE;

/// The pages of all sequences: a free list, and a table for each sequence.
#[derive(Debug)]
pub struct PageTable {
    free: Vec<u32>,
    sequences: Vec<Vec<u32>>,
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
        PageTable { free, sequences: vec![Vec::new(); sequences], total: pages }
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
        let from = self.free.len() - missing;
        self.sequences[sequence].extend(self.free.drain(from..).rev());
        Ok(())
    }

    /// Gives back the pages behind the first `positions` positions of a sequence.
    pub fn truncate(&mut self, sequence: usize, positions: usize) {
        let keep = positions.div_ceil(PAGE as usize).min(self.sequences[sequence].len());
        let freed = self.sequences[sequence].split_off(keep);
        self.free.extend(freed.into_iter().rev());
    }

    /// Where a position's key and value go: page * 16 + place.
    pub fn slot(&self, sequence: usize, position: usize) -> Option<i32> {
        let page = self.sequences[sequence].get(position / PAGE as usize)?;
        i32::try_from(i64::from(*page) * PAGE + (position as i64 % PAGE)).ok()
    }

    /// A sequence's pages, in order.
    pub fn pages(&self, sequence: usize) -> &[u32] {
        &self.sequences[sequence]
    }
}
