//! Whole passes of the built-in model: one step of decoding, and a prompt of 512 tokens.
//!
//! The model has 1.4 M parameters and lies in the cache of most processors, so this shows what a pass costs
//! beside the reading of weights: launches, small kernels, attention. `jtllm bench MODEL` measures large ones.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use jtllm_models::Checkpoint;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::ir::DType;
use jtllm_runtime::machine::Machine;
use jtllm_runtime::residence::Limit;
use jtllm_serve::{Backend, Engine, LoadOptions, Model, Place};

/// Tokens of the longest prompt here.
const CONTEXT: usize = 1024;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut engine = engine();
    decode(&mut criterion, &mut engine);
    prefill(&mut criterion, &mut engine);
    criterion.final_summary();
}

fn engine() -> Engine {
    let options = LoadOptions {
        backend: Backend::Cpu,
        place: Place::default(),
        threads: Machine::probe().default_threads(),
        context: CONTEXT,
        compute: Compute::Auto,
        keys: DType::F16,
        values: DType::F16,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    };
    let checkpoint = Checkpoint::demo().expect("the built-in model is well-formed");
    let cache = KernelCache::off("a bench compiles what it measures");
    let mut model = Model::load(checkpoint, options, cache).expect("the built-in model can be loaded");
    model.ready().expect("the built-in model can be compiled");
    Engine::new(model, None)
}

/// Tokens spread over the vocabulary.
fn tokens(engine: &Engine, count: usize) -> Vec<u32> {
    let vocabulary = engine.model().architecture().vocabulary();
    (0..count).map(|at| (at * 389 % vocabulary) as u32).collect()
}

/// The step that computes one token after a past of some length.
fn decode(criterion: &mut Criterion, engine: &mut Engine) {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(1));
    for past in [0, 255, CONTEXT - 1] {
        let tokens = tokens(engine, past + 1);
        engine.feed(&tokens, false).expect("the tokens fit the context");
        group.bench_function(BenchmarkId::from_parameter(format!("after {past}")), |bencher| {
            // The cache holds all of the tokens; what is computed again is the last one, for its logits.
            bencher.iter(|| black_box(engine.feed(&tokens, false)));
        });
    }
    group.finish();
}

/// All tokens of a prompt, in one chunk.
fn prefill(criterion: &mut Criterion, engine: &mut Engine) {
    let mut group = criterion.benchmark_group("prefill");
    for count in [16, 512] {
        let tokens = tokens(engine, count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                engine.clear();
                black_box(engine.feed(&tokens, false))
            });
        });
    }
    group.finish();
}
