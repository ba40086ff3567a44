//! How fast a file is read past the page cache, as weights are.

use std::hint::black_box;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jtllm_swap::memory::{Memory, Span};
use jtllm_swap::reader::Requests;
use jtllm_swap::store::{BLOCK_BYTES, FileStore, Store, read_all};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes a second that as many requests at a time as weights are read with get of ranges of a file in about `time`, one range
/// after another, and again if they are short. All is done that is done with weights: requests are as long as their ranges
/// allow, bytes go to memory of the same kind, whose large pages make a request far fewer pieces for the disk, and a hash is
/// taken of each piece.
///
/// # Errors
/// The file cannot be read, or has not a block of these ranges; there is no memory.
pub fn disk_bandwidth(path: &Path, ranges: &[Range<u64>], time: Duration) -> io::Result<f64> {
    let Requests { bytes, in_flight } = Requests::default();
    let store = FileStore::open(path)?;
    let size = store.size()? / BLOCK_BYTES * BLOCK_BYTES;
    let pieces: Vec<Range<u64>> = ranges.iter().flat_map(|range| pieces(range, bytes, size)).collect();
    if pieces.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is too short to be measured"));
    }
    let memory = Memory::new(in_flight as u64 * bytes)?;
    let (next, begin) = (AtomicUsize::new(0), Instant::now());
    let worker = |place: Span| -> io::Result<u64> {
        // SAFETY: each worker has a part of the memory of its own, which outlives them.
        let out = unsafe { place.bytes_mut() };
        let mut read = 0;
        while begin.elapsed() < time {
            let piece = &pieces[next.fetch_add(1, Ordering::Relaxed) % pieces.len()];
            let out = &mut out[..(piece.end - piece.start) as usize];
            read_all(&store, piece.start, out)?;
            black_box(xxh3_64(out));
            read += out.len() as u64;
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

/// The blocks of a range in requests of at most so many bytes, inside of a file of `size`.
fn pieces(range: &Range<u64>, bytes: u64, size: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let (first, end) =
        (range.start / BLOCK_BYTES * BLOCK_BYTES, range.end.next_multiple_of(BLOCK_BYTES).min(size));
    (first..end).step_by(bytes as usize).map(move |at| at..(at + bytes).min(end))
}
