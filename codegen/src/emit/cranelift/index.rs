//! Index expressions: scalars of 64 bits where they are uniform, vectors of 32 bits where lanes differ.
//!
//! Equal expressions are computed once for each scope that needs them. A sum is cut by the scopes that
//! its terms need, so that what does not change in a loop stands before it. An expression for one lane
//! is the expression with the lane's number put in; a varying value in it becomes the *lane extra*
//! `slot + (lane + 1) * values`, so that such expressions too are compared and shared.

use cranelift_codegen::ir::InstBuilder;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I32, I32X4, I64};
use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr};

use super::LANES;
use super::function::{Emitter, Known, Register};
use crate::kernel::{LANE_AXIS, Memory, ValueId};

impl Emitter<'_, '_> {
    /// A value of the kernel that is an index expression.
    pub(super) fn index_value(&mut self, x: &Expr, dtype: DType, wide: bool) -> Register {
        match (dtype, wide) {
            (DType::Bool, true) => self.lane_mask(x),
            (DType::Bool, false) => self.truth(x),
            (_, true) => self.lanes(x),
            (_, false) => {
                let register = self.index(x);
                self.at().ins().ireduce(I32, register)
            }
        }
    }

    /// The value and the lane that an extra's slot stands for.
    fn extra(&self, slot: u32) -> (ValueId, Option<usize>) {
        let values = self.kernel.values.len() as u32;
        (ValueId(slot % values), (slot / values).checked_sub(1).map(|lane| lane as usize))
    }

    /// The expression that one lane computes.
    pub(super) fn in_lane(&self, x: &Expr, lane: usize) -> Expr {
        let values = self.kernel.values.len() as u32;
        x.substitute(&mut |leaf| match leaf.kind() {
            Kind::Axis { index: LANE_AXIS, .. } => Some(Expr::int(lane as i64)),
            Kind::Extra { slot, low, end, .. } if self.varies(leaf) => {
                Some(Expr::extra(slot + (lane as u32 + 1) * values, Vec::new(), *low, end))
            }
            _ => None,
        })
    }

    /// Whether lanes differ in an expression.
    pub(super) fn varies(&self, x: &Expr) -> bool {
        x.any(&mut |leaf| match leaf.kind() {
            Kind::Axis { index, .. } => *index == LANE_AXIS,
            Kind::Extra { slot, .. } => {
                (*slot as usize) < self.kernel.values.len() && self.varying.value(ValueId(*slot))
            }
            _ => false,
        })
    }

    /// The innermost scope that an expression needs.
    fn needs(&self, x: &Expr) -> usize {
        let mut depth = 0;
        x.any(&mut |leaf| {
            depth = depth.max(match leaf.kind() {
                Kind::Axis { index, .. } => self.axes.get(index).map_or(0, |axis| axis.depth),
                Kind::Extra { slot, .. } => {
                    self.held[self.extra(*slot).0.0 as usize].map_or(0, |held| held.depth)
                }
                _ => 0,
            });
            false
        });
        depth
    }

    /// An expression that is the same for all lanes.
    pub(super) fn index(&mut self, x: &Expr) -> Register {
        match x.kind() {
            Kind::Int(value) => self.at_entry().ins().iconst(I64, *value),
            Kind::Sym(symbol) => self.symbols[symbol],
            Kind::Axis { index, .. } => self.axes[index].register,
            _ => {
                let needed = self.needs(x);
                self.know(Known::Index(x.clone()), needed, |emitter| emitter.compute(x))
            }
        }
    }

    fn compute(&mut self, x: &Expr) -> Register {
        match x.kind() {
            Kind::Int(_) | Kind::Sym(_) | Kind::Axis { .. } => self.index(x),
            Kind::Extra { slot, .. } => self.extra_value(*slot),
            Kind::Sum(terms, constant) => self.sum(terms, *constant),
            Kind::Product(factors) => {
                let mut factors: Vec<&Expr> = factors.iter().collect();
                factors.sort_by_key(|factor| self.needs(factor));
                let registers: Vec<Register> = factors.into_iter().map(|x| self.index(x)).collect();
                let mut registers = registers.into_iter();
                let first = registers.next().expect("a product has factors");
                registers.fold(first, |product, x| self.at().ins().imul(product, x))
            }
            Kind::Div(x, d) => self.quotient(x, *d),
            Kind::Mod(x, d) if d.count_ones() == 1 => {
                let register = self.index(x);
                self.at().ins().band_imm_s(register, d - 1)
            }
            Kind::Mod(x, d) => {
                let quotient = self.index(&x.clone().div_floor(*d));
                let whole = self.at().ins().imul_imm_s(quotient, *d);
                let register = self.index(x);
                self.at().ins().isub(register, whole)
            }
            Kind::Min(a, b) => {
                let (a, b) = (self.index(a), self.index(b));
                self.at().ins().smin(a, b)
            }
            Kind::Max(a, b) => {
                let (a, b) = (self.index(a), self.index(b));
                self.at().ins().smax(a, b)
            }
            Kind::Lt(..) | Kind::Eq(..) | Kind::And(_) => {
                let truth = self.truth(x);
                self.at().ins().uextend(I64, truth)
            }
        }
    }

