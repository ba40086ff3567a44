//! Which coordinates reach which leaves: views composed symbolically, without building anything.

use jtllm_ir::expr::Kind;
use jtllm_ir::graph::axes;
use jtllm_ir::{DType, Expr, Graph, Node, Op, ScalarOp};

/// Calls `visit` with each tensor that an element of `node` at `at` reads, and the coordinates there.
///
/// The walk goes through Maps and Views and ends at leaves and wherever `stop` says so; a `Reduce` is an
/// end too. Coordinates behind an extra keep the extra as a leaf.
pub fn visit_reads(
    graph: &Graph,
    node: Node,
    at: &[Expr],
    stop: &dyn Fn(Node) -> bool,
    visit: &mut dyn FnMut(Node, &[Expr]),
) {
    if stop(node) {
        return visit(node, at);
    }
    match graph.op(node) {
        Op::Map { xs, .. } => xs.iter().for_each(|x| visit_reads(graph, *x, at, stop, visit)),
        Op::View { x, at: inner, ok, extras } => {
            let inner: Vec<Expr> = inner.iter().map(|e| e.at(at)).collect();
            for e in inner.iter().chain(ok.as_ref().map(|ok| ok.at(at)).iter()) {
                visit_extras(e, extras, visit);
            }
            let inner: Vec<Expr> = inner.iter().map(foreign).collect();
            visit_reads(graph, *x, &inner, stop, visit);
        }
        Op::Index { value, extras } => {
            let value = value.at(at);
            visit_extras(&value, extras, visit);
            visit(node, &[value]);
        }
        _ => visit(node, at),
    }
}

/// Slots from here on belong to a view further out, whose extras have been visited.
const FOREIGN: u32 = 1 << 16;

/// Marks an expression's extras as those of a view further out.
fn foreign(x: &Expr) -> Expr {
    x.substitute(&mut |leaf| match leaf.kind() {
        Kind::Extra { slot, at, low, end } if *slot < FOREIGN => {
            Some(Expr::extra(slot + FOREIGN, at.clone(), *low, end))
        }
        _ => None,
    })
}

fn visit_extras(x: &Expr, extras: &[Node], visit: &mut dyn FnMut(Node, &[Expr])) {
    x.any(&mut |leaf| {
        if let Kind::Extra { slot, at, .. } = leaf.kind()
            && let Some(extra) = extras.get(*slot as usize)
        {
            visit(*extra, at);
        }
        false
    });
}

/// The tensor of which `node` at `at` is one element that is moved and widened, but not computed, and its coordinates
/// there.
pub fn moved(
    graph: &Graph,
    node: Node,
    at: &[Expr],
    stop: &dyn Fn(Node) -> bool,
) -> Option<(Node, Vec<Expr>)> {
    match graph.op(node) {
        _ if stop(node) => Some((node, at.to_vec())),
        Op::Weight { .. } | Op::Input { .. } => Some((node, at.to_vec())),
        Op::View { x, at: inner, ok: None, .. } => {
            let inner: Vec<Expr> = inner.iter().map(|e| foreign(&e.at(at))).collect();
            moved(graph, *x, &inner, stop)
        }
        Op::Map { op: ScalarOp::Cast(DType::F32), xs } => moved(graph, xs[0], at, stop),
        _ => None,
    }
}

/// Every coordinate expression at which an element of `node` at `at` reads a leaf.
pub fn read_coordinates(graph: &Graph, node: Node, at: &[Expr], stop: &dyn Fn(Node) -> bool) -> Vec<Expr> {
    let mut all = Vec::new();
    visit_reads(graph, node, at, stop, &mut |_, at| all.extend_from_slice(at));
    all
}

/// Which coordinates of its own an element of `node` depends on.
pub fn depends_on(graph: &Graph, node: Node, stop: &dyn Fn(Node) -> bool) -> Vec<bool> {
    let shape = graph.shape(node);
    let coordinates = read_coordinates(graph, node, &axes(shape), stop);
    (0..shape.len()).map(|axis| coordinates.iter().any(|x| x.mentions_axis(axis as u16))).collect()
}

/// The divisors `d` for which some coordinate takes `axis div d`, descending, each once.
pub fn spans(coordinates: &[Expr], axis: u16) -> Vec<i64> {
    let mut spans = Vec::new();
    for x in coordinates {
        x.any(&mut |part| {
            if let Kind::Div(inner, d) = part.kind()
                && inner.mentions_axis(axis)
                && !spans.contains(d)
            {
                spans.push(*d);
            }
            false
        });
    }
    spans.sort_unstable_by(|a, b| b.cmp(a));
    spans
}
