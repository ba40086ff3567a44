//! What goes wrong with files that weights are read from within a limit: an error that says what and where, the next request
//! served, and never a number from bytes that are not the model's.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jtllm_models::sample::{Sampler, Sampling};
use jtllm_runtime::Error;
use jtllm_runtime::residence::{Limit, Most, Traffic};
use jtllm_runtime::swap::SwapError;
use jtllm_runtime::swap::fault::{Call, Fault, FaultStore};
use jtllm_runtime::swap::store::{Action, FileStore, Store};
use jtllm_serve::{Answer, Engine, EngineError, Finish, Lookup, Request, Speculation};
use tempfile::TempDir;

use super::{bits, engine, fixture, synthetic, synthetic_as};

/// A limit on weights under which something goes wrong with packed files alone, of whose bytes somebody keeps hashes.
fn damaged(bytes: u64, script: fn(Call) -> Option<Fault>) -> Limit {
    let open = move |path: &Path| {
        let is_packed = path.extension().is_some_and(|end| end == "packed");
        let store = FaultStore::new(FileStore::open(path)?, move |call| script(call).filter(|_| is_packed));
        Ok(Arc::new(store) as Arc<dyn Store>)
    };
    Limit { open: Arc::new(open), ..Limit::of(Most::Weights(bytes)) }
}

/// The same with all files.
fn faulty(bytes: u64, script: impl Fn(Call) -> Option<Fault> + Clone + Send + Sync + 'static) -> Limit {
    let open = move |path: &Path| {
        let store = FaultStore::new(FileStore::open(path)?, script.clone());
        Ok(Arc::new(store) as Arc<dyn Store>)
    };
    Limit { open: Arc::new(open), ..Limit::of(Most::Weights(bytes)) }
}

/// Lets one read fail: the one before which a counter, which is none below 0, has come to 0.
fn failing_read() -> (Arc<AtomicI64>, impl Fn(Call) -> Option<Fault> + Clone + Send + Sync + 'static) {
    let left = Arc::new(AtomicI64::new(-1));
    let counter = left.clone();
    let script = move |call: Call| {
        let is_now = call.action == Action::Read && counter.fetch_sub(1, Ordering::Relaxed) == 0;
        is_now.then_some(Fault::Error(std::io::ErrorKind::Other))
    };
    (left, script)
}

/// A small model, the bits that it gives, and a folder for what is packed of it.
fn small(encoding: &str) -> (TempDir, std::path::PathBuf, TempDir, Vec<u32>) {
    let (folder, file) = synthetic(encoding);
    let packed = TempDir::new().unwrap();
    let expected = bits(&mut engine(&file, packed.path(), 1, Limit::default())).unwrap();
    (folder, file, packed, expected)
}

fn traffic(engine: &Engine) -> Traffic {
    engine.model().networks()[0].residence().unwrap().traffic()
}

#[test]
fn s01_the_nth_failing_read_names_file_and_place_and_the_next_request_is_served() {
    let (_folder, file, packed, expected) = small("bf16");
    let (left, script) = failing_read();
    // Small launches, so that one request reads several hundred times.
    let limit = Limit { range_bytes: 4096, ..faulty(100_000, script) };
    let mut engine = engine(&file, packed.path(), 1, limit);
    let (mut failed, mut whole) = (0, 0);
    for number in 0..200 {
        left.store(number, Ordering::Relaxed);
        match bits(&mut engine) {
            Ok(bits) => {
                assert!(bits == expected, "read {number}");
                assert!(left.load(Ordering::Relaxed) < 0, "a request does not read {number} times");
                whole += 1;
            }
            Err(error) => {
                let text = error.to_string();
                let is_typed = matches!(&error, EngineError::Runtime(Error::Swap(_) | Error::File { .. }));
                assert!(is_typed && text.contains("model.gguf: cannot read"), "{text}");
                assert!(text.contains("at byte "), "{text}");
                failed += 1;
            }
        }
        left.store(-1, Ordering::Relaxed);
        assert!(bits(&mut engine).unwrap() == expected, "after read {number}");
    }
    println!("{failed} requests failed, {whole} had read ahead for the next pass, which read again");
    assert!(failed > 100, "{failed}");
}

