//! How fast a file comes past the page cache, for several requests in flight of several sizes, beside `dd`.
//!
//! `cargo bench -p jtllm-swap --bench reader -- FILE` reads FILE; without one it writes 1 GiB of its own first.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jtllm_swap::memory::Memory;
use jtllm_swap::reader::{Job, Reader, Requests};
use jtllm_swap::store::{Action, FileStore};

const BLOB_BYTES: u64 = 32 << 20;
/// As many blobs are asked for ahead.
const AHEAD: u64 = 3;
const ROUNDS: usize = 5;

fn file() -> PathBuf {
    if let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        return path.into();
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("read-me");
    let mut file = std::fs::File::create(&path).unwrap();
    let mut block = vec![0u8; 4 << 20];
    for number in 0..256u32 {
        // Bytes that no disk or hypervisor finds a pattern in.
        let mut state = number.wrapping_mul(2_654_435_761) | 1;
        for word in block.chunks_exact_mut(4) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            word.copy_from_slice(&(state ^ state >> 15).to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    path
}

/// GB/s of one reading of the whole file.
fn read(path: &Path, requests: Requests) -> f64 {
    let store = Arc::new(FileStore::open(path).unwrap());
    let len = std::fs::metadata(path).unwrap().len();
    let memory = Memory::new(BLOB_BYTES * AHEAD).unwrap();
    let reader = Reader::new(requests);
    let file = reader.add(path, store.clone()).unwrap();
    let blobs = len.div_ceil(BLOB_BYTES);
    let (mut asked, mut done, mut reports) = (0, 0, Vec::new());
    let start = Instant::now();
    while done < blobs {
        while asked < blobs && asked < done + AHEAD {
            let at = asked * BLOB_BYTES;
            let span = memory.span(asked % AHEAD * BLOB_BYTES, BLOB_BYTES);
            let wanted = (0, BLOB_BYTES.min(len - at) as usize);
            // SAFETY: a slot is asked for again only when as many jobs were reported as there are slots after it; it
            // may still be filled by an earlier job then, and the bytes are looked at by nobody.
            unsafe { reader.submit(Job { action: Action::Read, file, at, span, wanted, sums: None }, false) };
            asked += 1;
        }
        reader.wait(&mut reports, Duration::from_secs(60));
        done += reports.drain(..).map(|(_, outcome)| outcome.unwrap()).count() as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!(store.is_direct(), "this file system has no direct access");
    len as f64 / seconds / 1e9
}

/// GB/s of `dd`, which has one request in flight.
fn dd(path: &Path) -> f64 {
    let start = Instant::now();
    let input = format!("if={}", path.display());
    let status =
        Command::new("dd").args([&input, "of=/dev/null", "iflag=direct", "bs=4M", "status=none"]).status();
    assert!(status.unwrap().success());
    std::fs::metadata(path).unwrap().len() as f64 / start.elapsed().as_secs_f64() / 1e9
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
