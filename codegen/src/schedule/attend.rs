//! Softmax-weighted sums over the past (Dao et al., 2022, in blocks at absolute positions).
//!
//! A group takes a tile of queries of one head. The past is cut in blocks at multiples of
//! `caps.attend_block`; each block gives its own maximum, sum and weighted values, and blocks are joined in
//! ascending order, whoever computes them. Inside a block lanes run over positions for scores and weights,
//! and over the head's width for values. Where matrix units multiply the cache's type, prompts go their way.
//!
//! Processors' groups have several tiles, which take a block one after the other while it is in a near cache.
//!
//! Where a group for each query would leave a graphics processor idle, [`split`] gives blocks to groups of their own.

mod matrix;
mod split;
mod tiles;

use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr, Monoid, Op, ScalarOp};

use super::Scheduled;
use super::lower::Lower;
use crate::kernel::{CellId, Memory, ValueId};
use crate::region::Attend;
use crate::target::Caps;
pub(crate) use tiles::Tiles;

/// Queries of a prefill that share one pass over the keys.
const TILE_QUERIES: i64 = 4;

/// Tiles of a group where a block of the past is brought for all of them: as many queries as belong to one sequence.
const TILES: i64 = 4;

/// With so many accumulators there are registers for 16 sums beside what they are made of.
const ACCUMULATORS_MANY: u32 = 24;

/// Positions whose keys a page holds side by side; chunks of positions stay inside a page.
const PAGE: i64 = jtllm_ir::build::PAGE;

/// What the past weighs for positions that nobody sees; that of `jtllm_ir::build::attention`.
const UNSEEN: f32 = -1e30;

struct Plan<'n> {
    nodes: &'n Attend,
    /// The first two coordinates of each query of the tile: token and head.
    queries: Vec<[Expr; 2]>,
    width: i64,
    block: i64,
    lanes: i64,
    /// Lane-wide vectors of positions computed together.
    vectors: i64,
    /// Lane-wide vectors of a head's width computed together.
    columns: i64,
    /// Terms of sums that are written out one after another, so that their loads are on the way together: a power
    /// of two, at most a page.
    unroll: i64,
    /// `[query][position of the block]`: scores, then weights.
    weights: Memory,
}

/// Queries of a group: those of one head, from a token on.
struct Queries {
    token: Expr,
    head: Expr,
}

impl Queries {
    /// So many of them from one on, by token and head.
    fn from(&self, first: &Expr, count: i64) -> Vec<[Expr; 2]> {
        (0..count).map(|i| [self.token.clone() + first.clone() + i, self.head.clone()]).collect()
    }
}

/// What the blocks so far give together, for a tile of a group's queries.
struct Past {
    /// `[query][width]`: weighted values of all the group's queries.
    values: Memory,
    /// The tile's first query among them.
    first: Expr,
    /// Each query's largest score.
    largest: Vec<CellId>,
    /// Each query's sum of weights.
    total: Vec<CellId>,
}

/// What the blocks so far give a group whose tiles take turns: `[query][width]`, and each query's largest score and sum
/// of weights.
struct Group {
    values: Memory,
    totals: Memory,
}

/// Which part of the past the queries of a tile see.
struct Seen {
    /// The end of the positions.
    end: Expr,
    /// The first block, unless it is the past's first.
    first: Option<Expr>,
    /// The end of the blocks.
    blocks: Expr,
}

