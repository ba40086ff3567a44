//! Reproducible random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// A counter and a key; the n-th number depends on nothing else.
#[derive(Debug, Clone)]
pub(super) struct Random {
    seed: u64,
    counter: u64,
}

/// A seed that differs from run to run. The standard library draws its hash keys from the operating system.
pub(super) fn seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random { seed, counter: 0 }
    }

    /// The next number, evenly from 0 up to but not including 1.
    pub(super) fn unit(&mut self) -> f64 {
        let [low, high, ..] = philox([self.counter as u32, (self.counter >> 32) as u32, 0, 0], self.seed);
        self.counter = self.counter.wrapping_add(1);
        let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
        bits as f64 / (1u64 << 53) as f64
    }
}

pub(super) fn philox(mut block: [u32; 4], seed: u64) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let first = u64::from(block[0]) * 0xD251_1F53;
        let second = u64::from(block[2]) * 0xCD9E_8D57;
        block = [
            (second >> 32) as u32 ^ block[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ block[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    block
}

#[cfg(test)]
mod tests {
    use super::philox;

    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(philox([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }
}
