//! Arithmetic, logic and bits.

use super::{Decoded, Decoder};
use crate::error::ParseError;
use crate::instruction::{Binary, Mode, Op, Part, Register, Unary};
use crate::types::Type;

const U32: Type = Type::Unsigned(4);
const B32: Type = Type::Bits(4);

impl Decoder<'_, '_> {
    pub(super) fn mode(&mut self) -> Mode {
        Mode { flush: self.take("ftz"), saturate: self.take("sat") }
    }

    /// A mode, of which only singles (and for flushing halves) have any.
    fn mode_of(&mut self, ty: Type) -> Result<Mode, ParseError> {
        let mode = self.mode();
        let half = matches!(ty, Type::F16 | Type::F16x2);
        match mode == Mode::default() || ty == Type::F32 || half {
            true => Ok(mode),
            false => self.wrong(format!(".ftz and .sat are not for {ty:?}")),
        }
    }

    /// Rounding to nearest is the only one that operations on floats have here.
    fn nearest(&mut self) {
        self.take("rn");
    }

    pub(super) fn arithmetic(&mut self, name: &str) -> Decoded {
        if let Some(op) = unary(name) {
            return self.unary(op);
        }
        match name {
            "mul" | "mad" | "mul24" | "mad24" => self.multiply(name),
            "fma" => self.fused(),
            "dp4a" => {
                self.arity(4)?;
                let signed = [self.ty()?, self.ty()?].map(|ty| (ty == Type::Signed(4), ty == U32));
                if signed.iter().any(|(signed, unsigned)| !signed && !unsigned) {
                    return self.wrong("its operands are words of signed or unsigned bytes");
                }
                let [to, a, b, c] = self.four(B32)?;
                Ok(Op::Dot { signed: signed.map(|(signed, _)| signed), to, a, b, c })
            }
            "lop3" => {
                self.arity(5)?;
                if self.ty()? != B32 {
                    return self.wrong("it is for words");
                }
                let table = self.literal(4, 255)? as u8;
                let [to, a, b, c] = self.four(B32)?;
                Ok(Op::Logic { table, to, a, b, c })
            }
            "prmt" => {
                self.arity(4)?;
                if self.ty()? != B32 {
                    return self.wrong("it is for words");
                }
                let [to, a, b, selector] = self.four(B32)?;
                Ok(Op::Permute { to, a, b, selector })
            }
            "bfe" | "bfi" | "shf" => self.field(name),
            _ => match binary(name) {
                Some(op) => self.binary(op),
                None => self.unknown(),
            },
        }
    }

    /// A result and three operands of one type.
    fn four(&mut self, ty: Type) -> Result<[Register; 4], ParseError> {
        Ok([self.to(0, ty)?, self.value(1, ty)?, self.value(2, ty)?, self.value(3, ty)?])
    }

