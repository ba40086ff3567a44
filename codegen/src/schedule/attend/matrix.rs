//! The attention of prompts by matrix units.
//!
//! A group takes the queries of a tile for the heads that share keys. Block by block of the past, keys and values
//! come to shared memory as they lie in the cache, each page where it is; scores are products of queries and keys,
//! which go through shared memory to lanes that share a row: they mask, weigh against the largest score so far and
//! round the weights, whose products with values are added to sums that stay with the units and are multiplied anew
//! where a larger score turns up.

mod bring;
mod weigh;

use jtllm_ir::{DType, Expr};

use super::tiles::{COLUMNS, DEPTH, QUERIES, Tiles};
use super::{UNSEEN, seen_range};
use crate::kernel::{CellId, FragmentId, Memory, Role, WARP};
use crate::region::Attend;
use crate::schedule::Scheduled;
use crate::schedule::lower::Lower;

/// Fragments of right operands that are loaded before they are multiplied.
const RIGHTS: usize = 4;

/// A kernel on its way.
struct Prompt<'n> {
    nodes: &'n Attend,
    tiles: Tiles,
    /// The tile's first query, and its first head.
    start: [Expr; 2],
    memories: Memories,
    fragments: Fragments,
    /// Of the lane's row: the largest score so far, and the sum of weights.
    largest: CellId,
    total: CellId,
}

/// A block of the past.
struct Block {
    number: Expr,
    /// How many of its positions anybody sees.
    here: Expr,
    is_first: Expr,
    is_followed: Expr,
}

struct Memories {
    /// `[row][width]`.
    queries: Memory,
    /// `[width][position]`, as pages have them.
    keys: Memory,
    /// `[position][width]`, as pages have them.
    values: Memory,
    /// `[row][position]`; in the end strips of what the values add up to.
    scores: Memory,
    /// `[row][position]`, rounded.
    weights: Memory,
    /// For each lane: its largest score in the block, the sum of its weights, and what its row's sums so far are
    /// multiplied by.
    largest: Memory,
    totals: Memory,
    scales: Memory,
}

struct Fragments {
    left: FragmentId,
    right: Vec<FragmentId>,
    scores: Vec<FragmentId>,
    sums: Vec<FragmentId>,
}

pub(super) fn schedule(mut lower: Lower<'_>, nodes: &Attend, tiles: Tiles) -> Scheduled {
    let space = lower.region.space.clone();
    let grid = [space[1].clone().div_floor(tiles.heads), space[0].clone().div_floor(QUERIES), Expr::int(1)];
    lower.grid(tiles.lanes as u32, grid);
    let length = lower.graph.shape(nodes.dot)[2].clone();
    let prompt = Prompt::new(&mut lower, nodes, tiles);
    prompt.bring_queries(&mut lower);
    let [token, head] = &prompt.start;
    let queries: Vec<[Expr; 2]> = (0..QUERIES).map(|i| [token.clone() + i, head.clone()]).collect();
    let (low, high) = seen_range(&mut lower, nodes, &queries, &length);
    let block = prompt.tiles.block;
    let all = length.div_floor(block);
    let blocks = high.clone().div_ceil(block).minimum(&all);
    let first = low.map(|low| low.maximum(&Expr::int(0)).div_floor(block));
    let first = first.unwrap_or(Expr::int(0));
    lower.repeat(&blocks, |lower, number| {
        let next = number.clone() + 1;
        let block = Block {
            here: (high - number.clone() * block).minimum(&Expr::int(block)),
            is_first: number.equals(&first),
            // The second condition follows from the first, which does not say so.
            is_followed: next.less_than(&blocks).and(&next.less_than(&all)),
            number,
        };
        lower.conditional(&first.at_most(&block.number), |lower| prompt.block(lower, &block));
    });
    prompt.finish(&mut lower);
    lower.finish()
}

