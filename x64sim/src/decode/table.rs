//! What vector instructions compute: one row each, for both levels.

use std::collections::HashMap;
use std::sync::LazyLock;

use iced_x86::Code::{self, *};

use super::across;
use crate::convert;
use crate::float;
use crate::operation::{Control, Function, Lanes};

/// Which operands an instruction has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Result, operand.
    Unary,
    /// Result, two operands.
    Binary,
    /// Result, which is the first operand, and two more.
    Update,
    /// Result, operand, operand, and the register that chooses, which is the function's first operand.
    Choice,
}

/// What is computed, and for how many lanes of 32 bits.
#[derive(Clone, Copy)]
pub(super) struct Row {
    pub(super) function: Function,
    pub(super) shape: Shape,
    pub(super) lanes: u8,
    pub(super) control: Control,
    /// Bytes of an element of the last operand.
    pub(super) element: u8,
    /// Bytes of an element of the result.
    pub(super) narrow: u8,
    /// Bits of the immediate that may be set.
    pub(super) immediates: u8,
    /// Whether memory has one element, for all lanes.
    pub(super) spreads: bool,
}

/// The row of an instruction.
pub(super) fn row(code: Code) -> Option<&'static Row> {
    static ROWS: LazyLock<HashMap<Code, Row>> = LazyLock::new(|| {
        let both = BOTH.iter().flat_map(|(narrow, wide, row)| [(*narrow, row.on(8)), (*wide, *row)]);
        both.chain(ALONE.iter().copied()).collect()
    });
    ROWS.get(&code)
}

/// A function of lanes by what happens to each of them, with an immediate if it has a name.
macro_rules! each {
    (|$($x:ident),+| $value:expr) => { each!(|$($x),+; _immediate| $value) };
    (|$($x:ident),+; $immediate:ident| $value:expr) => {
        |inputs: &[Lanes; 3], $immediate: u8| -> Lanes {
            std::array::from_fn(|lane| {
                let [$($x),+, ..] = [inputs[0][lane], inputs[1][lane], inputs[2][lane]];
                $value
            })
        }
    };
}

const fn unary(function: Function) -> Row {
    Row {
        function,
        shape: Shape::Unary,
        lanes: 16,
        control: Control::Ignored,
        element: 4,
        narrow: 4,
        immediates: 0,
        spreads: false,
    }
}

const fn binary(function: Function) -> Row {
    Row { shape: Shape::Binary, ..unary(function) }
}

const fn update(function: Function) -> Row {
    Row { shape: Shape::Update, ..unary(function) }
}

/// A fused product, and the same without numbers below the least normal one.
const fn fused(function: Function, flushing: Function) -> Row {
    Row { control: Control::Flushing(flushing), ..update(function) }
}

/// What moves its operand.
const fn moved() -> Row {
    unary(|inputs, _| inputs[0])
}

impl Row {
    /// Arithmetic of floats.
    const fn usual(self) -> Row {
        Row { control: Control::Usual, ..self }
    }

    const fn by(self, immediates: u8) -> Row {
        Row { immediates, ..self }
    }

    /// With elements of so many bytes as its last operand.
    const fn of(self, element: u8) -> Row {
        Row { element, ..self }
    }

    /// With elements of so many bytes as its result.
    const fn to(self, narrow: u8) -> Row {
        Row { narrow, ..self }
    }

    const fn spread(self) -> Row {
        Row { spreads: true, ..self }
    }

    const fn on(self, lanes: u8) -> Row {
        Row { lanes, ..self }
    }
}

/// All bits of what holds.
fn all(holds: bool) -> u32 {
    0u32.wrapping_sub(u32::from(holds))
}

/// Both words of a lane changed.
fn words(x: u32, change: impl Fn(u16) -> u16) -> u32 {
    u32::from(change(x as u16)) | u32::from(change((x >> 16) as u16)) << 16
}

