//! Who uses a kernel's values, and until when: what need not be computed, and which cells need no copy.

use std::collections::{HashMap, HashSet};

use jtllm_ir::Expr;
use jtllm_ir::expr::Kind;

use super::pattern::{operands, stored};
use crate::kernel::{CellId, Kernel, Stmt, Value, ValueId};

/// The answer for a kernel.
pub(super) struct Uses {
    counts: Vec<u32>,
    /// Values of cells that are used after the cell has changed.
    kept: HashSet<ValueId>,
}

impl Uses {
    pub(super) fn of(kernel: &Kernel) -> Uses {
        let mut uses = Uses { counts: vec![0; kernel.values.len()], kept: HashSet::new() };
        let mut scan = Scan { kernel, uses: &mut uses };
        scan.block(&kernel.body);
        uses
    }

    /// How often a value is used; what spellings take apart does not count.
    pub(super) fn count(&self, id: ValueId) -> u32 {
        self.counts[id.0 as usize]
    }

    /// Whether the value of a cell is used after the cell has changed.
    pub(super) fn outlives(&self, id: ValueId) -> bool {
        self.kept.contains(&id)
    }
}

/// What a statement, or a block, uses and changes.
#[derive(Default)]
struct Touched {
    values: HashSet<ValueId>,
    cells: HashSet<CellId>,
}

struct Scan<'k, 'u> {
    kernel: &'k Kernel,
    uses: &'u mut Uses,
}

impl Scan<'_, '_> {
    fn block(&mut self, body: &[Stmt]) -> Touched {
        let mut all = Touched::default();
        let mut last_use: HashMap<ValueId, usize> = HashMap::new();
        let mut changes: HashMap<CellId, Vec<usize>> = HashMap::new();
        for (at, stmt) in body.iter().enumerate() {
            let touched = self.statement(stmt);
            last_use.extend(touched.values.iter().map(|id| (*id, at)));
            for cell in &touched.cells {
                changes.entry(*cell).or_default().push(at);
            }
            all.values.extend(touched.values);
            all.cells.extend(touched.cells);
        }
        for (at, stmt) in body.iter().enumerate() {
            let Stmt::Let(id) = stmt else { continue };
            let Value::Cell(cell) = self.kernel.record(*id).value else { continue };
            let changes = changes.get(&cell).map_or(&[][..], Vec::as_slice);
            let Some(change) = changes.iter().find(|change| **change > at) else { continue };
            let last = last_use.get(id).copied().unwrap_or(at);
            let inside = matches!(body[*change], Stmt::Loop { .. } | Stmt::If { .. });
            if last > *change || (last == *change && inside) {
                self.uses.kept.insert(*id);
            }
        }
        all
    }

    fn statement(&mut self, stmt: &Stmt) -> Touched {
        let mut touched = Touched::default();
        match stmt {
            Stmt::Let(id) => match &self.kernel.record(*id).value {
                Value::Const(_) | Value::Cell(_) => {}
                Value::Index(x) | Value::Load { at: x, .. } => self.expr(x, &mut touched),
                Value::Scalar(_, xs) => touched.values.extend(xs),
                Value::LaneReduce(_, x) => {
                    self.need(*x);
                    touched.values.insert(*x);
                }
            },
            Stmt::Set(cell, value) => {
                self.need(*value);
                touched.values.insert(*value);
                touched.cells.insert(*cell);
            }
            Stmt::Store { value, .. } => {
                let (value, _) = stored(self.kernel, *value);
                self.need(value);
                touched.values.insert(value);
            }
            Stmt::Loop { body, .. } | Stmt::If { body, .. } => touched = self.block(body),
            _ => {}
        }
        stmt.exprs().into_iter().for_each(|x| self.expr(x, &mut touched));
        touched
    }

    fn expr(&mut self, x: &Expr, touched: &mut Touched) {
        let mut found = Vec::new();
        x.any(&mut |leaf| {
            if let Kind::Extra { slot, .. } = leaf.kind() {
                found.push(ValueId(*slot));
            }
            false
        });
        for id in found {
            self.need(id);
            touched.values.insert(id);
        }
    }

    /// Counts a use, and at the first one those of the operands.
    fn need(&mut self, id: ValueId) {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            let count = &mut self.uses.counts[id.0 as usize];
            *count += 1;
            if *count == 1 && matches!(self.kernel.record(id).value, Value::Scalar(..)) {
                open.extend(operands(self.kernel, id));
            }
        }
    }
}
