//! Kernels alone: how fast they are made, and how fast they run on weights that no cache holds.
//!
//! ```text
//! cargo bench --bench kernels                     all of them
//! cargo bench --bench kernels -- gemv/q4_0        those whose names contain this
//! ```
//!
//! Formats are those of files, and one that is made up (`thirds`, of three bits) and that nothing knows but by its
//! expression. Products with one row and attention are limited by memory, so their throughput is in bytes; products with
//! many rows by arithmetic, so theirs is in elements: a multiplication or an addition each. `cargo test
//! --benches` runs everything once, on small tensors.

#[path = "../runtime/tests/common/thirds.rs"]
mod thirds;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput};
use jtllm_runtime::codegen::compile;
use jtllm_runtime::codegen::options::Options;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::device::native;
use jtllm_runtime::ir::build::{Attention, Cache, PAGE, attention, linear, rms_norm};
use jtllm_runtime::ir::expr::Symbol;
use jtllm_runtime::ir::format::FORMATS;
use jtllm_runtime::ir::{DType, Expr, Format, Graph, Tensor};
use jtllm_runtime::machine::Machine;
use jtllm_runtime::plan::Sizes;
use jtllm_runtime::probe;
use jtllm_runtime::single::Single;
use jtllm_runtime::weights::Source;
use thirds::THIRDS;

/// Numbers of a row of weights or of hidden vectors.
const WIDTH: usize = 4096;

/// Heads of queries, heads of keys, coordinates of a head: those of LLaMA 3 8B.
const HEADS: [usize; 3] = [32, 8, 128];

/// A byte that makes a small normal number in each format, so that no denormal slows a product down.
const BYTE: u8 = 0x2C;

const MEBIBYTE: usize = 1 << 20;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let native = native::host().expect("this processor has an emitter");
    let cpu = Cpu::new(native.target, Machine::probe().default_threads());
    if measuring() {
        let stream = probe::bandwidth(cpu.pool(), 512 * MEBIBYTE, Duration::from_secs(1));
        let stream = stream.expect("there is memory for what is measured");
        println!("{} code, {} threads, memory read at {stream:.1} GB/s", native.name, cpu.pool().count());
    }
    let device: Arc<dyn Device> = Arc::new(cpu);
    compiling(&mut criterion, &device);
    gemv(&mut criterion, &device);
    gemm(&mut criterion, &device);
    rows(&mut criterion, &device);
    attend(&mut criterion, &device);
    criterion.final_summary();
}

/// Whether times are wanted; else everything runs once, to show that it does.
fn measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
        && !std::env::args().any(|argument| argument == "--test")
}

/// Sizes of what is read: more than the cache of a desktop holds, and more than that of a server.
fn sizes() -> Vec<usize> {
    if measuring() { vec![64 * MEBIBYTE, 512 * MEBIBYTE] } else { vec![MEBIBYTE] }
}

fn label(bytes: usize) -> String {
    format!("{} MiB", bytes / MEBIBYTE)
}

/// A product of `x [tokens, WIDTH]` with a weight `[rows, WIDTH]` of that format. With many tokens their number
/// is a symbol, as in the plan of prompts.
fn product(format: &Format, rows: usize, tokens: usize) -> Graph {
    let mut graph = Graph::new("product");
    let count = match tokens {
        1 => Expr::int(1),
        _ => graph.symbol(&Symbol::new("T", 16, 512, 16)),
    };
    let (rows, width) = (Expr::int(rows as i64), Expr::int(WIDTH as i64));
    let x = graph.input("x", DType::F32, &[count, width.clone()], None);
    let weight = format.weight(&mut graph, "weight", &[rows, width]);
    let y = linear(&mut graph, x, weight, None);
    graph.output("y", y);
    graph
}

/// The formats that are measured.
fn formats() -> impl Iterator<Item = &'static Format> {
    FORMATS.iter().copied().chain([&THIRDS])
}

/// Bytes of a row of weights.
fn row_bytes(format: &Format) -> usize {
    WIDTH / format.block * format.block_bytes
}

