//! The products of a tile by matrix units, each warp with a part of the tile.

use jtllm_ir::{DType, Expr};

use super::operand::Operand;
use super::strips::{COLUMNS, ROWS, Strips};
use super::{Plan, Products, Sides};
use crate::kernel::{FragmentId, Role, WARP};
use crate::region::Contraction;
use crate::schedule::lower::Lower;

/// The depth of one product of the units.
const DEPTH: i64 = 16;

/// The fragments of a warp, and its place among the group's.
pub(super) struct Units {
    left: Vec<FragmentId>,
    right: Vec<FragmentId>,
    strips: Strips,
}

impl Units {
    pub(super) fn new(lower: &mut Lower<'_>, sums: usize, plan: &Plan, warp: [i64; 2], width: i64) -> Units {
        let [down, across] = [warp[0] / ROWS, warp[1] / COLUMNS];
        let mut fragments = |count: i64, role: Role, dtype: DType| -> Vec<FragmentId> {
            (0..count).map(|_| lower.b.fragment(role, dtype)).collect()
        };
        let left = fragments(down, Role::Left, plan.dtype);
        let right = fragments(across, Role::Right, plan.dtype);
        let number = lower.b.lane().div_floor(i64::from(WARP));
        let side_by_side = plan.group[1] / warp[1];
        let start = [number.clone().div_floor(side_by_side) * warp[0], number.modulo(side_by_side) * warp[1]];
        Units { left, right, strips: Strips::new(lower, sums, plan, (start, warp), width) }
    }
}

impl Products for Units {
    fn multiply(&self, lower: &mut Lower<'_>, plan: &Plan, operands: &[Operand], buffer: &Expr) {
        let fetch = |lower: &mut Lower<'_>, fragment: FragmentId, operand: &Operand, row: Expr, k: i64| {
            let at = operand.row(plan, buffer, &row) + k;
            lower.b.fetch(fragment, operand.memory, &at, operand.stride(plan) as u32);
        };
        for k in (0..plan.step).step_by(DEPTH as usize) {
            for (row, left) in (0..).zip(&self.left) {
                fetch(lower, *left, &operands[0], self.strips.start[0].clone() + row * ROWS, k);
            }
            for (sums, operand) in self.strips.sums.iter().zip(&operands[1..]) {
                for (column, right) in (0..).zip(&self.right) {
                    fetch(lower, *right, operand, self.strips.start[1].clone() + column * COLUMNS, k);
                }
                for (sums, left) in sums.iter().zip(&self.left) {
                    for (sum, right) in sums.iter().zip(&self.right) {
                        lower.b.mma(*sum, *left, *right);
                    }
                }
            }
        }
    }

    fn finish(&self, lower: &mut Lower<'_>, contraction: &Contraction, sides: &Sides, plan: &Plan) {
        self.strips.finish(lower, contraction, sides, plan);
    }
}
