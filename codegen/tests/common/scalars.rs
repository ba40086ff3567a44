//! Every operation on every type it takes: kernels that apply one, and operands that are worth trying.
#![allow(clippy::unwrap_used, dead_code)]

use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::{Access, Kernel};
use jtllm_codegen::target::Caps;
use jtllm_ir::scalar::TABLE;
use jtllm_ir::{DType, Expr, Scalar, ScalarOp};

/// A kernel that applies `op` to `count` elements of each operand, in groups of `lanes` lanes: each lane to an element
/// of its own if `wide`, else all to one.
pub(crate) fn kernel(
    op: ScalarOp,
    operands: &[DType],
    result: DType,
    count: usize,
    (lanes, wide): (u32, bool),
) -> Kernel {
    let step = if wide { i64::from(lanes) } else { 1 };
    let groups = Expr::int(count as i64 / step);
    let mut b = Builder::new(&op.name(), lanes, [groups, Expr::int(1), Expr::int(1)]);
    let len = Expr::int(count as i64);
    let params: Vec<_> =
        operands.iter().map(|dtype| b.param(*dtype, Access::Read, len.clone(), false)).collect();
    let out = b.param(result, Access::Write, len, false);
    let at = if wide { b.grid(0) * step + b.lane() } else { b.grid(0) };
    let xs: Vec<_> = params.iter().map(|param| b.load(*param, &at)).collect();
    let y = b.scalar(op, &xs);
    b.store(out, &at, y);
    b.finish(&[])
}

#[rustfmt::skip]
const FLOATS: &[f32] = &[ 0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    0.499_999_97,
    3.7,
    -3.7,
    127.5,
    128.0,
    -129.0,
    255.5,
    256.0,
    65504.0,
    65519.996,
    65520.0,
    -65536.0,
    8_388_607.5,
    8_388_609.0,
    16_777_217.0,
    2_147_483_520.0,
    2_147_483_648.0,
    -2_147_483_648.0,
    -2_147_483_904.0,
    4_294_967_040.0,
    4_294_967_296.0,
    1e10,
    -1e10,
    3e38,
    -3e38,
    1e-45,
    -1e-45,
    1.2e-38,
    5.96e-8,
    2.98e-8,
    2.981e-8,
    6.1e-5,
    1e-7,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    1.000_000_1,];

#[rustfmt::skip]
const WORDS: &[u32] = &[ 0, 1, 2, 3, 5, 7, 31, 32, 33, 127, 128, 129, 255, 256, 257, 65535, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_ffff, 0xffff_fffe, 0xffff_fff9, 0xffff_ff80, 0xffff_ff7f, 0x0100_0001, 0x7fff_ffbf, 0x7fff_ffc0, 0x8000_0080, 0xffff_ff7f, 123_456_789, ];

/// Bits of a type that are worth trying.
fn edges(dtype: DType) -> Vec<u32> {
    match dtype {
        DType::F32 => FLOATS.iter().map(|x| x.to_bits()).collect(),
        DType::F16 => vec![
            0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x3c00, 0xbc00, 0x3800, 0x7bff, 0xfbff, 0x7c00, 0xfc00,
            0x7e00, 0x7c01, 0x4248, 0xc248, 0x3555, 0x57f8, 0x5800,
        ],
        DType::BF16 => {
            vec![
                0, 0x8000, 1, 0x7f, 0x80, 0x3f80, 0xbf80, 0x4049, 0x7f7f, 0x7f80, 0xff80, 0x7fc0, 0x4f00,
                0xcf00, 0x4380, 0xc301,
            ]
        }
        DType::I32 | DType::U32 => WORDS.to_vec(),
        DType::I8 | DType::U8 => (0..256).collect(),
        DType::Bool => vec![0, 1],
    }
}

