//! Contractions and attention in 16-bit compute: which ones, in which type, and their operands rounded.

use std::collections::HashMap;

use jtllm_ir::graph::{Record, axes};
use jtllm_ir::{DType, Graph, Monoid, Node, Op, ScalarOp};

use super::is_fixed;
use crate::access::visit_reads;
use crate::classify;
use crate::options::Compute;
use crate::region::{Contraction, Product};
use crate::schedule::{Tiles, neighbours};
use crate::target::Caps;

/// The sum with both operands rounded, if `node` is a contraction that is computed in 16 bits.
pub(super) fn contraction(graph: &mut Graph, node: Node, caps: &Caps, compute: Compute) -> Option<Node> {
    let wanted = match compute {
        Compute::F32 | Compute::Int8 => return None,
        Compute::Auto if caps.matrix.is_some() || caps.pairs => None,
        Compute::Auto => return None,
        Compute::Bf16 => Some(DType::BF16),
        Compute::F16 => Some(DType::F16),
    };
    let found = plain_contraction(graph, node)?;
    let dtype = match wanted {
        Some(dtype) => dtype,
        None => by_itself(graph, node, &found, caps)?,
    };
    let (Op::Reduce { x, .. }, right) = (graph.op(node), found.sums[0].right) else { return None };
    let Op::Map { op: ScalarOp::Mul, xs } = graph.op(*x).clone() else { return None };
    let rounded: Vec<Node> = xs.iter().map(|x| round(graph, *x, dtype)).collect();
    // What is in the type already stays as it is.
    if rounded == xs || !xs.contains(&right) {
        return None;
    }
    let product = graph.map(ScalarOp::Mul, &rounded);
    let last = graph.shape(product).len() - 1;
    Some(graph.reduce(Monoid::Add, product, &[last]))
}

/// The attention with its queries and its weights rounded to the cache's type, if `node` is one that the target's
/// matrix units compute.
pub(super) fn attention(graph: &mut Graph, node: Node, caps: &Caps, compute: Compute) -> Option<Node> {
    let found = classify::attend(graph, node).filter(|_| compute != Compute::F32)?;
    let dtype = Tiles::choose(graph, &found, caps)?.dtype;
    let Op::Reduce { x: products, .. } = *graph.op(found.sum) else { return None };
    let weights = classify::operands(graph, products, ScalarOp::Mul)?[0];
    let query = round(graph, found.query, dtype);
    if query == found.query && found.narrow == Some(dtype) {
        return None;
    }
    let mut interior = classify::attend_interior(graph, &found);
    interior.sort_unstable();
    let mut place = HashMap::from([(found.query, query)]);
    for old in interior {
        let Record { op, shape, dtype: element } = graph.record(old).clone();
        let op = op.map_operands(&mut |x| place.get(&x).copied().unwrap_or(x));
        let new = graph.push(Record { op, shape, dtype: element });
        let new = if old == weights { round(graph, new, dtype) } else { new };
        place.insert(old, new);
    }
    place.get(&node).copied()
}

/// The contraction with weights that `node` is, if no other rewrite has changed it yet.
pub(super) fn plain_contraction(graph: &Graph, node: Node) -> Option<Contraction> {
    let stop = |x: Node| !matches!(graph.op(x), Op::Map { .. } | Op::View { .. }) && !is_leaf(graph, x);
    let found = classify::contraction(graph, node, &stop)?;
    let sum = &found.sums[0];
    let plain = sum.blocks.is_none() && sum.product == Product::Floats;
    (plain && is_fixed(graph, sum.right)).then_some(found)
}

fn is_leaf(graph: &Graph, node: Node) -> bool {
    matches!(
        graph.op(node),
        Op::Weight { .. } | Op::State { .. } | Op::Input { .. } | Op::Const(_) | Op::Index { .. }
    )
}

/// The type that a target takes for a contraction if nobody says otherwise: where `dot2` is fast, `bf16` for weights of
/// that type, but not for those of `f16`, whose numbers rounding would change. With matrix units, for many rows
/// and weights of 16 bits or less, that of the weights, and `bf16` for packed ones. Single rows are not slower in
/// `f32` there, and weights of 32 bits were kept so for a reason.
fn by_itself(graph: &Graph, node: Node, found: &Contraction, caps: &Caps) -> Option<DType> {
    if caps.pairs && is_paired(graph, found, caps) {
        return Some(DType::BF16);
    }
    let space = graph.shape(node);
    if !found.left_axes.iter().any(|axis| classify::is_many(&space[*axis])) {
        return None;
    }
    let right = found.sums[0].right;
    let mut stored = Vec::new();
    visit_reads(graph, right, &axes(graph.shape(right)), &|_| false, &mut |node, _| {
        if matches!(graph.op(node), Op::Weight { .. }) {
            stored.push(graph.dtype(node));
        }
    });
    let dtype = match stored.as_slice() {
        [] => return None,
        numbers if numbers.iter().all(|dtype| *dtype == DType::F16) => DType::F16,
        numbers if numbers.iter().all(|dtype| *dtype == DType::F32) => return None,
        _ => DType::BF16,
    };
    caps.matrix.filter(|matrix| matrix.has(dtype)).map(|_| dtype)
}

/// Whether weights are numbers of `bf16` that lie in memory two by two, and activations will.
fn is_paired(graph: &Graph, found: &Contraction, caps: &Caps) -> bool {
    let sum = &found.sums[0];
    let weight = neighbours(graph, sum.right, caps, &|_| false);
    let made = |node| !matches!(graph.op(node), Op::View { .. });
    weight.is_some_and(|weight| graph.dtype(weight) == DType::BF16)
        && neighbours(graph, sum.left, caps, &made).is_some()
}

/// The value rounded to a type and back, below the views that only spread it: so it is rounded once an element.
fn round(graph: &mut Graph, node: Node, dtype: DType) -> Node {
    match graph.op(node).clone() {
        Op::View { x, at, ok, extras } => {
            let x = round(graph, x, dtype);
            let shape = graph.shape(node).to_vec();
            graph.push(Record { op: Op::View { x, at, ok, extras }, shape, dtype: DType::F32 })
        }
        Op::Map { op: ScalarOp::Cast(DType::F32), xs } if graph.dtype(xs[0]) == dtype => node,
        _ => {
            let narrow = graph.map(ScalarOp::Cast(dtype), &[node]);
            graph.map(ScalarOp::Cast(DType::F32), &[narrow])
        }
    }
}
