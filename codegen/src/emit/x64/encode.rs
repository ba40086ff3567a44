//! Bytes: operations with numbered registers, the frame around them and the constants behind.

use std::collections::HashMap;

use iced_x86::{Code, Encoder, IcedError, Instruction, OpKind, Register};

use super::CODE_ALIGN;
use super::isa::Level;
use super::machine::{
    ARGUMENTS, Address, Base, Class, Code64, DIVISION, Division, Item, Label, Operand, Operation, Reg, STACK,
    View,
};

/// Registers that a function keeps for its caller.
const KEPT: [u8; 6] = [3, 5, 12, 13, 14, 15];
/// The arguments' registers, in order.
const PASSED: [Register; 4] = [Register::RDI, Register::RSI, Register::RDX, Register::RCX];
/// The frame is touched page by page, so that the guard behind the stack is met.
const PAGE: u32 = 4096;
/// Heads of loops begin at a multiple of this.
const HEAD_ALIGN: usize = 32;

/// Instructions of one to eight bytes that do nothing.
const NOTHING: [&[u8]; 8] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// A function as bytes, to lie at a multiple of [`CODE_ALIGN`].
pub(super) fn encode(code: &Code64, places: &[Option<u8>], level: Level) -> Result<Vec<u8>, IcedError> {
    let mut writer = Writer {
        encoder: Encoder::new(64),
        bytes: Vec::new(),
        code,
        places,
        level,
        labels: HashMap::new(),
        branches: Vec::new(),
        constants: Vec::new(),
    };
    writer.prologue()?;
    for item in &code.items {
        writer.item(item)?;
    }
    writer.epilogue()?;
    Ok(writer.finish())
}

struct Writer<'c> {
    encoder: Encoder,
    bytes: Vec<u8>,
    code: &'c Code64,
    places: &'c [Option<u8>],
    level: Level,
    labels: HashMap<Label, usize>,
    /// Where a distance to a label ends.
    branches: Vec<(usize, Label)>,
    /// Where a distance to a constant lies, where its instruction ends, and which constant.
    constants: Vec<(usize, usize, u32)>,
}

fn instruction(code: Code, operands: &[(u32, Register)]) -> Instruction {
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    for (at, register) in operands {
        instruction.set_op_kind(*at, OpKind::Register);
        instruction.set_op_register(*at, *register);
    }
    instruction
}

fn set_memory(instruction: &mut Instruction, at: u32, base: Register, offset: i64) {
    instruction.set_op_kind(at, OpKind::Memory);
    instruction.set_memory_base(base);
    instruction.set_memory_displacement64(offset as u64);
    instruction.set_memory_displ_size(if base == Register::RIP { 8 } else { u32::from(offset != 0) });
}

/// A register of the frame's.
fn in_frame(code: Code, memory_at: u32, offset: u32, register: Register) -> Instruction {
    let mut instruction = instruction(code, &[(1 - memory_at, register)]);
    set_memory(&mut instruction, memory_at, Register::RSP, i64::from(offset));
    instruction
}

/// Puts an immediate into the form that the instruction has it in.
fn set_immediate(instruction: &mut Instruction, at: u32, value: i64) {
    let small = i8::try_from(value).is_ok();
    let shorter = match instruction.code() {
        Code::Add_rm64_imm32 if small => Some(Code::Add_rm64_imm8),
        Code::Cmp_rm64_imm32 if small => Some(Code::Cmp_rm64_imm8),
        Code::And_rm64_imm32 if small => Some(Code::And_rm64_imm8),
        Code::Imul_r64_rm64_imm32 if small => Some(Code::Imul_r64_rm64_imm8),
        _ => None,
    };
    if let Some(shorter) = shorter {
        instruction.set_code(shorter);
        instruction.set_op_kind(at, OpKind::Immediate8to64);
        return instruction.set_immediate8to64(value);
    }
    match instruction.code() {
        Code::Mov_r64_imm64 => {
            instruction.set_op_kind(at, OpKind::Immediate64);
            instruction.set_immediate64(value as u64);
        }
        Code::Mov_r32_imm32 | Code::And_rm32_imm32 | Code::Test_rm32_imm32 => {
            instruction.set_op_kind(at, OpKind::Immediate32);
            instruction.set_immediate32(value as u32);
        }
        Code::Add_rm64_imm32
        | Code::Cmp_rm64_imm32
        | Code::And_rm64_imm32
        | Code::Imul_r64_rm64_imm32
        | Code::Sub_rm64_imm32
        | Code::Mov_rm64_imm32 => {
            instruction.set_op_kind(at, OpKind::Immediate32to64);
            instruction.set_immediate32to64(value);
        }
        Code::Or_rm32_imm8 => {
            instruction.set_op_kind(at, OpKind::Immediate8to32);
            instruction.set_immediate8to32(value as i32);
        }
        _ => {
            instruction.set_op_kind(at, OpKind::Immediate8);
            instruction.set_immediate8(value as u8);
        }
    }
}

