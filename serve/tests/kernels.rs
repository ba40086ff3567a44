//! What is compiled, and when.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use jtllm_models::Checkpoint;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::ir::DType;
use jtllm_runtime::network::{Bucket, Part};
use jtllm_runtime::residence::Limit;
use jtllm_runtime::trace::Trace;
use jtllm_serve::{Backend, Engine, LoadOptions, Model, Place};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn options(context: usize, taps: bool) -> LoadOptions {
    LoadOptions {
        backend: Backend::Cpu,
        place: Place::default(),
        threads: 2,
        context,
        compute: Compute::Auto,
        keys: DType::F16,
        values: DType::F16,
        taps,
        sequences: 1,
        memory: Limit::default(),
    }
}

fn engine(name: &str, cache: KernelCache, taps: bool) -> Engine {
    let options = options(256, taps);
    Engine::new(Model::load(Checkpoint::open(&fixture(name)).unwrap(), options, cache).unwrap(), None)
}

fn prompt(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 31 + 7) % 250).collect()
}

#[test]
fn nothing_is_compiled_after_the_second_token() {
    let mut engine = engine("llama2-gqa-tiny", KernelCache::off("a test"), false);
    let tokens = prompt(256);
    engine.feed(&tokens[..20], false).unwrap();
    engine.feed(&tokens[..21], false).unwrap();
    let emitted = engine.model().network().unwrap().compiled.emitted;
    for len in 22..=256 {
        engine.feed(&tokens[..len], false).unwrap();
    }
    engine.clear();
    engine.feed(&tokens[..200], false).unwrap();
    assert_eq!(engine.model().network().unwrap().compiled.emitted, emitted);
}

#[test]
fn a_layer_is_at_most_twelve_kernels_and_a_model_at_most_twenty() {
    let mut engine = engine("llama2-gqa-tiny", KernelCache::off("a test"), false);
    engine.feed(&prompt(1), false).unwrap();
    let network = engine.model().network().unwrap();
    let (body, head) = (
        network.plan(Part::Body, Bucket::Fixed(1)).unwrap(),
        network.plan(Part::Head, Bucket::Fixed(1)).unwrap(),
    );
    // Before the three layers: the position as a float, its cosines and its sines.
    assert!(body.step_count() <= 3 + 3 * 12, "{} steps", body.step_count());
    let kernels = body.compilation.kernels.len() + head.compilation.kernels.len();
    assert!(kernels <= 20, "{kernels} kernels");
}

#[test]
fn taps_change_no_bit() {
    let [plain, tapped] = [false, true].map(|taps| {
        let mut engine = engine("mistral-swa-tiny", KernelCache::off("a test"), taps);
        let mut logits = engine.feed(&prompt(33), true).unwrap();
        logits.extend(engine.feed(&prompt(34), false).unwrap());
        logits.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    });
    assert_eq!(plain, tapped);
}

#[test]
fn a_second_start_compiles_nothing_and_a_damaged_kernel_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let mut engine = engine("llama2-gqa-tiny", KernelCache::open(Some(folder.path().to_owned())), false);
        let mut logits = engine.feed(&prompt(20), false).unwrap();
        logits.extend(engine.feed(&prompt(21), false).unwrap());
        (logits, engine.model().network().unwrap().compiled)
    };
    let (first, cold) = start();
    assert!(cold.emitted > 0 && cold.cached == 0);
    let (second, warm) = start();
    assert_eq!((warm.emitted, warm.cached), (0, cold.emitted));
    assert_eq!(first, second);
    let damaged = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&damaged).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let (third, repaired) = start();
    assert_eq!((repaired.emitted, repaired.cached), (1, cold.emitted - 1));
    assert_eq!(first, third);
}

/// What a target can bind is no part of a kernel's key: a kept kernel is asked for it like any other.
#[test]
fn kept_kernels_bind_no_more_than_the_target_can() {
    let folder = tempfile::tempdir().unwrap();
    let load = |max_bindings| {
        let backend = Backend::Interp(Box::new(Caps { max_bindings, ..Caps::threads(32) }));
        let options = LoadOptions { backend, ..options(64, false) };
        let checkpoint = Checkpoint::open(&fixture("rwkv-7-tiny")).unwrap();
        let cache = KernelCache::open(Some(folder.path().to_owned()));
        let mut model = Model::load(checkpoint, options, cache)?;
        model.ready().map(|()| model.network().unwrap().compiled.cached)
    };
    assert_eq!(load(64).unwrap(), 0);
    assert!(load(64).unwrap() > 0);
    let refused = load(8).unwrap_err().to_string();
    assert!(refused.contains("buffers at a time, the target has 8"), "{refused}");
}

#[test]
fn a_context_beyond_all_positions_is_refused() {
    for context in [(1 << 20) + 1, usize::MAX / 2, usize::MAX] {
        let model =
            Model::load(Checkpoint::demo().unwrap(), options(context, false), KernelCache::off("a test"));
        let error = model.err().unwrap().to_string();
        assert!(error.contains("at most 1048576"), "{error}");
    }
}

