//! Proofs: accesses in bounds, and lanes that store to places of their own.

use std::collections::HashSet;

use jtllm_ir::expr::{Environment, Kind, proves_nonnegative};
use jtllm_ir::{Expr, Symbol};

use super::Check;
use crate::kernel::{Kernel, LANE_AXIS, Value};

/// How many conditions one proof may use.
const FACTS_PER_PROOF: usize = 3;
/// How many attempts one proof may take.
const ATTEMPTS: usize = 2000;

/// The expression with values that are index expressions or constants replaced by them.
pub(crate) fn inline(kernel: &Kernel, x: &Expr) -> Expr {
    x.substitute(&mut |leaf| {
        let Kind::Extra { slot, .. } = leaf.kind() else { return None };
        match &kernel.values.get(*slot as usize)?.value {
            Value::Index(x) => Some(inline(kernel, x)),
            Value::Const(constant) => Some(Expr::int(constant.int())),
            _ => None,
        }
    })
}

/// The largest expressions, coefficients and divisors that proofs take apart.
const EXPRESSION_MAX: i64 = 1 << 40;
const FACTOR_MAX: i64 = 1 << 20;

impl Check<'_> {
    pub(super) fn inlined(&self, x: &Expr) -> Expr {
        inline(self.kernel, x)
    }

    /// Whether `x >= 0` follows from the ranges of its leaves and the conditions around.
    pub(super) fn proves(&self, x: &Expr) -> bool {
        let facts: Vec<Expr> = self.conditions.iter().flat_map(facts_of).collect();
        // Most claims need no quotient taken apart, and those that do are found after the others.
        if (Proof { apart: false, attempts: ATTEMPTS }).follows(x, &facts, FACTS_PER_PROOF) {
            return true;
        }
        let plain: Vec<Expr> =
            facts.iter().flat_map(without_remainder).chain(facts.iter().cloned()).collect();
        let further = plain.iter().flat_map(|fact| [divided(fact, x), multiplied(fact)].concat());
        let facts: Vec<Expr> = further.chain(plain.iter().cloned()).collect();
        Proof { apart: true, attempts: ATTEMPTS }.follows(x, &facts, FACTS_PER_PROOF)
    }

    /// The terms of an offset that the lane's number alone decides, and the others.
    pub(super) fn own_terms(&self, at: &Expr) -> [Vec<(Expr, i64)>; 2] {
        let (own, others) = at.terms().0.into_iter().partition(|(x, _)| only_lane(x));
        [own, others]
    }

    /// Whether lanes that store to `at` here are known to store to different elements, or cannot be told
    /// apart by the lane's number alone (the graph then vouches for them: slots of a write differ).
    pub(super) fn lanes_part(&self, at: &Expr) -> bool {
        let at = self.inlined(at);
        let [own, others] = self.own_terms(&at);
        if others.iter().any(|(x, _)| self.varies(x)) {
            return true;
        }
        let mut seen = HashSet::new();
        (0..i64::from(self.kernel.lanes))
            .map(Lane)
            .filter(|lane| self.conditions.iter().all(|c| !only_lane(c) || c.evaluate(lane) != 0))
            .all(|lane| {
                let place =
                    own.iter().fold(0i64, |sum, (x, c)| sum.wrapping_add(x.evaluate(&lane).wrapping_mul(*c)));
                seen.insert(place)
            })
    }
}

/// Expressions that are at least 0 if a condition holds.
fn facts_of(condition: &Expr) -> Vec<Expr> {
    match condition.kind() {
        Kind::Lt(a, b) => vec![b.clone() - a.clone() - 1],
        Kind::Eq(a, b) => vec![a.clone() - b.clone(), b.clone() - a.clone()],
        _ => Vec::new(),
    }
}

/// A search for a proof.
struct Proof {
    /// Whether quotients and remainders are taken apart too.
    apart: bool,
    /// How many attempts are left.
    attempts: usize,
}

impl Proof {
    /// Subtracts multiples of facts until intervals decide: if `x - k * fact >= 0` with `k >= 0`, then
    /// `x >= 0`. The multiples tried are those that cancel a term.
    fn follows(&mut self, x: &Expr, facts: &[Expr], uses: usize) -> bool {
        if self.attempts == 0 {
            return false;
        }
        self.attempts -= 1;
        if proves_nonnegative(x, facts) {
            return true;
        }
        let by_facts = uses > 0
            && facts.iter().enumerate().any(|(at, fact)| {
                let others = [&facts[..at], &facts[at + 1..]].concat();
                multiples(x, fact)
                    .into_iter()
                    .any(|k| self.follows(&(x.clone() - fact.clone() * k), &others, uses - 1))
            });
        by_facts || (self.apart && taken_apart(x, facts).iter().any(|claim| self.follows(claim, facts, uses)))
    }
}

/// Claims from each of which `x >= 0` follows, without one of its quotients or remainders: with
/// `rest >= low`, `c * (y div d) + rest >= 0` if `y div d >= ceil(-low / c)`, and for `-c` if
/// `y div d <= low div c`; and where a fact bounds `y` by a number, that bounds the quotient.
fn taken_apart(x: &Expr, facts: &[Expr]) -> Vec<Expr> {
    let mut claims = without_remainder(x);
    for (term, c) in &x.terms().0 {
        let Kind::Div(y, d) = term.kind() else { continue };
        if !is_moderate(x, y, *d, *c) {
            continue;
        }
        let rest = x.clone() - term.clone() * *c;
        claims.extend(quotient_claim(y, *d, *c, rest.low()));
        for fact in facts {
            // `fact = y - bound` says `y >= bound`, `fact = bound - y` says `y <= bound`.
            let bound = if *c > 0 { y.clone() - fact.clone() } else { fact.clone() + y.clone() };
            claims.extend(bound.as_int().map(|bound| rest.clone() + Expr::int(bound.div_euclid(*d)) * *c));
        }
    }
    claims
}

