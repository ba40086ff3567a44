//! What each opcode does to the machine.

use super::{Machine, STACK_MAX};
use crate::checkpoint::torch::value::{Object, Value};
use crate::error::LoadError;

impl<'a> Machine<'a, '_> {
    /// Runs opcodes up to STOP, and gives the value that it leaves.
    pub(super) fn run(&mut self) -> Result<Value<'a>, LoadError> {
        loop {
            self.opcode_at = self.next;
            let opcode = match self.bytes.get(self.next) {
                Some(opcode) => *opcode,
                None => return Err(self.fault("the pickle ends before its STOP")),
            };
            self.next += 1;
            match opcode {
                b'.' => return self.pop(),
                b'(' if self.marks.len() == STACK_MAX => {
                    return Err(self.fault(format!("more than {STACK_MAX} marks on the stack")));
                }
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => self.top().and_then(|top| self.push(top))?,
                b'q' => self.number(1).and_then(|at| self.remember(at))?,
                b'r' => self.number(4).and_then(|at| self.remember(at))?,
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' => self.number(1).and_then(|at| self.recall(at))?,
                b'j' => self.number(4).and_then(|at| self.recall(at))?,
                0x80 => self.protocol()?,
                0x95 => drop(self.take(8)?),
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => self.stack_global()?,
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    let made = self.call(function, arguments)?;
                    self.push(made)?;
                }
                b'b' => self.build()?,
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push(storage)?;
                }
                _ => self.constant_or_container(opcode)?,
            }
        }
    }

    fn protocol(&mut self) -> Result<(), LoadError> {
        match self.number(1)? {
            2..=5 => Ok(()),
            other => Err(self.fault(format!("pickle protocol {other}, expected 2 to 5"))),
        }
    }

    fn constant_or_container(&mut self, opcode: u8) -> Result<(), LoadError> {
        match opcode {
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let number = self.number(4)? as u32;
                self.push(Value::Int(i64::from(number.cast_signed())))
            }
            b'K' => self.number(1).and_then(|number| self.push(Value::Int(number.cast_signed()))),
            b'M' => self.number(2).and_then(|number| self.push(Value::Int(number.cast_signed()))),
            0x8a => self.number(1).and_then(|len| self.long(len)),
            0x8b => self.number(4).and_then(|len| self.long(len)),
            b'G' => {
                let bits = self.number(8)?.swap_bytes();
                self.push(Value::Float(f64::from_bits(bits)))
            }
            b'X' => self.number(4).and_then(|len| self.text(len)),
            0x8c => self.number(1).and_then(|len| self.text(len)),
            0x8d => self.number(8).and_then(|len| self.text(len)),
            b'T' | b'B' => self.number(4).and_then(|len| self.string(len)),
            b'U' | b'C' => self.number(1).and_then(|len| self.string(len)),
            0x8e | 0x96 => self.number(8).and_then(|len| self.string(len)),
            b')' => self.tuple(Vec::new()),
            b't' => self.pop_to_mark().and_then(|members| self.tuple(members)),
            0x85..=0x87 => self.pop_tuple(usize::from(opcode - 0x84)),
            b']' => self.keep(Object::List(Vec::new())).and_then(|list| self.push(list)),
            b'a' => self.pop().and_then(|value| self.extend_list(vec![value])),
            b'e' => self.pop_to_mark().and_then(|values| self.extend_list(values)),
            b'}' => self.keep(Object::Dict(Vec::new())).and_then(|dict| self.push(dict)),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])
            }
            b'u' => self.pop_to_mark().and_then(|members| self.extend_dict(&members)),
            // No model needs a set: it is made and filled, and not kept.
            0x8f => self.push(Value::Unread),
            0x90 => self.pop_to_mark().and_then(|values| self.extend_list(values)),
            0x91 => self.pop_to_mark().and_then(|_| self.push(Value::Unread)),
            other => Err(self.fault(format!("opcode {other:#04x}, which torch does not write"))),
        }
    }

    /// Gives an object its state: a namespace its members; what a dict or unread data gets, no model needs.
    fn build(&mut self) -> Result<(), LoadError> {
        let state = self.pop()?;
        let at = match self.top()? {
            Value::Unread => return Ok(()),
            Value::Object(at) => at as usize,
            _ => return Err(self.fault("a state is given to what has none")),
        };
        match &self.objects[at] {
            Object::Dict(_) => return Ok(()),
            Object::Namespace(_) => {}
            _ => return Err(self.fault("a state is given to what has none")),
        }
        let Value::Object(state) = state else { return Ok(()) };
        let Object::Dict(members) = &self.objects[state as usize] else { return Ok(()) };
        let members = members.clone();
        self.count(2 * members.len())?;
        if let Object::Namespace(known) = &mut self.objects[at] {
            known.extend(members);
        }
        Ok(())
    }
}
