//! Every operation on every type it takes, every conversion: against `ScalarOp::evaluate`, bit for bit.

use jtllm_codegen::emit::x64::X64;
use jtllm_codegen::target::Target;
use jtllm_ir::{DType, Scalar, ScalarOp};

use crate::common::scalars::{all, bits, bytes, expected, kernel, same, samples};
use crate::native::Native;
use crate::{levels, targets};

fn check(target: &X64, op: ScalarOp, operands: &[DType]) {
    let result = op.result(operands).unwrap();
    let columns = samples(operands);
    let count = columns[0].len();
    for wide in [false, true] {
        let mut params: Vec<Vec<u8>> =
            operands.iter().zip(&columns).map(|(dtype, column)| bytes(*dtype, column)).collect();
        params.push(vec![0xa5; count * result.size()]);
        let kernel = kernel(op, operands, result, count, (target.caps().lanes, wide));
        Native::with(target, &kernel).run(&mut params, &[]);
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
        for (op, operands) in all() {
            check(target, op, &operands);
        }
    }
}

/// All 65536 numbers of 16 bits, to `f32` and back.
#[test]
fn every_f16_and_bf16() {
    let all: Vec<u32> = (0..65536).collect();
    for target in levels().into_iter().map(X64::level) {
        for half in [DType::F16, DType::BF16] {
            for wide in [false, true] {
                let shape = (target.caps().lanes, wide);
                let widen = kernel(ScalarOp::Cast(DType::F32), &[half], DType::F32, all.len(), shape);
                let mut params = vec![bytes(half, &all), vec![0; all.len() * 4]];
                Native::with(&target, &widen).run(&mut params, &[]);
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
                Native::with(&target, &narrow).run(&mut params, &[]);
                for (x, got) in all.iter().zip(bits(half, &params[1])) {
                    assert!(same(half, *x, got), "{half} {x:#x} comes back as {got:#x}");
                }
            }
        }
    }
}
