//! The machine's limits, measured: what `jtllm bench` compares its own speed with.
//!
//! Both figures are the best of several runs, since a limit is what the machine can do when nothing disturbs it. Each
//! takes well under a second once the memory is the process's own; a virtual machine may need another to find 500 MB that
//! it has never touched. Only optimised builds give meaningful figures.

mod device;
mod disk;
mod limits;
#[cfg(target_arch = "x86_64")]
mod narrow;
mod peak;

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::device::threads::Pool;
use crate::machine::Machine;
use crate::memory::{HostBuffer, MemoryError};

pub use device::copy_bandwidth;
pub use disk::disk_bandwidth;
pub use limits::{Limits, Reach};
pub use peak::{Multiplied, peak};

/// Streams that a worker reads side by side: more requests in flight than one stream's prefetcher makes.
const STREAMS: usize = 4;

/// Words of a stream read in one go: two cache lines.
const BLOCK: usize = 16;

/// Bytes to read for [`bandwidth`]: enough that the largest cache holds less than half of them, but at most a quarter
/// of the memory that is free.
pub fn bandwidth_bytes(machine: &Machine) -> usize {
    const LEAST: u64 = 256 << 20;
    let wanted = machine.cache_bytes.unwrap_or(0).saturating_mul(2).clamp(LEAST, 4 * LEAST);
    wanted.min(machine.memory.available_bytes.map_or(u64::MAX, |available| available / 4)) as usize
}

/// Reads about `bytes` of memory with all workers of the pool, again and again for `time` (at least twice), and returns
/// the speed of the fastest reading in GB/s (1e9 bytes).
///
/// # Errors
/// The memory cannot be had.
pub fn bandwidth(pool: &Pool, bytes: usize, time: Duration) -> Result<f64, MemoryError> {
    let stream = Stream::new(pool, bytes)?;
    Ok(stream.speed(time, 2) / 1e9)
}

/// Memory that the workers of a pool read, each a share of its own.
struct Stream<'a> {
    pool: &'a Pool,
    buffer: HostBuffer,
    /// Words of a share.
    words: usize,
}

impl Stream<'_> {
    /// About so many bytes, written.
    fn new(pool: &Pool, bytes: usize) -> Result<Stream<'_>, MemoryError> {
        let words = (bytes / 8 / pool.count()).next_multiple_of(STREAMS * BLOCK).max(STREAMS * BLOCK);
        let share = words.checked_mul(8).ok_or_else(|| too_long(bytes))?;
        let buffer = HostBuffer::new(share.checked_mul(pool.count()).ok_or_else(|| too_long(bytes))?)?;
        let _pinned = pool.pin_caller();
        // Memory that was never written is one page of zeros, read from the cache. Each worker writes its own share,
        // which also puts it on the worker's own memory node.
        pool.run(&|worker| {
            // SAFETY: the share lies inside the buffer, no other worker touches it, and no slice of it exists.
            unsafe { buffer.as_mut_ptr().add(worker * share).write_bytes(1, share) };
        });
        Ok(Stream { pool, buffer, words })
    }

    /// Reads all of it for `time`, at least `least` times, and gives the bytes a second of the fastest reading.
    fn speed(&self, time: Duration, least: usize) -> f64 {
        let Stream { pool, buffer, words } = self;
        let _pinned = pool.pin_caller();
        let start = Instant::now();
        let (mut fastest, mut passes) = (f64::INFINITY, 0);
        while passes < least || start.elapsed() < time {
            let pass = Instant::now();
            pool.run(&|worker| {
                // SAFETY: the share lies inside the buffer, is initialised and aligned to 8 bytes (shares are multiples
                // of a cache line), and nobody writes while readers run.
                let words = unsafe {
                    std::slice::from_raw_parts(buffer.as_ptr().cast::<u64>().add(worker * words), *words)
                };
                black_box(sum(black_box(words)));
            });
            fastest = fastest.min(pass.elapsed().as_secs_f64());
            passes += 1;
        }
        buffer.len() as f64 / fastest
    }
}

fn too_long(bytes: usize) -> MemoryError {
    MemoryError { bytes, source: std::io::ErrorKind::OutOfMemory.into() }
}

/// The sum of all words modulo 2^64, read with the widest vectors that the CPU has.
pub fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has the feature.
            return unsafe { sum_avx512(words) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has the feature.
            return unsafe { sum_avx2(words) };
        }
    }
    sum_streams(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(words: &[u64]) -> u64 {
    sum_streams(words)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(words: &[u64]) -> u64 {
    sum_streams(words)
}

/// Written so that the compiler keeps `totals` in vector registers of whatever width its caller enables.
#[inline(always)]
fn sum_streams(words: &[u64]) -> u64 {
    let length = words.len() / (STREAMS * BLOCK) * BLOCK;
    let (streams, rest) = words.split_at(length * STREAMS);
    let (low, high) = streams.split_at(length * 2);
    let ((a, b), (c, d)) = (low.split_at(length), high.split_at(length));
    let mut totals = [[0u64; BLOCK]; STREAMS];
    let blocks = a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK));
    for ((a, b), (c, d)) in blocks.zip(c.chunks_exact(BLOCK).zip(d.chunks_exact(BLOCK))) {
        for lane in 0..BLOCK {
            totals[0][lane] = totals[0][lane].wrapping_add(a[lane]);
            totals[1][lane] = totals[1][lane].wrapping_add(b[lane]);
            totals[2][lane] = totals[2][lane].wrapping_add(c[lane]);
            totals[3][lane] = totals[3][lane].wrapping_add(d[lane]);
        }
    }
    totals.as_flattened().iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}
