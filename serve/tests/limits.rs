//! Weights within a limit: the same bits as without one, whatever comes and goes, and whatever goes wrong.
#![allow(clippy::unwrap_used)]

#[path = "limits/faults.rs"]
mod faults;
#[path = "limits/files.rs"]
mod files;
#[path = "limits/packing.rs"]
mod packing;

use std::path::{Path, PathBuf};

use jtllm_models::Checkpoint;
use jtllm_models::image::Image;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::ir::DType;
use jtllm_runtime::packed::PackedFolder;
use jtllm_runtime::residence::{Counted, Limit, Most, RANGE_BYTES};
use jtllm_runtime::{Error, residence};
use jtllm_serve::{Backend, Caches, Engine, EngineError, LoadOptions, Model, Place};
use tempfile::TempDir;
use xtask::synthetic::Synthetic;

fn fixture(name: &str) -> PathBuf {
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

#[test]
fn the_interpreter_of_kernels_finds_nothing_read_beyond_what_is_lent() {
    let model = fixture("llama2-gqa-tiny");
    let caches = || KernelCache::off("a test");
    let open = |memory| {
        let backend = Backend::Interp(Box::new(Caps::vector(4)));
        let options = LoadOptions { backend, ..options(1, memory) };
        Engine::new(Model::load(Checkpoint::open(&model).unwrap(), options, caches()).unwrap(), None)
    };
    let tokens = [1, 95, 17, 60, 2];
    let expected = open(Limit::default()).feed(&tokens, false).unwrap();
    let mut limited = open(Limit::of(Most::Weights(200_000)));
    assert_eq!(limited.feed(&tokens, false).unwrap(), expected);
    assert!(limited.model().networks()[0].residence().unwrap().traffic().bytes_read > 600_000);
}

/// An engine whose packed weights are in `packed`.
fn engine(model: &Path, packed: &Path, threads: usize, memory: Limit) -> Engine {
    let caches =
        Caches { kernels: KernelCache::off("a test"), packed: PackedFolder::open(Some(packed.to_owned())) };
    let model = Model::load(Checkpoint::open(model).unwrap(), options(threads, memory), caches).unwrap();
    Engine::new(model, None)
}

/// The bits of the logits of a prompt, and of each token of an answer.
fn bits(engine: &mut Engine) -> Result<Vec<u32>, EngineError> {
    engine.clear();
    let prompt: Vec<u32> = (0..40).map(|at| (at * 31 + 7) % 90).collect();
    let mut logits = engine.feed(&prompt, false)?;
    let mut all = Vec::new();
    for _ in 0..6 {
        all.extend(logits.iter().map(|logit| logit.to_bits()));
        let best = (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best });
        logits = engine.append(best as u32)?;
    }
    Ok(all)
}

/// A limit on weights, of which a launch reads so many bytes where it can be cut.
fn of_weights(bytes: u64, range_bytes: u64) -> Limit {
    Limit { range_bytes, ..Limit::of(Most::Weights(bytes)) }
}

/// What a limit on weights leaves, or what is missing of it.
fn limited(model: &Path, packed: &Path, threads: usize, (bytes, range): (u64, u64)) -> Result<Vec<u32>, u64> {
    let mut engine = engine(model, packed, threads, of_weights(bytes, range));
    match bits(&mut engine) {
        Ok(bits) => {
            let residence = engine.model().networks()[0].residence().unwrap();
            let (counted, traffic) = (residence.counted().unwrap(), residence.traffic());
            let rest = counted.all.saturating_sub(residence.staying());
            assert!(traffic.bytes_read >= rest, "{traffic:?} {counted:?}");
            assert!(bytes >= counted.all || traffic.bytes_read > 5 * rest, "{traffic:?} {counted:?}");
            assert_eq!(traffic.passes, 7);
            Ok(bits)
        }
        Err(EngineError::Runtime(Error::Limit(low))) => Err(low.missing()),
        Err(error) => panic!("{}: {error}", model.display()),
    }
}

fn check(model: &Path, kind: &str) {
    check_cut(model, kind, RANGE_BYTES);
}

