//! The functions: range reductions and polynomials.
//!
//! Polynomials of `exp`, `tanh`, `sin` and `cos` are those of the Cephes library (Moshier), `log` is
//! FreeBSD's `logf`, `erf` is N. Juffa's `erff`.

use jtllm_ir::{DType, Scalar, ScalarOp as S};

use super::Steps;
use crate::kernel::ValueId;

/// How a function is made, if it is one that is decomposed.
pub(super) fn of(op: S, all: bool) -> Option<fn(&mut Steps, ValueId) -> ValueId> {
    Some(match op {
        S::Sin => |steps, x| steps.wave(x, 0.0),
        S::Cos => |steps, x| steps.wave(x, 1.0),
        S::Exp if all => Steps::exp,
        S::Log if all => Steps::log,
        S::Tanh if all => Steps::tanh,
        S::Erf if all => Steps::erf,
        S::Rsqrt if all => |steps, x| {
            let one = steps.float(1.0);
            let root = steps.step(S::Sqrt, &[x]);
            steps.step(S::Div, &[one, root])
        },
        _ => return None,
    })
}

/// A quarter of a turn in three parts, each the rest that the ones before leave.
const QUARTER_TURN: [f32; 3] = [1.570_796_4, -4.371_139e-8, -1.715_124_5e-15];

impl Steps {
    fn float(&mut self, value: f32) -> ValueId {
        self.constant(DType::F32, Scalar::Float(value))
    }

    fn int(&mut self, value: i32) -> ValueId {
        self.constant(DType::I32, Scalar::Int(i64::from(value)))
    }

    fn fma(&mut self, x: ValueId, y: ValueId, z: ValueId) -> ValueId {
        self.step(S::Fma, &[x, y, z])
    }

    /// A polynomial by Horner's rule, the highest coefficient first.
    fn polynomial(&mut self, x: ValueId, coefficients: &[f32]) -> ValueId {
        let constants: Vec<ValueId> = coefficients.iter().map(|c| self.float(*c)).collect();
        constants.into_iter().reduce(|sum, c| self.fma(sum, x, c)).expect("a polynomial has coefficients")
    }

    /// `2^n` for an integer `n` in -126..=127.
    fn power_of_two(&mut self, n: ValueId) -> ValueId {
        let (bias, place) = (self.int(127), self.int(23));
        let biased = self.step(S::Add, &[n, bias]);
        let bits = self.step(S::Shl, &[biased, place]);
        self.step(S::Bitcast(DType::F32), &[bits])
    }

    /// `e^x = 2^n * e^r`, with `|r|` at most half of `ln 2`.
    ///
    /// Added to 1.5 * 2^23, `n` stands in the lowest bits of a float: neither a rounding nor a conversion
    /// is needed. The power is applied in two halves, so that subnormal results round once and the
    /// largest ones do not overflow early.
    fn exp(&mut self, x: ValueId) -> ValueId {
        // Both orders let what is not a number through; beyond the bounds the result is 0 or infinity.
        let (low, high) = (self.float(-104.0), self.float(89.0));
        let x = self.step(S::Min, &[high, x]);
        let x = self.step(S::Max, &[low, x]);
        let log2_e = self.float(std::f32::consts::LOG2_E);
        let (n, whole) = self.nearest(x, log2_e);
        let (ln2_high, ln2_low) = (self.float(-0.693_359_4), self.float(2.121_944_4e-4));
        let r = self.fma(n, ln2_high, x);
        let r = self.fma(n, ln2_low, r);
        let p = self.polynomial(
            r,
            &[1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5],
        );
        let square = self.step(S::Mul, &[r, r]);
        let p = self.fma(p, square, r);
        let one = self.float(1.0);
        let e = self.step(S::Add, &[p, one]);
        let one = self.int(1);
        let half = self.step(S::Shr, &[whole, one]);
        let rest = self.step(S::Sub, &[whole, half]);
        let (half, rest) = (self.power_of_two(half), self.power_of_two(rest));
        let e = self.step(S::Mul, &[e, half]);
        self.step(S::Mul, &[e, rest])
    }

