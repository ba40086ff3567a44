//! A number format that nobody has, added from outside of the workspace's crates: a [`Format`] value and nothing
//! else, and its products run on every target.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use jtllm_runtime::codegen::emit::cranelift::Cranelift;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::native;
use jtllm_runtime::ir::build::linear;
use jtllm_runtime::ir::format::{Plane, words};
use jtllm_runtime::ir::interp::{Bindings, run};
use jtllm_runtime::ir::{DType, Expr, Format, Graph, ScalarOp, Tensor};
use jtllm_runtime::plan::Sizes;
use jtllm_runtime::probe;
use jtllm_runtime::single::Single;
use jtllm_runtime::weights::Source;

/// `q / scale`, `q` in `0..8`: 64 numbers of three bits in 24 bytes, one after another, and a byte of scale.
static THIRDS: Format = Format {
    name: "thirds",
    block: 64,
    block_bytes: 25,
    planes: &[
        Plane { suffix: "low", dtype: DType::U32, span: 16 },
        Plane { suffix: "high", dtype: DType::U32, span: 32 },
        Plane { suffix: "scale", dtype: DType::U8, span: 64 },
    ],
    decode: |graph, planes, shape| {
        let low = words::quads(graph, planes[0], shape, 2);
        let high = words::quads(graph, planes[1], shape, 1);
        let quads = words::join(graph, low, high, 2, 0, shape);
        let number = words::unsigned(graph, quads, shape);
        let scale = words::float(graph, planes[2], shape, 64);
        graph.map(ScalarOp::Div, &[number, scale])
    },
    unpack: |block, planes| {
        words::write(planes[0], 2, |k| number(block, k) & 3);
        words::write(planes[1], 1, |k| number(block, k) >> 2);
        planes[2][0] = block[24];
    },
};

fn number(block: &[u8], k: usize) -> u8 {
    (0..3).map(|bit| (block[(3 * k + bit) / 8] >> ((3 * k + bit) % 8) & 1) << bit).sum()
}

const ROWS: usize = 37;
const DEPTH: usize = 192;

/// Noise whose scales are none of them zero.
fn noise(blocks: usize) -> Vec<u8> {
    let byte = |at: usize| (at as u32).wrapping_mul(0x9E37_79B9).to_le_bytes()[3] | u8::from(at % 25 == 24);
    (0..blocks * 25).map(byte).collect()
}

fn blocks() -> Vec<u8> {
    noise(ROWS * DEPTH / 64)
}

fn product(tokens: usize) -> Graph {
    product_of(tokens, ROWS, DEPTH)
}

fn product_of(tokens: usize, rows: usize, depth: usize) -> Graph {
    let [tokens, rows, depth] = [tokens, rows, depth].map(|n| Expr::int(n as i64));
    let mut graph = Graph::new("product");
    let x = graph.input("x", DType::F32, &[tokens, depth.clone()], None);
    let weight = THIRDS.weight(&mut graph, "w", &[rows, depth]);
    let y = linear(&mut graph, x, weight, None);
    graph.output("y", y);
    graph
}

/// What the graph means, from planes that this test takes apart.
fn interpreted(graph: &Graph, x: &Tensor) -> Vec<f32> {
    let mut bindings = Bindings::new();
    bindings.inputs.insert("x".to_owned(), x.clone());
    for (place, plane) in THIRDS.planes.iter().enumerate() {
        let blocks = blocks();
        let bytes = blocks.chunks(25).flat_map(|block| {
            let part = |plane: &Plane| vec![0; 64 / plane.span * plane.dtype.size()];
            let mut parts: Vec<Vec<u8>> = THIRDS.planes.iter().map(part).collect();
            let mut slices: Vec<&mut [u8]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
            (THIRDS.unpack)(block, &mut slices);
            parts.swap_remove(place)
        });
        let bytes: Vec<u8> = bytes.collect();
        let tensor = Tensor::from_bytes(plane.dtype, &[ROWS, DEPTH / plane.span], &bytes).unwrap();
        bindings.weights.insert(THIRDS.plane_name("w", plane), tensor);
    }
    run(graph, &mut bindings).unwrap()[0].1.to_floats()
}

/// What the file's bytes say, without any graph.
fn direct(x: &[f32]) -> Vec<f32> {
    let blocks = blocks();
    let weight = |row: usize, k: usize| {
        let block = &blocks[(row * DEPTH + k) / 64 * 25..][..25];
        f64::from(number(block, k % 64)) / f64::from(block[24])
    };
    let sum = |row: &[f32], column| (0..DEPTH).map(|k| f64::from(row[k]) * weight(column, k)).sum::<f64>();
    x.chunks(DEPTH).flat_map(|row| (0..ROWS).map(move |column| sum(row, column) as f32)).collect()
}

