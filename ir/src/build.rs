//! Composite operations, written in the graph's own terms.

mod attention;
mod nn;
mod recurrence;
mod rope;

pub use attention::{Attention, Cache, PAGE, attention, write_keys, write_values};
pub use nn::{
    add, gelu, gelu_tanh, group_norm, layer_norm, linear, linear_heads, mul, quick_gelu, rms_norm, silu,
    swiglu,
};
pub use recurrence::Sequences;
pub use rope::{Pairing, Rope, RopeScaling, rotary_table, rotate, yarn_magnitude};

use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Graph, Node};
use crate::scalar::Scalar;
use crate::tensor::Tensor;

/// The `f32` constant `value` at each coordinate of `shape`.
pub fn splat(graph: &mut Graph, value: f32, shape: &[Expr]) -> Node {
    splat_scalar(graph, DType::F32, Scalar::Float(value), shape)
}

/// The constant `value` of type `dtype` at each coordinate of `shape`.
pub fn splat_scalar(graph: &mut Graph, dtype: DType, value: Scalar, shape: &[Expr]) -> Node {
    let constant = graph.constant(Tensor::scalar(dtype, value));
    graph.view(constant, shape, &[], |_| Vec::new())
}

/// `x` read along the axes `kept` of `shape`: `out[i] = x[i[kept[0]], i[kept[1]], ...]`.
pub fn broadcast(graph: &mut Graph, x: Node, shape: &[Expr], kept: &[usize]) -> Node {
    graph.view(x, shape, &[], |c| kept.iter().map(|axis| c.axis(*axis)).collect())
}
