//! Index and shape arithmetic: the only symbolic engine of the project.
//!
//! An [`Expr`] is an immutable integer expression over *axes* (the coordinates of the element being
//! computed), *symbols* (sizes known only when a pass runs) and *extras* (integers read from a tensor).
//! Expressions are built in normal form: a sum of `coefficient * atom` plus a constant, with every
//! rule of [`simplify`](self) applied by the constructor, so two expressions that the rules can prove
//! equal *are* equal. Each one carries an interval and a known divisor.
//!
//! Division and remainder take positive constants and round towards minus infinity, so `x mod d` lies
//! in `0..d` whatever the sign of `x`. Comparisons give 0 or 1.

mod bounds;
mod display;
mod simplify;

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use bounds::{facts_of, proves_nonnegative};
pub use display::{AxisNames, Names};

/// A size that is known only when a pass runs, with the bounds that it always keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Symbol(Arc<SymbolFacts>);

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct SymbolFacts {
    name: String,
    low: i64,
    high: i64,
    divisor: i64,
}

impl Symbol {
    /// A symbol with `low <= value <= high` that is always a multiple of `divisor`.
    pub fn new(name: &str, low: i64, high: i64, divisor: i64) -> Symbol {
        assert!(low <= high && divisor >= 1, "symbol {name} has an empty range or no divisor");
        Symbol(Arc::new(SymbolFacts { name: name.to_owned(), low, high, divisor }))
    }

    /// The name, unique within a graph.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The smallest value.
    pub fn low(&self) -> i64 {
        self.0.low
    }

    /// The largest value.
    pub fn high(&self) -> i64 {
        self.0.high
    }

    /// Every value is a multiple of this.
    pub fn divisor(&self) -> i64 {
        self.0.divisor
    }
}

/// An integer expression in normal form; cheap to clone.
#[derive(Clone, Debug)]
pub struct Expr(Arc<ExprNode>);

#[derive(Debug)]
struct ExprNode {
    kind: Kind,
    low: i64,
    high: i64,
    divisor: i64,
    hash: u64,
}

/// What an expression is made of. Only the constructors of [`Expr`] make one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A constant.
    Int(i64),
    /// A symbol's value.
    Sym(Symbol),
    /// Coordinate number `index` of the element being computed, in `0..extent`.
    Axis {
        /// Which coordinate.
        index: u16,
        /// One more than the largest value; mentions no axis that is bound inside.
        extent: Expr,
    },
    /// An element of the integer tensor number `slot`, in `low..end`.
    Extra {
        /// Which tensor (or, in kernels, which value).
        slot: u32,
        /// The coordinates of the element.
        at: Vec<Expr>,
        /// The smallest value.
        low: i64,
        /// One more than the largest value.
        end: Expr,
    },
    /// `sum(coefficient * atom) + constant`; atoms ascend and are neither sums nor constants.
    Sum(Vec<(Expr, i64)>, i64),
    /// The product of two or more atoms, ascending, none of them a constant or a sum.
    Product(Vec<Expr>),
    /// `floor(x / d)`, `d > 1`.
    Div(Expr, i64),
    /// `x - d * floor(x / d)`, `d > 1`.
    Mod(Expr, i64),
    /// The smaller one.
    Min(Expr, Expr),
    /// The larger one.
    Max(Expr, Expr),
    /// 1 if the first is less than the second, else 0.
    Lt(Expr, Expr),
    /// 1 if both are equal, else 0.
    Eq(Expr, Expr),
    /// 1 if all (each 0 or 1) are 1, else 0; at least two, ascending, none of them an `And`.
    And(Vec<Expr>),
}

/// The values of an expression's leaves.
pub trait Environment {
    /// The value of coordinate `index`.
    fn axis(&self, index: u16) -> i64;
    /// The value of a symbol.
    fn symbol(&self, symbol: &Symbol) -> i64;
    /// The element at `at` of extra `slot`.
    fn extra(&self, slot: u32, at: &[i64]) -> i64;
}

/// Bounds beyond this are treated as unbounded; keeps interval arithmetic free of overflow.
const UNBOUNDED: i64 = 1 << 60;

fn clamp(value: i128) -> i64 {
    value.clamp(-i128::from(UNBOUNDED), i128::from(UNBOUNDED)) as i64
}

fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    i64::try_from(a).unwrap_or(1)
}

impl Expr {
    fn make(kind: Kind) -> Expr {
        let (low, high) = interval(&kind);
        let divisor = known_divisor(&kind);
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        kind.hash(&mut hasher);
        Expr(Arc::new(ExprNode { kind, low, high, divisor, hash: hasher.finish() }))
    }

