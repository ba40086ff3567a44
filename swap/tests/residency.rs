//! A residency with real threads: every byte right under every limit, errors typed, the budget never exceeded.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jtllm_swap::error::Asked;
use jtllm_swap::fault::{Call, Fault, FaultStore};
use jtllm_swap::file::{SUM_BYTES, SwapFile};
use jtllm_swap::reader::{Requests, Sums};
use jtllm_swap::sim::{self, Forecast, Scenario, Speeds, Step};
use jtllm_swap::store::{Action, FileStore, MemoryStore, Store};
use jtllm_swap::{Agenda, BlobId, Budget, Options, Origin, Policy, Residency, SwapError, Tick, Tier};
use proptest::prelude::*;

mod folder;

use folder::on_disk;

const KB: u64 = 1024;

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn options(memory_bytes: u64) -> Options {
    Options {
        policy: Policy::Stream { ring_bytes: 0 },
        requests: Requests { in_flight: 3, bytes: 8 * KB },
        swap_bytes: 1 << 30,
        wait_max: Duration::from_secs(20),
        ..Options::new(memory_bytes)
    }
}

fn swap_over(store: Arc<dyn Store>, limit: u64) -> SwapFile {
    SwapFile::over(Path::new("swap").into(), store, limit, Box::new(|| None))
}

/// Weights of `lens` bytes one after another from an odd place on, one a tick.
struct Weights {
    residency: Residency,
    cancel: Arc<AtomicBool>,
    blobs: Vec<BlobId>,
    bytes: Vec<Vec<u8>>,
}

impl Weights {
    fn new(options: &Options, lens: &[usize], store: impl FnOnce(Vec<u8>) -> Arc<dyn Store>) -> Weights {
        let swap = swap_over(Arc::new(MemoryStore::new(Vec::new())), options.swap_bytes);
        let mut residency = Residency::with(options, Some(swap), None).unwrap();
        let all = content(96 + lens.iter().sum::<usize>());
        let file = residency.add_file(Path::new("weights"), store(all.clone())).unwrap();
        let (mut at, mut blobs, mut bytes) = (96, Vec::new(), Vec::new());
        for len in lens {
            let mine = all[at..at + len].to_vec();
            let sums = Some(Sums::of(&mine, 5000));
            blobs.push(
                residency.add("weights", Origin { file, at: at as u64, len: *len as u64, sums }).unwrap(),
            );
            bytes.push(mine);
            at += len;
        }
        Weights { residency, cancel: options.cancel.clone(), blobs, bytes }
    }

    fn arrange(&mut self) -> Result<(), SwapError> {
        let uses = self.blobs.iter().copied().zip(0..).collect::<Vec<_>>();
        self.residency.arrange(Agenda::new(uses.len() as Tick, uses))
    }

    fn pass(&mut self, pass: Tick) -> Result<(), SwapError> {
        for (at, blob) in self.blobs.clone().into_iter().enumerate() {
            let tick = pass * self.blobs.len() as Tick + at as Tick;
            self.residency.pin(tick, &[blob])?;
            assert_eq!(self.residency.bytes(blob).unwrap(), self.bytes[at]);
            self.residency.unpin(tick, &[blob])?;
        }
        Ok(())
    }
}

#[test]
fn every_pass_reads_what_does_not_stay_and_no_more() {
    for fits in [3, 6, 12, 20] {
        let lens = [40_000; 20];
        let each = 44 * KB; // with what rounds it to blocks
        let mut weights = Weights::new(&options(fits * each), &lens, |all| Arc::new(MemoryStore::new(all)));
        weights.arrange().unwrap();
        weights.pass(0).unwrap();
        weights.pass(1).unwrap();
        let before = weights.residency.counts();
        for pass in 2..6 {
            weights.pass(pass).unwrap();
        }
        let after = weights.residency.counts();
        let streamed = if fits == 20 { 0 } else { 20 - (fits - 2) };
        // What is read ahead for the next pass may be one blob more or less at the moment of counting.
        let read = after.bytes_read - before.bytes_read;
        let wanted = 4 * streamed * 44 * KB;
        assert!(
            read.abs_diff(wanted) <= if fits == 20 { 0 } else { 3 * each },
            "{fits}: {read}, not {wanted}"
        );
        assert!(after.peak_bytes <= fits * each && after.bytes_written == 0);
        assert!(fits < 20 || after.stalls == before.stalls);
    }
}

