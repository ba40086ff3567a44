//! The matrix that each head carries (versions 5 to 7). In memory it lies `[keys, values]`, so that neighbours
//! belong to neighbouring values, which are computed side by side.

use jtllm_ir::build::{self, broadcast, group_norm, silu};
use jtllm_ir::{Expr, Graph, Monoid, Node, ScalarOp};

use super::Block;
use super::time::{Rows, Time};
use crate::arch::build::Build;
use crate::error::LoadError;

/// The norm's epsilon for each head.
const HEAD_EPSILON: f32 = 64e-5;

/// Where the axes of a head's `[values, keys]` lie in its state.
const ORDER: [usize; 3] = [1, 3, 2];

impl Time<'_> {
    fn head_width(&self) -> i64 {
        self.model.width / self.model.heads
    }

    /// `x [T, width]` as `[T, heads, head width]`.
    pub(super) fn by_head(&self, build: &mut Build<'_>, x: Node) -> Node {
        let width = self.head_width();
        build.heads(x, [self.model.heads, width], |head, d| head * width + d)
    }

    /// A vector of the model's width for each row, `[T, heads, head width]`.
    fn vector_by_head(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        part: &str,
        like: Node,
    ) -> Result<Node, LoadError> {
        let (heads, width) = (self.model.heads, self.head_width());
        let weight = build.weight(&self.model.tensor(block, part), &[heads, width])?;
        let space = build.graph.shape(like).to_vec();
        Ok(broadcast(&mut build.graph, weight, &space, &[1, 2]))
    }

    /// The matrices, step by step: results `[T, heads, head width]` of a body over `carry [B, heads, values, keys]`.
    fn carried(
        &mut self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        xs: &[Node],
        step: impl FnOnce(&mut Graph, Node, &[Node]) -> (Node, Node),
    ) -> Node {
        let (heads, width) = (self.model.heads, self.head_width());
        let graph = &mut build.graph;
        let state = self.state(graph, block, "matrix", &[heads, width, width]);
        let kept = block.sequences.kept(graph, state, &ORDER);
        let carry = super::beginning(graph, block.fresh, 0.0, kept);
        let (last, results) = block.sequences.scan(graph, &[carry], xs, |body, carries, xs| {
            let (next, out) = step(body, carries[0], xs);
            (vec![next], vec![out])
        });
        block.sequences.keep(graph, state, last[0], &ORDER);
        block.sequences.flat(graph, &mut self.place, results[0])
    }

    /// Versions 5 and 6. `decay` is `[B, T, heads, head width]`, `bonus` `[heads, head width]`.
    pub(super) fn looked_up(
        &mut self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        rows: &Rows,
        decay: Node,
        bonus: Node,
    ) -> Node {
        let [r, k, v] = [rows.receptance, rows.key, rows.value].map(|x| {
            let x = self.by_head(build, x);
            block.sequences.rows(&mut build.graph, x)
        });
        let bonus = block.sequences.constant(&mut build.graph, bonus);
        self.carried(build, block, &[r, k, v, decay, bonus], |body, matrix, xs| {
            let full = body.shape(matrix).to_vec();
            let [r, k, decay, bonus] =
                [xs[0], xs[1], xs[3], xs[4]].map(|x| broadcast(body, x, &full, &[0, 1, 3]));
            let v = broadcast(body, xs[2], &full, &[0, 1, 2]);
            let product = body.map(ScalarOp::Mul, &[k, v]);
            let next = body.map(ScalarOp::Fma, &[decay, matrix, product]);
            let seen = body.map(ScalarOp::Fma, &[bonus, product, matrix]);
            let seen = body.map(ScalarOp::Mul, &[r, seen]);
            (next, body.reduce(Monoid::Add, seen, &[3]))
        })
    }

    /// Version 7; `decay`, `removed` (what keys are looked up and replaced) and `rate` are
    /// `[T, heads, head width]`.
    pub(super) fn corrected(
        &mut self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        rows: &Rows,
        [decay, removed, rate]: [Node; 3],
    ) -> Node {
        let xs = [rows.receptance, rows.key, rows.value, decay];
        let [r, k, v, decay] = xs.map(|x| self.by_head(build, x));
        let added = build::mul(&mut build.graph, removed, rate);
        let removed = build.graph.map(ScalarOp::Neg, &[removed]);
        let xs = [r, k, v, decay, removed, added].map(|x| block.sequences.rows(&mut build.graph, x));
        self.carried(build, block, &xs, |body, matrix, xs| {
            let full = body.shape(matrix).to_vec();
            let by_value = |body: &mut Graph, x| broadcast(body, x, &full, &[0, 1, 2]);
            let [r, k, decay, removed, added] =
                [0, 1, 3, 4, 5].map(|at| broadcast(body, xs[at], &full, &[0, 1, 3]));
            let v = by_value(body, xs[2]);
            let seen = body.map(ScalarOp::Mul, &[matrix, removed]);
            let seen = body.reduce(Monoid::Add, seen, &[3]);
            let seen = by_value(body, seen);
            let product = body.map(ScalarOp::Mul, &[v, k]);
            let change = body.map(ScalarOp::Fma, &[seen, added, product]);
            let next = body.map(ScalarOp::Fma, &[matrix, decay, change]);
            let out = body.map(ScalarOp::Mul, &[next, r]);
            (next, body.reduce(Monoid::Add, out, &[3]))
        })
    }

    /// What heads saw, normalised head by head: `[T, width]`.
    pub(super) fn normed(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        seen: Node,
    ) -> Result<Node, LoadError> {
        let [gain, offset] = ["att.ln_x.weight", "att.ln_x.bias"].map(|part| self.model.tensor(block, part));
        let gain = build.vector(&gain, self.model.width)?;
        let offset = build.vector(&offset, self.model.width)?;
        let normed = group_norm(&mut build.graph, seen, gain, offset, HEAD_EPSILON);
        Ok(build.flat(normed))
    }

    /// The end of versions 5 and 6.
    pub(super) fn closed(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        seen: Node,
        gate: Option<Node>,
    ) -> Result<Node, LoadError> {
        let normed = self.normed(build, block, seen)?;
        let Some(gate) = gate else { return Ok(normed) };
        let gate = silu(&mut build.graph, gate);
        Ok(build::mul(&mut build.graph, normed, gate))
    }

    /// Each head of `x scale` divided by its length.
    pub(super) fn unit_heads(&self, build: &mut Build<'_>, x: Node, scale: Node) -> Node {
        let space = build.graph.shape(x).to_vec();
        let scale = broadcast(&mut build.graph, scale, &space, &[1]);
        let x = build::mul(&mut build.graph, x, scale);
        let x = self.by_head(build, x);
        let graph = &mut build.graph;
        let square = build::mul(graph, x, x);
        let sum = graph.reduce(Monoid::Add, square, &[2]);
        let rows = graph.shape(sum).to_vec();
        let least = build::splat(graph, 1e-24, &rows);
        let sum = graph.map(ScalarOp::Max, &[sum, least]);
        let factor = graph.map(ScalarOp::Rsqrt, &[sum]);
        let space = graph.shape(x).to_vec();
        let factor = broadcast(graph, factor, &space, &[0, 1]);
        build::mul(graph, x, factor)
    }

    /// Version 7's bonus: each head's value, times the sum of `r k r_k`: `[T, width]`.
    pub(super) fn bonus(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        rows: &Rows,
    ) -> Result<Node, LoadError> {
        let [r, k, v] = [rows.receptance, rows.key, rows.value].map(|x| self.by_head(build, x));
        let weight = self.vector_by_head(build, block, "att.r_k", r)?;
        let graph = &mut build.graph;
        let product = build::mul(graph, r, k);
        let product = build::mul(graph, product, weight);
        let sum = graph.reduce(Monoid::Add, product, &[2]);
        let space: Vec<Expr> = graph.shape(v).to_vec();
        let sum = broadcast(graph, sum, &space, &[0, 1]);
        let bonus = build::mul(graph, v, sum);
        Ok(build.flat(bonus))
    }
}