/// Sums in another order.
const ORDER: f32 = 2e-6;
/// Operands of 8 significant bits.
const BF16: f32 = 1e-2;

/// The largest difference, relative to the largest number.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |most, (x, y)| most.max((x - y).abs() / largest))
}

fn close(what: &str, found: &[f32], expected: &[f32]) {
    let apart = apart(found, expected);
    assert!(apart < ORDER, "{what}: {apart}");
}

#[test]
fn matrix_units_take_it_in_sixteen_bits() {
    let tokens = 48;
    let graph = product(tokens);
    let xs: Vec<f32> = (0..tokens * DEPTH).map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let expected = direct(&xs);
    let shape = [ROWS as u64, DEPTH as u64];
    let locate = |_: &str| Some(Source::whole(&THIRDS, &shape, Arc::new(blocks())));
    let device = Arc::new(Interpreter::new(Caps::threads(64).with_matrix(32)));
    let mut single = Single::new(device, &graph, Sizes::new(), &locate).unwrap();
    single.give("x", &Tensor::floats(DType::F32, &[tokens, DEPTH], xs)).unwrap();
    single.run().unwrap();
    let apart = apart(&single.read("y").unwrap().to_floats(), &expected);
    assert!(apart > ORDER && apart < BF16, "{apart}");
}

#[test]
fn a_made_up_format_of_three_bits_runs_on_every_target() {
    let caps = [Caps::vector(4), Caps::vector(8), Caps::vector(16), Caps::threads(32), Caps::threads(128)];
    let mut devices: Vec<Arc<dyn Device>> = vec![Arc::new(Cpu::new(Box::new(Cranelift::host().unwrap()), 2))];
    devices.extend(caps.map(|caps| Arc::new(Interpreter::new(caps)) as Arc<dyn Device>));
    for tokens in [1, 4, 5] {
        let graph = product(tokens);
        let xs: Vec<f32> = (0..tokens * DEPTH).map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let expected = direct(&xs);
        let x = Tensor::floats(DType::F32, &[tokens, DEPTH], xs);
        close("the graph", &interpreted(&graph, &x), &expected);
        for (at, device) in devices.iter().enumerate() {
            let shape = [ROWS as u64, DEPTH as u64];
            let locate = |_: &str| Some(Source::whole(&THIRDS, &shape, Arc::new(blocks())));
            let mut single = Single::new(device.clone(), &graph, Sizes::new(), &locate).unwrap();
            single.give("x", &x).unwrap();
            single.run().unwrap();
            close(&format!("target {at}"), &single.read("y").unwrap().to_floats(), &expected);
        }
    }
}

/// What its products by one vector take of the memory's stream, printed. A measurement, asked for by name:
/// `cargo test --release --test made_up_format -- --ignored --nocapture`.
#[test]
#[ignore = "measures speed: nothing else may run"]
fn speed_of_a_made_up_format() {
    const WIDE: usize = 1 << 14;
    let native = native::host().unwrap();
    let name = native.name;
    let device = Arc::new(Cpu::new(native.target, 1));
    let stream = || probe::bandwidth(device.pool(), 512 << 20, Duration::from_millis(300)).unwrap();
    let before = stream();
    let blocks: Arc<Vec<u8>> = Arc::new(noise(WIDE * WIDE / 64));
    let bytes = blocks.len();
    let locate = |_: &str| Some(Source::whole(&THIRDS, &[WIDE as u64, WIDE as u64], blocks.clone()));
    let mut single = Single::new(device.clone(), &product_of(1, WIDE, WIDE), Sizes::new(), &locate).unwrap();
    let xs = (0..WIDE).map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0).collect();
    single.give("x", &Tensor::floats(DType::F32, &[1, WIDE], xs)).unwrap();
    let pass = || {
        let start = Instant::now();
        single.run().unwrap();
        start.elapsed().as_secs_f64()
    };
    let mut times: Vec<f64> = std::iter::repeat_with(pass).take(40).collect();
    times.sort_by(f64::total_cmp);
    let (speed, stream) = (bytes as f64 / times[times.len() / 2] / 1e9, before.max(stream()));
    println!("{name}: {speed:.1} GB/s of {stream:.1}, {:.0} %", 100.0 * speed / stream);
}
