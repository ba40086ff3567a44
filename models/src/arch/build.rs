//! What architectures are made of: weights by name, projections, norms, the paged cache of a layer.

use jtllm_ir::build::{self, Cache, PAGE, linear, write_keys, write_values};
use jtllm_ir::{DType, Expr, Graph, Node, ScalarOp};

use super::{BodyInputs, Pass, Weights};
use crate::error::LoadError;

/// A graph under construction.
pub(super) struct Build<'a> {
    pub(super) graph: Graph,
    pub(super) pass: Pass,
    weights: &'a dyn Weights,
}

/// How a layer attends to its past.
pub(super) struct Layer<'a> {
    /// The layer's name: its states are called after it.
    pub(super) name: &'a str,
    /// Heads of queries.
    pub(super) heads: i64,
    /// Heads of keys and values.
    pub(super) key_heads: i64,
    /// Coordinates of a head.
    pub(super) width: i64,
    /// Multiplies scores before the softmax.
    pub(super) scale: f32,
    /// Which positions a token sees.
    pub(super) sight: Sight,
    /// `f32 [heads]`: what a score gains for each position (ALiBi: Press et al., 2022).
    pub(super) slopes: Option<Node>,
}

/// Which positions of its sequence a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Itself and all before.
    Past,
    /// Itself and so many before, together this many.
    Window(i64),
    /// The whole sequence.
    All,
    /// The past, and the sequence's first positions, however many this input (`i32 [16]`) says.
    Prefix(Node),
}

/// What a norm multiplies by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gain {
    /// The stored weight.
    Weight,
    /// The stored weight and 1 (Gemma).
    OnePlusWeight,
}