    /// A constant.
    pub fn int(value: i64) -> Expr {
        Expr::make(Kind::Int(value))
    }

    /// A symbol's value.
    pub fn symbol(symbol: &Symbol) -> Expr {
        if symbol.low() == symbol.high() {
            return Expr::int(symbol.low());
        }
        Expr::make(Kind::Sym(symbol.clone()))
    }

    /// Coordinate `index`, in `0..extent`. An extent of 1 makes it the constant 0.
    pub fn axis(index: u16, extent: &Expr) -> Expr {
        if extent.as_int() == Some(1) {
            return Expr::int(0);
        }
        Expr::make(Kind::Axis { index, extent: extent.clone() })
    }

    /// An element of the integer tensor `slot`, whose values lie in `low..end`.
    pub fn extra(slot: u32, at: Vec<Expr>, low: i64, end: &Expr) -> Expr {
        Expr::make(Kind::Extra { slot, at, low, end: end.clone() })
    }

    /// What the expression is made of.
    pub fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// The smallest value it can take.
    pub fn low(&self) -> i64 {
        self.0.low
    }

    /// The largest value it can take.
    pub fn high(&self) -> i64 {
        self.0.high
    }

    /// Every value is a multiple of this; 0 for the constant 0.
    pub fn divisor(&self) -> i64 {
        self.0.divisor
    }

    /// The constant that it is, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self.kind() {
            Kind::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Whether any leaf satisfies `test`; looks into extents only of the leaves' coordinates.
    pub fn any(&self, test: &mut dyn FnMut(&Expr) -> bool) -> bool {
        if test(self) {
            return true;
        }
        match self.kind() {
            Kind::Int(_) | Kind::Sym(_) | Kind::Axis { .. } => false,
            Kind::Extra { at, .. } => at.iter().any(|x| x.any(test)),
            Kind::Sum(terms, _) => terms.iter().any(|(x, _)| x.any(test)),
            Kind::Product(xs) | Kind::And(xs) => xs.iter().any(|x| x.any(test)),
            Kind::Div(x, _) | Kind::Mod(x, _) => x.any(test),
            Kind::Min(a, b) | Kind::Max(a, b) | Kind::Lt(a, b) | Kind::Eq(a, b) => a.any(test) || b.any(test),
        }
    }

    /// Whether coordinate `index` occurs.
    pub fn mentions_axis(&self, index: u16) -> bool {
        self.any(&mut |x| matches!(x.kind(), Kind::Axis { index: i, .. } if *i == index))
    }

    /// The expression with leaves (axes, symbols, extras) replaced where `replace` gives something;
    /// the coordinates of an extra are substituted before it is offered.
    pub fn substitute(&self, replace: &mut dyn FnMut(&Expr) -> Option<Expr>) -> Expr {
        match self.kind() {
            Kind::Int(_) => self.clone(),
            Kind::Sym(_) | Kind::Axis { .. } => replace(self).unwrap_or_else(|| self.clone()),
            Kind::Extra { slot, at, low, end } => {
                let at = at.iter().map(|x| x.substitute(replace)).collect();
                let extra = Expr::extra(*slot, at, *low, end);
                replace(&extra).unwrap_or(extra)
            }
            Kind::Sum(terms, constant) => {
                let parts = terms.iter().map(|(x, c)| x.substitute(replace) * *c);
                parts.fold(Expr::int(*constant), |sum, part| sum + part)
            }
            Kind::Product(xs) => xs.iter().map(|x| x.substitute(replace)).fold(Expr::int(1), |a, b| a * b),
            Kind::Div(x, d) => x.substitute(replace).div_floor(*d),
            Kind::Mod(x, d) => x.substitute(replace).modulo(*d),
            Kind::Min(a, b) => a.substitute(replace).minimum(&b.substitute(replace)),
            Kind::Max(a, b) => a.substitute(replace).maximum(&b.substitute(replace)),
            Kind::Lt(a, b) => a.substitute(replace).less_than(&b.substitute(replace)),
            Kind::Eq(a, b) => a.substitute(replace).equals(&b.substitute(replace)),
            Kind::And(xs) => xs.iter().map(|x| x.substitute(replace)).fold(Expr::int(1), |a, b| a.and(&b)),
        }
    }

    /// The expression with coordinate `i` replaced by `at[i]`.
    pub fn at(&self, at: &[Expr]) -> Expr {
        self.substitute(&mut |leaf| match leaf.kind() {
            Kind::Axis { index, .. } => at.get(usize::from(*index)).cloned(),
            _ => None,
        })
    }

