//! Room is found where trying every place finds it.

use std::cmp::Reverse;
use std::ops::Range;

use super::{End, Layout, Rank, Run, Window};
use crate::{BlobId, Tick};

/// A generator without a memory for order: numbers below `end`.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % end
    }
}

/// The best place, by looking at each run of segments that begins somewhere.
fn tried(layout: &Layout, len: u64, region: &Range<u64>, end: End, ranks: &[Option<Rank>]) -> Option<Window> {
    let mut best = None;
    for (start, first) in layout.segments.iter().enumerate() {
        if first.end() <= region.start || first.offset >= region.end {
            continue;
        }
        let from = first.offset.max(region.start);
        let (mut wanted, mut dirty, mut leaving) = (Tick::MAX, 0, 0);
        for segment in layout.segments[start..].iter().take_while(|segment| segment.offset < region.end) {
            if let Some(owner) = segment.owner {
                let Some(rank) = ranks[owner.0 as usize] else { break };
                wanted = wanted.min(rank.wanted);
                leaving += segment.len;
                dirty += if rank.dirty { segment.len } else { 0 };
            }
            let to = segment.end().min(region.end);
            if to - from >= len {
                let offset = if end == End::Low { from } else { to - len };
                let nearness = if end == End::Low { u64::MAX - offset } else { offset };
                let found = (wanted, Reverse(dirty), Reverse(leaving), nearness);
                if best.as_ref().is_none_or(|(score, _)| found > *score) {
                    best = Some((found, Window { offset, len, wanted }));
                }
                break;
            }
        }
    }
    best.map(|(_, window)| window)
}

/// Memory with blobs of many lengths in it, and holes.
fn filled(numbers: &mut Numbers) -> (Layout, Vec<Option<Rank>>) {
    let len = 20 + numbers.below(200);
    let mut layout = Layout::new(len);
    let (mut at, mut ranks) = (0, Vec::new());
    while at < len {
        let long = (1 + numbers.below(20)).min(len - at);
        if numbers.below(4) > 0 {
            layout.take(at, long, BlobId(ranks.len() as u32));
            let rank = Rank { wanted: numbers.below(6), dirty: numbers.below(3) == 0 };
            ranks.push((numbers.below(8) > 0).then_some(rank));
        }
        at += long;
    }
    (layout, ranks)
}

#[test]
fn the_best_place_is_the_one_that_trying_all_finds() {
    let mut numbers = Numbers(1);
    let mut run = Run::default();
    let (mut found_some, mut found_none) = (0, 0);
    for _ in 0..20_000 {
        let (layout, ranks) = filled(&mut numbers);
        let region = match numbers.below(2) {
            0 => 0..layout.len(),
            _ => {
                let start = numbers.below(layout.len());
                start..start + 1 + numbers.below(layout.len() - start)
            }
        };
        let len = 1 + numbers.below(40);
        let end = if numbers.below(2) == 0 { End::Low } else { End::High };
        let rank = |blob: BlobId| ranks[blob.0 as usize];
        let found = layout.find(len, region.clone(), end, &mut run, rank);
        assert_eq!(
            found,
            tried(&layout, len, &region, end, &ranks),
            "{len} in {region:?}, {end:?}: {layout:?} {ranks:?}"
        );
        *(if found.is_some() { &mut found_some } else { &mut found_none }) += 1;
    }
    assert!(found_some > 5000 && found_none > 1000, "{found_some} {found_none}");
}

/// Memory full of small blobs, where a large one is to lie: looking at every place from every other one would take minutes.
#[test]
fn room_is_found_in_one_look_over_memory() {
    const COUNT: u64 = 200_000;
    let mut layout = Layout::new(COUNT);
    (0..COUNT).for_each(|at| {
        layout.segments.push(super::Segment { offset: at, len: 1, owner: Some(BlobId(at as u32)) })
    });
    layout.segments.remove(0);
    let looked = std::cell::Cell::new(0);
    let rank = |blob: BlobId| {
        looked.set(looked.get() + 1);
        Some(Rank { wanted: u64::from(blob.0 % 1000), dirty: false })
    };
    let found = layout.find(COUNT / 2, 0..COUNT, End::High, &mut Run::default(), rank);
    assert_eq!(found.map(|window| window.offset), Some(COUNT / 2));
    assert_eq!(looked.get(), COUNT);
}
