//! Numbers of a few bits in planes of 32-bit words, and the parts of which formats' decodings are made.
//!
//! A word holds neighbouring numbers in its bytes, so that one shift and one mask take four at once and an
//! integer path has them as bytes: of a plane of `b` bits, number `k` stands in word `k div (32 / b)`, in byte
//! `k mod 4`, `b (k div 4)` bits up (modulo 8).
//!
//! Signed numbers become floats from the top of a word, where their sign is the word's: times a power of
//! two, which the scale takes back exactly. So nothing is subtracted, and the bytes are what an integer
//! product takes.

use crate::build::{splat, splat_scalar};
use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Graph, Node, Op};
use crate::scalar::{Scalar, ScalarOp, Table};

/// The element of a plane that serves each number, `span` numbers an element.
pub fn element(graph: &mut Graph, plane: Node, shape: &[Expr], span: i64) -> Node {
    let last = shape.len() - 1;
    graph.view(plane, shape, &[], |c| {
        let mut at = c.axes().to_vec();
        at[last] = c.axis(last).div_floor(span);
        at
    })
}

/// The same, as `f32`.
pub fn float(graph: &mut Graph, plane: Node, shape: &[Expr], span: i64) -> Node {
    let element = element(graph, plane, shape, span);
    graph.map(ScalarOp::Cast(DType::F32), &[element])
}

/// An integer at each number's place.
pub fn int(graph: &mut Graph, value: i64, shape: &[Expr]) -> Node {
    splat_scalar(graph, DType::U32, Scalar::Int(value), shape)
}

/// A word with each number in the low bits of its byte, from a plane of so many bits a number; four
/// neighbours share it.
pub fn quads(graph: &mut Graph, plane: Node, shape: &[Expr], bits: i64) -> Node {
    let last = shape.len() - 1;
    let words = element(graph, plane, shape, 32 / bits);
    let up = graph.index(DType::U32, shape, &[], |c| c.axis(last).div_floor(4).modulo(8 / bits) * bits);
    let mask = int(graph, 0x0101_0101 * ((1 << bits) - 1), shape);
    let shifted = graph.map(ScalarOp::Shr, &[words, up]);
    graph.map(ScalarOp::And, &[shifted, mask])
}

/// The bytes of two words of numbers joined: `low`, and `high` so many bits above; then all moved up to the
/// top of their bytes if they are signed numbers of fewer than eight bits.
pub fn join(graph: &mut Graph, low: Node, high: Node, above: i64, up: i64, shape: &[Expr]) -> Node {
    let mut shift = |word: Node, count: i64| match count {
        0 => word,
        _ => {
            let count = int(graph, count, shape);
            graph.map(ScalarOp::Shl, &[word, count])
        }
    };
    let (low, high) = (shift(low, up), shift(high, above + up));
    graph.map(ScalarOp::Or, &[low, high])
}

/// The bytes of a table of 16 that words of four numbers below 16 stand for.
pub fn lookup(graph: &mut Graph, quads: Node, table: Table) -> Node {
    graph.map(ScalarOp::Lookup(table), &[quads])
}

/// Each number's byte of words of four, unsigned, as `f32`.
pub fn unsigned(graph: &mut Graph, quads: Node, shape: &[Expr]) -> Node {
    let last = shape.len() - 1;
    let place = graph.index(DType::U32, shape, &[], |c| c.axis(last).modulo(4) * 8);
    let mask = int(graph, 0xFF, shape);
    let shifted = graph.map(ScalarOp::Shr, &[quads, place]);
    let number = graph.map(ScalarOp::And, &[shifted, mask]);
    graph.map(ScalarOp::Cast(DType::F32), &[number])
}

/// Each number's byte of words of four, signed, as an `f32` that is `2^24` times the byte.
pub fn signed(graph: &mut Graph, quads: Node, shape: &[Expr]) -> Node {
    let last = shape.len() - 1;
    let place = graph.index(DType::U32, shape, &[], |c| Expr::int(24) - c.axis(last).modulo(4) * 8);
    let top = int(graph, 0xFF00_0000, shape);
    let shifted = graph.map(ScalarOp::Shl, &[quads, place]);
    let number = graph.map(ScalarOp::And, &[shifted, top]);
    let number = graph.map(ScalarOp::Bitcast(DType::I32), &[number]);
    graph.map(ScalarOp::Cast(DType::F32), &[number])
}

/// The words whose bytes a node's elements are, if it is what [`unsigned`] or [`signed`] makes; and whether they are
/// signed.
pub fn bytes_of(graph: &Graph, node: Node) -> Option<(Node, bool)> {
    let one = |node: Node, wanted: ScalarOp| match graph.op(node) {
        Op::Map { op, xs } if *op == wanted => Some(xs.as_slice()),
        _ => None,
    };
    let constant = |node: Node| match graph.op(node) {
        Op::View { x, .. } => match graph.op(*x) {
            Op::Const(tensor) if tensor.len() == 1 => Some(tensor.get(0).int()),
            _ => None,
        },
        _ => None,
    };
    let &[number] = one(node, ScalarOp::Cast(DType::F32))? else { return None };
    let top = one(number, ScalarOp::Bitcast(DType::I32));
    let &[shifted, mask] = one(top.map_or(number, |top| top[0]), ScalarOp::And)? else { return None };
    let (shift, expected, byte) = match top {
        Some(_) => (ScalarOp::Shl, 0xFF00_0000, Expr::int(24)),
        None => (ScalarOp::Shr, 0xFF, Expr::int(0)),
    };
    let &[words, place] = one(shifted, shift)? else { return None };
    let axes = crate::graph::axes(graph.shape(node));
    let bits = axes.last()?.clone().modulo(4) * 8;
    let bits = if top.is_some() { byte - bits } else { bits };
    let is_place =
        matches!(graph.op(place), Op::Index { value, extras } if extras.is_empty() && *value == bits);
    (is_place && constant(mask) == Some(expected)).then_some((words, top.is_some()))
}

/// Numbers that are `2^exponent` times too large, times their scales.
pub fn scaled(graph: &mut Graph, number: Node, scale: Node, exponent: u8, shape: &[Expr]) -> Node {
    let power = splat(graph, (-f32::from(exponent)).exp2(), shape);
    let scale = graph.map(ScalarOp::Mul, &[scale, power]);
    graph.map(ScalarOp::Mul, &[number, scale])
}

/// Writes one block of a plane of so many bits a number.
pub fn write(plane: &mut [u8], bits: usize, number: impl Fn(usize) -> u8) {
    plane.fill(0);
    let numbers = plane.len() * 8 / bits;
    let (per_word, per_byte) = (32 / bits, 8 / bits);
    for k in 0..numbers {
        let byte = k / per_word * 4 + k % 4;
        plane[byte] |= (number(k) & ((1 << bits) - 1)) << (k / 4 % per_byte * bits);
    }
}
