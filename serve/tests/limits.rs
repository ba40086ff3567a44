//! Weights within a limit: the same bits as without one, whatever comes and goes.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use jtllm_models::Checkpoint;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::ir::DType;
use jtllm_runtime::residence::{Limit, Most};
use jtllm_serve::{Backend, Engine, LoadOptions, Model, Place};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn options(threads: usize, memory: Limit) -> LoadOptions {
    LoadOptions {
        backend: Backend::Cpu,
        place: Place::default(),
        threads,
        context: 96,
        compute: Compute::Auto,
        keys: DType::F16,
        values: DType::F16,
        taps: false,
        sequences: 1,
        memory,
    }
}

fn engine(name: &str, threads: usize, memory: Limit) -> Engine {
    let checkpoint = Checkpoint::open(&folder(name)).unwrap();
    Engine::new(Model::load(checkpoint, options(threads, memory), KernelCache::off("a test")).unwrap(), None)
}

/// The bits of the logits of a prompt and of each token of an answer.
fn bits(engine: &mut Engine) -> Vec<u32> {
    let prompt: Vec<u32> = (0..40).map(|at| (at * 31 + 7) % 90).collect();
    let mut logits = engine.feed(&prompt, false).unwrap();
    let mut all = Vec::new();
    for _ in 0..6 {
        all.extend(logits.iter().map(|logit| logit.to_bits()));
        let best = (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best });
        logits = engine.append(best as u32).unwrap();
    }
    all
}

#[test]
fn a_model_that_streams_gives_the_same_bits() {
    let expected = bits(&mut engine("llama2-gqa-tiny", 1, Limit::default()));
    let mut engine = engine("llama2-gqa-tiny", 1, Limit::of(Most::Weights(200_000)));
    assert_eq!(bits(&mut engine), expected);
    let residence = engine.model().networks()[0].residence().unwrap();
    println!("{:?} {:?}", residence.counted(), residence.traffic());
    assert!(residence.traffic().bytes_read > 3 * 600_000, "{:?}", residence.traffic());
}
