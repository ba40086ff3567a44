//! Lanes joined, for several values at once.
//!
//! The order is that of [`lane_tree`](crate::kernel::lane_tree): each step joins a lane with the one half as far
//! away. What one value leaves free of a vector after a step, another one takes: vectors meet in pairs, one
//! instruction gathers the lower lanes of both and one the upper, and the next step has half as many vectors.

use jtllm_ir::{DType, Monoid};

use super::isa::{Level, Op};
use super::machine::{Address, Base, Operand, Reg};
use super::select::{Held, Place, Selector};
use crate::kernel::{Stmt, Value, ValueId};

/// A step of the tree: the instruction that takes lanes of two vectors, and its immediates for the lower and the
/// upper ones.
struct Step {
    op: Op,
    picks: [i64; 2],
}

const fn step(op: Op, lower: i64, upper: i64) -> Step {
    Step { op, picks: [lower, upper] }
}

/// The steps of each level; their immediates say by two bits which fours, or which lanes of a four, are taken.
fn steps(level: Level) -> &'static [Step] {
    const WIDE: [Step; 4] = [
        step(Op::Fours, 0x44, 0xee),
        step(Op::Fours, 0x88, 0xdd),
        step(Op::OfBoth, 0x44, 0xee),
        step(Op::OfBoth, 0x88, 0xdd),
    ];
    const NARROW: [Step; 3] =
        [step(Op::Halves, 0x20, 0x31), step(Op::OfBoth, 0x44, 0xee), step(Op::OfBoth, 0x88, 0xdd)];
    if level == Level::Avx512 { &WIDE } else { &NARROW }
}

/// A vector, and to which value each of its lanes belongs.
#[derive(Clone)]
struct Joined {
    register: Reg,
    owners: Vec<usize>,
}

/// The owners of the lanes that an instruction takes of two vectors.
fn picked(op: Op, pick: i64, a: &[usize], b: &[usize]) -> Vec<usize> {
    let field = |at: usize, bits: usize| (pick >> at & ((1 << bits) - 1)) as usize;
    let fours = a.len() / 4;
    let four = |of: &[usize], at: usize| of[4 * at..4 * at + 4].to_vec();
    match op {
        Op::Fours => (0..fours).flat_map(|k| four(if k < 2 { a } else { b }, field(2 * k, 2))).collect(),
        Op::Halves => (0..fours)
            .flat_map(|k| match field(4 * k, 2) {
                at @ 0..2 => four(a, at),
                at => four(b, at - 2),
            })
            .collect(),
        _ => (0..a.len())
            .map(|at| (if at % 4 < 2 { a } else { b })[at / 4 * 4 + field(at % 4 * 2, 2)])
            .collect(),
    }
}

impl<'k> Selector<'k> {
    /// The values that are joined together with the first of `rest`: those that follow it and are joined alike.
    fn company(&mut self, value: ValueId, rest: &'k [Stmt]) -> Vec<ValueId> {
        let kernel = self.kernel;
        let mut all = vec![value];
        let Value::LaneReduce(monoid, _) = kernel.record(value).value else { return all };
        for stmt in rest {
            let Stmt::Let(next) = stmt else { break };
            match &kernel.record(*next).value {
                Value::LaneReduce(other, operand)
                    if *other == monoid
                        && kernel.record(*next).dtype == kernel.record(value).dtype
                        && self.held[operand.0 as usize].is_some()
                        && all.len() < self.level.lanes() =>
                {
                    all.push(*next);
                }
                // What is joined stands between.
                Value::Cell(cell) => self.share_cell(*next, *cell),
                _ => break,
            }
        }
        all
    }

    /// Joins the lanes of a value, and of those that follow it and are joined alike.
    pub(super) fn join(&mut self, monoid: Monoid, value: ValueId, rest: &'k [Stmt]) {
        let kernel = self.kernel;
        let dtype = kernel.record(value).dtype;
        let values = self.company(value, rest);
        let operands: Vec<Reg> = values
            .iter()
            .map(|value| match &kernel.record(*value).value {
                Value::LaneReduce(_, operand) => self.lanes_of(*operand),
                _ => unreachable!("only such values are joined"),
            })
            .collect();
        let depth = self.depth();
        if kernel.lanes == 1 {
            for (value, register) in values.iter().zip(operands) {
                self.hold(*value, Place::Lanes(register));
            }
            return;
        }
        let vectors = self.join_all(monoid, dtype, operands);
        let [(only, vector)] = &vectors[..] else {
            unreachable!("a step halves the vectors until one is left")
        };
        let lane = |at: usize| only.iter().position(|owner| *owner == at).expect("each value has a lane");
        if let [value] = values[..] {
            let register = self.vector(Op::Broadcast, &[Operand::Reg(*vector, super::machine::View::X)]);
            self.held[value.0 as usize] = Some(Held { place: Place::Lanes(register), depth });
            return;
        }
        let slot = self.kept(*vector);
        for (at, value) in values.iter().enumerate() {
            let place = Place::Slot(slot + 4 * lane(at) as u32);
            self.held[value.0 as usize] = Some(Held { place, depth });
        }
    }

    fn join_all(&mut self, monoid: Monoid, dtype: DType, operands: Vec<Reg>) -> Vec<(Vec<usize>, Reg)> {
        let lanes = self.level.lanes();
        let own = |(at, register)| Joined { register, owners: vec![at; lanes] };
        let mut vectors: Vec<Joined> = operands.into_iter().enumerate().map(own).collect();
        for Step { op, picks } in steps(self.level) {
            let pairs: Vec<[Joined; 2]> = vectors
                .chunks(2)
                .map(|pair| [pair[0].clone(), pair.last().unwrap_or(&pair[0]).clone()])
                .collect();
            vectors = pairs
                .into_iter()
                .map(|[a, b]| {
                    let [lower, upper] = picks.map(|pick| {
                        let operands =
                            [self.whole(a.register), self.whole(b.register), Operand::Immediate(pick)];
                        self.vector(*op, &operands)
                    });
                    let register = self.apply(monoid.scalar(), dtype, &[lower, upper]);
                    Joined { register, owners: picked(*op, picks[0], &a.owners, &b.owners) }
                })
                .collect();
        }
        vectors.into_iter().map(|vector| (vector.owners, vector.register)).collect()
    }

    /// The place of a value in the frame, the same for all lanes.
    pub(super) fn slot_of(&self, value: ValueId) -> Option<Address> {
        match self.held[value.0 as usize]?.place {
            Place::Slot(slot) => Some(Address::of(Base::Frame(slot))),
            _ => None,
        }
    }
}
