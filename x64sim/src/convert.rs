//! Conversions between floats and integers, and between floats of 16 and 32 bits.

/// Truncated; the least integer for what does not fit.
pub(crate) fn signed_of_float(x: u32) -> u32 {
    let value = f32::from_bits(x).trunc();
    match (-2_147_483_648.0..2_147_483_648.0).contains(&value) {
        true => value as i32 as u32,
        false => i32::MIN as u32,
    }
}

/// Truncated; all bits for what does not fit.
pub(crate) fn unsigned_of_float(x: u32) -> u32 {
    let value = f32::from_bits(x).trunc();
    if (0.0..4_294_967_296.0).contains(&value) { value as u32 } else { u32::MAX }
}

pub(crate) fn float_of_half(half: u32) -> u32 {
    let sign = half << 16 & 0x8000_0000;
    let (exponent, fraction) = (half >> 10 & 31, half & 0x3ff);
    sign | match exponent {
        31 if fraction != 0 => 0x7fc0_0000 | fraction << 13,
        31 => 0x7f80_0000,
        // A multiple of 2^-24, which is exact.
        0 => (fraction as f32 / 16_777_216.0).to_bits(),
        _ => (exponent + 112) << 23 | fraction << 13,
    }
}

/// To the nearest, ties to even.
pub(crate) fn half_of_float(x: u32) -> u32 {
    let (sign, size) = (x >> 16 & 0x8000, x & 0x7fff_ffff);
    if size > 0x7f80_0000 {
        return sign | 0x7e00 | size >> 13 & 0x1ff;
    }
    let value = f32::from_bits(size);
    // Above the middle between the largest half and the next number there would be, all is infinite.
    if value >= 65520.0 {
        return sign | 0x7c00;
    }
    if value < 1.0 / 16384.0 {
        // A number of steps of 2^-24; 1024 of them are the least normal number.
        return sign | (value * 16_777_216.0).round_ties_even() as u32;
    }
    let odd = size >> 13 & 1;
    sign | (((size + 0xfff + odd) >> 13) - (112 << 10))
}
