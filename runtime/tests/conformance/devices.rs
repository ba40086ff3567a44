//! The devices under test.

use std::sync::{Arc, LazyLock};

use jtllm_codegen::emit::cranelift::Cranelift;
use jtllm_codegen::target::Caps;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::wgpu::{Adapter, Choice};

/// A device, and what it owes.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) device: Arc<dyn Device>,
    /// Whether arithmetic is that of the graph's interpreter, bit for bit; else as WebGPU allows: see
    /// `jtllm_codegen::emit::wgsl`.
    pub(crate) is_exact: bool,
}

static SUBJECTS: LazyLock<Vec<Subject>> = LazyLock::new(|| {
    let mut subjects = vec![
        Subject {
            name: "cpu",
            device: Arc::new(Cpu::new(Box::new(Cranelift::host().unwrap()), 2)),
            is_exact: true,
        },
        Subject { name: "interp", device: Arc::new(Interpreter::new(Caps::threads(32))), is_exact: true },
    ];
    match Adapter::open(&Choice::default()) {
        Ok(adapter) => subjects.push(Subject { name: "wgpu", device: Arc::new(adapter), is_exact: false }),
        Err(why) => println!("skipped: wgpu: {why}"),
    }
    subjects
});

/// Runs a test on each device that is here.
pub(crate) fn for_each_device(test: impl Fn(&Subject)) {
    SUBJECTS.iter().for_each(test);
}
