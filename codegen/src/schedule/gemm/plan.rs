//! How a product's work is cut, from what the target has.

use jtllm_ir::{DType, Graph, Node, Op, ScalarOp};

use super::{Sides, strips};
use crate::kernel::{TEAM, TEAM_ROWS, WARP, chunk};
use crate::region::{Contraction, Product, Sum};
use crate::schedule::lower::Lower;

/// With fewer groups than this, smaller tiles keep more of the processor busy.
const GROUPS_MIN: i64 = 96;

/// Numbers along the depth in one step of matrix units: two of their products.
const STEP_MATRIX: i64 = 32;

/// The same of units that read shared memory by themselves: four of their products, and 128 bytes of a row. Depths
/// that are no multiple of that go in steps as above.
const STEP_TEAMS: i64 = 64;

/// Buffers, in turn: one is multiplied while the other one is filled. Teams have products of two steps under way
/// while two more come.
const STAGES: i64 = 2;
const STAGES_TEAMS: i64 = 4;

/// Columns of a team's tile, and sums of one of its rows that registers can hold: 128 a lane.
const COLUMNS_TEAM: [i64; 3] = [256, 128, 64];
const SUMS_TEAM: i64 = 256;

/// Sums of matrix units that a lane can hold.
const SUMS_MATRIX: i64 = 64;

/// Numbers along the depth in one step of lanes.
const STEP_LANES: i64 = 16;

/// What multiplies.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Matrix units.
    Matrix {
        /// Rows and columns of a warp's part of the tile.
        warp: [i64; 2],
        /// Columns of that part which go through shared memory at a time, at the end.
        spilled: i64,
    },
    /// Matrix units that read shared memory by themselves, for teams.
    Teams {
        /// Columns of the tile that go through shared memory at a time, at the end.
        spilled: i64,
    },
    /// Lanes.
    Lanes {
        /// Rows and columns of which a lane has sums.
        own: [i64; 2],
    },
}

/// How the work is cut.
#[derive(Clone)]
pub(super) struct Plan {
    /// The type of both operands in shared memory.
    pub(super) dtype: DType,
    pub(super) lanes: i64,
    /// Rows and columns of a group's tile.
    pub(super) group: [i64; 2],
    /// Numbers along the depth that come at a time.
    pub(super) step: i64,
    /// Steps that shared memory has room for.
    pub(super) stages: i64,
    pub(super) kind: Kind,
}

impl Plan {
    /// Whether operands lie in shared memory as teams want them ([`crate::kernel::Panel`]).
    pub(super) fn is_panel(&self) -> bool {
        matches!(self.kind, Kind::Teams { .. })
    }

    /// Elements from one row of a tile in shared memory to the next: 16 bytes more than a row has, so that rows
    /// begin in different banks. In panels, where rows lie side by side, from one chunk of a row to its next one: so
    /// lanes that bring a row store to different banks too.
    pub(super) fn stride(&self, rows: i64) -> i64 {
        let numbers = chunk(self.dtype);
        if self.is_panel() { (rows + 1) * numbers } else { self.step + numbers }
    }

    /// Elements of a step's tile of so many rows.
    pub(super) fn buffer_len(&self, rows: i64) -> i64 {
        let strides = if self.is_panel() { self.step / chunk(self.dtype) } else { rows };
        strides * self.stride(rows)
    }

    /// Steps that come while one is multiplied. Where products are under way behind the lanes' backs, a step's
    /// buffer is only known to be free when the second one after it is multiplied.
    pub(super) fn ahead(&self, steps: i64) -> i64 {
        let multiplied = if self.is_panel() { 2 } else { 1 };
        (self.stages - multiplied).min(steps)
    }

    /// Elements of the memory through which lanes get each sum.
    pub(super) fn spill_len(&self) -> i64 {
        match self.kind {
            Kind::Matrix { spilled, .. } | Kind::Teams { spilled } => {
                self.lanes / i64::from(WARP) * strips::ROWS * spilled
            }
            Kind::Lanes { .. } => 0,
        }
    }

    fn shared_bytes(&self, sums: i64) -> i64 {
        let buffers = self.buffer_len(self.group[0]) + sums * self.buffer_len(self.group[1]);
        self.stages * buffers * self.dtype.size() as i64 + sums * self.spill_len() * 4
    }

