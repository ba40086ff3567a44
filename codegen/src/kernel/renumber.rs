//! Canonical numbers: values, cells and loop axes in the order in which the body first mentions them.

use std::collections::HashMap;

use jtllm_ir::Expr;
use jtllm_ir::expr::Kind;

use super::{CellId, FragmentId, Kernel, LOOP_AXIS, Panel, Stmt, Value, ValueId};

/// Stands for whatever a kernel mentions without having it.
const NOWHERE: u32 = u32::MAX;

#[derive(Default)]
struct Numbers {
    values: HashMap<ValueId, ValueId>,
    /// Old numbers, by new ones.
    order: Vec<ValueId>,
    cells: HashMap<CellId, CellId>,
    cell_order: Vec<CellId>,
    fragments: HashMap<FragmentId, FragmentId>,
    fragment_order: Vec<FragmentId>,
    axes: HashMap<u16, Expr>,
    next_axis: u16,
}

impl Kernel {
    /// The kernel with canonical numbers; values, cells and fragments that the body does not mention are gone.
    pub fn renumbered(&self) -> Kernel {
        let mut numbers = Numbers { next_axis: LOOP_AXIS, ..Numbers::default() };
        let mut kernel = Kernel {
            values: Vec::new(),
            cells: Vec::new(),
            fragments: Vec::new(),
            body: Vec::new(),
            ..self.clone()
        };
        kernel.body = numbers.block(self, &self.body);
        // Records are renumbered after the body: by then every axis and value has its number.
        let mut at = 0;
        while let Some(old) = numbers.order.get(at) {
            let record = self.record(*old);
            let value = numbers.value(self, &record.value);
            kernel.values.push(super::ValueRecord { value, dtype: record.dtype });
            at += 1;
        }
        kernel.cells = numbers.cell_order.iter().map(|cell| self.cells[cell.0 as usize]).collect();
        kernel.fragments = numbers.fragment_order.iter().filter_map(|id| self.fragment(*id)).collect();
        kernel
    }
}

impl Numbers {
    fn value_id(&mut self, kernel: &Kernel, id: ValueId) -> ValueId {
        if id.0 as usize >= kernel.values.len() {
            return ValueId(NOWHERE);
        }
        *self.values.entry(id).or_insert_with(|| {
            self.order.push(id);
            ValueId(self.order.len() as u32 - 1)
        })
    }

    fn cell_id(&mut self, kernel: &Kernel, id: CellId) -> CellId {
        if id.0 as usize >= kernel.cells.len() {
            return CellId(NOWHERE);
        }
        *self.cells.entry(id).or_insert_with(|| {
            self.cell_order.push(id);
            CellId(self.cell_order.len() as u32 - 1)
        })
    }

    fn fragment_id(&mut self, kernel: &Kernel, id: FragmentId) -> FragmentId {
        if kernel.fragment(id).is_none() {
            return FragmentId(NOWHERE);
        }
        *self.fragments.entry(id).or_insert_with(|| {
            self.fragment_order.push(id);
            FragmentId(self.fragment_order.len() as u32 - 1)
        })
    }

    fn expr(&mut self, kernel: &Kernel, x: &Expr) -> Expr {
        x.substitute(&mut |leaf| match leaf.kind() {
            Kind::Axis { index, .. } => self.axes.get(index).cloned(),
            Kind::Extra { slot, at, low, end } => {
                let id = self.value_id(kernel, ValueId(*slot));
                let end = self.expr(kernel, end);
                Some(Expr::extra(id.0, at.clone(), *low, &end))
            }
            _ => None,
        })
    }

    fn value(&mut self, kernel: &Kernel, value: &Value) -> Value {
        match value {
            Value::Const(constant) => Value::Const(*constant),
            Value::Index(x) => Value::Index(self.expr(kernel, x)),
            Value::Cell(cell) => Value::Cell(self.cell_id(kernel, *cell)),
            Value::Load { memory, at } => Value::Load { memory: *memory, at: self.expr(kernel, at) },
            Value::Scalar(op, xs) => {
                Value::Scalar(*op, xs.iter().map(|x| self.value_id(kernel, *x)).collect())
            }
            Value::LaneReduce(monoid, x) => Value::LaneReduce(*monoid, self.value_id(kernel, *x)),
        }
    }

    fn panel(&mut self, kernel: &Kernel, panel: &Panel) -> Panel {
        Panel { at: self.expr(kernel, &panel.at), ..*panel }
    }

    fn block(&mut self, kernel: &Kernel, body: &[Stmt]) -> Vec<Stmt> {
        body.iter().map(|stmt| self.statement(kernel, stmt)).collect()
    }

    fn statement(&mut self, kernel: &Kernel, stmt: &Stmt) -> Stmt {
        match stmt {
            Stmt::Let(id) => {
                // Cells count as mentioned where they are read, like values where they are defined.
                if let Some(Value::Cell(cell)) = kernel.values.get(id.0 as usize).map(|record| &record.value)
                {
                    self.cell_id(kernel, *cell);
                }
                Stmt::Let(self.value_id(kernel, *id))
            }
            Stmt::Set(cell, value) => Stmt::Set(self.cell_id(kernel, *cell), self.value_id(kernel, *value)),
            Stmt::Store { memory, at, value } => {
                let at = self.expr(kernel, at);
                Stmt::Store { memory: *memory, at, value: self.value_id(kernel, *value) }
            }
            Stmt::Loop { axis, extent, body } => {
                let extent = self.expr(kernel, extent);
                let new = self.next_axis;
                self.next_axis = self.next_axis.saturating_add(1);
                self.axes.insert(*axis, Expr::axis(new, &extent));
                Stmt::Loop { axis: new, extent, body: self.block(kernel, body) }
            }
            Stmt::If { cond, body } => {
                let cond = self.expr(kernel, cond);
                Stmt::If { cond, body: self.block(kernel, body) }
            }
            Stmt::Barrier
            | Stmt::StageCommit
            | Stmt::StageWait { .. }
            | Stmt::ProductWait { .. }
            | Stmt::Publish => stmt.clone(),
            Stmt::Product { sums, left, right, depth } => {
                let sums = sums.iter().map(|sum| self.fragment_id(kernel, *sum)).collect();
                let [left, right] = [left, right].map(|panel| self.panel(kernel, panel));
                Stmt::Product { sums, left, right, depth: *depth }
            }
            Stmt::Clear(sum) => Stmt::Clear(self.fragment_id(kernel, *sum)),
            Stmt::Fetch { fragment, memory, at, stride, turned } => {
                let (fragment, at) = (self.fragment_id(kernel, *fragment), self.expr(kernel, at));
                Stmt::Fetch { fragment, memory: *memory, at, stride: *stride, turned: *turned }
            }
            Stmt::Mma { sum, left, right } => {
                let [sum, left, right] = [sum, left, right].map(|id| self.fragment_id(kernel, *id));
                Stmt::Mma { sum, left, right }
            }
            Stmt::Spill { sum, memory, at, stride } => {
                let (sum, at) = (self.fragment_id(kernel, *sum), self.expr(kernel, at));
                Stmt::Spill { sum, memory: *memory, at, stride: *stride }
            }
            Stmt::Scale { sum, memory, at, stride } => {
                let (sum, at) = (self.fragment_id(kernel, *sum), self.expr(kernel, at));
                Stmt::Scale { sum, memory: *memory, at, stride: *stride }
            }
            Stmt::Stage { to, at, from, from_at } => {
                let (at, from_at) = (self.expr(kernel, at), self.expr(kernel, from_at));
                Stmt::Stage { to: *to, at, from: *from, from_at }
            }
        }
    }
}
