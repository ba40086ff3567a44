//! Vectors: constants, spreading, gathering, choosing; the same spelling for scalars where there is one.

use cranelift_codegen::ir::types::{F32, F32X4, I8, I8X16, I32, I32X4};
use cranelift_codegen::ir::{ConstantData, Endianness, InstBuilder, MemFlagsData, Type};
use jtllm_ir::{DType, Monoid};

use super::LANES;
use super::function::{Emitter, Known, Register};
use crate::kernel::{Value, ValueId};

impl Emitter<'_, '_> {
    /// The type of a register.
    pub(super) fn type_of(&self, register: Register) -> Type {
        self.builder.func.dfg.value_type(register)
    }

    /// Whether a register is a vector.
    pub(super) fn is_wide(&self, register: Register) -> bool {
        self.type_of(register).is_vector()
    }

    /// A constant vector; it stands at the entry.
    pub(super) fn constant(&mut self, kind: Type, lanes: [u32; LANES]) -> Register {
        if let Some(known) = self.constants.get(&(kind, lanes)) {
            return *known;
        }
        let bytes: Vec<u8> = lanes.iter().flat_map(|lane| lane.to_le_bytes()).collect();
        let bytes = self.builder.func.dfg.constants.insert(ConstantData::from(bytes));
        let register = self.at_entry().ins().vconst(kind, bytes);
        self.constants.insert((kind, lanes), register);
        register
    }

    /// An integer constant shaped like `like`: one element or four.
    pub(super) fn word(&mut self, like: Register, value: u32) -> Register {
        if self.is_wide(like) {
            return self.constant(I32X4, [value; LANES]);
        }
        self.at_entry().ins().iconst(I32, i64::from(value))
    }

    /// A float constant shaped like `like`.
    pub(super) fn float(&mut self, like: Register, value: f32) -> Register {
        if self.is_wide(like) {
            return self.constant(F32X4, [value.to_bits(); LANES]);
        }
        self.at_entry().ins().f32const(value)
    }

    /// A uniform value of the kernel.
    pub(super) fn scalar(&mut self, value: ValueId) -> Register {
        let record = self.kernel.record(value);
        if let Value::Const(constant) = &record.value {
            let bits = constant.to_bits(record.dtype);
            return match record.dtype {
                DType::F32 => self.at_entry().ins().f32const(f32::from_bits(bits)),
                DType::Bool => self.at_entry().ins().iconst(I8, i64::from(bits & 1)),
                _ => self.at_entry().ins().iconst(I32, i64::from(bits as i32)),
            };
        }
        self.held[value.0 as usize].expect("verified kernels define values before their use").register
    }

    /// A value of the kernel in all lanes.
    pub(super) fn vector(&mut self, value: ValueId) -> Register {
        let record = self.kernel.record(value);
        if let Value::Const(constant) = &record.value {
            let bits = constant.to_bits(record.dtype);
            return match record.dtype {
                DType::F32 => self.constant(F32X4, [bits; LANES]),
                DType::Bool => self.constant(I32X4, [0u32.wrapping_sub(bits & 1); LANES]),
                _ => self.constant(I32X4, [bits; LANES]),
            };
        }
        let held = self.held[value.0 as usize].expect("verified kernels define values before their use");
        if self.varying.value(value) {
            return held.register;
        }
        let dtype = record.dtype;
        self.know(Known::Splat(value), held.depth, |emitter| match dtype {
            DType::F32 => emitter.at().ins().splat(F32X4, held.register),
            DType::Bool => {
                let word = emitter.at().ins().uextend(I32, held.register);
                let word = emitter.at().ins().ineg(word);
                emitter.at().ins().splat(I32X4, word)
            }
            _ => emitter.at().ins().splat(I32X4, held.register),
        })
    }

