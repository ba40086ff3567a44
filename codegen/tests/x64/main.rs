//! The assembled target at each level: what it computes, compared bit for bit with the interpreter of kernels.
//!
//! Levels that this processor does not have are assembled, but not run.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod hostile;
#[path = "../common/native.rs"]
mod native;
#[path = "../common/random.rs"]
mod random;
mod scalars;
mod speed;
mod works;

use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_fuzz::for_seconds;
use proptest::prelude::any;

/// The levels that this processor can run, said aloud where one is missing.
fn levels() -> Vec<Level> {
    let (here, missing): (Vec<_>, Vec<_>) = Level::ALL.into_iter().partition(|(level, _)| level.is_here());
    for (_, name) in missing {
        eprintln!("skipped: this processor has no {name}");
    }
    here.into_iter().map(|(level, _)| level).collect()
}

/// Each level, with all registers and with so few that every kernel of some size runs out of them; and without
/// instructions that a level may have.
fn targets() -> Vec<X64> {
    let of = |level| {
        let few = X64::level(level).with_registers(6);
        let other = X64::level(level).without_dot().without_dot2().without_bytes_anywhere().with_registers(6);
        [X64::level(level).with_slow_dot2(false), few.with_slow_dot2(true), other]
    };
    levels().into_iter().flat_map(of).collect()
}

#[test]
fn fuzz_assembled_kernels_against_the_interpreter() {
    let targets = targets();
    for_seconds("assembled kernels against the interpreter", |random| {
        let seed = random.value(any::<u64>());
        targets.iter().for_each(|target| random::check(target, seed));
    });
}