impl<'n> Prompt<'n> {
    fn new(lower: &mut Lower<'_>, nodes: &'n Attend, tiles: Tiles) -> Prompt<'n> {
        let [none, zero] = [UNSEEN, 0.0].map(|x| lower.b.float(x));
        let start = [lower.b.grid(1) * QUERIES, lower.b.grid(0) * tiles.heads];
        let (memories, fragments) = (Memories::new(lower, &tiles), Fragments::new(lower, &tiles));
        fragments.sums.iter().for_each(|sum| lower.b.clear(*sum));
        let (largest, total) = (lower.b.cell(none), lower.b.cell(zero));
        Prompt { nodes, tiles, start, memories, fragments, largest, total }
    }

    /// The token and head of a row.
    fn place(&self, row: &Expr) -> [Expr; 2] {
        let [token, head] = &self.start;
        [token.clone() + row.clone().modulo(QUERIES), head.clone() + row.clone().div_floor(QUERIES)]
    }

    /// The lane's row, and which of the lanes that share it this is.
    fn own(&self, lower: &Lower<'_>) -> [Expr; 2] {
        let (lane, count) = (lower.b.lane(), self.tiles.lanes_of_row());
        [lane.clone().div_floor(count), lane.modulo(count)]
    }

    /// The first row of the warp's tile, and which of the warps that share it this is.
    fn warp(&self, lower: &Lower<'_>) -> [Expr; 2] {
        let (warp, count) = (lower.b.lane().div_floor(i64::from(WARP)), self.tiles.warps_across());
        [warp.clone().div_floor(count) * QUERIES, warp.modulo(count)]
    }

    /// Values come while scores are computed, and the next block's keys while these are weighed.
    fn block(&self, lower: &mut Lower<'_>, block: &Block) {
        lower.conditional(&block.is_first, |lower| self.bring_keys(lower, &block.number));
        commit(lower);
        self.bring_values(lower, &block.number, &block.here);
        commit(lower);
        arrive(lower);
        self.multiply_keys(lower);
        lower.b.barrier();
        let next = block.number.clone() + 1;
        lower.conditional(&block.is_followed, |lower| self.bring_keys(lower, &next));
        commit(lower);
        self.mask(lower, &block.number);
        lower.b.barrier();
        self.weigh(lower);
        arrive(lower);
        self.add_totals(lower);
        self.multiply_values(lower);
        // Nobody brings the next block's values before all are done with these.
        lower.b.barrier();
    }
}

/// Ends a group of copies.
fn commit(lower: &mut Lower<'_>) {
    if lower.caps.stage {
        lower.b.stage_commit();
    }
}

/// Waits for all groups of copies but the newest, and for the other lanes.
fn arrive(lower: &mut Lower<'_>) {
    if lower.caps.stage {
        lower.b.stage_wait(1);
    }
    lower.b.barrier();
}

impl Memories {
    fn new(lower: &mut Lower<'_>, tiles: &Tiles) -> Memories {
        let (rows, narrow) = (tiles.rows(), tiles.dtype);
        let mut shared = |dtype: DType, len: i64| lower.b.shared(dtype, len as u32);
        Memories {
            queries: shared(narrow, rows * tiles.wide()),
            keys: shared(narrow, tiles.width * tiles.long()),
            values: shared(narrow, tiles.block * tiles.wide()),
            scores: shared(DType::F32, rows * tiles.score_stride()),
            weights: shared(narrow, rows * tiles.long()),
            largest: shared(DType::F32, tiles.lanes),
            totals: shared(DType::F32, tiles.lanes),
            scales: shared(DType::F32, tiles.lanes),
        }
    }
}

impl Fragments {
    fn new(lower: &mut Lower<'_>, tiles: &Tiles) -> Fragments {
        let mut fragments = |count: i64, role: Role, dtype: DType| -> Vec<FragmentId> {
            (0..count).map(|_| lower.b.fragment(role, dtype)).collect()
        };
        let (scores, values) = (tiles.scores_across(), tiles.values_across());
        Fragments {
            left: fragments(1, Role::Left, tiles.dtype)[0],
            right: fragments(scores.max(values).min(RIGHTS as i64), Role::Right, tiles.dtype),
            scores: fragments(scores, Role::Sum, DType::F32),
            sums: fragments(values, Role::Sum, DType::F32),
        }
    }
}

