//! Loads and stores: one vector where lanes are neighbours, one scalar where they agree, else lane by lane.
//!
//! Under a mask, a lane without part in an access is given the address of spare bytes instead, so that
//! no branch is needed and nothing else is touched.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F32X4, I8, I8X16, I32, I32X4};
use cranelift_codegen::ir::{InstBuilder, MemFlagsData};
use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr};

use super::LANES;
use super::function::{Emitter, Mask, Register};
use crate::kernel::{LANE_AXIS, Memory, ValueId};

/// Any address is aligned enough, and verified kernels stay inside their memories.
fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

impl Emitter<'_, '_> {
    /// Loads one element, or one for each lane if `wide`.
    pub(super) fn load(&mut self, memory: Memory, at: &Expr, wide: bool) -> Register {
        let dtype = self.kernel.memory_dtype(memory);
        if !self.varies(at) {
            let (pointer, offset) = self.element(memory, at);
            let scalar = self.load_scalar(dtype, pointer, offset);
            // A block under a mask is entered only if a lane takes part, so the element exists.
            return if wide { self.spread(dtype, scalar) } else { scalar };
        }
        if let Some(mask) = self.mask.clone() {
            return self.load_masked(memory, at, &mask);
        }
        if let Some(first) = self.neighbours(at) {
            let (pointer, offset) = self.element(memory, &first);
            return self.load_vector(dtype, pointer, offset);
        }
        let lanes: [Register; LANES] = std::array::from_fn(|lane| {
            let at = self.in_lane(at, lane);
            let (pointer, offset) = self.element(memory, &at);
            self.load_scalar(dtype, pointer, offset)
        });
        self.joined(dtype, lanes)
    }

    fn load_masked(&mut self, memory: Memory, at: &Expr, mask: &Mask) -> Register {
        let dtype = self.kernel.memory_dtype(memory);
        let lanes: [Register; LANES] = std::array::from_fn(|lane| match mask.lanes[lane].as_int() {
            Some(0) => self.zero(dtype),
            _ => {
                let at = self.in_lane(at, lane);
                let (pointer, offset) = self.allowed(memory, &at, &mask.lanes[lane]);
                self.load_scalar(dtype, pointer, offset)
            }
        });
        self.joined(dtype, lanes)
    }

    /// An element's address, or the spare bytes' if the condition does not hold.
    fn allowed(&mut self, memory: Memory, at: &Expr, condition: &Expr) -> (Register, i32) {
        let (pointer, offset) = self.element(memory, at);
        if condition.as_int().is_some() {
            return (pointer, offset);
        }
        let truth = self.truth(condition);
        let address = self.at().ins().iadd_imm_s(pointer, i64::from(offset));
        let spare = self.spare();
        (self.at().ins().select(truth, address, spare), 0)
    }

    /// Stores one element, or one for each lane; where lanes meet, the last one stays.
    pub(super) fn store(&mut self, memory: Memory, at: &Expr, value: ValueId) {
        let dtype = self.kernel.memory_dtype(memory);
        let uniform = !self.varies(at);
        if uniform && !self.varying.value(value) {
            let (pointer, offset) = self.element(memory, at);
            let scalar = self.scalar(value);
            return self.store_scalar(dtype, pointer, offset, scalar);
        }
        if let Some(mask) = self.mask.clone() {
            for (lane, condition) in mask.lanes.iter().enumerate() {
                if condition.as_int() != Some(0) {
                    let at = self.in_lane(at, lane);
                    let (pointer, offset) = self.allowed(memory, &at, condition);
                    let scalar = self.lane(value, lane);
                    self.store_scalar(dtype, pointer, offset, scalar);
                }
            }
            return;
        }
        if uniform {
            let (pointer, offset) = self.element(memory, at);
            let scalar = self.lane(value, LANES - 1);
            return self.store_scalar(dtype, pointer, offset, scalar);
        }
        if let Some(first) = self.neighbours(at) {
            let (pointer, offset) = self.element(memory, &first);
            let vector = self.vector(value);
            return self.store_vector(dtype, pointer, offset, vector);
        }
        for lane in 0..LANES {
            let at = self.in_lane(at, lane);
            let (pointer, offset) = self.element(memory, &at);
            let scalar = self.lane(value, lane);
            self.store_scalar(dtype, pointer, offset, scalar);
        }
    }