pub(super) fn schedule(mut lower: Lower<'_>, nodes: &Attend) -> Vec<Scheduled> {
    if let Some(splits) = split::splits(&lower, nodes) {
        return split::schedule(lower, nodes, &splits);
    }
    if let Some(tiles) = nodes.narrow.and_then(|_| Tiles::choose(lower.graph, nodes, lower.caps)) {
        return vec![matrix::schedule(lower, nodes, tiles)];
    }
    let space = lower.region.space.clone();
    let tile = if space[0].as_int().is_some() { 1 } else { TILE_QUERIES };
    let tiles = tiles(&lower, tile);
    let lanes = lanes(lower.caps, &space[2]);
    lower.grid(lanes, [space[1].clone(), space[0].clone().div_floor(tile * tiles), Expr::int(1)]);
    let queries = Queries { token: lower.b.grid(1) * (tile * tiles), head: lower.b.grid(0) };
    let plan = begin(&mut lower, nodes, queries.from(&Expr::int(0), tile));
    if tiles > 1 {
        return vec![in_turns(lower, &plan, &queries, tiles)];
    }
    let past = nothing_yet(&mut lower, &plan);
    let Seen { end, first, blocks } = seen(&mut lower, nodes, &plan.queries);
    lower.repeat(&blocks, |lower, block| {
        let needed = first.map_or(Expr::int(1), |first| first.at_most(&block));
        let here = (end - block.clone() * plan.block).minimum(&Expr::int(plan.block));
        lower.conditional(&needed, |lower| one_block(lower, &plan, &past, &block, &here));
    });
    give(&mut lower, &plan, &past);
    vec![lower.finish()]
}

/// Tiles of so many queries in a group: as many as rows belong to one sequence for certain, if there is memory for what
/// waits of them.
fn tiles(lower: &Lower<'_>, tile: i64) -> i64 {
    let (caps, tokens) = (lower.caps, &lower.region.space[0]);
    let most = if caps.threads || tile == 1 { 1 } else { TILES };
    let floats = |tiles: i64| tile * (tiles * (width(lower) + 2) + i64::from(caps.attend_block));
    let fits = |tiles: &i64| {
        tokens.divisor() % (tile * tiles) == 0
            && floats(*tiles) * DType::F32.size() as i64 <= i64::from(caps.shared_bytes)
    };
    (1..=most).rev().find(fits).unwrap_or(1)
}

/// Each block for all tiles of a group, one after the other.
fn in_turns(mut lower: Lower<'_>, plan: &Plan<'_>, queries: &Queries, tiles: i64) -> Scheduled {
    let tile = plan.queries.len() as i64;
    let all = queries.from(&Expr::int(0), tile * tiles);
    let group = Group::begin(&mut lower, plan, tile * tiles);
    let blocks = seen(&mut lower, plan.nodes, &all).blocks;
    lower.repeat(&blocks, |lower, block| {
        lower.repeat(&Expr::int(tiles), |lower, t| {
            let first = t * tile;
            let queries = queries.from(&first, tile);
            let Seen { end, first: from, .. } = seen(lower, plan.nodes, &queries);
            let here = (end - block.clone() * plan.block).minimum(&Expr::int(plan.block));
            let begun = from.map_or(Expr::int(1), |from| from.at_most(&block));
            let needed = Expr::int(0).less_than(&here).and(&begun);
            let plan = Plan { queries, ..*plan };
            lower.conditional(&needed, |lower| {
                let past = group.past(lower, &plan, first);
                one_block(lower, &plan, &past, &block, &here);
                group.keep(lower, &past);
            });
        });
    });
    lower.repeat(&Expr::int(tiles), |lower, t| {
        let first = t * tile;
        let plan = Plan { queries: queries.from(&first, tile), ..*plan };
        let past = group.past(lower, &plan, first);
        give(lower, &plan, &past);
    });
    lower.finish()
}

impl Group {
    fn begin(lower: &mut Lower<'_>, plan: &Plan<'_>, queries: i64) -> Group {
        let values = lower.b.shared(DType::F32, (queries * plan.width) as u32);
        let totals = lower.b.shared(DType::F32, (queries * 2) as u32);
        let [none, zero] = [UNSEEN, 0.0].map(|x| lower.b.float(x));
        lower.repeat(&Expr::int(queries), |lower, query| {
            along_width(lower, plan, &mut |lower, d| {
                let zero = lower.b.float(0.0);
                lower.b.store(values, &(query.clone() * plan.width + d.clone()), zero);
            });
            for (place, value) in [none, zero].into_iter().enumerate() {
                lower.store(totals, &(query.clone() * 2 + place as i64), value, true);
            }
        });
        lower.b.barrier();
        Group { values, totals }
    }

