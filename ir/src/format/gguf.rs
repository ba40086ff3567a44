//! The formats of GGUF files whose blocks have 32 numbers and one scale (ggml's `ggml-common.h`); those with
//! blocks of 256 stand in [`super_blocks`].
//!
//! All of them take as many bits in memory as in the file.

use super::words::{self, element, float, int, join, lookup, quads, scaled, signed, unsigned};
use super::{Format, Plane};
use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Graph, Node};
use crate::scalar::{ScalarOp, Table};

pub(super) mod super_blocks;

/// Words of numbers of 8, 4, 2 and 1 bit.
const QUANTS_8: Plane = Plane { suffix: "q", dtype: DType::U32, span: 4 };
const QUANTS_4: Plane = Plane { suffix: "q", dtype: DType::U32, span: 8 };
const QUANTS_2: Plane = Plane { suffix: "q", dtype: DType::U32, span: 16 };
/// Words of the numbers' upper bits, where a number's bits do not divide a byte.
const UPPER_2: Plane = Plane { suffix: "h", dtype: DType::U32, span: 16 };
const UPPER_1: Plane = Plane { suffix: "h", dtype: DType::U32, span: 32 };
const SCALES: Plane = Plane { suffix: "s", dtype: DType::F16, span: 32 };
const MINIMA: Plane = Plane { suffix: "m", dtype: DType::F16, span: 32 };

/// `scale * q`, `q` a signed byte.
pub(super) static Q8_0: Format = Format {
    name: "q8_0",
    block: 32,
    block_bytes: 34,
    planes: &[QUANTS_8, SCALES],
    decode: |graph, planes, shape| {
        let words = element(graph, planes[0], shape, 4);
        let number = signed(graph, words, shape);
        let scale = float(graph, planes[1], shape, 32);
        scaled(graph, number, scale, 24, shape)
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
        let words = element(graph, planes[0], shape, 8);
        // Each byte's upper half: the lower halves' numbers move there.
        let half = graph.index(DType::U32, shape, &[], |c| {
            Expr::int(4) - c.axis(c.axes().len() - 1).div_floor(4).modulo(2) * 4
        });
        let upper = int(graph, 0xF0F0_F0F0, shape);
        let words = graph.map(ScalarOp::Shl, &[words, half]);
        let words = graph.map(ScalarOp::And, &[words, upper]);
        let number = signed(graph, words, shape);
        let scale = float(graph, planes[1], shape, 32);
        scaled(graph, number, scale, 28, shape)
    },
    unpack: |block, planes| {
        planes[1].copy_from_slice(&block[..2]);
        words::write(planes[0], 4, |k| nibble(&block[2..], k) ^ 8);
    },
};

/// `scale * q + minimum`, `q` in `0..16`.
pub(super) static Q4_1: Format = Format {
    name: "q4_1",
    block: 32,
    block_bytes: 20,
    planes: &[QUANTS_4, SCALES, MINIMA],
    decode: |graph, planes, shape| {
        let quads = quads(graph, planes[0], shape, 4);
        let number = unsigned(graph, quads, shape);
        let scale = float(graph, planes[1], shape, 32);
        let minimum = float(graph, planes[2], shape, 32);
        graph.map(ScalarOp::Fma, &[number, scale, minimum])
    },
    unpack: |block, planes| {
        planes[1].copy_from_slice(&block[..2]);
        planes[2].copy_from_slice(&block[2..4]);
        words::write(planes[0], 4, |k| nibble(&block[4..], k));
    },
};

/// `scale * (q - 16)`, `q` in `0..32`; kept as the signed number `q - 16`, whose sign is the upper plane.
pub(super) static Q5_0: Format = Format {
    name: "q5_0",
    block: 32,
    block_bytes: 22,
    planes: &[QUANTS_4, UPPER_1, SCALES],
    decode: |graph, planes, shape| {
        let (low, sign) = (quads(graph, planes[0], shape, 4), quads(graph, planes[1], shape, 1));
        let words = join(graph, low, sign, 4, 3, shape);
        let number = signed(graph, words, shape);
        let scale = float(graph, planes[2], shape, 32);
        scaled(graph, number, scale, 27, shape)
    },
    unpack: |block, planes| {
        planes[2].copy_from_slice(&block[..2]);
        words::write(planes[1], 1, |k| !bit(&block[2..], k));
        words::write(planes[0], 4, |k| nibble(&block[6..], k));
    },
};

/// `scale * q + minimum`, `q` in `0..32`.
pub(super) static Q5_1: Format = Format {
    name: "q5_1",
    block: 32,
    block_bytes: 24,
    planes: &[QUANTS_4, UPPER_1, SCALES, MINIMA],
    decode: |graph, planes, shape| {
        let (low, high) = (quads(graph, planes[0], shape, 4), quads(graph, planes[1], shape, 1));
        let quads = join(graph, low, high, 4, 0, shape);
        let number = unsigned(graph, quads, shape);
        let scale = float(graph, planes[2], shape, 32);
        let minimum = float(graph, planes[3], shape, 32);
        graph.map(ScalarOp::Fma, &[number, scale, minimum])
    },
    unpack: |block, planes| {
        planes[2].copy_from_slice(&block[..2]);
        planes[3].copy_from_slice(&block[2..4]);
        words::write(planes[1], 1, |k| bit(&block[4..], k));
        words::write(planes[0], 4, |k| nibble(&block[8..], k));
    },
};

/// `scale * table[q]`, `q` in `0..16`: see [`codebook`].
pub(super) static IQ4_NL: Format = Format {
    name: "iq4_nl",
    block: 32,
    block_bytes: 18,
    planes: &[QUANTS_4, SCALES],
    decode: |graph, planes, shape| {
        let number = codebook(graph, planes[0], shape);
        let scale = float(graph, planes[1], shape, 32);
        scaled(graph, number, scale, 24, shape)
    },
    unpack: |block, planes| {
        planes[1].copy_from_slice(&block[..2]);
        words::write(planes[0], 4, |k| nibble(&block[2..], k));
    },
};

/// ggml's table of 16: the bytes of -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.
const CODEBOOK: Table = [0x81, 0x98, 0xad, 0xbf, 0xcf, 0xdd, 0xea, 0xf6, 1, 13, 25, 38, 53, 69, 89, 113];

/// The number that each place of a plane of four bits stands for in ggml's table, times `2^24`.
fn codebook(graph: &mut Graph, plane: Node, shape: &[Expr]) -> Node {
    let quads = quads(graph, plane, shape, 4);
    let words = lookup(graph, quads, CODEBOOK);
    signed(graph, words, shape)
}

/// Number `k` of 32 that lie in 16 bytes, `k` and `k + 16` in one.
fn nibble(bytes: &[u8], k: usize) -> u8 {
    bytes[k % 16] >> (k / 16 * 4) & 15
}

fn bit(bytes: &[u8], k: usize) -> u8 {
    bytes[k / 8] >> (k % 8) & 1
}
