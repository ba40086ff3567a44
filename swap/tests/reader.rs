//! The reader: every byte where it belongs, errors typed and sticky, bad bytes never reported as good.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jtllm_swap::SwapError;
use jtllm_swap::fault::{Call, Fault, FaultStore};
use jtllm_swap::memory::Memory;
use jtllm_swap::reader::{FileId, Job, Outcome, Reader, Requests, Sums, Ticket};
use jtllm_swap::store::{Action, FileStore, MemoryStore, Store, read_all};
use proptest::prelude::*;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn requests(in_flight: usize, bytes: u64) -> Requests {
    Requests { in_flight, bytes }
}

fn wait(reader: &Reader, count: usize) -> Vec<Outcome> {
    let mut found = Vec::new();
    while found.len() < count {
        reader.wait(&mut found, Duration::from_secs(60));
    }
    found
}

fn read(reader: &Reader, file: FileId, at: u64, memory: &Memory, len: usize, sums: Option<Sums>) -> Ticket {
    let span = memory.span(0, memory.len());
    // SAFETY: each test waits for the report before it looks at the memory or drops it.
    unsafe { reader.submit(Job { action: Action::Read, file, at, span, wanted: (0, len), sums }, false) }
}

/// A reader of one file with these faults, what it says of a first read, and of a second one.
fn two_reads(
    sums: Option<Sums>,
    script: impl Fn(Call) -> Option<Fault> + Send + Sync + 'static,
) -> [Result<(), SwapError>; 2] {
    let content = bytes(20_000);
    let reader = Reader::new(requests(3, 4096));
    let store = FaultStore::new(MemoryStore::new(content.clone()), script);
    let file = reader.add(Path::new("weights"), Arc::new(store)).unwrap();
    [0, 1].map(|_| {
        let memory = Memory::new(content.len() as u64).unwrap();
        let ticket = read(&reader, file, 0, &memory, content.len(), sums.clone());
        let (reported, outcome) = wait(&reader, 1).remove(0);
        assert_eq!(reported, ticket);
        if outcome.is_ok() {
            // SAFETY: the job was reported, so nobody writes to the memory any more.
            assert_eq!(unsafe { memory.span(0, memory.len()).bytes() }, content);
        }
        outcome
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn jobs_bring_their_own_bytes(
        in_flight in 1..5usize, size in 1..64u64, jobs in prop::collection::vec((0..90_000u64, 0..30_000usize, any::<bool>(), any::<bool>()), 1..20),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content = bytes(100_000);
        std::fs::write(&path, &content).unwrap();
        let reader = Reader::new(requests(in_flight, size * 512));
        let file = reader.add(&path, Arc::new(FileStore::open(&path).unwrap())).unwrap();
        let mut asked = Vec::new();
        for (at, len, urgent, checked) in jobs {
            let len = len.min(content.len() - at as usize);
            let (skew, first) = (at as usize % 4096, at / 4096 * 4096);
            let memory = Memory::new((skew + len).next_multiple_of(4096) as u64).unwrap();
            let sums = checked.then(|| Sums::of(&content[at as usize..at as usize + len], 5_000));
            let job = Job { action: Action::Read, file, at: first, span: memory.span(0, memory.len()), wanted: (skew, len), sums };
            // SAFETY: the memory is kept in the list, and looked at when everything was reported.
            let ticket = unsafe { reader.submit(job, urgent) };
            asked.push((ticket, at as usize, skew, len, memory));
        }
        // Tickets are used again once they are reported, so outcomes are counted, not looked up.
        let outcomes = wait(&reader, asked.len());
        prop_assert!(outcomes.iter().all(|(_, outcome)| outcome.is_ok()), "{outcomes:?}");
        for (_, at, skew, len, memory) in &asked {
            // SAFETY: every job was reported.
            let found = unsafe { memory.span(*skew as u64, *len as u64).bytes() };
            prop_assert_eq!(found, &content[*at..*at + *len]);
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    let reader = Reader::new(requests(4, 4096));
    let store = Arc::new(MemoryStore::new(Vec::new()));
    let file = reader.add(Path::new("swap"), store.clone()).unwrap();
    let memory = Memory::new(5 * 4096).unwrap();
    let span = memory.span(0, memory.len());
    // SAFETY: no job has the memory yet.
    unsafe { span.bytes_mut() }.copy_from_slice(&bytes(5 * 4096));
    let job = Job { action: Action::Write, file, at: 4096, span, wanted: (0, span.len()), sums: None };
    // SAFETY: the report is waited for.
    unsafe { reader.submit(job, false) };
    assert_eq!(wait(&reader, 1)[0].1, Ok(()));
    let mut found = vec![0; 5 * 4096];
    read_all(&*store, 4096, &mut found).unwrap();
    assert_eq!(found, bytes(5 * 4096));
    assert_eq!(reader.traffic(), (0, 5 * 4096));
}

/// A disk that is full and one on which this user may have no more are the same to who writes: the file is whole.
#[test]
fn s07_a_write_without_room_is_no_fault_of_the_file() {
    let is_broken = |kind: ErrorKind| {
        let store = FaultStore::new(MemoryStore::new(bytes(4096)), move |call| {
            (call.action == Action::Write).then_some(Fault::Error(kind))
        });
        let reader = Reader::new(requests(2, 4096));
        let file = reader.add(Path::new("swap"), Arc::new(store)).unwrap();
        let memory = Memory::new(4096).unwrap();
        let span = memory.span(0, memory.len());
        let job = Job { action: Action::Write, file, at: 4096, span, wanted: (0, span.len()), sums: None };
        // SAFETY: the report is waited for.
        unsafe { reader.submit(job, false) };
        let error = wait(&reader, 1).remove(0).1.unwrap_err();
        let SwapError::Io { action: Action::Write, at: 4096, kind: found, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((*found, error.is_disk_full()), (kind, kind != ErrorKind::Other));
        read(&reader, file, 0, &memory, 4096, Some(Sums::of(&bytes(4096), 4096)));
        match wait(&reader, 1).remove(0).1 {
            Ok(()) => false,
            Err(error) => {
                assert!(matches!(error, SwapError::PreviousIo { .. }), "{error}");
                true
            }
        }
    };
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge] {
        assert!(!is_broken(kind), "{kind}");
    }
    assert!(is_broken(ErrorKind::Other));
}

#[test]
fn s01_the_nth_failing_read_is_named_and_sticks_until_forgiven() {
    for failing in 0..5 {
        let [first, second] =
            two_reads(None, move |call| (call.number == failing).then_some(Fault::Error(ErrorKind::Other)));
        let Err(SwapError::Io { at, action: Action::Read, .. }) = &first else { panic!("{first:?}") };
        assert!(at % 4096 == 0 && *at < 20_000);
        assert!(matches!(second, Err(SwapError::PreviousIo { .. })), "{second:?}");
        assert!(first.unwrap_err().to_string().starts_with("weights: cannot read at byte "));
    }
    let content = bytes(100);
    let store = FaultStore::new(MemoryStore::new(content.clone()), |call| {
        (call.number == 0).then_some(Fault::Error(ErrorKind::Other))
    });
    let reader = Reader::new(requests(2, 4096));
    let file = reader.add(Path::new("weights"), Arc::new(store)).unwrap();
    let memory = Memory::new(100).unwrap();
    read(&reader, file, 0, &memory, 100, None);
    assert!(wait(&reader, 1)[0].1.is_err());
    reader.forgive();
    read(&reader, file, 0, &memory, 100, None);
    assert_eq!(wait(&reader, 1)[0].1, Ok(()));
}

#[test]
fn s02_s03_short_reads_and_interruptions_change_nothing() {
    let outcomes = two_reads(Some(Sums::of(&bytes(20_000), 4_096)), |call| match call.number % 3 {
        0 => Some(Fault::Short(1 + call.number as usize * 577 % 3000)),
        1 => Some(Fault::Error(ErrorKind::Interrupted)),
        _ => None,
    });
    assert_eq!(outcomes, [Ok(()), Ok(())]);
}

#[test]
fn s04_a_flipped_bit_is_read_again_and_then_an_error() {
    let sums = Sums::of(&bytes(20_000), 6_000);
    let once = two_reads(Some(sums.clone()), |call| (call.number == 2).then_some(Fault::Flip(77)));
    assert_eq!(once, [Ok(()), Ok(())]);
    let always =
        two_reads(Some(sums), |call| (call.at == 8192 || call.at == 6000).then_some(Fault::Flip(17_001)));
    let corrupt = SwapError::Corrupt { path: Path::new("weights").into(), at: 6_000, len: 6_000 };
    assert_eq!(always, [Err(corrupt.clone()), Err(corrupt)]);
}

#[test]
fn f17_a_file_that_ends_too_soon_is_an_error_that_says_where() {
    let reader = Reader::new(Requests::default());
    let store = Arc::new(MemoryStore::new(bytes(10_000)));
    let file = reader.add(Path::new("weights"), store.clone()).unwrap();
    store.set_len(9_000).unwrap();
    let memory = Memory::new(12_288).unwrap();
    read(&reader, file, 0, &memory, 10_000, None);
    let outcome = wait(&reader, 1).remove(0).1;
    assert_eq!(outcome.unwrap_err().to_string(), "weights: cannot read at byte 0: it ends at 9000");
}

#[test]
fn s05_a_slow_store_is_waited_for_and_a_reader_can_be_dropped_at_work() {
    let store =
        FaultStore::new(MemoryStore::new(bytes(20_000)), |_| Some(Fault::Slow(Duration::from_millis(10))));
    let reader = Reader::new(requests(1, 4096));
    let file = reader.add(Path::new("weights"), Arc::new(store)).unwrap();
    let memory = Memory::new(20_000).unwrap();
    let mut found = Vec::new();
    read(&reader, file, 0, &memory, 20_000, None);
    reader.wait(&mut found, Duration::from_millis(1));
    assert!(found.is_empty());
    assert_eq!(wait(&reader, 1)[0].1, Ok(()));
    read(&reader, file, 0, &memory, 20_000, None);
    drop(reader);
}
