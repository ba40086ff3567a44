//! What assembled products fetch ahead: weights at a fixed distance from what they load.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind};
use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::target::Target;
use jtllm_x64sim::Program;

use crate::common::compiled_as;
use crate::speed::product_of;

/// The instructions of the kernels of a product of some rows with a weight of so many rows and columns.
fn instructions(
    level: Level,
    format: &str,
    compute: Compute,
    tokens: usize,
    size: [usize; 2],
) -> Vec<Instruction> {
    let target = X64::complete(level);
    let case = product_of(format, tokens, size);
    let compilation = compiled_as(&case.graph, target.caps(), &Options { compute, ..Options::default() });
    let mut all = Vec::new();
    for kernel in &compilation.kernels {
        let bytes = target.emit(kernel).unwrap().bytes;
        for instruction in Program::decode(&bytes).unwrap().instructions() {
            all.push(Decoder::new(64, &bytes[instruction.offset..], DecoderOptions::NONE).decode());
        }
    }
    all
}

fn is_prefetch(instruction: &Instruction) -> bool {
    matches!(instruction.code(), Code::Prefetcht0_m8 | Code::Prefetcht1_m8)
}

/// How many bytes lie between what an instruction fetches and what another loads, if the rest of both addresses is the
/// same.
fn distance(prefetch: &Instruction, load: &Instruction) -> Option<u64> {
    let address = |x: &Instruction| (x.memory_base(), x.memory_index(), x.memory_index_scale());
    let loads = load.op_kinds().any(|kind| kind == OpKind::Memory) && !is_prefetch(load);
    (loads && address(prefetch) == address(load))
        .then(|| prefetch.memory_displacement64().wrapping_sub(load.memory_displacement64()))
}

/// Formats, what they are computed in, and the bytes of a row of 2048 numbers in the plane that has most of them.
const FORMATS: [(&str, Compute, u64); 5] = [
    ("f32", Compute::F32, 8192),
    ("f16", Compute::F32, 4096),
    ("bf16", Compute::F32, 4096),
    ("q8_0", Compute::Int8, 2048),
    ("q4_0", Compute::Int8, 1024),
];

/// All fetches of a kernel lie as far ahead of something that it loads as is asked.
fn assert_fetches(
    level: Level,
    (format, compute): (&str, Compute),
    rows: usize,
    is_right: impl Fn(u64) -> bool,
) {
    let code = instructions(level, format, compute, 1, [rows, 2048]);
    let fetches: Vec<_> = code.iter().filter(|x| is_prefetch(x)).collect();
    assert!(!fetches.is_empty(), "{level:?} {format}");
    for fetch in fetches {
        let is_ahead = |load| distance(fetch, load).is_some_and(&is_right);
        assert!(code.iter().any(is_ahead), "{level:?} {format}: {fetch:?}");
    }
}

#[test]
fn products_by_a_vector_fetch_what_comes_in_the_same_stream() {
    for (level, _) in Level::ALL {
        for (format, compute, _) in FORMATS {
            assert_fetches(level, (format, compute), 2048, |far| far == 1024);
        }
    }
}

/// 37 groups have no run but one of 37, which is too long, so each group's rows end with it.
#[test]
fn rows_that_do_not_go_on_are_fetched_for_the_next_group() {
    for (level, _) in Level::ALL {
        for (format, compute, row) in FORMATS {
            let rows = if matches!(compute, Compute::Int8) { 16 * 37 * 2 } else { 8 * 37 };
            assert_fetches(level, (format, compute), rows, |far| far > 0 && far < 1 << 20 && far % row == 0);
        }
    }
}

#[test]
fn what_the_caches_keep_is_not_fetched() {
    for (level, _) in Level::ALL {
        for (format, compute, _) in FORMATS {
            let code = instructions(level, format, compute, 1, [16, 1024]);
            assert!(!code.iter().any(is_prefetch), "{level:?} {format}");
        }
    }
}

/// Groups beside each other multiply other rows of a prompt by the same weights: the panel after theirs is fetched, where
/// vectors are long enough to leave room for that.
#[test]
fn products_of_prompts_fetch_the_next_panel() {
    for (level, _) in Level::ALL {
        let code = instructions(level, "bf16", Compute::F32, 512, [512, 2048]);
        let fetches = code.iter().any(|x| x.code() == Code::Prefetcht1_m8);
        assert_eq!(fetches, level != Level::Avx2, "{level:?}");
    }
}
