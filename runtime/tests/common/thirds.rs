//! A number format that nobody has: a [`Format`] value and nothing else. Tests and benches use it from outside of the
//! workspace's crates.

use jtllm_runtime::ir::format::{Plane, words};
use jtllm_runtime::ir::{DType, Format, ScalarOp};

/// `q / scale`, `q` in `0..8`: 64 numbers of three bits in 24 bytes, one after another, and a byte of scale.
pub(crate) static THIRDS: Format = Format {
    name: "thirds",
    block: 64,
    block_bytes: 25,
    planes: &[
        Plane { suffix: "low", dtype: DType::U32, span: 16 },
        Plane { suffix: "high", dtype: DType::U32, span: 32 },
        Plane { suffix: "scale", dtype: DType::U8, span: 64 },
    ],
    decode: |graph, planes, shape| {
        let low = words::quads(graph, planes[0], shape, 2);
        let high = words::quads(graph, planes[1], shape, 1);
        let quads = words::join(graph, low, high, 2, 0, shape);
        let number = words::unsigned(graph, quads, shape);
        let scale = words::float(graph, planes[2], shape, 64);
        graph.map(ScalarOp::Div, &[number, scale])
    },
    unpack: |block, planes| {
        words::write(planes[0], 2, |k| number(block, k) & 3);
        words::write(planes[1], 1, |k| number(block, k) >> 2);
        planes[2][0] = block[24];
    },
};

/// The number at a place of a block.
pub(crate) fn number(block: &[u8], k: usize) -> u8 {
    (0..3).map(|bit| (block[(3 * k + bit) / 8] >> ((3 * k + bit) % 8) & 1) << bit).sum()
}