    /// The value when the leaves have the values of `environment`.
    pub fn evaluate(&self, environment: &dyn Environment) -> i64 {
        let value = |x: &Expr| x.evaluate(environment);
        match self.kind() {
            Kind::Int(value) => *value,
            Kind::Sym(symbol) => environment.symbol(symbol),
            Kind::Axis { index, .. } => environment.axis(*index),
            Kind::Extra { slot, at, .. } => {
                let at: Vec<i64> = at.iter().map(value).collect();
                environment.extra(*slot, &at)
            }
            Kind::Sum(terms, constant) => {
                terms.iter().fold(*constant, |sum, (x, c)| sum.wrapping_add(value(x).wrapping_mul(*c)))
            }
            Kind::Product(xs) => xs.iter().fold(1i64, |product, x| product.wrapping_mul(value(x))),
            Kind::Div(x, d) => value(x).div_euclid(*d),
            Kind::Mod(x, d) => value(x).rem_euclid(*d),
            Kind::Min(a, b) => value(a).min(value(b)),
            Kind::Max(a, b) => value(a).max(value(b)),
            Kind::Lt(a, b) => i64::from(value(a) < value(b)),
            Kind::Eq(a, b) => i64::from(value(a) == value(b)),
            Kind::And(xs) => i64::from(xs.iter().all(|x| value(x) != 0)),
        }
    }
}

impl PartialEq for Expr {
    fn eq(&self, other: &Expr) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || (self.0.hash == other.0.hash && self.0.kind == other.0.kind)
    }
}

impl Eq for Expr {}

impl Hash for Expr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl PartialOrd for Expr {
    fn partial_cmp(&self, other: &Expr) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Expr {
    fn cmp(&self, other: &Expr) -> Ordering {
        if self == other { Ordering::Equal } else { self.0.kind.cmp(&other.0.kind) }
    }
}

impl From<i64> for Expr {
    fn from(value: i64) -> Expr {
        Expr::int(value)
    }
}

/// A fixed hash, so that the same expression hashes alike in every process.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn interval(kind: &Kind) -> (i64, i64) {
    let truth = (0, 1);
    match kind {
        Kind::Int(value) => (*value, *value),
        Kind::Sym(symbol) => (symbol.low(), symbol.high()),
        Kind::Axis { extent, .. } => (0, (extent.high() - 1).max(0)),
        Kind::Extra { low, end, .. } => (*low, (end.high() - 1).max(*low)),
        Kind::Sum(terms, constant) => {
            let (mut low, mut high) = (i128::from(*constant), i128::from(*constant));
            for (x, c) in terms {
                let (a, b) = (i128::from(x.low()) * i128::from(*c), i128::from(x.high()) * i128::from(*c));
                low = low.saturating_add(a.min(b));
                high = high.saturating_add(a.max(b));
            }
            (clamp(low), clamp(high))
        }
        Kind::Product(xs) => xs.iter().fold((1, 1), |(low, high), x| {
            let corners = [low, high].map(|a| [x.low(), x.high()].map(|b| i128::from(a) * i128::from(b)));
            let corners = corners.concat();
            (
                clamp(corners.iter().copied().min().unwrap_or(0)),
                clamp(corners.iter().copied().max().unwrap_or(0)),
            )
        }),
        Kind::Div(x, d) => (x.low().div_euclid(*d), x.high().div_euclid(*d)),
        Kind::Mod(_, d) => (0, d - 1),
        Kind::Min(a, b) => (a.low().min(b.low()), a.high().min(b.high())),
        Kind::Max(a, b) => (a.low().max(b.low()), a.high().max(b.high())),
        Kind::Lt(..) | Kind::Eq(..) | Kind::And(_) => truth,
    }
}

fn known_divisor(kind: &Kind) -> i64 {
    match kind {
        Kind::Int(value) => value.saturating_abs(),
        Kind::Sym(symbol) => symbol.divisor(),
        Kind::Sum(terms, constant) => {
            terms.iter().fold(constant.saturating_abs(), |g, (x, c)| gcd(g, c.saturating_mul(x.divisor())))
        }
        Kind::Product(xs) => xs.iter().fold(1i64, |p, x| p.saturating_mul(x.divisor().max(1))),
        Kind::Min(a, b) | Kind::Max(a, b) => gcd(a.divisor(), b.divisor()),
        Kind::Div(x, d) if x.divisor() % d == 0 => x.divisor() / d,
        _ => 1,
    }
}
