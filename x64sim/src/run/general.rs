//! Operations on general registers.

use super::{Flags, Machine, NAMES};
use crate::error::{Broken, Reason};
use crate::memory::Memory;
use crate::operation::{Arithmetic, General, Place, RSP, Width};

const RAX: u8 = 0;
const RDX: u8 = 2;

impl Machine<'_> {
    pub(super) fn general(&mut self, general: &General) -> Result<(), Broken> {
        match *general {
            General::Move { to, from, width } => return self.move_(to, from, width),
            General::Widen { to, from, width, signed } => {
                let value = self.value(from, width)?;
                let above = 64 - 8 * width as u32;
                self.set(to, if signed { ((value << above) as i64 >> above) as u64 } else { value });
            }
            General::Address { to, address } => {
                let address = self.address(&address)?;
                self.set(to, address);
            }
            General::Calculate { how, to, from } => {
                let (a, b) = (self.get(to, 8)?, self.value(from, Width::Quad)?);
                self.set(to, calculated(how, a, b));
                self.flags = None;
            }
            General::Negate(register) => {
                let value = self.get(register, 8)?;
                self.set(register, value.wrapping_neg());
                self.flags = None;
            }
            General::MultiplyBy { to, from, by } => {
                let value = self.get(from, 8)?;
                self.set(to, value.wrapping_mul(by as u64));
                self.flags = None;
            }
            General::Clear(register) => {
                self.set(register, 0);
                self.flags = None;
            }
            General::Compare { a, b } => {
                let (a, b) = (self.get(a, 8)?, self.value(b, Width::Quad)?);
                self.flags = Some(Flags { equal: a == b, order: Some(((a as i64) < b as i64, a < b)) });
            }
            General::Test { a, bits } => {
                let equal = self.get(a, 4)? as u32 & bits == 0;
                self.flags = Some(Flags { equal, order: None });
            }
            General::Set { to, condition } => {
                let value = u64::from(self.holds(condition)?);
                let at = usize::from(to);
                self.general[at] = self.general[at] & !0xff | value;
                // The rest is what it was: nobody may count on it.
                self.known[at] = 1;
            }
            General::Choose { to, from, condition } => {
                let (old, new) = (self.get(to, 8)?, self.get(from, 8)?);
                let value = if self.holds(condition)? { new } else { old };
                self.set(to, value);
            }
            General::Extend => {
                let value = self.get(RAX, 8)?;
                self.set(RDX, (value as i64 >> 63) as u64);
            }
            General::Divide { by, signed } => return self.divide(Place::Memory(by), signed),
            General::Push(register) => return self.push(register),
            General::Pop(register) => return self.pop(register),
            General::Touch(address) => {
                let address = self.address(&address)?;
                self.memory.touch(address)?;
                self.flags = None;
            }
        }
        Ok(())
    }

    fn pointer(&self) -> u64 {
        self.general[usize::from(RSP)]
    }

    /// The low bytes of an operand; what is above them is 0.
    fn value(&mut self, from: Place, width: Width) -> Result<u64, Broken> {
        let all = u64::MAX >> (64 - 8 * width as u32);
        Ok(all
            & match from {
                Place::Register(register) => self.get(register, width as u8)?,
                Place::Immediate(value) => value as u64,
                Place::Memory(address) => {
                    let address = self.address(&address)?;
                    let mut bytes = [0; 8];
                    self.memory.read_to(&mut bytes[..width as usize], address, self.pointer())?;
                    u64::from_le_bytes(bytes)
                }
            })
    }

    /// Between registers and the frame whole registers go as they are, written or not: what is displaced for a while need
    /// not have meant anything.
    fn move_(&mut self, to: Place, from: Place, width: Width) -> Result<(), Broken> {
        let pointer = self.pointer();
        let whole = match (from, width) {
            (Place::Register(from), Width::Quad) => {
                Some((self.general[usize::from(from)], self.known[usize::from(from)]))
            }
            (Place::Memory(address), Width::Quad) => {
                let address = self.address(&address)?;
                if Memory::is_stack(address) { Some(self.memory.read_slot(address, pointer)?) } else { None }
            }
            _ => None,
        };
        let (value, known) = match whole {
            Some(whole) => whole,
            None => (self.value(from, width)?, 8),
        };
        match to {
            Place::Register(to) => {
                (self.general[usize::from(to)], self.known[usize::from(to)]) = (value, known);
            }
            Place::Memory(address) => {
                let address = self.address(&address)?;
                if width == Width::Quad && Memory::is_stack(address) {
                    return self.memory.write_slot((value, known), address, pointer);
                }
                let value = self.value(from, width)?;
                self.memory.write(&value.to_le_bytes()[..width as usize], address, pointer)?;
            }
            Place::Immediate(_) => return Err(Broken::new(Reason::Operands, "a store to a constant")),
        }
        Ok(())
    }

    fn divide(&mut self, by: Place, signed: bool) -> Result<(), Broken> {
        let (low, high) = (self.get(RAX, 8)?, self.get(RDX, 8)?);
        let by = self.value(by, Width::Quad)?;
        let results = match signed {
            true => {
                let dividend = (i128::from(high as i64) << 64) | i128::from(low);
                let by = i128::from(by as i64);
                dividend.checked_div(by).and_then(|quotient| {
                    Some((i64::try_from(quotient).ok()? as u64, (dividend % by) as i64 as u64))
                })
            }
            false => {
                let dividend = (u128::from(high) << 64) | u128::from(low);
                let by = u128::from(by);
                dividend
                    .checked_div(by)
                    .and_then(|quotient| Some((u64::try_from(quotient).ok()?, (dividend % by) as u64)))
            }
        };
        let Some((quotient, rest)) = results else {
            let why = format!("{high:#x}:{low:#x} by {by:#x} has no quotient of 64 bits");
            return Err(Broken::new(Reason::Division, why));
        };
        self.set(RAX, quotient);
        self.set(RDX, rest);
        self.flags = None;
        Ok(())
    }

    /// Of what a function keeps for its caller it need not know what it is.
    fn push(&mut self, register: u8) -> Result<(), Broken> {
        let at = usize::from(register);
        let pointer = self.pointer().wrapping_sub(8);
        self.set(RSP, pointer);
        self.memory.write_slot((self.general[at], self.known[at]), pointer, pointer)
    }

    fn pop(&mut self, register: u8) -> Result<(), Broken> {
        if register == RSP {
            return Err(Broken::new(Reason::Operands, format!("a new {}", NAMES[usize::from(RSP)])));
        }
        let pointer = self.pointer();
        let (value, known) = self.memory.read_slot(pointer, pointer)?;
        (self.general[usize::from(register)], self.known[usize::from(register)]) = (value, known);
        self.set(RSP, pointer.wrapping_add(8));
        Ok(())
    }
}

fn calculated(how: Arithmetic, a: u64, b: u64) -> u64 {
    match how {
        Arithmetic::Add => a.wrapping_add(b),
        Arithmetic::Subtract => a.wrapping_sub(b),
        Arithmetic::And => a & b,
        Arithmetic::Xor => a ^ b,
        Arithmetic::Multiply => a.wrapping_mul(b),
        // Of a count the lowest six bits are taken.
        Arithmetic::Left => a << (b & 63),
        Arithmetic::Right => a >> (b & 63),
        Arithmetic::SignedRight => ((a as i64) >> (b & 63)) as u64,
    }
}
