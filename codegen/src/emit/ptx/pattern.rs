//! Several operations that are one here: small numbers that become floats, and rounding before a store.
//!
//! Conversions have half to an eighth of the throughput of sums. An integer put into the lowest bits of a power of
//! two whose last place it counts is that power and the number: a difference, which is exact, leaves the number.
//! Bytes of words are put there by one `prmt`, signed ones 128 up. A whole number that is subtracted next joins in
//! the same difference.

use jtllm_ir::{DType, Scalar, ScalarOp};

use super::function::{Class, Emitter};
use super::index::Known;
use super::operation::float;
use crate::kernel::{Kernel, Value, ValueId};

/// The bits of 2^23, which counts ones.
const ONES: u32 = 0x4b00_0000;

/// The bits of 2^47, which counts multiples of 2^24: a byte at the top of a word.
const TOPS: u32 = 0x5700_0000;

/// A small number that becomes a float, less a whole number.
struct Small {
    /// The word that it is part of.
    word: ValueId,
    /// Which byte of the word it is; else it is all of the word.
    byte: Option<u32>,
    /// Whether the byte is signed and counts multiples of 2^24.
    top: bool,
    less: f32,
}

/// What the instructions of a value read.
pub(super) fn operands(kernel: &Kernel, id: ValueId) -> Vec<ValueId> {
    match (small(kernel, id), &kernel.record(id).value) {
        (Some(small), _) => vec![small.word],
        (None, Value::Scalar(_, xs)) => xs.clone(),
        (None, _) => Vec::new(),
    }
}

fn small(kernel: &Kernel, id: ValueId) -> Option<Small> {
    let Value::Scalar(op, xs) = &kernel.record(id).value else { return None };
    match (op, xs.as_slice()) {
        (ScalarOp::Sub, [x, y]) => {
            let less = constant(kernel, *y)?.float();
            let whole = (0.0..=4_194_304.0).contains(&less) && less.fract() == 0.0;
            let small = small(kernel, *x).filter(|small| whole && !small.top && small.less == 0.0)?;
            Some(Small { less, ..small })
        }
        (ScalarOp::Cast(DType::F32), [x]) => match &kernel.record(*x).value {
            Value::Scalar(ScalarOp::Bitcast(DType::I32), word) => {
                let (word, byte) = masked_byte(kernel, word[0], 0xff00_0000, ScalarOp::Shl)?;
                Some(Small { word, byte: Some(3 - byte), top: true, less: 0.0 })
            }
            _ => {
                let small = |word, byte| Small { word, byte, top: false, less: 0.0 };
                if let Some((word, byte)) = masked_byte(kernel, *x, 0xff, ScalarOp::Shr) {
                    return Some(small(word, Some(byte)));
                }
                let Value::Scalar(ScalarOp::And, parts) = &kernel.record(*x).value else { return None };
                let mask = constant(kernel, parts[1])?.int();
                (0..0x80_0000).contains(&mask).then(|| small(*x, None))
            }
        },
        _ => None,
    }
}

/// `word shifted by 8 * byte and mask`.
fn masked_byte(kernel: &Kernel, id: ValueId, mask: i64, shift: ScalarOp) -> Option<(ValueId, u32)> {
    let Value::Scalar(ScalarOp::And, parts) = &kernel.record(id).value else { return None };
    if constant(kernel, parts[1])?.int() != mask {
        return None;
    }
    match &kernel.record(parts[0]).value {
        Value::Scalar(op, shifted) if *op == shift => {
            let by = constant(kernel, shifted[1])?.int();
            ((0..32).contains(&by) && by % 8 == 0).then_some((shifted[0], by as u32 / 8))
        }
        _ => Some((parts[0], 0)),
    }
}

/// The value whose bits a store of `id` makes, and whether they are rounded already: a store of a number of 16
/// bits rounds.
pub(super) fn stored(kernel: &Kernel, id: ValueId) -> (ValueId, bool) {
    match &kernel.record(id).value {
        Value::Scalar(ScalarOp::Cast(DType::F16 | DType::BF16), xs)
            if kernel.record(xs[0]).dtype == DType::F32 =>
        {
            (xs[0], false)
        }
        _ => (id, true),
    }
}

fn constant(kernel: &Kernel, id: ValueId) -> Option<Scalar> {
    match kernel.record(id).value {
        Value::Const(value) => Some(value),
        _ => None,
    }
}

impl Emitter<'_> {
    /// The value, if it is a small number that becomes a float.
    pub(super) fn small(&mut self, id: ValueId) -> Option<String> {
        let Small { word, byte, top, less } = small(self.kernel, id)?;
        let (place, zero) = if top { (TOPS, TOPS + 128) } else { (ONES, ONES) };
        let word = if top { self.flipped(word) } else { self.value(word) };
        let bits = match byte {
            // The byte, two zeros and the highest byte of the place.
            Some(byte) => {
                let chosen = (0x7440 | byte).to_string();
                self.make(Class::Word, "prmt.b32", &[&word, &place.to_string(), &chosen])
            }
            None => self.make(Class::Word, "or.b32", &[&word, &place.to_string()]),
        };
        let placed = self.make(Class::Float, "mov.b32", &[&bits]);
        Some(self.make(Class::Float, "sub.rn.f32", &[&placed, &float(f32::from_bits(zero) + less)]))
    }

    /// A word whose bytes count from 0 where they were signed.
    fn flipped(&mut self, word: ValueId) -> String {
        let (name, depth) = self.values[&word].clone();
        self.know(Known::Flipped(word), depth, |emitter| {
            emitter.make(Class::Word, "xor.b32", &[&name, &0x8080_8080u32.to_string()])
        })
    }
}
