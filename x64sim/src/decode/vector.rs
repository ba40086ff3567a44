//! Instructions on vectors and masks.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::operand::{address, addresses, general, mask, mask_number, source, vector, vector_number};
use super::table::{Row, Shape, row};
use crate::operation::{
    Bits, Control, Logic, Mask, Masks, Operation, Outside, Scattered, Source, Target, Vector, Width,
};

/// The operation, if the instruction is one of these.
pub(super) fn operation(i: &Instruction) -> Result<Option<Operation>, &'static str> {
    if let Some(row) = row(i.code()) {
        return tabled(i, row).map(|vector| Some(Operation::Vector(vector)));
    }
    if let Some(masks) = masks(i)? {
        return Ok(Some(Operation::Masks(masks)));
    }
    Ok(Some(match i.code() {
        Code::VEX_Vmaskmovps_ymm_ymm_m256 => {
            let mask = Mask::Signs(vector(i, 1)?);
            Operation::Vector(moved(Source::Memory(address(i, 2)?), Target::Vector(vector(i, 0)?), mask))
        }
        Code::VEX_Vmaskmovps_m256_ymm_ymm => {
            let mask = Mask::Signs(vector(i, 1)?);
            Operation::Vector(moved(Source::Register(vector(i, 2)?), Target::Memory(address(i, 0)?), mask))
        }
        Code::EVEX_Vblendmps_zmm_k1z_zmm_zmmm512b32 => {
            let outside = Outside::Of(vector(i, 1)?);
            let chosen = moved(source(i, 2)?, Target::Vector(vector(i, 0)?), op_mask(i)?);
            Operation::Vector(Vector { lanes: 16, outside, ..chosen })
        }
        Code::VEX_Vpgatherdd_ymm_vm32y_ymm => {
            let mask = Mask::Signs(vector(i, 2)?);
            Operation::Gather(Scattered { vector: vector(i, 0)?, address: addresses(i, 1)?, mask, lanes: 8 })
        }
        Code::EVEX_Vpgatherdd_zmm_k1_vm32z => {
            let (vector, address) = (vector(i, 0)?, addresses(i, 1)?);
            Operation::Gather(Scattered { vector, address, mask: spent_mask(i)?, lanes: 16 })
        }
        Code::EVEX_Vpscatterdd_vm32z_k1_zmm => {
            let (vector, address) = (vector(i, 1)?, addresses(i, 0)?);
            Operation::Scatter(Scattered { vector, address, mask: spent_mask(i)?, lanes: 16 })
        }
        Code::VEX_Vmovmskps_r32_ymm => {
            Operation::Signs { to: general(i, 0, Width::Double)?, from: vector(i, 1)? }
        }
        Code::VEX_Vptest_ymm_ymmm256 => Operation::TestVectors { a: vector(i, 0)?, b: vector(i, 1)? },
        Code::VEX_Vzeroupper => Operation::ZeroUpper,
        Code::VEX_Vldmxcsr_m32 => Operation::Control(address(i, 0)?),
        _ => return Ok(None),
    }))
}

fn op_mask(i: &Instruction) -> Result<Mask, &'static str> {
    match i.op_mask() {
        Register::None => Ok(Mask::All),
        register => mask_number(register).map(Mask::Register),
    }
}

/// The mask of a gather or a scatter, which has one.
fn spent_mask(i: &Instruction) -> Result<Mask, &'static str> {
    mask_number(i.op_mask()).map(Mask::Register)
}

/// Eight lanes as they are, or zeros for those that take no part.
fn moved(last: Source, to: Target, mask: Mask) -> Vector {
    Vector {
        function: |inputs, _| inputs[0],
        control: Control::Ignored,
        reads: [None; 2],
        last,
        element: 4,
        immediate: 0,
        lanes: 8,
        mask,
        outside: Outside::Zero,
        to,
        narrow: 4,
    }
}

