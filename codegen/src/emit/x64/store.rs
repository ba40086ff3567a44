//! Stores: one access for neighbours, one element for lanes that agree, scatters for the rest, and lane by lane where
//! an instruction's indices do not reach.

use iced_x86::Code;
use jtllm_ir::{DType, Expr, ScalarOp};

use super::isa::{Level, Op};
use super::machine::{Access, Address, Base, Item, Operand, Operation, Reg, View};
use super::select::{Place, Selector};
use crate::kernel::{Memory, Value, ValueId};

impl Selector<'_> {
    /// Stores one element, or one for each lane; where lanes meet, the last one stays.
    pub(super) fn store(&mut self, memory: Memory, at: &Expr, value: ValueId) {
        let dtype = self.kernel.memory_dtype(memory);
        if !self.varies(at) && !self.varying.value(value) {
            let address = self.element(memory, at);
            return self.store_same(dtype, address, value);
        }
        if let Some(first) = self.neighbours(at).filter(|_| self.has_masked_access(dtype)) {
            let address = self.element(memory, &first);
            return self.store_neighbours(dtype, address, value);
        }
        let words = self.stored_words(dtype, value);
        if dtype.size() == 4
            && self.level == Level::Avx512
            && self.varies(at)
            && let Some((base, index)) = self.reach(memory, at, dtype)
        {
            return self.scatter(base, index, words);
        }
        let addresses = self.addresses(memory, at);
        let slot = Address::of(Base::Frame(self.kept(words)));
        self.each_lane(|selector, lane| {
            let word = selector.general_from(Code::Mov_r32_rm32, slot.plus(4 * lane as i32));
            selector.store_general(dtype, addresses[lane], word);
        });
    }

    fn scatter(&mut self, base: Reg, index: Reg, words: Reg) {
        let mask = self.spent_mask();
        let index = Some((index, self.level.view(), 4));
        let to = Operand::Memory(Address { index, ..Address::of(Base::Reg(base)) });
        let operands = [to, self.whole(words)];
        let operation = Operation::new(Code::EVEX_Vpscatterdd_vm32z_k1_zmm, Access::Read, &operands);
        self.push(Item::Operation(Operation { mask: Some(mask), spends_mask: true, ..operation }));
    }

    fn store_general(&mut self, dtype: DType, address: Address, word: Reg) {
        let (code, view) = match dtype.size() {
            4 => (Code::Mov_rm32_r32, View::Double),
            2 => (Code::Mov_rm16_r16, View::Word),
            _ => (Code::Mov_rm8_r8, View::Byte),
        };
        self.effect(code, &[Operand::Memory(address), Operand::Reg(word, view)]);
    }

    /// What is stored as 16 bits, as an `f32`: it need not be rounded to half precision, and its upper half is a `bf16`.
    fn float_to_store(&mut self, dtype: DType, value: ValueId) -> Reg {
        let kernel = self.kernel;
        let Value::Scalar(ScalarOp::Cast(_), xs) = &kernel.record(value).value else {
            return self.lanes_of(value);
        };
        if !self.is_later(value) {
            return self.lanes_of(value);
        }
        let x = self.lanes_of(xs[0]);
        let float = self.cast(x, kernel.record(xs[0]).dtype, DType::F32);
        if dtype == DType::BF16 { self.rounded_to_upper_half(float) } else { float }
    }

    /// Elements as they are in memory, a word each.
    fn stored_words(&mut self, dtype: DType, value: ValueId) -> Reg {
        match dtype {
            DType::F16 => {
                let float = self.float_to_store(dtype, value);
                let half = self.half_of(float);
                self.vector(Op::WidenUnsignedWord, &[Operand::Reg(half, self.level.half())])
            }
            DType::BF16 => {
                let float = self.float_to_store(dtype, value);
                self.with(Op::Shr, float, 16)
            }
            DType::Bool => {
                let truth = self.lanes_of(value);
                self.masked_word(truth, 1)
            }
            _ => self.lanes_of(value),
        }
    }

    fn store_same(&mut self, dtype: DType, address: Address, value: ValueId) {
        if let Some(Place::General(register)) = self.held[value.0 as usize].map(|held| held.place) {
            return self.store_general(dtype, address, register);
        }
        if let (4, Some(slot)) = (dtype.size(), self.slot_of(value)) {
            let word = self.general_from(Code::Mov_r32_rm32, slot);
            return self.store_general(dtype, address, word);
        }
        let words = self.stored_words(dtype, value);
        let low = Operand::Reg(words, View::X);
        let (store, word) = match self.level {
            Level::Avx2 => (Code::VEX_Vmovss_m32_xmm, Code::VEX_Vmovd_rm32_xmm),
            Level::Avx512 => (Code::EVEX_Vmovss_m32_k1_xmm, Code::EVEX_Vmovd_rm32_xmm),
        };
        if dtype.size() == 4 {
            return self.effect(store, &[Operand::Memory(address), low]);
        }
        let word = self.general(word, View::Double, &[low]);
        self.store_general(dtype, address, word);
    }

    fn store_neighbours(&mut self, dtype: DType, address: Address, value: ValueId) {
        let register = match dtype {
            DType::F16 => self.float_to_store(dtype, value),
            _ => self.stored_words(dtype, value),
        };
        let memory = Operand::Memory(address);
        let whole = self.whole(register);
        if self.level == Level::Avx2 {
            return self.store_packed(dtype, memory, register);
        }
        let rounds = Operand::Immediate(0);
        let (code, operands): (Code, &[Operand]) = match dtype {
            DType::F32 | DType::I32 | DType::U32 => (Op::Store.code(self.level).0, &[memory, whole]),
            DType::F16 => (Code::EVEX_Vcvtps2ph_ymmm256_k1z_zmm_imm8_sae, &[memory, whole, rounds]),
            DType::BF16 => (Code::EVEX_Vpmovdw_ymmm256_k1z_zmm, &[memory, whole]),
            DType::I8 | DType::U8 | DType::Bool => (Code::EVEX_Vpmovdb_xmmm128_k1z_zmm, &[memory, whole]),
        };
        let mask = self.mask;
        self.push(Item::Operation(Operation { mask, ..Operation::new(code, Access::Read, operands) }));
    }

    /// Eight neighbours; under a mask only whole words.
    fn store_packed(&mut self, dtype: DType, memory: Operand, register: Reg) {
        let whole = self.whole(register);
        match dtype {
            DType::F32 | DType::I32 | DType::U32 => match self.mask {
                None => self.effect(Op::Store.code(self.level).0, &[memory, whole]),
                Some(mask) => {
                    let mask = self.whole(mask);
                    self.effect(Code::VEX_Vmaskmovps_m256_ymm_ymm, &[memory, mask, whole]);
                }
            },
            DType::F16 => {
                self.effect(Code::VEX_Vcvtps2ph_xmmm128_ymm_imm8, &[memory, whole, Operand::Immediate(0)]);
            }
            DType::BF16 => {
                let halves = self.low_halves(register);
                self.effect(Code::VEX_Vmovups_xmmm128_xmm, &[memory, Operand::Reg(halves, View::X)]);
            }
            DType::I8 | DType::U8 | DType::Bool => {
                let bytes = self.low_bytes(register);
                self.effect(Code::VEX_Vmovq_xmmm64_xmm, &[memory, Operand::Reg(bytes, View::X)]);
            }
        }
    }
}
