//! Several operations that are one here: small numbers that become floats, and rounding before a store.
//!
//! Conversions run at a quarter of the speed of sums. An integer below 2^23, put into the low bits of the float
//! 2^23, is that float plus itself: a difference, which is exact, makes it a number. Bytes of words are put there
//! by one `prmt`. A whole number that is subtracted next joins in the same difference.

use jtllm_ir::{DType, Scalar, ScalarOp};

use super::function::{Class, Emitter};
use super::operation::float;
use crate::kernel::{Kernel, Value, ValueId};

/// The bits of 2^23 as a float.
const PLACE: u32 = 0x4b00_0000;

/// A small number that becomes a float, less a whole number.
struct Small {
    /// The word that it is part of.
    word: ValueId,
    /// Which byte of the word it is; else it is all of the word.
    byte: Option<u32>,
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
            let small = small(kernel, *x).filter(|small| whole && small.less == 0.0)?;
            Some(Small { less, ..small })
        }
        (ScalarOp::Cast(DType::F32), [x]) => {
            let Value::Scalar(ScalarOp::And, parts) = &kernel.record(*x).value else { return None };
            let mask = constant(kernel, parts[1])?.int();
            let word = Small { word: *x, byte: None, less: 0.0 };
            match (mask, &kernel.record(parts[0]).value) {
                (255, Value::Scalar(ScalarOp::Shr, shifted)) => {
                    let by = constant(kernel, shifted[1])?.int();
                    let byte = ((0..32).contains(&by) && by % 8 == 0).then_some(by as u32 / 8);
                    Some(if byte.is_some() { Small { word: shifted[0], byte, ..word } } else { word })
                }
                (255, _) => Some(Small { word: parts[0], byte: Some(0), ..word }),
                (0..0x80_0000, _) => Some(word),
                _ => None,
            }
        }
        _ => None,
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
        let Small { word, byte, less } = small(self.kernel, id)?;
        let word = self.value(word);
        let place = PLACE.to_string();
        let bits = match byte {
            // The byte, two zeros and the highest byte of the place.
            Some(byte) => {
                let chosen = (0x7440 | byte).to_string();
                self.make(Class::Word, "prmt.b32", &[&word, &place, &chosen])
            }
            None => self.make(Class::Word, "or.b32", &[&word, &place]),
        };
        let placed = self.make(Class::Float, "mov.b32", &[&bits]);
        Some(self.make(Class::Float, "sub.rn.f32", &[&placed, &float(f32::from_bits(PLACE) + less)]))
    }
}