    /// The whole number nearest to `x * factor`, as a float and as an integer. Added to 1.5 * 2^23 it stands in
    /// the lowest bits; compilers of graphics processors, which rearrange sums, would take that apart.
    fn nearest(&mut self, x: ValueId, factor: ValueId) -> (ValueId, ValueId) {
        if self.rearranges {
            let product = self.step(S::Mul, &[x, factor]);
            let n = self.step(S::Round, &[product]);
            return (n, self.step(S::Cast(DType::I32), &[n]));
        }
        let magic = self.float(12_582_912.0);
        let placed = self.fma(x, factor, magic);
        let n = self.step(S::Sub, &[placed, magic]);
        let bits = self.step(S::Bitcast(DType::I32), &[placed]);
        let origin = self.int(12_582_912.0f32.to_bits() as i32);
        (n, self.step(S::Sub, &[bits, origin]))
    }

    /// `ln x = k ln 2 + ln(1 + f)`, with `1 + f` between the roots of one half and two.
    fn log(&mut self, x: ValueId) -> ValueId {
        let least = self.float(f32::MIN_POSITIVE);
        let subnormal = self.step(S::Lt, &[x, least]);
        let scale = self.float(8_388_608.0);
        let scaled = self.step(S::Mul, &[x, scale]);
        let normal = self.step(S::Select, &[subnormal, scaled, x]);
        let (exponent, scaled_exponent) = (self.int(-127), self.int(-127 - 23));
        let exponent = self.step(S::Select, &[subnormal, scaled_exponent, exponent]);

        let bits = self.step(S::Bitcast(DType::I32), &[normal]);
        let root = self.int(0x3f35_04f3);
        let above = self.int(0x3f80_0000 - 0x3f35_04f3);
        let bits = self.step(S::Add, &[bits, above]);
        let place = self.int(23);
        let k = self.step(S::Shr, &[bits, place]);
        let k = self.step(S::Add, &[k, exponent]);
        let k = self.step(S::Cast(DType::F32), &[k]);
        let mantissa = self.int(0x007f_ffff);
        let bits = self.step(S::And, &[bits, mantissa]);
        let bits = self.step(S::Add, &[bits, root]);
        let m = self.step(S::Bitcast(DType::F32), &[bits]);
        let one = self.float(1.0);
        let f = self.step(S::Sub, &[m, one]);

        let two = self.float(2.0);
        let sum = self.step(S::Add, &[two, f]);
        let s = self.step(S::Div, &[f, sum]);
        let z = self.step(S::Mul, &[s, s]);
        let r = self.polynomial(z, &[0.242_790_79, 0.284_987_87, 0.400_009_72, 0.666_666_6]);
        let r = self.step(S::Mul, &[r, z]);
        let half = self.float(0.5);
        let half_f = self.step(S::Mul, &[half, f]);
        let h = self.step(S::Mul, &[half_f, f]);
        let (ln2_high, ln2_low) = (self.float(0.693_138_1), self.float(9.058_001e-6));
        let inner = self.step(S::Add, &[h, r]);
        let low = self.step(S::Mul, &[k, ln2_low]);
        let low = self.fma(s, inner, low);
        let low = self.step(S::Sub, &[low, h]);
        let low = self.step(S::Add, &[low, f]);
        let log = self.fma(k, ln2_high, low);
        self.log_edges(x, log)
    }

    /// Infinity and what is not a number stay themselves; zero and what lies below have no logarithm.
    fn log_edges(&mut self, x: ValueId, log: ValueId) -> ValueId {
        let (zero, infinity) = (self.float(0.0), self.float(f32::INFINITY));
        let finite = self.step(S::Lt, &[x, infinity]);
        let log = self.step(S::Select, &[finite, log, x]);
        let positive = self.step(S::Lt, &[zero, x]);
        let (pole, none) = (self.float(f32::NEG_INFINITY), self.float(f32::NAN));
        let is_zero = self.step(S::Eq, &[x, zero]);
        let edge = self.step(S::Select, &[is_zero, pole, none]);
        self.step(S::Select, &[positive, log, edge])
    }

    /// `x` without its sign.
    fn magnitude(&mut self, x: ValueId) -> ValueId {
        self.step(S::Abs, &[x])
    }

    /// A value that is not negative, with the sign of `x`.
    fn with_sign_of(&mut self, value: ValueId, x: ValueId) -> ValueId {
        let sign = self.int(i32::MIN);
        let x = self.step(S::Bitcast(DType::I32), &[x]);
        let sign = self.step(S::And, &[x, sign]);
        let value = self.step(S::Bitcast(DType::I32), &[value]);
        let bits = self.step(S::Or, &[value, sign]);
        self.step(S::Bitcast(DType::F32), &[bits])
    }

