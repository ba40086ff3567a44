//! Index expressions that are the same for all lanes: 64-bit integers, and addresses.
//!
//! Equal expressions are computed once for each scope that needs them. A sum is cut by the scopes that its terms
//! need, so that what does not change in a loop stands before it. An expression for one lane is the expression with
//! the lane's number put in; a varying value in it becomes the *lane extra* `slot + (lane + 1) * values`.

use iced_x86::Code;
use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr};

use super::isa::Level;
use super::machine::{Access, Address, Base, Class, Division, Item, Operand, Operation, Reg, View};
use super::select::{Held, Known, Place, Selector, compare, immediate};
use crate::kernel::{LANE_AXIS, LOOP_AXIS, ValueId};

/// Offsets in instructions stay clear of the end by more than any access reaches.
pub(super) const OFFSET_MAX: i64 = i32::MAX as i64 - 4096;

/// Whether every value of an expression fits an `i32`.
pub(super) fn is_word(x: &Expr) -> bool {
    x.low() >= i64::from(i32::MIN) && x.high() <= i64::from(i32::MAX)
}

/// Terms added up again.
pub(super) fn sum_of(terms: impl IntoIterator<Item = (Expr, i64)>, constant: i64) -> Expr {
    terms.into_iter().map(|(x, c)| x * c).fold(Expr::int(constant), |sum, x| sum + x)
}

