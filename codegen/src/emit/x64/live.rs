//! Where virtual registers are wanted: one interval each, and how dear it is.

use std::collections::HashMap;

use super::machine::{Access, Code64, Item, Label, Reg};

/// What a use counts for, by how many loops are around it.
const LOOP_WEIGHT: f32 = 10.0;

/// From the first instant to the last in which a register holds something. Item `i` reads at instant `2 i` and writes
/// at `2 i + 1`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub(super) reg: Reg,
    pub(super) start: u32,
    /// The instant after the last.
    pub(super) end: u32,
    /// What it costs to keep it in memory instead.
    pub(super) weight: f32,
}

/// The registers that hold something, one bit each.
#[derive(Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn insert(&mut self, reg: Reg) {
        self.0[reg.0 as usize / 64] |= 1 << (reg.0 % 64);
    }

    fn remove(&mut self, reg: Reg) {
        self.0[reg.0 as usize / 64] &= !(1 << (reg.0 % 64));
    }

    fn join(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }

    fn members(&self) -> impl Iterator<Item = usize> {
        let ones = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.0.iter().enumerate().flat_map(move |(at, word)| ones(*word).map(move |bit| at * 64 + bit))
    }
}

/// The intervals of all registers that occur, by their start.
pub(super) fn intervals(code: &Code64) -> Vec<Interval> {
    let items: Vec<Vec<(Reg, Access)>> = code.items.iter().map(Item::registers).collect();
    let heads = heads(code);
    let depth = depths(code, &heads);
    let mut found: Vec<Option<Interval>> = vec![None; code.classes.len()];
    for (at, registers) in items.iter().enumerate() {
        for (reg, access) in registers {
            let at32 = at as u32;
            let (start, end) = match access {
                Access::Read => (2 * at32, 2 * at32 + 1),
                Access::Write => (2 * at32 + 1, 2 * at32 + 2),
                Access::Update => (2 * at32, 2 * at32 + 2),
            };
            let empty = Interval { reg: *reg, start, end, weight: 0.0 };
            let interval = found[reg.0 as usize].get_or_insert(empty);
            interval.start = interval.start.min(start);
            interval.end = interval.end.max(end);
            interval.weight += LOOP_WEIGHT.powi(depth[at].min(8));
        }
    }
    // What is wanted at the head of a loop is wanted again when it comes round.
    let live = live_at_labels(code, &items);
    for (label, (start, end)) in &heads {
        for reg in live.get(label).into_iter().flat_map(Set::members) {
            if let Some(interval) = &mut found[reg] {
                interval.start = interval.start.min(2 * *start as u32);
                interval.end = interval.end.max(2 * *end as u32 + 2);
            }
        }
    }
    let mut intervals: Vec<Interval> = found.into_iter().flatten().collect();
    intervals.sort_by_key(|interval| (interval.start, interval.reg));
    intervals
}

/// The labels to which a later branch goes back, each with its place and that of the last such branch.
fn heads(code: &Code64) -> HashMap<Label, (usize, usize)> {
    let mut places = HashMap::new();
    let mut heads = HashMap::new();
    for (at, item) in code.items.iter().enumerate() {
        match item {
            Item::Label { label, .. } => {
                places.insert(*label, at);
            }
            Item::Branch(_, label) => {
                if let Some(place) = places.get(label) {
                    heads.insert(*label, (*place, at));
                }
            }
            _ => {}
        }
    }
    heads
}

/// How many loops are around each item.
fn depths(code: &Code64, heads: &HashMap<Label, (usize, usize)>) -> Vec<i32> {
    let mut steps = vec![0; code.items.len() + 1];
    for (start, end) in heads.values() {
        steps[*start] += 1;
        steps[end + 1] -= 1;
    }
    let depth = |depth: &mut i32, step: i32| {
        *depth += step;
        Some(*depth)
    };
    steps.into_iter().scan(0, depth).collect()
}

/// What is wanted at each label: from the end to the start, until nothing changes.
fn live_at_labels(code: &Code64, items: &[Vec<(Reg, Access)>]) -> HashMap<Label, Set> {
    let none = Set(vec![0; code.classes.len().div_ceil(64)]);
    let mut at_labels: HashMap<Label, Set> = HashMap::new();
    loop {
        let mut changed = false;
        let mut live = none.clone();
        for (item, registers) in code.items.iter().zip(items).rev() {
            match item {
                Item::Branch(branch, label) => {
                    let target = at_labels.get(label).unwrap_or(&none);
                    match branch {
                        iced_x86::Code::Jmp_rel32_64 => live = target.clone(),
                        _ => live.join(target),
                    }
                }
                Item::Label { label, .. } => {
                    if at_labels.get(label) != Some(&live) {
                        at_labels.insert(*label, live.clone());
                        changed = true;
                    }
                }
                _ => {
                    registers
                        .iter()
                        .filter(|(_, a)| *a == Access::Write)
                        .for_each(|(reg, _)| live.remove(*reg));
                    registers
                        .iter()
                        .filter(|(_, a)| *a != Access::Write)
                        .for_each(|(reg, _)| live.insert(*reg));
                }
            }
        }
        if !changed {
            return at_labels;
        }
    }
}
