//! What a residency costs: a pin of what is there, and passes over a file of which a part fits, beside `dd`.
//!
//! `cargo bench -p jtllm-swap --bench residency -- FILE` reads FILE; without one it writes 1 GiB of its own first.
#![allow(clippy::unwrap_used)]

mod disk;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::{dd, file};
use jtllm_swap::reader::Sums;
use jtllm_swap::sim::{self, Scenario, Speeds, Step};
use jtllm_swap::store::{FileStore, MemoryStore};
use jtllm_swap::{Agenda, Blob, BlobId, Budget, Options, Origin, Policy, Residency, Source, Tick, Tier};

const BLOB_BYTES: u64 = 16 << 20;
const CHUNK_BYTES: u64 = 4 << 20;
const ROUNDS: usize = 5;
const MIB: u64 = 1 << 20;

fn arranged(residency: &mut Residency, blobs: &[BlobId]) {
    residency.arrange(Agenda::new(blobs.len() as Tick, blobs.iter().copied().zip(0..))).unwrap();
}

fn pass(residency: &mut Residency, blobs: &[BlobId], tick: &mut Tick, computing: Duration) {
    for blob in blobs {
        residency.pin(*tick, &[*blob]).unwrap();
        std::hint::black_box(residency.bytes(*blob).unwrap()[0]);
        let start = Instant::now();
        while start.elapsed() < computing {
            std::hint::spin_loop();
        }
        residency.unpin(*tick, &[*blob]).unwrap();
        *tick += 1;
    }
}

/// Nanoseconds of a pin and an unpin of one blob among `count` that are all there.
fn resident(count: u64) -> f64 {
    let mut residency = Residency::new(&Options::new(count * 4096)).unwrap();
    let store = Arc::new(MemoryStore::new(vec![0; count as usize * 4096]));
    let file = residency.add_file(Path::new("memory"), store).unwrap();
    let add = |at| residency.add("weights", Origin { file, at: at * 4096, len: 4096, sums: None }).unwrap();
    let blobs: Vec<BlobId> = (0..count).map(add).collect();
    arranged(&mut residency, &blobs);
    let mut tick = 0;
    pass(&mut residency, &blobs, &mut tick, Duration::ZERO);
    let start = Instant::now();
    for _ in 0..200 {
        pass(&mut residency, &blobs, &mut tick, Duration::ZERO);
    }
    start.elapsed().as_nanos() as f64 / (200 * count) as f64
}

/// Passes over the file with so much memory.
struct Streamed {
    residency: Residency,
    blobs: Vec<BlobId>,
    tick: Tick,
}

impl Streamed {
    fn new(path: &Path, memory_bytes: u64, ring_bytes: u64, sums: &Sums) -> Streamed {
        let len = std::fs::metadata(path).unwrap().len();
        let options = Options { policy: Policy::Stream { ring_bytes }, ..Options::new(memory_bytes) };
        let mut residency = Residency::new(&options).unwrap();
        let file = residency.add_file(path, Arc::new(FileStore::open(path).unwrap())).unwrap();
        let add = |at| {
            let first = (at / CHUNK_BYTES) as usize;
            let sums = Some(Sums { first, ..sums.clone() });
            let origin = Origin { file, at, len: BLOB_BYTES.min(len - at), sums };
            residency.add("weights", origin).unwrap()
        };
        let blobs: Vec<BlobId> = (0..len).step_by(BLOB_BYTES as usize).map(add).collect();
        arranged(&mut residency, &blobs);
        let mut streamed = Streamed { residency, blobs, tick: 0 };
        streamed.pass(Duration::ZERO);
        streamed
    }

    /// Bytes read and seconds of one pass that computes so long with each blob.
    fn pass(&mut self, computing: Duration) -> (u64, f64) {
        let (before, start) = (self.residency.counts().bytes_read, Instant::now());
        pass(&mut self.residency, &self.blobs, &mut self.tick, computing);
        (self.residency.counts().bytes_read - before, start.elapsed().as_secs_f64())
    }
}

fn main() {
    for count in [10, 300, 3000] {
        println!("pin and unpin one of {count} blobs that are there: {:.0} ns", resident(count));
    }
    let path = file();
    let sums = Sums::of(&std::fs::read(&path).unwrap(), CHUNK_BYTES);
    let len = std::fs::metadata(&path).unwrap().len();
    println!(
        "| memory | ring, MiB | read in a pass | GB/s, median of {ROUNDS} | of dd's |\n|---|---|---|---|---|"
    );
    for (share, ring) in [(8, 64), (2, 32), (2, 64), (2, 128)] {
        let mut streamed = Streamed::new(&path, len / share, ring * MIB, &sums);
        let (mut found, mut base, mut all) = (Vec::new(), Vec::new(), 0);
        for _ in 0..ROUNDS {
            base.push(dd(&path));
            let (bytes, seconds) = streamed.pass(Duration::ZERO);
            found.push(bytes as f64 / seconds / 1e9);
            all += bytes;
        }
        found.sort_by(f64::total_cmp);
        base.sort_by(f64::total_cmp);
        let (median, dd) = (found[ROUNDS / 2], base[ROUNDS / 2]);
        let part = all as f64 / (ROUNDS as u64 * len) as f64;
        println!(
            "| 1/{share} | {ring} | {part:.3} | {median:.2} ({:.2}-{:.2}) | {:.2} |",
            found[0],
            found[ROUNDS - 1],
            median / dd
        );
    }
    forecasts(&path, &sums, len);
}

/// Passes that compute, beside what the simulator says of them from the disk's speed just before.
fn forecasts(path: &Path, sums: &Sums, len: u64) {
    println!(
        "| computing, ms a blob | s a pass, median of {ROUNDS} | predicted | predicted / measured |\n|---|---|---|---|"
    );
    let (memory_bytes, ring_bytes) = (len / 2, 64 * MIB);
    let mut streamed = Streamed::new(path, memory_bytes, ring_bytes, sums);
    for computing_ms in [0, 2, 5, 10, 20] {
        let (mut measured, mut predicted) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (bytes, seconds) = streamed.pass(Duration::ZERO);
            let computing = Duration::from_millis(computing_ms);
            measured.push(streamed.pass(computing).1);
            let scenario = Scenario {
                blobs: vec![Blob::new(BLOB_BYTES, "weights", Source::File); streamed.blobs.len()],
                steps: (0..streamed.blobs.len())
                    .map(|blob| Step { uses: vec![blob], changes: vec![], seconds: computing.as_secs_f64() })
                    .collect(),
                budget: Budget::unlimited().with(Tier::Host, memory_bytes),
                tiers: vec![(Tier::Host, Policy::Stream { ring_bytes })],
                speeds: Speeds {
                    disk_bytes_per_s: bytes as f64 / seconds,
                    disk_latency_s: 0.0,
                    bus_bytes_per_s: 1e10,
                },
            };
            predicted.push(sim::run(&scenario, 5).unwrap().seconds);
        }
        measured.sort_by(f64::total_cmp);
        predicted.sort_by(f64::total_cmp);
        let (measured, predicted) = (measured[ROUNDS / 2], predicted[ROUNDS / 2]);
        println!("| {computing_ms} | {measured:.3} | {predicted:.3} | {:.2} |", predicted / measured);
    }
}
