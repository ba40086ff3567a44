//! Recognises contractions and attention in meta-operators.

use jtllm_ir::{DType, Expr, Graph, Monoid, Node, Op, ScalarOp};

use crate::access::depends_on;
use crate::region::{Attend, Blocks, Contraction, Product, Sum};

/// The operands of a Map of that operation.
pub fn operands(graph: &Graph, node: Node, op: ScalarOp) -> Option<&[Node]> {
    match graph.op(node) {
        Op::Map { op: found, xs } if *found == op => Some(xs),
        _ => None,
    }
}

/// The operand and axes of a Reduce by that monoid.
fn reduction(graph: &Graph, node: Node, monoid: Monoid) -> Option<(Node, &[usize])> {
    match graph.op(node) {
        Op::Reduce { monoid: found, x, axes } if *found == monoid => Some((*x, axes)),
        _ => None,
    }
}

/// What a view without condition and extras moves.
fn moved(graph: &Graph, node: Node) -> Option<Node> {
    match graph.op(node) {
        Op::View { x, ok: None, extras, .. } if extras.is_empty() => Some(*x),
        _ => None,
    }
}

/// The value of a scalar constant, broadcast or not.
pub(crate) fn constant(graph: &Graph, node: Node) -> Option<f32> {
    match graph.op(node) {
        Op::Const(tensor) if tensor.len() == 1 => Some(tensor.get(0).float()),
        Op::View { x, ok: None, .. } => constant(graph, *x),
        _ => None,
    }
}

/// A sum of products over the last axis, blocked or not, if `node` is one with a left and a right side:
/// the right side depends on no axis of the result that the left side depends on.
pub fn contraction(graph: &Graph, node: Node, stop: &dyn Fn(Node) -> bool) -> Option<Contraction> {
    let (x, reduced) = reduction(graph, node, Monoid::Add)?;
    let space = graph.shape(node).to_vec();
    let last = space.len();
    if reduced != [last] || !graph.dtype(node).is_float() {
        return None;
    }
    let depth = graph.shape(x)[last].as_int()?;
    let (terms, blocks, depth) = match block_sum(graph, x, last + 1) {
        Some((inner, terms)) => {
            let inside = graph.shape(terms)[last + 1].as_int()?;
            (terms, Some(Blocks { inner, each: x, count: depth }), inside)
        }
        None => (x, None, depth),
    };
    if stop(terms) {
        return None;
    }
    let (a, b, product) = match operands(graph, terms, ScalarOp::Mul) {
        Some(&[a, b]) => (a, b, Product::Floats),
        _ => {
            let of = |(op, product)| operands(graph, terms, op).map(|xs| (xs, product));
            let bytes = [(ScalarOp::Dot4, Product::Bytes), (ScalarOp::Dot4Signed, Product::SignedBytes)];
            let (&[b, a, zero], product) = bytes.into_iter().find_map(of)? else { return None };
            (constant(graph, zero) == Some(0.0)).then_some((a, b, product))?
        }
    };
    let (in_a, in_b) = (depends_on(graph, a, stop), depends_on(graph, b, stop));
    // Weights are what stays the same: the operand that reads them is right. Where both do, as when a weight
    // scales what is multiplied, it is the one that reads nothing else.
    let weightless = |node: Node| !mentions_weight(graph, node, stop);
    let pair = match (weightless(a), weightless(b)) {
        (false, false) => [a, b].map(|node| !weights_alone(graph, node, stop)),
        (a, b) => [a, b],
    };
    let (left, right, in_left, in_right) = match pair {
        [true, false] => (a, b, in_a, in_b),
        [false, true] => (b, a, in_b, in_a),
        _ => return None,
    };
    let axes = 0..space.len();
    if axes.clone().any(|axis| in_left[axis] && in_right[axis]) {
        return None;
    }
    let (right_axes, left_axes): (Vec<usize>, Vec<usize>) = axes.partition(|axis| in_right[*axis]);
    if right_axes.is_empty() || right_axes.iter().any(|axis| space[*axis].as_int().is_none()) {
        return None;
    }
    // Which operand's bytes are unsigned, or may be anything, is no choice.
    if product.is_of_bytes() && left != a {
        return None;
    }
    let sum = Sum { root: node, left, right, product, blocks, depth };
    Some(Contraction { sums: vec![sum], left_axes, right_axes })
}

/// The sum over `axis` among the Maps that end in `node`, and its terms; the only one.
fn block_sum(graph: &Graph, node: Node, axis: usize) -> Option<(Node, Node)> {
    match graph.op(node) {
        Op::Reduce { monoid: Monoid::Add, x, axes } if *axes == [axis] => Some((node, *x)),
        Op::Map { xs, .. } => {
            let mut found = xs.iter().filter_map(|x| block_sum(graph, *x, axis));
            found.next().filter(|_| found.next().is_none())
        }
        _ => None,
    }
}

