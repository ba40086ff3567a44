//! Runs compiled graphs on the loop-IR interpreter, beside the graph interpreter.
#![allow(clippy::unwrap_used, dead_code)]

pub(crate) mod attend;
pub(crate) mod case;
pub(crate) mod ptx;
pub(crate) mod recurrence;
pub(crate) mod scalars;
pub(crate) mod works;

use std::collections::HashMap;

use jtllm_codegen::kernel::interp::{Buffer, Memories, Options, run_groups};
use jtllm_codegen::kernel::{Access, Kernel, verify::verify};
use jtllm_codegen::schedule::{Argument, layout};
use jtllm_codegen::target::{Caps, fits};
use jtllm_codegen::{Compilation, compile};
use jtllm_ir::expr::{Environment, Symbol};
use jtllm_ir::interp::Bindings;
use jtllm_ir::{Expr, Graph, Node, Op, Tensor};

struct Sizes<'a>(&'a Bindings);

impl Environment for Sizes<'_> {
    fn axis(&self, _: u16) -> i64 {
        0
    }

    fn symbol(&self, symbol: &Symbol) -> i64 {
        self.0.symbols[symbol.name()]
    }

    fn extra(&self, _: u32, _: &[i64]) -> i64 {
        0
    }
}

/// A pseudo-random number in -1..1, the same for the same seed.
pub(crate) fn noise(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    ((*seed >> 40) as f32) / (1u64 << 23) as f32 - 1.0
}

/// The compilation of a graph, each kernel verified, and no wider than the target binds.
pub(crate) fn compiled(graph: &Graph, caps: &Caps) -> Compilation {
    compiled_as(graph, caps, &jtllm_codegen::options::Options::default())
}

/// The same with the user's choices.
pub(crate) fn compiled_as(
    graph: &Graph,
    caps: &Caps,
    options: &jtllm_codegen::options::Options,
) -> Compilation {
    jtllm_ir::verify::verify(graph).unwrap();
    let compilation = compile(graph, caps, options);
    for kernel in &compilation.kernels {
        fits(kernel, caps).unwrap_or_else(|error| panic!("kernel {}: {error}", kernel.name));
        if let Err(faults) = verify(kernel, caps) {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            panic!("kernel {}:\n{}\n{kernel}", kernel.name, faults.join("\n"));
        }
    }
    compilation
}

/// The values of a graph's outputs, by name.
pub(crate) type Outputs = HashMap<String, Vec<f32>>;

/// One launch: a kernel, the bytes that its parameters are bound to, and sizes.
pub(crate) struct Launch<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) params: &'a mut [Vec<u8>],
    pub(crate) symbols: &'a [i32],
    pub(crate) groups: u64,
}

impl Launch<'_> {
    /// Runs it on the interpreter of kernels.
    pub(crate) fn interpret(&mut self, caps: &Caps) {
        let params = self.params.iter_mut().zip(&self.kernel.params);
        let params = params.map(|(bytes, param)| match param.access {
            Access::Read => Buffer::Read(bytes),
            Access::Write | Access::Update => Buffer::Write(bytes),
        });
        let mut memories = Memories { params: params.collect(), symbols: self.symbols };
        let options = Options { threads: caps.threads };
        run_groups(self.kernel, &mut memories, 0..self.groups, options)
            .unwrap_or_else(|error| panic!("{}: {error}\n{}", self.kernel.name, self.kernel));
    }
}

/// Runs a compilation in the interpreter of the loop IR; states in `bindings` are updated.
pub(crate) fn run(compilation: &Compilation, caps: &Caps, bindings: &mut Bindings) -> Outputs {
    run_by(compilation, caps, bindings, &mut |mut launch| launch.interpret(caps))
}

