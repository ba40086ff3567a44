//! The attention of prompts by matrix units.
//!
//! A group takes the queries of a tile for the heads that share keys. Block by block of the past, keys and values
//! come to shared memory as they lie in the cache, each page where it is; scores are products of queries and keys,
//! which go through shared memory to lanes that share a row: they mask, weigh against the largest score so far and
//! round the weights, whose products with values are added to sums that stay with the units and are multiplied anew
//! where a larger score turns up.

use std::array;

use jtllm_ir::{Expr, Scalar, ScalarOp};

use super::tiles::{COLUMNS, DEPTH, QUERIES, Tiles};
use super::{UNSEEN, seen_range};
use crate::kernel::{CellId, FragmentId, Memory, Role, ValueId, WARP, chunk};
use crate::region::Attend;
use crate::schedule::Scheduled;
use crate::schedule::lower::Lower;
use jtllm_ir::{DType, Node};

/// Scores of a row that a lane computes one after another without a loop, so that their loads are on the way
/// together.
const UNROLL: i64 = 4;

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
    let blocks = high.clone().div_ceil(block).minimum(&length.div_floor(block));
    let first = low.map(|low| low.maximum(&Expr::int(0)).div_floor(block));
    lower.repeat(&blocks, |lower, number| {
        let needed = first.map_or(Expr::int(1), |first| first.at_most(&number));
        let here = (high - number.clone() * block).minimum(&Expr::int(block));
        lower.conditional(&needed, |lower| prompt.block(lower, &number, &here));
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

    fn block(&self, lower: &mut Lower<'_>, number: &Expr, here: &Expr) {
        let staged = lower.caps.stage;
        let commit = |lower: &mut Lower<'_>| {
            if staged {
                lower.b.stage_commit();
            }
        };
        let arrive = |lower: &mut Lower<'_>, pending: u32| {
            if staged {
                lower.b.stage_wait(pending);
            }
            lower.b.barrier();
        };
        self.bring_keys(lower, number);
        commit(lower);
        self.bring_values(lower, number, here);
        commit(lower);
        arrive(lower, 1);
        self.multiply_keys(lower);
        lower.b.barrier();
        self.mask(lower, number);
        lower.b.barrier();
        self.weigh(lower);
        arrive(lower, 0);
        self.add_totals(lower);
        self.multiply_values(lower);
        // Nobody brings the next block before all are done with this one.
        lower.b.barrier();
    }
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

/// Numbers that a lane brings to shared memory, side by side along an axis of a node.
struct Chunk<'c> {
    node: Node,
    /// The coordinates of number `u`.
    at: &'c dyn Fn(i64) -> Vec<Expr>,
    memory: Memory,
    to: Expr,
}