    /// One lane of a value, as a scalar.
    pub(super) fn lane(&mut self, value: ValueId, lane: usize) -> Register {
        if !self.varying.value(value) {
            return self.scalar(value);
        }
        let held = self.held[value.0 as usize].expect("verified kernels define values before their use");
        let dtype = self.kernel.record(value).dtype;
        self.know(Known::Lane(value, lane), held.depth, |emitter| {
            let element = emitter.at().ins().extractlane(held.register, lane as u8);
            match dtype {
                DType::Bool => {
                    let bit = emitter.at().ins().band_imm_s(element, 1);
                    emitter.at().ins().ireduce(I8, bit)
                }
                _ => element,
            }
        })
    }

    /// Four elements as a vector.
    pub(super) fn gather(&mut self, kind: Type, lanes: [Register; LANES]) -> Register {
        let mut vector = self.at().ins().splat(kind, lanes[0]);
        for (at, lane) in lanes.iter().enumerate().skip(1) {
            if *lane != lanes[0] {
                vector = self.at().ins().insertlane(vector, *lane, at as u8);
            }
        }
        vector
    }

    /// The same bits as another type of the same size.
    pub(super) fn bits(&mut self, kind: Type, register: Register) -> Register {
        if self.type_of(register) == kind {
            return register;
        }
        let flags = match kind.is_vector() {
            true => MemFlagsData::new().with_endianness(Endianness::Little),
            false => MemFlagsData::new(),
        };
        self.at().ins().bitcast(kind, flags, register)
    }

    /// The same bits as floats.
    pub(super) fn as_float(&mut self, register: Register) -> Register {
        let kind = if self.is_wide(register) { F32X4 } else { F32 };
        self.bits(kind, register)
    }

    /// The same bits as integers.
    pub(super) fn as_word(&mut self, register: Register) -> Register {
        let kind = if self.is_wide(register) { I32X4 } else { I32 };
        self.bits(kind, register)
    }

    /// `a` where the condition (a mask, or an `i8`) holds, else `b`.
    pub(super) fn choose(&mut self, condition: Register, a: Register, b: Register) -> Register {
        if !self.is_wide(condition) {
            return self.at().ins().select(condition, a, b);
        }
        let kind = self.type_of(a);
        let condition = self.bits(kind, condition);
        self.at().ins().bitselect(condition, a, b)
    }

    /// The integer `value` where the condition (a mask, or an `i8`) holds, else 0.
    pub(super) fn masked_word(&mut self, condition: Register, value: u32) -> Register {
        let word = self.word(condition, value);
        if self.is_wide(condition) {
            return self.at().ins().band(condition, word);
        }
        let zero = self.word(condition, 0);
        self.at().ins().select(condition, word, zero)
    }

    /// Shifts 32-bit elements by a constant, with the instruction that `shift` builds.
    pub(super) fn shift(
        &mut self,
        register: Register,
        count: u32,
        shift: impl FnOnce(cranelift_codegen::cursor::FuncCursor<'_>, Register, Register) -> Register,
    ) -> Register {
        let count = self.at_entry().ins().iconst(I32, i64::from(count));
        shift(self.at(), register, count)
    }

    /// The four elements of a value joined: elements two apart, then neighbours.
    pub(super) fn lane_reduce(&mut self, monoid: Monoid, value: ValueId) -> Register {
        if self.kernel.lanes == 1 {
            return self.scalar(value);
        }
        let dtype = self.kernel.record(value).dtype;
        let vector = self.vector(value);
        let upper = self.moved(vector, [2, 3, 2, 3]);
        let pair = self.apply(monoid.scalar(), dtype, &[vector, upper]);
        let second = self.moved(pair, [1, 1, 1, 1]);
        let joined = self.apply(monoid.scalar(), dtype, &[pair, second]);
        self.at().ins().extractlane(joined, 0)
    }

    /// The vector with element `from[i]` at place `i`.
    fn moved(&mut self, vector: Register, from: [u8; LANES]) -> Register {
        let kind = self.type_of(vector);
        let bytes: Vec<u8> = from.iter().flat_map(|lane| (0..4).map(move |byte| lane * 4 + byte)).collect();
        let order = self.builder.func.dfg.immediates.push(ConstantData::from(bytes));
        let vector = self.bits(I8X16, vector);
        let moved = self.at().ins().shuffle(vector, vector, order);
        self.bits(kind, moved)
    }
}
