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
pub(in crate::kernel) fn inline(kernel: &Kernel, x: &Expr) -> Expr {
    x.substitute(&mut |leaf| {
        let Kind::Extra { slot, .. } = leaf.kind() else { return None };
        match &kernel.values.get(*slot as usize)?.value {
            Value::Index(x) => Some(inline(kernel, x)),
            Value::Const(constant) => Some(Expr::int(constant.int())),
            _ => None,
        }
    })
}

impl Check<'_> {
    pub(super) fn inlined(&self, x: &Expr) -> Expr {
        inline(self.kernel, x)
    }

    /// Whether `x >= 0` follows from the ranges of its leaves and the conditions around.
    pub(super) fn proves(&self, x: &Expr) -> bool {
        let facts: Vec<Expr> = self.conditions.iter().flat_map(facts_of).collect();
        let mut attempts = ATTEMPTS;
        follows(x, &facts, FACTS_PER_PROOF, &mut attempts)
    }

    /// Whether lanes that store to `at` here are known to store to different elements, or cannot be told
    /// apart by the lane's number alone (the graph then vouches for them: slots of a write differ).
    pub(super) fn lanes_part(&self, at: &Expr) -> bool {
        let at = self.inlined(at);
        let (terms, _) = at.terms();
        let own: Vec<_> = terms.iter().filter(|(x, _)| only_lane(x)).collect();
        if terms.iter().any(|(x, _)| !only_lane(x) && self.varies(x)) {
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

/// Subtracts multiples of facts until intervals decide: if `x - k * fact >= 0` with `k >= 0`, then
/// `x >= 0`. The multiples tried are those that cancel a term.
fn follows(x: &Expr, facts: &[Expr], uses: usize, attempts: &mut usize) -> bool {
    if *attempts == 0 {
        return false;
    }
    *attempts -= 1;
    if proves_nonnegative(x, facts) {
        return true;
    }
    if uses == 0 {
        return false;
    }
    facts.iter().enumerate().any(|(at, fact)| {
        let others = [&facts[..at], &facts[at + 1..]].concat();
        multiples(x, fact)
            .into_iter()
            .any(|k| follows(&(x.clone() - fact.clone() * k), &others, uses - 1, attempts))
    })
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
struct Lane(i64);

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
