//! A kernel's code, run by the interpreter of x86-64, and natively where the processor has what it needs: every bit that
//! both leave behind is the same.

use jtllm_codegen::emit::x64::X64;
use jtllm_codegen::kernel::{Access, Kernel};
use jtllm_codegen::target::Target;
use jtllm_x64sim::{Buffer, Call, Fault, Program, Stats};

use crate::native::{Native, groups};

/// No kernel of the tests needs as many instructions.
pub(crate) const STEPS_MAX: u64 = 1 << 30;

/// Runs some groups of a kernel's code in the interpreter of x86-64.
pub(crate) fn simulate(
    program: &Program,
    kernel: &Kernel,
    params: &mut [Vec<u8>],
    symbols: &[i32],
    groups: std::ops::Range<u64>,
    steps_max: u64,
) -> Result<Stats, Fault> {
    let buffers = params.iter_mut().zip(&kernel.params).map(|(bytes, param)| {
        let element = param.dtype.size();
        match param.access {
            Access::Read => Buffer::Read { bytes, element },
            Access::Write | Access::Update => Buffer::Write { bytes, element },
        }
    });
    let (first, end) = (groups.start, groups.end);
    program.run(Call { buffers: buffers.collect(), symbols, first, end, steps_max })
}

pub(crate) struct Code {
    kernel: Kernel,
    program: Program,
    native: Option<Native>,
    variant: String,
}

impl Code {
    /// Assembles a kernel.
    pub(crate) fn of(target: &X64, kernel: &Kernel) -> Code {
        let bytes = target.emit(kernel).unwrap().bytes;
        let program =
            Program::decode(&bytes).unwrap_or_else(|error| panic!("{}: {error}\n{kernel}", target.variant()));
        let native = target.is_here().then(|| Native::with(target, kernel));
        Code { kernel: kernel.clone(), program, native, variant: target.variant() }
    }

    /// Runs all groups.
    pub(crate) fn run(&self, params: &mut [Vec<u8>], symbols: &[i32]) {
        self.run_groups(params, symbols, 0, groups(&self.kernel, symbols));
    }

    /// Runs some groups.
    pub(crate) fn run_groups(&self, params: &mut [Vec<u8>], symbols: &[i32], first: u64, end: u64) {
        let mut native = params.to_vec();
        if let Err(fault) = simulate(&self.program, &self.kernel, params, symbols, first..end, STEPS_MAX) {
            panic!("{}: {fault}\n{}", self.variant, self.kernel);
        }
        let Some(code) = &self.native else { return };
        code.run_groups(&mut native, symbols, first, end);
        for (at, (found, expected)) in params.iter().zip(&native).enumerate() {
            if found != expected {
                let place = found.iter().zip(expected).position(|(found, expected)| found != expected);
                panic!(
                    "{}: byte {place:?} of p{at} differs from what the processor leaves\n{}",
                    self.variant, self.kernel
                );
            }
        }
    }
}
