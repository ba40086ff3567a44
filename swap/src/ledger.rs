//! The ledger: which blob has copies where, and how many bytes that makes.

use std::collections::BTreeMap;

use crate::{Blob, BlobId, Budget, Source, SwapError, Tier};

/// What the ledger knows of one blob.
#[derive(Debug)]
struct Entry {
    blob: Blob,
    /// Where bytes are set aside for it.
    held: [bool; 3],
    /// Where its newest bytes are; on disk perhaps in a file that others keep, without `held`.
    current: [bool; 3],
    /// How many pins hold each copy.
    pins: [u32; 3],
}

impl Entry {
    fn new(blob: Blob) -> Entry {
        let in_file = blob.source == Source::File;
        Entry { blob, held: [false; 3], current: [false, false, in_file], pins: [0; 3] }
    }

    fn pinned(&self, tiers: impl IntoIterator<Item = Tier>) -> Option<Tier> {
        tiers.into_iter().find(|tier| self.pins[tier.index()] > 0)
    }
}

/// The bytes held on one tier.
#[derive(Debug, Default)]
struct Account {
    used: u64,
    peak: u64,
    by_kind: BTreeMap<&'static str, u64>,
}

/// Which blob has copies where, within a budget. See the crate's documentation for what always holds.
#[derive(Debug)]
pub struct Ledger {
    budget: Budget,
    /// By number; a blob that was struck out leaves its place empty.
    entries: Vec<Option<Entry>>,
    accounts: [Account; 3],
}

impl Ledger {
    /// An empty ledger.
    pub fn new(budget: Budget) -> Ledger {
        Ledger { budget, entries: Vec::new(), accounts: Default::default() }
    }

    /// Takes a blob into the books. It costs nothing until a copy is placed.
    pub fn register(&mut self, blob: Blob) -> Result<BlobId, SwapError> {
        let id = BlobId(u32::try_from(self.entries.len()).map_err(|_| SwapError::Exhausted)?);
        self.entries.push(Some(Entry::new(Blob { dirty: false, ..blob })));
        Ok(id)
    }

    /// Strikes a blob out with all its copies and their bytes: nobody wants them any more. Gives its last
    /// state; refuses a blob that is pinned.
    pub fn unregister(&mut self, id: BlobId) -> Result<Blob, SwapError> {
        if let Some(tier) = self.entry(id)?.pinned(Tier::ALL) {
            return Err(SwapError::Pinned { blob: id, tier });
        }
        let entry = self.entries[id.0 as usize].take().ok_or(SwapError::Unknown { blob: id })?;
        for tier in Tier::ALL {
            if entry.held[tier.index()] {
                self.give_back(tier, &entry.blob);
            }
        }
        Ok(entry.blob)
    }

    /// Sets bytes aside for a copy on `tier` if none are yet. The copy is not current before it is placed.
    pub fn reserve(&mut self, id: BlobId, tier: Tier) -> Result<(), SwapError> {
        let at = tier.index();
        let entry = self.entry(id)?;
        let blob = entry.blob;
        if !entry.held[at] {
            let have = self.free(tier);
            if blob.len > have {
                return Err(SwapError::Full { tier, need: blob.len, have });
            }
            let account = &mut self.accounts[at];
            account.used += blob.len;
            account.peak = account.peak.max(account.used);
            *account.by_kind.entry(blob.kind).or_default() += blob.len;
        }
        self.entry_mut(id)?.held[at] = true;
        Ok(())
    }

    /// Sets bytes aside for a copy on `tier` if none are yet, and makes that copy current: the caller fills
    /// it from a current one, or begins the blob's bytes there if there is none. On disk that cleans the blob.
    pub fn place(&mut self, id: BlobId, tier: Tier) -> Result<(), SwapError> {
        self.reserve(id, tier)?;
        let entry = self.entry_mut(id)?;
        entry.current[tier.index()] = true;
        entry.blob.dirty = !entry.current[Tier::Disk.index()];
        Ok(())
    }

    /// Gives up the copy on `tier` and its bytes, current or stale.
    ///
    /// A pinned copy is refused, and so is the only current one, since its bytes would be lost; one on disk in
    /// a file that others keep is not ours to give up (`Absent`).
    pub fn drop_copy(&mut self, id: BlobId, tier: Tier) -> Result<(), SwapError> {
        let at = tier.index();
        let entry = self.entry(id)?;
        if !entry.held[at] {
            return Err(SwapError::Absent { blob: id, tier });
        }
        if entry.pins[at] > 0 {
            return Err(SwapError::Pinned { blob: id, tier });
        }
        // An untouched file is a copy beside our own on the same tier.
        let stays = tier == Tier::Disk && entry.blob.source == Source::File;
        let elsewhere = Tier::ALL.iter().any(|other| *other != tier && entry.current[other.index()]);
        if entry.current[at] && !elsewhere && !stays {
            return Err(SwapError::OnlyCopy { blob: id, tier });
        }
        let blob = entry.blob;
        let entry = self.entry_mut(id)?;
        entry.held[at] = false;
        entry.current[at] = stays;
        entry.blob.dirty = !entry.current[Tier::Disk.index()];
        self.give_back(tier, &blob);
        Ok(())
    }

