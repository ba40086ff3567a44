//! A module of kernels, ready to be executed.

use std::sync::Arc;

use crate::instruction::{Instruction, Register, Special};

/// Where a parameter stands among the bytes of a launch's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its first byte.
    pub offset: u32,
    /// Its bytes.
    pub bytes: u32,
}

/// Declared registers: one, or as many as a prefix numbers.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) prefix: String,
    pub(crate) first: Register,
    pub(crate) count: u32,
    pub(crate) numbered: bool,
}

/// An entry of a module.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) parameter_bytes: u32,
    pub(crate) registers: u32,
    pub(crate) names: Vec<Names>,
    pub(crate) constants: Vec<(Register, u64)>,
    pub(crate) specials: Vec<(Register, Special)>,
    pub(crate) shared_bytes: u32,
    pub(crate) local_bytes: u32,
    /// Threads that a block may have, where the text says so.
    pub(crate) threads_max: Option<u32>,
    /// Whether warp groups multiply out of shared memory.
    pub(crate) multiplies: bool,
    pub(crate) code: Vec<Instruction>,
    pub(crate) module_memory: Arc<[u8]>,
}

impl Kernel {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its parameters stand.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Bytes of all parameters.
    pub fn parameter_bytes(&self) -> u32 {
        self.parameter_bytes
    }

    /// Bytes of shared memory that the text declares; a launch may add to them.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// Whether warp groups multiply out of shared memory (`wgmma`).
    pub fn multiplies(&self) -> bool {
        self.multiplies
    }

    /// The name of a register as the text has it.
    pub(crate) fn register_name(&self, register: Register) -> String {
        let found =
            self.names.iter().find(|names| (names.first..names.first + names.count).contains(&register));
        match found {
            Some(names) if names.numbered => format!("{}{}", names.prefix, register - names.first),
            Some(names) => names.prefix.clone(),
            None => "a constant".to_owned(),
        }
    }
}

/// A text's kernels.
#[derive(Clone, Debug)]
pub struct Module {
    /// The version of the language: major and minor.
    pub version: (u32, u32),
    /// The architecture: 80 for `sm_80`.
    pub target: u32,
    /// Whether the target is of that architecture alone (`sm_90a`).
    pub exact: bool,
    pub(crate) kernels: Vec<Kernel>,
}

impl Module {
    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|kernel| kernel.name == name)
    }

    /// All kernels, in the order of the text.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }
}
