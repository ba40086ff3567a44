//! Control flow: groups, loops, conditions.

use iced_x86::Code;
use jtllm_ir::Expr;
use jtllm_ir::expr::Kind;

use super::machine::{ARGUMENTS, Address, Base, Class, Division, Item, Label, Operand, Reg, View};
use super::select::{Selector, add, compare, immediate};
use crate::kernel::{GRID_AXIS, Memory, Stmt};

impl<'k> Selector<'k> {
    /// The entry: addresses, symbols and cells; then a loop over the groups asked for.
    pub(super) fn groups(&mut self) {
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

    pub(super) fn repeat(&mut self, axis: u16, extent: &'k Expr, body: &'k [Stmt]) {
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
        let by_halves = self.beside.slow_dot2 && self.mask.is_none() && self.is_made_of_pairs(body);
        self.scopes[depth].by_halves = by_halves;
        self.block(body);
        self.scopes[depth].steps.push((at, 1));
        let mut entry = Vec::new();
        if by_halves {
            entry.push(self.flush(true));
        }
        if extent.low() <= 0 {
            entry.extend([compare(at, count), Item::Branch(Code::Jge_rel32_64, exit)]);
        }
        entry.push(Item::Label { label: head, head: true });
        let mut again = vec![
            compare(at, count),
            Item::Branch(Code::Jl_rel32_64, head),
            Item::Label { label: exit, head: false },
        ];
        if by_halves {
            again.push(self.flush(false));
        }
        self.close(entry, again);
    }

    pub(super) fn when(&mut self, cond: &'k Expr, body: &'k [Stmt]) {
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
    pub(super) fn masked(&mut self, cond: &'k Expr, body: &'k [Stmt]) {
        for cell in self.uses.set_in(body) {
            self.keep_aliases(cell, &[]);
        }
        let outer = self.mask.take();
        let mut register = self.lane_mask(cond);
        if let Some(outer) = outer {
            register = self.both(outer, register);
        }
        let after = self.new_label();
        // Where it is known that some lane takes part, nobody looks.
        let known =
            outer.is_none() && self.fixed(cond).is_some_and(|each| each.iter().any(|lane| *lane != 0));
        let entry = if known { Vec::new() } else { self.branch_unless_any(register, after) };
        self.mask = Some(register);
        self.conditional(entry, after, body);
        self.mask = outer;
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
