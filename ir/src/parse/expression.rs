//! Index expressions: first their syntax, then, when the shape is known, their value.

use super::cursor::Cursor;
use super::{NUMBER_MAX, ParseError};
use crate::expr::{Expr, Symbol};

/// Parts of one expression, at most.
const PARTS_MAX: usize = 512;

/// Expressions inside one another, at most.
const DEPTH_MAX: usize = 24;

/// Terms of a sum, at most, once products have been multiplied out.
const TERMS_MAX: usize = 256;

/// What names in an expression stand for.
pub(super) struct Scope<'a> {
    /// Coordinates, by name.
    pub(super) axes: &'a [(String, Expr)],
    pub(super) symbols: Vec<&'a Symbol>,
    /// The range of each extra.
    pub(super) extras: &'a [(i64, Expr)],
}

/// An expression as it is written; places are byte offsets.
pub(super) struct Syntax {
    at: usize,
    kind: Kind,
}

enum Kind {
    Int(i64),
    Name(String),
    Extra(u32, Vec<Syntax>),
    /// Each part with whether it is subtracted.
    Sum(Vec<(bool, Syntax)>),
    Product(Box<Syntax>, Vec<(Factor, Syntax)>),
    Least(Box<[Syntax; 2]>),
    Most(Box<[Syntax; 2]>),
    Compare(Comparison, Box<[Syntax; 2]>),
    And(Vec<Syntax>),
}

#[derive(Clone, Copy)]
enum Factor {
    Times,
    Div,
    Mod,
}

#[derive(Clone, Copy)]
enum Comparison {
    Less,
    AtMost,
    Greater,
    AtLeast,
    Equal,
}

/// Reads one expression.
pub(super) fn syntax(cursor: &mut Cursor<'_>) -> Result<Syntax, ParseError> {
    Reader { parts: 0, depth: 0 }.conjunction(cursor)
}

struct Reader {
    parts: usize,
    depth: usize,
}

impl Reader {
    fn part(&mut self, cursor: &Cursor<'_>, at: usize, kind: Kind) -> Result<Syntax, ParseError> {
        self.parts += 1;
        if self.parts > PARTS_MAX {
            return Err(cursor.back_to(at).error("an expression of at most 512 parts"));
        }
        Ok(Syntax { at, kind })
    }

    fn conjunction(&mut self, cursor: &mut Cursor<'_>) -> Result<Syntax, ParseError> {
        let at = cursor.position();
        if self.depth >= DEPTH_MAX {
            return Err(cursor.error("an expression nested at most 24 deep"));
        }
        self.depth += 1;
        let first = self.comparison(cursor)?;
        let mut all = vec![first];
        while cursor.eat("and") {
            all.push(self.comparison(cursor)?);
        }
        self.depth -= 1;
        if all.len() > 1 {
            return self.part(cursor, at, Kind::And(all));
        }
        Ok(all.remove(0))
    }

    fn comparison(&mut self, cursor: &mut Cursor<'_>) -> Result<Syntax, ParseError> {
        let at = cursor.position();
        let left = self.sum(cursor)?;
        let operators = [
            ("<=", Comparison::AtMost),
            ("<", Comparison::Less),
            (">=", Comparison::AtLeast),
            (">", Comparison::Greater),
            ("==", Comparison::Equal),
        ];
        let Some((_, operator)) = operators.into_iter().find(|(token, _)| cursor.eat(token)) else {
            return Ok(left);
        };
        let right = self.sum(cursor)?;
        self.part(cursor, at, Kind::Compare(operator, Box::new([left, right])))
    }

    fn sum(&mut self, cursor: &mut Cursor<'_>) -> Result<Syntax, ParseError> {
        let at = cursor.position();
        let negative = cursor.eat("-");
        let mut parts = vec![(negative, self.product(cursor)?)];
        loop {
            let negative = cursor.sees("-");
            if !cursor.eat("-") && !cursor.eat("+") {
                break;
            }
            parts.push((negative, self.product(cursor)?));
        }
        if parts.len() == 1 && !negative {
            return Ok(parts.remove(0).1);
        }
        self.part(cursor, at, Kind::Sum(parts))
    }

    fn product(&mut self, cursor: &mut Cursor<'_>) -> Result<Syntax, ParseError> {
        let at = cursor.position();
        let first = self.leaf(cursor)?;
        let mut factors = Vec::new();
        loop {
            let factor = match () {
                () if cursor.eat("*") => Factor::Times,
                () if cursor.eat("div") => Factor::Div,
                () if cursor.eat("mod") => Factor::Mod,
                () => break,
            };
            factors.push((factor, self.leaf(cursor)?));
        }
        if factors.is_empty() {
            return Ok(first);
        }
        self.part(cursor, at, Kind::Product(Box::new(first), factors))
    }

