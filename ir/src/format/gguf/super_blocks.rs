//! The formats of GGUF files whose blocks have 256 numbers: one half-precision scale for all, and small
//! integers that multiply it for each 16 or 32 (ggml's k-quants, and IQ4_XS).
//!
//! The small integers have a byte each in memory, where files pack some of them in 6 bits: half a bit in ten
//! more to read, and nothing to shift.
//!
//! | format | bits a number in the file | in memory |
//! |---|---|---|
//! | q2_k | 2.625 | 2.625 |
//! | q3_k | 3.4375 | 3.5625 |
//! | q4_k | 4.5 | 4.625 |
//! | q5_k | 5.5 | 5.625 |
//! | q6_k | 6.5625 | 6.5625 |
//! | iq4_xs | 4.25 | 4.3125 |

use super::super::words::{self, element, float, int, join, quads, scaled, signed, unsigned};
use super::super::{Format, Plane};
use super::{QUANTS_2, QUANTS_4, UPPER_1, UPPER_2, codebook, nibble};
use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Graph, Node};
use crate::scalar::ScalarOp;

/// Small integers that multiply the block's scale, and those that multiply the block's minimum.
const SIGNED_16: Plane = Plane { suffix: "s", dtype: DType::I8, span: 16 };
const SIGNED_32: Plane = Plane { suffix: "s", dtype: DType::I8, span: 32 };
const SCALES_32: Plane = Plane { suffix: "s", dtype: DType::U8, span: 32 };
const MINIMA_32: Plane = Plane { suffix: "m", dtype: DType::U8, span: 32 };
/// Both in one byte: the scale's below, the minimum's above.
const PAIRS_16: Plane = Plane { suffix: "s", dtype: DType::U8, span: 16 };
/// The block's scale and minimum.
const SCALE: Plane = Plane { suffix: "d", dtype: DType::F16, span: 256 };
const MINIMUM: Plane = Plane { suffix: "n", dtype: DType::F16, span: 256 };

/// `scale * s * q - minimum * m`, `q` in `0..4`, `s` and `m` in `0..16` for each 16.
pub(in crate::format) static Q2_K: Format = Format {
    name: "q2_k",
    block: 256,
    block_bytes: 84,
    planes: &[QUANTS_2, PAIRS_16, SCALE, MINIMUM],
    decode: |graph, planes, shape| {
        let quads = quads(graph, planes[0], shape, 2);
        let number = unsigned(graph, quads, shape);
        let pair = element(graph, planes[1], shape, 16);
        let pair = graph.map(ScalarOp::Cast(DType::U32), &[pair]);
        let (mask, four) = (int(graph, 15, shape), int(graph, 4, shape));
        let scale = graph.map(ScalarOp::And, &[pair, mask]);
        let scale = graph.map(ScalarOp::Cast(DType::F32), &[scale]);
        let minimum = graph.map(ScalarOp::Shr, &[pair, four]);
        let minimum = graph.map(ScalarOp::Cast(DType::F32), &[minimum]);
        above_minimum(graph, number, [scale, minimum], [planes[2], planes[3]], shape)
    },
    unpack: |block, planes| {
        planes[1].copy_from_slice(&block[..16]);
        words::write(planes[0], 2, |k| two_bits(&block[16..80], k));
        planes[2].copy_from_slice(&block[80..82]);
        planes[3].copy_from_slice(&block[82..]);
    },
};

/// `scale * s * q`, `q` in `-4..4`, `s` in `-32..32` for each 16. The numbers' sign is the upper plane.
pub(in crate::format) static Q3_K: Format = Format {
    name: "q3_k",
    block: 256,
    block_bytes: 110,
    planes: &[QUANTS_2, UPPER_1, SIGNED_16, SCALE],
    decode: |graph, planes, shape| {
        let (low, sign) = (quads(graph, planes[0], shape, 2), quads(graph, planes[1], shape, 1));
        let words = join(graph, low, sign, 2, 5, shape);
        let number = signed(graph, words, shape);
        scaled_twice(graph, number, (planes[2], 16), planes[3], 29, shape)
    },
    unpack: |block, planes| {
        words::write(planes[1], 1, |k| !(block[k % 32] >> (k / 32)));
        words::write(planes[0], 2, |k| two_bits(&block[32..96], k));
        let scales = &block[96..108];
        for (i, scale) in planes[2].iter_mut().enumerate() {
            let low = scales[i % 8] >> (i / 8 * 4) & 15;
            let high = scales[8 + i % 4] >> (i / 4 * 2) & 3;
            *scale = (low | high << 4).wrapping_sub(32);
        }
        planes[3].copy_from_slice(&block[108..]);
    },
};

/// `scale * s * q - minimum * m`, `q` in `0..16`, `s` and `m` in `0..64` for each 32.
pub(in crate::format) static Q4_K: Format = Format {
    name: "q4_k",
    block: 256,
    block_bytes: 144,
    planes: &[QUANTS_4, SCALES_32, MINIMA_32, SCALE, MINIMUM],
    decode: |graph, planes, shape| {
        let quads = quads(graph, planes[0], shape, 4);
        let number = unsigned(graph, quads, shape);
        let steps = [1, 2].map(|plane| float(graph, planes[plane], shape, 32));
        above_minimum(graph, number, steps, [planes[3], planes[4]], shape)
    },
    unpack: |block, planes| {
        planes[3].copy_from_slice(&block[..2]);
        planes[4].copy_from_slice(&block[2..4]);
        let steps = six_bits(&block[4..16]);
        planes[1].copy_from_slice(&steps.map(|(scale, _)| scale));
        planes[2].copy_from_slice(&steps.map(|(_, minimum)| minimum));
        words::write(planes[0], 4, |k| half_bytes(&block[16..], k));
    },
};

