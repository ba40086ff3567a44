//! Each scalar operation and conversion on each type, on values at the borders.

use jtllm_ir::{DType, ScalarOp};

use crate::common::scalars::{all, bits, bytes, expected, kernel, same, samples};
use crate::devices::{OLDEST, Subject, for_each_device, plain_lanes};

/// Units in the last place that WebGPU allows a quotient and a root.
const UNITS: u32 = 3;

/// How a bit pattern of a float counts: neighbours differ by 1.
fn place(bits: u32) -> i64 {
    let magnitude = i64::from(bits & 0x7fff_ffff);
    if bits >> 31 == 1 { -magnitude } else { magnitude }
}

/// Whether a float is closer to 0 than any normal number.
fn is_subnormal(bits: u32) -> bool {
    bits & 0x7f80_0000 == 0
}

/// Whether WebGPU lets a device compute `found` where the operation gives `expected`.
fn is_allowed(op: ScalarOp, operands: &[DType], inputs: &[u32], found: u32, expected: u32) -> bool {
    let float = op.result(operands).unwrap() == DType::F32;
    let lost = inputs.iter().zip(operands).any(|(x, dtype)| match dtype {
        // Infinities and what is not a number may be assumed not to occur; subnormal numbers may be 0.
        DType::F32 => !f32::from_bits(*x).is_finite() || is_subnormal(*x),
        DType::F16 => x & 0x7c00 == 0x7c00 || x & 0x7c00 == 0,
        DType::BF16 => x & 0x7f80 == 0x7f80 || x & 0x7f80 == 0,
        _ => false,
    });
    if lost {
        return true;
    }
    if !float {
        return false;
    }
    let value = f32::from_bits(expected);
    if !value.is_finite() || is_subnormal(expected) {
        return true;
    }
    match op {
        ScalarOp::Div | ScalarOp::Sqrt => (place(found) - place(expected)).abs() <= i64::from(UNITS),
        // Rounded twice: half a unit of the product and of the sum.
        ScalarOp::Fma => {
            let [x, y, z] = [0, 1, 2].map(|at| f32::from_bits(inputs[at]));
            let twice = x * y + z;
            found == twice.to_bits() || !(x * y).is_finite() || is_subnormal((x * y).to_bits())
        }
        _ => false,
    }
}

/// A fused product by way of `f64`, where the product is exact and the sum is rounded once more.
fn fma_of_doubles(inputs: &[u32]) -> u32 {
    let [x, y, z] = [0, 1, 2].map(|at| f64::from(f32::from_bits(inputs[at])));
    ((x * y + z) as f32).to_bits()
}

fn conform(subject: &Subject, op: ScalarOp, operands: &[DType]) {
    let device = &*subject.device;
    let result = op.result(operands).unwrap();
    let columns = samples(operands);
    let count = columns[0].len();
    let lanes = plain_lanes(device);
    let kernel = kernel(op, operands, result, count, (lanes, true));
    let artifact = device.target().emit(&kernel).unwrap();
    let program = device.load(&[(&kernel, artifact)]).unwrap().remove(0);
    let mut args = Vec::new();
    for (dtype, column) in operands.iter().zip(&columns) {
        let mem = device.alloc((count * dtype.size()) as u64).unwrap();
        device.write(&mem.span(), &bytes(*dtype, column)).unwrap();
        args.push(mem.span());
    }
    let out = device.alloc((count * result.size()) as u64).unwrap();
    args.push(out.span());
    let symbols = device.alloc(256).unwrap().span();
    device.launch(&program, [count as u32 / lanes, 1, 1], &symbols, &args).unwrap();
    let mut found = vec![0; count * result.size()];
    device.read(&out.span(), &mut found).unwrap();
    for (at, found) in bits(result, &found).into_iter().enumerate() {
        let expected = expected(op, operands, &columns, at);
        let inputs: Vec<u32> = columns.iter().map(|column| column[at]).collect();
        let allowed = match subject.name {
            OLDEST => op == ScalarOp::Fma && found == fma_of_doubles(&inputs),
            _ => !subject.is_exact && is_allowed(op, operands, &inputs, found, expected),
        };
        assert!(
            allowed || same(result, found, expected),
            "{}: {} of {operands:?} at {inputs:x?} is {found:#x}, expected {expected:#x}",
            subject.name,
            op.name(),
        );
    }
}

#[test]
fn every_operation_on_every_type() {
    for_each_device(|subject| {
        for (op, operands) in all(subject.device.target().caps()) {
            conform(subject, op, &operands);
        }
    });
}