#[test]
fn t07_tokens_outside_of_the_vocabulary_are_refused() {
    let mut engine = engine("llama2-gqa-tiny", KernelCache::off("a test"), false);
    let vocabulary = engine.model().architecture().vocabulary() as u32;
    for id in [vocabulary, vocabulary + 1, u32::MAX] {
        let error = engine.feed(&[1, id, 2], false).unwrap_err();
        let expected = format!("token {id} does not exist: the vocabulary has {vocabulary}");
        assert_eq!(error.to_string(), expected);
        assert!(engine.held().is_empty(), "nothing of the prompt is computed");
    }
    assert!(engine.feed(&[1, vocabulary - 1, 2], false).is_ok());
}

/// Bytes of the weights that a pass of RWKV is given.
fn given_in_a_pass(engine: &Engine) -> u64 {
    let times = |name: &str| match name {
        // Of the embedding only the rows of tokens.
        "emb.weight" | "rwkv.embeddings.weight" => 0,
        // Version 6 keeps five matrices in one tensor; five kernels read one each.
        name if name.ends_with("att.time_maa_w2") => 5,
        // Version 7 mixes the first layer's values into later ones; the first layer has nothing to mix in.
        name if name.starts_with("blocks.0.att.v") && name.len() == "blocks.0.att.v0".len() => 0,
        _ => 1,
    };
    let tensors = engine.model().checkpoint().tensors();
    tensors.map(|tensor| times(&tensor.name) * tensor.pieces.iter().map(|piece| piece.len).sum::<u64>()).sum()
}

#[test]
fn a_chunk_of_an_rwkv_prompt_reads_each_weight_byte_once() {
    for name in
        ["rwkv-4-tiny", "rwkv-4-tiny/hf", "rwkv-5-tiny", "rwkv-5.2-tiny", "rwkv-6-tiny", "rwkv-7-tiny"]
    {
        let mut engine = engine(name, KernelCache::off("a test"), false);
        let weights = given_in_a_pass(&engine);
        let mut traced = |tokens: &[u32]| {
            engine.trace = Some(Trace::default());
            engine.feed(tokens, false).unwrap();
            engine.trace.take().unwrap().weight_bytes()
        };
        let tokens = prompt(200);
        assert_eq!(traced(&tokens[..192]), weights, "{name}: 192 tokens in one chunk");
        let one_by_one: u64 = (193..=200).map(|len| traced(&tokens[..len])).sum();
        assert_eq!(one_by_one, 8 * weights, "{name}: 8 tokens one by one");
    }
}

/// Operations and bytes of a trace against the sums that one does by hand.
#[test]
fn operations_and_bytes_are_those_of_the_model() {
    let mut engine = engine("llama2-gqa-tiny", KernelCache::off("a test"), false);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture("llama2-gqa-tiny").join("config.json")).unwrap())
            .unwrap();
    let number = |name: &str| config[name].as_u64().unwrap();
    let (hidden, inner, layers) =
        (number("hidden_size"), number("intermediate_size"), number("num_hidden_layers"));
    let (heads, groups) = (number("num_attention_heads"), number("num_key_value_heads"));
    let width = hidden / heads;
    let a_row = layers * (2 * hidden * hidden + 2 * hidden * groups * width + 3 * hidden * inner);
    let head = hidden * number("vocab_size");
    let mut traced = |held: usize, len: usize| {
        engine.clear();
        if held > 0 {
            engine.feed(&prompt(held as u32), false).unwrap();
        }
        engine.trace = Some(Trace::default());
        engine.feed(&prompt(len as u32), false).unwrap();
        engine.trace.take().unwrap()
    };
    let rows_of_tile = |rows: u64| if rows == 1 { 1 } else { rows.next_multiple_of(16) };
    for (held, len) in [(0, 48), (0, 1), (40, 41), (32, 50)] {
        let trace = traced(held as usize, len as usize);
        let sum = |of: &dyn Fn(&jtllm_runtime::trace::Entry) -> u64| -> u64 {
            trace.entries().into_iter().map(of).sum()
        };
        let seen: u64 = (held + 1..=len).sum();
        let attention = layers * heads * 2 * width * seen;
        let products = rows_of_tile(len - held) * a_row + head;
        let operations = sum(&|entry| entry.operations.values().sum());
        assert_eq!(operations, 2 * (products + attention), "{held} to {len}");
        // Keys and values of f16: each layer writes the new ones and reads all.
        let each = 2 * groups * width * 2 * layers;
        assert_eq!(sum(&|entry| entry.state_bytes), each * (len + (len - held)), "{held} to {len}");
        assert!(sum(&|entry| entry.bytes) > sum(&|entry| entry.weight_bytes + entry.state_bytes));
        assert!(trace.entries().iter().any(|entry| entry.name.ends_with("mlp.down_proj")));
    }
}