    /// The integer that an extra stands for.
    fn extra_value(&mut self, slot: u32) -> Register {
        let (value, lane) = self.extra(slot);
        let register = match lane {
            Some(lane) => self.lane(value, lane),
            None => self.scalar(value),
        };
        match self.kernel.record(value).dtype {
            DType::U32 | DType::Bool => self.at().ins().uextend(I64, register),
            _ => self.at().ins().sextend(I64, register),
        }
    }

    fn sum(&mut self, terms: &[(Expr, i64)], constant: i64) -> Register {
        if let ([(atom, coefficient)], 0) = (terms, constant) {
            let atom = self.index(atom);
            return match coefficient {
                c if *c > 0 && c.count_ones() == 1 => {
                    self.at().ins().ishl_imm_u(atom, i64::from(c.trailing_zeros()))
                }
                -1 => self.at().ins().ineg(atom),
                c => self.at().ins().imul_imm_s(atom, *c),
            };
        }
        let (outer, inner) = self.cut(terms);
        let scaled = |terms: Vec<(Expr, i64)>| terms.into_iter().map(|(x, c)| x * c);
        let mut parts: Vec<Expr> = scaled(inner).collect();
        if !outer.is_empty() {
            parts.insert(0, scaled(outer).fold(Expr::int(0), |sum, x| sum + x));
        }
        let registers: Vec<Register> = parts.iter().map(|part| self.index(part)).collect();
        let sum = registers.into_iter().reduce(|a, b| self.at().ins().iadd(a, b));
        let sum = sum.expect("a sum has terms");
        if constant == 0 { sum } else { self.at().ins().iadd_imm_s(sum, constant) }
    }

    /// The terms that are computed in scopes further out, and those of the innermost scope needed.
    #[expect(clippy::type_complexity, reason = "two lists of terms, as they stand in a sum")]
    fn cut(&self, terms: &[(Expr, i64)]) -> (Vec<(Expr, i64)>, Vec<(Expr, i64)>) {
        let places: Vec<usize> = terms.iter().map(|(x, _)| self.place_of(self.needs(x))).collect();
        let innermost = places.iter().copied().max().unwrap_or(0);
        let outer = |at: usize| places[at] < innermost;
        let (mut outside, mut inside) = (Vec::new(), Vec::new());
        for (at, term) in terms.iter().enumerate() {
            if outer(at) { outside.push(term.clone()) } else { inside.push(term.clone()) }
        }
        (outside, inside)
    }

    /// `floor(x / d)`, without a division where `x` is known to be small.
    fn quotient(&mut self, x: &Expr, d: i64) -> Register {
        let register = self.index(x);
        if d.count_ones() == 1 {
            return self.at().ins().sshr_imm_u(register, i64::from(d.trailing_zeros()));
        }
        if x.low() >= 0 && x.high() <= i64::from(i32::MAX) && d <= i64::from(i32::MAX) {
            // With m = floor(2^s / d) + 1 and 2^(s - 32) >= d, x * m >> s is the quotient of any x below
            // 2^32 (Granlund and Montgomery, 1994); for x below 2^31 the product fits 64 bits.
            let shift = 32 + i64::from(64 - (d - 1).leading_zeros());
            let factor = ((1u128 << shift) / d as u128 + 1) as i64;
            let factor = self.at_entry().ins().iconst(I64, factor);
            let product = self.at().ins().imul(register, factor);
            return self.at().ins().ushr_imm_u(product, shift);
        }
        let divisor = self.at_entry().ins().iconst(I64, d);
        if x.low() >= 0 {
            return self.at().ins().udiv(register, divisor);
        }
        let quotient = self.at().ins().sdiv(register, divisor);
        let whole = self.at().ins().imul(quotient, divisor);
        // Truncation has to be corrected where the remainder is negative.
        let above = self.at().ins().icmp(IntCC::SignedLessThan, register, whole);
        let above = self.at().ins().uextend(I64, above);
        self.at().ins().isub(quotient, above)
    }

