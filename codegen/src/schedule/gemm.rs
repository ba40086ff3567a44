//! Matrix products of many rows, tile by tile through shared memory.
//!
//! A group computes `rows x columns` sums. Step by step along the depth its lanes bring a tile of each operand to
//! shared memory, in one of two buffers: while a step is multiplied out of one, the next one comes into the other,
//! so that one barrier a step is enough. Rows and columns beyond the last read the last one's numbers, and nobody
//! stores what becomes of them; a depth that is no multiple of a step ends in zeros. The order of a sum's terms
//! depends on the depth alone.

mod matrix;
mod operand;

use jtllm_ir::{DType, Expr, Graph, Node, Op, ScalarOp};

use super::Scheduled;
use super::contract::{extents, spread};
use super::lower::Lower;
use crate::kernel::WARP;
use crate::region::Contraction;
use operand::Operand;

/// Numbers along the depth in one step.
const STEP: i64 = 32;

/// Numbers behind each row of a tile in shared memory, so that rows begin in different banks: 16 bytes of 16-bit
/// numbers.
const PADDING: i64 = 8;

/// Sums that a lane can hold.
const SUMS_MAX: i64 = 64;

/// With fewer groups than this, smaller tiles keep more of the processor busy.
const GROUPS_MIN: i64 = 96;

/// How the work is cut.
#[derive(Clone)]
struct Plan {
    /// The type of both operands.
    dtype: DType,
    lanes: i64,
    /// Rows and columns of a group's tile, and of a warp's part of it.
    group: [i64; 2],
    warp: [i64; 2],
    /// Columns of a warp's tile that go through shared memory at a time, at the end.
    spilled: i64,
}

impl Plan {
    /// Elements from one row of a tile in shared memory to the next.
    fn stride(&self) -> i64 {
        STEP + PADDING
    }

    /// Bytes of both operands' buffers.
    fn buffer_bytes(&self, sums: i64) -> i64 {
        2 * (self.group[0] + sums * self.group[1]) * self.stride() * self.dtype.size() as i64
    }

    fn warps(&self) -> i64 {
        self.lanes / i64::from(WARP)
    }

    /// Bytes of the memory through which lanes get their sums.
    fn spill_bytes(&self, sums: i64) -> i64 {
        sums * self.warps() * matrix::ROWS * self.spilled * 4
    }
}

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

/// The loop nest, if the target's matrix units can do it.
pub(super) fn schedule<'a>(lower: Lower<'a>, contraction: &Contraction) -> Result<Scheduled, Lower<'a>> {
    let sides = Sides::new(&lower, contraction);
    match choose(&lower, contraction, &sides) {
        Some(plan) => Ok(build(lower, contraction, &sides, &plan)),
        None => Err(lower),
    }
}

/// The type to which both operands of all sums are rounded, if they are.
fn operand_type(lower: &Lower<'_>, contraction: &Contraction) -> Option<DType> {
    let operands = contraction.sums.iter().flat_map(|sum| [sum.left, sum.right]);
    let mut types = operands.map(|node| match lower.is_stored(node) {
        true => None,
        false => narrow_type(lower.graph, node),
    });
    let first = types.next()??;
    types.all(|dtype| dtype == Some(first)).then_some(first)
}

/// The 16-bit type of which a node is the `f32`, whatever moves it.
fn narrow_type(graph: &Graph, node: Node) -> Option<DType> {
    match graph.op(node) {
        Op::View { x, .. } => narrow_type(graph, *x),
        Op::Map { op: ScalarOp::Cast(DType::F32), xs } => {
            Some(graph.dtype(xs[0])).filter(|dtype| matches!(dtype, DType::F16 | DType::BF16))
        }
        _ => None,
    }
}

