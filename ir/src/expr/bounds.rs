//! Symbolic bounds: proofs that an access stays inside its buffer for every size.
//!
//! Intervals alone cannot prove `i < T` for an axis `i` in `0..T`; here axes and extras are replaced by
//! their own symbolic extremes, in the direction that makes the claim hardest, until only symbols are
//! left and the interval decides. A fact `c * atom + rest >= 0` bounds its atom like a declared range.

use super::{Expr, Kind};

/// Whether `x >= 0` follows from the ranges of its leaves and from `facts` (each known to be `>= 0`).
///
/// `false` means only that no proof was found.
pub fn proves_nonnegative(x: &Expr, facts: &[Expr]) -> bool {
    if x.low() >= 0 {
        return true;
    }
    // Facts make bounds of minima and maxima, which a proof can take apart only so deep: what needs none of
    // them is tried without.
    let bare = Proof { facts: &[] };
    let proof = Proof { facts };
    let follows = |fact: &Expr| proof.nonnegative(&(x.clone() - fact.clone()), DEPTH);
    bare.nonnegative(x, DEPTH)
        || (!facts.is_empty() && proof.nonnegative(x, DEPTH))
        || facts.iter().any(follows)
}

/// What is known to be `>= 0` when `condition` (0 or 1) is 1: `b - a - 1` for each conjunct `a < b`, and
/// both differences for each `a == b`.
pub fn facts_of(condition: &Expr) -> Vec<Expr> {
    let facts = |conjunct: &Expr| match conjunct.kind() {
        Kind::Lt(a, b) => vec![b.clone() - a.clone() - 1],
        Kind::Eq(a, b) => vec![b.clone() - a.clone(), a.clone() - b.clone()],
        _ => Vec::new(),
    };
    condition.conjuncts().iter().flat_map(facts).collect()
}

/// How many minima and maxima a proof may take apart.
const DEPTH: u32 = 6;

/// How many facts may be chained to bound one leaf.
const CHAIN: u32 = 2;

struct Proof<'a> {
    facts: &'a [Expr],
}

impl Proof<'_> {
    fn nonnegative(&self, x: &Expr, depth: u32) -> bool {
        if x.low() >= 0 {
            return true;
        }
        let bound = self.extreme(x, Direction::Low, CHAIN);
        if bound.low() >= 0 {
            return true;
        }
        if depth == 0 {
            return false;
        }
        // A term `c * min(a, b)` with `c > 0` is one of `c * a` and `c * b`, so both cases must hold; with
        // `c < 0` it is at least each of them, so one is enough. For a maximum it is the other way round.
        let (terms, _) = bound.terms();
        for (term, c) in &terms {
            let (a, b, both) = match term.kind() {
                Kind::Min(a, b) => (a, b, *c > 0),
                Kind::Max(a, b) => (a, b, *c < 0),
                _ => continue,
            };
            let case = |argument: &Expr| {
                let swapped = bound.clone() - term.clone() * *c + argument.clone() * *c;
                self.nonnegative(&swapped, depth - 1)
            };
            return if both { case(a) && case(b) } else { case(a) || case(b) };
        }
        bound != *x && self.nonnegative(&bound, depth - 1)
    }

    /// An expression without axes and extras that is nowhere above (`Low`) or below (`High`) `x`.
    fn extreme(&self, x: &Expr, direction: Direction, chain: u32) -> Expr {
        let plain = self.plain_extreme(x, direction, chain);
        if chain == 0 || matches!(x.kind(), Kind::Int(_) | Kind::Sum(..) | Kind::Sym(_)) {
            return plain;
        }
        self.facts.iter().fold(plain, |best, fact| {
            let (terms, _) = fact.terms();
            let Some((_, c)) = terms.iter().find(|(term, _)| term == x) else { return best };
            let rest = fact.clone() - x.clone() * *c;
            match direction {
                Direction::Low if *c > 0 => {
                    let least = self.extreme(&(Expr::int(0) - rest), Direction::Low, chain - 1);
                    best.maximum(&least.div_ceil(*c))
                }
                Direction::High if *c < 0 => match c.checked_neg() {
                    Some(c) => best.minimum(&self.extreme(&rest, Direction::High, chain - 1).div_floor(c)),
                    None => best,
                },
                _ => best,
            }
        })
    }

    fn plain_extreme(&self, x: &Expr, direction: Direction, chain: u32) -> Expr {
        let of = |x: &Expr, direction| self.extreme(x, direction, chain);
        match x.kind() {
            Kind::Int(_) | Kind::Sym(_) => x.clone(),
            Kind::Axis { extent, .. } => match direction {
                Direction::Low => Expr::int(0),
                Direction::High => of(extent, Direction::High) - 1,
            },
            Kind::Extra { low, end, .. } => match direction {
                Direction::Low => Expr::int(*low),
                Direction::High => of(end, Direction::High) - 1,
            },
            Kind::Sum(terms, constant) => terms.iter().fold(Expr::int(*constant), |sum, (term, c)| {
                let towards = if *c > 0 { direction } else { direction.flip() };
                sum + of(term, towards) * *c
            }),
            Kind::Product(xs) if xs.iter().all(|x| x.low() >= 0) => {
                xs.iter().map(|x| of(x, direction)).fold(Expr::int(1), |a, b| a * b)
            }
            Kind::Div(y, d) => of(y, direction).div_floor(*d),
            Kind::Mod(y, d) => match direction {
                Direction::Low => Expr::int(0),
                Direction::High if y.low() >= 0 => of(y, direction).minimum(&Expr::int(d - 1)),
                Direction::High => Expr::int(d - 1),
            },
            Kind::Min(a, b) => of(a, direction).minimum(&of(b, direction)),
            Kind::Max(a, b) => of(a, direction).maximum(&of(b, direction)),
            Kind::Product(_) | Kind::Lt(..) | Kind::Eq(..) | Kind::And(_) => match direction {
                Direction::Low => Expr::int(x.low()),
                Direction::High => Expr::int(x.high()),
            },
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Low,
    High,
}

impl Direction {
    fn flip(self) -> Direction {
        match self {
            Direction::Low => Direction::High,
            Direction::High => Direction::Low,
        }
    }
}
