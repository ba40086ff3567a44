//! Peak arithmetic on narrow numbers: loops of the instructions that multiply several of them at a time.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::peak::Chains;

/// Two factors of 16 bits in a word, 1 and 1: their products with [`SIGNS`] cancel, so sums neither grow nor vanish.
const ONES: i32 = 0x3F80_3F80;
/// 1 and -1.
const SIGNS: i32 = 0xBF80_3F80_u32 as i32;
/// Four bytes, unsigned and signed alike; sums wrap.
const BYTES: i32 = 0x0102_0304;

/// Sums of pairs of `bf16`, if the CPU adds them.
pub(super) fn halves() -> Option<Chains> {
    if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")) {
        return None;
    }
    let run = |rounds| {
        // SAFETY: the CPU has the features, by the condition above.
        unsafe { halves_avx512(rounds) }
    };
    Some(Chains { operations_a_round: (16 * 32 * 2) as f64, run })
}

/// Sums of four products of bytes, by the best instructions for it.
pub(super) fn bytes() -> Option<Chains> {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        let run = |rounds| {
            // SAFETY: the CPU has the features, by the condition above.
            unsafe { bytes_avx512(rounds) }
        };
        return Some(Chains { operations_a_round: (16 * 64 * 2) as f64, run });
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
        let run = |rounds| {
            // SAFETY: the CPU has the features, by the condition above.
            unsafe { bytes_vnni(rounds) }
        };
        return Some(Chains { operations_a_round: (12 * 32 * 2) as f64, run });
    }
    if is_x86_feature_detected!("avx2") {
        let run = |rounds| {
            // SAFETY: the CPU has the feature, by the condition above.
            unsafe { bytes_avx2(rounds) }
        };
        return Some(Chains { operations_a_round: (8 * 32 * 2) as f64, run });
    }
    None
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn halves_avx512(rounds: usize) -> f32 {
    // SAFETY: both types are 512 bits of any pattern.
    let word =
        |word: i32| unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(word))) };
    let (left, right) = (word(ONES), word(SIGNS));
    let mut totals = [_mm512_set1_ps(1.0); 16];
    for _ in 0..rounds {
        for total in &mut totals {
            *total = _mm512_dpbf16_ps(*total, left, right);
        }
    }
    let [first, rest @ ..] = totals;
    _mm512_reduce_add_ps(rest.into_iter().fold(first, |sum, total| _mm512_add_ps(sum, total)))
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn bytes_avx512(rounds: usize) -> f32 {
    let factor = _mm512_set1_epi32(black_box(BYTES));
    let mut totals = [_mm512_setzero_si512(); 16];
    for _ in 0..rounds {
        for total in &mut totals {
            *total = _mm512_dpbusd_epi32(*total, factor, factor);
        }
    }
    let [first, rest @ ..] = totals;
    _mm512_reduce_add_epi32(rest.into_iter().fold(first, |sum, total| _mm512_add_epi32(sum, total))) as f32
}

#[target_feature(enable = "avx2,avxvnni")]
fn bytes_vnni(rounds: usize) -> f32 {
    let factor = _mm256_set1_epi32(black_box(BYTES));
    let mut totals = [_mm256_setzero_si256(); 12];
    for _ in 0..rounds {
        for total in &mut totals {
            *total = _mm256_dpbusd_avx_epi32(*total, factor, factor);
        }
    }
    let [first, rest @ ..] = totals;
    let sum = rest.into_iter().fold(first, |sum, total| _mm256_add_epi32(sum, total));
    _mm256_extract_epi32::<0>(sum) as f32
}

/// Without VNNI a sum takes three instructions: pairs to 16 bits, those to 32, and the addition. In assembly, since
/// a compiler computes equal products once.
#[target_feature(enable = "avx2")]
fn bytes_avx2(rounds: usize) -> f32 {
    let ones = _mm256_set1_epi16(black_box(1));
    let factor = _mm256_set1_epi32(black_box(BYTES));
    let mut totals = [_mm256_setzero_si256(); 8];
    for _ in 0..rounds {
        for total in &mut totals {
            // SAFETY: three AVX2 instructions on registers.
            unsafe {
                std::arch::asm!(
                    "vpmaddubsw {pairs}, {factor}, {factor}",
                    "vpmaddwd {pairs}, {pairs}, {ones}",
                    "vpaddd {total}, {total}, {pairs}",
                    pairs = out(ymm_reg) _,
                    factor = in(ymm_reg) factor,
                    ones = in(ymm_reg) ones,
                    total = inout(ymm_reg) *total,
                    options(nomem, nostack, preserves_flags),
                );
            }
        }
    }
    let [first, rest @ ..] = totals;
    let sum = rest.into_iter().fold(first, |sum, total| _mm256_add_epi32(sum, total));
    _mm256_extract_epi32::<0>(sum) as f32
}
