//! Peak arithmetic: sums of products on registers alone, of each type that kernels multiply.

use std::hint::black_box;
use std::time::Instant;

use crate::device::threads::Pool;

/// What is multiplied. Sums are `f32`, of integers `i32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Multiplied {
    /// Numbers of 32 bits.
    F32,
    /// Two `bf16` at a time.
    Bf16,
    /// Four bytes at a time, unsigned ones with signed ones.
    Bytes,
}

/// Every chain of `f32` computes `x = x * FACTOR + FACTOR`, which tends to 1 and so meets no slow or special number.
const FACTOR: f32 = 0.5;

/// One loop of independent sums, and what a round of it computes.
pub(super) struct Chains {
    pub(super) operations_a_round: f64,
    pub(super) run: fn(rounds: usize) -> f32,
}

/// Runs independent sums of products on all workers of the pool, with the widest vectors that the CPU has, and returns
/// the speed of the fastest of a few runs, 0.3 s together, in billions of operations a second (a multiplication and the
/// addition of its product are two). None where the CPU has no instruction for such products.
pub fn peak(pool: &Pool, what: Multiplied) -> Option<f64> {
    let sums = Sums::new(pool, what)?;
    Some((0..RUNS).map(|_| sums.speed()).fold(0.0, f64::max) / 1e9)
}

/// Runs that find a peak.
pub(super) const RUNS: usize = 5;

/// Independent sums of products on all workers of a pool.
pub(super) struct Sums<'a> {
    pool: &'a Pool,
    chains: Chains,
    rounds: usize,
}

impl Sums<'_> {
    /// Those that take about 0.06 s; none where the CPU has no instruction for such products.
    pub(super) fn new(pool: &Pool, what: Multiplied) -> Option<Sums<'_>> {
        let mut sums = Sums { pool, chains: chains(what)?, rounds: 1_000 };
        let _pinned = pool.pin_caller();
        while sums.seconds() < 0.01 {
            sums.rounds *= 2;
        }
        sums.rounds *= 4;
        Some(sums)
    }

    /// Runs them once and gives the operations a second.
    pub(super) fn speed(&self) -> f64 {
        let _pinned = self.pool.pin_caller();
        let operations = self.rounds as f64 * self.chains.operations_a_round;
        self.pool.count() as f64 * operations / self.seconds()
    }

    fn seconds(&self) -> f64 {
        let start = Instant::now();
        self.pool.run(&|_| {
            black_box((self.chains.run)(black_box(self.rounds)));
        });
        start.elapsed().as_secs_f64()
    }
}

fn chains(what: Multiplied) -> Option<Chains> {
    match what {
        Multiplied::F32 => Some(floats()),
        #[cfg(target_arch = "x86_64")]
        Multiplied::Bf16 => super::narrow::halves(),
        #[cfg(target_arch = "x86_64")]
        Multiplied::Bytes => super::narrow::bytes(),
        #[cfg(not(target_arch = "x86_64"))]
        Multiplied::Bf16 | Multiplied::Bytes => None,
    }
}

#[cfg(target_arch = "x86_64")]
fn floats() -> Chains {
    if is_x86_feature_detected!("avx512f") {
        let run = |rounds| {
            // SAFETY: the CPU has the feature, by the condition above.
            unsafe { chains_avx512(rounds) }
        };
        return Chains { operations_a_round: (16 * 16 * 2) as f64, run };
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        let run = |rounds| {
            // SAFETY: the CPU has the features, by the condition above.
            unsafe { chains_fma(rounds) }
        };
        return Chains { operations_a_round: (12 * 8 * 2) as f64, run };
    }
    Chains { operations_a_round: (PLAIN * 2) as f64, run: chains_plain }
}

#[cfg(target_arch = "aarch64")]
fn floats() -> Chains {
    Chains { operations_a_round: (24 * 4 * 2) as f64, run: chains_neon }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn floats() -> Chains {
    Chains { operations_a_round: (PLAIN * 2) as f64, run: chains_plain }
}

/// 16 chains of 16 lanes: four cycles of latency on two units need 8, half of the registers stay free.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains_avx512(rounds: usize) -> f32 {
    use std::arch::x86_64::{_mm512_add_ps, _mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
    let factor = _mm512_set1_ps(black_box(FACTOR));
    let mut totals = [_mm512_set1_ps(1.0); 16];
    for _ in 0..rounds {
        for total in &mut totals {
            *total = _mm512_fmadd_ps(*total, factor, factor);
        }
    }
    let [first, rest @ ..] = totals;
    _mm512_reduce_add_ps(rest.into_iter().fold(first, |sum, total| _mm512_add_ps(sum, total)))
}

/// 12 chains of 8 lanes: five cycles of latency on two units need 10, and there are 16 registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains_fma(rounds: usize) -> f32 {
    use std::arch::x86_64::{_mm256_add_ps, _mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
    let factor = _mm256_set1_ps(black_box(FACTOR));
    let mut totals = [_mm256_set1_ps(1.0); 12];
    for _ in 0..rounds {
        for total in &mut totals {
            *total = _mm256_fmadd_ps(*total, factor, factor);
        }
    }
    let [first, rest @ ..] = totals;
    _mm256_cvtss_f32(rest.into_iter().fold(first, |sum, total| _mm256_add_ps(sum, total)))
}

/// 24 chains of 4 lanes: four cycles of latency on four units need 16, and there are 32 registers.
#[cfg(target_arch = "aarch64")]
fn chains_neon(rounds: usize) -> f32 {
    use std::arch::aarch64::{vaddq_f32, vaddvq_f32, vdupq_n_f32, vfmaq_f32};
    // SAFETY: every 64-bit Arm CPU that Rust's targets name has these instructions.
    unsafe {
        let factor = vdupq_n_f32(black_box(FACTOR));
        let mut totals = [vdupq_n_f32(1.0); 24];
        for _ in 0..rounds {
            for total in &mut totals {
                *total = vfmaq_f32(factor, *total, factor);
            }
        }
        let [first, rest @ ..] = totals;
        vaddvq_f32(rest.into_iter().fold(first, |sum, total| vaddq_f32(sum, total)))
    }
}

/// Lanes of the loop that uses no named instruction; the compiler groups them into its baseline's vectors.
#[cfg(not(target_arch = "aarch64"))]
const PLAIN: usize = 40;

/// A multiplication and an addition, not fused: fusing without the instruction would be a library call.
#[cfg(not(target_arch = "aarch64"))]
fn chains_plain(rounds: usize) -> f32 {
    let factor = black_box(FACTOR);
    let mut totals = [1.0f32; PLAIN];
    for _ in 0..rounds {
        for total in &mut totals {
            *total = *total * factor + factor;
        }
    }
    totals.iter().sum()
}
