//! The interpreter on small graphs whose values are known, and on bindings that are wrong.
#![allow(clippy::unwrap_used)]

use jtllm_ir::interp::{Bindings, InterpError, run};
use jtllm_ir::{DType, Expr, Graph, Monoid, Node, ScalarOp, Symbol, Tensor, build};

fn tokens() -> Symbol {
    Symbol::new("T", 1, 64, 1)
}

/// A graph that gathers rows of a table: `out[i, j] = table[ids[i], j]`.
fn gather() -> Graph {
    let mut graph = Graph::new("gather");
    let t = graph.symbol(&tokens());
    let table = graph.weight("table", DType::F32, &[Expr::int(4), Expr::int(3)]);
    let ids = graph.input("ids", DType::I32, std::slice::from_ref(&t), Some((0, Expr::int(4))));
    let rows = graph.view(table, &[t, Expr::int(3)], &[ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
    graph.output("rows", rows);
    graph
}

fn gather_bindings() -> Bindings {
    let mut bindings = Bindings::new();
    bindings.symbols.insert("T".into(), 2);
    let table = (0..12).map(|x| x as f32).collect();
    bindings.weights.insert("table".into(), Tensor::floats(DType::F32, &[4, 3], table));
    bindings.inputs.insert("ids".into(), Tensor::ints(DType::I32, &[2], vec![3, 1]));
    bindings
}

#[test]
fn a_view_gathers_rows() {
    let outputs = run(&gather(), &mut gather_bindings()).unwrap();
    assert_eq!(outputs[0].0, "rows");
    assert_eq!(outputs[0].1.to_floats(), [9.0, 10.0, 11.0, 3.0, 4.0, 5.0]);
}

#[test]
fn an_id_outside_its_range_is_named_with_its_position() {
    let mut bindings = gather_bindings();
    bindings.inputs.insert("ids".into(), Tensor::ints(DType::I32, &[2], vec![3, 4]));
    let error = run(&gather(), &mut bindings).unwrap_err();
    assert_eq!(error, InterpError::Range { name: "ids".into(), at: vec![1], value: 4, low: 0, end: 4 });
    assert_eq!(error.to_string(), "input ids at [1] is 4, expected a value in 0..4");
}

#[test]
fn missing_and_misshapen_bindings_are_named() {
    let mut bindings = gather_bindings();
    bindings.weights.clear();
    let error = run(&gather(), &mut bindings).unwrap_err();
    assert_eq!(error.to_string(), "weight table has no value");

    let mut bindings = gather_bindings();
    bindings.inputs.insert("ids".into(), Tensor::ints(DType::I32, &[3], vec![3, 1, 0]));
    let error = run(&gather(), &mut bindings).unwrap_err();
    assert_eq!(error.to_string(), "input ids is i32[3], expected i32[2]");

    let mut bindings = gather_bindings();
    bindings.symbols.insert("T".into(), 65);
    let error = run(&gather(), &mut bindings).unwrap_err();
    assert_eq!(error.to_string(), "symbol T is 65, expected a multiple of 1 from 1 to 64");

    let mut bindings = gather_bindings();
    bindings.symbols.clear();
    let error = run(&gather(), &mut bindings).unwrap_err();
    assert_eq!(error.to_string(), "symbol T has no value");
}

#[test]
fn a_coordinate_outside_is_an_error_with_node_and_coordinates() {
    let mut graph = Graph::new("outside");
    let x = graph.input("x", DType::F32, &[Expr::int(4)], None);
    let y = graph.view(x, &[Expr::int(4)], &[], |c| vec![c.axis(0) + 2]);
    graph.output("y", y);
    let mut bindings = Bindings::new();
    bindings.inputs.insert("x".into(), Tensor::zeros(DType::F32, &[4]));
    let error = run(&graph, &mut bindings).unwrap_err();
    assert_eq!(error, InterpError::OutOfBounds { node: Node(1), at: vec![4], shape: vec![4] });
}

#[test]
fn where_ok_does_not_hold_a_view_is_zero_and_reads_nothing() {
    let mut graph = Graph::new("padded");
    let x = graph.input("x", DType::F32, &[Expr::int(4)], None);
    let y = graph.view_where(x, &[Expr::int(6)], &[], |c| {
        (
            vec![c.axis(0) - 1],
            Some(Expr::int(0).less_than(&c.axis(0)).and(&c.axis(0).less_than(&Expr::int(5)))),
        )
    });
    graph.output("y", y);
    let mut bindings = Bindings::new();
    bindings.inputs.insert("x".into(), Tensor::floats(DType::F32, &[4], vec![1.0, 2.0, 3.0, 4.0]));
    let outputs = run(&graph, &mut bindings).unwrap();
    assert_eq!(outputs[0].1.to_floats(), [0.0, 1.0, 2.0, 3.0, 4.0, 0.0]);
}

#[test]
fn sums_of_floats_are_rounded_once() {
    let mut graph = Graph::new("sum");
    let x = graph.input("x", DType::F32, &[Expr::int(2), Expr::int(3)], None);
    for (name, monoid) in
        [("add", Monoid::Add), ("mul", Monoid::Mul), ("max", Monoid::Max), ("min", Monoid::Min)]
    {
        let total = graph.reduce(monoid, x, &[1]);
        graph.output(name, total);
    }
    let columns = graph.reduce(Monoid::Add, x, &[0]);
    graph.output("columns", columns);
    let mut bindings = Bindings::new();
    let values = vec![1e8, 1.0, -1e8, 1.5, -2.0, 4.0];
    bindings.inputs.insert("x".into(), Tensor::floats(DType::F32, &[2, 3], values));
    let outputs = run(&graph, &mut bindings).unwrap();
    let floats: Vec<Vec<f32>> = outputs.iter().map(|(_, x)| x.to_floats()).collect();
    assert_eq!(floats[0], [1.0, 3.5]);
    assert_eq!(floats[1], [-1e16, -12.0]);
    assert_eq!(floats[2], [1e8, 4.0]);
    assert_eq!(floats[3], [-1e8, -2.0]);
    assert_eq!(floats[4], [1e8, -1.0, -1e8]);
}

#[test]
fn a_reduce_over_nothing_is_neutral() {
    let mut graph = Graph::new("empty");
    let x = graph.input("x", DType::F32, &[Expr::int(2), Expr::int(0)], None);
    let sum = graph.reduce(Monoid::Add, x, &[1]);
    let most = graph.reduce(Monoid::Max, x, &[1]);
    graph.output("sum", sum);
    graph.output("most", most);
    let mut bindings = Bindings::new();
    bindings.inputs.insert("x".into(), Tensor::zeros(DType::F32, &[2, 0]));
    let outputs = run(&graph, &mut bindings).unwrap();
    assert_eq!(outputs[0].1.to_floats(), [0.0, 0.0]);
    assert_eq!(outputs[1].1.to_floats(), [f32::NEG_INFINITY, f32::NEG_INFINITY]);
}

#[test]
fn a_linear_layer_is_the_product_with_the_transpose() {
    // Rows of 300 are longer than the shortest row that gets blocks of its own, so both ways of cutting
    // a space into blocks are exercised: this one and the short rows of the other tests.
    let mut graph = Graph::new("product");
    let t = graph.symbol(&tokens());
    let x = graph.input("x", DType::F32, &[t, Expr::int(300)], None);
    let w = graph.weight("w", DType::F32, &[Expr::int(200), Expr::int(300)]);
    let y = build::linear(&mut graph, x, w, None);
    graph.output("y", y);
    let mut bindings = Bindings::new();
    bindings.symbols.insert("T".into(), 3);
    let x: Vec<f32> = (0..900).map(|x| (x % 7) as f32 - 3.0).collect();
    let w: Vec<f32> = (0..60_000).map(|x| (x % 11) as f32 - 5.0).collect();
    bindings.inputs.insert("x".into(), Tensor::floats(DType::F32, &[3, 300], x.clone()));
    bindings.weights.insert("w".into(), Tensor::floats(DType::F32, &[200, 300], w.clone()));
    let y = run(&graph, &mut bindings).unwrap()[0].1.to_floats();
    for row in 0..3 {
        for column in 0..200 {
            let expected: f32 = (0..300).map(|k| x[row * 300 + k] * w[column * 300 + k]).sum();
            assert_eq!(y[row * 200 + column], expected);
        }
    }
}

#[test]
fn a_state_keeps_its_last_version_and_a_failed_pass_changes_nothing() {
    let mut graph = Graph::new("state");
    let state = graph.state("s", DType::F32, &[Expr::int(4)]);
    let at = graph.input("at", DType::I32, &[Expr::int(2)], Some((-1, Expr::int(4))));
    let value = graph.input("value", DType::F32, &[Expr::int(2)], None);
    let before = graph.view(state, &[Expr::int(4)], &[], |c| vec![c.axis(0)]);
    let written = graph.write(state, value, &[at], |c| {
        let at = c.extra(0, &[c.axis(0)]);
        (vec![at.clone()], Some(Expr::int(-1).less_than(&at)))
    });
    let twice = build::add(&mut graph, value, value);
    let again = graph.write(written, twice, &[], |c| (vec![c.axis(0) + 2], None));
    let middle = graph.view(written, &[Expr::int(4)], &[], |c| vec![c.axis(0)]);
    graph.output("before", before);
    graph.output("middle", middle);
    graph.output("after", again);
    let mut bindings = Bindings::new();
    bindings.states.insert("s".into(), Tensor::floats(DType::F32, &[4], vec![9.0; 4]));
    bindings.inputs.insert("at".into(), Tensor::ints(DType::I32, &[2], vec![1, -1]));
    bindings.inputs.insert("value".into(), Tensor::floats(DType::F32, &[2], vec![5.0, 6.0]));
    let outputs = run(&graph, &mut bindings).unwrap();
    assert_eq!(outputs[0].1.to_floats(), [9.0, 9.0, 9.0, 9.0]);
    assert_eq!(outputs[1].1.to_floats(), [9.0, 5.0, 9.0, 9.0]);
    assert_eq!(outputs[2].1.to_floats(), [9.0, 5.0, 10.0, 12.0]);
    assert_eq!(bindings.states["s"].to_floats(), [9.0, 5.0, 10.0, 12.0]);

    bindings.inputs.insert("at".into(), Tensor::ints(DType::I32, &[2], vec![0, 7]));
    assert!(run(&graph, &mut bindings).is_err());
    assert_eq!(bindings.states["s"].to_floats(), [9.0, 5.0, 10.0, 12.0]);
}

#[test]
fn a_host_function_stands_for_an_opaque_node() {
    use jtllm_ir::{Op, graph::Record};
    let mut graph = Graph::new("sorted");
    let x = graph.input("x", DType::F32, &[Expr::int(3)], None);
    let op = Op::Opaque { name: "sort".into(), xs: vec![x] };
    let sorted = graph.push(Record { op, shape: vec![Expr::int(3)], dtype: DType::F32 });
    graph.output("sorted", sorted);
    let mut bindings = Bindings::new();
    bindings.inputs.insert("x".into(), Tensor::floats(DType::F32, &[3], vec![3.0, 1.0, 2.0]));
    let error = run(&graph, &mut bindings).unwrap_err();
    assert_eq!(error.to_string(), "function sort has no value");
    let sort = |xs: &[&Tensor]| {
        let mut values = xs[0].to_floats();
        values.sort_by(f32::total_cmp);
        Tensor::floats(DType::F32, &[3], values)
    };
    bindings.functions.insert("sort".into(), std::sync::Arc::new(sort));
    assert_eq!(run(&graph, &mut bindings).unwrap()[0].1.to_floats(), [1.0, 2.0, 3.0]);
    let wrong = |_: &[&Tensor]| Tensor::zeros(DType::F32, &[2]);
    bindings.functions.insert("sort".into(), std::sync::Arc::new(wrong));
    let error = run(&graph, &mut bindings).unwrap_err();
    assert_eq!(error.to_string(), "function sort is f32[2], expected f32[3]");
}

/// `c' = c * k + v` along axis 0, giving the last carry and every carry.
fn recurrence() -> Graph {
    let mut body = Graph::new("body");
    let width = [Expr::int(2)];
    let carry = body.input("c", DType::F32, &width, None);
    let k = body.input("k", DType::F32, &width, None);
    let v = body.input("v", DType::F32, &width, None);
    let next = body.map(ScalarOp::Fma, &[carry, k, v]);
    body.output("next", next);
    body.output("out", carry);
    let mut graph = Graph::new("recurrence");
    let t = graph.symbol(&tokens());
    let start = graph.input("start", DType::F32, &width, None);
    let shape = [t, Expr::int(2)];
    let k = graph.input("k", DType::F32, &shape, None);
    let v = graph.input("v", DType::F32, &shape, None);
    let scan = jtllm_ir::graph::Scan { axis: 0, carries: vec![start], xs: vec![k, v], body };
    let results = graph.scan(scan);
    graph.output("last", results[0]);
    graph.output("all", results[1]);
    graph
}

#[test]
fn a_scan_carries_values_along_its_axis() {
    let graph = recurrence();
    let mut bindings = Bindings::new();
    bindings.symbols.insert("T".into(), 3);
    bindings.inputs.insert("start".into(), Tensor::floats(DType::F32, &[2], vec![1.0, 2.0]));
    bindings
        .inputs
        .insert("k".into(), Tensor::floats(DType::F32, &[3, 2], vec![2.0, 3.0, 2.0, 3.0, 2.0, 3.0]));
    bindings
        .inputs
        .insert("v".into(), Tensor::floats(DType::F32, &[3, 2], vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0]));
    let outputs = run(&graph, &mut bindings).unwrap();
    assert_eq!(outputs[0].1.to_floats(), [13.0, 58.0]);
    assert_eq!(outputs[1].1.shape, [3, 2]);
    assert_eq!(outputs[1].1.to_floats(), [1.0, 2.0, 3.0, 6.0, 6.0, 19.0]);
}

#[test]
fn a_long_chain_of_maps_does_not_exhaust_the_stack() {
    let mut graph = Graph::new("chain");
    let x = graph.input("x", DType::F32, &[Expr::int(2)], None);
    let mut y = x;
    for _ in 0..50_000 {
        y = build::add(&mut graph, y, x);
    }
    graph.output("y", y);
    let mut bindings = Bindings::new();
    bindings.inputs.insert("x".into(), Tensor::floats(DType::F32, &[2], vec![1.0, 2.0]));
    assert_eq!(run(&graph, &mut bindings).unwrap()[0].1.to_floats(), [50_001.0, 100_002.0]);
}

#[test]
fn what_no_output_or_state_depends_on_is_not_computed() {
    use jtllm_ir::{Op, graph::Record};
    let mut graph = Graph::new("dead");
    let x = graph.input("x", DType::F32, &[Expr::int(2)], None);
    let op = Op::Opaque { name: "nowhere".into(), xs: vec![x] };
    graph.push(Record { op, shape: vec![Expr::int(2)], dtype: DType::F32 });
    graph.output("x", x);
    let mut bindings = Bindings::new();
    bindings.inputs.insert("x".into(), Tensor::floats(DType::F32, &[2], vec![1.0, 2.0]));
    assert_eq!(run(&graph, &mut bindings).unwrap()[0].1.to_floats(), [1.0, 2.0]);
}
