//! Contractions whose matrices are too long for one launch: they are computed in parts of their columns, each a launch
//! with the rows of the matrices that it reads.
//!
//! A matrix may be too long for a binding ([`Caps::max_span`](crate::target::Caps::max_span)); then there is no other
//! way. Or a launch reads more weights than shall be in memory at a time
//! ([`Options::range_bytes`](crate::options::Options::range_bytes)); then it is cut if the rows that a part reads lie side
//! by side, so that parts together read what one launch would.

use std::ops::{Range, RangeInclusive};

use jtllm_ir::graph::{axes, element_count};
use jtllm_ir::{Expr, Graph, Layout, Node, Op};

use super::lower::Lower;
use super::{contract, gemm};
use crate::access::visit_reads;
use crate::region::{Contraction, Work};

/// Rows of a matrix that are bound together or not at all, where a target cannot bind all of it: so many rows are a
/// multiple of 256 bytes, whatever they hold.
const BINDING_ROWS: i64 = 256;

/// The same where launches shall read less: at least the columns that a group computes at a time, so that all its loads
/// are of the same rows, and none is beyond them; and a multiple of what packed planes interleave.
const RANGE_ROWS: i64 = 32;

/// A plane that is so many times shorter than a range is bound whole: several ranges of it would save nothing.
const SHORT: u64 = 32;

/// The columns of a contraction in as many parts as its matrices need; none if it is one launch.
pub(super) fn columns(lower: &Lower<'_>, contraction: &Contraction) -> Option<Vec<Range<i64>>> {
    let width = contract::width(lower, contraction);
    let step = for_binding(lower, contraction).or_else(|| for_range(lower, contraction, width))?;
    Some((0..width).step_by(step as usize).map(|start| start..(start + step).min(width)).collect())
}

/// How many rows of a matrix are bound together or not at all in a launch that computes a part; none if all are bound.
pub(super) fn unit(lower: &Lower<'_>, node: Node, layout: Layout) -> Option<i64> {
    let bytes = plane_bytes(lower.graph, node)?;
    if bytes > lower.caps.max_span && layout == Layout::RowMajor {
        return Some(BINDING_ROWS);
    }
    let range = lower.options.range_bytes.filter(|range| lower.part.is_some() && is_long(bytes, *range));
    range.map(|_| range_rows(lower))
}

/// The rows of each matrix that some columns read, the first and the last: loads of a launch that computes them lie apart
/// (`contract.rs`, `Order`), and are bound together all the same.
pub(super) fn rows(
    lower: &Lower<'_>,
    contraction: &Contraction,
    columns: &Range<i64>,
) -> Vec<(Node, RangeInclusive<i64>)> {
    let reads = reads(lower, contraction, columns.clone());
    reads.into_iter().map(|(node, rows)| (node, rows.low()..=rows.high())).collect()
}

fn range_rows(lower: &Lower<'_>) -> i64 {
    let interleaved = i64::from(lower.caps.interleave.unwrap_or(1));
    (RANGE_ROWS + interleaved - 1) / interleaved * interleaved
}

fn is_long(bytes: u64, range_bytes: u64) -> bool {
    bytes > range_bytes / SHORT
}

/// Bytes of a matrix of weights, without padding.
fn plane_bytes(graph: &Graph, node: Node) -> Option<u64> {
    let shape = graph.shape(node);
    let is_matrix = matches!(graph.op(node), Op::Weight { .. }) && shape.len() == 2;
    let count = element_count(shape).as_int().filter(|_| is_matrix)?;
    Some(count.max(0) as u64 * graph.dtype(node).size() as u64)
}

/// Bytes of a row of a matrix.
fn row_bytes(graph: &Graph, node: Node) -> u64 {
    let columns = graph.shape(node)[1].as_int().expect("weights have constant shapes");
    columns.max(0) as u64 * graph.dtype(node).size() as u64
}

/// The matrices that some columns of a contraction read, each with the rows, over an axis of those columns.
fn reads(lower: &Lower<'_>, contraction: &Contraction, columns: Range<i64>) -> Vec<(Node, Expr)> {
    let right = contract::extents(&lower.region.space, &contraction.right_axes);
    let stop = |node| lower.is_stored(node);
    let mut found: Vec<(Node, Expr)> = Vec::new();
    for sum in &contraction.sums {
        for node in [Some(sum.right), sum.blocks.as_ref().map(|blocks| blocks.each)].into_iter().flatten() {
            let mut at = axes(lower.graph.shape(node));
            let axis = Expr::axis(at.len() as u16, &Expr::int(columns.end - columns.start));
            let column = Expr::int(columns.start) + axis;
            contract::spread(&mut at, &contraction.right_axes, &right, &column);
            visit_reads(lower.graph, node, &at, &stop, &mut |leaf, at| {
                if plane_bytes(lower.graph, leaf).is_some() && !found.contains(&(leaf, at[0].clone())) {
                    found.push((leaf, at[0].clone()));
                }
            });
        }
    }
    found
}

/// Columns of a part, where a binding cannot hold a matrix.
fn for_binding(lower: &Lower<'_>, contraction: &Contraction) -> Option<i64> {
    let most = lower.caps.max_span;
    let long = |node: &Node| plane_bytes(lower.graph, *node).is_some_and(|bytes| bytes > most);
    let reads = reads(lower, contraction, 0..1);
    let rows = reads.iter().map(|(node, _)| node).filter(|node| long(node));
    let row = rows.map(|node| row_bytes(lower.graph, *node)).max()?;
    // A part whose columns do not begin where a block of rows does touches a block more at either end.
    let rows = i64::try_from(most.checked_div(row)?).ok()? / BINDING_ROWS * BINDING_ROWS - 2 * BINDING_ROWS;
    Some(rows.max(BINDING_ROWS))
}

/// Columns of a part, where launches shall read less than this one and its columns stand for rows that lie side by side.
fn for_range(lower: &Lower<'_>, contraction: &Contraction, width: i64) -> Option<i64> {
    let most = lower.options.range_bytes?;
    let is_gemm = matches!(lower.region.work, Work::Gemm(_));
    // Tiles of shared memory have no parts.
    if is_gemm && gemm::cut(lower, contraction).is_some() {
        return None;
    }
    let is_long = |node: &Node| plane_bytes(lower.graph, *node).is_some_and(|bytes| is_long(bytes, most));
    let long = |columns| reads(lower, contraction, 0..columns).into_iter().filter(|(node, _)| is_long(node));
    let row: u64 = long(1).map(|(node, _)| row_bytes(lower.graph, node)).sum();
    let rows = i64::try_from(most.checked_div(row)?).ok()?;
    // A power of two, or three times one: parts then end where chunks of packed files do.
    let unit = range_rows(lower);
    let half = (1 << (rows / 2).max(1).ilog2()).max(unit) / unit * unit;
    let step = (rows / half * half).max(half);
    let side_by_side = |rows: &Expr| rows.low() % unit == 0 && rows.high() - rows.low() < step;
    (step < width && long(step).all(|(_, rows)| side_by_side(&rows))).then_some(step)
}
