//! A device for code of instruction sets that this processor may lack: the interpreter of x86-64 runs it.

use jtllm_runtime::DeviceError;
use jtllm_runtime::codegen::emit::x64::X64;
use jtllm_runtime::codegen::kernel::Kernel;
use jtllm_runtime::codegen::target::{Artifact, Target};
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::{Bytes, Device, DeviceInfo, Mem, Program, Span};
use jtllm_x64sim::{Buffer, Call};

/// No kernel of a test's model needs as many instructions.
const STEPS_MAX: u64 = 1 << 32;
/// Symbols of a pass.
const SYMBOLS: usize = 64;

/// Code, and of each parameter whether it is written and the bytes of an element.
struct Loaded {
    program: jtllm_x64sim::Program,
    params: Vec<(bool, usize)>,
}

/// The device.
pub(crate) struct Simulated {
    target: X64,
    /// Its memory is the host's, as this device's is.
    memory: Interpreter,
}

impl Simulated {
    pub(crate) fn new(target: X64) -> Simulated {
        let memory = Interpreter::new(target.caps().clone());
        Simulated { target, memory }
    }
}

impl Device for Simulated {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: self.target.variant(), memory: None, threads: 1, without: None }
    }

    fn target(&self) -> &dyn Target {
        &self.target
    }

    fn alloc(&self, len: u64) -> Result<Mem, DeviceError> {
        self.memory.alloc(len)
    }

    fn adopt(&self, bytes: &Bytes, offset: u64, len: u64, alignment: u64) -> Option<Mem> {
        self.memory.adopt(bytes, offset, len, alignment)
    }

    fn is_host(&self) -> bool {
        true
    }

    fn write(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        self.memory.write(to, bytes)
    }

    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.memory.read(from, bytes)
    }

    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError> {
        let load = |(kernel, artifact): &(&Kernel, Artifact)| {
            let program = jtllm_x64sim::Program::decode(&artifact.bytes)
                .unwrap_or_else(|error| panic!("{}: {error}\n{kernel}", self.target.variant()));
            let params = kernel.params.iter().map(|param| (param.access.writes(), param.dtype.size()));
            Program::new(Loaded { program, params: params.collect() })
        };
        Ok(kernels.iter().map(load).collect())
    }

    /// A fault is the test's failure: a model would go on elsewhere after a device's error.
    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError> {
        let loaded: &Loaded = program.inner().expect("the device is given its own programs");
        let read = |span: &Span| {
            let mut bytes = vec![0; span.len as usize];
            self.memory.read(span, &mut bytes).map(|()| bytes)
        };
        let block = read(symbols)?;
        let symbols: Vec<i32> =
            block.as_chunks().0.iter().take(SYMBOLS).map(|symbol| i32::from_le_bytes(*symbol)).collect();
        let mut memories = args.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let buffers = memories.iter_mut().zip(&loaded.params).map(|(bytes, (writes, element))| {
            let element = *element;
            if *writes { Buffer::Write { bytes, element } } else { Buffer::Read { bytes, element } }
        });
        let end = groups.iter().map(|n| u64::from(*n)).product();
        let call =
            Call { buffers: buffers.collect(), symbols: &symbols, first: 0, end, steps_max: STEPS_MAX };
        if let Err(fault) = loaded.program.run(call) {
            panic!("{}: {fault}", self.target.variant());
        }
        let written = args.iter().zip(&memories).zip(&loaded.params).filter(|(_, (writes, _))| *writes);
        for ((span, bytes), _) in written {
            self.memory.write(span, bytes)?;
        }
        Ok(())
    }
}
