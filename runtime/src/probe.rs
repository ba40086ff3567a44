//! What the processor can do at most: how fast it reads memory, and how fast it multiplies and adds. Measured
//! figures are compared with these.

use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::device::threads::Pool;
use crate::memory::{HostBuffer, OutOfMemory};

/// More than any cache holds.
const STREAM_BYTES: usize = 256 << 20;

/// Words added in step; enough sums in flight to hide an addition behind the loads.
const SUMS: usize = 32;

/// Multiply-adds of each chain between two looks at the clock.
const ROUND: u64 = 1 << 16;

/// Addresses that threads share; each touches a part of its own.
struct Shared(*mut u64);

// SAFETY: the threads work on parts that do not overlap.
unsafe impl Sync for Shared {}

impl Shared {
    /// The words from `start` on.
    fn part(&self, start: usize) -> *mut u64 {
        // SAFETY: callers stay inside the buffer.
        unsafe { self.0.add(start) }
    }
}

/// Bytes a second that all threads of the pool together read in a row, the best of several passes over
/// `256 MB` within `time`.
pub fn bandwidth(pool: &Pool, time: Duration) -> Result<f64, OutOfMemory> {
    let buffer = HostBuffer::zeroed(STREAM_BYTES)?;
    let words = Shared(buffer.as_mut_ptr().cast());
    let count = STREAM_BYTES / 8;
    let share = |thread: usize| count * thread / pool.count() / SUMS * SUMS;
    // Memory that was never written is one and the same page of zeros.
    pool.run(&|thread| {
        let (start, end) = (share(thread), share(thread + 1));
        // SAFETY: the shares lie inside the buffer, are aligned to words and do not overlap.
        let part = unsafe { std::slice::from_raw_parts_mut(words.part(start), end - start) };
        part.fill(thread as u64 + 1);
    });
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < time || best.is_infinite() {
        let pass = Instant::now();
        pool.run(&|thread| {
            let (start, end) = (share(thread), share(thread + 1));
            // SAFETY: as above; nobody writes any more.
            let part = unsafe { std::slice::from_raw_parts(words.part(start), end - start) };
            black_box(sum(part));
        });
        best = best.min(pass.elapsed().as_secs_f64());
    }
    Ok(STREAM_BYTES as f64 / best)
}

fn sum(part: &[u64]) -> u64 {
    let mut sums = [0u64; SUMS];
    for block in part.as_chunks::<SUMS>().0 {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

/// Multiplications and additions of `f32` a second that all threads of the pool together do within `time`,
/// in the widest vectors that this program knows and the processor has.
pub fn peak_f32(pool: &Pool, time: Duration) -> f64 {
    let chains = chains();
    let rates = Mutex::new(0.0);
    pool.run(&|_| {
        chains.run(ROUND);
        let begin = Instant::now();
        let mut rounds = 0;
        while begin.elapsed() < time || rounds == 0 {
            chains.run(ROUND);
            rounds += 1;
        }
        let operations = (rounds * ROUND * chains.operations) as f64;
        let mut all = rates.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *all += operations / begin.elapsed().as_secs_f64();
    });
    rates.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Independent chains of multiply-adds.
struct Chains {
    /// Runs so many steps of each chain.
    body: unsafe fn(u64) -> f32,
    /// Operations of one step of all chains: two for each lane.
    operations: u64,
}

impl Chains {
    fn run(&self, steps: u64) {
        // SAFETY: `chains` chose the body by the processor's features.
        black_box(unsafe { (self.body)(black_box(steps)) });
    }
}

/// Chains side by side: a multiply-add takes about four cycles, and two may begin in each.
const CHAINS: usize = 12;

#[cfg(target_arch = "x86_64")]
fn chains() -> Chains {
    if is_x86_feature_detected!("avx512f") {
        return Chains { body: x86::wide, operations: CHAINS as u64 * 16 * 2 };
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        return Chains { body: x86::half, operations: CHAINS as u64 * 8 * 2 };
    }
    Chains { body: portable, operations: CHAINS as u64 * 4 * 2 }
}

#[cfg(target_arch = "aarch64")]
fn chains() -> Chains {
    Chains { body: arm::chains, operations: CHAINS as u64 * 4 * 2 }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn chains() -> Chains {
    Chains { body: portable, operations: CHAINS as u64 * 4 * 2 }
}

/// For processors without fused multiply-add, and those that this file does not know.
#[cfg(not(target_arch = "aarch64"))]
fn portable(steps: u64) -> f32 {
    let factor = black_box(0.999_f32);
    let mut sums = [[1.0f32; 4]; CHAINS];
    for _ in 0..steps {
        sums.iter_mut().flatten().for_each(|sum| *sum = *sum * factor + factor);
    }
    sums.iter().flatten().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::CHAINS;

    /// Sixteen lanes.
    #[target_feature(enable = "avx512f")]
    pub(super) fn wide(steps: u64) -> f32 {
        let factor = _mm512_set1_ps(black_box(0.999));
        let mut sums = [factor; CHAINS];
        for _ in 0..steps {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, factor, factor));
        }
        _mm512_reduce_add_ps(sums.into_iter().fold(factor, |a, b| _mm512_add_ps(a, b)))
    }

    /// Eight lanes.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn half(steps: u64) -> f32 {
        let factor = _mm256_set1_ps(black_box(0.999));
        let mut sums = [factor; CHAINS];
        for _ in 0..steps {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, factor, factor));
        }
        _mm256_cvtss_f32(sums.into_iter().fold(factor, |a, b| _mm256_add_ps(a, b)))
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::hint::black_box;

    use super::CHAINS;

    /// Four lanes.
    #[target_feature(enable = "neon")]
    pub(super) fn chains(steps: u64) -> f32 {
        let factor = vdupq_n_f32(black_box(0.999));
        let mut sums = [factor; CHAINS];
        for _ in 0..steps {
            sums.iter_mut().for_each(|sum| *sum = vfmaq_f32(factor, *sum, factor));
        }
        vaddvq_f32(sums.into_iter().fold(factor, |a, b| vaddq_f32(a, b)))
    }
}
