//! How fast a file is read past the page cache, as weights are.

use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jtllm_swap::memory::{Memory, Span};
use jtllm_swap::reader::Requests;
use jtllm_swap::store::{FileStore, Store, read_all};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes a second that as many requests at a time as weights are read with get of a file in about `time`; the file is
/// read from its beginning, and again if it is short. All is done that is done with weights: bytes go to memory of the same
/// kind, whose large pages make a request far fewer pieces for the disk, and a hash is taken of each piece.
///
/// # Errors
/// The file cannot be read, or is shorter than a request; there is no memory.
pub fn disk_bandwidth(path: &Path, time: Duration) -> io::Result<f64> {
    let Requests { bytes, in_flight } = Requests::default();
    let store = FileStore::open(path)?;
    let pieces = store.size()? / bytes;
    if pieces == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is too short to be measured"));
    }
    let memory = Memory::new(in_flight as u64 * bytes)?;
    let (next, begin) = (AtomicU64::new(0), Instant::now());
    let worker = |place: Span| -> io::Result<u64> {
        // SAFETY: each worker has a part of the memory of its own, which outlives them.
        let out = unsafe { place.bytes_mut() };
        let mut read = 0;
        while begin.elapsed() < time {
            let piece = next.fetch_add(1, Ordering::Relaxed) % pieces;
            read_all(&store, piece * bytes, out)?;
            black_box(xxh3_64(out));
            read += bytes;
        }
        Ok(read)
    };
    let total: io::Result<u64> = std::thread::scope(|scope| {
        let worker = &worker;
        let place = |number: usize| memory.span(number as u64 * bytes, bytes);
        let start = |number| {
            let place = place(number);
            scope.spawn(move || worker(place))
        };
        let workers: Vec<_> = (0..in_flight).map(start).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, io::Result<u64>>| {
            worker.join().unwrap_or_else(|_| Err(io::Error::other("a thread that reads has panicked")))
        };
        workers.into_iter().map(join).sum()
    });
    Ok(total? as f64 / begin.elapsed().as_secs_f64())
}
