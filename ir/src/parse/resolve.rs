//! From operations as they are written to nodes: shapes and types that were left out are inferred.

use super::cursor::Cursor;
use super::expression::Scope;
use super::operation::{Addressing, Function, Nested, Operation, Term};
use super::{ParseError, Parser};
use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Node, Op, Scan};
use crate::scalar::{Scalar, ScalarOp};
use crate::tensor::Tensor;

type Resolved<T> = Result<T, ParseError>;

/// Coordinates, condition and extras.
type Addressed = (Vec<Expr>, Option<Expr>, Vec<Node>);

const NO_SHAPE: &str = "an operation whose type and shape are written (`: f32[2,3]`)";

/// Whether the shape must come from the operands beside it.
fn is_shapeless(term: &Term) -> bool {
    match term {
        Term::Number(..) => true,
        Term::Node(_) => false,
        Term::Nested(nested) if nested.annotation.is_some() => false,
        Term::Nested(nested) => match &nested.operation {
            Operation::View(..) => true,
            Operation::Map(_, xs) => xs.iter().all(is_shapeless),
            _ => false,
        },
    }
}

/// The type and shape that are written, else those that are inferred.
fn known(
    cursor: &Cursor<'_>,
    nested: &Nested,
    inferred: Option<(DType, Vec<Expr>)>,
) -> Resolved<(DType, Vec<Expr>)> {
    let known = nested.annotation.clone().or(inferred);
    known.ok_or_else(|| cursor.back_to(nested.at).error(NO_SHAPE))
}

impl Parser {
    /// Appends the nodes of an operation. `shape` and `dtype` are what the place asks for, if it knows.
    pub(super) fn resolve(
        &mut self,
        cursor: &Cursor<'_>,
        nested: &Nested,
        shape: Option<&[Expr]>,
        dtype: Option<DType>,
    ) -> Resolved<Node> {
        let written = nested.annotation.clone();
        let shape = written.as_ref().map(|(_, shape)| shape.as_slice()).or(shape);
        match &nested.operation {
            Operation::Map(op, xs) => self.map(cursor, nested, (*op, xs), shape, dtype),
            Operation::View(x, addressing) => {
                let shape = shape.map(<[Expr]>::to_vec);
                let shape = shape.ok_or_else(|| cursor.back_to(nested.at).error(NO_SHAPE))?;
                let x = self.term_of(cursor, x)?;
                let (at, ok, extras) = self.addressed(cursor, addressing, &shape)?;
                let dtype = written.map_or(self.graph.dtype(x), |(dtype, _)| dtype);
                Ok(self.push(Op::View { x, at, ok, extras }, shape, dtype))
            }
            Operation::Write(state, addressing, value) => {
                let (state, value) = (self.term_of(cursor, state)?, self.term_of(cursor, value)?);
                let space = self.graph.shape(value).to_vec();
                let (at, ok, extras) = self.addressed(cursor, addressing, &space)?;
                let inferred = (self.graph.dtype(state), self.graph.shape(state).to_vec());
                let (dtype, shape) = written.unwrap_or(inferred);
                Ok(self.push(Op::Write { state, at, ok, extras, value }, shape, dtype))
            }
            Operation::Reduce(monoid, x, axes) => {
                let x = self.term_of(cursor, x)?;
                let kept = self.graph.shape(x).iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
                let inferred = (self.graph.dtype(x), kept.map(|(_, extent)| extent.clone()).collect());
                let (dtype, shape) = written.unwrap_or(inferred);
                Ok(self.push(Op::Reduce { monoid: *monoid, x, axes: axes.clone() }, shape, dtype))
            }
            Operation::Scan { axis, carries, xs, body } => {
                let carries = self.terms_of(cursor, carries)?;
                let xs = self.terms_of(cursor, xs)?;
                let scan = Scan { axis: *axis, carries, xs, body: body.clone() };
                let inferred = scan.result(&self.graph, 0).map(|(shape, dtype)| (dtype, shape));
                let (dtype, shape) = known(cursor, nested, inferred)?;
                Ok(self.push(Op::Scan(Box::new(scan)), shape, dtype))
            }
            Operation::Result(scan, index) => {
                let scan = self.term_of(cursor, scan)?;
                let inferred = match self.graph.op(scan) {
                    Op::Scan(inner) => inner.result(&self.graph, *index).map(|(shape, dtype)| (dtype, shape)),
                    _ => None,
                };
                let (dtype, shape) = known(cursor, nested, inferred)?;
                Ok(self.push(Op::Result { scan, index: *index }, shape, dtype))
            }
            _ => self.annotated(cursor, nested),
        }
    }

