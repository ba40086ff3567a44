//! Products of bytes: kernels on the loop-IR interpreter against the graph that they were made from, and that graph
//! against the one in floats.
#![allow(clippy::unwrap_used)]

mod common;

use common::case::Case;
use common::works::{gate_and_up, linear_case};
use common::{all_caps, compiled_as, difference, run};
use jtllm_codegen::Compilation;
use jtllm_codegen::count::Count;
use jtllm_codegen::kernel::Value;
use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::target::Caps;
use jtllm_ir::format::{APART, FORMATS, Format};
use jtllm_ir::{DType, ScalarOp, Tensor};

/// Sums of a few hundred products in another order.
const ORDER: f32 = 5e-6;
/// Activations of 7 bits and a sign, in sums whose terms cancel.
const INT8: f32 = 2e-2;

const OPTIONS: Options = Options { compute: Compute::Int8, positions: None, range_bytes: None };

/// Formats whose numbers are no bytes times what is constant in a block.
const FLOATS: [&str; 3] = ["f32", "f16", "bf16"];

fn products(compilation: &Compilation) -> usize {
    let dots = compilation.kernels.iter().flat_map(|kernel| &kernel.values);
    let is_dot = |value: &Value| matches!(value, Value::Scalar(ScalarOp::Dot4 | ScalarOp::Dot4Signed, _));
    dots.filter(|record| is_dot(&record.value)).count()
}

/// The operations of all contractions, by the type of what is multiplied.
fn multiplied(compilation: &Compilation) -> Vec<(Compute, Option<i64>)> {
    let counts = (0..compilation.partition.regions.len()).flat_map(|region| compilation.operations(region));
    let in_all = |(compute, count)| match count {
        Count::InAll(count) => (compute, count.as_int()),
        Count::EachSeen(_) => (compute, None),
    };
    counts.map(in_all).collect()
}

/// Compares with the rewritten graph and, more loosely, with the graph as it was.
fn check(case: &Case, caps: &Caps) -> Compilation {
    let compilation = compiled_as(&case.graph, caps, &OPTIONS);
    let found = run(&compilation, caps, &mut case.bindings.clone());
    for (graph, tolerance) in [(&compilation.graph, ORDER), (&case.graph, INT8)] {
        for (name, expected) in jtllm_ir::interp::run(graph, &mut case.bindings.clone()).unwrap() {
            let error = difference(&found[&name], &expected.to_floats());
            assert!(error < tolerance, "{}: output {name} differs by {error}", case.graph.name);
        }
    }
    compilation
}

/// Signed numbers of few bits stand at the bottom of their bytes, half of their range larger: so several products of
/// theirs fit words of 16 bits.
#[test]
fn numbers_are_as_small_as_their_bits_allow() {
    for (name, half) in [("q4_0", 0x08), ("q5_0", 0x10), ("q6_k", 0x20), ("q8_0", 0x80)] {
        let format = Format::find(name).unwrap();
        let case = linear_case(format, [1, 16, 64 * (format.block / 32).max(1)]);
        let text = check(&case, &Caps::vector(8)).graph.to_string();
        let constant = format!("const {} :", 0x0101_0101_u32 * half);
        assert!(text.contains(&constant), "{name} without {constant}\n{text}");
    }
}

/// Where there are products of signed bytes, numbers that take all bits are multiplied as they are; smaller ones, which
/// are multiplied faster, not.
#[test]
fn numbers_of_eight_bits_keep_their_sign() {
    let caps = Caps { signed_bytes: true, ..Caps::vector(8) };
    for (name, signed) in [("q4_0", false), ("q6_k", false), ("q8_0", true)] {
        let format = Format::find(name).unwrap();
        let case = linear_case(format, [1, 16, 64 * (format.block / 32).max(1)]);
        let text = check(&case, &caps).graph.to_string();
        assert_eq!(text.contains("dot4_signed"), signed, "{name}\n{text}");
    }
}

#[test]
fn every_format_of_bytes_on_every_kind_of_target() {
    for format in FORMATS.iter().chain(APART) {
        for (_, caps) in all_caps() {
            for [tokens, width] in [[1, 37], [4, 48], [48, 37]] {
                let depth = 64 * (format.block / 32).max(1);
                let case = linear_case(format, [tokens, width, depth]);
                let compilation = check(&case, &caps);
                let floats = FLOATS.contains(&format.name);
                assert_eq!(products(&compilation) == 0, floats, "{}", format.name);
                if tokens <= 16 && !floats {
                    let operations = [(Compute::Int8, Some((2 * tokens * width * depth) as i64))];
                    assert_eq!(multiplied(&compilation), operations, "{}", format.name);
                }
            }
        }
    }
}

#[test]
fn siblings_share_the_activations_bytes() {
    for caps in [Caps::vector(8), Caps::threads(32)] {
        let case = gate_and_up("q4_0", 4);
        let compilation = check(&case, &caps);
        // One makes the bytes, one multiplies.
        let steps = compilation.steps.len();
        assert_eq!(steps, 2, "{}", compilation.partition.display(&compilation.graph));
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_company() {
    let of = |tokens: usize| linear_case(Format::find("q5_1").unwrap(), [tokens, 37, 96]);
    let weights = of(1).bindings.weights;
    let outputs = [1, 4, 48].map(|tokens| {
        let mut case = of(tokens);
        case.bindings.weights = weights.clone();
        let row: Vec<f32> = (0..96).map(|k| (k as f32 * 0.7).sin()).collect();
        let rows = row.repeat(tokens);
        case.bindings.inputs.insert("x".to_owned(), Tensor::floats(DType::F32, &[tokens, 96], rows));
        let zeros = vec![0.0; tokens * 37];
        case.bindings.inputs.insert("r".to_owned(), Tensor::floats(DType::F32, &[tokens, 37], zeros));
        let caps = Caps::vector(16);
        let mut found = run(&compiled_as(&case.graph, &caps, &OPTIONS), &caps, &mut case.bindings.clone());
        found.remove("y").unwrap()
    });
    for rows in &outputs {
        for row in rows.chunks(37) {
            assert_eq!(row, outputs[0]);
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    for (x, finite) in [(0.0f32, true), (1e-38, true), (f32::NAN, false), (f32::INFINITY, false)] {
        let mut case = linear_case(Format::find("q8_0").unwrap(), [1, 48, 64]);
        let mut row = vec![0.0f32; 64];
        row[40] = x;
        case.bindings.inputs.insert("x".to_owned(), Tensor::floats(DType::F32, &[1, 64], row));
        for caps in [Caps::vector(8), Caps::threads(32)] {
            let compilation = compiled_as(&case.graph, &caps, &OPTIONS);
            let found = run(&compilation, &caps, &mut case.bindings.clone());
            assert!(found["y"].iter().all(|y| y.is_finite() == finite), "{x}: {:?}", found["y"]);
        }
    }
}
