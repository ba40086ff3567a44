//! Functions of a few instructions around the one that is asked about.
#![allow(dead_code)]

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, Register};
use jtllm_x64sim::{Buffer, Call, DecodeError, Fault, Program};

/// 32-bit elements of a vector.
pub(crate) const LANES: usize = 16;

/// A function as bytes.
pub(crate) fn assembled(instructions: &[Instruction]) -> Vec<u8> {
    let mut encoder = Encoder::new(64);
    let mut bytes = Vec::new();
    for instruction in instructions {
        encoder.encode(instruction, bytes.len() as u64).unwrap();
        bytes.extend(encoder.take_buffer());
    }
    bytes
}

/// What is at a register's address, some bytes behind it.
pub(crate) fn at(base: Register, offset: i64) -> MemoryOperand {
    MemoryOperand::with_base_displ(base, offset)
}

pub(crate) fn ret() -> Instruction {
    Instruction::with(Code::Retnq)
}

/// Points `rax` to parameter 0, `rdx` to parameter 1 and `rcx` to parameter 2.
pub(crate) fn pointers() -> Vec<Instruction> {
    let load = |register, number: i64| {
        Instruction::with2(Code::Mov_r64_rm64, register, at(Register::RDI, 8 * number)).unwrap()
    };
    vec![load(Register::RAX, 0), load(Register::RDX, 1), load(Register::RCX, 2)]
}

/// Runs instructions on words that are read, words that are written and a byte string.
pub(crate) fn run(
    instructions: &[Instruction],
    read: &[u32],
    written: &mut [u32],
    bytes: &[u8],
) -> Result<(), Fault> {
    let mut all = pointers();
    all.extend_from_slice(instructions);
    all.push(Instruction::with(Code::VEX_Vzeroupper));
    all.push(ret());
    run_bare(&all, read, written, bytes)
}

/// Runs nothing but the instructions.
pub(crate) fn run_bare(
    instructions: &[Instruction],
    read: &[u32],
    written: &mut [u32],
    bytes: &[u8],
) -> Result<(), Fault> {
    let program = Program::decode(&assembled(instructions)).unwrap();
    let words: Vec<u8> = read.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut out: Vec<u8> = written.iter().flat_map(|word| word.to_le_bytes()).collect();
    let buffers = vec![
        Buffer::Read { bytes: &words, element: 4 },
        Buffer::Write { bytes: &mut out, element: 4 },
        Buffer::Read { bytes, element: 1 },
    ];
    program.run(Call { buffers, symbols: &[7, -1], first: 0, end: 1, steps_max: 10_000 })?;
    for (to, from) in written.iter_mut().zip(out.chunks_exact(4)) {
        *to = u32::from_le_bytes(from.try_into().unwrap());
    }
    Ok(())
}

pub(crate) fn refused(instructions: &[Instruction]) -> DecodeError {
    Program::decode(&assembled(instructions)).err().unwrap()
}

/// Loads 16 words of parameter 0 from the `number`th 16 on.
pub(crate) fn load(register: Register, number: i64) -> Instruction {
    let from = at(Register::RAX, 64 * number);
    Instruction::with2(Code::EVEX_Vmovups_zmm_k1z_zmmm512, register, from).unwrap()
}

/// Stores a vector to parameter 1.
pub(crate) fn store(register: Register) -> Instruction {
    Instruction::with2(Code::EVEX_Vmovups_zmmm512_k1z_zmm, at(Register::RDX, 0), register).unwrap()
}

/// Makes a mask register of the bits.
pub(crate) fn mask(register: Register, bits: u32) -> [Instruction; 2] {
    [
        Instruction::with2(Code::Mov_r32_imm32, Register::R8D, bits).unwrap(),
        Instruction::with2(Code::VEX_Kmovw_kr_r32, register, Register::R8D).unwrap(),
    ]
}

/// An instruction under a mask.
pub(crate) fn masked(mut instruction: Instruction, mask: Register, zeroing: bool) -> Instruction {
    instruction.set_op_mask(mask);
    instruction.set_zeroing_masking(zeroing);
    instruction
}
