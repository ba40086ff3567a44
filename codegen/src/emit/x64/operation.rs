//! Vectors and masks: one operation, constants, spreading, choosing, joining lanes.

use iced_x86::Code;
use jtllm_ir::{DType, Expr, Scalar};

use super::isa::{Level, Op};
use super::machine::{Access, Address, Base, Class, Item, Label, Operand, Operation, Reg, View};
use super::select::{Known, Place, Selector};
use crate::kernel::{Value, ValueId};

/// Which way a comparison of floats goes, as instructions number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal = 0,
    Less = 1,
    NotGreater = 2,
    /// Not equal, or not numbers.
    NotEqual = 4,
}

impl Selector<'_> {
    /// A vector register as an operand.
    pub(super) fn whole(&self, reg: Reg) -> Operand {
        Operand::Reg(reg, self.level.view())
    }

    pub(super) fn new_vector(&mut self) -> Reg {
        self.code.new_reg(Class::Vector)
    }

    /// One operation on vectors.
    pub(super) fn vector(&mut self, op: Op, operands: &[Operand]) -> Reg {
        let to = self.new_vector();
        self.vector_to(to, op, operands);
        to
    }

    /// One operation on vectors, into a register.
    pub(super) fn vector_to(&mut self, to: Reg, op: Op, operands: &[Operand]) {
        let all: Vec<Operand> = std::iter::once(self.whole(to)).chain(operands.iter().copied()).collect();
        let (code, fold) = op.code(self.level);
        let operation = Operation { fold, ..Operation::new(code, Access::Write, &all) };
        self.push(Item::Operation(operation));
    }

    pub(super) fn binary(&mut self, op: Op, a: Reg, b: Reg) -> Reg {
        let operands = [self.whole(a), self.whole(b)];
        self.vector(op, &operands)
    }

    pub(super) fn unary(&mut self, op: Op, x: Reg) -> Reg {
        let operands = [self.whole(x)];
        self.vector(op, &operands)
    }

    /// A shift by a constant, or another operation with an immediate.
    pub(super) fn with(&mut self, op: Op, x: Reg, immediate: i64) -> Reg {
        let operands = [self.whole(x), Operand::Immediate(immediate)];
        self.vector(op, &operands)
    }

    /// Any instruction that makes a register.
    pub(super) fn make(&mut self, class: Class, code: Code, view: View, operands: &[Operand]) -> Reg {
        let to = self.code.new_reg(class);
        let all: Vec<Operand> =
            std::iter::once(Operand::Reg(to, view)).chain(operands.iter().copied()).collect();
        self.push(Item::Operation(Operation::new(code, Access::Write, &all)));
        to
    }

    /// An instruction that makes no register.
    pub(super) fn effect(&mut self, code: Code, operands: &[Operand]) {
        self.push(Item::Operation(Operation::new(code, Access::Read, operands)));
    }

    /// A constant vector; it stands at the entry, and is made anew where registers run out.
    pub(super) fn constant(&mut self, words: &[u32]) -> Reg {
        let same = words.iter().all(|word| *word == words[0]);
        let words = if same { &words[..1] } else { words };
        self.know(Known::Constant(words.to_vec()), 0, |selector| {
            let place = Address::of(Base::Constant(selector.code.constants.place(words)));
            selector.vector(if same { Op::BroadcastMemory } else { Op::Load }, &[Operand::Memory(place)])
        })
    }

    /// The same word in all lanes.
    pub(super) fn word(&mut self, value: u32) -> Reg {
        self.constant(&[value])
    }

    pub(super) fn float(&mut self, value: f32) -> Reg {
        self.constant(&[value.to_bits()])
    }

    /// A value of the kernel in all lanes: a vector, or a mask for truth values.
    pub(super) fn lanes_of(&mut self, value: ValueId) -> Reg {
        let record = self.kernel.record(value);
        if let Value::Const(constant) = &record.value {
            return match record.dtype {
                DType::Bool => self.same_truth(constant.truth()),
                dtype => self.word(carried(*constant, dtype)),
            };
        }
        let held = self.held[value.0 as usize].expect("verified kernels define values before their use");
        match held.place {
            Place::Lanes(register) => register,
            Place::Slot(slot) => {
                let place = Operand::Memory(Address::of(Base::Frame(slot)));
                self.vector(Op::BroadcastMemory, &[place])
            }
            Place::Later => match &record.value {
                Value::Load { .. } => self.load(value, None),
                _ => unreachable!("only loads wait for their use"),
            },
            Place::General(register) => {
                let truth = record.dtype == DType::Bool;
                self.know(Known::Splat(value), held.depth, |selector| match truth {
                    true => selector.spread_truth(register),
                    false => selector.spread(register),
                })
            }
        }
    }

    /// The low word of a general register in all lanes.
    pub(super) fn spread(&mut self, register: Reg) -> Reg {
        let word = Operand::Reg(register, View::Double);
        match self.level {
            Level::Avx512 => self.vector(Op::BroadcastGeneral, &[word]),
            Level::Avx2 => {
                let low = self.make(Class::Vector, Code::VEX_Vmovd_xmm_rm32, View::X, &[word]);
                self.vector(Op::Broadcast, &[Operand::Reg(low, View::X)])
            }
        }
    }

    /// 0 or 1 in a general register, as truth for all lanes.
    fn spread_truth(&mut self, register: Reg) -> Reg {
        let all = self.copy(register);
        let operand = Operand::Reg(all, View::Quad);
        self.push(Item::Operation(Operation::new(Code::Neg_rm64, Access::Update, &[operand])));
        match self.level {
            Level::Avx512 => self.mask_from(all),
            Level::Avx2 => self.spread(all),
        }
    }

    /// The low bits of a general register as a mask.
    pub(super) fn mask_from(&mut self, register: Reg) -> Reg {
        self.make(Class::Mask, Code::VEX_Kmovw_kr_r32, View::Mask, &[Operand::Reg(register, View::Double)])
    }

    /// One truth for all lanes.
    pub(super) fn same_truth(&mut self, truth: bool) -> Reg {
        if self.level == Level::Avx2 {
            return self.word(0u32.wrapping_sub(u32::from(truth)));
        }
        self.know(Known::Truth(truth), 0, |selector| {
            let word = selector.integer(if truth { 0xffff } else { 0 });
            selector.mask_from(word)
        })
    }

    /// An operation on masks, in both languages.
    fn logic(&mut self, mask: Code, vector: Op, a: Reg, b: Reg) -> Reg {
        match self.level {
            Level::Avx2 => self.binary(vector, a, b),
            Level::Avx512 => {
                let operands = [Operand::Reg(a, View::Mask), Operand::Reg(b, View::Mask)];
                self.make(Class::Mask, mask, View::Mask, &operands)
            }
        }
    }

    pub(super) fn both(&mut self, a: Reg, b: Reg) -> Reg {
        self.logic(Code::VEX_Kandw_kr_kr_kr, Op::And, a, b)
    }

    pub(super) fn either(&mut self, a: Reg, b: Reg) -> Reg {
        self.logic(Code::VEX_Korw_kr_kr_kr, Op::Or, a, b)
    }

    pub(super) fn differ(&mut self, a: Reg, b: Reg) -> Reg {
        self.logic(Code::VEX_Kxorw_kr_kr_kr, Op::Xor, a, b)
    }

    /// The second and not the first.
    pub(super) fn without(&mut self, a: Reg, b: Reg) -> Reg {
        self.logic(Code::VEX_Kandnw_kr_kr_kr, Op::AndNot, a, b)
    }

    pub(super) fn not(&mut self, x: Reg) -> Reg {
        let all = self.same_truth(true);
        self.differ(x, all)
    }

    /// Where floats compare so.
    pub(super) fn compare_floats(&mut self, way: Compare, a: Reg, b: Operand) -> Reg {
        let operands = [self.whole(a), b, Operand::Immediate(way as i64)];
        match self.level {
            Level::Avx2 => {
                let code = Code::VEX_Vcmpps_ymm_ymm_ymmm256_imm8;
                self.make(Class::Vector, code, View::Y, &operands)
            }
            Level::Avx512 => {
                let code = Code::EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae;
                self.make(Class::Mask, code, View::Mask, &operands)
            }
        }
    }

    /// Where floats are numbers.
    pub(super) fn is_number(&mut self, x: Reg) -> Reg {
        let x = self.whole(x);
        let Operand::Reg(reg, _) = x else { unreachable!("a whole register is one") };
        self.compare_floats(Compare::Equal, reg, x)
    }

    pub(super) fn equal(&mut self, a: Reg, b: Reg) -> Reg {
        let operands = [self.whole(a), self.whole(b)];
        match self.level {
            Level::Avx2 => self.make(Class::Vector, Code::VEX_Vpcmpeqd_ymm_ymm_ymmm256, View::Y, &operands),
            Level::Avx512 => {
                self.make(Class::Mask, Code::EVEX_Vpcmpeqd_kr_k1_zmm_zmmm512b32, View::Mask, &operands)
            }
        }
    }

    pub(super) fn less(&mut self, signed: bool, a: Reg, b: Reg) -> Reg {
        match (self.level, signed) {
            (Level::Avx2, true) => {
                let operands = [self.whole(b), self.whole(a)];
                self.make(Class::Vector, Code::VEX_Vpcmpgtd_ymm_ymm_ymmm256, View::Y, &operands)
            }
            (Level::Avx2, false) => {
                let top = self.word(0x8000_0000);
                let (a, b) = (self.binary(Op::Xor, a, top), self.binary(Op::Xor, b, top));
                self.less(true, a, b)
            }
            (Level::Avx512, _) => {
                let code = match signed {
                    true => Code::EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8,
                    false => Code::EVEX_Vpcmpud_kr_k1_zmm_zmmm512b32_imm8,
                };
                let operands = [self.whole(a), self.whole(b), Operand::Immediate(Compare::Less as i64)];
                self.make(Class::Mask, code, View::Mask, &operands)
            }
        }
    }

    /// Which elements are not 0.
    pub(super) fn nonzero(&mut self, x: Reg) -> Reg {
        let zero = self.word(0);
        let is_zero = self.equal(x, zero);
        self.not(is_zero)
    }

    /// `a` where the condition holds, else `b`.
    pub(super) fn choose(&mut self, condition: Reg, a: Reg, b: Reg) -> Reg {
        let to = self.code.new_reg(self.code.class(a));
        self.choose_to(to, condition, a, b);
        to
    }

    /// The same into a register, which may be one of the three.
    pub(super) fn choose_to(&mut self, to: Reg, condition: Reg, a: Reg, b: Reg) {
        if self.code.class(a) == Class::Mask {
            let (yes, no) = (self.both(condition, a), self.without(condition, b));
            let operands = [to, yes, no].map(|reg| Operand::Reg(reg, View::Mask));
            let code = Code::VEX_Korw_kr_kr_kr;
            return self.push(Item::Operation(Operation::new(code, Access::Write, &operands)));
        }
        let [to, a, b] = [to, a, b].map(|reg| self.whole(reg));
        let operation = match self.level {
            Level::Avx2 => {
                let code = Code::VEX_Vblendvps_ymm_ymm_ymmm256_ymm;
                Operation::new(code, Access::Write, &[to, b, a, self.whole(condition)])
            }
            Level::Avx512 => Operation {
                mask: Some(condition),
                blends: true,
                ..Operation::new(Code::EVEX_Vblendmps_zmm_k1z_zmm_zmmm512b32, Access::Write, &[to, b, a])
            },
        };
        self.push(Item::Operation(operation));
    }

    /// A word where the condition holds, else 0.
    pub(super) fn masked_word(&mut self, condition: Reg, value: u32) -> Reg {
        let word = self.word(value);
        match self.level {
            Level::Avx2 => self.binary(Op::And, condition, word),
            Level::Avx512 => self.zeroed(Op::And, condition, word, word),
        }
    }

    /// An operation on vectors, with 0 outside of the mask.
    pub(super) fn zeroed(&mut self, op: Op, mask: Reg, a: Reg, b: Reg) -> Reg {
        let to = self.new_vector();
        let operands = [to, a, b].map(|reg| self.whole(reg));
        let operation = Operation::new(op.code(self.level).0, Access::Write, &operands);
        self.push(Item::Operation(Operation { mask: Some(mask), zeroing: true, ..operation }));
        to
    }

    /// A test and a branch that goes to `label` if a mask is empty.
    pub(super) fn branch_unless_any(&self, mask: Reg, label: Label) -> Vec<Item> {
        let (code, view) = match self.level {
            Level::Avx2 => (Code::VEX_Vptest_ymm_ymmm256, View::Y),
            Level::Avx512 => (Code::VEX_Kortestw_kr_kr, View::Mask),
        };
        let operands = [Operand::Reg(mask, view), Operand::Reg(mask, view)];
        let test = Item::Operation(Operation::new(code, Access::Read, &operands));
        vec![test, Item::Branch(Code::Je_rel32_64, label)]
    }

    /// Where the lanes of a value lie in the frame, a word each.
    pub(super) fn lane_slot(&mut self, value: ValueId) -> u32 {
        if let Some(slot) = self.scopes.iter().rev().find_map(|scope| scope.slots.get(&value)) {
            return *slot;
        }
        let held = self.held[value.0 as usize].expect("verified kernels define values before their use");
        let place = self.place_of(held.depth);
        let truth = self.kernel.record(value).dtype == DType::Bool;
        let slot = self.at(place, |selector| {
            let register = selector.lanes_of(value);
            let words = if truth { selector.masked_word(register, 1) } else { register };
            selector.kept(words)
        });
        self.scopes[place].slots.insert(value, slot);
        slot
    }

    /// Stores a vector to bytes of the frame that nobody else has.
    pub(super) fn kept(&mut self, register: Reg) -> u32 {
        let bytes = 4 * self.level.lanes() as u32;
        let slot = self.code.frame.take(bytes, bytes);
        let place = Operand::Memory(Address::of(Base::Frame(slot)));
        let register = self.whole(register);
        self.effect(Op::Store.code(self.level).0, &[place, register]);
        slot
    }

    /// A vector of 32-bit words, each from a general register.
    pub(super) fn gathered(&mut self, mut lane: impl FnMut(&mut Self, usize) -> Reg) -> Reg {
        let bytes = 4 * self.level.lanes() as u32;
        let slot = Address::of(Base::Frame(self.code.frame.take(bytes, bytes)));
        for at in 0..self.level.lanes() {
            let word = Operand::Reg(lane(self, at), View::Double);
            self.effect(Code::Mov_rm32_r32, &[Operand::Memory(slot.plus(4 * at as i32)), word]);
        }
        self.vector(Op::Load, &[Operand::Memory(slot)])
    }

    /// Whether an expression's values in all lanes are known now: their low words.
    pub(super) fn fixed(&self, x: &Expr) -> Option<Vec<u32>> {
        (0..self.level.lanes()).map(|lane| Some(self.in_lane(x, lane).as_int()? as u32)).collect()
    }
}

/// A constant as a lane carries it.
fn carried(constant: Scalar, dtype: DType) -> u32 {
    match dtype.is_float() {
        true => dtype.round(constant.float()).to_bits(),
        false => dtype.wrap(constant.int()) as u32,
    }
}
