//! Keys and values that leave memory for a swap file and come back: the same bits as without a limit, whatever the limit.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use jtllm_models::Checkpoint;
use jtllm_models::sample::{Sampler, Sampling};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::ir::DType;
use jtllm_runtime::residence::{Counted, Limit, Most, Residence, Spill, Traffic};
use jtllm_runtime::swap::SwapError;
use jtllm_runtime::swap::error::Asked;
use jtllm_runtime::swap::fault::{Call, Fault, FaultStore};
use jtllm_runtime::swap::file::{SUM_BYTES, SwapFile};
use jtllm_runtime::swap::os;
use jtllm_runtime::swap::store::{Action, MemoryStore, Store};
use jtllm_runtime::{Error, residence};
use jtllm_serve::{
    Backend, Engine, EngineError, LoadOptions, Lookup, Model, Place, Request, Speculation, Together,
};

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

/// A conversation of turns of so many tokens, each with an answer of ten: the bits of all of them.
fn conversation(engine: &mut Engine, turns: &[u32]) -> Result<Vec<u32>, EngineError> {
    engine.clear();
    let (mut all, mut held) = (Vec::new(), Vec::new());
    for (turn, count) in turns.iter().enumerate() {
        held.extend((0..*count).map(|at| (at * 17 + turn as u32 * 5 + 3) % 90));
        all.extend(bits(engine, &held, 10)?);
        held = engine.held().to_vec();
    }
    Ok(all)
}

fn engine(name: &str, context: usize, memory: Limit) -> Engine {
    let mut model = model(name, options(context, 1, memory));
    model.ready().unwrap();
    Engine::new(model, None)
}

fn traffic(engine: &Engine) -> Traffic {
    residence(engine.model()).traffic()
}

#[test]
fn keys_and_values_that_do_not_fit_go_to_the_swap_file_and_come_back() {
    for name in ["llama2-gqa-tiny", "chatglm-6b-tiny", "chatglm2-6b-tiny", "qwen3-tied-tiny"] {
        let context = 1024;
        let counted = counted(name, context, 1);
        let mut free = engine(name, context, Limit::default());
        let expected = bits(&mut free, &prompt(300), 30).unwrap();
        let all = counted.all + counted.paged;
        for most in [counted.step, all / 4, all / 2, all - all / 8, all] {
            let mut spilling = engine(name, context, of_bytes(most.max(counted.step)));
            assert!(
                bits(&mut spilling, &prompt(300), 30).unwrap() == expected,
                "{name} in {most}: the first"
            );
            spilling.clear();
            assert!(
                bits(&mut spilling, &prompt(300), 30).unwrap() == expected,
                "{name} in {most}: the second"
            );
            let traffic = traffic(&spilling);
            println!("{name} in {most} of {all}: {traffic:?}");
            assert!(most > counted.step || traffic.bytes_written > counted.paged, "{name}: {traffic:?}");
            assert!(most < all || traffic.bytes_written == 0, "{name}: {traffic:?}");
        }
        // Not a byte less will do, and nothing was read to find that out.
        let mut low = model(name, options(context, 1, of_bytes(counted.step - 1)));
        let error = low.ready().unwrap_err();
        assert!(matches!(error, EngineError::Runtime(Error::Limit(_))), "{error}");
    }
}

#[test]
fn a_state_that_is_no_pages_stays() {
    let model = fixture("rwkv-7-tiny").join("RWKV-7-tiny.pth");
    let open = |memory| {
        let caches = KernelCache::off("a test");
        let model = Model::load(Checkpoint::open(&model).unwrap(), options(96, 1, memory), caches).unwrap();
        Engine::new(model, None)
    };
    let expected = bits(&mut open(Limit::default()), &prompt(40), 6).unwrap();
    let mut spilling = open(of_bytes(200_000));
    assert!(bits(&mut spilling, &prompt(40), 6).unwrap() == expected);
    let residence = residence(spilling.model());
    assert!(residence.spills() && residence.pages_staying() == [0, 0]);
    let counted = residence.counted().unwrap();
    assert!(counted.paged == 0 && counted.own.cache > 0, "{counted:?}");
    assert_eq!(residence.traffic().bytes_written, 0);
}

