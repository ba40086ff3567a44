//! Expressions as text: `i*16 + j mod 16`, with the caller's names for axes and extras.

use std::fmt;

use super::{Expr, Kind};

/// How the leaves of an expression are written.
pub trait Names {
    /// Writes coordinate `index`.
    fn axis(&self, index: u16, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Writes the tensor (or value) that extra `slot` reads; coordinates follow in brackets, if any.
    fn extra(&self, slot: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${slot}")
    }
}

/// The names of the graph's text form: coordinates `i j k l m n o p`, extras `$0 $1 ...`.
pub struct AxisNames;

impl AxisNames {
    /// The letters, one a coordinate; tensors have at most this many axes.
    pub const LETTERS: [&'static str; 8] = ["i", "j", "k", "l", "m", "n", "o", "p"];
}

impl Names for AxisNames {
    fn axis(&self, index: u16, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match AxisNames::LETTERS.get(usize::from(index)) {
            Some(letter) => f.write_str(letter),
            None => write!(f, "axis{index}"),
        }
    }
}

/// Binding strength, weakest first: `and`, comparisons, sums, products and divisions, leaves.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Strength {
    Conjunction,
    Comparison,
    Sum,
    Product,
    Leaf,
}

struct Shown<'a> {
    x: &'a Expr,
    names: &'a dyn Names,
    inside: Strength,
}

impl Expr {
    /// The expression in text form under the caller's names.
    pub fn display<'a>(&'a self, names: &'a dyn Names) -> impl fmt::Display + 'a {
        Shown { x: self, names, inside: Strength::Conjunction }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown { x: self, names: &AxisNames, inside: Strength::Conjunction }.fmt(f)
    }
}

impl Shown<'_> {
    fn part<'b>(&'b self, x: &'b Expr, inside: Strength) -> Shown<'b> {
        Shown { x, names: self.names, inside }
    }

    fn strength(&self) -> Strength {
        match self.x.kind() {
            Kind::Int(value) if *value < 0 => Strength::Sum,
            Kind::Sum(terms, 0) if terms.len() == 1 && terms[0].1 > 0 => Strength::Product,
            Kind::Sum(..) => Strength::Sum,
            Kind::Product(_) | Kind::Div(..) | Kind::Mod(..) => Strength::Product,
            Kind::Lt(..) | Kind::Eq(..) => Strength::Comparison,
            Kind::And(_) => Strength::Conjunction,
            _ => Strength::Leaf,
        }
    }

    fn sum(&self, terms: &[(Expr, i64)], constant: i64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (x, c)) in terms.iter().enumerate() {
            match (at, *c < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            let size = c.unsigned_abs();
            if size == 1 {
                write!(f, "{}", self.part(x, Strength::Product))?;
            } else {
                write!(f, "{}*{size}", self.part(x, Strength::Product))?;
            }
        }
        match constant {
            0 => Ok(()),
            c if c < 0 => write!(f, " - {}", c.unsigned_abs()),
            c => write!(f, " + {c}"),
        }
    }

    fn joined(
        &self,
        xs: &[Expr],
        separator: &str,
        inside: Strength,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        for (at, x) in xs.iter().enumerate() {
            if at > 0 {
                f.write_str(separator)?;
            }
            write!(f, "{}", self.part(x, inside))?;
        }
        Ok(())
    }

    fn bare(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lowest = Strength::Conjunction;
        match self.x.kind() {
            Kind::Int(value) => write!(f, "{value}"),
            Kind::Sym(symbol) => f.write_str(symbol.name()),
            Kind::Axis { index, .. } => self.names.axis(*index, f),
            Kind::Extra { slot, at, .. } => {
                self.names.extra(*slot, f)?;
                if at.is_empty() {
                    return Ok(());
                }
                f.write_str("[")?;
                self.joined(at, ", ", lowest, f)?;
                f.write_str("]")
            }
            Kind::Sum(terms, constant) => self.sum(terms, *constant, f),
            Kind::Product(xs) => self.joined(xs, "*", Strength::Leaf, f),
            Kind::Div(x, d) => write!(f, "{} div {d}", self.part(x, Strength::Leaf)),
            Kind::Mod(x, d) => write!(f, "{} mod {d}", self.part(x, Strength::Leaf)),
            Kind::Min(a, b) => write!(f, "min({}, {})", self.part(a, lowest), self.part(b, lowest)),
            Kind::Max(a, b) => write!(f, "max({}, {})", self.part(a, lowest), self.part(b, lowest)),
            Kind::Lt(a, b) => {
                write!(f, "{} < {}", self.part(a, Strength::Sum), self.part(b, Strength::Sum))
            }
            Kind::Eq(a, b) => {
                write!(f, "{} == {}", self.part(a, Strength::Sum), self.part(b, Strength::Sum))
            }
            Kind::And(xs) => self.joined(xs, " and ", Strength::Comparison, f),
        }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.strength() < self.inside {
            f.write_str("(")?;
            self.bare(f)?;
            f.write_str(")")
        } else {
            self.bare(f)
        }
    }
}
