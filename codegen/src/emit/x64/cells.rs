//! Cells: registers that change in place. A value that is the content of a cell shares its register until it changes.

use jtllm_ir::{DType, ScalarOp};

use super::machine::{Class, Item, Reg};
use super::select::{Held, Place, Selector};
use crate::kernel::{Access, CellId, Stmt, Value, ValueId};

impl<'k> Selector<'k> {
    /// Whether a value is computed by the operation that uses it.
    pub(super) fn waits(&self, value: ValueId) -> bool {
        if !self.uses.once_nearby(value) {
            return false;
        }
        let record = self.kernel.record(value);
        match &record.value {
            Value::Load { memory, at } => {
                let fixed = self.kernel.access(*memory) == Some(Access::Read);
                let plain = !self.varying.expr(at) || (self.mask.is_none() && self.neighbours(at).is_some());
                fixed && plain && record.dtype.size() == 4 && self.uses.made_for(value).is_none()
            }
            Value::Scalar(ScalarOp::Cast(to), xs) => {
                let from = self.kernel.record(xs[0]).dtype;
                self.uses.is_stored(value) && to.size() == 2 && from != *to && from != DType::Bool
            }
            _ => false,
        }
    }

    /// The register of the cell to which a value is set, if it may be computed there: nothing in between looks at the
    /// cell.
    pub(super) fn target(&mut self, value: ValueId, rest: &[Stmt]) -> Option<Reg> {
        let cell = self.uses.made_for(value)?;
        let class = self.class_of(self.kernel.record(value).dtype);
        let computed = matches!(self.kernel.record(value).value, Value::Load { .. } | Value::Scalar(..));
        if self.mask.is_some() || class != Class::Vector || !computed || self.is_renaming(value) {
            return None;
        }
        for stmt in rest {
            match stmt {
                Stmt::Set(other, set) if *set == value => {
                    debug_assert!(*other == cell, "a value that is used once is set once");
                    self.keep_aliases(cell, &self.operands(value));
                    return Some(self.cells[cell.0 as usize]);
                }
                Stmt::Set(other, _) if *other == cell => return None,
                Stmt::Let(other) if matches!(self.kernel.record(*other).value, Value::Cell(c) if c == cell) =>
                {
                    return None;
                }
                Stmt::Loop { .. } | Stmt::If { .. } => return None,
                _ => {}
            }
        }
        None
    }

    /// Whether a value is its operand, read as another type.
    fn is_renaming(&self, value: ValueId) -> bool {
        match &self.kernel.record(value).value {
            Value::Scalar(op, xs) => self.is_same_register(*op, xs),
            _ => false,
        }
    }

    /// A value is the content of a cell.
    pub(super) fn share_cell(&mut self, value: ValueId, cell: CellId) {
        self.hold(value, Place::Lanes(self.cells[cell.0 as usize]));
    }

    /// Notes where a value is; in a cell's register it is only as long as that does not change.
    pub(super) fn hold(&mut self, value: ValueId, place: Place) {
        if let Place::Lanes(register) = place
            && let Some(cell) = self.cells.iter().position(|cell| *cell == register)
        {
            self.aliases.entry(CellId(cell as u32)).or_default().push(value);
        }
        self.held[value.0 as usize] = Some(Held { place, depth: self.depth() });
    }

    /// Copies what shares a cell's register and is still wanted, beside what `spent` mentions, before it changes.
    pub(super) fn keep_aliases(&mut self, cell: CellId, spent: &[ValueId]) {
        let register = self.cells[cell.0 as usize];
        for value in self.aliases.remove(&cell).unwrap_or_default() {
            let spent = spent.iter().filter(|other| **other == value).count() as u32;
            if self.left[value.0 as usize] > spent {
                let copy = self.copy(register);
                let here = self.held.iter_mut().flatten().filter(|held| held.place == Place::Lanes(register));
                here.for_each(|held| held.place = Place::Lanes(copy));
                return;
            }
        }
    }

    pub(super) fn set(&mut self, cell: CellId, value: ValueId) {
        let register = self.cells[cell.0 as usize];
        if let Some(Held { place: Place::Lanes(held), .. }) = self.held[value.0 as usize]
            && held == register
        {
            return;
        }
        self.keep_aliases(cell, &[value]);
        let new = self.lanes_of(value);
        match self.mask {
            None => self.push(Item::Copy { to: register, from: new }),
            Some(mask) => self.choose_to(register, mask, new, register),
        }
    }
}