    /// Whether an expression, the same for all lanes, is not 0; as an `i8`.
    pub(super) fn truth(&mut self, x: &Expr) -> Register {
        if let Some(value) = x.as_int() {
            return self.at_entry().ins().iconst(I8, i64::from(value != 0));
        }
        let needed = self.needs(x);
        self.know(Known::Truth(x.clone()), needed, |emitter| match x.kind() {
            Kind::Lt(a, b) => emitter.compare(IntCC::SignedLessThan, a, b),
            Kind::Eq(a, b) => emitter.compare(IntCC::Equal, a, b),
            Kind::And(parts) => {
                let truths: Vec<Register> = parts.iter().map(|part| emitter.truth(part)).collect();
                let all = truths.into_iter().reduce(|a, b| emitter.at().ins().band(a, b));
                all.expect("a conjunction has parts")
            }
            _ => {
                let register = emitter.index(x);
                emitter.at().ins().icmp_imm_s(IntCC::NotEqual, register, 0)
            }
        })
    }

    fn compare(&mut self, condition: IntCC, a: &Expr, b: &Expr) -> Register {
        let a = self.index(a);
        if let Some(b) = b.as_int() {
            return self.at().ins().icmp_imm_s(condition, a, b);
        }
        let b = self.index(b);
        self.at().ins().icmp(condition, a, b)
    }

    /// An expression's values in all lanes, as `i32`s that keep the low 32 bits.
    pub(super) fn lanes(&mut self, x: &Expr) -> Register {
        let needed = self.needs(x);
        self.know(Known::Lanes(x.clone()), needed, |emitter| emitter.compute_lanes(x))
    }

    fn compute_lanes(&mut self, x: &Expr) -> Register {
        if !self.varies(x) {
            let register = self.index(x);
            let register = self.at().ins().ireduce(I32, register);
            return self.at().ins().splat(I32X4, register);
        }
        if let Some(each) = self.fixed(x) {
            return self.constant(I32X4, each);
        }
        match x.kind() {
            Kind::Extra { slot, .. } => {
                let value = ValueId(*slot);
                let register = self.vector(value);
                match self.kernel.record(value).dtype {
                    DType::Bool => self.masked_word(register, 1),
                    _ => register,
                }
            }
            Kind::Sum(terms, constant) => self.sum_lanes(terms, *constant),
            Kind::Product(factors) => {
                let factors: Vec<Register> = factors.iter().map(|factor| self.lanes(factor)).collect();
                let product = factors.into_iter().reduce(|a, b| self.at().ins().imul(a, b));
                product.expect("a product has factors")
            }
            Kind::Div(x, d) if d.count_ones() == 1 && is_word(x) && is_word(&Expr::int(*d)) => {
                let register = self.lanes(x);
                self.shift(register, d.trailing_zeros(), |mut code, x, n| code.ins().sshr(x, n))
            }
            Kind::Mod(x, d) if d.count_ones() == 1 => {
                let register = self.lanes(x);
                let rest = self.constant(I32X4, [(d - 1) as u32; LANES]);
                self.at().ins().band(register, rest)
            }
            Kind::Min(a, b) if is_word(a) && is_word(b) => {
                let (a, b) = (self.lanes(a), self.lanes(b));
                self.at().ins().smin(a, b)
            }
            Kind::Max(a, b) if is_word(a) && is_word(b) => {
                let (a, b) = (self.lanes(a), self.lanes(b));
                self.at().ins().smax(a, b)
            }
            Kind::Lt(..) | Kind::Eq(..) | Kind::And(_) => {
                let mask = self.lane_mask(x);
                self.masked_word(mask, 1)
            }
            _ => self.lane_by_lane(x),
        }
    }

    /// The low 32 bits of the four values of an expression of the lane alone.
    fn fixed(&self, x: &Expr) -> Option<[u32; LANES]> {
        let mut each = [0; LANES];
        for (lane, value) in each.iter_mut().enumerate() {
            *value = self.in_lane(x, lane).as_int()? as u32;
        }
        Some(each)
    }

