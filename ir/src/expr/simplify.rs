//! The constructors that keep expressions in normal form.
//!
//! Every rule here is an identity over the integers with floor division; `simplify` property tests
//! evaluate both sides at random points.

use std::ops::{Add, Mul, Sub};

use super::{Expr, Kind, gcd};

/// A sum under construction: `sum(coefficient * atom) + constant`.
struct Linear {
    terms: Vec<(Expr, i64)>,
    constant: i64,
}

impl Linear {
    fn of(x: &Expr) -> Linear {
        match x.kind() {
            Kind::Int(value) => Linear { terms: Vec::new(), constant: *value },
            Kind::Sum(terms, constant) => Linear { terms: terms.clone(), constant: *constant },
            _ => Linear { terms: vec![(x.clone(), 1)], constant: 0 },
        }
    }

    fn add(&mut self, atom: &Expr, coefficient: i64) {
        match self.terms.binary_search_by(|(x, _)| x.cmp(atom)) {
            Ok(at) => {
                self.terms[at].1 = self.terms[at].1.wrapping_add(coefficient);
                if self.terms[at].1 == 0 {
                    self.terms.remove(at);
                }
            }
            Err(at) if coefficient != 0 => self.terms.insert(at, (atom.clone(), coefficient)),
            Err(_) => {}
        }
    }

    fn add_scaled(&mut self, other: &Linear, factor: i64) {
        for (x, c) in &other.terms {
            self.add(x, c.wrapping_mul(factor));
        }
        self.constant = self.constant.wrapping_add(other.constant.wrapping_mul(factor));
    }

    /// The expression, after `(x div d) * d + x mod d` has become `x` wherever it occurs.
    fn finish(mut self) -> Expr {
        while self.recombine() || self.undo_exact_division() {}
        match self.terms.as_slice() {
            [] => Expr::int(self.constant),
            [(x, 1)] if self.constant == 0 => x.clone(),
            _ => Expr::make(Kind::Sum(self.terms, self.constant)),
        }
    }

    /// `(x div d) * d*c` is `x * c` if every value of `x` is a multiple of `d`.
    fn undo_exact_division(&mut self) -> bool {
        let exact = self.terms.iter().find_map(|(quotient, c)| match quotient.kind() {
            Kind::Div(x, d) if c % d == 0 && x.divisor() % d == 0 => {
                Some((quotient.clone(), *c, Linear::of(x), c / d))
            }
            _ => None,
        });
        let Some((quotient, c, x, factor)) = exact else { return false };
        self.add(&quotient, -c);
        self.add_scaled(&x, factor);
        true
    }

    fn recombine(&mut self) -> bool {
        for (remainder, c) in &self.terms {
            let Kind::Mod(x, d) = remainder.kind() else { continue };
            let quotient = x.clone().div_floor(*d);
            let (remainder, c) = (remainder.clone(), *c);
            let Some(wanted) = c.checked_mul(*d) else { continue };
            // (x div d) * d*c + (x mod d) * c = x * c. The quotient may itself be a sum, of which only
            // an exact multiple inside this sum may be taken; an atom is the case that occurs.
            if self.terms.iter().any(|(q, k)| *k == wanted && *q == quotient) {
                let x = Linear::of(x);
                self.add(&quotient, -wanted);
                self.add(&remainder, -c);
                self.add_scaled(&x, c);
                return true;
            }
            // ((x div d) mod e) * d*c + (x mod d) * c = (x mod d*e) * c
            let partner = self.terms.iter().find_map(|(q, k)| match q.kind() {
                Kind::Mod(y, e) if *k == wanted && *y == quotient => Some((q.clone(), *e)),
                _ => None,
            });
            if let Some((q, e)) = partner
                && let Some(product) = d.checked_mul(e)
            {
                let whole = Linear::of(&x.clone().modulo(product));
                self.add(&q, -wanted);
                self.add(&remainder, -c);
                self.add_scaled(&whole, c);
                return true;
            }
        }
        false
    }

    /// Splits into the part divisible by `d` (already divided) and the rest, with `0 <= constant < d`.
    fn split(self, d: i64) -> (Linear, Linear) {
        let (whole, rest) = self.terms.into_iter().partition(|(_, c)| c % d == 0);
        let whole: Vec<(Expr, i64)> = whole;
        let whole = whole.into_iter().map(|(x, c)| (x, c / d)).collect();
        (
            Linear { terms: whole, constant: self.constant.div_euclid(d) },
            Linear { terms: rest, constant: self.constant.rem_euclid(d) },
        )
    }

