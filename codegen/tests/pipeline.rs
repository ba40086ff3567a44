//! Graph interpreter against compiled kernels on the loop-IR interpreter, for every caps.
#![allow(clippy::unwrap_used)]

mod common;

use common::case::Case;
use common::works::*;
use std::collections::BTreeMap;
use std::ops::Range;

use common::{compiled, compiled_as, run, works};
use jtllm_codegen::options::Options;
use jtllm_codegen::schedule::Argument;
use jtllm_codegen::target::Caps;
use jtllm_ir::build::Pairing;
use jtllm_ir::format::{FORMATS, Format};
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
            for (name, width) in [("x", 1500), ("r", DEEP_COLUMNS)] {
                let row: Vec<f32> = (0..width).map(|k| ((k * 37 % 101) as f32 - 50.0) / 64.0).collect();
                let tensor = Tensor::floats(DType::F32, &[tokens, width], row.repeat(tokens));
                case.bindings.inputs.insert(name.to_owned(), tensor);
            }
            case
        };
        let plain = [4, 8, 16].map(Caps::vector);
        for caps in plain.into_iter().chain([Caps::vector(16).with_dot2()]) {
            let outputs = |tokens: usize| {
                let case = rows(tokens);
                let compilation = compiled(&case.graph, &caps);
                // The parts of sums that wait between pieces, the sums themselves, and the rows' copy.
                let is_panel = compilation.kernels.iter().any(|kernel| kernel.shared.len() == 3);
                assert_eq!(is_panel, tokens > 16, "{format}, {} lanes, {tokens} rows", caps.lanes);
                run(&compilation, &caps, &mut case.bindings.clone())["y"].clone()
            };
            let [alone, few, many] = [1, 4, 32].map(outputs);
            for found in few.chunks(DEEP_COLUMNS).chain(many.chunks(DEEP_COLUMNS)) {
                let is_same = alone.iter().zip(found).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(is_same, "{format}, {} lanes", caps.lanes);
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

/// A launch that would read more weights than it shall is several, which read the rows of the weights between them, each
/// once, and give the same bits.
#[test]
fn launches_that_read_too_much_are_cut_along_the_rows() {
    let few = [Caps::vector(4), Caps::vector(8), Caps::threads(32)];
    for (caps, format) in few.iter().zip(["q8_0", "q4_k", "f32"]) {
        ranges(&wide(format, 1), caps, 128 << 10);
    }
    let pairs = Caps::vector(16).with_dot2();
    for (format, tokens) in [("bf16", 1), ("q4_0", 2)] {
        ranges(&wide(format, tokens), &pairs, 128 << 10);
    }
    // Rows that streams of several turns read, many groups apart.
    ranges(&wide("bf16", 1), &Caps::vector(16), 256 << 10);
    ranges(&linear_case(Format::find("q8_0").unwrap(), [1, 2048, 64]), &Caps::vector(8), 72 << 10);
    // Panels, of two matrices as well.
    for caps in [&Caps::vector(8), &pairs] {
        ranges(&gate_and_up("bf16", 32), caps, 8 << 10);
    }
    // One matrix, whose last rows fill no group.
    let linear = |format, tokens| linear_case(Format::find(format).unwrap(), [tokens, 1000, 64]);
    ranges(&linear("q8_0", 2), &Caps::vector(8), 16 << 10);
    ranges(&linear("bf16", 32), &Caps::vector(8), 32 << 10);
}

fn ranges(case: &Case, caps: &Caps, range_bytes: u64) {
    let options = Options { range_bytes: Some(range_bytes), ..Options::default() };
    let (whole, cut) = (compiled(&case.graph, caps), compiled_as(&case.graph, caps, &options));
    let found = run(&cut, caps, &mut case.bindings.clone());
    for (name, expected) in run(&whole, caps, &mut case.bindings.clone()) {
        let same = expected.iter().zip(&found[&name]).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{} {caps:?}: {name}", case.graph.name);
    }
    let mut read: BTreeMap<&str, Vec<Range<u64>>> = BTreeMap::new();
    for step in &cut.steps {
        let parts = step.arguments.iter().filter_map(|argument| match argument {
            Argument::Part(name, bytes) => Some((name.as_str(), bytes.clone())),
            _ => None,
        });
        let parts: Vec<_> = parts.collect();
        let bytes: u64 = parts.iter().map(|(_, bytes)| bytes.end - bytes.start).sum();
        assert!(bytes <= range_bytes, "{}: a launch reads {bytes} bytes", case.graph.name);
        parts.into_iter().for_each(|(name, bytes)| read.entry(name).or_default().push(bytes));
    }
    assert!(!read.is_empty() && cut.steps.len() > whole.steps.len(), "{}: nothing is cut", case.graph.name);
    for (name, mut ranges) in read {
        ranges.sort_by_key(|range| range.start);
        assert!(
            ranges[0].start == 0 && ranges.windows(2).all(|two| two[0].end == two[1].start),
            "{name}: {ranges:?}"
        );
    }
}
