//! Weights, keys and values that come and go in the memory of the mock device, which does nothing before somebody waits for it: what is
//! copied too early, or launched before a copy has ended, shows in the numbers.

use std::path::Path;
use std::sync::Arc;

use jtllm_models::Checkpoint;
use jtllm_runtime::Error;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::residence::{Limit, Most, Spill, Traffic};
use jtllm_runtime::swap::file::SwapFile;
use jtllm_runtime::swap::store::{MemoryStore, Store};
use jtllm_serve::place::Layers;
use jtllm_serve::{EngineError, LoadOptions, Model, Place};
use xtask::synthetic::Synthetic;

use crate::support::fixture;
use crate::tape::{count, decode, log, options};

/// A model, all of it on the device, within so many bytes of its memory.
fn within(path: &Path, limit: Option<u64>) -> Model {
    let place = Place { layers: Layers::All, memory: limit, ..Place::default() };
    let options = LoadOptions { place, ..options() };
    Model::load(Checkpoint::open(path).unwrap(), options, KernelCache::off("a test")).unwrap()
}

/// The logits of tokens one after another.
fn answer(model: &mut Model, tokens: usize) -> Vec<Vec<f32>> {
    (0..tokens).map(|position| model.pass(&decode(position), None).unwrap()).collect()
}

/// The most bytes that were allocated at once, as the driver counts.
fn peak(lines: &[String]) -> u64 {
    let sums = lines.iter().filter_map(|line| line.strip_prefix("alloc ")?.split(' ').nth(1)?.parse().ok());
    sums.max().unwrap_or(0)
}

/// What a limit leaves for weights beside all else, and what passes of that many tokens cost.
fn check(path: &Path, tokens: usize, weights: impl Fn(u64) -> u64) -> (u64, Traffic) {
    let mut free = within(path, None);
    let expected = answer(&mut free, tokens);
    let network = free.network().unwrap();
    let (all, rest) = (network.weights().copied_bytes, network.state_bytes() + network.buffer_bytes());
    drop(free);
    let before = log().len();
    // Inputs of the head and sizes are not among the buffers.
    let limit = rest + weights(all) + (256 << 10);
    let mut model = within(path, Some(limit));
    assert_eq!(answer(&mut model, tokens), expected);
    assert!(expected.iter().flatten().all(|x| x.is_finite()));
    let lines = log().split_off(before);
    let peak = peak(&lines);
    assert!(peak <= limit && peak > limit / 2, "{peak} of {limit}");
    // What has no place of its own cannot be recorded.
    assert_eq!((count(&lines, "capture "), count(&lines, "graph ")), (0, 0));
    (all, model.network().unwrap().residence().unwrap().traffic())
}

pub(crate) fn weights_come_and_go() {
    for name in ["llama2-gqa-tiny", "chatglm2-6b-tiny"] {
        let (all, traffic) = check(Path::new(&fixture(name)), 8, |all| all / 3);
        assert!(traffic.bytes_copied > 2 * all, "{name}: {traffic:?} of {all}");
    }
}

pub(crate) fn much_goes_through_little() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    Synthetic::of("chatglm2-100m", "bf16", None).unwrap().write(&file, &mut |_| {}).unwrap();
    let (all, traffic) = check(&file, 2, |_| 64 << 20);
    println!("{all} bytes, {traffic:?}");
    assert!(all > 180_000_000 && traffic.bytes_copied > 3 * all / 2, "{traffic:?} of {all}");
}

/// What the host may hold, and a swap file in memory.
fn spilling(most: Most) -> Limit {
    let open = || {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Vec::new()));
        Ok(SwapFile::over(Path::new("swap").into(), store, 1 << 40, Box::new(|| None)))
    };
    Limit { spill: Some(Spill { open: Arc::new(open), required: true }), ..Limit::of(most) }
}

pub(crate) fn keys_and_values_come_and_go() {
    for name in ["llama2-gqa-tiny", "chatglm2-6b-tiny"] {
        let load = |limit, memory| {
            let place = Place { layers: Layers::All, memory: limit, ..Place::default() };
            let options = LoadOptions { place, memory, context: 512, ..options() };
            let checkpoint = Checkpoint::open(Path::new(&fixture(name))).unwrap();
            Model::load(checkpoint, options, KernelCache::off("a test")).unwrap()
        };
        let expected = answer(&mut load(None, Limit::default()), 20);
        let low = match load(Some(1), spilling(Most::Unlimited)).ready() {
            Err(EngineError::Runtime(Error::Limit(low))) => low,
            other => panic!("{other:?}"),
        };
        let (limit, before) = (1 + low.missing(), log().len());
        let mut model = load(Some(limit), spilling(Most::Weights(low.0.step)));
        // As many plans as were counted.
        model.ready().unwrap();
        assert_eq!(answer(&mut model, 20), expected, "{name}");
        let traffic = model.network().unwrap().residence().unwrap().traffic();
        println!("{name}: {limit} of {}, {traffic:?}", low.0.rest() + low.0.all + low.0.paged);
        // What the host has no room for came down first.
        assert!(traffic.bytes_written > 0 && peak(&log().split_off(before)) <= limit, "{name}: {traffic:?}");
    }
}