    /// An operation whose type and shape nothing else can tell.
    fn annotated(&mut self, cursor: &Cursor<'_>, nested: &Nested) -> Resolved<Node> {
        let (dtype, shape) = known(cursor, nested, None)?;
        let op = match &nested.operation {
            Operation::Weight(name) => Op::Weight { name: name.clone() },
            Operation::State(name) => Op::State { name: name.clone() },
            Operation::Input(name, range) => Op::Input { name: name.clone(), range: range.clone() },
            Operation::Const(numbers, brackets) => {
                Op::Const(constant(cursor, nested.at, numbers, *brackets, dtype, &shape)?)
            }
            Operation::Index(function, extras) => {
                let extras = self.terms_of(cursor, extras)?;
                let mut values = self.function(cursor, function, &shape, &extras)?;
                match (values.pop(), values.is_empty()) {
                    (Some(value), true) => Op::Index { value, extras },
                    _ => return Err(cursor.back_to(function.at).error("one expression in an index")),
                }
            }
            Operation::Opaque(name, xs) => Op::Opaque { name: name.clone(), xs: self.terms_of(cursor, xs)? },
            _ => return Err(cursor.back_to(nested.at).error(NO_SHAPE)),
        };
        Ok(self.push(op, shape, dtype))
    }

    /// A map: operands that have a shape give it to those that have none.
    fn map(
        &mut self,
        cursor: &Cursor<'_>,
        nested: &Nested,
        (op, xs): (ScalarOp, &[Term]),
        shape: Option<&[Expr]>,
        dtype: Option<DType>,
    ) -> Resolved<Node> {
        let mut nodes: Vec<Option<Node>> = vec![None; xs.len()];
        for (x, node) in xs.iter().zip(&mut nodes).filter(|(x, _)| !is_shapeless(x)) {
            *node = Some(self.term_of(cursor, x)?);
        }
        let sibling = nodes.iter().flatten().next().map(|node| self.graph.shape(*node).to_vec());
        let space = shape.map(<[Expr]>::to_vec).or(sibling);
        for at in 0..xs.len() {
            if let (Term::Nested(inner), None) = (&xs[at], nodes[at]) {
                nodes[at] = Some(self.resolve(cursor, inner, space.as_deref(), None)?);
            }
        }
        // The condition of a choice says nothing about the numbers that are chosen.
        let first = usize::from(op == ScalarOp::Select);
        let typed = nodes.iter().skip(first).flatten().next().map(|node| self.graph.dtype(*node));
        let number_type = typed.or(dtype).unwrap_or(DType::F32);
        for at in 0..xs.len() {
            if let Term::Number(text, place) = &xs[at] {
                let value = number(cursor, *place, text, number_type)?;
                let space = space.clone().ok_or_else(|| cursor.back_to(nested.at).error(NO_SHAPE))?;
                let x = self.push(Op::Const(Tensor::scalar(number_type, value)), Vec::new(), number_type);
                let view = Op::View { x, at: Vec::new(), ok: None, extras: Vec::new() };
                nodes[at] = Some(self.push(view, space, number_type));
            }
        }
        let nodes: Vec<Node> = nodes.into_iter().flatten().collect();
        let dtypes: Vec<DType> = nodes.iter().map(|node| self.graph.dtype(*node)).collect();
        let (dtype, shape) = match &nested.annotation {
            Some(written) => written.clone(),
            None => {
                let found = op.result(&dtypes);
                let dtype = found.map_err(|expected| cursor.back_to(nested.at).error(expected))?;
                let first = nodes.first().map(|node| self.graph.shape(*node).to_vec());
                let shape = first.or(space);
                (dtype, shape.ok_or_else(|| cursor.back_to(nested.at).error(NO_SHAPE))?)
            }
        };
        Ok(self.push(Op::Map { op, xs: nodes }, shape, dtype))
    }

