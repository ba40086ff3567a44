//! Which blob moves where and when: the ledger, the agenda, a policy and the layout of each tier, as one.
//!
//! Nothing here moves a byte or knows a clock. Whoever does, a [`Carrier`], is told what to begin and says what has
//! ended. [`Residency`](crate::Residency) carries with threads and files, [`sim`](crate::sim) with a clock of its own:
//! so what a simulation predicts is what the same decisions cost.

mod ahead;
mod room;

use crate::layout::{Layout, Run};
use crate::policy::{Candidate, Policy};
use crate::{Agenda, Blob, BlobId, Budget, Ledger, SwapError, Tick, Tier};

/// A blob's bytes on their way from one tier to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The blob.
    pub blob: BlobId,
    /// How many bytes.
    pub len: u64,
    /// The tier that has them, and where in its memory; on disk the carrier knows where.
    pub from: (Tier, u64),
    /// The tier that gets them, and where in its memory; on disk the carrier decides.
    pub to: (Tier, u64),
}

/// The blob of a move that ended, and how it did.
pub type Ended = (BlobId, Result<(), SwapError>);

/// Whoever moves bytes.
pub trait Carrier {
    /// Begins a move; `urgent` if somebody waits for it. One blob is moved once at a time.
    ///
    /// # Errors
    /// It cannot even begin.
    fn start(&mut self, moved: Move, urgent: bool) -> Result<(), SwapError>;

    /// Begins a blob that has no bytes yet, with zeros.
    ///
    /// # Errors
    /// They cannot be put there.
    fn begin(&mut self, tier: Tier, offset: u64, len: u64) -> Result<(), SwapError>;

    /// A move that ended and how, each once; if `waiting` is a blob, waits for one on its account.
    ///
    /// # Errors
    /// Nothing ended in the time that the carrier is ready to wait.
    fn ended(&mut self, waiting: Option<BlobId>) -> Result<Option<Ended>, SwapError>;

    /// The blob's copy on disk is not needed any more.
    fn forget(&mut self, blob: BlobId);
}

/// What is known of a blob beside the ledger's entry.
#[derive(Clone, Copy, Debug, Default)]
struct Stand {
    len: u64,
    /// When it is used next; [`Tick::MAX`] for never. May lie behind if nobody pinned the blob then.
    next_use: Tick,
    /// Whether it stays, on the device and on the host.
    stays: [bool; 2],
    /// Where it lies there, if bytes are set aside.
    offset: [u64; 2],
    moving: Option<(Tier, Tier)>,
}

/// One tier's memory.
#[derive(Clone, Debug)]
struct Pool {
    tier: Tier,
    policy: Policy,
    layout: Layout,
    /// Its memory is in pieces of so many bytes, and no blob lies in two.
    piece: u64,
    /// Bytes at its beginning that are for what stays.
    border: u64,
    /// All uses before this tick find their blobs here or on the way.
    front: Tick,
}

/// What to do next to have a blob on the top tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Here,
    Start(Move),
    /// Zeros are to be put there.
    Begin(u64),
    Wait,
}

/// Decides what moves. For one executor, who alone calls it.
#[derive(Debug)]
pub struct Traffic {
    ledger: Ledger,
    agenda: Agenda,
    blobs: Vec<Stand>,
    /// Those with memory, the fastest first.
    pools: Vec<Pool>,
    now: Tick,
    in_flight: usize,
    /// Bytes of all uses before each in a pass.
    bytes_before: Vec<u64>,
    /// Something failed, so nothing is loaded ahead.
    paused: bool,
    /// Who is to leave; kept to save allocations.
    leaving: Vec<BlobId>,
    /// What room is looked for with; likewise.
    run: Run,
}

impl Traffic {
    /// Traffic between the disk and these tiers, each with the memory that the budget allows and a policy.
    ///
    /// # Panics
    /// If there are no tiers, or the disk is one of them.
    pub fn new(budget: Budget, tiers: &[(Tier, Policy)]) -> Traffic {
        assert!(!tiers.is_empty() && tiers.iter().all(|(tier, _)| *tier != Tier::Disk), "{tiers:?}");
        let pool = |&(tier, policy)| {
            let layout = Layout::new(budget.limit(tier));
            Pool { tier, policy, border: layout.len(), layout, piece: u64::MAX, front: 0 }
        };
        let mut pools: Vec<Pool> = tiers.iter().map(pool).collect();
        pools.sort_by_key(|pool| pool.tier);
        Traffic {
            ledger: Ledger::new(budget),
            agenda: Agenda::default(),
            blobs: Vec::new(),
            pools,
            now: 0,
            in_flight: 0,
            bytes_before: vec![0],
            paused: false,
            leaving: Vec::new(),
            run: Run::default(),
        }
    }