impl Selector<'_> {
    /// One instruction that makes a general register of its other operands.
    pub(super) fn general(&mut self, code: Code, view: View, operands: &[Operand]) -> Reg {
        let to = self.code.new_reg(Class::General);
        let all: Vec<Operand> =
            std::iter::once(Operand::Reg(to, view)).chain(operands.iter().copied()).collect();
        self.push(Item::Operation(Operation::new(code, Access::Write, &all)));
        to
    }

    /// A general register from memory.
    pub(super) fn general_from(&mut self, code: Code, address: Address) -> Reg {
        let view = match code {
            Code::Mov_r32_rm32 | Code::Movzx_r32_rm16 | Code::Movzx_r32_rm8 => View::Double,
            _ => View::Quad,
        };
        self.general(code, view, &[Operand::Memory(address)])
    }

    /// A copy with one instruction of two operands applied to it.
    fn changed(&mut self, code: Code, x: Reg, operand: Option<Operand>) -> Reg {
        let to = self.copy(x);
        let all: Vec<Operand> = std::iter::once(Operand::Reg(to, View::Quad)).chain(operand).collect();
        self.push(Item::Operation(Operation::new(code, Access::Update, &all)));
        to
    }

    pub(super) fn copy(&mut self, from: Reg) -> Reg {
        let to = self.code.new_reg(self.code.class(from));
        self.push(Item::Copy { to, from });
        to
    }

    /// `base + index * scale + offset`.
    pub(super) fn add(&mut self, base: Reg, index: Option<(Reg, u8)>, offset: i32) -> Reg {
        let index = index.map(|(reg, scale)| (reg, View::Quad, scale));
        let address = Address { base: Base::Reg(base), index, offset, broadcast: false };
        self.general(Code::Lea_r64_m, View::Quad, &[Operand::Memory(address)])
    }

    /// A constant of any size.
    pub(super) fn integer(&mut self, value: i64) -> Reg {
        self.know(Known::Index(Expr::int(value)), 0, |selector| match u32::try_from(value) {
            Ok(small) => {
                let to = selector.code.new_reg(Class::General);
                selector.push(immediate(to, small));
                to
            }
            Err(_) => selector.general(Code::Mov_r64_imm64, View::Quad, &[Operand::Immediate(value)]),
        })
    }

    /// A value of the kernel that is an index expression.
    pub(super) fn index_value(&mut self, x: &Expr, dtype: DType, wide: bool) -> Place {
        match (dtype, wide) {
            (DType::Bool, true) => Place::Lanes(self.lane_mask(x)),
            (_, true) => Place::Lanes(self.lanes(x)),
            (DType::Bool, false) => Place::General(self.truth(x)),
            (_, false) => {
                let register = self.index(x);
                let fits = dtype.wrap(x.low()) == x.low() && dtype.wrap(x.high()) == x.high();
                let word = Operand::Reg(register, View::Double);
                Place::General(match dtype {
                    _ if fits => register,
                    DType::U32 => self.general(Code::Mov_r32_rm32, View::Double, &[word]),
                    _ => self.general(Code::Movsxd_r64_rm32, View::Quad, &[word]),
                })
            }
        }
    }

    /// The value and the lane that an extra's slot stands for.
    pub(super) fn extra(&self, slot: u32) -> (ValueId, Option<usize>) {
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
        self.varying.expr(x)
    }

    /// The innermost scope that an expression needs.
    pub(super) fn needs(&self, x: &Expr) -> usize {
        let mut depth = 0;
        x.any(&mut |leaf| {
            depth = depth.max(match leaf.kind() {
                Kind::Axis { index, .. } => self.axes.get(index).map_or(0, |(_, depth)| *depth),
                Kind::Extra { slot, .. } => {
                    self.held[self.extra(*slot).0.0 as usize].map_or(0, |held: Held| held.depth)
                }
                _ => 0,
            });
            false
        });
        depth
    }

    /// An expression that is the same for all lanes.
    pub(super) fn index(&mut self, x: &Expr) -> Reg {
        match x.kind() {
            Kind::Int(value) => self.integer(*value),
            Kind::Sym(symbol) => self.symbols[symbol],
            Kind::Axis { index, .. } => self.axes[index].0,
            _ => {
                let needed = self.needs(x);
                self.know(Known::Index(x.clone()), needed, |selector| selector.compute(x))
            }
        }
    }

    fn compute(&mut self, x: &Expr) -> Reg {
        match x.kind() {
            Kind::Int(_) | Kind::Sym(_) | Kind::Axis { .. } => self.index(x),
            Kind::Extra { slot, .. } => self.extra_value(*slot),
            Kind::Sum(terms, constant) => self.sum(terms, *constant),
            Kind::Product(factors) => {
                let mut factors: Vec<&Expr> = factors.iter().collect();
                factors.sort_by_key(|factor| self.needs(factor));
                let registers: Vec<Reg> = factors.into_iter().map(|x| self.index(x)).collect();
                let product = registers
                    .into_iter()
                    .reduce(|a, b| self.changed(Code::Imul_r64_rm64, a, Some(Operand::Reg(b, View::Quad))));
                product.expect("a product has factors")
            }
            Kind::Div(x, d) => self.quotient(x, *d),
            Kind::Mod(x, d) => self.remainder(x, *d),
            Kind::Min(a, b) => self.extreme(a, b, Code::Cmovg_r64_rm64),
            Kind::Max(a, b) => self.extreme(a, b, Code::Cmovl_r64_rm64),
            Kind::Lt(a, b) => self.comparison(a, b, Code::Setl_rm8),
            Kind::Eq(a, b) => self.comparison(a, b, Code::Sete_rm8),
            Kind::And(parts) => {
                let truths: Vec<Reg> = parts.iter().map(|part| self.truth(part)).collect();
                let all = truths
                    .into_iter()
                    .reduce(|a, b| self.changed(Code::And_r64_rm64, a, Some(Operand::Reg(b, View::Quad))));
                all.expect("a conjunction has parts")
            }
        }
    }

    /// Whether an expression is not 0, as 0 or 1.
    pub(super) fn truth(&mut self, x: &Expr) -> Reg {
        match x.low() >= 0 && x.high() <= 1 {
            true => self.index(x),
            false => self.comparison(x, &Expr::int(0), Code::Setne_rm8),
        }
    }

    /// A register or a constant, to compare with.
    fn index_operand(&mut self, x: &Expr) -> Operand {
        match self.small(x) {
            Some(value) => Operand::Immediate(value),
            None => Operand::Reg(self.index(x), View::Quad),
        }
    }

    fn comparison(&mut self, a: &Expr, b: &Expr, set: Code) -> Reg {
        let (a, b) = (self.index(a), self.index_operand(b));
        self.push(compare(a, b));
        let byte = self.general(set, View::Byte, &[]);
        self.general(Code::Movzx_r32_rm8, View::Double, &[Operand::Reg(byte, View::Byte)])
    }

    fn extreme(&mut self, a: &Expr, b: &Expr, choose: Code) -> Reg {
        let (a, b) = (self.index(a), self.index(b));
        let to = self.copy(a);
        self.push(compare(to, Operand::Reg(b, View::Quad)));
        let operands = [Operand::Reg(to, View::Quad), Operand::Reg(b, View::Quad)];
        self.push(Item::Operation(Operation::new(choose, Access::Update, &operands)));
        to
    }

    /// The integer that an extra stands for.
    fn extra_value(&mut self, slot: u32) -> Reg {
        let (value, lane) = self.extra(slot);
        let signed = !matches!(self.kernel.record(value).dtype, DType::U32 | DType::Bool);
        let Some(lane) = lane else { return self.general_of(value) };
        let from = Address::of(Base::Frame(self.lane_slot(value))).plus(4 * lane as i32);
        self.general_from(if signed { Code::Movsxd_r64_rm32 } else { Code::Mov_r32_rm32 }, from)
    }

    /// A value that is the same for all lanes, as an integer.
    fn general_of(&mut self, value: ValueId) -> Reg {
        let held = self.held[value.0 as usize].expect("verified kernels define values before their use");
        let register = match held.place {
            Place::General(register) => return register,
            Place::Lanes(_) | Place::Slot(_) | Place::Later => self.lanes_of(value),
        };
        let dtype = self.kernel.record(value).dtype;
        self.know(Known::General(value), held.depth, |selector| {
            let word = match (selector.code.class(register), selector.level) {
                (Class::Mask, _) => selector.general(
                    Code::VEX_Kmovw_r32_kr,
                    View::Double,
                    &[Operand::Reg(register, View::Mask)],
                ),
                (_, Level::Avx2) => selector.general(
                    Code::VEX_Vmovd_rm32_xmm,
                    View::Double,
                    &[Operand::Reg(register, View::X)],
                ),
                _ => selector.general(
                    Code::EVEX_Vmovd_rm32_xmm,
                    View::Double,
                    &[Operand::Reg(register, View::X)],
                ),
            };
            match dtype {
                DType::Bool => selector.changed(Code::And_rm64_imm32, word, Some(Operand::Immediate(1))),
                DType::U32 => word,
                _ => selector.general(Code::Movsxd_r64_rm32, View::Quad, &[Operand::Reg(word, View::Double)]),
            }
        })
    }

    fn sum(&mut self, terms: &[(Expr, i64)], constant: i64) -> Reg {
        if let ([(atom, coefficient)], 0) = (terms, constant) {
            return self.scaled(atom, *coefficient);
        }
        let (outer, inner) = self.cut(terms);
        let (offset, far) = if constant.abs() < OFFSET_MAX { (constant as i32, 0) } else { (0, constant) };
        let mut sum = (!outer.is_empty()).then(|| self.index(&sum_of(outer, 0)));
        if far != 0 {
            let constant = self.integer(far);
            sum = Some(sum.map_or(constant, |sum| self.add(sum, Some((constant, 1)), 0)));
        }
        let count = inner.len();
        for (at, (x, c)) in inner.into_iter().enumerate() {
            let offset = if at + 1 == count { offset } else { 0 };
            sum = Some(match (sum, c) {
                (Some(sum), 1 | 2 | 4 | 8) => {
                    let x = self.index(&x);
                    self.add(sum, Some((x, c as u8)), offset)
                }
                (Some(sum), _) => {
                    let x = self.index(&(x * c));
                    self.add(sum, Some((x, 1)), offset)
                }
                (None, _) if offset != 0 => {
                    let x = self.index(&(x * c));
                    self.add(x, None, offset)
                }
                (None, _) => self.index(&(x * c)),
            });
        }
        let sum = sum.expect("a sum has terms");
        if count == 0 && offset != 0 { self.add(sum, None, offset) } else { sum }
    }

    /// `x * c`. A loop's coordinate times a factor is a register of its own that grows with each turn.
    fn scaled(&mut self, x: &Expr, c: i64) -> Reg {
        if let (Kind::Axis { index: index @ LOOP_AXIS.., .. }, Ok(step)) = (x.kind(), i32::try_from(c))
            && c != 1
        {
            let depth = self.axes[index].1;
            let register = self.code.new_reg(Class::General);
            let scope = &mut self.scopes[depth];
            scope.before.push(immediate(register, 0));
            scope.steps.push((register, step));
            scope.known.insert(Known::Index(x.clone() * c), register);
            return register;
        }
        let atom = self.index(x);
        match c {
            1 => atom,
            -1 => self.changed(Code::Neg_rm64, atom, None),
            c if c > 0 && c.count_ones() == 1 => {
                let count = Operand::Immediate(i64::from(c.trailing_zeros()));
                self.changed(Code::Shl_rm64_imm8, atom, Some(count))
            }
            c if i32::try_from(c).is_ok() => {
                let operands = [Operand::Reg(atom, View::Quad), Operand::Immediate(c)];
                self.general(Code::Imul_r64_rm64_imm32, View::Quad, &operands)
            }
            c => {
                let factor = self.integer(c);
                self.changed(Code::Imul_r64_rm64, atom, Some(Operand::Reg(factor, View::Quad)))
            }
        }
    }

    /// The terms that are computed in scopes further out, and those of the innermost scope needed.
    #[expect(clippy::type_complexity, reason = "two lists of terms, as they stand in a sum")]
    pub(super) fn cut(&self, terms: &[(Expr, i64)]) -> (Vec<(Expr, i64)>, Vec<(Expr, i64)>) {
        let places: Vec<usize> = terms.iter().map(|(x, _)| self.place_of(self.needs(x))).collect();
        let innermost = places.iter().copied().max().unwrap_or(0);
        let each = terms.iter().cloned().zip(places);
        let (outside, inside): (Vec<_>, Vec<_>) = each.partition(|(_, place)| *place < innermost);
        let plain = |terms: Vec<((Expr, i64), usize)>| terms.into_iter().map(|(term, _)| term).collect();
        (plain(outside), plain(inside))
    }

    /// `floor(x / d)`, without a division where `x` is known to be small.
    fn quotient(&mut self, x: &Expr, d: i64) -> Reg {
        let register = self.index(x);
        if d.count_ones() == 1 {
            let count = Operand::Immediate(i64::from(d.trailing_zeros()));
            return self.changed(Code::Sar_rm64_imm8, register, Some(count));
        }
        if x.low() >= 0 && x.high() <= i64::from(i32::MAX) && d <= i64::from(i32::MAX) {
            // With m = floor(2^s / d) + 1 and 2^(s - 32) >= d, x * m >> s is the quotient of any x below 2^32
            // (Granlund and Montgomery, 1994); for x below 2^31 the product fits 64 bits.
            let shift = 32 + i64::from(64 - (d - 1).leading_zeros());
            let factor = ((1u128 << shift) / d as u128 + 1) as i64;
            let factor = self.integer(factor);
            let product = self.changed(Code::Imul_r64_rm64, factor, Some(Operand::Reg(register, View::Quad)));
            return self.changed(Code::Shr_rm64_imm8, product, Some(Operand::Immediate(shift)));
        }
        let divisor = self.integer(d);
        let to = self.code.new_reg(Class::General);
        let division = Division { to, dividend: register, divisor, signed: true, remainder: false };
        self.push(Item::Divide(division));
        if x.low() >= 0 {
            return to;
        }
        // Truncation has to be corrected where the remainder is negative.
        let whole = self.changed(Code::Imul_r64_rm64, to, Some(Operand::Reg(divisor, View::Quad)));
        self.push(compare(register, Operand::Reg(whole, View::Quad)));
        let byte = self.general(Code::Setl_rm8, View::Byte, &[]);
        let above = self.general(Code::Movzx_r32_rm8, View::Double, &[Operand::Reg(byte, View::Byte)]);
        self.changed(Code::Sub_r64_rm64, to, Some(Operand::Reg(above, View::Quad)))
    }

    fn remainder(&mut self, x: &Expr, d: i64) -> Reg {
        if d.count_ones() == 1 {
            let register = self.index(x);
            let rest = self.index_operand(&Expr::int(d - 1));
            let code =
                if matches!(rest, Operand::Immediate(_)) { Code::And_rm64_imm32 } else { Code::And_r64_rm64 };
            return self.changed(code, register, Some(rest));
        }
        let quotient = self.index(&x.clone().div_floor(d));
        let whole = match i32::try_from(d) {
            Ok(_) => {
                let operands = [Operand::Reg(quotient, View::Quad), Operand::Immediate(d)];
                self.general(Code::Imul_r64_rm64_imm32, View::Quad, &operands)
            }
            Err(_) => {
                let factor = self.integer(d);
                self.changed(Code::Imul_r64_rm64, factor, Some(Operand::Reg(quotient, View::Quad)))
            }
        };
        let register = self.index(x);
        self.changed(Code::Sub_r64_rm64, register, Some(Operand::Reg(whole, View::Quad)))
    }
}
