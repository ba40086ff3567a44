//! A model cut behind any of its layers computes the very bits of the whole.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/fixtures/list.rs"]
mod list;

use std::collections::BTreeMap;
use std::path::Path;

use jtllm_fuzz::Random;
use jtllm_ir::cut::{Cut, CutError, cut};
use jtllm_ir::expr::Environment;
use jtllm_ir::interp::{self, Bindings};
use jtllm_ir::{DType, Format, Graph, Op, Symbol, Tensor};
use jtllm_models::arch::{self, Architecture, Pass, Rows, Weights};
use jtllm_models::{Checkpoint, LoadError};

/// Every tensor is there, in float32.
struct Floats;

impl Weights for Floats {
    fn format(&self, _: &str, _: &[u64]) -> Result<&'static Format, LoadError> {
        Ok(&jtllm_ir::format::F32)
    }
}

fn architecture(name: &str) -> Box<dyn Architecture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    arch::read(Checkpoint::open(&folder).unwrap().config()).unwrap()
}

/// The sizes of a pass of `rows` rows.
struct Sizes(BTreeMap<String, i64>);

impl Environment for Sizes {
    fn axis(&self, _: u16) -> i64 {
        unreachable!("extents have no axes")
    }

    fn symbol(&self, symbol: &Symbol) -> i64 {
        self.0[symbol.name()]
    }

    fn extra(&self, _: u32, _: &[i64]) -> i64 {
        unreachable!("extents have no extras")
    }
}

/// Random values for every leaf, each inside its range.
fn bindings(graph: &Graph, rows: i64, random: &mut Random) -> Bindings {
    let sizes = [("T", rows), ("P", 8), ("pages", 8)];
    let sizes = Sizes(sizes.into_iter().map(|(name, size)| (name.to_owned(), size)).collect());
    let mut bindings = Bindings::new();
    for node in graph.nodes() {
        let record = graph.record(node);
        let shape: Vec<usize> = record.shape.iter().map(|n| n.evaluate(&sizes) as usize).collect();
        let count = shape.iter().product::<usize>();
        let mut float = || random.below(4001) as f32 / 2000.0 - 1.0;
        let floats = |mut value: Box<dyn FnMut() -> f32 + '_>| {
            Tensor::floats(record.dtype, &shape, (0..count).map(|_| value()).collect())
        };
        match &record.op {
            Op::Weight { name } if !bindings.weights.contains_key(name) => {
                bindings.weights.insert(name.clone(), floats(Box::new(|| 0.2 * float())));
            }
            Op::State { name } if !bindings.states.contains_key(name) => {
                bindings.states.insert(name.clone(), floats(Box::new(|| float().abs())));
            }
            Op::Input { name, range: None } => {
                bindings.inputs.insert(name.clone(), floats(Box::new(float)));
            }
            Op::Input { name, range: Some((low, end)) } => {
                let width = (end.evaluate(&sizes) - low).min(64) as usize;
                let each = (0..count).map(|_| low + random.below(width) as i64).collect();
                bindings.inputs.insert(name.clone(), Tensor::ints(DType::I32, &shape, each));
            }
            _ => {}
        }
    }
    // All rows are of one sequence, as whoever loops over the rows of sequences must be told.
    for (name, first) in [("start", 0), ("count", rows), ("home", 3)] {
        let mut values = vec![0; 16];
        values[0] = first;
        bindings.inputs.insert(name.to_owned(), Tensor::ints(DType::I32, &[16], values));
    }
    let alone = Tensor::ints(DType::I32, &[rows as usize], vec![0; rows as usize]);
    bindings.inputs.insert("seq".to_owned(), alone);
    bindings.symbols = sizes.0;
    bindings
}

/// The state of which a pass reads nothing that an earlier one left.
const SCRATCH: &str = "flat rows";

/// Everything that a pass leaves behind, by name.
fn left(outputs: Vec<(String, Tensor)>, bindings: &Bindings) -> BTreeMap<String, Vec<u32>> {
    let kept = bindings.states.iter().filter(|(name, _)| *name != SCRATCH);
    let states = kept.map(|(name, value)| (format!("state {name}"), value.clone()));
    let bits = |value: &Tensor| value.to_floats().into_iter().map(f32::to_bits).collect();
    outputs.into_iter().chain(states).map(|(name, value)| (name, bits(&value))).collect()
}

