//! Operations on vectors and masks.

use super::{Flags, Machine};
use crate::error::{Broken, Reason};
use crate::operation::{
    Address, Bits, Control, Lanes, Logic, Mask, Masks, Outside, RSP, Scattered, Source, Target, Vector,
};

impl Machine<'_> {
    pub(super) fn vector(&mut self, vector: &Vector) -> Result<(), Broken> {
        let active = self.active(vector.mask, vector.lanes)?;
        let mut inputs = [[0; 16]; 3];
        let mut count = 0;
        for register in vector.reads.iter().flatten() {
            inputs[count] = *self.vector_of(*register)?;
            count += 1;
        }
        inputs[count] = self.fetch(vector, active)?;
        let function = match vector.control {
            Control::Usual if self.flushes => {
                let why = "arithmetic while numbers below the least normal one are taken for 0";
                return Err(Broken::new(Reason::Control, why));
            }
            Control::Flushing(function) if self.flushes => function,
            _ => vector.function,
        };
        let result = function(&inputs, vector.immediate);
        self.put(vector, active, &result)
    }

    pub(super) fn vector_of(&self, register: u8) -> Result<&Lanes, Broken> {
        if self.vectors_known >> register & 1 == 0 {
            let why = format!("nobody wrote vector register {register}");
            return Err(Broken::new(Reason::Uninitialised, why));
        }
        Ok(&self.vectors[usize::from(register)])
    }

    fn set_vector(&mut self, register: u8, lanes: Lanes, wide: bool) {
        self.vectors[usize::from(register)] = lanes;
        self.vectors_known |= 1 << register;
        self.is_wide |= wide;
    }

    fn mask_of(&self, register: u8) -> Result<u16, Broken> {
        if self.masks_known >> register & 1 == 0 {
            let why = format!("nobody wrote mask register {register}");
            return Err(Broken::new(Reason::Uninitialised, why));
        }
        Ok(self.masks[usize::from(register)])
    }

    fn set_mask(&mut self, register: u8, bits: u16) {
        self.masks[usize::from(register)] = bits;
        self.masks_known |= 1 << register;
    }

    /// A bit for each lane that takes part.
    fn active(&self, mask: Mask, lanes: u8) -> Result<u16, Broken> {
        let all = u16::MAX >> (16 - lanes);
        Ok(all
            & match mask {
                Mask::All => all,
                Mask::Register(register) => self.mask_of(register)?,
                Mask::Signs(register) => {
                    let signs = self.vector_of(register)?.iter().enumerate();
                    signs.fold(0, |bits, (lane, x)| bits | ((x >> 31) as u16) << lane)
                }
            })
    }

    /// The last operand: elements as words.
    fn fetch(&mut self, vector: &Vector, active: u16) -> Result<Lanes, Broken> {
        let (lanes, element) = (usize::from(vector.lanes), usize::from(vector.element));
        let pointer = self.general[usize::from(RSP)];
        match vector.last {
            Source::Register(register) => {
                let from = *self.vector_of(register)?;
                if element == 4 {
                    return Ok(from);
                }
                let bytes: [u8; 64] = std::array::from_fn(|at| from[at / 4].to_le_bytes()[at % 4]);
                Ok(words(&bytes, element))
            }
            Source::General(register) => Ok([self.get(register, 4)? as u32; 16]),
            Source::Spread(address) => {
                let mut bytes = [0; 4];
                let address = self.address(&address)?;
                self.memory.read_to(&mut bytes[..element], address, pointer)?;
                Ok([u32::from_le_bytes(bytes); 16])
            }
            Source::Memory(address) => {
                let address = self.address(&address)?;
                let mut bytes = [0; 64];
                if active == u16::MAX >> (16 - lanes) {
                    self.memory.read_to(&mut bytes[..lanes * element], address, pointer)?;
                } else {
                    for lane in (0..lanes).filter(|lane| active >> lane & 1 == 1) {
                        let place = lane * element;
                        let to = &mut bytes[place..place + element];
                        self.memory.read_to(to, address.wrapping_add(place as u64), pointer)?;
                    }
                }
                Ok(words(&bytes, element))
            }
        }
    }

    fn put(&mut self, vector: &Vector, active: u16, result: &Lanes) -> Result<(), Broken> {
        let (lanes, narrow) = (usize::from(vector.lanes), usize::from(vector.narrow));
        let is_active = |lane: usize| active >> lane & 1 == 1;
        match vector.to {
            Target::Vector(register) => {
                let mut all = [0; 16];
                if narrow < 4 {
                    let bytes = bytes_of(result, lanes, narrow);
                    all = words(&bytes, 4);
                } else if active == u16::MAX >> (16 - lanes) {
                    all[..lanes].copy_from_slice(&result[..lanes]);
                } else {
                    let outside = match vector.outside {
                        Outside::Zero => [0; 16],
                        Outside::Of(register) => *self.vector_of(register)?,
                    };
                    for (lane, to) in all.iter_mut().enumerate().take(lanes) {
                        *to = if is_active(lane) { result[lane] } else { outside[lane] };
                    }
                }
                self.set_vector(register, all, lanes * narrow > 16);
            }
            Target::Mask(register) => {
                let bits = (0..lanes).fold(0, |bits, lane| bits | u16::from(result[lane] != 0) << lane);
                self.set_mask(register, bits & active);
            }
            Target::General(register) => self.set(register, u64::from(result[0])),
            Target::Memory(address) => {
                let pointer = self.general[usize::from(RSP)];
                let address = self.address(&address)?;
                let bytes = bytes_of(result, lanes, narrow);
                if active == u16::MAX >> (16 - lanes) {
                    return self.memory.write(&bytes[..lanes * narrow], address, pointer);
                }
                for lane in (0..lanes).filter(|lane| is_active(*lane)) {
                    let place = lane * narrow;
                    let from = &bytes[place..place + narrow];
                    self.memory.write(from, address.wrapping_add(place as u64), pointer)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn combine(&mut self, masks: &Masks) -> Result<(), Broken> {
        let pointer = self.general[usize::from(RSP)];
        match *masks {
            Masks::Load { to, from } => {
                let bits = match from {
                    Bits::Mask(register) => self.mask_of(register)?,
                    Bits::General(register) => self.get(register, 4)? as u16,
                    Bits::Memory(address) => {
                        u16::from_le_bytes(self.memory.read(self.address(&address)?, pointer)?)
                    }
                };
                self.set_mask(to, bits);
            }
            Masks::Store { to, from } => {
                let bits = self.mask_of(from)?;
                match to {
                    Bits::Mask(register) => self.set_mask(register, bits),
                    Bits::General(register) => self.set(register, u64::from(bits)),
                    Bits::Memory(address) => {
                        let address = self.address(&address)?;
                        self.memory.write(&bits.to_le_bytes(), address, pointer)?;
                    }
                }
            }
            Masks::Combine { how, to, a, b } => {
                let (a, b) = (self.mask_of(a)?, self.mask_of(b)?);
                let bits = match how {
                    Logic::And => a & b,
                    Logic::AndNot => !a & b,
                    Logic::Or => a | b,
                    Logic::Xor => a ^ b,
                };
                self.set_mask(to, bits);
            }
            Masks::Test { a, b } => {
                let equal = self.mask_of(a)? | self.mask_of(b)? == 0;
                self.flags = Some(Flags { equal, order: None });
            }
        }
        Ok(())
    }

    /// Where each lane's element is, and the lanes that take part.
    fn places(&self, scattered: &Scattered) -> Result<(u16, [u64; 16]), Broken> {
        let active = self.active(scattered.mask, scattered.lanes)?;
        let (index, scale) = scattered.address.index.unwrap_or_default();
        let base = self.address(&Address { index: None, ..scattered.address })?;
        let places = self.vector_of(index)?.map(|index| {
            let index = i64::from(index as i32) as u64;
            base.wrapping_add(index.wrapping_mul(u64::from(scale)))
        });
        Ok((active, places))
    }

    /// Uses up the mask.
    fn spend(&mut self, mask: Mask) {
        match mask {
            Mask::All => {}
            Mask::Register(register) => self.set_mask(register, 0),
            Mask::Signs(register) => self.set_vector(register, [0; 16], true),
        }
    }

    pub(super) fn gather(&mut self, gather: &Scattered) -> Result<(), Broken> {
        let (index, scale) = gather.address.index.unwrap_or_default();
        let mask = match gather.mask {
            Mask::Signs(register) => Some(register),
            _ => None,
        };
        if gather.vector == index || mask == Some(index) || mask == Some(gather.vector) {
            return Err(Broken::new(Reason::Operands, "a gather whose registers are not apart"));
        }
        let (active, places) = self.places(gather)?;
        let pointer = self.general[usize::from(RSP)];
        let mut lanes = *self.vector_of(gather.vector)?;
        lanes[usize::from(gather.lanes)..].fill(0);
        for lane in (0..usize::from(gather.lanes)).filter(|lane| active >> lane & 1 == 1) {
            lanes[lane] = match scale {
                1 => self.memory.read_around(places[lane], pointer)?,
                _ => u32::from_le_bytes(self.memory.read(places[lane], pointer)?),
            };
        }
        self.set_vector(gather.vector, lanes, true);
        self.spend(gather.mask);
        Ok(())
    }

    pub(super) fn scatter(&mut self, scatter: &Scattered) -> Result<(), Broken> {
        let (active, places) = self.places(scatter)?;
        let pointer = self.general[usize::from(RSP)];
        let lanes = *self.vector_of(scatter.vector)?;
        for lane in (0..usize::from(scatter.lanes)).filter(|lane| active >> lane & 1 == 1) {
            self.memory.write(&lanes[lane].to_le_bytes(), places[lane], pointer)?;
        }
        self.spend(scatter.mask);
        Ok(())
    }
}

/// Elements side by side, each as a word.
fn words(bytes: &[u8; 64], element: usize) -> Lanes {
    match element {
        4 => std::array::from_fn(|lane| u32::from_le_bytes(std::array::from_fn(|at| bytes[4 * lane + at]))),
        2 => std::array::from_fn(|lane| u32::from(bytes[2 * lane]) | u32::from(bytes[2 * lane + 1]) << 8),
        _ => std::array::from_fn(|lane| u32::from(bytes[lane])),
    }
}

/// The low bytes of lanes, side by side.
fn bytes_of(lanes: &Lanes, count: usize, narrow: usize) -> [u8; 64] {
    let mut bytes = [0; 64];
    for (lane, to) in lanes.iter().take(count).zip(bytes.chunks_exact_mut(narrow)) {
        to.copy_from_slice(&lane.to_le_bytes()[..narrow]);
    }
    bytes
}
