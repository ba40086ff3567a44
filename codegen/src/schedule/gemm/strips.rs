//! What becomes of the sums that matrix units hold: they go to lanes strip by strip, through shared memory.

use jtllm_ir::{DType, Expr};

use super::{Plan, Sides};
use crate::kernel::{FragmentId, Memory, Role, WARP};
use crate::region::Contraction;
use crate::schedule::lower::Lower;

/// Rows and columns of one fragment of sums.
pub(super) const ROWS: i64 = 16;
pub(super) const COLUMNS: i64 = 8;

/// The sums of a warp, and its place among the group's.
pub(super) struct Strips {
    /// `[sum][row][column]`.
    pub(super) sums: Vec<Vec<Vec<FragmentId>>>,
    /// The first row and column of the warp's part of the group's tile.
    pub(super) start: [Expr; 2],
    /// The warp's number.
    number: Expr,
    /// Columns of the warp's part.
    columns: i64,
    /// Columns of a strip that goes through shared memory.
    width: i64,
    /// For each sum, `[warp][row][column of a strip]`.
    spilled: Vec<Memory>,
}

impl Strips {
    /// Sums of zero, of a part that begins there and has so many rows and columns.
    pub(super) fn new(
        lower: &mut Lower<'_>,
        sums: usize,
        plan: &Plan,
        (start, part): ([Expr; 2], [i64; 2]),
        width: i64,
    ) -> Strips {
        let [down, across] = [part[0] / ROWS, part[1] / COLUMNS];
        let mut row =
            || -> Vec<FragmentId> { (0..across).map(|_| lower.b.fragment(Role::Sum, DType::F32)).collect() };
        let mut rows = || (0..down).map(|_| row()).collect();
        let sums: Vec<Vec<Vec<FragmentId>>> = (0..sums).map(|_| rows()).collect();
        let spilled = sums.iter().map(|_| lower.b.shared(DType::F32, plan.spill_len() as u32)).collect();
        sums.iter().flatten().flatten().for_each(|sum| lower.b.clear(*sum));
        let number = lower.b.lane().div_floor(i64::from(WARP));
        Strips { sums, start, number, columns: part[1], width, spilled }
    }

    /// Hands the sums to lanes, strip by strip.
    pub(super) fn finish(
        &self,
        lower: &mut Lower<'_>,
        contraction: &Contraction,
        sides: &Sides,
        plan: &Plan,
    ) {
        let strip = self.number.clone() * (ROWS * self.width);
        for row in 0..self.sums[0].len() {
            for column in (0..self.columns).step_by(self.width as usize) {
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
