//! Cuts a graph behind one of its layers, so that two devices share a pass.
//!
//! The front computes everything up to the value with which the layer ends, and keeps the states of its
//! layers; the back takes that value as an input and computes the rest. What both need and costs little (masks,
//! rotary tables, rows of tables) is in both; sums that both need are carried over like the layer's end
//! (RWKV-7's values of the first layer).
//!
//! A state of which no pass reads what an earlier one left is *scratch*. Each part has its own of it: what a
//! part reads there without having written it is undefined, as it is in the whole graph.

use std::collections::BTreeSet;
use std::fmt;

use crate::graph::{Graph, Node, Op, Record};

/// What the names of carried values begin with.
pub const CARRIED: &str = "carried.";

/// A graph in two parts, to be run one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Cut {
    /// The part up to the end of a layer.
    pub front: Graph,
    /// The part behind it.
    pub back: Graph,
    /// The outputs of the front that are inputs of the back, by name.
    pub carried: Vec<String>,
}

/// Why a graph cannot be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CutError {
    /// The graph has no such layer.
    NoLayer {
        /// The layer.
        layer: usize,
        /// How many it has.
        layers: usize,
    },
    /// Both parts would need the same state.
    SharedState {
        /// Its name.
        name: String,
    },
}

impl fmt::Display for CutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CutError::NoLayer { layer, layers } => {
                write!(f, "there is no layer {layer} to cut behind, only {layers} are marked")
            }
            CutError::SharedState { name } => write!(f, "the parts would share the state {name}"),
        }
    }
}

impl std::error::Error for CutError {}

/// Cuts behind layer `layer`, counted from 0.
pub fn cut(graph: &Graph, layer: usize) -> Result<Cut, CutError> {
    let layers = graph.layers.len();
    let end = *graph.layers.get(layer).ok_or(CutError::NoLayer { layer, layers })?;
    let behind = closure(graph, |node| node == end);
    let is_behind = |node: Node| behind[node.0 as usize];
    let is_write = |node: &Node| matches!(graph.op(*node), Op::Write { .. });
    let (later, early): (Vec<Node>, Vec<Node>) =
        graph.nodes().filter(is_write).partition(|node| is_behind(*node));
    let outputs = |back: bool| {
        let those = graph.outputs.iter().filter(move |(_, node)| is_behind(*node) == back);
        those.cloned().collect::<Vec<(String, Node)>>()
    };
    let ahead = needed(graph, early.iter().copied().chain([end]), |_| false);
    let crossing = crossing(graph, end, &ahead, later.iter().copied().chain(nodes(&outputs(true))));
    let carried: Vec<(String, Node)> =
        crossing.iter().enumerate().map(|(place, node)| (format!("{CARRIED}{place}"), *node)).collect();
    let front =
        Part { outputs: [outputs(false), carried.clone()].concat(), writes: &early, inputs: &[], left: &[] };
    let back = Part { outputs: outputs(true), writes: &later, inputs: &carried, left: &early };
    let (front, back) = (front.of(graph), back.of(graph));
    let (ours, theirs) = (states(&front), states(&back));
    if let Some(name) = ours.intersection(&theirs).find(|name| !is_scratch(graph, name)) {
        return Err(CutError::SharedState { name: name.clone() });
    }
    Ok(Cut { front, back, carried: carried.into_iter().map(|(name, _)| name).collect() })
}

fn nodes(outputs: &[(String, Node)]) -> Vec<Node> {
    outputs.iter().map(|(_, node)| *node).collect()
}

/// Which nodes are, or are made of, nodes for which `holds`.
fn closure(graph: &Graph, holds: impl Fn(Node) -> bool) -> Vec<bool> {
    let mut found = vec![false; graph.len()];
    for node in graph.nodes() {
        let made = graph.op(node).operands().iter().any(|x| found[x.0 as usize]);
        found[node.0 as usize] = made || holds(node);
    }
    found
}

/// Which nodes are needed for `roots`, where those for which `given` holds need no others.
fn needed(graph: &Graph, roots: impl Iterator<Item = Node>, given: impl Fn(Node) -> bool) -> Vec<bool> {
    let mut needed = vec![false; graph.len()];
    roots.for_each(|node| needed[node.0 as usize] = true);
    for node in graph.nodes().rev() {
        if needed[node.0 as usize] && !given(node) {
            graph.op(node).operands().into_iter().for_each(|x| needed[x.0 as usize] = true);
        }
    }
    needed
}

