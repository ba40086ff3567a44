//! Barriers, shuffles, votes, matrices.

use super::{Decoded, Decoder};
use crate::error::ParseError;
use crate::instruction::{Binary, Op, Product, Register, Shuffle, Vote};
use crate::parse::operand::Operand;
use crate::types::Type;

const B32: Type = Type::Bits(4);

impl Decoder<'_, '_> {
    pub(super) fn barrier(&mut self, short: bool) -> Decoded {
        if short && self.take("warp") {
            self.take_or("kind", &[("sync", ())])?;
            self.arity(1)?;
            return Ok(Op::WarpBarrier { members: self.value(0, B32)? });
        }
        self.take("cta");
        self.take_or("kind", &[("sync", ())])?;
        if !short && !self.take("aligned") {
            return self.wrong("only barriers that whole warps reach are known");
        }
        self.arity(1)?;
        match self.literal(0, 15)? {
            0 => Ok(Op::Barrier),
            other => self.wrong(format!("barrier {other}: only barrier 0 of all threads is known")),
        }
    }

    fn synchronous(&mut self) -> Result<(), ParseError> {
        self.take_or("kind", &[("sync", ())])
    }

    pub(super) fn shuffle(&mut self) -> Decoded {
        self.arity(5)?;
        self.synchronous()?;
        let kind = self.take_or(
            "kind",
            &[
                ("up", Shuffle::Up),
                ("down", Shuffle::Down),
                ("bfly", Shuffle::Butterfly),
                ("idx", Shuffle::Index),
            ],
        )?;
        if self.ty()? != B32 {
            return self.wrong("it is for words");
        }
        let (to, inside) = match self.operands[0] {
            Operand::Word(name) => (self.typed(name, B32)?, None),
            Operand::Pair(name, inside) => (self.typed(name, B32)?, Some(self.typed(inside, Type::Pred)?)),
            _ => return self.wrong("its result is a register"),
        };
        let [a, by, clamp, members] = [1, 2, 3, 4].map(|at| self.value(at, B32));
        Ok(Op::Shuffle { kind, to, inside, a: a?, by: by?, clamp: clamp?, members: members? })
    }

    pub(super) fn vote(&mut self) -> Decoded {
        self.arity(3)?;
        self.synchronous()?;
        let kind = self.take_or(
            "kind",
            &[("all", Vote::All), ("any", Vote::Any), ("uni", Vote::Uniform), ("ballot", Vote::Ballot)],
        )?;
        let ty = self.ty()?;
        if ty != if kind == Vote::Ballot { B32 } else { Type::Pred } {
            return self.wrong("a ballot is a word, other votes are predicates");
        }
        let (a, negated) = match self.operands[1] {
            Operand::Not(name) => (self.typed(name, Type::Pred)?, true),
            _ => (self.value(1, Type::Pred)?, false),
        };
        Ok(Op::Vote { kind, to: self.to(0, ty)?, a, negated, members: self.value(2, B32)? })
    }

    pub(super) fn reduce(&mut self) -> Decoded {
        self.needs(80, (7, 0))?;
        self.arity(3)?;
        self.synchronous()?;
        let op = self.take_or(
            "operation",
            &[
                ("add", Binary::Add),
                ("min", Binary::Minimum),
                ("max", Binary::Maximum),
                ("and", Binary::And),
                ("or", Binary::Or),
                ("xor", Binary::Xor),
            ],
        )?;
        let ty = self.ty()?;
        let bits = matches!(op, Binary::And | Binary::Or | Binary::Xor);
        if ty.bytes() != 4 || !ty.is_integer() || bits != (ty == B32) {
            return self.wrong(format!("no such reduction of {ty:?}"));
        }
        Ok(Op::Reduce { op, ty, to: self.to(0, ty)?, a: self.value(1, ty)?, members: self.value(2, B32)? })
    }

    pub(super) fn active(&mut self) -> Decoded {
        self.arity(1)?;
        match self.ty()? {
            B32 => Ok(Op::Active { to: self.to(0, B32)? }),
            _ => self.wrong("its result is a word"),
        }
    }

    pub(super) fn aligned(&mut self) -> Result<(), ParseError> {
        self.synchronous()?;
        self.take_or("kind", &[("aligned", ())])
    }

    pub(super) fn load_matrix(&mut self) -> Decoded {
        self.needs(75, (6, 5))?;
        self.arity(2)?;
        self.aligned()?;
        self.take_or("shape", &[("m8n8", ())])?;
        let count = self.take_or("number", &[("x1", 1), ("x2", 2), ("x4", 4)])?;
        let transposed = self.take("trans");
        if !(self.take("shared") || self.take("shared::cta")) || !self.take("b16") {
            return self.wrong("only matrices of 16-bit elements in shared memory are known");
        }
        Ok(Op::LoadMatrix { to: self.words(0, count)?, transposed, at: self.address(1)? })
    }

    fn words(&mut self, at: usize, count: usize) -> Result<Vec<Register>, ParseError> {
        self.registers(at, count, B32)
    }

    pub(super) fn registers(
        &mut self,
        at: usize,
        count: usize,
        ty: Type,
    ) -> Result<Vec<Register>, ParseError> {
        let parts = self.parts(at);
        if parts.len() != count {
            return self.wrong(format!("operand {at} has {} registers, expected {count}", parts.len()));
        }
        let register = |part: &Operand<'_>| match part {
            Operand::Word(name) => self.typed(name, ty),
            _ => self.wrong(format!("operand {at} must be registers")),
        };
        parts.iter().map(register).collect()
    }

    pub(super) fn product(&mut self) -> Decoded {
        self.arity(4)?;
        self.aligned()?;
        let depth = self.take_or("shape", &[("m16n8k8", 8), ("m16n8k16", 16), ("m16n8k32", 32)])?;
        if !self.take("row") || !self.take("col") {
            return self.wrong("the left matrix is .row, the right one .col");
        }
        let types = [self.ty()?, self.ty()?, self.ty()?, self.ty()?];
        let [into, left, right, from] = types;
        let bytes = |ty: Type| matches!(ty, Type::Signed(1) | Type::Unsigned(1));
        let (kind, target) = match (left, depth) {
            (Type::F16, 8) if right == Type::F16 => (Product::F16 { depth: 8 }, (75, (6, 5))),
            (Type::F16, 16) if right == Type::F16 => (Product::F16 { depth: 16 }, (80, (7, 0))),
            (Type::Bf16, 8 | 16) if right == Type::Bf16 => (Product::Bf16 { depth }, (80, (7, 0))),
            (_, 16 | 32) if bytes(left) && bytes(right) => {
                let signed = [left.is_signed(), right.is_signed()];
                (Product::Bytes { depth, signed }, (80, (7, 0)))
            }
            _ => return self.wrong("no product of that shape and of those types is known"),
        };
        self.needs(target.0, target.1)?;
        let sum = if bytes(left) { Type::Signed(4) } else { Type::F32 };
        if into != sum || from != sum {
            return self.wrong(format!("sums are {sum:?}"));
        }
        let per_word = if bytes(left) { 4 } else { 2 };
        let words = usize::from(depth) / per_word / 4;
        let (a, b) = (self.words(1, words * 2)?, self.words(2, words)?);
        let (to, c) = (self.registers(0, 4, sum)?, self.registers(3, 4, sum)?);
        let four = |found: Vec<Register>| [found[0], found[1], found[2], found[3]];
        Ok(Op::Product { kind, to: four(to), a, b, c: four(c) })
    }
}