/// Operands: every tuple of edges, thinned out where there are too many, and random bits.
pub(crate) fn samples(operands: &[DType]) -> Vec<Vec<u32>> {
    let mut noise = Noise(7);
    let sets: Vec<Vec<u32>> = operands.iter().map(|dtype| edges(*dtype)).collect();
    let all: usize = sets.iter().map(Vec::len).product();
    let step = (all / 20_000).max(1);
    let mut columns = vec![Vec::new(); operands.len()];
    for mut at in (0..all).step_by(step | 1) {
        for (column, set) in columns.iter_mut().zip(&sets) {
            column.push(set[at % set.len()]);
            at /= set.len();
        }
    }
    while columns[0].len() < all.min(20_000) + 1000 || columns[0].len() % 16 != 0 {
        for (column, dtype) in columns.iter_mut().zip(operands) {
            let word = match dtype {
                DType::Bool => noise.below(2),
                DType::F32 if noise.below(2) == 0 => (noise.float() * 64.0).to_bits(),
                _ => noise.word() & (u32::MAX >> (32 - 8 * dtype.size())),
            };
            column.push(word);
        }
    }
    columns
}

/// The operations of the table that emitters for such targets are asked for, conversions aside.
pub(crate) fn operations(caps: &Caps) -> impl Iterator<Item = ScalarOp> {
    let (dot2, signed_bytes) = (caps.dot2, caps.signed_bytes);
    TABLE
        .iter()
        .filter(move |row| dot2 || row.op != ScalarOp::Dot2)
        .filter(move |row| signed_bytes || row.op != ScalarOp::Dot4Signed)
        .filter(|row| row.cost < 8 && !matches!(row.op, ScalarOp::Cast(_) | ScalarOp::Bitcast(_)))
        .map(|row| row.op)
}

/// Each operation with each list of operands that it takes; conversions too.
pub(crate) fn all(caps: &Caps) -> Vec<(ScalarOp, Vec<DType>)> {
    let mut all = Vec::new();
    for op in operations(caps) {
        for dtype in DType::ALL {
            let operands = op.operands(dtype);
            if op.result(&operands).is_ok() {
                all.push((op, operands));
            }
        }
    }
    for from in DType::ALL {
        for to in DType::ALL {
            all.push((ScalarOp::Cast(to), vec![from]));
            if from.size() == 4 && to.size() == 4 {
                all.push((ScalarOp::Bitcast(to), vec![from]));
            }
        }
    }
    all
}

/// What an operation gives for a column of samples each, as bits.
pub(crate) fn expected(op: ScalarOp, operands: &[DType], columns: &[Vec<u32>], at: usize) -> u32 {
    let result = op.result(operands).unwrap();
    let last = *operands.last().unwrap();
    let pairs = operands.iter().zip(columns);
    let xs: Vec<Scalar> = pairs.map(|(dtype, column)| Scalar::from_bits(*dtype, column[at])).collect();
    op.evaluate(last, &xs).to_bits(result) & (u32::MAX >> (32 - 8 * result.size()))
}

/// Elements, given by their bits, as they lie in memory.
pub(crate) fn bytes(dtype: DType, bits: &[u32]) -> Vec<u8> {
    bits.iter().flat_map(|bits| bits.to_le_bytes()[..dtype.size()].to_vec()).collect()
}

/// The bits of the elements in `bytes`.
pub(crate) fn bits(dtype: DType, bytes: &[u8]) -> Vec<u32> {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
    bytes.chunks(dtype.size()).map(word).collect()
}

/// Whether two elements are the same: equal bits, or both not a number.
pub(crate) fn same(dtype: DType, a: u32, b: u32) -> bool {
    let not_number = |bits| matches!(Scalar::from_bits(dtype, bits), Scalar::Float(x) if x.is_nan());
    a == b || (dtype.is_float() && not_number(a) && not_number(b))
}

/// Numbers that look random and are the same in every run.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    /// The next 32 bits.
    pub(crate) fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// The next number below `end`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(end)) >> 32) as u32
    }

    /// The next float in `-1..1`.
    pub(crate) fn float(&mut self) -> f32 {
        self.word() as i32 as f32 / 2_147_483_648.0
    }
}