    /// What the blocks so far give a tile.
    fn past(&self, lower: &mut Lower<'_>, plan: &Plan<'_>, first: Expr) -> Past {
        let mut cell = |query: i64, place: i64| {
            let value = lower.b.load(self.totals, &((first.clone() + query) * 2 + place));
            lower.b.cell(value)
        };
        let count = plan.queries.len() as i64;
        let largest = (0..count).map(|query| cell(query, 0)).collect();
        let total = (0..count).map(|query| cell(query, 1)).collect();
        Past { values: self.values, first, largest, total }
    }

    fn keep(&self, lower: &mut Lower<'_>, past: &Past) {
        for (query, cells) in (0..).zip(past.largest.iter().zip(&past.total)) {
            for (place, cell) in (0..).zip([cells.0, cells.1]) {
                let value = lower.b.get(*cell);
                lower.store(self.totals, &((past.first.clone() + query) * 2 + place), value, true);
            }
        }
        lower.b.barrier();
    }
}

/// Threads beyond a head's width would idle. Where nothing hides the time that loads take, a decoded token's few
/// heads had better have several warps each; elsewhere a barrier costs more than that.
fn lanes(caps: &Caps, width: &Expr) -> u32 {
    let width = width.as_int().and_then(|width| u32::try_from(width).ok()).unwrap_or(1);
    let wide = width.next_power_of_two().max(32).min(caps.attend_block);
    match caps.threads {
        true if caps.vector_bytes > 0 => caps.lanes.min(wide),
        true => caps.lanes.min(32),
        false => caps.lanes,
    }
}

fn begin<'n>(lower: &mut Lower<'_>, nodes: &'n Attend, queries: Vec<[Expr; 2]>) -> Plan<'n> {
    let tile = queries.len() as i64;
    let width = width(lower);
    let lanes = lower.b.lanes();
    let block = i64::from(lower.caps.attend_block);
    // Sums that a register machine adds to side by side: one product has to wait for the one before in its sum.
    let most = if lower.caps.accumulators >= ACCUMULATORS_MANY { 16 } else { 8 };
    let each = (most / tile).max(1);
    let (vectors, columns) = match lower.caps.threads {
        true if lanes >= PAGE => (1, 1),
        true => ((PAGE / lanes).min(each), 1),
        false => ((block / lanes).min(each), ((width + lanes - 1) / lanes).min(each)),
    };
    let weights = lower.b.shared(DType::F32, (tile * block) as u32);
    let unroll = if lower.caps.vector_bytes > 0 { PAGE } else { 1 };
    Plan { nodes, queries, width, block, lanes, vectors, columns, unroll, weights }
}

/// The width of a head.
fn width(lower: &Lower<'_>) -> i64 {
    lower.region.space[2].as_int().expect("the width of a head is a constant")
}

fn nothing_yet(lower: &mut Lower<'_>, plan: &Plan<'_>) -> Past {
    let tile = plan.queries.len() as i64;
    let values = lower.b.shared(DType::F32, (tile * plan.width) as u32);
    let none = lower.b.float(UNSEEN);
    let zero = lower.b.float(0.0);
    let largest = (0..tile).map(|_| lower.b.cell(none)).collect();
    let total = (0..tile).map(|_| lower.b.cell(zero)).collect();
    for query in 0..tile {
        along_width(lower, plan, &mut |lower, d| {
            let zero = lower.b.float(0.0);
            lower.b.store(values, &(Expr::int(query * plan.width) + d.clone()), zero);
        });
    }
    Past { values, first: Expr::int(0), largest, total }
}

