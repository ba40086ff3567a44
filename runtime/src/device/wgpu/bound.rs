//! Which buffers launches bind, in the form that the driver wants.
//!
//! A plan gives a launch the same spans in every pass, so what binds them is made once and found again. It is kept
//! until the first of its memories goes, since it would keep all of them alive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use wgpu::{
    BindGroup, BindGroupDescriptor, BindGroupEntry, BindGroupLayout, BindingResource, Buffer, BufferBinding,
};

use super::{WORD, lock};
use crate::device::Span;

/// So many are kept; then all are forgotten and made again. Plans of eighty layers for each number of rows have 7000.
const KEPT_MOST: usize = 1 << 14;

/// A buffer of the device. What binds it is forgotten with it.
pub(super) struct Memory {
    pub(super) buffer: Buffer,
    number: u64,
    groups: Arc<Groups>,
}

impl Drop for Memory {
    fn drop(&mut self) {
        lock(&self.groups.kept).retain(|key, _| key.spans.iter().all(|span| span.0 != self.number));
    }
}

/// The program, and the memory, offset and length of each span.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    program: u64,
    spans: Box<[(u64, u64, u64)]>,
}

/// What was bound so far.
#[derive(Default)]
pub(super) struct Groups {
    kept: Mutex<HashMap<Key, BindGroup>>,
    made: AtomicU64,
    /// The last number given to a memory or a program.
    numbers: AtomicU64,
}

impl Groups {
    /// A number that nothing else on the device has.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn memory(self: &Arc<Groups>, buffer: Buffer) -> Memory {
        Memory { buffer, number: self.number(), groups: self.clone() }
    }

    /// How many were made, and how many are kept.
    pub(super) fn count(&self) -> (u64, usize) {
        (self.made.load(Ordering::Relaxed), lock(&self.kept).len())
    }

    /// What binds the spans for a program, made if it is new.
    pub(super) fn of(
        &self,
        device: &wgpu::Device,
        program: u64,
        layout: &BindGroupLayout,
        spans: &[&Span],
    ) -> BindGroup {
        let places = spans.iter().map(|span| (memory(span).number, span.offset, span.len));
        let key = Key { program, spans: places.collect() };
        let mut kept = lock(&self.kept);
        if let Some(known) = kept.get(&key) {
            return known.clone();
        }
        let entries: Vec<BindGroupEntry<'_>> = (0u32..)
            .zip(spans)
            .map(|(binding, span)| BindGroupEntry { binding, resource: resource(span) })
            .collect();
        let group = device.create_bind_group(&BindGroupDescriptor { label: None, layout, entries: &entries });
        self.made.fetch_add(1, Ordering::Relaxed);
        if kept.len() >= KEPT_MOST {
            kept.clear();
        }
        kept.insert(key, group.clone());
        group
    }
}

/// The memory of a span.
pub(super) fn memory(span: &Span) -> &Memory {
    span.mem.inner.downcast_ref::<Memory>().expect("an adapter is given its own memory")
}

/// Part of a buffer, as far as whole words.
fn resource(span: &Span) -> BindingResource<'_> {
    let size = std::num::NonZeroU64::new(span.len.next_multiple_of(WORD));
    BindingResource::Buffer(BufferBinding { buffer: &memory(span).buffer, offset: span.offset, size })
}
