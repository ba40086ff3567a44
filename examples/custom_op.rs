//! An operation that the library does not have, and what it costs: nothing.
//!
//! ```text
//! cargo run --example custom_op
//! ```
//!
//! A composite operation is a function that appends nodes to a graph. It has no name in the compiler, no kernel
//! and no row in any table; partition joins its nodes to whatever computes their operands.

use std::error::Error;
use std::sync::Arc;

use jtllm_runtime::codegen::compile;
use jtllm_runtime::codegen::emit::cranelift::Cranelift;
use jtllm_runtime::codegen::options::Options;
use jtllm_runtime::codegen::target::Caps;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::ir::build::{linear, mul, splat};
use jtllm_runtime::ir::{DType, Expr, Format, Graph, Node, ScalarOp, Tensor, print};
use jtllm_runtime::single::Single;
use jtllm_runtime::weights::Source;

/// `tanh(x) * sigmoid(gate)`, the gated unit of WaveNet (van den Oord et al., 2016).
///
/// Both operands have one shape; so has the result. There is no scalar operation `sigmoid`, so it is written
/// `1 / (1 + exp(-gate))`.
fn gated_tanh(graph: &mut Graph, x: Node, gate: Node) -> Node {
    let shape = graph.shape(gate).to_vec();
    let curve = graph.map(ScalarOp::Tanh, &[x]);
    let negative = graph.map(ScalarOp::Neg, &[gate]);
    let power = graph.map(ScalarOp::Exp, &[negative]);
    let one = splat(graph, 1.0, &shape);
    let divisor = graph.map(ScalarOp::Add, &[one, power]);
    let sigmoid = graph.map(ScalarOp::Div, &[one, divisor]);
    mul(graph, curve, sigmoid)
}

/// The same as a plain loop.
fn gated_tanh_loop(x: &[f32], gate: &[f32]) -> Vec<f32> {
    x.iter().zip(gate).map(|(x, gate)| x.tanh() / (1.0 + (-gate).exp())).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let device: Arc<dyn Device> = Arc::new(Cpu::new(Box::new(Cranelift::host()?), 1));
    alone(&device)?;
    after_products(&device)
}

/// The operation by itself is one kernel.
fn alone(device: &Arc<dyn Device>) -> Result<(), Box<dyn Error>> {
    const COUNT: usize = 1024;
    let mut graph = Graph::new("gated_tanh");
    let shape = [Expr::int(COUNT as i64)];
    let x = graph.input("x", DType::F32, &shape, None);
    let gate = graph.input("gate", DType::F32, &shape, None);
    let y = gated_tanh(&mut graph, x, gate);
    graph.output("y", y);
    println!("{}", print(&graph));

    // How a target that has `tanh` and `exp` would get it: two loads, arithmetic, a store, and nothing else.
    for kernel in &compile(&graph, &Caps::threads(32), &Options::default()).kernels {
        println!("{kernel}");
    }
    // The processor has no instruction for either, so here both are taken apart into simpler operations.
    let mut compiled = Single::new(device.clone(), &graph, Default::default(), &|_| None)?;
    for kernel in &compiled.plan().compilation.kernels {
        println!("{kernel}");
    }
    println!("{} kernel, no value in between is stored", compiled.plan().step_count());

    let (xs, gates) = (noise(COUNT, 3.0), noise(COUNT, 5.0));
    compiled.give("x", &Tensor::floats(DType::F32, &[COUNT], xs.clone()))?;
    compiled.give("gate", &Tensor::floats(DType::F32, &[COUNT], gates.clone()))?;
    compiled.run()?;
    compare("alone", &compiled.read("y")?.to_floats(), &gated_tanh_loop(&xs, &gates))
}

/// After two matrix products, as models use it, it joins their kernel: the sums never reach memory.
fn after_products(device: &Arc<dyn Device>) -> Result<(), Box<dyn Error>> {
    const ROWS: usize = 96;
    const DEPTH: usize = 64;
    let mut graph = Graph::new("gated_layer");
    let (rows, depth) = (Expr::int(ROWS as i64), Expr::int(DEPTH as i64));
    let x = graph.input("x", DType::F32, &[Expr::int(1), depth.clone()], None);
    let filter = graph.weight("filter", DType::F32, &[rows.clone(), depth.clone()]);
    let gate = graph.weight("gate", DType::F32, &[rows, depth]);
    let filtered = linear(&mut graph, x, filter, None);
    let gated = linear(&mut graph, x, gate, None);
    let y = gated_tanh(&mut graph, filtered, gated);
    graph.output("y", y);

    let weights = [("filter", noise(ROWS * DEPTH, 0.2)), ("gate", noise(ROWS * DEPTH, 0.5))];
    let f32_format = Format::find("f32").ok_or("every build has the format f32")?;
    let locate = |name: &str| {
        let (_, values) = weights.iter().find(|(known, _)| *known == name)?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Some(Source::whole(f32_format, &[ROWS as u64, DEPTH as u64], Arc::new(bytes)))
    };
    let mut compiled = Single::new(device.clone(), &graph, Default::default(), &locate)?;
    let xs = noise(DEPTH, 1.0);
    compiled.give("x", &Tensor::floats(DType::F32, &[1, DEPTH], xs.clone()))?;
    compiled.run()?;
    println!("after two products: {} kernel", compiled.plan().step_count());

    let product = |weight: &[f32]| -> Vec<f32> {
        let row = |row: &[f32]| row.iter().zip(&xs).map(|(w, x)| w * x).sum();
        weight.chunks(DEPTH).map(row).collect()
    };
    let expected = gated_tanh_loop(&product(&weights[0].1), &product(&weights[1].1));
    compare("after two products", &compiled.read("y")?.to_floats(), &expected)
}

fn compare(what: &str, found: &[f32], expected: &[f32]) -> Result<(), Box<dyn Error>> {
    let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{what}: {:?} and so on, at most {difference:e} from the plain loop", &found[..3]);
    if found.len() == expected.len() && difference < 1e-5 { Ok(()) } else { Err("they differ".into()) }
}

/// `count` numbers between `-size` and `size` that look like chance and are the same in each run.
fn noise(count: usize, size: f32) -> Vec<f32> {
    let unit = |at: u32| (at.wrapping_mul(0x9E37_79B9) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    (1..=count as u32).map(|at| size * unit(at)).collect()
}