/// What a simulation of the same blobs says is what is read.
#[test]
fn a_simulation_counts_the_same_bytes() {
    let lens =
        [40_000, 9_000, 70_000, 40_000, 100_000, 31_000, 40_000, 64_000, 300_000, 5_000, 40_000, 90_000];
    for kb in [500, 600, 700] {
        // A disk that takes a while for each blob, one after another, and nothing to compute.
        let requests = Requests { in_flight: 1, bytes: 1 << 20 };
        let options = Options { requests, ..options(kb * KB) };
        let mut weights = Weights::new(&options, &lens, |all| {
            let slow = |_| Some(Fault::Slow(Duration::from_millis(2)));
            Arc::new(FaultStore::new(MemoryStore::new(all), slow))
        });
        weights.arrange().unwrap();
        for pass in 0..11 {
            weights.pass(pass).unwrap();
        }
        let before = weights.residency.counts().bytes_read;
        for pass in 11..21 {
            weights.pass(pass).unwrap();
        }
        let found = (weights.residency.counts().bytes_read - before) as f64 / 10.0;
        let wanted = forecast(&weights, kb * KB).bytes_read;
        assert!((found - wanted).abs() <= 0.05 * wanted, "{kb} KB: {found} bytes, not {wanted}");
    }
}

fn forecast(weights: &Weights, memory_bytes: u64) -> Forecast {
    let ledger = weights.residency.ledger();
    let step = |blob: usize| Step { uses: vec![blob], changes: vec![], seconds: 0.0 };
    let scenario = Scenario {
        blobs: weights.blobs.iter().map(|blob| *ledger.blob(*blob).unwrap()).collect(),
        steps: (0..weights.blobs.len()).map(step).collect(),
        budget: Budget::unlimited().with(Tier::Host, memory_bytes / 4096 * 4096),
        tiers: vec![(Tier::Host, Policy::Stream { ring_bytes: 0 })],
        speeds: Speeds { disk_bytes_per_s: 1e9, disk_latency_s: 0.002, bus_bytes_per_s: 1e9 },
    };
    sim::run(&scenario, 10).unwrap()
}

#[test]
fn a_residency_may_be_given_to_another_thread() {
    fn sent<T: Send>() {}
    sent::<Residency>();
}

#[test]
fn a_file_with_direct_reads_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let lens = [300_000, 5_000, 77, 120_001, 64_000, 1_000_000, 4096];
    let mut weights = Weights::new(&options(1500 * KB), &lens, |all| {
        std::fs::write(&path, all).unwrap();
        Arc::new(FileStore::open(&path).unwrap())
    });
    weights.arrange().unwrap();
    weights.residency.prefetch(0).unwrap();
    for pass in 0..4 {
        weights.pass(pass).unwrap();
    }
    // Bytes lie as far from a block's border as in the file, so that kernels find the file's alignment.
    let first = weights.blobs[0];
    weights.residency.pin(28, &[first]).unwrap();
    assert_eq!(weights.residency.bytes(first).unwrap().as_ptr() as usize % 4096, 96);
}

#[test]
fn s01_the_nth_failing_read_ends_one_pass_and_not_the_next() {
    let lens = [20_000; 8];
    for failing in 0..40 {
        let mut weights = Weights::new(&options(4 * 24 * KB), &lens, move |all| {
            Arc::new(FaultStore::new(MemoryStore::new(all), move |call| {
                (call.number == failing).then_some(Fault::Error(ErrorKind::Other))
            }))
        });
        weights.arrange().unwrap();
        let mut failed = 0;
        for pass in 0..4 {
            if let Err(error) = weights.pass(pass) {
                let text = error.to_string();
                assert!(text.starts_with("weights: ") && text.contains("cannot read at byte"), "{text}");
                failed += 1;
                weights.residency.forgive();
            }
        }
        assert_eq!(failed, 1, "read {failing}");
    }
}

