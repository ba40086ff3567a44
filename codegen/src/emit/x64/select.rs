//! Selection: the kernel's statements in order, as machine operations. Groups, loops, conditions and cells.

use std::collections::HashMap;

use iced_x86::Code;
use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr, ScalarOp, Symbol};

use super::isa::Level;
use super::machine::{
    ARGUMENTS, Access, Address, Base, Class, Code64, Division, Item, Label, Operand, Operation, Reg, View,
};
use super::uses::{Uses, values_of};
use crate::kernel::{CellId, GRID_AXIS, Kernel, Memory, Stmt, Value, ValueId, Varying};

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
    code: Vec<Item>,
    /// What comes before the block, once.
    pub(super) before: Vec<Item>,
    /// What each turn adds to registers.
    pub(super) steps: Vec<(Reg, i32)>,
    /// Whether the block is repeated.
    repeated: bool,
}

impl Scope {
    fn new(repeated: bool) -> Scope {
        let (known, slots) = (HashMap::new(), HashMap::new());
        Scope { known, slots, code: Vec::new(), before: Vec::new(), steps: Vec::new(), repeated }
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

/// The lanes that take part in the statements being selected, where not all do.
#[derive(Clone)]
pub(super) struct Mask {
    pub(super) register: Reg,
}

/// One function under construction.
pub(super) struct Selector<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) level: Level,
    /// Whether there is an instruction for `Dot4`.
    pub(super) has_dot: bool,
    pub(super) varying: Varying,
    pub(super) uses: Uses,
    pub(super) code: Code64,
    pub(super) held: Vec<Option<Held>>,
    pub(super) mask: Option<Mask>,
    pub(super) axes: HashMap<u16, (Reg, usize)>,
    pub(super) symbols: HashMap<Symbol, Reg>,
    pub(super) memories: HashMap<Memory, Reg>,
    pub(super) scopes: Vec<Scope>,
    cells: Vec<Reg>,
    /// Values that are the content of a cell, and share its register as long as it keeps that.
    aliases: HashMap<CellId, Vec<ValueId>>,
    /// How often each value will still be mentioned.
    left: Vec<u32>,
    /// To which scope operations are added.
    place: usize,
    labels: u32,
}

