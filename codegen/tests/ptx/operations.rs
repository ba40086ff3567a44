//! Every operation on every type that it takes, and every conversion.

use jtllm_codegen::emit::ptx::Ptx;
use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::decompose::decompose;
use jtllm_codegen::kernel::{Access, Kernel};
use jtllm_codegen::target::Target;
use jtllm_ir::scalar::TABLE;
use jtllm_ir::{DType, Expr, Monoid, ScalarOp};

use crate::assembler::{assemble, find};

/// The operations of the table on all types, with the conversions written out.
fn all() -> Vec<(ScalarOp, Vec<DType>)> {
    let mut found = Vec::new();
    for row in TABLE {
        let ops: Vec<ScalarOp> = match row.op {
            ScalarOp::Cast(_) => DType::ALL.map(ScalarOp::Cast).to_vec(),
            ScalarOp::Bitcast(_) => DType::ALL.map(ScalarOp::Bitcast).to_vec(),
            op => vec![op],
        };
        for op in ops {
            for dtype in DType::ALL {
                let mut operands = vec![dtype; row.arity];
                if op == ScalarOp::Select {
                    operands[0] = DType::Bool;
                }
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
        let text = target.emit(&kernel).unwrap().bytes;
        if let Err(words) = assemble(&ptxas, &text, capability) {
            panic!("{capability}: {words}\n{}", String::from_utf8_lossy(&text));
        }
    }
}
