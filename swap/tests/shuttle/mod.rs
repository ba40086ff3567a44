//! Reader, traffic and executor under schedules that `shuttle` chooses: no lost wake-up, no memory that two have.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::fault::{Fault, FaultStore};
use crate::file::SwapFile;
use crate::memory::Memory;
use crate::reader::{Job, Reader, Requests, Sums};
use crate::store::{Action, MemoryStore, Store};
use crate::sync::{Mutex, lock, thread};
use crate::{Agenda, BlobId, Options, Origin, Policy, Residency, SwapError, Tick};

const BLOCK: usize = 4096;
const REQUESTS: Requests = Requests { in_flight: 2, bytes: BLOCK as u64 };

fn content(blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// A store between whose calls other threads may run, and that may stop in the middle of one.
struct Yielding(MemoryStore);

impl Store for Yielding {
    fn read(&self, at: u64, out: &mut [u8]) -> std::io::Result<usize> {
        thread::yield_now();
        let half = out.len().div_ceil(2);
        let count = self.0.read(at, &mut out[..half])?;
        thread::yield_now();
        Ok(count)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> std::io::Result<usize> {
        thread::yield_now();
        let count = self.0.write(at, &bytes[..bytes.len().div_ceil(2)])?;
        thread::yield_now();
        Ok(count)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn size(&self) -> std::io::Result<u64> {
        self.0.size()
    }

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
}

fn jobs_are_reported_once() {
    let all = content(6);
    let reader = Reader::new(REQUESTS);
    let file = reader.add(Path::new("weights"), Arc::new(Yielding(MemoryStore::new(all.clone())))).unwrap();
    let memory = Memory::new(all.len() as u64).unwrap();
    let job = |at: usize, len: usize| {
        let (at, len) = (at * BLOCK, len * BLOCK);
        let sums = Some(Sums::of(&all[at..at + len], 3000));
        let span = memory.span(at as u64, len as u64);
        Job { action: Action::Read, file, at: at as u64, span, wanted: (0, len), sums }
    };
    // SAFETY: the three have memory of their own, which nobody looks at before all are reported.
    let mut tickets = unsafe {
        [reader.submit(job(0, 3), false), reader.submit(job(3, 1), true), reader.submit(job(4, 2), false)]
    };
    let mut found = Vec::new();
    while found.len() < 3 {
        reader.wait(&mut found, Duration::from_secs(1));
    }
    let mut reported: Vec<_> = found.iter().map(|(ticket, _)| *ticket).collect();
    reported.sort_unstable();
    tickets.sort_unstable();
    assert_eq!(reported, tickets);
    assert!(found.iter().all(|(_, outcome)| outcome.is_ok()));
    // SAFETY: every job was reported.
    assert_eq!(unsafe { memory.span(0, memory.len()).bytes() }, all);
}

fn a_reader_can_be_dropped_at_any_moment() {
    let memory = Memory::new(4 * BLOCK as u64).unwrap();
    let reader = Reader::new(REQUESTS);
    let file = reader.add(Path::new("weights"), Arc::new(Yielding(MemoryStore::new(content(4))))).unwrap();
    let (span, wanted) = (memory.span(0, memory.len()), (0, 4 * BLOCK));
    let job = Job { action: Action::Read, file, at: 0, span, wanted, sums: None };
    // SAFETY: the reader is dropped before the memory.
    unsafe { reader.submit(job, false) };
    thread::yield_now();
    drop(reader);
    // SAFETY: the reader is gone. A thread of it that was not would be found to race by this write.
    unsafe { memory.span(0, memory.len()).bytes_mut() }.fill(0);
}

fn memory_that_is_left_goes_with_the_last_thread() {
    let memory = Arc::new(Memory::new(4 * BLOCK as u64).unwrap());
    let mut reader = Reader::new(REQUESTS);
    let file = reader.add(Path::new("weights"), Arc::new(Yielding(MemoryStore::new(content(4))))).unwrap();
    let (span, wanted) = (memory.span(0, memory.len()), (0, 4 * BLOCK));
    let job = Job { action: Action::Read, file, at: 0, span, wanted, sums: None };
    // SAFETY: the memory is given to the reader before it is dropped.
    unsafe { reader.submit(job, false) };
    thread::yield_now();
    let held = Arc::downgrade(&memory);
    // SAFETY: the only job has its bytes there.
    unsafe { reader.leave(memory) };
    drop(reader);
    while held.upgrade().is_some() {
        thread::yield_now();
    }
}

fn a_failed_file_answers_every_job() {
    let reader = Reader::new(REQUESTS);
    let store = FaultStore::new(Yielding(MemoryStore::new(content(4))), |call| {
        (call.number == 1).then_some(Fault::Error(ErrorKind::Other))
    });
    let file = reader.add(Path::new("weights"), Arc::new(store)).unwrap();
    let memory = Memory::new(8 * BLOCK as u64).unwrap();
    for half in [0, 4] {
        let span = memory.span(half * BLOCK as u64, 4 * BLOCK as u64);
        let job = Job { action: Action::Read, file, at: 0, span, wanted: (0, 4 * BLOCK), sums: None };
        // SAFETY: each has memory of its own, which nobody looks at.
        unsafe { reader.submit(job, false) };
    }
    let mut found = Vec::new();
    while found.len() < 2 {
        reader.wait(&mut found, Duration::from_secs(1));
    }
    assert!(found.iter().any(|(_, outcome)| matches!(outcome, Err(SwapError::Io { .. }))), "{found:?}");
}

/// Weights and pages that change through memory for three of them.
fn passes() {
    let options = Options {
        policy: Policy::Stream { ring_bytes: 0 },
        requests: REQUESTS,
        swap_bytes: 1 << 20,
        wait_max: Duration::from_secs(600),
        ..Options::new(3 * 2 * BLOCK as u64)
    };
    let swap = Arc::new(Yielding(MemoryStore::new(Vec::new())));
    let swap = SwapFile::over(Path::new("swap").into(), swap, 1 << 20, Box::new(|| None));
    let mut residency = Residency::with(&options, Some(swap), None).unwrap();
    let all = content(8);
    let file =
        residency.add_file(Path::new("weights"), Arc::new(Yielding(MemoryStore::new(all.clone())))).unwrap();
    let len = 2 * BLOCK;
    let mut blobs: Vec<BlobId> = Vec::new();
    for at in (0..all.len()).step_by(len) {
        let sums = Some(Sums::of(&all[at..at + len], 3000));
        blobs.push(residency.add("weights", Origin { file, at: at as u64, len: len as u64, sums }).unwrap());
        blobs.push(residency.add_own("pages", len as u64).unwrap());
    }
    let uses = blobs.iter().copied().zip(0..);
    residency.arrange(Agenda::new(blobs.len() as Tick, uses)).unwrap();
    for pass in 0..2 {
        for (at, blob) in blobs.iter().enumerate() {
            let tick = (pass * blobs.len() + at) as Tick;
            residency.pin(tick, &[*blob]).unwrap();
            if at % 2 == 0 {
                assert_eq!(residency.bytes(*blob).unwrap(), &all[at / 2 * len..][..len]);
            } else {
                let bytes = residency.bytes_mut(*blob).unwrap();
                assert!(bytes.iter().all(|byte| *byte == pass as u8));
                bytes.fill(pass as u8 + 1);
            }
            residency.unpin(tick, &[*blob]).unwrap();
        }
    }
    assert!(residency.counts().peak_bytes <= options.memory_bytes);
}

#[test]
fn s20_jobs_are_reported_once() {
    shuttle::check_random(jobs_are_reported_once, 3000);
    shuttle::check_pct(jobs_are_reported_once, 3000, 3);
}

#[test]
fn s20_a_reader_can_be_dropped_at_any_moment() {
    shuttle::check_random(a_reader_can_be_dropped_at_any_moment, 3000);
}

#[test]
fn s20_memory_that_is_left_goes_with_the_last_thread() {
    shuttle::check_random(memory_that_is_left_goes_with_the_last_thread, 3000);
}

#[test]
fn s20_a_failed_file_answers_every_job() {
    shuttle::check_random(a_failed_file_answers_every_job, 3000);
}

#[test]
fn s20_passes_under_any_schedule() {
    shuttle::check_random(passes, 500);
    shuttle::check_pct(passes, 500, 3);
}

/// What `runtime::residence` does with a residency: one lock over it and its books, held by who runs the steps of a plan
/// until the last of them; by others, who count, or give the memory up so that a new plan can be measured.
struct Shared {
    all: Vec<u8>,
    sums: Sums,
    lens: usize,
    state: Mutex<Option<(Residency, Vec<BlobId>, Tick)>>,
}

impl Shared {
    /// Memory for blobs, if there is none, and files forgiven, as at the beginning of each plan.
    fn settle(&self, state: &mut Option<(Residency, Vec<BlobId>, Tick)>) {
        if let Some((residency, ..)) = state {
            residency.forgive();
            return;
        }
        let options = Options {
            policy: Policy::Stream { ring_bytes: 0 },
            requests: REQUESTS,
            wait_max: Duration::from_secs(600),
            ..Options::new(3 * self.lens as u64)
        };
        let mut residency = Residency::with(&options, None, None).unwrap();
        let store = FaultStore::new(Yielding(MemoryStore::new(self.all.clone())), |call| {
            // One that fails, and one that is read wrongly when all were read once.
            match call.number {
                3 => Some(Fault::Error(ErrorKind::Other)),
                // A request takes 13 reads, each of a half of what is left.
                150 => Some(Fault::Flip(5)),
                _ => None,
            }
        });
        let file = residency.add_file(Path::new("weights"), Arc::new(store)).unwrap();
        let chunks = self.lens / 4096;
        let add = |at: usize| {
            // Hashes that the first reading gives outlive the memory.
            let sums = Some(Sums { first: at / self.lens * chunks, ..self.sums.clone() });
            let origin = Origin { file, at: at as u64, len: self.lens as u64, sums };
            residency.add("weights", origin).unwrap()
        };
        let blobs: Vec<BlobId> = (0..self.all.len()).step_by(self.lens).map(add).collect();
        let uses = blobs.iter().copied().zip(0..);
        residency.arrange(Agenda::new(blobs.len() as Tick, uses)).unwrap();
        residency.prefetch(0).unwrap();
        *state = Some((residency, blobs, 0));
    }

    /// The steps of one plan, whose lock nobody takes between them. A worker reads each step's bytes, as a kernel does.
    fn pass(&self) -> Result<(), SwapError> {
        let mut state = lock(&self.state);
        self.settle(&mut state);
        let (residency, blobs, now) = state.as_mut().unwrap();
        for (at, blob) in blobs.iter().enumerate() {
            let tick = *now;
            *now += 1;
            if let Err(error) = residency.pin(tick, &[*blob]) {
                // As the runtime does: the pass that comes next begins at the plan's first step.
                *now += (blobs.len() - 1 - at) as Tick;
                return Err(error);
            }
            let span = residency.span(*blob).unwrap();
            let worker = thread::spawn(move || {
                // SAFETY: the blob is pinned until this thread has ended.
                unsafe { span.bytes() }.to_vec()
            });
            assert_eq!(worker.join().unwrap(), &self.all[at * self.lens..][..self.lens]);
            residency.unpin(tick, &[*blob]).unwrap();
        }
        Ok(())
    }
}

fn executor_and_others_share_a_residence() {
    let (all, lens) = (content(8), 2 * BLOCK);
    let sums = Sums::unknown(all.len() as u64, 4096);
    let shared = Arc::new(Shared { all, sums, lens, state: Mutex::new(None) });
    let other = {
        let shared = shared.clone();
        thread::spawn(move || {
            for round in 0..3 {
                let mut state = lock(&shared.state);
                if let Some((residency, ..)) = &*state {
                    assert!(residency.counts().peak_bytes <= 3 * shared.lens as u64);
                }
                if round == 1 {
                    // What is in flight ends first: its memory goes with it.
                    *state = None;
                }
            }
        })
    };
    let failed = (0..3).filter(|_| shared.pass().is_err()).count();
    // A memory that is made anew begins its faults anew.
    assert!(failed <= 2, "{failed}");
    other.join().unwrap();
    shared.pass().or_else(|_| shared.pass()).unwrap();
}

#[test]
fn s20_executor_and_others_share_a_residence() {
    shuttle::check_random(executor_and_others_share_a_residence, 500);
    shuttle::check_pct(executor_and_others_share_a_residence, 500, 3);
}
