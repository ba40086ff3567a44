//! What each kernel took: time, launches, bytes, operations.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jtllm_codegen::options::Compute;

/// The launches of one kernel.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The kernel's name, and what it reads or makes: `gemv mlp.down_proj`.
    pub name: String,
    /// How often it was launched.
    pub launches: u64,
    /// Groups of all launches.
    pub groups: u64,
    /// Time of all launches.
    pub time: Duration,
    /// Bytes that all launches read and write, each byte of a launch once. Of a cache those of the positions that its
    /// sequences have, or gain.
    pub bytes: u64,
    /// Those of them that are weights.
    pub weight_bytes: u64,
    /// Those of them that are caches of keys and values, or states.
    pub state_bytes: u64,
    /// Multiplications and additions of products that are summed, by what is multiplied. Attention counts the positions
    /// up to each row's own; a mask that hides more of them is not looked at.
    pub operations: BTreeMap<Compute, u64>,
}

/// How much a pass has to do, as far as it follows from the pass and not from its plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Positions that the pass adds to sequences.
    pub rows: u64,
    /// Positions of all its sequences after it.
    pub positions: u64,
    /// Pairs of a row and a position up to its own.
    pub seen: u64,
}

/// Which kernel: the address of its plan's compilation, which lives as long as the plan, and its number there.
pub(crate) type Key = (usize, usize);

/// Times of kernels. What layers share is one entry.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    entries: HashMap<Key, Entry>,
    /// The pass that runs.
    pub(crate) extent: Extent,
}

impl Trace {
    /// The entry of a kernel, which is named when it is first met.
    pub(crate) fn entry(&mut self, key: Key, name: impl FnOnce() -> String) -> &mut Entry {
        self.entries.entry(key).or_insert_with(|| Entry { name: name(), ..Entry::default() })
    }

    /// Bytes of weights that all launches bound: each byte counts as often as some kernel was given it.
    pub fn weight_bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.weight_bytes).sum()
    }

    /// Time of all launches.
    pub fn time(&self) -> Duration {
        self.entries.values().map(|entry| entry.time).sum()
    }

    /// The entries, longest time first.
    pub fn entries(&self) -> Vec<&Entry> {
        let mut all: Vec<&Entry> = self.entries.values().collect();
        all.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.name.cmp(&b.name)));
        all
    }
}
