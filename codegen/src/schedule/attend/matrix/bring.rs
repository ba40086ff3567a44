//! The way of queries, keys and values into shared memory, 16 bytes a lane at a time.

use jtllm_ir::{Expr, Node, Scalar, ScalarOp};

use super::{Prompt, commit};
use crate::kernel::{Memory, ValueId, chunk};
use crate::schedule::lower::Lower;

/// Numbers that a lane brings to shared memory, side by side along an axis of a node.
struct Chunk<'c> {
    node: Node,
    /// The coordinates of number `u`.
    at: &'c dyn Fn(i64) -> Vec<Expr>,
    memory: Memory,
    to: Expr,
}

impl Prompt<'_> {
    /// Calls `bring` for each chunk of `rows` rows of `columns` numbers that the lane brings, with the chunk's row
    /// and first column.
    fn along<'a>(
        &self,
        lower: &mut Lower<'a>,
        [rows, columns]: [i64; 2],
        bring: &mut dyn FnMut(&mut Lower<'a>, &Expr, &Expr),
    ) {
        let (numbers, lane) = (chunk(self.tiles.dtype), lower.b.lane());
        let count = columns / numbers;
        // A power of two, so that which lane brings what is a matter of the lane's number alone.
        let across = (count as u64).next_power_of_two() as i64;
        let column = lane.clone().modulo(across);
        let inside = column.less_than(&Expr::int(count));
        let down = self.tiles.lanes / across;
        lower.conditional(&inside, |lower| {
            for start in (0..rows).step_by(down as usize) {
                let row = lane.clone().div_floor(across) + start;
                let within = row.less_than(&Expr::int(rows));
                lower.conditional(&within, |lower| bring(lower, &row, &(column.clone() * numbers)));
            }
        });
    }

    /// Brings a chunk: as a copy behind the lanes' backs where it lies as it is wanted.
    fn bring(&self, lower: &mut Lower<'_>, piece: &Chunk<'_>) {
        let dtype = self.tiles.dtype;
        let numbers = chunk(dtype);
        let source = |lower: &mut Lower<'_>, u| lower.source(piece.node, &(piece.at)(u), dtype);
        if lower.caps.stage
            && let Some(first) = source(lower, 0)
            && let Some(last) = source(lower, numbers - 1)
            && first.offset.divisor() % numbers == 0
            && last.offset - first.offset.clone() == Expr::int(numbers - 1)
        {
            let from = lower.open(&first);
            return lower.b.stage(piece.memory, &piece.to, from, &first.offset);
        }
        let number = |lower: &mut Lower<'_>, u: i64| {
            let value = lower.value(piece.node, &(piece.at)(u));
            lower.b.scalar(ScalarOp::Cast(dtype), &[value])
        };
        // The stores stand together, so that an emitter may make one of them.
        let values: Vec<ValueId> = (0..numbers).map(|u| number(lower, u)).collect();
        for (u, value) in (0..).zip(values) {
            lower.b.store(piece.memory, &(piece.to.clone() + u), value);
        }
    }

    pub(super) fn bring_queries(&self, lower: &mut Lower<'_>) {
        let (tiles, memory) = (&self.tiles, self.memories.queries);
        self.along(lower, [tiles.rows(), tiles.width], &mut |lower, row, first| {
            let [token, head] = self.place(row);
            let at = |u| vec![token.clone(), head.clone(), Expr::int(0), first.clone() + u];
            let to = row.clone() * tiles.wide() + first.clone();
            self.bring(lower, &Chunk { node: self.nodes.query, at: &at, memory, to });
        });
        commit(lower);
    }

    /// Brings all keys of a block's pages: those that nobody sees are masked.
    pub(super) fn bring_keys(&self, lower: &mut Lower<'_>, number: &Expr) {
        let (tiles, memory) = (&self.tiles, self.memories.keys);
        let [token, head] = &self.start;
        self.along(lower, [tiles.width, tiles.block], &mut |lower, d, first| {
            let position = |u| number.clone() * tiles.block + first.clone() + u;
            let at = |u| vec![token.clone(), head.clone(), position(u), d.clone()];
            let to = d.clone() * tiles.long() + first.clone();
            self.bring(lower, &Chunk { node: self.nodes.key, at: &at, memory, to });
        });
    }

    /// Brings the values of a block and zeros for those that nobody sees: they are multiplied, and may be anything.
    pub(super) fn bring_values(&self, lower: &mut Lower<'_>, number: &Expr, here: &Expr) {
        let (tiles, memory) = (&self.tiles, self.memories.values);
        let [token, head] = &self.start;
        self.along(lower, [tiles.block, tiles.width], &mut |lower, place, first| {
            let position = number.clone() * tiles.block + place.clone();
            let at = |u| vec![token.clone(), head.clone(), first.clone() + u, position.clone()];
            let to = place.clone() * tiles.wide() + first.clone();
            let (seen, beyond) = (place.less_than(here), here.at_most(place));
            lower.conditional(&seen, |lower| {
                self.bring(lower, &Chunk { node: self.nodes.value, at: &at, memory, to: to.clone() });
            });
            lower.conditional(&beyond, |lower| {
                let zero = lower.b.constant(tiles.dtype, Scalar::Float(0.0));
                (0..chunk(tiles.dtype)).for_each(|u| lower.b.store(memory, &(to.clone() + u), zero));
            });
        });
    }
}
