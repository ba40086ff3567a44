//! The assembled target at each level: what it computes, compared bit for bit with the interpreter of kernels.
//!
//! Code that this processor cannot run is run by the interpreter of x86-64 alone; what it can run is run in both ways.

#![allow(clippy::unwrap_used)]

mod code;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod hostile;
#[path = "../common/native.rs"]
mod native;
mod prefetch;
#[path = "../common/random.rs"]
mod random;
mod scalars;
mod speed;
mod works;

use code::Code;
use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::kernel::Kernel;
use jtllm_fuzz::for_seconds;
use proptest::prelude::any;

/// Each level with all that it may have beside it and with nothing, with all registers and with so few that every kernel of
/// some size runs out of them.
fn targets() -> Vec<X64> {
    let of = |(level, _)| {
        let plain = || X64::complete(level).without_dot().without_dot2().without_bytes_anywhere();
        let few = X64::complete(level).with_slow_dot2(true).with_registers(6);
        [X64::complete(level), plain(), few, plain().with_registers(6)]
    };
    Level::ALL.into_iter().flat_map(of).collect()
}

#[test]
fn fuzz_assembled_kernels_against_the_interpreter() {
    let targets = targets();
    for_seconds("assembled kernels against the interpreter", |random| {
        let seed = random.value(any::<u64>());
        for target in &targets {
            let compile = |kernel: &Kernel| {
                let code = Code::of(target, kernel);
                move |params: &mut [Vec<u8>], symbols: &[i32]| code.run(params, symbols)
            };
            random::check(target, compile, seed);
        }
    });
}
