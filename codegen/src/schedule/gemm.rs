//! Matrix products of many rows, tile by tile through shared memory.
//!
//! A group computes `rows x columns` sums. Step by step along the depth its lanes bring a tile of each operand to
//! shared memory, in one of two buffers: while a step is multiplied out of one, the next one comes into the
//! other, so that one barrier a step is enough. Where units multiply behind the lanes' backs there are four:
//! products of two steps are under way, so that the units need not wait for the barrier between them, while two
//! more steps come. Operands that are rounded to 16 bits are multiplied by matrix units where there are any, all
//! others by lanes that hold a few sums each. Rows and columns beyond the last read the last one's numbers, and
//! nobody stores what becomes of them; a depth that is no multiple of a step ends in zeros. The order of a sum's
//! terms depends on the depth alone.

mod lanes;
mod matrix;
mod operand;
mod plan;
mod strips;
mod teams;

use jtllm_ir::Expr;

use super::Scheduled;
use super::contract::{extents, spread};
use super::lower::Lower;
use crate::region::Contraction;
use operand::Operand;
pub(crate) use plan::narrow_type;
use plan::{Kind, Plan};

/// The two sides of a contraction, each with its axes of the region's space.
struct Sides {
    space: usize,
    axes: [Vec<usize>; 2],
    extents: [Vec<Expr>; 2],
    /// Rows of the left side, columns of the right one.
    counts: [Expr; 2],
}

impl Sides {
    fn new(lower: &Lower<'_>, contraction: &Contraction) -> Sides {
        let space = &lower.region.space;
        let axes = [contraction.left_axes.clone(), contraction.right_axes.clone()];
        let extents = [extents(space, &axes[0]), extents(space, &axes[1])];
        let count = |of: &Vec<Expr>| of.iter().fold(Expr::int(1), |product, n| product * n.clone());
        let counts = [count(&extents[0]), count(&extents[1])];
        Sides { space: space.len(), axes, extents, counts }
    }

    /// Coordinates over the region's space; those of a side that is not given are 0.
    fn place(&self, row: Option<&Expr>, column: Option<&Expr>) -> Vec<Expr> {
        let mut at = vec![Expr::int(0); self.space];
        for (side, flat) in [row, column].into_iter().enumerate() {
            if let Some(flat) = flat {
                spread(&mut at, &self.axes[side], &self.extents[side], flat);
            }
        }
        at
    }

    /// Whether tiles end where a side ends.
    fn is_whole(&self, plan: &Plan, side: usize) -> bool {
        self.counts[side].divisor() % plan.group[side] == 0
    }

    /// Whether a row or column of a tile is not beyond the end.
    fn inside(&self, plan: &Plan, side: usize, at: &Expr) -> Expr {
        if self.is_whole(plan, side) { Expr::int(1) } else { at.less_than(&self.counts[side]) }
    }
}

/// What multiplies tiles and holds the sums.
trait Products {
    /// Adds the products of the step in a buffer.
    fn multiply(&self, lower: &mut Lower<'_>, plan: &Plan, operands: &[Operand], buffer: &Expr);

    /// Waits until only the products of the last so many steps may still be under way.
    fn settle(&self, _lower: &mut Lower<'_>, _steps: u32) {}

    /// Computes and stores what is made of the sums.
    fn finish(&self, lower: &mut Lower<'_>, contraction: &Contraction, sides: &Sides, plan: &Plan);
}

/// How a contraction is cut.
pub(super) struct Cut {
    sides: Sides,
    plan: Plan,
}

/// How a contraction is cut, if the target's groups are made for it.
pub(super) fn cut(lower: &Lower<'_>, contraction: &Contraction) -> Option<Cut> {
    let sides = Sides::new(lower, contraction);
    let plan = Plan::choose(lower, contraction, &sides)?;
    Some(Cut { sides, plan })
}

pub(super) fn schedule(mut lower: Lower<'_>, contraction: &Contraction, cut: &Cut) -> Scheduled {
    let Cut { sides, plan } = cut;
    let [rows, columns] = [0, 1].map(|side| sides.counts[side].clone().div_ceil(plan.group[side]));
    lower.grid(plan.lanes as u32, [rows, columns, Expr::int(1)]);
    let left = Operand::left(&mut lower, &contraction.sums[0], sides, plan);
    let rights = contraction.sums.iter().map(|sum| Operand::right(&mut lower, sum, sides, plan));
    let mut operands: Vec<Operand> = rights.collect();
    operands.insert(0, left);
    let sums = contraction.sums.len();
    let products: Box<dyn Products> = match plan.kind {
        Kind::Matrix { warp, spilled } => Box::new(matrix::Units::new(&mut lower, sums, plan, warp, spilled)),
        Kind::Teams { spilled } => Box::new(teams::Teams::new(&mut lower, sums, plan, spilled)),
        Kind::Lanes { own } => Box::new(lanes::Sums::new(&mut lower, sums, plan, own)),
    };
    let all = Pipeline { operands: &operands, sides, plan };
    let steps = (operands[0].depth + plan.step - 1) / plan.step;
    let ahead = plan.ahead(steps);
    (0..ahead).for_each(|step| all.start(&mut lower, &Expr::int(step)));
    (0..ahead).for_each(|step| all.complete(&mut lower, &Expr::int(step)));
    if steps > ahead {
        lower.repeat(&Expr::int(steps - ahead), |lower, step| {
            let next = step.clone() + ahead;
            all.arrive(lower, ahead - 1);
            all.start(lower, &next);
            products.multiply(lower, plan, &operands, &step.modulo(plan.stages));
            all.complete(lower, &next);
            products.settle(lower, 1);
        });
    }
    for left in (0..ahead).rev() {
        all.arrive(&mut lower, left);
        products.multiply(&mut lower, plan, &operands, &Expr::int((steps - 1 - left) % plan.stages));
        products.settle(&mut lower, u32::from(left > 0));
    }
    products.finish(&mut lower, contraction, sides, plan);
    lower.finish()
}

/// The way of the operands' tiles into shared memory.
struct Pipeline<'p> {
    operands: &'p [Operand],
    sides: &'p Sides,
    plan: &'p Plan,
}

impl Pipeline<'_> {
    fn is_staged(&self) -> bool {
        self.operands.iter().any(|operand| operand.staged)
    }

    /// Waits for the first step that is on its way, but not for so many further ones; all lanes are done with the
    /// one before.
    fn arrive(&self, lower: &mut Lower<'_>, further: i64) {
        if self.is_staged() {
            lower.b.stage_wait(further as u32);
        }
        if self.plan.is_panel() {
            lower.b.publish();
        }
        lower.b.barrier();
    }

    /// Begins a step: asynchronous copies, and loads of what lanes will unpack.
    fn start(&self, lower: &mut Lower<'_>, step: &Expr) {
        for operand in self.operands {
            match operand.staged {
                true => operand.stage(lower, self.sides, self.plan, step),
                false => operand.touch(lower, self.sides, self.plan, step),
            }
        }
        if self.is_staged() {
            lower.b.stage_commit();
        }
    }

    /// Ends a step: what lanes bring themselves.
    fn complete(&self, lower: &mut Lower<'_>, step: &Expr) {
        for operand in self.operands.iter().filter(|operand| !operand.staged) {
            operand.fill(lower, self.sides, self.plan, step);
        }
    }
}