impl Prompt<'_> {
    /// Adds products to sums side by side: `left` is where the warp's rows begin and how far they are apart, `right`
    /// where the columns of a sum begin and how far rows of the depth are apart.
    fn multiply(
        &self,
        lower: &mut Lower<'_>,
        sums: &[FragmentId],
        depth: i64,
        (left, left_at, left_stride): (Memory, &Expr, i64),
        (right, column, right_stride): (Memory, &dyn Fn(i64) -> Expr, i64),
    ) {
        let fragments = &self.fragments;
        for k in (0..depth).step_by(DEPTH as usize) {
            lower.b.fetch(fragments.left, left, &(left_at.clone() + k), left_stride as u32);
            for (some, sums) in (0..).zip(sums.chunks(RIGHTS)) {
                for (u, (fragment, _)) in (0..).zip(fragments.right.iter().zip(sums)) {
                    let at = column(some * RIGHTS as i64 + u) + k * right_stride;
                    lower.b.fetch_turned(*fragment, right, &at, right_stride as u32);
                }
                for (fragment, sum) in fragments.right.iter().zip(sums) {
                    lower.b.mma(*sum, fragments.left, *fragment);
                }
            }
        }
    }

    /// Computes the scores of a block and hands them to lanes.
    fn multiply_keys(&self, lower: &mut Lower<'_>) {
        let (tiles, memories) = (&self.tiles, &self.memories);
        let [row, part] = self.warp(lower);
        let scores = &self.fragments.scores;
        scores.iter().for_each(|sum| lower.b.clear(*sum));
        let column = |u: i64| (part.clone() * tiles.scores_across() + u) * COLUMNS;
        let left = (memories.queries, &(row.clone() * tiles.wide()), tiles.wide());
        self.multiply(lower, scores, tiles.width, left, (memories.keys, &column, tiles.long()));
        for (u, sum) in (0..).zip(scores) {
            let at = row.clone() * tiles.score_stride() + column(u);
            lower.b.spill(*sum, memories.scores, &at, tiles.score_stride() as u32);
        }
    }

    /// Adds a block's weighted values to those so far.
    fn multiply_values(&self, lower: &mut Lower<'_>) {
        let (tiles, memories, [row, part]) = (&self.tiles, &self.memories, self.warp(lower));
        let shared = tiles.lanes_of_row();
        for sum in &self.fragments.sums {
            lower.b.scale(*sum, memories.scales, &(row.clone() * shared), shared as u32);
        }
        let (across, all) = (tiles.values_across(), tiles.width / COLUMNS);
        let column = |u: i64| {
            let number = part.clone() * across + u;
            // Beyond the last the first ones follow.
            let number = if across * tiles.warps_across() > all { number.modulo(all) } else { number };
            number * COLUMNS
        };
        let left = (memories.weights, &(row * tiles.long()), tiles.long());
        let right: (Memory, &dyn Fn(i64) -> Expr, i64) = (memories.values, &column, tiles.wide());
        self.multiply(lower, &self.fragments.sums, tiles.block, left, right);
    }

    /// Divides and stores, strip by strip.
    fn finish(&self, lower: &mut Lower<'_>) {
        let (tiles, memories, [row, part]) = (&self.tiles, &self.memories, self.warp(lower));
        let (total, lane) = (lower.b.get(self.total), lower.b.lane());
        lower.b.store(memories.totals, &lane, total);
        let strip = tiles.strip();
        for (number, sums) in (0..).zip(self.fragments.sums.chunks(strip as usize)) {
            // Lanes have read the strip before.
            if number > 0 {
                lower.b.barrier();
            }
            for (u, sum) in (0..).zip(sums) {
                let at = row.clone() * tiles.score_stride() + (part.clone() * strip + u) * COLUMNS;
                lower.b.spill(*sum, memories.scores, &at, tiles.score_stride() as u32);
            }
            lower.b.barrier();
            self.store(lower, number);
        }
    }

    /// Stores a strip: of each warp's columns `strip` products of the units.
    fn store(&self, lower: &mut Lower<'_>, number: i64) {
        let (tiles, memories) = (&self.tiles, &self.memories);
        let own = tiles.strip() * COLUMNS;
        let across = own * tiles.warps_across();
        let at_once = tiles.lanes / across;
        let lane = lower.b.lane();
        let (down, column) = (lane.clone().div_floor(across), lane.modulo(across));
        let d = column.clone().div_floor(own) * (tiles.values_across() * COLUMNS)
            + column.clone().modulo(own)
            + number * own;
        let inside = d.less_than(&Expr::int(tiles.width));
        let [token, head] = &self.start;
        for shared in 0..tiles.heads {
            lower.repeat(&Expr::int(QUERIES / at_once), |lower, pass| {
                let query = pass * at_once + down.clone();
                let row = query.clone() + shared * QUERIES;
                let total = lower.b.load(memories.totals, &(row.clone() * tiles.lanes_of_row()));
                lower.bind(self.nodes.total, total);
                let sum = lower.b.load(memories.scores, &(row * tiles.score_stride() + column.clone()));
                lower.bind(self.nodes.sum, sum);
                let at = [token.clone() + query, head.clone() + shared, d.clone()];
                lower.conditional(&inside, |lower| lower.store_roots(3, &at, false));
            });
        }
    }
}
