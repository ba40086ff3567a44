//! From a mnemonic and its operands to an instruction.
//!
//! Each group of instructions takes from the mnemonic the modifiers that it knows; one that is left over is an
//! error, so that nothing is executed in another way than the text says.

mod arithmetic;
mod compare;
mod group;
mod memory;
mod warp;

use crate::error::ParseError;
use crate::instruction::{Address, Op, Register, Special};
use crate::parse::Header;
use crate::parse::operand::{Number, Operand};
use crate::parse::scope::{Scope, Symbol, bits};
use crate::types::Type;

/// An instruction's text.
pub(crate) struct Statement<'a> {
    pub(crate) line: u32,
    pub(crate) mnemonic: &'a str,
    pub(crate) operands: Vec<Operand<'a>>,
}

/// The words of a mnemonic, and the operands, while they are being understood.
struct Decoder<'a, 's> {
    line: u32,
    mnemonic: &'a str,
    modifiers: Vec<&'a str>,
    operands: Vec<Operand<'a>>,
    header: Header,
    scope: &'s mut Scope,
}

type Decoded = Result<Op, ParseError>;

/// The instruction that a statement is.
pub(crate) fn decode(statement: Statement<'_>, header: Header, scope: &mut Scope) -> Decoded {
    let Statement { line, mnemonic, operands } = statement;
    let mut modifiers: Vec<&str> = mnemonic.split('.').collect();
    let name = modifiers.remove(0);
    let mut decoder = Decoder { line, mnemonic, modifiers, operands, header, scope };
    let op = match name {
        "ret" | "exit" => decoder.arity(0).map(|()| Op::Exit)?,
        "trap" => decoder.arity(0).map(|()| Op::Trap)?,
        "mov" => decoder.mov()?,
        "ld" | "ldu" => decoder.load()?,
        "st" => decoder.store()?,
        "cvta" => decoder.convey()?,
        "prefetch" | "prefetchu" => decoder.prefetch()?,
        "membar" | "fence" => decoder.fence()?,
        "cp" => decoder.copy()?,
        "atom" | "red" => decoder.atomic(name == "atom")?,
        "ldmatrix" => decoder.load_matrix()?,
        "mma" => decoder.product()?,
        "wgmma" => decoder.group_product()?,
        "bar" | "barrier" => decoder.barrier(name == "bar")?,
        "shfl" => decoder.shuffle()?,
        "vote" => decoder.vote()?,
        "redux" => decoder.reduce()?,
        "activemask" => decoder.active()?,
        "setp" => decoder.compare()?,
        "set" => decoder.set()?,
        "selp" => decoder.select()?,
        "cvt" => decoder.convert()?,
        _ => decoder.arithmetic(name)?,
    };
    decoder.finish()?;
    Ok(op)
}

