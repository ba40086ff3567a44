//! A call: registers, and one operation after the other.

mod general;
mod vector;

use crate::decode::Program;
use crate::error::{Broken, Fault, Reason};
use crate::memory::{Buffer, Memory, stack_top};
use crate::operation::{Address, Condition, Lanes, Operation, RSP};

/// The names of general registers.
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
/// The registers of the arguments, in order.
const PASSED: [usize; 4] = [7, 6, 2, 1];
/// Registers that a function keeps for its caller.
const KEPT: [usize; 6] = [3, 5, 12, 13, 14, 15];

/// A call of a function: `fn(parameters, symbols, first group, end of groups)`.
pub struct Call<'a> {
    /// The parameters, in order.
    pub buffers: Vec<Buffer<'a>>,
    /// The symbol block.
    pub symbols: &'a [i32],
    /// The first group.
    pub first: u64,
    /// One behind the last group.
    pub end: u64,
    /// How many instructions the function may execute.
    pub steps_max: u64,
}

/// What a call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions.
    pub steps: u64,
}

/// The outcome of a comparison.
#[derive(Clone, Copy)]
struct Flags {
    equal: bool,
    /// Signed and unsigned, where numbers were compared.
    order: Option<(bool, bool)>,
}

struct Machine<'a> {
    memory: Memory<'a>,
    general: [u64; 16],
    /// How many low bytes of each general register mean something.
    known: [u8; 16],
    vectors: [Lanes; 32],
    vectors_known: u32,
    masks: [u16; 8],
    masks_known: u8,
    flags: Option<Flags>,
    /// Whether numbers below the least normal one are taken for 0.
    flushes: bool,
    /// Whether vectors have more than their lowest four lanes.
    is_wide: bool,
}

impl Program {
    /// Runs the function.
    ///
    /// # Errors
    /// The first instruction that does what it may not.
    pub fn run(&self, call: Call<'_>) -> Result<Stats, Fault> {
        let Call { buffers, symbols, first, end, steps_max } = call;
        let memory = Memory::new(&self.code, self.constants, symbols, buffers);
        let mut machine = Machine::new(memory, [first, end]);
        let mut stats = Stats::default();
        let mut at = 0;
        loop {
            let fault = |broken: Broken| {
                let offset = self.offsets[at];
                Fault { offset, text: self.text(offset), reason: broken.reason, why: broken.why }
            };
            if stats.steps == steps_max {
                let why = format!("more than {steps_max} instructions");
                return Err(fault(Broken::new(Reason::EndlessLoop, why)));
            }
            stats.steps += 1;
            match self.operations[at] {
                Operation::Jump { condition, to } => {
                    let jumps = match condition {
                        Some(condition) => machine.holds(condition).map_err(fault)?,
                        None => true,
                    };
                    at = if jumps { to } else { at + 1 };
                }
                Operation::Return => {
                    machine.finish().map_err(fault)?;
                    return Ok(stats);
                }
                operation => {
                    machine.execute(&operation).map_err(fault)?;
                    at += 1;
                }
            }
        }
    }
}

/// What a caller has in a register that the function must keep.
fn callers(register: usize) -> u64 {
    0x5eed_0000_0000_0000 | register as u64
}

