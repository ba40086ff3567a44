//! Instructions on general registers, and control flow.

use std::collections::HashMap;

use iced_x86::{Code, Instruction};

use super::operand::{address, general, immediate, place};
use crate::operation::{Arithmetic, Condition, General, Operation, Place, RSP, Width};

/// The operation, if the instruction is one of these.
pub(super) fn operation(
    i: &Instruction,
    places: &HashMap<u64, usize>,
) -> Result<Option<Operation>, &'static str> {
    if let Some(jump) = jump(i, places)? {
        return Ok(Some(jump));
    }
    let found = match moves(i)? {
        Some(found) => Some(found),
        None => match arithmetic(i)? {
            Some(found) => Some(found),
            None => compares(i)?,
        },
    };
    Ok(found.map(Operation::General))
}

fn jump(i: &Instruction, places: &HashMap<u64, usize>) -> Result<Option<Operation>, &'static str> {
    let condition = match i.code() {
        Code::Nopw
        | Code::Nopd
        | Code::Nop_rm16
        | Code::Nop_rm32
        | Code::Prefetcht0_m8
        | Code::Prefetcht1_m8 => {
            return Ok(Some(Operation::Nothing));
        }
        Code::Retnq => return Ok(Some(Operation::Return)),
        Code::Jmp_rel32_64 => None,
        Code::Jae_rel32_64 => Some(Condition::NotBelow),
        Code::Jb_rel32_64 => Some(Condition::Below),
        Code::Je_rel32_64 => Some(Condition::Equal),
        Code::Jne_rel32_64 => Some(Condition::Unequal),
        Code::Jge_rel32_64 => Some(Condition::NotLess),
        Code::Jl_rel32_64 => Some(Condition::Less),
        _ => return Ok(None),
    };
    let to = places.get(&i.near_branch_target()).ok_or("a jump to the inside of an instruction")?;
    Ok(Some(Operation::Jump { condition, to: *to }))
}

fn moves(i: &Instruction) -> Result<Option<General>, &'static str> {
    let simple = |width| {
        let (to, from) = (place(i, 0, width)?, place(i, 1, width)?);
        // Part of a register would be left as it was.
        let partial = matches!(to, Place::Register(_)) && matches!(width, Width::Byte | Width::Word);
        if partial { Err("a move to part of a register") } else { Ok(General::Move { to, from, width }) }
    };
    let widen = |to, width, signed| {
        Ok(General::Widen { to: general(i, 0, to)?, from: place(i, 1, width)?, width, signed })
    };
    Ok(Some(match i.code() {
        Code::Mov_r64_rm64 | Code::Mov_rm64_r64 | Code::Mov_r64_imm64 | Code::Mov_rm64_imm32 => {
            simple(Width::Quad)?
        }
        Code::Mov_r32_rm32 | Code::Mov_rm32_r32 | Code::Mov_r32_imm32 => simple(Width::Double)?,
        Code::Mov_rm16_r16 => simple(Width::Word)?,
        Code::Mov_rm8_r8 => simple(Width::Byte)?,
        Code::Movsxd_r64_rm32 => widen(Width::Quad, Width::Double, true)?,
        Code::Movsx_r64_rm8 => widen(Width::Quad, Width::Byte, true)?,
        Code::Movzx_r32_rm16 => widen(Width::Double, Width::Word, false)?,
        Code::Movzx_r32_rm8 => widen(Width::Double, Width::Byte, false)?,
        Code::Lea_r64_m => General::Address { to: general(i, 0, Width::Quad)?, address: address(i, 1)? },
        Code::Push_r64 => General::Push(general(i, 0, Width::Quad)?),
        Code::Pop_r64 => General::Pop(general(i, 0, Width::Quad)?),
        // The only use of it is to touch the stack, by which it must not change.
        Code::Or_rm32_imm8 if immediate(i, 1)? == 0 => General::Touch(address(i, 0)?),
        _ => return Ok(None),
    }))
}

fn arithmetic(i: &Instruction) -> Result<Option<General>, &'static str> {
    use Arithmetic as A;
    let calculate = |how| {
        let (to, from) = (general(i, 0, Width::Quad)?, place(i, 1, Width::Quad)?);
        let may_change_stack = matches!((how, from), (A::Subtract | A::And, Place::Immediate(_)));
        if to == RSP && !may_change_stack {
            return Err("arithmetic on the stack pointer");
        }
        Ok(General::Calculate { how, to, from })
    };
    Ok(Some(match i.code() {
        Code::Add_r64_rm64 | Code::Add_rm64_imm32 | Code::Add_rm64_imm8 => calculate(A::Add)?,
        Code::Sub_r64_rm64 | Code::Sub_rm64_imm32 => calculate(A::Subtract)?,
        Code::And_r64_rm64 | Code::And_rm64_imm32 | Code::And_rm64_imm8 => calculate(A::And)?,
        Code::Xor_r64_rm64 => calculate(A::Xor)?,
        Code::Imul_r64_rm64 => calculate(A::Multiply)?,
        Code::Shl_rm64_imm8 => calculate(A::Left)?,
        Code::Shr_rm64_imm8 => calculate(A::Right)?,
        Code::Sar_rm64_imm8 => calculate(A::SignedRight)?,
        Code::Neg_rm64 => General::Negate(general(i, 0, Width::Quad)?),
        Code::Imul_r64_rm64_imm32 | Code::Imul_r64_rm64_imm8 => {
            let (to, from) = (general(i, 0, Width::Quad)?, general(i, 1, Width::Quad)?);
            General::MultiplyBy { to, from, by: immediate(i, 2)? }
        }
        Code::Xor_r32_rm32 => match [0, 1].map(|at| general(i, at, Width::Double)) {
            [Ok(a), Ok(b)] if a == b => General::Clear(a),
            _ => return Err("two registers"),
        },
        Code::Cqo => General::Extend,
        Code::Div_rm64 => General::Divide { by: address(i, 0)?, signed: false },
        Code::Idiv_rm64 => General::Divide { by: address(i, 0)?, signed: true },
        _ => return Ok(None),
    }))
}

fn compares(i: &Instruction) -> Result<Option<General>, &'static str> {
    let set = |condition| Ok(General::Set { to: general(i, 0, Width::Byte)?, condition });
    let choose = |condition| {
        let (to, from) = (general(i, 0, Width::Quad)?, general(i, 1, Width::Quad)?);
        Ok(General::Choose { to, from, condition })
    };
    Ok(Some(match i.code() {
        Code::Cmp_r64_rm64 | Code::Cmp_rm64_imm32 | Code::Cmp_rm64_imm8 => {
            General::Compare { a: general(i, 0, Width::Quad)?, b: place(i, 1, Width::Quad)? }
        }
        Code::Test_rm32_imm32 => {
            General::Test { a: general(i, 0, Width::Double)?, bits: immediate(i, 1)? as u32 }
        }
        Code::Setl_rm8 => set(Condition::Less)?,
        Code::Sete_rm8 => set(Condition::Equal)?,
        Code::Setne_rm8 => set(Condition::Unequal)?,
        Code::Cmovg_r64_rm64 => choose(Condition::Greater)?,
        Code::Cmovl_r64_rm64 => choose(Condition::Less)?,
        _ => return Ok(None),
    }))
}
