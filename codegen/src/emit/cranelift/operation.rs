//! Scalar operations, on scalars and vectors alike: Cranelift's instructions are spelled the same.

use cranelift_codegen::ir::InstBuilder;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F32X4, F64, I8X16, I32, I32X4, I64};
use jtllm_ir::scalar::{Table, words_of};
use jtllm_ir::{DType, ScalarOp};

use super::LANES;
use super::function::{Emitter, Register, carrier};
use crate::kernel::ValueId;

/// Whether the emitter has code for an operation; the others have to be decomposed, but for `dot2` and `dot4_signed`,
/// which only kernels for targets that have them contain.
pub(super) fn is_supported(op: ScalarOp) -> bool {
    use ScalarOp as S;
    !matches!(op, S::Exp | S::Log | S::Rsqrt | S::Sin | S::Cos | S::Tanh | S::Erf | S::Dot2 | S::Dot4Signed)
}

impl Emitter<'_, '_> {
    /// An operation on values of the kernel; `wide` if its result varies.
    pub(super) fn operation(&mut self, op: ScalarOp, operands: &[ValueId], wide: bool) -> Register {
        let dtype = |at: usize| self.kernel.record(operands[at]).dtype;
        let (first, last) = (dtype(0), dtype(operands.len() - 1));
        if let Some(register) = self.shortcut(op, operands, wide) {
            return register;
        }
        let registers: Vec<Register> = operands
            .iter()
            .enumerate()
            .map(|(at, operand)| {
                // A choice and a shift take the same condition and count for all lanes as a scalar.
                let single = match op {
                    ScalarOp::Select => at == 0,
                    ScalarOp::Shl | ScalarOp::Shr => at == 1,
                    _ => false,
                };
                let single = single && !self.varying.value(*operand);
                if wide && !single { self.vector(*operand) } else { self.scalar(*operand) }
            })
            .collect();
        match op {
            ScalarOp::Select => self.choose(registers[0], registers[1], registers[2]),
            ScalarOp::Cast(to) => self.cast(registers[0], first, to),
            ScalarOp::Bitcast(to) => {
                let kind = carrier(to, wide);
                self.bits(kind, registers[0])
            }
            _ => self.apply(op, last, &registers),
        }
    }

    /// An operation on registers that hold values of type `dtype`.
    pub(super) fn apply(&mut self, op: ScalarOp, dtype: DType, xs: &[Register]) -> Register {
        match dtype {
            DType::F32 => self.apply_float(op, xs),
            DType::Bool => self.apply_truth(op, xs),
            _ => self.apply_word(op, dtype == DType::I32, xs),
        }
    }

    fn apply_float(&mut self, op: ScalarOp, xs: &[Register]) -> Register {
        let x = xs[0];
        let y = xs.get(1).copied().unwrap_or(x);
        match op {
            ScalarOp::Add => self.at().ins().fadd(x, y),
            ScalarOp::Sub => self.at().ins().fsub(x, y),
            ScalarOp::Mul => self.at().ins().fmul(x, y),
            ScalarOp::Div => self.at().ins().fdiv(x, y),
            ScalarOp::Fma if self.features.fused => self.at().ins().fma(x, y, xs[2]),
            ScalarOp::Fma => self.fma_of_doubles(x, y, xs[2]),
            ScalarOp::Neg => self.at().ins().fneg(x),
            ScalarOp::Abs => self.at().ins().fabs(x),
            ScalarOp::Sqrt => self.at().ins().sqrt(x),
            ScalarOp::Floor if self.features.rounds => self.at().ins().floor(x),
            ScalarOp::Floor => self.floor_by_addition(x),
            ScalarOp::Round if self.features.rounds => self.at().ins().nearest(x),
            ScalarOp::Round => self.round_by_addition(x),
            ScalarOp::Min => {
                let less = self.at().ins().fcmp(FloatCC::LessThan, x, y);
                self.choose(less, x, y)
            }
            ScalarOp::Max => {
                let greater = self.at().ins().fcmp(FloatCC::GreaterThan, x, y);
                self.choose(greater, x, y)
            }
            ScalarOp::Lt => self.at().ins().fcmp(FloatCC::LessThan, x, y),
            ScalarOp::Le => self.at().ins().fcmp(FloatCC::LessThanOrEqual, x, y),
            ScalarOp::Eq => self.at().ins().fcmp(FloatCC::Equal, x, y),
            ScalarOp::Ne => self.at().ins().fcmp(FloatCC::NotEqual, x, y),
            _ => unreachable!("{} of f32 is turned down before a kernel is emitted", op.name()),
        }
    }

    /// `x * y + z` by way of `f64`, where the product is exact.
    fn fma_of_doubles(&mut self, x: Register, y: Register, z: Register) -> Register {
        if self.is_wide(x) {
            return self.lane_by_lane_of(F32X4, &[x, y, z], |emitter, xs| {
                emitter.fma_of_doubles(xs[0], xs[1], xs[2])
            });
        }
        let [x, y, z] = [x, y, z].map(|value| self.at().ins().fpromote(F64, value));
        let product = self.at().ins().fmul(x, y);
        let sum = self.at().ins().fadd(product, z);
        self.at().ins().fdemote(F32, sum)
    }