impl<'a> Machine<'a> {
    fn new(memory: Memory<'a>, groups: [u64; 2]) -> Machine<'a> {
        let mut machine = Machine {
            memory,
            general: std::array::from_fn(callers),
            known: [0; 16],
            vectors: [[0xffff_ffff; 16]; 32],
            vectors_known: 0,
            masks: [0xffff; 8],
            masks_known: 0,
            flags: None,
            flushes: false,
            is_wide: false,
        };
        let [pointers, symbols] = Memory::arguments();
        for (register, value) in PASSED.into_iter().zip([pointers, symbols, groups[0], groups[1]]) {
            machine.set(register as u8, value);
        }
        machine.set(RSP, stack_top());
        machine
    }

    fn execute(&mut self, operation: &Operation) -> Result<(), Broken> {
        match operation {
            Operation::Vector(vector) => self.vector(vector),
            Operation::General(general) => self.general(general),
            Operation::Masks(masks) => self.combine(masks),
            Operation::Gather(gather) => self.gather(gather),
            Operation::Scatter(scatter) => self.scatter(scatter),
            Operation::Signs { to, from } => {
                let vector = self.vector_of(*from)?;
                let signs = (0..8).map(|lane| u64::from(vector[lane] >> 31) << lane).sum();
                self.set(*to, signs);
                Ok(())
            }
            Operation::TestVectors { a, b } => {
                let (a, b) = (self.vector_of(*a)?, self.vector_of(*b)?);
                let equal = a.iter().zip(b).take(8).all(|(a, b)| a & b == 0);
                self.flags = Some(Flags { equal, order: None });
                Ok(())
            }
            Operation::ZeroUpper => {
                self.vectors[..16].iter_mut().for_each(|vector| vector[4..].fill(0));
                self.is_wide = false;
                Ok(())
            }
            Operation::Control(from) => self.control(from),
            Operation::Nothing | Operation::Jump { .. } | Operation::Return => Ok(()),
        }
    }

    /// The word that says how floats are rounded.
    fn control(&mut self, from: &Address) -> Result<(), Broken> {
        let word = u32::from_le_bytes(self.memory.read(self.address(from)?, self.general[RSP as usize])?);
        self.flushes = match word {
            // All exceptions masked, to the nearest; and the same with two bits about what is below the least normal number.
            0x1f80 => false,
            0x9fc0 => true,
            _ => return Err(Broken::new(Reason::Control, format!("the control word {word:#x}"))),
        };
        Ok(())
    }

    fn holds(&self, condition: Condition) -> Result<bool, Broken> {
        let Some(Flags { equal, order }) = self.flags else {
            return Err(Broken::new(Reason::Uninitialised, "flags of no comparison"));
        };
        if let Condition::Equal | Condition::Unequal = condition {
            return Ok(equal == (condition == Condition::Equal));
        }
        let Some((less, below)) = order else {
            return Err(Broken::new(Reason::Uninitialised, "an order of what has none"));
        };
        Ok(match condition {
            Condition::Less => less,
            Condition::NotLess => !less,
            Condition::Greater => !less && !equal,
            Condition::Below => below,
            _ => !below,
        })
    }

    /// What a caller counts on.
    fn finish(&self) -> Result<(), Broken> {
        let broken = |why: String| Err(Broken::new(Reason::Convention, why));
        if self.general[RSP as usize] != stack_top() {
            return broken(format!("rsp is {:#x} and was {:#x}", self.general[RSP as usize], stack_top()));
        }
        if let Some(changed) = KEPT.into_iter().find(|register| self.general[*register] != callers(*register))
        {
            return broken(format!("{} is the caller's and has changed", NAMES[changed]));
        }
        if self.flushes {
            return broken("numbers below the least normal one are still taken for 0".to_owned());
        }
        if self.is_wide {
            return broken("the upper parts of vectors are not cleared".to_owned());
        }
        Ok(())
    }

    /// A general register, of which the caller wants so many bytes.
    fn get(&self, register: u8, bytes: u8) -> Result<u64, Broken> {
        let at = usize::from(register);
        if self.known[at] < bytes {
            let part = if self.known[at] == 0 { "" } else { ", but for its lowest byte" };
            let why = format!("nobody wrote {}{part}", NAMES[at]);
            return Err(Broken::new(Reason::Uninitialised, why));
        }
        Ok(self.general[at])
    }

    fn set(&mut self, register: u8, value: u64) {
        self.general[usize::from(register)] = value;
        self.known[usize::from(register)] = 8;
    }

    fn address(&self, address: &Address) -> Result<u64, Broken> {
        let base = match address.base {
            Some(base) => self.get(base, 8)?,
            None => 0,
        };
        let index = match address.index {
            Some((index, scale)) => self.get(index, 8)?.wrapping_mul(u64::from(scale)),
            None => 0,
        };
        Ok(base.wrapping_add(index).wrapping_add_signed(address.offset))
    }
}
