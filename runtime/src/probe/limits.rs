//! All limits of the processor together, and the least time that they leave for a piece of work.

use std::collections::BTreeMap;
use std::time::Duration;

use super::peak::{RUNS, Sums};
use super::{Multiplied, Stream, bandwidth_bytes};
use crate::device::threads::Pool;
use crate::machine::Machine;
use crate::memory::MemoryError;

/// How fast something is read that comes round again and again and has up to so many bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    /// What holds it.
    pub name: &'static str,
    /// The most bytes.
    pub bytes: u64,
    /// Bytes a second.
    pub speed: f64,
}

/// What the machine can do at most, as far as it was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// By bytes, the fastest first.
    pub reads: Vec<Reach>,
    /// Operations a second.
    pub peaks: BTreeMap<Multiplied, f64>,
}

impl Limits {
    /// A device of whose memory alone the speed is known.
    pub fn of_memory(speed: f64) -> Limits {
        let memory = Reach { name: "memory", bytes: u64::MAX, speed };
        Limits { reads: vec![memory], peaks: BTreeMap::new() }
    }

    /// Those of the processor with the workers of a pool: of its memory, of caches, of its arithmetic. `stream` is what a
    /// pass reads; where the outermost cache has room for it, it is measured how fast so much is read again and again.
    ///
    /// All are measured in turns, and of each the fastest counts: a moment in which somebody else has the machine meets
    /// one turn of several. The readings of memory take `time` together, those of caches a quarter of it each.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn measure(
        pool: &Pool,
        machine: &Machine,
        stream: u64,
        time: Duration,
    ) -> Result<Limits, MemoryError> {
        let inner = machine.core_cache_bytes.map_or(0, |bytes| bytes * pool.count() as u64);
        let mut places = Vec::new();
        if inner > 0 {
            // Three quarters: what is measured must not share the cache's last lines with anything.
            places.push(("second-level cache", inner, inner / 4 * 3));
        }
        if stream > inner && machine.cache_bytes.is_some_and(|outer| stream <= outer) {
            places.push(("outer cache", stream, stream));
        }
        places.push(("memory", u64::MAX, bandwidth_bytes(machine) as u64));
        let (mut reads, mut streams) = (Vec::new(), Vec::new());
        for (name, bytes, of) in places {
            reads.push(Reach { name, bytes, speed: 0.0 });
            streams.push(Stream::new(pool, of as usize)?);
        }
        let each = [Multiplied::F32, Multiplied::Bf16, Multiplied::Bytes];
        let sums: Vec<_> = each.into_iter().filter_map(|what| Some((what, Sums::new(pool, what)?))).collect();
        let mut peaks = BTreeMap::new();
        for _ in 0..RUNS {
            for (reach, stream) in reads.iter_mut().zip(&streams) {
                // Caches are read many times in a quarter of the time that a few readings of memory take.
                let part = if reach.bytes == u64::MAX { 1 } else { 4 };
                reach.speed = reach.speed.max(stream.speed(time / (part * RUNS as u32), 1));
            }
            for (what, sums) in &sums {
                let peak = peaks.entry(*what).or_insert(0.0_f64);
                *peak = peak.max(sums.speed());
            }
        }
        Ok(Limits { reads, peaks })
    }

    /// How fast something of so many bytes is read that comes round again and again.
    pub fn reading(&self, bytes: u64) -> Option<&Reach> {
        self.reads.iter().find(|reach| bytes <= reach.bytes)
    }

    /// Operations a second. Narrow numbers may be widened and multiplied as `f32`: where there is no instruction for
    /// them, or a slow one, that is the limit.
    pub fn peak(&self, what: Multiplied) -> Option<f64> {
        [what, Multiplied::F32].iter().filter_map(|what| self.peaks.get(what)).copied().reduce(f64::max)
    }
}