/// The same with launches that read so many bytes of weights where they can be cut.
fn check_cut(model: &Path, kind: &str, range: u64) {
    let folder = TempDir::new().unwrap();
    let packed = folder.path();
    let mut free = engine(model, packed, 1, Limit::default());
    let expected = bits(&mut free).unwrap();
    let network = free.model().networks()[0];
    assert!(network.residence().is_none());
    let weights = network.weights();
    let all = weights.adopted_bytes + weights.copied_bytes + weights.packed_bytes;
    drop(free);
    for threads in [1, 2] {
        for parts in [1, 2, 4, 8] {
            // Rounded up, a blob may take some pages more than its bytes.
            let most = (all + all / 4) / parts;
            let found = limited(model, packed, threads, (most, range)).or_else(|missing| {
                assert!(parts > 1, "{kind}: all weights do not fit");
                // One step reads as much, and not a byte less will do.
                limited(model, packed, threads, (most + missing - 1, range)).unwrap_err();
                limited(model, packed, threads, (most + missing, range))
            });
            assert!(found.unwrap() == expected, "{kind}, a part of {parts}, {threads} threads");
        }
    }
}

#[test]
fn s12_families_give_the_same_bits_within_any_limit() {
    let names = ["llama2-gqa-tiny", "chatglm-6b-tiny", "chatglm2-6b-tiny", "qwen3-tied-tiny"];
    names.iter().for_each(|name| check(&fixture(name), name));
    check(&fixture("rwkv-7-tiny").join("RWKV-7-tiny.pth"), "rwkv-7-tiny");
    check(&fixture("rwkv-4-tiny").join("RWKV-4-tiny.pth"), "rwkv-4-tiny");
}

/// A small LLaMA whose matrices are in an encoding.
fn synthetic(encoding: &str) -> (TempDir, PathBuf) {
    synthetic_as("llama-tiny", encoding, None)
}

fn synthetic_as(shape: &str, encoding: &str, layers: Option<u64>) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("model.gguf");
    Synthetic::of(shape, encoding, layers).unwrap().write(&file, &mut |_| {}).unwrap();
    (folder, file)
}

#[test]
fn s12_formats_give_the_same_bits_within_any_limit() {
    for encoding in ["bf16", "f32", "q4_0", "q8_0"] {
        let (_folder, file) = synthetic(encoding);
        check(&file, encoding);
    }
}

#[test]
fn s12_launches_that_are_cut_give_the_same_bits_within_any_limit() {
    for encoding in ["bf16", "f32", "q4_0", "q8_0"] {
        let (_folder, file) = synthetic(encoding);
        check_cut(&file, encoding, 4096);
    }
    // Gate and up in one matrix, heads of keys and values in one with those of queries.
    for name in ["chatglm2-6b-tiny", "qwen3-tied-tiny"] {
        check_cut(&fixture(name), name, 4096);
    }
}

