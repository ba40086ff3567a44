//! Runs a kernel: blocks on threads of the host, warps of a block one after another.

mod access;
mod bits;
mod block;
mod copies;
mod float;
mod group;
mod integer;
mod lanes;
mod matrix;
pub(crate) mod memory;
mod shared;
mod step;
mod units;
mod warp;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::error::{Fault, Reason};
use crate::kernel::Kernel;
use block::Worker;
use memory::Memory;

/// Threads that a block may have.
const THREADS_MAX: u64 = 1024;
/// Instructions of one block, each counted once for a warp.
const STEPS: u64 = 1 << 32;

/// What a launch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instructions, each counted once for a warp.
    pub steps: u64,
    /// The same, counted once for each lane that took part.
    pub lane_steps: u64,
    /// Barriers that blocks passed.
    pub barriers: u64,
    /// Branches at which the lanes of a warp parted.
    pub partings: u64,
}

impl Stats {
    fn add(&mut self, other: Stats) {
        self.steps += other.steps;
        self.lane_steps += other.lane_steps;
        self.barriers += other.barriers;
        self.partings += other.partings;
    }
}

/// A kernel, its grid and its parameters.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Blocks in three directions.
    pub grid: [u32; 3],
    /// Threads of a block in three directions.
    pub block: [u32; 3],
    /// Bytes of shared memory beyond those that the text declares.
    pub shared_bytes: u32,
    /// The parameters' bytes, laid out as [`Kernel::parameters`] says.
    pub parameters: &'a [u8],
    /// Instructions that a block may execute; a warp's count once.
    pub steps_max: u64,
    /// Threads of the host that run blocks.
    pub threads: usize,
}

impl<'a> Launch<'a> {
    /// A launch on one thread, with nothing but what the text declares.
    pub fn new(kernel: &'a Kernel, grid: [u32; 3], block: [u32; 3], parameters: &'a [u8]) -> Launch<'a> {
        Launch { kernel, grid, block, shared_bytes: 0, parameters, steps_max: STEPS, threads: 1 }
    }

    fn refused(&self, why: String) -> Fault {
        let kernel = self.kernel.name.clone();
        Fault { kernel, line: 0, block: [0; 3], thread: None, reason: Reason::Launch, why }
    }

    fn check(&self) -> Result<(), Fault> {
        let product = |of: [u32; 3]| of.iter().map(|n| u64::from(*n)).fold(1, u64::saturating_mul);
        let threads = product(self.block);
        let most = self.kernel.threads_max.map_or(THREADS_MAX, |most| u64::from(most).min(THREADS_MAX));
        if threads == 0 || threads > most {
            return Err(self.refused(format!("a block of {threads} threads, expected 1 to {most}")));
        }
        if product(self.grid) == 0 {
            return Err(self.refused("a grid without blocks".to_owned()));
        }
        let (has, wants) = (self.parameters.len(), self.kernel.parameter_bytes as usize);
        if has != wants {
            return Err(self.refused(format!("{has} bytes of parameters, the kernel has {wants}")));
        }
        Ok(())
    }

    /// Runs all blocks.
    ///
    /// # Errors
    /// The first fault that was found; what the kernel had written until then is written.
    pub fn run(&self, memory: &Memory) -> Result<Stats, Fault> {
        self.check()?;
        let [wide, high, deep] = self.grid.map(u64::from);
        let blocks = wide * high * deep;
        let next = AtomicU64::new(0);
        let found = Mutex::new(Ok(Stats::default()));
        let work = || {
            let mut worker = Worker::new(self, memory.view());
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= blocks {
                    break;
                }
                let place = [at % wide, at / wide % high, at / wide / high].map(|n| n as u32);
                let done = worker.block(place);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                match (done, &mut *found) {
                    (Ok(stats), Ok(sum)) => sum.add(stats),
                    (Err(fault), Ok(_)) => {
                        *found = Err(fault);
                        next.store(blocks, Ordering::Relaxed);
                    }
                    (_, Err(_)) => {}
                }
            }
        };
        std::thread::scope(|scope| {
            let more = (blocks.min(self.threads.max(1) as u64)) - 1;
            for _ in 0..more {
                scope.spawn(work);
            }
            work();
        });
        found.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