    /// Gives up all copies of a blob, though its bytes be lost: it is as if it had never begun, and no file has it.
    /// Refuses a blob that is pinned.
    pub fn discard(&mut self, id: BlobId) -> Result<(), SwapError> {
        if let Some(tier) = self.entry(id)?.pinned(Tier::ALL) {
            return Err(SwapError::Pinned { blob: id, tier });
        }
        let entry = self.entry_mut(id)?;
        let (blob, held) = (entry.blob, entry.held);
        *entry = Entry::new(Blob { source: Source::Nowhere, dirty: false, ..blob });
        for tier in Tier::ALL.into_iter().filter(|tier| held[tier.index()]) {
            self.give_back(tier, &blob);
        }
        Ok(())
    }

    /// Notes that the copy on `tier` was written to: the others are stale from now on, though their bytes
    /// stay set aside. Refused if that copy is not current, or if a pin holds another.
    pub fn changed(&mut self, id: BlobId, tier: Tier) -> Result<(), SwapError> {
        let entry = self.entry_mut(id)?;
        if !entry.held[tier.index()] || !entry.current[tier.index()] {
            return Err(SwapError::Absent { blob: id, tier });
        }
        if let Some(other) = entry.pinned(Tier::ALL.into_iter().filter(|other| *other != tier)) {
            return Err(SwapError::Pinned { blob: id, tier: other });
        }
        entry.current = [false; 3];
        entry.current[tier.index()] = true;
        entry.blob.source = Source::Nowhere; // the file, if there was one, has old bytes for ever
        entry.blob.dirty = tier != Tier::Disk;
        Ok(())
    }

    /// Holds the current copy on `tier` in its place until as many calls of [`Ledger::unpin`].
    pub fn pin(&mut self, id: BlobId, tier: Tier) -> Result<(), SwapError> {
        let entry = self.entry_mut(id)?;
        if !entry.held[tier.index()] || !entry.current[tier.index()] {
            return Err(SwapError::Absent { blob: id, tier });
        }
        entry.pins[tier.index()] += 1;
        Ok(())
    }

    /// Takes one pin away.
    ///
    /// # Panics
    ///
    /// If there is none, which is a fault of the caller's books.
    pub fn unpin(&mut self, id: BlobId, tier: Tier) -> Result<(), SwapError> {
        let pins = &mut self.entry_mut(id)?.pins[tier.index()];
        assert!(*pins > 0, "{id} is not pinned on tier {tier}");
        *pins -= 1;
        Ok(())
    }

    /// The blob as it is now.
    pub fn blob(&self, id: BlobId) -> Result<&Blob, SwapError> {
        Ok(&self.entry(id)?.blob)
    }

    /// Whether bytes are set aside for the blob on `tier`, and whether they are its newest.
    pub fn copy(&self, id: BlobId, tier: Tier) -> Result<(bool, bool), SwapError> {
        let entry = self.entry(id)?;
        Ok((entry.held[tier.index()], entry.current[tier.index()]))
    }

    /// Whether a pin holds the blob's copy on `tier`.
    pub fn is_pinned(&self, id: BlobId, tier: Tier) -> Result<bool, SwapError> {
        Ok(self.entry(id)?.pins[tier.index()] > 0)
    }

    /// Every blob, in the order of registration.
    pub fn blobs(&self) -> impl Iterator<Item = (BlobId, &Blob)> {
        let entries = self.entries.iter().zip(0..);
        entries.filter_map(|(entry, number)| Some((BlobId(number), &entry.as_ref()?.blob)))
    }

    /// Whether dropping the copy on `tier` would lose the blob's bytes.
    pub fn is_only(&self, id: BlobId, tier: Tier) -> Result<bool, SwapError> {
        let entry = self.entry(id)?;
        let elsewhere = Tier::ALL.iter().any(|other| *other != tier && entry.current[other.index()]);
        Ok(entry.current[tier.index()] && !elsewhere)
    }

    /// The limits.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Bytes held on `tier`.
    pub fn used(&self, tier: Tier) -> u64 {
        self.accounts[tier.index()].used
    }

    /// Bytes held on `tier` for blobs of `kind`.
    pub fn used_by(&self, tier: Tier, kind: &str) -> u64 {
        self.accounts[tier.index()].by_kind.get(kind).copied().unwrap_or(0)
    }

    /// Bytes that may still be placed on `tier`.
    pub fn free(&self, tier: Tier) -> u64 {
        self.budget.limit(tier) - self.used(tier)
    }

    /// The most bytes that were ever held on `tier`.
    pub fn peak(&self, tier: Tier) -> u64 {
        self.accounts[tier.index()].peak
    }

    fn entry(&self, id: BlobId) -> Result<&Entry, SwapError> {
        self.entries.get(id.0 as usize).and_then(Option::as_ref).ok_or(SwapError::Unknown { blob: id })
    }

    fn entry_mut(&mut self, id: BlobId) -> Result<&mut Entry, SwapError> {
        self.entries.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(SwapError::Unknown { blob: id })
    }

    fn give_back(&mut self, tier: Tier, blob: &Blob) {
        let account = &mut self.accounts[tier.index()];
        account.used -= blob.len;
        let of_kind = account.by_kind.entry(blob.kind).or_default();
        *of_kind -= blob.len;
    }
}
