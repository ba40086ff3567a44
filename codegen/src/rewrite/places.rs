//! Where in their bytes the numbers of words stand.
//!
//! Formats put signed numbers of fewer than eight bits at the top of their bytes, where their sign is the byte's. Products
//! of bytes want small numbers: those at the bottom.

use jtllm_ir::build::splat_scalar;
use jtllm_ir::{DType, Expr, Graph, Node, Op, Scalar, ScalarOp};

/// How far back words are looked at: nodes may share operands, and each is looked at once for each use.
const LEVELS: u32 = 8;

/// How many bits of each byte of a node's words, from its lowest on, are 0; of words that are 0 none.
pub(super) fn spare(graph: &Graph, node: Node) -> u32 {
    let bits = possible(graph, node, LEVELS).to_le_bytes().into_iter().fold(0, |all, byte| all | byte);
    if bits == 0 { 0 } else { bits.trailing_zeros() }
}

/// The words with each byte so many bits further down; they are those of [`spare`].
pub(super) fn down(graph: &mut Graph, node: Node, count: u32) -> Node {
    if count == 0 {
        return node;
    }
    let shape = graph.shape(node).to_vec();
    let int = |graph: &mut Graph, value: u32| {
        splat_scalar(graph, DType::U32, Scalar::Int(i64::from(value)), &shape)
    };
    match parts(graph, node) {
        Some((ScalarOp::And, x, mask)) if constant(graph, mask).is_some() => {
            let bits = constant(graph, mask).expect("it has been found just now");
            let x = further_down(graph, x, count);
            let mask = int(graph, bits >> count);
            graph.map(ScalarOp::And, &[x, mask])
        }
        Some((ScalarOp::Or, x, y)) => {
            let both = [x, y].map(|part| down(graph, part, count));
            graph.map(ScalarOp::Or, &both)
        }
        Some((ScalarOp::Shl, x, up)) if holds(graph, x, up) => match constant(graph, up) {
            Some(up) if up == count => x,
            Some(up) if up > count => {
                let up = int(graph, up - count);
                graph.map(ScalarOp::Shl, &[x, up])
            }
            _ => further_down(graph, node, count),
        },
        _ => further_down(graph, node, count),
    }
}

/// A node so many bits further down, where the uppermost bits that come in do not matter.
fn further_down(graph: &mut Graph, node: Node, count: u32) -> Node {
    let shape = graph.shape(node).to_vec();
    if let Some((ScalarOp::Shl, x, up)) = parts(graph, node)
        && let Op::Index { value, extras } = graph.op(up)
        && extras.is_empty()
        && value.low() >= 0
        && value.high() <= i64::from(count)
    {
        let rest = Expr::int(i64::from(count)) - value.clone();
        let rest = graph.index(DType::U32, &shape, &[], |_| rest);
        return graph.map(ScalarOp::Shr, &[x, rest]);
    }
    let count = splat_scalar(graph, DType::U32, Scalar::Int(i64::from(count)), &shape);
    graph.map(ScalarOp::Shr, &[node, count])
}

/// Whether nothing of a word is lost when it is moved up.
fn holds(graph: &Graph, x: Node, up: Node) -> bool {
    constant(graph, up).is_some_and(|up| up < 32 && possible(graph, x, LEVELS).leading_zeros() >= up)
}

/// The bits of a node's words that may be 1, as far as so many operations before it tell.
fn possible(graph: &Graph, node: Node, levels: u32) -> u32 {
    let Some(levels) = levels.checked_sub(1) else { return u32::MAX };
    let possible = |node| possible(graph, node, levels);
    if let Some(known) = constant(graph, node) {
        return known;
    }
    match parts(graph, node) {
        Some((ScalarOp::And, x, y)) => possible(x) & possible(y),
        Some((ScalarOp::Or | ScalarOp::Xor, x, y)) => possible(x) | possible(y),
        Some((ScalarOp::Shl, x, up)) => match constant(graph, up) {
            Some(up) if up < 32 => possible(x) << up,
            _ => u32::MAX,
        },
        Some((ScalarOp::Shr, x, down)) => match constant(graph, down) {
            Some(down) if down < 32 => possible(x) >> down,
            _ => u32::MAX,
        },
        _ => u32::MAX,
    }
}

/// An operation on two words.
fn parts(graph: &Graph, node: Node) -> Option<(ScalarOp, Node, Node)> {
    match graph.op(node) {
        Op::Map { op, xs } if xs.len() == 2 && graph.dtype(node) == DType::U32 => Some((*op, xs[0], xs[1])),
        _ => None,
    }
}

/// The same word everywhere.
fn constant(graph: &Graph, node: Node) -> Option<u32> {
    let Op::View { x, ok: None, .. } = graph.op(node) else { return None };
    match graph.op(*x) {
        Op::Const(tensor) if tensor.len() == 1 && graph.dtype(node) == DType::U32 => {
            u32::try_from(tensor.get(0).int()).ok()
        }
        _ => None,
    }
}
