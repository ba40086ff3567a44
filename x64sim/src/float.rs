//! Arithmetic on floats as their bits: what is no number comes out as hardware has it.

const QUIET: u32 = 0x0040_0000;
/// What operations without a result give.
const NONE: u32 = 0xffc0_0000;

fn is_nan(bits: u32) -> bool {
    bits & 0x7fff_ffff > 0x7f80_0000
}

/// A result, or the first operand that is no number.
fn result(operands: &[u32], value: f32) -> u32 {
    if !value.is_nan() {
        return value.to_bits();
    }
    operands.iter().find(|bits| is_nan(**bits)).map_or(NONE, |bits| bits | QUIET)
}

fn binary(x: u32, y: u32, value: impl Fn(f32, f32) -> f32) -> u32 {
    result(&[x, y], value(f32::from_bits(x), f32::from_bits(y)))
}

pub(crate) fn add(x: u32, y: u32) -> u32 {
    binary(x, y, |x, y| x + y)
}

pub(crate) fn subtract(x: u32, y: u32) -> u32 {
    binary(x, y, |x, y| x - y)
}

pub(crate) fn multiply(x: u32, y: u32) -> u32 {
    binary(x, y, |x, y| x * y)
}

pub(crate) fn divide(x: u32, y: u32) -> u32 {
    binary(x, y, |x, y| x / y)
}

pub(crate) fn root(x: u32) -> u32 {
    result(&[x], f32::from_bits(x).sqrt())
}

/// The second where one is no number, or both are 0.
pub(crate) fn least(x: u32, y: u32) -> u32 {
    if f32::from_bits(x) < f32::from_bits(y) { x } else { y }
}

/// The second where one is no number, or both are 0.
pub(crate) fn largest(x: u32, y: u32) -> u32 {
    if f32::from_bits(x) > f32::from_bits(y) { x } else { y }
}

/// `x * y + z`, rounded once.
pub(crate) fn fused(x: u32, y: u32, z: u32) -> u32 {
    result(&[x, y, z], f32::from_bits(x).mul_add(f32::from_bits(y), f32::from_bits(z)))
}

/// The same with operands and results below the least normal number taken for 0. Whether a result is below it is asked of
/// the sum as it would be rounded if its steps went on as fine as above it.
pub(crate) fn fused_flushed(x: u32, y: u32, z: u32) -> u32 {
    let normal = |bits: u32| if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits };
    let (x, y, z) = (normal(x), normal(y), normal(z));
    let rounded = fused(x, y, z);
    if f32::from_bits(rounded).abs() > f32::MIN_POSITIVE || is_nan(rounded) {
        return rounded;
    }
    let [x, y, z] = [x, y, z].map(|bits| f64::from(f32::from_bits(bits)));
    // The product is exact; the sum's error is what Knuth's sum of two tells, exactly.
    let product = x * y;
    let sum = product + z;
    let part = sum - product;
    let error = (product - (sum - part)) + (z - part);
    // Half a step below the least normal number: what is there or above is rounded up to it.
    let least = f64::from(f32::MIN_POSITIVE) * (1.0 - f64::from(f32::EPSILON) / 4.0);
    let (size, error) = if sum < 0.0 { (-sum, -error) } else { (sum, error) };
    if size < least || size == least && error < 0.0 { rounded & 0x8000_0000 } else { rounded }
}

/// Two products of `bf16` added to a sum, those of the upper halves first.
pub(crate) fn pairs(sum: u32, x: u32, y: u32) -> u32 {
    let upper = fused_flushed(x & 0xffff_0000, y & 0xffff_0000, sum);
    fused_flushed(x << 16, y << 16, upper)
}

/// To an integer: to the nearest (even), down, up or to 0, by the lowest two bits.
pub(crate) fn round(x: u32, way: u8) -> u32 {
    let value = f32::from_bits(x);
    let rounded = match way & 3 {
        0 => value.round_ties_even(),
        1 => value.floor(),
        2 => value.ceil(),
        _ => value.trunc(),
    };
    result(&[x], rounded)
}

/// Whether two floats compare so: equal, less, not greater, unordered, and what is not so.
pub(crate) fn compares(x: u32, y: u32, way: u8) -> bool {
    let (x, y) = (f32::from_bits(x), f32::from_bits(y));
    let holds = match way & 3 {
        0 => x == y,
        1 => x < y,
        2 => x <= y,
        _ => x.is_nan() || y.is_nan(),
    };
    holds != (way & 4 != 0)
}