fn products_of_words(x: u32, y: u32) -> u32 {
    let product = |x: u32, y: u32| i32::from(x as i16).wrapping_mul(i32::from(y as i16));
    product(x, y).wrapping_add(product(x >> 16, y >> 16)) as u32
}

/// The bytes of the first are unsigned, those of the second signed.
fn products_of_bytes(sum: u32, x: u32, y: u32) -> u32 {
    let products = x.to_le_bytes().into_iter().zip(y.to_le_bytes());
    products.fold(sum, |sum, (x, y)| sum.wrapping_add_signed(i32::from(x) * i32::from(y as i8)))
}

/// The same as signed words of two products each, cut off at the ends of what fits.
fn words_of_products(x: u32, y: u32) -> u32 {
    let product = |at: usize| i32::from(x.to_le_bytes()[at]) * i32::from(y.to_le_bytes()[at] as i8);
    let word = |at: usize| (product(at) + product(at + 1)).clamp(-0x8000, 0x7fff) as u16;
    u32::from(word(0)) | u32::from(word(2)) << 16
}

/// Four bytes as signed ones.
fn signed_bytes(word: u32) -> [i8; 4] {
    word.to_le_bytes().map(|byte| byte as i8)
}

/// The bytes of one word with the signs of the other's.
fn with_signs(x: u32, y: u32) -> u32 {
    let (x, y) = (signed_bytes(x), signed_bytes(y));
    u32::from_le_bytes(std::array::from_fn(|at| x[at].wrapping_mul(y[at].signum()) as u8))
}

fn sums_of_words(x: u32, y: u32) -> u32 {
    let sum = |x: u32, y: u32| u32::from((x as u16).wrapping_add(y as u16));
    sum(x, y) | sum(x >> 16, y >> 16) << 16
}

/// By comparisons of integers: 0 is equal, 1 is less.
fn compares(x: i64, y: i64, way: u8) -> u32 {
    all(if way == 0 { x == y } else { x < y })
}