fn seen(lower: &mut Lower<'_>, nodes: &Attend, queries: &[[Expr; 2]]) -> Seen {
    let length = lower.graph.shape(nodes.dot)[2].clone();
    let block = i64::from(lower.caps.attend_block);
    let (low, end) = seen_range(lower, nodes, queries, &length);
    let blocks = end.clone().div_ceil(block).minimum(&length.div_floor(block));
    let first = low.map(|low| low.maximum(&Expr::int(0)).div_floor(block));
    Seen { end, first, blocks }
}

/// Bounds on the positions that any query of the tile sees: those of the mask's comparisons that are affine
/// in the position. The lower one only if there is a comparison that gives one.
fn seen_range(
    lower: &mut Lower<'_>,
    nodes: &Attend,
    queries: &[[Expr; 2]],
    length: &Expr,
) -> (Option<Expr>, Expr) {
    let Op::Index { value, extras } = lower.graph.op(nodes.visible) else {
        return (None, length.clone());
    };
    let mut low: Option<Expr> = None;
    let mut high: Option<Expr> = None;
    for [token, head] in queries {
        let (mut most, mut least): (Option<Expr>, Option<Expr>) = (None, None);
        for conjunct in value.conjuncts() {
            let Kind::Lt(a, b) = conjunct.kind() else { continue };
            // left < right  <=>  0 < right - left
            let difference = b.clone() - a.clone();
            let (terms, _) = difference.terms();
            let position = terms.iter().find(|(x, _)| is_position(x));
            let Some((j, coefficient)) = position else { continue };
            let rest = difference.clone() - j.clone() * *coefficient;
            if rest.any(&mut is_position) {
                continue;
            }
            let at = [token.clone(), head.clone(), Expr::int(0)];
            let rest = lower.resolve(&rest, &at, extras);
            match coefficient {
                -1 => most = Some(most.map_or(rest.clone(), |m: Expr| m.minimum(&rest))),
                1 => {
                    let from = Expr::int(1) - rest;
                    least = Some(least.map_or(from.clone(), |l: Expr| l.maximum(&from)));
                }
                _ => {}
            }
        }
        let most = most.unwrap_or(length.clone());
        high = Some(high.map_or(most.clone(), |h: Expr| h.maximum(&most)));
        let from = least.unwrap_or(Expr::int(0));
        low = Some(low.map_or(from.clone(), |l: Expr| l.minimum(&from)));
    }
    let high = high.unwrap_or(length.clone());
    (low.filter(|low| low.high() > 0), high.minimum(length))
}

/// Whether a leaf is the position axis of the mask (the third).
fn is_position(x: &Expr) -> bool {
    matches!(x.kind(), Kind::Axis { index: 2, .. })
}

fn one_block(lower: &mut Lower<'_>, plan: &Plan<'_>, past: &Past, block: &Expr, here: &Expr) {
    let largest = scores(lower, plan, block, here);
    let totals = weights(lower, plan, here, &largest);
    lower.b.barrier();
    let scales: Vec<[ValueId; 2]> = (0..plan.queries.len())
        .map(|query| {
            join_totals(lower, [past.largest[query], past.total[query]], largest[query], totals[query])
        })
        .collect();
    values(lower, plan, block, here, &mut |lower, query, d, sum| {
        let at = (past.first.clone() + query as i64) * plan.width + d.clone();
        let before = lower.b.load(past.values, &at);
        let after = join_values(lower, scales[query], before, sum);
        lower.b.store(past.values, &at, after);
    });
    lower.b.barrier();
}

