//! Numbers of `bf16` multiplied two at a time: neighbours along the depth, a word of memory each.

use jtllm_ir::graph::axes;
use jtllm_ir::{DType, Expr, Graph, Layout, Node, Op};

use super::layout;
use super::lower::Lower;
use crate::access::moved;
use crate::kernel::ValueId;
use crate::region::{Product, Sum};
use crate::target::Caps;

/// Whether a sum's products are made two at a time. It depends on the operands alone, so a row's terms are added in the
/// same order whatever its company.
pub(super) fn fit(lower: &Lower<'_>, sum: &Sum) -> bool {
    let stop = |node| lower.is_stored(node);
    let is_paired = |node| {
        let from = neighbours(lower.graph, node, lower.caps, &stop);
        from.is_some_and(|from| lower.graph.dtype(from) == DType::BF16)
    };
    let plain = sum.product == Product::Floats && sum.blocks.is_none();
    lower.caps.dot2 && plain && is_paired(sum.left) && is_paired(sum.right)
}

/// The two elements of an operand of which the first is at `at`, as a word.
pub(super) fn load(lower: &mut Lower<'_>, node: Node, at: &[Expr]) -> ValueId {
    let source = lower.source(node, at, DType::BF16).expect("the operand lies in memory as pairs");
    lower.load_pair(&source)
}

/// The tensor whose elements, moved and widened, those of a node are, if two of them whose last coordinates are an even
/// number and the next one are such a pair in memory, too.
pub(crate) fn neighbours(
    graph: &Graph,
    node: Node,
    caps: &Caps,
    stop: &dyn Fn(Node) -> bool,
) -> Option<Node> {
    let shape = graph.shape(node);
    let (depth, rest) = shape.split_last()?;
    let last = rest.len() as u16;
    let (from, at) = moved(graph, node, &axes(shape), stop)?;
    let memory = graph.shape(from);
    let order = match graph.op(from) {
        Op::Weight { name } => layout(name, memory.len(), caps),
        _ => Layout::RowMajor,
    };
    let is_even = |x: &Expr| x.divisor() % 2 == 0;
    let first = order.offset(memory, &at) - Expr::axis(last, depth);
    let even = [depth, &order.len(memory), &first].into_iter().all(is_even);
    (order == Layout::RowMajor && even && !first.mentions_axis(last)).then_some(from)
}
