//! Blocks of points: coordinates and values of many elements at once.

use std::borrow::Cow;
use std::rc::Rc;

use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarOp};
use crate::tensor::Tensor;

/// How many points a block has at most.
const BLOCK: usize = 1024;

/// A row of at least this many elements has blocks of its own, so that its coordinates stay affine.
const LONG_ROW: usize = 32;

/// One integer per point of a block.
#[derive(Clone, Debug)]
pub(super) enum Line {
    /// The same everywhere.
    Same(i64),
    /// `start + step * point`.
    Steps(i64, i64),
    /// One for each point.
    Each(Rc<Vec<i64>>),
}

impl Line {
    pub(super) fn each(values: Vec<i64>) -> Line {
        Line::Each(Rc::new(values))
    }

    pub(super) fn get(&self, point: usize) -> i64 {
        match self {
            Line::Same(x) => *x,
            Line::Steps(start, step) => start + step * point as i64,
            Line::Each(xs) => xs[point],
        }
    }

    /// `f` of each integer.
    pub(super) fn map(&self, count: usize, f: impl Fn(i64) -> i64) -> Line {
        match self {
            Line::Same(x) => Line::Same(f(*x)),
            Line::Steps(..) => Line::each((0..count).map(|point| f(self.get(point))).collect()),
            Line::Each(xs) => Line::each(xs.iter().map(|x| f(*x)).collect()),
        }
    }

    /// `f` of each pair of integers.
    pub(super) fn zip(&self, other: &Line, count: usize, f: impl Fn(i64, i64) -> i64) -> Line {
        match (self, other) {
            (Line::Same(a), Line::Same(b)) => Line::Same(f(*a, *b)),
            (Line::Each(xs), Line::Same(b)) => Line::each(xs.iter().map(|x| f(*x, *b)).collect()),
            _ => Line::each((0..count).map(|point| f(self.get(point), other.get(point))).collect()),
        }
    }

    /// `self + factor * other`.
    pub(super) fn add_scaled(self, other: &Line, factor: i64, count: usize) -> Line {
        match (&self, other) {
            (Line::Same(a), Line::Same(b)) => Line::Same(a.wrapping_add(b.wrapping_mul(factor))),
            (Line::Each(_), _) | (_, Line::Each(_)) => {
                self.zip(other, count, |a, b| a.wrapping_add(b.wrapping_mul(factor)))
            }
            (a, b) => {
                let (a, s) = a.affine();
                let (b, t) = b.affine();
                let step = s.wrapping_add(t.wrapping_mul(factor));
                Line::Steps(a.wrapping_add(b.wrapping_mul(factor)), step)
            }
        }
    }

    /// Start and step; of `Each`, a meaningless pair.
    fn affine(&self) -> (i64, i64) {
        match self {
            Line::Same(x) => (*x, 0),
            Line::Steps(start, step) => (*start, *step),
            Line::Each(_) => (0, 0),
        }
    }

    /// The first point whose integer lies outside `0..extent`.
    pub(super) fn first_outside(&self, extent: usize, count: usize) -> Option<usize> {
        let outside = |x: i64| usize::try_from(x).map_or(true, |x| x >= extent);
        match self {
            Line::Same(x) => outside(*x).then_some(0),
            Line::Steps(start, step) => {
                let last = start + step * (count as i64 - 1);
                if !outside(*start) && !outside(last) {
                    return None;
                }
                (0..count).find(|point| outside(self.get(*point)))
            }
            Line::Each(xs) => xs.iter().position(|x| outside(*x)),
        }
    }

    /// The integers of the chosen points.
    fn choose(&self, chosen: &[usize]) -> Line {
        match self {
            Line::Same(x) => Line::Same(*x),
            _ => Line::each(chosen.iter().map(|point| self.get(*point)).collect()),
        }
    }
}

/// The coordinates of a block's points.
#[derive(Clone, Debug)]
pub(super) struct Points {
    /// How many points; not zero.
    pub(super) count: usize,
    /// One line per axis.
    pub(super) at: Vec<Line>,
}

impl Points {
    /// How many points of `shape` to take at once from row-major position `start` of `total`.
    pub(super) fn block_size(shape: &[usize], start: usize, total: usize) -> usize {
        let row = shape.last().copied().unwrap_or(1);
        let left = if row >= LONG_ROW { row - start % row } else { total - start };
        left.min(BLOCK)
    }

    /// The points at row-major positions `start..start + count` of `shape`.
    pub(super) fn range(shape: &[usize], start: usize, count: usize) -> Points {
        let mut stride = 1;
        let mut at: Vec<Line> = shape
            .iter()
            .rev()
            .map(|extent| {
                let line = digits(start, count, stride, *extent);
                stride *= extent;
                line
            })
            .collect();
        at.reverse();
        Points { count, at }
    }

    /// The chosen points alone.
    pub(super) fn choose(&self, chosen: &[usize]) -> Points {
        Points { count: chosen.len(), at: self.at.iter().map(|line| line.choose(chosen)).collect() }
    }

    /// The coordinates of one point.
    pub(super) fn coordinates(&self, point: usize) -> Vec<i64> {
        self.at.iter().map(|line| line.get(point)).collect()
    }

    /// The row-major positions of points that lie inside `shape`.
    pub(super) fn positions(&self, shape: &[usize]) -> Line {
        let mut stride = 1;
        let mut positions = Line::Same(0);
        for (extent, line) in shape.iter().zip(&self.at).rev() {
            positions = positions.add_scaled(line, stride, self.count);
            stride *= *extent as i64;
        }
        positions
    }
}

