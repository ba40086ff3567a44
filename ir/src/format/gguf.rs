//! The simple block formats of GGUF files: 32 numbers share a scale (ggml's `ggml-common.h`).
//!
//! A word of the quants' plane holds neighbouring numbers in its bytes, so that an integer path can take
//! four at once: number `k` of an 8-bit row is byte `k mod 4` of word `k div 4`; a 4-bit word holds
//! `k..k+3` in the low and `k+4..k+7` in the high halves of its four bytes.

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

/// `scale * q`, `q` a signed byte; kept as `q + 128`.
pub(super) static Q8_0: Format = Format {
    name: "q8_0",
    block: 32,
    block_bytes: 34,
    planes: &[QUANTS_8, SCALES],
    decode: |graph, planes, shape| {
        let quants = numbers(graph, planes[0], shape, 8);
        let offset = splat(graph, 128.0, shape);
        let quants = graph.map(ScalarOp::Sub, &[quants, offset]);
        let scales = per_block(graph, planes[1], shape);
        graph.map(ScalarOp::Mul, &[quants, scales])
    },
    unpack: |block, planes| {
        planes[1].copy_from_slice(&block[..2]);
        for (to, from) in planes[0].iter_mut().zip(&block[2..]) {
            *to = from ^ 0x80;
        }
    },
};

/// `scale * (q - 8)`, `q` in `0..16`.
pub(super) static Q4_0: Format = Format {
    name: "q4_0",
    block: 32,
    block_bytes: 18,
    planes: &[QUANTS_4, SCALES],
    decode: |graph, planes, shape| {
        let quants = numbers(graph, planes[0], shape, 4);
        let offset = splat(graph, 8.0, shape);
        let quants = graph.map(ScalarOp::Sub, &[quants, offset]);
        let scales = per_block(graph, planes[1], shape);
        graph.map(ScalarOp::Mul, &[quants, scales])
    },
    unpack: |block, planes| {
        planes[1].copy_from_slice(&block[..2]);
        nibbles(&block[2..18], planes[0]);
    },
};

/// `scale * q + minimum`, `q` in `0..16`.
pub(super) static Q4_1: Format = Format {
    name: "q4_1",
    block: 32,
    block_bytes: 20,
    planes: &[QUANTS_4, SCALES, MINIMA],
    decode: |graph, planes, shape| {
        let quants = numbers(graph, planes[0], shape, 4);
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

/// The unsigned numbers of `bits` bits each (4 or 8) in a plane of words, as `f32`: first the word with one
/// number in each byte (shared by four neighbours), then the byte.
fn numbers(graph: &mut Graph, words: Node, shape: &[Expr], bits: i64) -> Node {
    let last = shape.len() - 1;
    let per_word = 32 / bits;
    let words = graph.view(words, shape, &[], |c| {
        let mut at = c.axes().to_vec();
        at[last] = c.axis(last).div_floor(per_word);
        at
    });
    let splat = |graph: &mut Graph, value: i64| {
        crate::build::splat_scalar(graph, DType::U32, Scalar::Int(value), shape)
    };
    let bytes = if bits == 8 {
        words
    } else {
        let half = graph.index(DType::U32, shape, &[], |c| c.axis(last).div_floor(4).modulo(2) * 4);
        let mask = splat(graph, 0x0F0F_0F0F);
        let shifted = graph.map(ScalarOp::Shr, &[words, half]);
        graph.map(ScalarOp::And, &[shifted, mask])
    };
    let place = graph.index(DType::U32, shape, &[], |c| c.axis(last).modulo(4) * 8);
    let mask = splat(graph, 0xFF);
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
