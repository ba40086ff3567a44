//! Conversions between element types. Cranelift has no arithmetic on 16-bit floats and no conversion
//! to or from them; integer steps and one float operation do it exactly.

use cranelift_codegen::ir::InstBuilder;
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::types::{F32, F32X4, I32, I32X4};
use jtllm_ir::DType;

use super::function::{Emitter, Register};

/// The bits of infinity.
const INFINITY: u32 = 0x7f80_0000;

impl Emitter<'_, '_> {
    /// A value converted, as [`ScalarOp::Cast`](jtllm_ir::ScalarOp::Cast) says.
    pub(super) fn cast(&mut self, x: Register, from: DType, to: DType) -> Register {
        match (from, to) {
            _ if from == to => x,
            (DType::F16, _) => {
                let float = self.float_from_f16(x);
                self.cast(float, DType::F32, to)
            }
            (DType::BF16, _) => {
                let bits = self.shift(x, 16, |mut code, x, n| code.ins().ishl(x, n));
                let float = self.as_float(bits);
                self.cast(float, DType::F32, to)
            }
            (DType::F32, DType::F16) => self.f16_from_float(x),
            (DType::F32, DType::BF16) => self.bf16_from_float(x),
            (_, DType::F16 | DType::BF16) => {
                let float = self.cast(x, from, DType::F32);
                self.cast(float, DType::F32, to)
            }
            (DType::F32, _) => self.integer_from_float(x, to),
            (DType::Bool, DType::F32) => {
                let (one, zero) = (self.float(x, 1.0), self.float(x, 0.0));
                self.choose(x, one, zero)
            }
            (DType::Bool, _) => self.masked_word(x, 1),
            (_, DType::Bool) => self.nonzero(x),
            (DType::U32, DType::F32) => {
                let kind = if self.is_wide(x) { F32X4 } else { F32 };
                self.at().ins().fcvt_from_uint(kind, x)
            }
            (_, DType::F32) => {
                let kind = if self.is_wide(x) { F32X4 } else { F32 };
                self.at().ins().fcvt_from_sint(kind, x)
            }
            (_, DType::U8) => {
                let byte = self.word(x, 0xff);
                self.at().ins().band(x, byte)
            }
            (_, DType::I8) => {
                let high = self.shift(x, 24, |mut code, x, n| code.ins().ishl(x, n));
                self.shift(high, 24, |mut code, x, n| code.ins().sshr(x, n))
            }
            // Narrow integers are carried in 32 bits with their sign.
            (_, DType::I32 | DType::U32) => x,
        }
    }

    /// Truncated, saturated; what is not a number becomes 0.
    fn integer_from_float(&mut self, x: Register, to: DType) -> Register {
        let kind = if self.is_wide(x) { I32X4 } else { I32 };
        let (low, high) = match to {
            DType::Bool => {
                let zero = self.float(x, 0.0);
                return self.at().ins().fcmp(FloatCC::NotEqual, x, zero);
            }
            DType::U32 => return self.at().ins().fcvt_to_uint_sat(kind, x),
            DType::I8 => (-128i32, 127),
            DType::U8 => (0, 255),
            _ => return self.at().ins().fcvt_to_sint_sat(kind, x),
        };
        let word = self.at().ins().fcvt_to_sint_sat(kind, x);
        let (low, high) = (self.word(word, low as u32), self.word(word, high));
        let word = self.at().ins().smax(word, low);
        self.at().ins().smin(word, high)
    }

    /// The exponent and the mantissa moved to their places, and the bias put right by a product, which
    /// is exact for subnormal numbers too. Infinities and what is not a number keep the largest exponent.
    fn float_from_f16(&mut self, x: Register) -> Register {
        let high = self.shift(x, 16, |mut code, x, n| code.ins().ishl(x, n));
        let moved = self.shift(high, 3, |mut code, x, n| code.ins().sshr(x, n));
        let parts = self.word(x, 0x8fff_e000);
        let moved = self.at().ins().band(moved, parts);
        let scale = self.float(x, f32::from_bits((127 + 112) << 23));
        let float = self.as_float(moved);
        let float = self.at().ins().fmul(float, scale);
        let exponent = self.word(x, 0x0f80_0000);
        let special = self.at().ins().band(moved, exponent);
        let special = self.at().ins().icmp(IntCC::Equal, special, exponent);
        let special = self.masked_word(special, INFINITY);
        let bits = self.as_word(float);
        let bits = self.at().ins().bor(bits, special);
        self.as_float(bits)
    }

    /// Rounded to nearest even, by adding half of the last place (and the last bit) before the cut;
    /// for subnormal results by adding a float whose last place is theirs.
    fn f16_from_float(&mut self, x: Register) -> Register {
        let bits = self.as_word(x);
        let sign = self.word(bits, 0x8000_0000);
        let sign = self.at().ins().band(bits, sign);
        let magnitude = self.at().ins().bxor(bits, sign);
        let shifted = self.shift(magnitude, 13, |mut code, x, n| code.ins().ushr(x, n));

        let one = self.word(bits, 1);
        let odd = self.at().ins().band(shifted, one);
        let bias = self.word(bits, 0xc800_0fff);
        let normal = self.at().ins().iadd(magnitude, bias);
        let normal = self.at().ins().iadd(normal, odd);
        let normal = self.shift(normal, 13, |mut code, x, n| code.ins().ushr(x, n));

        let half = self.float(bits, 0.5);
        let small = self.as_float(magnitude);
        let small = self.at().ins().fadd(small, half);
        let (small, half) = (self.as_word(small), self.as_word(half));
        let small = self.at().ins().isub(small, half);

        let payload = self.word(bits, 0x3ff);
        let payload = self.at().ins().band(shifted, payload);
        let quiet = self.word(bits, 0x7e00);
        let not_number = self.at().ins().bor(payload, quiet);

        let least_normal = self.word(bits, 0x3880_0000);
        let is_small = self.at().ins().icmp(IntCC::SignedLessThan, magnitude, least_normal);
        let result = self.choose(is_small, small, normal);
        let largest = self.word(bits, 0x477f_ffff);
        let is_large = self.at().ins().icmp(IntCC::SignedGreaterThan, magnitude, largest);
        let infinity = self.word(bits, 0x7c00);
        let result = self.choose(is_large, infinity, result);
        let infinity = self.word(bits, INFINITY);
        let is_not_number = self.at().ins().icmp(IntCC::SignedGreaterThan, magnitude, infinity);
        let result = self.choose(is_not_number, not_number, result);
        let sign = self.shift(sign, 16, |mut code, x, n| code.ins().ushr(x, n));
        self.at().ins().bor(result, sign)
    }

    fn bf16_from_float(&mut self, x: Register) -> Register {
        let bits = self.as_word(x);
        let cut = self.shift(bits, 16, |mut code, x, n| code.ins().ushr(x, n));
        let one = self.word(bits, 1);
        let odd = self.at().ins().band(cut, one);
        let half = self.word(bits, 0x7fff);
        let rounded = self.at().ins().iadd(bits, half);
        let rounded = self.at().ins().iadd(rounded, odd);
        let rounded = self.shift(rounded, 16, |mut code, x, n| code.ins().ushr(x, n));
        let quiet = self.word(bits, 0x40);
        let quiet = self.at().ins().bor(cut, quiet);
        let float = self.as_float(bits);
        let not_number = self.at().ins().fcmp(FloatCC::Unordered, float, float);
        self.choose(not_number, quiet, rounded)
    }
}