fn tabled(i: &Instruction, row: &Row) -> Result<Vector, &'static str> {
    let (reads, last) = match row.shape {
        Shape::Unary => ([None; 2], 1),
        Shape::Binary => ([Some(vector(i, 1)?), None], 2),
        Shape::Update => ([Some(vector(i, 0)?), Some(vector(i, 1)?)], 2),
        Shape::Choice => ([Some(vector(i, 3)?), Some(vector(i, 1)?)], 2),
    };
    let immediate = match row.shape {
        Shape::Choice => None,
        _ => (i.op_count() == last + 2).then(|| i.immediate8()),
    };
    if immediate.unwrap_or(0) & !row.immediates != 0 {
        return Err("an immediate that nobody prints");
    }
    let last = match source(i, last)? {
        Source::Memory(address) if row.spreads => Source::Spread(address),
        // Nobody aligns what is moved so.
        Source::Memory(_) if is_aligned(i.code()) => return Err("memory"),
        last => last,
    };
    let to = match i.op_kind(0) {
        OpKind::Memory => Target::Memory(address(i, 0)?),
        _ => target(i.op_register(0))?,
    };
    let mask = op_mask(i)?;
    let outside = match to {
        Target::Vector(register) if !i.zeroing_masking() => Outside::Of(register),
        _ => Outside::Zero,
    };
    if row.narrow < 4 && matches!((to, mask), (Target::Vector(_), Mask::Register(_))) {
        return Err("narrow elements under a mask in a register");
    }
    Ok(Vector {
        function: row.function,
        control: row.control,
        reads,
        last,
        element: row.element,
        immediate: immediate.unwrap_or(0),
        lanes: row.lanes,
        mask,
        outside,
        to,
        narrow: row.narrow,
    })
}

fn is_aligned(code: Code) -> bool {
    matches!(code, Code::VEX_Vmovaps_ymm_ymmm256 | Code::EVEX_Vmovaps_zmm_k1z_zmmm512)
}

fn target(register: Register) -> Result<Target, &'static str> {
    if let Ok(number) = vector_number(register) {
        return Ok(Target::Vector(number));
    }
    if let Ok(number) = mask_number(register) {
        return Ok(Target::Mask(number));
    }
    let number = (register as u32).wrapping_sub(Register::EAX as u32);
    if number < 16 { Ok(Target::General(number as u8)) } else { Err("a result that nobody prints") }
}

fn masks(i: &Instruction) -> Result<Option<Masks>, &'static str> {
    let combine = |how| Ok(Masks::Combine { how, to: mask(i, 0)?, a: mask(i, 1)?, b: mask(i, 2)? });
    Ok(Some(match i.code() {
        Code::VEX_Kmovw_kr_km16 => {
            let from = match i.op_kind(1) {
                OpKind::Memory => Bits::Memory(address(i, 1)?),
                _ => Bits::Mask(mask(i, 1)?),
            };
            Masks::Load { to: mask(i, 0)?, from }
        }
        Code::VEX_Kmovw_kr_r32 => {
            Masks::Load { to: mask(i, 0)?, from: Bits::General(general(i, 1, Width::Double)?) }
        }
        Code::VEX_Kmovw_m16_kr => Masks::Store { to: Bits::Memory(address(i, 0)?), from: mask(i, 1)? },
        Code::VEX_Kmovw_r32_kr => {
            Masks::Store { to: Bits::General(general(i, 0, Width::Double)?), from: mask(i, 1)? }
        }
        Code::VEX_Kandw_kr_kr_kr => combine(Logic::And)?,
        Code::VEX_Kandnw_kr_kr_kr => combine(Logic::AndNot)?,
        Code::VEX_Korw_kr_kr_kr => combine(Logic::Or)?,
        Code::VEX_Kxorw_kr_kr_kr => combine(Logic::Xor)?,
        Code::VEX_Kortestw_kr_kr => Masks::Test { a: mask(i, 0)?, b: mask(i, 1)? },
        _ => return Ok(None),
    }))
}
