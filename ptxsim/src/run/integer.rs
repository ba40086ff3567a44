//! Arithmetic on integers and bits.

use crate::error::Broken;
use crate::instruction::{Binary, Part, Register, Unary};
use crate::run::warp::Warp;
use crate::types::Type;

type Done = Result<(), Broken>;

pub(super) fn unary(warp: &mut Warp, active: u32, op: Unary, ty: Type, at: [Register; 2]) -> Done {
    let bits = u32::from(ty.bytes()) * 8;
    match op {
        Unary::Negate => warp.map1(active, at, |x| ty.truncate(x.wrapping_neg())),
        Unary::Absolute => warp.map1(active, at, |x| ty.truncate(ty.extend(x).wrapping_abs() as u64)),
        Unary::Not if ty == Type::Pred => warp.map1(active, at, |x| x & 1 ^ 1),
        Unary::Not => warp.map1(active, at, |x| ty.truncate(!x)),
        Unary::CountOnes => warp.map1(active, at, |x| u64::from(ty.truncate(x).count_ones())),
        Unary::LeadingZeros => {
            warp.map1(active, at, |x| u64::from(ty.truncate(x).leading_zeros() - (64 - bits)))
        }
        Unary::Reverse => warp.map1(active, at, |x| x.reverse_bits() >> (64 - bits)),
        _ => unreachable!("{op:?} of integers is refused when the text is read"),
    }
}

/// A quotient or remainder; dividing by zero gives all ones, or the dividend, as hardware does.
fn divide(ty: Type, remainder: bool, a: u64, b: u64) -> u64 {
    if ty.truncate(b) == 0 {
        return if remainder { ty.truncate(a) } else { ty.truncate(u64::MAX) };
    }
    let found = match (ty.is_signed(), remainder) {
        (true, false) => ty.extend(a).wrapping_div(ty.extend(b)) as u64,
        (true, true) => ty.extend(a).wrapping_rem(ty.extend(b)) as u64,
        (false, false) => ty.truncate(a) / ty.truncate(b),
        (false, true) => ty.truncate(a) % ty.truncate(b),
    };
    ty.truncate(found)
}

/// The whole product, in 128 bits.
fn product(ty: Type, a: u64, b: u64) -> i128 {
    match ty.is_signed() {
        true => i128::from(ty.extend(a)) * i128::from(ty.extend(b)),
        false => (u128::from(ty.truncate(a)) * u128::from(ty.truncate(b))) as i128,
    }
}

fn high(ty: Type, a: u64, b: u64) -> u64 {
    ty.truncate((product(ty, a, b) >> (u32::from(ty.bytes()) * 8)) as u64)
}

/// The type of a product of two values.
fn doubled(ty: Type) -> Type {
    Type::Bits(ty.bytes() * 2)
}

fn wide(ty: Type, a: u64, b: u64) -> u64 {
    doubled(ty).truncate(product(ty, a, b) as u64)
}

fn shift_right(ty: Type, a: u64, by: u64) -> u64 {
    let bits = u64::from(ty.bytes()) * 8;
    match ty.is_signed() {
        true => ty.truncate((ty.extend(a) >> by.min(bits - 1).min(63)) as u64),
        false if by >= bits => 0,
        false => ty.truncate(a) >> by,
    }
}

pub(super) fn binary(warp: &mut Warp, active: u32, op: Binary, ty: Type, at: [Register; 3]) -> Done {
    let bits = u64::from(ty.bytes()) * 8;
    match op {
        Binary::Add if ty.bytes() == 4 => {
            warp.map2(active, at, |a, b| u64::from((a as u32).wrapping_add(b as u32)))
        }
        Binary::Add => warp.map2(active, at, |a, b| ty.truncate(a.wrapping_add(b))),
        Binary::Subtract => warp.map2(active, at, |a, b| ty.truncate(a.wrapping_sub(b))),
        Binary::Multiply if ty.bytes() == 4 => {
            warp.map2(active, at, |a, b| u64::from((a as u32).wrapping_mul(b as u32)))
        }
        Binary::Multiply => warp.map2(active, at, |a, b| ty.truncate(a.wrapping_mul(b))),
        Binary::MultiplyHigh => warp.map2(active, at, |a, b| high(ty, a, b)),
        Binary::MultiplyWide => warp.map2(active, at, |a, b| wide(ty, a, b)),
        Binary::Divide => warp.map2(active, at, |a, b| divide(ty, false, a, b)),
        Binary::Remainder => warp.map2(active, at, |a, b| divide(ty, true, a, b)),
        Binary::Minimum => match ty.is_signed() {
            true => warp.map2(active, at, |a, b| ty.truncate(ty.extend(a).min(ty.extend(b)) as u64)),
            false => warp.map2(active, at, |a, b| a.min(b)),
        },
        Binary::Maximum => match ty.is_signed() {
            true => warp.map2(active, at, |a, b| ty.truncate(ty.extend(a).max(ty.extend(b)) as u64)),
            false => warp.map2(active, at, |a, b| a.max(b)),
        },
        Binary::And => warp.map2(active, at, |a, b| a & b),
        Binary::Or => warp.map2(active, at, |a, b| a | b),
        Binary::Xor => warp.map2(active, at, |a, b| a ^ b),
        Binary::ShiftLeft => warp.map2(active, at, |a, by| if by >= bits { 0 } else { ty.truncate(a << by) }),
        Binary::ShiftRight => warp.map2(active, at, |a, by| shift_right(ty, a, by)),
        Binary::MinimumNan | Binary::MaximumNan | Binary::CopySign => {
            unreachable!("{op:?} of integers is refused when the text is read")
        }
    }
}

/// A part of a product plus a third operand.
pub(super) fn multiply_add(warp: &mut Warp, active: u32, part: Part, ty: Type, at: [Register; 4]) -> Done {
    match part {
        Part::Low if ty.bytes() == 4 => warp
            .map3(active, at, |a, b, c| u64::from((a as u32).wrapping_mul(b as u32).wrapping_add(c as u32))),
        Part::Low => warp.map3(active, at, |a, b, c| ty.truncate(a.wrapping_mul(b).wrapping_add(c))),
        Part::High => warp.map3(active, at, |a, b, c| ty.truncate(high(ty, a, b).wrapping_add(c))),
        Part::Wide => warp.map3(active, at, |a, b, c| doubled(ty).truncate(wide(ty, a, b).wrapping_add(c))),
    }
}

/// One operation on one pair of values, for reductions and atomic operations.
pub(super) fn join(op: Binary, ty: Type, a: u64, b: u64) -> u64 {
    let signed = ty.is_signed();
    let found = match op {
        Binary::Add => a.wrapping_add(b),
        Binary::Minimum if signed => ty.extend(a).min(ty.extend(b)) as u64,
        Binary::Minimum => a.min(b),
        Binary::Maximum if signed => ty.extend(a).max(ty.extend(b)) as u64,
        Binary::Maximum => a.max(b),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        _ => unreachable!("{op:?} joins nothing"),
    };
    ty.truncate(found)
}
