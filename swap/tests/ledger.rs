//! The ledger against its promises, under random calls.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use jtllm_swap::{Blob, BlobId, Budget, Ledger, Source, SwapError, Tier};
use proptest::prelude::*;

const KINDS: [&str; 2] = ["weights", "pages"];

#[derive(Clone, Copy, Debug)]
enum Call {
    Register(u64, usize, bool),
    Unregister(usize),
    Place(usize, Tier),
    Drop(usize, Tier),
    Changed(usize, Tier),
    Pin(usize, Tier),
    Unpin(usize, Tier),
    Discard(usize),
}

fn call() -> impl Strategy<Value = Call> {
    let tier = || prop::sample::select(Tier::ALL.to_vec());
    let on = move || (any::<usize>(), tier());
    prop_oneof![
        2 => (0..60u64, 0..2usize, any::<bool>()).prop_map(|(len, kind, file)| Call::Register(len, kind, file)),
        1 => any::<usize>().prop_map(Call::Unregister),
        1 => any::<usize>().prop_map(Call::Discard),
        6 => on().prop_map(|(blob, tier)| Call::Place(blob, tier)),
        4 => on().prop_map(|(blob, tier)| Call::Drop(blob, tier)),
        3 => on().prop_map(|(blob, tier)| Call::Changed(blob, tier)),
        2 => on().prop_map(|(blob, tier)| Call::Pin(blob, tier)),
        2 => on().prop_map(|(blob, tier)| Call::Unpin(blob, tier)),
    ]
}

/// What the bytes of a blob are: a version for each copy, counted up by each change. The file is a fourth copy.
#[derive(Clone, Debug, Default)]
struct Bytes {
    newest: u64,
    copies: [Option<u64>; 3],
    file: Option<u64>,
    begun: bool,
    pins: [u32; 3],
}

impl Bytes {
    fn survive(&self) -> bool {
        let newest = Some(self.newest);
        !self.begun || self.file == newest || self.copies.contains(&newest)
    }
}

/// A ledger and, beside it, a plain record of who has which version.
struct World {
    ledger: Ledger,
    blobs: BTreeMap<BlobId, Bytes>,
}

impl World {
    fn new(budget: Budget) -> World {
        World { ledger: Ledger::new(budget), blobs: BTreeMap::new() }
    }

    fn pick(&self, which: usize) -> Option<BlobId> {
        self.blobs.keys().nth(which % self.blobs.len().max(1)).copied()
    }

    fn apply(&mut self, call: Call) -> Option<Result<(), SwapError>> {
        let (which, tier) = match call {
            Call::Register(len, kind, in_file) => {
                let source = if in_file { Source::File } else { Source::Nowhere };
                let id = self.ledger.register(Blob::new(len, KINDS[kind], source)).unwrap();
                let file = in_file.then_some(0);
                self.blobs.insert(id, Bytes { file, begun: in_file, ..Bytes::default() });
                return Some(Ok(()));
            }
            Call::Unregister(which) | Call::Discard(which) => (which, Tier::Device),
            Call::Place(which, tier) | Call::Drop(which, tier) | Call::Changed(which, tier) => (which, tier),
            Call::Pin(which, tier) | Call::Unpin(which, tier) => (which, tier),
        };
        let id = self.pick(which)?;
        let ledger = &mut self.ledger;
        let bytes = self.blobs.get_mut(&id).unwrap();
        let at = Tier::ALL.iter().position(|other| *other == tier).unwrap();
        let result = match call {
            Call::Register(..) => unreachable!("handled above"),
            Call::Unregister(_) => ledger.unregister(id).map(|_| {
                self.blobs.remove(&id);
            }),
            // Nobody wants its bytes: it is a blob that has not begun.
            Call::Discard(_) => ledger.discard(id).map(|()| *bytes = Bytes::default()),
            Call::Place(..) => ledger.place(id, tier).map(|()| {
                bytes.copies[at] = Some(bytes.newest);
                bytes.begun = true;
            }),
            Call::Drop(..) => ledger.drop_copy(id, tier).map(|()| bytes.copies[at] = None),
            Call::Changed(..) => ledger.changed(id, tier).map(|()| {
                assert_eq!(bytes.copies[at], Some(bytes.newest), "{id} was changed in a stale copy");
                bytes.newest += 1;
                bytes.copies[at] = Some(bytes.newest);
            }),
            Call::Pin(..) => ledger.pin(id, tier).map(|()| bytes.pins[at] += 1),
            Call::Unpin(..) if bytes.pins[at] == 0 => return None,
            Call::Unpin(..) => ledger.unpin(id, tier).map(|()| bytes.pins[at] -= 1),
        };
        Some(result)
    }

