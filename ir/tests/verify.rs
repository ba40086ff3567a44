//! The verifier on graphs that no text can spell, and on every builder.
#![allow(clippy::unwrap_used)]

mod graphs;

use jtllm_ir::graph::Record;
use jtllm_ir::{DType, Expr, Graph, Node, Op, ScalarOp, Symbol, verify};

#[test]
fn every_builder_makes_graphs_without_faults() {
    for (name, graph) in graphs::all() {
        if let Err(faults) = verify(&graph) {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            panic!("{name}:\n{}", faults.join("\n"));
        }
    }
}

fn rules(graph: &Graph) -> Vec<(u32, &'static str)> {
    verify(graph).unwrap_err().into_iter().map(|fault| (fault.node.0, fault.rule)).collect()
}

#[test]
fn an_operand_that_comes_later_is_a_fault() {
    let mut graph = Graph::new("late");
    let shape = vec![Expr::int(2)];
    let op = Op::Map { op: ScalarOp::Neg, xs: vec![Node(1)] };
    graph.push(Record { op, shape: shape.clone(), dtype: DType::F32 });
    graph.input("x", DType::F32, &shape, None);
    graph.output("y", Node(7));
    assert_eq!(rules(&graph), [(0, "operands come before their users"), (7, "outputs exist")]);
}

#[test]
fn an_axis_of_another_extent_is_a_fault() {
    // The proof `i < 4` would hold for the axis as it claims to be, but the space has 8 points.
    let mut graph = Graph::new("axis");
    let x = graph.input("x", DType::F32, &[Expr::int(4)], None);
    let at = vec![Expr::axis(0, &Expr::int(4))];
    let op = Op::View { x, at, ok: None, extras: Vec::new() };
    graph.push(Record { op, shape: vec![Expr::int(8)], dtype: DType::F32 });
    assert_eq!(rules(&graph), [(1, "an axis has the extent of its space")]);
}

#[test]
fn an_extra_with_a_narrower_range_than_its_tensor_is_a_fault() {
    let mut graph = Graph::new("extra");
    let x = graph.input("x", DType::F32, &[Expr::int(4)], None);
    let ids = graph.input("ids", DType::I32, &[Expr::int(2)], Some((0, Expr::int(9))));
    let space = [Expr::int(2)];
    let at = vec![Expr::extra(0, vec![Expr::axis(0, &space[0])], 0, &Expr::int(4))];
    let op = Op::View { x, at, ok: None, extras: vec![ids] };
    graph.push(Record { op, shape: space.to_vec(), dtype: DType::F32 });
    assert_eq!(rules(&graph), [(2, "an extra has the range of its tensor")]);
}

#[test]
fn an_undeclared_symbol_is_a_fault_even_inside_an_extent() {
    let mut graph = Graph::new("symbol");
    let t = Expr::symbol(&Symbol::new("T", 1, 8, 1));
    graph.input("x", DType::F32, std::slice::from_ref(&t), None);
    assert_eq!(rules(&graph), [(0, "a symbol is declared once, with the bounds of its uses")]);
    graph.symbol(&Symbol::new("T", 1, 9, 1));
    assert_eq!(rules(&graph), [(0, "a symbol is declared once, with the bounds of its uses")]);
}
