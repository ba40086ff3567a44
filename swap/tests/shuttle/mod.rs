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
use crate::sync::thread;
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
fn s20_a_failed_file_answers_every_job() {
    shuttle::check_random(a_failed_file_answers_every_job, 3000);
}

#[test]
fn s20_passes_under_any_schedule() {
    shuttle::check_random(passes, 500);
    shuttle::check_pct(passes, 500, 3);
}
