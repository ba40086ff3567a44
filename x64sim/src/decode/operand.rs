//! Operands of instructions.

use iced_x86::{Instruction, OpKind, Register};

use crate::memory::CODE;
use crate::operation::{Address, Place, Source, Width};

/// Why an operand is none.
const OTHER: &str = "an operand that nobody prints";

/// The number of a register among those of its kind that begin with `first`.
fn number(register: Register, first: Register, count: u32) -> Result<u8, &'static str> {
    let number = (register as u32).wrapping_sub(first as u32);
    if number < count { Ok(number as u8) } else { Err(OTHER) }
}

/// A general register of that width.
fn general_number(register: Register, width: Width) -> Result<u8, &'static str> {
    match width {
        Width::Quad => number(register, Register::RAX, 16),
        Width::Double => number(register, Register::EAX, 16),
        Width::Word => number(register, Register::AX, 16),
        // Between the low bytes of the first four and the others stand the high bytes.
        Width::Byte => match number(register, Register::AL, 20)? {
            low @ 0..4 => Ok(low),
            4..8 => Err(OTHER),
            low => Ok(low - 4),
        },
    }
}

pub(super) fn general(instruction: &Instruction, at: u32, width: Width) -> Result<u8, &'static str> {
    match instruction.op_kind(at) {
        OpKind::Register => general_number(instruction.op_register(at), width),
        _ => Err(OTHER),
    }
}

/// The number of a vector register of 16, 32 or 64 bytes.
pub(super) fn vector_number(register: Register) -> Result<u8, &'static str> {
    number(register, Register::XMM0, 32)
        .or_else(|_| number(register, Register::YMM0, 32))
        .or_else(|_| number(register, Register::ZMM0, 32))
}

pub(super) fn vector(instruction: &Instruction, at: u32) -> Result<u8, &'static str> {
    match instruction.op_kind(at) {
        OpKind::Register => vector_number(instruction.op_register(at)),
        _ => Err(OTHER),
    }
}

/// A mask register; not the first one, which stands for no mask.
pub(super) fn mask_number(register: Register) -> Result<u8, &'static str> {
    match number(register, Register::K0, 8)? {
        0 => Err("the first mask register"),
        number => Ok(number),
    }
}

pub(super) fn mask(instruction: &Instruction, at: u32) -> Result<u8, &'static str> {
    match instruction.op_kind(at) {
        OpKind::Register => mask_number(instruction.op_register(at)),
        _ => Err(OTHER),
    }
}

/// Memory; `index` says what an index may be.
fn address_with(
    instruction: &Instruction,
    at: u32,
    index: fn(Register) -> Result<u8, &'static str>,
) -> Result<Address, &'static str> {
    if instruction.op_kind(at) != OpKind::Memory {
        return Err(OTHER);
    }
    let offset = instruction.memory_displacement64() as i64;
    let indexed = match instruction.memory_index() {
        Register::None => None,
        register => Some((index(register)?, instruction.memory_index_scale() as u8)),
    };
    let base = match (instruction.memory_base(), indexed) {
        // The decoder has added where the instruction ends.
        (Register::RIP, None) if offset as u64 >= CODE => None,
        (base, _) => Some(general_number(base, Width::Quad)?),
    };
    Ok(Address { base, index: indexed, offset })
}

pub(super) fn address(instruction: &Instruction, at: u32) -> Result<Address, &'static str> {
    address_with(instruction, at, |register| general_number(register, Width::Quad))
}

/// The place of a gather or a scatter.
pub(super) fn addresses(instruction: &Instruction, at: u32) -> Result<Address, &'static str> {
    let address = address_with(instruction, at, vector_number)?;
    if address.index.is_some() { Ok(address) } else { Err(OTHER) }
}

/// A register of that width or memory.
pub(super) fn place(instruction: &Instruction, at: u32, width: Width) -> Result<Place, &'static str> {
    Ok(match instruction.op_kind(at) {
        OpKind::Register => Place::Register(general(instruction, at, width)?),
        OpKind::Memory => Place::Memory(address(instruction, at)?),
        _ => Place::Immediate(immediate(instruction, at)?),
    })
}

/// A constant with its sign.
pub(super) fn immediate(instruction: &Instruction, at: u32) -> Result<i64, &'static str> {
    match instruction.op_kind(at) {
        OpKind::Immediate8
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Ok(instruction.immediate(at) as i64),
        _ => Err(OTHER),
    }
}

/// The last operand of a vector operation.
pub(super) fn source(instruction: &Instruction, at: u32) -> Result<Source, &'static str> {
    if instruction.op_kind(at) == OpKind::Memory {
        let address = address(instruction, at)?;
        return Ok(if instruction.is_broadcast() {
            Source::Spread(address)
        } else {
            Source::Memory(address)
        });
    }
    match vector(instruction, at) {
        Ok(register) => Ok(Source::Register(register)),
        Err(_) => Ok(Source::General(general(instruction, at, Width::Double)?)),
    }
}
