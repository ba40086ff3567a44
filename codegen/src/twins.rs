//! Regions that differ only in which weights, states and buffers they touch share one kernel: the layers of
//! a model. This names them alike before any of them is scheduled.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use jtllm_ir::{Graph, Node, Op};
use xxhash_rust::xxh3::Xxh3;

use crate::region::Region;
use crate::schedule::{Argument, layout};
use crate::target::Caps;

/// What a region is, whatever its operands are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Equal for regions that the same kernel computes.
    pub key: u128,
    /// What it binds, in an order that equal regions share; an argument may stand several times.
    pub leaves: Vec<Argument>,
}

/// The shape of a region.
pub fn shape(graph: &Graph, stored: &HashSet<Node>, region: &Region, caps: &Caps) -> Shape {
    let mut walk =
        Walk { graph, stored, region, caps, hasher: Xxh3::new(), places: HashMap::new(), leaves: Vec::new() };
    region.work.name().hash(&mut walk.hasher);
    for root in &region.roots {
        walk.visit(*root);
        walk.leaves.push(walk.root_argument(*root));
        walk.places[root].hash(&mut walk.hasher);
    }
    for reduce in &region.reduces {
        walk.visit(*reduce);
        walk.places[reduce].hash(&mut walk.hasher);
    }
    Shape { key: walk.hasher.digest128(), leaves: walk.leaves }
}

struct Walk<'a> {
    graph: &'a Graph,
    stored: &'a HashSet<Node>,
    region: &'a Region,
    caps: &'a Caps,
    hasher: Xxh3,
    places: HashMap<Node, u32>,
    leaves: Vec<Argument>,
}

impl Walk<'_> {
    fn visit(&mut self, node: Node) {
        if self.places.contains_key(&node) {
            return;
        }
        let record = self.graph.record(node);
        let foreign = self.stored.contains(&node) && !self.region.roots.contains(&node);
        let op = if foreign {
            self.leaves.push(Argument::Value(node));
            Op::Input { name: String::new(), range: None }
        } else {
            self.local_op(node)
        };
        (op, &record.shape, record.dtype).hash(&mut self.hasher);
        let place = self.places.len() as u32;
        self.places.insert(node, place);
    }

    /// The operation with names left out and operands numbered in the order of the walk.
    fn local_op(&mut self, node: Node) -> Op {
        let own = self.region.roots.contains(&node);
        match self.graph.op(node) {
            Op::Weight { name } => {
                self.leaves.push(Argument::Weight(name.clone()));
                Op::Weight { name: layout(name, self.graph.shape(node).len(), self.caps).name() }
            }
            Op::Input { name, range } => {
                self.leaves.push(Argument::Input(name.clone()));
                Op::Input { name: "input".to_owned(), range: range.clone() }
            }
            Op::Const(tensor) if !tensor.shape.is_empty() => {
                self.leaves.push(Argument::Const(node));
                Op::Input { name: "const".to_owned(), range: None }
            }
            Op::State { name } => {
                self.leaves.push(Argument::State(name.clone()));
                Op::State { name: String::new() }
            }
            Op::Write { .. } if !own => {
                self.leaves.push(self.root_argument(node));
                Op::State { name: String::new() }
            }
            Op::Write { value, extras, .. } => {
                let (value, extras) = (*value, extras.clone());
                self.visit(value);
                extras.into_iter().for_each(|x| self.visit(x));
                let places = &self.places;
                self.graph.op(node).map_operands(&mut |x| Node(places.get(&x).copied().unwrap_or(u32::MAX)))
            }
            op => {
                if let Op::Scan(scan) = op {
                    scan.body.to_string().hash(&mut self.hasher);
                }
                op.operands().into_iter().for_each(|x| self.visit(x));
                let places = &self.places;
                op.map_operands(&mut |x| Node(places[&x]))
            }
        }
    }

    fn root_argument(&self, root: Node) -> Argument {
        match self.graph.state_of(root).map(|(leaf, _)| self.graph.op(leaf)) {
            Some(Op::State { name }) => Argument::State(name.clone()),
            _ => Argument::Value(root),
        }
    }
}
