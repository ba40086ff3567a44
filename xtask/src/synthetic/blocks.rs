//! Random numbers as files store them.

/// How numbers are stored: the name, GGML's numbers for it and for files that are mostly of it, numbers and bytes of a block, and the mask and the fixed bits
/// that make a block of random bytes numbers of about a hundredth.
pub(super) struct Encoding {
    pub(super) name: &'static str,
    pub(super) kind: u32,
    pub(super) file: u32,
    pub(super) numbers: u64,
    mask: &'static [u8],
    fixed: &'static [u8],
}

impl Encoding {
    /// What so many numbers take.
    pub(super) fn bytes(&self, numbers: u64) -> u64 {
        numbers / self.numbers * self.mask.len() as u64
    }
}

/// Every encoding, the plainest first.
pub(super) static ENCODINGS: [Encoding; 6] = [
    // Exponents of 2^-7 and 2^-6, random signs and mantissas.
    Encoding {
        name: "f32",
        kind: 0,
        file: 0,
        numbers: 1,
        mask: &[255, 255, 255, 0x80],
        fixed: &[0, 0, 0, 0x3c],
    },
    Encoding { name: "f16", kind: 1, file: 1, numbers: 1, mask: &[255, 0x87], fixed: &[0, 0x20] },
    Encoding { name: "bf16", kind: 30, file: 32, numbers: 1, mask: &[255, 0x80], fixed: &[0, 0x3c] },
    // A scale of 2^-13 or 2^-9 in half precision, then random integers.
    Encoding { name: "q8_0", kind: 8, file: 7, numbers: 32, mask: &fixed::<34>(2), fixed: &[0, 0x08] },
    Encoding { name: "q4_0", kind: 2, file: 2, numbers: 32, mask: &fixed::<18>(2), fixed: &[0, 0x18] },
    // A scale of 2^-13 and one of 2^-10 for the least number, each of random integers.
    Encoding {
        name: "q4_k",
        kind: 12,
        file: 14,
        numbers: 256,
        mask: &fixed::<144>(4),
        fixed: &[0, 0x08, 0, 0x14],
    },
];

/// The mask of a block that begins with scales in half precision: so many bytes of it are fixed.
const fn fixed<const N: usize>(count: usize) -> [u8; N] {
    let mut mask = [255; N];
    let mut at = 0;
    while at < count {
        mask[at] = 0;
        at += 1;
    }
    mask
}

/// Random bytes in the form of blocks.
pub(super) struct Blocks(pub(super) u64);

impl Blocks {
    /// Numbers of an encoding, about a megabyte.
    pub(super) fn fill(&mut self, encoding: &Encoding, bytes: &mut Vec<u8>) {
        bytes.clear();
        while bytes.len() < 1 << 20 {
            // Marsaglia's generator of 64 bits.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend(self.0.to_le_bytes());
        }
        let block = encoding.mask.len();
        bytes.truncate(bytes.len() / block * block);
        for chunk in bytes.chunks_exact_mut(block) {
            for (byte, mask) in chunk.iter_mut().zip(encoding.mask) {
                *byte &= mask;
            }
            for (byte, fixed) in chunk.iter_mut().zip(encoding.fixed) {
                *byte |= fixed;
            }
        }
    }
}