fn mentions_weight(graph: &Graph, node: Node, stop: &dyn Fn(Node) -> bool) -> bool {
    !stop(node)
        && match graph.op(node) {
            Op::Weight { .. } => true,
            op => op.operands().into_iter().any(|x| mentions_weight(graph, x, stop)),
        }
}

/// Whether nothing but weights and constants is read.
fn weights_alone(graph: &Graph, node: Node, stop: &dyn Fn(Node) -> bool) -> bool {
    !stop(node)
        && match graph.op(node) {
            Op::Weight { .. } | Op::Const(_) => true,
            Op::Index { extras, .. } => extras.is_empty(),
            Op::Map { xs, .. } => xs.iter().all(|x| weights_alone(graph, *x, stop)),
            Op::View { x, extras, .. } => extras.is_empty() && weights_alone(graph, *x, stop),
            _ => false,
        }
}

/// The attention pattern that ends in `root`, if there is one.
pub fn attend(graph: &Graph, root: Node) -> Option<Attend> {
    let &[sum, divisor] = operands(graph, root, ScalarOp::Div)? else { return None };
    let &[some, total, one] = operands(graph, moved(graph, divisor)?, ScalarOp::Select)? else { return None };
    let &[zero, compared] = operands(graph, some, ScalarOp::Lt)? else { return None };
    if constant(graph, one) != Some(1.0) || constant(graph, zero) != Some(0.0) || compared != total {
        return None;
    }
    let (weights, axes) = reduction(graph, total, Monoid::Add)?;
    let &[visible, power, nothing] = operands(graph, weights, ScalarOp::Select)? else { return None };
    if axes != [2] || constant(graph, nothing) != Some(0.0) {
        return None;
    }
    let &[difference] = operands(graph, power, ScalarOp::Exp)? else { return None };
    let &[score, largest] = operands(graph, difference, ScalarOp::Sub)? else { return None };
    let (masked, axes) = reduction(graph, moved(graph, largest)?, Monoid::Max)?;
    let &[seen, scored, unseen] = operands(graph, masked, ScalarOp::Select)? else { return None };
    if axes != [2] || seen != visible || scored != score || constant(graph, unseen) != Some(-1e30) {
        return None;
    }
    let (products, axes) = reduction(graph, sum, Monoid::Add)?;
    let &[weight, value] = operands(graph, products, ScalarOp::Mul)? else { return None };
    let (spread, narrow) = rounded(graph, moved(graph, weight)?);
    if axes != [3] || spread != weights {
        return None;
    }
    let dot = dot_below(graph, score)?;
    let (products, axes) = reduction(graph, dot, Monoid::Add)?;
    let &[query, key] = operands(graph, products, ScalarOp::Mul)? else { return None };
    (axes == [3]).then_some(Attend { root, dot, query, key, score, visible, total, sum, value, narrow })
}

/// What is rounded to a type of 16 bits and back, and to which.
fn rounded(graph: &Graph, node: Node) -> (Node, Option<DType>) {
    match operands(graph, node, ScalarOp::Cast(DType::F32)) {
        Some(&[narrow]) => match graph.op(narrow) {
            Op::Map { op: ScalarOp::Cast(dtype @ (DType::F16 | DType::BF16)), xs } => (xs[0], Some(*dtype)),
            _ => (node, None),
        },
        _ => (node, None),
    }
}

/// The one reduction under a score's Maps.
fn dot_below(graph: &Graph, node: Node) -> Option<Node> {
    match graph.op(node) {
        Op::Reduce { .. } => Some(node),
        Op::Map { xs, .. } => xs.iter().find_map(|x| dot_below(graph, *x)),
        _ => None,
    }
}

/// Every node between the pattern's root and its query, key and value, theirs excluded.
pub fn attend_interior(graph: &Graph, attend: &Attend) -> Vec<Node> {
    let ends = [attend.query, attend.key, attend.value];
    let mut interior = Vec::new();
    let mut open = vec![attend.root];
    while let Some(node) = open.pop() {
        if ends.contains(&node) || interior.contains(&node) {
            continue;
        }
        let leaf = matches!(graph.op(node), Op::Index { .. } | Op::Const(_) | Op::Weight { .. });
        if leaf {
            continue;
        }
        interior.push(node);
        open.extend(graph.op(node).operands());
    }
    interior
}

/// Whether the extent is one that only a prefill plan has.
pub fn is_many(extent: &Expr) -> bool {
    extent.as_int().is_none_or(|count| count > 16)
}
