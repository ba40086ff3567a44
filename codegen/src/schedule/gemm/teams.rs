//! The products of a tile by units that read shared memory by themselves.

use jtllm_ir::Expr;

use super::operand::Operand;
use super::strips::{ROWS, Strips};
use super::{Plan, Products, Sides};
use crate::kernel::{Panel, TEAM, TEAM_ROWS, WARP};
use crate::region::Contraction;
use crate::schedule::lower::Lower;

/// The teams of a group, one below the other, each as wide as the group's tile.
pub(super) struct Teams {
    strips: Strips,
    /// The first row of the team's part.
    row: Expr,
}

impl Teams {
    pub(super) fn new(lower: &mut Lower<'_>, sums: usize, plan: &Plan, width: i64) -> Teams {
        let lane = lower.b.lane();
        let row = lane.clone().div_floor(i64::from(TEAM)) * i64::from(TEAM_ROWS);
        // The warps of a team lie one below the other too.
        let start = [lane.div_floor(i64::from(WARP)) * ROWS, Expr::int(0)];
        Teams { strips: Strips::new(lower, sums, plan, (start, [ROWS, plan.group[1]]), width), row }
    }
}

impl Products for Teams {
    fn multiply(&self, lower: &mut Lower<'_>, plan: &Plan, operands: &[Operand], buffer: &Expr) {
        let panel = |operand: &Operand, row: &Expr| Panel {
            memory: operand.memory,
            at: operand.at(plan, buffer, row, &Expr::int(0)),
            stride: operand.stride(plan) as u32,
        };
        for (sums, right) in self.strips.sums.iter().zip(&operands[1..]) {
            let (left, right) = (panel(&operands[0], &self.row), panel(right, &Expr::int(0)));
            lower.b.product(&sums[0], left, right, plan.step as u32);
        }
    }

    fn settle(&self, lower: &mut Lower<'_>, steps: u32) {
        lower.b.product_wait(steps * self.strips.sums.len() as u32);
    }

    fn finish(&self, lower: &mut Lower<'_>, contraction: &Contraction, sides: &Sides, plan: &Plan) {
        self.strips.finish(lower, contraction, sides, plan);
    }
}
