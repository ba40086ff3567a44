//! Builds a random graph and keeps its values small, so that no step magnifies rounding.

use jtllm_fuzz::Random;
use jtllm_ir::build::splat;
use jtllm_ir::format::{FORMATS, Format};
use jtllm_ir::{DType, Expr, Graph, Node, ScalarOp};

use crate::common::case::{Case, int, rows};

/// Values that are typically above this are made smaller.
const LIMIT: f32 = 6.0;

/// The axes' lengths that leaves are made with.
const WIDTHS: [usize; 12] = [1, 2, 3, 4, 5, 8, 16, 17, 32, 33, 64, 96];

/// A tensor of floats in the graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value {
    pub(crate) node: Node,
    /// Its typical size.
    pub(crate) limit: f32,
    /// Whether every way to compute it gives the same bits, so that a comparison with it is no hazard.
    pub(crate) exact: bool,
}

/// A graph in the making.
pub(crate) struct Maker<'r> {
    pub(crate) random: &'r mut Random,
    pub(crate) case: Case,
    /// The rows of a pass, and how many there are.
    pub(crate) t: Expr,
    pub(crate) tokens: usize,
    pub(crate) pool: Vec<Value>,
    pub(crate) attended: bool,
    names: usize,
}

/// A random graph with values for its leaves.
pub(crate) fn graph(random: &mut Random, tolerance: f32) -> Case {
    let mut case = Case::new("random");
    case.tolerance = tolerance;
    case.seed = random.below(1 << 30) as u64;
    // From 17 rows on the number of rows is a symbol, or else a constant.
    let tokens = *random.choice(&[1, 1, 2, 3, 5, 16, 32, 48]);
    let t = match random.below(4) {
        0 => int(tokens),
        _ => rows(&mut case.graph, &mut case.bindings, tokens),
    };
    let mut maker = Maker { random, case, t, tokens, pool: Vec::new(), attended: false, names: 0 };
    maker.leaf();
    for _ in 0..2 + maker.random.below(14) {
        maker.step();
    }
    maker.outputs();
    maker.case
}