#[test]
fn s02_short_reads_of_any_length_change_nothing() {
    let (_folder, file, packed, expected) = small("q8_0");
    let script = |call: Call| {
        let random = (call.number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
        (call.number % 3 != 2).then_some(Fault::Short(1 + random as usize))
    };
    let mut engine = engine(&file, packed.path(), 2, faulty(100_000, script));
    assert!(bits(&mut engine).unwrap() == expected);
}

#[test]
fn s03_storms_of_interruptions_change_nothing() {
    for encoding in ["bf16", "q4_0"] {
        let (_folder, file, packed, expected) = small(encoding);
        let script = |call: Call| match call.number % 40 {
            0 => None,
            39 => Some(Fault::Error(std::io::ErrorKind::WouldBlock)),
            _ => Some(Fault::Error(std::io::ErrorKind::Interrupted)),
        };
        let mut engine = engine(&file, packed.path(), 2, faulty(100_000, script));
        assert!(bits(&mut engine).unwrap() == expected, "{encoding}");
    }
}

#[test]
fn s04_a_flipped_bit_of_packed_weights_is_never_multiplied() {
    let (_folder, file) = synthetic("q4_0");
    let packed = TempDir::new().unwrap();
    let expected = bits(&mut engine(&file, packed.path(), 1, Limit::default())).unwrap();
    // On its way: what is read once more is right.
    let once = |call: Call| (call.number % 40 == 3).then_some(Fault::Flip(1234));
    let mut passing = engine(&file, packed.path(), 1, damaged(50_000, once));
    assert!(bits(&mut passing).unwrap() == expected);
    let files = || std::fs::read_dir(packed.path()).unwrap().count();
    let before = files();
    assert!(before > 0);
    // On the disk: the file goes.
    let always = |_: Call| Some(Fault::Flip(1234));
    let mut lasting = engine(&file, packed.path(), 1, damaged(50_000, always));
    let error = bits(&mut lasting).unwrap_err();
    assert!(matches!(error, EngineError::Runtime(Error::Packed { .. })), "{error}");
    assert!(files() < before);
}

/// Nobody keeps hashes of a model's own file: what its first reading gave must come again.
#[test]
fn s04_a_flipped_bit_of_a_models_own_file_is_read_again_and_then_an_error() {
    let (_folder, file, packed, expected) = small("bf16");
    // Rows of embeddings are read by themselves, and have 128 bytes.
    for (shortest, longest) in [(129, usize::MAX), (1, 128)] {
        let (once, always) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let flips = [once.clone(), always.clone()];
        let script = move |call: Call| {
            let [once, always] = flips.each_ref().map(|flip| flip.load(Ordering::Relaxed));
            let hit = always || (once && call.number % 23 == 3);
            (hit && (shortest..=longest).contains(&call.len)).then_some(Fault::Flip(5))
        };
        let mut engine = engine(&file, packed.path(), 1, faulty(100_000, script));
        assert!(bits(&mut engine).unwrap() == expected);
        // On its way: what is read once more is right.
        once.store(true, Ordering::Relaxed);
        assert!(bits(&mut engine).unwrap() == expected);
        once.store(false, Ordering::Relaxed);
        always.store(true, Ordering::Relaxed);
        let error = bits(&mut engine).unwrap_err();
        match &error {
            EngineError::Runtime(Error::Swap(SwapError::Corrupt { path, .. })) => {
                assert!(path.ends_with("model.gguf") && shortest > 1, "{error}");
            }
            EngineError::Runtime(Error::Weight { why, .. }) => {
                assert!(why.contains("when it was first read") && shortest == 1, "{error}");
            }
            _ => panic!("{error}"),
        }
        always.store(false, Ordering::Relaxed);
        assert!(bits(&mut engine).unwrap() == expected);
    }
}

#[test]
fn s05_a_slow_disk_gives_the_same_tokens_and_counted_stalls() {
    let (_folder, file, packed, expected) = small("bf16");
    let waited = |script: fn(Call) -> Option<Fault>| {
        let mut engine = engine(&file, packed.path(), 1, faulty(60_000, script));
        assert!(bits(&mut engine).unwrap() == expected);
        traffic(&engine)
    };
    let [fast, slow] = [waited(|_| None), waited(|_| Some(Fault::Slow(Duration::from_millis(10))))];
    println!("fast: {fast:?}, slow: {slow:?}");
    // Seven passes, each of which waits for a read at the least.
    assert!(slow.stalls >= 7 && slow.stall > fast.stall + Duration::from_millis(50), "{fast:?} {slow:?}");
}

/// A file of a file system that refuses direct reads.
struct Cached(FileStore);

impl Store for Cached {
    fn read(&self, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(at, out)
    }

    fn write(&self, _: u64, _: &[u8]) -> std::io::Result<usize> {
        unreachable!("weights are never written")
    }

    fn set_len(&self, _: u64) -> std::io::Result<()> {
        unreachable!("weights are never written")
    }

    fn size(&self) -> std::io::Result<u64> {
        self.0.size()
    }

    fn sync(&self) -> std::io::Result<()> {
        unreachable!("weights are never written")
    }

    fn is_direct(&self) -> bool {
        self.0.is_direct()
    }
}

/// `swap/tests/store.rs` has a file system that refuses.
#[test]
fn s06_reads_that_cannot_be_direct_are_told_once() {
    let (_folder, file, packed, expected) = small("bf16");
    for cached in [true, false] {
        let open = move |path: &Path| {
            let store = if cached { FileStore::open_buffered(path)? } else { FileStore::open(path)? };
            Ok(Arc::new(Cached(store)) as Arc<dyn Store>)
        };
        let limit = Limit { open: Arc::new(open), ..Limit::of(Most::Weights(100_000)) };
        let mut engine = engine(&file, packed.path(), 1, limit);
        let told = Arc::new(Mutex::new(Vec::new()));
        let hears = told.clone();
        engine.model_mut().tell(Box::new(move |what| hears.lock().unwrap().push(what.to_owned())));
        for _ in 0..2 {
            assert!(bits(&mut engine).unwrap() == expected);
        }
        let told = told.lock().unwrap();
        assert_eq!(told.len(), usize::from(cached), "{told:?}");
        assert!(
            told.iter().all(|what| what.contains("model.gguf") && what.contains("page cache")),
            "{told:?}"
        );
    }
}

/// A disk that gives so many bytes a second, however many ask.
struct Paced {
    file: FileStore,
    bytes_per_s: f64,
    /// When it has done what it was asked for so far.
    free: Arc<Mutex<Instant>>,
}

impl Store for Paced {
    fn read(&self, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(at, out)?;
        let done = {
            let mut free = self.free.lock().unwrap();
            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(count as f64 / self.bytes_per_s);
            *free
        };
        thread::sleep(done.saturating_duration_since(Instant::now()));
        Ok(count)
    }

    fn write(&self, _: u64, _: &[u8]) -> std::io::Result<usize> {
        unreachable!("weights are never written")
    }

    fn set_len(&self, _: u64) -> std::io::Result<()> {
        unreachable!("weights are never written")
    }

    fn size(&self) -> std::io::Result<u64> {
        self.file.size()
    }

    fn sync(&self) -> std::io::Result<()> {
        unreachable!("weights are never written")
    }
}

/// `cargo xtask bench-tiers` compares with a real disk.
#[test]
fn s16_passes_that_wait_for_the_disk_read_at_its_speed() {
    const BYTES_PER_S: f64 = 20e6;
    let (_folder, file) = synthetic_as("chatglm2-100m", "bf16", Some(2));
    let free = Arc::new(Mutex::new(Instant::now()));
    let open = move |path: &Path| {
        let file = FileStore::open(path)?;
        Ok(Arc::new(Paced { file, bytes_per_s: BYTES_PER_S, free: free.clone() }) as Arc<dyn Store>)
    };
    let limit = Limit { open: Arc::new(open), range_bytes: 512 << 10, ..Limit::of(Most::Weights(4 << 20)) };
    let mut engine = engine(&file, TempDir::new().unwrap().path(), 1, limit);
    engine.feed(&[1, 2, 3], false).unwrap();
    engine.append(4).unwrap();
    let (before, begin) = (traffic(&engine).bytes_read, Instant::now());
    for id in 5..8 {
        engine.append(id).unwrap();
    }
    let read = traffic(&engine).bytes_read - before;
    let speed = read as f64 / begin.elapsed().as_secs_f64();
    println!("{read} bytes at {:.3} of the disk's speed", speed / BYTES_PER_S);
    assert!(read > 10 << 20 && speed > 0.9 * BYTES_PER_S, "{speed} bytes a second");
}

fn answer(engine: &mut Engine, prompt: &[u32], tokens: usize) -> Result<Answer, EngineError> {
    let request = Request {
        prompt: prompt.to_vec(),
        images: Vec::new(),
        max_tokens: Some(tokens),
        end_ids: Vec::new(),
        stops: Vec::new(),
        shift_keep: None,
    };
    let vocabulary = engine.model().architecture().vocabulary();
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let mut sampler = Sampler::new(greedy, vocabulary).unwrap();
    engine.generate(&request, &mut sampler, &mut |_, _| ControlFlow::Continue(()))
}

/// There is no time-out of requests to wait for; who asked ends one by cancelling.
#[test]
fn s19_an_answer_that_waits_for_a_read_that_hangs_can_be_cancelled() {
    const HANGS: Duration = Duration::from_secs(5);
    let (_folder, file, packed, _) = small("bf16");
    let prompt: Vec<u32> = (0..20).collect();
    let mut free = engine(&file, packed.path(), 1, Limit::default());
    let expected = answer(&mut free, &prompt, 8).unwrap().ids;
    let hangs = Arc::new(AtomicBool::new(false));
    let next = hangs.clone();
    // Rows of embeddings are read by who computes, and nobody else.
    let script = move |call: Call| {
        (call.len > 128 && next.swap(false, Ordering::Relaxed)).then_some(Fault::Slow(HANGS))
    };
    let limit = faulty(60_000, script);
    let cancel = limit.cancel.clone();
    let mut engine = engine(&file, packed.path(), 1, limit);
    assert_eq!(answer(&mut engine, &prompt, 8).unwrap().ids, expected);
    hangs.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    let canceller = {
        let cancel = cancel.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            cancel.store(true, Ordering::Relaxed);
        })
    };
    engine.clear();
    let cancelled = answer(&mut engine, &prompt, 1000).unwrap();
    assert_eq!(cancelled.finish, Finish::Cancelled);
    assert!(begin.elapsed() < HANGS / 2, "{:?}", begin.elapsed());
    canceller.join().unwrap();
    cancel.store(false, Ordering::Relaxed);
    // The next one waits for as long as it takes.
    assert_eq!(answer(&mut engine, &prompt, 8).unwrap().ids, expected);
}

