//! Faults planted in emitted texts: the interpreter of PTX finds each, for the right reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jtllm_codegen::target::Target;
use jtllm_ir::interp::Bindings;
use jtllm_ir::{DType, Graph, Op, Tensor};
use jtllm_ptxsim::Reason;

use crate::common::ptx::{device, emulate_text};
use crate::common::{compiled, noise, run_by};

/// The graph of a golden file.
pub(crate) fn graph(file: &str) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files/ptx").join(file);
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    jtllm_ir::parse(rest.split_once("# expect").unwrap().0).unwrap()
}

/// Random numbers for everything that a graph reads; `rows` is the value of its symbols.
pub(crate) fn bindings(graph: &Graph, rows: i64) -> Bindings {
    let mut found = Bindings::new();
    let mut seed = 5;
    for symbol in &graph.symbols {
        found.symbols.insert(symbol.name().to_owned(), rows);
    }
    for node in graph.nodes() {
        let shape: Vec<usize> =
            graph.shape(node).iter().map(|extent| extent.as_int().unwrap_or(rows) as usize).collect();
        let count = shape.iter().product::<usize>();
        let mut tensor = || {
            let dtype = graph.dtype(node);
            let value = |_| {
                let bits = noise(&mut seed).to_bits();
                if dtype == DType::BF16 { bits >> 16 } else { bits }
            };
            let bytes: Vec<u8> =
                (0..count).map(value).flat_map(|bits| bits.to_le_bytes()[..dtype.size()].to_vec()).collect();
            Tensor::from_bytes(dtype, &shape, &bytes).unwrap()
        };
        match graph.op(node) {
            Op::Input { name, .. } => found.inputs.insert(name.clone(), tensor()),
            Op::Weight { name } => found.weights.insert(name.clone(), tensor()),
            _ => None,
        };
    }
    found
}

/// A text with a fault, and what the interpreter must say of it.
pub(crate) struct Planted {
    what: &'static str,
    pub(crate) text: String,
    pub(crate) reasons: &'static [Reason],
}

/// Every text that lacks one of the places where `line` stands.
pub(crate) fn without(
    text: &str,
    line: &str,
    what: &'static str,
    reasons: &'static [Reason],
) -> Vec<Planted> {
    let removed = |(at, _): (usize, &str)| {
        let text = format!("{}{}", &text[..at], &text[at + line.len()..]);
        Planted { what, text, reasons }
    };
    text.match_indices(line).map(removed).collect()
}

/// Every text in which one shuffle is for the lower half of its warp alone.
fn divergent(text: &str) -> Vec<Planted> {
    let half =
        "{ .reg .pred %half; .reg .b32 %who; mov.u32 %who, %laneid; setp.lt.u32 %half, %who, 16; @%half ";
    let guarded = |(at, _): (usize, &str)| {
        let end = at + text[at..].find(';').unwrap() + 1;
        let text = format!("{}{half}{} }}{}", &text[..at], &text[at..end], &text[end..]);
        Planted { what: "a divergent shuffle", text, reasons: &[Reason::Convergence] }
    };
    text.match_indices("shfl.sync").map(guarded).collect()
}

/// Every text in which one bound is a step further out.
fn off_by_one(text: &str) -> Vec<Planted> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let bound =
            line.trim().strip_prefix("setp.lt.s32 ").and_then(|x| x.strip_suffix(';')?.rsplit_once(", "));
        // Of lanes; the bound of a loop is planted by its counter's last step all the same.
        if let Some((left, bound)) = bound
            && let Ok(bound) = bound.parse::<u32>()
        {
            let wrong = line.replace(&format!("{left}, {bound};"), &format!("{left}, {};", bound + 1));
            let text = format!("{}{wrong}{}", &text[..start], &text[start + line.len()..]);
            found.push(Planted { what: "a bound too far", text, reasons: &[Reason::OutOfBounds] });
        }
        start += line.len();
    }
    found
}

const UNORDERED: &[Reason] = &[Reason::Race, Reason::Uninitialised, Reason::PendingCopy];

fn plant(text: &str) -> Vec<Planted> {
    let mut all = without(text, "bar.sync 0;", "a removed barrier", UNORDERED);
    all.extend(without(text, "cp.async.wait_group 0;", "a missing wait", &[Reason::PendingCopy]));
    all.extend(divergent(text));
    all.extend(off_by_one(text));
    all
}

/// Plants faults in each kernel of a golden file; gives the kinds that were found.
fn check(file: &str, capability: u32, rows: i64) -> BTreeSet<&'static str> {
    let graph = graph(file);
    let target = device(capability);
    let compilation = compiled(&graph, target.caps());
    let mut found = BTreeSet::new();
    run_by(&compilation, target.caps(), &mut bindings(&graph, rows), &mut |mut launch| {
        let before = launch.params.to_vec();
        let text = String::from_utf8(target.emit(launch.kernel).unwrap().bytes).unwrap();
        if let Err(fault) = emulate_text(&text, &launch, &before) {
            panic!("{file}: without a planted fault: {fault}\n{text}");
        }
        for Planted { what, text, reasons } in plant(&text) {
            match emulate_text(&text, &launch, &before) {
                Err(fault) => assert!(reasons.contains(&fault.reason), "{file}: {what}: {fault}\n{text}"),
                Ok(_) => panic!("{file}: {what} was not noticed\n{text}"),
            }
            found.insert(what);
        }
        launch.interpret(target.caps());
    });
    found
}

#[test]
fn faults_in_sums_of_all_lanes_are_found() {
    let found = check("rows.jt", 70, 1);
    let expected = ["a bound too far", "a divergent shuffle", "a removed barrier"];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn faults_in_products_by_matrix_units_are_found() {
    let found = check("gemm_bf16.jt", 80, 32);
    for what in ["a removed barrier", "a missing wait"] {
        assert!(found.contains(what), "{what}");
    }
}
