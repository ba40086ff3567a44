//! Selection: the kernel's statements in order, as machine operations. Groups, loops, conditions and cells.

use std::collections::HashMap;

use iced_x86::Code;
use jtllm_ir::{DType, Expr, Symbol};

use super::isa::{Beside, Level};
use super::machine::{Access, Class, Code64, Item, Label, Operand, Operation, Reg, View};
use super::uses::{Uses, values_of};
use super::words::Runs;
use crate::kernel::{CellId, Kernel, Memory, Stmt, Value, ValueId, Varying};

/// What has been computed and need not be computed again.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Known {
    /// An index expression, or whether it is not 0, as an integer.
    Index(Expr),
    /// An index expression's values in all lanes, as 32-bit integers.
    Lanes(Expr),
    /// Where an index expression is not 0.
    Mask(Expr),
    /// The address of a memory's byte.
    Pointer(Memory, Expr),
    /// A value that is in a general register, in all lanes.
    Splat(ValueId),
    /// A value of all lanes in a general register.
    General(ValueId),
    /// Elements, one word each.
    Constant(Vec<u32>),
    /// The same truth for all lanes.
    Truth(bool),
}

/// A block of the kernel that is open.
pub(super) struct Scope {
    pub(super) known: HashMap<Known, Reg>,
    /// Where lanes of values lie in the frame.
    pub(super) slots: HashMap<ValueId, u32>,
    /// The halves of words, where products of pairs are made of them.
    pub(super) halves: HashMap<ValueId, [Reg; 2]>,
    /// Whether they are.
    pub(super) by_halves: bool,
    /// Bytes of words as words of 16 bits, signed or not: the even ones, the odd ones.
    pub(super) bytes: HashMap<(ValueId, bool), [Reg; 2]>,
    /// The magnitudes of words' bytes.
    pub(super) magnitudes: HashMap<ValueId, Reg>,
    code: Vec<Item>,
    /// What comes before the block, once.
    pub(super) before: Vec<Item>,
    /// What each turn adds to registers.
    pub(super) steps: Vec<(Reg, i32)>,
    /// Whether the block is repeated.
    pub(super) repeated: bool,
}

impl Scope {
    fn new(repeated: bool) -> Scope {
        Scope {
            known: HashMap::new(),
            slots: HashMap::new(),
            halves: HashMap::new(),
            by_halves: false,
            bytes: HashMap::new(),
            magnitudes: HashMap::new(),
            code: Vec::new(),
            before: Vec::new(),
            steps: Vec::new(),
            repeated,
        }
    }
}

/// A kernel's value, and where it was computed.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) place: Place,
    pub(super) depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A vector, or a mask for truth values.
    Lanes(Reg),
    /// An integer, the same for all lanes.
    General(Reg),
    /// A word of the frame, the same for all lanes.
    Slot(u32),
    /// Computed where it is used: once, in the same block.
    Later,
}

/// One function under construction.
pub(super) struct Selector<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) level: Level,
    pub(super) beside: Beside,
    pub(super) varying: Varying,
    pub(super) uses: Uses,
    /// Where products of bytes are added as words of 16 bits for a while.
    pub(super) runs: Runs,
    /// The words of runs that are under way.
    pub(super) words: HashMap<ValueId, Reg>,
    pub(super) code: Code64,
    pub(super) held: Vec<Option<Held>>,
    /// The lanes that take part in the statements being selected, where not all do.
    pub(super) mask: Option<Reg>,
    pub(super) axes: HashMap<u16, (Reg, usize)>,
    pub(super) symbols: HashMap<Symbol, Reg>,
    pub(super) memories: HashMap<Memory, Reg>,
    pub(super) scopes: Vec<Scope>,
    pub(super) cells: Vec<Reg>,
    /// Values that are the content of a cell, and share its register as long as it keeps that.
    pub(super) aliases: HashMap<CellId, Vec<ValueId>>,
    /// How often each value will still be mentioned.
    pub(super) left: Vec<u32>,
    /// To which scope operations are added.
    place: usize,
    labels: u32,
}

