//! The simple block formats of GGUF files: 32 numbers share a scale (ggml's `ggml-common.h`).
//!
//! A word of the quants' plane holds neighbouring numbers in its bytes, so that an integer path can take
//! four at once: number `k` of an 8-bit row is byte `k mod 4` of word `k div 4`; a 4-bit word holds
//! `k..k+3` in the low and `k+4..k+7` in the high halves of its four bytes.
//!
//! Signed numbers become floats from the top of a word, where their sign is the word's: times a power of
//! two, which the scale takes back exactly. So nothing is subtracted, and the bytes are what an integer
//! product takes.

use super::{Format, Plane};
use crate::build::splat;
use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Graph, Node};
use crate::scalar::{Scalar, ScalarOp};

const QUANTS_8: Plane = Plane { suffix: "q", dtype: DType::U32, span: 4 };
const QUANTS_4: Plane = Plane { suffix: "q", dtype: DType::U32, span: 8 };
const SCALES: Plane = Plane { suffix: "s", dtype: DType::F16, span: 32 };
const MINIMA: Plane = Plane { suffix: "m", dtype: DType::F16, span: 32 };

/// `scale * q`, `q` a signed byte.
pub(super) static Q8_0: Format = Format {
    name: "q8_0",
    block: 32,
    block_bytes: 34,
    planes: &[QUANTS_8, SCALES],
    decode: |graph, planes, shape| {
        let words = words(graph, planes[0], shape, 4);
        signed(graph, words, planes[1], 24, shape)
    },
    unpack: |block, planes| {
        planes[1].copy_from_slice(&block[..2]);
        planes[0].copy_from_slice(&block[2..]);
    },
};

/// `scale * (q - 8)`, `q` in `0..16`; kept as the signed number `q - 8`.
pub(super) static Q4_0: Format = Format {
    name: "q4_0",
    block: 32,
    block_bytes: 18,
    planes: &[QUANTS_4, SCALES],
    decode: |graph, planes, shape| {
        let words = words(graph, planes[0], shape, 8);
        // Each byte's upper half: the lower halves' numbers move there.
        let half = graph.index(DType::U32, shape, &[], |c| {
            Expr::int(4) - c.axis(c.axes().len() - 1).div_floor(4).modulo(2) * 4
        });
        let upper = ints(graph, 0xF0F0_F0F0, shape);
        let words = graph.map(ScalarOp::Shl, &[words, half]);
        let words = graph.map(ScalarOp::And, &[words, upper]);
        signed(graph, words, planes[1], 28, shape)
    },
    unpack: |block, planes| {
        planes[1].copy_from_slice(&block[..2]);
        nibbles(&block[2..18], planes[0]);
        planes[0].iter_mut().for_each(|byte| *byte ^= 0x88);
    },
};

/// `scale * q + minimum`, `q` in `0..16`.
pub(super) static Q4_1: Format = Format {
    name: "q4_1",
    block: 32,
    block_bytes: 20,
    planes: &[QUANTS_4, SCALES, MINIMA],
    decode: |graph, planes, shape| {
        let quants = unsigned(graph, planes[0], shape);
        let scales = per_block(graph, planes[1], shape);
        let minima = per_block(graph, planes[2], shape);
        graph.map(ScalarOp::Fma, &[quants, scales, minima])
    },
    unpack: |block, planes| {
        planes[1].copy_from_slice(&block[..2]);
        planes[2].copy_from_slice(&block[2..4]);
        nibbles(&block[4..20], planes[0]);
    },
};

/// The word of a plane that holds each number, `per_word` numbers in a word.
fn words(graph: &mut Graph, plane: Node, shape: &[Expr], per_word: i64) -> Node {
    let last = shape.len() - 1;
    graph.view(plane, shape, &[], |c| {
        let mut at = c.axes().to_vec();
        at[last] = c.axis(last).div_floor(per_word);
        at
    })
}

fn ints(graph: &mut Graph, value: i64, shape: &[Expr]) -> Node {
    crate::build::splat_scalar(graph, DType::U32, Scalar::Int(value), shape)
}

/// Signed numbers, one in the upper bits of each byte of `words`, times their scales. At the top of a word
/// each is `2^exponent` times too large.
fn signed(graph: &mut Graph, words: Node, scales: Node, exponent: u8, shape: &[Expr]) -> Node {
    let last = shape.len() - 1;
    let place = graph.index(DType::U32, shape, &[], |c| Expr::int(24) - c.axis(last).modulo(4) * 8);
    let top = ints(graph, 0xFF00_0000, shape);
    let shifted = graph.map(ScalarOp::Shl, &[words, place]);
    let number = graph.map(ScalarOp::And, &[shifted, top]);
    let number = graph.map(ScalarOp::Bitcast(DType::I32), &[number]);
    let number = graph.map(ScalarOp::Cast(DType::F32), &[number]);
    let scales = per_block(graph, scales, shape);
    let power = splat(graph, (-f32::from(exponent)).exp2(), shape);
    let scales = graph.map(ScalarOp::Mul, &[scales, power]);
    graph.map(ScalarOp::Mul, &[number, scales])
}

/// Unsigned numbers of 4 bits in a plane of words, as `f32`: first the word with one number in each byte
/// (shared by four neighbours), then the byte.
fn unsigned(graph: &mut Graph, plane: Node, shape: &[Expr]) -> Node {
    let last = shape.len() - 1;
    let words = words(graph, plane, shape, 8);
    let half = graph.index(DType::U32, shape, &[], |c| c.axis(last).div_floor(4).modulo(2) * 4);
    let mask = ints(graph, 0x0F0F_0F0F, shape);
    let shifted = graph.map(ScalarOp::Shr, &[words, half]);
    let bytes = graph.map(ScalarOp::And, &[shifted, mask]);
    let place = graph.index(DType::U32, shape, &[], |c| c.axis(last).modulo(4) * 8);
    let mask = ints(graph, 0xFF, shape);
    let shifted = graph.map(ScalarOp::Shr, &[bytes, place]);
    let number = graph.map(ScalarOp::And, &[shifted, mask]);
    graph.map(ScalarOp::Cast(DType::F32), &[number])
}

/// A plane with one half-precision number a block of 32, as `f32` at each number's place.
fn per_block(graph: &mut Graph, plane: Node, shape: &[Expr]) -> Node {
    let last = shape.len() - 1;
    let plane = graph.view(plane, shape, &[], |c| {
        let mut at = c.axes().to_vec();
        at[last] = c.axis(last).div_floor(32);
        at
    });
    graph.map(ScalarOp::Cast(DType::F32), &[plane])
}

/// From 16 bytes with numbers `k` and `k + 16` in one byte to four words of our order.
fn nibbles(bytes: &[u8], words: &mut [u8]) {
    let number = |k: usize| if k < 16 { bytes[k] & 15 } else { bytes[k - 16] >> 4 };
    for (at, byte) in words.iter_mut().enumerate() {
        let first = at / 4 * 8 + at % 4;
        *byte = number(first) | number(first + 4) << 4;
    }
}
