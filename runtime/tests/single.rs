//! One graph on a device, against the interpreter of graphs; and what it refuses.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use jtllm_runtime::codegen::emit::cranelift::Cranelift;
use jtllm_runtime::device::Device;
use jtllm_runtime::device::cpu::Cpu;
use jtllm_runtime::ir::build::add;
use jtllm_runtime::ir::expr::Symbol;
use jtllm_runtime::ir::{DType, Expr, Format, Graph, Node, Tensor};
use jtllm_runtime::plan::Sizes;
use jtllm_runtime::single::Single;
use jtllm_runtime::weights::Source;

fn device() -> Arc<dyn Device> {
    Arc::new(Cpu::new(Box::new(Cranelift::host().unwrap()), 2))
}

fn sizes(tokens: i64) -> Sizes {
    Sizes::from([("T".to_owned(), tokens)])
}

/// Rows of a packed table, added to a state that keeps the sum.
fn sums() -> Graph {
    let mut graph = Graph::new("sums");
    let tokens = graph.symbol(&Symbol::new("T", 1, 4, 1));
    let ids = graph.input("ids", DType::I32, std::slice::from_ref(&tokens), Some((0, Expr::int(3))));
    let q8_0 = Format::find("q8_0").unwrap();
    let table = q8_0.weight(&mut graph, "table", &[Expr::int(3), Expr::int(32)]);
    let space = [tokens, Expr::int(32)];
    let rows = graph.view(table, &space, &[ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
    let kept = graph.state("kept", DType::F32, &space);
    let sum = add(&mut graph, kept, rows);
    let next = graph.write(kept, sum, &[], |c| (vec![c.axis(0), c.axis(1)], None));
    graph.output("sum", next);
    graph
}

/// Row `r` of the table holds `r + 1` times -16, -15, ..., 15.
fn table(name: &str) -> Option<Source> {
    let half_one_two_three: [[u8; 2]; 3] = [[0x00, 0x3C], [0x00, 0x40], [0x00, 0x42]];
    let block = |scale: [u8; 2]| scale.into_iter().chain((-16i8..16).map(|x| x as u8));
    let bytes: Vec<u8> = half_one_two_three.into_iter().flat_map(block).collect();
    (name == "table").then(|| Source::whole(Format::find("q8_0").unwrap(), &[3, 32], Arc::new(bytes)))
}

fn ids(values: &[i64]) -> Tensor {
    Tensor::ints(DType::I32, &[values.len()], values.to_vec())
}

#[test]
fn rows_of_a_packed_table_are_gathered_and_states_survive_passes() {
    let mut single = Single::new(device(), &sums(), sizes(2), &table).unwrap();
    single.give("ids", &ids(&[2, 0])).unwrap();
    single.run().unwrap();
    single.give("ids", &ids(&[1, 1])).unwrap();
    single.run().unwrap();
    let sum = single.read("sum").unwrap();
    assert_eq!((sum.dtype, sum.shape.as_slice()), (DType::F32, &[2, 32][..]));
    let row = |factor: f32| (-16..16).map(move |x| factor * x as f32);
    assert_eq!(sum.to_floats(), row(5.0).chain(row(3.0)).collect::<Vec<f32>>());
}

#[test]
fn what_does_not_fit_is_refused() {
    let error = |tokens| Single::new(device(), &sums(), sizes(tokens), &table).err().unwrap().to_string();
    assert_eq!(error(5), "a pass cannot run: size T is 5, planned for 1..=4 in steps of 1");
    let bare = Single::new(device(), &sums(), Sizes::new(), &table).err().unwrap();
    assert_eq!(bare.to_string(), "a pass cannot run: no value for size T");
    let lost = Single::new(device(), &sums(), sizes(2), &|_| None).err().unwrap();
    assert_eq!(lost.to_string(), "weight table: the model's files have no such tensor");

    let mut single = Single::new(device(), &sums(), sizes(2), &table).unwrap();
    assert_eq!(single.run().unwrap_err().to_string(), "a pass cannot run: input ids has no value");
    let mut give = |name: &str, value: &Tensor| single.give(name, value).unwrap_err().to_string();
    let wrong = |what: &str| format!("a pass cannot run: input {what}");
    assert_eq!(give("x", &ids(&[0, 0])), wrong("x does not exist"));
    assert_eq!(give("ids", &ids(&[0])), wrong("ids is i32[1], expected i32[2]"));
    let floats = Tensor::zeros(DType::F32, &[2]);
    assert_eq!(give("ids", &floats), wrong("ids is f32[2], expected i32[2]"));
    assert_eq!(give("ids", &ids(&[0, 3])), wrong("ids holds 3, expected values in 0..3"));
    assert_eq!(give("ids", &ids(&[-1, 0])), wrong("ids holds -1, expected values in 0..3"));
    assert_eq!(single.read("y").unwrap_err().to_string(), "a pass cannot run: there is no output y");
}

#[test]
fn outputs_that_no_kernel_stores_are_read_where_they_lie_or_refused() {
    let run = |choose: &dyn Fn(&mut Graph) -> Node| {
        let mut graph = Graph::new("leaves");
        let node = choose(&mut graph);
        graph.output("y", node);
        let one = |_: &str| Some(Source::whole(Format::find("f32").unwrap(), &[1], Arc::new(vec![0; 4])));
        let mut single = Single::new(device(), &graph, Sizes::new(), &one)?;
        if single.give("x", &Tensor::floats(DType::F32, &[1], vec![5.0])).is_ok() {
            single.run()?;
        }
        single.read("y").map(|tensor| tensor.to_floats()[0])
    };
    let shape = [Expr::int(1)];
    let input = |graph: &mut Graph| graph.input("x", DType::F32, &shape, None);
    let written = |graph: &mut Graph| {
        let (x, state) = (input(graph), graph.state("s", DType::F32, &shape));
        (state, graph.write(state, x, &[], |c| (vec![c.axis(0)], None)))
    };
    assert_eq!(run(&input).unwrap(), 5.0);
    assert_eq!(run(&|graph| written(graph).1).unwrap(), 5.0);
    assert_eq!(run(&|graph| graph.state("s", DType::F32, &shape)).unwrap(), 0.0);
    let refused = |choose: &dyn Fn(&mut Graph) -> Node| run(choose).unwrap_err().to_string();
    let told =
        |what: &str| format!("a pass cannot run: output y is {what}, which a pass does not leave behind");
    assert_eq!(refused(&|graph| graph.weight("w", DType::F32, &shape)), told("weight w"));
    let constant = Tensor::zeros(DType::F32, &[1]);
    assert_eq!(refused(&|graph| graph.constant(constant.clone())), told("a constant"));
    let before = |graph: &mut Graph| {
        let (state, next) = written(graph);
        graph.output("z", next);
        state
    };
    assert_eq!(refused(&before), told("a version of state s"));
}
