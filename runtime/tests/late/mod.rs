//! Devices with a memory of their own, for tests: one whose launches run late, one whose allocations are counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jtllm_runtime::DeviceError;
use jtllm_runtime::codegen::emit::cranelift::Cranelift;
use jtllm_runtime::codegen::kernel::Kernel;
use jtllm_runtime::codegen::target::{Artifact, Target};
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::{Bytes, Device, DeviceInfo, Mark, Mem, Program, Span};

/// Bytes of memory, now and at the most.
#[derive(Default)]
pub(crate) struct Meter {
    pub(crate) now: AtomicU64,
    pub(crate) peak: AtomicU64,
}

/// Bytes that are given back with the memory that has them.
struct Taken(Arc<Meter>, u64);

impl Taken {
    fn of(meter: &Arc<Meter>, len: u64) -> Arc<Taken> {
        let now = meter.now.fetch_add(len, Ordering::SeqCst) + len;
        meter.peak.fetch_max(now, Ordering::SeqCst);
        Arc::new(Taken(meter.clone(), len))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.now.fetch_sub(self.1, Ordering::SeqCst);
    }
}

struct Launch {
    program: Program,
    groups: [u32; 3],
    symbols: Span,
    args: Vec<Span>,
}

/// Launches that nobody has waited for, and how many there were before them.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Launch>,
    done: u64,
}

/// The processor and what it has not done yet.
struct Lazy {
    processor: Cpu,
    queue: Mutex<Queue>,
}

impl Lazy {
    /// Runs what was launched before the one of that number.
    fn run(&self, until: u64) -> Result<(), DeviceError> {
        let mut queue = self.queue.lock().unwrap();
        while queue.done < until {
            let Some(Launch { program, groups, symbols, args }) = queue.waiting.pop_front() else { break };
            queue.done += 1;
            self.processor.launch(&program, groups, &symbols, &args)?;
        }
        Ok(())
    }
}

/// The processor, which plays a device with a memory of its own that does nothing before somebody waits for it, but for
/// what is filled and fetched: that is there at once. So whoever fills too early spoils what a launch reads, and whoever
/// fetches too early misses what it writes.
pub(crate) struct Late(Arc<Lazy>);

impl Late {
    pub(crate) fn device() -> Arc<dyn Device> {
        let processor = Cpu::new(Box::new(Cranelift::host().unwrap()), 1);
        Arc::new(Late(Arc::new(Lazy { processor, queue: Mutex::default() })))
    }
}

/// The end of so many launches.
struct End {
    lazy: Arc<Lazy>,
    number: u64,
}

impl Mark for End {
    fn is_over(&self) -> Result<bool, DeviceError> {
        Ok(self.lazy.queue.lock().unwrap().done >= self.number)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.lazy.run(self.number)
    }
}

impl Device for Late {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { name: "the late device".to_owned(), memory: None, threads: 0, without: None }
    }

    fn target(&self) -> &dyn Target {
        self.0.processor.target()
    }

    fn alloc(&self, len: u64) -> Result<Mem, DeviceError> {
        self.0.processor.alloc(len)
    }

    fn adopt(&self, _: &Bytes, _: u64, _: u64, _: u64) -> Option<Mem> {
        None
    }

    fn write(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.run(u64::MAX)?;
        self.0.processor.write(to, bytes)
    }

    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.run(u64::MAX)?;
        self.0.processor.read(from, bytes)
    }

    fn fill(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.processor.write(to, bytes)
    }

    fn fetch(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.0.processor.read(from, bytes)
    }

    fn mark(&self) -> Result<Option<Box<dyn Mark>>, DeviceError> {
        let queue = self.0.queue.lock().unwrap();
        let number = queue.done + queue.waiting.len() as u64;
        Ok(Some(Box::new(End { lazy: self.0.clone(), number })))
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.0.run(u64::MAX)
    }

    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError> {
        self.0.processor.load(kernels)
    }

    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError> {
        let (program, symbols, args) = (program.clone(), symbols.clone(), args.to_vec());
        self.0.queue.lock().unwrap().waiting.push_back(Launch { program, groups, symbols, args });
        Ok(())
    }
}

/// A device whose allocations are counted, and some of whose calls fail.
pub(crate) struct Metered {
    inner: Arc<dyn Device>,
    pub(crate) meter: Arc<Meter>,
    /// What it says that one memory may have at the most; it gives more to those who do not ask.
    memory_max: u64,
    /// Allocations, fills and fetches that succeed.
    pub(crate) allocs_left: AtomicI64,
    pub(crate) fills_left: AtomicI64,
    pub(crate) fetches_left: AtomicI64,
}

impl Metered {
    pub(crate) fn new(inner: Arc<dyn Device>) -> Arc<Metered> {
        Metered::in_pieces(inner, u64::MAX)
    }

    pub(crate) fn in_pieces(inner: Arc<dyn Device>, memory_max: u64) -> Arc<Metered> {
        let left = || AtomicI64::new(i64::MAX);
        let (allocs_left, fills_left, fetches_left) = (left(), left(), left());
        Arc::new(Metered { inner, meter: Arc::default(), memory_max, allocs_left, fills_left, fetches_left })
    }

    pub(crate) fn peak(&self) -> u64 {
        self.meter.peak.load(Ordering::SeqCst)
    }
}

impl Device for Metered {
    fn info(&self) -> DeviceInfo {
        self.inner.info()
    }

    fn target(&self) -> &dyn Target {
        self.inner.target()
    }

    fn alloc(&self, len: u64) -> Result<Mem, DeviceError> {
        if self.allocs_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            let (device, why) = (self.info().name, "it is full".to_owned());
            return Err(DeviceError::OutOfMemory { device, need: len, why });
        }
        Ok(self.inner.alloc(len)?.with(Taken::of(&self.meter, len)))
    }

    fn adopt(&self, bytes: &Bytes, offset: u64, len: u64, alignment: u64) -> Option<Mem> {
        self.inner.adopt(bytes, offset, len, alignment)
    }

    fn write(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        self.inner.write(to, bytes)
    }

    fn read(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.inner.read(from, bytes)
    }

    fn copy(&self, to: &Span, from: &Span) -> Result<(), DeviceError> {
        self.inner.copy(to, from)
    }

    fn fill(&self, to: &Span, bytes: &[u8]) -> Result<(), DeviceError> {
        if self.fills_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            let why = "the device is lost".to_owned();
            return Err(DeviceError::Run { device: self.info().name, why });
        }
        self.inner.fill(to, bytes)
    }

    fn fetch(&self, from: &Span, bytes: &mut [u8]) -> Result<(), DeviceError> {
        if self.fetches_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            let why = "the device is lost".to_owned();
            return Err(DeviceError::Run { device: self.info().name, why });
        }
        self.inner.fetch(from, bytes)
    }

    fn mark(&self) -> Result<Option<Box<dyn Mark>>, DeviceError> {
        self.inner.mark()
    }

    fn memory_max(&self) -> u64 {
        self.memory_max.min(self.inner.memory_max())
    }

    fn finish(&self) -> Result<(), DeviceError> {
        self.inner.finish()
    }

    fn load(&self, kernels: &[(&Kernel, Artifact)]) -> Result<Vec<Program>, DeviceError> {
        self.inner.load(kernels)
    }

    fn launch(
        &self,
        program: &Program,
        groups: [u32; 3],
        symbols: &Span,
        args: &[Span],
    ) -> Result<(), DeviceError> {
        self.inner.launch(program, groups, symbols, args)
    }
}
