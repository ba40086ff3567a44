//! The instructions of both levels: one row each operation. Whoever adds an operation adds a row here.

use iced_x86::Code::{self, *};

use super::machine::{Fold, View};

/// A level of the instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Vectors of eight, 16 registers, masks as vectors; with FMA and F16C.
    Avx2,
    /// Vectors of sixteen, 32 registers, registers for masks (F, BW, DQ and VL).
    Avx512,
}

impl Level {
    /// Every level, the widest first, with its name in options.
    pub const ALL: [(Level, &'static str); 2] = [(Level::Avx512, "avx512"), (Level::Avx2, "avx2")];

    /// The name in options.
    pub fn name(self) -> &'static str {
        if self == Level::Avx512 { "avx512" } else { "avx2" }
    }

    /// What a processor needs for it.
    pub fn needs(self) -> &'static str {
        match self {
            Level::Avx512 => "AVX-512 F, BW, DQ and VL",
            Level::Avx2 => "AVX2, FMA and F16C",
        }
    }

    /// Elements of a vector.
    pub fn lanes(self) -> usize {
        if self == Level::Avx512 { 16 } else { 8 }
    }

    /// Whether this processor, and the system on it, has the level.
    pub fn is_here(self) -> bool {
        #[cfg(all(target_arch = "x86_64", unix))]
        {
            let avx2 = std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c");
            let avx512 = std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl");
            avx2 && (self == Level::Avx2 || avx512)
        }
        // Windows passes arguments in other registers.
        #[cfg(not(all(target_arch = "x86_64", unix)))]
        false
    }

    /// Whether processors may have an instruction for [`ScalarOp::Dot2`](jtllm_ir::ScalarOp::Dot2) at the level.
    pub(super) fn has_dot2(self) -> bool {
        self == Level::Avx512
    }

    /// Whether this one has.
    pub(super) fn has_dot2_here(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self.has_dot2() && std::is_x86_feature_detected!("avx512bf16")
        }
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// A whole vector.
    pub(super) fn view(self) -> View {
        if self == Level::Avx512 { View::Z } else { View::Y }
    }

    /// A vector of elements half as wide.
    pub(super) fn half(self) -> View {
        if self == Level::Avx512 { View::Y } else { View::X }
    }
}

/// What processors have, or do without, beside a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beside {
    /// An instruction for [`ScalarOp::Dot4`](jtllm_ir::ScalarOp::Dot4).
    pub(super) dot: bool,
    /// An instruction that puts bytes of a whole vector anywhere (VBMI; with AVX-512 alone).
    pub(super) bytes_anywhere: bool,
    /// Whether the instruction for `Dot2` takes the time of four fused products, not of one: so it is on Sapphire Rapids
    /// (0.74 ns against 0.17), and on what Intel built before.
    pub(super) slow_dot2: bool,
}

impl Beside {
    /// What the best processors have beside a level.
    pub(super) fn all(level: Level) -> Beside {
        Beside { dot: true, bytes_anywhere: level == Level::Avx512, slow_dot2: false }
    }

    /// What this processor has beside a level.
    pub(super) fn here(level: Level) -> Beside {
        #[cfg(target_arch = "x86_64")]
        {
            let vendor = std::arch::x86_64::__cpuid(0);
            let vendor = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat();
            Beside {
                dot: match level {
                    Level::Avx2 => std::is_x86_feature_detected!("avxvnni"),
                    Level::Avx512 => std::is_x86_feature_detected!("avx512vnni"),
                },
                bytes_anywhere: level == Level::Avx512 && std::is_x86_feature_detected!("avx512vbmi"),
                slow_dot2: vendor == *b"GenuineIntel",
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _nothing_beside = level;
            Beside { dot: false, bytes_anywhere: false, slow_dot2: false }
        }
    }
}

/// An operation on vectors: on elements of 32 bits where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Sqrt,
    Fma132,
    Fma213,
    Fma231,
    /// Four products of bytes, those of the second signed, added to the first.
    Dot4,
    /// Two products of `bf16`, those of the upper halves first, added to the first.
    Dot2,
    /// Two products of signed words, added.
    MulWords,
    /// Two products of bytes, those of the second signed, added to a signed word.
    MulBytes,
    /// The magnitudes of signed bytes.
    AbsBytes,
    /// The bytes of the first with the signs of the second: as they are, their opposites, or 0.
    SignBytes,
    AddWords,
    ShlWord,
    ShrWord,
    SarWord,
    /// To an integer, by the way that the immediate names.
    Round,
    And,
    Or,
    Xor,
    /// The second and not the first.
    AndNot,
    AddInt,
    SubInt,
    MulInt,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    AbsInt,
    /// Shifts by the count of each element.
    ShlEach,
    ShrEach,
    SarEach,
    /// Shifts by an immediate.
    Shl,
    Shr,
    Sar,
    /// Bytes of each 16, by the indices of the second.
    Bytes,
    /// Two elements of each four of the first, then two of the second, by the immediate.
    OfBoth,
    /// Fours of elements, by the immediate: the lower ones of the first, the upper ones of the second.
    Fours,
    FloatOfSigned,
    FloatOfUnsigned,
    /// Truncated; what does not fit becomes the least integer.
    SignedOfFloat,
    /// Truncated; what does not fit becomes the largest integer.
    UnsignedOfFloat,
    FloatOfHalf,
    WidenUnsignedWord,
    WidenUnsignedByte,
    WidenSignedByte,
    /// One element of memory, or the lowest of a register, in all lanes.
    Broadcast,
    BroadcastMemory,
    BroadcastWord,
    BroadcastGeneral,
    Load,
    Store,
    /// The upper and the lower half, in the order of the immediate.
    Halves,
}

