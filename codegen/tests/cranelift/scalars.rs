//! Every operation on every type it takes, every conversion: against `ScalarOp::evaluate`, bit for bit,
//! as scalars and as vectors.

use jtllm_codegen::emit::cranelift::Cranelift;
use jtllm_codegen::target::Target;
use jtllm_ir::{DType, Scalar, ScalarOp};

use crate::common::scalars::{all, bits, bytes, expected, kernel, same, samples};
use crate::native::Native;
use crate::{HOST, on_host};

fn check(target: &Cranelift, op: ScalarOp, operands: &[DType]) {
    let result = op.result(operands).unwrap();
    let columns = samples(operands);
    let count = columns[0].len();
    for wide in [false, true] {
        let mut params: Vec<Vec<u8>> =
            operands.iter().zip(&columns).map(|(dtype, column)| bytes(*dtype, column)).collect();
        params.push(vec![0xa5; count * result.size()]);
        Native::with(target, &kernel(op, operands, result, count, (4, wide))).run(&mut params, &[]);
        let got = bits(result, params.last().unwrap());
        for (at, got) in got.into_iter().enumerate() {
            let expected = expected(op, operands, &columns, at);
            assert!(
                same(result, got, expected),
                "{} of {operands:?} at sample {at} (vector: {wide}): {:#x}, expected {expected:#x}",
                op.name(),
                got,
            );
        }
    }
}

#[test]
fn every_operation_on_every_type() {
    let all = all(HOST.caps());
    assert_eq!(all.len(), 64 + 64 + 10);
    for (op, operands) in all {
        check(&HOST, op, &operands);
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

/// Without `pshufb` a table is halved by one bit of the places after the other.
#[test]
fn lookups_without_ssse3() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let old = ["has_ssse3", "has_sse41", "has_sse42", "has_avx", "has_avx2", "has_fma"];
    let table = std::array::from_fn(|place| (37 * place + 11) as u8);
    check(&Cranelift::without(&old).unwrap(), ScalarOp::Lookup(table), &[DType::U32]);
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
        Native::with(&target, &kernel(ScalarOp::Fma, &operands, DType::F32, count, (4, wide)))
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
            let widen = kernel(ScalarOp::Cast(DType::F32), &[half], DType::F32, all.len(), (4, wide));
            let mut params = vec![bytes(half, &all), vec![0; all.len() * 4]];
            on_host(&widen).run(&mut params, &[]);
            let floats = params.pop().unwrap();
            for (x, got) in all.iter().zip(bits(DType::F32, &floats)) {
                let expected = Scalar::from_bits(half, *x).float().to_bits();
                assert!(same(DType::F32, got, expected), "{half} {x:#x} becomes {got:#x}, not {expected:#x}");
            }
            let narrow = kernel(ScalarOp::Cast(half), &[DType::F32], half, all.len(), (4, wide));
            let mut params = vec![floats, vec![0; all.len() * 2]];
            on_host(&narrow).run(&mut params, &[]);
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
        let narrow = kernel(ScalarOp::Cast(half), &[DType::F32], half, samples.len(), (4, true));
        let mut params = vec![bytes(DType::F32, &samples), vec![0; samples.len() * 2]];
        on_host(&narrow).run(&mut params, &[]);
        for (x, got) in samples.iter().zip(bits(half, &params[1])) {
            let expected = match half {
                DType::F16 => half::f16::from_f32(f32::from_bits(*x)).to_bits(),
                _ => half::bf16::from_f32(f32::from_bits(*x)).to_bits(),
            };
            assert_eq!(got, u32::from(expected), "{half} of {x:#x}");
        }
    }
}