fn check(name: &str, random: &mut Random) {
    let rows = *random.choice(&[Rows::Fixed(1), Rows::Fixed(4), Rows::Many(512)]);
    let count = match rows {
        Rows::Fixed(count) => count,
        Rows::Many(_) => 16,
    };
    let architecture = architecture(name);
    let rows = match rows {
        Rows::Many(_) => Rows::Many(architecture.chunk() as i64),
        fixed => fixed,
    };
    let pass = Pass { rows, keys: DType::F32, values: DType::F16, taps: random.below(2) == 1 };
    let whole = architecture.body(&Floats, pass).unwrap();
    assert!(whole.layers.len() >= 2, "{name} has {} layers", whole.layers.len());
    let given = bindings(&whole, count, random);
    let mut bindings = given.clone();
    let expected = left(interp::run(&whole, &mut bindings).unwrap(), &bindings);
    for layer in 0..whole.layers.len() {
        let Cut { front, back, carried } = cut(&whole, layer).unwrap();
        for part in [&front, &back] {
            jtllm_ir::verify(part).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
        }
        let own = front.layers.len() + back.layers.len();
        assert_eq!((front.layers.len(), own), (layer + 1, whole.layers.len()), "{name}");
        // RWKV-7's layers share the values of the first one.
        let shares = name.starts_with("rwkv-7") && layer + 1 < whole.layers.len();
        let values = if shares { 2 } else { 1 };
        assert_eq!(carried.len(), values, "{name} carries {carried:?} behind layer {layer}");
        let mut bindings = given.clone();
        let mut outputs = interp::run(&front, &mut bindings).unwrap();
        for name in &carried {
            let at = outputs.iter().position(|(output, _)| output == name).unwrap();
            bindings.inputs.insert(name.clone(), outputs.swap_remove(at).1);
        }
        if let Some(scratch) = bindings.states.get_mut(SCRATCH) {
            *scratch = Tensor::zeros(scratch.dtype, &scratch.shape);
        }
        outputs.extend(interp::run(&back, &mut bindings).unwrap());
        assert!(left(outputs, &bindings) == expected, "{name} cut behind layer {layer} differs");
    }
}

#[test]
fn front_and_back_give_the_bits_of_the_whole() {
    for (seed, name) in list::all().iter().enumerate() {
        check(name, &mut Random::new(seed as u64));
    }
}

#[test]
fn fuzz_cut() {
    let fixtures = list::all();
    jtllm_fuzz::for_seconds("cut", |random| {
        let name = random.choice(&fixtures);
        check(name, random);
    });
}

#[test]
fn what_cannot_be_cut_is_told() {
    let pass = Pass { rows: Rows::Fixed(1), keys: DType::F32, values: DType::F32, taps: false };
    let graph = architecture("gpt2-tiny").body(&Floats, pass).unwrap();
    let layers = graph.layers.len();
    assert_eq!(jtllm_ir::parse(&jtllm_ir::print(&graph)).unwrap(), graph);
    assert_eq!(cut(&graph, layers), Err(CutError::NoLayer { layer: layers, layers }));
    let text = "graph shared\n%s = state s : f32[4]\n%x = map neg %s\n%y = map add %x %s\n\
                %w = write %s {i -> i} = %y\noutput %y as y\nlayer %x\n";
    let graph = jtllm_ir::parse(text).unwrap();
    assert_eq!(cut(&graph, 0), Err(CutError::SharedState { name: "s".to_owned() }));
}

/// What prints, reads back and prints the same, and is as sound as before.
#[test]
fn every_graph_reads_back() {
    for name in &list::all() {
        let pass = Pass { rows: Rows::Fixed(1), keys: DType::F16, values: DType::F16, taps: true };
        let text = architecture(name).body(&Floats, pass).unwrap().to_string();
        let read = jtllm_ir::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        jtllm_ir::verify(&read).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
        assert_eq!(read.to_string(), text, "{name}");
    }
}