impl Writer<'_> {
    fn push(&mut self, instruction: &Instruction) -> Result<usize, IcedError> {
        let start = self.bytes.len();
        let size = self.encoder.encode(instruction, start as u64)?;
        self.bytes.extend(self.encoder.take_buffer());
        Ok(size)
    }

    fn number(&self, reg: Reg) -> u32 {
        u32::from(self.places[reg.0 as usize].expect("whatever occurs has a place"))
    }

    fn register(&self, reg: Reg, view: View) -> Register {
        let number = self.number(reg);
        match view {
            // Between the low bytes of the first four and the others stand the high bytes.
            View::Byte if number < 4 => Register::AL + number,
            View::Byte => Register::AL + number + 4,
            View::Word => Register::AX + number,
            View::Double => Register::EAX + number,
            View::Quad => Register::RAX + number,
            View::X => Register::XMM0 + number,
            View::Y => Register::YMM0 + number,
            View::Z => Register::ZMM0 + number,
            View::Mask => Register::K0 + number,
        }
    }

    fn kept(&self) -> Vec<Register> {
        let used = |number: &&u8| {
            let taken = self.places.iter().zip(&self.code.classes);
            taken.into_iter().any(|(place, class)| *class == Class::General && *place == Some(**number))
        };
        KEPT.iter().filter(used).map(|number| Register::RAX + u32::from(*number)).collect()
    }

    fn prologue(&mut self) -> Result<(), IcedError> {
        for register in self.kept() {
            self.push(&instruction(Code::Push_r64, &[(0, register)]))?;
        }
        self.push(&instruction(Code::Mov_r64_rm64, &[(0, Register::RAX), (1, Register::RSP)]))?;
        let frame = self.code.frame.bytes.next_multiple_of(64);
        for page in 1..=(frame + 64) / PAGE {
            let mut touch = Instruction::new();
            touch.set_code(Code::Or_rm32_imm8);
            set_memory(&mut touch, 0, Register::RAX, -i64::from(page * PAGE));
            set_immediate(&mut touch, 1, 0);
            self.push(&touch)?;
        }
        for (code, value) in [(Code::Sub_rm64_imm32, i64::from(frame)), (Code::And_rm64_imm32, -64)] {
            let mut adjust = instruction(code, &[(0, Register::RSP)]);
            set_immediate(&mut adjust, 1, value);
            self.push(&adjust)?;
        }
        self.push(&in_frame(Code::Mov_rm64_r64, 0, STACK, Register::RAX))?;
        for (at, register) in (0..).zip(PASSED) {
            self.push(&in_frame(Code::Mov_rm64_r64, 0, ARGUMENTS + 8 * at, register))?;
        }
        Ok(())
    }

    fn epilogue(&mut self) -> Result<(), IcedError> {
        self.push(&instruction(Code::VEX_Vzeroupper, &[]))?;
        self.push(&in_frame(Code::Mov_r64_rm64, 1, STACK, Register::RSP))?;
        for register in self.kept().into_iter().rev() {
            self.push(&instruction(Code::Pop_r64, &[(0, register)]))?;
        }
        self.push(&instruction(Code::Retnq, &[]))?;
        Ok(())
    }

    fn item(&mut self, item: &Item) -> Result<(), IcedError> {
        match item {
            Item::Operation(operation) => self.operation(operation),
            Item::Copy { to, from } => self.copy(*to, *from),
            Item::Divide(division) => self.divide(division),
            Item::Label { label, head } => {
                if *head {
                    self.align(HEAD_ALIGN);
                }
                self.labels.insert(*label, self.bytes.len());
                Ok(())
            }
            Item::Branch(code, label) => {
                let mut branch = Instruction::new();
                branch.set_code(*code);
                branch.set_op_kind(0, OpKind::NearBranch64);
                self.push(&branch)?;
                self.branches.push((self.bytes.len(), *label));
                Ok(())
            }
        }
    }

    fn align(&mut self, to: usize) {
        let mut missing = self.bytes.len().next_multiple_of(to) - self.bytes.len();
        while missing > 0 {
            let size = missing.min(NOTHING.len());
            self.bytes.extend(NOTHING[size - 1]);
            missing -= size;
        }
    }

    fn operation(&mut self, operation: &Operation) -> Result<(), IcedError> {
        let mut instruction = Instruction::new();
        instruction.set_code(operation.code);
        let mut constant = None;
        for (at, operand) in (0..).zip(operation.operands()) {
            match operand {
                Operand::Reg(reg, view) => {
                    instruction.set_op_kind(at, OpKind::Register);
                    instruction.set_op_register(at, self.register(*reg, *view));
                }
                Operand::Memory(address) => {
                    constant = self.set_address(&mut instruction, at, address).or(constant)
                }
                Operand::Immediate(value) => set_immediate(&mut instruction, at, *value),
            }
        }
        if let Some(mask) = operation.mask {
            instruction.set_op_mask(self.register(mask, View::Mask));
            instruction.set_zeroing_masking(operation.zeroing);
        }
        let start = self.bytes.len();
        self.push(&instruction)?;
        if let Some(constant) = constant {
            let at = start + self.encoder.get_constant_offsets().displacement_offset();
            self.constants.push((at, self.bytes.len(), constant));
        }
        Ok(())
    }

    /// Gives the constant whose distance is not known yet.
    fn set_address(&self, instruction: &mut Instruction, at: u32, address: &Address) -> Option<u32> {
        let offset = i64::from(address.offset);
        let (base, offset) = match address.base {
            Base::Reg(reg) => (self.register(reg, View::Quad), offset),
            Base::Frame(place) => (Register::RSP, offset + i64::from(place)),
            Base::Constant(_) => (Register::RIP, 0),
        };
        set_memory(instruction, at, base, offset);
        if let Some((index, view, scale)) = address.index {
            instruction.set_memory_index(self.register(index, view));
            instruction.set_memory_index_scale(u32::from(scale));
        }
        instruction.set_is_broadcast(address.broadcast);
        match address.base {
            Base::Constant(place) => Some(place + address.offset as u32),
            _ => None,
        }
    }

    fn copy(&mut self, to: Reg, from: Reg) -> Result<(), IcedError> {
        if self.number(to) == self.number(from) {
            return Ok(());
        }
        let (code, view) = match (self.code.class(to), self.level) {
            (Class::General, _) => (Code::Mov_r64_rm64, View::Quad),
            (Class::Vector, Level::Avx2) => (Code::VEX_Vmovaps_ymm_ymmm256, View::Y),
            (Class::Vector, Level::Avx512) => (Code::EVEX_Vmovaps_zmm_k1z_zmmm512, View::Z),
            (Class::Mask, _) => (Code::VEX_Kmovw_kr_km16, View::Mask),
        };
        let operands = [(0, self.register(to, view)), (1, self.register(from, view))];
        self.push(&instruction(code, &operands)).map(drop)
    }

    /// Keeps the two registers that the instruction wants in the frame meanwhile.
    fn divide(&mut self, division: &Division) -> Result<(), IcedError> {
        let [kept_rax, kept_rdx, dividend, divisor] = [0, 8, 16, 24].map(|at| DIVISION + at);
        let store = |at, register| in_frame(Code::Mov_rm64_r64, 0, at, register);
        let load = |register, at| in_frame(Code::Mov_r64_rm64, 1, at, register);
        let value = |reg| self.register(reg, View::Quad);
        let mut divide = Instruction::new();
        divide.set_code(if division.signed { Code::Idiv_rm64 } else { Code::Div_rm64 });
        set_memory(&mut divide, 0, Register::RSP, i64::from(divisor));
        let extend = match division.signed {
            true => instruction(Code::Cqo, &[]),
            false => instruction(Code::Xor_r32_rm32, &[(0, Register::EDX), (1, Register::EDX)]),
        };
        let result = if division.remainder { Register::RDX } else { Register::RAX };
        let steps = [
            store(kept_rax, Register::RAX),
            store(kept_rdx, Register::RDX),
            store(dividend, value(division.dividend)),
            store(divisor, value(division.divisor)),
            load(Register::RAX, dividend),
            extend,
            divide,
            store(dividend, result),
            load(Register::RAX, kept_rax),
            load(Register::RDX, kept_rdx),
            load(value(division.to), dividend),
        ];
        steps.iter().try_for_each(|step| self.push(step).map(drop))
    }

    fn finish(mut self) -> Vec<u8> {
        for (end, label) in &self.branches {
            let distance = self.labels[label] as i64 - *end as i64;
            self.bytes[end - 4..*end].copy_from_slice(&(distance as i32).to_le_bytes());
        }
        let code_end = self.bytes.len();
        if !self.code.constants.bytes.is_empty() {
            self.bytes.resize(code_end.next_multiple_of(CODE_ALIGN), 0xcc);
        }
        let first = self.bytes.len();
        for (at, end, constant) in &self.constants {
            let distance = (first + *constant as usize) as i64 - *end as i64;
            self.bytes[*at..at + 4].copy_from_slice(&(distance as i32).to_le_bytes());
        }
        self.bytes.extend(&self.code.constants.bytes);
        self.bytes
    }
}
