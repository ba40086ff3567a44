//! Scalar operations on rows of registers.
//!
//! A register holds a float of any type as the bits of the equal `f32`, an integer as its low 32 bits,
//! sign-extended where its type is signed.

use jtllm_ir::scalar::{dot2, dot4, dot4_signed, lookup};
use jtllm_ir::{DType, Scalar, ScalarOp};

/// A scalar as a register holds it.
pub(super) fn to_register(value: Scalar, dtype: DType) -> u32 {
    if dtype.is_float() { dtype.round(value.float()).to_bits() } else { dtype.wrap(value.int()) as u32 }
}

fn from_register(bits: u32, dtype: DType) -> Scalar {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Scalar::Float(f32::from_bits(bits)),
        DType::I32 | DType::I8 => Scalar::Int(i64::from(bits as i32)),
        DType::U32 | DType::U8 | DType::Bool => Scalar::Int(i64::from(bits)),
    }
}

/// The types of an operation: of the last operand, and of the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Types {
    pub(super) from: DType,
    pub(super) to: DType,
}

fn unary(x: &[u32], out: &mut [u32], f: impl Fn(u32) -> u32) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = f(*x));
}

fn binary(x: &[u32], y: &[u32], out: &mut [u32], f: impl Fn(u32, u32) -> u32) {
    out.iter_mut().zip(x).zip(y).for_each(|((o, x), y)| *o = f(*x, *y));
}

fn float2(x: &[u32], y: &[u32], out: &mut [u32], f: impl Fn(f32, f32) -> f32) {
    binary(x, y, out, |x, y| f(f32::from_bits(x), f32::from_bits(y)).to_bits());
}

/// Computes `op` for as many lanes as `out` has; `xs` are the operands' rows.
pub(super) fn apply(op: ScalarOp, types: Types, xs: &[&[u32]], out: &mut [u32]) {
    let fast = match (types.from, xs) {
        (DType::F32, [x, y]) => fast_float(op, x, y, out),
        (DType::I32 | DType::U32, [x, y]) => fast_int(op, x, y, out),
        _ => fast_other(op, types, xs, out),
    };
    if !fast {
        slow(op, types, xs, out);
    }
}

fn fast_float(op: ScalarOp, x: &[u32], y: &[u32], out: &mut [u32]) -> bool {
    let truth = |f: fn(&f32, &f32) -> bool| move |x, y| u32::from(f(&f32::from_bits(x), &f32::from_bits(y)));
    match op {
        ScalarOp::Add => float2(x, y, out, |x, y| x + y),
        ScalarOp::Sub => float2(x, y, out, |x, y| x - y),
        ScalarOp::Mul => float2(x, y, out, |x, y| x * y),
        ScalarOp::Div => float2(x, y, out, |x, y| x / y),
        ScalarOp::Min => float2(x, y, out, |x, y| if x < y { x } else { y }),
        ScalarOp::Max => float2(x, y, out, |x, y| if x > y { x } else { y }),
        ScalarOp::Lt => binary(x, y, out, truth(f32::lt)),
        ScalarOp::Le => binary(x, y, out, truth(f32::le)),
        ScalarOp::Eq => binary(x, y, out, truth(f32::eq)),
        ScalarOp::Ne => binary(x, y, out, truth(f32::ne)),
        _ => return false,
    }
    true
}

/// Operations on 32-bit integers whose low 32 bits do not depend on the sign.
fn fast_int(op: ScalarOp, x: &[u32], y: &[u32], out: &mut [u32]) -> bool {
    match op {
        ScalarOp::Add => binary(x, y, out, u32::wrapping_add),
        ScalarOp::Sub => binary(x, y, out, u32::wrapping_sub),
        ScalarOp::Mul => binary(x, y, out, u32::wrapping_mul),
        ScalarOp::And => binary(x, y, out, |x, y| x & y),
        ScalarOp::Or => binary(x, y, out, |x, y| x | y),
        ScalarOp::Xor => binary(x, y, out, |x, y| x ^ y),
        ScalarOp::Shl => binary(x, y, out, |x, y| x << (y & 31)),
        ScalarOp::Eq => binary(x, y, out, |x, y| u32::from(x == y)),
        ScalarOp::Ne => binary(x, y, out, |x, y| u32::from(x != y)),
        _ => return false,
    }
    true
}

fn fast_other(op: ScalarOp, types: Types, xs: &[&[u32]], out: &mut [u32]) -> bool {
    match (op, xs) {
        (ScalarOp::Fma, [x, y, z]) => {
            for (o, ((x, y), z)) in out.iter_mut().zip(x.iter().zip(*y).zip(*z)) {
                *o = f32::from_bits(*x).mul_add(f32::from_bits(*y), f32::from_bits(*z)).to_bits();
            }
        }
        (ScalarOp::Dot4, [x, y, z]) => {
            for (o, ((x, y), z)) in out.iter_mut().zip(x.iter().zip(*y).zip(*z)) {
                *o = dot4(*x, *y, *z as i32) as u32;
            }
        }
        (ScalarOp::Dot4Signed, [x, y, z]) => {
            for (o, ((x, y), z)) in out.iter_mut().zip(x.iter().zip(*y).zip(*z)) {
                *o = dot4_signed(*x, *y, *z as i32) as u32;
            }
        }
        (ScalarOp::Lookup(table), [x]) => unary(x, out, |x| lookup(x, &table)),
        (ScalarOp::Dot2, [x, y, z]) => {
            for (o, ((x, y), z)) in out.iter_mut().zip(x.iter().zip(*y).zip(*z)) {
                *o = dot2(*x, *y, f32::from_bits(*z)).to_bits();
            }
        }
        (ScalarOp::Select, [c, x, y]) => {
            for (o, ((c, x), y)) in out.iter_mut().zip(c.iter().zip(*x).zip(*y)) {
                *o = if *c != 0 { *x } else { *y };
            }
        }
        (ScalarOp::Bitcast(_), [x]) => out.copy_from_slice(&x[..out.len()]),
        (ScalarOp::Cast(DType::F32), [x]) => match types.from {
            DType::F32 | DType::F16 | DType::BF16 => out.copy_from_slice(&x[..out.len()]),
            DType::U32 => unary(x, out, |x| (x as f32).to_bits()),
            _ => unary(x, out, |x| (x as i32 as f32).to_bits()),
        },
        (ScalarOp::Cast(DType::I32 | DType::U32), [x]) if !types.from.is_float() => {
            out.copy_from_slice(&x[..out.len()]);
        }
        _ => return false,
    }
    true
}

fn slow(op: ScalarOp, types: Types, xs: &[&[u32]], out: &mut [u32]) {
    let count = xs.len();
    for (lane, o) in out.iter_mut().enumerate() {
        let mut operands = [Scalar::Int(0); 3];
        for (operand, x) in operands.iter_mut().zip(xs) {
            *operand = from_register(x[lane], types.from);
        }
        if matches!(op, ScalarOp::Select) {
            operands[0] = Scalar::Int(i64::from(xs[0][lane]));
        }
        *o = to_register(op.evaluate(types.from, &operands[..count]), types.to);
    }
}
