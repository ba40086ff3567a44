//! Graph interpreter against compiled kernels on the loop-IR interpreter, for every caps.
#![allow(clippy::unwrap_used)]

mod common;

use common::attend::Places;
use common::case::{Case, int, rows};
use common::compiled;
use jtllm_codegen::target::Caps;
use jtllm_ir::DType;
use jtllm_ir::build::{
    self, Pairing, Rope, RopeScaling, linear, linear_heads, rms_norm, rotary_table, rotate, swiglu,
};
use jtllm_ir::format::{FORMATS, Format};

/// Exponentials of scores around 10, whose own rounding they magnify.
const ATTENTION_TOLERANCE: f32 = 1e-5;

#[test]
fn linear_layers_of_every_format() {
    for format in FORMATS {
        for (tokens, width, depth) in [(1, 48, 64), (1, 37, 96), (4, 48, 64), (16, 20, 32), (48, 37, 64)] {
            let depth = depth * (format.block / 32).max(1);
            let mut case = Case::new(&format!("linear {} {tokens}x{width}x{depth}", format.name));
            let t = rows(&mut case.graph, &mut case.bindings, tokens);
            let x = case.input("x", &[t.clone(), int(depth)], &[tokens, depth]);
            let residual = case.input("r", &[t, int(width)], &[tokens, width]);
            let w = case.weight(format, "w", &[width, depth]);
            let bias = case.weight(Format::find("f32").unwrap(), "b", &[width]);
            let y = linear(&mut case.graph, x, w, Some(bias));
            let y = build::add(&mut case.graph, y, residual);
            case.graph.output("y", y);
            assert_eq!(
                compiled(&case.graph, &Caps::vector(4)).steps.len(),
                1,
                "bias and residual are epilogues"
            );
            case.check();
        }
    }
}

/// Long enough for all lanes to take 16 bytes, with blocks whole and a rest that is not.
#[test]
fn linear_layers_of_long_rows() {
    for format in ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q6_k", "q2_k"] {
        for (tokens, depth) in [(1, 1024), (1, 1536), (4, 2048)] {
            let mut case = Case::new(&format!("long rows {format} {tokens}x{depth}"));
            let x = case.input("x", &[int(tokens), int(depth)], &[tokens, depth]);
            let w = case.weight(Format::find(format).unwrap(), "w", &[9, depth]);
            let y = linear(&mut case.graph, x, w, None);
            case.graph.output("y", y);
            case.check();
        }
    }
}

#[test]
fn odd_depths_have_tails() {
    for depth in [1, 3, 5, 172, 173] {
        let mut case = Case::new(&format!("tail {depth}"));
        let x = case.input("x", &[int(1), int(depth)], &[1, depth]);
        let w = case.weight(Format::find("bf16").unwrap(), "w", &[19, depth]);
        let y = linear(&mut case.graph, x, w, None);
        case.graph.output("y", y);
        case.check();
    }
}

#[test]
fn gate_and_up_share_a_kernel() {
    for format in ["f16", "q4_0", "q8_0", "q4_1"] {
        for tokens in [1, 2, 32] {
            let mut case = Case::new(&format!("swiglu {format} {tokens}"));
            let format = Format::find(format).unwrap();
            let t = rows(&mut case.graph, &mut case.bindings, tokens);
            let x = case.input("x", &[t, int(64)], &[tokens, 64]);
            let gate = case.weight(format, "gate", &[96, 64]);
            let up = case.weight(format, "up", &[96, 64]);
            let gate = linear(&mut case.graph, x, gate, None);
            let up = linear(&mut case.graph, x, up, None);
            let y = swiglu(&mut case.graph, gate, up);
            case.graph.output("y", y);
            assert_eq!(compiled(&case.graph, &Caps::vector(4)).steps.len(), 1);
            case.check();
        }
    }
}

#[test]
fn norms_are_one_kernel() {
    for (tokens, width) in [(1, 64), (3, 100), (32, 576)] {
        let mut case = Case::new(&format!("norm {tokens}x{width}"));
        let t = rows(&mut case.graph, &mut case.bindings, tokens);
        let x = case.input("x", &[t, int(width)], &[tokens, width]);
        let w = case.weight(Format::find("f32").unwrap(), "w", &[width]);
        let y = rms_norm(&mut case.graph, x, w, 1e-5);
        case.graph.output("y", y);
        assert_eq!(compiled(&case.graph, &Caps::vector(4)).steps.len(), 1);
        case.check();
    }
}