    fn unary(&mut self, op: Unary) -> Decoded {
        use Unary::{Absolute, CountOnes, LeadingZeros, Negate, Not, Reciprocal, Reverse, Root, Tanh};
        self.arity(2)?;
        let approximate = self.take("approx");
        self.nearest();
        let ty = self.ty()?;
        let mode = self.mode_of(ty)?;
        let half = matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2);
        let float = matches!(ty, Type::F32 | Type::F64);
        let fits = match op {
            Negate | Absolute => ty.is_signed() || half || float,
            Not => matches!(ty, Type::Bits(_) | Type::Pred),
            CountOnes | LeadingZeros | Reverse => ty.is_integer() && ty.bytes() >= 4,
            Root | Reciprocal => float && (approximate || !mode.saturate),
            Unary::Exp2 | Tanh => approximate && (ty == Type::F32 || half),
            _ => approximate && ty == Type::F32,
        };
        if !fits {
            return self.wrong(format!("no such operation on {ty:?}, or not in that precision"));
        }
        if op == Tanh {
            self.needs(75, (7, 0))?;
        }
        let half_needs = matches!(ty, Type::Bf16 | Type::Bf16x2) || half && op == Unary::Exp2;
        if half_needs {
            self.needs(
                if op == Unary::Exp2 && matches!(ty, Type::F16 | Type::F16x2) { 75 } else { 80 },
                (7, 0),
            )?;
        }
        let into = if matches!(op, CountOnes | LeadingZeros) { U32 } else { ty };
        Ok(Op::Unary { op, ty, mode, to: self.to(0, into)?, a: self.value(1, ty)? })
    }

    fn binary(&mut self, op: Binary) -> Decoded {
        use Binary::{Divide, Maximum, Minimum, ShiftLeft, ShiftRight};
        self.arity(3)?;
        let approximate = self.take("approx") || self.take("full");
        self.nearest();
        let nan = self.take("NaN");
        let ty = self.ty()?;
        let mode = if ty == Type::Signed(4) && self.take("sat") {
            return self.wrong("saturating sums of integers are not known");
        } else {
            self.mode_of(ty)?
        };
        let float = !ty.is_integer() && ty != Type::Pred;
        let halves = float && !matches!(ty, Type::F32 | Type::F64);
        let fits = match op {
            Binary::And | Binary::Or | Binary::Xor => matches!(ty, Type::Bits(_) | Type::Pred),
            ShiftLeft => matches!(ty, Type::Bits(_)),
            ShiftRight => ty.is_integer(),
            Binary::Remainder => ty.is_integer(),
            Binary::CopySign => matches!(ty, Type::F32 | Type::F64),
            Divide => !halves && !matches!(ty, Type::Bits(_) | Type::Pred),
            _ => ty != Type::Pred && !matches!(ty, Type::Bits(_)),
        };
        if !fits || approximate && !(op == Divide && ty == Type::F32) || nan && !float {
            return self.wrong(format!("no such operation on {ty:?}"));
        }
        let bf16 = matches!(ty, Type::Bf16 | Type::Bf16x2);
        match op {
            Minimum | Maximum if halves || nan => self.needs(80, (7, 0))?,
            _ if bf16 => self.needs(90, (7, 8))?,
            _ => {}
        }
        let op = match op {
            Minimum if nan => Binary::MinimumNan,
            Maximum if nan => Binary::MaximumNan,
            op => op,
        };
        let second = if matches!(op, ShiftLeft | ShiftRight) { U32 } else { ty };
        Ok(Op::Binary { op, ty, mode, to: self.to(0, ty)?, a: self.value(1, ty)?, b: self.value(2, second)? })
    }

    /// Products of integers by their parts, and of floats.
    fn multiply(&mut self, name: &str) -> Decoded {
        let adds = name == "mad";
        if !adds && name != "mul" {
            return self.unknown();
        }
        self.arity(3 + usize::from(adds))?;
        let part = self.take_one(&[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)]);
        self.nearest();
        let ty = self.ty()?;
        let mode = self.mode_of(ty)?;
        let Some(part) = part else {
            let float = !ty.is_integer() && ty != Type::Pred;
            if adds && ty == Type::F32 {
                return self.wrong("write fma.rn for a product and a sum of floats");
            }
            if !float || adds {
                return self.wrong("say which part: .lo, .hi or .wide");
            }
            if matches!(ty, Type::Bf16 | Type::Bf16x2) {
                self.needs(90, (7, 8))?;
            }
            let (to, a, b) = (self.to(0, ty)?, self.value(1, ty)?, self.value(2, ty)?);
            return Ok(Op::Binary { op: Binary::Multiply, ty, mode, to, a, b });
        };
        let into = match (part, ty) {
            (_, Type::Unsigned(1) | Type::Signed(1)) => return self.wrong("products of bytes"),
            (Part::Wide, Type::Unsigned(bytes @ 2..=4)) => Type::Unsigned(bytes * 2),
            (Part::Wide, Type::Signed(bytes @ 2..=4)) => Type::Signed(bytes * 2),
            (Part::Low | Part::High, Type::Unsigned(_) | Type::Signed(_)) => ty,
            _ => return self.wrong(format!("no such operation on {ty:?}")),
        };
        let (to, a, b) = (self.to(0, into)?, self.value(1, ty)?, self.value(2, ty)?);
        if adds {
            return Ok(Op::MultiplyAdd { part, ty, to, a, b, c: self.value(3, into)? });
        }
        let op = match part {
            Part::Low => Binary::Multiply,
            Part::High => Binary::MultiplyHigh,
            Part::Wide => Binary::MultiplyWide,
        };
        Ok(Op::Binary { op, ty, mode, to, a, b })
    }

    fn fused(&mut self) -> Decoded {
        self.arity(4)?;
        if !self.take("rn") {
            return self.wrong("only rounding to nearest is known");
        }
        let ty = self.ty()?;
        let mode = self.mode_of(ty)?;
        if ty.is_integer() || ty == Type::Pred {
            return self.wrong("it is for floats");
        }
        if matches!(ty, Type::Bf16 | Type::Bf16x2) {
            self.needs(80, (7, 0))?;
        }
        let [to, a, b, c] = self.four(ty)?;
        Ok(Op::Fused { ty, mode, to, a, b, c })
    }

    /// Fields of bits, and shifts of two words as one.
    fn field(&mut self, name: &str) -> Decoded {
        match name {
            "bfe" => {
                self.arity(4)?;
                let ty = self.ty()?;
                if !ty.is_integer() || ty.bytes() < 4 || matches!(ty, Type::Bits(_)) {
                    return self.wrong(format!("no such operation on {ty:?}"));
                }
                let (to, a) = (self.to(0, ty)?, self.value(1, ty)?);
                Ok(Op::Extract { ty, to, a, start: self.value(2, U32)?, len: self.value(3, U32)? })
            }
            "bfi" => {
                self.arity(5)?;
                let ty = self.ty()?;
                if !matches!(ty, Type::Bits(4 | 8)) {
                    return self.wrong(format!("no such operation on {ty:?}"));
                }
                let (to, a, b) = (self.to(0, ty)?, self.value(1, ty)?, self.value(2, ty)?);
                Ok(Op::Insert { ty, to, a, b, start: self.value(3, U32)?, len: self.value(4, U32)? })
            }
            _ => {
                self.arity(4)?;
                let left = self.take_or("direction", &[("l", true), ("r", false)])?;
                let wrap = self.take_or("rule for large shifts", &[("wrap", true), ("clamp", false)])?;
                if self.ty()? != B32 {
                    return self.wrong("it is for words");
                }
                let [to, a, b, by] = self.four(B32)?;
                Ok(Op::Funnel { left, wrap, to, a, b, by })
            }
        }
    }
}

fn unary(name: &str) -> Option<Unary> {
    Some(match name {
        "neg" => Unary::Negate,
        "abs" => Unary::Absolute,
        "not" => Unary::Not,
        "ex2" => Unary::Exp2,
        "lg2" => Unary::Log2,
        "rcp" => Unary::Reciprocal,
        "rsqrt" => Unary::ReciprocalRoot,
        "sqrt" => Unary::Root,
        "sin" => Unary::Sine,
        "cos" => Unary::Cosine,
        "tanh" => Unary::Tanh,
        "popc" => Unary::CountOnes,
        "clz" => Unary::LeadingZeros,
        "brev" => Unary::Reverse,
        _ => return None,
    })
}

fn binary(name: &str) -> Option<Binary> {
    Some(match name {
        "add" => Binary::Add,
        "sub" => Binary::Subtract,
        "div" => Binary::Divide,
        "rem" => Binary::Remainder,
        "min" => Binary::Minimum,
        "max" => Binary::Maximum,
        "and" => Binary::And,
        "or" => Binary::Or,
        "xor" => Binary::Xor,
        "shl" => Binary::ShiftLeft,
        "shr" => Binary::ShiftRight,
        "copysign" => Binary::CopySign,
        _ => return None,
    })
}
