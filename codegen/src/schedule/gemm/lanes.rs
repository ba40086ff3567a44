//! The products of a tile by lanes, each with sums of its own.

use jtllm_ir::{Expr, ScalarOp};

use super::operand::Operand;
use super::{Plan, Products, Sides};
use crate::kernel::{CellId, ValueId};
use crate::region::Contraction;
use crate::schedule::lower::Lower;

/// Numbers of a row that are loaded side by side, for emitters that make one load of them.
const WIDTH: i64 = 4;

/// The sums of a lane: rows and columns that lie as far apart as lanes stand side by side, so that neighbours
/// store side by side.
pub(super) struct Sums {
    /// `[sum][row][column]`.
    cells: Vec<Vec<Vec<CellId>>>,
    /// The lane's first row and column of the group's tile.
    start: [Expr; 2],
    /// From one of its rows and columns to the next.
    apart: [i64; 2],
}

impl Sums {
    pub(super) fn new(lower: &mut Lower<'_>, sums: usize, plan: &Plan, own: [i64; 2]) -> Sums {
        let apart = [plan.group[0] / own[0], plan.group[1] / own[1]];
        let zero = lower.b.float(0.0);
        let row = |lower: &mut Lower<'_>| (0..own[1]).map(|_| lower.b.cell(zero)).collect();
        let tile = |lower: &mut Lower<'_>| (0..own[0]).map(|_| row(lower)).collect();
        let cells = (0..sums).map(|_| tile(lower)).collect();
        let lane = lower.b.lane();
        let start = [lane.clone().div_floor(apart[1]), lane.modulo(apart[1])];
        Sums { cells, start, apart }
    }

    /// The lane's row or column number `number` of the tile.
    fn place(&self, side: usize, number: usize) -> Expr {
        self.start[side].clone() + number as i64 * self.apart[side]
    }

    /// Numbers `k..k + WIDTH` of each of a lane's rows of an operand.
    fn load(
        &self,
        lower: &mut Lower<'_>,
        operand: &Operand,
        plan: &Plan,
        (buffer, k): (&Expr, &Expr),
        (side, count): (usize, usize),
    ) -> Vec<Vec<ValueId>> {
        (0..count)
            .map(|number| {
                let row = operand.row(plan, buffer, &self.place(side, number)) + k.clone();
                (0..WIDTH).map(|u| lower.b.load(operand.memory, &(row.clone() + u))).collect()
            })
            .collect()
    }
}

impl Products for Sums {
    fn multiply(&self, lower: &mut Lower<'_>, plan: &Plan, operands: &[Operand], buffer: &Expr) {
        lower.repeat(&Expr::int(plan.step / WIDTH), |lower, step| {
            let at = (buffer, &(step * WIDTH));
            let left = self.load(lower, &operands[0], plan, at, (0, self.cells[0].len()));
            for (cells, operand) in self.cells.iter().zip(&operands[1..]) {
                let right = self.load(lower, operand, plan, at, (1, cells[0].len()));
                for u in 0..WIDTH as usize {
                    for (cells, left) in cells.iter().zip(&left) {
                        for (cell, right) in cells.iter().zip(&right) {
                            let before = lower.b.get(*cell);
                            let after = lower.b.scalar(ScalarOp::Fma, &[right[u], left[u], before]);
                            lower.b.set(*cell, after);
                        }
                    }
                }
            }
        });
    }

    fn finish(&self, lower: &mut Lower<'_>, contraction: &Contraction, sides: &Sides, plan: &Plan) {
        let first = &self.cells[0];
        for (i, j) in (0..first.len()).flat_map(|i| (0..first[0].len()).map(move |j| (i, j))) {
            for (sum, cells) in contraction.sums.iter().zip(&self.cells) {
                let value = lower.b.get(cells[i][j]);
                lower.bind(sum.root, value);
            }
            let place =
                |side: usize, number: usize| lower.b.grid(side) * plan.group[side] + self.place(side, number);
            let [row, column] = [place(0, i), place(1, j)];
            let inside = sides.inside(plan, 0, &row).and(&sides.inside(plan, 1, &column));
            let at = sides.place(Some(&row), Some(&column));
            lower.conditional(&inside, |lower| lower.store_roots(at.len(), &at, false));
        }
    }
}
