//! Each element on its own: lanes along the last axis, groups over all others.

use jtllm_ir::Expr;

use super::lower::Lower;
use super::{Scheduled, along, unflatten};

/// Elements of the last axis that one group computes at most.
const CHUNK: i64 = 1024;

pub(super) fn schedule(mut lower: Lower<'_>) -> Scheduled {
    let space = lower.region.space.clone();
    let lanes = i64::from(lower.caps.lanes);
    let Some((last, outer)) = space.split_last() else {
        return single(lower);
    };
    // Chunks of the last axis, everything between, and the first axis, which may be symbolic.
    let chunk = last.as_int().map_or(lanes, |last| chunk(last, lanes));
    let middle: i64 = outer.iter().skip(1).filter_map(Expr::as_int).product();
    let first = outer.first().cloned().unwrap_or(Expr::int(1));
    lower.grid(lanes as u32, [last.clone().div_ceil(chunk), Expr::int(middle), first]);
    let at = match outer {
        [] => Vec::new(),
        _ => unflatten(outer, lower.b.grid(2), &lower.b.grid(1)),
    };
    let start = lower.b.grid(0) * chunk;
    let mut element = |lower: &mut Lower<'_>, place: &Expr| {
        let mut at = at.clone();
        at.push(start.clone() + place.clone());
        lower.store_roots(space.len(), &at, false);
    };
    match last.as_int() {
        Some(_) => along(&mut lower, &Expr::int(chunk), &mut element),
        None => {
            let place = lower.b.lane();
            let inside = (start.clone() + place.clone()).less_than(last);
            lower.conditional(&inside, |lower| element(lower, &place));
        }
    }
    lower.finish()
}

/// How much of a row a group computes: a part that divides it, or all of it.
fn chunk(last: i64, lanes: i64) -> i64 {
    let parts = (1..=last / lanes.max(1)).map(|steps| steps * lanes).filter(|part| last % part == 0);
    parts.take_while(|part| *part <= CHUNK).last().unwrap_or(last)
}

/// A tensor without axes: one element.
fn single(mut lower: Lower<'_>) -> Scheduled {
    let lanes = lower.caps.lanes;
    lower.grid(lanes, [Expr::int(1), Expr::int(1), Expr::int(1)]);
    lower.store_roots(0, &[], true);
    lower.finish()
}
