//! Index expressions as instructions, each computed once, in the outermost block that has its leaves.
//!
//! Sums and products are right in their low 32 bits whatever their operands' high bits are; quotients and
//! comparisons are computed in 64 bits where the operands may not fit 32.

use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr};

use super::function::{Class, Emitter};
use crate::kernel::{LOOP_AXIS, Memory, ValueId};

/// What is computed once in a block.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Known {
    /// The low 32 bits of an expression.
    Word(Expr),
    /// All 64 bits.
    Long(Expr),
    /// Whether it is not 0.
    Truth(Expr),
    /// The address of an element of a memory; the offset without its constant.
    Pointer(Memory, Expr),
    /// The address of the symbol block.
    Symbols,
    /// The bytes of a value with their signs turned over.
    Flipped(ValueId),
    /// Where memory of the group starts.
    Shared,
    /// Where a thread writes its value to be joined (`false`), and where its column starts.
    Joins(bool),
    /// That a product adds to what its sums are, and the upper word of its operands' descriptors.
    Adds,
    EightRows,
}

/// Whether every value of an expression fits an `i32`.
pub(super) fn is_word(x: &Expr) -> bool {
    x.low() >= i64::from(i32::MIN) && x.high() <= i64::from(i32::MAX)
}

impl Emitter<'_> {
    /// The block in which all leaves of an expression are known.
    pub(super) fn depth(&self, x: &Expr) -> usize {
        let mut depth = 0;
        x.any(&mut |leaf| {
            let found = match leaf.kind() {
                Kind::Axis { index, .. } if *index >= LOOP_AXIS => self.axes[index].1,
                Kind::Extra { slot, .. } => self.values[&ValueId(*slot)].1,
                _ => 0,
            };
            depth = depth.max(found);
            false
        });
        depth
    }

    /// What `key` stands for, computed in the block at `depth` if it is not known there.
    pub(super) fn know(
        &mut self,
        key: Known,
        depth: usize,
        compute: impl FnOnce(&mut Self) -> String,
    ) -> String {
        if let Some(known) = self.frames[depth].known.get(&key) {
            return known.clone();
        }
        let at = std::mem::replace(&mut self.at, depth);
        let register = compute(self);
        self.at = at;
        self.frames[depth].known.insert(key, register.clone());
        register
    }

    /// The low 32 bits of an expression.
    pub(super) fn word(&mut self, x: &Expr) -> String {
        match x.kind() {
            Kind::Int(value) => (*value as i32).to_string(),
            Kind::Axis { index, .. } => self.axes[index].0.clone(),
            _ => {
                let depth = self.depth(x);
                self.know(Known::Word(x.clone()), depth, |emitter| emitter.compute(x, Class::Word))
            }
        }
    }

    pub(super) fn long(&mut self, x: &Expr) -> String {
        if let Some(value) = x.as_int() {
            return value.to_string();
        }
        let depth = self.depth(x);
        self.know(Known::Long(x.clone()), depth, |emitter| {
            if is_word(x) {
                let word = emitter.word(x);
                return emitter.make(Class::Long, "cvt.s64.s32", &[&word]);
            }
            emitter.compute(x, Class::Long)
        })
    }

    fn number(&mut self, x: &Expr, class: Class) -> String {
        if class == Class::Word { self.word(x) } else { self.long(x) }
    }

    /// Computes an expression that is neither a constant nor an axis in registers of a class.
    fn compute(&mut self, x: &Expr, class: Class) -> String {
        if class == Class::Word && takes_long(x) {
            let long = self.compute(x, Class::Long);
            return self.make(Class::Word, "cvt.u32.u64", &[&long]);
        }
        let (s, b) = if class == Class::Word { ("s32", "b32") } else { ("s64", "b64") };
        match x.kind() {
            Kind::Int(_) | Kind::Axis { .. } => self.number(x, class),
            Kind::Sym(symbol) => {
                let slot = self.kernel.symbols.iter().find(|(known, _)| known == symbol);
                let (_, slot) = slot.expect("a kernel lists the symbols that it mentions");
                let block = self.symbols();
                self.make(Class::Word, "ld.global.nc.u32", &[&format!("[{block}+{}]", slot * 4)])
            }
            Kind::Extra { slot, .. } => {
                let value = self.value(ValueId(*slot));
                match (self.kernel.record(ValueId(*slot)).dtype, class) {
                    (DType::Bool, _) => self.make(class, &format!("selp.{b}"), &["1", "0", &value]),
                    (_, Class::Word) => value,
                    (DType::U32, _) => self.make(class, "cvt.u64.u32", &[&value]),
                    _ => self.make(class, "cvt.s64.s32", &[&value]),
                }
            }
            Kind::Sum(terms, constant) => self.sum(terms, *constant, class),
            Kind::Product(factors) => {
                let factors: Vec<String> = factors.iter().map(|x| self.number(x, class)).collect();
                let multiply = format!("mul.lo.{s}");
                let product = factors.into_iter().reduce(|a, b| self.make(class, &multiply, &[&a, &b]));
                product.expect("a product has factors")
            }
            Kind::Div(x, d) => self.quotient(x, *d, class),
            Kind::Mod(x, d) if d.count_ones() == 1 => {
                let register = self.number(x, class);
                self.make(class, &format!("and.{b}"), &[&register, &(d - 1).to_string()])
            }
            Kind::Mod(x, d) => {
                let quotient = self.number(&x.clone().div_floor(*d), class);
                let register = self.number(x, class);
                self.make(class, &format!("mad.lo.{s}"), &[&quotient, &(-d).to_string(), &register])
            }
            Kind::Min(a, b) | Kind::Max(a, b) => {
                let name = if matches!(x.kind(), Kind::Min(..)) { "min" } else { "max" };
                let (a, b) = (self.number(a, class), self.number(b, class));
                self.make(class, &format!("{name}.{s}"), &[&a, &b])
            }
            Kind::Lt(..) | Kind::Eq(..) | Kind::And(_) => {
                let truth = self.truth(x);
                self.make(class, &format!("selp.{b}"), &["1", "0", &truth])
            }
        }
    }

    /// What outer blocks know of a sum is computed there.
    fn sum(&mut self, terms: &[(Expr, i64)], constant: i64, class: Class) -> String {
        let s = if class == Class::Word { "s32" } else { "s64" };
        let (outer, inner) = self.cut(terms);
        let mut sum = (!outer.is_empty()).then(|| self.number(&add(outer), class));
        for (atom, coefficient) in inner {
            let atom = self.number(&atom, class);
            let factor = coefficient.to_string();
            sum = Some(match (sum, coefficient) {
                (None, 1) => atom,
                (None, c) if c > 0 && c.count_ones() == 1 => {
                    let bits = if class == Class::Word { "shl.b32" } else { "shl.b64" };
                    self.make(class, bits, &[&atom, &c.trailing_zeros().to_string()])
                }
                (None, _) => self.make(class, &format!("mul.lo.{s}"), &[&atom, &factor]),
                (Some(sum), 1) => self.make(class, &format!("add.{s}"), &[&sum, &atom]),
                (Some(sum), -1) => self.make(class, &format!("sub.{s}"), &[&sum, &atom]),
                (Some(sum), _) => self.make(class, &format!("mad.lo.{s}"), &[&atom, &factor, &sum]),
            });
        }
        let sum = sum.expect("a sum has terms");
        match constant {
            0 => sum,
            _ => self.make(class, &format!("add.{s}"), &[&sum, &constant.to_string()]),
        }
    }

    /// The terms that blocks further out know, and those of the innermost block among them.
    pub(super) fn cut(&self, terms: &[(Expr, i64)]) -> (Terms, Terms) {
        let innermost = terms.iter().map(|(x, _)| self.depth(x)).max().unwrap_or(0);
        terms.iter().cloned().partition(|(x, _)| self.depth(x) < innermost)
    }

    /// `floor(x / d)`.
    fn quotient(&mut self, x: &Expr, d: i64, class: Class) -> String {
        let bits = if class == Class::Word { 32 } else { 64 };
        let register = self.number(x, class);
        let divisor = d.to_string();
        if d.count_ones() == 1 {
            let sign = if x.low() >= 0 { 'u' } else { 's' };
            return self.make(
                class,
                &format!("shr.{sign}{bits}"),
                &[&register, &d.trailing_zeros().to_string()],
            );
        }
        if x.low() >= 0 {
            return self.make(class, &format!("div.u{bits}"), &[&register, &divisor]);
        }
        // Truncation has to be corrected where the remainder is negative.
        let quotient = self.make(class, &format!("div.s{bits}"), &[&register, &divisor]);
        let whole = self.make(class, &format!("mul.lo.s{bits}"), &[&quotient, &divisor]);
        let below = self.make(Class::Truth, &format!("setp.lt.s{bits}"), &[&register, &whole]);
        let less = self.make(class, &format!("selp.b{bits}"), &["-1", "0", &below]);
        self.make(class, &format!("add.s{bits}"), &[&quotient, &less])
    }

    /// Whether an expression is not 0.
    pub(super) fn truth(&mut self, x: &Expr) -> String {
        let depth = self.depth(x);
        self.know(Known::Truth(x.clone()), depth, |emitter| match x.kind() {
            Kind::Int(value) => {
                emitter.make(Class::Truth, "mov.pred", &[if *value == 0 { "0" } else { "1" }])
            }
            Kind::Lt(a, b) => emitter.compare("lt", a, b),
            Kind::Eq(a, b) => emitter.compare("eq", a, b),
            Kind::And(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| emitter.truth(part)).collect();
                let all = parts.into_iter().reduce(|a, b| emitter.make(Class::Truth, "and.pred", &[&a, &b]));
                all.expect("a conjunction has parts")
            }
            Kind::Extra { slot, .. } if emitter.kernel.record(ValueId(*slot)).dtype == DType::Bool => {
                emitter.value(ValueId(*slot))
            }
            _ => emitter.compare("ne", x, &Expr::int(0)),
        })
    }

    fn compare(&mut self, how: &str, a: &Expr, b: &Expr) -> String {
        let (class, kind) =
            if is_word(a) && is_word(b) { (Class::Word, "s32") } else { (Class::Long, "s64") };
        let (a, b) = (self.number(a, class), self.number(b, class));
        self.make(Class::Truth, &format!("setp.{how}.{kind}"), &[&a, &b])
    }
}

/// Terms of a sum.
pub(super) type Terms = Vec<(Expr, i64)>;

/// The sum of terms.
pub(super) fn add(terms: Terms) -> Expr {
    terms.into_iter().fold(Expr::int(0), |sum, (x, c)| sum + x * c)
}

/// Whether the low 32 bits of an expression's operands do not decide about its own.
fn takes_long(x: &Expr) -> bool {
    match x.kind() {
        Kind::Div(x, d) => !is_word(x) || *d > i64::from(i32::MAX),
        Kind::Mod(x, d) => d.count_ones() != 1 && (!is_word(x) || *d > i64::from(i32::MAX)),
        Kind::Min(a, b) | Kind::Max(a, b) => !is_word(a) || !is_word(b),
        _ => false,
    }
}