    /// The nearest integer: adding 2^23 leaves no place for a fraction. Larger values have none.
    fn round_by_addition(&mut self, x: Register) -> Register {
        let magnitude = self.at().ins().fabs(x);
        let large = self.float(x, 8_388_608.0);
        let sum = self.at().ins().fadd(magnitude, large);
        let rounded = self.at().ins().fsub(sum, large);
        let rounded = self.with_sign_of(rounded, x);
        let small = self.at().ins().fcmp(FloatCC::LessThan, magnitude, large);
        self.choose(small, rounded, x)
    }

    /// A value without a sign with the sign of `x`.
    fn with_sign_of(&mut self, magnitude: Register, x: Register) -> Register {
        let (magnitude, x) = (self.as_word(magnitude), self.as_word(x));
        let sign = self.word(x, 0x8000_0000);
        let sign = self.at().ins().band(x, sign);
        let bits = self.at().ins().bor(magnitude, sign);
        self.as_float(bits)
    }

    fn floor_by_addition(&mut self, x: Register) -> Register {
        let rounded = self.round_by_addition(x);
        let one = self.float(x, 1.0);
        let below = self.at().ins().fsub(rounded, one);
        let above = self.at().ins().fcmp(FloatCC::GreaterThan, rounded, x);
        self.choose(above, below, rounded)
    }

    fn apply_word(&mut self, op: ScalarOp, signed: bool, xs: &[Register]) -> Register {
        let x = xs[0];
        let y = xs.get(1).copied().unwrap_or(x);
        let less = if signed { IntCC::SignedLessThan } else { IntCC::UnsignedLessThan };
        let at_most = if signed { IntCC::SignedLessThanOrEqual } else { IntCC::UnsignedLessThanOrEqual };
        match op {
            ScalarOp::Add => self.at().ins().iadd(x, y),
            ScalarOp::Sub => self.at().ins().isub(x, y),
            ScalarOp::Mul => self.at().ins().imul(x, y),
            ScalarOp::Div => self.divide(signed, x, y),
            ScalarOp::Rem => {
                let quotient = self.divide(signed, x, y);
                let whole = self.at().ins().imul(quotient, y);
                let rest = self.at().ins().isub(x, whole);
                let zero = self.word(y, 0);
                let divides = self.at().ins().icmp(IntCC::NotEqual, y, zero);
                self.choose(divides, rest, zero)
            }
            ScalarOp::Dot4 => self.dot_of_bytes(x, y, xs[2]),
            ScalarOp::Lookup(table) => self.lookup(x, &table),
            ScalarOp::Neg => self.at().ins().ineg(x),
            ScalarOp::Abs if signed => self.at().ins().iabs(x),
            ScalarOp::Abs => x,
            ScalarOp::Min if signed => self.at().ins().smin(x, y),
            ScalarOp::Min => self.at().ins().umin(x, y),
            ScalarOp::Max if signed => self.at().ins().smax(x, y),
            ScalarOp::Max => self.at().ins().umax(x, y),
            ScalarOp::And => self.at().ins().band(x, y),
            ScalarOp::Or => self.at().ins().bor(x, y),
            ScalarOp::Xor => self.at().ins().bxor(x, y),
            ScalarOp::Shl | ScalarOp::Shr => self.shifted(op, signed, x, y),
            ScalarOp::Lt => self.at().ins().icmp(less, x, y),
            ScalarOp::Le => self.at().ins().icmp(at_most, x, y),
            ScalarOp::Eq => self.at().ins().icmp(IntCC::Equal, x, y),
            ScalarOp::Ne => self.at().ins().icmp(IntCC::NotEqual, x, y),
            _ => unreachable!("{} of integers is turned down before a kernel is emitted", op.name()),
        }
    }

    /// The quotient rounded down, 0 for a divisor of 0; in 64 bits, where nothing overflows.
    fn divide(&mut self, signed: bool, x: Register, y: Register) -> Register {
        if self.is_wide(x) {
            return self.lane_by_lane_of(I32X4, &[x, y], |emitter, xs| emitter.divide(signed, xs[0], xs[1]));
        }
        let [a, b] = [x, y].map(|value| match signed {
            true => self.at().ins().sextend(I64, value),
            false => self.at().ins().uextend(I64, value),
        });
        let zero = self.at_entry().ins().iconst(I64, 0);
        let one = self.at_entry().ins().iconst(I64, 1);
        let divides = self.at().ins().icmp(IntCC::NotEqual, b, zero);
        let divisor = self.at().ins().select(divides, b, one);
        let mut quotient = self.at().ins().sdiv(a, divisor);
        if signed {
            let whole = self.at().ins().imul(quotient, divisor);
            let rest = self.at().ins().isub(a, whole);
            let inexact = self.at().ins().icmp(IntCC::NotEqual, rest, zero);
            let signs = self.at().ins().bxor(a, divisor);
            let opposite = self.at().ins().icmp(IntCC::SignedLessThan, signs, zero);
            let correction = self.at().ins().band(inexact, opposite);
            let correction = self.at().ins().uextend(I64, correction);
            quotient = self.at().ins().isub(quotient, correction);
        }
        let quotient = self.at().ins().select(divides, quotient, zero);
        self.at().ins().ireduce(I32, quotient)
    }

