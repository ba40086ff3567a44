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

/// Root-mean-square normalisation over the last axis of `x [.., K]`, scaled by `weight [K]`
/// (Zhang and Sennrich, 2019).
pub fn rms_norm(graph: &mut Graph, x: Node, weight: Node, epsilon: f32) -> Node {
    let square = mul(graph, x, x);
    let mean = mean(graph, square);
    let scaled = normalised(graph, x, mean, epsilon);
    let weight = along_last(graph, weight, scaled);
    mul(graph, scaled, weight)
}

/// Layer normalisation over the last axis of `x [.., K]`, scaled by `weight [K]`, plus `bias [K]` (Ba et
/// al., 2016).
pub fn layer_norm(graph: &mut Graph, x: Node, weight: Node, bias: Node, epsilon: f32) -> Node {
    let middle = mean(graph, x);
    let middle = across_last(graph, middle, x);
    let centred = graph.map(ScalarOp::Sub, &[x, middle]);
    let square = mul(graph, centred, centred);
    let variance = mean(graph, square);
    let scaled = normalised(graph, centred, variance, epsilon);
    let weight = along_last(graph, weight, scaled);
    let bias = along_last(graph, bias, scaled);
    graph.map(ScalarOp::Fma, &[scaled, weight, bias])
}

/// Layer normalisation of each head of `x [T, heads, K]`, then scaled by `weight [heads * K]`, plus
/// `bias [heads * K]` (Wu and He, 2018).
pub fn group_norm(graph: &mut Graph, x: Node, weight: Node, bias: Node, epsilon: f32) -> Node {
    let space = graph.shape(x).to_vec();
    let width = space[2].as_int().expect("the width of a head is a constant");
    let middle = mean(graph, x);
    let middle = across_last(graph, middle, x);
    let centred = graph.map(ScalarOp::Sub, &[x, middle]);
    let square = mul(graph, centred, centred);
    let variance = mean(graph, square);
    let scaled = normalised(graph, centred, variance, epsilon);
    let [weight, bias] =
        [weight, bias].map(|v| graph.view(v, &space, &[], |c| vec![c.axis(1) * width + c.axis(2)]));
    graph.map(ScalarOp::Fma, &[scaled, weight, bias])
}

/// `x / sqrt(square + epsilon)`, with one `square` for each row of `x`.
fn normalised(graph: &mut Graph, x: Node, square: Node, epsilon: f32) -> Node {
    let rows = graph.shape(square).to_vec();
    let epsilon = splat(graph, epsilon, &rows);
    let shifted = add(graph, square, epsilon);
    let scale = graph.map(ScalarOp::Rsqrt, &[shifted]);
    let scale = across_last(graph, scale, x);
    mul(graph, x, scale)
}

/// The means over the last axis.
fn mean(graph: &mut Graph, x: Node) -> Node {
    let last = graph.shape(x).len() - 1;
    let width = graph.shape(x)[last].as_int().expect("the width of a normalised tensor is a constant");
    let sum = graph.reduce(Monoid::Add, x, &[last]);
    let rows = graph.shape(sum).to_vec();
    let factor = splat(graph, 1.0 / width as f32, &rows);
    mul(graph, sum, factor)
}

/// A vector at each row of `like`.
fn along_last(graph: &mut Graph, x: Node, like: Node) -> Node {
    let space = graph.shape(like).to_vec();
    let last = space.len() - 1;
    broadcast(graph, x, &space, &[last])
}

/// One value for each row of `like`, at each of the row's elements.
fn across_last(graph: &mut Graph, x: Node, like: Node) -> Node {
    let space = graph.shape(like).to_vec();
    let rows: Vec<usize> = (0..space.len() - 1).collect();
    broadcast(graph, x, &space, &rows)
}

/// `x / (1 + exp(-x))`.
pub fn silu(graph: &mut Graph, x: Node) -> Node {
    let negative = graph.map(ScalarOp::Neg, &[x]);
    gated(graph, x, negative)
}

/// `x / (1 + exp(-1.702 x))`, which is close to GELU (Hendrycks and Gimpel, 2016).
pub fn quick_gelu(graph: &mut Graph, x: Node) -> Node {
    let shape = graph.shape(x).to_vec();
    let factor = splat(graph, -1.702, &shape);
    let negative = mul(graph, x, factor);
    gated(graph, x, negative)
}

/// `x / (1 + exp(negative))`.
fn gated(graph: &mut Graph, x: Node, negative: Node) -> Node {
    let shape = graph.shape(x).to_vec();
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

/// The Gaussian error linear unit by its `tanh` approximation (Hendrycks and Gimpel, 2016): "gelu_new".
pub fn gelu_tanh(graph: &mut Graph, x: Node) -> Node {
    let shape = graph.shape(x).to_vec();
    let square = mul(graph, x, x);
    let cubic = splat(graph, 0.044_715, &shape);
    let one = splat(graph, 1.0, &shape);
    let inner = graph.map(ScalarOp::Fma, &[square, cubic, one]);
    let inner = mul(graph, x, inner);
    let factor = splat(graph, (2.0 / std::f32::consts::PI).sqrt(), &shape);
    let inner = mul(graph, inner, factor);
    let curve = graph.map(ScalarOp::Tanh, &[inner]);
    half_times_one_plus(graph, x, curve)
}

/// The Gaussian error linear unit: `x * (1 + erf(x / sqrt(2))) / 2`.
pub fn gelu(graph: &mut Graph, x: Node) -> Node {
    let shape = graph.shape(x).to_vec();
    let factor = splat(graph, std::f32::consts::FRAC_1_SQRT_2, &shape);
    let inner = mul(graph, x, factor);
    let curve = graph.map(ScalarOp::Erf, &[inner]);
    half_times_one_plus(graph, x, curve)
}

fn half_times_one_plus(graph: &mut Graph, x: Node, curve: Node) -> Node {
    let shape = graph.shape(x).to_vec();
    let one = splat(graph, 1.0, &shape);
    let half = splat(graph, 0.5, &shape);
    let sum = add(graph, curve, one);
    let scaled = mul(graph, x, half);
    mul(graph, scaled, sum)
}