#[test]
fn the_interpreter_of_kernels_gives_the_same_bits() {
    let backend = || Backend::Interp(Box::new(Caps::vector(4)));
    let open = |memory| {
        let options = LoadOptions { backend: backend(), ..options(1024, 1, memory) };
        Engine::new(model("llama2-gqa-tiny", options), None)
    };
    let expected = bits(&mut open(Limit::default()), &prompt(20), 3).unwrap();
    let mut spilling = open(of_bytes(counted("llama2-gqa-tiny", 1024, 1).step));
    assert!(bits(&mut spilling, &prompt(20), 3).unwrap() == expected);
    assert!(traffic(&spilling).bytes_written > 0);
}

#[test]
fn a_conversation_that_grows_keeps_what_it_holds() {
    let (name, context) = ("llama2-gqa-tiny", 8192);
    let turns = [1500, 900, 2500, 40];
    let expected = conversation(&mut engine(name, context, Limit::default()), &turns).unwrap();
    let counted = counted(name, context, 1);
    let mut spilling = engine(name, context, of_bytes(counted.step + counted.step / 4));
    let mut lengths = Vec::new();
    for _ in 0..2 {
        assert!(conversation(&mut spilling, &turns).unwrap() == expected);
        lengths.push(residence(spilling.model()).pages_staying()[1]);
        spilling.clear();
        assert_eq!(traffic(&spilling).swap_bytes, 0);
        spilling.feed(&prompt(20), false).unwrap();
        lengths.push(residence(spilling.model()).pages_staying()[1]);
    }
    println!("{lengths:?} of {}", counted.paged);
    // 4980 positions are in use, with an eighth more and in whole chunks 6144 of 8192; then a few.
    assert_eq!(lengths, [3, 1, 3, 1].map(|chunks| counted.paged / 4 * chunks));
}

#[test]
fn states_that_get_shorter_keep_what_is_used_of_them() {
    let (name, context) = ("llama2-gqa-tiny", 8192);
    let [long, mut short] = [5000, 100].map(prompt);
    short.push(5);
    let mut free = engine(name, context, Limit::default());
    free.feed(&long, false).unwrap();
    let expected = bits(&mut free, &short, 10).unwrap();
    let mut spilling = engine(name, context, of_bytes(counted(name, context, 1).step));
    spilling.feed(&long, false).unwrap();
    let [_, before] = residence(spilling.model()).pages_staying();
    assert!(bits(&mut spilling, &short, 10).unwrap() == expected);
    let [_, after] = residence(spilling.model()).pages_staying();
    assert!(after * 3 <= before, "{after} of {before}");
}

#[test]
fn what_moves_follows_from_what_is_used_and_not_from_the_context() {
    let name = "llama2-gqa-tiny";
    // Room for one step at the longer context.
    let most = counted(name, 8192, 1).step;
    let moved = |context| {
        let mut engine = engine(name, context, of_bytes(most));
        let mut logits = engine.feed(&prompt(1000), false).unwrap();
        let before = traffic(&engine);
        for _ in 0..20 {
            logits = engine.append(best(&logits)).unwrap();
        }
        let after = traffic(&engine);
        [after.bytes_read - before.bytes_read, after.bytes_written - before.bytes_written]
    };
    let [short, long] = [4096, 8192].map(moved);
    println!("{short:?} {long:?} in {most}");
    for (short, long) in short.into_iter().zip(long) {
        // What is read ahead depends a little on who is faster.
        assert!(short > 0 && long <= short + short / 5 && short <= long + long / 5, "{short} {long}");
    }
}