/// What is stuck in the system is left behind: an error that nobody sees before the disk answers is none.
#[test]
fn s19_whoever_leaves_does_not_wait_for_a_read_that_hangs() {
    let (_folder, file, packed, _) = small("bf16");
    let prompt: Vec<u32> = (0..20).collect();
    let [hangs, opened] = [false, false].map(|is| Arc::new(AtomicBool::new(is)));
    let (hanging, gate) = (hangs.clone(), opened.clone());
    // Rows of embeddings are read by who computes, and nobody else.
    let script = move |call: Call| {
        while call.len > 128 && hanging.load(Ordering::Relaxed) && !gate.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(1));
        }
        None
    };
    let limit = faulty(60_000, script);
    let cancel = limit.cancel.clone();
    let mut engine = engine(&file, packed.path(), 1, limit);
    answer(&mut engine, &prompt, 8).unwrap();
    hangs.store(true, Ordering::Relaxed);
    let canceller = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        cancel.store(true, Ordering::Relaxed);
    });
    engine.clear();
    assert_eq!(answer(&mut engine, &prompt, 1000).unwrap().finish, Finish::Cancelled);
    canceller.join().unwrap();
    let begin = Instant::now();
    drop(engine);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    opened.store(true, Ordering::Relaxed);
}

#[test]
fn guessed_tokens_are_the_same_where_weights_stream_and_each_pass_gives_more() {
    for encoding in ["bf16", "q4_0"] {
        let (_folder, file, packed, _) = small(encoding);
        let prompt: Vec<u32> = (0..24).map(|at| [5, 17, 42, 99, 7][at % 5]).collect();
        let mut free = engine(&file, packed.path(), 1, Limit::default());
        let expected = answer(&mut free, &prompt, 48).unwrap();
        let read = |speculation| {
            let mut engine = engine(&file, packed.path(), 1, Limit::of(Most::Weights(60_000)));
            engine.speculate(speculation);
            engine.model_mut().ready().unwrap();
            let found = answer(&mut engine, &prompt, 48).unwrap();
            assert_eq!(found.ids, expected.ids, "{encoding} {speculation:?}");
            let counted = engine.model().networks()[0].residence().unwrap().counted().unwrap();
            (found.timings, traffic(&engine), counted)
        };
        let (plain, plain_read, before) = read(Speculation::Off);
        let (guessed, guessed_read, after) = read(Speculation::Always(Lookup::default()));
        println!("{encoding}: {} passes, with guesses {}", plain.answer_passes, guessed.answer_passes);
        assert_eq!(guessed.answer_passes + guessed.accepted_tokens, plain.answer_passes);
        assert!(guessed.accepted_tokens > 0 && guessed_read.bytes_read < plain_read.bytes_read);
        // Plans of as many rows as are guessed are there from the beginning, and counted: none is made for a guess.
        assert_eq!((before.own, before.all), (after.own, after.all));
    }
}

#[test]
fn a_state_that_came_half_of_the_way_is_not_gone_on_with() {
    let model = fixture("rwkv-7-tiny").join("RWKV-7-tiny.pth");
    let packed = TempDir::new().unwrap();
    let expected = bits(&mut engine(&model, packed.path(), 1, Limit::default())).unwrap();
    let (left, script) = failing_read();
    let mut engine = engine(&model, packed.path(), 1, faulty(150_000, script));
    assert!(bits(&mut engine).unwrap() == expected);
    let prompt: Vec<u32> = (0..40).map(|at| (at * 31 + 7) % 90).collect();
    let mut failed = 0;
    for number in 0..60 {
        engine.clear();
        engine.feed(&prompt, false).unwrap();
        left.store(number, Ordering::Relaxed);
        failed += usize::from(engine.append(3).is_err());
        left.store(-1, Ordering::Relaxed);
        // The same conversation, with the prompt that it began with: nobody said `clear`.
        let logits = engine.feed(&prompt, false).unwrap();
        let found: Vec<u32> = logits.iter().map(|logit| logit.to_bits()).collect();
        assert!(found == expected[..found.len()], "read {number}");
    }
    assert!(failed > 10, "{failed}");
}