/// Instructions of eight lanes and of sixteen.
static BOTH: &[(Code, Code, Row)] = &[
    (
        VEX_Vaddps_ymm_ymm_ymmm256,
        EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er,
        binary(each!(|x, y| float::add(x, y))).usual(),
    ),
    (
        VEX_Vsubps_ymm_ymm_ymmm256,
        EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er,
        binary(each!(|x, y| float::subtract(x, y))).usual(),
    ),
    (
        VEX_Vmulps_ymm_ymm_ymmm256,
        EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er,
        binary(each!(|x, y| float::multiply(x, y))).usual(),
    ),
    (
        VEX_Vdivps_ymm_ymm_ymmm256,
        EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er,
        binary(each!(|x, y| float::divide(x, y))).usual(),
    ),
    (
        VEX_Vminps_ymm_ymm_ymmm256,
        EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae,
        binary(each!(|x, y| float::least(x, y))).usual(),
    ),
    (
        VEX_Vmaxps_ymm_ymm_ymmm256,
        EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae,
        binary(each!(|x, y| float::largest(x, y))).usual(),
    ),
    (VEX_Vsqrtps_ymm_ymmm256, EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er, unary(each!(|x| float::root(x))).usual()),
    (
        VEX_Vfmadd132ps_ymm_ymm_ymmm256,
        EVEX_Vfmadd132ps_zmm_k1z_zmm_zmmm512b32_er,
        fused(each!(|x, y, z| float::fused(x, z, y)), each!(|x, y, z| float::fused_flushed(x, z, y))),
    ),
    (
        VEX_Vfmadd213ps_ymm_ymm_ymmm256,
        EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er,
        fused(each!(|x, y, z| float::fused(y, x, z)), each!(|x, y, z| float::fused_flushed(y, x, z))),
    ),
    (
        VEX_Vfmadd231ps_ymm_ymm_ymmm256,
        EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er,
        fused(each!(|x, y, z| float::fused(y, z, x)), each!(|x, y, z| float::fused_flushed(y, z, x))),
    ),
    // The fourth bit says to report nothing; those above it would scale.
    (
        VEX_Vroundps_ymm_ymmm256_imm8,
        EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae,
        unary(each!(|x; way| float::round(x, way))).usual().by(0b1011),
    ),
    (
        VEX_Vcmpps_ymm_ymm_ymmm256_imm8,
        EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae,
        binary(each!(|x, y; way| all(float::compares(x, y, way)))).usual().by(0b111),
    ),
    (
        VEX_Vcvtdq2ps_ymm_ymmm256,
        EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er,
        unary(each!(|x| (x as i32 as f32).to_bits())).usual(),
    ),
    (
        VEX_Vcvttps2dq_ymm_ymmm256,
        EVEX_Vcvttps2dq_zmm_k1z_zmmm512b32_sae,
        unary(each!(|x| convert::signed_of_float(x))).usual(),
    ),
    (
        VEX_Vcvtph2ps_ymm_xmmm128,
        EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae,
        unary(each!(|x| convert::float_of_half(x))).of(2),
    ),
    (
        VEX_Vcvtps2ph_xmmm128_ymm_imm8,
        EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae,
        unary(each!(|x| convert::half_of_float(x))).usual().to(2),
    ),
    (VEX_Vpand_ymm_ymm_ymmm256, EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32, binary(each!(|x, y| x & y))),
    (VEX_Vpor_ymm_ymm_ymmm256, EVEX_Vpord_zmm_k1z_zmm_zmmm512b32, binary(each!(|x, y| x | y))),
    (VEX_Vpxor_ymm_ymm_ymmm256, EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, binary(each!(|x, y| x ^ y))),
    (VEX_Vpandn_ymm_ymm_ymmm256, EVEX_Vpandnd_zmm_k1z_zmm_zmmm512b32, binary(each!(|x, y| !x & y))),
    (VEX_Vpaddd_ymm_ymm_ymmm256, EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32, binary(each!(|x, y| x.wrapping_add(y)))),
    (VEX_Vpsubd_ymm_ymm_ymmm256, EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32, binary(each!(|x, y| x.wrapping_sub(y)))),
    (
        VEX_Vpmulld_ymm_ymm_ymmm256,
        EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32,
        binary(each!(|x, y| x.wrapping_mul(y))),
    ),
    (
        VEX_Vpminsd_ymm_ymm_ymmm256,
        EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32,
        binary(each!(|x, y| (x as i32).min(y as i32) as u32)),
    ),
    (
        VEX_Vpmaxsd_ymm_ymm_ymmm256,
        EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32,
        binary(each!(|x, y| (x as i32).max(y as i32) as u32)),
    ),
    (VEX_Vpminud_ymm_ymm_ymmm256, EVEX_Vpminud_zmm_k1z_zmm_zmmm512b32, binary(each!(|x, y| x.min(y)))),
    (VEX_Vpmaxud_ymm_ymm_ymmm256, EVEX_Vpmaxud_zmm_k1z_zmm_zmmm512b32, binary(each!(|x, y| x.max(y)))),
    (
        VEX_Vpsllvd_ymm_ymm_ymmm256,
        EVEX_Vpsllvd_zmm_k1z_zmm_zmmm512b32,
        binary(each!(|x, y| x.checked_shl(y).unwrap_or(0))),
    ),
    (
        VEX_Vpsrlvd_ymm_ymm_ymmm256,
        EVEX_Vpsrlvd_zmm_k1z_zmm_zmmm512b32,
        binary(each!(|x, y| x.checked_shr(y).unwrap_or(0))),
    ),
    (
        VEX_Vpsravd_ymm_ymm_ymmm256,
        EVEX_Vpsravd_zmm_k1z_zmm_zmmm512b32,
        binary(each!(|x, y| (x as i32 >> y.min(31)) as u32)),
    ),
    (VEX_Vpcmpeqd_ymm_ymm_ymmm256, EVEX_Vpcmpeqd_kr_k1_zmm_zmmm512b32, binary(each!(|x, y| all(x == y)))),
    (VEX_Vpabsd_ymm_ymmm256, EVEX_Vpabsd_zmm_k1z_zmmm512b32, unary(each!(|x| (x as i32).unsigned_abs()))),
    (
        VEX_Vpslld_ymm_ymm_imm8,
        EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8,
        unary(each!(|x; by| x.checked_shl(by.into()).unwrap_or(0))).by(0xff),
    ),
    (
        VEX_Vpsrld_ymm_ymm_imm8,
        EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8,
        unary(each!(|x; by| x.checked_shr(by.into()).unwrap_or(0))).by(0xff),
    ),
    (
        VEX_Vpsrad_ymm_ymm_imm8,
        EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8,
        unary(each!(|x; by| (x as i32 >> by.min(31)) as u32)).by(0xff),
    ),
    (
        VEX_Vpsllw_ymm_ymm_imm8,
        EVEX_Vpsllw_zmm_k1z_zmmm512_imm8,
        unary(each!(|x; by| words(x, |word| word.checked_shl(by.into()).unwrap_or(0)))).by(0xff),
    ),
    (
        VEX_Vpsrlw_ymm_ymm_imm8,
        EVEX_Vpsrlw_zmm_k1z_zmmm512_imm8,
        unary(each!(|x; by| words(x, |word| word.checked_shr(by.into()).unwrap_or(0)))).by(0xff),
    ),
    (
        VEX_Vpsraw_ymm_ymm_imm8,
        EVEX_Vpsraw_zmm_k1z_zmmm512_imm8,
        unary(each!(|x; by| words(x, |word| (word as i16 >> by.min(15)) as u16))).by(0xff),
    ),
    (
        VEX_Vpmaddwd_ymm_ymm_ymmm256,
        EVEX_Vpmaddwd_zmm_k1z_zmm_zmmm512,
        binary(each!(|x, y| products_of_words(x, y))),
    ),
    (
        VEX_Vpmaddubsw_ymm_ymm_ymmm256,
        EVEX_Vpmaddubsw_zmm_k1z_zmm_zmmm512,
        binary(each!(|x, y| words_of_products(x, y))),
    ),
    (VEX_Vpaddw_ymm_ymm_ymmm256, EVEX_Vpaddw_zmm_k1z_zmm_zmmm512, binary(each!(|x, y| sums_of_words(x, y)))),
    (
        VEX_Vpdpbusd_ymm_ymm_ymmm256,
        EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32,
        update(each!(|sum, x, y| products_of_bytes(sum, x, y))),
    ),
    (VEX_Vpshufb_ymm_ymm_ymmm256, EVEX_Vpshufb_zmm_k1z_zmm_zmmm512, binary(across::bytes_of_fours)),
    (
        VEX_Vshufps_ymm_ymm_ymmm256_imm8,
        EVEX_Vshufps_zmm_k1z_zmm_zmmm512b32_imm8,
        binary(across::two_of_both).by(0xff),
    ),
    (VEX_Vpmovzxwd_ymm_xmmm128, EVEX_Vpmovzxwd_zmm_k1z_ymmm256, moved().of(2)),
    (VEX_Vpmovzxbd_ymm_xmmm64, EVEX_Vpmovzxbd_zmm_k1z_xmmm128, moved().of(1)),
    (VEX_Vpmovsxbd_ymm_xmmm64, EVEX_Vpmovsxbd_zmm_k1z_xmmm128, unary(each!(|x| x as i8 as u32)).of(1)),
    (VEX_Vpbroadcastw_ymm_xmmm16, EVEX_Vpbroadcastw_zmm_k1z_xmmm16, unary(across::first_word).of(2).spread()),
    (VEX_Vmovups_ymm_ymmm256, EVEX_Vmovups_zmm_k1z_zmmm512, moved()),
    (VEX_Vmovups_ymmm256_ymm, EVEX_Vmovups_zmmm512_k1z_zmm, moved()),
    (VEX_Vmovaps_ymm_ymmm256, EVEX_Vmovaps_zmm_k1z_zmmm512, moved()),
];