/// What one step reads at the most, and what all weights take, where launches are cut so.
fn counted(model: &Path, packed: &Path, range: u64) -> residence::Counted {
    let mut engine = engine(model, packed, 1, of_weights(0, range));
    match engine.model_mut().ready() {
        Err(EngineError::Runtime(Error::Limit(residence::TooLow(counted)))) => counted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_matrix_that_is_longer_than_the_memory_goes_through_it_in_ranges() {
    let range = 512 << 10;
    for encoding in ["bf16", "q8_0"] {
        let (_folder, file) = synthetic_as("chatglm2-100m", encoding, Some(2));
        let packed = TempDir::new().unwrap();
        let expected = bits(&mut engine(&file, packed.path(), 1, Limit::default())).unwrap();
        let [whole, cut] = [u64::MAX, range].map(|range| counted(&file, packed.path(), range));
        println!("{encoding}: a step reads {} or {} of {}", whole.step, cut.step, cut.all);
        if encoding == "bf16" {
            // The head has 4096 rows of 512 numbers, 4 MiB. Each blob may take two blocks more.
            assert!(whole.step > 4 << 20 && cut.step < range + (32 << 10), "{whole:?} {cut:?}");
            assert!(cut.all < whole.all + whole.all / 50, "{whole:?} {cut:?}");
        } else {
            // Chunks that have hashes are longer than these ranges, and read whole.
            assert!(cut.all > whole.all && cut.step < 3 << 20, "{whole:?} {cut:?}");
        }
        for bytes in [cut.step, cut.step * 2] {
            let found = limited(&file, packed.path(), 1, (bytes, range));
            assert!(found.unwrap() == expected, "{encoding} in {bytes}");
        }
    }
}

#[test]
fn a_limit_for_the_whole_process_says_what_is_missing() {
    let (_folder, file) = synthetic("f32");
    let packed = TempDir::new().unwrap();
    let mut engine = engine(&file, packed.path(), 1, Limit::of(Most::Process(1_000_000)));
    let error = engine.model_mut().ready().unwrap_err();
    let EngineError::Runtime(Error::Limit(low)) = &error else { panic!("{error}") };
    let residence::TooLow(counted) = low;
    // With what is said to be missing it is enough, and with less it is not.
    let raised = |more: u64| Counted { limit: Most::Process(1_000_000 + more), ..counted.clone() };
    assert!(raised(low.missing()).left().is_ok());
    assert!(raised(low.missing() - 3).left().is_err());
    let text = error.to_string();
    assert!(text.contains("MB are missing") && text.contains("weights of one step"), "{text}");
}

#[test]
fn images_are_counted_while_a_conversation_has_them() {
    let packed = TempDir::new().unwrap();
    let memory = Limit::of(Most::Process(4_000_000_000));
    let mut engine = engine(&fixture("llava-1.5-tiny"), packed.path(), 1, memory);
    let buffers = |engine: &mut Engine| {
        engine.clear();
        engine.feed(&[1, 5, 9], false).unwrap();
        engine.model().networks()[0].residence().unwrap().counted().unwrap().own.buffers
    };
    let image = Image::black(64, 48);
    // The plans for images take buffers, too.
    engine.see(&image).unwrap();
    engine.show(&[]).unwrap();
    let none = buffers(&mut engine);
    let seen = [engine.see(&image).unwrap(), engine.see(&image).unwrap()];
    let mut with = |count: usize| {
        engine.show(&seen[..count]).unwrap();
        buffers(&mut engine) - none
    };
    let [one, two] = [1, 2].map(&mut with);
    // A vector for each token that stands for it.
    assert!(one > 0 && one % (seen[0].tokens() as u64 * 4) == 0 && two == 2 * one, "{one} {two}");
    engine.show(&[]).unwrap();
    assert_eq!(buffers(&mut engine), none);
}

#[test]
fn what_a_caller_takes_for_a_while_is_left_to_it_or_refused() {
    const LIMIT: u64 = 4_000_000_000;
    const TAKEN: u64 = 100_000_000;
    let packed = TempDir::new().unwrap();
    let memory = Limit::of(Most::Process(LIMIT));
    let mut engine = engine(&fixture("llama2-gqa-tiny"), packed.path(), 1, memory);
    let expected = bits(&mut engine).unwrap();
    let buffers =
        |engine: &Engine| engine.model().networks()[0].residence().unwrap().counted().unwrap().own.buffers;
    let read = |engine: &Engine| engine.model().networks()[0].residence().unwrap().traffic().bytes_read;
    let (none, before) = (buffers(&engine), read(&engine));
    let error = engine.make_room(LIMIT).unwrap_err();
    assert!(matches!(error, EngineError::Runtime(Error::Limit(_))), "{error}");
    assert_eq!(bits(&mut engine).unwrap(), expected);
    assert_eq!(buffers(&engine), none);
    engine.make_room(TAKEN).unwrap();
    assert_eq!(bits(&mut engine).unwrap(), expected);
    assert_eq!(buffers(&engine), none + TAKEN);
    engine.make_room(0).unwrap();
    assert_eq!(bits(&mut engine).unwrap(), expected);
    assert_eq!(buffers(&engine), none);
    // All of it fitted beside the weights, which stayed.
    assert_eq!(read(&engine), before);
}

#[test]
fn chunks_of_a_prompt_of_which_nobody_wants_logits_do_not_read_the_head() {
    let (_folder, file) = synthetic("bf16");
    let most = 60_000;
    let options = LoadOptions { context: 2176, ..options(1, Limit::of(Most::Weights(most))) };
    let model = Model::load(Checkpoint::open(&file).unwrap(), options, KernelCache::off("a test")).unwrap();
    let mut engine = Engine::new(model, None);
    let chunks = 4;
    let prompt: Vec<u32> = (0..512 * chunks as u32).map(|at| (at * 31 + 7) % 250).collect();
    engine.feed(&prompt, false).unwrap();
    let residence = engine.model().networks()[0].residence().unwrap();
    let (traffic, all) = (residence.traffic(), residence.counted().unwrap().all);
    // 320 rows of 64 numbers; its blob may take a page more.
    let head = 320 * 64 * 2;
    let wanted = chunks * (all - head) + head;
    println!("{traffic:?}, {all} bytes of weights");
    assert_eq!(traffic.passes, chunks);
    // What is read ahead for a pass that never begins fills the memory at most.
    assert!(traffic.bytes_read <= wanted + most, "{traffic:?}: {wanted} are wanted");
    assert!(wanted + most < chunks * all, "heads can be told");
}
