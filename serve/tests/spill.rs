//! Keys and values that leave memory for a swap file and come back: the same bits as without a limit, whatever the limit.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jtllm_models::Checkpoint;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::ir::DType;
use jtllm_runtime::residence::{Counted, Limit, Most, Residence, Spill};
use jtllm_runtime::swap::fault::{Call, Fault, FaultStore};
use jtllm_runtime::swap::file::SwapFile;
use jtllm_runtime::swap::store::{MemoryStore, Store};
use jtllm_runtime::{Error, residence};
use jtllm_serve::{Backend, Engine, EngineError, LoadOptions, Model, Place};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn options(context: usize, sequences: usize, memory: Limit) -> LoadOptions {
    LoadOptions {
        backend: Backend::Cpu,
        place: Place::default(),
        threads: 1,
        context,
        compute: Compute::Auto,
        keys: DType::F16,
        values: DType::F16,
        taps: false,
        sequences,
        memory,
    }
}

fn model(name: &str, options: LoadOptions) -> Model {
    Model::load(Checkpoint::open(&fixture(name)).unwrap(), options, KernelCache::off("a test")).unwrap()
}

/// So many bytes for weights, keys and values, and a swap file in memory with which this goes wrong.
fn faulty(bytes: u64, script: impl Fn(Call) -> Option<Fault> + Clone + Send + Sync + 'static) -> Limit {
    let open = move || {
        let store: Arc<dyn Store> = Arc::new(FaultStore::new(MemoryStore::new(Vec::new()), script.clone()));
        Ok(SwapFile::over(Path::new("swap").into(), store, 1 << 40, Box::new(|| None)))
    };
    Limit { spill: Some(Spill { open: Arc::new(open), required: true }), ..Limit::of(Most::Weights(bytes)) }
}

fn of_bytes(bytes: u64) -> Limit {
    faulty(bytes, |_| None)
}

fn residence(model: &Model) -> &Residence {
    model.networks()[0].residence().unwrap()
}

/// What all weights, keys and values take, and what one step uses of them.
fn counted(name: &str, context: usize, sequences: usize) -> Counted {
    match model(name, options(context, sequences, of_bytes(0))).ready() {
        Err(EngineError::Runtime(Error::Limit(residence::TooLow(counted)))) => counted,
        other => panic!("{other:?}"),
    }
}

fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|at| (at * 31 + 7) % 90).collect()
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best }) as u32
}

/// The bits of the logits of a prompt, and of each token of an answer of so many.
fn bits(engine: &mut Engine, prompt: &[u32], count: usize) -> Result<Vec<u32>, EngineError> {
    let mut logits = engine.feed(prompt, false)?;
    let mut all = Vec::new();
    for _ in 0..count {
        all.extend(logits.iter().map(|logit| logit.to_bits()));
        logits = engine.append(best(&logits))?;
    }
    Ok(all)
}

#[test]
fn keys_and_values_that_do_not_fit_go_to_the_swap_file_and_come_back() {
    let (name, context) = ("llama2-gqa-tiny", 2048);
    let all = counted(name, context, 1);
    println!("{all:?}");
    let engine = |memory| Engine::new(model(name, options(context, 1, memory)), None);
    let expected = bits(&mut engine(Limit::default()), &prompt(700), 40).unwrap();
    let mut spilling = engine(of_bytes(all.step));
    assert!(bits(&mut spilling, &prompt(700), 40).unwrap() == expected);
    let traffic = residence(spilling.model()).traffic();
    println!("{traffic:?}");
    assert!(traffic.bytes_written > 0, "{traffic:?}");
}