impl<'a> Build<'a> {
    pub(super) fn new(name: &str, weights: &'a dyn Weights, pass: Pass) -> Build<'a> {
        Build { graph: Graph::new(name), pass, weights }
    }

    /// A tensor of the checkpoint as numbers, `f32` of that shape.
    pub(super) fn weight(&mut self, name: &str, shape: &[i64]) -> Result<Node, LoadError> {
        let sizes: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
        let format = self.weights.format(name, &sizes)?;
        let shape: Vec<Expr> = shape.iter().map(|n| Expr::int(*n)).collect();
        Ok(format.weight(&mut self.graph, name, &shape))
    }

    pub(super) fn vector(&mut self, name: &str, len: i64) -> Result<Node, LoadError> {
        self.weight(name, &[len])
    }

    pub(super) fn matrix(&mut self, name: &str, rows: i64, columns: i64) -> Result<Node, LoadError> {
        self.weight(name, &[rows, columns])
    }

    /// Names a value for comparison with references, if somebody compares.
    pub(super) fn tap(&mut self, name: &str, node: Node) {
        if self.pass.taps {
            self.graph.output(name, node);
        }
    }

    /// Says that a layer ends with the hidden vectors `node`, which are a tap as well.
    pub(super) fn end_layer(&mut self, layer: i64, node: Node) {
        self.graph.end_layer(node);
        self.tap(&format!("hidden.layer{layer}"), node);
    }

    /// Rows of the table `name` at `ids`: `[T, width]`.
    pub(super) fn embedding(
        &mut self,
        name: &str,
        [rows, width]: [i64; 2],
        ids: Node,
    ) -> Result<Node, LoadError> {
        let table = self.matrix(name, rows, width)?;
        let space = [self.graph.shape(ids)[0].clone(), Expr::int(width)];
        Ok(self.graph.view(table, &space, &[ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]))
    }

    /// `x` times the transpose of `{prefix}.weight [rows, columns]`, plus `{prefix}.bias` if `bias`.
    pub(super) fn linear(
        &mut self,
        x: Node,
        prefix: &str,
        [rows, columns]: [i64; 2],
        bias: bool,
    ) -> Result<Node, LoadError> {
        let weight = self.matrix(&format!("{prefix}.weight"), rows, columns)?;
        let bias = if bias { Some(self.vector(&format!("{prefix}.bias"), rows)?) } else { None };
        Ok(linear(&mut self.graph, x, weight, bias))
    }

    /// As [`Build::linear`] with a bias, for a matrix stored with a row for each input (`[columns, rows]`).
    pub(super) fn linear_transposed(
        &mut self,
        x: Node,
        prefix: &str,
        [rows, columns]: [i64; 2],
    ) -> Result<Node, LoadError> {
        let weight = self.matrix(&format!("{prefix}.weight"), columns, rows)?;
        let space = [Expr::int(rows), Expr::int(columns)];
        let weight = self.graph.view(weight, &space, &[], |c| vec![c.axis(1), c.axis(0)]);
        let bias = self.vector(&format!("{prefix}.bias"), rows)?;
        Ok(linear(&mut self.graph, x, weight, Some(bias)))
    }

    /// As [`Build::linear`] with the rows from `first` of a larger matrix alone.
    pub(super) fn linear_rows(
        &mut self,
        x: Node,
        prefix: &str,
        [rows, columns]: [i64; 2],
        bias: bool,
        part: std::ops::Range<i64>,
    ) -> Result<Node, LoadError> {
        let weight = self.matrix(&format!("{prefix}.weight"), rows, columns)?;
        let count = Expr::int(part.end - part.start);
        let space = [count.clone(), Expr::int(columns)];
        let weight = self.graph.view(weight, &space, &[], |c| vec![c.axis(0) + part.start, c.axis(1)]);
        let bias = match bias {
            false => None,
            true => {
                let all = self.vector(&format!("{prefix}.bias"), rows)?;
                Some(self.graph.view(all, &[count], &[], |c| vec![c.axis(0) + part.start]))
            }
        };
        Ok(linear(&mut self.graph, x, weight, bias))
    }

    /// Coordinates of `x [T, _]` as heads: `[T, heads, width]`, from where `place(head, coordinate)` says.
    pub(super) fn heads(
        &mut self,
        x: Node,
        [heads, width]: [i64; 2],
        place: impl Fn(Expr, Expr) -> Expr,
    ) -> Node {
        let space = [self.graph.shape(x)[0].clone(), Expr::int(heads), Expr::int(width)];
        self.graph.view(x, &space, &[], |c| vec![c.axis(0), place(c.axis(1), c.axis(2))])
    }

    /// Heads side by side again: `[T, heads * width]`.
    pub(super) fn flat(&mut self, x: Node) -> Node {
        let [tokens, heads, width] = [0, 1, 2].map(|axis| self.graph.shape(x)[axis].clone());
        let width = width.as_int().expect("the width of a head is a constant");
        let space = [tokens, heads * width];
        self.graph
            .view(x, &space, &[], |c| vec![c.axis(0), c.axis(1).div_floor(width), c.axis(1).modulo(width)])
    }

    /// `a` and `b` side by side along the last of two axes.
    pub(super) fn beside(&mut self, a: Node, b: Node) -> Node {
        let rows = self.graph.shape(a)[0].clone();
        let (left, right) = (self.width(a), self.width(b));
        let space = [rows, Expr::int(left + right)];
        let graph = &mut self.graph;
        let a = graph.view(a, &space, &[], |c| vec![c.axis(0), c.axis(1).minimum(&Expr::int(left - 1))]);
        let b = graph
            .view(b, &space, &[], |c| vec![c.axis(0), c.axis(1).maximum(&Expr::int(left)) - Expr::int(left)]);
        let first = graph.index(DType::Bool, &space, &[], |c| c.axis(1).less_than(&Expr::int(left)));
        graph.map(ScalarOp::Select, &[first, a, b])
    }

    /// Root-mean-square norm with the gain `{prefix}.weight`.
    pub(super) fn rms_norm(&mut self, x: Node, prefix: &str, epsilon: f32) -> Result<Node, LoadError> {
        self.rms_norm_by(x, prefix, epsilon, Gain::Weight)
    }

    /// Root-mean-square norm with a gain made of `{prefix}.weight`.
    pub(super) fn rms_norm_by(
        &mut self,
        x: Node,
        prefix: &str,
        epsilon: f32,
        gain: Gain,
    ) -> Result<Node, LoadError> {
        let width = self.width(x);
        let mut weight = self.vector(&format!("{prefix}.weight"), width)?;
        if gain == Gain::OnePlusWeight {
            let one = build::splat(&mut self.graph, 1.0, &[Expr::int(width)]);
            weight = self.add(weight, one);
        }
        Ok(build::rms_norm(&mut self.graph, x, weight, epsilon))
    }

    /// Layer norm with the gain `{prefix}.weight` and the offset `{prefix}.bias`.
    pub(super) fn layer_norm(&mut self, x: Node, prefix: &str, epsilon: f32) -> Result<Node, LoadError> {
        let width = self.width(x);
        let weight = self.vector(&format!("{prefix}.weight"), width)?;
        let bias = self.vector(&format!("{prefix}.bias"), width)?;
        Ok(build::layer_norm(&mut self.graph, x, weight, bias, epsilon))
    }

    fn width(&self, x: Node) -> i64 {
        let last = self.graph.shape(x).last().and_then(Expr::as_int);
        last.expect("the width of a normalised tensor is a constant")
    }

    pub(super) fn add(&mut self, a: Node, b: Node) -> Node {
        build::add(&mut self.graph, a, b)
    }

    /// Every element times a number.
    pub(super) fn scaled(&mut self, x: Node, factor: f32) -> Node {
        let shape = self.graph.shape(x).to_vec();
        let factor = build::splat(&mut self.graph, factor, &shape);
        build::mul(&mut self.graph, x, factor)
    }

    /// Writes the keys and values of the pass, and attends with the queries: each `[T, heads, width]`; the
    /// result is `[T, heads * width]`.
    pub(super) fn attention(&mut self, layer: &Layer<'_>, inputs: &BodyInputs, [q, k, v]: [Node; 3]) -> Node {
        let pass = self.pass;
        let (heads, width) = (Expr::int(layer.key_heads), Expr::int(layer.width));
        let page = Expr::int(PAGE);
        let graph = &mut self.graph;
        let keys = [inputs.pages.clone(), heads.clone(), width.clone(), page.clone()];
        let keys = graph.state(&format!("{}.keys", layer.name), pass.keys, &keys);
        let values = [inputs.pages.clone(), heads, page, width];
        let values = graph.state(&format!("{}.values", layer.name), pass.values, &values);
        let keys = write_keys(graph, keys, k, inputs.slot);
        let values = write_values(graph, values, v, inputs.slot);
        let cache = Cache { keys, values, table: inputs.table };
        let more = match layer.sight {
            Sight::Past | Sight::Window(_) => vec![inputs.position],
            Sight::All => vec![inputs.lengths],
            Sight::Prefix(prefix) => vec![inputs.position, prefix, inputs.lengths],
        };
        let sight = layer.sight;
        let speaker = BodyInputs::speaker(pass.rows);
        let spec = build::Attention {
            scale: layer.scale,
            group: layer.heads / layer.key_heads,
            sequence: inputs.sequence,
            extras: &more,
            row: &speaker,
            visible: &|c, token, j| {
                let sequence = || c.extra(0, &[speaker(token.clone())]);
                let position = || c.extra(1, std::slice::from_ref(&token));
                match sight {
                    Sight::Past => j.at_most(&position()),
                    Sight::Window(window) => {
                        j.at_most(&position()).and(&position().less_than(&(j.clone() + window)))
                    }
                    Sight::All => j.less_than(&c.extra(1, &[sequence()])),
                    Sight::Prefix(_) => {
                        let inside = j.less_than(&c.extra(2, &[sequence()]));
                        let seen = j.at_most(&position()).maximum(&inside);
                        j.less_than(&c.extra(3, &[sequence()])).and(&seen)
                    }
                }
            },
            slopes: layer.slopes,
        };
        let mixed = build::attention(graph, q, &cache, &spec);
        self.flat(mixed)
    }
}
