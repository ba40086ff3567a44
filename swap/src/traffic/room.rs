//! Making room: who leaves for whom, and what must be written before.

use std::ops::Range;

use super::{Carrier, Move, Next, Traffic};
use crate::layout::{End, Rank, Window};
use crate::{BlobId, SwapError, Tick, Tier};

/// What became of the search for room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Made {
    /// It is set aside, at this offset.
    At(u64),
    /// Something must be written elsewhere first.
    After(Move),
    /// Something that moves is in the way.
    Wait,
    /// Nobody leaves for this.
    Blocked,
}

impl Traffic {
    /// The next thing to do to have a blob on the top tier.
    pub(super) fn want(&mut self, blob: BlobId) -> Result<Next, SwapError> {
        let top = self.top();
        if self.ledger.copy(blob, top)? == (true, true) {
            return Ok(Next::Here);
        }
        if self.stand(blob).moving.is_some() {
            return Ok(Next::Wait);
        }
        let source = self.source(blob)?;
        let at = match source {
            Some(Tier::Disk) => self.pools.len() - 1,
            _ => 0,
        };
        match (self.make_room(at, blob, None)?, source) {
            (Made::At(offset), Some(from)) => {
                Ok(Next::Start(self.depart(blob, from, (self.pools[at].tier, offset))?))
            }
            (Made::At(offset), None) => {
                self.ledger.place(blob, top)?;
                Ok(Next::Begin(offset))
            }
            (Made::After(moved), _) => Ok(Next::Start(moved)),
            (Made::Wait | Made::Blocked, _) => Ok(Next::Wait),
        }
    }

    /// The fastest tier below the top that has the blob's newest bytes; nothing if there are none yet.
    pub(super) fn source(&self, blob: BlobId) -> Result<Option<Tier>, SwapError> {
        for tier in Tier::ALL {
            if self.ledger.copy(blob, tier)?.1 {
                return Ok(Some(tier));
            }
        }
        Ok(None)
    }

    /// Books a move for which room is set aside.
    pub(super) fn depart(&mut self, blob: BlobId, from: Tier, to: (Tier, u64)) -> Result<Move, SwapError> {
        if self.ledger.copy(blob, from)?.0 {
            // What is on its way must stay where it comes from.
            self.ledger.pin(blob, from)?;
        }
        self.in_flight += 1;
        let stand = &mut self.blobs[blob.0 as usize];
        stand.moving = Some((from, to.0));
        let offset = if from == Tier::Disk { 0 } else { stand.offset[from.index()] };
        Ok(Move { blob, len: stand.len, from: (from, offset), to })
    }

    /// Sets memory aside for a blob on the tier of the pool at `at`. Ahead of time, `guard` is the tick at which the
    /// blob is used: only what is used later leaves for it then. Without one somebody waits, and anything may leave.
    pub(super) fn make_room(
        &mut self,
        at: usize,
        blob: BlobId,
        guard: Option<Tick>,
    ) -> Result<Made, SwapError> {
        let (len, tier) = (self.stand(blob).len, self.pools[at].tier);
        let Some(window) = self.window(at, blob, guard) else {
            return match guard {
                Some(_) => Ok(Made::Blocked),
                None if self.in_flight > 0 => Ok(Made::Wait),
                None => Err(SwapError::Full { tier, need: len, have: self.ledger.free(tier) }),
            };
        };
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.clear();
        leaving.extend(self.pools[at].layout.owners(window.offset..window.offset + len));
        let outcome = self.clear(at, &leaving, guard);
        self.leaving = leaving;
        match outcome? {
            Some(made) => Ok(made),
            None => {
                self.ledger.reserve(blob, tier)?;
                self.pools[at].layout.take(window.offset, len, blob);
                self.blobs[blob.0 as usize].offset[tier.index()] = window.offset;
                Ok(Made::At(window.offset))
            }
        }
    }

    /// Has blobs leave; gives what must come before that, if anything.
    fn clear(
        &mut self,
        at: usize,
        leaving: &[BlobId],
        guard: Option<Tick>,
    ) -> Result<Option<Made>, SwapError> {
        let tier = self.pools[at].tier;
        for blob in leaving {
            if self.ledger.is_only(*blob, tier)? {
                return self.write_out(at, *blob, guard).map(Some);
            }
        }
        for blob in leaving {
            self.leave(at, *blob)?;
        }
        Ok(None)
    }

    /// Begins to write a blob's only bytes to the next slower tier.
    fn write_out(&mut self, at: usize, blob: BlobId, guard: Option<Tick>) -> Result<Made, SwapError> {
        let from = self.pools[at].tier;
        if at + 1 == self.pools.len() {
            self.ledger.reserve(blob, Tier::Disk)?;
            return Ok(Made::After(self.depart(blob, from, (Tier::Disk, 0))?));
        }
        match self.make_room(at + 1, blob, guard)? {
            Made::At(offset) => {
                let to = (self.pools[at + 1].tier, offset);
                Ok(Made::After(self.depart(blob, from, to)?))
            }
            other => Ok(other),
        }
    }