/// Runs a compilation, each launch by `execute`; states in `bindings` are updated.
pub(crate) fn run_by(
    compilation: &Compilation,
    caps: &Caps,
    bindings: &mut Bindings,
    execute: &mut dyn FnMut(Launch<'_>),
) -> Outputs {
    let mut memory = memories(compilation, caps, bindings);
    for step in &compilation.steps {
        let kernel = &compilation.kernels[step.kernel];
        let symbols = symbols(kernel, bindings);
        let mut taken: Vec<Vec<u8>> = step.arguments.iter().map(|a| memory[a].clone()).collect();
        let groups = groups(kernel, bindings).iter().map(|n| u64::from(*n)).product();
        execute(Launch { kernel, params: &mut taken, symbols: &symbols, groups });
        for ((argument, param), bytes) in step.arguments.iter().zip(&kernel.params).zip(taken) {
            if param.access.writes() {
                memory.insert(argument.clone(), bytes);
            }
        }
    }
    outputs(compilation, bindings, &memory)
}

/// What a compilation's launches bind, as it is before the first one.
pub(crate) fn memories(
    compilation: &Compilation,
    caps: &Caps,
    bindings: &Bindings,
) -> HashMap<Argument, Vec<u8>> {
    let mut memory: HashMap<Argument, Vec<u8>> = HashMap::new();
    for step in &compilation.steps {
        for (argument, param) in step.arguments.iter().zip(&compilation.kernels[step.kernel].params) {
            if !memory.contains_key(argument) {
                let bytes = param.len.evaluate(&Sizes(bindings)) as usize * param.dtype.size();
                let bytes = initial(compilation, argument, bindings, caps, bytes);
                memory.insert(argument.clone(), bytes);
            }
        }
    }
    memory
}

/// The symbol block.
pub(crate) fn symbols(kernel: &Kernel, bindings: &Bindings) -> Vec<i32> {
    let mut symbols = vec![0i32; 64];
    for (symbol, slot) in &kernel.symbols {
        symbols[*slot as usize] = bindings.symbols[symbol.name()] as i32;
    }
    symbols
}

/// The groups of a launch in each direction.
pub(crate) fn groups(kernel: &Kernel, bindings: &Bindings) -> [u32; 3] {
    std::array::from_fn(|direction| kernel.grid[direction].evaluate(&Sizes(bindings)) as u32)
}

/// The outputs that the launches left behind; states in `bindings` are updated.
pub(crate) fn outputs(
    compilation: &Compilation,
    bindings: &mut Bindings,
    memory: &HashMap<Argument, Vec<u8>>,
) -> Outputs {
    for (argument, bytes) in memory {
        if let Argument::State(name) = argument {
            let state = bindings.states.get_mut(name).unwrap();
            *state = Tensor::from_bytes(state.dtype, &state.shape, bytes).unwrap();
        }
    }
    let graph = &compilation.graph;
    let value = |node: &Node| {
        let record = graph.record(*node);
        let shape: Vec<usize> = record.shape.iter().map(|n| n.evaluate(&Sizes(bindings)) as usize).collect();
        Tensor::from_bytes(record.dtype, &shape, &memory[&Argument::Value(*node)]).unwrap().to_floats()
    };
    graph.outputs.iter().map(|(name, node)| (name.clone(), value(node))).collect()
}

fn initial(
    compilation: &Compilation,
    argument: &Argument,
    bindings: &Bindings,
    caps: &Caps,
    bytes: usize,
) -> Vec<u8> {
    match argument {
        Argument::Weight(name) => laid_out(name, &bindings.weights[name], caps),
        Argument::Part(name, bytes) => {
            let all = laid_out(name, &bindings.weights[name], caps);
            all[bytes.start as usize..bytes.end as usize].to_vec()
        }
        Argument::State(name) => bindings.states[name].to_bytes(),
        Argument::Input(name) => match compilation.gathers.iter().find(|g| g.input == *name) {
            None => bindings.inputs[name].to_bytes(),
            Some(gather) => {
                let (ids, table) = (&bindings.inputs[&gather.ids], &bindings.weights[&gather.weight]);
                let width = gather.width as usize * gather.dtype.size();
                let all = table.to_bytes();
                (0..ids.len())
                    .flat_map(|t| all[ids.get(t).int() as usize * width..][..width].to_vec())
                    .collect()
            }
        },
        Argument::Const(node) => match compilation.graph.op(*node) {
            Op::Const(tensor) => tensor.to_bytes(),
            other => panic!("{other:?} is no constant"),
        },
        Argument::Value(_) | Argument::Scratch(..) => vec![0xaa; bytes],
    }
}

/// A weight's plane in the layout that the target wants.
fn laid_out(name: &str, tensor: &Tensor, caps: &Caps) -> Vec<u8> {
    let shape: Vec<Expr> = tensor.shape.iter().map(|n| Expr::int(*n as i64)).collect();
    let layout = layout(name, shape.len(), caps);
    let size = tensor.dtype.size();
    let mut bytes = vec![0u8; layout.len(&shape).as_int().unwrap() as usize * size];
    let from = tensor.to_bytes();
    let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
    for at in 0..tensor.len() {
        let place: Vec<Expr> = match tensor.shape.len() {
            2 => vec![Expr::int((at / columns) as i64), Expr::int((at % columns) as i64)],
            _ => vec![Expr::int(at as i64)],
        };
        let offset = layout.offset(&shape, &place).as_int().unwrap() as usize;
        bytes[offset * size..][..size].copy_from_slice(&from[at * size..][..size]);
    }
    bytes
}

/// The caps that every schedule must serve.
pub(crate) fn all_caps() -> Vec<(&'static str, Caps)> {
    vec![
        ("vector 4", Caps::vector(4)),
        ("vector 8", Caps::vector(8)),
        ("vector 8, signed bytes", Caps { signed_bytes: true, ..Caps::vector(8) }),
        ("vector 16", Caps::vector(16)),
        ("threads 32", Caps::threads(32)),
        ("threads 128", Caps::threads(128)),
        ("threads 32, tiles by 64", Caps { tile_lanes: 64, ..Caps::threads(32) }),
        ("threads 32, 16 bytes each", Caps { vector_bytes: 16, ..Caps::threads(32) }),
    ]
}

/// The largest difference of two slices, relative to the largest value.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    apart(a, b) / scale
}

/// The largest difference of two slices; infinite if a number stands against none.
pub(crate) fn apart(a: &[f32], b: &[f32]) -> f32 {
    let distance = |(x, y): (&f32, &f32)| match x == y || (x.is_nan() && y.is_nan()) {
        true => 0.0,
        false if (x - y).is_nan() => f32::INFINITY,
        false => (x - y).abs(),
    };
    a.iter().zip(b).map(distance).fold(0.0, f32::max)
}