/// The values that the back, which ends in `roots`, takes from the front, the layer's end first.
/// `ahead` says which nodes the front needs in any case.
fn crossing(graph: &Graph, end: Node, ahead: &[bool], roots: impl Iterator<Item = Node>) -> Vec<Node> {
    let own = |node| {
        matches!(graph.op(node), Op::Reduce { .. } | Op::Scan(_) | Op::Opaque { .. } | Op::Write { .. })
    };
    let costly = closure(graph, own);
    let is = |list: &[bool], node: Node| list[node.0 as usize];
    let mut found = BTreeSet::new();
    let mut seen = vec![false; graph.len()];
    let mut open: Vec<Node> = roots.collect();
    while let Some(node) = open.pop() {
        if std::mem::replace(&mut seen[node.0 as usize], true) || node == end {
            continue;
        }
        let moves = match graph.op(node) {
            // A View may be larger than what it reads: the latter is carried, but for a state.
            Op::View { x, extras, .. } => {
                let light = extras.iter().all(|extra| !is(&costly, *extra));
                light && is(&costly, *x) && graph.state_of(*x).is_none()
            }
            _ => false,
        };
        if is(&costly, node) && is(ahead, node) && !moves {
            found.insert(node);
        } else {
            let replaced = match graph.op(node) {
                Op::Write { state, .. } => Some(*state),
                _ => None,
            };
            open.extend(graph.op(node).operands().into_iter().filter(|x| Some(*x) != replaced));
        }
    }
    std::iter::once(end).chain(found).collect()
}

/// Whether a pass reads of a state only what it wrote there.
fn is_scratch(graph: &Graph, state: &str) -> bool {
    let is_it = |node: &Node| matches!(graph.op(*node), Op::State { name } if name == state);
    let only_replaced = |op: &Op| match op {
        Op::Write { value, extras, .. } => !is_it(value) && !extras.iter().any(is_it),
        op => !op.operands().iter().any(is_it),
    };
    let kept = graph.outputs.iter().any(|(_, node)| is_it(node));
    !kept && graph.nodes().all(|node| only_replaced(graph.op(node)))
}

/// The names of the states that a graph reads or writes.
fn states(graph: &Graph) -> BTreeSet<String> {
    let name = |node: Node| match graph.op(node) {
        Op::State { name } => Some(name.clone()),
        _ => None,
    };
    graph.nodes().filter_map(name).collect()
}

/// What a part of a graph ends in, and what it is given.
struct Part<'a> {
    outputs: Vec<(String, Node)>,
    writes: &'a [Node],
    inputs: &'a [(String, Node)],
    /// Writes of the other part: where this one goes on with a state, it finds its own.
    left: &'a [Node],
}

impl Part<'_> {
    /// The part as a graph: the nodes that it needs, in their order.
    fn of(&self, graph: &Graph) -> Graph {
        let given = |node: Node| self.inputs.iter().find(|(_, input)| *input == node).map(|(name, _)| name);
        let roots = self.writes.iter().copied().chain(nodes(&self.outputs)).chain(nodes(self.inputs));
        let needed = needed(graph, roots, |node| given(node).is_some() || self.left.contains(&node));
        let mut part = Graph::new(&graph.name);
        part.symbols.clone_from(&graph.symbols);
        let mut place: Vec<Option<Node>> = vec![None; graph.len()];
        for node in graph.nodes().filter(|node| needed[node.0 as usize]) {
            let Record { op, shape, dtype } = graph.record(node).clone();
            place[node.0 as usize] = Some(match given(node) {
                Some(name) => {
                    let range = (!dtype.is_float()).then(|| graph.value_range(node));
                    part.input(name, dtype, &shape, range)
                }
                None if self.left.contains(&node) => {
                    let (leaf, _) = graph.state_of(node).expect("a write has a state");
                    part.push(graph.record(leaf).clone())
                }
                None => {
                    let mut at = |x: Node| place[x.0 as usize].expect("operands come before their users");
                    let op = op.map_operands(&mut at);
                    part.push(Record { op, shape, dtype })
                }
            });
        }
        for (name, node) in &self.outputs {
            part.output(name, place[node.0 as usize].expect("outputs are needed"));
        }
        // An input is no end of a layer of this part.
        let own = graph.layers.iter().filter(|node| given(**node).is_none());
        part.layers = own.filter_map(|node| place[node.0 as usize]).collect();
        part
    }
}
