//! Who uses a kernel's values: so often, and where.

use std::collections::HashSet;

use jtllm_ir::Expr;
use jtllm_ir::expr::Kind;

use crate::kernel::{CellId, Kernel, Stmt, Value, ValueId};

/// What is known of one value's uses.
#[derive(Clone, Copy, Default)]
struct Used {
    /// How often it is mentioned.
    count: u32,
    /// How often inside of index expressions.
    in_indices: u32,
    /// The block of its definition.
    defined: u32,
    /// The block of the last use.
    last: u32,
    /// The cell to which it is set, at the last such use.
    set: Option<CellId>,
    /// Whether it is stored.
    stored: bool,
}

/// The uses of all values.
pub(super) struct Uses {
    values: Vec<Used>,
    /// Cells that are set in a loop's or a condition's body, by the address of the body.
    sets: Vec<(*const Stmt, HashSet<CellId>)>,
}

/// The values of an index expression.
pub(super) fn values_of(x: &Expr) -> Vec<ValueId> {
    let mut found = Vec::new();
    x.any(&mut |leaf| {
        if let Kind::Extra { slot, .. } = leaf.kind() {
            found.push(ValueId(*slot));
        }
        false
    });
    found
}

impl Uses {
    pub(super) fn of(kernel: &Kernel) -> Uses {
        let mut uses = Uses { values: vec![Used::default(); kernel.values.len()], sets: Vec::new() };
        let mut blocks = 0;
        uses.block(kernel, &kernel.body, &mut blocks);
        uses
    }

    fn block(&mut self, kernel: &Kernel, body: &[Stmt], blocks: &mut u32) -> HashSet<CellId> {
        *blocks += 1;
        let here = *blocks;
        let mut set = HashSet::new();
        for stmt in body {
            for x in stmt.exprs() {
                self.indices(x, here);
            }
            match stmt {
                Stmt::Let(value) => {
                    self.values[value.0 as usize].defined = here;
                    match &kernel.record(*value).value {
                        Value::Index(x) | Value::Load { at: x, .. } => self.indices(x, here),
                        Value::Scalar(_, xs) => xs.iter().for_each(|x| self.mention(*x, here)),
                        Value::LaneReduce(_, x) => self.mention(*x, here),
                        Value::Const(_) | Value::Cell(_) => {}
                    }
                }
                Stmt::Set(cell, value) => {
                    self.mention(*value, here);
                    self.values[value.0 as usize].set = Some(*cell);
                    set.insert(*cell);
                }
                Stmt::Store { value, .. } => {
                    self.mention(*value, here);
                    self.values[value.0 as usize].stored = true;
                }
                Stmt::Loop { body, .. } | Stmt::If { body, .. } => {
                    let inner = self.block(kernel, body, blocks);
                    self.sets.push((body.as_ptr(), inner.clone()));
                    set.extend(inner);
                }
                _ => {}
            }
        }
        set
    }

    fn mention(&mut self, value: ValueId, block: u32) {
        let used = &mut self.values[value.0 as usize];
        used.count += 1;
        used.last = block;
    }

    fn indices(&mut self, x: &Expr, block: u32) {
        for value in values_of(x) {
            self.mention(value, block);
            self.values[value.0 as usize].in_indices += 1;
        }
    }

    /// How often a value is mentioned.
    pub(super) fn count(&self, value: ValueId) -> u32 {
        self.values[value.0 as usize].count
    }

    /// Whether a value is mentioned inside of index expressions, and nowhere else.
    pub(super) fn only_indexes(&self, value: ValueId) -> bool {
        let used = &self.values[value.0 as usize];
        used.count > 0 && used.count == used.in_indices
    }

    /// Whether a value is stored.
    pub(super) fn is_stored(&self, value: ValueId) -> bool {
        self.values[value.0 as usize].stored
    }

    /// Whether a value is used once, in the block of its definition, and not in an index expression.
    pub(super) fn once_nearby(&self, value: ValueId) -> bool {
        let used = &self.values[value.0 as usize];
        used.count == 1 && used.in_indices == 0 && used.defined == used.last
    }

    /// The cell that a value is made for, if it has no other use and is set where it is defined.
    pub(super) fn made_for(&self, value: ValueId) -> Option<CellId> {
        self.values[value.0 as usize].set.filter(|_| self.once_nearby(value))
    }

    /// The cells that a block sets.
    pub(super) fn set_in(&self, body: &[Stmt]) -> Vec<CellId> {
        let found = self.sets.iter().find(|(start, _)| std::ptr::eq(*start, body.as_ptr()));
        found.map(|(_, set)| set.iter().copied().collect()).unwrap_or_default()
    }
}
