//! Attention of few rows, with the blocks of each row's past shared out among groups.
//!
//! The first kernel has several groups for the queries of a row that share keys and values, which are read once for
//! all of them. Each group takes every so-manyth block and leaves its maximum, its sum and its weighted values in
//! memory, block by block; blocks that a query does not see are left out. The second kernel joins a query's blocks
//! in ascending order, by the operations with which one group would have joined them: so the result is the same bits
//! however many groups there are.

use jtllm_ir::graph::axes;
use jtllm_ir::{DType, Expr};

use super::{
    Plan, Seen, UNSEEN, begin, join_totals, join_values, lanes, scores, seen, values, weights, width,
};
use crate::access::read_coordinates;
use crate::kernel::{Access, Memory, ValueId};
use crate::region::Attend;
use crate::schedule::Scheduled;
use crate::schedule::lower::Lower;

/// Queries that one group computes together, at most: each takes registers of every lane.
const MOST_TOGETHER: i64 = 8;

/// Groups for queries, of threads, below which the second kernel costs more than they gain; so many blocks must there be, too.
const LEAST_SPLITS: i64 = 4;

/// Blocks that the second kernel reads before it joins the first of them: their loads are on the way together.
const READ_TOGETHER: i64 = 8;

/// How the past is shared out.
pub(super) struct Splits {
    /// Queries: rows times heads.
    queries: i64,
    heads: i64,
    /// Queries that a group computes together.
    together: i64,
    /// Groups for those, at most.
    groups: i64,
    /// Blocks of the past, at most.
    blocks: Expr,
}

impl Splits {
    /// How many `f32`s the kernels hand on: for each block and query the values, the maximum and the sum.
    fn len(&self, width: i64) -> Expr {
        self.blocks.clone() * (self.queries * (width + 2))
    }

    /// The bytes of that for so many blocks.
    fn bytes(&self, width: i64, blocks: i64) -> u64 {
        let floats = blocks.saturating_mul(self.queries * (width + 2));
        floats.unsigned_abs().saturating_mul(DType::F32.size() as u64)
    }

    /// Where those of a block and a query begin.
    fn place(&self, width: i64, [token, head]: &[Expr; 2], block: &Expr) -> Expr {
        (block.clone() * self.queries + token.clone() * self.heads + head.clone()) * (width + 2)
    }
}

/// How the past of a decoded token is shared out, if it is worth it and the target can bind what is handed on. The
/// count follows from what never changes
/// while a model is used, so launches can be recorded.
pub(super) fn splits(lower: &Lower<'_>, nodes: &Attend) -> Option<Splits> {
    let [rows, heads, _] = lower.region.space.as_slice() else { return None };
    let (rows, heads) = (rows.as_int()?, heads.as_int()?);
    let together = shared(lower, nodes, heads);
    let busy = i64::from(lower.caps.attend_groups);
    let each = (rows * heads / together).max(1);
    // Threads of a graphics processor are worth having when they are many; a core is, whenever it has nothing to do.
    let (groups, idle) = match lower.caps.threads {
        true => (busy / each, busy / each >= LEAST_SPLITS),
        false => ((busy + each - 1) / each, rows * heads < busy),
    };
    let block = i64::from(lower.caps.attend_block);
    let blocks = lower.graph.shape(nodes.dot)[2].clone().div_floor(block);
    let most = lower.options.positions.map_or(i64::MAX, |positions| i64::from(positions) / block);
    let most = most.min(blocks.high());
    let splits = Splits { queries: rows * heads, heads, together, groups, blocks };
    let is_worth_it = idle && groups > 1 && most >= LEAST_SPLITS;
    (is_worth_it && splits.bytes(width(lower), most) <= lower.caps.max_span).then_some(splits)
}

/// How many neighbouring heads read the same keys and values.
fn shared(lower: &Lower<'_>, nodes: &Attend, heads: i64) -> i64 {
    // Keys and values have four axes of their own.
    const WITHIN: u16 = 4;
    let is_shared = |node, count: i64| {
        let mut at = axes(lower.graph.shape(node));
        at[1] = Expr::axis(1, &Expr::int(heads / count)) * count + Expr::axis(WITHIN, &Expr::int(count));
        let read = read_coordinates(lower.graph, node, &at, &|node| lower.is_stored(node));
        !read.iter().any(|x| x.mentions_axis(WITHIN))
    };
    let fits = |count: &i64| {
        heads % count == 0 && [nodes.key, nodes.value].iter().all(|node| is_shared(*node, *count))
    };
    (1..=MOST_TOGETHER).rev().find(fits).unwrap_or(1)
}

pub(super) fn schedule(lower: Lower<'_>, nodes: &Attend, splits: &Splits) -> Vec<Scheduled> {
    let second = lower.another();
    vec![blocks(lower, nodes, splits), join(second, nodes, splits)]
}

