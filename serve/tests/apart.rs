//! Weights that come and go in a device's own memory: the same bits as when all are there, never more memory than the
//! limit, whatever comes late and whatever goes wrong.
#![allow(clippy::unwrap_used)]

#[path = "../../runtime/tests/late/mod.rs"]
mod late;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jtllm_models::{Checkpoint, arch};
use jtllm_runtime::Error;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::wgpu::{Adapter, Choice};
use jtllm_runtime::ir::DType;
use jtllm_runtime::packed::PackedFolder;
use jtllm_runtime::residence::{Counted, Limit, Most};
use jtllm_runtime::swap::fault::{Call, Fault, FaultStore};
use jtllm_runtime::swap::store::{Action, FileStore, Store};
use jtllm_serve::place::{Layers, Place, Way};
use jtllm_serve::{Backend, Caches, Engine, EngineError, LoadOptions, Model};
use late::{Late, Metered};
use tempfile::TempDir;
use xtask::synthetic::Synthetic;

/// A way to one device.
fn way(device: &Arc<Metered>) -> Way {
    let device: Arc<dyn Device> = device.clone();
    Way { backend: "wgpu", open: Arc::new(move |_, _| Ok(device.clone())), list: Vec::new }
}

/// Lengths of a memory.
const PIECES: [u64; 4] = [128 << 10, 160 << 10, 256 << 10, 1 << 20];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// A synthetic model.
fn synthetic(shape: &str, encoding: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("model.gguf");
    Synthetic::of(shape, encoding, None).unwrap().write(&file, &mut |_| {}).unwrap();
    (folder, file)
}

fn options(backend: Backend, limit: Option<u64>, memory: Limit) -> LoadOptions {
    LoadOptions {
        backend,
        place: Place { layers: Layers::All, memory: limit, ..Place::default() },
        threads: 1,
        context: 96,
        compute: Compute::Auto,
        keys: DType::F16,
        values: DType::F16,
        taps: false,
        sequences: 1,
        memory,
    }
}

/// A model on a device, with its packed weights in a folder.
struct Asked<'a> {
    model: &'a Path,
    packed: &'a Path,
    way: Way,
}

impl Asked<'_> {
    fn engine(&self, options: LoadOptions) -> Result<Engine, EngineError> {
        let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("apart-kernels");
        let caches = Caches {
            kernels: KernelCache::open(Some(kernels)),
            packed: PackedFolder::open(Some(self.packed.to_owned())),
        };
        let checkpoint = Checkpoint::open(self.model).unwrap();
        let architecture = arch::read(checkpoint.config()).unwrap().into();
        let ways = std::slice::from_ref(&self.way);
        let mut model = Model::by_ways(checkpoint, architecture, options, caches, ways)?;
        model.ready()?;
        Ok(Engine::new(model, None))
    }

    fn limited(&self, limit: u64, host: Limit) -> Result<Engine, EngineError> {
        self.engine(options(Backend::Wgpu, Some(limit), host))
    }
}

/// The bits of the logits of a prompt, and of each token of an answer.
fn bits(engine: &mut Engine, tokens: usize) -> Result<Vec<u32>, EngineError> {
    engine.clear();
    let prompt: Vec<u32> = (0..40).map(|at| (at * 31 + 7) % 90).collect();
    let mut logits = engine.feed(&prompt, false)?;
    let mut all = Vec::new();
    for _ in 0..tokens {
        all.extend(logits.iter().map(|logit| logit.to_bits()));
        let best = (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best });
        logits = engine.append(best as u32)?;
    }
    Ok(all)
}

/// What is missing of a device's limit.
fn missing(error: EngineError) -> (u64, Counted) {
    match error {
        EngineError::Runtime(Error::Limit(low)) => (low.missing(), low.0),
        error => panic!("{error}"),
    }
}

/// The least limit under which a model runs, and what is counted under it.
fn least(asked: &Asked<'_>) -> (u64, Counted) {
    let (bytes, counted) = missing(asked.limited(1, Limit::default()).err().unwrap());
    (1 + bytes, counted)
}