    /// A `g` that divides `d`, `1 < g < d`, such that the terms not divisible by `g` lie in `0..g`:
    /// then the rest can neither carry into nor borrow from the quotient.
    fn coarse_split(&self, d: i64) -> Option<(Linear, Linear, i64)> {
        let mut candidates: Vec<i64> =
            self.terms.iter().map(|(_, c)| gcd(*c, d)).filter(|g| *g > 1 && *g < d).collect();
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        candidates.dedup();
        candidates.into_iter().find_map(|g| {
            let copy = Linear { terms: self.terms.clone(), constant: self.constant };
            let (coarse, fine) = copy.split(g);
            let fine_expr = Linear { terms: fine.terms.clone(), constant: fine.constant }.finish();
            (fine_expr.low() >= 0 && fine_expr.high() < g).then_some((coarse, fine, g))
        })
    }
}

impl Expr {
    /// `floor(self / d)`; `d` must be positive.
    pub fn div_floor(self, d: i64) -> Expr {
        assert!(d > 0, "division of an index by {d}");
        if d == 1 {
            return self;
        }
        let (whole, rest) = Linear::of(&self).split(d);
        let mut sum = whole;
        let quotient = div_rest(rest, d);
        sum.add_scaled(&Linear::of(&quotient), 1);
        sum.finish()
    }

    /// `self - d * floor(self / d)`; `d` must be positive.
    pub fn modulo(self, d: i64) -> Expr {
        assert!(d > 0, "remainder of an index by {d}");
        if d == 1 || self.divisor() % d == 0 {
            return Expr::int(0);
        }
        let (_, mut rest) = Linear::of(&self).split(d);
        rest.terms.retain(|(x, c)| c.saturating_mul(x.divisor()) % d != 0);
        rem_rest(rest, d)
    }

    /// The least multiple of `d` that is not below, divided by `d`.
    pub fn div_ceil(self, d: i64) -> Expr {
        (self + Expr::int(d - 1)).div_floor(d)
    }

    /// The smaller of both.
    pub fn minimum(&self, other: &Expr) -> Expr {
        let difference = other.clone() - self.clone();
        if difference.low() >= 0 {
            return self.clone();
        }
        if difference.high() <= 0 {
            return other.clone();
        }
        let (a, b) = if self <= other { (self, other) } else { (other, self) };
        Expr::make(Kind::Min(a.clone(), b.clone()))
    }

    /// The larger of both.
    pub fn maximum(&self, other: &Expr) -> Expr {
        let difference = other.clone() - self.clone();
        if difference.low() >= 0 {
            return other.clone();
        }
        if difference.high() <= 0 {
            return self.clone();
        }
        let (a, b) = if self <= other { (self, other) } else { (other, self) };
        Expr::make(Kind::Max(a.clone(), b.clone()))
    }

    /// 1 if `self < other`, else 0.
    pub fn less_than(&self, other: &Expr) -> Expr {
        let difference = other.clone() - self.clone();
        if difference.low() > 0 {
            return Expr::int(1);
        }
        if difference.high() <= 0 {
            return Expr::int(0);
        }
        let (left, right) = balance(&difference);
        Expr::make(Kind::Lt(left, right))
    }

    /// 1 if `self <= other`, else 0.
    pub fn at_most(&self, other: &Expr) -> Expr {
        self.less_than(&(other.clone() + Expr::int(1)))
    }

    /// 1 if both are equal, else 0.
    pub fn equals(&self, other: &Expr) -> Expr {
        let difference = other.clone() - self.clone();
        if difference.as_int() == Some(0) {
            return Expr::int(1);
        }
        if difference.low() > 0 || difference.high() < 0 {
            return Expr::int(0);
        }
        let (left, right) = balance(&difference);
        let (left, right) = if left <= right { (left, right) } else { (right, left) };
        Expr::make(Kind::Eq(left, right))
    }

    /// 1 if both (each 0 or 1) are 1, else 0.
    pub fn and(&self, other: &Expr) -> Expr {
        let mut parts = self.conjuncts();
        parts.extend(other.conjuncts());
        parts.sort();
        parts.dedup();
        if parts.iter().any(|x| x.as_int() == Some(0)) {
            return Expr::int(0);
        }
        match parts.as_slice() {
            [] => Expr::int(1),
            [one] => one.clone(),
            _ => Expr::make(Kind::And(parts)),
        }
    }

    /// The comparisons that must all hold for `self` (0 or 1) to be 1.
    pub fn conjuncts(&self) -> Vec<Expr> {
        match self.kind() {
            Kind::And(xs) => xs.clone(),
            Kind::Int(1) => Vec::new(),
            _ => vec![self.clone()],
        }
    }

    /// The terms and the constant of the sum that the expression is.
    pub fn terms(&self) -> (Vec<(Expr, i64)>, i64) {
        let linear = Linear::of(self);
        (linear.terms, linear.constant)
    }
}