#[test]
fn s04_no_wrong_byte_is_ever_seen() {
    let lens = [20_000; 8];
    let mut weights = Weights::new(&options(4 * 24 * KB), &lens, |all| {
        Arc::new(FaultStore::new(MemoryStore::new(all), |call| {
            (call.at <= 65_000 && call.at + call.len as u64 > 65_000)
                .then(|| Fault::Flip(8 * (65_000 - call.at) as usize))
        }))
    });
    weights.arrange().unwrap();
    let error = weights.pass(0).unwrap_err();
    assert!(matches!(error, SwapError::Corrupt { .. }), "{error}");
}

#[test]
fn s05_s19_a_slow_disk_stalls_and_one_that_hangs_is_given_up() {
    let hangs = Arc::new(AtomicBool::new(true));
    let still = hangs.clone();
    let slow = Options { wait_max: Duration::from_millis(60), ..options(4 * 24 * KB) };
    let mut weights = Weights::new(&slow, &[20_000; 8], move |all| {
        Arc::new(FaultStore::new(MemoryStore::new(all), move |_| {
            let ms = if still.load(Ordering::Relaxed) { 150 } else { 2 };
            Some(Fault::Slow(Duration::from_millis(ms)))
        }))
    });
    weights.arrange().unwrap();
    let late = weights.pass(0).unwrap_err();
    let (path, action) = (Path::new("weights").into(), Action::Read);
    let asked = Some(Asked { path, action, at: 96, len: 20_000 });
    assert_eq!(late, SwapError::Late { waited_ms: 60, asked });
    hangs.store(false, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(400));
    weights.pass(0).unwrap();
    let counts = weights.residency.counts();
    assert!(counts.stalls >= 4 && counts.stall >= Duration::from_millis(60), "{counts:?}");
}

/// A store whose reads do not end before somebody says so.
fn hanging(all: Vec<u8>, opened: &Arc<AtomicBool>) -> Arc<FaultStore> {
    let opened = opened.clone();
    Arc::new(FaultStore::new(MemoryStore::new(all), move |_| {
        while !opened.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }))
}

