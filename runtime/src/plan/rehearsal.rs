//! How long a plan's steps compute: they are run, on bytes that stand for weights. No figure of a machine, and none of a
//! format or a kernel, need be known for it.

use std::time::{Duration, Instant};

use super::{Plan, SYMBOL_BLOCK, Sizes, size};
use crate::device::Device;
use crate::error::Error;
use crate::memory::{HostBuffer, MemoryError};

/// Rounds go on for as long, and one is made however long it takes, up to the most.
const LEAST: Duration = Duration::from_millis(400);
const MOST: Duration = Duration::from_secs(4);

/// What weights are made of: in every format of floats, scales and integers it gives numbers that are neither large nor
/// subnormal, which some processors compute more slowly.
const BYTE: u8 = 0x3c;

/// Memory that stands for weights: each step reads the part behind that of the step before, round its end.
pub(crate) struct StandIn {
    memory: HostBuffer,
    at: usize,
    begin: Instant,
}

impl StandIn {
    /// So many bytes.
    ///
    /// # Errors
    /// The system has none.
    pub(crate) fn new(bytes: usize) -> Result<StandIn, MemoryError> {
        let mut memory = HostBuffer::new(bytes)?;
        memory.bytes_mut().fill(BYTE);
        Ok(StandIn { memory, at: 0, begin: Instant::now() })
    }

    /// The next so many bytes; all of them must fit.
    pub(crate) fn next(&mut self, bytes: usize) -> *mut u8 {
        if self.at + bytes > self.memory.len() {
            self.at = 0;
        }
        let place = self.memory.as_mut_ptr().wrapping_add(self.at);
        self.at += bytes;
        place
    }

    /// Whether there is time for another round after so many.
    pub(crate) fn goes_on(&self, rounds: usize) -> bool {
        // The first one wakes threads, and finds its code and buffers.
        rounds < 2 || self.begin.elapsed() < LEAST
    }

    fn is_late(&self) -> bool {
        self.begin.elapsed() > MOST
    }
}

impl Plan {
    /// The seconds of each step of a pass of these sizes, in memory that stands for weights that come and go; nothing for
    /// those that there was no time for.
    pub(crate) fn rehearse(
        &self,
        device: &dyn Device,
        sizes: &Sizes,
        weights: &mut StandIn,
    ) -> Result<Vec<Option<f64>>, Error> {
        let mut block = [0u8; SYMBOL_BLOCK as usize];
        for (slot, symbol) in self.compilation.graph.symbols.iter().enumerate() {
            block[slot * 4..][..4].copy_from_slice(&size(symbol, sizes)?.to_le_bytes());
        }
        device.write(&self.symbols, &block)?;
        let _pinned = device.pin();
        let mut seconds = Vec::with_capacity(self.steps.len());
        for number in 0..self.steps.len() {
            if weights.is_late() {
                seconds.push(None);
                continue;
            }
            let begin = Instant::now();
            let run = || self.launch_one(device, number, sizes, None, None);
            match &self.stream {
                Some((residence, plan)) => residence.rehearse(*plan, number, weights, run)?,
                None => run()?,
            }
            device.finish()?;
            seconds.push(Some(begin.elapsed().as_secs_f64()));
        }
        Ok(seconds)
    }
}
