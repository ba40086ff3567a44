//! What each kernel took: time, bytes, launches.

use std::collections::BTreeMap;
use std::time::Duration;

use jtllm_codegen::kernel::Kernel;

use crate::device::Span;

/// The launches of one kernel.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// How often it was launched.
    pub launches: u64,
    /// Groups of all launches.
    pub groups: u64,
    /// Time of all launches.
    pub time: Duration,
    /// Bytes of the buffers that all launches bound: what they move at most.
    pub bytes: u64,
    /// Those of them that are weights.
    pub weight_bytes: u64,
}

/// Times of kernels, by kernel name and the bytes that one launch binds.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    entries: BTreeMap<(String, u64), Entry>,
}

impl Trace {
    pub(crate) fn record(
        &mut self,
        kernel: &Kernel,
        args: &[Span],
        weight_bytes: u64,
        groups: [u32; 3],
        time: Duration,
    ) {
        let bytes: u64 = args.iter().map(|span| span.len).sum();
        let entry = self.entries.entry((kernel.name.clone(), bytes)).or_default();
        entry.launches += 1;
        entry.groups += groups.iter().map(|n| u64::from(*n)).product::<u64>();
        entry.time += time;
        entry.bytes += bytes;
        entry.weight_bytes += weight_bytes;
    }

    /// Bytes of weights that all launches bound: each byte counts as often as some kernel was given it.
    pub fn weight_bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.weight_bytes).sum()
    }

    /// The entries, longest time first.
    pub fn entries(&self) -> Vec<(&str, &Entry)> {
        let mut all: Vec<_> = self.entries.iter().map(|((name, _), entry)| (name.as_str(), entry)).collect();
        all.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.time));
        all
    }
}
