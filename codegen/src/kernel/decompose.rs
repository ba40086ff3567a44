//! Functions made of simpler ones: `exp` and its kin as sums, products, shifts and choices.
//!
//! A pure pass. Every target that runs its result computes the same bits, given a fused product that
//! rounds once. Errors, measured against `f64` by the tests of this pass:
//!
//! | function | error | beyond |
//! |---|---|---|
//! | `exp` | 1 ulp, subnormal results too | 0 and infinity |
//! | `log` | 1 ulp, subnormal operands too | -infinity at 0, not a number below |
//! | `tanh`, `erf` | 2 ulp | 1 and -1; `tanh` is 0 at -0 |
//! | `sin`, `cos` | 1e-7 absolute, for operands up to 1e6 | 0 at -0; in -1..1, without meaning above 2e7 |
//! | `rsqrt` | 1.5 ulp | as the quotient and the root |
//!
//! `sin` and `cos` are decomposed for every target: rotary positions reach far, and the instructions of
//! graphics processors are good near zero only.

mod functions;

use std::collections::HashMap;

use jtllm_ir::{DType, Scalar, ScalarOp};

use super::{Kernel, Stmt, Value, ValueId, ValueRecord};
use crate::target::Caps;

/// The kernel with the functions that a target lacks made of those that it has. Values keep their
/// numbers; new ones stand where the function stood, constants at the kernel's start.
pub fn decompose(kernel: &Kernel, caps: &Caps) -> Kernel {
    let mut steps = Steps {
        values: kernel.values.clone(),
        constants: HashMap::new(),
        first: Vec::new(),
        body: Vec::new(),
        all: caps.decompose,
        rearranges: caps.threads,
    };
    let body = steps.block(&kernel.body);
    let Steps { values, mut first, .. } = steps;
    first.extend(body);
    Kernel { values, body: first, ..kernel.clone() }
}

/// A kernel under reconstruction.
struct Steps {
    values: Vec<ValueRecord>,
    constants: HashMap<(DType, u32), ValueId>,
    /// The constants, which come first in the kernel.
    first: Vec<Stmt>,
    /// The block being rebuilt.
    body: Vec<Stmt>,
    /// Whether more than `sin` and `cos` is decomposed.
    all: bool,
    /// Whether the target's own compiler may rearrange sums.
    rearranges: bool,
}

impl Steps {
    fn block(&mut self, body: &[Stmt]) -> Vec<Stmt> {
        let outer = std::mem::take(&mut self.body);
        for stmt in body {
            match stmt {
                Stmt::Let(value) => self.define(*value),
                Stmt::Loop { axis, extent, body } => {
                    let body = self.block(body);
                    self.body.push(Stmt::Loop { axis: *axis, extent: extent.clone(), body });
                }
                Stmt::If { cond, body } => {
                    let body = self.block(body);
                    self.body.push(Stmt::If { cond: cond.clone(), body });
                }
                _ => self.body.push(stmt.clone()),
            }
        }
        std::mem::replace(&mut self.body, outer)
    }

    fn define(&mut self, value: ValueId) {
        if let Value::Scalar(op, operands) = &self.values[value.0 as usize].value
            && let Some(compute) = functions::of(*op, self.all)
        {
            let operand = operands[0];
            compute(self, operand);
            // The last step takes the number of the function's value.
            let last = self.values.pop().expect("a function is made of steps");
            self.body.pop();
            self.values[value.0 as usize] = last;
        }
        self.body.push(Stmt::Let(value));
    }

    /// One step: an operation on values, the last one of which gives the type of the operands.
    fn step(&mut self, op: ScalarOp, operands: &[ValueId]) -> ValueId {
        let dtypes: Vec<DType> = operands.iter().map(|x| self.values[x.0 as usize].dtype).collect();
        let dtype = op.result(&dtypes).expect("functions are made of steps that fit their operands");
        self.push(Value::Scalar(op, operands.to_vec()), dtype)
    }

    fn push(&mut self, value: Value, dtype: DType) -> ValueId {
        self.values.push(ValueRecord { value, dtype });
        let id = ValueId(self.values.len() as u32 - 1);
        self.body.push(Stmt::Let(id));
        id
    }

    fn constant(&mut self, dtype: DType, value: Scalar) -> ValueId {
        let key = (dtype, value.to_bits(dtype));
        if let Some(known) = self.constants.get(&key) {
            return *known;
        }
        self.values.push(ValueRecord { value: Value::Const(value), dtype });
        let id = ValueId(self.values.len() as u32 - 1);
        self.first.push(Stmt::Let(id));
        self.constants.insert(key, id);
        id
    }
}