    /// Lane 0's element, if each further lane accesses the next one.
    fn neighbours(&self, at: &Expr) -> Option<Expr> {
        let (terms, constant) = at.terms();
        let is_lane = |x: &Expr| matches!(x.kind(), Kind::Axis { index: LANE_AXIS, .. });
        let (lane, rest): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(x, _)| is_lane(x));
        let next = matches!(lane.as_slice(), [(_, 1)]) && !rest.iter().any(|(x, _)| self.varies(x));
        next.then(|| rest.into_iter().fold(Expr::int(constant), |sum, (x, c)| sum + x * c))
    }

    fn load_scalar(&mut self, dtype: DType, pointer: Register, offset: i32) -> Register {
        let mut code = self.at();
        match dtype {
            DType::F32 => code.ins().load(F32, flags(), pointer, offset),
            DType::I32 | DType::U32 => code.ins().load(I32, flags(), pointer, offset),
            DType::F16 | DType::BF16 => code.ins().uload16(I32, flags(), pointer, offset),
            DType::I8 => code.ins().sload8(I32, flags(), pointer, offset),
            DType::U8 => code.ins().uload8(I32, flags(), pointer, offset),
            DType::Bool => code.ins().load(I8, flags(), pointer, offset),
        }
    }

    fn load_vector(&mut self, dtype: DType, pointer: Register, offset: i32) -> Register {
        match dtype {
            DType::F32 => self.at().ins().load(F32X4, flags(), pointer, offset),
            DType::I32 | DType::U32 => self.at().ins().load(I32X4, flags(), pointer, offset),
            DType::F16 | DType::BF16 => self.at().ins().uload16x4(flags(), pointer, offset),
            DType::I8 | DType::U8 | DType::Bool => {
                let bytes = self.at().ins().load(I32, flags(), pointer, offset);
                let bytes = self.at().ins().scalar_to_vector(I32X4, bytes);
                let bytes = self.bits(I8X16, bytes);
                if dtype == DType::I8 {
                    let halves = self.at().ins().swiden_low(bytes);
                    return self.at().ins().swiden_low(halves);
                }
                let halves = self.at().ins().uwiden_low(bytes);
                let words = self.at().ins().uwiden_low(halves);
                if dtype == DType::U8 { words } else { self.nonzero(words) }
            }
        }
    }

    fn store_scalar(&mut self, dtype: DType, pointer: Register, offset: i32, value: Register) {
        let mut code = self.at();
        match dtype {
            DType::F32 | DType::I32 | DType::U32 | DType::Bool => {
                code.ins().store(flags(), value, pointer, offset)
            }
            DType::F16 | DType::BF16 => code.ins().istore16(flags(), value, pointer, offset),
            DType::I8 | DType::U8 => code.ins().istore8(flags(), value, pointer, offset),
        };
    }

    fn store_vector(&mut self, dtype: DType, pointer: Register, offset: i32, value: Register) {
        let register = match dtype {
            DType::F32 | DType::I32 | DType::U32 => value,
            DType::F16 | DType::BF16 => {
                let halves = self.at().ins().unarrow(value, value);
                let halves = self.bits(cranelift_codegen::ir::types::I64X2, halves);
                self.at().ins().extractlane(halves, 0)
            }
            DType::I8 | DType::U8 | DType::Bool => {
                let halves = match dtype {
                    DType::Bool => self.masked_word(value, 1),
                    _ => value,
                };
                let halves = self.at().ins().snarrow(halves, halves);
                let bytes = match dtype {
                    DType::I8 => self.at().ins().snarrow(halves, halves),
                    _ => self.at().ins().unarrow(halves, halves),
                };
                let words = self.bits(I32X4, bytes);
                self.at().ins().extractlane(words, 0)
            }
        };
        self.at().ins().store(flags(), register, pointer, offset);
    }

    /// Loaded scalars as a vector.
    fn joined(&mut self, dtype: DType, lanes: [Register; LANES]) -> Register {
        match dtype {
            DType::F32 => self.gather(F32X4, lanes),
            DType::Bool => {
                let words = lanes.map(|lane| self.at().ins().uextend(I32, lane));
                let words = self.gather(I32X4, words);
                self.nonzero(words)
            }
            _ => self.gather(I32X4, lanes),
        }
    }

    /// A loaded scalar in all lanes.
    fn spread(&mut self, dtype: DType, scalar: Register) -> Register {
        self.joined(dtype, [scalar; LANES])
    }

    fn zero(&mut self, dtype: DType) -> Register {
        match dtype {
            DType::F32 => self.at_entry().ins().f32const(0.0),
            DType::Bool => self.at_entry().ins().iconst(I8, 0),
            _ => self.at_entry().ins().iconst(I32, 0),
        }
    }

    /// Which elements are not 0.
    pub(super) fn nonzero(&mut self, words: Register) -> Register {
        let zero = self.word(words, 0);
        self.at().ins().icmp(IntCC::NotEqual, words, zero)
    }
}
