//! Stores: any place and length reads the same bytes, the page cache stays as it is, faults are what was asked for.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;

use jtllm_swap::fault::{Fault, FaultStore};
use jtllm_swap::store::{Action, BLOCK_BYTES, FileStore, MemoryStore, Store, read_all, write_all};
use proptest::prelude::*;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Memory of which the first byte lies `skew` bytes behind a block's border.
struct Skewed {
    all: Vec<u8>,
    start: usize,
    len: usize,
}

impl Skewed {
    fn new(skew: usize, len: usize) -> Skewed {
        let all = vec![0xEE; len + skew + 2 * BLOCK_BYTES as usize];
        let start = all.as_ptr().align_offset(BLOCK_BYTES as usize) + skew;
        Skewed { all, start, len }
    }

    fn get(&mut self) -> &mut [u8] {
        &mut self.all[self.start..self.start + self.len]
    }

    fn is_intact_outside(&self) -> bool {
        let outside = self.all[..self.start].iter().chain(&self.all[self.start + self.len..]);
        outside.copied().all(|byte| byte == 0xEE)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_file_reads_the_same_at_any_place_length_and_address(
        size in 1..200_000usize, at in 0..200_000usize, len in 0..200_000usize, skew in 0..4096usize, like in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content = bytes(size);
        std::fs::write(&path, &content).unwrap();
        let (at, len) = (at % size, len.min(size - at % size));
        let mut memory = Skewed::new(if like { at % BLOCK_BYTES as usize } else { skew }, len);
        for store in [FileStore::open(&path).unwrap(), FileStore::open_buffered(&path).unwrap()] {
            memory.get().fill(0);
            read_all(&store, at as u64, memory.get()).unwrap();
            prop_assert_eq!(memory.get(), &content[at..at + len]);
            prop_assert!(memory.is_intact_outside());
            let mut beyond = [0; 10];
            let error = read_all(&store, size as u64 - 1, &mut beyond).unwrap_err();
            prop_assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        }
    }
}

/// How many pages of the file are in the page cache. A read that may not wait would bring them there.
#[cfg(target_os = "linux")]
fn cached_pages(path: &std::path::Path) -> usize {
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: nobody changes the file while it is mapped, and no byte of it is read.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    let mut pages = vec![0u8; map.len().div_ceil(BLOCK_BYTES as usize)];
    // SAFETY: the range is the mapping's, and there is a byte for each of its pages.
    let outcome = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), pages.as_mut_ptr()) };
    assert_eq!(outcome, 0);
    pages.iter().filter(|page| **page & 1 == 1).count()
}

#[cfg(target_os = "linux")]
#[test]
fn the_page_cache_does_not_grow() {
    // Not the temporary folder, which may be in memory.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("file");
    let content = bytes(8 << 20);
    std::fs::write(&path, &content).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    if cached_pages(&path) > 0 {
        println!("skipped: this file system keeps every page");
        return;
    }
    let mut memory = Skewed::new(32, content.len() - 1000);
    for store in [FileStore::open(&path).unwrap(), FileStore::open_buffered(&path).unwrap()] {
        read_all(&store, 32, memory.get()).unwrap();
        assert_eq!(memory.get(), &content[32..content.len() - 968]);
        assert_eq!(cached_pages(&path), 0, "{store:?}");
    }
    assert!(!FileStore::open_buffered(&path).unwrap().is_direct());
    // The probe itself can tell.
    let _ = std::fs::read(&path).unwrap();
    assert!(cached_pages(&path) > 0);
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(FileStore::open(&folder.path().join("none")).is_err());
    assert_eq!(FileStore::open(folder.path()).unwrap_err().kind(), ErrorKind::InvalidInput);
    #[cfg(target_os = "linux")]
    assert!(FileStore::open(std::path::Path::new("/dev/zero")).is_err());
}

#[test]
fn whole_blocks_are_written_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, []).unwrap();
    let store = FileStore::open_for_writing(&path).unwrap();
    store.set_len(3 * BLOCK_BYTES).unwrap();
    let mut memory = Skewed::new(0, 2 * BLOCK_BYTES as usize);
    memory.get().copy_from_slice(&bytes(2 * BLOCK_BYTES as usize));
    write_all(&store, BLOCK_BYTES, memory.get()).unwrap();
    store.sync().unwrap();
    let found = std::fs::read(&path).unwrap();
    assert_eq!(found[BLOCK_BYTES as usize..], *memory.get());
    assert!(found[..BLOCK_BYTES as usize].iter().all(|byte| *byte == 0));
    for (at, range) in [(1, 0..4096), (0, 0..4095), (0, 1..4097)] {
        assert_eq!(store.write(at, &memory.get()[range]).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn short_reads_and_interruptions_change_nothing() {
    let content = bytes(10_000);
    let store = FaultStore::new(MemoryStore::new(content.clone()), |call| match call.number % 4 {
        0 => Some(Fault::Error(ErrorKind::Interrupted)),
        1 => Some(Fault::Short(1 + call.number as usize * 7 % 300)),
        2 => Some(Fault::Error(ErrorKind::WouldBlock)),
        _ => None,
    });
    let mut out = vec![0; 9_000];
    read_all(&store, 500, &mut out).unwrap();
    assert_eq!(out, content[500..9_500]);
    assert!(store.calls(Action::Read) >= 4);
    write_all(&store, 20, &[7; 100]).unwrap();
    read_all(&store, 10, &mut out[..120]).unwrap();
    assert_eq!(out[..120], [&content[10..20], &[7; 100], &content[120..130]].concat());
}

#[test]
fn a_store_that_is_never_ready_is_an_error_in_the_end() {
    let store = FaultStore::new(MemoryStore::new(bytes(10)), |_| Some(Fault::Error(ErrorKind::Interrupted)));
    assert_eq!(read_all(&store, 0, &mut [0; 4]).unwrap_err().kind(), ErrorKind::Interrupted);
}

#[test]
fn faults_are_what_was_asked_for() {
    let store = FaultStore::new(MemoryStore::new(bytes(10)), |call| match (call.action, call.number) {
        (Action::Read, 1) => Some(Fault::Flip(9)),
        (Action::Read, 2) => Some(Fault::Error(ErrorKind::Other)),
        (Action::Write, 0) => Some(Fault::Error(ErrorKind::StorageFull)),
        (Action::Sync, _) => Some(Fault::Error(ErrorKind::Other)),
        _ => None,
    });
    let (mut sound, mut flipped) = ([0; 4], [0; 4]);
    read_all(&store, 2, &mut sound).unwrap();
    read_all(&store, 2, &mut flipped).unwrap();
    sound[1] ^= 2;
    assert_eq!(sound, flipped);
    assert!(read_all(&store, 2, &mut sound).is_err());
    assert_eq!(write_all(&store, 0, &[1]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert!(store.sync().is_err());
    store.set_len(3).unwrap();
    assert_eq!(store.size().unwrap(), 3);
}

/// Files of `/proc` are regular, and their file system knows nothing of direct reads.
#[cfg(target_os = "linux")]
#[test]
fn s06_a_file_system_without_direct_reads_is_read_all_the_same() {
    let store = FileStore::open(std::path::Path::new("/proc/self/status")).unwrap();
    assert!(!Store::is_direct(&store));
    let mut found = [0; 5];
    read_all(&store, 0, &mut found).unwrap();
    assert_eq!(&found, b"Name:");
}