impl Maker<'_> {
    pub(crate) fn graph(&mut self) -> &mut Graph {
        &mut self.case.graph
    }

    /// A name that no leaf has yet.
    pub(crate) fn name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind}{}", self.names)
    }

    /// How long an axis is in this case.
    pub(crate) fn size(&self, extent: &Expr) -> usize {
        extent.as_int().map_or(self.tokens, |n| n as usize)
    }

    pub(crate) fn shape(&self, value: Value) -> Vec<Expr> {
        self.case.graph.shape(value.node).to_vec()
    }

    pub(crate) fn count(&self, shape: &[Expr]) -> usize {
        shape.iter().map(|n| self.size(n)).product()
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    /// A value of the pool, a late one rather than an early one.
    pub(crate) fn pick(&mut self) -> Value {
        let count = self.pool.len();
        let at = self.random.below(count).max(self.random.below(count));
        self.pool[at]
    }

    /// A value of the pool for which `fits` holds, if one is found soon.
    pub(crate) fn pick_where(&mut self, fits: impl Fn(&Maker<'_>, &[Expr]) -> bool) -> Option<Value> {
        (0..6).find_map(|_| {
            let value = self.pick();
            fits(self, &self.shape(value)).then_some(value)
        })
    }

    /// Puts a value into the pool, made smaller if it is large.
    pub(crate) fn keep(&mut self, node: Node, limit: f32, exact: bool) {
        let shape = self.case.graph.shape(node).to_vec();
        let value = if limit <= LIMIT {
            Value { node, limit, exact }
        } else {
            let factor = splat(self.graph(), 1.0 / limit, &shape);
            let node = self.graph().map(ScalarOp::Mul, &[node, factor]);
            Value { node, limit: 1.0, exact }
        };
        self.pool.push(value);
    }

    /// A new input over rows, or something that weights make.
    pub(crate) fn leaf(&mut self) {
        let mut shape = vec![self.t.clone()];
        for _ in 0..1 + self.random.below(2) {
            shape.push(int(*self.random.choice(&WIDTHS[..10])));
        }
        match self.random.below(5) {
            0 => shape.truncate(1),
            1 => shape.truncate(2),
            2 => drop(shape.remove(0)),
            _ => {}
        }
        let value = self.input(&shape);
        self.pool.push(value);
    }

    /// A new input of that shape.
    pub(crate) fn input(&mut self, shape: &[Expr]) -> Value {
        let name = self.name("x");
        let sizes: Vec<usize> = shape.iter().map(|n| self.size(n)).collect();
        let node = self.case.input(&name, shape, &sizes);
        Value { node, limit: 1.0, exact: true }
    }

    /// A new weight `[rows, columns]` in a format whose blocks fit, and what its numbers are like.
    pub(crate) fn weight(&mut self, shape: &[usize]) -> Value {
        let columns = *shape.last().unwrap();
        let fitting: Vec<&'static Format> =
            FORMATS.iter().copied().filter(|format| columns.is_multiple_of(format.block)).collect();
        let format = fitting[self.random.below(fitting.len())];
        let name = self.name("w");
        let node = self.case.weight(format, &name, shape);
        let limit = match format.name {
            "q8_0" => 6.0,
            "q4_1" => 1.0,
            "iq4_nl" => 1.5,
            _ if format.block == 256 => 200.0,
            _ => 0.5,
        };
        Value { node, limit, exact: format.is_direct() }
    }

    /// A tensor of integers from `low` to below `end`, given anew in each pass.
    pub(crate) fn integers(&mut self, shape: &[Expr], low: i64, end: &Expr) -> Node {
        let name = self.name("n");
        let count = (self.size(end) as i64 - low) as usize;
        let sizes: Vec<usize> = shape.iter().map(|n| self.size(n)).collect();
        let values = (0..self.count(shape)).map(|_| low + self.random.below(count) as i64).collect();
        self.case.ints(&name, shape, &sizes, (low, end.clone()), values)
    }

    /// Another value of that shape: of the pool, a leaf, a weight along the last axis, or a constant.
    pub(crate) fn partner(&mut self, shape: &[Expr]) -> Value {
        if self.chance(60)
            && let Some(value) = self.pick_where(|maker, other| other == shape && !maker.pool.is_empty())
        {
            return value;
        }
        match (self.random.below(3), shape) {
            (0, [.., last]) if last.as_int().is_some() => {
                let weight = self.weight(&[self.size(last)]);
                let node = self.graph().view(weight.node, shape, &[], |c| vec![c.axis(shape.len() - 1)]);
                Value { node, ..weight }
            }
            (1, _) => {
                let number = self.random.below(9) as f32 * 0.25 - 1.0;
                let node = splat(self.graph(), number, shape);
                Value { node, limit: 1.0, exact: true }
            }
            _ => self.input(shape),
        }
    }

    /// Names the last values and some other as outputs.
    fn outputs(&mut self) {
        let last = *self.pool.last().unwrap();
        let mut nodes = vec![last.node];
        for _ in 0..self.random.below(3) {
            nodes.push(self.pick().node);
        }
        for (number, node) in nodes.into_iter().enumerate() {
            // An output is computed; a leaf by itself is the caller's already.
            let node = match self.graph().op(node).operands().is_empty() {
                true => self.graph().map(ScalarOp::Neg, &[node]),
                false => node,
            };
            self.graph().output(&format!("y{number}"), node);
        }
    }

    /// A truth value for each place of a shape, the same however it is computed.
    pub(crate) fn condition(&mut self, shape: &[Expr]) -> Node {
        let rank = shape.len();
        if rank == 0 {
            return self.graph().index(DType::Bool, shape, &[], |_| Expr::int(1));
        }
        let axis = self.random.below(rank);
        let bound = self.random.below(self.size(&shape[axis]) + 1) as i64;
        match self.random.below(4) {
            0 => self.graph().index(DType::Bool, shape, &[], |c| c.axis(axis).less_than(&Expr::int(bound))),
            1 => self.graph().index(DType::Bool, shape, &[], |c| {
                let sum = c.axes().iter().fold(Expr::int(bound), |sum, x| sum + x.clone());
                sum.modulo(3).equals(&Expr::int(0))
            }),
            2 => {
                let limits = self.integers(&shape[..1], -1, &Expr::int(9));
                self.graph().index(DType::Bool, shape, &[limits], |c| {
                    let limit = c.extra(0, &[c.axis(0)]);
                    c.axis(rank - 1).at_most(&limit)
                })
            }
            _ => {
                let (a, b) = (self.input(shape).node, splat(self.graph(), 0.1, shape));
                let op = *self.random.choice(&[ScalarOp::Lt, ScalarOp::Le, ScalarOp::Ne, ScalarOp::Eq]);
                self.graph().map(op, &[a, b])
            }
        }
    }
}