/// Runs a model within limits from the least to one that has room for all of it.
fn check(model: &Path, kind: &str) {
    let folder = TempDir::new().unwrap();
    let packed = folder.path();
    let free = Asked { model, packed, way: way(&Metered::new(Late::device())) };
    let expected =
        bits(&mut free.engine(options(Backend::Wgpu, None, Limit::default())).unwrap(), 6).unwrap();
    let (least, counted) = least(&Asked { model, packed, way: way(&Metered::new(Late::device())) });
    let whole = counted.rest() + counted.all;
    for limit in [least, least + (whole - least) / 3, least + (whole - least) / 2] {
        for host in [Most::Unlimited, Most::Weights(counted.all / 2)] {
            let late = Metered::new(Late::device());
            let asked = Asked { model, packed, way: way(&late) };
            let mut engine = asked.limited(limit, Limit::of(host)).unwrap();
            if !engine.model().placement().to_string().contains("the late device within") {
                // Counted before plans were made, all fits: fewer of them are made then.
                assert!(limit > least, "{kind}");
                continue;
            }
            assert!(bits(&mut engine, 6).unwrap() == expected, "{kind}: {limit} of {whole}, {host:?}");
            let residence = engine.model().networks()[0].residence().unwrap();
            let (traffic, peak) = (residence.traffic(), late.peak());
            assert!(peak <= limit && peak > limit / 2, "{kind}: {peak} of {limit}");
            // At the least each pass copies what there is no room for.
            let coming = counted.all - (limit - counted.rest());
            let part = engine.model().memory().unwrap().streamed as f64 / counted.all as f64;
            let least = 3.0 * part * coming as f64;
            assert!(traffic.bytes_copied as f64 > least, "{kind}: {traffic:?}, {coming} have no room");
            assert_eq!(traffic.passes, 7);
            drop(engine);
            assert_eq!(late.meter.now.load(Ordering::SeqCst), 0);
        }
    }
    let late = Metered::new(Late::device());
    let asked = Asked { model, packed, way: way(&late) };
    assert_eq!(missing(asked.limited(least - 1, Limit::default()).err().unwrap()).0, 1);
}

#[test]
fn families_give_the_same_bits_within_any_limit_of_a_device() {
    let names = ["llama2-gqa-tiny", "chatglm-6b-tiny", "chatglm2-6b-tiny", "qwen3-tied-tiny"];
    names.iter().for_each(|name| check(&fixture(name), name));
    check(&fixture("rwkv-7-tiny").join("RWKV-7-tiny.pth"), "rwkv-7-tiny");
}

#[test]
fn formats_give_the_same_bits_within_any_limit_of_a_device() {
    for encoding in ["bf16", "f32", "q4_0", "q8_0"] {
        let (_folder, file) = synthetic("llama-tiny", encoding);
        check(&file, encoding);
    }
}

/// Memory that can only be had in pieces, of which one holds the longest weight.
#[test]
fn memory_in_pieces_is_as_good_as_memory_as_a_whole() {
    let model = fixture("llama2-gqa-tiny");
    let packed = TempDir::new().unwrap();
    let whole = Asked { model: &model, packed: packed.path(), way: way(&Metered::new(Late::device())) };
    let free = || whole.engine(options(Backend::Wgpu, None, Limit::default())).unwrap();
    let expected = bits(&mut free(), 6).unwrap();
    let (least, counted) = least(&whole);
    let longest = PIECES.iter().filter(|piece| **piece >= counted.step);
    for piece in longest {
        let late = Metered::in_pieces(Late::device(), *piece);
        let asked = Asked { way: way(&late), ..whole };
        let limit = least + counted.all / 2;
        let mut engine = asked.limited(limit, Limit::default()).unwrap();
        assert!(bits(&mut engine, 6).unwrap() == expected, "pieces of {piece}");
        assert!(late.peak() <= limit);
    }
}

/// Lets one read fail: the one before which a counter, which is none below 0, has come to 0.
fn failing_read(left: &Arc<AtomicI64>) -> Limit {
    let left = left.clone();
    let script = move |call: Call| {
        let is_now = call.action == Action::Read && left.fetch_sub(1, Ordering::Relaxed) == 0;
        is_now.then_some(Fault::Error(std::io::ErrorKind::Other))
    };
    let open = move |path: &Path| {
        let store = FaultStore::new(FileStore::open(path)?, script.clone());
        Ok(Arc::new(store) as Arc<dyn Store>)
    };
    Limit { open: Arc::new(open), ..Limit::of(Most::Weights(200_000)) }
}