/// Instructions without a counterpart.
static ALONE: &[(Code, Row)] = &[
    (VEX_Vpcmpgtd_ymm_ymm_ymmm256, binary(each!(|x, y| all(x as i32 > y as i32))).on(8)),
    (
        VEX_Vblendvps_ymm_ymm_ymmm256_ymm,
        Row { shape: Shape::Choice, ..unary(each!(|way, x, y| if way >> 31 == 1 { y } else { x })) }.on(8),
    ),
    (VEX_Vpermps_ymm_ymm_ymmm256, binary(across::anywhere).on(8)),
    (VEX_Vperm2f128_ymm_ymm_ymmm256_imm8, binary(across::halves).by(0x33).on(8)),
    (VEX_Vextracti128_xmmm128_ymm_imm8, unary(across::upper_or_lower).by(1).on(4)),
    (
        VEX_Vpabsb_ymm_ymmm256,
        unary(each!(|x| u32::from_le_bytes(signed_bytes(x).map(i8::unsigned_abs)))).on(8),
    ),
    (VEX_Vpsignb_ymm_ymm_ymmm256, binary(each!(|x, y| with_signs(x, y))).on(8)),
    (VEX_Vpackusdw_xmm_xmm_xmmm128, binary(across::words_of_both).on(4)),
    (VEX_Vpackuswb_xmm_xmm_xmmm128, binary(across::bytes_of_both).on(4)),
    (VEX_Vbroadcasti128_ymm_m128, unary(across::same_sixteen_bytes).of(2).on(8)),
    (VEX_Vbroadcastss_ymm_xmm, unary(across::first).spread().on(8)),
    (VEX_Vbroadcastss_ymm_m32, unary(across::first).spread().on(8)),
    (EVEX_Vbroadcastss_zmm_k1z_xmmm32, unary(across::first).spread()),
    (VEX_Vpbroadcastw_xmm_xmmm16, unary(across::first_word).of(2).spread().on(4)),
    (EVEX_Vpbroadcastw_ymm_k1z_xmmm16, unary(across::first_word).of(2).spread().on(8)),
    (EVEX_Vpbroadcastd_zmm_k1z_r32, moved()),
    (VEX_Vmovups_xmmm128_xmm, moved().on(4)),
    (EVEX_Vmovups_ymm_k1z_ymmm256, moved().on(8)),
    (VEX_Vmovd_xmm_rm32, moved().on(1)),
    (VEX_Vmovd_rm32_xmm, moved().on(1)),
    (EVEX_Vmovd_rm32_xmm, moved().on(1)),
    (VEX_Vmovss_m32_xmm, moved().on(1)),
    (EVEX_Vmovss_m32_k1_xmm, moved().on(1)),
    (VEX_Vmovq_xmmm64_xmm, moved().on(2)),
    (
        EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8,
        binary(each!(|x, y; way| compares(i64::from(x as i32), i64::from(y as i32), way))).by(1),
    ),
    (
        EVEX_Vpcmpud_kr_k1_zmm_zmmm512b32_imm8,
        binary(each!(|x, y; way| compares(i64::from(x), i64::from(y), way))).by(1),
    ),
    (EVEX_Vcvtudq2ps_zmm_k1z_zmmm512b32_er, unary(each!(|x| (x as f32).to_bits())).usual()),
    (EVEX_Vcvttps2udq_zmm_k1z_zmmm512b32_sae, unary(each!(|x| convert::unsigned_of_float(x))).usual()),
    (EVEX_Vdpbf16ps_zmm_k1z_zmm_zmmm512b32, update(each!(|sum, x, y| float::pairs(sum, x, y)))),
    (EVEX_Vpermb_zmm_k1z_zmm_zmmm512, binary(across::bytes_anywhere)),
    (EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8, binary(across::fours).by(0xff)),
    (EVEX_Vpmovdw_ymmm256_k1z_zmm, moved().to(2)),
    (EVEX_Vpmovdb_xmmm128_k1z_zmm, moved().to(1)),
];
