//! The agenda: when each blob is used.

use std::collections::BTreeMap;

use crate::BlobId;

/// A point in time: how many steps came before it, over all passes.
pub type Tick = u64;

/// The ticks of a pass at which each blob is used. Passes follow each other without end, so the use after the
/// last one of a pass is the first one of the next.
#[derive(Clone, Debug, Default)]
pub struct Agenda {
    length: Tick,
    uses: BTreeMap<BlobId, Vec<Tick>>,
    /// All uses, in order.
    order: Vec<(Tick, BlobId)>,
}

impl Agenda {
    /// The agenda of a pass of `length` ticks, from each use's blob and tick within the pass, in any order.
    ///
    /// # Panics
    ///
    /// If a tick is not below `length`.
    pub fn new(length: Tick, uses: impl IntoIterator<Item = (BlobId, Tick)>) -> Agenda {
        let mut agenda = Agenda { length, ..Agenda::default() };
        for (blob, tick) in uses {
            assert!(tick < length, "{blob} is used at tick {tick} of a pass of {length}");
            agenda.uses.entry(blob).or_default().push(tick);
        }
        for ticks in agenda.uses.values_mut() {
            ticks.sort_unstable();
            ticks.dedup();
        }
        for (blob, ticks) in &agenda.uses {
            agenda.order.extend(ticks.iter().map(|tick| (*tick, *blob)));
        }
        agenda.order.sort_unstable();
        agenda
    }

    /// How many ticks a pass has.
    pub fn length(&self) -> Tick {
        self.length
    }

    /// The ticks within a pass at which `blob` is used, ascending.
    pub fn uses(&self, blob: BlobId) -> &[Tick] {
        self.uses.get(&blob).map_or(&[], Vec::as_slice)
    }

    /// All uses of a pass in order, each blob once a tick.
    pub fn order(&self) -> &[(Tick, BlobId)] {
        &self.order
    }

    /// The first use of `blob` at `now` or later, or nothing if no pass uses it (or time itself ends first).
    pub fn next_use(&self, blob: BlobId, now: Tick) -> Option<Tick> {
        let ticks = self.uses(blob);
        let first = *ticks.first()?;
        let (pass, within) = (now / self.length, now % self.length);
        match ticks.get(ticks.partition_point(|tick| *tick < within)) {
            Some(tick) => (pass * self.length).checked_add(*tick),
            None => pass.checked_add(1)?.checked_mul(self.length)?.checked_add(first),
        }
    }
}
