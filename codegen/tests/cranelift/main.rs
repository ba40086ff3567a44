//! The Cranelift target: what it computes, compared with the meaning of the loop IR.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod kernels;
#[path = "../common/native.rs"]
mod native;
#[path = "../common/random.rs"]
mod random;
mod scalars;
mod speed;

use std::sync::LazyLock;

use jtllm_codegen::emit::cranelift::Cranelift;
use jtllm_codegen::kernel::Kernel;
use jtllm_fuzz::for_seconds;
use native::Native;
use proptest::prelude::any;

/// The target under test.
static HOST: LazyLock<Cranelift> = LazyLock::new(|| Cranelift::host().unwrap());

/// A kernel compiled for this machine.
fn on_host(kernel: &Kernel) -> Native {
    Native::with(&*HOST, kernel)
}

#[test]
fn fuzz_kernels_against_the_interpreter() {
    for_seconds("kernels against the interpreter", |random| {
        let compile = |kernel: &Kernel| {
            let native = on_host(kernel);
            move |params: &mut [Vec<u8>], symbols: &[i32]| native.run(params, symbols)
        };
        random::check(&*HOST, compile, random.value(any::<u64>()));
    });
}
