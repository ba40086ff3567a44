//! Which target makes the processor's code, and what is said where one cannot.
#![allow(clippy::unwrap_used)]

use jtllm_runtime::codegen::emit::x64::{Level, X64};
use jtllm_runtime::codegen::target::{EmitError, Target};
use jtllm_runtime::device::native::{NATIVES, Native, choose};

fn missing() -> Result<Box<dyn Target>, EmitError> {
    Err(EmitError::Missing { what: "AVX2, FMA and F16C", target: "this processor" })
}

/// The table of a processor that has none of the levels.
fn old() -> Vec<Native> {
    let [wide, narrow, portable] = NATIVES;
    vec![Native { open: missing, ..wide }, Native { open: missing, ..narrow }, portable]
}

#[test]
fn the_widest_level_that_is_here_comes_first() {
    let first = Level::ALL.into_iter().find(|(level, _)| level.is_here());
    let expected = first.map_or("cranelift", |(_, name)| name);
    assert_eq!(choose(&NATIVES, None).unwrap().name, expected);
    assert_eq!(choose(&NATIVES, Some("")).unwrap().name, expected);
    assert_eq!(choose(&NATIVES, Some("cranelift")).unwrap().target.name(), "cpu-cranelift");
    for (level, name) in Level::ALL.into_iter().filter(|(level, _)| level.is_here()) {
        let chosen = choose(&NATIVES, Some(name)).unwrap();
        assert_eq!(chosen.target.caps().lanes as usize, level.lanes());
        assert_eq!(chosen.target.variant(), X64::level(level).variant());
    }
}

/// What kernels are kept by differs between levels.
#[test]
fn no_two_ways_share_kernels() {
    let open = NATIVES.iter().filter_map(|native| (native.open)().ok());
    let mut keys: Vec<String> =
        open.map(|target| format!("{} {}", target.name(), target.variant())).collect();
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count, "{keys:?}");
}

#[test]
fn a_processor_without_avx2_takes_the_portable_target() {
    let chosen = choose(&old(), None).unwrap();
    assert_eq!((chosen.name, chosen.target.name()), ("cranelift", "cpu-cranelift"));
    let error = choose(&old(), Some("avx2")).err().unwrap().to_string();
    let expected = "JTLLM_CPU is avx2, but this processor has no AVX2, FMA and F16C; it can have cranelift";
    assert_eq!(error, expected);
}

#[test]
fn a_name_that_nobody_has_is_told_with_those_that_there_are() {
    let error = choose(&NATIVES, Some("sse4")).err().unwrap().to_string();
    assert_eq!(error, "JTLLM_CPU is \"sse4\"; expected one of avx512, avx2, cranelift");
    let error = choose(&[Native { open: missing, ..NATIVES[0] }], None).err().unwrap().to_string();
    assert_eq!(error, "this processor has no AVX2, FMA and F16C");
}
