//! Rules of the expressions in Views, Indices and Writes.

use super::{Checker, shown};
use crate::expr::{Expr, Kind, facts_of, proves_nonnegative};
use crate::graph::Node;

/// A View's or Write's addressing of a tensor.
pub(super) struct Access<'g> {
    pub(super) node: Node,
    /// The shape that the coordinates run over.
    pub(super) space: &'g [Expr],
    pub(super) extras: &'g [Node],
    pub(super) at: &'g [Expr],
    pub(super) ok: Option<&'g Expr>,
    /// What is read or written.
    pub(super) target: Node,
}

/// Calls `visit` with every leaf, those in extents and ranges included.
pub(super) fn visit_leaves(x: &Expr, visit: &mut dyn FnMut(&Expr)) {
    let mut inner = Vec::new();
    x.any(&mut |leaf| {
        match leaf.kind() {
            Kind::Sym(_) => visit(leaf),
            Kind::Axis { extent: bound, .. } | Kind::Extra { end: bound, .. } => {
                visit(leaf);
                inner.push(bound.clone());
            }
            _ => {}
        }
        false
    });
    inner.iter().for_each(|bound| visit_leaves(bound, visit));
}

impl Checker<'_> {
    pub(super) fn access(&mut self, access: &Access<'_>) {
        let Access { node, space, extras, at, ok, target } = *access;
        self.extras(node, extras);
        if let Some(ok) = ok {
            let truth = ok.low() >= 0 && ok.high() <= 1;
            self.demand(truth, node, "a condition is 0 or 1", ok);
            self.expression(node, ok, space, extras, &[]);
        }
        let facts = ok.map(facts_of).unwrap_or_default();
        for x in at {
            self.expression(node, x, space, extras, &facts);
        }
        let shape = self.graph.shape(target);
        let rule = "a coordinate is given for each axis that is addressed";
        if self.demand(at.len() == shape.len(), node, rule, at.len()) {
            self.inside(node, at, shape, &facts, "a coordinate lies inside what it addresses");
        }
    }

    /// Each coordinate is proven to lie in `0..extent`.
    fn inside(&mut self, node: Node, at: &[Expr], shape: &[Expr], facts: &[Expr], rule: &'static str) {
        for (x, extent) in at.iter().zip(shape) {
            let below = proves_nonnegative(&(extent.clone() - 1 - x.clone()), facts);
            let above = proves_nonnegative(x, facts);
            self.demand(below && above, node, rule, format_args!("{x} for 0..{extent}"));
        }
    }

    pub(super) fn extras(&mut self, node: Node, extras: &[Node]) {
        for extra in extras {
            let dtype = self.graph.dtype(*extra);
            let found = format_args!("{extra} of {dtype}");
            self.demand(!dtype.is_float(), node, "extras are integers", found);
        }
    }

    /// The leaves of an expression over `space`: axes with the space's extents, extras that exist, are read
    /// inside their shapes and have the ranges that their tensors have.
    pub(super) fn expression(
        &mut self,
        node: Node,
        x: &Expr,
        space: &[Expr],
        extras: &[Node],
        facts: &[Expr],
    ) {
        self.declared(node, x);
        let mut leaves = Vec::new();
        x.any(&mut |leaf| {
            if matches!(leaf.kind(), Kind::Axis { .. } | Kind::Extra { .. }) {
                leaves.push(leaf.clone());
            }
            false
        });
        leaves.sort();
        leaves.dedup();
        for leaf in leaves {
            match leaf.kind() {
                Kind::Axis { index, extent } => {
                    let same = space.get(usize::from(*index)) == Some(extent);
                    let found = format!("{leaf} in 0..{extent} over {}", shown(space));
                    self.demand(same, node, "an axis has the extent of its space", found);
                }
                Kind::Extra { slot, at, low, end } => {
                    let rule = "an expression reads extras that the node has";
                    let Some(extra) = extras.get(*slot as usize).copied() else {
                        self.fault(node, rule, format_args!("${slot} of {}", extras.len()));
                        continue;
                    };
                    let (least, bound) = self.graph.value_range(extra);
                    let contained = *low <= least && proves_nonnegative(&(end.clone() - bound.clone()), &[]);
                    let found = format!("{low}..{end} for {least}..{bound}");
                    self.demand(contained, node, "an extra has the range of its tensor", found);
                    let shape = self.graph.shape(extra);
                    let rule = "a coordinate is given for each axis of an extra";
                    if self.demand(at.len() == shape.len(), node, rule, &leaf) {
                        self.inside(node, at, shape, facts, "an extra is read inside its shape");
                    }
                }
                _ => {}
            }
        }
    }
}