/// `(position / stride) % extent` for the positions `start..start + count`.
fn digits(start: usize, count: usize, stride: usize, extent: usize) -> Line {
    let (first, last) = (start / stride, (start + count - 1) / stride);
    if first == last {
        return Line::Same((first % extent) as i64);
    }
    if stride == 1 && first / extent == last / extent {
        return Line::Steps((first % extent) as i64, 1);
    }
    let mut values = Vec::with_capacity(count);
    let (mut value, mut left) = (first % extent, stride - start % stride);
    for _ in 0..count {
        values.push(value as i64);
        left -= 1;
        if left == 0 {
            left = stride;
            value = if value + 1 == extent { 0 } else { value + 1 };
        }
    }
    Line::each(values)
}

/// One value per point of a block.
#[derive(Clone, Debug)]
pub(super) enum Row<'a> {
    /// The same everywhere.
    Same(Scalar),
    /// Floats.
    Floats(Cow<'a, [f32]>),
    /// Integers.
    Ints(Cow<'a, [i64]>),
}

impl<'a> Row<'a> {
    pub(super) fn get(&self, point: usize) -> Scalar {
        match self {
            Row::Same(x) => *x,
            Row::Floats(xs) => Scalar::Float(xs[point]),
            Row::Ints(xs) => Scalar::Int(xs[point]),
        }
    }

    /// The elements of a tensor at points that lie inside it.
    pub(super) fn read(tensor: &'a Tensor, points: &Points) -> Row<'a> {
        let (count, positions) = (points.count, points.positions(&tensor.shape));
        match (&positions, tensor.as_floats(), tensor.as_ints()) {
            (Line::Same(at), ..) => Row::Same(tensor.get(*at as usize)),
            (Line::Steps(start, 1), Some(xs), _) => {
                Row::Floats(Cow::Borrowed(&xs[*start as usize..*start as usize + count]))
            }
            (Line::Steps(start, 1), _, Some(xs)) => {
                Row::Ints(Cow::Borrowed(&xs[*start as usize..*start as usize + count]))
            }
            (line, Some(xs), _) => Row::Floats((0..count).map(|p| xs[line.get(p) as usize]).collect()),
            (line, _, xs) => {
                let xs = xs.unwrap_or_default();
                Row::Ints((0..count).map(|p| xs[line.get(p) as usize]).collect())
            }
        }
    }

    /// From values at the chosen points of a block to values at all its points, zero elsewhere.
    pub(super) fn scatter(self, chosen: &[usize], count: usize, dtype: DType) -> Row<'static> {
        if dtype.is_float() {
            let mut all = vec![0.0; count];
            chosen.iter().enumerate().for_each(|(from, to)| all[*to] = self.get(from).float());
            Row::Floats(Cow::Owned(all))
        } else {
            let mut all = vec![0; count];
            chosen.iter().enumerate().for_each(|(from, to)| all[*to] = self.get(from).int());
            Row::Ints(Cow::Owned(all))
        }
    }

    /// The integers as coordinates.
    pub(super) fn into_line(self) -> Line {
        match self {
            Row::Same(x) => Line::Same(x.int()),
            Row::Floats(xs) => Line::each(xs.iter().map(|x| *x as i64).collect()),
            Row::Ints(xs) => Line::each(xs.into_owned()),
        }
    }

    /// `op` at each point; `from` is the type of the last operand, `to` that of the result.
    pub(super) fn map(op: ScalarOp, from: DType, to: DType, rows: Vec<Row<'a>>, count: usize) -> Row<'a> {
        if let (ScalarOp::Cast(DType::F32), true) = (op, from.is_float()) {
            return rows.into_iter().next().expect("a verified cast has an operand");
        }
        if rows.iter().all(|row| matches!(row, Row::Same(_))) {
            let xs: Vec<Scalar> = rows.iter().map(|row| row.get(0)).collect();
            return Row::Same(op.evaluate(from, &xs));
        }
        if let ([a, b], DType::F32) = (rows.as_slice(), from) {
            // The three that matrix products are made of; all others go through the table of meanings.
            let joined = match op {
                ScalarOp::Mul => join(a, b, count, |a, b| a * b),
                ScalarOp::Add => join(a, b, count, |a, b| a + b),
                ScalarOp::Sub => join(a, b, count, |a, b| a - b),
                _ => None,
            };
            if let Some(joined) = joined {
                return Row::Floats(Cow::Owned(joined));
            }
        }
        let mut xs = [Scalar::Int(0); 3];
        let mut each = |point: usize| {
            rows.iter().zip(&mut xs).for_each(|(row, x)| *x = row.get(point));
            op.evaluate(from, &xs[..rows.len()])
        };
        if to.is_float() {
            Row::Floats((0..count).map(|point| each(point).float()).collect())
        } else {
            Row::Ints((0..count).map(|point| each(point).int()).collect())
        }
    }
}

fn join(a: &Row<'_>, b: &Row<'_>, count: usize, f: impl Fn(f32, f32) -> f32) -> Option<Vec<f32>> {
    Some(match (a, b) {
        (Row::Floats(a), Row::Floats(b)) => {
            a.iter().zip(b.iter()).take(count).map(|(a, b)| f(*a, *b)).collect()
        }
        (Row::Floats(a), Row::Same(b)) => a.iter().map(|a| f(*a, b.float())).collect(),
        (Row::Same(a), Row::Floats(b)) => b.iter().map(|b| f(a.float(), *b)).collect(),
        _ => return None,
    })
}
