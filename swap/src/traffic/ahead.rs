//! Loading ahead: the agenda is walked from now on, round the end of the pass, as far as the policy looks.

use super::room::Made;
use super::{Carrier, Move, Traffic};
use crate::{BlobId, SwapError, Tick, Tier};

impl Traffic {
    /// Begins every load that may begin by now. A failure is for whoever needs the blob; until
    /// [`Traffic::resume`] nothing is loaded ahead then.
    pub fn look_ahead(&mut self, carrier: &mut dyn Carrier) {
        for at in 0..self.pools.len() {
            while !self.paused {
                let moved = match self.ahead(at) {
                    Ok(Some(moved)) => moved,
                    Ok(None) => break,
                    // No room on the disk, say: who needs what cannot come will be told.
                    Err(_) => {
                        self.paused = true;
                        return;
                    }
                };
                // The note of a failure pauses.
                let _ = self.start(moved, false, carrier);
            }
        }
    }

    /// The next load to the tier of the pool at `at`, or what must be written before.
    fn ahead(&mut self, at: usize) -> Result<Option<Move>, SwapError> {
        let (length, uses) = (self.agenda.length(), self.agenda.order().len());
        if uses == 0 {
            return Ok(None);
        }
        let horizon = self.now.saturating_add(length);
        let mut front = self.pools[at].front.max(self.now);
        let (mut pass, mut index) = self.place(front);
        let looked_at = self.bytes_until(self.place(self.now));
        loop {
            let (tick, blob) = self.agenda.order()[index];
            front = pass.saturating_mul(length).saturating_add(tick);
            let far = self.bytes_until((pass, index)).wrapping_sub(looked_at);
            if front >= horizon || far >= self.pools[at].policy.window_bytes() {
                break;
            }
            if !self.comes(at, blob) {
                let Some(from) = self.ready(at, blob)? else { break };
                match self.make_room(at, blob, Some(front))? {
                    Made::At(offset) => {
                        self.pools[at].front = front;
                        return self.depart(blob, from, (self.pools[at].tier, offset)).map(Some);
                    }
                    Made::After(moved) => {
                        self.pools[at].front = front;
                        return Ok(Some(moved));
                    }
                    Made::Wait | Made::Blocked => break,
                }
            }
            (pass, index) = if index + 1 < uses { (pass, index + 1) } else { (pass + 1, 0) };
        }
        self.pools[at].front = front;
        Ok(None)
    }

    /// Whether nothing need be done to have a blob on this tier when it is used.
    fn comes(&self, at: usize, blob: BlobId) -> bool {
        let (tier, stand) = (self.pools[at].tier, self.stand(blob));
        let nowhere = matches!(self.source(blob), Ok(None));
        // A slower tier is a way to the faster ones, for what is not there.
        let faster = self.pools[..at]
            .iter()
            .any(|pool| self.is_on(blob, pool.tier) || stand.moving.is_some_and(|(_, to)| to == pool.tier));
        nowhere || faster || self.is_on(blob, tier) || stand.moving.is_some_and(|(_, to)| to == tier)
    }

    /// The tier from which a blob can come to this one now.
    fn ready(&self, at: usize, blob: BlobId) -> Result<Option<Tier>, SwapError> {
        let above = if at + 1 == self.pools.len() { Tier::Disk } else { self.pools[at + 1].tier };
        let source = self.source(blob)?;
        Ok(source.filter(|source| *source == above && self.stand(blob).moving.is_none()))
    }

    /// The first use at `tick` or later: its pass, and which it is of that pass.
    fn place(&self, tick: Tick) -> (Tick, usize) {
        let length = self.agenda.length();
        let (pass, within) = (tick / length, tick % length);
        let index = self.agenda.order().partition_point(|(tick, _)| *tick < within);
        if index == self.agenda.order().len() { (pass + 1, 0) } else { (pass, index) }
    }

    /// Bytes of all uses before one, over all passes, of which differences are wanted.
    fn bytes_until(&self, (pass, index): (Tick, usize)) -> u64 {
        let all = self.bytes_before.last().copied().unwrap_or(0);
        pass.wrapping_mul(all).wrapping_add(self.bytes_before[index])
    }
}