/// A tensor in a file that holds the same byte everywhere.
fn source(format: &'static Format, shape: &[usize]) -> Source {
    let count: usize = shape.iter().product();
    let bytes = vec![BYTE; count / format.block * format.block_bytes];
    let shape: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
    Source::whole(format, &shape, Arc::new(bytes))
}

/// From a graph to machine code.
fn compiling(criterion: &mut Criterion, device: &Arc<dyn Device>) {
    let mut group = criterion.benchmark_group("compile");
    let target = device.target();
    let mut bench = |name: String, graph: &Graph| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let kernels = compile(graph, target.caps(), &Options::default()).kernels;
                let emitted = kernels.iter().map(|kernel| target.emit(kernel));
                black_box(emitted.collect::<Result<Vec<_>, _>>())
            });
        });
    };
    for format in formats() {
        bench(format!("gemv {}", format.name), &product(format, WIDTH, 1));
        bench(format!("gemm {}", format.name), &product(format, WIDTH, 512));
    }
    bench("rms_norm".to_owned(), &norm(1));
    bench("attend".to_owned(), &attend_graph(1024));
    group.finish();
}

/// One row of activations with a matrix: what decoding does.
fn gemv(criterion: &mut Criterion, device: &Arc<dyn Device>) {
    for format in formats() {
        let mut group = criterion.benchmark_group(format!("gemv/{}", format.name));
        for bytes in sizes() {
            let rows = bytes / row_bytes(format) / 16 * 16;
            group.throughput(Throughput::Bytes((rows * row_bytes(format)) as u64));
            let mut make = || multiplied(device, format, rows, 1);
            run(&mut group, "gemv", BenchmarkId::from_parameter(label(bytes)), &mut make);
        }
        group.finish();
    }
}

/// A chunk of a prompt with a matrix.
fn gemm(criterion: &mut Criterion, device: &Arc<dyn Device>) {
    let (tokens, rows) = if measuring() { (512, 2048) } else { (16, 64) };
    let mut group = criterion.benchmark_group("gemm");
    for format in formats() {
        group.throughput(Throughput::Elements((2 * tokens * rows * WIDTH) as u64));
        let mut make = || multiplied(device, format, rows, tokens);
        run(&mut group, "gemm", BenchmarkId::from_parameter(format.name), &mut make);
    }
    group.finish();
}

fn multiplied(device: &Arc<dyn Device>, format: &'static Format, rows: usize, tokens: usize) -> Single {
    let graph = product(format, rows, tokens);
    let weight = source(format, &[rows, WIDTH]);
    let sizes = Sizes::from([("T".to_owned(), tokens as i64)]);
    let mut single = compiled(device, &graph, sizes, &|_| Some(weight.clone()));
    give(&mut single, "x", Tensor::floats(DType::F32, &[tokens, WIDTH], vec![0.5; tokens * WIDTH]));
    single
}

/// `rms_norm` of so many rows. The rows are a weight here, since those are read where they lie.
fn norm(rows: usize) -> Graph {
    let mut graph = Graph::new("norm");
    let width = Expr::int(WIDTH as i64);
    let x = graph.weight("x", DType::F32, &[Expr::int(rows as i64), width.clone()]);
    let gain = graph.weight("gain", DType::F32, &[width]);
    let y = rms_norm(&mut graph, x, gain, 1e-5);
    graph.output("y", y);
    graph
}

/// A kernel that reduces rows and reads them again.
fn rows(criterion: &mut Criterion, device: &Arc<dyn Device>) {
    let mut group = criterion.benchmark_group("rms_norm");
    for bytes in sizes() {
        let mut make = || {
            let rows = bytes / 2 / (4 * WIDTH);
            let (x, gain) = (source(float(), &[rows, WIDTH]), source(float(), &[WIDTH]));
            let locate = |name: &str| Some(if name == "x" { x.clone() } else { gain.clone() });
            compiled(device, &norm(rows), Sizes::new(), &locate)
        };
        // Half of the bytes are read, half written.
        group.throughput(Throughput::Bytes(bytes as u64));
        run(&mut group, "rows", BenchmarkId::from_parameter(label(bytes)), &mut make);
    }
    group.finish();
}

fn float() -> &'static Format {
    Format::find("f32").expect("every build has the format f32")
}