fn div_rest(mut rest: Linear, d: i64) -> Expr {
    // With only multiples of `d` in front, a constant below `d` cannot carry.
    if rest.terms.iter().all(|(x, c)| c.saturating_mul(x.divisor()) % d == 0) {
        rest.constant = 0;
    }
    let r = Linear { terms: rest.terms.clone(), constant: rest.constant }.finish();
    if r.low().div_euclid(d) == r.high().div_euclid(d) {
        return Expr::int(r.low().div_euclid(d));
    }
    let g = rest.terms.iter().fold(d, |g, (_, c)| gcd(g, *c));
    if g > 1 {
        let terms = rest.terms.into_iter().map(|(x, c)| (x, c / g)).collect();
        let scaled = Linear { terms, constant: rest.constant.div_euclid(g) }.finish();
        return scaled.div_floor(d / g);
    }
    if let Some((coarse, _, g)) = rest.coarse_split(d) {
        return coarse.finish().div_floor(d / g);
    }
    match r.kind() {
        Kind::Div(x, e) => match e.checked_mul(d) {
            Some(product) => x.clone().div_floor(product),
            None => Expr::make(Kind::Div(r.clone(), d)),
        },
        Kind::Mod(x, m) if m % d == 0 => x.clone().div_floor(d).modulo(m / d),
        _ => Expr::make(Kind::Div(r, d)),
    }
}

fn rem_rest(rest: Linear, d: i64) -> Expr {
    let r = Linear { terms: rest.terms.clone(), constant: rest.constant }.finish();
    let quotient = r.low().div_euclid(d);
    if quotient == r.high().div_euclid(d) {
        return r - Expr::int(quotient * d);
    }
    let g = rest.terms.iter().fold(d, |g, (_, c)| gcd(g, *c));
    if g > 1 {
        let terms = rest.terms.into_iter().map(|(x, c)| (x, c / g)).collect();
        let scaled = Linear { terms, constant: rest.constant.div_euclid(g) }.finish();
        return scaled.modulo(d / g) * g + Expr::int(rest.constant.rem_euclid(g));
    }
    if let Some((coarse, fine, g)) = rest.coarse_split(d) {
        return coarse.finish().modulo(d / g) * g + fine.finish();
    }
    match r.kind() {
        Kind::Mod(x, m) if m % d == 0 => x.clone().modulo(d),
        _ => Expr::make(Kind::Mod(r, d)),
    }
}

/// Both sides of `left < right` for a difference `right - left`, each with positive coefficients.
fn balance(difference: &Expr) -> (Expr, Expr) {
    let linear = Linear::of(difference);
    let (positive, negative): (Vec<_>, Vec<_>) = linear.terms.into_iter().partition(|(_, c)| *c > 0);
    let negative = negative.into_iter().map(|(x, c)| (x, c.wrapping_neg())).collect();
    let (left, right) =
        if linear.constant >= 0 { (0, linear.constant) } else { (linear.constant.wrapping_neg(), 0) };
    (
        Linear { terms: negative, constant: left }.finish(),
        Linear { terms: positive, constant: right }.finish(),
    )
}

/// The product of two atoms, flattened and ordered.
fn product(a: &Expr, b: &Expr) -> Expr {
    let factors = |x: &Expr| match x.kind() {
        Kind::Product(xs) => xs.clone(),
        _ => vec![x.clone()],
    };
    let mut all = factors(a);
    all.extend(factors(b));
    all.sort();
    Expr::make(Kind::Product(all))
}

impl Add for Expr {
    type Output = Expr;

    fn add(self, other: Expr) -> Expr {
        let mut sum = Linear::of(&self);
        sum.add_scaled(&Linear::of(&other), 1);
        sum.finish()
    }
}

impl Sub for Expr {
    type Output = Expr;

    fn sub(self, other: Expr) -> Expr {
        let mut sum = Linear::of(&self);
        sum.add_scaled(&Linear::of(&other), -1);
        sum.finish()
    }
}

impl Mul for Expr {
    type Output = Expr;

    fn mul(self, other: Expr) -> Expr {
        let (a, b) = (Linear::of(&self), Linear::of(&other));
        let mut sum = Linear { terms: Vec::new(), constant: 0 };
        sum.add_scaled(&a, b.constant);
        for (y, d) in &b.terms {
            sum.add(y, d.wrapping_mul(a.constant));
            for (x, c) in &a.terms {
                sum.add(&product(x, y), c.wrapping_mul(*d));
            }
        }
        sum.finish()
    }
}

impl Add<i64> for Expr {
    type Output = Expr;

    fn add(self, other: i64) -> Expr {
        self + Expr::int(other)
    }
}

impl Sub<i64> for Expr {
    type Output = Expr;

    fn sub(self, other: i64) -> Expr {
        self - Expr::int(other)
    }
}

impl Mul<i64> for Expr {
    type Output = Expr;

    fn mul(self, other: i64) -> Expr {
        self * Expr::int(other)
    }
}