/// Runs `body` for each chunk of positions of a block with the chunk's vectors of positions in the block.
fn along_block<'a>(
    lower: &mut Lower<'a>,
    plan: &Plan<'_>,
    here: &Expr,
    body: &mut dyn FnMut(&mut Lower<'a>, &[Expr]),
) {
    let chunk = plan.lanes * plan.vectors;
    lower.repeat(&here.clone().div_ceil(chunk), |lower, step| {
        let start = step * chunk;
        let places: Vec<Expr> =
            (0..plan.vectors).map(|u| start.clone() + Expr::int(u * plan.lanes) + lower.b.lane()).collect();
        body(lower, &places);
    });
}

/// Stores the block's scores and gives each query's largest one.
fn scores(lower: &mut Lower<'_>, plan: &Plan<'_>, block: &Expr, here: &Expr) -> Vec<ValueId> {
    let unseen = lower.b.float(UNSEEN);
    let cells: Vec<CellId> = plan.queries.iter().map(|_| lower.b.cell(unseen)).collect();
    along_block(lower, plan, here, &mut |lower, places| {
        let positions: Vec<Expr> =
            places.iter().map(|place| block.clone() * plan.block + place.clone()).collect();
        let dots = dots(lower, plan, &positions);
        for (query, [token, head]) in plan.queries.iter().enumerate() {
            for (u, position) in positions.iter().enumerate() {
                let at = [token.clone(), head.clone(), position.clone()];
                let dot = lower.b.get(dots[query][u]);
                lower.bind(plan.nodes.dot, dot);
                let score = lower.value(plan.nodes.score, &at);
                let visible = lower.value(plan.nodes.visible, &at);
                let unseen = lower.b.float(UNSEEN);
                let score = lower.b.scalar(ScalarOp::Select, &[visible, score, unseen]);
                let before = lower.b.get(cells[query]);
                let after = lower.b.scalar(ScalarOp::Max, &[before, score]);
                lower.b.set(cells[query], after);
                lower.b.store(plan.weights, &weight_place(plan, query, &places[u]), score);
            }
        }
    });
    cells
        .into_iter()
        .map(|cell| {
            let lanes = lower.b.get(cell);
            lower.b.lane_reduce(Monoid::Max, lanes)
        })
        .collect()
}

fn weight_place(plan: &Plan<'_>, query: usize, place: &Expr) -> Expr {
    Expr::int(query as i64 * plan.block) + place.clone()
}

/// The products of queries and keys at some positions, summed over the head's width: `[query][vector]`.
fn dots(lower: &mut Lower<'_>, plan: &Plan<'_>, positions: &[Expr]) -> Vec<Vec<CellId>> {
    let zero = lower.b.float(0.0);
    let cells: Vec<Vec<CellId>> =
        plan.queries.iter().map(|_| positions.iter().map(|_| lower.b.cell(zero)).collect()).collect();
    let mut unroll = plan.unroll;
    while plan.width % unroll != 0 {
        unroll /= 2;
    }
    lower.repeat(&Expr::int(plan.width / unroll), |lower, step| {
        for d in (0..unroll).map(|u| step.clone() * unroll + u) {
            for (query, [token, head]) in plan.queries.iter().enumerate() {
                for (u, position) in positions.iter().enumerate() {
                    let at = [token.clone(), head.clone(), position.clone(), d.clone()];
                    let q = lower.value(plan.nodes.query, &at);
                    let k = lower.value(plan.nodes.key, &at);
                    let before = lower.b.get(cells[query][u]);
                    let after = lower.b.scalar(ScalarOp::Fma, &[q, k, before]);
                    lower.b.set(cells[query][u], after);
                }
            }
        }
    });
    cells
}