/// Attention of one token to a past of so many positions. The cache is a pair of weights here, so that it holds
/// something without a prompt; the kernel is that of decoding.
fn attend_graph(positions: usize) -> Graph {
    let mut graph = Graph::new("attend");
    let [heads, key_heads, width] = HEADS.map(|n| Expr::int(n as i64));
    let (pages, page) = (Expr::int(positions as i64 / PAGE), Expr::int(PAGE));
    let one = [Expr::int(1)];
    let q = graph.input("q", DType::F32, &[Expr::int(1), heads, width.clone()], None);
    let position = graph.input("pos", DType::I32, &one, Some((0, Expr::int(positions as i64))));
    let sequence = graph.input("seq", DType::I32, &one, Some((0, Expr::int(1))));
    let table = graph.input("table", DType::I32, &[Expr::int(1), pages.clone()], Some((0, pages.clone())));
    let shape = [pages.clone(), key_heads.clone(), width.clone(), page.clone()];
    let keys = graph.weight("keys", DType::F16, &shape);
    let values = graph.weight("values", DType::F16, &[pages, key_heads, page, width]);
    let spec = Attention {
        scale: 1.0 / (HEADS[2] as f32).sqrt(),
        group: (HEADS[0] / HEADS[1]) as i64,
        sequence,
        extras: &[position],
        row: &|token| token,
        slopes: None,
        visible: &|c, token, place| place.at_most(&c.extra(1, &[token])),
    };
    let y = attention(&mut graph, q, &Cache { keys, values, table }, &spec);
    graph.output("y", y);
    graph
}

/// One token's attention to a long past, keys and values in `f16`.
fn attend(criterion: &mut Criterion, device: &Arc<dyn Device>) {
    let mut group = criterion.benchmark_group("attend");
    for bytes in sizes() {
        let positions = bytes / (2 * 2 * HEADS[1] * HEADS[2]);
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut make = || attending(device, positions);
        run(&mut group, "attend", BenchmarkId::from_parameter(label(bytes)), &mut make);
    }
    group.finish();
}

fn attending(device: &Arc<dyn Device>, positions: usize) -> Single {
    let [heads, key_heads, width] = HEADS;
    let half = Format::find("f16").expect("every build has the format f16");
    let pages = positions / PAGE as usize;
    let keys = source(half, &[pages, key_heads, width, PAGE as usize]);
    let values = source(half, &[pages, key_heads, PAGE as usize, width]);
    let locate = |name: &str| Some(if name == "keys" { keys.clone() } else { values.clone() });
    let mut single = compiled(device, &attend_graph(positions), Sizes::new(), &locate);
    give(&mut single, "q", Tensor::floats(DType::F32, &[1, heads, width], vec![0.5; heads * width]));
    give(&mut single, "pos", Tensor::ints(DType::I32, &[1], vec![positions as i64 - 1]));
    give(&mut single, "seq", Tensor::zeros(DType::I32, &[1]));
    give(&mut single, "table", Tensor::ints(DType::I32, &[1, pages], (0..pages as i64).collect()));
    single
}

fn compiled(
    device: &Arc<dyn Device>,
    graph: &Graph,
    sizes: Sizes,
    locate: &(dyn Fn(&str) -> Option<Source> + Send + Sync),
) -> Single {
    match Single::new(device.clone(), graph, sizes, locate) {
        Ok(single) => single,
        Err(error) => panic!("{}: {error}", graph.name),
    }
}

fn give(single: &mut Single, name: &str, value: Tensor) {
    single.give(name, &value).expect("the value has the shape that the graph declares");
}

/// Measures a graph whose last kernel is of the kind that its name says; before it, activations may become bytes. It is
/// made only if the name is asked for.
fn run(
    group: &mut BenchmarkGroup<'_, WallTime>,
    kind: &str,
    name: BenchmarkId,
    make: &mut dyn FnMut() -> Single,
) {
    let mut made = None;
    group.bench_function(name, |bencher| {
        let single = made.get_or_insert_with(&mut *make);
        let kernels = &single.plan().compilation.kernels;
        assert_eq!(kernels.last().map(|kernel| kernel.name.as_str()), Some(kind));
        bencher.iter(|| single.run().expect("the inputs are given"));
    });
}
