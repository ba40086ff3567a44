//! Fields, bytes and tables of bits.

use crate::error::Broken;
use crate::instruction::Register;
use crate::run::warp::Warp;
use crate::types::Type;

/// Four products of bytes, added.
pub(super) fn dot(warp: &mut Warp, active: u32, signed: [bool; 2], at: [Register; 4]) -> Result<(), Broken> {
    let byte = |word: u64, at: u32, signed: bool| match signed {
        true => i32::from((word >> (8 * at)) as i8),
        false => i32::from((word >> (8 * at)) as u8),
    };
    warp.map3(active, at, |a, b, c| {
        let term = |at: u32| byte(a, at, signed[0]).wrapping_mul(byte(b, at, signed[1]));
        u64::from((0..4).fold(c as i32, |sum, at| sum.wrapping_add(term(at))) as u32)
    })
}

/// Any function of three bits: the table has its value for each of the eight inputs.
pub(super) fn logic(warp: &mut Warp, active: u32, table: u8, at: [Register; 4]) -> Result<(), Broken> {
    warp.map3(active, at, |a, b, c| {
        let mut out = 0;
        for row in 0..8u32 {
            if table >> row & 1 == 1 {
                let a = if row & 4 == 0 { !a } else { a };
                let b = if row & 2 == 0 { !b } else { b };
                let c = if row & 1 == 0 { !c } else { c };
                out |= a & b & c;
            }
        }
        out & 0xFFFF_FFFF
    })
}

/// Four of the eight bytes of two words; a selector's high bit asks for its byte's sign alone.
pub(super) fn permute(a: u64, b: u64, selector: u64) -> u64 {
    let bytes = a & 0xFFFF_FFFF | b << 32;
    let mut out = 0;
    for at in 0..4 {
        let which = selector >> (4 * at) & 15;
        let byte = bytes >> (8 * (which & 7)) & 0xFF;
        let byte = if which < 8 { byte } else { 0xFF * (byte >> 7) };
        out |= byte << (8 * at);
    }
    out
}

/// `len` bits from `start` on; signed ones repeat their highest bit.
pub(super) fn extract(ty: Type, a: u64, start: u64, len: u64) -> u64 {
    let bits = u32::from(ty.bytes()) * 8;
    let (start, len) = ((start & 0xFF) as u32, (len & 0xFF) as u32);
    let whole = ty.extend(a);
    // What lies beyond the operand is its sign, or 0.
    let beyond = if ty.is_signed() && whole < 0 { u64::MAX } else { 0 };
    let bit = |at: u32| if at < bits { a >> at & 1 } else { beyond & 1 };
    let mut out = 0u64;
    for at in 0..len.min(bits) {
        out |= bit(start + at) << at;
    }
    let sign = len > 0 && len < bits && ty.is_signed() && bit((start + len - 1).min(bits - 1)) == 1;
    ty.truncate(if sign { out | u64::MAX << len } else { out })
}

/// The low `len` bits of `a` in the place of those of `b` from `start` on.
pub(super) fn insert(ty: Type, a: u64, b: u64, start: u64, len: u64) -> u64 {
    let bits = u32::from(ty.bytes()) * 8;
    let (start, len) = ((start & 0xFF) as u32, (len & 0xFF) as u32);
    if len == 0 || start >= bits {
        return b;
    }
    let mask = (u64::MAX >> (64 - len.min(bits))) << start;
    ty.truncate(b & !mask | a << start & mask)
}

/// 32 bits of two words, the first the lower one.
pub(super) fn funnel(left: bool, wrap: bool, a: u64, b: u64, by: u64) -> u64 {
    let by = if wrap { by & 31 } else { by.min(32) };
    let both = a & 0xFFFF_FFFF | b << 32;
    match left {
        true => ((u128::from(both) << by) >> 32) as u64 & 0xFFFF_FFFF,
        false => both >> by & 0xFFFF_FFFF,
    }
}