#[test]
fn a_token_writes_what_it_changes_and_not_all_that_there_is() {
    let (name, context) = ("llama2-gqa-tiny", 8192);
    let counted = counted(name, context, 1);
    let mut engine = engine(name, context, of_bytes(counted.step));
    let mut logits = engine.feed(&prompt(7000), false).unwrap();
    let (before, count) = (traffic(&engine), 20);
    for _ in 0..count {
        logits = engine.append(best(&logits)).unwrap();
    }
    let after = traffic(&engine);
    let written = (after.bytes_written - before.bytes_written) / count;
    let [_, pages] = residence(engine.model()).pages_staying();
    println!(
        "{written} bytes written a token, {} read, of {pages}",
        (after.bytes_read - before.bytes_read) / count
    );
    // A chunk of each state, or two where a page lies over a border.
    let states = 2 * 2;
    assert!(written > 0 && written <= states * 2 * SUM_BYTES && written < pages / 2, "{after:?}");
}

#[test]
fn sequences_side_by_side_spill_together() {
    let (name, context, count) = ("llama2-gqa-tiny", 1024, 5);
    let answers = |memory| {
        let mut model = model(name, options(context, count, memory));
        let mut together = Together::new(&mut model, count);
        let mut all = Vec::new();
        for round in 0..2 {
            let prompts: Vec<Vec<u32>> = (0..count as u32).map(|at| prompt(100 + at * 70)).collect();
            let mut logits = together.feed(&prompts).unwrap().concat();
            for _ in 0..20 {
                all.extend(logits.iter().map(|logit| logit.to_bits()));
                let width = logits.len() / count;
                let ids: Vec<u32> = logits.chunks(width).map(best).collect();
                logits = together.append(&ids).unwrap();
            }
            if round == 0 {
                together.clear();
            }
        }
        let traffic = model.networks()[0].residence().map(Residence::traffic);
        (all, traffic)
    };
    let (expected, none) = answers(Limit::default());
    assert!(none.is_none());
    let counted = counted(name, context, count);
    let (found, traffic) = answers(of_bytes(counted.step));
    assert!(found == expected);
    assert!(traffic.unwrap().bytes_written > 0, "{traffic:?}");
}

#[test]
fn guessed_tokens_that_are_wrong_leave_nothing_behind() {
    let (name, context) = ("llama2-gqa-tiny", 1024);
    let most = counted(name, context, 1).step;
    let answer = |memory, speculation| {
        let mut engine = engine(name, context, memory);
        engine.speculate(speculation);
        let prompt = [5, 17, 42, 99, 7, 5, 17, 42, 99, 8, 21, 5, 17, 42].to_vec();
        let (images, end_ids, stops) = (Vec::new(), Vec::new(), Vec::new());
        let request = Request { prompt, images, max_tokens: Some(120), end_ids, stops, shift_keep: None };
        let vocabulary = engine.model().architecture().vocabulary();
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let mut sampler = Sampler::new(sampling, vocabulary).unwrap();
        let mut hear = |_: &str, _| ControlFlow::Continue(());
        let answer = engine.generate(&request, &mut sampler, &mut hear).unwrap();
        // What the cache holds then, too.
        let last = engine.append(3).unwrap();
        let written =
            engine.model().networks()[0].residence().map(|residence| residence.traffic().bytes_written);
        (answer.ids, last, answer.timings.drafted_tokens, written)
    };
    let (ids, last, none, _) = answer(Limit::default(), Speculation::Off);
    let (found, found_last, drafted, written) =
        answer(of_bytes(most), Speculation::Always(Lookup::default()));
    assert!(none == 0 && drafted > 0 && written > Some(0), "{drafted} {written:?}");
    assert_eq!(found, ids);
    assert!(found_last == last);
}

/// Lets one call of a kind fail: the one before which a counter, which is none below 0, has come to 0.
fn failing(
    action: Action,
) -> (Arc<AtomicI64>, impl Fn(Call) -> Option<Fault> + Clone + Send + Sync + 'static) {
    let left = Arc::new(AtomicI64::new(-1));
    let counter = left.clone();
    let script = move |call: Call| {
        let is_now = call.action == action && counter.fetch_sub(1, Ordering::Relaxed) == 0;
        is_now.then_some(Fault::Error(ErrorKind::Other))
    };
    (left, script)
}

