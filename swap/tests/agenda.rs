//! The next use of a blob, against a walk through time.

use jtllm_swap::{Agenda, BlobId};
use proptest::prelude::*;

proptest! {
    #[test]
    fn the_next_use_is_the_first_one_met(
        length in 1..20u64,
        uses in prop::collection::vec((0..4u32, any::<u64>()), 0..20),
        now in 0..100u64,
    ) {
        let uses: Vec<_> = uses.into_iter().map(|(blob, tick)| (BlobId(blob), tick % length)).collect();
        let agenda = Agenda::new(length, uses.clone());
        for blob in (0..5).map(BlobId) {
            let met = (now..now + length).find(|tick| uses.contains(&(blob, tick % length)));
            prop_assert_eq!(agenda.next_use(blob, now), met);
            prop_assert!(agenda.uses(blob).is_sorted_by(|a, b| a < b));
        }
    }
}

#[test]
fn it_wraps_round_the_end_of_the_pass() {
    let agenda = Agenda::new(10, [(BlobId(1), 7), (BlobId(1), 2), (BlobId(2), 9), (BlobId(1), 7)]);
    assert_eq!(agenda.uses(BlobId(1)), [2, 7]);
    assert_eq!(agenda.next_use(BlobId(1), 2), Some(2));
    assert_eq!(agenda.next_use(BlobId(1), 3), Some(7));
    assert_eq!(agenda.next_use(BlobId(1), 8), Some(12));
    assert_eq!(agenda.next_use(BlobId(2), 10), Some(19));
    assert_eq!(agenda.next_use(BlobId(3), 0), None);
}

#[test]
fn the_end_of_time_is_no_use() {
    let agenda = Agenda::new(10, [(BlobId(1), 3)]);
    assert_eq!(agenda.next_use(BlobId(1), u64::MAX - 1), None);
    assert_eq!(Agenda::new(0, []).next_use(BlobId(1), 5), None);
}

#[test]
#[should_panic(expected = "b1 is used at tick 10 of a pass of 10")]
fn a_use_behind_the_pass_is_a_fault() {
    Agenda::new(10, [(BlobId(1), 10)]);
}