/// `scale * s * q - minimum * m`, `q` in `0..32`, `s` and `m` in `0..64` for each 32.
pub(in crate::format) static Q5_K: Format = Format {
    name: "q5_k",
    block: 256,
    block_bytes: 176,
    planes: &[QUANTS_4, UPPER_1, SCALES_32, MINIMA_32, SCALE, MINIMUM],
    decode: |graph, planes, shape| {
        let (low, high) = (quads(graph, planes[0], shape, 4), quads(graph, planes[1], shape, 1));
        let quads = join(graph, low, high, 4, 0, shape);
        let number = unsigned(graph, quads, shape);
        let steps = [2, 3].map(|plane| float(graph, planes[plane], shape, 32));
        above_minimum(graph, number, steps, [planes[4], planes[5]], shape)
    },
    unpack: |block, planes| {
        planes[4].copy_from_slice(&block[..2]);
        planes[5].copy_from_slice(&block[2..4]);
        let steps = six_bits(&block[4..16]);
        planes[2].copy_from_slice(&steps.map(|(scale, _)| scale));
        planes[3].copy_from_slice(&steps.map(|(_, minimum)| minimum));
        words::write(planes[1], 1, |k| block[16 + k % 32] >> (k / 32));
        words::write(planes[0], 4, |k| half_bytes(&block[48..], k));
    },
};

/// `scale * s * q`, `q` in `-32..32`, `s` a signed byte for each 16. The upper plane has the numbers' upper two
/// bits.
pub(in crate::format) static Q6_K: Format = Format {
    name: "q6_k",
    block: 256,
    block_bytes: 210,
    planes: &[QUANTS_4, UPPER_2, SIGNED_16, SCALE],
    decode: |graph, planes, shape| {
        let (low, high) = (quads(graph, planes[0], shape, 4), quads(graph, planes[1], shape, 2));
        let words = join(graph, low, high, 4, 2, shape);
        let number = signed(graph, words, shape);
        scaled_twice(graph, number, (planes[2], 16), planes[3], 26, shape)
    },
    unpack: |block, planes| {
        let (low, high) = block.split_at(128);
        words::write(planes[0], 4, |k| low[k / 128 * 64 + k % 64] >> (k / 64 % 2 * 4));
        words::write(planes[1], 2, |k| two_bits(&high[..64], k) ^ 2);
        planes[2].copy_from_slice(&high[64..80]);
        planes[3].copy_from_slice(&high[80..]);
    },
};

/// `scale * s * table[q]`, `q` in `0..16`, `s` in `-32..32` for each 32: see [`codebook`].
pub(in crate::format) static IQ4_XS: Format = Format {
    name: "iq4_xs",
    block: 256,
    block_bytes: 136,
    planes: &[QUANTS_4, SIGNED_32, SCALE],
    decode: |graph, planes, shape| {
        let number = codebook(graph, planes[0], shape);
        scaled_twice(graph, number, (planes[1], 32), planes[2], 24, shape)
    },
    unpack: |block, planes| {
        planes[2].copy_from_slice(&block[..2]);
        let high = u16::from_le_bytes([block[2], block[3]]);
        for (i, scale) in planes[1].iter_mut().enumerate() {
            let low = block[4 + i / 2] >> (i % 2 * 4) & 15;
            *scale = (low | ((high >> (2 * i) & 3) as u8) << 4).wrapping_sub(32);
        }
        words::write(planes[0], 4, |k| nibble(&block[8 + k / 32 * 16..], k % 32));
    },
};

/// `number * 2^-exponent * step * scale`, with `steps` a plane of small integers and its span.
fn scaled_twice(
    graph: &mut Graph,
    number: Node,
    steps: (Node, i64),
    scale: Node,
    exponent: u8,
    shape: &[Expr],
) -> Node {
    let step = float(graph, steps.0, shape, steps.1);
    let scale = float(graph, scale, shape, 256);
    let scale = graph.map(ScalarOp::Mul, &[scale, step]);
    scaled(graph, number, scale, exponent, shape)
}

/// `scale * step * number - minimum * other step`. Both products are exact, so the result is rounded once.
fn above_minimum(
    graph: &mut Graph,
    number: Node,
    steps: [Node; 2],
    planes: [Node; 2],
    shape: &[Expr],
) -> Node {
    let scale = float(graph, planes[0], shape, 256);
    let scale = graph.map(ScalarOp::Mul, &[scale, steps[0]]);
    let minimum = float(graph, planes[1], shape, 256);
    let minimum = graph.map(ScalarOp::Mul, &[minimum, steps[1]]);
    let minimum = graph.map(ScalarOp::Neg, &[minimum]);
    graph.map(ScalarOp::Fma, &[number, scale, minimum])
}

/// Number `k` of 256 that lie in 64 bytes: of each 128, those 32 apart share a byte.
fn two_bits(bytes: &[u8], k: usize) -> u8 {
    bytes[k / 128 * 32 + k % 32] >> (k / 32 % 4 * 2) & 3
}

/// Number `k` of 256 that lie in 128 bytes: of each 64, those 32 apart share a byte.
fn half_bytes(bytes: &[u8], k: usize) -> u8 {
    bytes[k / 64 * 32 + k % 32] >> (k / 32 % 2 * 4) & 15
}

/// Eight scales and minima of six bits each, in twelve bytes.
fn six_bits(bytes: &[u8]) -> [(u8, u8); 8] {
    std::array::from_fn(|i| match i {
        0..4 => (bytes[i] & 63, bytes[i + 4] & 63),
        _ => {
            let rest = bytes[i + 4];
            (rest & 15 | bytes[i - 4] >> 6 << 4, rest >> 4 | bytes[i] >> 6 << 4)
        }
    })
}
