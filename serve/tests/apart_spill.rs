//! Keys and values that leave a device's own memory for the host's and a swap file, and come back: the same bits as when
//! all are there, never more memory than the limit, whatever comes late and whatever goes wrong.
#![allow(clippy::unwrap_used)]

#[path = "../../runtime/tests/late/mod.rs"]
mod late;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jtllm_models::{Checkpoint, arch};
use jtllm_runtime::Error;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::wgpu::{Adapter, Choice};
use jtllm_runtime::ir::DType;
use jtllm_runtime::packed::PackedFolder;
use jtllm_runtime::residence::{Counted, Limit, Most, Residence, Spill, Traffic};
use jtllm_runtime::swap::file::SwapFile;
use jtllm_runtime::swap::store::{MemoryStore, Store};
use jtllm_serve::place::{Layers, Place, Way};
use jtllm_serve::{Backend, Caches, Engine, EngineError, LoadOptions, Model};
use late::{Late, Metered};
use tempfile::TempDir;

/// What the host may hold, and a swap file in memory.
fn spilling(most: Most) -> Limit {
    let open = || {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Vec::new()));
        Ok(SwapFile::over(Path::new("swap").into(), store, 1 << 40, Box::new(|| None)))
    };
    Limit { spill: Some(Spill { open: Arc::new(open), required: true }), ..Limit::of(most) }
}

/// A fixture on a device, and a folder for what is packed of it.
struct Asked<'a> {
    name: &'a str,
    packed: &'a Path,
    device: Arc<Metered>,
    context: usize,
    layers: Layers,
}

impl Asked<'_> {
    fn engine(&self, limit: Option<u64>, memory: Limit, backend: Backend) -> Result<Engine, EngineError> {
        let options = LoadOptions {
            backend,
            place: Place { layers: self.layers, memory: limit, ..Place::default() },
            threads: 1,
            context: self.context,
            compute: Compute::Auto,
            keys: DType::F16,
            values: DType::F16,
            taps: false,
            sequences: 1,
            memory,
        };
        let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("apart-kernels");
        let caches = Caches {
            kernels: KernelCache::open(Some(kernels)),
            packed: PackedFolder::open(Some(self.packed.to_owned())),
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(self.name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let architecture = arch::read(checkpoint.config()).unwrap().into();
        let device: Arc<dyn Device> = self.device.clone();
        let open = Arc::new(move |_, _| Ok(device.clone()));
        let ways = [Way { backend: "wgpu", open, list: Vec::new }];
        let mut model = Model::by_ways(checkpoint, architecture, options, caches, &ways)?;
        model.ready()?;
        Ok(Engine::new(model, None))
    }

    fn limited(&self, limit: u64, memory: Limit) -> Result<Engine, EngineError> {
        self.engine(Some(limit), memory, Backend::Wgpu)
    }

    /// The least limit under which it runs if keys and values may leave, and what is counted under it.
    fn least(&self) -> (u64, Counted) {
        match self.limited(1, spilling(Most::Unlimited)).err().unwrap() {
            EngineError::Runtime(Error::Limit(low)) => (1 + low.missing(), low.0),
            error => panic!("{error}"),
        }
    }
}

fn asked<'a>(name: &'a str, packed: &'a TempDir, device: Arc<dyn Device>) -> Asked<'a> {
    let device = Metered::new(device);
    Asked { name, packed: packed.path(), device, context: 1024, layers: Layers::All }
}

fn residence(engine: &Engine) -> Option<&Residence> {
    let networks = engine.model().networks();
    networks.into_iter().find(|network| !network.device().is_host())?.residence()
}

fn traffic(engine: &Engine) -> Traffic {
    residence(engine).unwrap().traffic()
}

/// The bits of the logits of a conversation of turns of so many tokens, each with an answer of so many.
fn bits(engine: &mut Engine, turns: &[u32], answer: usize) -> Result<Vec<u32>, EngineError> {
    engine.clear();
    let mut all = Vec::new();
    for (turn, count) in turns.iter().enumerate() {
        let mut held = engine.held().to_vec();
        held.extend((0..*count).map(|at| (at * 17 + turn as u32 * 5 + 3) % 90));
        let mut logits = engine.feed(&held, false)?;
        for _ in 0..answer {
            all.extend(logits.iter().map(|logit| logit.to_bits()));
            let best =
                (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best });
            logits = engine.append(best as u32)?;
        }
    }
    Ok(all)
}