fn choose(lower: &Lower<'_>, contraction: &Contraction, sides: &Sides) -> Option<Plan> {
    let matrix = lower.caps.matrix?;
    let dtype = operand_type(lower, contraction).filter(|dtype| matrix.has(*dtype))?;
    let sums = contraction.sums.len() as i64;
    let blocked = |sum: &crate::region::Sum| sum.blocks.is_some() || sum.depth != contraction.sums[0].depth;
    if contraction.sums.iter().any(blocked) {
        return None;
    }
    let lanes = i64::from(matrix.lanes);
    let width = sides.counts[1].as_int()?;
    let groups = |plan: &Plan| {
        let rows = sides.counts[0].high().max(1) as u64;
        rows.div_ceil(plan.group[0] as u64) as i64 * ((width + plan.group[1] - 1) / plan.group[1])
    };
    // A row of the result must be as wide as a tile: else lanes could not be told apart where they store.
    let fits = |plan: &Plan| width >= plan.group[1];
    let [large, small] =
        [false, true].map(|small| tile(lower, dtype, lanes, sums, small).filter(|plan| fits(plan)));
    large.filter(|large| small.is_none() || groups(large) >= GROUPS_MIN).or(small)
}

/// Tiles of warps as tall as registers allow, and warps side by side so that the group's tile is about square.
fn tile(lower: &Lower<'_>, dtype: DType, lanes: i64, sums: i64, small: bool) -> Option<Plan> {
    let warps = lanes / i64::from(WARP);
    let mut warp = if small { [32, 16] } else { [64, 32] };
    while warp[0] * warp[1] / i64::from(WARP) * sums > SUMS_MAX {
        let longer = usize::from(warp[0] < 2 * warp[1]);
        warp[longer] /= 2;
    }
    if warp[0] < matrix::ROWS || warp[1] < matrix::COLUMNS {
        return None;
    }
    let mut down = 1;
    while down * 2 <= warps && down * 2 * warp[0] <= (warps / (down * 2)) * warp[1] * sums.min(2) {
        down *= 2;
    }
    let group = [down * warp[0], warps / down * warp[1]];
    let have = i64::from(lower.caps.shared_bytes);
    let plan = |spilled| Plan { dtype, lanes, group, warp, spilled };
    let widths = [32, 16, 8].into_iter().filter(|width| *width <= warp[1]);
    widths.map(plan).find(|plan| plan.buffer_bytes(sums) + plan.spill_bytes(sums) <= have)
}

fn build(mut lower: Lower<'_>, contraction: &Contraction, sides: &Sides, plan: &Plan) -> Scheduled {
    let [rows, columns] = [0, 1].map(|side| sides.counts[side].clone().div_ceil(plan.group[side]));
    lower.grid(plan.lanes as u32, [rows, columns, Expr::int(1)]);
    let depth = contraction.sums[0].depth;
    let nodes = contraction.sums.iter().map(|sum| (sum.right, 1));
    let operands: Vec<Operand> = std::iter::once((contraction.sums[0].left, 0))
        .chain(nodes)
        .map(|(node, side)| Operand::new(&mut lower, node, side, depth, sides, plan))
        .collect();
    let units = matrix::Units::new(&mut lower, contraction.sums.len(), plan);
    let all = Pipeline { operands: &operands, sides, plan };
    let steps = (depth + STEP - 1) / STEP;
    all.start(&mut lower, &Expr::int(0));
    all.complete(&mut lower, &Expr::int(0));
    if steps > 1 {
        lower.repeat(&Expr::int(steps - 1), |lower, step| {
            let next = step.clone() + 1;
            all.arrive(lower);
            all.start(lower, &next);
            units.multiply(lower, plan, &operands, &step.modulo(2));
            all.complete(lower, &next);
        });
    }
    all.arrive(&mut lower);
    units.multiply(&mut lower, plan, &operands, &Expr::int((steps - 1) % 2));
    units.finish(&mut lower, contraction, sides, plan);
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

    /// Waits for the step that is on its way; all lanes are done with the one before.
    fn arrive(&self, lower: &mut Lower<'_>) {
        if self.is_staged() {
            lower.b.stage_wait(0);
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
