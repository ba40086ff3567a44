//! What a model holds of memory beside weights that come and go: that is taken off what limits leave for them.

use super::Network;
use crate::device::Mem;
use crate::error::Error;
use crate::os;
use crate::plan::SYMBOL_BLOCK;
use crate::residence::{Own, Residence, held};

/// How often logits are in memory on their way out: as bytes, as numbers of a pass, and as those of all its heads.
const LOGITS_COPIES: u64 = 3;

impl Network {
    /// Says it to where weights come and go, if they do; by `grown` the process has grown for it since it was first
    /// counted.
    ///
    /// # Errors
    /// Keys and values cannot be written to the swap file.
    pub(super) fn tell_own(&self, grown: u64) -> Result<(), Error> {
        let Some(residence) = self.residence() else { return Ok(()) };
        let [host, apart] = self.own_shares(residence);
        residence.own_apart(apart);
        residence.own(host, grown)
    }

    /// Says how many bytes of the host's memory whoever runs it keeps for it, or is going to take: images, their rows, texts
    /// that are tokenised. Weights and what else comes and goes leave room for them now, if the limit has not so much left.
    ///
    /// # Errors
    /// The limit does not hold them: then as many are kept as before. Else as [`Network::tell_own`].
    pub(crate) fn keep_beside(&mut self, bytes: u64) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.beside, bytes);
        if bytes < before && self.residence().is_some() {
            // What was kept for them is free, but not the system's yet.
            os::trim_heap();
        }
        let Some(residence) = self.residence().filter(|_| bytes != before) else { return Ok(()) };
        let [host, apart] = self.own_shares(residence);
        let outcome = match bytes > before {
            true => residence.foresee(host, apart, &[]),
            false => Ok(()),
        };
        let outcome = outcome.and_then(|()| residence.own_for_a_while(host));
        if outcome.is_err() {
            self.beside = before;
        }
        outcome
    }

    fn own_shares(&self, residence: &Residence) -> [Own; 2] {
        shares(residence, self.own(), self.plans.len(), self.through(self.logits_bytes()))
    }

    /// What the process holds now beside weights that were copied to its memory.
    pub(super) fn held_beside_copies(&self) -> u64 {
        let copied = if self.device.is_host() { self.weights.copied_bytes } else { 0 };
        held().saturating_sub(copied)
    }

    /// Bytes where the device has them.
    pub(super) fn own(&self) -> Own {
        let hidden = self.hidden.as_ref().map_or(0, |span| span.len);
        let stays = |(name, _): &(&String, &Mem)| !self.paged.contains_key(*name);
        let cache = self.states.iter().filter(stays).map(|(_, mem)| mem.len()).sum();
        // A step uses the keys and the values of one layer.
        let largest = self.in_pages.iter().max().copied().unwrap_or(0);
        let spillable = self.in_pages.iter().sum::<u64>().saturating_sub(2 * largest);
        let copied = self.weights.copied_bytes;
        Own { cache, spillable, buffers: self.buffer_bytes() + hidden, copied }
    }

    /// Bytes of the host's memory that logits of so many go out through, and rows of images come in.
    pub(super) fn through(&self, logits: u64) -> u64 {
        logits * LOGITS_COPIES + self.beside
    }

    /// Bytes of the longest logits.
    pub(super) fn logits_bytes(&self) -> u64 {
        let logits = self.plans.values().filter_map(|plan| plan.output("logits")).map(|span| span.len);
        logits.max().unwrap_or(0)
    }
}

/// What of all that so many plans hold is in the host's memory, with what goes through it, and what in a device's own.
pub(super) fn shares(residence: &Residence, own: Own, plans: usize, through: u64) -> [Own; 2] {
    match residence.is_apart() {
        true => {
            let buffers = own.buffers + plans as u64 * SYMBOL_BLOCK;
            [Own { buffers: through, ..Own::default() }, Own { buffers, ..own }]
        }
        false => [Own { buffers: own.buffers + through, ..own }, Own::default()],
    }
}