/// Turns the block's scores into weights relative to the block's largest, and gives each query's sum.
fn weights(lower: &mut Lower<'_>, plan: &Plan<'_>, here: &Expr, largest: &[ValueId]) -> Vec<ValueId> {
    let zero = lower.b.float(0.0);
    let cells: Vec<CellId> = plan.queries.iter().map(|_| lower.b.cell(zero)).collect();
    along_block(lower, plan, here, &mut |lower, places| {
        for query in 0..plan.queries.len() {
            for place in places {
                let at = weight_place(plan, query, place);
                let score = lower.b.load(plan.weights, &at);
                let unseen = lower.b.float(UNSEEN);
                let seen = lower.b.scalar(ScalarOp::Lt, &[unseen, score]);
                let difference = lower.b.scalar(ScalarOp::Sub, &[score, largest[query]]);
                let power = lower.b.scalar(ScalarOp::Exp, &[difference]);
                let zero = lower.b.float(0.0);
                let weight = lower.b.scalar(ScalarOp::Select, &[seen, power, zero]);
                let before = lower.b.get(cells[query]);
                let after = lower.b.scalar(ScalarOp::Add, &[before, weight]);
                lower.b.set(cells[query], after);
                let rounded = plan.nodes.narrow.map_or(weight, |dtype| {
                    let narrow = lower.b.scalar(ScalarOp::Cast(dtype), &[weight]);
                    lower.b.scalar(ScalarOp::Cast(DType::F32), &[narrow])
                });
                lower.b.store(plan.weights, &at, rounded);
            }
        }
    });
    cells
        .into_iter()
        .map(|cell| {
            let lanes = lower.b.get(cell);
            lower.b.lane_reduce(Monoid::Add, lanes)
        })
        .collect()
}

/// Joins a block's maximum and sum with those so far; gives what the values so far and the block's values
/// are multiplied by.
fn join_totals(
    lower: &mut Lower<'_>,
    [largest_so_far, total_so_far]: [CellId; 2],
    here: ValueId,
    sum: ValueId,
) -> [ValueId; 2] {
    let before = lower.b.get(largest_so_far);
    let largest = lower.b.scalar(ScalarOp::Max, &[before, here]);
    let scales = [before, here].map(|from| {
        let difference = lower.b.scalar(ScalarOp::Sub, &[from, largest]);
        lower.b.scalar(ScalarOp::Exp, &[difference])
    });
    let total = lower.b.get(total_so_far);
    let total = join_values(lower, scales, total, sum);
    lower.b.set(total_so_far, total);
    lower.b.set(largest_so_far, largest);
    scales
}

/// What there was so far and what a block gives, each times its factor.
fn join_values(lower: &mut Lower<'_>, [old, new]: [ValueId; 2], before: ValueId, here: ValueId) -> ValueId {
    let before = lower.b.scalar(ScalarOp::Mul, &[before, old]);
    lower.b.scalar(ScalarOp::Fma, &[here, new, before])
}

/// Runs `body` for each coordinate of the head's width, lanes side by side.
fn along_width<'a>(lower: &mut Lower<'a>, plan: &Plan<'_>, body: &mut dyn FnMut(&mut Lower<'a>, &Expr)) {
    let steps = (plan.width + plan.lanes - 1) / plan.lanes;
    lower.repeat(&Expr::int(steps), |lower, step| {
        let d = step * plan.lanes + lower.b.lane();
        let inside = d.less_than(&Expr::int(plan.width));
        lower.conditional(&inside, |lower| body(lower, &d));
    });
}

