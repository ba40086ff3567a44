//! Free-space allocation: extents never overlap, nothing is lost, neighbours are joined.
#![allow(clippy::unwrap_used)]

use jtllm_swap::{Extent, Space};
use proptest::prelude::*;

const LEN: u64 = 1 << 12;

/// Everything that must hold between a space and the extents that were taken from it.
fn check(space: &Space, taken: &[Extent]) {
    let mut all: Vec<(Extent, bool)> = taken.iter().map(|extent| (*extent, true)).collect();
    all.extend(space.free_extents().map(|extent| (extent, false)));
    all.sort();
    let mut end = 0;
    let mut after_free = false;
    for (extent, used) in &all {
        assert_eq!(extent.offset, end, "a gap or an overlap before {extent}");
        assert!(extent.len > 0 && (*used || !after_free), "free neighbours before {extent}");
        (end, after_free) = (extent.end(), !*used);
    }
    assert_eq!(end, space.capacity());
    let used: u64 = taken.iter().map(|extent| extent.len).sum();
    assert_eq!(space.free_bytes() + used, space.capacity());
    assert_eq!(space.largest_free(), space.free_extents().map(|extent| extent.len).max().unwrap_or(0));
    assert_eq!(space.high_water(), taken.iter().map(Extent::end).max().unwrap_or(0));
    assert_eq!(space.is_empty(), taken.is_empty());
}

/// The smallest free extent with room, the first of equal ones, found by looking at each.
fn best_fit(space: &Space, len: u64, align: u64) -> Option<u64> {
    let fits = space.free_extents().filter_map(|free| {
        let offset = free.offset.next_multiple_of(align);
        (offset + len <= free.end()).then_some((free.len, free.offset, offset))
    });
    fits.min().map(|(_, _, offset)| offset)
}

proptest! {
    #[test]
    fn extents_stay_apart(calls in prop::collection::vec((any::<bool>(), 1..600u64, 0..9u32, any::<usize>()), 1..200)) {
        let mut space = Space::new(LEN);
        let mut taken: Vec<Extent> = Vec::new();
        for (allocates, len, shift, which) in calls {
            if allocates || taken.is_empty() {
                let expected = best_fit(&space, len, 1 << shift);
                let found = space.allocate(len, 1 << shift);
                prop_assert_eq!(found.map(|extent| extent.offset), expected);
                if let Some(extent) = found {
                    prop_assert_eq!((extent.len, extent.offset % (1 << shift)), (len, 0));
                    taken.push(extent);
                }
            } else {
                space.free(taken.swap_remove(which % taken.len()));
            }
            check(&space, &taken);
        }
        for extent in taken {
            space.free(extent);
        }
        check(&space, &[]);
        prop_assert_eq!(space.largest_free(), LEN);
    }
}

#[test]
fn the_smallest_extent_with_room_is_taken() {
    let mut space = Space::new(100);
    let extents: Vec<_> = [40, 10, 20, 10, 20].iter().map(|len| space.allocate(*len, 1).unwrap()).collect();
    assert!(space.allocate(1, 1).is_none());
    space.free(extents[0]);
    space.free(extents[2]);
    assert_eq!(space.allocate(15, 1), Some(Extent { offset: 50, len: 15 }));
    // What an alignment skips stays free.
    assert_eq!(space.allocate(16, 16), Some(Extent { offset: 0, len: 16 }));
    assert_eq!(space.allocate(9, 32), None);
    assert_eq!(space.allocate(4, 32), Some(Extent { offset: 32, len: 4 }));
    assert_eq!(space.allocate(16, 16), Some(Extent { offset: 16, len: 16 }));
}

#[test]
fn no_bytes_take_no_room() {
    let mut space = Space::new(0);
    let extent = space.allocate(0, 64).unwrap();
    assert_eq!((extent.len, space.largest_free(), space.allocate(1, 1)), (0, 0, None));
    space.free(extent);
    assert!(space.is_empty());
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let mut space = Space::new(u64::MAX);
    let low = space.allocate(1, 1).unwrap();
    assert_eq!(space.allocate(u64::MAX, 1), None);
    assert_eq!(space.allocate(1, 1 << 63), Some(Extent { offset: 1 << 63, len: 1 }));
    assert_eq!(space.allocate(1 << 63, 1), None);
    assert_eq!(space.allocate((1 << 63) - 1, 1), Some(Extent { offset: 1, len: (1 << 63) - 1 }));
    space.free(low);
    assert_eq!(space.high_water(), (1 << 63) + 1);
}

#[test]
#[should_panic(expected = "0..4 is not an extent in use")]
fn freeing_twice_is_a_fault() {
    let mut space = Space::new(8);
    let extent = space.allocate(4, 1).unwrap();
    space.free(extent);
    space.free(extent);
}
