//! How fast a device copies its own memory: what decoding on it is compared with.

use std::time::{Duration, Instant};

use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::{Access, Kernel};
use jtllm_ir::{DType, Expr};

use crate::device::{Device, DeviceError, Span};
use crate::error::Error;
use crate::program::artifact;

/// Words that a lane copies at a time: 16 bytes.
const WORDS: i64 = 4;

/// How often it does, at a group's distance: so many loads are on their way at once.
const TIMES: i64 = 4;

/// Bytes of each of the two buffers, where nothing is known of the device's memory: far more than caches hold.
const BYTES: u64 = 256 << 20;

/// `y = x`, each lane 16 bytes a few times.
fn copy(lanes: u32, words: i64) -> Kernel {
    let group = i64::from(lanes) * WORDS * TIMES;
    let mut b = Builder::new("copy", lanes, [Expr::int(words / group), Expr::int(1), Expr::int(1)]);
    let x = b.param(DType::U32, Access::Read, Expr::int(words), true);
    let y = b.param(DType::U32, Access::Write, Expr::int(words), true);
    let first = b.grid(0) * group + b.lane() * WORDS;
    let step = i64::from(lanes) * WORDS;
    let places: Vec<i64> = (0..TIMES).flat_map(|time| (0..WORDS).map(move |u| time * step + u)).collect();
    let values: Vec<_> = places.iter().map(|at| b.load(x, &(first.clone() + *at))).collect();
    for (at, value) in places.iter().zip(values) {
        b.store(y, &(first.clone() + *at), value);
    }
    b.finish(&[])
}

/// Copies memory to memory again and again for `time` (at least twice), and gives the speed of the fastest copy in bytes
/// a second, those that are read and those that are written together.
///
/// # Errors
/// The device has no room for two buffers, or fails.
pub fn copy_bandwidth(device: &dyn Device, time: Duration) -> Result<f64, Error> {
    let target = device.target();
    let lanes = target.caps().lanes;
    let group = u64::from(lanes) * (WORDS * TIMES) as u64 * 4;
    // As large as a binding may be, and a quarter of what is free.
    let most =
        device.free_memory().map_or(BYTES, |free| (free / 4).min(4 * BYTES)).min(target.caps().max_span);
    let bytes = most / group * group;
    let kernel = copy(lanes, (bytes / 4) as i64);
    let program = device.load(&[(&kernel, artifact(target, None, &kernel)?.0)])?.swap_remove(0);
    let [from, to] = [device.alloc(bytes)?, device.alloc(bytes)?].map(|mem| mem.span());
    let symbols = device.alloc(256)?.span();
    let groups = [(bytes / group) as u32, 1, 1];
    let run = |times: u32| -> Result<Duration, DeviceError> {
        let begin = Instant::now();
        for _ in 0..times {
            device.launch(&program, groups, &symbols, &[from.clone(), to.clone()])?;
        }
        let last = Span { mem: to.mem.clone(), offset: 0, len: 4 };
        device.read(&last, &mut [0; 4])?;
        Ok(begin.elapsed())
    };
    run(1)?;
    // Enough launches at a time that waiting for the last one does not count.
    let once = run(1)?.as_secs_f64();
    let times = (0.02 / once.max(1e-6)).clamp(1.0, 1000.0) as u32;
    let (begin, mut fastest) = (Instant::now(), f64::INFINITY);
    while fastest.is_infinite() || begin.elapsed() < time {
        fastest = fastest.min(run(times)?.as_secs_f64() / f64::from(times));
    }
    Ok(2.0 * bytes as f64 / fastest)
}