    /// Says that the memory of the top tier is in pieces of so many bytes.
    pub fn divide(&mut self, piece_bytes: u64) {
        self.pools[0].piece = piece_bytes.max(1);
    }

    /// Takes a blob in.
    ///
    /// # Errors
    /// There are no more names.
    ///
    /// # Panics
    /// If it has no bytes: what is nowhere cannot be somewhere.
    pub fn register(&mut self, blob: Blob) -> Result<BlobId, SwapError> {
        assert!(blob.len > 0, "a blob of {} without bytes", blob.kind);
        let id = self.ledger.register(blob)?;
        self.blobs.push(Stand { len: blob.len, next_use: Tick::MAX, ..Stand::default() });
        Ok(id)
    }

    /// Says when blobs are used from now on, at tick 0 again, and chooses what stays. Bytes stay where they are.
    ///
    /// # Errors
    /// `Full` if the blobs of one tick do not fit the top tier, with what would be needed; then nothing changes.
    pub fn arrange(&mut self, agenda: Agenda) -> Result<(), SwapError> {
        let top = &self.pools[0];
        let most = agenda.order().chunk_by(|(one, _), (other, _)| one == other);
        let need =
            most.map(|uses| uses.iter().map(|(_, blob)| self.stand(*blob).len).sum()).max().unwrap_or(0);
        if need > top.layout.len() {
            return Err(SwapError::Full { tier: top.tier, need, have: top.layout.len() });
        }
        self.bytes_before.clear();
        self.bytes_before.push(0);
        let mut bytes = 0;
        for (_, blob) in agenda.order() {
            bytes += self.blobs[blob.0 as usize].len;
            self.bytes_before.push(bytes);
        }
        for (stand, number) in self.blobs.iter_mut().zip(0..) {
            stand.next_use = agenda.next_use(BlobId(number), 0).unwrap_or(Tick::MAX);
            stand.stays = [false; 2];
        }
        self.agenda = agenda;
        self.now = 0;
        for at in 0..self.pools.len() {
            self.choose(at);
        }
        Ok(())
    }

    /// Chooses what stays on one tier, of what does not stay on a faster one.
    fn choose(&mut self, at: usize) {
        let mut seen = vec![false; self.blobs.len()];
        let mut candidates = Vec::new();
        let mut places = vec![None; self.blobs.len()];
        for (_, blob) in self.agenda.order() {
            let stand = self.stand(*blob);
            if !std::mem::replace(&mut seen[blob.0 as usize], true) && stand.stays == [false; 2] {
                let changes = self.ledger.blob(*blob).is_ok_and(|blob| blob.source == crate::Source::Nowhere);
                places[blob.0 as usize] = Some(candidates.len());
                candidates.push(Candidate { blob: *blob, len: stand.len, changes });
            }
        }
        let most = |kept: &[bool]| {
            let is_kept = |blob: &BlobId| places[blob.0 as usize].is_some_and(|place: usize| kept[place]);
            let bytes = |(_, blob): &(Tick, BlobId)| if is_kept(blob) { 0 } else { self.stand(*blob).len };
            let ticks = self.agenda.order().chunk_by(|(one, _), (other, _)| one == other);
            ticks.map(|uses| uses.iter().map(bytes).sum()).max().unwrap_or(0)
        };
        let pool = &self.pools[at];
        // What is left at the end of a piece may be too short for any blob.
        let largest = candidates.iter().map(|candidate| candidate.len).max().unwrap_or(0);
        let borders = pool.layout.len().saturating_sub(1) / pool.piece;
        let room = pool.layout.len().saturating_sub(borders.saturating_mul(largest));
        let stays = pool.policy.keep(&candidates, room, &most);
        let pool = &mut self.pools[at];
        pool.border = 0;
        pool.front = 0;
        for (candidate, _) in candidates.iter().zip(stays).filter(|(_, stays)| *stays) {
            self.blobs[candidate.blob.0 as usize].stays[pool.tier.index()] = true;
            pool.border += candidate.len;
        }
        let lost = (pool.border.saturating_sub(1) / pool.piece).saturating_mul(largest);
        pool.border = pool.border.saturating_add(lost).min(pool.layout.len());
    }