#[test]
fn a_swap_file_that_fails_ends_the_answer_and_the_next_one_is_right() {
    let (name, context) = ("llama2-gqa-tiny", 1024);
    let expected = bits(&mut engine(name, context, Limit::default()), &prompt(100), 4).unwrap();
    let most = counted(name, context, 1).step;
    for action in [Action::Read, Action::Write] {
        let (left, script) = failing(action);
        let mut engine = engine(name, context, faulty(most, script));
        let mut failed = 0;
        for number in 0..40 {
            engine.clear();
            left.store(number, Ordering::Relaxed);
            match bits(&mut engine, &prompt(100), 4) {
                Ok(bits) => assert!(bits == expected, "{action} {number}"),
                Err(EngineError::Runtime(Error::Swap(_))) => failed += 1,
                Err(error) => panic!("{action} {number}: {error}"),
            }
            left.store(-1, Ordering::Relaxed);
            assert!(bits(&mut engine, &prompt(100), 4).unwrap() == expected, "after {action} {number}");
        }
        println!("{action}: {failed} failed");
        assert!(failed > 4, "{action}: {failed}");
    }
}

/// Where the length of a file may grow and its bytes may not (a quota, say), it is a write that fails: perhaps one that nobody
/// waits for.
#[test]
fn s07_whoever_may_not_write_any_more_hears_that_and_what_was_written_is_read_still() {
    let (name, context) = ("llama2-gqa-tiny", 1024);
    let expected = bits(&mut engine(name, context, Limit::default()), &prompt(100), 4).unwrap();
    let most = counted(name, context, 1).step;
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge] {
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let counter = left.clone();
        let script = move |call: Call| {
            let is_over = call.action == Action::Write && counter.fetch_sub(1, Ordering::Relaxed) <= 0;
            is_over.then_some(Fault::Error(kind))
        };
        let mut engine = engine(name, context, faulty(most, script));
        let mut refused = 0;
        for number in 0..40 {
            engine.clear();
            left.store(number, Ordering::Relaxed);
            match bits(&mut engine, &prompt(100), 4) {
                Ok(bits) => assert!(bits == expected, "{kind} {number}"),
                Err(error) => {
                    assert!(
                        matches!(error, EngineError::Runtime(Error::SwapSpace(_))),
                        "{kind} {number}: {error}"
                    );
                    assert!(error.to_string().starts_with("swap space exhausted: "), "{error}");
                    refused += 1;
                }
            }
            left.store(i64::MAX, Ordering::Relaxed);
            assert!(bits(&mut engine, &prompt(100), 4).unwrap() == expected, "after {kind} {number}");
        }
        println!("{kind}: {refused} refused");
        assert!(refused > 4, "{kind}: {refused}");
    }
}

#[test]
fn a_flipped_bit_of_the_swap_file_is_never_read_as_a_key() {
    let (name, context) = ("llama2-gqa-tiny", 1024);
    let expected = bits(&mut engine(name, context, Limit::default()), &prompt(100), 4).unwrap();
    let most = counted(name, context, 1).step;
    // On its way: what is read once more is right. At each place every other read is wrong, whoever reads elsewhere meanwhile.
    let places = Arc::new(Mutex::new(BTreeSet::new()));
    let once = move |call: Call| {
        let mut places = places.lock().unwrap();
        let is_wrong = call.action == Action::Read && !places.remove(&call.at);
        is_wrong.then(|| places.insert(call.at)).map(|_| Fault::Flip(77))
    };
    assert!(bits(&mut engine(name, context, faulty(most, once)), &prompt(100), 4).unwrap() == expected);
    let always = |call: Call| (call.action == Action::Read).then_some(Fault::Flip(77));
    let error = bits(&mut engine(name, context, faulty(most, always)), &prompt(100), 4).unwrap_err();
    assert!(matches!(error, EngineError::Runtime(Error::Swap(SwapError::Corrupt { .. }))), "{error}");
}

/// A disk of so many bytes that some swap files share.
#[derive(Clone)]
struct Disk {
    bytes: u64,
    files: Arc<Mutex<Vec<Arc<MemoryStore>>>>,
}

impl Disk {
    /// Bytes of the swap file that was opened so late.
    fn used_by(&self, number: usize) -> u64 {
        self.files.lock().unwrap()[number].size().unwrap()
    }

