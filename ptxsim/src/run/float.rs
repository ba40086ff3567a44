//! Arithmetic on floats, and conversions.

use half::{bf16, f16};

use crate::error::Broken;
use crate::instruction::{Binary, Comparison, Mode, Register, Rounding, Unary};
use crate::run::warp::Warp;
use crate::types::Type;

type Done = Result<(), Broken>;

fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn double(bits: u64) -> f64 {
    f64::from_bits(bits)
}

fn flushed(mode: Mode, x: f32) -> f32 {
    if mode.flush && x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// A result as it is stored.
fn finished(mode: Mode, x: f32) -> u64 {
    let x = flushed(mode, x);
    let x = match mode.saturate {
        true if x.is_nan() => 0.0,
        true => x.clamp(0.0, 1.0),
        false => x,
    };
    u64::from(x.to_bits())
}

/// A half as a single; the type is of halves, or of pairs of them.
fn widened(ty: Type, bits: u64) -> f32 {
    match ty {
        Type::F16 | Type::F16x2 => f16::from_bits(bits as u16).to_f32(),
        _ => f32::from_bits((bits as u32) << 16),
    }
}

fn narrowed(ty: Type, x: f64) -> u64 {
    let single = odd(x);
    match ty {
        Type::F16 | Type::F16x2 => u64::from(f16::from_f32(single).to_bits()),
        _ => u64::from(bf16::from_f32(single).to_bits()),
    }
}

/// A single on the side of zero that is odd unless it is exact: rounded once more, it gives what the double would.
/// (`half` cuts the lower bits of doubles off before it rounds.)
fn odd(x: f64) -> f32 {
    let near = x as f32;
    if near.is_nan() || f64::from(near) == x {
        return near;
    }
    let beyond = u32::from(f64::from(near).abs() > x.abs());
    f32::from_bits((near.to_bits() - beyond) | 1)
}

fn half_flushed(ty: Type, mode: Mode, bits: u64) -> u64 {
    let subnormal = bits & 0x7C00 == 0 && matches!(ty, Type::F16 | Type::F16x2);
    if mode.flush && subnormal { bits & 0x8000 } else { bits }
}

/// A single as a half of that type.
pub(super) fn narrow_half(into: Type, mode: Mode, bits: u64) -> u64 {
    narrowed(into, f64::from(flushed(mode, single(bits))))
}

/// Applies an operation to both halves of a word, or to the one.
fn halves(ty: Type, mode: Mode, words: [u64; 3], f: impl Fn([f64; 3]) -> f64) -> u64 {
    let one = |shift: u32| {
        let parts = words.map(|x| half_flushed(ty, mode, x >> shift & 0xFFFF));
        let found = narrowed(ty, f(parts.map(|x| f64::from(widened(ty, x)))));
        let found = half_flushed(ty, mode, found);
        match mode.saturate {
            true => narrowed(ty, f64::from(single(finished(mode, widened(ty, found))))),
            false => found,
        }
    };
    match ty {
        Type::F16x2 | Type::Bf16x2 => one(0) | one(16) << 16,
        _ => one(0),
    }
}

fn function(op: Unary, x: f64) -> f64 {
    match op {
        Unary::Exp2 => x.exp2(),
        Unary::Log2 => x.log2(),
        Unary::Reciprocal => 1.0 / x,
        Unary::ReciprocalRoot => 1.0 / x.sqrt(),
        Unary::Root => x.sqrt(),
        Unary::Sine => x.sin(),
        Unary::Cosine => x.cos(),
        Unary::Tanh => x.tanh(),
        Unary::Negate => -x,
        Unary::Absolute => x.abs(),
        _ => unreachable!("{op:?} of floats is refused when the text is read"),
    }
}

pub(super) fn unary(
    warp: &mut Warp,
    active: u32,
    op: Unary,
    ty: Type,
    mode: Mode,
    at: [Register; 2],
) -> Done {
    match (ty, op) {
        (Type::F32, Unary::Negate) => warp.map1(active, at, |x| finished(mode, -flushed(mode, single(x)))),
        (Type::F32, Unary::Absolute) => {
            warp.map1(active, at, |x| finished(mode, flushed(mode, single(x)).abs()))
        }
        (Type::F32, _) => warp
            .map1(active, at, |x| finished(mode, function(op, f64::from(flushed(mode, single(x)))) as f32)),
        (Type::F64, _) => warp.map1(active, at, |x| function(op, double(x)).to_bits()),
        _ => warp.map1(active, at, |x| halves(ty, mode, [x, 0, 0], |[x, _, _]| function(op, x))),
    }
}

/// The smaller or larger one; of a number and NaN the number, unless NaN is asked for.
fn extreme(op: Binary, a: f64, b: f64) -> f64 {
    let strict = matches!(op, Binary::MinimumNan | Binary::MaximumNan);
    if a.is_nan() || b.is_nan() {
        return match (strict, a.is_nan()) {
            (true, _) => f64::NAN,
            (false, true) => b,
            (false, false) => a,
        };
    }
    let least = matches!(op, Binary::Minimum | Binary::MinimumNan);
    // Of the two zeros the negative one is smaller.
    let below = a < b || a == b && a.is_sign_negative();
    if below == least { a } else { b }
}

fn operation(op: Binary, a: f64, b: f64) -> f64 {
    match op {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        Binary::CopySign => b.copysign(a),
        _ => extreme(op, a, b),
    }
}

pub(super) fn binary(
    warp: &mut Warp,
    active: u32,
    op: Binary,
    ty: Type,
    mode: Mode,
    at: [Register; 3],
) -> Done {
    let plain = mode == Mode::default();
    match (ty, op) {
        (Type::F32, Binary::Add) if plain => {
            warp.map2(active, at, |a, b| u64::from((single(a) + single(b)).to_bits()))
        }
        (Type::F32, Binary::Multiply) if plain => {
            warp.map2(active, at, |a, b| u64::from((single(a) * single(b)).to_bits()))
        }
        // Rounding a sum, product or quotient of singles in double precision first changes nothing.
        (Type::F32, _) => warp.map2(active, at, |a, b| {
            let [a, b] = [a, b].map(|x| f64::from(flushed(mode, single(x))));
            finished(mode, operation(op, a, b) as f32)
        }),
        (Type::F64, _) => warp.map2(active, at, |a, b| operation(op, double(a), double(b)).to_bits()),
        _ => warp.map2(active, at, |a, b| halves(ty, mode, [a, b, 0], |[a, b, _]| operation(op, a, b))),
    }
}

/// A product and a sum, rounded once.
pub(super) fn fused(warp: &mut Warp, active: u32, ty: Type, mode: Mode, at: [Register; 4]) -> Done {
    match ty {
        Type::F32 if mode == Mode::default() => {
            warp.map3(active, at, |a, b, c| u64::from(single(a).mul_add(single(b), single(c)).to_bits()))
        }
        Type::F32 => warp.map3(active, at, |a, b, c| {
            let [a, b, c] = [a, b, c].map(|x| flushed(mode, single(x)));
            finished(mode, a.mul_add(b, c))
        }),
        Type::F64 => warp.map3(active, at, |a, b, c| double(a).mul_add(double(b), double(c)).to_bits()),
        _ => warp.map3(active, at, |a, b, c| halves(ty, mode, [a, b, c], |[a, b, c]| a.mul_add(b, c))),
    }
}

/// What a comparison of values of that type finds.
pub(super) fn compare(
    ty: Type,
    comparison: Comparison,
    unordered: bool,
    mode: Mode,
) -> impl Fn(u64, u64) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let accepts = move |ordering: Option<std::cmp::Ordering>| match (comparison, ordering) {
        (Comparison::Ordered, found) => found.is_some(),
        (Comparison::Unordered, found) => found.is_none(),
        (_, None) => unordered,
        (Comparison::Equal, Some(found)) => found == Equal,
        (Comparison::NotEqual, Some(found)) => found != Equal,
        (Comparison::Less, Some(found)) => found == Less,
        (Comparison::LessOrEqual, Some(found)) => found != Greater,
        (Comparison::Greater, Some(found)) => found == Greater,
        (Comparison::GreaterOrEqual, Some(found)) => found != Less,
    };
    move |a, b| {
        accepts(match ty {
            Type::F32 => flushed(mode, single(a)).partial_cmp(&flushed(mode, single(b))),
            Type::F64 => double(a).partial_cmp(&double(b)),
            Type::F16 | Type::Bf16 => {
                let [a, b] = [a, b].map(|x| widened(ty, half_flushed(ty, mode, x)));
                a.partial_cmp(&b)
            }
            _ if ty.is_signed() => Some(ty.extend(a).cmp(&ty.extend(b))),
            _ => Some(a.cmp(&b)),
        })
    }
}

