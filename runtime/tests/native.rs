//! Which target makes the processor's code, and what is said where one cannot.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use jtllm_runtime::codegen::emit::x64::{Level, X64};
use jtllm_runtime::codegen::target::Target;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::native::{Mask, NATIVES, choose};
use jtllm_runtime::ir::build::linear;
use jtllm_runtime::ir::{DType, Expr, Graph, Tensor};
use jtllm_runtime::plan::Sizes;
use jtllm_runtime::single::Single;

const WHOLE: &str = "this processor has no AVX2, FMA and F16C";

/// Whether extensions of x86-64 decide here.
const DECIDES: bool = cfg!(all(target_arch = "x86_64", unix));

#[test]
fn the_widest_level_that_is_here_comes_first() {
    let all = Mask::default();
    let first = Level::ALL.into_iter().find(|(level, _)| level.is_here());
    let expected = first.map_or("cranelift", |(_, name)| name);
    for wanted in [None, Some("")] {
        let chosen = choose(&all, wanted).unwrap();
        assert_eq!(chosen.name, expected);
        assert_eq!(chosen.lacks.is_some(), DECIDES && expected == "cranelift");
    }
    let asked = choose(&all, Some("cranelift")).unwrap();
    assert_eq!((asked.target.name(), asked.lacks), ("cpu-cranelift", None));
    for (level, name) in Level::ALL.into_iter().filter(|(level, _)| level.is_here()) {
        let chosen = choose(&all, Some(name)).unwrap();
        assert_eq!(chosen.target.caps().lanes as usize, level.lanes());
        assert_eq!(chosen.target.variant(), X64::level(level).variant());
    }
}

/// What kernels are kept by differs between levels, and between processors of more extensions and of less.
#[test]
fn no_two_ways_share_kernels() {
    let masks = ["", "avxvnni,avx512vnni", "avx2", "sse4.1"].map(|list| Mask::of(list).unwrap());
    for mask in &masks {
        let open = NATIVES.iter().filter_map(|native| (native.open)(mask).ok());
        let mut keys: Vec<String> =
            open.map(|target| format!("{} {}", target.name(), target.variant())).collect();
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count, "{keys:?}");
    }
    let portable = |mask: &Mask| choose(mask, Some("cranelift")).unwrap().target.variant();
    let has = |list: &str| portable(&Mask::default()).contains(list);
    assert_eq!(portable(&masks[0]) == portable(&masks[2]), !has("has_avx2"));
    assert_eq!(portable(&masks[0]) == portable(&masks[3]), !has("has_sse41"));
}

/// A graph whose sums are whole numbers, exact in any order and with products fused or not.
fn computed(mask: &Mask) -> (&'static str, String, Vec<f32>) {
    let chosen = choose(mask, None).unwrap();
    let (name, variant) = (chosen.name, chosen.target.variant());
    let [tokens, rows, depth] = [3, 37, 192];
    let [t, n, k] = [tokens, rows, depth].map(|n| Expr::int(n as i64));
    let mut graph = Graph::new("product");
    let x = graph.input("x", DType::F32, &[t, k.clone()], None);
    let w = graph.input("w", DType::F32, &[n, k], None);
    let y = linear(&mut graph, x, w, None);
    graph.output("y", y);
    let device = Arc::new(Cpu::new(chosen.target, 2));
    let mut single = Single::new(device, &graph, Sizes::new(), &|_| None).unwrap();
    let numbers = |rows: usize, step: usize| {
        let number = |at| (at * step % 17) as f32 - 8.0;
        Tensor::floats(DType::F32, &[rows, depth], (0..rows * depth).map(number).collect())
    };
    single.give("x", &numbers(tokens, 7)).unwrap();
    single.give("w", &numbers(rows, 5)).unwrap();
    single.run().unwrap();
    (name, variant, single.read("y").unwrap().to_floats())
}

#[test]
fn a_processor_without_avx2_computes_by_the_portable_target() {
    let all = computed(&Mask::default());
    for list in ["avx2", "fma", "f16c", "avx", "ssse3"] {
        let mask = Mask::of(list).unwrap();
        let (name, variant, found) = computed(&mask);
        assert_eq!(name, "cranelift", "{list}");
        assert_eq!(found, all.2, "{list}");
        assert_eq!(choose(&mask, None).unwrap().lacks, DECIDES.then_some("AVX2, FMA and F16C"), "{list}");
        assert!(!variant.contains("has_avx512f"), "{list}: {variant}");
        assert!(list == "f16c" || !variant.contains(&format!("has_{}", list.replace('.', ""))), "{variant}");
        for way in ["avx2", "avx512"] {
            let error = choose(&mask, Some(way)).err().unwrap().to_string();
            let expected = format!("JTLLM_CPU is {way}, but this processor has no ");
            assert!(error.starts_with(&expected) && error.ends_with("; it can have cranelift"), "{error}");
            assert!(way == "avx512" || error.contains(WHOLE), "{error}");
        }
    }
}

/// A narrower level follows where only the wider one is hidden.
#[test]
fn a_processor_without_avx512_takes_avx2_if_it_has_it() {
    let chosen = choose(&Mask::of(" avx512dq, ").unwrap(), None).unwrap();
    let expected = if Level::Avx2.is_here() { "avx2" } else { "cranelift" };
    assert_eq!((chosen.name, chosen.lacks.is_some()), (expected, DECIDES && expected == "cranelift"));
}

#[test]
fn a_mask_hides_what_needs_the_hidden_and_nothing_else() {
    let mask = Mask::of("fma,avxvnni").unwrap();
    let hidden = ["fma", "avxvnni", "avx512f", "avx512bw", "avx512vbmi", "avx512bf16"];
    assert!(hidden.iter().all(|name| mask.hides(name)));
    assert!(["sse4.2", "avx", "f16c", "avx2", "neon"].iter().all(|name| !mask.hides(name)));
    assert_eq!(Mask::of("").unwrap(), Mask::default());
    let error = Mask::of("avx2,mmx").err().unwrap().to_string();
    assert!(error.starts_with("JTLLM_CPU_WITHOUT has \"mmx\"; expected some of ssse3, sse4.1, "), "{error}");
}

#[test]
fn a_name_that_nobody_has_is_told_with_those_that_there_are() {
    let error = choose(&Mask::default(), Some("sse4")).err().unwrap().to_string();
    assert_eq!(error, "JTLLM_CPU is \"sse4\"; expected one of avx512, avx2, cranelift");
}
