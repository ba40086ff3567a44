fn rem_floor(a: i32, b: i32) -> i32 { return a - div_floor(a, b) * b; }

fn div_floor(a: i32, b: i32) -> i32 { let q = a / b; return select(q, q - 1, q * b > a); }

fn rem_or_zero(a: i32, b: i32) -> i32 { if (b == 0) { return 0; } return a - div_or_zero(a, b) * b; }

fn div_or_zero(a: i32, b: i32) -> i32 {
  if (b == 0) { return 0; }
  if (b == -1) { return 0 - a; }
  let q = a / b;
  return select(q, q - 1, a % b != 0 && ((a < 0) != (b < 0)));
}

fn div_or_zero_u(a: u32, b: u32) -> u32 { if (b == 0u) { return 0u; } return a / b; }

fn rem_or_zero_u(a: u32, b: u32) -> u32 { if (b == 0u) { return 0u; } return a % b; }

fn dot_of_bytes(x: u32, y: u32, sum: i32) -> i32 {
  return sum + dot4I8Packed(x ^ 0x80808080u, y) + 128 * dot4I8Packed(0x01010101u, y);
}

fn bytes_of_table(x: u32, table: vec4<u32>) -> u32 {
  var bytes = 0u;
  for (var at = 0u; at < 32u; at += 8u) {
    let place = extractBits(x, at, 4u);
    bytes |= ((table[place >> 2u] >> ((place & 3u) * 8u)) & 255u) << at;
  }
  return bytes;
}

fn float_to_i32(x: f32) -> i32 {
  if (x >= 2147483648.0) { return 2147483647; }
  if (x < -2147483648.0) { return -2147483647 - 1; }
  return select(0, i32(x), x == x);
}

fn float_to_u32(x: f32) -> u32 {
  if (x >= 4294967296.0) { return 4294967295u; }
  return select(0u, u32(x), x > 0.0);
}

fn half_value(bits: u32) -> f32 { return unpack2x16float(bits).x; }

fn half_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return sign | 0x7e00u; }
  let size = bits & 0x7fffffffu;
  if (size >= 0x477ff000u) { return sign | 0x7c00u; }
  if (size < 0x38800000u) { return sign | (bitcast<u32>(bitcast<f32>(size) + 0.5) - 0x3f000000u); }
  return sign | ((size - 0x38000000u + 0xfffu + ((size >> 13u) & 1u)) >> 13u);
}

fn brain_value(bits: u32) -> f32 { return bitcast<f32>(bits << 16u); }

fn brain_bits(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

var<private> any_bits: u32 = 0u;

var<workgroup> same: i32;
