//! Loops in time: compiled ones on the loop-IR interpreter against the graph's, for every caps.
#![allow(clippy::unwrap_used)]

mod common;

use common::compiled;
use common::recurrence::{RAGGED, cases, decay, matrices};
use jtllm_codegen::target::Caps;

#[test]
fn every_recurrence() {
    cases().into_iter().for_each(common::case::Case::check);
}

#[test]
fn a_loop_is_one_kernel() {
    for caps in [Caps::vector(4), Caps::threads(32)] {
        for case in [decay(48, RAGGED, 40), matrices(48, RAGGED, 2, 16)] {
            let compilation = compiled(&case.graph, &caps);
            let names: Vec<&str> = compilation.partition.regions.iter().map(|r| r.work.name()).collect();
            assert_eq!(names, ["scan", "pointwise"], "the loop, and the output's copy");
        }
    }
}
