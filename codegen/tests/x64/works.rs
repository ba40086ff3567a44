//! Every case of the compiler, as machine code and interpreted: equal memory.

use jtllm_codegen::target::Target;

use crate::common::ptx::is_nan;
use crate::common::{Launch, case::Case, compiled, run_by, works};
use crate::native::Native;
use crate::targets;

/// Runs a launch in both ways; what they leave behind must be the same.
fn both(target: &dyn Target, mut launch: Launch<'_>) {
    let mut after: Vec<Vec<u8>> = launch.params.to_vec();
    launch.interpret(target.caps());
    let kernel = launch.kernel;
    Native::with(target, kernel).run_groups(&mut after, launch.symbols, 0, launch.groups);
    for (at, param) in kernel.params.iter().enumerate().filter(|(_, param)| param.access.writes()) {
        let size = param.dtype.size();
        let elements = after[at].chunks(size).zip(launch.params[at].chunks(size)).enumerate();
        for (place, (got, expected)) in elements {
            let same = got == expected || (is_nan(param.dtype, got) && is_nan(param.dtype, expected));
            assert!(same, "{}: p{at}[{place}] is {got:?}, expected {expected:?}\n{kernel}", target.variant());
        }
    }
}

fn check(cases: &[Case]) {
    for target in &targets() {
        for case in cases {
            let compilation = compiled(&case.graph, target.caps());
            let mut bindings = case.bindings.clone();
            run_by(&compilation, target.caps(), &mut bindings, &mut |launch| both(target, launch));
        }
    }
}

#[test]
fn every_case_of_the_compiler() {
    check(&works::cases());
}
