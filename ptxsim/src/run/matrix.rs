//! Products of matrices that a warp holds in its registers.
//!
//! Lane `l` is in group `l / 4` and has place `l % 4` there. A group's lanes hold a row of the left matrix, a column
//! of the right one and a row of the sums; a word holds two halves or four bytes that are neighbours in depth.

use half::f16;

use crate::error::{Broken, Reason};
use crate::instruction::{Address, Product, Register};
use crate::run::block::Worker;
use crate::run::shared::Manner;
use crate::run::warp::{LANES, Warp};

/// A matrix of 8 rows of 8 halves.
const SIDE: usize = 8;
/// The deepest product.
const DEPTH_MAX: usize = 32;

/// Fails unless all 32 lanes take part.
pub(crate) fn whole(active: u32) -> Result<(), Broken> {
    let missing = !active;
    match missing {
        0 => Ok(()),
        _ => {
            let why = "the lane takes no part in an operation of the whole warp".to_owned();
            Err(Broken::new(Reason::Convergence, missing.trailing_zeros(), why))
        }
    }
}

impl Worker<'_> {
    /// Loads matrices whose rows' addresses are in lanes: 0 to 7 those of the first, and so on.
    pub(crate) fn load_matrix(
        &mut self,
        warp: &mut Warp,
        active: u32,
        to: &[Register],
        transposed: bool,
        at: Address,
    ) -> Result<(), Broken> {
        whole(active)?;
        let addresses = warp.addresses(at, active)?;
        for (matrix, to) in to.iter().enumerate() {
            let mut rows = [[0u64; SIDE]; SIDE];
            for (row, values) in rows.iter_mut().enumerate() {
                let lane = matrix * SIDE + row;
                let by = Self::toucher(warp, lane);
                let start = self.shared.touch(addresses[lane], 16, Manner::Read, by)?;
                for (column, value) in values.iter_mut().enumerate() {
                    *value = self.shared.load(start + column * 2, 2);
                }
            }
            let pair = |lane: usize| {
                let (row, column) = (lane / 4, lane % 4 * 2);
                match transposed {
                    true => rows[column][row] | rows[column + 1][row] << 16,
                    false => rows[row][column] | rows[row][column + 1] << 16,
                }
            };
            warp.set(*to, active, &std::array::from_fn(pair));
        }
        Ok(())
    }
}

impl Product {
    /// Elements of a word, and the depth.
    fn shape(self) -> (usize, usize) {
        match self {
            Product::F16 { depth } | Product::Bf16 { depth } => (2, usize::from(depth)),
            Product::Bytes { depth, .. } => (4, usize::from(depth)),
        }
    }

    /// An element of a word of the left (0) or right (1) matrix. Bytes are exact as singles.
    pub(crate) fn element(self, side: usize, word: u64, at: usize) -> f32 {
        match self {
            Product::F16 { .. } => f16::from_bits((word >> (16 * at)) as u16).to_f32(),
            Product::Bf16 { .. } => f32::from_bits(((word >> (16 * at)) as u32) << 16),
            Product::Bytes { signed, .. } => match signed[side] {
                true => f32::from((word >> (8 * at)) as i8),
                false => f32::from((word >> (8 * at)) as u8),
            },
        }
    }
}

impl Warp {
    pub(crate) fn product(
        &mut self,
        active: u32,
        kind: Product,
        to: &[Register; 4],
        a: &[Register],
        b: &[Register],
        c: &[Register; 4],
    ) -> Result<(), Broken> {
        whole(active)?;
        let (per_word, depth) = kind.shape();
        let mut left = [[0f32; DEPTH_MAX]; 16];
        let mut right = [[0f32; DEPTH_MAX]; 8];
        for (number, register) in a.iter().enumerate() {
            let words = self.get(*register, active)?;
            for (lane, word) in words.iter().enumerate() {
                let (row, start) = (lane / 4 + 8 * (number & 1), (number >> 1) * per_word * 4);
                for at in 0..per_word {
                    left[row][start + lane % 4 * per_word + at] = kind.element(0, *word, at);
                }
            }
        }
        for (number, register) in b.iter().enumerate() {
            let words = self.get(*register, active)?;
            for (lane, word) in words.iter().enumerate() {
                for at in 0..per_word {
                    let place = number * per_word * 4 + lane % 4 * per_word + at;
                    right[lane / 4][place] = kind.element(1, *word, at);
                }
            }
        }
        let mut out = [[0u64; LANES]; 4];
        for (number, register) in c.iter().enumerate() {
            let start = self.get(*register, active)?;
            for lane in 0..LANES {
                let (row, column) = (lane / 4 + 8 * (number >> 1), lane % 4 * 2 + (number & 1));
                let terms = left[row][..depth].iter().zip(&right[column][..depth]).map(|(a, b)| a * b);
                let bits = start[lane] as u32;
                out[number][lane] = u64::from(match kind {
                    Product::Bytes { .. } => {
                        terms.fold(bits as i32, |sum, term| sum.wrapping_add(term as i32)) as u32
                    }
                    _ => terms.fold(f32::from_bits(bits), |sum, term| sum + term).to_bits(),
                });
            }
        }
        for (register, out) in to.iter().zip(&out) {
            self.set(*register, active, out);
        }
        Ok(())
    }
}