    /// The plan for a contraction, if the target's groups are large enough for any.
    pub(super) fn choose(lower: &Lower<'_>, contraction: &Contraction, sides: &Sides) -> Option<Plan> {
        let shape = |sum: &Sum| (sum.depth, sum.blocks.as_ref().map(|blocks| blocks.count));
        let first = shape(&contraction.sums[0]);
        let scaled = |sum: &Sum| sum.blocks.as_ref().is_none_or(|blocks| blocks.scale(lower.graph).is_some());
        let plain = |sum: &Sum| sum.product == Product::Floats && scaled(sum);
        if contraction.sums.iter().any(|sum| shape(sum) != first || !plain(sum)) {
            return None;
        }
        let sums = contraction.sums.len() as i64;
        let dtype = operand_type(lower, contraction)
            .filter(|dtype| lower.caps.matrix.is_some_and(|matrix| matrix.has(*dtype)));
        let width = sides.counts[1].as_int()?;
        let have = i64::from(lower.caps.shared_bytes);
        let rows = sides.counts[0].high().max(1);
        // A row of the result must be as wide as a tile: else lanes could not be told apart where they store.
        let fits = |plan: &Plan| width >= plan.group[1] && plan.shared_bytes(sums) <= have;
        let groups =
            |plan: &Plan| ((rows - 1) / plan.group[0] + 1).saturating_mul((width - 1) / plan.group[1] + 1);
        // Of tiles that fit the largest of which there are enough, or else the smallest.
        let best = |sizes: Vec<Vec<Plan>>| {
            let fit = sizes.into_iter().filter_map(|plans| plans.into_iter().find(fits)).collect::<Vec<_>>();
            fit.iter().find(|plan| groups(plan) >= GROUPS_MIN).or(fit.last()).cloned()
        };
        let (Some(dtype), Some(matrix), None) = (dtype, lower.caps.matrix, first.1) else {
            return best([false, true].map(|small| by_lanes(lower, sums, small)).to_vec());
        };
        let by_teams = || {
            best(COLUMNS_TEAM.map(|columns| teams(dtype, matrix.teams, (sums, first.0), columns)).to_vec())
        };
        by_teams()
            .filter(|_| rows >= i64::from(TEAM_ROWS))
            .or_else(|| best([false, true].map(|small| units(dtype, matrix.lanes, sums, small)).to_vec()))
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
pub(crate) fn narrow_type(graph: &Graph, node: Node) -> Option<DType> {
    match graph.op(node) {
        Op::View { x, .. } => narrow_type(graph, *x),
        Op::Map { op: ScalarOp::Cast(DType::F32), xs } => {
            Some(graph.dtype(xs[0])).filter(|dtype| matches!(dtype, DType::F16 | DType::BF16))
        }
        _ => None,
    }
}

/// Tiles of warps as tall as registers allow, and warps side by side so that the group's tile is about square.
fn units(dtype: DType, lanes: u32, sums: i64, small: bool) -> Vec<Plan> {
    let warps = i64::from(lanes / WARP);
    let mut warp = if small { [32, 16] } else { [64, 32] };
    while warp[0] * warp[1] / i64::from(WARP) * sums > SUMS_MATRIX {
        let longer = usize::from(warp[0] < 2 * warp[1]);
        warp[longer] /= 2;
    }
    if warp[0] < strips::ROWS || warp[1] < strips::COLUMNS {
        return Vec::new();
    }
    let mut down = 1;
    while down * 2 <= warps && down * 2 * warp[0] <= (warps / (down * 2)) * warp[1] * sums.min(2) {
        down *= 2;
    }
    let group = [down * warp[0], warps / down * warp[1]];
    let plan = |spilled| {
        let kind = Kind::Matrix { warp, spilled };
        Plan { dtype, lanes: i64::from(lanes), group, step: STEP_MATRIX, stages: STAGES, kind }
    };
    [32, 16, 8].into_iter().filter(|width| *width <= warp[1]).map(plan).collect()
}

/// Tiles as tall as a group's teams, so wide.
fn teams(dtype: DType, lanes: u32, (sums, depth): (i64, i64), columns: i64) -> Vec<Plan> {
    let group = [i64::from(lanes / TEAM * TEAM_ROWS), columns];
    if lanes == 0 || columns * sums > SUMS_TEAM {
        return Vec::new();
    }
    let step = if depth % STEP_TEAMS == 0 { STEP_TEAMS } else { STEP_MATRIX };
    let plan = |spilled| {
        let kind = Kind::Teams { spilled };
        Plan { dtype, lanes: i64::from(lanes), group, step, stages: STAGES_TEAMS, kind }
    };
    [32, 16, 8].map(plan).to_vec()
}

/// Tiles of 8 lanes side by side with 4 columns or more each; as many rows as registers allow.
fn by_lanes(lower: &Lower<'_>, sums: i64, small: bool) -> Vec<Plan> {
    let lanes = i64::from(lower.caps.tile_lanes);
    if lanes == 0 {
        return Vec::new();
    }
    let most = i64::from(lower.caps.accumulators) / if small { 2 } else { 1 };
    let plan = |own: [i64; 2]| {
        let across = if lanes >= 256 { 16 } else { 8 };
        let group = [lanes / across * own[0], across * own[1]];
        Plan { dtype: DType::F32, lanes, group, step: STEP_LANES, stages: STAGES, kind: Kind::Lanes { own } }
    };
    let shapes = [[4, 8], [4, 4], [2, 4], [2, 2], [1, 2]];
    shapes.into_iter().filter(|own| own[0] * own[1] * sums <= most).map(plan).collect()
}
