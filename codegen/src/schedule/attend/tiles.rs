//! Whether prompts attend by matrix units, and how the work is cut, from the graph and what the target has.

use jtllm_ir::graph::axes;
use jtllm_ir::{DType, Expr, Graph, Node};

use crate::access::read_coordinates;
use crate::kernel::{WARP, chunk};
use crate::region::Attend;
use crate::schedule::gemm::narrow_type;
use crate::target::Caps;

/// Queries of a tile: the rows of a product of the units, and what a sequence's rows begin at a multiple of.
pub(super) const QUERIES: i64 = 16;

/// Columns of a product of the units, and its depth.
pub(super) const COLUMNS: i64 = 8;
pub(super) const DEPTH: i64 = 16;

/// Sums that a lane can hold beside those of a block's scores.
const SUMS: i64 = 64;

/// Positions of a block and rows of a tile at most, the first that fit the target. Twice the rows halve what is
/// brought to shared memory for a product, longer blocks what is done once a block.
const SHAPES: [[i64; 2]; 5] = [[64, 64], [32, 64], [64, 32], [32, 32], [32, 16]];

/// How the work of a group is cut: rows are the queries of a tile, for one of the heads that share keys after the
/// other.
#[derive(Clone, Debug)]
pub(crate) struct Tiles {
    /// The type of all operands: the cache's.
    pub(crate) dtype: DType,
    pub(super) lanes: i64,
    /// Numbers of a head.
    pub(super) width: i64,
    /// Heads of a group.
    pub(super) heads: i64,
    /// Positions that are looked at together.
    pub(super) block: i64,
}

impl Tiles {
    /// The cut for an attention whose rows of 16 belong to one sequence each, on a target whose units multiply
    /// numbers of the cache's type. Positions of a block depend on the head's width and the target alone.
    pub(crate) fn choose(graph: &Graph, nodes: &Attend, caps: &Caps) -> Option<Tiles> {
        let matrix = caps.matrix?;
        let dtype = narrow_type(graph, nodes.key).filter(|dtype| matrix.has(*dtype))?;
        let [tokens, heads, length] = graph.shape(nodes.dot) else { return None };
        let (heads, width) = (heads.as_int()?, graph.shape(nodes.root)[2].as_int()?);
        let depth = graph.shape(nodes.key)[3].as_int()?;
        let same = |axis: u16, count: i64| {
            [nodes.key, nodes.value].iter().all(|node| is_same(graph, *node, axis, count))
        };
        let fits = narrow_type(graph, nodes.value) == Some(dtype)
            && width % DEPTH == 0
            && depth == width
            && tokens.divisor() % QUERIES == 0
            && same(0, QUERIES);
        let lanes = i64::from(matrix.lanes);
        let cut = |[block, rows]: [i64; 2]| {
            let tiles = Tiles { dtype, lanes, width, heads: rows / QUERIES, block };
            (length.divisor() % block == 0 && tiles.serve(caps)).then_some(tiles)
        };
        let mut tiles = SHAPES.into_iter().filter(|_| fits).find_map(cut)?;
        let shared =
            |count: i64| heads % count == 0 && same(1, count) && is_same(graph, nodes.visible, 1, count);
        while !shared(tiles.heads) {
            tiles.heads /= 2;
        }
        Some(tiles)
    }

    /// Whether lanes, registers and shared memory suffice, for this many heads and for one.
    fn serve(&self, caps: &Caps) -> bool {
        self.rows() * 2 <= self.lanes
            && self.rows() * self.width <= SUMS * self.lanes
            && self.block % (self.lanes / i64::from(WARP) * COLUMNS) == 0
            && self.shared_bytes() <= i64::from(caps.shared_bytes)
    }

    pub(super) fn rows(&self) -> i64 {
        self.heads * QUERIES
    }

    /// Lanes that share a row.
    pub(super) fn lanes_of_row(&self) -> i64 {
        self.lanes / self.rows()
    }

    /// Warps that share 16 rows.
    pub(super) fn warps_across(&self) -> i64 {
        self.lanes / i64::from(WARP) / self.heads
    }

    /// Products of the units side by side of which a warp has the sums: over a block's positions.
    pub(super) fn scores_across(&self) -> i64 {
        self.block / COLUMNS / self.warps_across()
    }

    /// The same over a head's width. Where they do not come out even, the last warp has some of the first one's too,
    /// which nobody stores.
    pub(super) fn values_across(&self) -> i64 {
        (self.width / COLUMNS + self.warps_across() - 1) / self.warps_across()
    }

    /// Of these, how many go through shared memory at a time, at the end: lanes side by side take a row of them.
    pub(super) fn strip(&self) -> i64 {
        let most = self.block.min(self.lanes) / COLUMNS / self.warps_across();
        let mut strip = 1;
        while strip * 2 <= most && self.values_across() % (strip * 2) == 0 {
            strip *= 2;
        }
        strip
    }

    /// From one row to the next, of queries and values: 16 bytes more than a row has, so that rows of a tile begin
    /// in different banks.
    pub(super) fn wide(&self) -> i64 {
        self.width + chunk(self.dtype)
    }

    /// The same of keys and weights.
    pub(super) fn long(&self) -> i64 {
        self.block + chunk(self.dtype)
    }

    /// The same of scores: lanes that share a row, and the rows of a warp, read different banks.
    pub(super) fn score_stride(&self) -> i64 {
        self.block + self.lanes_of_row().clamp(4, 8)
    }

    fn shared_bytes(&self) -> i64 {
        let narrow = (self.rows() + self.block) * self.wide() + (self.width + self.rows()) * self.long();
        // With one head a row of scores is longest.
        let float = self.rows() * (self.block + 8) + 3 * self.lanes;
        narrow * self.dtype.size() as i64 + float * 4
    }
}

/// Whether what is read is the same for `count` neighbours along an axis, the first of them a multiple of that.
fn is_same(graph: &Graph, node: Node, axis: u16, count: i64) -> bool {
    let shape = graph.shape(node);
    let (outer, inner) = (shape[usize::from(axis)].clone().div_floor(count), shape.len() as u16);
    let split = Expr::axis(axis, &outer) * count + Expr::axis(inner, &Expr::int(count));
    let mut at = axes(shape);
    at[usize::from(axis)] = split;
    !read_coordinates(graph, node, &at, &|_| false).iter().any(|x| x.mentions_axis(inner))
}
