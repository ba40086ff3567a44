//! Graphs made at random, compiled for every caps and run by the interpreter of the loop IR: what they give is
//! what the graph's own interpreter gives.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod maker;
mod steps;

use common::apart;
use jtllm_fuzz::for_seconds;
use jtllm_ir::Graph;

/// How far sums in another order may be apart, for values around 1.
const TOLERANCE: f32 = 2e-4;

/// Shows the graph of a case that ends in a panic.
struct Shown<'g>(&'g Graph);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// The largest difference, relative to the largest value if that is above 1.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    apart(a, b) / b.iter().fold(1.0, |largest: f32, x| largest.max(x.abs()))
}

#[test]
fn fuzz_random_graphs() {
    for_seconds("random graphs", |random| {
        let case = maker::graph(random, TOLERANCE);
        let graph = case.graph.clone();
        let _shown = Shown(&graph);
        case.agrees(difference);
    });
}
