//! The process's own memory while a file goes through that is much larger. Alone in its binary, for its memory is what
//! the system counts.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::path::Path;
use std::sync::Arc;

use jtllm_swap::store::FileStore;
use jtllm_swap::{Agenda, BlobId, Options, Origin, Policy, Residency, Tick};

const MIB: u64 = 1 << 20;

/// The most bytes of memory that this process ever had.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn s13_a_large_file_goes_through_a_small_memory() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("weights");
    let (len, blob_bytes, memory_bytes) = (512 * MIB, 8 * MIB, 48 * MIB);
    // Holes are read as fast as the file system says that they are zeros.
    std::fs::File::create(&path).unwrap().set_len(len + 32).unwrap();
    let before = peak_bytes();
    let options = Options { policy: Policy::Stream { ring_bytes: 0 }, ..Options::new(memory_bytes) };
    let mut residency = Residency::new(&options).unwrap();
    let file = residency.add_file(Path::new("weights"), Arc::new(FileStore::open(&path).unwrap())).unwrap();
    let add =
        |at| residency.add("weights", Origin { file, at: at + 32, len: blob_bytes, sums: None }).unwrap();
    let blobs: Vec<BlobId> = (0..len).step_by(blob_bytes as usize).map(add).collect();
    residency.arrange(Agenda::new(blobs.len() as Tick, blobs.iter().copied().zip(0..))).unwrap();
    for tick in 0..2 * blobs.len() {
        let blob = blobs[tick % blobs.len()];
        residency.pin(tick as Tick, &[blob]).unwrap();
        assert!(residency.bytes(blob).unwrap().iter().all(|byte| *byte == 0));
        residency.unpin(tick as Tick, &[blob]).unwrap();
    }
    let counts = residency.counts();
    assert!(counts.peak_bytes <= memory_bytes && counts.bytes_read >= len);
    let grown = peak_bytes() - before;
    assert!(grown <= memory_bytes + 2 * MIB, "{grown} bytes for {memory_bytes}");
}