fn whole(rounding: Rounding, x: f64) -> f64 {
    match rounding {
        Rounding::Nearest | Rounding::NearestInteger => x.round_ties_even(),
        Rounding::Zero | Rounding::ZeroInteger => x.trunc(),
        Rounding::DownInteger => x.floor(),
        Rounding::UpInteger => x.ceil(),
    }
}

/// The largest value of that many bits that is not beyond `x`, where rounding went away from zero.
fn toward_zero(x: f64) -> f32 {
    let found = x as f32;
    match f64::from(found).abs() > x.abs() {
        true => f32::from_bits(found.to_bits() - 1),
        false => found,
    }
}

/// A value of one type as one of another; integers are cut to 64 bits.
pub(super) fn convert(into: Type, from: Type, rounding: Rounding, mode: Mode, bits: u64) -> u64 {
    if from.is_integer() && into.is_integer() {
        let value = i128::from(from.extend(bits));
        let value = if from == Type::Unsigned(8) { i128::from(bits) } else { value };
        let value = if mode.saturate { clamped(into, value) } else { value };
        return into.extend(value as u64) as u64;
    }
    if from.is_integer() {
        let value = from.extend(bits);
        let unsigned = from == Type::Unsigned(8);
        return match into {
            Type::F32 if rounding == Rounding::Zero && !unsigned => {
                u64::from(toward_zero(value as f64).to_bits())
            }
            Type::F32 if unsigned => u64::from((bits as f32).to_bits()),
            Type::F32 => finished(mode, value as f32),
            Type::F64 if unsigned => (bits as f64).to_bits(),
            Type::F64 => (value as f64).to_bits(),
            _ => narrowed(into, value as f64),
        };
    }
    let value = match from {
        Type::F32 => f64::from(flushed(mode, single(bits))),
        Type::F64 => double(bits),
        _ => f64::from(widened(from, bits)),
    };
    if into.is_integer() {
        // Out of range is cut off, and NaN is 0, as on hardware.
        let value = if value.is_nan() { 0.0 } else { whole(rounding, value) };
        return into.extend(clamped(into, value as i128) as u64) as u64;
    }
    let kept = into == from;
    let integral = !matches!(rounding, Rounding::Nearest | Rounding::Zero);
    let value = if kept && integral { whole(rounding, value) } else { value };
    match into {
        Type::F32 if rounding == Rounding::Zero => finished(mode, toward_zero(value)),
        Type::F32 => finished(mode, value as f32),
        Type::F64 => value.to_bits(),
        _ => narrowed(into, value),
    }
}

/// The nearest number that the type has.
fn clamped(ty: Type, value: i128) -> i128 {
    let bits = u32::from(ty.bytes()) * 8;
    match ty.is_signed() {
        true => value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        false => value.clamp(0, (1 << bits) - 1),
    }
}
