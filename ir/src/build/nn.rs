//! Layers that every transformer shares.

use super::{broadcast, splat};
use crate::expr::Expr;
use crate::graph::{Graph, Monoid, Node};
use crate::scalar::ScalarOp;

/// `a + b`.
pub fn add(graph: &mut Graph, a: Node, b: Node) -> Node {
    graph.map(ScalarOp::Add, &[a, b])
}

/// `a * b`.
pub fn mul(graph: &mut Graph, a: Node, b: Node) -> Node {
    graph.map(ScalarOp::Mul, &[a, b])
}

/// `x` times the transpose of `weight`, plus `bias`.
///
/// `x` is `[T, K]`, `weight` `[N, K]`, `bias` `[N]`; the result is `[T, N]`.
pub fn linear(graph: &mut Graph, x: Node, weight: Node, bias: Option<Node>) -> Node {
    let [tokens, depth] = [graph.shape(x)[0].clone(), graph.shape(x)[1].clone()];
    let rows = graph.shape(weight)[0].clone();
    let space = [tokens, rows, depth];
    let x = broadcast(graph, x, &space, &[0, 2]);
    let weight = broadcast(graph, weight, &space, &[1, 2]);
    let product = mul(graph, x, weight);
    let sum = graph.reduce(Monoid::Add, product, &[2]);
    match bias {
        None => sum,
        Some(bias) => {
            let bias = broadcast(graph, bias, &space[..2], &[1]);
            add(graph, sum, bias)
        }
    }
}

/// As [`linear`], with the result's rows taken as `heads` times `width`: `[T, heads, width]`.
pub fn linear_heads(
    graph: &mut Graph,
    x: Node,
    weight: Node,
    bias: Option<Node>,
    [heads, width]: [i64; 2],
) -> Node {
    let [tokens, depth] = [graph.shape(x)[0].clone(), graph.shape(x)[1].clone()];
    let space = [tokens, Expr::int(heads), Expr::int(width), depth];
    let x = broadcast(graph, x, &space, &[0, 3]);
    let weight = graph.view(weight, &space, &[], |c| vec![c.axis(1) * width + c.axis(2), c.axis(3)]);
    let product = mul(graph, x, weight);
    let sum = graph.reduce(Monoid::Add, product, &[3]);
    match bias {
        None => sum,
        Some(bias) => {
            let bias = graph.view(bias, &space[..3], &[], |c| vec![c.axis(1) * width + c.axis(2)]);
            add(graph, sum, bias)
        }
    }
}

/// Root-mean-square normalisation over the last axis of `x [T, K]`, scaled by `weight [K]`
/// (Zhang and Sennrich, 2019).
pub fn rms_norm(graph: &mut Graph, x: Node, weight: Node, epsilon: f32) -> Node {
    let space = graph.shape(x).to_vec();
    let width = space[1].as_int().expect("the width of a normalised tensor is a constant");
    let square = mul(graph, x, x);
    let sum = graph.reduce(Monoid::Add, square, &[1]);
    let rows = &space[..1];
    let factor = splat(graph, 1.0 / width as f32, rows);
    let mean = mul(graph, sum, factor);
    let epsilon = splat(graph, epsilon, rows);
    let shifted = add(graph, mean, epsilon);
    let scale = graph.map(ScalarOp::Rsqrt, &[shifted]);
    let scale = broadcast(graph, scale, &space, &[0]);
    let scaled = mul(graph, x, scale);
    let weight = broadcast(graph, weight, &space, &[1]);
    mul(graph, scaled, weight)
}

/// `x / (1 + exp(-x))`.
pub fn silu(graph: &mut Graph, x: Node) -> Node {
    let shape = graph.shape(x).to_vec();
    let negative = graph.map(ScalarOp::Neg, &[x]);
    let power = graph.map(ScalarOp::Exp, &[negative]);
    let one = splat(graph, 1.0, &shape);
    let divisor = add(graph, one, power);
    graph.map(ScalarOp::Div, &[x, divisor])
}

/// `silu(gate) * up` (Shazeer, 2020).
pub fn swiglu(graph: &mut Graph, gate: Node, up: Node) -> Node {
    let gate = silu(graph, gate);
    mul(graph, gate, up)
}
