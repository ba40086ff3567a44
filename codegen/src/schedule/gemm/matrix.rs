//! The products of a tile by matrix units, and what becomes of the sums.

use jtllm_ir::{DType, Expr};

use super::operand::Operand;
use super::{Plan, Products, Sides};
use crate::kernel::{FragmentId, Memory, Role, WARP};
use crate::region::Contraction;
use crate::schedule::lower::Lower;

/// Rows, columns and depth of one product of the units.
pub(super) const ROWS: i64 = 16;
pub(super) const COLUMNS: i64 = 8;
const DEPTH: i64 = 16;

/// The fragments of a warp, and its place among the group's.
pub(super) struct Units {
    /// `[sum][row][column]`.
    sums: Vec<Vec<Vec<FragmentId>>>,
    left: Vec<FragmentId>,
    right: Vec<FragmentId>,
    /// The first row and column of the warp's part of the group's tile.
    start: [Expr; 2],
    /// The warp's number.
    number: Expr,
    /// Rows and columns of the warp's part.
    warp: [i64; 2],
    /// Columns of a strip that goes through shared memory.
    width: i64,
    /// For each sum, `[warp][row][column of a strip]`.
    spilled: Vec<Memory>,
}

impl Units {
    pub(super) fn new(lower: &mut Lower<'_>, sums: usize, plan: &Plan, warp: [i64; 2], width: i64) -> Units {
        let [down, across] = [warp[0] / ROWS, warp[1] / COLUMNS];
        let mut fragments = |count: i64, role: Role, dtype: DType| -> Vec<FragmentId> {
            (0..count).map(|_| lower.b.fragment(role, dtype)).collect()
        };
        let left = fragments(down, Role::Left, plan.dtype);
        let right = fragments(across, Role::Right, plan.dtype);
        let rows = |_| (0..down).map(|_| fragments(across, Role::Sum, DType::F32)).collect();
        let sums: Vec<Vec<Vec<FragmentId>>> = (0..sums).map(rows).collect();
        let spilled = sums.iter().map(|_| lower.b.shared(DType::F32, plan.spill_len() as u32)).collect();
        sums.iter().flatten().flatten().for_each(|sum| lower.b.clear(*sum));
        let number = lower.b.lane().div_floor(i64::from(WARP));
        let side_by_side = plan.group[1] / warp[1];
        let start =
            [number.clone().div_floor(side_by_side) * warp[0], number.clone().modulo(side_by_side) * warp[1]];
        Units { sums, left, right, start, number, warp, width, spilled }
    }
}

impl Products for Units {
    fn multiply(&self, lower: &mut Lower<'_>, plan: &Plan, operands: &[Operand], buffer: &Expr) {
        let stride = plan.stride() as u32;
        let fetch = |lower: &mut Lower<'_>, fragment: FragmentId, operand: &Operand, row: Expr, k: i64| {
            let at = operand.row(plan, buffer, &row) + k;
            lower.b.fetch(fragment, operand.memory, &at, stride);
        };
        for k in (0..plan.step).step_by(DEPTH as usize) {
            for (row, left) in (0..).zip(&self.left) {
                fetch(lower, *left, &operands[0], self.start[0].clone() + row * ROWS, k);
            }
            for (sums, operand) in self.sums.iter().zip(&operands[1..]) {
                for (column, right) in (0..).zip(&self.right) {
                    fetch(lower, *right, operand, self.start[1].clone() + column * COLUMNS, k);
                }
                for (sums, left) in sums.iter().zip(&self.left) {
                    for (sum, right) in sums.iter().zip(&self.right) {
                        lower.b.mma(*sum, *left, *right);
                    }
                }
            }
        }
    }

    /// Hands the sums to lanes, strip by strip.
    fn finish(&self, lower: &mut Lower<'_>, contraction: &Contraction, sides: &Sides, plan: &Plan) {
        let strip = self.number.clone() * (ROWS * self.width);
        for row in 0..self.left.len() {
            for column in (0..self.warp[1]).step_by(self.width as usize) {
                let first = (column / COLUMNS) as usize;
                // Lanes have read the strip before.
                if row > 0 || column > 0 {
                    lower.b.barrier();
                }
                for (sums, memory) in self.sums.iter().zip(&self.spilled) {
                    let sums = &sums[row][first..first + (self.width / COLUMNS) as usize];
                    for (at, sum) in (0..).zip(sums) {
                        let at = strip.clone() + at * COLUMNS;
                        lower.b.spill(*sum, *memory, &at, self.width as u32);
                    }
                }
                lower.b.barrier();
                let corner = [row as i64 * ROWS, column];
                self.store(lower, contraction, sides, plan, corner);
            }
        }
    }
}

impl Units {
    /// Computes and stores a strip of `ROWS` rows, by the lanes of each warp.
    fn store(
        &self,
        lower: &mut Lower<'_>,
        contraction: &Contraction,
        sides: &Sides,
        plan: &Plan,
        corner: [i64; 2],
    ) {
        let lanes = i64::from(WARP);
        let lane = lower.b.lane().modulo(lanes);
        let rows_at_once = lanes / self.width;
        let (down, across) = (lane.clone().div_floor(self.width), lane.modulo(self.width));
        lower.repeat(&Expr::int(ROWS / rows_at_once), |lower, pass| {
            let down = pass * rows_at_once + down;
            let at = (self.number.clone() * ROWS + down.clone()) * self.width + across.clone();
            let place = |lower: &Lower<'_>, side: usize, inner: Expr| {
                let start = lower.b.grid(side) * plan.group[side] + self.start[side].clone();
                start + corner[side] + inner
            };
            let [row, column] = [place(lower, 0, down), place(lower, 1, across)];
            for (sum, memory) in contraction.sums.iter().zip(&self.spilled) {
                let value = lower.b.load(*memory, &at);
                lower.bind(sum.root, value);
            }
            let inside = sides.inside(plan, 0, &row).and(&sides.inside(plan, 1, &column));
            let at = sides.place(Some(&row), Some(&column));
            lower.conditional(&inside, |lower| lower.store_roots(at.len(), &at, false));
        });
    }
}
