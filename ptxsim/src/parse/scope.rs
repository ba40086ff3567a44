//! Names and what they stand for: registers, constants, arrays, parameters.

use std::collections::HashMap;

use crate::instruction::{Register, Special};
use crate::kernel::Names;
use crate::parse::operand::Number;
use crate::types::Type;

/// Registers that a kernel may have: as many as any compiler could keep apart, and no more memory than that.
pub(crate) const REGISTERS_MAX: u32 = 1 << 16;

/// An array, or what a name of another kind stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    /// Shared memory from this byte on.
    Shared(u32),
    /// Local memory of each thread.
    Local(u32),
    /// Memory of the module.
    Module(u32),
    /// A parameter's first byte.
    Parameter(u32),
}

/// Everything that one kernel's text declares.
#[derive(Default)]
pub(crate) struct Scope {
    pub(crate) names: Vec<Names>,
    /// The types of registers, by number.
    types: Vec<Type>,
    /// For each open brace how many names and symbols there were before it.
    open: Vec<(usize, usize)>,
    /// Which of `names` can be seen.
    seen: Vec<usize>,
    pub(crate) symbols: Vec<(String, Symbol)>,
    constants: HashMap<u64, Register>,
    specials: Vec<(Register, Special)>,
}

impl Scope {
    /// A scope that sees these arrays.
    pub(crate) fn new(symbols: Vec<(String, Symbol)>) -> Scope {
        Scope { symbols, ..Default::default() }
    }

    pub(crate) fn open(&mut self) {
        self.open.push((self.seen.len(), self.symbols.len()));
    }

    /// Forgets what was declared since the last brace that is still open, if one is.
    pub(crate) fn close(&mut self) {
        let Some((names, symbols)) = self.open.pop() else { return };
        self.seen.truncate(names);
        self.symbols.truncate(symbols);
    }

    fn fresh(&mut self, ty: Type) -> Register {
        self.types.push(ty);
        self.types.len() as Register - 1
    }

    /// How many registers there are so far.
    pub(crate) fn count(&self) -> u32 {
        self.types.len() as u32
    }

    /// Declares registers: one of that name, or `count` that are numbered. False if there are too many.
    pub(crate) fn declare(&mut self, prefix: &str, count: Option<u32>, ty: Type) -> bool {
        let first = self.count();
        let many = count.unwrap_or(1);
        if first.saturating_add(many) > REGISTERS_MAX {
            return false;
        }
        (0..many).for_each(|_| {
            self.fresh(ty);
        });
        self.seen.push(self.names.len());
        self.names.push(Names { prefix: prefix.to_owned(), first, count: many, numbered: count.is_some() });
        true
    }

    /// The declared register of that name.
    pub(crate) fn register(&self, name: &str) -> Option<(Register, Type)> {
        let found = self.seen.iter().rev().map(|at| &self.names[*at]).find_map(|names| {
            if !names.numbered {
                return (names.prefix == name).then_some(names.first);
            }
            let digits = name.strip_prefix(names.prefix.as_str())?;
            let plain = digits == "0" || !digits.starts_with('0') && !digits.starts_with('+');
            let at: u32 = digits.parse().ok().filter(|at| plain && *at < names.count)?;
            Some(names.first + at)
        })?;
        Some((found, self.types[found as usize]))
    }

    pub(crate) fn symbol(&self, name: &str) -> Option<Symbol> {
        self.symbols.iter().rev().find(|(found, _)| found == name).map(|(_, symbol)| *symbol)
    }

    /// The register that holds a constant.
    pub(crate) fn constant(&mut self, bits: u64) -> Register {
        if let Some(register) = self.constants.get(&bits) {
            return *register;
        }
        let register = self.fresh(Type::Bits(8));
        self.constants.insert(bits, register);
        register
    }

    /// The register that the machine fills so.
    pub(crate) fn special(&mut self, special: Special) -> Register {
        if let Some((register, _)) = self.specials.iter().find(|(_, found)| *found == special) {
            return *register;
        }
        let register = self.fresh(Type::Unsigned(4));
        self.specials.push((register, special));
        register
    }

    pub(crate) fn constants(&self) -> Vec<(Register, u64)> {
        self.constants.iter().map(|(bits, register)| (*register, *bits)).collect()
    }

    pub(crate) fn specials(&self) -> Vec<(Register, Special)> {
        self.specials.clone()
    }
}

/// The bits that a number has as a value of that type; `None` if a float is written where none can be.
pub(crate) fn bits(number: Number, ty: Type) -> Option<u64> {
    let single = |bits: u32| f32::from_bits(bits);
    Some(match (number, ty) {
        (Number::Single(bits), Type::F32) => u64::from(bits),
        (Number::Single(bits), Type::F64) => f64::from(single(bits)).to_bits(),
        (Number::Double(bits), Type::F32) => u64::from((f64::from_bits(bits) as f32).to_bits()),
        (Number::Double(bits), Type::F64) => bits,
        (Number::Single(bits), Type::Bits(4)) => u64::from(bits),
        (Number::Double(bits), Type::Bits(8)) => bits,
        (Number::Integer(value), Type::Pred) => u64::from(value != 0),
        (Number::Integer(value), ty) if ty.is_integer() => ty.truncate(value),
        (Number::Integer(value), Type::F16 | Type::Bf16 | Type::F16x2 | Type::Bf16x2) => ty.truncate(value),
        _ => return None,
    })
}
