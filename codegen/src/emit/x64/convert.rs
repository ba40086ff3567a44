//! Conversions between element types, bit for bit as the interpreter does them.

use iced_x86::Code;
use jtllm_ir::DType;

use super::isa::{Level, Op};
use super::machine::{Class, Operand, Reg, View};
use super::operation::Compare;
use super::select::Selector;

/// Rounds to the nearest, ties to even, whatever the processor's mode is.
const TO_NEAREST: i64 = 0;

impl Selector<'_> {
    /// A value converted, as [`ScalarOp::Cast`](jtllm_ir::ScalarOp::Cast) says. Floats of 16 bits are carried as `f32`.
    pub(super) fn cast(&mut self, x: Reg, from: DType, to: DType) -> Reg {
        match (from, to) {
            _ if from == to => x,
            (DType::F16 | DType::BF16, _) => self.cast(x, DType::F32, to),
            (DType::F32, DType::F16) => {
                let half = self.half_of(x);
                self.vector(Op::FloatOfHalf, &[Operand::Reg(half, self.level.half())])
            }
            (DType::F32, DType::BF16) => {
                let rounded = self.rounded_to_upper_half(x);
                let upper = self.word(0xffff_0000);
                self.binary(Op::And, rounded, upper)
            }
            (_, DType::F16 | DType::BF16) => {
                let float = self.cast(x, from, DType::F32);
                self.cast(float, DType::F32, to)
            }
            (DType::F32, _) => self.integer_from_float(x, to),
            (DType::Bool, DType::F32) => self.masked_word(x, 1f32.to_bits()),
            (DType::Bool, _) => self.masked_word(x, 1),
            (_, DType::Bool) => self.nonzero(x),
            (DType::U32, DType::F32) => self.float_from_unsigned(x),
            (_, DType::F32) => self.unary(Op::FloatOfSigned, x),
            (_, DType::U8) => {
                let byte = self.word(0xff);
                self.binary(Op::And, x, byte)
            }
            (_, DType::I8) => {
                let high = self.with(Op::Shl, x, 24);
                self.with(Op::Sar, high, 24)
            }
            // Narrow integers are carried in 32 bits with their sign.
            (_, DType::I32 | DType::U32) => x,
        }
    }

    /// Half-precision numbers in half a register.
    pub(super) fn half_of(&mut self, x: Reg) -> Reg {
        let code = match self.level {
            Level::Avx2 => Code::VEX_Vcvtps2ph_xmmm128_ymm_imm8,
            Level::Avx512 => Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae,
        };
        let operands = [self.whole(x), Operand::Immediate(TO_NEAREST)];
        self.make(Class::Vector, code, self.level.half(), &operands)
    }

    /// An `f32` whose upper half is the `bf16` nearest to it, by adding half of the last place (and the last bit) before
    /// the cut. What is not a number stays so.
    pub(super) fn rounded_to_upper_half(&mut self, x: Reg) -> Reg {
        let cut = self.with(Op::Shr, x, 16);
        let one = self.word(1);
        let odd = self.binary(Op::And, cut, one);
        let half = self.word(0x7fff);
        let rounded = self.binary(Op::AddInt, x, half);
        let rounded = self.binary(Op::AddInt, rounded, odd);
        let quiet = self.word(0x0040_0000);
        let quiet = self.binary(Op::Or, x, quiet);
        let number = self.is_number(x);
        self.choose(number, rounded, quiet)
    }

    /// Truncated, saturated; what is not a number becomes 0.
    fn integer_from_float(&mut self, x: Reg, to: DType) -> Reg {
        let (low, high) = match to {
            DType::Bool => {
                let zero = self.float(0.0);
                let zero = self.whole(zero);
                return self.compare_floats(Compare::NotEqual, x, zero);
            }
            DType::U32 => return self.unsigned_from_float(x),
            DType::I8 => (-128i32, 127u32),
            DType::U8 => (0, 255),
            _ => return self.signed_from_float(x),
        };
        let word = self.signed_from_float(x);
        let (low, high) = (self.word(low as u32), self.word(high));
        let word = self.binary(Op::MaxSigned, word, low);
        self.binary(Op::MinSigned, word, high)
    }

    fn signed_from_float(&mut self, x: Reg) -> Reg {
        let word = self.unary(Op::SignedOfFloat, x);
        let limit = self.float(2_147_483_648.0);
        let limit = self.whole(limit);
        // What is too large became the least integer, and so did what is not a number.
        let small = self.compare_floats(Compare::Less, x, limit);
        let most = self.word(0x7fff_ffff);
        let word = self.choose(small, word, most);
        let number = self.is_number(x);
        let zero = self.word(0);
        self.choose(number, word, zero)
    }

    fn unsigned_from_float(&mut self, x: Reg) -> Reg {
        let zero = self.float(0.0);
        let x = self.binary(Op::Max, x, zero);
        if self.level == Level::Avx512 {
            return self.unary(Op::UnsignedOfFloat, x);
        }
        let half = self.float(2_147_483_648.0);
        let low = self.unary(Op::SignedOfFloat, x);
        let rest = self.binary(Op::Sub, x, half);
        let high = self.unary(Op::SignedOfFloat, rest);
        let top = self.word(0x8000_0000);
        let high = self.binary(Op::Xor, high, top);
        let limit = self.float(4_294_967_296.0);
        let [half, limit] = [half, limit].map(|limit| self.whole(limit));
        let fits = self.compare_floats(Compare::Less, x, limit);
        let most = self.word(u32::MAX);
        let high = self.choose(fits, high, most);
        let small = self.compare_floats(Compare::Less, x, half);
        self.choose(small, low, high)
    }

    fn float_from_unsigned(&mut self, x: Reg) -> Reg {
        if self.level == Level::Avx512 {
            return self.unary(Op::FloatOfUnsigned, x);
        }
        // Either half is exact as a float, so the sum is rounded once.
        let high = self.with(Op::Shr, x, 16);
        let high = self.unary(Op::FloatOfSigned, high);
        let factor = self.float(65536.0);
        let high = self.binary(Op::Mul, high, factor);
        let lower = self.word(0xffff);
        let low = self.binary(Op::And, x, lower);
        let low = self.unary(Op::FloatOfSigned, low);
        self.binary(Op::Add, high, low)
    }

    /// The low halves of 32-bit elements side by side.
    pub(super) fn low_halves(&mut self, x: Reg) -> Reg {
        match self.level {
            Level::Avx512 => {
                let operand = self.whole(x);
                self.make(Class::Vector, Code::EVEX_Vpmovdw_ymmm256_k1z_zmm, View::Y, &[operand])
            }
            Level::Avx2 => {
                let upper = [self.whole(x), Operand::Immediate(1)];
                let upper =
                    self.make(Class::Vector, Code::VEX_Vextracti128_xmmm128_ymm_imm8, View::X, &upper);
                let both = [Operand::Reg(x, View::X), Operand::Reg(upper, View::X)];
                self.make(Class::Vector, Code::VEX_Vpackusdw_xmm_xmm_xmmm128, View::X, &both)
            }
        }
    }

    /// The low bytes of 32-bit elements side by side.
    pub(super) fn low_bytes(&mut self, x: Reg) -> Reg {
        match self.level {
            Level::Avx512 => {
                let operand = self.whole(x);
                self.make(Class::Vector, Code::EVEX_Vpmovdb_xmmm128_k1z_zmm, View::X, &[operand])
            }
            Level::Avx2 => {
                // Packing saturates, so that only the byte may be left.
                let byte = self.word(0xff);
                let bytes = self.binary(Op::And, x, byte);
                let halves = self.low_halves(bytes);
                let both = [Operand::Reg(halves, View::X), Operand::Reg(halves, View::X)];
                self.make(Class::Vector, Code::VEX_Vpackuswb_xmm_xmm_xmmm128, View::X, &both)
            }
        }
    }
}
