//! How fast a file is read past the page cache, as weights are.

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jtllm_swap::reader::Requests;
use jtllm_swap::store::{BLOCK_BYTES, FileStore, Store, read_all};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes a second that as many requests at a time as weights are read with get of a file in about `time`, a hash of each
/// taken as weights' are compared; the file is read from its beginning, and again if it is short.
///
/// # Errors
/// The file cannot be read, or is shorter than a request.
pub fn disk_bandwidth(path: &Path, time: Duration) -> io::Result<f64> {
    let Requests { bytes, in_flight } = Requests::default();
    let store = FileStore::open(path)?;
    let pieces = store.size()? / bytes;
    if pieces == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is too short to be measured"));
    }
    let (next, begin) = (AtomicU64::new(0), Instant::now());
    let worker = || -> io::Result<u64> {
        let mut memory = vec![0; bytes as usize + BLOCK_BYTES as usize];
        let skip = memory.as_ptr().align_offset(BLOCK_BYTES as usize);
        let mut read = 0;
        while begin.elapsed() < time {
            let piece = next.fetch_add(1, Ordering::Relaxed) % pieces;
            read_all(&store, piece * bytes, &mut memory[skip..skip + bytes as usize])?;
            black_box(xxh3_64(&memory[skip..skip + bytes as usize]));
            read += bytes;
        }
        Ok(read)
    };
    let total: io::Result<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..in_flight).map(|_| scope.spawn(worker)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, io::Result<u64>>| {
            worker.join().unwrap_or_else(|_| Err(io::Error::other("a thread that reads has panicked")))
        };
        workers.into_iter().map(join).sum()
    });
    Ok(total? as f64 / begin.elapsed().as_secs_f64())
}
