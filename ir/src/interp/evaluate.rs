//! Computes the stored values of a pass, in node order.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::block::{Line, Row};
use super::plan::extent;
use super::{HostFunction, InterpError, Plan, Points, check_tensor, coordinates};
use crate::dtype::DType;
use crate::expr::{Expr, Kind};
use crate::graph::{Graph, Monoid, Node, Op};
use crate::scalar::Scalar;
use crate::tensor::Tensor;

pub(super) struct Machine<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    pub(super) symbols: &'a BTreeMap<String, i64>,
    pub(super) functions: &'a BTreeMap<String, HostFunction>,
    values: Vec<Option<Cow<'a, Tensor>>>,
    /// The results of scans, until their projections take them.
    scanned: BTreeMap<Node, Vec<Tensor>>,
}

impl<'a> Machine<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        plan: &'a Plan,
        symbols: &'a BTreeMap<String, i64>,
        functions: &'a BTreeMap<String, HostFunction>,
    ) -> Machine<'a> {
        let values = vec![None; graph.len()];
        Machine { graph, plan, symbols, functions, values, scanned: BTreeMap::new() }
    }

    /// Sets the value of a leaf.
    pub(super) fn give(&mut self, node: Node, value: Cow<'a, Tensor>) {
        self.values[node.0 as usize] = Some(value);
    }

    /// Checks each input against its declared range.
    pub(super) fn check_ranges(&self) -> Result<(), InterpError> {
        for node in self.graph.nodes() {
            let Op::Input { name, range: Some((low, end)) } = self.graph.op(node) else { continue };
            let malformed = InterpError::Malformed { node, why: "a range mentions more than symbols" };
            let end = extent(end, self.symbols).ok_or(malformed)?;
            let value = self.value(node)?;
            let outside = |at: &usize| !(*low..end).contains(&value.get(*at).int());
            if let Some(position) = (0..value.len()).find(outside) {
                let at = coordinates(&value.shape, position);
                let value = value.get(position).int();
                return Err(InterpError::Range { name: name.clone(), at, value, low: *low, end });
            }
        }
        Ok(())
    }

    /// Computes all stored values.
    pub(super) fn run(&mut self) -> Result<(), InterpError> {
        let (graph, plan) = (self.graph, self.plan);
        for node in graph.nodes().filter(|node| plan.is_stored(*node)) {
            if self.values[node.0 as usize].is_none() {
                let value = self.compute(node)?;
                self.values[node.0 as usize] = Some(Cow::Owned(value));
            }
            plan.dropped_after(node).iter().for_each(|x| self.values[x.0 as usize] = None);
        }
        Ok(())
    }

    /// The outputs, by name.
    pub(super) fn outputs(&self) -> Result<Vec<(String, Tensor)>, InterpError> {
        let output = |(name, node): &(String, Node)| Ok((name.clone(), self.value(*node)?.clone()));
        self.graph.outputs.iter().map(output).collect()
    }

    /// The newest version of each state that was written.
    pub(super) fn last_versions(&self) -> BTreeMap<String, Tensor> {
        let mut newest: BTreeMap<String, (usize, Node)> = BTreeMap::new();
        for node in self.graph.nodes() {
            if let (Op::Write { .. }, Some((leaf, version))) =
                (self.graph.op(node), self.graph.state_of(node))
                && let Op::State { name } = self.graph.op(leaf)
            {
                let entry = newest.entry(name.clone()).or_insert((version, node));
                *entry = (*entry).max((version, node));
            }
        }
        let value = |(name, (_, node)): (String, (usize, Node))| Some((name, self.value(node).ok()?.clone()));
        newest.into_iter().filter_map(value).collect()
    }

    pub(super) fn value(&self, node: Node) -> Result<&Tensor, InterpError> {
        let value = self.values[node.0 as usize].as_deref();
        value.ok_or(InterpError::Malformed { node, why: "it has no value" })
    }

    fn compute(&mut self, node: Node) -> Result<Tensor, InterpError> {
        let graph = self.graph;
        match graph.op(node) {
            Op::Reduce { monoid, x, axes } => self.reduce(node, *monoid, *x, axes),
            Op::Write { state, at, ok, extras, value } => {
                self.write(node, *state, (at, ok.as_ref(), extras), *value)
            }
            Op::Scan(scan) => {
                let results = self.scan(node, scan)?;
                let first = results.first().cloned();
                self.scanned.insert(node, results);
                first.ok_or(InterpError::Malformed { node, why: "a scan without results" })
            }
            Op::Result { scan, index } => {
                let result = self.scanned.get(scan).and_then(|results| results.get(*index));
                result.cloned().ok_or(InterpError::Malformed { node, why: "the scan has no such result" })
            }
            Op::Opaque { name, xs } => {
                let missing = || InterpError::Missing { kind: "function", name: name.clone() };
                let function = self.functions.get(name).ok_or_else(missing)?;
                let xs = xs.iter().map(|x| self.value(*x)).collect::<Result<Vec<_>, _>>()?;
                let value = function(&xs);
                check_tensor("function", name, graph.dtype(node), self.plan.shape(node), &value)?;
                Ok(value)
            }
            _ => {
                let shape = self.plan.shape(node);
                let mut out = Tensor::zeros(graph.dtype(node), shape);
                self.for_blocks(shape, |start, points| {
                    let row = self.inside(node, &points)?;
                    (0..points.count).for_each(|p| out.set(start + p, row.get(p)));
                    Ok(())
                })?;
                Ok(out)
            }
        }
    }

    /// Calls `each` with the blocks of `shape`, in order.
    fn for_blocks(
        &self,
        shape: &[usize],
        mut each: impl FnMut(usize, Points) -> Result<(), InterpError>,
    ) -> Result<(), InterpError> {
        let total = shape.iter().product();
        let mut start = 0;
        while start < total {
            let count = Points::block_size(shape, start, total);
            each(start, Points::range(shape, start, count))?;
            start += count;
        }
        Ok(())
    }

    /// The node's elements at points inside its shape.
    fn row(&self, node: Node, points: &Points) -> Result<Row<'_>, InterpError> {
        match &self.values[node.0 as usize] {
            Some(value) => Ok(Row::read(value, points)),
            None => self.inside(node, points),
        }
    }

    fn inside(&self, node: Node, points: &Points) -> Result<Row<'_>, InterpError> {
        let graph = self.graph;
        let dtype = graph.dtype(node);
        match graph.op(node) {
            Op::Map { op, xs } => {
                let from = graph.dtype(*xs.last().unwrap_or(&node));
                let rows = xs.iter().map(|x| self.row(*x, points)).collect::<Result<Vec<_>, _>>()?;
                Ok(Row::map(*op, from, dtype, rows, points.count))
            }
            Op::Index { value, extras } => Ok(match self.line(node, value, points, extras)? {
                Line::Same(x) => Row::Same(Scalar::Int(dtype.wrap(x))),
                line => Row::Ints((0..points.count).map(|p| dtype.wrap(line.get(p))).collect()),
            }),
            Op::View { x, at, ok, extras } => {
                let Some(ok) = ok else {
                    let read = self.addressed(node, *x, at, points, extras)?;
                    return self.row(*x, &read);
                };
                let chosen = self.chosen(node, ok, points, extras)?;
                if chosen.is_empty() {
                    let zero = if dtype.is_float() { Scalar::Float(0.0) } else { Scalar::Int(0) };
                    return Ok(Row::Same(zero));
                }
                if chosen.len() == points.count {
                    let read = self.addressed(node, *x, at, points, extras)?;
                    return self.row(*x, &read);
                }
                let read = self.addressed(node, *x, at, &points.choose(&chosen), extras)?;
                Ok(self.row(*x, &read)?.scatter(&chosen, points.count, dtype))
            }
            _ => Err(InterpError::Malformed { node, why: "it has no value" }),
        }
    }

    /// The points where `ok` holds.
    fn chosen(
        &self,
        node: Node,
        ok: &Expr,
        points: &Points,
        extras: &[Node],
    ) -> Result<Vec<usize>, InterpError> {
        let ok = self.line(node, ok, points, extras)?;
        Ok((0..points.count).filter(|p| ok.get(*p) != 0).collect())
    }

    /// The points of `x` that `at` addresses, which must lie inside it.
    fn addressed(
        &self,
        node: Node,
        x: Node,
        at: &[Expr],
        points: &Points,
        extras: &[Node],
    ) -> Result<Points, InterpError> {
        let at = at.iter().map(|e| self.line(node, e, points, extras)).collect::<Result<Vec<_>, _>>()?;
        let addressed = Points { count: points.count, at };
        let shape = self.plan.shape(x);
        if addressed.at.len() != shape.len() {
            return Err(InterpError::Malformed { node, why: "another number of coordinates than axes" });
        }
        for (line, extent) in addressed.at.iter().zip(shape) {
            if let Some(point) = line.first_outside(*extent, points.count) {
                let at = addressed.coordinates(point);
                return Err(InterpError::OutOfBounds { node, at, shape: shape.to_vec() });
            }
        }
        Ok(addressed)
    }

    /// The value of an expression at each point.
    fn line(&self, node: Node, x: &Expr, points: &Points, extras: &[Node]) -> Result<Line, InterpError> {
        let n = points.count;
        let line = |x: &Expr| self.line(node, x, points, extras);
        let both = |a: &Expr, b: &Expr, f: fn(i64, i64) -> i64| Ok(line(a)?.zip(&line(b)?, n, f));
        match x.kind() {
            Kind::Int(value) => Ok(Line::Same(*value)),
            Kind::Sym(symbol) => {
                let missing = || InterpError::Missing { kind: "symbol", name: symbol.name().to_owned() };
                self.symbols.get(symbol.name()).map(|x| Line::Same(*x)).ok_or_else(missing)
            }
            Kind::Axis { index, .. } => {
                let malformed = InterpError::Malformed { node, why: "an expression has an axis too many" };
                points.at.get(usize::from(*index)).cloned().ok_or(malformed)
            }
            Kind::Extra { slot, at, .. } => {
                let malformed = InterpError::Malformed { node, why: "an expression has an extra too many" };
                let extra = *extras.get(*slot as usize).ok_or(malformed)?;
                let read = self.addressed(node, extra, at, points, extras)?;
                Ok(self.row(extra, &read)?.into_line())
            }
            Kind::Sum(terms, constant) => terms
                .iter()
                .try_fold(Line::Same(*constant), |sum, (term, c)| Ok(sum.add_scaled(&line(term)?, *c, n))),
            Kind::Product(xs) => xs
                .iter()
                .try_fold(Line::Same(1), |product, x| Ok(product.zip(&line(x)?, n, i64::wrapping_mul))),
            Kind::Div(x, d) => Ok(line(x)?.map(n, |x| x.div_euclid(*d))),
            Kind::Mod(x, d) => Ok(line(x)?.map(n, |x| x.rem_euclid(*d))),
            Kind::Min(a, b) => both(a, b, i64::min),
            Kind::Max(a, b) => both(a, b, i64::max),
            Kind::Lt(a, b) => both(a, b, |a, b| i64::from(a < b)),
            Kind::Eq(a, b) => both(a, b, |a, b| i64::from(a == b)),
            Kind::And(xs) => xs
                .iter()
                .try_fold(Line::Same(1), |all, x| Ok(all.zip(&line(x)?, n, |a, b| a & i64::from(b != 0)))),
        }
    }

    fn reduce(&self, node: Node, monoid: Monoid, x: Node, axes: &[usize]) -> Result<Tensor, InterpError> {
        let from = self.plan.shape(x);
        let kept = (0..from.len()).filter(|axis| !axes.contains(axis));
        let order: Vec<usize> = kept.chain(axes.iter().copied()).collect();
        if order.len() != from.len() || order.iter().any(|axis| *axis >= from.len()) {
            return Err(InterpError::Malformed { node, why: "an axis is reduced that is not there" });
        }
        let space: Vec<usize> = order.iter().map(|axis| from[*axis]).collect();
        let inner: usize = axes.iter().map(|axis| from[*axis]).product();
        let dtype = self.graph.dtype(node);
        let mut out = Tensor::zeros(dtype, self.plan.shape(node));
        (0..out.len()).for_each(|at| out.set(at, monoid.neutral(dtype)));
        let mut total = Total::new(monoid, dtype);
        self.for_blocks(&space, |start, points| {
            let mut at = vec![Line::Same(0); order.len()];
            order.iter().zip(points.at).for_each(|(axis, line)| at[*axis] = line);
            let points = Points { count: points.count, at };
            let row = self.row(x, &points)?;
            let mut done = 0;
            while done < points.count {
                let position = start + done;
                let count = (inner - position % inner).min(points.count - done);
                total.add(&row, done..done + count);
                done += count;
                if (position + count).is_multiple_of(inner) {
                    out.set(position / inner, total.take());
                }
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn write(
        &self,
        node: Node,
        state: Node,
        (at, ok, extras): (&[Expr], Option<&Expr>, &[Node]),
        value: Node,
    ) -> Result<Tensor, InterpError> {
        let mut out = self.value(state)?.clone();
        self.for_blocks(self.plan.shape(value), |_, mut points| {
            if let Some(ok) = ok {
                let chosen = self.chosen(node, ok, &points, extras)?;
                if chosen.is_empty() {
                    return Ok(());
                }
                if chosen.len() < points.count {
                    points = points.choose(&chosen);
                }
            }
            let row = self.row(value, &points)?;
            let positions = self.addressed(node, state, at, &points, extras)?.positions(&out.shape);
            (0..points.count).for_each(|p| out.set(positions.get(p) as usize, row.get(p)));
            Ok(())
        })?;
        Ok(out)
    }
}

/// An element of a `Reduce` under way. Sums and products of floats are kept in `f64`.
struct Total {
    monoid: Monoid,
    dtype: DType,
    float: f64,
    scalar: Scalar,
}

impl Total {
    fn new(monoid: Monoid, dtype: DType) -> Total {
        let scalar = monoid.neutral(dtype);
        Total { monoid, dtype, float: f64::from(scalar.float()), scalar }
    }

    fn add(&mut self, row: &Row<'_>, range: std::ops::Range<usize>) {
        match (self.monoid, row) {
            (Monoid::Add, Row::Floats(xs)) => xs[range].iter().for_each(|x| self.float += f64::from(*x)),
            (Monoid::Add, _) if self.dtype.is_float() => {
                range.for_each(|p| self.float += f64::from(row.get(p).float()));
            }
            (Monoid::Mul, _) if self.dtype.is_float() => {
                range.for_each(|p| self.float *= f64::from(row.get(p).float()));
            }
            _ => {
                let op = self.monoid.scalar();
                range.for_each(|p| self.scalar = op.evaluate(self.dtype, &[self.scalar, row.get(p)]));
            }
        }
    }

    /// The total, rounded once; begins anew.
    fn take(&mut self) -> Scalar {
        let sums = self.dtype.is_float() && matches!(self.monoid, Monoid::Add | Monoid::Mul);
        let result = if sums { Scalar::Float(self.float as f32) } else { self.scalar };
        *self = Total::new(self.monoid, self.dtype);
        result
    }
}
