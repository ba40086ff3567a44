//! Machine operations over registers without number: what selection makes, and allocation gives places.
//!
//! An [`Operation`] is one instruction by its code. It reads and writes virtual registers of three classes; operand
//! and mask alike say how. Control flow is labels and branches in one list.

use iced_x86::Code;

/// A virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Reg(pub(super) u32);

/// Which kind of physical register carries a virtual one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// 64 bits of an integer or an address.
    General,
    /// All elements of a vector.
    Vector,
    /// A bit for each element.
    Mask,
}

/// How much of a register an instruction names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Byte,
    Word,
    Double,
    Quad,
    X,
    Y,
    Z,
    Mask,
}

/// What an address counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Reg(Reg),
    /// A byte of the frame.
    Frame(u32),
    /// A byte of the constants behind the code.
    Constant(u32),
}

/// A place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) base: Base,
    /// A register, how much of it (a vector's for gathers) and the factor 1, 2, 4 or 8.
    pub(super) index: Option<(Reg, View, u8)>,
    pub(super) offset: i32,
    /// Whether one element there stands for all lanes.
    pub(super) broadcast: bool,
}

impl Address {
    pub(super) fn of(base: Base) -> Address {
        Address { base, index: None, offset: 0, broadcast: false }
    }

    pub(super) fn plus(self, offset: i32) -> Address {
        Address { offset: self.offset + offset, ..self }
    }
}

/// An operand of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Reg(Reg, View),
    Memory(Address),
    Immediate(i64),
}

/// What happens to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Update,
}

/// Whether an operation's last operand may be memory instead of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fold {
    No,
    /// A whole vector.
    Whole,
    /// A whole vector, or one element for all lanes.
    Element,
}

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operation {
    pub(super) code: Code,
    pub(super) operands: [Operand; 4],
    pub(super) count: u8,
    /// What happens to operand 0; the others are read, but for `second`.
    pub(super) first: Access,
    /// An operand beside the first that is changed: the mask of a gather.
    pub(super) changed: Option<u8>,
    pub(super) fold: Fold,
    /// Which elements are written.
    pub(super) mask: Option<Reg>,
    /// Whether the mask is used up.
    pub(super) spends_mask: bool,
    /// Whether elements outside of the mask become 0.
    pub(super) zeroing: bool,
    /// Whether elements outside of the mask come from an operand.
    pub(super) blends: bool,
}

impl Operation {
    /// An instruction that reads all but its first operand.
    pub(super) fn new(code: Code, first: Access, operands: &[Operand]) -> Operation {
        let mut all = [Operand::Immediate(0); 4];
        all[..operands.len()].copy_from_slice(operands);
        Operation {
            code,
            operands: all,
            count: operands.len() as u8,
            first,
            changed: None,
            fold: Fold::No,
            mask: None,
            spends_mask: false,
            zeroing: false,
            blends: false,
        }
    }

    pub(super) fn operands(&self) -> &[Operand] {
        &self.operands[..usize::from(self.count)]
    }

    pub(super) fn operands_mut(&mut self) -> &mut [Operand] {
        &mut self.operands[..usize::from(self.count)]
    }

    fn access(&self, at: usize) -> Access {
        match at {
            0 => self.first,
            _ if self.changed == Some(at as u8) => Access::Update,
            _ => Access::Read,
        }
    }

    /// Calls `visit` with each register and what happens to it; whatever is put there takes its place.
    fn visit(&mut self, visit: &mut dyn FnMut(&mut Reg, Access)) {
        // Elements outside of a mask stay as they were.
        let merges = self.mask.is_some() && !self.zeroing && !self.blends;
        for at in 0..usize::from(self.count) {
            let access = self.access(at);
            match &mut self.operands[at] {
                // A comparison under a mask writes all of its result.
                Operand::Reg(reg, view) => match access {
                    Access::Write if merges && *view != View::Mask => visit(reg, Access::Update),
                    access => visit(reg, access),
                },
                Operand::Memory(address) => {
                    if let Base::Reg(reg) = &mut address.base {
                        visit(reg, Access::Read);
                    }
                    if let Some((reg, ..)) = &mut address.index {
                        visit(reg, Access::Read);
                    }
                }
                Operand::Immediate(_) => {}
            }
        }
        if let Some(mask) = &mut self.mask {
            visit(mask, if self.spends_mask { Access::Update } else { Access::Read });
        }
    }
}

/// A place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Label(pub(super) u32);

/// A division of 64-bit integers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Division {
    pub(super) to: Reg,
    pub(super) dividend: Reg,
    pub(super) divisor: Reg,
    pub(super) signed: bool,
    pub(super) remainder: bool,
}