#[test]
fn keys_and_values_leave_a_device_and_come_back() {
    let packed = TempDir::new().unwrap();
    for name in ["llama2-gqa-tiny", "chatglm-6b-tiny", "chatglm2-6b-tiny", "qwen3-tied-tiny"] {
        let free = asked(name, &packed, Late::device());
        let mut engine = free.engine(None, Limit::default(), Backend::Wgpu).unwrap();
        let expected = bits(&mut engine, &[200, 60], 6).unwrap();
        let (least, counted) = free.least();
        let all = counted.all + counted.paged;
        let host = |parts: u64| Most::Weights((all / parts).max(counted.step));
        for limit in [least, least + all / 4, least + all / 2] {
            for most in [Most::Unlimited, host(2), host(4)] {
                let late = asked(name, &packed, Late::device());
                let mut engine = late.limited(limit, spilling(most)).unwrap();
                let Some(residence) = residence(&engine) else {
                    // Counted before plans were made, all fits: fewer of them are made then.
                    assert!(limit > least, "{name}");
                    continue;
                };
                assert!(residence.spills() && residence.counted_apart().unwrap().own.cache == 0);
                for round in 0..2 {
                    let found = bits(&mut engine, &[200, 60], 6).unwrap();
                    assert!(found == expected, "{name}: {limit}, {most:?}, round {round}");
                }
                let (peak, traffic) = (late.device.peak(), traffic(&engine));
                println!("{name}: {limit} of {}, {most:?}: {traffic:?}", counted.rest() + all);
                assert!(peak <= limit, "{name}: {peak} of {limit}");
                // Weights go up, and keys and values down as well.
                let fetched = i64::MAX - late.device.fetches_left.load(Ordering::SeqCst);
                assert!(limit > least || fetched > 10, "{name}: {fetched} fetched");
                // Nothing is read of the disk again that the host has room for.
                let once = 2 * counted.all + traffic.bytes_written;
                assert!(most != Most::Unlimited || traffic.bytes_read <= once, "{name}: {traffic:?}");
                drop(engine);
                assert_eq!(late.device.meter.now.load(Ordering::SeqCst), 0);
            }
        }
        let refused = free.limited(least - 1, spilling(Most::Unlimited)).err().unwrap();
        assert!(refused.to_string().starts_with("0.1 MB are missing on the device"), "{refused}");
    }
}

#[test]
fn a_conversation_grows_over_what_a_device_has_room_for() {
    let (name, turns) = ("llama2-gqa-tiny", [700, 900, 1300]);
    let packed = TempDir::new().unwrap();
    let ask = |device| Asked { context: 4096, ..asked(name, &packed, device) };
    let free = ask(Late::device());
    let mut engine = free.engine(None, Limit::default(), Backend::Wgpu).unwrap();
    let expected = bits(&mut engine, &turns, 4).unwrap();
    let (least, _) = free.least();
    for most in [Most::Unlimited, Most::Weights(free.least().1.step)] {
        let late = ask(Late::device());
        let mut engine = late.limited(least, spilling(most)).unwrap();
        assert!(bits(&mut engine, &turns, 4).unwrap() == expected, "{most:?}");
        let traffic = traffic(&engine);
        assert!(traffic.bytes_written > 0 && late.device.peak() <= least, "{traffic:?}");
        engine.clear();
        assert_eq!(residence(&engine).unwrap().traffic().swap_bytes, 0);
    }
}

/// The processor has one part of the model, the device the other; both may spill.
#[test]
fn a_part_of_the_layers_spills_too() {
    let packed = TempDir::new().unwrap();
    let ask = || Asked { layers: Layers::Count(2), ..asked("llama2-gqa-tiny", &packed, Late::device()) };
    let free = ask();
    let expected = bits(&mut free.engine(None, Limit::default(), Backend::Wgpu).unwrap(), &[300], 6).unwrap();
    let (least, _) = free.least();
    let late = ask();
    let mut engine = late.limited(least, spilling(Most::Unlimited)).unwrap();
    assert!(bits(&mut engine, &[300], 6).unwrap() == expected);
    let fetched = i64::MAX - late.device.fetches_left.load(Ordering::SeqCst);
    assert!(fetched > 5 && late.device.peak() <= least, "{fetched} fetched");
}

