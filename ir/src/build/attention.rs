//! Attention over a paged cache of keys and values.
//!
//! The builder writes one exact form, which partition recognises: `m = max(select(visible, s, -1e30))`,
//! `p = select(visible, exp(s - m), 0)`, and `sum(p * v) / select(sum(p) > 0, sum(p), 1)`.

use super::{broadcast, splat};
use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Coordinates, Graph, Monoid, Node};
use crate::scalar::ScalarOp;

/// Tokens of a page.
pub const PAGE: i64 = 16;

/// A score that no visible position has.
const UNSEEN: f32 = -1e30;

/// The keys and values of one layer, and which pages belong to which sequence.
///
/// Keys are `[pages, heads, width, 16]`: the tokens of a page stand side by side, so that lanes over tokens
/// read neighbouring elements. Values are `[pages, heads, 16, width]`.
#[derive(Clone, Copy, Debug)]
pub struct Cache {
    /// The state of keys, or its newest version.
    pub keys: Node,
    /// The state of values, or its newest version.
    pub values: Node,
    /// `i32 [sequences, P]`: the pages of each sequence, in order.
    pub table: Node,
}

/// What one attention layer needs to know beside queries and cache.
pub struct Attention<'a> {
    /// Multiplies scores before the softmax.
    pub scale: f32,
    /// How many query heads share a key head.
    pub group: i64,
    /// `i32 [T]`: the sequence of each token.
    pub sequence: Node,
    /// Further integer tensors for `visible`; they are its extras 1, 2, ...; extra 0 is `sequence`.
    pub extras: &'a [Node],
    /// Which row of `sequence` speaks for token `t`: `t` itself, or the first row of its tile.
    pub row: &'a dyn Fn(Expr) -> Expr,
    /// Whether token `t` (first argument) sees position `j` (second) of its sequence.
    pub visible: &'a dyn Fn(&Coordinates<'_>, Expr, Expr) -> Expr,
    /// `f32 [heads]`: position `j` adds `slope * j` to a score (ALiBi; the softmax cancels the query's own
    /// position).
    pub slopes: Option<Node>,
}

/// Writes the keys `k [T, heads, width]` of a pass to the places `slot [T]` (page * 16 + place; below 0:
/// nowhere) and gives the cache's next version.
pub fn write_keys(graph: &mut Graph, state: Node, k: Node, slot: Node) -> Node {
    let k = store_as(graph, k, graph.dtype(state));
    graph.write(state, k, &[slot], |c| {
        let slot = c.extra(0, &[c.axis(0)]);
        let at = vec![slot.clone().div_floor(PAGE), c.axis(1), c.axis(2), slot.clone().modulo(PAGE)];
        (at, Some(Expr::int(-1).less_than(&slot)))
    })
}

/// Writes the values `v [T, heads, width]` of a pass; see [`write_keys`].
pub fn write_values(graph: &mut Graph, state: Node, v: Node, slot: Node) -> Node {
    let v = store_as(graph, v, graph.dtype(state));
    graph.write(state, v, &[slot], |c| {
        let slot = c.extra(0, &[c.axis(0)]);
        let at = vec![slot.clone().div_floor(PAGE), c.axis(1), slot.clone().modulo(PAGE), c.axis(2)];
        (at, Some(Expr::int(-1).less_than(&slot)))
    })
}

fn store_as(graph: &mut Graph, x: Node, dtype: DType) -> Node {
    if graph.dtype(x) == dtype { x } else { graph.map(ScalarOp::Cast(dtype), &[x]) }
}

fn read_as_float(graph: &mut Graph, x: Node) -> Node {
    store_as(graph, x, DType::F32)
}

/// `softmax(scale * q k) v` for the queries `q [T, heads, width]`; the result has the same shape.
pub fn attention(graph: &mut Graph, q: Node, cache: &Cache, spec: &Attention<'_>) -> Node {
    let [tokens, heads, width] = [0, 1, 2].map(|axis| graph.shape(q)[axis].clone());
    let length = graph.shape(cache.table)[1].clone() * PAGE;
    let group = spec.group;
    let page = |c: &Coordinates<'_>, j: &Expr| {
        let sequence = c.extra(1, &[(spec.row)(c.axis(0))]);
        c.extra(0, &[sequence, j.clone().div_floor(PAGE)])
    };
    let pages = [cache.table, spec.sequence];

    // Scores: [T, heads, J], summed over the head's width.
    let space = [tokens.clone(), heads.clone(), length.clone(), width.clone()];
    let keys = graph.view(cache.keys, &space, &pages, |c| {
        let j = c.axis(2);
        vec![page(c, &j), c.axis(1).div_floor(group), c.axis(3), j.modulo(PAGE)]
    });
    let keys = read_as_float(graph, keys);
    let queries = broadcast(graph, q, &space, &[0, 1, 3]);
    let products = graph.map(ScalarOp::Mul, &[queries, keys]);
    let scores = graph.reduce(Monoid::Add, products, &[3]);
    let seen = &space[..3];
    let scale = splat(graph, spec.scale, seen);
    let mut scores = graph.map(ScalarOp::Mul, &[scores, scale]);
    if let Some(slopes) = spec.slopes {
        let places = graph.index(DType::I32, seen, &[], |c| c.axis(2));
        let places = graph.map(ScalarOp::Cast(DType::F32), &[places]);
        let slopes = broadcast(graph, slopes, seen, &[1]);
        scores = graph.map(ScalarOp::Fma, &[places, slopes, scores]);
    }

    let extras = [&[spec.sequence], spec.extras].concat();
    let visible = graph.index(DType::Bool, seen, &extras, |c| (spec.visible)(c, c.axis(0), c.axis(2)));
    let unseen = splat(graph, UNSEEN, seen);
    let masked = graph.map(ScalarOp::Select, &[visible, scores, unseen]);
    let largest = graph.reduce(Monoid::Max, masked, &[2]);
    let largest = broadcast(graph, largest, seen, &[0, 1]);
    let difference = graph.map(ScalarOp::Sub, &[scores, largest]);
    let power = graph.map(ScalarOp::Exp, &[difference]);
    let zero = splat(graph, 0.0, seen);
    let weights = graph.map(ScalarOp::Select, &[visible, power, zero]);
    let total = graph.reduce(Monoid::Add, weights, &[2]);

    let space = [tokens, heads, width, length];
    let values = graph.view(cache.values, &space, &pages, |c| {
        let j = c.axis(3);
        vec![page(c, &j), c.axis(1).div_floor(group), j.modulo(PAGE), c.axis(2)]
    });
    let values = read_as_float(graph, values);
    let weights = broadcast(graph, weights, &space, &[0, 1, 3]);
    let products = graph.map(ScalarOp::Mul, &[weights, values]);
    let sum = graph.reduce(Monoid::Add, products, &[3]);

    let rows = graph.shape(total).to_vec();
    let zero = splat(graph, 0.0, &rows);
    let one = splat(graph, 1.0, &rows);
    let some = graph.map(ScalarOp::Lt, &[zero, total]);
    let divisor = graph.map(ScalarOp::Select, &[some, total, one]);
    let divisor = broadcast(graph, divisor, &space[..3], &[0, 1]);
    graph.map(ScalarOp::Div, &[sum, divisor])
}
