//! How fast code is made and how fast it runs in the cache, beside Cranelift's in turns; printed with `--nocapture`.

use std::time::{Duration, Instant};

use jtllm_codegen::emit::cranelift::Cranelift;
use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::target::Target;
use jtllm_ir::Expr;
use jtllm_ir::build::linear;
use jtllm_ir::format::Format;

use crate::common::case::Case;
use crate::common::{compiled_as, memories, run_by, symbols};
use crate::native::Native;

/// The levels of which this processor can tell how fast they are.
fn levels() -> Vec<Level> {
    Level::ALL.into_iter().map(|(level, _)| level).filter(|level| level.is_here()).collect()
}

/// Rows and columns of a weight of which the second-level cache holds several.
const SIZE: usize = 256;

fn product(format: &str, tokens: usize) -> Case {
    product_of(format, tokens, [SIZE, SIZE])
}

/// The product of some rows with a weight of so many rows and columns.
pub(crate) fn product_of(format: &str, tokens: usize, [width, depth]: [usize; 2]) -> Case {
    let mut case = Case::new(&format!("{format} {tokens}"));
    let format = Format::find(format).unwrap();
    let x = case.input("x", &[tokens, depth].map(|n| Expr::int(n as i64)), &[tokens, depth]);
    let w = case.weight(format, "w", &[width, depth]);
    let y = linear(&mut case.graph, x, w, None);
    case.graph.output("y", y);
    case
}

/// A kernel with the memory that it reads and writes.
struct Ready {
    native: Native,
    /// Each with bytes to spare, so that it can begin at a cache line.
    params: Vec<Vec<u8>>,
    symbols: Vec<i32>,
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// The same bytes from the first cache line of the memory on.
fn aligned(bytes: &[u8]) -> Vec<u8> {
    let mut memory = vec![0; bytes.len() + LINE];
    let start = memory.as_ptr().align_offset(LINE);
    memory[start..start + bytes.len()].copy_from_slice(bytes);
    memory
}

impl Ready {
    /// The largest kernel of a case.
    fn new(target: &dyn Target, case: &Case, compute: Compute) -> Ready {
        let compilation = compiled_as(&case.graph, target.caps(), &Options { compute, ..Options::default() });
        let mut bindings = case.bindings.clone();
        let memory = memories(&compilation, target.caps(), &bindings);
        assert!(!memory.is_empty());
        let mut largest: Option<(usize, Ready)> = None;
        run_by(&compilation, target.caps(), &mut bindings, &mut |mut launch| {
            let bytes = launch.params.iter().map(Vec::len).sum();
            if largest.as_ref().is_none_or(|(most, _)| *most < bytes) {
                let native = Native::with(target, launch.kernel);
                let params = launch.params.iter().map(|bytes| aligned(bytes)).collect();
                largest = Some((bytes, Ready { native, params, symbols: launch.symbols.to_vec() }));
            }
            // Nothing comes after a single kernel.
            if compilation.kernels.len() > 1 {
                launch.interpret(target.caps());
            }
        });
        largest.unwrap().1
    }

    fn time(&mut self) -> Duration {
        let line = |bytes: &mut Vec<u8>| {
            let start = bytes.as_ptr().align_offset(LINE);
            bytes[start..].as_mut_ptr()
        };
        let pointers: Vec<*mut u8> = self.params.iter_mut().map(line).collect();
        let start = Instant::now();
        self.native.run_at(&pointers, &self.symbols);
        start.elapsed()
    }
}

#[test]
fn products_in_the_cache_beside_cranelift() {
    let portable = Cranelift::host().unwrap();
    let levels = levels();
    for (format, compute) in [
        ("f32", Compute::F32),
        ("f16", Compute::F32),
        ("bf16", Compute::F32),
        ("bf16", Compute::Bf16),
        ("q8_0", Compute::F32),
        ("q4_0", Compute::F32),
        ("q8_0", Compute::Int8),
        ("q4_0", Compute::Int8),
    ] {
        for tokens in [1, 16] {
            let case = product(format, tokens);
            let mut all = vec![Ready::new(&portable, &case, compute)];
            all.extend(levels.iter().map(|level| Ready::new(&X64::level(*level), &case, compute)));
            let mut best = vec![Duration::MAX; all.len()];
            for _ in 0..30 {
                for (best, ready) in best.iter_mut().zip(&mut all) {
                    *best = ready.time().min(*best);
                }
            }
            let portable = best[0].as_secs_f64();
            let ratios: Vec<String> = levels
                .iter()
                .zip(&best[1..])
                .map(|(level, time)| format!("{} {:.2}", level.name(), portable / time.as_secs_f64()))
                .collect();
            let rate = 2.0 * (tokens * SIZE * SIZE) as f64 / portable / 1e9;
            println!("{format} {compute:?}, {tokens} rows: {rate:.1} G/s, times {}", ratios.join(", "));
            assert!(best.iter().all(|time| *time < Duration::from_millis(500)), "{best:?}");
        }
    }
}

#[test]
fn products_of_prompts() {
    for format in ["f32", "f16", "bf16"] {
        for (tokens, shape) in [(512, [576, 1536]), (512, [1536, 576]), (256, [1024, 2048])] {
            let case = product_of(format, tokens, shape);
            for level in levels() {
                let mut ready = Ready::new(&X64::level(level), &case, Compute::F32);
                let best = (0..5).map(|_| ready.time()).min().unwrap();
                let rate = 2.0 * (tokens * shape[0] * shape[1]) as f64 / best.as_secs_f64() / 1e9;
                println!("{format}, {tokens} rows by {shape:?}, {}: {rate:.0} GFLOP/s", level.name());
                assert!(best < Duration::from_secs(5), "{best:?}");
            }
        }
    }
}

#[test]
fn a_kernel_is_assembled_in_microseconds() {
    for target in Level::ALL.map(|(level, _)| X64::complete(level)) {
        for (format, tokens) in [("f32", 1), ("q4_0", 16)] {
            let case = product(format, tokens);
            let compilation = compiled_as(&case.graph, target.caps(), &Options::default());
            let kernel: &Kernel =
                compilation.kernels.iter().max_by_key(|kernel| kernel.values.len()).unwrap();
            assert!(symbols(kernel, &case.bindings).len() >= kernel.symbols.len());
            let times = (0..20).map(|_| {
                let start = Instant::now();
                let bytes = target.emit(kernel).unwrap().bytes.len();
                (start.elapsed(), bytes)
            });
            let (time, bytes) = times.min().unwrap();
            println!("{format}, {tokens} rows, {} values: {bytes} bytes in {time:?}", kernel.values.len());
            assert!(time < Duration::from_millis(200), "{time:?}");
        }
    }
}
