//! Passes allocate nothing, neither when everything is in memory nor when blobs come and go.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jtllm_swap::reader::Sums;
use jtllm_swap::store::MemoryStore;
use jtllm_swap::{Agenda, BlobId, Options, Origin, Policy, Residency, Tick};

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system's allocator's; the count is beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as the caller says.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const BLOBS: usize = 60;
const LEN: usize = 8192;

fn pass(residency: &mut Residency, blobs: &[BlobId], pass: usize) {
    for (at, blob) in blobs.iter().enumerate() {
        let tick = (pass * blobs.len() + at) as Tick;
        residency.pin(tick, &[*blob]).unwrap();
        assert!(residency.bytes(*blob).is_some());
        residency.unpin(tick, &[*blob]).unwrap();
    }
}

#[test]
fn passes_allocate_nothing() {
    for fits in [BLOBS, BLOBS / 3] {
        let options =
            Options { policy: Policy::Stream { ring_bytes: 0 }, ..Options::new((fits * LEN) as u64) };
        let mut residency = Residency::new(&options).unwrap();
        let all = vec![1; BLOBS * LEN];
        let file = residency.add_file(Path::new("weights"), Arc::new(MemoryStore::new(all.clone()))).unwrap();
        let blob = |at: usize| {
            let sums = Some(Sums::of(&all[..LEN], 4096));
            residency.add("weights", Origin { file, at: (at * LEN) as u64, len: LEN as u64, sums }).unwrap()
        };
        let blobs: Vec<BlobId> = (0..BLOBS).map(blob).collect();
        residency.arrange(Agenda::new(BLOBS as Tick, blobs.iter().copied().zip(0..))).unwrap();
        // The tables grow to their size first.
        for number in 0..20 {
            pass(&mut residency, &blobs, number);
        }
        // More requests than ever may meet at one moment and let a table grow once more; not each time.
        let allocated = [20, 40, 60].map(|first| {
            let (before, read) = (COUNT.load(Ordering::Relaxed), residency.counts().bytes_read);
            for number in first..first + 20 {
                pass(&mut residency, &blobs, number);
            }
            assert_eq!(residency.counts().bytes_read > read, fits < BLOBS);
            COUNT.load(Ordering::Relaxed) - before
        });
        assert!(allocated.contains(&0), "{allocated:?} where {fits} fit");
    }
}