/// A layer's attention with rotation, ragged sequences and pages out of order.
fn attention_case(name: &str, tokens: usize, keys: DType, window: Option<i64>, pairing: Pairing) -> Case {
    let mut case = Case::new(name);
    // A key on the border between two half-precision numbers may fall either way.
    case.tolerance = if keys == DType::F32 { ATTENTION_TOLERANCE } else { 1e-3 };
    let (heads, key_heads, width) = (4usize, 2usize, 24usize);
    let t = rows(&mut case.graph, &mut case.bindings, tokens);
    let places = Places::new(&mut case, &t, tokens);
    let [q, k, v] = [("q", heads), ("k", key_heads), ("v", key_heads)].map(|(name, heads)| {
        let x = case.input(&format!("x{name}"), &[t.clone(), int(32)], &[tokens, 32]);
        let w = case.weight(Format::find("q8_0").unwrap(), name, &[heads * width, 32]);
        linear_heads(&mut case.graph, x, w, None, [heads as i64, width as i64])
    });
    let rope = Rope { width: 16, base: 10000.0, pairing, scaling: RopeScaling::None };
    let rotation = rotary_table(&mut case.graph, &rope, places.position, None);
    let q = rotate(&mut case.graph, q, rotation, &rope);
    let k = rotate(&mut case.graph, k, rotation, &rope);
    let y = places.attend(&mut case, [q, k, v], keys, window);
    case.graph.output("y", y);
    case
}

#[test]
fn attention_of_decode_and_chunks() {
    attention_case("decode 1", 1, DType::F32, None, Pairing::HalfSplit).check();
    attention_case("decode 2 f16", 2, DType::F16, None, Pairing::Interleaved).check();
    attention_case("decode 16", 16, DType::F32, Some(9), Pairing::HalfSplit).check();
    attention_case("chunk", 48, DType::F32, None, Pairing::HalfSplit).check();
    attention_case("chunk window bf16", 32, DType::BF16, Some(20), Pairing::Interleaved).check();
}

#[test]
fn an_attention_layer_is_few_kernels() {
    let case = attention_case("decode 1", 1, DType::F32, None, Pairing::HalfSplit);
    let compilation = compiled(&case.graph, &Caps::vector(4));
    let names: Vec<&str> = compilation.partition.regions.iter().map(|r| r.work.name()).collect();
    // cos, sin, q, k, v (with its write), turned q, turned k (with its write), attention.
    assert_eq!(names.len(), 8, "{names:?}");
}

#[test]
fn packed_tables_are_gathered_by_row() {
    for format in FORMATS {
        let mut case = Case::new(&format!("embedding {}", format.name));
        let width = format.block.max(64);
        let table = case.weight(format, "table", &[50, width]);
        let ids = case.ints("ids", &[int(3)], &[3], (0, int(50)), vec![7, 0, 49]);
        let shape = [int(3), int(width)];
        let rows = case.graph.view(table, &shape, &[ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
        case.graph.output("rows", rows);
        let compilation = compiled(&case.graph, &Caps::vector(4));
        assert_eq!(compilation.gathers.len(), format.planes.len());
        assert!(
            !compilation
                .graph
                .nodes()
                .any(|n| matches!(compilation.graph.op(n), jtllm_ir::Op::Weight { .. }))
        );
        case.check();
    }
}

#[test]
fn a_packed_embedding_feeds_a_norm_and_a_product() {
    let mut case = Case::new("embedding, norm, product");
    let format = Format::find("q8_0").unwrap();
    let table = case.weight(format, "table", &[50, 64]);
    let ids = case.ints("ids", &[int(2)], &[2], (0, int(50)), vec![7, 49]);
    let x = case.graph.view(table, &[int(2), int(64)], &[ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
    let weight = case.weight(Format::find("f32").unwrap(), "norm", &[64]);
    let normal = rms_norm(&mut case.graph, x, weight, 1e-5);
    let w = case.weight(format, "w", &[64, 64]);
    let y = linear(&mut case.graph, normal, w, None);
    let y = build::add(&mut case.graph, y, x);
    case.graph.output("y", y);
    let compilation = compiled(&case.graph, &Caps::vector(4));
    let names: Vec<&str> = compilation.partition.regions.iter().map(|r| r.work.name()).collect();
    assert_eq!(names, ["pointwise", "rows", "gemv"]);
    case.check();
}
