//! The processor: machine code run by a pool of pinned threads, each taking piece after piece of the groups.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::target::{Artifact, Target};

use super::cores::Cores;
pub use super::cores::caps;
use super::threads::{PinnedCaller, Pool, Threads};
use super::{Bytes, Device, DeviceError, DeviceInfo, Mem, Program, Span, host};
use crate::code::CodeMemory;

/// The form of emitted functions: parameters, symbol block, first group, end of groups.
type Entry = unsafe extern "C" fn(*const *mut u8, *const i32, u64, u64);

/// Pieces of a launch for each worker: groups need not be equally long, nor are cores equally fast.
const PIECES: u64 = 4;

/// A kernel in executable memory.
struct Loaded {
    code: Arc<CodeMemory>,
    index: usize,
}

/// The processor as a device.
pub struct Cpu {
    target: Cores,
    pool: Pool,
}

impl Cpu {
    /// A device that runs the target's code on `threads` threads.
    pub fn new(target: Box<dyn Target>, threads: usize) -> Cpu {
        let pool = Pool::new(Threads { count: threads.max(1), pin: true });
        Cpu { target: Cores::new(target, pool.count()), pool }
    }

    /// The threads that compute.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}

impl Device for Cpu {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "cpu".to_owned(), memory: None, threads: self.pool.count(), without: None }
    }

    fn target(&self) -> &dyn Target {
        &self.target
    }

    fn alloc(&self, len: u64) -> Result<Mem, DeviceError> {
        host::alloc("the CPU", len)
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

    fn pin(&self) -> Option<PinnedCaller> {
        Some(self.pool.pin_caller())
    }

    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError> {
        let code: Vec<&[u8]> = kernels.iter().map(|(_, artifact)| artifact.bytes.as_slice()).collect();
        let code = CodeMemory::new(&code)
            .map_err(|error| DeviceError::Load { device: "the CPU".to_owned(), why: error.to_string() })?;
        let code = Arc::new(code);
        let program = |index| Program::new(Loaded { code: code.clone(), index });
        Ok((0..kernels.len()).map(program).collect())
    }

    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError> {
        let loaded = program.inner::<Loaded>().expect("the CPU is given its own programs");
        let total = groups.iter().map(|n| u64::from(*n)).product::<u64>();
        let params: Vec<usize> = args.iter().map(|span| host::address(span) as usize).collect();
        let symbols = host::address(symbols) as usize;
        // SAFETY: the entry point is machine code that a target emitted for this very signature.
        let entry: Entry = unsafe { std::mem::transmute(loaded.code.entry(loaded.index)) };
        let count = self.pool.count() as u64;
        let piece = if count == 1 { total } else { total.div_ceil(count * PIECES) };
        let next = AtomicU64::new(0);
        let work = |_| {
            loop {
                // Which worker has a piece changes no bit; what it writes is seen by all when the round is joined.
                let first = next.fetch_add(piece, Ordering::Relaxed);
                if first >= total {
                    return;
                }
                let end = total.min(first + piece);
                // SAFETY: the kernel was verified: it touches only its parameters, inside the lengths that
                // the plan gave them; the groups of one launch write different elements.
                unsafe { entry(params.as_ptr().cast(), symbols as *const i32, first, end) }
            }
        };
        if total == 1 {
            work(0)
        } else {
            self.pool.run(&work)
        }
        Ok(())
    }
}
