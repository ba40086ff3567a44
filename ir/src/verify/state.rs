//! Rules of the versions of states.

use std::collections::HashMap;

use super::Checker;
use crate::graph::{Node, Op};

impl Checker<'_> {
    /// Each version is written at most once, and read only before that.
    pub(super) fn states(&mut self) {
        let graph = self.graph;
        // Which version of which state a node is; operands come first, so one walk is enough.
        let mut versions: HashMap<Node, (&str, usize)> = HashMap::new();
        let mut writes: HashMap<(&str, usize), Node> = HashMap::new();
        for node in graph.nodes() {
            match graph.op(node) {
                Op::State { name } => {
                    versions.insert(node, (name, 0));
                }
                Op::Write { state, .. } => {
                    let Some((name, version)) = versions.get(state).copied() else { continue };
                    versions.insert(node, (name, version + 1));
                    let first = *writes.entry((name, version)).or_insert(node);
                    let found = format_args!("version {version} of {name}, written by {first} already");
                    self.demand(first == node, node, "a version of a state is written once", found);
                }
                _ => {}
            }
        }
        for node in graph.nodes() {
            for x in graph.op(node).operands() {
                let Some((name, version)) = versions.get(&x) else { continue };
                let Some(write) = writes.get(&(*name, *version)).filter(|write| **write < node) else {
                    continue;
                };
                // A second write of a version has been reported above.
                if matches!(graph.op(node), Op::Write { state, .. } if *state == x) {
                    continue;
                }
                let found = format_args!("version {version} of {name} after {write}");
                self.fault(node, "a version of a state is read before the next one is written", found);
            }
        }
    }
}
