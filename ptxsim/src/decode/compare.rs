//! Comparisons, choices, conversions.

use super::{Decoded, Decoder};
use crate::error::ParseError;
use crate::instruction::{Comparison, Join, Mode, Op, Rounding};
use crate::parse::operand::Operand;
use crate::types::Type;

impl Decoder<'_, '_> {
    /// The comparison that the mnemonic names first, and whether NaN makes it true.
    fn comparison(&mut self) -> Result<(Comparison, bool), ParseError> {
        use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual, Ordered, Unordered};
        self.take_or(
            "comparison",
            &[
                ("eq", (Equal, false)),
                ("ne", (NotEqual, false)),
                ("lt", (Less, false)),
                ("le", (LessOrEqual, false)),
                ("gt", (Greater, false)),
                ("ge", (GreaterOrEqual, false)),
                ("lo", (Less, false)),
                ("ls", (LessOrEqual, false)),
                ("hi", (Greater, false)),
                ("hs", (GreaterOrEqual, false)),
                ("equ", (Equal, true)),
                ("neu", (NotEqual, true)),
                ("ltu", (Less, true)),
                ("leu", (LessOrEqual, true)),
                ("gtu", (Greater, true)),
                ("geu", (GreaterOrEqual, true)),
                ("num", (Ordered, false)),
                ("nan", (Unordered, true)),
            ],
        )
    }

    /// The type of what is compared; bits know only equality, and integers no NaN.
    fn compared(&mut self, comparison: Comparison, unordered: bool) -> Result<(Type, Mode), ParseError> {
        let ty = self.ty()?;
        let mode = Mode { flush: self.take("ftz"), saturate: false };
        let float = matches!(ty, Type::F16 | Type::Bf16 | Type::F32 | Type::F64);
        let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        let fits = match ty {
            _ if float => true,
            Type::Bits(2..) => equality && !unordered,
            Type::Unsigned(2..) | Type::Signed(2..) => {
                !unordered && comparison != Comparison::Ordered && comparison != Comparison::Unordered
            }
            _ => false,
        };
        if ty == Type::Bf16 {
            self.needs(90, (7, 8))?;
        }
        match fits {
            true => Ok((ty, mode)),
            false => self.wrong(format!("no such comparison of {ty:?}")),
        }
    }

    pub(super) fn compare(&mut self) -> Decoded {
        let (comparison, unordered) = self.comparison()?;
        let join = self.take_one(&[("and", Join::And), ("or", Join::Or), ("xor", Join::Xor)]);
        self.arity(3 + usize::from(join.is_some()))?;
        let (ty, mode) = self.compared(comparison, unordered)?;
        let place = |name: &str| match name {
            "_" => Ok(None),
            _ => self.typed(name, Type::Pred).map(Some),
        };
        let to = match self.operands[0] {
            Operand::Word(name) => [place(name)?, None],
            Operand::Pair(first, second) => [place(first)?, place(second)?],
            _ => return self.wrong("its result is a predicate"),
        };
        let join = match (join, self.operands.get(3)) {
            (Some(join), Some(Operand::Not(name))) => Some((join, self.typed(name, Type::Pred)?, true)),
            (Some(join), Some(Operand::Word(name))) => Some((join, self.typed(name, Type::Pred)?, false)),
            (Some(_), _) => return self.wrong("its last operand is a predicate"),
            (None, _) => None,
        };
        let (a, b) = (self.value(1, ty)?, self.value(2, ty)?);
        Ok(Op::Compare { comparison, unordered, ty, mode, join, to, a, b })
    }

    pub(super) fn set(&mut self) -> Decoded {
        self.arity(3)?;
        let (comparison, unordered) = self.comparison()?;
        let into = self.ty()?;
        if !matches!(into, Type::Unsigned(4) | Type::Signed(4) | Type::F32) {
            return self.wrong("its result is a word");
        }
        let (ty, mode) = self.compared(comparison, unordered)?;
        let (to, a, b) = (self.to(0, into)?, self.value(1, ty)?, self.value(2, ty)?);
        Ok(Op::Set { comparison, unordered, into, ty, mode, to, a, b })
    }

    pub(super) fn select(&mut self) -> Decoded {
        self.arity(4)?;
        let ty = self.ty()?;
        if ty == Type::Pred || ty.bytes() < 2 {
            return self.wrong(format!("no choice between values of {ty:?}"));
        }
        let which = self.value(3, Type::Pred)?;
        Ok(Op::Select { to: self.to(0, ty)?, a: self.value(1, ty)?, b: self.value(2, ty)?, which })
    }

    pub(super) fn convert(&mut self) -> Decoded {
        let rounding = self.take_one(&[
            ("rn", Rounding::Nearest),
            ("rz", Rounding::Zero),
            ("rni", Rounding::NearestInteger),
            ("rzi", Rounding::ZeroInteger),
            ("rmi", Rounding::DownInteger),
            ("rpi", Rounding::UpInteger),
        ]);
        let mode = self.mode();
        let (into, from) = (self.ty()?, self.ty()?);
        if matches!(into, Type::F16x2 | Type::Bf16x2) && from == Type::F32 {
            self.needs(80, (7, 0))?;
            self.arity(3)?;
            if rounding != Some(Rounding::Nearest) {
                return self.wrong("only rounding to nearest is known");
            }
            let (to, a, b) = (self.to(0, into)?, self.value(1, from)?, self.value(2, from)?);
            return Ok(Op::ConvertPair { into, mode, to, a, b });
        }
        self.arity(2)?;
        self.check_conversion(into, from, rounding)?;
        // Of a register that is wider than the type the lowest bits count; a wider result is extended.
        let (to, declared) = match self.operands[0] {
            Operand::Word(name) => self.named(name)?,
            _ => return self.wrong("its result is a register"),
        };
        let wider = |ty: Type, declared: Type| {
            ty.accepts(declared) || ty.is_integer() && declared.is_integer() && declared.bytes() >= ty.bytes()
        };
        if !wider(into, declared) {
            return self.wrong(format!("the result's register is {declared:?}, expected {into:?}"));
        }
        let source = match self.operands[1] {
            Operand::Word(name) => self.scope.register(name).map_or(from, |(_, declared)| declared),
            _ => from,
        };
        if !wider(from, source) {
            return self.wrong(format!("the operand's register is {source:?}, expected {from:?}"));
        }
        let a = self.value(1, if from.is_integer() { source } else { from })?;
        let rounding = rounding.unwrap_or(Rounding::Nearest);
        Ok(Op::Convert { into, from, rounding, mode, to, a, bytes: declared.bytes() })
    }

    /// Whether there is such a conversion, and whether it says how it rounds where it must.
    fn check_conversion(&self, into: Type, from: Type, rounding: Option<Rounding>) -> Result<(), ParseError> {
        let plain = |ty: Type| {
            matches!(ty, Type::Unsigned(_) | Type::Signed(_) | Type::F16 | Type::Bf16 | Type::F32 | Type::F64)
        };
        if !plain(into) || !plain(from) {
            return self.wrong(format!("no conversion from {from:?} to {into:?}"));
        }
        let whole = matches!(
            rounding,
            Some(
                Rounding::NearestInteger
                    | Rounding::ZeroInteger
                    | Rounding::DownInteger
                    | Rounding::UpInteger
            )
        );
        let narrows = !into.is_integer()
            && (from.is_integer()
                || into.bytes() < from.bytes()
                || into != from && into.bytes() == from.bytes());
        let fits = match (into.is_integer(), from.is_integer()) {
            (true, true) => rounding.is_none(),
            (true, false) => whole,
            (false, true) => rounding.is_some() && !whole,
            (false, false) if into == from => whole || rounding.is_none(),
            (false, false) => rounding.is_some() == narrows && !whole,
        };
        if !fits {
            return self.wrong("it must say how it rounds where it rounds, and only there");
        }
        match (into, from) {
            (Type::Bf16, Type::F32) => self.needs(80, (7, 0)),
            (Type::F32, Type::Bf16) => self.needs(80, (7, 1)),
            (Type::Bf16, _) | (_, Type::Bf16) => self.needs(90, (7, 8)),
            _ => Ok(()),
        }
    }
}
