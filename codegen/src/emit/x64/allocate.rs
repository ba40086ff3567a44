//! Places for virtual registers: a linear scan over their intervals.
//!
//! Where registers run out, what is cheapest to keep elsewhere goes to the frame, or is made anew where it is a
//! constant; then the scan starts again with short intervals in its place. It ends because those are never sent
//! away, and no instruction names as many registers as there are.

use iced_x86::Code;

use super::isa::{Level, Op};
use super::live::{Interval, intervals};
use super::machine::{Access, Address, Base, Class, Code64, Fold, Item, Operand, Operation, Reg, View};

/// General registers by number, those first that a function need not keep; not the stack's.
const GENERAL: [u8; 15] = [0, 1, 2, 6, 7, 8, 9, 10, 11, 3, 5, 12, 13, 14, 15];

/// How many registers of each class may be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) general: usize,
    pub(super) vectors: usize,
    pub(super) masks: usize,
}

impl Limits {
    pub(super) fn of(level: Level) -> Limits {
        Limits { general: GENERAL.len(), vectors: if level == Level::Avx512 { 32 } else { 16 }, masks: 7 }
    }

    /// The same, but no class has more than `most`.
    pub(super) fn at_most(self, most: usize) -> Limits {
        let Limits { general, vectors, masks } = self;
        Limits { general: general.min(most), vectors: vectors.min(most), masks: masks.min(most) }
    }

    /// The numbers of a class's registers.
    fn numbers(&self, class: Class) -> Vec<u8> {
        match class {
            Class::General => GENERAL[..self.general].to_vec(),
            Class::Vector => (0..self.vectors as u8).collect(),
            // The first one means "no mask" in an instruction.
            Class::Mask => (1..=self.masks as u8).collect(),
        }
    }
}

/// The number of each virtual register; what does not occur has none.
pub(super) fn allocate(code: &mut Code64, level: Level, limits: Limits) -> Vec<Option<u8>> {
    let mut brief = Vec::new();
    loop {
        brief.resize(code.classes.len(), false);
        match Scan::new(code, limits, &brief).run(&intervals(code)) {
            Ok(places) => return places,
            Err(spilled) => {
                let first_new = code.classes.len();
                Spill::new(code, level, &spilled).rewrite();
                brief.resize(first_new, false);
                brief.resize(code.classes.len(), true);
            }
        }
    }
}

struct Scan<'c> {
    code: &'c Code64,
    brief: &'c [bool],
    /// The registers of each class that are free, the preferred one last.
    free: [Vec<u8>; 3],
    active: Vec<Interval>,
    places: Vec<Option<u8>>,
    /// The other side of a copy.
    hints: Vec<Option<Reg>>,
    spilled: Vec<Reg>,
}

impl<'c> Scan<'c> {
    fn new(code: &'c Code64, limits: Limits, brief: &'c [bool]) -> Scan<'c> {
        let free = [Class::General, Class::Vector, Class::Mask].map(|class| {
            let mut numbers = limits.numbers(class);
            numbers.reverse();
            numbers
        });
        let mut hints = vec![None; code.classes.len()];
        for item in &code.items {
            if let Item::Copy { to, from } = item {
                hints[to.0 as usize] = Some(*from);
            }
        }
        let places = vec![None; code.classes.len()];
        Scan { code, brief, free, active: Vec::new(), places, hints, spilled: Vec::new() }
    }

    fn run(mut self, intervals: &[Interval]) -> Result<Vec<Option<u8>>, Vec<Reg>> {
        for interval in intervals {
            self.expire(interval.start);
            let class = self.code.class(interval.reg);
            if let Some(number) = self.take(class, interval.reg) {
                self.places[interval.reg.0 as usize] = Some(number);
                self.active.push(*interval);
            } else {
                self.make_room(interval, class);
            }
        }
        if self.spilled.is_empty() { Ok(self.places) } else { Err(self.spilled) }
    }

    fn expire(&mut self, now: u32) {
        let (done, active) = self.active.iter().partition(|interval| interval.end <= now);
        self.active = active;
        let done: Vec<Interval> = done;
        for interval in done {
            let number = self.places[interval.reg.0 as usize].expect("an active interval has a place");
            self.free[self.code.class(interval.reg) as usize].push(number);
        }
    }

    /// A free register: the one from which it is copied, if that is free.
    fn take(&mut self, class: Class, reg: Reg) -> Option<u8> {
        let wanted = self.hints[reg.0 as usize].and_then(|from| self.places[from.0 as usize]);
        let free = &mut self.free[class as usize];
        match free.iter().position(|number| Some(*number) == wanted) {
            Some(at) => Some(free.swap_remove(at)),
            None => free.pop(),
        }
    }

    /// Sends away whoever costs least for the room that it takes.
    fn make_room(&mut self, interval: &Interval, class: Class) {
        let cost = |interval: &Interval| interval.weight / (interval.end - interval.start) as f32;
        let may_go = |interval: &Interval| !self.brief[interval.reg.0 as usize];
        let of_class = |other: &&Interval| self.code.class(other.reg) == class && may_go(other);
        let cheapest =
            self.active.iter().filter(of_class).min_by(|a, b| cost(a).total_cmp(&cost(b))).copied();
        let other = cheapest.filter(|other| !may_go(interval) || cost(other) < cost(interval));
        let Some(other) = other else {
            assert!(may_go(interval), "an instruction names more registers than there are");
            self.spilled.push(interval.reg);
            return;
        };
        self.spilled.push(other.reg);
        self.active.retain(|active| active.reg != other.reg);
        self.places[interval.reg.0 as usize] = self.places[other.reg.0 as usize].take();
        self.active.push(*interval);
    }
}