    fn term_of(&mut self, cursor: &Cursor<'_>, term: &Term) -> Resolved<Node> {
        match term {
            Term::Node(node) => Ok(*node),
            Term::Number(_, at) => Err(cursor.back_to(*at).error("a node; only maps take numbers")),
            Term::Nested(nested) => self.resolve(cursor, nested, None, None),
        }
    }

    fn terms_of(&mut self, cursor: &Cursor<'_>, terms: &[Term]) -> Resolved<Vec<Node>> {
        terms.iter().map(|term| self.term_of(cursor, term)).collect()
    }

    fn addressed(
        &mut self,
        cursor: &Cursor<'_>,
        addressing: &Addressing,
        space: &[Expr],
    ) -> Resolved<Addressed> {
        let extras = self.terms_of(cursor, &addressing.extras)?;
        let at = self.function(cursor, &addressing.function, space, &extras)?;
        let ok = match &addressing.ok {
            None => None,
            Some(function) => {
                let mut values = self.function(cursor, function, space, &extras)?;
                if values.len() != 1 {
                    return Err(cursor.back_to(function.at).error("one condition"));
                }
                values.pop()
            }
        };
        Ok((at, ok, extras))
    }

    /// The expressions of a function over `space`.
    fn function(
        &self,
        cursor: &Cursor<'_>,
        function: &Function,
        space: &[Expr],
        extras: &[Node],
    ) -> Resolved<Vec<Expr>> {
        if function.axes.len() != space.len() {
            let expected = format!("a function of {} coordinates", space.len());
            return Err(cursor.back_to(function.at).error(&expected));
        }
        let axes: Vec<(String, Expr)> =
            function.axes.iter().cloned().zip(crate::graph::axes(space)).collect();
        let extras: Vec<(i64, Expr)> = extras.iter().map(|extra| self.graph.value_range(*extra)).collect();
        let scope = Scope { axes: &axes, symbols: self.symbols().collect(), extras: &extras };
        function.values.iter().map(|value| value.build(&scope, cursor)).collect()
    }
}

fn constant(
    cursor: &Cursor<'_>,
    at: usize,
    numbers: &[(String, usize)],
    brackets: bool,
    dtype: DType,
    shape: &[Expr],
) -> Resolved<Tensor> {
    let error = |expected: &str| cursor.back_to(at).error(expected);
    let extents: Option<Vec<usize>> =
        shape.iter().map(|extent| extent.as_int().and_then(|n| usize::try_from(n).ok())).collect();
    let extents = extents.ok_or_else(|| error("a constant whose extents are constants"))?;
    let count = extents.iter().try_fold(1usize, |count, n| count.checked_mul(*n));
    if count != Some(numbers.len()) || brackets == shape.is_empty() {
        return Err(error(&format!("a constant with as many numbers as its shape, here {}", numbers.len())));
    }
    let values = numbers.iter().map(|(text, at)| number(cursor, *at, text, dtype));
    let values = values.collect::<Resolved<Vec<Scalar>>>()?;
    Ok(if dtype.is_float() {
        Tensor::floats(dtype, &extents, values.into_iter().map(Scalar::float).collect())
    } else {
        Tensor::ints(dtype, &extents, values.into_iter().map(Scalar::int).collect())
    })
}

/// A number of that type. Floats may be given by their bits (`0x7fc00000`).
fn number(cursor: &Cursor<'_>, at: usize, text: &str, dtype: DType) -> Resolved<Scalar> {
    let value = if dtype.is_float() {
        let bits = text.strip_prefix("0x").map(|bits| u32::from_str_radix(bits, 16).ok().map(f32::from_bits));
        bits.unwrap_or_else(|| text.parse().ok()).map(Scalar::Float)
    } else {
        text.parse().ok().filter(|value| dtype.wrap(*value) == *value).map(Scalar::Int)
    };
    value.ok_or_else(|| cursor.back_to(at).error(&format!("a number of type {dtype}")))
}
