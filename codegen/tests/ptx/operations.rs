//! Every operation on every type that it takes, and every conversion.

use jtllm_codegen::emit::ptx::Ptx;
use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::decompose::decompose;
use jtllm_codegen::kernel::{Access, Kernel, Param};
use jtllm_codegen::target::Target;
use jtllm_ir::scalar::TABLE;
use jtllm_ir::{DType, Expr, Monoid, ScalarOp};

use crate::assembler::{assemble, find};
use crate::common::ptx::{LEVELS, both, device};
use crate::common::{Launch, noise};

/// The operations of the table on all types, with the conversions written out; `dot2` and `dot4_signed` are for
/// others.
fn all() -> Vec<(ScalarOp, Vec<DType>)> {
    let mut found = Vec::new();
    for row in TABLE.iter().filter(|row| !matches!(row.op, ScalarOp::Dot2 | ScalarOp::Dot4Signed)) {
        let ops: Vec<ScalarOp> = match row.op {
            ScalarOp::Cast(_) => DType::ALL.map(ScalarOp::Cast).to_vec(),
            ScalarOp::Bitcast(_) => DType::ALL.map(ScalarOp::Bitcast).to_vec(),
            op => vec![op],
        };
        for op in ops {
            for dtype in DType::ALL {
                let operands = op.operands(dtype);
                if op.result(&operands).is_ok() {
                    found.push((op, operands));
                }
            }
        }
    }
    found
}

/// One kernel that applies many operations, each to elements of its own; and joins lanes in every way.
fn kernel(ops: &[(ScalarOp, Vec<DType>)], lanes: u32) -> Kernel {
    let mut b = Builder::new("operations", lanes, [Expr::int(3), Expr::int(1), Expr::int(1)]);
    let len = Expr::int(i64::from(lanes) * 3 * 4);
    let from = DType::ALL.map(|dtype| b.param(dtype, Access::Read, len.clone(), false));
    let to = DType::ALL.map(|dtype| b.param(dtype, Access::Write, len.clone() * ops.len() as i64, false));
    let place = |dtype: DType| DType::ALL.iter().position(|known| *known == dtype).unwrap();
    let at = b.grid(0) * i64::from(lanes) + b.lane();
    for (number, (op, operands)) in ops.iter().enumerate() {
        let xs: Vec<_> = (operands.iter().enumerate())
            .map(|(n, dtype)| b.load(from[place(*dtype)], &(at.clone() * 3 + n as i64)))
            .collect();
        let y = b.scalar(*op, &xs);
        let out = to[place(b.dtype(y))];
        b.store(out, &(at.clone() + (i64::from(lanes) * 3 * number as i64)), y);
    }
    for dtype in [DType::F32, DType::I32, DType::U32] {
        let x = b.load(from[place(dtype)], &at);
        for monoid in [Monoid::Add, Monoid::Mul, Monoid::Max, Monoid::Min] {
            let y = b.lane_reduce(monoid, x);
            b.store(to[place(dtype)], &at, y);
        }
    }
    b.finish(&[])
}

#[test]
fn every_operation_is_accepted() {
    let Some(ptxas) = find() else { return };
    for (capability, lanes) in [(70, 128), (75, 8), (80, 32), (90, 256), (120, 1024)] {
        let target = Ptx::new(capability, 99 << 10);
        let kernel = decompose(&kernel(&all(), lanes), target.caps());
        let text = String::from_utf8(target.emit(&kernel).unwrap().bytes).unwrap();
        if let Err(words) = assemble(&ptxas, &text, &capability.to_string()) {
            panic!("{capability}: {words}\n{text}");
        }
    }
}

/// Bits that are worth trying: zeros, limits, ties of roundings, subnormal numbers, what is not a number.
#[rustfmt::skip]
const EDGES: &[u32] = &[
    0, 1, 2, 3, 7, 8, 31, 32, 33, 127, 128, 255, 256, 0x8000_0000, 0x8000_0001, 0xffff_ffff, 0xffff_fffe,
    0x7fff_ffff, 0xffff_ff80, 0xffff_ff7f, 0x3f80_0000, 0xbf80_0000, 0x3f00_0000, 0x3fc0_0000, 0xc020_0000,
    0x3eff_ffff, 0x4b00_0001, 0x477f_e000, 0x477f_efff, 0x477f_f000, 0xc77f_f000, 0x3380_0000, 0x3300_0000,
    0x3300_0001, 0x3880_0000, 0x387f_f000, 0x0080_0000, 0x007f_ffff, 0x3f80_8000, 0x3f81_8000, 0x3f80_8001,
    0x7f7f_ffff, 0xff7f_ffff, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x7f80_0001, 0x4eff_ffff, 0x4f00_0000,
    0xcf00_0000, 0xcf00_0001, 0x4f7f_ffff, 0x4f80_0000, 0x42fe_0000, 0x42ff_0000, 0x437f_0000, 0x437f_8000,
    0xc300_8000, 0x42b1_0000, 0xc2d0_0000, 0x3c00, 0x7bff, 0x7c00, 0x8400, 0x03ff, 0x7e00, 0x4248,
];

fn bytes(dtype: DType, count: usize, seed: &mut u64) -> Vec<u8> {
    let mut word = || {
        let pick = ((noise(seed) + 1.0) * 4096.0) as usize;
        match pick % 4 {
            0 => noise(seed).to_bits(),
            1 => (noise(seed) * 100.0).to_bits(),
            _ => EDGES[pick / 4 % EDGES.len()],
        }
    };
    let element = |word: u32| match dtype {
        DType::Bool => vec![(word & 1) as u8],
        DType::F16 | DType::BF16 if word & 1 == 0 => word.to_le_bytes()[2..].to_vec(),
        _ => word.to_le_bytes()[..dtype.size()].to_vec(),
    };
    (0..count).flat_map(|_| element(word())).collect()
}

#[test]
fn every_operation_computes_what_the_interpreter_does() {
    let mut seed = 11;
    for capability in LEVELS {
        let target = device(capability);
        for (lanes, rounds) in [(128, 12), (8, 4), (64, 2), (1024, 1)] {
            let kernel = decompose(&kernel(&all(), lanes), target.caps());
            for _ in 0..rounds {
                let bind = |param: &Param| {
                    let count = param.len.as_int().unwrap() as usize;
                    bytes(param.dtype, count, &mut seed)
                };
                let mut params: Vec<Vec<u8>> = kernel.params.iter().map(bind).collect();
                let launch = Launch { kernel: &kernel, params: &mut params, symbols: &[], groups: 3 };
                both(&target, launch);
            }
        }
    }
}
