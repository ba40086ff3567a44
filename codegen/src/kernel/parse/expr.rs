//! Index expressions: weakest first `and`, `<` and `==`, sums, then `*`, `div` and `mod` from the left.

use std::collections::HashMap;

use jtllm_ir::{Expr, Symbol};

use super::{DEPTH_MAX, ParseError, Parser, TokenKind, plain_number};
use crate::kernel::names::ValueRange;
use crate::kernel::{GRID_AXIS, LANE_AXIS, LOOP_AXIS, ValueRecord};

/// The largest number in an expression.
pub(super) const LIMIT: i64 = 1 << 52;
/// The largest divisor.
const DIVISOR_MAX: i64 = 1 << 31;
/// The largest coefficient that operations may lead to.
const COEFFICIENT_MAX: i128 = 1 << 52;
/// The most terms of a sum, and the most factors, divisions and remainders in a row.
const TERMS_MAX: usize = 512;
const CHAIN_MAX: usize = 32;

/// What an expression may mention.
#[derive(Default)]
pub(super) struct Scope {
    symbols: HashMap<String, Expr>,
    axes: HashMap<u16, Expr>,
    values: HashMap<u32, Expr>,
}

impl Scope {
    /// Declares a symbol; gives whether its name was free.
    pub(super) fn declare(&mut self, symbol: &Symbol) -> bool {
        let name = symbol.name();
        let numbered = ["g", "l", "v"].iter().filter_map(|letter| name.strip_prefix(letter));
        let mut taken =
            ["lane", "lanes", "min", "max", "and", "div", "mod", "in", "step", "sym"].contains(&name);
        taken |= numbered.into_iter().any(|rest| plain_number(rest).is_some());
        !taken && self.symbols.insert(name.to_owned(), Expr::symbol(symbol)).is_none()
    }

    pub(super) fn bind_group(&mut self, grid: &[Expr; 3], lanes: u32) {
        for (axis, extent) in (GRID_AXIS..).zip(grid) {
            self.bind(axis, extent);
        }
        self.bind(LANE_AXIS, &Expr::int(lanes.into()));
    }

    pub(super) fn bind(&mut self, axis: u16, extent: &Expr) {
        self.axes.insert(axis, Expr::axis(axis, extent));
    }

    pub(super) fn release(&mut self, axis: u16) {
        self.axes.remove(&axis);
    }

    /// Makes an integer value known with its range.
    pub(super) fn define(&mut self, number: u32, record: &ValueRecord, (low, end): ValueRange) {
        if !record.dtype.is_float() {
            self.values.insert(number, Expr::extra(number, Vec::new(), low, &end));
        }
    }

    fn leaf(&self, name: &str) -> Option<Expr> {
        let number = |letter: char| name.strip_prefix(letter).and_then(plain_number);
        let axis = |number: u32| self.axes.get(&u16::try_from(number).ok()?);
        let found = match (number('g'), number('l'), number('v')) {
            (Some(grid), ..) if grid < u32::from(LANE_AXIS) => axis(grid),
            (_, Some(bound), _) if bound >= u32::from(LOOP_AXIS) => axis(bound),
            (.., Some(value)) => self.values.get(&value),
            _ if name == "lane" => axis(LANE_AXIS.into()),
            _ => self.symbols.get(name),
        };
        found.cloned()
    }
}

/// The largest coefficient or constant of a sum.
fn magnitude(x: &Expr) -> i128 {
    let (terms, constant) = x.terms();
    let coefficients = terms.iter().map(|(_, c)| i128::from(*c).abs());
    coefficients.fold(i128::from(constant).abs(), i128::max)
}

fn width(x: &Expr) -> usize {
    x.terms().0.len() + 1
}

impl Parser<'_> {
    pub(super) fn expr(&mut self, scope: &Scope) -> Result<Expr, ParseError> {
        if self.depth == DEPTH_MAX {
            return self.expected("fewer nested parentheses");
        }
        self.depth += 1;
        let mut x = self.comparison(scope)?;
        let mut count = 0;
        while self.take("and") {
            x = x.and(&self.comparison(scope)?);
            count += 1;
            self.bounded(count < TERMS_MAX)?;
        }
        self.depth -= 1;
        Ok(x)
    }

    fn bounded(&self, holds: bool) -> Result<(), ParseError> {
        if holds { Ok(()) } else { self.expected("a smaller expression") }
    }

    fn comparison(&mut self, scope: &Scope) -> Result<Expr, ParseError> {
        let left = self.sum(scope)?;
        let less = self.take("<");
        if !less && !self.take("==") {
            return Ok(left);
        }
        let right = self.sum(scope)?;
        self.bounded(magnitude(&left) + magnitude(&right) <= COEFFICIENT_MAX)?;
        Ok(if less { left.less_than(&right) } else { left.equals(&right) })
    }

    fn sum(&mut self, scope: &Scope) -> Result<Expr, ParseError> {
        let mut sum = Expr::int(0);
        let mut negative = self.take("-");
        loop {
            let term = self.product(scope)?;
            self.bounded(width(&sum) + width(&term) <= TERMS_MAX)?;
            self.bounded(magnitude(&sum) + magnitude(&term) <= COEFFICIENT_MAX)?;
            sum = if negative { sum - term } else { sum + term };
            negative = self.take("-");
            if !negative && !self.take("+") {
                return Ok(sum);
            }
        }
    }

    fn product(&mut self, scope: &Scope) -> Result<Expr, ParseError> {
        let mut x = self.atom(scope)?;
        for _ in 0..CHAIN_MAX {
            if self.take("*") {
                let y = self.atom(scope)?;
                let terms = width(&x) * width(&y);
                self.bounded(terms <= TERMS_MAX)?;
                let largest = magnitude(&x).saturating_mul(magnitude(&y)).saturating_mul(terms as i128);
                self.bounded(largest <= COEFFICIENT_MAX)?;
                x = x * y;
            } else if self.take("div") {
                x = x.div_floor(self.integer(1, DIVISOR_MAX)?);
            } else if self.take("mod") {
                x = x.modulo(self.integer(1, DIVISOR_MAX)?);
            } else {
                return Ok(x);
            }
        }
        self.expected("fewer factors in a row")
    }

    fn atom(&mut self, scope: &Scope) -> Result<Expr, ParseError> {
        if self.take("(") {
            let x = self.expr(scope)?;
            self.demand(")")?;
            return Ok(x);
        }
        let token = self.peek();
        if matches!(token.kind, TokenKind::Number(_)) {
            return Ok(Expr::int(self.integer(0, LIMIT)?));
        }
        let name = self.word("an expression")?;
        if matches!(name, "min" | "max") {
            self.demand("(")?;
            let a = self.expr(scope)?;
            self.demand(",")?;
            let b = self.expr(scope)?;
            self.demand(")")?;
            self.bounded(magnitude(&a) + magnitude(&b) <= COEFFICIENT_MAX)?;
            return Ok(if name == "min" { a.minimum(&b) } else { a.maximum(&b) });
        }
        match scope.leaf(name) {
            Some(leaf) => Ok(leaf),
            None => self.error_at(token, format!("`{name}` is not known here")),
        }
    }
}
