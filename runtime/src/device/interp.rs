//! The loop-IR interpreter as a device: slow, exact, and the template for a new accelerator.

use jtllm_codegen::emit::interp::Interp;
use jtllm_codegen::kernel::interp::{self, Buffer, Memories, Options};
use jtllm_codegen::kernel::{Access, Kernel, parse};
use jtllm_codegen::target::{Artifact, Caps, Target};

use super::{Bytes, Device, DeviceError, DeviceInfo, Mem, Program, Span, host};

/// A kernel, and its form that runs.
struct Loaded {
    kernel: Kernel,
    program: interp::Program,
}

/// The interpreter as a device.
pub struct Interpreter {
    target: Interp,
}

impl Interpreter {
    /// An interpreter of kernels scheduled for those caps.
    pub fn new(caps: Caps) -> Interpreter {
        Interpreter { target: Interp::new(caps) }
    }

    fn failed(why: String) -> DeviceError {
        DeviceError::Run { device: "the interpreter".to_owned(), why }
    }
}

impl Device for Interpreter {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "interp".to_owned(), memory: None, threads: 1, without: None }
    }

    fn target(&self) -> &dyn Target {
        &self.target
    }

    fn alloc(&self, len: u64) -> Result<Mem, DeviceError> {
        host::alloc("the interpreter", len)
    }

    fn adopt(&self, bytes: &Bytes, offset: u64, len: u64, alignment: u64) -> Option<Mem> {
        host::adopt(bytes, offset, len, alignment)
    }

    fn is_host(&self) -> bool {
        true
    }

    fn write(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        host::write(to, bytes);
        Ok(())
    }

    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        host::read(from, bytes);
        Ok(())
    }

    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError> {
        let load = |artifact: &Artifact| {
            let text = std::str::from_utf8(&artifact.bytes).map_err(|error| error.to_string())?;
            let kernel = parse::parse(text).map_err(|error| error.to_string())?;
            let program = interp::Program::new(&kernel).map_err(|error| error.to_string())?;
            Ok(Program::new(Loaded { kernel, program }))
        };
        let refused = |why| DeviceError::Load { device: "the interpreter".to_owned(), why };
        kernels.iter().map(|(_, artifact)| load(artifact).map_err(refused)).collect()
    }

    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError> {
        let loaded = program.inner::<Loaded>().expect("the interpreter is given its own programs");
        let total = groups.iter().map(|n| u64::from(*n)).product::<u64>();
        // SAFETY: the symbol block is 256 bytes of owned memory, aligned to 256, and nobody writes it now.
        let symbols = unsafe { std::slice::from_raw_parts(host::address(symbols).cast::<i32>(), 64) };
        let mut params = Vec::new();
        for (param, span) in loaded.kernel.params.iter().zip(args) {
            let (address, len) = (host::address(span), span.len as usize);
            params.push(match param.access {
                // SAFETY: the span has that many bytes, and no written parameter of the launch overlaps it,
                // as the plan lays buffers out.
                Access::Read => Buffer::Read(unsafe { std::slice::from_raw_parts(address, len) }),
                Access::Write | Access::Update => {
                    // SAFETY: as above; written parameters are owned memory.
                    Buffer::Write(unsafe { std::slice::from_raw_parts_mut(address, len) })
                }
            });
        }
        let mut memories = Memories { params, symbols };
        let options = Options { threads: self.target.caps().threads };
        loaded
            .program
            .run(&mut memories, 0..total, options)
            .map_err(|error| Interpreter::failed(error.to_string()))
    }
}