    /// Pins blobs on the top tier for `tick`, all or none, waiting for those that are not there; then has what comes
    /// next loaded.
    ///
    /// # Errors
    /// What hinders one of them from coming; `Full` if they do not fit beside what else is pinned.
    pub fn pin(&mut self, tick: Tick, blobs: &[BlobId], carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        self.now = tick;
        self.settle(carrier)?;
        let mut outcome = self.pin_all(blobs, carrier);
        if let Err(SwapError::Full { tier: tier @ (Tier::Device | Tier::Host), .. }) = outcome {
            // Room there may be, but in pieces: what nobody holds leaves, and then it is in one.
            // Nothing that is read ahead may take a place in the middle of it again.
            let paused = std::mem::replace(&mut self.paused, true);
            let at = self.pools.iter().position(|pool| pool.tier == tier).unwrap_or(0);
            outcome = self.empty(at, carrier).and_then(|()| self.pin_all(blobs, carrier));
            if let Err(SwapError::Full { tier: Tier::Device | Tier::Host, .. }) = outcome {
                outcome = self.sweep(carrier).and_then(|()| self.pin_all(blobs, carrier));
            }
            self.paused = paused || outcome.is_err();
        }
        outcome?;
        self.look_ahead(carrier);
        Ok(())
    }

    fn pin_all(&mut self, blobs: &[BlobId], carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        let top = self.pools[0].tier;
        for (at, blob) in blobs.iter().enumerate() {
            let outcome = self.bring(*blob, carrier).and_then(|()| self.ledger.pin(*blob, top));
            if let Err(error) = outcome {
                for pinned in &blobs[..at] {
                    self.ledger.unpin(*pinned, top)?;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes the pins of `tick` away.
    ///
    /// # Errors
    /// A blob is not known.
    ///
    /// # Panics
    /// If one is not pinned.
    pub fn unpin(&mut self, tick: Tick, blobs: &[BlobId]) -> Result<(), SwapError> {
        let top = self.pools[0].tier;
        for blob in blobs {
            self.ledger.unpin(*blob, top)?;
            self.blobs[blob.0 as usize].next_use =
                self.agenda.next_use(*blob, tick.saturating_add(1)).unwrap_or(Tick::MAX);
        }
        Ok(())
    }

    /// Says that the disk has the bytes of a blob, of which an earlier traffic has written them.
    ///
    /// # Errors
    /// `Full` if the disk's budget has no room for them.
    pub fn resume_with(&mut self, blob: BlobId) -> Result<(), SwapError> {
        self.ledger.place(blob, Tier::Disk)
    }

    /// Notes that a pinned blob is about to be written to. Waits until nobody reads it to write it elsewhere; copies
    /// in memory that become stale are given up. One on the disk keeps its place: what did not change of it need not be
    /// written again.
    ///
    /// # Errors
    /// `Absent` if the blob is not on the top tier; `Late` if it is being written elsewhere and that does not end.
    pub fn change(&mut self, blob: BlobId, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        let top = self.pools[0].tier;
        self.ledger.copy(blob, top)?;
        self.wait_whatever_comes(blob, carrier)?;
        self.ledger.changed(blob, top)?;
        for pool in self.pools.iter_mut().filter(|pool| pool.tier != top) {
            if self.ledger.copy(blob, pool.tier)?.0 {
                self.ledger.drop_copy(blob, pool.tier)?;
                pool.layout.free(self.blobs[blob.0 as usize].offset[pool.tier.index()], blob);
            }
        }
        Ok(())
    }

    /// Gives a blob up whose bytes nobody wants any more, on all tiers and without writing them; waits until it does not
    /// move. It may be pinned again, and begins with zeros then.
    ///
    /// # Errors
    /// `Pinned` if it is; `Late` if it moves and that does not end.
    pub fn discard(&mut self, blob: BlobId, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        self.wait_whatever_comes(blob, carrier)?;
        let held = Tier::ALL.map(|tier| self.ledger.copy(blob, tier).is_ok_and(|(held, _)| held));
        self.ledger.discard(blob)?;
        for tier in Tier::ALL.into_iter().filter(|tier| held[tier.index()]) {
            match self.pools.iter_mut().find(|pool| pool.tier == tier) {
                Some(pool) => pool.layout.free(self.blobs[blob.0 as usize].offset[tier.index()], blob),
                None => carrier.forget(blob),
            }
        }
        Ok(())
    }

    /// Takes note of all moves that have ended.
    ///
    /// # Errors
    /// None of its own; errors of moves are for those who wait for their blobs.
    pub fn settle(&mut self, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        while let Some((blob, outcome)) = carrier.ended(None)? {
            // Whoever needs the blob will ask for it again, and hear then.
            let _ = self.note(blob, outcome, carrier);
        }
        Ok(())
    }

    /// Loads ahead again after something failed.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// Brings a blob to the top tier.
    fn bring(&mut self, blob: BlobId, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        let mut halfway = None;
        let mut outcome = Ok(false);
        while let Ok(false) = outcome {
            // Where it has come to on its way it must not make room for what leaves the top for it.
            if halfway.is_none() && self.pools.len() > 1 && self.is_on(blob, self.pools[1].tier) {
                halfway = Some(self.pools[1].tier);
                self.ledger.pin(blob, self.pools[1].tier)?;
            }
            outcome = self.bring_nearer(blob, carrier);
        }
        if let Some(tier) = halfway {
            self.ledger.unpin(blob, tier)?;
        }
        outcome.map(drop)
    }

    /// Does the next thing that brings a blob to the top tier; says whether it is there.
    fn bring_nearer(&mut self, blob: BlobId, carrier: &mut dyn Carrier) -> Result<bool, SwapError> {
        match self.want(blob)? {
            Next::Here => return Ok(true),
            Next::Begin(offset) => {
                if let Err(error) = carrier.begin(self.pools[0].tier, offset, self.stand(blob).len) {
                    self.discard(blob, carrier)?;
                    return Err(error);
                }
            }
            Next::Start(moved) => {
                self.start(moved, true, carrier)?;
                if moved.blob != blob {
                    // Another's bytes must be written before there is room.
                    self.wait_until_still(moved.blob, carrier)?;
                }
            }
            Next::Wait => {
                self.look_ahead(carrier);
                self.wait_for(blob, carrier)?;
            }
        }
        Ok(false)
    }

    /// Waits until a blob does not move.
    fn wait_until_still(&mut self, blob: BlobId, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        while self.stand(blob).moving.is_some() {
            self.wait_for(blob, carrier)?;
        }
        Ok(())
    }

    /// The same for bytes that are out of date when they arrive: whether they do is nobody's concern.
    fn wait_whatever_comes(&mut self, blob: BlobId, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        while self.stand(blob).moving.is_some() {
            if let Err(given_up @ (SwapError::Late { .. } | SwapError::Cancelled)) =
                self.wait_for(blob, carrier)
            {
                return Err(given_up);
            }
        }
        Ok(())
    }

    /// Waits until some move has ended; its error is one for the waiting if it moved their blob.
    fn wait_for(&mut self, blob: BlobId, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        assert!(self.in_flight > 0, "{blob} is waited for, but nothing moves");
        let Some((moved, outcome)) = carrier.ended(Some(blob))? else { return Ok(()) };
        let outcome = self.note(moved, outcome, carrier);
        if moved == blob { outcome } else { Ok(()) }
    }

    fn start(&mut self, moved: Move, urgent: bool, carrier: &mut dyn Carrier) -> Result<(), SwapError> {
        let outcome = carrier.start(moved, urgent);
        if outcome.is_err() { self.note(moved.blob, outcome, carrier) } else { Ok(()) }
    }

    /// Books the end of a move.
    fn note(
        &mut self,
        blob: BlobId,
        outcome: Result<(), SwapError>,
        carrier: &mut dyn Carrier,
    ) -> Result<(), SwapError> {
        let stand = &mut self.blobs[blob.0 as usize];
        let (from, to) = stand.moving.take().expect("only what moves can end to move");
        let offset = stand.offset;
        self.in_flight -= 1;
        if self.ledger.copy(blob, from)?.0 {
            self.ledger.unpin(blob, from)?;
        }
        if outcome.is_ok() {
            self.ledger.place(blob, to)?;
            if from < to && to != Tier::Disk {
                // Left where it was, it would be all that keeps its new copy from leaving again.
                self.leave_if_free(from, blob)?;
            }
            return outcome;
        }
        self.paused = true;
        self.ledger.drop_copy(blob, to)?;
        match self.pools.iter_mut().find(|pool| pool.tier == to) {
            Some(pool) => {
                pool.layout.free(offset[to.index()], blob);
                pool.front = pool.front.min(self.blobs[blob.0 as usize].next_use);
            }
            None => carrier.forget(blob),
        }
        outcome
    }

    fn stand(&self, blob: BlobId) -> &Stand {
        &self.blobs[blob.0 as usize]
    }

    /// The books.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// When blobs are used.
    pub fn agenda(&self) -> &Agenda {
        &self.agenda
    }

    /// Where the blob's bytes lie in a tier's memory, if they are there and its newest.
    pub fn offset(&self, blob: BlobId, tier: Tier) -> Option<u64> {
        let (held, current) = self.ledger.copy(blob, tier).ok()?;
        (tier != Tier::Disk && held && current).then(|| self.stand(blob).offset[tier.index()])
    }

    /// Whether the blob stays on a tier by the policy's choice.
    pub fn stays(&self, blob: BlobId, tier: Tier) -> bool {
        tier != Tier::Disk && self.stand(blob).stays[tier.index()]
    }

    /// How many moves have not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The tier on which blobs are used.
    pub fn top(&self) -> Tier {
        self.pools[0].tier
    }
}
