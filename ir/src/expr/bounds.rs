//! Symbolic bounds: proofs that an access stays inside its buffer for every size.
//!
//! Intervals alone cannot prove `i < T` for an axis `i` in `0..T`; here axes and extras are replaced by
//! their own symbolic extremes, in the direction that makes the claim hardest, until only symbols are
//! left and the interval decides.

use super::{Expr, Kind};

/// Whether `x >= 0` follows from the ranges of its leaves and one of `facts` (each known to be `>= 0`).
pub fn proves_nonnegative(x: &Expr, facts: &[Expr]) -> bool {
    nonnegative(x, DEPTH) || facts.iter().any(|fact| nonnegative(&(x.clone() - fact.clone()), DEPTH))
}

/// How many minima and maxima a proof may take apart.
const DEPTH: u32 = 6;

fn nonnegative(x: &Expr, depth: u32) -> bool {
    if x.low() >= 0 {
        return true;
    }
    let bound = extreme(x, Direction::Low);
    if bound.low() >= 0 {
        return true;
    }
    // A minimum that is subtracted is at most either of its arguments; a maximum that is added is at
    // least either of them.
    if depth == 0 {
        return false;
    }
    let (terms, _) = bound.terms();
    for (term, coefficient) in &terms {
        let arguments = match term.kind() {
            Kind::Min(a, b) if *coefficient < 0 => [a, b],
            Kind::Max(a, b) if *coefficient > 0 => [a, b],
            _ => continue,
        };
        return arguments.into_iter().any(|argument| {
            let swapped = bound.clone() - term.clone() * *coefficient + argument.clone() * *coefficient;
            nonnegative(&swapped, depth - 1)
        });
    }
    bound != *x && nonnegative(&bound, depth - 1)
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

/// An expression without axes and extras that is nowhere above (`Low`) or below (`High`) `x`.
fn extreme(x: &Expr, direction: Direction) -> Expr {
    let interval = || Expr::int(if direction == Direction::Low { x.low() } else { x.high() });
    match x.kind() {
        Kind::Int(_) | Kind::Sym(_) => x.clone(),
        Kind::Axis { extent, .. } => match direction {
            Direction::Low => Expr::int(0),
            Direction::High => extreme(extent, Direction::High) - 1,
        },
        Kind::Extra { low, end, .. } => match direction {
            Direction::Low => Expr::int(*low),
            Direction::High => extreme(end, Direction::High) - 1,
        },
        Kind::Sum(terms, constant) => terms.iter().fold(Expr::int(*constant), |sum, (term, c)| {
            let towards = if *c > 0 { direction } else { direction.flip() };
            sum + extreme(term, towards) * *c
        }),
        Kind::Product(xs) if xs.iter().all(|x| x.low() >= 0) => {
            xs.iter().map(|x| extreme(x, direction)).fold(Expr::int(1), |a, b| a * b)
        }
        Kind::Div(y, d) => extreme(y, direction).div_floor(*d),
        Kind::Mod(y, d) => match direction {
            Direction::Low => Expr::int(0),
            Direction::High if y.low() >= 0 => extreme(y, direction).minimum(&Expr::int(d - 1)),
            Direction::High => Expr::int(d - 1),
        },
        Kind::Min(a, b) => extreme(a, direction).minimum(&extreme(b, direction)),
        Kind::Max(a, b) => extreme(a, direction).maximum(&extreme(b, direction)),
        Kind::Product(_) | Kind::Lt(..) | Kind::Eq(..) | Kind::And(_) => interval(),
    }
}
