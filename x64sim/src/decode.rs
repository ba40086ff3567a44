//! Machine code to operations, once for a function.

mod across;
mod general;
mod operand;
mod table;
mod vector;

use std::collections::HashMap;

use iced_x86::{Code, Decoder, DecoderOptions, FastFormatter};

use crate::error::DecodeError;
use crate::memory::CODE;
use crate::operation::Operation;

/// Constants begin at a multiple of this behind the code.
const CODE_ALIGN: usize = 64;

/// An instruction in the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Where it begins, in bytes from the function's beginning.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
    /// As assemblers write it.
    pub text: String,
}

/// A function, ready to run.
pub struct Program {
    pub(crate) code: Vec<u8>,
    pub(crate) operations: Vec<Operation>,
    /// Where each operation's instruction begins.
    pub(crate) offsets: Vec<usize>,
    /// Where the constants begin.
    pub(crate) constants: usize,
}

impl Program {
    /// Takes a function apart; it ends with its first return.
    ///
    /// # Errors
    /// Something is no instruction of the closed list, or has operands that nobody prints.
    pub fn decode(code: &[u8]) -> Result<Program, DecodeError> {
        let mut decoder = Decoder::with_ip(64, code, CODE, DecoderOptions::NONE);
        let (mut decoded, mut offsets) = (Vec::new(), Vec::new());
        loop {
            let offset = decoder.position();
            if !decoder.can_decode() {
                let why = "the code ends without a return".to_owned();
                return Err(DecodeError { offset, text: "nothing".to_owned(), why });
            }
            let instruction = decoder.decode();
            offsets.push(offset);
            decoded.push(instruction);
            if instruction.code() == Code::Retnq {
                break;
            }
        }
        let constants = decoder.position().next_multiple_of(CODE_ALIGN);
        let places: HashMap<u64, usize> =
            offsets.iter().enumerate().map(|(at, offset)| (CODE + *offset as u64, at)).collect();
        let operations = decoded.iter().zip(&offsets).map(|(instruction, offset)| {
            operation(instruction, &places).map_err(|why| {
                let text = format(instruction);
                DecodeError { offset: *offset, text, why: why.to_owned() }
            })
        });
        let operations = operations.collect::<Result<_, _>>()?;
        Ok(Program { code: code.to_vec(), operations, offsets, constants })
    }

    /// The instructions, in order.
    pub fn instructions(&self) -> Vec<Instruction> {
        let mut decoder = Decoder::with_ip(64, &self.code, CODE, DecoderOptions::NONE);
        let next = |offset: &usize| {
            let instruction = decoder.decode();
            Instruction { offset: *offset, size: instruction.len(), text: format(&instruction) }
        };
        self.offsets.iter().map(next).collect()
    }

    /// The instruction of an operation.
    pub(crate) fn text(&self, offset: usize) -> String {
        let mut decoder =
            Decoder::with_ip(64, &self.code[offset..], CODE + offset as u64, DecoderOptions::NONE);
        format(&decoder.decode())
    }
}

fn format(instruction: &iced_x86::Instruction) -> String {
    let mut text = String::new();
    FastFormatter::new().format(instruction, &mut text);
    text
}

fn operation(
    instruction: &iced_x86::Instruction,
    places: &HashMap<u64, usize>,
) -> Result<Operation, &'static str> {
    if instruction.has_lock_prefix()
        || instruction.has_rep_prefix()
        || instruction.has_repne_prefix()
        || instruction.suppress_all_exceptions()
        || instruction.rounding_control() != iced_x86::RoundingControl::None
        || instruction.segment_prefix() != iced_x86::Register::None
    {
        return Err("a prefix or a rounding that nobody prints");
    }
    match general::operation(instruction, places)? {
        Some(operation) => Ok(operation),
        None => match vector::operation(instruction)? {
            Some(operation) => Ok(operation),
            None => Err("an instruction that nobody prints"),
        },
    }
}
