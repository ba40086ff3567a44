//! Every case of the compiler, as machine code and interpreted: equal memory.

use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::target::Target;
use jtllm_ir::{DType, Tensor};

use crate::code::Code;
use crate::common::ptx::is_nan;
use crate::common::scalars::Noise;
use crate::common::{Launch, case::Case, compiled, run_by, works};
use crate::targets;

/// Runs a launch in both ways; what they leave behind must be the same.
fn both(target: &X64, mut launch: Launch<'_>) {
    let mut after: Vec<Vec<u8>> = launch.params.to_vec();
    launch.interpret(target.caps());
    let kernel = launch.kernel;
    Code::of(target, kernel).run_groups(&mut after, launch.symbols, 0, launch.groups);
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

/// Products, sums and operands about the least normal number, in tiles of every height, by pairs and by halves.
#[test]
fn pairs_about_the_least_normal_number() {
    let targets = [false, true].map(|slow| X64::complete(Level::Avx512).with_slow_dot2(slow));
    let mut noise = Noise(5);
    for tokens in [1, 2, 3, 4, 8] {
        let mut case = works::long_rows("bf16", [tokens, 576]);
        let mut number = |least: i32, range: u32| {
            let exponent = least + noise.below(range) as i32;
            (1.0 + noise.below(128) as f32 / 128.0)
                * [1.0, -1.0][noise.below(2) as usize]
                * 2f32.powi(exponent)
        };
        let weights = (0..9 * 576).map(|_| number(-130, 10)).collect();
        let x = (0..tokens * 576).map(|_| number(-9, 10)).collect();
        case.bindings.weights.insert("w".to_owned(), Tensor::floats(DType::BF16, &[9, 576], weights));
        case.bindings.inputs.insert("x".to_owned(), Tensor::floats(DType::F32, &[tokens, 576], x));
        for target in &targets {
            let compilation = compiled(&case.graph, target.caps());
            run_by(&compilation, target.caps(), &mut case.bindings.clone(), &mut |launch| {
                both(target, launch)
            });
        }
    }
}