    /// The uniform terms are added as scalars, the terms of the lane alone are a constant.
    fn sum_lanes(&mut self, terms: &[(Expr, i64)], constant: i64) -> Register {
        let (varying, uniform): (Vec<_>, Vec<_>) = terms.iter().cloned().partition(|(x, _)| self.varies(x));
        let (fixed, free): (Vec<_>, Vec<_>) = varying.into_iter().partition(|(x, _)| self.fixed(x).is_some());
        let scaled = |terms: Vec<(Expr, i64)>| terms.into_iter().map(|(x, c)| x * c);
        let mut parts = Vec::new();
        if !uniform.is_empty() {
            parts.push(self.lanes(&scaled(uniform).fold(Expr::int(0), |sum, x| sum + x)));
        }
        if !fixed.is_empty() || constant != 0 {
            parts.push(self.lanes(&scaled(fixed).fold(Expr::int(constant), |sum, x| sum + x)));
        }
        for (x, coefficient) in free {
            let register = self.lanes(&x);
            parts.push(match coefficient {
                1 => register,
                c => {
                    let factor = self.constant(I32X4, [c as u32; LANES]);
                    self.at().ins().imul(register, factor)
                }
            });
        }
        let sum = parts.into_iter().reduce(|a, b| self.at().ins().iadd(a, b));
        sum.expect("a sum has terms")
    }

    fn lane_by_lane(&mut self, x: &Expr) -> Register {
        let lanes: [Register; LANES] = std::array::from_fn(|lane| {
            let register = self.in_lane(x, lane);
            let register = self.index(&register);
            self.at().ins().ireduce(I32, register)
        });
        self.gather(I32X4, lanes)
    }

    /// Where an expression is not 0, as a mask.
    pub(super) fn lane_mask(&mut self, x: &Expr) -> Register {
        let needed = self.needs(x);
        self.know(Known::Mask(x.clone()), needed, |emitter| match x.kind() {
            Kind::Lt(a, b) if is_word(a) && is_word(b) => {
                let (a, b) = (emitter.lanes(a), emitter.lanes(b));
                emitter.at().ins().icmp(IntCC::SignedLessThan, a, b)
            }
            Kind::Eq(a, b) if is_word(a) && is_word(b) => {
                let (a, b) = (emitter.lanes(a), emitter.lanes(b));
                emitter.at().ins().icmp(IntCC::Equal, a, b)
            }
            Kind::And(parts) => {
                let masks: Vec<Register> = parts.iter().map(|part| emitter.lane_mask(part)).collect();
                let all = masks.into_iter().reduce(|a, b| emitter.at().ins().band(a, b));
                all.expect("a conjunction has parts")
            }
            Kind::Extra { slot, .. } if emitter.kernel.record(ValueId(*slot)).dtype == DType::Bool => {
                emitter.vector(ValueId(*slot))
            }
            _ => {
                let lanes: [Register; LANES] = std::array::from_fn(|lane| {
                    let truth = emitter.in_lane(x, lane);
                    let truth = emitter.truth(&truth);
                    emitter.at().ins().uextend(I32, truth)
                });
                let ones = emitter.gather(I32X4, lanes);
                emitter.at().ins().ineg(ones)
            }
        })
    }

    /// The address of an element: a register, and an offset that fits an instruction.
    pub(super) fn element(&mut self, memory: Memory, at: &Expr) -> (Register, i32) {
        let bytes = at.clone() * self.kernel.memory_dtype(memory).size() as i64;
        let (_, constant) = bytes.terms();
        // Vectors of four and gathers of neighbours reach 16 bytes further.
        match i32::try_from(constant) {
            Ok(offset) if offset < i32::MAX - 64 => {
                let rest = bytes - Expr::int(constant);
                (self.pointer(memory, &rest), offset)
            }
            _ => (self.pointer(memory, &bytes), 0),
        }
    }

    fn pointer(&mut self, memory: Memory, bytes: &Expr) -> Register {
        if bytes.as_int() == Some(0) {
            return self.memory(memory);
        }
        let needed = self.needs(bytes);
        self.know(Known::Pointer(memory, bytes.clone()), needed, |emitter| {
            let (terms, constant) = bytes.terms();
            let (outer, inner) = emitter.cut(&terms);
            let sum = |terms: Vec<(Expr, i64)>, constant: i64| {
                terms.into_iter().map(|(x, c)| x * c).fold(Expr::int(constant), |sum, x| sum + x)
            };
            let (base, offset) = (sum(outer, 0), sum(inner, constant));
            let base = emitter.pointer(memory, &base);
            let offset = emitter.index(&offset);
            emitter.at().ins().iadd(base, offset)
        })
    }
}

/// Whether every value of an expression fits an `i32`.
fn is_word(x: &Expr) -> bool {
    x.low() >= i64::from(i32::MIN) && x.high() <= i64::from(i32::MAX)
}