/// Sums the block's weighted values, and gives each query's for each coordinate of the head's width to `give`.
fn values<'a>(
    lower: &mut Lower<'a>,
    plan: &Plan<'_>,
    block: &Expr,
    here: &Expr,
    give: &mut dyn FnMut(&mut Lower<'a>, usize, &Expr, ValueId),
) {
    let span = plan.lanes * plan.columns;
    let steps = (plan.width + span - 1) / span;
    lower.repeat(&Expr::int(steps), |lower, step| {
        let first = step * span + lower.b.lane();
        let ds: Vec<Expr> = (0..plan.columns).map(|c| first.clone() + c * plan.lanes).collect();
        // Lanes beyond the width compute with the last coordinate and store nothing.
        let last = Expr::int(plan.width - 1);
        let reading: Vec<Expr> = ds.iter().map(|d| d.minimum(&last)).collect();
        let zero = lower.b.float(0.0);
        let row = |lower: &mut Lower<'a>| ds.iter().map(|_| lower.b.cell(zero)).collect();
        let cells: Vec<Vec<CellId>> = plan.queries.iter().map(|_| row(lower)).collect();
        let add = |lower: &mut Lower<'a>, place: &Expr| {
            let position = block.clone() * plan.block + place.clone();
            for (query, [token, head]) in plan.queries.iter().enumerate() {
                let weight = lower.b.load(plan.weights, &weight_place(plan, query, place));
                for (d, cell) in reading.iter().zip(&cells[query]) {
                    let at = [token.clone(), head.clone(), d.clone(), position.clone()];
                    let value = lower.value(plan.nodes.value, &at);
                    let before = lower.b.get(*cell);
                    let after = lower.b.scalar(ScalarOp::Fma, &[weight, value, before]);
                    lower.b.set(*cell, after);
                }
            }
        };
        match (plan.unroll, lower.caps.threads) {
            (1, true) => lower.repeat(here, |lower, place| add(lower, &place)),
            (1, false) => along_pages(lower, here, &add),
            _ => along_chunks(lower, plan, here, &add),
        }
        for (c, d) in ds.iter().enumerate() {
            let inside = d.less_than(&Expr::int(plan.width));
            let sums: Vec<ValueId> = cells.iter().map(|row| lower.b.get(row[c])).collect();
            lower.conditional(&inside, |lower| {
                sums.iter().enumerate().for_each(|(query, sum)| give(lower, query, d, *sum));
            });
        }
    });
}

/// Runs `add` for each position of a block, ascending, page by page: where a page lies is found once for all of its.
fn along_pages<'a>(lower: &mut Lower<'a>, here: &Expr, add: &dyn Fn(&mut Lower<'a>, &Expr)) {
    lower.repeat(&here.clone().div_ceil(PAGE), |lower, page| {
        let first = page * PAGE;
        let left = (here.clone() - first.clone()).minimum(&Expr::int(PAGE));
        lower.repeat(&left, |lower, place| add(lower, &(first.clone() + place)));
    });
}

/// Runs `add` for each position of a block, ascending: written out for whole chunks of positions.
fn along_chunks<'a>(
    lower: &mut Lower<'a>,
    plan: &Plan<'_>,
    here: &Expr,
    add: &dyn Fn(&mut Lower<'a>, &Expr),
) {
    lower.repeat(&here.clone().div_ceil(plan.unroll), |lower, chunk| {
        let first = chunk * plan.unroll;
        let left = here.clone() - first.clone();
        let whole = Expr::int(plan.unroll).at_most(&left);
        lower.conditional(&whole, |lower| {
            (0..plan.unroll).for_each(|u| add(lower, &(first.clone() + u)));
        });
        let part = left.less_than(&Expr::int(plan.unroll));
        lower.conditional(&part, |lower| {
            // The bound says that they all lie in the chunk.
            let left = left.minimum(&Expr::int(plan.unroll - 1));
            lower.repeat(&left, |lower, place| add(lower, &(first.clone() + place)));
        });
    });
}

/// Stores what becomes of a tile's sums.
fn give(lower: &mut Lower<'_>, plan: &Plan<'_>, past: &Past) {
    for (query, [token, head]) in plan.queries.iter().enumerate() {
        let total = lower.b.get(past.total[query]);
        lower.bind(plan.nodes.total, total);
        along_width(lower, plan, &mut |lower, d| {
            let at = (past.first.clone() + query as i64) * plan.width + d.clone();
            let sum = lower.b.load(past.values, &at);
            lower.bind(plan.nodes.sum, sum);
            lower.store_roots(3, &[token.clone(), head.clone(), d.clone()], false);
        });
    }
}
