//! Graph interpreter against compiled kernels on the loop-IR interpreter, for every caps.
#![allow(clippy::unwrap_used)]

mod common;

use common::case::Case;
use common::works::*;
use common::{compiled, run, works};
use jtllm_codegen::target::Caps;
use jtllm_ir::build::Pairing;
use jtllm_ir::format::FORMATS;
use jtllm_ir::{DType, Op, Tensor};

/// How many kernels a case takes, by the names of their work.
fn names(case: &Case) -> Vec<&'static str> {
    compiled(&case.graph, &Caps::vector(4)).partition.regions.iter().map(|r| r.work.name()).collect()
}

#[test]
fn every_work() {
    works::cases().into_iter().for_each(Case::check);
}

#[test]
fn bias_and_residual_are_epilogues() {
    for format in FORMATS {
        let depth = 64 * (format.block / 32).max(1);
        assert_eq!(names(&linear_case(format, [1, 48, depth])).len(), 1, "{}", format.name);
    }
}

#[test]
fn gate_and_up_share_a_kernel() {
    assert_eq!(names(&gate_and_up("q4_0", 1)).len(), 1);
    assert_eq!(names(&gate_and_up("f16", 32)).len(), 1);
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_many() {
    for format in ["f32", "f16", "bf16"] {
        let weights = deep(format, 1).bindings.weights;
        let rows = |tokens: usize| {
            let mut case = deep(format, tokens);
            case.bindings.weights.clone_from(&weights);
            for (name, width) in [("x", 1500), ("r", 37)] {
                let row: Vec<f32> = (0..width).map(|k| ((k * 37 % 101) as f32 - 50.0) / 64.0).collect();
                let tensor = Tensor::floats(DType::F32, &[tokens, width], row.repeat(tokens));
                case.bindings.inputs.insert(name.to_owned(), tensor);
            }
            case
        };
        for lanes in [4, 8, 16] {
            let outputs = |case: Case| {
                let caps = Caps::vector(lanes);
                run(&compiled(&case.graph, &caps), &caps, &mut case.bindings.clone())["y"].clone()
            };
            let [alone, few, many] = [1, 4, 48].map(|tokens| outputs(rows(tokens)));
            for found in few.chunks(37).chain(many.chunks(37)) {
                assert!(alone.iter().zip(found).all(|(a, b)| a.to_bits() == b.to_bits()), "{lanes} lanes");
            }
        }
    }
}

#[test]
fn norms_are_one_kernel() {
    assert_eq!(names(&norm(3, 100)).len(), 1);
}

#[test]
fn an_attention_layer_is_few_kernels() {
    let names = names(&attention("decode 1", 1, DType::F32, None, Pairing::HalfSplit));
    // cos, sin, q, k, v (with its write), turned q, turned k (with its write), attention.
    assert_eq!(names.len(), 8, "{names:?}");
}

#[test]
fn packed_tables_are_gathered_by_row() {
    for format in FORMATS {
        let compilation = compiled(&gathered(format).graph, &Caps::vector(4));
        assert_eq!(compilation.gathers.len(), format.planes.len());
        let is_weight = |node| matches!(compilation.graph.op(node), Op::Weight { .. });
        assert!(!compilation.graph.nodes().any(is_weight));
    }
}

#[test]
fn a_packed_embedding_feeds_a_norm_and_a_product() {
    assert_eq!(names(&embedded()), ["pointwise", "rows", "gemv"]);
}

/// A matrix that a binding cannot hold is read in parts, by as many launches.
#[test]
fn wide_matrices_are_bound_in_parts() {
    let caps = Caps { max_span: 512 << 10, ..Caps::threads(32) };
    for (format, tokens, parts) in [("f32", 1, 3), ("q8_0", 2, 1), ("bf16", 32, 2)] {
        let case = wide(format, tokens);
        let compilation = compiled(&case.graph, &caps);
        assert_eq!(compilation.steps.len(), parts, "{format}");
        case.check_for("narrow bindings", &caps);
    }
}
