//! Products of `bf16` two at a time: kernels on the loop-IR interpreter against the graph that they were made from, and
//! that graph against the one in floats; and which products they are.
#![allow(clippy::unwrap_used)]

mod common;

use common::case::Case;
use common::works::{gate_and_up, linear_case, long_rows, tail};
use common::{compiled_as, difference, run};
use jtllm_codegen::Compilation;
use jtllm_codegen::emit::cranelift::Cranelift;
use jtllm_codegen::emit::ptx::Ptx;
use jtllm_codegen::emit::wgsl::Wgsl;
use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::{Access, Value, parse};
use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::target::{Caps, EmitError, Target};
use jtllm_ir::format::Format;
use jtllm_ir::{DType, Expr, ScalarOp, Tensor};

/// Sums of a few hundred products in another order.
const ORDER: f32 = 5e-6;
/// Operands of 8 bits, in sums whose terms cancel.
const BF16: f32 = 2e-2;

fn options(compute: Compute) -> Options {
    Options { compute, ..Options::default() }
}

fn pairs(compilation: &Compilation) -> usize {
    let values = compilation.kernels.iter().flat_map(|kernel| &kernel.values);
    values.filter(|record| matches!(record.value, Value::Scalar(ScalarOp::Dot2, _))).count()
}

/// Compares with the rewritten graph and, more loosely, with the graph as it was.
fn check(case: &Case, caps: &Caps, compute: Compute) -> Compilation {
    let compilation = compiled_as(&case.graph, caps, &options(compute));
    let found = run(&compilation, caps, &mut case.bindings.clone());
    for (graph, tolerance) in [(&compilation.graph, ORDER), (&case.graph, BF16)] {
        for (name, expected) in jtllm_ir::interp::run(graph, &mut case.bindings.clone()).unwrap() {
            let error = difference(&found[&name], &expected.to_floats());
            assert!(error < tolerance, "{}: output {name} differs by {error}", case.graph.name);
        }
    }
    compilation
}

fn format(name: &str) -> &'static Format {
    Format::find(name).unwrap()
}

#[test]
fn weights_of_bf16_are_multiplied_in_pairs_where_there_is_an_instruction() {
    for lanes in [8, 16] {
        for [tokens, width, depth] in [[1, 37, 64], [1, 48, 576], [4, 48, 96], [16, 20, 32], [48, 37, 64]] {
            let case = linear_case(format("bf16"), [tokens, width, depth]);
            let with = check(&case, &Caps::vector(lanes).with_dot2(), Compute::Auto);
            assert!(pairs(&with) > 0, "{}", case.graph.name);
            assert_eq!(with.products().into_iter().collect::<Vec<_>>(), [Compute::Bf16]);
            let without = compiled_as(&case.graph, &Caps::vector(lanes), &options(Compute::Auto));
            assert_eq!(pairs(&without), 0);
            assert_eq!(without.products().into_iter().collect::<Vec<_>>(), [Compute::F32]);
        }
    }
}

#[test]
fn a_rest_of_the_depth_is_taken_by_some_lanes() {
    for depth in [2, 14, 30, 34, 62, 66, 130] {
        let compilation = check(&tail(depth), &Caps::vector(16).with_dot2(), Compute::Auto);
        assert!(pairs(&compilation) > 0, "{depth}");
    }
}

#[test]
fn what_does_not_lie_in_pairs_is_left_as_it_is() {
    let caps = Caps::vector(16).with_dot2();
    let plain = |case: &Case| {
        let compilation = compiled_as(&case.graph, &caps, &options(Compute::Auto));
        assert_eq!(pairs(&compilation), 0, "{}", case.graph.name);
        assert_eq!(compilation.products().into_iter().collect::<Vec<_>>(), [Compute::F32]);
    };
    // Odd depths, and types that rounding would change.
    plain(&tail(63));
    ["f16", "f32"].into_iter().for_each(|name| plain(&linear_case(format(name), [4, 48, 64])));
    // Neighbours along the depth that lie a row apart.
    let mut case = Case::new("turned");
    let x = case.input("x", &[Expr::int(4), Expr::int(64)], &[4, 64]);
    let w = case.weight(format("bf16"), "w", &[64, 48]);
    let turned = case.graph.view(w, &[Expr::int(48), Expr::int(64)], &[], |c| vec![c.axis(1), c.axis(0)]);
    let y = jtllm_ir::build::linear(&mut case.graph, x, turned, None);
    case.graph.output("y", y);
    plain(&case);
    // Neighbours that do not begin at an even place.
    let mut case = Case::new("odd columns");
    let x = case.input("x", &[Expr::int(4), Expr::int(64)], &[4, 64]);
    let w = case.weight(format("bf16"), "w", &[48, 66]);
    let part = case.graph.view(w, &[Expr::int(48), Expr::int(64)], &[], |c| vec![c.axis(0), c.axis(1) + 1]);
    let y = jtllm_ir::build::linear(&mut case.graph, x, part, None);
    case.graph.output("y", y);
    plain(&case);
}