    fn used(&self) -> u64 {
        self.files.lock().unwrap().iter().map(|file| file.size().unwrap()).sum()
    }

    fn limit(&self, bytes: u64) -> Limit {
        let disk = self.clone();
        let open = move || {
            let store = Arc::new(MemoryStore::new(Vec::new()));
            disk.files.lock().unwrap().push(store.clone());
            let room = disk.clone();
            let room = Box::new(move || Some(room.bytes.saturating_sub(room.used())));
            Ok(SwapFile::over(Path::new("swap").into(), store, 1 << 40, room))
        };
        Limit {
            spill: Some(Spill { open: Arc::new(open), required: true }),
            ..Limit::of(Most::Weights(bytes))
        }
    }
}

#[test]
fn s07_a_full_disk_ends_the_request_that_needs_it_and_no_other() {
    let (name, context) = ("llama2-gqa-tiny", 8192);
    let turns = [40, 40];
    let expected = conversation(&mut engine(name, context, Limit::default()), &turns).unwrap();
    let counted = counted(name, context, 1);
    // Enough for two short conversations, not for one of them and a long one.
    let disk = Disk { bytes: counted.paged / 2 + SUM_BYTES, files: Arc::default() };
    let mut engines = [0, 1].map(|_| engine(name, context, disk.limit(counted.step)));
    for round in 0..3 {
        assert!(conversation(&mut engines[0], &turns).unwrap() == expected);
        assert!(disk.used_by(0) > 0);
        let error = bits(&mut engines[1], &prompt(6000), 4).unwrap_err();
        assert!(matches!(error, EngineError::Runtime(Error::SwapSpace(_))), "{error}");
        let text = error.to_string();
        assert!(text.starts_with("swap space exhausted: swap: no room for "), "{text}");
        assert!(text.contains("; a shorter context needs less, and --swap-dir DIR names"), "{text}");
        // What it had written is free, and who did not ask for so much goes on.
        assert_eq!((disk.used_by(1), disk.used()), (0, disk.used_by(0)), "round {round}");
        let mut held = engines[0].held().to_vec();
        held.extend(prompt(30));
        let logits = engines[0].feed(&held, false).unwrap();
        let alone = engine(name, context, Limit::default()).feed(&held, false).unwrap();
        assert!(logits == alone, "round {round}");
        assert!(conversation(&mut engines[1], &turns).unwrap() == expected);
    }
    engines.iter_mut().for_each(Engine::clear);
    assert_eq!(disk.used(), 0);
}

#[test]
fn an_error_says_what_is_so_and_where() {
    let path: Arc<Path> = Path::new("/d/swap").into();
    let io = |action| SwapError::Io {
        path: path.clone(),
        action,
        at: 8192,
        kind: ErrorKind::Other,
        why: "it smokes".to_owned(),
    };
    let asked = Asked { path: path.clone(), action: Action::Write, at: 4096, len: 8192 };
    for (error, expected) in [
        (io(Action::Write), "/d/swap: cannot write at byte 8192: it smokes"),
        (io(Action::Read), "/d/swap: cannot read at byte 8192: it smokes"),
        (
            SwapError::Late { waited_ms: 60_000, asked: Some(asked) },
            "/d/swap: 60000 ms were not enough to write 8192 bytes at byte 4096",
        ),
        (
            SwapError::Folder { path: path.clone(), why: "it is no folder".to_owned() },
            "/d/swap: no place for swap files: it is no folder; --swap-dir DIR names another one",
        ),
        (
            SwapError::Memory { len: 4096, why: "none left".to_owned() },
            "memory for weights, keys and values: 4096 bytes of memory are not to be had: none left",
        ),
    ] {
        assert_eq!(Error::Swap(error).to_string(), expected);
    }
    assert_eq!(
        Error::SwapSpace(SwapError::DiskFull { path, need: 8192, have: 5 }).to_string(),
        "swap space exhausted: /d/swap: no room for 8192 bytes more, 5 are free; \
         a shorter context needs less, and --swap-dir DIR names a folder on another disk"
    );
}