    fn check(&self) {
        let mut peaks = [0; 3];
        for (at, tier) in Tier::ALL.into_iter().enumerate() {
            let held = self.blobs.iter().filter(|(_, bytes)| bytes.copies[at].is_some());
            let mut sums = BTreeMap::from(KINDS.map(|kind| (kind, 0)));
            for (id, _) in held {
                let blob = self.ledger.blob(*id).unwrap();
                *sums.get_mut(blob.kind).unwrap() += blob.len;
            }
            let used: u64 = sums.values().sum();
            assert!(used <= self.ledger.budget().limit(tier));
            assert_eq!(self.ledger.used(tier), used);
            assert_eq!(self.ledger.free(tier), self.ledger.budget().limit(tier) - used);
            for (kind, sum) in sums {
                assert_eq!(self.ledger.used_by(tier, kind), sum);
            }
            peaks[at] = self.ledger.peak(tier);
            assert!(peaks[at] >= used && peaks[at] <= self.ledger.budget().limit(tier));
        }
        for (id, bytes) in &self.blobs {
            assert!(bytes.survive(), "{id} lost its newest bytes: {bytes:?}");
            let on_disk = bytes.file == Some(bytes.newest) || bytes.copies[2] == Some(bytes.newest);
            assert_eq!(self.ledger.blob(*id).unwrap().dirty, bytes.begun && !on_disk, "{id}: {bytes:?}");
            for (at, tier) in Tier::ALL.into_iter().enumerate() {
                let (held, current) = self.ledger.copy(*id, tier).unwrap();
                assert_eq!(held, bytes.copies[at].is_some());
                let in_file = tier == Tier::Disk && bytes.file == Some(bytes.newest);
                assert_eq!(
                    current,
                    bytes.copies[at] == Some(bytes.newest) || in_file,
                    "{id} on {tier}: {bytes:?}"
                );
                assert_eq!(self.ledger.is_pinned(*id, tier).unwrap(), bytes.pins[at] > 0);
                assert!(
                    bytes.pins[at] == 0 || bytes.copies[at] == Some(bytes.newest),
                    "{id} moved from its pin"
                );
            }
        }
        assert_eq!(self.ledger.blobs().count(), self.blobs.len());
    }
}

proptest! {
    #[test]
    fn the_invariants_hold_under_any_calls(
        limits in prop::array::uniform3(0..200u64),
        calls in prop::collection::vec(call(), 1..150),
    ) {
        let mut budget = Budget::unlimited();
        for (tier, limit) in Tier::ALL.into_iter().zip(limits) {
            budget = budget.with(tier, limit);
        }
        let mut world = World::new(budget);
        for call in calls {
            let before = format!("{:?}", world.ledger);
            if let Some(Err(_)) = world.apply(call) {
                prop_assert_eq!(before, format!("{:?}", world.ledger), "a refused call changed the ledger");
            }
            world.check();
        }
    }
}

fn ledger() -> Ledger {
    Ledger::new(Budget::unlimited().with(Tier::Device, 100).with(Tier::Host, 50))
}