    /// The shape of this tree is what Cranelift turns into `vpdpbusd` where the processor has it.
    fn dot_of_bytes(&mut self, unsigned: Register, signed: Register, sum: Register) -> Register {
        if !self.is_wide(sum) {
            let [unsigned, signed, sum] =
                [unsigned, signed, sum].map(|x| self.at().ins().scalar_to_vector(I32X4, x));
            let sums = self.dot_of_bytes(unsigned, signed, sum);
            return self.at().ins().extractlane(sums, 0);
        }
        let [unsigned, signed] = [unsigned, signed].map(|x| self.bits(I8X16, x));
        let low = [self.at().ins().swiden_low(signed), self.at().ins().uwiden_low(unsigned)];
        let high = [self.at().ins().swiden_high(signed), self.at().ins().uwiden_high(unsigned)];
        let pairs = [low, high].map(|[x, y]| {
            let products = self.at().ins().imul(x, y);
            let halves = [self.at().ins().swiden_low(products), self.at().ins().swiden_high(products)];
            self.at().ins().iadd_pairwise(halves[0], halves[1])
        });
        let products = self.at().ins().iadd_pairwise(pairs[0], pairs[1]);
        self.at().ins().iadd(products, sum)
    }

    /// The bytes of a table that the low halves of a word's bytes number.
    fn lookup(&mut self, x: Register, table: &Table) -> Register {
        if !self.is_wide(x) {
            let x = self.at().ins().scalar_to_vector(I32X4, x);
            let bytes = self.lookup(x, table);
            return self.at().ins().extractlane(bytes, 0);
        }
        if self.features.shuffles {
            let low = self.word(x, 0x0F0F_0F0F);
            let places = self.at().ins().band(x, low);
            let places = self.bits(I8X16, places);
            let table = self.constant(I32X4, words_of(table));
            let table = self.bits(I8X16, table);
            let bytes = self.at().ins().x86_pshufb(table, places);
            return self.bits(I32X4, bytes);
        }
        // Half as many candidates after each bit.
        let mut all: Vec<Register> =
            table.iter().map(|byte| self.word(x, u32::from(*byte) * 0x0101_0101)).collect();
        for bit in 0..4 {
            let bit = self.word(x, 0x0101_0101 << bit);
            let set = self.at().ins().band(x, bit);
            let [set, bit] = [set, bit].map(|x| self.bits(I8X16, x));
            let set = self.at().ins().icmp(IntCC::Equal, set, bit);
            let set = self.bits(I32X4, set);
            all = all.chunks(2).map(|pair| self.at().ins().bitselect(set, pair[1], pair[0])).collect();
        }
        all[0]
    }

    /// Vectors are shifted by one count for all lanes; Cranelift takes counts modulo 32.
    fn shifted(&mut self, op: ScalarOp, signed: bool, x: Register, count: Register) -> Register {
        if self.is_wide(count) {
            return self.lane_by_lane_of(I32X4, &[x, count], |emitter, xs| {
                emitter.shifted(op, signed, xs[0], xs[1])
            });
        }
        match op {
            ScalarOp::Shl => self.at().ins().ishl(x, count),
            _ if signed => self.at().ins().sshr(x, count),
            _ => self.at().ins().ushr(x, count),
        }
    }

    fn apply_truth(&mut self, op: ScalarOp, xs: &[Register]) -> Register {
        let (x, y) = (xs[0], xs[1]);
        let not = |emitter: &mut Self, x: Register| match emitter.is_wide(x) {
            true => emitter.at().ins().bnot(x),
            false => emitter.at().ins().bxor_imm_u(x, 1),
        };
        match op {
            ScalarOp::And => self.at().ins().band(x, y),
            ScalarOp::Or => self.at().ins().bor(x, y),
            ScalarOp::Xor | ScalarOp::Ne => self.at().ins().bxor(x, y),
            ScalarOp::Eq => {
                let differ = self.at().ins().bxor(x, y);
                not(self, differ)
            }
            ScalarOp::Lt => {
                let x = not(self, x);
                self.at().ins().band(x, y)
            }
            ScalarOp::Le => {
                let x = not(self, x);
                self.at().ins().bor(x, y)
            }
            _ => unreachable!("{} of bool is turned down before a kernel is emitted", op.name()),
        }
    }

    /// What has no vector instruction: each lane by itself.
    fn lane_by_lane_of(
        &mut self,
        kind: cranelift_codegen::ir::Type,
        xs: &[Register],
        mut compute: impl FnMut(&mut Self, &[Register]) -> Register,
    ) -> Register {
        let lanes: [Register; LANES] = std::array::from_fn(|lane| {
            let each = xs.iter().map(|x| self.at().ins().extractlane(*x, lane as u8)).collect::<Vec<_>>();
            compute(self, &each)
        });
        self.gather(kind, lanes)
    }
}
