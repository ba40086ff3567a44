//! The devices under test.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::target::Caps;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::cuda::Cuda;
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::native::{Mask, NATIVES, VARIABLE, choose};
use jtllm_runtime::device::wgpu::{Adapter, Choice};

use crate::simulated::Simulated;

/// A device, and what it owes.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) device: Arc<dyn Device>,
    /// Whether arithmetic is that of the graph's interpreter, bit for bit; else as WebGPU allows: see
    /// `jtllm_codegen::emit::wgsl`.
    pub(crate) is_exact: bool,
}

/// The oldest processor of the kind, code with no more than SSE2: a fused product's sum is rounded to `f64` before `f32`.
pub(crate) const OLDEST: &str = "cranelift without ssse3";

/// Set where the mock driver is given.
pub(crate) const ON_MOCK: &str = "JTLLM_CONFORMANCE_ON_MOCK";

static SUBJECTS: LazyLock<Vec<Subject>> = LazyLock::new(|| {
    let mut subjects = vec![Subject {
        name: "interp",
        device: Arc::new(Interpreter::new(Caps::threads(32))),
        is_exact: true,
    }];
    for native in NATIVES.into_iter().filter(|native| is_wanted(native.name)) {
        let level = Level::ALL.into_iter().find(|(_, name)| *name == native.name);
        let device: Arc<dyn Device> = match ((native.open)(&Mask::default()), level) {
            (Ok(target), _) => Arc::new(Cpu::new(target, 2)),
            // Once is enough.
            (Err(_), Some(_)) if std::env::var_os(ON_MOCK).is_some() => continue,
            // What this processor lacks is interpreted, with all that processors may have beside it.
            (Err(_), Some((level, _))) => Arc::new(Simulated::new(X64::complete(level))),
            (Err(why), None) => {
                println!("skipped: {}: {why}", native.name);
                continue;
            }
        };
        subjects.push(Subject { name: native.name, device, is_exact: true });
    }
    let oldest = Mask::of("ssse3").and_then(|mask| choose(&mask, None));
    if is_wanted("cranelift") && std::env::var_os(ON_MOCK).is_none() {
        let device = Arc::new(Cpu::new(oldest.unwrap().target, 2));
        subjects.push(Subject { name: OLDEST, device, is_exact: true });
    }
    match Cuda::open(0) {
        Ok(device) => subjects.push(Subject { name: "cuda", device: Arc::new(device), is_exact: true }),
        Err(why) if std::env::var_os(ON_MOCK).is_some() => panic!("the mock driver has no device: {why}"),
        // All of this runs once more, on it.
        Err(_) if mock_driver().is_some() => {}
        Err(why) => println!("skipped: cuda: {why}"),
    }
    match Adapter::open(&Choice::default()) {
        Ok(adapter) => subjects.push(Subject { name: "wgpu", device: Arc::new(adapter), is_exact: false }),
        Err(why) => println!("skipped: wgpu: {why}"),
    }
    subjects
});

/// Whether code for the processor is to be made so: in every way, unless `JTLLM_CPU` names one.
fn is_wanted(name: &str) -> bool {
    let Some(wanted) = std::env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty()) else { return true };
    assert!(NATIVES.iter().any(|native| native.name == wanted), "{VARIABLE}={wanted} is no way to make code");
    wanted == name
}

/// The mock driver, if it was built with this suite: the whole suite runs once more on it, in a process of its own.
/// Where the suite is carried to a machine with a device, it is not.
pub(crate) fn mock_driver() -> Option<PathBuf> {
    let library = std::env::current_exe().unwrap().with_file_name("libmockcuda.so");
    library.exists().then_some(library)
}

/// How many lanes a kernel without schedules has: the elements of a vector, or a few threads.
pub(crate) fn plain_lanes(device: &dyn Device) -> u32 {
    let caps = device.target().caps();
    if caps.threads { 4 } else { caps.lanes }
}

/// The device of that name, if it is here.
pub(crate) fn device(name: &str) -> Option<&'static Subject> {
    SUBJECTS.iter().find(|subject| subject.name == name)
}

/// Runs a test on each device that is here.
pub(crate) fn for_each_device(test: impl Fn(&Subject)) {
    SUBJECTS.iter().for_each(test);
}
