//! How fast code is made and how fast it runs; printed with `--nocapture`, bounded loosely.

use std::time::{Duration, Instant};

use jtllm_codegen::target::Target;

use crate::kernels::matvec;
use crate::native::{Native, as_floats, floats};
use crate::{HOST, on_host};

/// The shortest of several runs.
fn shortest(runs: usize, mut run: impl FnMut()) -> Duration {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed()
    });
    times.min().unwrap()
}

#[test]
fn a_kernel_is_compiled_in_microseconds() {
    for unroll in [1, 8] {
        let kernel = matvec(4096, 4096, 8, unroll);
        let bytes = HOST.emit(&kernel).unwrap().bytes.len();
        let time = shortest(50, || drop(HOST.emit(&kernel).unwrap()));
        println!("matvec of 8 rows, {} values: {bytes} bytes in {time:?}", kernel.values.len());
        assert!(time < Duration::from_millis(200), "{time:?}");
    }
}

#[test]
fn a_matvec_runs_at_gigabytes_per_second() {
    let (n, k) = (4096usize, 4096usize);
    let native = on_host(&matvec(n as i64, k as i64, 8, 2));
    let mut params = vec![floats(&vec![1.0; n * k]), floats(&vec![0.5; k]), vec![0; n * 4]];
    let time = shortest(12, || native.run(&mut params, &[]));
    assert!(as_floats(&params[2]).iter().all(|y| *y == 2048.0));
    let rate = (n * k * 4) as f64 / time.as_secs_f64() / 1e9;
    println!("matvec of {n} x {k} f32: {time:?}, {rate:.1} GB/s");
    let small = on_host(&matvec(256, 256, 8, 2));
    let mut params = vec![floats(&vec![1.0; 65536]), floats(&vec![0.5; 256]), vec![0; 1024]];
    let time = shortest(200, || native_repeat(&small, &mut params));
    let rate = (20 * 65536 * 4) as f64 / time.as_secs_f64() / 1e9;
    println!("matvec of 256 x 256 f32, in the cache: {rate:.1} GB/s");
    assert!(rate > 0.1, "{rate} GB/s");
}

fn native_repeat(native: &Native, params: &mut [Vec<u8>]) {
    for _ in 0..20 {
        native.run(params, &[]);
    }
}
