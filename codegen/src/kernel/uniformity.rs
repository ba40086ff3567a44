//! Which values and cells of a kernel differ between lanes.

use super::{CellId, Kernel, LANE_AXIS, Memory, Stmt, Value, ValueId};
use jtllm_ir::Expr;
use jtllm_ir::expr::Kind;

/// The answer of [`Kernel::varying`].
pub struct Varying {
    values: Vec<bool>,
    cells: Vec<bool>,
}

impl Varying {
    /// Starts from "nothing varies" and repeats until no cell changes: cells make it a fixed point.
    pub(super) fn of(kernel: &Kernel) -> Varying {
        let mut varying =
            Varying { values: vec![false; kernel.values.len()], cells: vec![false; kernel.cells.len()] };
        loop {
            let before = varying.cells.clone();
            varying.block(kernel, &kernel.body, false);
            if varying.cells == before {
                return varying;
            }
        }
    }

    /// Whether a value differs between lanes.
    pub fn value(&self, value: ValueId) -> bool {
        self.values[value.0 as usize]
    }

    /// Whether a cell differs between lanes.
    pub fn cell(&self, cell: CellId) -> bool {
        self.cells[cell.0 as usize]
    }

    /// Whether an index expression differs between lanes.
    pub fn expr(&self, x: &Expr) -> bool {
        x.any(&mut |leaf| match leaf.kind() {
            Kind::Axis { index, .. } => *index == LANE_AXIS,
            Kind::Extra { slot, .. } => self.values.get(*slot as usize).copied().unwrap_or(false),
            _ => false,
        })
    }

    fn block(&mut self, kernel: &Kernel, body: &[Stmt], divergent: bool) {
        for stmt in body {
            match stmt {
                Stmt::Let(value) => {
                    let varies = self.computed(kernel, *value) || divergent_load(kernel, *value, divergent);
                    self.values[value.0 as usize] = varies;
                }
                Stmt::Set(cell, value) => {
                    let varies = divergent || self.value(*value);
                    self.cells[cell.0 as usize] |= varies;
                }
                Stmt::Loop { body, .. } => self.block(kernel, body, divergent),
                Stmt::If { cond, body } => {
                    let divergent = divergent || self.expr(cond);
                    self.block(kernel, body, divergent);
                }
                // What the others change are memories and fragments, which are not told apart here.
                _ => {}
            }
        }
    }

    fn computed(&self, kernel: &Kernel, value: ValueId) -> bool {
        match &kernel.record(value).value {
            Value::Const(_) | Value::LaneReduce(..) => false,
            Value::Index(x) => self.expr(x),
            Value::Cell(cell) => self.cell(*cell),
            Value::Load { at, .. } => self.expr(at),
            Value::Scalar(_, xs) => xs.iter().any(|x| self.value(*x)),
        }
    }
}

/// A load under a varying condition counts as varying: lanes that do not take part have no value.
fn divergent_load(kernel: &Kernel, value: ValueId, divergent: bool) -> bool {
    divergent
        && matches!(
            kernel.record(value).value,
            Value::Load { memory: Memory::Param(_) | Memory::Shared(_), .. }
        )
}
