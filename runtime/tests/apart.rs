//! The case that Jittor's own test has: a hundred tensors of 1 MB through 20 MB of a device's memory and 50 MB of the
//! host's, under a network that multiplies with each of them.
#![allow(clippy::unwrap_used)]

mod late;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use jtllm_runtime::Error;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Options;
use jtllm_runtime::device::Device;
use jtllm_runtime::ir::build::linear;
use jtllm_runtime::ir::{DType, Expr, Format, Graph};
use jtllm_runtime::network::{Batch, Bucket, Graphs, Network, Part, Row};
use jtllm_runtime::residence::{Limit, Most, Residence};
use jtllm_runtime::weights::{Piece, Source};
use late::{Late, Metered};

/// Rows and columns of a matrix: 1 MB of `f32`.
const WIDTH: u64 = 500;
const COUNT: u64 = 100;
const MB: u64 = 1_000_000;

/// A row of a table times all matrices but the last, which is the head.
struct Chain;

impl Graphs for Chain {
    fn chunk(&self) -> usize {
        16
    }

    fn graph(&self, part: Part, _: Bucket) -> Result<Graph, Error> {
        let mut graph = Graph::new("chain");
        let (one, width) = (Expr::int(1), Expr::int(WIDTH as i64));
        let space = [one.clone(), width.clone()];
        let matrices = if part == Part::Body { 0..COUNT - 1 } else { COUNT - 1..COUNT };
        let mut x = match part {
            Part::Body => {
                let ids = graph.input("ids", DType::I32, &[one], Some((0, Expr::int(2))));
                let table = graph.weight("table", DType::F32, &[Expr::int(2), width.clone()]);
                graph.view(table, &space, &[ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)])
            }
            _ => graph.input("hidden", DType::F32, &space, None),
        };
        for number in matrices {
            let matrix = graph.weight(&format!("w{number}"), DType::F32, &[width.clone(), width.clone()]);
            x = linear(&mut graph, x, matrix, None);
        }
        graph.output(if part == Part::Body { "hidden" } else { "logits" }, x);
        Ok(graph)
    }
}

/// The table's two rows, and then the matrices, which leave a vector about as long as it was.
fn write(path: &Path) -> Arc<Vec<u8>> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let scale = (12.0 / WIDTH as f32).sqrt();
    let bytes: Vec<u8> =
        (0..2 * WIDTH + COUNT * WIDTH * WIDTH).flat_map(|_| (next() * scale).to_le_bytes()).collect();
    File::create(path).unwrap().write_all(&bytes).unwrap();
    Arc::new(bytes)
}

fn token(position: usize) -> Batch {
    Batch {
        rows: vec![Row { id: position as u32 % 2, position, sequence: 0, slot: -1 }],
        chunk: false,
        tables: vec![Arc::new(vec![0])],
        lengths: vec![position + 1],
        wanted: vec![0],
        facts: Vec::new(),
        shown: None,
    }
}

#[test]
fn a_hundred_matrices_of_1_mb_go_through_20_mb_of_a_device_and_50_mb_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let path: Arc<Path> = folder.path().join("weights").into();
    let bytes = write(&path);
    let locate = |name: &str| {
        let (rows, offset) = match name.strip_prefix('w').and_then(|number| number.parse::<u64>().ok()) {
            Some(number) => (WIDTH, (2 + number * WIDTH) * WIDTH * 4),
            None => (2, 0),
        };
        let (file, stride) = (Some(path.clone()), WIDTH * 4);
        let piece = Piece { bytes: bytes.clone(), file, offset, rows, cols: WIDTH, stride };
        Some(Source { format: Format::find("f32")?, shape: vec![rows, WIDTH], pieces: vec![piece] })
    };
    let network = |device: Arc<dyn Device>| {
        Network::new(device, Box::new(Chain), Options::default(), KernelCache::off("a test"), 16)
    };
    let mut free = network(Late::device());
    let expected: Vec<Vec<f32>> = (0..4).map(|at| free.pass(&token(at), &locate, None).unwrap()).collect();
    assert!(expected.iter().flatten().any(|x| x.abs() > 0.01 && x.is_finite()));
    let metered = Metered::new(Late::device());
    let host = Limit::of(Most::Weights(50 * MB));
    let mut limited = network(metered.clone()).apart(&host, 20 * MB).unwrap();
    let mut before = None;
    for (at, expected) in expected.iter().enumerate() {
        if at == 2 {
            before = limited.residence().map(Residence::traffic);
        }
        assert_eq!(&limited.pass(&token(at), &locate, None).unwrap(), expected, "token {at}");
    }
    assert!(metered.peak() <= 20 * MB && metered.peak() > 19 * MB, "{}", metered.peak());
    let residence = limited.residence().unwrap();
    let (before, after, stay) = (before.unwrap(), residence.traffic(), residence.staying() / MB);
    println!("{before:?} {after:?}, {stay} MB stay on the device");
    // Each pass copies what does not stay there, and reads what stays on neither: of the host's memory 33 MB are for
    // what is being read.
    assert!((14..=17).contains(&stay), "{stay}");
    let copied = (after.bytes_copied - before.bytes_copied) / 2 / MB;
    assert!((100 - stay - 2..=100 - stay + 2).contains(&copied), "{copied} MB copied in a pass, {stay} stay");
    let read = (after.bytes_read - before.bytes_read) / 2 / MB;
    assert!((35..=75).contains(&read), "{read} MB read in a pass");
}
