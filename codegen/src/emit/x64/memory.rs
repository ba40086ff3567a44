//! Loads: one access for neighbours, one element for lanes that agree, gathers for the rest, and lane by lane where an
//! instruction's indices do not reach.

use iced_x86::Code;
use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr};

use super::index::{is_word, sum_of};
use super::isa::{Level, Op};
use super::machine::{Access, Address, Base, Class, Item, Operand, Operation, Reg, View};
use super::select::Selector;
use crate::kernel::{LANE_AXIS, Memory, Value, ValueId};

impl Selector<'_> {
    /// Lane 0's element, if each further lane accesses the next one.
    pub(super) fn neighbours(&self, at: &Expr) -> Option<Expr> {
        self.next(at, 1)
    }

    /// Lane 0's element, if each further lane accesses the one so many behind.
    fn next(&self, at: &Expr, step: i64) -> Option<Expr> {
        let (terms, constant) = at.terms();
        let is_lane = |x: &Expr| matches!(x.kind(), Kind::Axis { index: LANE_AXIS, .. });
        let (lane, rest): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(x, _)| is_lane(x));
        let fits = matches!(lane.as_slice(), [(_, by)] if *by == step);
        (fits && !rest.iter().any(|(x, _)| self.varies(x))).then(|| sum_of(rest, constant))
    }

    /// An integer that is the same for all lanes.
    pub(super) fn load_general(&mut self, memory: Memory, at: &Expr) -> Reg {
        let address = self.element(memory, at);
        self.general_from(integer_load(self.kernel.memory_dtype(memory)), address)
    }

    /// Loads one element for all lanes, or one for each.
    pub(super) fn load(&mut self, value: ValueId, target: Option<Reg>) -> Reg {
        let kernel = self.kernel;
        let Value::Load { memory, at } = &kernel.record(value).value else {
            unreachable!("only such values are loaded")
        };
        let memory = *memory;
        let dtype = self.kernel.memory_dtype(memory);
        let loaded = if !self.varies(at) {
            // A block under a mask is entered only if a lane takes part, so the element exists.
            let address = self.element(memory, at);
            self.load_same(dtype, address)
        } else if let Some(first) = self.neighbours(at).filter(|_| self.has_masked_access(dtype)) {
            let address = self.element_and_ahead(memory, &first);
            self.load_neighbours(dtype, address)
        } else if let Some(first) = self.every_fourth(dtype, at) {
            let address = self.element(memory, &first);
            self.load_every_fourth(address)
        } else if let Some((first, places)) = self.mixed(dtype, at) {
            let address = self.element(memory, &first);
            self.load_mixed(address, &places)
        } else {
            let words = match self.reach(memory, at, dtype) {
                Some((base, index)) => self.gather(dtype, base, index),
                None => self.load_each(memory, at),
            };
            self.widened(dtype, words)
        };
        if let Some(target) = target {
            self.push(Item::Copy { to: target, from: loaded });
            return target;
        }
        loaded
    }

    /// The first element and each lane's place behind it, where lanes take all of four neighbours, or of eight without
    /// leaving their four: pairs that change places, and numbers that pairs share. A gather takes many times as long as
    /// one load and one shuffle (AVX2; RoPE in pairs took six times as long).
    fn mixed(&self, dtype: DType, at: &Expr) -> Option<(Expr, Vec<u32>)> {
        if self.level != Level::Avx2 || self.mask.is_some() || dtype.size() != 4 {
            return None;
        }
        let zero = self.in_lane(at, 0);
        let places = |lane| (self.in_lane(at, lane) - zero.clone()).as_int();
        let places: Vec<i64> = (0..self.level.lanes()).map(places).collect::<Option<_>>()?;
        let least = *places.iter().min()?;
        let places: Vec<u32> =
            places.iter().map(|place| u32::try_from(place - least).ok()).collect::<Option<_>>()?;
        let all = |count| (0..count).all(|place| places.contains(&place));
        let stay = |(lane, place): (usize, &u32)| *place < 8 && lane / 4 == *place as usize / 4;
        let fits = match places.iter().all(|place| *place < 4) {
            true => all(4),
            false => all(8) && places.iter().enumerate().all(stay),
        };
        fits.then(|| (zero + least, places))
    }

    fn load_mixed(&mut self, address: Address, places: &[u32]) -> Reg {
        let memory = Operand::Memory(address);
        let elements = match places.iter().all(|place| *place < 4) {
            true => self.make(Class::Vector, Code::VEX_Vbroadcasti128_ymm_m128, View::Y, &[memory]),
            false => self.vector(Op::Load, &[memory]),
        };
        let bytes: Vec<u32> = places.iter().map(|place| 0x0302_0100 + place % 4 * 0x0404_0404).collect();
        let bytes = self.constant(&bytes);
        self.binary(Op::Bytes, elements, bytes)
    }

    /// Lane 0's element, if each further lane accesses the fourth behind: four loads and as many shuffles take less time
    /// than a gather (AVX2).
    fn every_fourth(&self, dtype: DType, at: &Expr) -> Option<Expr> {
        let is_plain = self.level == Level::Avx2 && self.mask.is_none() && dtype.size() == 4;
        self.next(at, 4).filter(|_| is_plain)
    }

    fn load_every_fourth(&mut self, address: Address) -> Reg {
        let mut pick = |low: Operand, high: Address, places: i64| {
            let low = self.vector(Op::Load, &[low]);
            self.shuffled(low, Operand::Memory(high), places)
        };
        // Of each half the first of both; of the last eight the last, as nothing needs to lie behind it.
        let first = pick(Operand::Memory(address), address.plus(32), 0b00_00_00_00);
        let second = pick(Operand::Memory(address.plus(64)), address.plus(84), 0b11_11_00_00);
        let all = self.shuffled(first, self.whole(second), 0b10_00_10_00);
        let places = self.constant(&[0, 4, 1, 5, 2, 6, 3, 7]);
        let operands = [self.whole(places), self.whole(all)];
        self.make(Class::Vector, Code::VEX_Vpermps_ymm_ymm_ymmm256, View::Y, &operands)
    }

    /// Of each four elements two of the first and two of the second.
    fn shuffled(&mut self, low: Reg, high: Operand, places: i64) -> Reg {
        let operands = [self.whole(low), high, Operand::Immediate(places)];
        self.make(Class::Vector, Code::VEX_Vshufps_ymm_ymm_ymmm256_imm8, View::Y, &operands)
    }

    /// Whether neighbours can be accessed at once under the mask, if there is one.
    pub(super) fn has_masked_access(&self, dtype: DType) -> bool {
        self.mask.is_none() || self.level == Level::Avx512 || dtype.size() == 4
    }

    fn load_same(&mut self, dtype: DType, address: Address) -> Reg {
        let memory = Operand::Memory(address);
        match dtype {
            DType::F32 | DType::I32 | DType::U32 => self.vector(Op::BroadcastMemory, &[memory]),
            DType::BF16 => {
                let both = self.vector(Op::BroadcastWord, &[memory]);
                self.with(Op::Shl, both, 16)
            }
            DType::F16 => {
                let code = match self.level {
                    Level::Avx2 => Code::VEX_Vpbroadcastw_xmm_xmmm16,
                    Level::Avx512 => Code::EVEX_Vpbroadcastw_ymm_k1z_xmmm16,
                };
                let half = self.level.half();
                let halves = self.make(Class::Vector, code, half, &[memory]);
                self.vector(Op::FloatOfHalf, &[Operand::Reg(halves, half)])
            }
            DType::I8 | DType::U8 | DType::Bool => {
                let word = self.general_from(integer_load(dtype), address);
                let words = self.spread(word);
                if dtype == DType::Bool { self.nonzero(words) } else { words }
            }
        }
    }

    fn load_neighbours(&mut self, dtype: DType, address: Address) -> Reg {
        let memory = Operand::Memory(address);
        if dtype == DType::BF16 && self.mask.is_none() {
            match self.level {
                Level::Avx512 if self.beside.bytes_anywhere => return self.upper_halves(memory),
                Level::Avx512 => {}
                Level::Avx2 => return self.upper_halves_of_both(memory),
            }
        }
        let op = match dtype {
            DType::F32 | DType::I32 | DType::U32 => Op::Load,
            DType::F16 => Op::FloatOfHalf,
            DType::BF16 => Op::WidenUnsignedWord,
            DType::I8 => Op::WidenSignedByte,
            DType::U8 | DType::Bool => Op::WidenUnsignedByte,
        };
        let loaded = match (self.mask, self.level) {
            (None, _) => self.vector(op, &[memory]),
            (Some(mask), Level::Avx2) => {
                let operands = [self.whole(mask), memory];
                self.make(Class::Vector, Code::VEX_Vmaskmovps_ymm_ymm_m256, View::Y, &operands)
            }
            (Some(mask), Level::Avx512) => {
                let to = self.new_vector();
                let operation =
                    Operation::new(op.code(self.level).0, Access::Write, &[self.whole(to), memory]);
                self.push(Item::Operation(Operation { mask: Some(mask), zeroing: true, ..operation }));
                to
            }
        };
        match dtype {
            DType::BF16 => self.with(Op::Shl, loaded, 16),
            DType::Bool => self.nonzero(loaded),
            _ => loaded,
        }
    }

    /// Neighbours of `bf16` as the upper halves of `f32`s: what is loaded fills half a vector, zeros the other half, and one
    /// instruction brings the bytes of both to their places. It keeps a unit that multiplies as busy as one product, where
    /// widening and shifting keep it so twice: a matrix product whose rows share a number by eight is a tenth faster.
    fn upper_halves(&mut self, memory: Operand) -> Reg {
        let half = self.make(Class::Vector, Code::EVEX_Vmovups_ymm_k1z_ymmm256, View::Y, &[memory]);
        // Of each four bytes the lower two are the last byte of the vector, a zero.
        let places: Vec<u32> = (0..16).map(|lane| 0x0100_3f3f + lane * 0x0202_0000).collect();
        let places = self.constant(&places);
        let operands = [self.whole(places), self.whole(half)];
        self.make(Class::Vector, Code::EVEX_Vpermb_zmm_k1z_zmm_zmmm512, View::Z, &operands)
    }

    /// The same where bytes stay within 16: both halves of a vector are all that is loaded, which keeps no unit busy but the
    /// one that loads, and one instruction picks the numbers of each. Beside 12 fused products for three such vectors that
    /// takes no time (Zen 3), where widening and shifting take a sixth more; but in a register the places would drive a sum
    /// out of its own, so they stay in memory.
    fn upper_halves_of_both(&mut self, memory: Operand) -> Reg {
        let both = self.make(Class::Vector, Code::VEX_Vbroadcasti128_ymm_m128, View::Y, &[memory]);
        // Bytes whose place has its highest bit set become 0.
        let places: Vec<u32> = (0..8).map(|lane| 0x0100_8080 + lane * 0x0202_0000).collect();
        let places = Address::of(Base::Constant(self.code.constants.place(&places)));
        let operands = [self.whole(both), Operand::Memory(places)];
        self.vector(Op::Bytes, &operands)
    }

    /// An element's address as a register and 32-bit indices of elements for the lanes, if those suffice.
    pub(super) fn reach(&mut self, memory: Memory, at: &Expr, dtype: DType) -> Option<(Reg, Reg)> {
        let (terms, constant) = at.terms();
        let (varying, uniform): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(x, _)| self.varies(x));
        let varying = sum_of(varying, 0);
        // Offsets in bytes, and what aligning them adds, stay 32-bit numbers.
        let bytes = varying.clone() * dtype.size() as i64;
        if !is_word(&varying) || !is_word(&(bytes + 4)) && dtype.size() < 4 {
            return None;
        }
        let first = self.element(memory, &sum_of(uniform, constant));
        let base = match first {
            Address { base: Base::Reg(base), index: None, offset: 0, .. } => base,
            _ => self.general_from(Code::Lea_r64_m, first),
        };
        Some((base, self.lanes(&varying)))
    }

    /// Elements as words, those of small types at the bottom. Small elements are cut out of the aligned words that have
    /// them, which are in memory wherever they are.
    fn gather(&mut self, dtype: DType, base: Reg, index: Reg) -> Reg {
        if dtype.size() == 4 {
            return self.gather_words(base, index, 4);
        }
        let rest = self.general_with(Code::And_rm64_imm32, base, Operand::Immediate(3));
        let aligned = self.general_with(Code::Sub_r64_rm64, base, Operand::Reg(rest, View::Quad));
        let bytes = if dtype.size() == 2 { self.with(Op::Shl, index, 1) } else { index };
        let rest = self.spread(rest);
        let bytes = self.binary(Op::AddInt, bytes, rest);
        let whole = self.word(!3);
        let words = self.binary(Op::And, bytes, whole);
        let words = self.gather_words(aligned, words, 1);
        let within = self.word(3);
        let within = self.binary(Op::And, bytes, within);
        let distance = self.with(Op::Shl, within, 3);
        let words = self.binary(Op::ShrEach, words, distance);
        let all = self.word(if dtype.size() == 2 { 0xffff } else { 0xff });
        self.binary(Op::And, words, all)
    }

    fn general_with(&mut self, code: Code, x: Reg, operand: Operand) -> Reg {
        let to = self.copy(x);
        self.push(Item::Operation(Operation::new(
            code,
            Access::Update,
            &[Operand::Reg(to, View::Quad), operand],
        )));
        to
    }

    /// The lanes that take part, in a register that may be used up.
    pub(super) fn spent_mask(&mut self) -> Reg {
        let mask = match self.mask {
            Some(mask) => mask,
            None => self.same_truth(true),
        };
        self.copy(mask)
    }

    fn gather_words(&mut self, base: Reg, index: Reg, scale: u8) -> Reg {
        let mask = self.spent_mask();
        let zero = self.word(0);
        let to = self.copy(zero);
        let index = Some((index, self.level.view(), scale));
        let from = Operand::Memory(Address { index, ..Address::of(Base::Reg(base)) });
        let operation = match self.level {
            Level::Avx2 => {
                let operands = [self.whole(to), from, self.whole(mask)];
                let operation = Operation::new(Code::VEX_Vpgatherdd_ymm_vm32y_ymm, Access::Update, &operands);
                Operation { changed: Some(2), ..operation }
            }
            Level::Avx512 => {
                let code = Code::EVEX_Vpgatherdd_zmm_k1_vm32z;
                let operation = Operation::new(code, Access::Update, &[self.whole(to), from]);
                Operation { mask: Some(mask), spends_mask: true, ..operation }
            }
        };
        self.push(Item::Operation(operation));
        to
    }

    /// Words with elements at the bottom as lanes carry them.
    fn widened(&mut self, dtype: DType, words: Reg) -> Reg {
        match dtype {
            DType::F32 | DType::I32 | DType::U32 | DType::U8 => words,
            DType::I8 => {
                let high = self.with(Op::Shl, words, 24);
                self.with(Op::Sar, high, 24)
            }
            DType::Bool => self.nonzero(words),
            DType::BF16 => self.with(Op::Shl, words, 16),
            DType::F16 => {
                let halves = self.low_halves(words);
                self.vector(Op::FloatOfHalf, &[Operand::Reg(halves, self.level.half())])
            }
        }
    }

    /// Runs `access` for each lane that takes part; what it needs has been computed before.
    pub(super) fn each_lane(&mut self, mut access: impl FnMut(&mut Self, usize)) {
        let mask = self.mask;
        let bits = mask.map(|mask| match self.level {
            Level::Avx2 => {
                self.general(Code::VEX_Vmovmskps_r32_ymm, View::Double, &[Operand::Reg(mask, View::Y)])
            }
            Level::Avx512 => {
                self.general(Code::VEX_Kmovw_r32_kr, View::Double, &[Operand::Reg(mask, View::Mask)])
            }
        });
        for lane in 0..self.level.lanes() {
            let Some(bits) = bits else {
                access(self, lane);
                continue;
            };
            let without = self.new_label();
            let operands = [Operand::Reg(bits, View::Double), Operand::Immediate(1 << lane)];
            self.effect(Code::Test_rm32_imm32, &operands);
            self.push(Item::Branch(Code::Je_rel32_64, without));
            access(self, lane);
            self.push(Item::Label { label: without, head: false });
        }
    }

    /// Words with the elements of lanes, whatever their addresses are.
    fn load_each(&mut self, memory: Memory, at: &Expr) -> Reg {
        let dtype = self.kernel.memory_dtype(memory);
        let addresses = self.addresses(memory, at);
        let zero = self.word(0);
        let slot = Address::of(Base::Frame(self.kept(zero)));
        self.each_lane(|selector, lane| {
            let (load, view) = match dtype.size() {
                4 => (Code::Mov_r32_rm32, View::Double),
                2 => (Code::Movzx_r32_rm16, View::Double),
                _ => (Code::Movzx_r32_rm8, View::Double),
            };
            let word = selector.general(load, view, &[Operand::Memory(addresses[lane])]);
            let operands = [Operand::Memory(slot.plus(4 * lane as i32)), Operand::Reg(word, View::Double)];
            selector.effect(Code::Mov_rm32_r32, &operands);
        });
        self.vector(Op::Load, &[Operand::Memory(slot)])
    }

    pub(super) fn addresses(&mut self, memory: Memory, at: &Expr) -> Vec<Address> {
        (0..self.level.lanes())
            .map(|lane| {
                let at = self.in_lane(at, lane);
                self.element(memory, &at)
            })
            .collect()
    }
}

/// The instruction that loads an integer as 64 bits; the upper half of its register becomes 0 where it names the lower.
fn integer_load(dtype: DType) -> Code {
    match dtype {
        DType::I32 => Code::Movsxd_r64_rm32,
        DType::I8 => Code::Movsx_r64_rm8,
        DType::U8 | DType::Bool => Code::Movzx_r32_rm8,
        _ => Code::Mov_r32_rm32,
    }
}
