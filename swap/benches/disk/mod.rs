//! What the benches share: a file, and what `dd` makes of it.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The file that the command line names, or 1 GiB of our own.
pub(crate) fn file() -> PathBuf {
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

/// GB/s of `dd`, which has one request in flight.
pub(crate) fn dd(path: &Path) -> f64 {
    let start = Instant::now();
    let input = format!("if={}", path.display());
    let status =
        Command::new("dd").args([&input, "of=/dev/null", "iflag=direct", "bs=4M", "status=none"]).status();
    assert!(status.unwrap().success());
    std::fs::metadata(path).unwrap().len() as f64 / start.elapsed().as_secs_f64() / 1e9
}