/// One entry of the list.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    Operation(Operation),
    /// A copy within a class; nothing where both get the same place.
    Copy {
        to: Reg,
        from: Reg,
    },
    /// The instruction wants its operands in two registers of its own: it is written out with what keeps those.
    Divide(Division),
    /// The head of a loop is aligned.
    Label {
        label: Label,
        head: bool,
    },
    /// A jump; conditional but for `Jmp_rel32_64`.
    Branch(Code, Label),
}

impl Item {
    /// Calls `visit` with each register and what happens to it; whatever is put there takes its place.
    pub(super) fn visit(&mut self, visit: &mut dyn FnMut(&mut Reg, Access)) {
        match self {
            Item::Operation(operation) => operation.visit(visit),
            Item::Copy { to, from } => {
                visit(from, Access::Read);
                visit(to, Access::Write);
            }
            Item::Divide(division) => {
                visit(&mut division.dividend, Access::Read);
                visit(&mut division.divisor, Access::Read);
                visit(&mut division.to, Access::Write);
            }
            Item::Label { .. } | Item::Branch(..) => {}
        }
    }

    /// Each register and what happens to it.
    pub(super) fn registers(&self) -> Vec<(Reg, Access)> {
        let mut all = Vec::new();
        let mut copy = *self;
        copy.visit(&mut |reg, access| all.push((*reg, access)));
        all
    }
}

/// A function before its registers have numbers.
#[derive(Default)]
pub(super) struct Code64 {
    pub(super) items: Vec<Item>,
    /// By virtual register.
    pub(super) classes: Vec<Class>,
    pub(super) frame: Frame,
    pub(super) constants: Constants,
}

impl Code64 {
    /// Takes out what makes registers that nobody reads.
    pub(super) fn prune(&mut self) {
        let mut reads = vec![0u32; self.classes.len()];
        let registers: Vec<Vec<(Reg, Access)>> = self.items.iter().map(Item::registers).collect();
        let count = |reads: &mut Vec<u32>, registers: &[(Reg, Access)], by: i32| {
            for (reg, _) in registers.iter().filter(|(_, access)| *access != Access::Write) {
                let count = &mut reads[reg.0 as usize];
                *count = count.wrapping_add_signed(by);
            }
        };
        registers.iter().for_each(|registers| count(&mut reads, registers, 1));
        let mut kept = vec![true; self.items.len()];
        for (at, item) in self.items.iter().enumerate().rev() {
            let makes = match item {
                Item::Operation(operation) => operation.first == Access::Write && operation.changed.is_none(),
                Item::Copy { .. } | Item::Divide(_) => true,
                Item::Label { .. } | Item::Branch(..) => false,
            };
            let wanted = |(reg, access): &(Reg, Access)| *access != Access::Read && reads[reg.0 as usize] > 0;
            if makes && !registers[at].iter().any(wanted) {
                kept[at] = false;
                count(&mut reads, &registers[at], -1);
            }
        }
        let mut kept = kept.into_iter();
        self.items.retain(|_| kept.next().unwrap_or(true));
    }

    pub(super) fn class(&self, reg: Reg) -> Class {
        self.classes[reg.0 as usize]
    }

    pub(super) fn new_reg(&mut self, class: Class) -> Reg {
        self.classes.push(class);
        Reg(self.classes.len() as u32 - 1)
    }
}

/// Bytes of the frame that are taken.
pub(super) struct Frame {
    pub(super) bytes: u32,
}

/// Where the four arguments of the function lie in the frame, 8 bytes each; four more words follow that divisions
/// use.
pub(super) const ARGUMENTS: u32 = 0;
/// Where divisions keep what they displace.
pub(super) const DIVISION: u32 = 32;
/// Where the stack was before the frame was aligned.
pub(super) const STACK: u32 = 64;

impl Default for Frame {
    fn default() -> Frame {
        Frame { bytes: 128 }
    }
}

impl Frame {
    /// So many bytes at a multiple of `align`, a power of two up to 64.
    pub(super) fn take(&mut self, bytes: u32, align: u32) -> u32 {
        let at = self.bytes.next_multiple_of(align);
        self.bytes = at + bytes;
        at
    }
}

/// The constants behind the code.
#[derive(Default)]
pub(super) struct Constants {
    pub(super) bytes: Vec<u8>,
    known: std::collections::HashMap<Vec<u32>, u32>,
}

impl Constants {
    /// Where these elements lie, at a multiple of their size together.
    pub(super) fn place(&mut self, words: &[u32]) -> u32 {
        if let Some(known) = self.known.get(words) {
            return *known;
        }
        let size = words.len() * 4;
        let at = self.bytes.len().next_multiple_of(size);
        self.bytes.resize(at, 0);
        self.bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.known.insert(words.to_vec(), at as u32);
        at as u32
    }
}