#[test]
fn what_exceeds_the_budget_is_refused() {
    let mut ledger = ledger();
    let first = ledger.register(Blob::new(70, "weights", Source::File)).unwrap();
    let second = ledger.register(Blob::new(31, "weights", Source::File)).unwrap();
    ledger.place(first, Tier::Device).unwrap();
    let full = SwapError::Full { tier: Tier::Device, need: 31, have: 30 };
    assert_eq!(ledger.place(second, Tier::Device), Err(full.clone()));
    assert_eq!(full.to_string(), "31 bytes are needed on tier device, 30 are free within its budget");
    ledger.drop_copy(first, Tier::Device).unwrap(); // clean: the file still has it
    ledger.place(second, Tier::Device).unwrap();
    assert_eq!((ledger.used(Tier::Device), ledger.peak(Tier::Device)), (31, 70));
    assert_eq!(ledger.used_by(Tier::Device, "weights"), 31);
}

#[test]
fn lengths_that_overflow_are_refused() {
    let mut ledger = Ledger::new(Budget::unlimited());
    let blob = ledger.register(Blob::new(u64::MAX, "weights", Source::File)).unwrap();
    let more = ledger.register(Blob::new(1, "weights", Source::File)).unwrap();
    ledger.place(blob, Tier::Host).unwrap();
    let full = SwapError::Full { tier: Tier::Host, need: 1, have: 0 };
    assert_eq!(ledger.place(more, Tier::Host), Err(full));
}

#[test]
fn dirty_bytes_are_written_before_they_are_dropped() {
    let mut ledger = ledger();
    let page = ledger.register(Blob::new(10, "pages", Source::Nowhere)).unwrap();
    ledger.place(page, Tier::Device).unwrap();
    assert!(ledger.blob(page).unwrap().dirty);
    let only = SwapError::OnlyCopy { blob: page, tier: Tier::Device };
    assert_eq!(ledger.drop_copy(page, Tier::Device), Err(only.clone()));
    ledger.place(page, Tier::Disk).unwrap();
    assert!(!ledger.blob(page).unwrap().dirty);
    ledger.drop_copy(page, Tier::Device).unwrap();
    // Read back and changed, the copy on disk is stale, so that the device has the only one again.
    ledger.place(page, Tier::Device).unwrap();
    ledger.changed(page, Tier::Device).unwrap();
    assert_eq!(ledger.copy(page, Tier::Disk), Ok((true, false)));
    assert_eq!(ledger.drop_copy(page, Tier::Device), Err(only));
    ledger.drop_copy(page, Tier::Disk).unwrap();
    assert_eq!(ledger.used(Tier::Disk), 0);
}

#[test]
fn a_pin_holds_its_copy() {
    let mut ledger = ledger();
    let blob = ledger.register(Blob::new(10, "weights", Source::File)).unwrap();
    assert_eq!(ledger.pin(blob, Tier::Device), Err(SwapError::Absent { blob, tier: Tier::Device }));
    assert_eq!(ledger.pin(blob, Tier::Disk), Err(SwapError::Absent { blob, tier: Tier::Disk }));
    ledger.place(blob, Tier::Device).unwrap();
    ledger.place(blob, Tier::Host).unwrap();
    ledger.pin(blob, Tier::Device).unwrap();
    ledger.pin(blob, Tier::Device).unwrap();
    let pinned = SwapError::Pinned { blob, tier: Tier::Device };
    assert_eq!(ledger.drop_copy(blob, Tier::Device), Err(pinned.clone()));
    assert_eq!(ledger.changed(blob, Tier::Host), Err(pinned.clone()));
    ledger.unpin(blob, Tier::Device).unwrap();
    assert_eq!(ledger.unregister(blob), Err(pinned));
    ledger.unpin(blob, Tier::Device).unwrap();
    ledger.unregister(blob).unwrap();
    assert_eq!(ledger.place(blob, Tier::Device), Err(SwapError::Unknown { blob }));
    assert_eq!(ledger.used(Tier::Device) + ledger.used(Tier::Host), 0);
}

#[test]
#[should_panic(expected = "b0 is not pinned on tier host")]
fn an_unmatched_unpin_is_a_fault() {
    let mut ledger = ledger();
    let blob = ledger.register(Blob::new(10, "weights", Source::File)).unwrap();
    let _ = ledger.unpin(blob, Tier::Host);
}
