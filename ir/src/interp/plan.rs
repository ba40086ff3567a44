//! What is decided before a pass: concrete shapes, which values are stored, and for how long.

use std::collections::BTreeMap;

use super::InterpError;
use crate::expr::{Expr, Kind};
use crate::graph::{Graph, Node, Op};

/// No tensor may have more elements.
const ELEMENTS_MAX: usize = 1 << 40;

/// A map is not stored for the sake of speed if it has more elements.
const STORED_MAX: usize = 1 << 26;

/// So many nodes may be evaluated inside one another before one of them is stored.
const NESTED_MAX: usize = 100;

pub(super) struct Plan {
    shapes: Vec<Vec<usize>>,
    stored: Vec<bool>,
    dropped: Vec<Vec<Node>>,
}

impl Plan {
    pub(super) fn new(graph: &Graph, symbols: &BTreeMap<String, i64>) -> Result<Plan, InterpError> {
        let shapes: Vec<Vec<usize>> =
            graph.nodes().map(|node| shape(graph, node, symbols)).collect::<Result<_, _>>()?;
        for node in graph.nodes() {
            if graph.op(node).operands().iter().any(|x| *x >= node) {
                return Err(InterpError::Malformed { node, why: "an operand does not come before its user" });
            }
        }
        let stored = stored(graph, &shapes);
        let dropped = dropped(graph, &stored);
        Ok(Plan { shapes, stored, dropped })
    }

    pub(super) fn shape(&self, node: Node) -> &[usize] {
        &self.shapes[node.0 as usize]
    }

    /// Whether the node's value is computed once and kept.
    pub(super) fn is_stored(&self, node: Node) -> bool {
        self.stored[node.0 as usize]
    }

    /// The values that nobody reads after `node` has been computed.
    pub(super) fn dropped_after(&self, node: Node) -> &[Node] {
        &self.dropped[node.0 as usize]
    }
}

/// The value of an expression of symbols alone.
pub(super) fn extent(x: &Expr, symbols: &BTreeMap<String, i64>) -> Option<i64> {
    struct Sizes<'a>(&'a BTreeMap<String, i64>);
    impl crate::expr::Environment for Sizes<'_> {
        fn axis(&self, _: u16) -> i64 {
            0
        }
        fn symbol(&self, symbol: &crate::expr::Symbol) -> i64 {
            self.0.get(symbol.name()).copied().unwrap_or(0)
        }
        fn extra(&self, _: u32, _: &[i64]) -> i64 {
            0
        }
    }
    let unknown = |leaf: &Expr| match leaf.kind() {
        Kind::Sym(symbol) => !symbols.contains_key(symbol.name()),
        Kind::Axis { .. } | Kind::Extra { .. } => true,
        _ => false,
    };
    (!x.any(&mut { unknown })).then(|| x.evaluate(&Sizes(symbols)))
}

fn shape(graph: &Graph, node: Node, symbols: &BTreeMap<String, i64>) -> Result<Vec<usize>, InterpError> {
    let extents: Option<Vec<i64>> = graph.shape(node).iter().map(|x| extent(x, symbols)).collect();
    let extents = extents
        .ok_or(InterpError::Malformed { node, why: "an extent mentions more than symbols of the graph" })?;
    let shape: Option<Vec<usize>> = extents.iter().map(|x| usize::try_from(*x).ok()).collect();
    // Zeros must not hide an overflow of the strides.
    let count = |shape: &Vec<usize>| shape.iter().try_fold(1usize, |n, x| n.checked_mul((*x).max(1)));
    shape
        .filter(|shape| count(shape).is_some_and(|n| n <= ELEMENTS_MAX))
        .ok_or(InterpError::Size { node, extents })
}

/// How many elements a node has.
fn count(shapes: &[Vec<usize>], node: Node) -> usize {
    shapes[node.0 as usize].iter().product()
}

fn stored(graph: &Graph, shapes: &[Vec<usize>]) -> Vec<bool> {
    let mut stored = vec![false; graph.len()];
    let mut reads = vec![0usize; graph.len()];
    graph.outputs.iter().for_each(|(_, node)| stored[node.0 as usize] = true);
    for node in graph.nodes().rev() {
        let at = node.0 as usize;
        let size = count(shapes, node);
        stored[at] |= match graph.op(node) {
            Op::Map { .. } => size <= STORED_MAX && reads[at] >= size.saturating_mul(2),
            Op::View { .. } | Op::Index { .. } => false,
            _ => true,
        };
        let evaluations = if stored[at] { size } else { reads[at] };
        for x in graph.op(node).operands() {
            let evaluations = match graph.op(node) {
                Op::Reduce { x, .. } => count(shapes, *x),
                Op::Write { value, .. } => count(shapes, *value),
                _ => evaluations,
            };
            let reads = &mut reads[x.0 as usize];
            *reads = reads.saturating_add(evaluations);
        }
    }
    let mut depth = vec![0; graph.len()];
    for node in graph.nodes() {
        let at = node.0 as usize;
        let nested = graph.op(node).operands().iter().map(|x| depth[x.0 as usize]).max().unwrap_or(0) + 1;
        stored[at] |= nested >= NESTED_MAX;
        depth[at] = if stored[at] { 0 } else { nested };
    }
    let live = live(graph);
    stored.iter_mut().zip(&live).for_each(|(stored, live)| *stored &= live);
    // Operands of host functions and scans are handed over whole.
    for node in graph.nodes().filter(|node| live[node.0 as usize]) {
        if let Op::Scan(_) | Op::Opaque { .. } = graph.op(node) {
            graph.op(node).operands().iter().for_each(|x| stored[x.0 as usize] = true);
        }
    }
    stored
}

/// Which nodes an output or a state depends on.
fn live(graph: &Graph) -> Vec<bool> {
    let mut live = vec![false; graph.len()];
    graph.outputs.iter().for_each(|(_, node)| live[node.0 as usize] = true);
    for node in graph.nodes().rev() {
        let at = node.0 as usize;
        live[at] |= matches!(graph.op(node), Op::Write { .. });
        if live[at] {
            graph.op(node).operands().iter().for_each(|x| live[x.0 as usize] = true);
        }
    }
    live
}

fn dropped(graph: &Graph, stored: &[bool]) -> Vec<Vec<Node>> {
    // The last stored node whose computation reads each node, directly or through nodes not stored.
    let mut last = vec![None; graph.len()];
    let mut dropped = vec![Vec::new(); graph.len()];
    for node in graph.nodes().rev() {
        let at = node.0 as usize;
        let time = if stored[at] { Some(node) } else { last[at] };
        for x in graph.op(node).operands() {
            last[x.0 as usize] = last[x.0 as usize].max(time);
        }
    }
    let kept = |node: &Node| {
        let written = matches!(graph.op(*node), Op::Write { .. });
        written || graph.outputs.iter().any(|(_, output)| output == node)
    };
    for node in graph.nodes().filter(|node| stored[node.0 as usize] && !kept(node)) {
        let end = last[node.0 as usize].unwrap_or(node);
        dropped[end.0 as usize].push(node);
    }
    dropped
}