/// An operation's instructions: for eight lanes, for sixteen.
struct Row(Op, Code, Code, Fold);

use Fold::{Element, No, Whole};

const TABLE: &[Row] = &[
    Row(Op::Add, VEX_Vaddps_ymm_ymm_ymmm256, EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er, Element),
    Row(Op::Sub, VEX_Vsubps_ymm_ymm_ymmm256, EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er, Element),
    Row(Op::Mul, VEX_Vmulps_ymm_ymm_ymmm256, EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er, Element),
    Row(Op::Div, VEX_Vdivps_ymm_ymm_ymmm256, EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er, Element),
    Row(Op::Min, VEX_Vminps_ymm_ymm_ymmm256, EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae, Element),
    Row(Op::Max, VEX_Vmaxps_ymm_ymm_ymmm256, EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae, Element),
    Row(Op::Sqrt, VEX_Vsqrtps_ymm_ymmm256, EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er, Element),
    Row(Op::Fma132, VEX_Vfmadd132ps_ymm_ymm_ymmm256, EVEX_Vfmadd132ps_zmm_k1z_zmm_zmmm512b32_er, Element),
    Row(Op::Fma213, VEX_Vfmadd213ps_ymm_ymm_ymmm256, EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er, Element),
    Row(Op::Fma231, VEX_Vfmadd231ps_ymm_ymm_ymmm256, EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er, Element),
    Row(Op::Dot4, VEX_Vpdpbusd_ymm_ymm_ymmm256, EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::Dot2, INVALID, EVEX_Vdpbf16ps_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::MulWords, VEX_Vpmaddwd_ymm_ymm_ymmm256, EVEX_Vpmaddwd_zmm_k1z_zmm_zmmm512, Whole),
    Row(Op::MulBytes, VEX_Vpmaddubsw_ymm_ymm_ymmm256, EVEX_Vpmaddubsw_zmm_k1z_zmm_zmmm512, Whole),
    Row(Op::AbsBytes, VEX_Vpabsb_ymm_ymmm256, INVALID, Whole),
    Row(Op::SignBytes, VEX_Vpsignb_ymm_ymm_ymmm256, INVALID, Whole),
    Row(Op::AddWords, VEX_Vpaddw_ymm_ymm_ymmm256, EVEX_Vpaddw_zmm_k1z_zmm_zmmm512, Whole),
    Row(Op::ShlWord, VEX_Vpsllw_ymm_ymm_imm8, EVEX_Vpsllw_zmm_k1z_zmmm512_imm8, No),
    Row(Op::ShrWord, VEX_Vpsrlw_ymm_ymm_imm8, EVEX_Vpsrlw_zmm_k1z_zmmm512_imm8, No),
    Row(Op::SarWord, VEX_Vpsraw_ymm_ymm_imm8, EVEX_Vpsraw_zmm_k1z_zmmm512_imm8, No),
    Row(Op::Round, VEX_Vroundps_ymm_ymmm256_imm8, EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae, No),
    Row(Op::And, VEX_Vpand_ymm_ymm_ymmm256, EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::Or, VEX_Vpor_ymm_ymm_ymmm256, EVEX_Vpord_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::Xor, VEX_Vpxor_ymm_ymm_ymmm256, EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::AndNot, VEX_Vpandn_ymm_ymm_ymmm256, EVEX_Vpandnd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::AddInt, VEX_Vpaddd_ymm_ymm_ymmm256, EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::SubInt, VEX_Vpsubd_ymm_ymm_ymmm256, EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::MulInt, VEX_Vpmulld_ymm_ymm_ymmm256, EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::MinSigned, VEX_Vpminsd_ymm_ymm_ymmm256, EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::MaxSigned, VEX_Vpmaxsd_ymm_ymm_ymmm256, EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::MinUnsigned, VEX_Vpminud_ymm_ymm_ymmm256, EVEX_Vpminud_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::MaxUnsigned, VEX_Vpmaxud_ymm_ymm_ymmm256, EVEX_Vpmaxud_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::AbsInt, VEX_Vpabsd_ymm_ymmm256, EVEX_Vpabsd_zmm_k1z_zmmm512b32, Element),
    Row(Op::ShlEach, VEX_Vpsllvd_ymm_ymm_ymmm256, EVEX_Vpsllvd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::ShrEach, VEX_Vpsrlvd_ymm_ymm_ymmm256, EVEX_Vpsrlvd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::SarEach, VEX_Vpsravd_ymm_ymm_ymmm256, EVEX_Vpsravd_zmm_k1z_zmm_zmmm512b32, Element),
    Row(Op::Shl, VEX_Vpslld_ymm_ymm_imm8, EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8, No),
    Row(Op::Shr, VEX_Vpsrld_ymm_ymm_imm8, EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8, No),
    Row(Op::Sar, VEX_Vpsrad_ymm_ymm_imm8, EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8, No),
    Row(Op::Bytes, VEX_Vpshufb_ymm_ymm_ymmm256, EVEX_Vpshufb_zmm_k1z_zmm_zmmm512, Whole),
    Row(Op::OfBoth, VEX_Vshufps_ymm_ymm_ymmm256_imm8, EVEX_Vshufps_zmm_k1z_zmm_zmmm512b32_imm8, No),
    Row(Op::Fours, INVALID, EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8, No),
    Row(Op::FloatOfSigned, VEX_Vcvtdq2ps_ymm_ymmm256, EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er, Element),
    Row(Op::FloatOfUnsigned, INVALID, EVEX_Vcvtudq2ps_zmm_k1z_zmmm512b32_er, Element),
    Row(Op::SignedOfFloat, VEX_Vcvttps2dq_ymm_ymmm256, EVEX_Vcvttps2dq_zmm_k1z_zmmm512b32_sae, Element),
    Row(Op::UnsignedOfFloat, INVALID, EVEX_Vcvttps2udq_zmm_k1z_zmmm512b32_sae, Element),
    Row(Op::FloatOfHalf, VEX_Vcvtph2ps_ymm_xmmm128, EVEX_Vcvtph2ps_zmm_k1z_ymmm256_sae, No),
    Row(Op::WidenUnsignedWord, VEX_Vpmovzxwd_ymm_xmmm128, EVEX_Vpmovzxwd_zmm_k1z_ymmm256, No),
    Row(Op::WidenUnsignedByte, VEX_Vpmovzxbd_ymm_xmmm64, EVEX_Vpmovzxbd_zmm_k1z_xmmm128, No),
    Row(Op::WidenSignedByte, VEX_Vpmovsxbd_ymm_xmmm64, EVEX_Vpmovsxbd_zmm_k1z_xmmm128, No),
    Row(Op::Broadcast, VEX_Vbroadcastss_ymm_xmm, EVEX_Vbroadcastss_zmm_k1z_xmmm32, No),
    Row(Op::BroadcastMemory, VEX_Vbroadcastss_ymm_m32, EVEX_Vbroadcastss_zmm_k1z_xmmm32, No),
    Row(Op::BroadcastWord, VEX_Vpbroadcastw_ymm_xmmm16, EVEX_Vpbroadcastw_zmm_k1z_xmmm16, No),
    Row(Op::BroadcastGeneral, INVALID, EVEX_Vpbroadcastd_zmm_k1z_r32, No),
    Row(Op::Load, VEX_Vmovups_ymm_ymmm256, EVEX_Vmovups_zmm_k1z_zmmm512, No),
    Row(Op::Store, VEX_Vmovups_ymmm256_ymm, EVEX_Vmovups_zmmm512_k1z_zmm, No),
    Row(Op::Halves, VEX_Vperm2f128_ymm_ymm_ymmm256_imm8, EVEX_Vshuff32x4_zmm_k1z_zmm_zmmm512b32_imm8, No),
];

impl Op {
    /// The instruction, and whether its last operand may be memory.
    pub(super) fn code(self, level: Level) -> (Code, Fold) {
        let row = &TABLE[self as usize];
        debug_assert!(row.0 == self, "the table has the order of the operations");
        match (level, row.3) {
            (Level::Avx512, fold) => (row.2, fold),
            // Nothing is spread on its way from memory here.
            (Level::Avx2, Fold::Element) => (row.1, Fold::Whole),
            (Level::Avx2, fold) => (row.1, fold),
        }
    }
}
