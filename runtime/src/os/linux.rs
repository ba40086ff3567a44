//! What only Linux offers: the futex and the affinity of a thread.

use std::io;
use std::sync::atomic::AtomicU32;

use rustix::thread::{self, CpuSet, futex};

/// Sleeps while `*word == expected`. May return early for no reason; the caller looks again.
pub fn wait(word: &AtomicU32, expected: u32) {
    // Every outcome (woken, changed already, interrupted) sends the caller back to look at the word.
    let _ = futex::wait(word, futex::Flags::PRIVATE, expected, None);
}

/// Wakes every thread that sleeps in [`wait`] on this word. The word is changed first.
pub fn wake_all(word: &AtomicU32) {
    // The kernel reads the count as a signed number.
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
}

/// The logical CPUs that the calling thread may run on, ascending; never empty.
pub fn allowed_cpus() -> Vec<usize> {
    // The call fails where the machine has more CPUs than the set holds; the count is then all that is known.
    let Ok(set) = thread::sched_getaffinity(None) else { return super::portable::allowed_cpus() };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect();
    if cpus.is_empty() { super::portable::allowed_cpus() } else { cpus }
}

/// The logical CPU that the calling thread runs on at this moment.
pub fn current_cpu() -> Option<usize> {
    Some(thread::sched_getcpu())
}

/// Whether a graphics processor can be here: each driver has files in `/dev` through which programs reach it.
pub fn may_have_graphics() -> bool {
    let drivers = ["/dev/dri", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/mali0", "/dev/kgsl-3d0"];
    drivers.iter().any(|path| std::path::Path::new(path).exists())
}

/// Binds the calling thread to these logical CPUs.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        if cpu >= CpuSet::MAX_CPU {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no CPU number {cpu}")));
        }
        set.set(cpu);
    }
    Ok(thread::sched_setaffinity(None, &set)?)
}

/// Lets the calling thread run only where others leave it time. Nothing depends on it.
pub fn yield_to_others() {
    // On Linux niceness belongs to a thread.
    let _ = rustix::process::nice(10);
}

/// Has the system take back what was freed and the allocator keeps: glibc has an arena for each thread.
pub fn trim_heap() {
    // SAFETY: only pages that hold nothing are given back.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}