#[test]
fn a_named_type_says_what_is_rounded() {
    let caps = Caps::vector(16).with_dot2();
    let case = linear_case(format("bf16"), [4, 48, 64]);
    assert_eq!(pairs(&compiled_as(&case.graph, &caps, &options(Compute::F32))), 0);
    assert_eq!(pairs(&compiled_as(&case.graph, &caps, &options(Compute::F16))), 0);
    assert!(pairs(&check(&case, &caps, Compute::Bf16)) > 0);
    // Weights that are rounded themselves are no pairs in memory.
    assert_eq!(pairs(&check(&linear_case(format("f16"), [4, 48, 64]), &caps, Compute::Bf16)), 0);
}

#[test]
fn siblings_read_the_same_pairs() {
    let case = gate_and_up("bf16", 4);
    let compilation = check(&case, &Caps::vector(16).with_dot2(), Compute::Auto);
    let reads: Vec<usize> = compilation.kernels.iter().map(|kernel| kernel.params.len()).collect();
    // One rounds the activations, one reads them and two weights and writes.
    assert_eq!(reads, [2, 4], "{}", compilation.partition.display(&compilation.graph));
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_company() {
    let of = |tokens: usize| linear_case(format("bf16"), [tokens, 37, 98]);
    let weights = of(1).bindings.weights;
    let caps = Caps::vector(16).with_dot2();
    let outputs = [1, 4, 48].map(|tokens| {
        let mut case = of(tokens);
        case.bindings.weights = weights.clone();
        let row: Vec<f32> = (0..98).map(|k| (k as f32 * 0.7).sin()).collect();
        case.bindings
            .inputs
            .insert("x".to_owned(), Tensor::floats(DType::F32, &[tokens, 98], row.repeat(tokens)));
        let zeros = vec![0.0; tokens * 37];
        case.bindings.inputs.insert("r".to_owned(), Tensor::floats(DType::F32, &[tokens, 37], zeros));
        let compilation = compiled_as(&case.graph, &caps, &options(Compute::Auto));
        assert!(pairs(&compilation) > 0);
        run(&compilation, &caps, &mut case.bindings.clone()).remove("y").unwrap()
    });
    for rows in &outputs {
        for row in rows.chunks(37) {
            assert_eq!(row, outputs[0]);
        }
    }
}

#[test]
fn kernels_with_pairs_come_back_from_their_text() {
    let case = long_rows("bf16", [2, 576]);
    let caps = Caps::vector(16).with_dot2();
    for kernel in compiled_as(&case.graph, &caps, &options(Compute::Auto)).kernels {
        let text = kernel.canonical_text();
        assert_eq!(parse::parse(&text).unwrap().canonical_text(), text);
    }
}

#[test]
fn targets_without_the_instruction_say_so() {
    let mut b = Builder::new("pairs", 1, [Expr::int(1), Expr::int(1), Expr::int(1)]);
    let words = b.param(DType::U32, Access::Read, Expr::int(2), true);
    let sums = b.param(DType::F32, Access::Write, Expr::int(1), true);
    let [x, y] = [0, 1].map(|at| b.load(words, &Expr::int(at)));
    let zero = b.float(0.0);
    let sum = b.scalar(ScalarOp::Dot2, &[x, y, zero]);
    b.store(sums, &Expr::int(0), sum);
    let kernel = b.finish(&[]);
    let targets: [Box<dyn Target>; 5] = [
        Box::new(Cranelift::host().unwrap()),
        Box::new(Ptx::new(80, 99 << 10)),
        Box::new(Wgsl::least()),
        Box::new(X64::level(Level::Avx2)),
        Box::new(X64::level(Level::Avx512).without_dot2()),
    ];
    for target in targets {
        assert!(!target.caps().dot2);
        let error = target.emit(&kernel).unwrap_err();
        assert!(matches!(error, EmitError::Unsupported { op: ScalarOp::Dot2, .. }), "{error}");
        assert!(error.to_string().contains("cannot compute dot2 of"), "{error}");
    }
}