/// The kernel as machine operations.
pub(super) fn select(kernel: &Kernel, level: Level, beside: Beside) -> Code64 {
    let uses = Uses::of(kernel);
    let left = (0..kernel.values.len()).map(|value| uses.count(ValueId(value as u32))).collect();
    let runs = match beside.dot {
        true => Runs::default(),
        false => Runs::of(kernel, &|value| uses.once_nearby(value)),
    };
    let mut selector = Selector {
        kernel,
        level,
        beside,
        varying: kernel.varying(),
        uses,
        runs,
        words: HashMap::new(),
        code: Code64::default(),
        held: vec![None; kernel.values.len()],
        mask: None,
        axes: HashMap::new(),
        symbols: HashMap::new(),
        memories: HashMap::new(),
        scopes: vec![Scope::new(false)],
        cells: Vec::new(),
        aliases: HashMap::new(),
        left,
        place: 0,
        labels: 0,
    };
    selector.groups();
    let entry = selector.scopes.pop().expect("the entry stays open");
    selector.code.items = entry.code;
    selector.code
}

impl<'k> Selector<'k> {
    pub(super) fn push(&mut self, item: Item) {
        self.scopes[self.place].code.push(item);
    }

    /// The number of the innermost scope; 0 is the function's entry, 1 the body of a group.
    pub(super) fn depth(&self) -> usize {
        self.scopes.len() - 1
    }

    /// The scope in which something that needs scope `needed` is computed: before the outermost loop in which it stays
    /// the same, but not before a condition that nothing repeats.
    pub(super) fn place_of(&self, needed: usize) -> usize {
        let outermost = (needed + 1..self.scopes.len()).find(|scope| self.scopes[*scope].repeated);
        outermost.map_or(self.depth(), |scope| scope - 1)
    }

    /// What `key` stands for, computed by `compute` in the scope that it needs unless it is known.
    pub(super) fn know(&mut self, key: Known, needed: usize, compute: impl FnOnce(&mut Self) -> Reg) -> Reg {
        if let Some(known) = self.scopes.iter().rev().find_map(|scope| scope.known.get(&key)) {
            return *known;
        }
        let place = self.place_of(needed);
        let register = self.at(place, compute);
        self.scopes[place].known.insert(key, register);
        register
    }

    /// Adds what `compute` selects to a scope further out.
    pub(super) fn at<R>(&mut self, place: usize, compute: impl FnOnce(&mut Self) -> R) -> R {
        let outer = std::mem::replace(&mut self.place, place);
        let result = compute(self);
        self.place = outer;
        result
    }

    pub(super) fn new_label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    pub(super) fn open(&mut self, repeated: bool) {
        self.scopes.push(Scope::new(repeated));
        self.place = self.depth();
    }

    /// Ends a block: what comes before it, `entry`, its operations, what each turn adds, and `exit`.
    pub(super) fn close(&mut self, entry: Vec<Item>, exit: Vec<Item>) {
        let scope = self.scopes.pop().expect("a block was opened");
        self.place = self.depth();
        let steps: Vec<Item> = scope.steps.iter().map(|(reg, step)| add(*reg, *step)).collect();
        let code = &mut self.scopes[self.place].code;
        for part in [scope.before, entry, scope.code, steps, exit] {
            code.extend(part);
        }
    }

    /// The class of the register that carries values of a type.
    pub(super) fn class_of(&self, dtype: DType) -> Class {
        match (dtype, self.level) {
            (DType::Bool, Level::Avx512) => Class::Mask,
            _ => Class::Vector,
        }
    }

    pub(super) fn block(&mut self, body: &'k [Stmt]) {
        for (at, stmt) in body.iter().enumerate() {
            match stmt {
                Stmt::Let(value) => self.define(*value, &body[at + 1..]),
                Stmt::Set(cell, value) => self.set(*cell, *value),
                Stmt::Store { memory, at, value } => self.store(*memory, at, *value),
                Stmt::Loop { axis, extent, body } => self.repeat(*axis, extent, body),
                Stmt::If { cond, body } if self.varying.expr(cond) => self.masked(cond, body),
                Stmt::If { cond, body } => self.when(cond, body),
                // The lanes of a register are in step; matrix units and asynchronous copies are refused before.
                _ => {}
            }
            for value in self.mentions(stmt) {
                self.left[value.0 as usize] -= 1;
            }
        }
    }

