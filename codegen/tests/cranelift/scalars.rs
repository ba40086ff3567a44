//! Every operation on every type it takes, every conversion: against `ScalarOp::evaluate`, bit for bit,
//! as scalars and as vectors.

use jtllm_codegen::emit::cranelift::Cranelift;
use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::{Access, Kernel};
use jtllm_ir::scalar::TABLE;
use jtllm_ir::{DType, Expr, Scalar, ScalarOp};

use crate::native::{HOST, Native, Noise, bits, bytes, same};

/// A kernel that applies `op` to `count` elements of each operand.
fn kernel(op: ScalarOp, operands: &[DType], result: DType, count: usize, wide: bool) -> Kernel {
    let lanes = if wide { 4 } else { 1 };
    let groups = Expr::int((count / lanes) as i64);
    let mut b = Builder::new(&op.name(), 4, [groups, Expr::int(1), Expr::int(1)]);
    let len = Expr::int(count as i64);
    let params: Vec<_> =
        operands.iter().map(|dtype| b.param(*dtype, Access::Read, len.clone(), false)).collect();
    let out = b.param(result, Access::Write, len, false);
    let at = if wide { b.grid(0) * 4 + b.lane() } else { b.grid(0) };
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
fn samples(operands: &[DType]) -> Vec<Vec<u32>> {
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
    while columns[0].len() < all.min(20_000) + 1000 || columns[0].len() % 4 != 0 {
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

fn check(target: &Cranelift, op: ScalarOp, operands: &[DType]) {
    let result = op.result(operands).unwrap();
    let columns = samples(operands);
    let count = columns[0].len();
    let last = *operands.last().unwrap();
    for wide in [false, true] {
        let mut params: Vec<Vec<u8>> =
            operands.iter().zip(&columns).map(|(dtype, column)| bytes(*dtype, column)).collect();
        params.push(vec![0xa5; count * result.size()]);
        Native::with(target, &kernel(op, operands, result, count, wide)).run(&mut params, &[]);
        let got = bits(result, params.last().unwrap());
        for at in 0..count {
            let xs: Vec<Scalar> = operands
                .iter()
                .zip(&columns)
                .map(|(dtype, column)| Scalar::from_bits(*dtype, column[at]))
                .collect();
            let expected = op.evaluate(last, &xs).to_bits(result) & (u32::MAX >> (32 - 8 * result.size()));
            assert!(
                same(result, got[at], expected),
                "{} of {operands:?} at {xs:?} (vector: {wide}): {:#x}, expected {expected:#x}",
                op.name(),
                got[at],
            );
        }
    }
}

/// The operations of the table that emitters are asked for, conversions aside.
fn operations() -> impl Iterator<Item = ScalarOp> {
    TABLE
        .iter()
        .filter(|row| row.cost < 8 && !matches!(row.op, ScalarOp::Cast(_) | ScalarOp::Bitcast(_)))
        .map(|row| row.op)
}

#[test]
fn every_operation_on_every_type() {
    let mut checked = 0;
    for op in operations() {
        for dtype in DType::ALL {
            let mut operands = vec![dtype; op.row().arity];
            if op == ScalarOp::Select {
                operands[0] = DType::Bool;
            }
            if op.result(&operands).is_ok() {
                check(&HOST, op, &operands);
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 63);
}

#[test]
fn every_conversion() {
    for from in DType::ALL {
        for to in DType::ALL {
            check(&HOST, ScalarOp::Cast(to), &[from]);
            if from.size() == 4 && to.size() == 4 {
                check(&HOST, ScalarOp::Bitcast(to), &[from]);
            }
        }
    }
}

#[test]
fn rounding_without_sse41() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let old = ["has_sse41", "has_sse42", "has_avx", "has_avx2", "has_fma"];
    let target = Cranelift::without(&old).unwrap();
    for op in [ScalarOp::Floor, ScalarOp::Round] {
        check(&target, op, &[DType::F32]);
    }
}

/// On x86-64 without the instruction, the product is exact and the sum is rounded to `f64` before `f32`.
#[test]
fn fused_products_without_fma() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let target = Cranelift::without(&["has_fma"]).unwrap();
    let operands = [DType::F32; 3];
    let columns = samples(&operands);
    let count = columns[0].len();
    for wide in [false, true] {
        let mut params: Vec<Vec<u8>> = columns.iter().map(|column| bytes(DType::F32, column)).collect();
        params.push(vec![0; count * 4]);
        Native::with(&target, &kernel(ScalarOp::Fma, &operands, DType::F32, count, wide))
            .run(&mut params, &[]);
        for (at, got) in bits(DType::F32, &params[3]).into_iter().enumerate() {
            let [x, y, z] = [0, 1, 2].map(|operand| f64::from(f32::from_bits(columns[operand][at])));
            let expected = (x * y + z) as f32;
            assert!(
                same(DType::F32, got, expected.to_bits()),
                "{x} * {y} + {z} is not {:e}",
                f32::from_bits(got)
            );
        }
    }
}

/// All 65536 numbers of 16 bits, to `f32` and back.
#[test]
fn every_f16_and_bf16() {
    for half in [DType::F16, DType::BF16] {
        let all: Vec<u32> = (0..65536).collect();
        for wide in [false, true] {
            let widen = kernel(ScalarOp::Cast(DType::F32), &[half], DType::F32, all.len(), wide);
            let mut params = vec![bytes(half, &all), vec![0; all.len() * 4]];
            Native::new(&widen).run(&mut params, &[]);
            let floats = params.pop().unwrap();
            for (x, got) in all.iter().zip(bits(DType::F32, &floats)) {
                let expected = Scalar::from_bits(half, *x).float().to_bits();
                assert!(same(DType::F32, got, expected), "{half} {x:#x} becomes {got:#x}, not {expected:#x}");
            }
            let narrow = kernel(ScalarOp::Cast(half), &[DType::F32], half, all.len(), wide);
            let mut params = vec![floats, vec![0; all.len() * 2]];
            Native::new(&narrow).run(&mut params, &[]);
            for (x, got) in all.iter().zip(bits(half, &params[1])) {
                assert!(same(half, *x, got), "{half} {x:#x} comes back as {got:#x}");
            }
        }
    }
}

/// Floats of every exponent, and those around each tie, rounded to 16 bits.
#[test]
fn floats_round_to_nearest_even() {
    let mut samples: Vec<u32> = (0..=u32::MAX).step_by(2039).collect();
    for half in 0..65536u32 {
        let x = half::f16::from_bits(half as u16).to_f32().to_bits();
        samples.extend([
            x,
            x ^ 1,
            x | 0xfff,
            x | 0x1000,
            x | 0x1001,
            x.wrapping_add(0x0800),
            half << 16 | 0x7fff,
        ]);
        samples.extend([half << 16 | 0x8000, half << 16 | 0x8001]);
    }
    samples.truncate(samples.len() / 4 * 4);
    for half in [DType::F16, DType::BF16] {
        let narrow = kernel(ScalarOp::Cast(half), &[DType::F32], half, samples.len(), true);
        let mut params = vec![bytes(DType::F32, &samples), vec![0; samples.len() * 2]];
        Native::new(&narrow).run(&mut params, &[]);
        for (x, got) in samples.iter().zip(bits(half, &params[1])) {
            let expected = match half {
                DType::F16 => half::f16::from_f32(f32::from_bits(*x)).to_bits(),
                _ => half::bf16::from_f32(f32::from_bits(*x)).to_bits(),
            };
            assert_eq!(got, u32::from(expected), "{half} of {x:#x}");
        }
    }
}
