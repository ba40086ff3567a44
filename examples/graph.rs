//! From a graph to numbers, twice: by the reference interpreter and by machine code.
//!
//! ```text
//! cargo run --example graph
//! ```
//!
//! The graph is the feed-forward half of a transformer layer, `x + down(silu(gate(n)) * up(n))` with
//! `n = rms_norm(x)`. Its weights are ours, made up in memory.

use std::error::Error;
use std::sync::Arc;

use jtllm_runtime::codegen::emit::cranelift::Cranelift;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::ir::build::{add, linear, rms_norm, swiglu};
use jtllm_runtime::ir::expr::Symbol;
use jtllm_runtime::ir::interp::{self, Bindings};
use jtllm_runtime::ir::{DType, Expr, Format, Graph, Tensor, parse, print, verify};
use jtllm_runtime::single::Single;
use jtllm_runtime::weights::Source;

/// Numbers of a row of `x`.
const WIDTH: usize = 64;

/// Numbers of a row between the two products.
const INNER: usize = 128;

/// Rows of `x` in the pass that we run. The graph itself is made for any number from 1 to 16.
const TOKENS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    // 1. Build. Functions of `ir::build` append nodes to the graph and give the last one.
    let graph = feed_forward();
    // Every graph has a text form, and the text is the whole graph.
    let text = print(&graph);
    println!("{text}");
    println!("read back, it is the same graph: {}", parse(&text)? == graph);

    // 2. Verify. The rules are checked once; interpreter and compiler rely on them.
    if let Err(faults) = verify(&graph) {
        return Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").into());
    }

    // 3. Interpret. The reference interpreter is what the graph means.
    let mut bindings = bindings();
    let outputs = interp::run(&graph, &mut bindings)?;
    let (name, expected) = &outputs[0];
    let expected = expected.to_floats();
    println!("the interpreter says    {name}[0,0..4] = {:?}", &expected[..4]);

    // 4. Compile, and run on the processor. `Single` does what a network does for a model: it compiles the
    // graph for the device, asks the closure for each weight, and lays out the buffers.
    let device: Arc<dyn Device> = Arc::new(Cpu::new(Box::new(Cranelift::host()?), 2));
    let f32_format = Format::find("f32").ok_or("every build has the format f32")?;
    let locate = |name: &str| {
        let tensor = bindings.weights.get(name)?;
        let shape: Vec<u64> = tensor.shape.iter().map(|n| *n as u64).collect();
        Some(Source::whole(f32_format, &shape, Arc::new(tensor.to_bytes())))
    };
    let sizes = bindings.symbols.clone().into_iter().collect();
    let mut compiled = Single::new(device, &graph, sizes, &locate)?;
    compiled.give("x", &bindings.inputs["x"])?;
    compiled.run()?;
    let found = compiled.read(name)?.to_floats();
    println!("machine code says       {name}[0,0..4] = {:?}", &found[..4]);

    // 5. Compare. Kernels add in another order than the interpreter, which sums in f64; nothing else differs.
    let difference = expected.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("the largest difference is {difference:e}");

    // What came between. Maps and views join whatever reads them, so few nodes have a kernel of their own: the
    // norm is one, both products with the unit after them one, the last product with the sum one.
    println!("{} nodes became {} kernels:", graph.nodes().count(), compiled.plan().step_count());
    for kernel in &compiled.plan().compilation.kernels {
        println!("  {}", kernel.name);
    }
    if difference < 1e-5 { Ok(()) } else { Err("machine code and interpreter differ".into()) }
}

/// `x + down(swiglu(gate(rms_norm(x)), up(rms_norm(x))))`.
fn feed_forward() -> Graph {
    let mut graph = Graph::new("feed_forward");
    // A size that is known only when a pass runs. Everything that depends on it is an expression.
    let tokens = graph.symbol(&Symbol::new("T", 1, 16, 1));
    let (width, inner) = (Expr::int(WIDTH as i64), Expr::int(INNER as i64));
    let x = graph.input("x", DType::F32, &[tokens, width.clone()], None);
    let norm = graph.weight("norm", DType::F32, std::slice::from_ref(&width));
    let gate = graph.weight("gate", DType::F32, &[inner.clone(), width.clone()]);
    let up = graph.weight("up", DType::F32, &[inner.clone(), width.clone()]);
    let down = graph.weight("down", DType::F32, &[width, inner]);
    let normed = rms_norm(&mut graph, x, norm, 1e-5);
    let gate = linear(&mut graph, normed, gate, None);
    let up = linear(&mut graph, normed, up, None);
    let joined = swiglu(&mut graph, gate, up);
    let change = linear(&mut graph, joined, down, None);
    let y = add(&mut graph, x, change);
    graph.output("y", y);
    graph
}

/// Values for the graph's leaves.
fn bindings() -> Bindings {
    let mut bindings = Bindings::new();
    bindings.symbols.insert("T".to_owned(), TOKENS as i64);
    bindings.inputs.insert("x".to_owned(), noise(&[TOKENS, WIDTH], 1.0));
    bindings.weights.insert("norm".to_owned(), Tensor::floats(DType::F32, &[WIDTH], vec![1.0; WIDTH]));
    bindings.weights.insert("gate".to_owned(), noise(&[INNER, WIDTH], 0.3));
    bindings.weights.insert("up".to_owned(), noise(&[INNER, WIDTH], 0.2));
    bindings.weights.insert("down".to_owned(), noise(&[WIDTH, INNER], 0.1));
    bindings
}

/// A tensor of numbers between `-size` and `size` that look like chance and are the same in each run.
fn noise(shape: &[usize], size: f32) -> Tensor {
    let count = shape.iter().product::<usize>() as u32;
    let unit = |at: u32| (at.wrapping_mul(0x9E37_79B9) >> 8) as f32 / (1 << 23) as f32 - 1.0;
    Tensor::floats(DType::F32, shape, (1..=count).map(|at| size * unit(at)).collect())
}
