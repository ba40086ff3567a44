//! The steps by which a random graph grows.

use jtllm_ir::build::{
    Pairing, Rope, RopeScaling, add, broadcast, linear, linear_heads, mul, rms_norm, rotary_table, rotate,
    silu, splat, splat_scalar, swiglu,
};
use jtllm_ir::graph::Coordinates;
use jtllm_ir::{DType, Expr, Monoid, Node, Scalar, ScalarOp};

use crate::common::attend::Places;
use crate::common::case::int;
use crate::maker::{Maker, Value};

/// Elements of the largest tensor that a step makes.
const ELEMENTS: usize = 1 << 13;

impl Maker<'_> {
    /// One step. What does not fit what there is does nothing.
    pub(crate) fn step(&mut self) {
        match self.random.below(24) {
            0 => self.leaf(),
            1..=3 => self.unary(),
            4..=7 => self.binary(),
            8 => self.select(),
            9 => self.integer_work(),
            10..=13 => self.reindex(),
            14 => self.gather(),
            15 | 16 => self.reduce(),
            17 => self.softmax(),
            18 => self.norm(),
            19..=21 => self.contraction(),
            22 => self.embedding(),
            _ => match self.random.below(3) {
                0 => self.log(),
                _ => self.attention(),
            },
        }
    }

    fn unary(&mut self) {
        let x = self.pick();
        let shape = self.shape(x);
        let one = splat(self.graph(), 1.0, &shape);
        let size = self.graph().map(ScalarOp::Abs, &[x.node]);
        let (node, limit) = match self.random.below(12) {
            0 => (self.graph().map(ScalarOp::Neg, &[x.node]), x.limit),
            1 => (self.graph().map(ScalarOp::Tanh, &[x.node]), 1.0),
            2 => {
                let negative = self.graph().map(ScalarOp::Neg, &[size]);
                (self.graph().map(ScalarOp::Exp, &[negative]), 1.0)
            }
            3 => {
                let square = mul(self.graph(), x.node, x.node);
                let positive = add(self.graph(), square, one);
                let op = *self.random.choice(&[ScalarOp::Sqrt, ScalarOp::Rsqrt, ScalarOp::Log]);
                (self.graph().map(op, &[positive]), x.limit.max(1.0))
            }
            4 => (self.graph().map(ScalarOp::Sin, &[x.node]), 1.0),
            5 => (self.graph().map(ScalarOp::Cos, &[x.node]), 1.0),
            6 => (self.graph().map(ScalarOp::Erf, &[x.node]), 1.0),
            7 => (silu(self.graph(), x.node), x.limit),
            8 if x.exact => {
                let op = *self.random.choice(&[ScalarOp::Floor, ScalarOp::Round]);
                return self.same_bits(&[op], x.node, x.limit + 1.0);
            }
            9 if x.exact => {
                let narrow = *self.random.choice(&[DType::F16, DType::BF16]);
                return self.same_bits(
                    &[ScalarOp::Cast(narrow), ScalarOp::Cast(DType::F32)],
                    x.node,
                    x.limit,
                );
            }
            10 if x.exact => return self.same_bits(&[ScalarOp::Abs], x.node, x.limit),
            _ => {
                let above = add(self.graph(), size, one);
                (self.graph().map(ScalarOp::Div, &[x.node, above]), 1.0)
            }
        };
        self.keep(node, limit, false);
    }

    /// Operations that have one right result.
    fn same_bits(&mut self, ops: &[ScalarOp], x: Node, limit: f32) {
        let node = ops.iter().fold(x, |x, op| self.graph().map(*op, &[x]));
        self.keep(node, limit, true);
    }

    fn binary(&mut self) {
        let a = self.pick();
        let shape = self.shape(a);
        let b = self.partner(&shape);
        let sum = a.limit + b.limit;
        let (op, limit) = *self.random.choice(&[
            (ScalarOp::Add, sum),
            (ScalarOp::Sub, sum),
            (ScalarOp::Mul, a.limit * b.limit),
            (ScalarOp::Min, sum),
            (ScalarOp::Max, sum),
            (ScalarOp::Fma, a.limit * b.limit + 1.0),
        ]);
        let mut xs = vec![a.node, b.node];
        let mut limit = limit;
        if op == ScalarOp::Fma {
            let c = self.partner(&shape);
            xs.push(c.node);
            limit += c.limit;
        }
        let exact = a.exact && b.exact && matches!(op, ScalarOp::Min | ScalarOp::Max);
        let node = self.graph().map(op, &xs);
        self.keep(node, limit, exact);
    }

    fn select(&mut self) {
        let a = self.pick();
        let shape = self.shape(a);
        let b = self.partner(&shape);
        let mut c = self.condition(&shape);
        if self.chance(30) {
            let other = self.condition(&shape);
            let op = *self.random.choice(&[ScalarOp::And, ScalarOp::Or, ScalarOp::Xor]);
            c = self.graph().map(op, &[c, other]);
        }
        let node = self.graph().map(ScalarOp::Select, &[c, a.node, b.node]);
        self.keep(node, a.limit.max(b.limit), a.exact && b.exact);
    }

    /// Integers of the coordinates and of an input, brought to small floats.
    fn integer_work(&mut self) {
        let like = self.pick();
        let shape = self.shape(like);
        if shape.is_empty() {
            return;
        }
        let dtype = *self.random.choice(&[DType::I32, DType::U32]);
        let first = self.integers(&shape[..1], 0, &Expr::int(40));
        let (a, b) = (self.random.below(9) as i64, 1 + self.random.below(8) as i64);
        let mut x = self.graph().index(dtype, &shape, &[first], |c| {
            let sum = c.axes().iter().fold(Expr::int(a), |sum, x| sum * 3 + x.clone());
            sum.div_floor(b) + c.extra(0, &[c.axis(0)])
        });
        for _ in 0..1 + self.random.below(3) {
            let number = Scalar::Int(1 + self.random.below(12) as i64);
            let y = splat_scalar(self.graph(), dtype, number, &shape);
            use ScalarOp as S;
            let ops = [S::Add, S::Mul, S::Div, S::Rem, S::And, S::Or, S::Xor, S::Shr, S::Shl, S::Min, S::Sub];
            let op = *self.random.choice(&ops);
            x = self.graph().map(op, &[x, y]);
        }
        let fifteen = splat_scalar(self.graph(), dtype, Scalar::Int(15), &shape);
        let small = self.graph().map(ScalarOp::And, &[x, fifteen]);
        let float = self.graph().map(ScalarOp::Cast(DType::F32), &[small]);
        let eighth = splat(self.graph(), 0.125, &shape);
        let node = mul(self.graph(), float, eighth);
        self.keep(node, 1.0, true);
    }

    fn reindex(&mut self) {
        let x = self.pick();
        let shape = self.shape(x);
        let constant: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis].as_int().is_some()).collect();
        if constant.is_empty() {
            return self.new_axis(x);
        }
        let axis = *self.random.choice(&constant);
        let n = shape[axis].as_int().unwrap();
        let c = self.random.below(n as usize) as i64;
        let mut to = shape.clone();
        let change = |f: &dyn Fn(Expr) -> Expr, maker: &mut Self, to: &[Expr]| {
            maker.graph().view(x.node, to, &[], |place| {
                let mut at = place.axes().to_vec();
                at[axis] = f(at[axis].clone());
                at
            })
        };
        let node = match self.random.below(9) {
            0 => change(&|i| Expr::int(n - 1) - i, self, &to),
            1 => change(&|i| (i + c).modulo(n), self, &to),
            2 => {
                to[axis] = Expr::int(n - c);
                change(&|i| i + c, self, &to)
            }
            3 if self.count(&shape) <= ELEMENTS / 3 => {
                to[axis] = Expr::int(n * 3);
                change(&|i| i.div_floor(3), self, &to)
            }
            4 => self.graph().view_where(x.node, &to, &[], |place| {
                let mut at = place.axes().to_vec();
                at[axis] = at[axis].clone() - c;
                (at, Some(Expr::int(c).at_most(&place.axis(axis))))
            }),
            5 => return self.transpose(x, &constant),
            6 => return self.split_or_join(x, axis),
            7 if shape.len() > 1 => {
                to.remove(axis);
                self.graph().view(x.node, &to, &[], |place| {
                    let mut at = place.axes().to_vec();
                    at.insert(axis, Expr::int(c));
                    at
                })
            }
            _ => return self.new_axis(x),
        };
        self.keep(node, x.limit, x.exact);
    }

    /// A broadcast along a new axis.
    fn new_axis(&mut self, x: Value) {
        let mut shape = self.shape(x);
        let length = *self.random.choice(&[1usize, 2, 3, 8]);
        if shape.len() > 3 || self.count(&shape) * length > ELEMENTS {
            return;
        }
        // A symbol stays in front.
        let first = usize::from(shape.first().is_some_and(|n| n.as_int().is_none()));
        let axis = first + self.random.below(shape.len() + 1 - first);
        shape.insert(axis, int(length));
        let node = self.graph().view(x.node, &shape, &[], |place| {
            let mut at = place.axes().to_vec();
            at.remove(axis);
            at
        });
        self.keep(node, x.limit, x.exact);
    }

    fn transpose(&mut self, x: Value, constant: &[usize]) {
        let (a, b) = (*self.random.choice(constant), *self.random.choice(constant));
        let mut shape = self.shape(x);
        shape.swap(a, b);
        let node = self.graph().view(x.node, &shape, &[], |place| {
            let mut at = place.axes().to_vec();
            at.swap(a, b);
            at
        });
        self.keep(node, x.limit, x.exact);
    }

    /// One axis taken as two, or two as one.
    fn split_or_join(&mut self, x: Value, axis: usize) {
        let mut shape = self.shape(x);
        let n = shape[axis].as_int().unwrap();
        let next = shape.get(axis + 1).and_then(Expr::as_int);
        let node = match next {
            Some(inner) if self.chance(50) => {
                shape.splice(axis..axis + 2, [Expr::int(n * inner)]);
                self.graph().view(x.node, &shape, &[], |place| {
                    let mut at = place.axes().to_vec();
                    let both = at[axis].clone();
                    at.splice(axis..=axis, [both.clone().div_floor(inner), both.modulo(inner)]);
                    at
                })
            }
            _ => {
                let divisors: Vec<i64> = (1..=n).filter(|d| n % d == 0).collect();
                let inner = *self.random.choice(&divisors);
                if shape.len() > 4 {
                    return;
                }
                shape.splice(axis..=axis, [Expr::int(n / inner), Expr::int(inner)]);
                self.graph().view(x.node, &shape, &[], |place| {
                    let mut at = place.axes().to_vec();
                    let both = at[axis].clone() * inner + at[axis + 1].clone();
                    at.splice(axis..axis + 2, [both]);
                    at
                })
            }
        };
        self.keep(node, x.limit, x.exact);
    }

    /// Elements along one axis, by an input.
    fn gather(&mut self) {
        let x = self.pick();
        let mut shape = self.shape(x);
        if shape.is_empty() {
            return;
        }
        let axis = self.random.below(shape.len());
        let extent = shape[axis].clone();
        let wanted =
            if axis == 0 && self.chance(60) { self.t.clone() } else { int(1 + self.random.below(9)) };
        if axis == 0 && extent.as_int().is_none() && wanted.as_int().is_some() && shape.len() > 3 {
            return;
        }
        let ids = self.integers(std::slice::from_ref(&wanted), 0, &extent);
        shape[axis] = wanted;
        let node = self.graph().view(x.node, &shape, &[ids], |place| {
            let mut at = place.axes().to_vec();
            at[axis] = place.extra(0, &[place.axis(axis)]);
            at
        });
        self.keep(node, x.limit, x.exact);
    }

    fn reduce(&mut self) {
        let x = self.pick();
        let shape = self.shape(x);
        let constant: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis].as_int().is_some()).collect();
        let mut axes: Vec<usize> = match self.random.below(3) {
            0 => constant.into_iter().filter(|_| self.chance(50)).collect(),
            1 => constant.into_iter().rev().take(2).collect(),
            _ => constant.into_iter().rev().take(1).collect(),
        };
        axes.sort_unstable();
        if axes.is_empty() {
            return;
        }
        let count: usize = axes.iter().map(|axis| self.size(&shape[*axis])).product();
        let typical = (count as f32).sqrt();
        let (monoid, limit) = *self.random.choice(&[
            (Monoid::Add, x.limit * typical),
            (Monoid::Max, x.limit),
            (Monoid::Min, x.limit),
        ]);
        let node = self.graph().reduce(monoid, x.node, &axes);
        let exact = x.exact && monoid != Monoid::Add;
        self.keep(node, limit, exact);
    }

    /// Weights along the last axis that add up to one.
    fn softmax(&mut self) {
        let Some(x) = self.pick_where(|_, shape| shape.len() > 1 && shape.last().unwrap().as_int().is_some())
        else {
            return;
        };
        let shape = self.shape(x);
        let last = shape.len() - 1;
        let kept: Vec<usize> = (0..last).collect();
        let graph = self.graph();
        let largest = graph.reduce(Monoid::Max, x.node, &[last]);
        let largest = broadcast(graph, largest, &shape, &kept);
        let below = graph.map(ScalarOp::Sub, &[x.node, largest]);
        let power = graph.map(ScalarOp::Exp, &[below]);
        let total = graph.reduce(Monoid::Add, power, &[last]);
        let total = broadcast(graph, total, &shape, &kept);
        let node = graph.map(ScalarOp::Div, &[power, total]);
        self.keep(node, 1.0, false);
    }

    fn norm(&mut self) {
        let matrix = |_: &Maker<'_>, shape: &[Expr]| shape.len() == 2 && shape[1].as_int().is_some();
        let Some(x) = self.pick_where(matrix) else { return };
        let width = self.size(&self.shape(x)[1]);
        let weight = self.weight(&[width]);
        let node = rms_norm(self.graph(), x.node, weight.node, 1e-2);
        self.keep(node, 1.0, false);
    }

    fn contraction(&mut self) {
        let fits = |_: &Maker<'_>, shape: &[Expr]| {
            (2..4).contains(&shape.len()) && shape.last().unwrap().as_int().is_some()
        };
        let Some(x) = self.pick_where(fits) else { return };
        let shape = self.shape(x);
        let depth = self.size(shape.last().unwrap());
        let typical = |weight: Value| x.limit * weight.limit * (depth as f32).sqrt();
        let width = *self.random.choice(&[1usize, 2, 3, 5, 8, 16, 19, 32, 40]);
        let weight = self.weight(&[width, depth]);
        if shape.len() == 3 {
            let space = [shape[0].clone(), shape[1].clone(), int(width), int(depth)];
            let left = broadcast(self.graph(), x.node, &space, &[0, 1, 3]);
            let right = broadcast(self.graph(), weight.node, &space, &[2, 3]);
            let product = mul(self.graph(), left, right);
            let node = self.graph().reduce(Monoid::Add, product, &[3]);
            return self.keep(node, typical(weight), false);
        }
        let bias = match self.chance(30) {
            true => Some(self.weight(&[width]).node),
            false => None,
        };
        let node = match self.random.below(4) {
            0 if width.is_multiple_of(2) => {
                linear_heads(self.graph(), x.node, weight.node, bias, [2, width as i64 / 2])
            }
            1 => {
                let up = self.weight(&[width, depth]);
                let gate = linear(self.graph(), x.node, weight.node, bias);
                let up_sum = linear(self.graph(), x.node, up.node, None);
                let node = swiglu(self.graph(), gate, up_sum);
                return self.keep(node, typical(weight) * typical(up), false);
            }
            _ => linear(self.graph(), x.node, weight.node, bias),
        };
        self.keep(node, typical(weight), false);
        // A residual, if there is one of that shape.
        let space = self.graph().shape(node).to_vec();
        if self.chance(50) {
            let y = *self.pool.last().unwrap();
            let other = self.partner(&space);
            let node = add(self.graph(), y.node, other.node);
            self.keep(node, y.limit + other.limit, false);
        }
    }

    /// Rows of a table.
    fn embedding(&mut self) {
        let (count, width) = (*self.random.choice(&[1usize, 9, 30]), *self.random.choice(&[4usize, 32, 64]));
        let table = self.weight(&[count, width]);
        let t = self.t.clone();
        let ids = self.integers(std::slice::from_ref(&t), 0, &int(count));
        let node = self.graph().view(table.node, &[t, int(width)], &[ids], |place| {
            vec![place.extra(0, &[place.axis(0)]), place.axis(1)]
        });
        self.keep(node, table.limit, table.exact);
    }

    /// Rows written to a state, and read back with what was there before.
    fn log(&mut self) {
        let rows_of = |maker: &Maker<'_>, shape: &[Expr]| {
            shape.len() == 2 && shape[0] == maker.t && shape[1].as_int().is_some()
        };
        let Some(x) = self.pick_where(rows_of) else { return };
        let width = self.size(&self.shape(x)[1]);
        let name = self.name("log");
        let (places, t) = (64i64, self.t.clone());
        let values = self.case.floats(places as usize * width, 1.0);
        let tensor = jtllm_ir::Tensor::floats(DType::F32, &[places as usize, width], values);
        self.case.bindings.states.insert(name.clone(), tensor);
        let state = self.graph().state(&name, DType::F32, &[Expr::int(places), int(width)]);
        let read = |place: &Coordinates<'_>| vec![place.axis(0).modulo(places), place.axis(1)];
        let before = self.graph().view(state, &[t.clone(), int(width)], &[], read);
        self.keep(before, 1.0, true);
        let x = match self.random.below(3) {
            0 => x,
            // What is written is made of what is replaced, at the same place or another one.
            1 => Value { node: add(self.graph(), x.node, before), limit: x.limit + 1.0, exact: false },
            _ => {
                let space = self.shape(x);
                let last = width as i64 - 1;
                let turned = self
                    .graph()
                    .view(before, &space, &[], |place| vec![place.axis(0), Expr::int(last) - place.axis(1)]);
                Value { node: turned, limit: 1.0, exact: true }
            }
        };
        let offset = self.random.below(15) as i64;
        let slots =
            (0..self.tokens as i64).map(|row| if row % 5 == 4 { -1 } else { (row + offset) % places });
        let slots = slots.collect();
        let slot_name = self.name("slot");
        let slot = self.case.ints(
            &slot_name,
            std::slice::from_ref(&t),
            &[self.tokens],
            (-1, Expr::int(places)),
            slots,
        );
        let written = self.graph().write(state, x.node, &[slot], |place| {
            let slot = place.extra(0, &[place.axis(0)]);
            (vec![slot.clone(), place.axis(1)], Some(Expr::int(0).at_most(&slot)))
        });
        let after = self.graph().view(written, &[t, int(width)], &[], read);
        self.keep(after, x.limit.max(1.0), x.exact);
    }

    fn attention(&mut self) {
        let rows_of = |maker: &Maker<'_>, shape: &[Expr]| {
            shape.len() == 2 && shape[0] == maker.t && shape[1].as_int().is_some()
        };
        if self.attended {
            return;
        }
        let Some(x) = self.pick_where(rows_of) else { return };
        self.attended = true;
        let depth = self.size(&self.shape(x)[1]);
        let (t, tokens) = (self.t.clone(), self.tokens);
        let places = Places::new(&mut self.case, &t, tokens);
        let (heads, group) = (*self.random.choice(&[1usize, 2, 3]), *self.random.choice(&[1usize, 2, 4]));
        let width = *self.random.choice(&[4usize, 8, 16, 20]);
        let mut parts = [heads * group, heads, heads].map(|heads| {
            let weight = self.weight(&[heads * width, depth]);
            let small =
                splat(self.graph(), 0.5 / (depth as f32).sqrt() / weight.limit, &[t.clone(), int(depth)]);
            let x = mul(self.graph(), x.node, small);
            linear_heads(self.graph(), x, weight.node, None, [heads as i64, width as i64])
        });
        if self.chance(60) {
            let pairing = if self.chance(50) { Pairing::HalfSplit } else { Pairing::Interleaved };
            let rope =
                Rope { width: width.min(8) as i64, base: 10000.0, pairing, scaling: RopeScaling::None };
            let table = rotary_table(self.graph(), &rope, places.position, None);
            parts[0] = rotate(self.graph(), parts[0], table, &rope);
            parts[1] = rotate(self.graph(), parts[1], table, &rope);
        }
        let window = if self.chance(40) { Some(1 + self.random.below(40) as i64) } else { None };
        let node = places.attend(&mut self.case, parts, DType::F32, window);
        self.keep(node, 1.0, false);
    }
}
