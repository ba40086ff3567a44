//! One group a row: each reduction is a pass of the lanes over the row, then come the elements that need
//! its result.

use jtllm_ir::{Expr, Graph, Monoid, Node, Op, ScalarOp};

use super::lower::Lower;
use super::{Scheduled, along, unflatten};
use crate::kernel::{CellId, ValueId};

/// Rows of so many elements at most are written out, several side by side: loops and the end of each sum would take
/// more time than their elements.
const SHORT: i64 = 64;

/// Short rows that a group takes.
const TOGETHER: i64 = 8;

pub(super) fn schedule(mut lower: Lower<'_>) -> Scheduled {
    let space = lower.region.space.clone();
    let reduces = lower.region.reduces.clone();
    let row = row_shape(&lower, reduces[0]);
    let lanes = i64::from(lower.caps.lanes);
    let middle: i64 = space.iter().skip(1).filter_map(Expr::as_int).product();
    let first = space.first().cloned().unwrap_or(Expr::int(1));
    let together = together(&lower, &row, middle);
    lower.grid(lanes as u32, [Expr::int(middle / together), first, Expr::int(1)]);
    let begin = lower.b.grid(0) * together;
    let place = |lower: &Lower<'_>, at: i64| match space.as_slice() {
        [] => Vec::new(),
        _ => unflatten(&space, lower.b.grid(1), &(begin.clone() + at)),
    };
    let all: Vec<Vec<Expr>> = (0..together).map(|at| place(&lower, at)).collect();

    let mut found: Vec<Vec<ValueId>> = Vec::new();
    for reduce in &reduces {
        let cells: Vec<CellId> = (0..all.len())
            .map(|at| {
                bind(&mut lower, &reduces, &found, at);
                reduce_row(&mut lower, *reduce, &all[at], &row, together > 1)
            })
            .collect();
        found.push(cells.into_iter().map(|cell| join(&mut lower, *reduce, cell)).collect());
    }
    for (number, at) in all.iter().enumerate() {
        bind(&mut lower, &reduces, &found, number);
        store(&mut lower, space.len(), at, together > 1);
    }
    lower.finish()
}

/// How many rows a group of a register machine takes.
fn together(lower: &Lower<'_>, row: &[Expr], middle: i64) -> i64 {
    let length = row.iter().map(Expr::as_int).try_fold(1, |product, n| Some(product * n?));
    if lower.caps.threads || length.is_none_or(|length| length > SHORT) {
        return 1;
    }
    (1..=TOGETHER).rev().find(|count| middle % count == 0).unwrap_or(1)
}

/// Says what the reductions so far gave for one of the rows.
fn bind(lower: &mut Lower<'_>, reduces: &[Node], found: &[Vec<ValueId>], row: usize) {
    for (reduce, values) in reduces.iter().zip(found) {
        lower.bind(*reduce, values[row]);
    }
}

/// Stores what is made of a row and its reductions.
fn store(lower: &mut Lower<'_>, rank: usize, at: &[Expr], written_out: bool) {
    lower.store_roots(rank, at, true);
    let mut rows: Vec<&[Expr]> = Vec::new();
    for root in &lower.region.roots {
        let row = &shape(lower.graph, *root)[rank..];
        if !row.is_empty() && !rows.contains(&row) {
            rows.push(row);
        }
    }
    for row in rows {
        along_row(lower, row, written_out, |lower, place| {
            let at = [at, place].concat();
            for root in &lower.region.roots {
                if shape(lower.graph, *root).get(rank..) == Some(row) {
                    lower.store_root(*root, &at, false);
                }
            }
        });
    }
}

/// The axes that the reductions take away, all at the end.
fn row_shape(lower: &Lower<'_>, reduce: Node) -> Vec<Expr> {
    let Op::Reduce { x, axes, .. } = lower.graph.op(reduce) else {
        panic!("a region of rows begins with a reduction, found {reduce}");
    };
    lower.graph.shape(*x)[axes[0]..].to_vec()
}

/// The shape of what is stored.
fn shape(graph: &Graph, root: Node) -> &[Expr] {
    match graph.op(root) {
        Op::Write { value, .. } => graph.shape(*value),
        _ => graph.shape(root),
    }
}

/// Each lane's part of a row's reduction.
fn reduce_row(lower: &mut Lower<'_>, reduce: Node, at: &[Expr], row: &[Expr], written_out: bool) -> CellId {
    let &Op::Reduce { monoid, x, .. } = lower.graph.op(reduce) else {
        panic!("a region's reductions are Reduces, found {reduce}");
    };
    let dtype = lower.graph.dtype(reduce);
    let neutral = lower.b.constant(dtype, monoid.neutral(dtype));
    let cell = lower.b.cell(neutral);
    along_row(lower, row, written_out, |lower, place| {
        let at = [at, place].concat();
        let sum = lower.b.get(cell);
        let next = accumulate(lower, monoid, x, &at, sum);
        lower.b.set(cell, next);
    });
    cell
}

/// The lanes' parts together.
fn join(lower: &mut Lower<'_>, reduce: Node, cell: CellId) -> ValueId {
    let &Op::Reduce { monoid, .. } = lower.graph.op(reduce) else {
        panic!("a region's reductions are Reduces, found {reduce}");
    };
    let lanes = lower.b.get(cell);
    lower.b.lane_reduce(monoid, lanes)
}

/// `sum` joined with the element of `x`; a product that is added is fused.
fn accumulate(lower: &mut Lower<'_>, monoid: Monoid, x: Node, at: &[Expr], sum: ValueId) -> ValueId {
    // A product that another region has stored is one operand, and its factors may be out of reach.
    let fuses = monoid == Monoid::Add && lower.graph.dtype(x).is_float() && !lower.is_stored(x);
    if let (true, Op::Map { op: ScalarOp::Mul, xs }) = (fuses, lower.graph.op(x)) {
        let (a, b) = (lower.value(xs[0], at), lower.value(xs[1], at));
        return lower.b.scalar(ScalarOp::Fma, &[a, b, sum]);
    }
    let element = lower.value(x, at);
    lower.b.scalar(monoid.scalar(), &[sum, element])
}

/// Runs `body` with the coordinates of each element of a row: whole steps of all lanes, then the rest.
fn along_row<'a>(
    lower: &mut Lower<'a>,
    row: &[Expr],
    written_out: bool,
    mut body: impl FnMut(&mut Lower<'a>, &[Expr]),
) {
    let [only] = row else {
        let count: i64 =
            row.iter().map(|n| n.as_int().expect("rows of several axes have constant extents")).product();
        return along(lower, &Expr::int(count), &mut |lower, place| {
            let at = unflatten(&[&[Expr::int(1)], row].concat(), Expr::int(0), place);
            body(lower, &at[1..]);
        });
    };
    let Some(count) = only.as_int().filter(|_| written_out) else {
        return along(lower, only, &mut |lower, place| body(lower, std::slice::from_ref(place)));
    };
    let lanes = lower.b.lanes();
    for start in (0..count).step_by(lanes as usize) {
        let place = Expr::int(start) + lower.b.lane();
        let inside = if start + lanes <= count { Expr::int(1) } else { place.less_than(only) };
        lower.conditional(&inside, |lower| body(lower, &[place]));
    }
}
