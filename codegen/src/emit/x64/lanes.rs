//! Index expressions that differ between lanes: vectors of 32 bits that keep the low bits, and masks.

use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr};

use super::index::{is_word, sum_of};
use super::isa::Op;
use super::machine::Reg;
use super::select::{Known, Selector};
use crate::kernel::ValueId;

impl Selector<'_> {
    /// An expression's values in all lanes, as `i32`s that keep the low 32 bits.
    pub(super) fn lanes(&mut self, x: &Expr) -> Reg {
        // A value may share a cell's register, which does not keep it: it is looked up each time.
        if let Kind::Extra { slot, .. } = x.kind()
            && self.varies(x)
        {
            let value = ValueId(*slot);
            let register = self.lanes_of(value);
            return match self.kernel.record(value).dtype {
                DType::Bool => self.masked_word(register, 1),
                _ => register,
            };
        }
        let needed = self.needs(x);
        self.know(Known::Lanes(x.clone()), needed, |selector| selector.compute_lanes(x))
    }

    fn compute_lanes(&mut self, x: &Expr) -> Reg {
        if let Some(value) = x.as_int() {
            return self.word(value as u32);
        }
        if !self.varies(x) {
            let register = self.index(x);
            return self.spread(register);
        }
        if let Some(each) = self.fixed(x) {
            return self.constant(&each);
        }
        match x.kind() {
            Kind::Sum(terms, constant) => self.sum_lanes(terms, *constant),
            Kind::Product(factors) => {
                let factors: Vec<Reg> = factors.iter().map(|factor| self.lanes(factor)).collect();
                let product = factors.into_iter().reduce(|a, b| self.binary(Op::MulInt, a, b));
                product.expect("a product has factors")
            }
            Kind::Div(x, d) if d.count_ones() == 1 && is_word(x) && is_word(&Expr::int(*d)) => {
                let register = self.lanes(x);
                self.with(Op::Sar, register, i64::from(d.trailing_zeros()))
            }
            Kind::Mod(x, d) if d.count_ones() == 1 => {
                let register = self.lanes(x);
                let rest = self.word((d - 1) as u32);
                self.binary(Op::And, register, rest)
            }
            Kind::Min(a, b) if is_word(a) && is_word(b) => {
                let (a, b) = (self.lanes(a), self.lanes(b));
                self.binary(Op::MinSigned, a, b)
            }
            Kind::Max(a, b) if is_word(a) && is_word(b) => {
                let (a, b) = (self.lanes(a), self.lanes(b));
                self.binary(Op::MaxSigned, a, b)
            }
            Kind::Lt(..) | Kind::Eq(..) | Kind::And(_) => {
                let mask = self.lane_mask(x);
                self.masked_word(mask, 1)
            }
            _ => self.gathered(|selector, lane| {
                let x = selector.in_lane(x, lane);
                selector.index(&x)
            }),
        }
    }

    /// The uniform terms are added as scalars, the terms of the lane alone are a constant.
    fn sum_lanes(&mut self, terms: &[(Expr, i64)], constant: i64) -> Reg {
        let (varying, uniform): (Vec<_>, Vec<_>) = terms.iter().cloned().partition(|(x, _)| self.varies(x));
        let (fixed, free): (Vec<_>, Vec<_>) = varying.into_iter().partition(|(x, _)| self.fixed(x).is_some());
        let mut parts = Vec::new();
        if !uniform.is_empty() {
            parts.push(self.lanes(&sum_of(uniform, 0)));
        }
        if !fixed.is_empty() || constant != 0 {
            parts.push(self.lanes(&sum_of(fixed, constant)));
        }
        for (x, coefficient) in free {
            let register = self.lanes(&x);
            parts.push(match coefficient {
                1 => register,
                c => {
                    let factor = self.word(c as u32);
                    self.binary(Op::MulInt, register, factor)
                }
            });
        }
        let sum = parts.into_iter().reduce(|a, b| self.binary(Op::AddInt, a, b));
        sum.expect("a sum has terms")
    }

    /// Where an expression is not 0.
    pub(super) fn lane_mask(&mut self, x: &Expr) -> Reg {
        if let Kind::Extra { slot, .. } = x.kind()
            && self.kernel.record(ValueId(*slot)).dtype == DType::Bool
        {
            return self.lanes_of(ValueId(*slot));
        }
        let needed = self.needs(x);
        self.know(Known::Mask(x.clone()), needed, |selector| match x.kind() {
            Kind::Lt(a, b) if is_word(a) && is_word(b) => {
                let (a, b) = (selector.lanes(a), selector.lanes(b));
                selector.less(true, a, b)
            }
            Kind::Eq(a, b) if is_word(a) && is_word(b) => {
                let (a, b) = (selector.lanes(a), selector.lanes(b));
                selector.equal(a, b)
            }
            Kind::And(parts) => {
                let masks: Vec<Reg> = parts.iter().map(|part| selector.lane_mask(part)).collect();
                let all = masks.into_iter().reduce(|a, b| selector.both(a, b));
                all.expect("a conjunction has parts")
            }
            _ => {
                let truths = selector.gathered(|selector, lane| {
                    let truth = selector.in_lane(x, lane);
                    selector.truth(&truth)
                });
                selector.nonzero(truths)
            }
        })
    }
}
