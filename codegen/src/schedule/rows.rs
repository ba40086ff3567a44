//! One group a row: each reduction is a pass of the lanes over the row, then come the elements that need
//! its result.

use jtllm_ir::{Expr, Graph, Monoid, Node, Op, ScalarOp};

use super::lower::Lower;
use super::{Scheduled, along, unflatten};

pub(super) fn schedule(mut lower: Lower<'_>) -> Scheduled {
    let space = lower.region.space.clone();
    let reduces = lower.region.reduces.clone();
    let row = row_shape(&lower, reduces[0]);
    let lanes = i64::from(lower.caps.lanes);
    let middle: i64 = space.iter().skip(1).filter_map(Expr::as_int).product();
    let first = space.first().cloned().unwrap_or(Expr::int(1));
    lower.grid(lanes as u32, [Expr::int(middle), first, Expr::int(1)]);
    let at = match space.as_slice() {
        [] => Vec::new(),
        _ => unflatten(&space, lower.b.grid(1), &lower.b.grid(0)),
    };

    for reduce in &reduces {
        reduce_row(&mut lower, *reduce, &at, &row);
    }
    lower.store_roots(space.len(), &at, true);
    let mut rows: Vec<&[Expr]> = Vec::new();
    for root in &lower.region.roots {
        let row = &shape(lower.graph, *root)[space.len()..];
        if !row.is_empty() && !rows.contains(&row) {
            rows.push(row);
        }
    }
    for row in rows {
        along_row(&mut lower, row, |lower, place| {
            let at = [at.as_slice(), place].concat();
            for root in &lower.region.roots {
                if shape(lower.graph, *root).get(space.len()..) == Some(row) {
                    lower.store_root(*root, &at, false);
                }
            }
        });
    }
    lower.finish()
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

fn reduce_row(lower: &mut Lower<'_>, reduce: Node, at: &[Expr], row: &[Expr]) {
    let &Op::Reduce { monoid, x, .. } = lower.graph.op(reduce) else {
        panic!("a region's reductions are Reduces, found {reduce}");
    };
    let dtype = lower.graph.dtype(reduce);
    let neutral = lower.b.constant(dtype, monoid.neutral(dtype));
    let cell = lower.b.cell(neutral);
    along_row(lower, row, |lower, place| {
        let at = [at, place].concat();
        let sum = lower.b.get(cell);
        let next = accumulate(lower, monoid, x, &at, sum);
        lower.b.set(cell, next);
    });
    let lanes = lower.b.get(cell);
    let value = lower.b.lane_reduce(monoid, lanes);
    lower.bind(reduce, value);
}

/// `sum` joined with the element of `x`; a product that is added is fused.
fn accumulate(
    lower: &mut Lower<'_>,
    monoid: Monoid,
    x: Node,
    at: &[Expr],
    sum: crate::kernel::ValueId,
) -> crate::kernel::ValueId {
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
fn along_row<'a>(lower: &mut Lower<'a>, row: &[Expr], mut body: impl FnMut(&mut Lower<'a>, &[Expr])) {
    let [only] = row else {
        let count: i64 =
            row.iter().map(|n| n.as_int().expect("rows of several axes have constant extents")).product();
        return along(lower, &Expr::int(count), &mut |lower, place| {
            let at = unflatten(&[&[Expr::int(1)], row].concat(), Expr::int(0), place);
            body(lower, &at[1..]);
        });
    };
    along(lower, only, &mut |lower, place| body(lower, std::slice::from_ref(place)));
}