fn quotient_claim(y: &Expr, d: i64, c: i64, low: i64) -> Option<Expr> {
    if c > 0 {
        let least = low.checked_neg()?.checked_add(c - 1)?.div_euclid(c);
        Some(y.clone() - least.checked_mul(d)?)
    } else {
        let most = low.div_euclid(c.checked_neg()?);
        Some(Expr::int(most.checked_mul(d)?.checked_add(d - 1)?) - y.clone())
    }
}

/// What a fact says of quotients such as those in `x`: `y >= low` gives `(y + o) div d >= (low + o) div d`, and
/// `y <= high` gives `(y + o) div d <= (high + o) div d`.
fn divided(fact: &Expr, x: &Expr) -> Vec<Expr> {
    let (_, constant) = fact.terms();
    let Some(negative) = constant.checked_neg() else { return Vec::new() };
    let mut divisions: Vec<(i64, i64)> = Vec::new();
    for (term, _) in x.terms().0 {
        if let Kind::Div(y, d) | Kind::Mod(y, d) = term.kind() {
            let offset = y.terms().1.rem_euclid(*d);
            let new = [(0, *d), (offset, *d)].into_iter().filter(|pair| !divisions.contains(pair));
            divisions.extend(new.collect::<Vec<_>>());
        }
    }
    let by = |(offset, d): (i64, i64)| {
        let quotient = |y: Expr| (y + offset).div_floor(d);
        let number = |y: i64| y.checked_add(offset).map(|y| y.div_euclid(d));
        let (above, below) = (fact.clone() - constant, Expr::int(constant) - fact.clone());
        let low = number(negative).map(|low| quotient(above) - low);
        let high = number(constant).map(|high| Expr::int(high) - quotient(below));
        [low, high].into_iter().flatten()
    };
    divisions.into_iter().flat_map(by).collect()
}

/// What a fact with a quotient says of what is divided: `y - d + 1 <= d * (y div d) <= y`, so that
/// `c * (y div d) + rest >= 0` gives `c * y + d * rest >= 0`, and for `-c` `c * (d - 1) + d * rest - c * y >= 0`.
fn multiplied(fact: &Expr) -> Vec<Expr> {
    let product = |(term, c): &(Expr, i64)| {
        let Kind::Div(y, d) = term.kind() else { return None };
        if !is_moderate(fact, y, *d, *c) {
            return None;
        }
        let rest = (fact.clone() - term.clone() * *c) * *d;
        let spare = if *c > 0 { 0 } else { c.checked_neg()?.checked_mul(d - 1)? };
        Some(y.clone() * *c + rest + spare)
    };
    fact.terms().0.iter().filter_map(product).collect()
}

/// Whether nothing that is made of the term `c * (y div d)` or `c * (y mod d)` of `x` leaves 63 bits.
fn is_moderate(x: &Expr, y: &Expr, d: i64, c: i64) -> bool {
    let small = |x: &Expr| x.low() >= -EXPRESSION_MAX && x.high() <= EXPRESSION_MAX;
    small(x) && small(y) && d <= FACTOR_MAX && (-FACTOR_MAX..=FACTOR_MAX).contains(&c)
}

/// Expressions equal to `x`, each with one remainder written as `y - d * (y div d)`.
fn without_remainder(x: &Expr) -> Vec<Expr> {
    let written = |(term, c): &(Expr, i64)| match term.kind() {
        Kind::Mod(y, d) if is_moderate(x, y, *d, *c) => {
            let rest = x.clone() - term.clone() * *c;
            Some(rest + (y.clone() - y.clone().div_floor(*d) * *d) * *c)
        }
        _ => None,
    };
    x.terms().0.iter().filter_map(written).filter(|written| written != x).collect()
}

/// The factors, none negative, with which a term of `fact` equals a term of `x`.
fn multiples(x: &Expr, fact: &Expr) -> Vec<Expr> {
    let mut found: Vec<Expr> = Vec::new();
    for (part, c) in fact.terms().0 {
        for (term, d) in x.terms().0 {
            if d % c != 0 || d / c <= 0 {
                continue;
            }
            let rest = if term == part { Some(Expr::int(1)) } else { without_factor(&term, &part) };
            if let Some(rest) = rest.filter(|rest| rest.low() >= 0) {
                let k = rest * (d / c);
                if !found.contains(&k) {
                    found.push(k);
                }
            }
        }
    }
    found
}

fn without_factor(product: &Expr, factor: &Expr) -> Option<Expr> {
    let Kind::Product(xs) = product.kind() else { return None };
    let at = xs.iter().position(|x| x == factor)?;
    let others = xs.iter().enumerate().filter(|(other, _)| *other != at);
    Some(others.fold(Expr::int(1), |product, (_, x)| product * x.clone()))
}

/// Whether the lane is the only leaf.
fn only_lane(x: &Expr) -> bool {
    x.mentions_axis(LANE_AXIS)
        && !x.any(&mut |leaf| match leaf.kind() {
            Kind::Axis { index, .. } => *index != LANE_AXIS,
            Kind::Sym(_) | Kind::Extra { .. } => true,
            _ => false,
        })
}

/// A lane's number, where nothing else matters.
pub(super) struct Lane(pub(super) i64);

impl Environment for Lane {
    fn axis(&self, _: u16) -> i64 {
        self.0
    }

    fn symbol(&self, symbol: &Symbol) -> i64 {
        symbol.low()
    }

    fn extra(&self, _: u32, _: &[i64]) -> i64 {
        0
    }
}
