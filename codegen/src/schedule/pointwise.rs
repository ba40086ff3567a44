//! Each element on its own: lanes along the last axis, groups over all others.

use jtllm_ir::Expr;

use super::lower::Lower;
use super::{Scheduled, unflatten};

/// Elements of the last axis that one group computes at most.
const CHUNK: i64 = 1024;

pub(super) fn schedule(mut lower: Lower<'_>) -> Scheduled {
    let space = lower.region.space.clone();
    let lanes = i64::from(lower.caps.lanes);
    let Some((last, outer)) = space.split_last() else {
        return single(lower);
    };
    // Chunks of the last axis, everything between, and the first axis, which may be symbolic.
    let chunk = (CHUNK / lanes).max(1) * lanes;
    let chunk = last.as_int().map_or(lanes, |n| chunk.min((n + lanes - 1) / lanes * lanes));
    let middle: i64 = outer.iter().skip(1).filter_map(Expr::as_int).product();
    let first = outer.first().cloned().unwrap_or(Expr::int(1));
    lower.grid(lanes as u32, [last.clone().div_ceil(chunk), Expr::int(middle), first]);

    let at = match outer {
        [] => Vec::new(),
        _ => unflatten(outer, lower.b.grid(2), &lower.b.grid(1)),
    };
    let start = lower.b.grid(0) * chunk;
    lower.repeat(&Expr::int(chunk / lanes), |lower, step| {
        let place = start + step * lanes + lower.b.lane();
        let inside = place.less_than(last);
        lower.conditional(&inside, |lower| {
            let mut at = at;
            at.push(place);
            lower.store_roots(space.len(), &at, false);
        });
    });
    lower.finish()
}

/// A tensor without axes: one element.
fn single(mut lower: Lower<'_>) -> Scheduled {
    let lanes = lower.caps.lanes;
    lower.grid(lanes, [Expr::int(1), Expr::int(1), Expr::int(1)]);
    lower.store_roots(0, &[], true);
    lower.finish()
}
