//! How fast a file comes past the page cache, for several requests in flight of several sizes, beside `dd`.
//!
//! `cargo bench -p jtllm-swap --bench reader -- FILE` reads FILE; without one it writes 1 GiB of its own first.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jtllm_swap::memory::Memory;
use jtllm_swap::reader::{Job, Reader, Requests, Ticket};
use jtllm_swap::store::{Action, FileStore};

mod disk;

use disk::{dd, file};

const BLOB_BYTES: u64 = 32 << 20;
/// As many blobs are asked for ahead.
const AHEAD: u64 = 3;
const ROUNDS: usize = 5;

/// GB/s of one reading of the whole file.
fn read(path: &Path, requests: Requests) -> f64 {
    let store = Arc::new(FileStore::open(path).unwrap());
    let len = std::fs::metadata(path).unwrap().len();
    let memory = Memory::new(BLOB_BYTES * AHEAD).unwrap();
    let reader = Reader::new(requests);
    let file = reader.add(path, store.clone()).unwrap();
    let blobs = len.div_ceil(BLOB_BYTES);
    let mut slots: Vec<(Option<Ticket>, u64)> = (0..AHEAD).map(|slot| (None, slot)).collect();
    let (mut asked, mut done, mut reports) = (0, 0, Vec::new());
    let start = Instant::now();
    while done < blobs {
        for (ticket, slot) in slots.iter_mut().filter(|(ticket, _)| ticket.is_none()) {
            if asked == blobs {
                break;
            }
            let at = asked * BLOB_BYTES;
            let span = memory.span(*slot * BLOB_BYTES, BLOB_BYTES);
            let wanted = (0, BLOB_BYTES.min(len - at) as usize);
            let job = Job { action: Action::Read, file, at, span, wanted, sums: None };
            // SAFETY: the slot's last job was reported.
            *ticket = Some(unsafe { reader.submit(job, false) });
            asked += 1;
        }
        reader.wait(&mut reports, Duration::from_secs(60));
        for (ticket, outcome) in reports.drain(..) {
            outcome.unwrap();
            done += 1;
            slots.iter_mut().find(|(open, _)| *open == Some(ticket)).unwrap().0 = None;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!(store.is_direct(), "this file system has no direct access");
    len as f64 / seconds / 1e9
}

fn main() {
    let path = file();
    let mut rows: Vec<(Option<Requests>, Vec<f64>)> = vec![(None, Vec::new())];
    for in_flight in [1, 2, 4, 8] {
        for mb in [1, 2, 4, 8] {
            rows.push((Some(Requests { in_flight, bytes: mb << 20 }), Vec::new()));
        }
    }
    for _ in 0..ROUNDS {
        for (requests, found) in &mut rows {
            found.push(requests.map_or_else(|| dd(&path), |requests| read(&path, requests)));
        }
    }
    println!("| requests in flight | MiB each | GB/s, median of {ROUNDS} | of dd's |\n|---|---|---|---|");
    let mut base = None;
    for (requests, mut found) in rows {
        found.sort_by(f64::total_cmp);
        let median = found[ROUNDS / 2];
        let base = *base.get_or_insert(median);
        let (in_flight, mb) = requests.map_or((0, 4), |requests| (requests.in_flight, requests.bytes >> 20));
        let name = if in_flight == 0 { "1 (dd)".to_owned() } else { in_flight.to_string() };
        println!(
            "| {name} | {mb} | {median:.2} ({:.2}-{:.2}) | {:.2} |",
            found[0],
            found[ROUNDS - 1],
            median / base
        );
    }
}
