//! Loop nests: one file a kind of work, written once for all targets.
//!
//! What differs between targets (lanes over the depth or over rows, tile sizes) is a parameter taken from
//! [`Caps`]. The order in which a sum's terms are added depends on the operand's layout, its depth and the
//! target's lanes alone, never on how many rows are computed together: a row's result is the same bits
//! whatever its company.

mod attend;
mod contract;
mod gemm;
mod lower;
mod pairs;
mod panel;
mod parts;
mod pointwise;
mod rows;
mod scan;

use std::collections::HashSet;

use jtllm_ir::{Expr, Graph, Layout, Node};

pub(crate) use attend::Tiles;
pub(crate) use gemm::narrow_type;
pub use lower::Argument;
pub(crate) use pairs::neighbours;

use crate::kernel::Kernel;
use crate::options::Options;
use crate::region::{Region, Work};
use crate::target::Caps;
use lower::Lower;

/// A kernel, and what its parameters are bound to.
pub struct Scheduled {
    /// The kernel.
    pub kernel: Kernel,
    /// One argument a parameter.
    pub arguments: Vec<Argument>,
}

/// The loop nest of a region; several, for a part of the columns each, where it reads matrices that are too long for one
/// launch, and two where the past of attention is cut.
pub fn schedule(
    graph: &Graph,
    stored: &HashSet<Node>,
    region: &Region,
    caps: &Caps,
    options: &Options,
) -> Vec<Scheduled> {
    let lower = |part| Lower::new(graph, stored, region, (caps, options), part);
    let parts = match &region.work {
        Work::Gemv(contraction) | Work::Gemm(contraction) => parts::columns(&lower(None), contraction),
        _ => None,
    };
    match parts {
        None => nest(lower(None)),
        Some(parts) => parts.into_iter().flat_map(|part| nest(lower(Some(part)))).collect(),
    }
}

fn nest(lower: Lower<'_>) -> Vec<Scheduled> {
    let one = match &lower.region.work {
        Work::Pointwise => pointwise::schedule(lower),
        Work::Rows => rows::schedule(lower),
        Work::Gemv(contraction) => contract::schedule(lower, contraction),
        Work::Gemm(contraction) => match gemm::cut(&lower, contraction).filter(|_| lower.part.is_none()) {
            Some(cut) => gemm::schedule(lower, contraction, &cut),
            None => match panel::choose(&lower, contraction) {
                Some(panel) => panel::schedule(lower, contraction, &panel),
                None => contract::schedule(lower, contraction),
            },
        },
        Work::Attend(attend) => return attend::schedule(lower, attend),
        Work::Scan(scan) => scan::schedule(lower, *scan),
    };
    vec![one]
}

/// How a weight's plane lies in memory on a target: planes of packed formats interleave rows where the
/// target wants lanes over rows, all else stays as files have it.
pub fn layout(weight: &str, rank: usize, caps: &Caps) -> Layout {
    let packed = !jtllm_ir::format::split_plane_name(weight).1.is_empty();
    match caps.interleave {
        Some(rows) if packed && rank == 2 => Layout::RowInterleaved(rows),
        _ => Layout::RowMajor,
    }
}

/// The coordinates of a place in a shape: the first axis and the flattened rest, each from one index.
/// Only the first axis may be symbolic.
fn unflatten(shape: &[Expr], first: Expr, rest: &Expr) -> Vec<Expr> {
    let mut at = vec![first];
    let mut left = 1;
    let mut inner = Vec::new();
    for extent in shape[1..].iter().rev() {
        let extent = extent.as_int().expect("only the first axis of a stored tensor is symbolic");
        inner.push(rest.clone().div_floor(left).modulo(extent));
        left *= extent;
    }
    at.extend(inner.into_iter().rev());
    at
}

/// Runs `body` for each of `count` places, lanes side by side: whole steps of all lanes without a condition,
/// then the rest with one, so that the rest's bound is a fact about the lane alone.
fn along<'a>(lower: &mut Lower<'a>, count: &Expr, body: &mut dyn FnMut(&mut Lower<'a>, &Expr)) {
    let lanes = lower.b.lanes();
    let whole = count.clone().div_floor(lanes);
    if whole.as_int() != Some(0) {
        lower.repeat(&whole, |lower, step| {
            let place = step * lanes + lower.b.lane();
            body(lower, &place);
        });
    }
    let place = whole * lanes + lower.b.lane();
    let inside = place.less_than(count);
    lower.conditional(&inside, |lower| body(lower, &place));
}
