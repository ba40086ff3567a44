//! Moves, loads, stores, copies, atomic operations.

use super::{Decoded, Decoder};
use crate::error::ParseError;
use crate::instruction::{Atomic, Op, Register, Space};
use crate::parse::operand::Operand;
use crate::parse::scope::Symbol;
use crate::types::Type;

/// Says how caches should treat an access, or how strong it is: without a meaning where every access is whole.
const HINTS: &[&str] = &[
    "nc",
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "volatile",
    "weak",
    "relaxed",
    "acquire",
    "release",
    "cta",
    "gpu",
    "sys",
    "L1::no_allocate",
    "L1::evict_first",
    "L1::evict_last",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

const SPACES: &[(&str, Space)] = &[
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("const", Space::Module),
];

impl Decoder<'_, '_> {
    fn hints(&mut self) -> Result<(), ParseError> {
        if self.modifiers.iter().any(|hint| ["L2::128B", "L2::64B", "L1::no_allocate"].contains(hint)) {
            self.needs(75, (7, 8))?;
        }
        HINTS.iter().for_each(|hint| {
            self.take(hint);
        });
        Ok(())
    }

    /// Where an operand's address points, if that is not what the instruction says: an array of the module is no
    /// global memory of its own here.
    fn space(&mut self, at: usize) -> Space {
        let said = self.take_one(SPACES).unwrap_or(Space::Generic);
        match self.operands.get(at) {
            Some(Operand::Address(base, _)) => match self.scope.symbol(base) {
                Some(Symbol::Module(_)) => Space::Module,
                _ => said,
            },
            _ => said,
        }
    }

    /// How many elements an access has at once.
    fn width(&mut self) -> usize {
        self.take_one(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
    }

    /// The type of memory's elements, as large as 16 bytes of all allow.
    fn element(&mut self, width: usize) -> Result<Type, ParseError> {
        let ty = self.ty()?;
        if ty == Type::Pred || width * usize::from(ty.bytes()) > 16 {
            return self.wrong("more than 16 bytes at once, or a type that memory does not have");
        }
        Ok(ty)
    }

    /// The registers of a loaded vector, and their bytes, which may be more than the element's.
    fn loaded(&mut self, width: usize, ty: Type) -> Result<(Vec<Option<Register>>, u8), ParseError> {
        let (mut to, mut bytes) = (Vec::new(), ty.bytes());
        let parts = self.parts(0);
        if parts.len() != width {
            return self.wrong(format!("{} registers for {width} elements", parts.len()));
        }
        for part in parts {
            match part {
                Operand::Word("_") => to.push(None),
                Operand::Word(name) => {
                    let (register, declared) = self.named(name)?;
                    let wider = ty.is_integer() && declared.is_integer() && declared.bytes() >= ty.bytes();
                    if !wider && !ty.accepts(declared) {
                        return self.wrong(format!("register {name} is {declared:?}, memory has {ty:?}"));
                    }
                    bytes = declared.bytes();
                    to.push(Some(register));
                }
                _ => return self.wrong("what is loaded goes to registers"),
            }
        }
        Ok((to, bytes))
    }

    pub(super) fn load(&mut self) -> Decoded {
        self.arity(2)?;
        self.hints()?;
        let width = self.width();
        if self.take("param") {
            let ty = self.element(width)?;
            let (to, bytes) = self.loaded(width, ty)?;
            let Operand::Address(name, offset) = self.operands[1] else { return self.wrong("no address") };
            let Some(Symbol::Parameter(start)) = self.scope.symbol(name) else {
                return self.wrong(format!("'{name}' is no parameter"));
            };
            let Ok(offset) = u32::try_from(i64::from(start).saturating_add(offset)) else {
                return self.wrong("an address before the parameters");
            };
            return Ok(Op::LoadParameter { to, ty, bytes, offset });
        }
        let space = self.space(1);
        let ty = self.element(width)?;
        let (to, bytes) = self.loaded(width, ty)?;
        Ok(Op::Load { space, ty, bytes, to, at: self.address(1)? })
    }

    pub(super) fn store(&mut self) -> Decoded {
        self.arity(2)?;
        self.hints()?;
        let width = self.width();
        let space = self.space(0);
        let ty = self.element(width)?;
        let parts = self.parts(1);
        if parts.len() != width {
            return self.wrong(format!("{} values for {width} elements", parts.len()));
        }
        let mut from = Vec::new();
        for part in parts {
            // What is stored may be wider than the element; its lowest bits are.
            let wide = match part {
                Operand::Word(name) => self.scope.register(name).map(|(_, declared)| declared),
                _ => None,
            };
            let ty = match wide {
                Some(wide) if ty.is_integer() && wide.is_integer() && wide.bytes() >= ty.bytes() => wide,
                _ => ty,
            };
            from.push(self.read(&part, ty)?);
        }
        Ok(Op::Store { space, ty, from, at: self.address(0)? })
    }

    pub(super) fn mov(&mut self) -> Decoded {
        self.arity(2)?;
        let ty = self.ty()?;
        let bits = u32::from(ty.bytes()) * 8;
        let part = |count: usize| match (ty.bytes() as usize).checked_div(count) {
            Some(bytes) if bytes >= 1 && bytes * count == ty.bytes() as usize => {
                Some(Type::Bits(bytes as u8))
            }
            _ => None,
        };
        match (self.operands[0].clone(), self.operands[1].clone()) {
            (_, Operand::Vector(parts)) => {
                let Some(piece) = part(parts.len()) else { return self.wrong("parts of no whole bytes") };
                let from = parts.iter().map(|x| self.read(x, piece)).collect::<Result<Vec<_>, _>>()?;
                let bits = u32::from(piece.bytes()) * 8;
                Ok(Op::Pack { to: self.to(0, ty)?, parts: from, bits })
            }
            (Operand::Vector(parts), _) => {
                let Some(piece) = part(parts.len()) else { return self.wrong("parts of no whole bytes") };
                let to = parts.iter().map(|x| match x {
                    Operand::Word("_") => Ok(None),
                    Operand::Word(name) => self.typed(name, piece).map(Some),
                    _ => self.wrong("what is taken apart goes to registers"),
                });
                let to = to.collect::<Result<Vec<_>, _>>()?;
                let bits = bits / parts.len() as u32;
                Ok(Op::Unpack { to, from: self.value(1, ty)?, bits })
            }
            _ => Ok(Op::Move { to: self.to(0, ty)?, from: self.value(1, ty)? }),
        }
    }

    pub(super) fn convey(&mut self) -> Decoded {
        self.arity(2)?;
        let to_generic = !self.take("to");
        let mut space = self.space(1);
        let ty = self.ty()?;
        // The address of an array of the module is in a window of its own.
        if let Operand::Word(name) = self.operands[1]
            && let Some(Symbol::Module(_)) = self.scope.symbol(name)
        {
            space = Space::Module;
        }
        if ty.bytes() != 8 {
            return self.wrong("addresses have 64 bits");
        }
        Ok(Op::Convey { to: self.to(0, ty)?, from: self.value(1, ty)?, space, to_generic })
    }

    pub(super) fn prefetch(&mut self) -> Decoded {
        self.arity(1)?;
        self.take("global");
        self.take_or("level", &[("L1", ()), ("L2", ())])?;
        self.address(0)?;
        Ok(Op::Nothing)
    }

    /// Every access of threads is whole and in order here, so that fences between them have nothing to do.
    pub(super) fn fence(&mut self) -> Decoded {
        self.arity(0)?;
        if self.take("proxy") {
            self.needs(90, (8, 0))?;
            self.take_or("proxy", &[("async", ())])?;
            self.take("shared::cta");
            return Ok(Op::ProxyFence);
        }
        ["sc", "acq_rel", "cta", "gpu", "sys", "gl"].iter().for_each(|name| {
            self.take(name);
        });
        Ok(Op::Nothing)
    }

    pub(super) fn copy(&mut self) -> Decoded {
        self.needs(80, (7, 0))?;
        if !self.take("async") {
            return self.unknown();
        }
        if self.take("commit_group") {
            return self.arity(0).map(|()| Op::CopyCommit);
        }
        if self.take("wait_all") {
            return self.arity(0).map(|()| Op::CopyWait { open: 0 });
        }
        if self.take("wait_group") {
            self.arity(1)?;
            return Ok(Op::CopyWait { open: self.literal(0, 1 << 16)? });
        }
        let whole = self.take_or("level", &[("ca", false), ("cg", true)])?;
        self.hints()?;
        if !(self.take("shared") || self.take("shared::cta")) || !self.take("global") {
            return self.wrong("only copies from global to shared memory are known");
        }
        let bytes = match self.operands.len() {
            3 | 4 => self.literal(2, 16)? as u8,
            found => return self.wrong(format!("{found} operands, expected 3 or 4")),
        };
        if !(bytes == 16 || !whole && matches!(bytes, 4 | 8)) {
            return self.wrong(format!("copies of {bytes} bytes"));
        }
        let source = match self.operands.len() {
            4 => Some(self.value(3, Type::Unsigned(4))?),
            _ => None,
        };
        Ok(Op::CopyStart { to: self.address(0)?, from: self.address(1)?, bytes, source })
    }

    /// An operand that must be a number in the text.
    pub(super) fn literal(&self, at: usize, max: u64) -> Result<u32, ParseError> {
        match self.operands.get(at) {
            Some(Operand::Number(crate::parse::operand::Number::Integer(value))) if *value <= max => {
                Ok(*value as u32)
            }
            _ => self.wrong(format!("operand {at} must be a number up to {max}")),
        }
    }

    pub(super) fn atomic(&mut self, returns: bool) -> Decoded {
        let first = usize::from(returns);
        self.hints()?;
        let space = self.space(first);
        let op = self.take_or(
            "operation",
            &[
                ("add", Atomic::Add),
                ("min", Atomic::Minimum),
                ("max", Atomic::Maximum),
                ("and", Atomic::And),
                ("or", Atomic::Or),
                ("xor", Atomic::Xor),
                ("exch", Atomic::Exchange),
                ("cas", Atomic::CompareExchange),
            ],
        )?;
        let swaps = op == Atomic::CompareExchange;
        self.arity(first + 2 + usize::from(swaps))?;
        let ty = self.ty()?;
        let fits = match ty {
            Type::F32 => op == Atomic::Add,
            _ => ty.is_integer() && ty.bytes() >= 4,
        };
        if !fits {
            return self.wrong("an atomic operation that is not known");
        }
        let to = match returns {
            true => Some(self.to(0, ty)?),
            false => None,
        };
        let b = match swaps {
            true => Some(self.value(first + 2, ty)?),
            false => None,
        };
        Ok(Op::Atomic { space, op, ty, to, at: self.address(first)?, a: self.value(first + 1, ty)?, b })
    }
}