impl<'a> Decoder<'a, '_> {
    fn wrong<T>(&self, why: impl std::fmt::Display) -> Result<T, ParseError> {
        Err(ParseError { line: self.line, why: format!("{}: {why}", self.mnemonic) })
    }

    fn unknown<T>(&self) -> Result<T, ParseError> {
        self.wrong("an instruction that is not known")
    }

    /// Takes a modifier if it is there.
    fn take(&mut self, modifier: &str) -> bool {
        let found = self.modifiers.iter().position(|found| *found == modifier);
        found.map(|at| self.modifiers.remove(at)).is_some()
    }

    /// Takes the one of these modifiers that is there, and says which.
    fn take_one<T: Copy>(&mut self, choices: &[(&str, T)]) -> Option<T> {
        choices.iter().find(|(name, _)| self.take(name)).map(|(_, value)| *value)
    }

    fn take_or<T: Copy>(&mut self, what: &str, choices: &[(&str, T)]) -> Result<T, ParseError> {
        match self.take_one(choices) {
            Some(found) => Ok(found),
            None => self.wrong(format!("no {what} that is known")),
        }
    }

    /// Takes the first type among the modifiers.
    fn ty(&mut self) -> Result<Type, ParseError> {
        let found = self.modifiers.iter().position(|name| Type::named(name).is_some());
        let Some(at) = found else { return self.wrong("no type") };
        Ok(Type::named(self.modifiers.remove(at)).unwrap_or(Type::Pred))
    }

    /// Fails if something was not understood.
    fn finish(&self) -> Result<(), ParseError> {
        match self.modifiers.first() {
            None => Ok(()),
            Some(modifier) => self.wrong(format!("modifier .{modifier} is not known here")),
        }
    }

    fn arity(&self, count: usize) -> Result<(), ParseError> {
        match self.operands.len() {
            found if found == count => Ok(()),
            found => self.wrong(format!("{found} operands, expected {count}")),
        }
    }

    /// Fails unless the text's header allows what came with that target and version.
    fn needs(&self, target: u32, version: (u32, u32)) -> Result<(), ParseError> {
        let Header { version: has, target: is, .. } = self.header;
        if is < target {
            return self.wrong(format!("needs .target sm_{target} or higher, the text is for sm_{is}"));
        }
        if has < version {
            let (wanted, found) = (format!("{}.{}", version.0, version.1), format!("{}.{}", has.0, has.1));
            return self.wrong(format!("needs .version {wanted} or higher, the text has {found}"));
        }
        Ok(())
    }

    fn named(&self, name: &str) -> Result<(Register, Type), ParseError> {
        match self.scope.register(name) {
            Some(found) => Ok(found),
            None => self.wrong(format!("'{name}' is no register")),
        }
    }

    /// A register of that type.
    fn typed(&self, name: &str, ty: Type) -> Result<Register, ParseError> {
        let (register, declared) = self.named(name)?;
        match ty.accepts(declared) {
            true => Ok(register),
            false => self.wrong(format!("register {name} is {declared:?}, expected {ty:?}")),
        }
    }

    /// The operand's register, which is written.
    fn to(&self, at: usize, ty: Type) -> Result<Register, ParseError> {
        match &self.operands[at] {
            Operand::Word(name) => self.typed(name, ty),
            _ => self.wrong(format!("operand {at} must be a register")),
        }
    }

    /// The operand as a value of that type: a register, a constant, a special register, an array's address.
    fn value(&mut self, at: usize, ty: Type) -> Result<Register, ParseError> {
        let operand = self.operands[at].clone();
        self.read(&operand, ty)
    }

    fn read(&mut self, operand: &Operand<'_>, ty: Type) -> Result<Register, ParseError> {
        match operand {
            Operand::Number(number) => self.constant(*number, ty),
            Operand::Word(name) => {
                if let Some(special) = Special::named(name) {
                    return match ty.accepts(Type::Unsigned(4)) {
                        true => Ok(self.scope.special(special)),
                        false => self.wrong(format!("{name} has 32 bits, expected {ty:?}")),
                    };
                }
                match self.scope.symbol(name) {
                    Some(symbol) if ty.is_integer() && ty.bytes() >= 4 => Ok(self.address_of(symbol)),
                    _ => self.typed(name, ty),
                }
            }
            _ => self.wrong("an operand that is no value"),
        }
    }

    fn constant(&mut self, number: Number, ty: Type) -> Result<Register, ParseError> {
        match bits(number, ty) {
            Some(bits) => Ok(self.scope.constant(bits)),
            None => self.wrong(format!("a number that is no {ty:?}")),
        }
    }

    fn address_of(&mut self, symbol: Symbol) -> Register {
        let (Symbol::Shared(at) | Symbol::Local(at) | Symbol::Module(at) | Symbol::Parameter(at)) = symbol;
        self.scope.constant(u64::from(at))
    }

    /// The operand as an address in memory.
    fn address(&mut self, at: usize) -> Result<Address, ParseError> {
        let Operand::Address(base, offset) = self.operands[at] else {
            return self.wrong(format!("operand {at} must be an address"));
        };
        if let Some(symbol) = self.scope.symbol(base) {
            return Ok(Address { base: self.address_of(symbol), offset });
        }
        if let Some(number) = base.starts_with(|c: char| c.is_ascii_digit()).then(|| base.parse()) {
            return match number {
                Ok(number) => Ok(Address { base: self.scope.constant(number), offset }),
                Err(_) => self.wrong(format!("'{base}' is no address")),
            };
        }
        let (register, declared) = self.named(base)?;
        match declared.is_integer() && declared.bytes() >= 4 {
            true => Ok(Address { base: register, offset }),
            false => self.wrong(format!("register {base} is {declared:?} and no address")),
        }
    }

    /// The parts of a vector, or the operand itself as the only one.
    fn parts(&self, at: usize) -> Vec<Operand<'a>> {
        match &self.operands[at] {
            Operand::Vector(parts) => parts.clone(),
            other => vec![other.clone()],
        }
    }
}