    fn leaf(&mut self, cursor: &mut Cursor<'_>) -> Result<Syntax, ParseError> {
        let at = cursor.position();
        if cursor.eat("(") {
            let inner = self.conjunction(cursor)?;
            cursor.expect(")")?;
            return Ok(inner);
        }
        if cursor.eat("$") {
            let slot = cursor.digits().and_then(|slot| u32::try_from(slot).ok());
            let slot = slot.ok_or_else(|| cursor.error("the number of an extra"))?;
            let mut coordinates = Vec::new();
            if cursor.eat("[") {
                coordinates.push(self.conjunction(cursor)?);
                while cursor.eat(",") {
                    coordinates.push(self.conjunction(cursor)?);
                }
                cursor.expect("]")?;
            }
            return self.part(cursor, at, Kind::Extra(slot, coordinates));
        }
        if cursor.sees_char(|c| c.is_ascii_digit()) {
            let value = cursor.digits();
            let value = value.ok_or_else(|| cursor.back_to(at).error("an integer below 2^48"))?;
            return self.part(cursor, at, Kind::Int(value));
        }
        let word = cursor.word().ok_or_else(|| cursor.back_to(at).error("an expression"))?;
        if (word == "min" || word == "max") && cursor.eat("(") {
            let first = self.conjunction(cursor)?;
            cursor.expect(",")?;
            let both = Box::new([first, self.conjunction(cursor)?]);
            cursor.expect(")")?;
            return self.part(cursor, at, if word == "min" { Kind::Least(both) } else { Kind::Most(both) });
        }
        self.part(cursor, at, Kind::Name(word.to_owned()))
    }
}

impl Syntax {
    /// The expression, with every name looked up in `scope`. `cursor` serves to report places.
    pub(super) fn build(&self, scope: &Scope<'_>, cursor: &Cursor<'_>) -> Result<Expr, ParseError> {
        let error = |expected: &str| Err(cursor.back_to(self.at).error(expected));
        let build = |syntax: &Syntax| syntax.build(scope, cursor);
        let built = match &self.kind {
            Kind::Int(value) => Expr::int(*value),
            Kind::Name(name) => match scope.find(name) {
                Some(x) => x,
                None => return error("a coordinate or a symbol"),
            },
            Kind::Extra(slot, at) => {
                let Some((low, end)) = scope.extras.get(*slot as usize) else {
                    return error("an extra that the node has");
                };
                let at = at.iter().map(build).collect::<Result<Vec<_>, _>>()?;
                Expr::extra(*slot, at, *low, end)
            }
            Kind::Sum(parts) => {
                let mut sum = Expr::int(0);
                for (negative, part) in parts {
                    let part = build(part)?;
                    sum = if *negative { sum - part } else { sum + part };
                }
                sum
            }
            Kind::Product(first, factors) => {
                let mut product = build(first)?;
                for (factor, syntax) in factors {
                    product = syntax.factor(product, *factor, build(syntax)?, cursor)?;
                }
                product
            }
            Kind::Least(both) => build(&both[0])?.minimum(&build(&both[1])?),
            Kind::Most(both) => build(&both[0])?.maximum(&build(&both[1])?),
            Kind::Compare(operator, both) => {
                let (a, b) = (build(&both[0])?, build(&both[1])?);
                match operator {
                    Comparison::Less => a.less_than(&b),
                    Comparison::AtMost => a.at_most(&b),
                    Comparison::Greater => b.less_than(&a),
                    Comparison::AtLeast => b.at_most(&a),
                    Comparison::Equal => a.equals(&b),
                }
            }
            Kind::And(all) => {
                let mut truth = Expr::int(1);
                for part in all {
                    let part_built = build(part)?;
                    if part_built.low() < 0 || part_built.high() > 1 {
                        return Err(cursor.back_to(part.at).error("a comparison"));
                    }
                    truth = truth.and(&part_built);
                }
                truth
            }
        };
        if built.terms().0.len() > TERMS_MAX {
            return error("a sum of at most 256 terms");
        }
        Ok(built)
    }

    /// `left * right`, `left div right` or `left mod right`; `self` is where `right` stands.
    fn factor(
        &self,
        left: Expr,
        factor: Factor,
        right: Expr,
        cursor: &Cursor<'_>,
    ) -> Result<Expr, ParseError> {
        let error = |expected: &str| Err(cursor.back_to(self.at).error(expected));
        if let Factor::Times = factor {
            let terms = |x: &Expr| x.terms().0.len() + 1;
            if terms(&left).saturating_mul(terms(&right)) > TERMS_MAX {
                return error("a product of at most 256 terms");
            }
            return Ok(left * right);
        }
        match (right.as_int().filter(|d| (1..NUMBER_MAX).contains(d)), factor) {
            (Some(d), Factor::Div) => Ok(left.div_floor(d)),
            (Some(d), _) => Ok(left.modulo(d)),
            (None, _) => error("a positive constant"),
        }
    }
}

impl Scope<'_> {
    fn find(&self, name: &str) -> Option<Expr> {
        let axis = self.axes.iter().find(|(axis, _)| axis == name).map(|(_, x)| x.clone());
        axis.or_else(|| self.symbols.iter().find(|s| s.name() == name).map(|s| Expr::symbol(s)))
    }
}
