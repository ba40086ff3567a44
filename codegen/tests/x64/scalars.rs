//! Every operation on every type it takes, every conversion: against `ScalarOp::evaluate`, bit for bit.

use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::target::Target;
use jtllm_ir::{DType, Scalar, ScalarOp};

use crate::code::Code;
use crate::common::scalars::{Noise, all, bits, bytes, expected, kernel, same, samples};
use crate::targets;

fn check(target: &X64, op: ScalarOp, operands: &[DType]) {
    let result = op.result(operands).unwrap();
    let columns = samples(operands);
    let count = columns[0].len();
    for wide in [false, true] {
        let mut params: Vec<Vec<u8>> =
            operands.iter().zip(&columns).map(|(dtype, column)| bytes(*dtype, column)).collect();
        params.push(vec![0xa5; count * result.size()]);
        let kernel = kernel(op, operands, result, count, (target.caps().lanes, wide));
        Code::of(target, &kernel).run(&mut params, &[]);
        let got = bits(result, params.last().unwrap());
        for (at, got) in got.into_iter().enumerate() {
            let expected = expected(op, operands, &columns, at);
            assert!(
                same(result, got, expected),
                "{}: {} of {operands:?} at sample {at} (vector: {wide}): {got:#x}, expected {expected:#x}",
                target.variant(),
                op.name(),
            );
        }
    }
}

#[test]
fn every_operation_on_every_type() {
    for target in &targets() {
        for (op, operands) in all(target.caps()) {
            check(target, op, &operands);
        }
    }
}

/// Products near the least normal number, where what is 0 and what is not is a matter of the last bit.
#[test]
fn products_of_pairs_near_the_least_normal_number() {
    let target = X64::complete(Level::Avx512);
    let operands = ScalarOp::Dot2.operands(DType::F32);
    let mut noise = Noise(11);
    let count = 64 << 10;
    let mut columns = vec![Vec::new(); 3];
    for _ in 0..count {
        // Small, down to what is no normal number, times something about 2^-25 to 2^-18.
        let mut pair = |exponent: u32, range: u32| {
            let mut half = || (exponent + noise.below(range)) << 7 | noise.below(128) | noise.below(2) << 15;
            half() | half() << 16
        };
        let (x, y) = (pair(0, 8), pair(102, 8));
        columns[0].push(x);
        columns[1].push(y);
        columns[2].push(noise.below(3) << 23 | noise.below(4) | noise.below(2) << 31);
    }
    let mut params: Vec<Vec<u8>> =
        operands.iter().zip(&columns).map(|(dtype, column)| bytes(*dtype, column)).collect();
    params.push(vec![0; count * 4]);
    let kernel = kernel(ScalarOp::Dot2, &operands, DType::F32, count, (target.caps().lanes, true));
    Code::of(&target, &kernel).run(&mut params, &[]);
    let (mut least, mut none) = (0, 0);
    for (at, got) in bits(DType::F32, &params[3]).into_iter().enumerate() {
        let expected = expected(ScalarOp::Dot2, &operands, &columns, at);
        assert_eq!(got, expected, "sample {at}: {:#x?}", columns.iter().map(|c| c[at]).collect::<Vec<_>>());
        least += usize::from(got & !(1 << 31) == 1 << 23);
        none += usize::from(got & !(1 << 31) == 0);
    }
    assert!(least > 100 && none > 1000, "{least} least normal numbers, {none} zeros");
}

/// All 65536 numbers of 16 bits, to `f32` and back.
#[test]
fn every_f16_and_bf16() {
    let all: Vec<u32> = (0..65536).collect();
    for target in &targets() {
        for half in [DType::F16, DType::BF16] {
            for wide in [false, true] {
                let shape = (target.caps().lanes, wide);
                let widen = kernel(ScalarOp::Cast(DType::F32), &[half], DType::F32, all.len(), shape);
                let mut params = vec![bytes(half, &all), vec![0; all.len() * 4]];
                Code::of(target, &widen).run(&mut params, &[]);
                let floats = params.pop().unwrap();
                for (x, got) in all.iter().zip(bits(DType::F32, &floats)) {
                    let expected = Scalar::from_bits(half, *x).float().to_bits();
                    assert!(
                        same(DType::F32, got, expected),
                        "{half} {x:#x} becomes {got:#x}, not {expected:#x}"
                    );
                }
                let narrow = kernel(ScalarOp::Cast(half), &[DType::F32], half, all.len(), shape);
                let mut params = vec![floats, vec![0; all.len() * 2]];
                Code::of(target, &narrow).run(&mut params, &[]);
                for (x, got) in all.iter().zip(bits(half, &params[1])) {
                    assert!(same(half, *x, got), "{half} {x:#x} comes back as {got:#x}");
                }
            }
        }
    }
}