    /// A polynomial near zero, else `1 - 2 / (e^2x + 1)`.
    fn tanh(&mut self, x: ValueId) -> ValueId {
        let square = self.step(S::Mul, &[x, x]);
        let near = self.polynomial(
            square,
            &[-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -3.333_328e-1],
        );
        let near = self.step(S::Mul, &[near, square]);
        let near = self.fma(near, x, x);
        let magnitude = self.magnitude(x);
        let double = self.step(S::Add, &[magnitude, magnitude]);
        let e = self.exp(double);
        let (one, minus_two) = (self.float(1.0), self.float(-2.0));
        let e = self.step(S::Add, &[e, one]);
        let quotient = self.step(S::Div, &[minus_two, e]);
        let far = self.step(S::Add, &[quotient, one]);
        let far = self.with_sign_of(far, x);
        let bound = self.float(0.625);
        let is_near = self.step(S::Lt, &[magnitude, bound]);
        self.step(S::Select, &[is_near, near, far])
    }

    /// A polynomial near zero, else one minus `e` to a polynomial.
    fn erf(&mut self, x: ValueId) -> ValueId {
        let square = self.step(S::Mul, &[x, x]);
        let near = self.polynomial(
            square,
            &[-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 0.112_819_925, -0.376_125_34, 0.128_379_17],
        );
        let near = self.fma(near, x, x);
        let t = self.magnitude(x);
        let outer = self.polynomial(t, &[-1.728_534_7e-5, 3.831_971_3e-4]);
        let inner = self.polynomial(t, &[-3.883_964_4e-3, 2.425_462_2e-2]);
        let mut far = self.fma(outer, square, inner);
        for coefficient in [-0.106_777_88, -0.634_846_7, -0.128_717_51] {
            let coefficient = self.float(coefficient);
            far = self.fma(far, t, coefficient);
        }
        let minus = self.step(S::Neg, &[t]);
        let far = self.fma(far, t, minus);
        let far = self.exp(far);
        let one = self.float(1.0);
        let far = self.step(S::Sub, &[one, far]);
        let far = self.with_sign_of(far, x);
        let bound = self.float(0.927_734_4);
        let is_far = self.step(S::Lt, &[bound, t]);
        self.step(S::Select, &[is_far, far, near])
    }

    /// `sin(x + quarters * pi/2)`: the remainder by a quarter turn, in three parts of pi/2 (Cody and
    /// Waite), the first of which leaves no rounding; then one of two polynomials, with a sign.
    fn wave(&mut self, x: ValueId, quarters: f32) -> ValueId {
        let inverse = self.float(std::f32::consts::FRAC_2_PI);
        // In large operands the quotient has no room for enough of its fraction, so that the first
        // remainder may lie outside an eighth of a turn; the second step brings it back.
        let (mut n, mut r) = (self.float(quarters), x);
        for _ in 0..2 {
            let quotient = self.step(S::Mul, &[r, inverse]);
            let whole = self.step(S::Round, &[quotient]);
            for part in QUARTER_TURN {
                let part = self.float(-part);
                r = self.fma(whole, part, r);
            }
            n = self.step(S::Add, &[n, whole]);
        }
        // Where the remainder has lost its meaning it still gives a value between -1 and 1.
        let (low, high) = (self.float(-0.79), self.float(0.79));
        let r = self.step(S::Min, &[high, r]);
        let r = self.step(S::Max, &[low, r]);
        let square = self.step(S::Mul, &[r, r]);
        let sine = self.polynomial(square, &[-1.951_529_6e-4, 8.332_161e-3, -0.166_666_55]);
        let sine = self.step(S::Mul, &[sine, square]);
        let sine = self.fma(sine, r, r);
        let cosine = self.polynomial(square, &[2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2, -0.5, 1.0]);

        let half = self.float(0.5);
        let turns = self.step(S::Mul, &[n, half]);
        let whole = self.step(S::Floor, &[turns]);
        let odd = self.step(S::Ne, &[turns, whole]);
        let value = self.step(S::Select, &[odd, cosine, sine]);
        let turns = self.step(S::Mul, &[whole, half]);
        let pairs = self.step(S::Floor, &[turns]);
        let opposite = self.step(S::Ne, &[turns, pairs]);
        let minus = self.step(S::Neg, &[value]);
        self.step(S::Select, &[opposite, minus, value])
    }
}
