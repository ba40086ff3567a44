//! The packed weights of ChatGLM's authors: signed integers, with one scale for a whole row that is a tensor of
//! its own, `{name}_scale`.
//!
//! Words hold numbers as those of the block formats do: number `k` of 8 bits is byte `k mod 4`; a word of
//! 4-bit numbers has `k..k+3` in the low and `k+4..k+7` in the high halves of its bytes. The sign becomes the
//! word's by a shift, and the power of two that this makes too much is taken back in the scale.

use super::{Format, Plane, ROW};
use crate::build::{splat, splat_scalar};
use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Graph, Node};
use crate::scalar::{Scalar, ScalarOp};

const SCALE: Plane = Plane { suffix: "_scale", dtype: DType::F16, span: ROW };

/// `scale * q`, `q` a signed byte.
pub(super) static INT8: Format = Format {
    name: "chatglm_int8",
    block: 4,
    block_bytes: 4,
    planes: &[Plane { suffix: "q", dtype: DType::U32, span: 4 }, SCALE],
    decode: |graph, planes, shape| {
        let words = words(graph, planes[0], shape, 4);
        scaled(graph, words, planes[1], 24, shape)
    },
    unpack: |block, planes| planes[0].copy_from_slice(block),
};

/// `scale * q`, `q` of four bits with a sign; of two neighbours in a byte the first has the upper half.
pub(super) static INT4: Format = Format {
    name: "chatglm_int4",
    block: 8,
    block_bytes: 4,
    planes: &[Plane { suffix: "q", dtype: DType::U32, span: 8 }, SCALE],
    decode: |graph, planes, shape| {
        let words = words(graph, planes[0], shape, 8);
        // Each byte's upper half: the lower halves' numbers move there.
        let half =
            graph.index(DType::U32, shape, &[], |c| Expr::int(4) - c.axis(1).div_floor(4).modulo(2) * 4);
        let upper = splat_scalar(graph, DType::U32, Scalar::Int(0xF0F0_F0F0), shape);
        let words = graph.map(ScalarOp::Shl, &[words, half]);
        let words = graph.map(ScalarOp::And, &[words, upper]);
        scaled(graph, words, planes[1], 28, shape)
    },
    unpack: |block, planes| {
        let number = |k: usize| block[k / 2] >> (4 * (1 - k % 2)) & 15;
        planes[0].iter_mut().enumerate().for_each(|(at, byte)| *byte = number(at) | number(at + 4) << 4);
    },
};

/// The word that holds each number, `per_word` numbers in a word.
fn words(graph: &mut Graph, plane: Node, shape: &[Expr], per_word: i64) -> Node {
    graph.view(plane, shape, &[], |c| vec![c.axis(0), c.axis(1).div_floor(per_word)])
}

/// Signed numbers, one in the upper bits of each byte of `words`, times their row's scale. At the top of a
/// word each is `2^exponent` times too large.
fn scaled(graph: &mut Graph, words: Node, scale: Node, exponent: u8, shape: &[Expr]) -> Node {
    let place = graph.index(DType::U32, shape, &[], |c| Expr::int(24) - c.axis(1).modulo(4) * 8);
    let top = splat_scalar(graph, DType::U32, Scalar::Int(0xFF00_0000), shape);
    let shifted = graph.map(ScalarOp::Shl, &[words, place]);
    let number = graph.map(ScalarOp::And, &[shifted, top]);
    let number = graph.map(ScalarOp::Bitcast(DType::I32), &[number]);
    let number = graph.map(ScalarOp::Cast(DType::F32), &[number]);
    let scale = graph.view(scale, shape, &[], |c| vec![c.axis(0), Expr::int(0)]);
    let scale = graph.map(ScalarOp::Cast(DType::F32), &[scale]);
    let power = splat(graph, (-f32::from(exponent)).exp2(), shape);
    let scale = graph.map(ScalarOp::Mul, &[scale, power]);
    graph.map(ScalarOp::Mul, &[number, scale])
}