#[test]
fn a_read_that_fails_on_its_way_to_a_device_ends_the_answer_and_the_next_one_is_right() {
    let (_folder, file) = synthetic("llama-tiny", "bf16");
    let packed = TempDir::new().unwrap();
    let asked = Asked { model: &file, packed: packed.path(), way: way(&Metered::new(Late::device())) };
    let expected = bits(&mut asked.limited(least(&asked).0, Limit::default()).unwrap(), 6).unwrap();
    let left = Arc::new(AtomicI64::new(-1));
    let mut engine = asked.limited(least(&asked).0, failing_read(&left)).unwrap();
    let mut failed = 0;
    for number in 0..40 {
        left.store(number, Ordering::Relaxed);
        match bits(&mut engine, 6) {
            Ok(bits) => assert!(bits == expected, "read {number}"),
            Err(EngineError::Runtime(Error::Swap(_) | Error::File { .. })) => failed += 1,
            Err(error) => panic!("read {number}: {error}"),
        }
        left.store(-1, Ordering::Relaxed);
        assert!(bits(&mut engine, 6).unwrap() == expected, "after read {number}");
    }
    assert!(failed > 10, "{failed}");
}

#[test]
fn a_device_that_refuses_memory_or_copies_is_an_error_or_left() {
    let model = fixture("llama2-gqa-tiny");
    let packed = TempDir::new().unwrap();
    let asked = |late: &Arc<Metered>| Asked { model: &model, packed: packed.path(), way: way(late) };
    let (limit, _) = least(&asked(&Metered::new(Late::device())));
    let run = |late: &Arc<Metered>, backend| {
        let mut engine = asked(late).engine(options(backend, Some(limit), Limit::default()))?;
        let tokens = bits(&mut engine, 3)?.len();
        Ok((tokens, engine.model().placement().device.is_some()))
    };
    let late = Metered::new(Late::device());
    let (tokens, _) = run(&late, Backend::Wgpu).unwrap();
    let allocs = i64::MAX - late.allocs_left.load(Ordering::SeqCst);
    let fills = i64::MAX - late.fills_left.load(Ordering::SeqCst);
    let after = |count: i64| (0..count).filter(move |n| n % (count / 8 + 1) == 0 || *n == count - 1);
    let allocs = after(allocs).map(|n| (n, i64::MAX));
    // What is copied last is for a token that nobody asks for.
    for (allocs, fills) in allocs.chain(after(fills / 2).map(|n| (i64::MAX, n))) {
        let ill = || {
            let late = Metered::new(Late::device());
            late.allocs_left.store(allocs, Ordering::SeqCst);
            late.fills_left.store(fills, Ordering::SeqCst);
            late
        };
        let error = run(&ill(), Backend::Wgpu).expect_err("the device fails");
        let is_typed = matches!(&error, EngineError::Runtime(Error::Device(_)));
        assert!(is_typed && error.to_string().contains("the late device"), "{allocs} {fills}: {error}");
        let (found, is_there) = run(&ill(), Backend::Auto).unwrap();
        assert_eq!((found, is_there), (tokens, false));
    }
}

/// On Mesa's software driver, say: copies and launches share its queue.
#[test]
fn weights_of_195_mb_go_through_64_mb_of_an_adapter() {
    let adapter: Arc<dyn Device> = match Adapter::open(&Choice::default()) {
        Ok(adapter) => Arc::new(adapter),
        Err(why) => return println!("skipped: wgpu: {why}"),
    };
    let (_folder, model) = synthetic("chatglm2-100m", "bf16");
    let packed = TempDir::new().unwrap();
    let metered = Metered::new(adapter);
    let asked = Asked { model: &model, packed: packed.path(), way: way(&metered) };
    let free = || asked.engine(options(Backend::Wgpu, None, Limit::default())).unwrap();
    let expected = bits(&mut free(), 2).unwrap();
    println!("{} bytes without a limit", metered.peak());
    let (_, counted) = least(&asked);
    let limit = counted.rest() + (64 << 20);
    metered.meter.peak.store(0, Ordering::SeqCst);
    let mut engine = asked.limited(limit, Limit::default()).unwrap();
    assert!(bits(&mut engine, 2).unwrap() == expected);
    let traffic = engine.model().networks()[0].residence().unwrap().traffic();
    println!("{} bytes within {limit}, {counted:?}, {traffic:?}", metered.peak());
    assert!(metered.peak() <= limit);
    assert!(counted.all > 180_000_000 && traffic.bytes_copied > 350_000_000, "{traffic:?}");
}