    /// Gives up a copy that exists elsewhere too.
    fn leave(&mut self, at: usize, blob: BlobId) -> Result<(), SwapError> {
        let pool = &mut self.pools[at];
        self.ledger.drop_copy(blob, pool.tier)?;
        let stand = &self.blobs[blob.0 as usize];
        pool.layout.free(stand.offset[pool.tier.index()], blob);
        pool.front = pool.front.min(stand.next_use);
        Ok(())
    }

    /// Gives up a copy on a tier with memory if nothing holds it.
    pub(super) fn leave_if_free(&mut self, tier: Tier, blob: BlobId) -> Result<(), SwapError> {
        let at = self.pools.iter().position(|pool| pool.tier == tier).expect("only such tiers are asked for");
        if self.rank(at, blob).is_some() && self.is_on(blob, tier) {
            self.leave(at, blob)?;
        }
        Ok(())
    }

    /// Empties each tier's memory of all that nobody holds, the slowest first, so that there is room below; what exists
    /// nowhere else goes to the next slower tier.
    pub(super) fn sweep(&mut self, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        (0..self.pools.len()).rev().try_for_each(|at| self.empty(at, carrier))
    }

    /// The same, the fastest first: then all that nobody holds is on the disk.
    pub(crate) fn save(&mut self, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        (0..self.pools.len()).try_for_each(|at| self.empty(at, carrier))
    }

    /// Empties the memory of the pool at `at` of all that nobody holds.
    pub(super) fn empty(&mut self, at: usize, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        let tier = self.pools[at].tier;
        let all: Vec<BlobId> = self.pools[at].layout.owners(0..self.pools[at].layout.len()).collect();
        for blob in all {
            self.wait_whatever_comes(blob, carrier)?;
            while self.rank(at, blob).is_some_and(|rank| rank.dirty) {
                match self.write_out(at, blob, None)? {
                    Made::After(moved) => {
                        self.start(moved, true, carrier)?;
                        self.wait_until_still(moved.blob, carrier)?;
                    }
                    _ => self.wait_for(blob, carrier)?,
                }
            }
            self.leave_if_free(tier, blob)?;
        }
        Ok(())
    }

    /// Where a blob would lie, if what is used up to the tick `guard` is to stay. What stays and what comes and goes have
    /// their own parts of memory, unless somebody waits (then there is no such tick) and there is no other room.
    fn window(&mut self, at: usize, blob: BlobId, guard: Option<Tick>) -> Option<Window> {
        let mut run = std::mem::take(&mut self.run);
        let (pool, stand) = (&self.pools[at], self.stand(blob));
        let (region, end) = match stand.stays[pool.tier.index()] {
            true => (0..pool.border, End::Low),
            false => (pool.border..pool.layout.len(), End::High),
        };
        let rank =
            |blob| self.rank(at, blob).filter(|rank| guard.is_none_or(|guarded| rank.wanted > guarded));
        let mut find = |region: Range<u64>| {
            let pieces = region.start / pool.piece..region.end.div_ceil(pool.piece);
            let inside = |piece: u64| {
                let (start, end) = (piece * pool.piece, (piece + 1).saturating_mul(pool.piece));
                region.start.max(start)..region.end.min(end)
            };
            let found = |piece| pool.layout.find(stand.len, inside(piece), end, &mut run, rank);
            pieces.filter_map(found).max_by_key(|window| window.wanted)
        };
        let found = match find(region) {
            None if guard.is_none() => find(0..pool.layout.len()),
            found => found,
        };
        self.run = run;
        found
    }

    /// How readily a blob leaves the tier of the pool at `at`; nothing if it must stay.
    fn rank(&self, at: usize, blob: BlobId) -> Option<Rank> {
        let (tier, stand) = (self.pools[at].tier, self.stand(blob));
        let moves = stand.moving.is_some_and(|(from, to)| from == tier || to == tier);
        if moves || self.ledger.is_pinned(blob, tier).unwrap_or(true) {
            return None;
        }
        let next_use = match stand.next_use < self.now {
            true => self.agenda.next_use(blob, self.now).unwrap_or(Tick::MAX),
            false => stand.next_use,
        };
        let wanted = if stand.stays[tier.index()] {
            0
        } else if self.pools[..at]
            .iter()
            .any(|faster| stand.stays[faster.tier.index()] && self.is_on(blob, faster.tier))
        {
            // It stays where it is used: nobody will ask for this copy.
            Tick::MAX
        } else {
            next_use
        };
        Some(Rank { wanted, dirty: self.ledger.is_only(blob, tier).unwrap_or(true) })
    }

    /// Whether a tier has the blob's newest bytes.
    pub(super) fn is_on(&self, blob: BlobId, tier: Tier) -> bool {
        self.ledger.copy(blob, tier).is_ok_and(|(held, current)| held && current)
    }
}
