//! Operations that the processor does in one instruction where the loop IR has two: what unpacking weights
//! is made of. Each gives the same bits as the operations it stands for.

use cranelift_codegen::ir::InstBuilder;
use cranelift_codegen::ir::types::{F32X4, I8X16, I32X4};
use jtllm_ir::{DType, ScalarOp};

use super::LANES;
use super::function::{Emitter, Register};
use crate::kernel::{Value, ValueId};

impl Emitter<'_, '_> {
    /// One instruction for an operation and what stands below it, if there is one.
    pub(super) fn shortcut(&mut self, op: ScalarOp, operands: &[ValueId], wide: bool) -> Option<Register> {
        if !wide {
            return None;
        }
        match (op, operands) {
            (ScalarOp::And, &[x, mask]) if self.features.shuffles => self.byte(x, mask),
            (ScalarOp::Cast(DType::F32), &[x]) => self.small_number(x),
            _ => None,
        }
    }

    /// `x >> 8 n & 255`, byte `n` of each element; or `x << 8 n & 255 << 24`, byte `3 - n` at the top.
    fn byte(&mut self, x: ValueId, mask: ValueId) -> Option<Register> {
        let (shift, top) = match self.constant_of(mask)? {
            0xFF => (ScalarOp::Shr, false),
            0xFF00_0000 => (ScalarOp::Shl, true),
            _ => return None,
        };
        if !self.varying.value(x) || self.kernel.record(x).dtype != DType::U32 {
            return None;
        }
        let (word, distance) = match &self.kernel.record(x).value {
            Value::Scalar(op, operands) if *op == shift => (operands[0], self.constant_of(operands[1])?),
            _ => return None,
        };
        if !self.varying.value(word) || ![8, 16, 24].contains(&distance) {
            return None;
        }
        let byte = if top { 3 - distance / 8 } else { distance / 8 };
        // An index with its highest bit set gives a zero byte.
        let lanes = std::array::from_fn::<u32, LANES, _>(|lane| {
            let place = 4 * lane as u32 + byte as u32;
            if top { 0x0080_8080 | place << 24 } else { 0x8080_8000 | place }
        });
        let places = self.constant(I32X4, lanes);
        let places = self.bits(I8X16, places);
        let word = self.vector(word);
        let word = self.bits(I8X16, word);
        let bytes = self.at().ins().x86_pshufb(word, places);
        Some(self.bits(I32X4, bytes))
    }

    /// An unsigned number below 2^31 as a float: the signed conversion, which every processor has.
    fn small_number(&mut self, x: ValueId) -> Option<Register> {
        let Value::Scalar(ScalarOp::And, operands) = &self.kernel.record(x).value else { return None };
        let mask = self.constant_of(*operands.get(1)?)?;
        if self.kernel.record(x).dtype != DType::U32
            || !(0..1 << 31).contains(&mask)
            || !self.varying.value(x)
        {
            return None;
        }
        let x = self.vector(x);
        Some(self.at().ins().fcvt_from_sint(F32X4, x))
    }

    fn constant_of(&self, value: ValueId) -> Option<i64> {
        match &self.kernel.record(value).value {
            Value::Const(constant) => Some(constant.int()),
            _ => None,
        }
    }
}