#[test]
fn a_device_that_is_lost_on_the_way_down_is_an_error_or_left() {
    let (name, turns) = ("llama2-gqa-tiny", [200]);
    let packed = TempDir::new().unwrap();
    let run = |backend, fills: i64, fetches: i64| {
        let late = asked(name, &packed, Late::device());
        late.device.fills_left.store(fills, Ordering::SeqCst);
        late.device.fetches_left.store(fetches, Ordering::SeqCst);
        let (limit, _) = asked(name, &packed, Late::device()).least();
        let mut engine = late.engine(Some(limit), spilling(Most::Unlimited), backend)?;
        let count = bits(&mut engine, &turns, 3)?.len();
        let left =
            [&late.device.fills_left, &late.device.fetches_left].map(|left| left.load(Ordering::SeqCst));
        Ok((count, engine.model().placement().device.is_some(), left))
    };
    let (tokens, _, [fills, fetches]) = run(Backend::Wgpu, i64::MAX, i64::MAX).unwrap();
    let (fills, fetches) = (i64::MAX - fills, i64::MAX - fetches);
    assert!(fetches > 10, "{fetches}");
    // What is copied last is for a token that nobody asks for.
    let some = |count: i64| (0..count / 2).step_by((count / 12).max(1) as usize);
    let ill = some(fills).map(|at| (at, i64::MAX)).chain(some(fetches).map(|at| (i64::MAX, at)));
    for (fills, fetches) in ill {
        let error: EngineError = run(Backend::Wgpu, fills, fetches).expect_err("the device fails");
        let is_typed = matches!(&error, EngineError::Runtime(Error::Device(_)));
        assert!(is_typed && error.to_string().contains("the late device"), "{fills} {fetches}: {error}");
        let (found, is_there, _) = run(Backend::Auto, fills, fetches).unwrap();
        assert_eq!((found, is_there), (tokens, false), "{fills} {fetches}");
    }
}

#[test]
fn a_limit_of_a_device_says_where_a_swap_file_would_help() {
    let packed = TempDir::new().unwrap();
    let late = Asked { context: 65536, ..asked("llama2-gqa-tiny", &packed, Late::device()) };
    let (least, counted) = late.least();
    assert!(counted.paged > counted.all, "{counted:?}");
    let error = late.limited(least + 1_000_000, Limit::default()).err().unwrap().to_string();
    assert!(error.ends_with("; with --kv-spill keys and values may go to disk, and it would fit"), "{error}");
    // Where nothing comes and goes on the device it is refused.
    let refused = late.engine(None, spilling(Most::Unlimited), Backend::Wgpu).err().unwrap();
    assert!(matches!(refused, EngineError::CannotSpill(_)), "{refused}");
}

/// On Mesa's software driver, say: copies and launches share its queue.
#[test]
fn keys_and_values_leave_an_adapter_and_come_back() {
    let adapter: Arc<dyn Device> = match Adapter::open(&Choice::default()) {
        Ok(adapter) => Arc::new(adapter),
        Err(why) => return println!("skipped: wgpu: {why}"),
    };
    let packed = TempDir::new().unwrap();
    for name in ["llama2-gqa-tiny", "chatglm2-6b-tiny"] {
        let free = asked(name, &packed, adapter.clone());
        let mut engine = free.engine(None, Limit::default(), Backend::Wgpu).unwrap();
        let expected = bits(&mut engine, &[200, 60], 4).unwrap();
        let (least, counted) = free.least();
        for most in [Most::Unlimited, Most::Weights(counted.step)] {
            let limited = asked(name, &packed, adapter.clone());
            let mut engine = limited.limited(least, spilling(most)).unwrap();
            assert!(bits(&mut engine, &[200, 60], 4).unwrap() == expected, "{name}: {most:?}");
            let fetched = i64::MAX - limited.device.fetches_left.load(Ordering::SeqCst);
            assert!(limited.device.peak() <= least && fetched > 5, "{name}: {fetched} fetched");
        }
    }
}
