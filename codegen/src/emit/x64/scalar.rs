//! Scalar operations on vectors.

use jtllm_ir::scalar::{Table, words_of};
use jtllm_ir::{DType, ScalarOp};

use super::isa::{Level, Op};
use super::machine::{Access, Address, Item, Operand, Operation, Reg};
use super::operation::Compare;
use super::select::Selector;
use crate::kernel::{Value, ValueId};

/// Rounds to the nearest, ties to even, and reports nothing.
const TO_NEAREST: i64 = 8;
/// Rounds down.
const DOWN: i64 = 9;

/// The bit of an `f32` that is its sign.
const SIGN: u32 = 0x8000_0000;

impl Selector<'_> {
    /// Whether an operation gives its operand's register.
    pub(super) fn is_same_register(&self, op: ScalarOp, xs: &[ValueId]) -> bool {
        let from = self.kernel.record(xs[0]).dtype;
        match op {
            ScalarOp::Bitcast(_) => true,
            ScalarOp::Cast(DType::F32) => from.is_float(),
            ScalarOp::Cast(DType::I32 | DType::U32) => !from.is_float() && from != DType::Bool,
            ScalarOp::Cast(to) => from == to,
            _ => false,
        }
    }

    /// An operation on values of the kernel, if it can be into `target`.
    pub(super) fn operation(&mut self, op: ScalarOp, operands: &[ValueId], target: Option<Reg>) -> Reg {
        let dtype = |at: usize| self.kernel.record(operands[at]).dtype;
        let (first, last) = (dtype(0), dtype(operands.len() - 1));
        if self.is_same_register(op, operands) {
            return self.lanes_of(operands[0]);
        }
        let result = match op {
            ScalarOp::Fma => return self.fma(operands, target),
            ScalarOp::Dot4 if self.beside.dot => return self.dot(Op::Dot4, operands, target),
            ScalarOp::Dot4 => return self.dot_of_words(operands, target),
            ScalarOp::Dot4Signed => return self.dot_of_signed(operands, target),
            ScalarOp::Dot2 if self.scopes[self.depth()].by_halves => {
                return self.dot_of_halves(operands, target);
            }
            ScalarOp::Dot2 => {
                // Factors may change places, and only the second can be memory.
                let [x, y, sum] = [operands[0], operands[1], operands[2]];
                let (x, y) = if self.is_later(x) && !self.is_later(y) { (y, x) } else { (x, y) };
                return self.dot(Op::Dot2, &[x, y, sum], target);
            }
            ScalarOp::Lookup(table) => self.lookup(operands[0], &table),
            ScalarOp::Select => {
                let xs: Vec<Reg> = operands.iter().map(|x| self.lanes_of(*x)).collect();
                let to = target.unwrap_or_else(|| self.code.new_reg(self.code.class(xs[1])));
                self.choose_to(to, xs[0], xs[1], xs[2]);
                return to;
            }
            ScalarOp::Cast(to) => match self.small_number(to, operands[0]) {
                Some(float) => float,
                None => {
                    let x = self.lanes_of(operands[0]);
                    self.cast(x, first, to)
                }
            },
            ScalarOp::And if self.byte(operands).is_some() => {
                let (word, places) = self.byte(operands).expect("it has been found just now");
                self.select_byte(word, places)
            }
            _ => match direct(op, last) {
                Some((op, commutes)) => return self.direct(op, commutes, operands, target),
                None => {
                    let shift = self.constant_shift(op, last, operands);
                    shift.unwrap_or_else(|| {
                        let xs: Vec<Reg> = operands.iter().map(|x| self.lanes_of(*x)).collect();
                        self.apply(op, last, &xs)
                    })
                }
            },
        };
        match target {
            Some(target) if target != result => {
                self.push(Item::Copy { to: target, from: result });
                target
            }
            _ => result,
        }
    }

    /// A value as the last operand of an operation: memory, where it is loaded for that.
    pub(super) fn operand(&mut self, value: ValueId) -> Operand {
        if let (Level::Avx512, Some(slot)) = (self.level, self.slot_of(value)) {
            return Operand::Memory(Address { broadcast: true, ..slot });
        }
        if let (true, Value::Load { memory, at }) = (self.is_later(value), &self.kernel.record(value).value) {
            if let Some(first) = self.neighbours(at) {
                return Operand::Memory(self.element_and_ahead(*memory, &first));
            }
            if self.level == Level::Avx512 && !self.varies(at) {
                let address = self.element(*memory, at);
                return Operand::Memory(Address { broadcast: true, ..address });
            }
        }
        let register = self.lanes_of(value);
        self.whole(register)
    }

    /// One instruction for one operation.
    fn direct(&mut self, op: Op, commutes: bool, xs: &[ValueId], target: Option<Reg>) -> Reg {
        let operands = match *xs {
            [x] => vec![self.operand(x)],
            [x, y] => {
                let (x, y) = if commutes && self.is_later(x) && !self.is_later(y) { (y, x) } else { (x, y) };
                let first = self.lanes_of(x);
                vec![self.whole(first), self.operand(y)]
            }
            _ => unreachable!("operations of one instruction have one or two operands"),
        };
        let to = target.unwrap_or_else(|| self.new_vector());
        self.vector_to(to, op, &operands);
        to
    }

    /// `x * y + z`: the register that is overwritten is the target's or that of an operand that nobody wants any
    /// more; where a load waits, it is the one that may be memory.
    fn fma(&mut self, xs: &[ValueId], target: Option<Reg>) -> Reg {
        let (mut x, mut y, z) = (xs[0], xs[1], xs[2]);
        if self.is_later(x) && !self.is_later(y) {
            (x, y) = (y, x);
        }
        // Only one of them can be memory.
        let z_is_memory = self.is_later(z) && !self.is_later(y);
        let first = self.lanes_of(x);
        let (factor, sum) = match z_is_memory {
            true => (self.lanes_of(y), None),
            false => (first, Some(self.lanes_of(z))),
        };
        if let Some(sum) = sum {
            let y = self.operand(y);
            let tied = |reg: Reg| target == Some(reg);
            let y_reg = match y {
                Operand::Reg(reg, _) => Some(reg),
                _ => None,
            };
            let [first_is_free, sum_is_free] = [x, z].map(|value| self.left(value) == 1);
            return match y_reg {
                _ if tied(sum) => self.fused(Op::Fma231, sum, target, [self.whole(first), y]),
                Some(reg) if tied(reg) => {
                    self.fused(Op::Fma213, reg, target, [self.whole(first), self.whole(sum)])
                }
                _ if tied(first) => self.fused(Op::Fma132, first, target, [self.whole(sum), y]),
                _ if sum_is_free || !first_is_free => {
                    self.fused(Op::Fma231, sum, target, [self.whole(first), y])
                }
                _ => self.fused(Op::Fma132, first, target, [self.whole(sum), y]),
            };
        }
        let sum = self.operand(z);
        match target {
            Some(target) if target == factor => {
                self.fused(Op::Fma213, factor, Some(target), [self.whole(first), sum])
            }
            _ => self.fused(Op::Fma213, first, target, [self.whole(factor), sum]),
        }
    }

    /// A fused product that overwrites a copy of `start`, which is no copy where it is the target or the last use.
    pub(super) fn fused(&mut self, op: Op, start: Reg, target: Option<Reg>, others: [Operand; 2]) -> Reg {
        let to = target.unwrap_or_else(|| self.new_vector());
        if to != start {
            self.push(Item::Copy { to, from: start });
        }
        let (code, fold) = op.code(self.level);
        let operands = [self.whole(to), others[0], others[1]];
        self.push(Item::Operation(Operation { fold, ..Operation::new(code, Access::Update, &operands) }));
        to
    }

    /// Products added to the last operand's register, or to a copy of it.
    fn dot(&mut self, op: Op, xs: &[ValueId], target: Option<Reg>) -> Reg {
        let (first, sum) = (self.lanes_of(xs[0]), self.lanes_of(xs[2]));
        let second = self.operand(xs[1]);
        // A target that is a factor may not be overwritten before it is read.
        let apart = target.filter(|to| *to == sum || (*to != first && second != self.whole(*to)));
        let result = self.fused(op, sum, apart, [self.whole(first), second]);
        match target {
            Some(target) if target != result => {
                self.push(Item::Copy { to: target, from: result });
                target
            }
            _ => result,
        }
    }

    /// An operation on registers that hold values of type `dtype`.
    pub(super) fn apply(&mut self, op: ScalarOp, dtype: DType, xs: &[Reg]) -> Reg {
        if let Some((op, _)) = direct(op, dtype) {
            return match *xs {
                [x] => self.unary(op, x),
                _ => self.binary(op, xs[0], xs[1]),
            };
        }
        match dtype {
            DType::Bool => self.apply_truth(op, xs),
            DType::F32 => self.apply_float(op, xs),
            _ => self.apply_word(op, dtype == DType::I32, xs),
        }
    }

    fn apply_float(&mut self, op: ScalarOp, xs: &[Reg]) -> Reg {
        let x = xs[0];
        let way = match op {
            ScalarOp::Neg => {
                let sign = self.word(SIGN);
                return self.binary(Op::Xor, x, sign);
            }
            ScalarOp::Abs => {
                let rest = self.word(!SIGN);
                return self.binary(Op::And, x, rest);
            }
            ScalarOp::Floor => return self.with(Op::Round, x, DOWN),
            ScalarOp::Round => return self.with(Op::Round, x, TO_NEAREST),
            ScalarOp::Lt => Compare::Less,
            ScalarOp::Le => Compare::NotGreater,
            ScalarOp::Eq => Compare::Equal,
            ScalarOp::Ne => Compare::NotEqual,
            _ => unreachable!("{} of f32 is turned down before a kernel is emitted", op.name()),
        };
        let y = self.whole(xs[1]);
        self.compare_floats(way, x, y)
    }

    fn apply_word(&mut self, op: ScalarOp, signed: bool, xs: &[Reg]) -> Reg {
        let x = xs[0];
        match op {
            ScalarOp::Neg => {
                let zero = self.word(0);
                self.binary(Op::SubInt, zero, x)
            }
            ScalarOp::Abs => x,
            ScalarOp::Shl | ScalarOp::Shr => {
                let most = self.word(31);
                let count = self.binary(Op::And, xs[1], most);
                let shift = match op {
                    ScalarOp::Shl => Op::ShlEach,
                    _ if signed => Op::SarEach,
                    _ => Op::ShrEach,
                };
                self.binary(shift, x, count)
            }
            ScalarOp::Lt => self.less(signed, x, xs[1]),
            ScalarOp::Le => {
                let greater = self.less(signed, xs[1], x);
                self.not(greater)
            }
            ScalarOp::Eq => self.equal(x, xs[1]),
            ScalarOp::Ne => {
                let equal = self.equal(x, xs[1]);
                self.not(equal)
            }
            ScalarOp::Div | ScalarOp::Rem => self.divided(signed, op == ScalarOp::Rem, x, xs[1]),
            _ => unreachable!("{} of integers is turned down before a kernel is emitted", op.name()),
        }
    }

    fn apply_truth(&mut self, op: ScalarOp, xs: &[Reg]) -> Reg {
        let (x, y) = (xs[0], xs[1]);
        match op {
            ScalarOp::And => self.both(x, y),
            ScalarOp::Or => self.either(x, y),
            ScalarOp::Xor | ScalarOp::Ne => self.differ(x, y),
            ScalarOp::Eq => {
                let differ = self.differ(x, y);
                self.not(differ)
            }
            ScalarOp::Lt => self.without(x, y),
            ScalarOp::Le => {
                let x = self.not(x);
                self.either(x, y)
            }
            _ => unreachable!("{} of bool is turned down before a kernel is emitted", op.name()),
        }
    }

    /// A shift by a constant.
    fn constant_shift(&mut self, op: ScalarOp, dtype: DType, xs: &[ValueId]) -> Option<Reg> {
        let shift = match (op, dtype) {
            (ScalarOp::Shl, _) => Op::Shl,
            (ScalarOp::Shr, DType::I32) => Op::Sar,
            (ScalarOp::Shr, _) => Op::Shr,
            _ => return None,
        };
        let count = self.constant_of(xs[1])? & 31;
        let x = self.lanes_of(xs[0]);
        Some(self.with(shift, x, count))
    }

    pub(super) fn constant_of(&self, value: ValueId) -> Option<i64> {
        match &self.kernel.record(value).value {
            Value::Const(constant) => Some(constant.int()),
            _ => None,
        }
    }

    /// `x >> 8 n & 255` or `x << 8 n & 255 << 24`: the word, and where its bytes go.
    fn byte(&self, operands: &[ValueId]) -> Option<(ValueId, u32)> {
        let [x, mask] = *operands else { return None };
        let Value::Scalar(shift, xs) = &self.kernel.record(x).value else { return None };
        if self.kernel.record(x).dtype != DType::U32 {
            return None;
        }
        let bytes = match self.constant_of(*xs.get(1)?)? {
            distance @ (8 | 16 | 24) => distance as u32 / 8,
            _ => return None,
        };
        // What a cell held when the word was read is in its register no longer once the cell has changed.
        if matches!(self.kernel.record(xs[0]).value, Value::Cell(_)) {
            return None;
        }
        // An index with its highest bit set gives a zero byte.
        let places = match (shift, self.constant_of(mask)?) {
            (ScalarOp::Shr, 0xff) => 0x8080_8000 | bytes,
            (ScalarOp::Shl, 0xff00_0000) => 0x0080_8080 | (3 - bytes) << 24,
            _ => return None,
        };
        Some((xs[0], places))
    }

    /// One byte of each element: one instruction where there would be a shift and a mask.
    fn select_byte(&mut self, word: ValueId, places: u32) -> Reg {
        let place = if places & 0x80 == 0 { 1 } else { 1 << 24 };
        let each = |lane: u32| places + lane % 4 * 4 * place;
        let places: Vec<u32> = (0..self.level.lanes() as u32).map(each).collect();
        let places = self.constant(&places);
        let word = self.lanes_of(word);
        self.binary(Op::Bytes, word, places)
    }

    /// The bytes of a table that the low halves of a word's bytes number.
    fn lookup(&mut self, word: ValueId, table: &Table) -> Reg {
        const LOW: u32 = 0x0F0F_0F0F;
        // An index with its highest bit set would give a zero byte.
        let is_low = match &self.kernel.record(word).value {
            Value::Scalar(ScalarOp::And, operands) => operands
                .get(1)
                .and_then(|mask| self.constant_of(*mask))
                .is_some_and(|mask| mask & i64::from(!LOW) == 0),
            _ => false,
        };
        let mut places = self.lanes_of(word);
        if !is_low {
            let low = self.word(LOW);
            places = self.binary(Op::And, places, low);
        }
        let words: Vec<u32> = words_of(table).into_iter().cycle().take(self.level.lanes()).collect();
        let table = self.constant(&words);
        self.binary(Op::Bytes, table, places)
    }

    /// An unsigned number below 2^31 as a float: the signed conversion, which every level has.
    fn small_number(&mut self, to: DType, x: ValueId) -> Option<Reg> {
        let Value::Scalar(ScalarOp::And, operands) = &self.kernel.record(x).value else { return None };
        let mask = self.constant_of(*operands.get(1)?)?;
        if to != DType::F32 || self.kernel.record(x).dtype != DType::U32 || !(0..1 << 31).contains(&mask) {
            return None;
        }
        let x = self.lanes_of(x);
        Some(self.unary(Op::FloatOfSigned, x))
    }
}