#[test]
fn who_has_no_folder_for_swap_files_hears_it_before_anything_is_loaded() {
    // Not the temporary folder, which may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if os::is_in_memory(folder.path()) {
        println!("skipped: {folder:?} lies in memory");
        return;
    }
    let limit = |path: &Path| Limit { spill: Some(Spill::to(path)), ..Limit::of(Most::Weights(1 << 20)) };
    let load = |memory, backend| {
        let options = LoadOptions { backend, ..options(96, 1, memory) };
        let checkpoint = Checkpoint::open(&fixture("llama2-gqa-tiny")).unwrap();
        Model::load(checkpoint, options, KernelCache::off("a test"))
    };
    let missing = load(limit(&folder.path().join("missing")), Backend::Cpu).err().unwrap();
    assert!(matches!(missing, EngineError::Runtime(Error::Swap(SwapError::Folder { .. }))), "{missing}");
    assert!(missing.to_string().ends_with("; --swap-dir DIR names another one"), "{missing}");
    assert!(load(limit(folder.path()), Backend::Cpu).is_ok());
    // The interpreter of graphs has no memory of its own to keep.
    let graph = load(limit(folder.path()), Backend::Graph).err().unwrap();
    assert!(matches!(graph, EngineError::CannotSpill(_)), "{graph}");
    let mut implied = limit(folder.path());
    implied.spill.as_mut().unwrap().required = false;
    assert!(load(implied, Backend::Graph).is_ok());
}

/// A swap file on a file system that refuses direct reads.
struct Cached(MemoryStore);

impl Store for Cached {
    fn read(&self, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(at, out)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(at, bytes)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn size(&self) -> std::io::Result<u64> {
        self.0.size()
    }

    fn sync(&self) -> std::io::Result<()> {
        self.0.sync()
    }

    fn is_direct(&self) -> bool {
        // Known when it was first written to.
        self.0.size().is_ok_and(|bytes| bytes == 0)
    }
}

#[test]
fn s06_a_swap_file_that_takes_page_cache_is_told_once() {
    let (name, context) = ("llama2-gqa-tiny", 1024);
    let open = || {
        let store = Arc::new(Cached(MemoryStore::new(Vec::new())));
        Ok(SwapFile::over(Path::new("the swap file").into(), store, 1 << 40, Box::new(|| None)))
    };
    let spill = Some(Spill { open: Arc::new(open), required: true });
    let most = Most::Weights(counted(name, context, 1).step);
    let mut engine = engine(name, context, Limit { spill, ..Limit::of(most) });
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = told.clone();
    engine.model_mut().tell(Box::new(move |what| hears.lock().unwrap().push(what.to_owned())));
    // It is not written to by the first passes.
    for _ in 0..3 {
        bits(&mut engine, &prompt(300), 4).unwrap();
        engine.append(3).unwrap();
    }
    assert!(traffic(&engine).bytes_written > 0);
    let told = told.lock().unwrap();
    let of_it = |what: &&String| what.starts_with("the swap file: ") && what.contains("page cache");
    assert_eq!(told.iter().filter(of_it).count(), 1, "{told:?}");
}

#[test]
fn a_limit_says_where_a_swap_file_would_help() {
    let limit = |bytes| Limit::of(Most::Process(bytes));
    let low = |bytes| {
        // Of these keys and values a layer has 8 MB, and there are three.
        let options = LoadOptions { context: 65536, ..options(96, 1, limit(bytes)) };
        match model("llama2-gqa-tiny", options).ready() {
            Err(EngineError::Runtime(Error::Limit(low))) => low,
            other => panic!("{other:?}"),
        }
    };
    let all = low(1_000_000);
    let residence::TooLow(counted) = &all;
    assert!(counted.own.spillable > 0 && counted.own.spillable < counted.own.cache, "{counted:?}");
    assert!(!all.to_string().contains("--kv-spill"), "{all}");
    let near = low(all.missing() + 1_000_000 - counted.own.spillable / 2);
    assert!(
        near.to_string().ends_with("; with --kv-spill keys and values may go to disk, and it would fit"),
        "{near}"
    );
}