#[test]
fn s05_a_file_that_hangs_is_named_and_keeps_nobody_from_leaving() {
    let opened = Arc::new(AtomicBool::new(false));
    let short = Options { wait_max: Duration::from_millis(400), ..options(4 * 24 * KB) };
    let mut held = None;
    let mut weights = Weights::new(&short, &[20_000; 8], |all| {
        let store = hanging(all, &opened);
        held = Some(Arc::downgrade(&store));
        store
    });
    weights.arrange().unwrap();
    let late = weights.pass(0).unwrap_err();
    assert_eq!(late.to_string(), "weights: 400 ms were not enough to read 20000 bytes at byte 96");
    let begin = Instant::now();
    // What the same request needs besides is not waited for again, nor is the end.
    assert_eq!(weights.pass(0), Err(late));
    drop(weights);
    assert!(begin.elapsed() < Duration::from_millis(350), "{:?}", begin.elapsed());
    // What hangs has its memory until it ends, and then nothing is left.
    let held = held.unwrap();
    assert!(held.upgrade().is_some());
    opened.store(true, Ordering::Relaxed);
    while held.upgrade().is_some() {
        assert!(begin.elapsed() < Duration::from_secs(60), "somebody keeps what nobody needs");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn s05_a_read_that_hangs_is_waited_for_before_its_memory_may_go() {
    let opened = Arc::new(AtomicBool::new(false));
    let short = Options { wait_max: Duration::from_millis(100), ..options(4 * 24 * KB) };
    let mut store = None;
    let mut weights = Weights::new(&short, &[20_000; 8], |all| store.insert(hanging(all, &opened)).clone());
    weights.arrange().unwrap();
    assert_eq!(weights.residency.rest(), Ok(()));
    weights.residency.prefetch(0).unwrap();
    // Before a thread has begun there is nothing to wait for.
    while store.as_ref().unwrap().calls(Action::Read) == 0 {
        std::thread::yield_now();
    }
    let late = weights.residency.rest().unwrap_err();
    assert!(matches!(&late, SwapError::Late { asked: Some(_), .. }), "{late}");
    // It is the same as before.
    opened.store(true, Ordering::Relaxed);
    for pass in 0..3 {
        weights.residency.forgive();
        weights.pass(pass).unwrap();
        weights.residency.prefetch((pass + 1) * 8).unwrap();
        weights.residency.rest().unwrap();
        let before = weights.residency.counts().bytes_read;
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(weights.residency.counts().bytes_read, before);
    }
}

#[test]
fn s14_what_cannot_fit_says_what_it_needs() {
    let mut weights = Weights::new(&options(16 * KB), &[20_000], |all| Arc::new(MemoryStore::new(all)));
    let full = SwapError::Full { tier: Tier::Host, need: 20 * KB, have: 16 * KB };
    assert_eq!(weights.arrange(), Err(full));
}

/// Own blobs, each filled with a number that is its version, used and changed in turn.
fn spill(residency: &mut Residency, blobs: &[BlobId], passes: u8) -> Result<(), SwapError> {
    for pass in 1..=passes {
        for (at, blob) in blobs.iter().enumerate() {
            let tick = (pass as usize * blobs.len() + at) as Tick;
            residency.pin(tick, &[*blob])?;
            let bytes = residency.bytes_mut(*blob)?;
            assert!(bytes.iter().all(|byte| *byte == pass - 1), "{blob} in pass {pass}: {}", bytes[0]);
            bytes.fill(pass);
            residency.unpin(tick, &[*blob])?;
        }
    }
    Ok(())
}

fn own(options: &Options, swap: Option<SwapFile>, count: u64) -> (Residency, Vec<BlobId>) {
    let mut residency = Residency::with(options, swap, None).unwrap();
    let blobs: Vec<BlobId> = (0..count).map(|_| residency.add_own("pages", 10 * KB).unwrap()).collect();
    residency.arrange(Agenda::new(count, blobs.iter().copied().zip(0..))).unwrap();
    (residency, blobs)
}

#[test]
fn what_changes_survives_in_the_swap_file() {
    let Some(folder) = on_disk() else { return };
    let swap = SwapFile::create(folder.path(), 1 << 20).unwrap();
    let (mut residency, blobs) = own(&options(4 * 12 * KB), Some(swap), 10);
    spill(&mut residency, &blobs, 5).unwrap();
    let counts = residency.counts();
    assert!(counts.bytes_written > 0 && counts.swap_bytes <= 10 * 12 * KB, "{counts:?}");
    assert!(counts.peak_bytes <= 48 * KB);
}

#[test]
fn what_is_saved_is_there_in_the_next_residency() {
    let store = Arc::new(MemoryStore::new(Vec::new()));
    let (mut residency, blobs) = own(&options(4 * 12 * KB), Some(swap_over(store.clone(), 1 << 20)), 10);
    spill(&mut residency, &blobs, 3).unwrap();
    residency.save().unwrap();
    let swap = residency.into_swap();
    // Longer, and with less memory.
    let mut residency = Residency::with(&options(2 * 20 * KB), swap, None).unwrap();
    for blob in &blobs {
        assert_eq!(residency.add_own("pages", 20 * KB).unwrap(), *blob);
    }
    residency.arrange(Agenda::new(10, blobs.iter().copied().zip(0..))).unwrap();
    for round in 0..2 {
        for (at, blob) in blobs.iter().enumerate() {
            residency.pin(round * 10 + at as Tick, &[*blob]).unwrap();
            let bytes = residency.bytes_mut(*blob).unwrap();
            let (old, new) = bytes.split_at_mut(10 * KB as usize);
            assert!(old.iter().all(|byte| *byte == 3), "{blob}: {}", old[0]);
            // What lay in memory before is not seen; what the first round has written is.
            assert!(new.iter().all(|byte| *byte == round as u8 * 9), "{blob}: {}", new[0]);
            new.fill(9);
            residency.unpin(round * 10 + at as Tick, &[*blob]).unwrap();
        }
    }
    assert!(residency.counts().bytes_read >= 20 * 10 * KB, "{:?}", residency.counts());
}

#[test]
fn of_what_changes_in_a_part_no_more_is_written_again() {
    const LEN: u64 = 1 << 20;
    let swap = swap_over(Arc::new(MemoryStore::new(Vec::new())), 8 * LEN);
    let mut residency = Residency::with(&options(2 * LEN), Some(swap), None).unwrap();
    let blobs: Vec<BlobId> = (0..4).map(|_| residency.add_own("pages", LEN).unwrap()).collect();
    residency.arrange(Agenda::new(4, blobs.iter().copied().zip(0..))).unwrap();
    let mut written = 0;
    for round in 0..12u64 {
        for (at, blob) in blobs.iter().enumerate() {
            let tick = round * 4 + at as Tick;
            residency.pin(tick, &[*blob]).unwrap();
            // Over the border of a chunk, and another one each time.
            let first = (round + 1) * SUM_BYTES - 100;
            residency.change_part(*blob, first..first + 200).unwrap();
            // SAFETY: the blob is pinned and said to change, and nobody else has its bytes.
            let bytes = unsafe { residency.span(*blob).unwrap().bytes_mut() };
            for earlier in 0..round {
                let first = ((earlier + 1) * SUM_BYTES - 100) as usize;
                assert!(bytes[first..first + 200].iter().all(|byte| u64::from(*byte) == earlier + 1));
                assert_eq!((bytes[first - 1], bytes[first + 200]), (0, 0));
            }
            bytes[first as usize..][..200].fill(round as u8 + 1);
            residency.unpin(tick, &[*blob]).unwrap();
        }
        let counts = residency.counts();
        if round > 3 {
            // A blob is written when it leaves; at most four have gone twice by now.
            assert!(counts.bytes_written - written <= 8 * 2 * SUM_BYTES, "{round}: {counts:?}");
        }
        written = counts.bytes_written;
    }
    assert!(written > 4 * LEN);
}

#[test]
fn s07_a_full_disk_fails_who_needs_it_and_loses_nothing() {
    let check = |swap: Option<SwapFile>, expected: fn(&SwapError) -> bool| {
        let (mut residency, blobs) = own(&options(4 * 12 * KB), swap, 10);
        let error = spill(&mut residency, &blobs, 1).unwrap_err();
        assert!(expected(&error), "{error}");
        // What was there before is there still, and can be used.
        for (at, blob) in blobs[..3].iter().enumerate() {
            residency.pin(at as Tick, &[*blob]).unwrap();
            assert!(residency.bytes(*blob).unwrap().iter().all(|byte| *byte == 1));
            residency.unpin(at as Tick, &[*blob]).unwrap();
        }
    };
    check(None, |error| matches!(error, SwapError::Full { tier: Tier::Disk, .. }));
    let full = |error: &SwapError| error.to_string().starts_with("swap: no room for 12288 bytes more, ");
    check(Some(swap_over(Arc::new(MemoryStore::new(Vec::new())), 0)), full);
    let no_room = SwapFile::over(
        Path::new("swap").into(),
        Arc::new(MemoryStore::new(Vec::new())),
        1 << 20,
        Box::new(|| Some(0)),
    );
    check(Some(no_room), full);
    let refusing = FaultStore::new(MemoryStore::new(Vec::new()), |call: Call| {
        (call.action == Action::Write).then_some(Fault::Error(ErrorKind::StorageFull))
    });
    check(Some(swap_over(Arc::new(refusing), 1 << 20)), |error| {
        matches!(error, SwapError::Io { action: Action::Write, kind: ErrorKind::StorageFull, .. })
    });
}

#[test]
fn what_is_discarded_gives_its_room_back_and_begins_anew() {
    let swap = swap_over(Arc::new(MemoryStore::new(Vec::new())), 1 << 20);
    let (mut residency, blobs) = own(&options(4 * 12 * KB), Some(swap), 10);
    spill(&mut residency, &blobs, 2).unwrap();
    assert!(residency.counts().swap_bytes > 0);
    residency.pin(30, &blobs[..1]).unwrap();
    assert!(matches!(residency.discard(blobs[0]), Err(SwapError::Pinned { .. })));
    residency.unpin(30, &blobs[..1]).unwrap();
    for blob in &blobs {
        residency.discard(*blob).unwrap();
    }
    let counts = residency.counts();
    assert_eq!((counts.used_bytes, counts.swap_bytes), (0, 0));
    residency.arrange(Agenda::new(10, blobs.iter().copied().zip(0..))).unwrap();
    spill(&mut residency, &blobs, 2).unwrap();
}

#[test]
fn a_bit_that_flips_in_the_swap_file_is_found() {
    let store = FaultStore::new(MemoryStore::new(Vec::new()), |call| {
        (call.action == Action::Read).then_some(Fault::Flip(99))
    });
    let (mut residency, blobs) = own(&options(4 * 12 * KB), Some(swap_over(Arc::new(store), 1 << 20)), 10);
    let error = spill(&mut residency, &blobs, 3).unwrap_err();
    assert!(matches!(error, SwapError::Corrupt { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Random agendas, lengths, limits, policies and faults: whatever happens, bytes are right or there is an error, the
    /// limits hold, and what is pinned stays where it is.
    #[test]
    fn bytes_are_right_or_there_is_an_error(
        lens in prop::collection::vec((1..30_000usize, any::<bool>()), 1..12),
        steps in prop::collection::vec(prop::collection::vec(0..12usize, 1..4), 1..16),
        memory in 20..200u64, ring in 0..100u64, stream in any::<bool>(), faults in prop::collection::vec(0..120u64, 0..4),
        swap_kb in 0..400u64,
    ) {
        let policy = if stream { Policy::Stream { ring_bytes: ring * KB } } else { Policy::FurthestUse { window_bytes: ring * KB } };
        let options = Options { policy, swap_bytes: swap_kb * KB, ..options(memory * KB) };
        let mut run = Random::new(&options, &lens, faults);
        let steps: Vec<Vec<BlobId>> = steps.iter().map(|step| run.pick(step)).collect();
        let uses = steps.iter().zip(0..).flat_map(|(step, tick)| step.iter().map(move |blob| (*blob, tick)));
        if run.residency.arrange(Agenda::new(steps.len() as Tick, uses)).is_err() {
            return Ok(());
        }
        for pass in 0..3 {
            for (at, step) in steps.iter().enumerate() {
                run.step((pass * steps.len() + at) as Tick, step);
            }
        }
    }
}

/// Blobs of both kinds, and what their bytes must be.
struct Random {
    residency: Residency,
    blobs: Vec<BlobId>,
    own: Vec<bool>,
    bytes: Vec<Vec<u8>>,
}

impl Random {
    fn new(options: &Options, lens: &[(usize, bool)], faults: Vec<u64>) -> Random {
        let script = |faults: Vec<u64>| {
            move |call: Call| match faults.iter().position(|number| *number == call.number)? {
                0 => Some(Fault::Error(ErrorKind::Other)),
                1 => Some(Fault::Flip(call.len * 3)),
                2 => Some(Fault::Short(call.len / 2)),
                _ => Some(Fault::Error(ErrorKind::StorageFull)),
            }
        };
        let swap = FaultStore::new(MemoryStore::new(Vec::new()), script(faults.clone()));
        let swap = swap_over(Arc::new(swap), options.swap_bytes);
        let mut residency = Residency::with(options, Some(swap), None).unwrap();
        let all = content(lens.iter().map(|(len, _)| *len).sum());
        let file = FaultStore::new(MemoryStore::new(all.clone()), script(faults));
        let file = residency.add_file(Path::new("weights"), Arc::new(file)).unwrap();
        let mut run = Random { residency, blobs: Vec::new(), own: Vec::new(), bytes: Vec::new() };
        let mut at = 0;
        for (len, own) in lens {
            let mine = all[at..at + len].to_vec();
            let origin = Origin { file, at: at as u64, len: *len as u64, sums: Some(Sums::of(&mine, 7000)) };
            run.blobs.push(match own {
                true => run.residency.add_own("pages", *len as u64).unwrap(),
                false => run.residency.add("weights", origin).unwrap(),
            });
            run.own.push(*own);
            run.bytes.push(if *own { vec![0; *len] } else { mine });
            at += len;
        }
        run
    }

    fn pick(&self, step: &[usize]) -> Vec<BlobId> {
        let mut picked: Vec<usize> = step.iter().map(|at| at % self.blobs.len()).collect();
        picked.sort_unstable();
        picked.dedup();
        picked.into_iter().map(|at| self.blobs[at]).collect()
    }

    fn step(&mut self, tick: Tick, step: &[BlobId]) {
        let residency = &mut self.residency;
        match residency.pin(tick, step) {
            Ok(()) => {
                let places: Vec<_> = step.iter().map(|blob| residency.span(*blob).unwrap()).collect();
                for blob in step {
                    let at = blob.0 as usize;
                    assert_eq!(residency.bytes(*blob).unwrap(), self.bytes[at], "{blob} at tick {tick}");
                    if self.own[at]
                        && let Ok(bytes) = residency.bytes_mut(*blob)
                    {
                        bytes.fill(tick as u8);
                        self.bytes[at].fill(tick as u8);
                    }
                }
                let _ = residency.prefetch(tick);
                for (blob, place) in step.iter().zip(places) {
                    assert_eq!(residency.span(*blob), Some(place), "{blob} moved from its pin");
                }
                residency.unpin(tick, step).unwrap();
            }
            Err(SwapError::Late { .. }) => panic!("somebody waits for ever"),
            Err(_) => residency.forgive(),
        }
        let ledger = residency.ledger();
        for tier in Tier::ALL {
            assert!(
                ledger.used(tier) <= ledger.peak(tier) && ledger.peak(tier) <= ledger.budget().limit(tier)
            );
        }
        for (blob, _) in ledger.blobs().filter(|(blob, _)| self.own[blob.0 as usize]) {
            let copies = [Tier::Host, Tier::Disk].map(|tier| ledger.copy(blob, tier).unwrap());
            let begun = self.bytes[blob.0 as usize].iter().any(|byte| *byte != 0);
            assert!(!begun || copies.contains(&(true, true)), "{blob} is lost: {copies:?}");
        }
    }
}

/// Set where this binary is started again, to be a process that somebody stops.
#[cfg(unix)]
const STOPPED: &str = "JTLLM_TEST_STOPPED";

/// The other process: each of its reads takes a third of the time for which it waits.
#[cfg(unix)]
#[test]
fn s17_other_process() {
    if std::env::var_os(STOPPED).is_none() {
        return;
    }
    let options = Options {
        wait_max: Duration::from_millis(1500),
        requests: Requests { in_flight: 1, bytes: 32 * KB },
        ..options(3 * 24 * KB)
    };
    let mut weights = Weights::new(&options, &[20_000; 8], |all| {
        let slow = |_| Some(Fault::Slow(Duration::from_millis(500)));
        Arc::new(FaultStore::new(MemoryStore::new(all), slow))
    });
    weights.arrange().unwrap();
    println!("\nready");
    weights.pass(0).unwrap();
    println!("\ndone");
}

#[cfg(unix)]
#[test]
fn s17_the_time_for_which_a_process_is_stopped_is_none_that_its_disk_took() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "s17_other_process", "--nocapture"])
        .env(STOPPED, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "ready"));
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
    };
    std::thread::sleep(Duration::from_millis(700));
    signal("-STOP");
    std::thread::sleep(Duration::from_millis(2500));
    signal("-CONT");
    assert!(lines.any(|line| line == "done"));
    assert!(child.wait().unwrap().success());
}

#[test]
fn s19_who_waits_for_a_read_that_hangs_can_be_called_off() {
    let mut weights = Weights::new(&options(4 * 24 * KB), &[20_000; 8], |all| {
        Arc::new(FaultStore::new(MemoryStore::new(all), |call| {
            (call.number == 0).then_some(Fault::Slow(Duration::from_secs(3)))
        }))
    });
    weights.arrange().unwrap();
    let cancel = weights.cancel.clone();
    let begin = Instant::now();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        cancel.store(true, Ordering::Relaxed);
    });
    assert_eq!(weights.pass(0), Err(SwapError::Cancelled));
    assert!(begin.elapsed() < Duration::from_secs(2));
    canceller.join().unwrap();
    weights.cancel.store(false, Ordering::Relaxed);
    weights.pass(0).unwrap();
}