/// The instruction that is an operation, and whether its operands may be exchanged.
fn direct(op: ScalarOp, dtype: DType) -> Option<(Op, bool)> {
    use ScalarOp as S;
    Some(match (op, dtype) {
        (S::Add, DType::F32) => (Op::Add, true),
        (S::Sub, DType::F32) => (Op::Sub, false),
        (S::Mul, DType::F32) => (Op::Mul, true),
        (S::Div, DType::F32) => (Op::Div, false),
        // If one is not a number, or both are 0, they give the second operand.
        (S::Min, DType::F32) => (Op::Min, false),
        (S::Max, DType::F32) => (Op::Max, false),
        (S::Sqrt, DType::F32) => (Op::Sqrt, false),
        (_, DType::F32 | DType::Bool) => return None,
        (S::Add, _) => (Op::AddInt, true),
        (S::Sub, _) => (Op::SubInt, false),
        (S::Mul, _) => (Op::MulInt, true),
        (S::Min, DType::I32) => (Op::MinSigned, true),
        (S::Max, DType::I32) => (Op::MaxSigned, true),
        (S::Min, _) => (Op::MinUnsigned, true),
        (S::Max, _) => (Op::MaxUnsigned, true),
        (S::Abs, DType::I32) => (Op::AbsInt, false),
        (S::And, _) => (Op::And, true),
        (S::Or, _) => (Op::Or, true),
        (S::Xor, _) => (Op::Xor, true),
        _ => return None,
    })
}