impl Prompt<'_> {
    /// Calls `bring` for each chunk of `rows` rows of `columns` numbers that the lane brings, with the chunk's row
    /// and first column.
    fn along<'a>(
        &self,
        lower: &mut Lower<'a>,
        [rows, columns]: [i64; 2],
        bring: &mut dyn FnMut(&mut Lower<'a>, &Expr, &Expr),
    ) {
        let (numbers, lane) = (chunk(self.tiles.dtype), lower.b.lane());
        let count = columns / numbers;
        // A power of two, so that which lane brings what is a matter of the lane's number alone.
        let across = (count as u64).next_power_of_two() as i64;
        let column = lane.clone().modulo(across);
        let inside = column.less_than(&Expr::int(count));
        let down = self.tiles.lanes / across;
        lower.conditional(&inside, |lower| {
            for start in (0..rows).step_by(down as usize) {
                let row = lane.clone().div_floor(across) + start;
                let within = row.less_than(&Expr::int(rows));
                lower.conditional(&within, |lower| bring(lower, &row, &(column.clone() * numbers)));
            }
        });
    }

    /// Brings a chunk: as a copy behind the lanes' backs where it lies as it is wanted.
    fn bring(&self, lower: &mut Lower<'_>, chunk: &Chunk<'_>) {
        let dtype = self.tiles.dtype;
        let numbers = crate::kernel::chunk(dtype);
        let source = |lower: &mut Lower<'_>, u| lower.source(chunk.node, &(chunk.at)(u), dtype);
        if lower.caps.stage
            && let Some(first) = source(lower, 0)
            && let Some(last) = source(lower, numbers - 1)
            && first.offset.divisor() % numbers == 0
            && last.offset - first.offset.clone() == Expr::int(numbers - 1)
        {
            let from = lower.open(&first);
            return lower.b.stage(chunk.memory, &chunk.to, from, &first.offset);
        }
        let number = |lower: &mut Lower<'_>, u: i64| {
            let value = lower.value(chunk.node, &(chunk.at)(u));
            lower.b.scalar(ScalarOp::Cast(dtype), &[value])
        };
        // The stores stand together, so that an emitter may make one of them.
        let values: Vec<ValueId> = (0..numbers).map(|u| number(lower, u)).collect();
        for (u, value) in (0..).zip(values) {
            lower.b.store(chunk.memory, &(chunk.to.clone() + u), value);
        }
    }

    fn bring_queries(&self, lower: &mut Lower<'_>) {
        let (tiles, memory) = (&self.tiles, self.memories.queries);
        self.along(lower, [tiles.rows(), tiles.width], &mut |lower, row, first| {
            let [token, head] = self.place(row);
            let at = |u| vec![token.clone(), head.clone(), Expr::int(0), first.clone() + u];
            let to = row.clone() * tiles.wide() + first.clone();
            self.bring(lower, &Chunk { node: self.nodes.query, at: &at, memory, to });
        });
        if lower.caps.stage {
            lower.b.stage_commit();
        }
    }

    /// Brings all keys of a block's pages: those that nobody sees are masked.
    fn bring_keys(&self, lower: &mut Lower<'_>, number: &Expr) {
        let (tiles, memory) = (&self.tiles, self.memories.keys);
        let [token, head] = &self.start;
        self.along(lower, [tiles.width, tiles.block], &mut |lower, d, first| {
            let position = |u| number.clone() * tiles.block + first.clone() + u;
            let at = |u| vec![token.clone(), head.clone(), position(u), d.clone()];
            let to = d.clone() * tiles.long() + first.clone();
            self.bring(lower, &Chunk { node: self.nodes.key, at: &at, memory, to });
        });
    }

    /// Brings the values of a block and zeros for those that nobody sees: they are multiplied, and may be anything.
    fn bring_values(&self, lower: &mut Lower<'_>, number: &Expr, here: &Expr) {
        let (tiles, memory) = (&self.tiles, self.memories.values);
        let [token, head] = &self.start;
        self.along(lower, [tiles.block, tiles.width], &mut |lower, place, first| {
            let position = number.clone() * tiles.block + place.clone();
            let at = |u| vec![token.clone(), head.clone(), first.clone() + u, position.clone()];
            let to = place.clone() * tiles.wide() + first.clone();
            let (seen, beyond) = (place.less_than(here), here.at_most(place));
            lower.conditional(&seen, |lower| {
                self.bring(lower, &Chunk { node: self.nodes.value, at: &at, memory, to: to.clone() });
            });
            lower.conditional(&beyond, |lower| {
                let zero = lower.b.constant(tiles.dtype, Scalar::Float(0.0));
                (0..chunk(tiles.dtype)).for_each(|u| lower.b.store(memory, &(to.clone() + u), zero));
            });
        });
    }

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

    /// Runs `body` for each position of a block that is the lane's, in its row.
    fn along_row<'a>(&self, lower: &mut Lower<'a>, body: &mut dyn FnMut(&mut Lower<'a>, &Expr)) {
        let (count, [_, part]) = (self.tiles.lanes_of_row(), self.own(lower));
        let each = self.tiles.block / count;
        let unroll = each.min(UNROLL);
        lower.repeat(&Expr::int(each / unroll), |lower, step| {
            for u in 0..unroll {
                body(lower, &((step.clone() * unroll + u) * count + part.clone()));
            }
        });
    }

    /// Makes scores of products, and finds the lane's largest.
    fn mask(&self, lower: &mut Lower<'_>, number: &Expr) {
        let (tiles, memory, [row, _]) = (&self.tiles, self.memories.scores, self.own(lower));
        let [token, head] = self.place(&row);
        let unseen = lower.b.float(UNSEEN);
        let largest = lower.b.cell(unseen);
        self.along_row(lower, &mut |lower, place| {
            let to = row.clone() * tiles.score_stride() + place.clone();
            let dot = lower.b.load(memory, &to);
            lower.bind(self.nodes.dot, dot);
            let position = number.clone() * tiles.block + place.clone();
            let at = [token.clone(), head.clone(), position];
            let score = lower.value(self.nodes.score, &at);
            let visible = lower.value(self.nodes.visible, &at);
            let score = lower.b.scalar(ScalarOp::Select, &[visible, score, unseen]);
            let before = lower.b.get(largest);
            let after = lower.b.scalar(ScalarOp::Max, &[before, score]);
            lower.b.set(largest, after);
            lower.b.store(memory, &to, score);
        });
        let (own, lane) = (lower.b.get(largest), lower.b.lane());
        lower.b.store(self.memories.largest, &lane, own);
    }

    /// What the lanes of a row left in a memory, joined in ascending order.
    fn joined(&self, lower: &mut Lower<'_>, memory: Memory, join: ScalarOp) -> ValueId {
        let (count, [row, _]) = (self.tiles.lanes_of_row(), self.own(lower));
        let part = |lower: &mut Lower<'_>, part: i64| lower.b.load(memory, &(row.clone() * count + part));
        let first = part(lower, 0);
        (1..count).fold(first, |sum, next| {
            let next = part(lower, next);
            lower.b.scalar(join, &[sum, next])
        })
    }

    /// Turns scores into rounded weights, relative to the largest score so far.
    fn weigh(&self, lower: &mut Lower<'_>) {
        let (tiles, memories, [row, _]) = (&self.tiles, &self.memories, self.own(lower));
        let here = self.joined(lower, memories.largest, ScalarOp::Max);
        let before = lower.b.get(self.largest);
        let largest = lower.b.scalar(ScalarOp::Max, &[before, here]);
        lower.b.set(self.largest, largest);
        let difference = lower.b.scalar(ScalarOp::Sub, &[before, largest]);
        let scale = lower.b.scalar(ScalarOp::Exp, &[difference]);
        let lane = lower.b.lane();
        lower.b.store(memories.scales, &lane, scale);
        let [unseen, zero] = [UNSEEN, 0.0].map(|x| lower.b.float(x));
        let total = lower.b.cell(zero);
        self.along_row(lower, &mut |lower, place| {
            let from = row.clone() * tiles.score_stride() + place.clone();
            let score = lower.b.load(memories.scores, &from);
            let seen = lower.b.scalar(ScalarOp::Lt, &[unseen, score]);
            let difference = lower.b.scalar(ScalarOp::Sub, &[score, largest]);
            let power = lower.b.scalar(ScalarOp::Exp, &[difference]);
            let weight = lower.b.scalar(ScalarOp::Select, &[seen, power, zero]);
            let before = lower.b.get(total);
            let after = lower.b.scalar(ScalarOp::Add, &[before, weight]);
            lower.b.set(total, after);
            let weight = lower.b.scalar(ScalarOp::Cast(tiles.dtype), &[weight]);
            lower.b.store(memories.weights, &(row.clone() * tiles.long() + place.clone()), weight);
        });
        let total = lower.b.get(total);
        lower.b.store(memories.totals, &lane, total);
    }

    fn add_totals(&self, lower: &mut Lower<'_>) {
        let here = self.joined(lower, self.memories.totals, ScalarOp::Add);
        let lane = lower.b.lane();
        let scale = lower.b.load(self.memories.scales, &lane);
        let before = lower.b.get(self.total);
        let total = lower.b.scalar(ScalarOp::Fma, &[before, scale, here]);
        lower.b.set(self.total, total);
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
        let [down, column]: [Expr; 2] = array::from_fn(|part| match part {
            0 => lower.b.lane().div_floor(across),
            _ => lower.b.lane().modulo(across),
        });
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
