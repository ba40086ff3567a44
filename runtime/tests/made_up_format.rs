//! A number format that nobody has, added from outside of the workspace's crates: a [`Format`] value and nothing
//! else, and its products run on every target.
#![allow(clippy::unwrap_used)]

#[path = "common/simulated.rs"]
mod simulated;
#[path = "common/thirds.rs"]
mod thirds;

use std::sync::Arc;

use jtllm_runtime::codegen::emit::x64::{Level, X64};
use jtllm_runtime::codegen::options::{Compute, Options};
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::interp::Interpreter;
use jtllm_runtime::device::native::{Mask, NATIVES};
use jtllm_runtime::device::wgpu::{Adapter, Choice};
use jtllm_runtime::ir::build::linear;
use jtllm_runtime::ir::format::Plane;
use jtllm_runtime::ir::interp::{Bindings, run};
use jtllm_runtime::ir::{DType, Expr, Graph, Tensor};
use jtllm_runtime::plan::Sizes;
use jtllm_runtime::single::Single;
use jtllm_runtime::weights::Source;
use simulated::Simulated;
use thirds::{THIRDS, number};

const ROWS: usize = 37;
const DEPTH: usize = 192;

/// Noise whose scales are none of them zero.
fn blocks() -> Vec<u8> {
    let noise = |at: usize| (at as u32).wrapping_mul(0x9E37_79B9).to_le_bytes()[3] | u8::from(at % 25 == 24);
    (0..ROWS * DEPTH / 64 * 25).map(noise).collect()
}

fn product(tokens: usize) -> Graph {
    let [tokens, rows, depth] = [tokens, ROWS, DEPTH].map(|n| Expr::int(n as i64));
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
/// Activations of 7 bits and a sign, in sums whose terms cancel.
const INT8: f32 = 4e-2;

/// The largest difference, relative to the largest number.
fn apart(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |most, (x, y)| most.max((x - y).abs() / largest))
}

fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let apart = apart(found, expected);
    assert!(apart < tolerance, "{what}: {apart}");
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

/// The targets of processors, of which this one's code runs and that of others is interpreted; graphics processors as
/// far as there are any; and what a target's kernels are for other vectors and groups.
fn devices() -> Vec<(String, Arc<dyn Device>)> {
    let mut devices: Vec<(String, Arc<dyn Device>)> = Vec::new();
    for native in NATIVES {
        let level = Level::ALL.into_iter().find(|(_, name)| *name == native.name);
        let device: Arc<dyn Device> = match ((native.open)(&Mask::default()), level) {
            (Ok(target), _) => Arc::new(Cpu::new(target, 2)),
            (Err(_), Some((level, _))) => Arc::new(Simulated::new(X64::complete(level))),
            (Err(why), None) => panic!("{}: {why}", native.name),
        };
        devices.push((native.name.to_owned(), device));
    }
    match Adapter::open(&Choice::default()) {
        Ok(adapter) => devices.push(("wgpu".to_owned(), Arc::new(adapter))),
        Err(why) => println!("skipped: wgpu: {why}"),
    }
    let vectors = [4, 8, 16].map(|lanes| (format!("vectors of {lanes}"), Caps::vector(lanes)));
    let groups = [32, 128].map(|lanes| (format!("groups of {lanes}"), Caps::threads(lanes)));
    let interpreted = vectors.into_iter().chain(groups);
    devices
        .extend(interpreted.map(|(name, caps)| (name, Arc::new(Interpreter::new(caps)) as Arc<dyn Device>)));
    devices
}

#[test]
fn a_made_up_format_of_three_bits_runs_on_every_target() {
    let devices = devices();
    // A token, two numbers of them that are decoded together or not, and panels.
    for tokens in [1, 4, 5, 48] {
        let graph = product(tokens);
        let xs: Vec<f32> = (0..tokens * DEPTH).map(|at| (at * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let expected = direct(&xs);
        let x = Tensor::floats(DType::F32, &[tokens, DEPTH], xs);
        close("the graph", &interpreted(&graph, &x), &expected, ORDER);
        for (name, device) in &devices {
            for (compute, tolerance) in [(Compute::F32, ORDER), (Compute::Int8, INT8)] {
                let shape = [ROWS as u64, DEPTH as u64];
                let locate = |_: &str| Some(Source::whole(&THIRDS, &shape, Arc::new(blocks())));
                let options = Options { compute, ..Options::default() };
                let mut single =
                    Single::with(device.clone(), &graph, Sizes::new(), &locate, &options).unwrap();
                single.give("x", &x).unwrap();
                single.run().unwrap();
                let found = single.read("y").unwrap().to_floats();
                let what = format!("{tokens} tokens on {name} in {}", compute.name());
                close(&what, &found, &expected, tolerance);
                // Bytes were multiplied, not floats.
                assert_eq!(apart(&found, &expected) > ORDER, compute == Compute::Int8, "{what}");
            }
        }
    }
}