/// The kernel as machine operations.
pub(super) fn select(kernel: &Kernel, level: Level, has_dot: bool) -> Code64 {
    let uses = Uses::of(kernel);
    let left = (0..kernel.values.len()).map(|value| uses.count(ValueId(value as u32))).collect();
    let mut selector = Selector {
        kernel,
        level,
        has_dot,
        varying: kernel.varying(),
        uses,
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

    fn open(&mut self, repeated: bool) {
        self.scopes.push(Scope::new(repeated));
        self.place = self.depth();
    }

    /// Ends a block: what comes before it, `entry`, its operations, what each turn adds, and `exit`.
    fn close(&mut self, entry: Vec<Item>, exit: Vec<Item>) {
        let scope = self.scopes.pop().expect("a block was opened");
        self.place = self.depth();
        let steps: Vec<Item> = scope.steps.iter().map(|(reg, step)| add(*reg, *step)).collect();
        let code = &mut self.scopes[self.place].code;
        for part in [scope.before, entry, scope.code, steps, exit] {
            code.extend(part);
        }
    }

    /// The entry: addresses, symbols and cells; then a loop over the groups asked for.
    fn groups(&mut self) {
        let [params, symbols, first, end] = [0, 1, 2, 3].map(|at| {
            let argument = Address::of(Base::Frame(ARGUMENTS + 8 * at));
            self.general_from(Code::Mov_r64_rm64, argument)
        });
        self.bind(params, symbols);
        // Directions of a single group have no axis.
        let wide: Vec<usize> = (0..3).filter(|d| self.kernel.grid[*d].as_int() != Some(1)).collect();
        let extents: Vec<Reg> = wide.iter().map(|d| self.grid_extent(*d)).collect();
        let flat = self.copy(first);
        let here = match wide.len() {
            0 | 1 => vec![flat; wide.len()],
            _ => self.coordinates(first, &extents),
        };
        let (head, exit) = (self.new_label(), self.new_label());
        self.open(true);
        for (direction, at) in wide.iter().zip(&here) {
            self.axes.insert(GRID_AXIS + *direction as u16, (*at, 1));
        }
        let kernel = self.kernel;
        self.block(&kernel.body);
        self.push(add(flat, 1));
        if wide.len() > 1 {
            self.following(&here, &extents);
        }
        let compare = compare(flat, Operand::Reg(end, View::Quad));
        let entry =
            vec![compare, Item::Branch(Code::Jae_rel32_64, exit), Item::Label { label: head, head: true }];
        let again =
            vec![compare, Item::Branch(Code::Jb_rel32_64, head), Item::Label { label: exit, head: false }];
        self.close(entry, again);
    }

    /// Loads what the caller passes in memory, and gives registers and places to what a group has.
    fn bind(&mut self, params: Reg, symbols: Reg) {
        for number in 0..self.kernel.params.len() {
            let from = Address::of(Base::Reg(params)).plus(8 * number as i32);
            let address = self.general_from(Code::Mov_r64_rm64, from);
            self.memories.insert(Memory::Param(number as u16), address);
        }
        for (symbol, slot) in &self.kernel.symbols {
            let from = Address::of(Base::Reg(symbols)).plus(4 * *slot as i32);
            let value = self.general_from(Code::Movsxd_r64_rm32, from);
            self.symbols.insert(symbol.clone(), value);
        }
        for (number, shared) in self.kernel.shared.iter().enumerate() {
            let bytes = shared.len * shared.dtype.size() as u32;
            let place = self.code.frame.take(bytes.max(1), 64);
            let address = self.general_from(Code::Lea_r64_m, Address::of(Base::Frame(place)));
            self.memories.insert(Memory::Shared(number as u16), address);
        }
        for dtype in &self.kernel.cells {
            let class = self.class_of(*dtype);
            let cell = self.code.new_reg(class);
            self.cells.push(cell);
        }
    }

    /// The class of the register that carries values of a type.
    pub(super) fn class_of(&self, dtype: DType) -> Class {
        match (dtype, self.level) {
            (DType::Bool, Level::Avx512) => Class::Mask,
            _ => Class::Vector,
        }
    }

    /// The number of groups along a direction, as a divisor: at least 1.
    fn grid_extent(&mut self, direction: usize) -> Reg {
        let extent = self.kernel.grid[direction].maximum(&Expr::int(1));
        self.index(&extent)
    }

    /// The coordinates of a group by its number.
    fn coordinates(&mut self, flat: Reg, extents: &[Reg]) -> Vec<Reg> {
        let mut rest = self.copy(flat);
        let mut coordinates = Vec::new();
        for extent in &extents[..extents.len() - 1] {
            let divide = |selector: &mut Self, remainder| {
                let to = selector.code.new_reg(Class::General);
                let division = Division { to, dividend: rest, divisor: *extent, signed: false, remainder };
                selector.push(Item::Divide(division));
                to
            };
            coordinates.push(divide(self, true));
            rest = divide(self, false);
        }
        coordinates.push(rest);
        coordinates
    }

    /// Makes the coordinates those of the following group.
    fn following(&mut self, here: &[Reg], extents: &[Reg]) {
        let done = self.new_label();
        for (at, extent) in here.iter().zip(extents).take(here.len() - 1) {
            self.push(add(*at, 1));
            self.push(compare(*at, Operand::Reg(*extent, View::Quad)));
            self.push(Item::Branch(Code::Jb_rel32_64, done));
            self.push(immediate(*at, 0));
        }
        self.push(add(*here.last().expect("a grid has several directions here"), 1));
        self.push(Item::Label { label: done, head: false });
    }

    fn block(&mut self, body: &'k [Stmt]) {
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

    fn operands(&self, value: ValueId) -> Vec<ValueId> {
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
            Value::Load { memory, at } => Place::Lanes(self.load(*memory, at, target)),
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

    /// Whether a value is computed by the operation that uses it.
    fn waits(&self, value: ValueId) -> bool {
        if !self.uses.once_nearby(value) {
            return false;
        }
        let record = self.kernel.record(value);
        match &record.value {
            Value::Load { memory, at } => {
                let fixed = self.kernel.access(*memory) == Some(crate::kernel::Access::Read);
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
    fn target(&mut self, value: ValueId, rest: &[Stmt]) -> Option<Reg> {
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

    /// Copies what shares a cell's register and is still wanted, beside what `spent` mentions, before it changes.
    fn keep_aliases(&mut self, cell: CellId, spent: &[ValueId]) {
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

    fn set(&mut self, cell: CellId, value: ValueId) {
        let register = self.cells[cell.0 as usize];
        if let Some(Held { place: Place::Lanes(held), .. }) = self.held[value.0 as usize]
            && held == register
        {
            return;
        }
        self.keep_aliases(cell, &[value]);
        let new = self.lanes_of(value);
        match self.mask.clone() {
            None => self.push(Item::Copy { to: register, from: new }),
            Some(mask) => self.choose_to(register, mask.register, new, register),
        }
    }

    fn repeat(&mut self, axis: u16, extent: &'k Expr, body: &'k [Stmt]) {
        for cell in self.uses.set_in(body) {
            self.keep_aliases(cell, &[]);
        }
        let count = match self.small(extent) {
            Some(count) => Operand::Immediate(count),
            None => Operand::Reg(self.index(extent), View::Quad),
        };
        let at = self.code.new_reg(Class::General);
        let (head, exit) = (self.new_label(), self.new_label());
        self.open(true);
        let depth = self.depth();
        self.scopes[depth].before.push(immediate(at, 0));
        self.axes.insert(axis, (at, depth));
        self.block(body);
        self.scopes[depth].steps.push((at, 1));
        let mut entry = Vec::new();
        if extent.low() <= 0 {
            entry.extend([compare(at, count), Item::Branch(Code::Jge_rel32_64, exit)]);
        }
        entry.push(Item::Label { label: head, head: true });
        let again = vec![
            compare(at, count),
            Item::Branch(Code::Jl_rel32_64, head),
            Item::Label { label: exit, head: false },
        ];
        self.close(entry, again);
    }

    fn when(&mut self, cond: &'k Expr, body: &'k [Stmt]) {
        let after = self.new_label();
        let entry = self.branch_unless(cond, after);
        self.conditional(entry, after, body);
    }

    /// Runs the body unless `entry` leaves for `after`.
    fn conditional(&mut self, entry: Vec<Item>, after: Label, body: &'k [Stmt]) {
        for cell in self.uses.set_in(body) {
            self.keep_aliases(cell, &[]);
        }
        self.open(false);
        self.block(body);
        self.close(entry, vec![Item::Label { label: after, head: false }]);
    }

    /// Runs the body for the lanes for which the condition holds, if there are any.
    fn masked(&mut self, cond: &'k Expr, body: &'k [Stmt]) {
        for cell in self.uses.set_in(body) {
            self.keep_aliases(cell, &[]);
        }
        let outer = self.mask.take();
        let mut register = self.lane_mask(cond);
        if let Some(outer) = &outer {
            register = self.both(outer.register, register);
        }
        let after = self.new_label();
        // Where it is known that some lane takes part, nobody looks.
        let known =
            outer.is_none() && self.fixed(cond).is_some_and(|each| each.iter().any(|lane| *lane != 0));
        let entry = if known { Vec::new() } else { self.branch_unless_any(register, after) };
        self.mask = Some(Mask { register });
        self.conditional(entry, after, body);
        self.mask = outer;
    }

    /// An integer constant that fits an instruction.
    pub(super) fn small(&self, x: &Expr) -> Option<i64> {
        x.as_int().filter(|value| i32::try_from(*value).is_ok())
    }

    /// Compares and branches that go to `label` if a condition, the same for all lanes, does not hold.
    fn branch_unless(&mut self, cond: &Expr, label: Label) -> Vec<Item> {
        let unless = |selector: &mut Self, a: &Expr, b: &Expr, code| {
            let a = selector.index(a);
            let b = match selector.small(b) {
                Some(value) => Operand::Immediate(value),
                None => Operand::Reg(selector.index(b), View::Quad),
            };
            vec![compare(a, b), Item::Branch(code, label)]
        };
        match cond.kind() {
            Kind::Lt(a, b) => unless(self, a, b, Code::Jge_rel32_64),
            Kind::Eq(a, b) => unless(self, a, b, Code::Jne_rel32_64),
            Kind::And(parts) => parts.iter().flat_map(|part| self.branch_unless(part, label)).collect(),
            _ => unless(self, cond, &Expr::int(0), Code::Je_rel32_64),
        }
    }
}

/// Adds a constant in place.
fn add(reg: Reg, value: i32) -> Item {
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