/// The kernel that computes blocks.
fn blocks(mut lower: Lower<'_>, nodes: &Attend, splits: &Splits) -> Scheduled {
    let space = lower.region.space.clone();
    let lanes = lanes(lower.caps, &space[2]);
    let groups = splits.blocks.minimum(&Expr::int(splits.groups));
    lower.grid(lanes, [space[1].clone().div_floor(splits.together), space[0].clone(), groups]);
    let (token, head) = (lower.b.grid(1), lower.b.grid(0) * splits.together);
    let queries = (0..splits.together).map(|i| [token.clone(), head.clone() + i]).collect();
    let plan = begin(&mut lower, nodes, queries);
    let scratch = lower.scratch(Access::Write, &splits.len(plan.width));
    let Seen { end, first, blocks } = seen(&mut lower, nodes, &plan.queries);
    let split = lower.b.grid(2);
    lower.repeat(&(blocks.clone() - split.clone()).div_ceil(splits.groups), |lower, turn| {
        let block = turn * splits.groups + split;
        let needed = first.map_or(Expr::int(1), |first| first.at_most(&block));
        let needed = needed.and(&block.less_than(&blocks));
        let here = (end - block.clone() * plan.block).minimum(&Expr::int(plan.block));
        lower.conditional(&needed, |lower| one_block(lower, &plan, splits, scratch, &block, &here));
    });
    lower.finish()
}

fn one_block(
    lower: &mut Lower<'_>,
    plan: &Plan<'_>,
    splits: &Splits,
    scratch: Memory,
    block: &Expr,
    here: &Expr,
) {
    let largest = scores(lower, plan, block, here);
    let totals = weights(lower, plan, here, &largest);
    lower.b.barrier();
    let places: Vec<Expr> = plan.queries.iter().map(|query| splits.place(plan.width, query, block)).collect();
    for (place, ends) in places.iter().zip(largest.iter().zip(&totals)) {
        lower.store(scratch, &(place.clone() + plan.width), *ends.0, true);
        lower.store(scratch, &(place.clone() + plan.width + 1), *ends.1, true);
    }
    values(lower, plan, block, here, &mut |lower, query, d, sum| {
        lower.b.store(scratch, &(places[query].clone() + d.clone()), sum);
    });
    lower.b.barrier();
}

/// The kernel that joins blocks: a lane for each coordinate of the head's width.
fn join(mut lower: Lower<'_>, nodes: &Attend, splits: &Splits) -> Scheduled {
    let space = lower.region.space.clone();
    let (width, lanes) = (width(&lower), lanes(lower.caps, &space[2]));
    let parts = Expr::int(width).div_ceil(i64::from(lanes));
    lower.grid(lanes, [space[1].clone(), space[0].clone(), parts]);
    let query = [lower.b.grid(1), lower.b.grid(0)];
    let d = lower.b.grid(2) * i64::from(lanes) + lower.b.lane();
    let scratch = lower.scratch(Access::Read, &splits.len(width));
    let Seen { first, blocks, .. } = seen(&mut lower, nodes, std::slice::from_ref(&query));
    let first = first.unwrap_or(Expr::int(0));
    let (unseen, zero) = (lower.b.float(UNSEEN), lower.b.float(0.0));
    let [largest, total, sum] = [unseen, zero, zero].map(|start| lower.b.cell(start));
    let together = if lower.caps.vector_bytes > 0 { READ_TOGETHER } else { 1 };
    lower.repeat(&(blocks.clone() - first.clone()).div_ceil(together), |lower, turn| {
        let turn = first + turn * together;
        let read: Vec<[ValueId; 3]> = (0..together)
            .map(|u| {
                // Behind the last block something is read that is not joined, as by lanes beyond the width.
                let block = (turn.clone() + u).minimum(&(splits.blocks.clone() - 1));
                let place = splits.place(width, &query, &block);
                [Expr::int(width), Expr::int(width + 1), d.minimum(&Expr::int(width - 1))]
                    .map(|at| lower.b.load(scratch, &(place.clone() + at)))
            })
            .collect();
        for (u, [block_largest, block_total, block_sum]) in (0..).zip(read) {
            let is_seen = if together == 1 { Expr::int(1) } else { (turn.clone() + u).less_than(&blocks) };
            lower.conditional(&is_seen, |lower| {
                let scales = join_totals(lower, [largest, total], block_largest, block_total);
                let before = lower.b.get(sum);
                let after = join_values(lower, scales, before, block_sum);
                lower.b.set(sum, after);
            });
        }
    });
    for (node, cell) in [(nodes.total, total), (nodes.sum, sum)] {
        let value = lower.b.get(cell);
        lower.bind(node, value);
    }
    let [token, head] = query;
    lower.conditional(&d.less_than(&Expr::int(width)), |lower| {
        lower.store_roots(3, &[token, head, d.clone()], false);
    });
    lower.finish()
}