/// What a register that was sent away is read from.
#[derive(Clone, Copy)]
enum Home {
    /// Bytes of the frame.
    Slot(u32),
    /// Made anew by the one operation that makes it.
    Anew(Operation),
}

struct Spill<'c> {
    code: &'c mut Code64,
    level: Level,
    homes: Vec<Option<Home>>,
    items: Vec<Item>,
}

impl<'c> Spill<'c> {
    fn new(code: &'c mut Code64, level: Level, spilled: &[Reg]) -> Spill<'c> {
        let mut homes = vec![None; code.classes.len()];
        for reg in spilled {
            homes[reg.0 as usize] = Some(match constant(code, *reg) {
                Some(operation) => Home::Anew(operation),
                None => {
                    let bytes = if code.class(*reg) == Class::Vector { 4 * level.lanes() as u32 } else { 8 };
                    Home::Slot(code.frame.take(bytes, bytes))
                }
            });
        }
        Spill { code, level, homes, items: Vec::new() }
    }

    fn home(&self, reg: Reg) -> Option<Home> {
        self.homes.get(reg.0 as usize).copied().flatten()
    }

    fn rewrite(&mut self) {
        for item in std::mem::take(&mut self.code.items) {
            match item {
                Item::Copy { to, from } => self.copy(to, from),
                Item::Operation(operation) if self.remakes(&operation) => {}
                Item::Operation(operation) => {
                    let folded = self.folded(operation);
                    self.around(Item::Operation(folded));
                }
                item => self.around(item),
            }
        }
        self.code.items = std::mem::take(&mut self.items);
    }

    /// Whether an operation makes what is made anew at each use.
    fn remakes(&self, operation: &Operation) -> bool {
        let made = match operation.operands().first() {
            Some(Operand::Reg(reg, _)) if operation.first == Access::Write => self.home(*reg),
            _ => None,
        };
        matches!(made, Some(Home::Anew(_)))
    }

    fn copy(&mut self, to: Reg, from: Reg) {
        match (self.home(to), self.home(from)) {
            (None, None) => self.items.push(Item::Copy { to, from }),
            (None, Some(home)) => self.read(to, home),
            (Some(Home::Slot(slot)), None) => self.write(from, slot),
            (Some(Home::Slot(slot)), Some(home)) => {
                let between = self.code.new_reg(self.code.class(to));
                self.read(between, home);
                self.write(between, slot);
            }
            // What is copied to is not a constant.
            (Some(Home::Anew(_)), _) => {}
        }
    }

    /// The item with brief registers for those sent away.
    fn around(&mut self, mut item: Item) {
        let mut here: Vec<(Reg, Reg, Home, Access)> = Vec::new();
        for (reg, access) in item.registers() {
            let Some(home) = self.home(reg) else { continue };
            match here.iter_mut().find(|(known, ..)| *known == reg) {
                Some((.., known)) if *known != access => *known = Access::Update,
                Some(_) => {}
                None => here.push((reg, self.code.new_reg(self.code.class(reg)), home, access)),
            }
        }
        item.visit(&mut |reg, _| {
            if let Some((_, brief, ..)) = here.iter().find(|(known, ..)| known == reg) {
                *reg = *brief;
            }
        });
        for (_, brief, home, access) in &here {
            if *access != Access::Write {
                self.read(*brief, *home);
            }
        }
        self.items.push(item);
        for (_, brief, home, access) in &here {
            if let (Home::Slot(slot), true) = (home, *access != Access::Read) {
                self.write(*brief, *slot);
            }
        }
    }

    /// The operation with its last operand taken from where it is kept, if the instruction can do that.
    fn folded(&mut self, mut operation: Operation) -> Operation {
        let [others @ .., last] = operation.operands() else { return operation };
        let Operand::Reg(reg, View::Y | View::Z) = *last else { return operation };
        let Some(home) = self.home(reg) else { return operation };
        let apart = !others
            .iter()
            .any(|x| matches!(x, Operand::Memory(_)) || matches!(x, Operand::Reg(r, _) if *r == reg));
        if operation.fold == Fold::No || others.is_empty() || !apart {
            return operation;
        }
        let place = match home {
            Home::Slot(slot) => Address::of(Base::Frame(slot)),
            Home::Anew(made) => match (made.operands().last(), operation.fold) {
                (Some(Operand::Memory(address)), Fold::Element) if made.code == self.spread() => {
                    Address { broadcast: true, ..*address }
                }
                (Some(Operand::Memory(address)), Fold::Whole) if made.code == self.spread() => {
                    let Base::Constant(at) = address.base else { return operation };
                    let bytes = &self.code.constants.bytes[at as usize..][..4];
                    let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                    let words = vec![word; self.level.lanes()];
                    Address::of(Base::Constant(self.code.constants.place(&words)))
                }
                (Some(Operand::Memory(address)), _) => *address,
                _ => return operation,
            },
        };
        *operation.operands_mut().last_mut().expect("the operation has a last operand") =
            Operand::Memory(place);
        operation
    }

    /// The instruction that spreads a constant.
    fn spread(&self) -> Code {
        Op::BroadcastMemory.code(self.level).0
    }

    fn read(&mut self, reg: Reg, home: Home) {
        let slot = match home {
            Home::Anew(mut operation) => {
                if let Some(Operand::Reg(made, _)) = operation.operands_mut().first_mut() {
                    *made = reg;
                }
                // A zero is a register against itself.
                operation.operands_mut().iter_mut().skip(1).for_each(|x| {
                    if let Operand::Reg(itself, _) = x {
                        *itself = reg;
                    }
                });
                return self.items.push(Item::Operation(operation));
            }
            Home::Slot(slot) => Operand::Memory(Address::of(Base::Frame(slot))),
        };
        let (code, view) = match self.code.class(reg) {
            Class::General => (Code::Mov_r64_rm64, View::Quad),
            Class::Vector => (Op::Load.code(self.level).0, self.level.view()),
            Class::Mask => (Code::VEX_Kmovw_kr_km16, View::Mask),
        };
        self.items.push(Item::Operation(Operation::new(
            code,
            Access::Write,
            &[Operand::Reg(reg, view), slot],
        )));
    }

    fn write(&mut self, reg: Reg, slot: u32) {
        let (code, view) = match self.code.class(reg) {
            Class::General => (Code::Mov_rm64_r64, View::Quad),
            Class::Vector => (Op::Store.code(self.level).0, self.level.view()),
            Class::Mask => (Code::VEX_Kmovw_m16_kr, View::Mask),
        };
        let slot = Operand::Memory(Address::of(Base::Frame(slot)));
        self.items.push(Item::Operation(Operation::new(
            code,
            Access::Read,
            &[slot, Operand::Reg(reg, view)],
        )));
    }
}

/// The operation that alone makes a register, if it makes it of constants.
fn constant(code: &Code64, reg: Reg) -> Option<Operation> {
    let mut made = None;
    for item in &code.items {
        if item.registers().iter().any(|(other, access)| *other == reg && *access != Access::Read) {
            let Item::Operation(operation) = item else { return None };
            if made.is_some() || operation.mask.is_some() || operation.first != Access::Write {
                return None;
            }
            made = Some(*operation);
        }
    }
    // Without an operand to read from, it is made of the processor's flags.
    made.filter(|operation| {
        let sources = &operation.operands()[1..];
        !sources.is_empty()
            && sources.iter().all(|operand| match operand {
                Operand::Immediate(_) => true,
                Operand::Memory(address) => {
                    matches!(address.base, Base::Constant(_)) && address.index.is_none()
                }
                Operand::Reg(..) => false,
            })
    })
}
