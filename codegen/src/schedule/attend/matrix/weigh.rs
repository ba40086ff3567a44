//! From scores to weights: lanes that share a row mask, find the largest score, weigh and round.

use jtllm_ir::{Expr, ScalarOp};

use super::Prompt;
use crate::kernel::{Memory, ValueId};
use crate::schedule::attend::UNSEEN;
use crate::schedule::lower::Lower;

/// Scores of a row that a lane computes one after another without a loop, so that their loads are on the way
/// together.
const UNROLL: i64 = 4;

impl Prompt<'_> {
    /// Runs `body` for each position of a block that is the lane's, in its row.
    fn along_row<'a>(&self, lower: &mut Lower<'a>, body: &mut dyn FnMut(&mut Lower<'a>, &Expr)) {
        let (count, [_, part]) = (self.tiles.lanes_of_row(), self.own(lower));
        let each = self.tiles.block / count;
        let unroll = each.min(UNROLL);
        lower.repeat(&Expr::int(each / unroll), |lower, step| {
            for u in 0..unroll {
                body(lower, &((step.clone() * unroll + u) * count + part.clone()));
            }
        });
    }

    /// Makes scores of products, and finds the lane's largest.
    pub(super) fn mask(&self, lower: &mut Lower<'_>, number: &Expr) {
        let (tiles, memory, [row, _]) = (&self.tiles, self.memories.scores, self.own(lower));
        let [token, head] = self.place(&row);
        let unseen = lower.b.float(UNSEEN);
        let largest = lower.b.cell(unseen);
        self.along_row(lower, &mut |lower, place| {
            let to = row.clone() * tiles.score_stride() + place.clone();
            let dot = lower.b.load(memory, &to);
            lower.bind(self.nodes.dot, dot);
            let position = number.clone() * tiles.block + place.clone();
            let at = [token.clone(), head.clone(), position];
            let score = lower.value(self.nodes.score, &at);
            let visible = lower.value(self.nodes.visible, &at);
            let score = lower.b.scalar(ScalarOp::Select, &[visible, score, unseen]);
            let before = lower.b.get(largest);
            let after = lower.b.scalar(ScalarOp::Max, &[before, score]);
            lower.b.set(largest, after);
            lower.b.store(memory, &to, score);
        });
        let (own, lane) = (lower.b.get(largest), lower.b.lane());
        lower.b.store(self.memories.largest, &lane, own);
    }

    /// What the lanes of a row left in a memory, joined in ascending order.
    fn joined(&self, lower: &mut Lower<'_>, memory: Memory, join: ScalarOp) -> ValueId {
        let (count, [row, _]) = (self.tiles.lanes_of_row(), self.own(lower));
        let part = |lower: &mut Lower<'_>, part: i64| lower.b.load(memory, &(row.clone() * count + part));
        let first = part(lower, 0);
        (1..count).fold(first, |sum, next| {
            let next = part(lower, next);
            lower.b.scalar(join, &[sum, next])
        })
    }

    /// Turns scores into rounded weights, relative to the largest score so far.
    pub(super) fn weigh(&self, lower: &mut Lower<'_>) {
        let (tiles, memories, [row, _]) = (&self.tiles, &self.memories, self.own(lower));
        let here = self.joined(lower, memories.largest, ScalarOp::Max);
        let before = lower.b.get(self.largest);
        let largest = lower.b.scalar(ScalarOp::Max, &[before, here]);
        lower.b.set(self.largest, largest);
        let difference = lower.b.scalar(ScalarOp::Sub, &[before, largest]);
        let scale = lower.b.scalar(ScalarOp::Exp, &[difference]);
        let lane = lower.b.lane();
        lower.b.store(memories.scales, &lane, scale);
        let [unseen, zero] = [UNSEEN, 0.0].map(|x| lower.b.float(x));
        let total = lower.b.cell(zero);
        self.along_row(lower, &mut |lower, place| {
            let from = row.clone() * tiles.score_stride() + place.clone();
            let score = lower.b.load(memories.scores, &from);
            let seen = lower.b.scalar(ScalarOp::Lt, &[unseen, score]);
            let difference = lower.b.scalar(ScalarOp::Sub, &[score, largest]);
            let power = lower.b.scalar(ScalarOp::Exp, &[difference]);
            let weight = lower.b.scalar(ScalarOp::Select, &[seen, power, zero]);
            let before = lower.b.get(total);
            let after = lower.b.scalar(ScalarOp::Add, &[before, weight]);
            lower.b.set(total, after);
            let weight = lower.b.scalar(ScalarOp::Cast(tiles.dtype), &[weight]);
            lower.b.store(memories.weights, &(row.clone() * tiles.long() + place.clone()), weight);
        });
        let total = lower.b.get(total);
        lower.b.store(memories.totals, &lane, total);
    }

    pub(super) fn add_totals(&self, lower: &mut Lower<'_>) {
        let here = self.joined(lower, self.memories.totals, ScalarOp::Add);
        let lane = lower.b.lane();
        let scale = lower.b.load(self.memories.scales, &lane);
        let before = lower.b.get(self.total);
        let total = lower.b.scalar(ScalarOp::Fma, &[before, scale, here]);
        lower.b.set(self.total, total);
    }
}