    /// The values that a statement uses. What is computed later is part of the statement that uses it.
    fn mentions(&self, stmt: &Stmt) -> Vec<ValueId> {
        let mut found: Vec<ValueId> = stmt.exprs().into_iter().flat_map(values_of).collect();
        match stmt {
            Stmt::Let(value) if self.is_later(*value) => {}
            Stmt::Let(value) => found.extend(self.operands(*value)),
            Stmt::Set(_, value) | Stmt::Store { value, .. } => found.push(*value),
            _ => {}
        }
        let mut at = 0;
        while at < found.len() {
            if self.is_later(found[at]) {
                found.extend(self.operands(found[at]));
            }
            at += 1;
        }
        found
    }

    pub(super) fn operands(&self, value: ValueId) -> Vec<ValueId> {
        match &self.kernel.record(value).value {
            Value::Index(x) | Value::Load { at: x, .. } => values_of(x),
            Value::Scalar(_, xs) => xs.clone(),
            Value::LaneReduce(_, x) => vec![*x],
            Value::Const(_) | Value::Cell(_) => Vec::new(),
        }
    }

    /// How often a value will still be used, the statement being selected included.
    pub(super) fn left(&self, value: ValueId) -> u32 {
        self.left[value.0 as usize]
    }

    pub(super) fn is_later(&self, value: ValueId) -> bool {
        matches!(self.held[value.0 as usize], Some(Held { place: Place::Later, .. }))
    }

    fn define(&mut self, value: ValueId, rest: &'k [Stmt]) {
        let kernel = self.kernel;
        let record = kernel.record(value);
        let wide = self.varying.value(value);
        let target = self.target(value, rest);
        let place = match &record.value {
            // Constants are made where they are wanted.
            Value::Const(_) => return,
            Value::Index(x) => self.index_value(x, record.dtype, wide),
            Value::Cell(cell) => Place::Lanes(self.cells[cell.0 as usize]),
            Value::Load { .. } | Value::Scalar(..) if self.waits(value) => Place::Later,
            Value::Load { memory, at }
                if !wide && !record.dtype.is_float() && self.uses.only_indexes(value) =>
            {
                Place::General(self.load_general(*memory, at))
            }
            Value::Load { .. } => Place::Lanes(self.load(value, target)),
            Value::Scalar(op, operands) => Place::Lanes(self.operation(*op, operands, target)),
            Value::LaneReduce(monoid, _) => {
                // It may have been joined with the one before.
                if self.held[value.0 as usize].is_none() {
                    self.join(*monoid, value, rest);
                }
                return;
            }
        };
        match target {
            Some(_) => self.held[value.0 as usize] = Some(Held { place, depth: self.depth() }),
            None => self.hold(value, place),
        }
    }

    /// An integer constant that fits an instruction.
    pub(super) fn small(&self, x: &Expr) -> Option<i64> {
        x.as_int().filter(|value| i32::try_from(*value).is_ok())
    }
}

/// Adds a constant in place.
pub(super) fn add(reg: Reg, value: i32) -> Item {
    let operands = [Operand::Reg(reg, View::Quad), Operand::Immediate(i64::from(value))];
    Item::Operation(Operation::new(Code::Add_rm64_imm32, Access::Update, &operands))
}

/// Makes a register a small constant.
pub(super) fn immediate(reg: Reg, value: u32) -> Item {
    let operands = [Operand::Reg(reg, View::Double), Operand::Immediate(i64::from(value))];
    Item::Operation(Operation::new(Code::Mov_r32_imm32, Access::Write, &operands))
}

/// Compares a register with a register or a constant.
pub(super) fn compare(a: Reg, b: Operand) -> Item {
    let code = if matches!(b, Operand::Immediate(_)) { Code::Cmp_rm64_imm32 } else { Code::Cmp_r64_rm64 };
    Item::Operation(Operation::new(code, Access::Read, &[Operand::Reg(a, View::Quad), b]))
}
