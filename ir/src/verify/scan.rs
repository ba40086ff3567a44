//! Rules of scans, their bodies and their results.

use super::{Checker, shown};
use crate::graph::{Node, Op, Scan};

impl<'g> Checker<'g> {
    pub(super) fn scan(&mut self, node: Node, scan: &'g Scan) {
        let graph = self.graph;
        let Some(first) = scan.xs.first() else {
            self.fault(node, "a scan reads something slice by slice", "no operand");
            return;
        };
        let extent = graph.shape(*first).get(scan.axis);
        for x in &scan.xs {
            let same = extent.is_some() && graph.shape(*x).get(scan.axis) == extent;
            let found = format_args!("{x} {}", shown(graph.shape(*x)));
            self.demand(same, node, "what a scan reads has one extent along its axis", found);
        }
        self.body(node, scan);
        if let Some((shape, dtype)) = scan.result(graph, 0) {
            let same = shape == graph.shape(node) && dtype == graph.dtype(node);
            self.demand(same, node, "a scan has the type and shape of its first result", dtype);
        } else {
            self.fault(node, "a scan has a result", "none");
        }
    }

    fn body(&mut self, node: Node, scan: &'g Scan) {
        let (graph, body) = (self.graph, &scan.body);
        for inner in body.nodes() {
            let allowed = matches!(
                body.op(inner),
                Op::Input { .. }
                    | Op::Const(_)
                    | Op::Index { .. }
                    | Op::Map { .. }
                    | Op::View { .. }
                    | Op::Reduce { .. }
            );
            let rule = "a body is made of inputs, constants, indices, maps, views and reductions";
            self.demand(allowed, node, rule, format_args!("{inner} of the body"));
        }
        let mut checker = Checker { graph: body, symbols: self.symbols, faults: Vec::new() };
        checker.graph();
        for fault in checker.faults {
            self.fault(node, fault.rule, format_args!("{} at {} of the body", fault.found, fault.node));
        }
        let inputs: Vec<Node> = body.nodes().filter(|x| matches!(body.op(*x), Op::Input { .. })).collect();
        let rule = "a body has one input for each carry and each operand";
        if self.demand(inputs.len() == scan.carries.len() + scan.xs.len(), node, rule, inputs.len()) {
            let carried = scan.carries.iter().map(|x| graph.shape(*x).to_vec());
            let slices = scan.xs.iter().map(|x| {
                let mut shape = graph.shape(*x).to_vec();
                if scan.axis < shape.len() {
                    shape.remove(scan.axis);
                }
                shape
            });
            let dtypes = scan.carries.iter().chain(&scan.xs).map(|x| graph.dtype(*x));
            for ((input, shape), dtype) in inputs.iter().zip(carried.chain(slices)).zip(dtypes) {
                let same = body.shape(*input) == shape && body.dtype(*input) == dtype;
                let found = format!("{input} for {dtype}{}", shown(&shape));
                self.demand(same, node, "a body's input is the carry or the slice", found);
            }
        }
        let rule = "a body gives the next value of each carry";
        if !self.demand(body.outputs.len() >= scan.carries.len(), node, rule, body.outputs.len()) {
            return;
        }
        for (carry, (_, next)) in scan.carries.iter().zip(&body.outputs) {
            if (next.0 as usize) < body.len() {
                let same =
                    body.shape(*next) == graph.shape(*carry) && body.dtype(*next) == graph.dtype(*carry);
                self.demand(
                    same,
                    node,
                    "a carry keeps its type and shape",
                    format_args!("{next} of the body"),
                );
            }
        }
    }

    pub(super) fn result(&mut self, node: Node, scan: Node, index: usize) {
        let graph = self.graph;
        let Op::Scan(inner) = graph.op(scan) else {
            self.fault(node, "a result belongs to a scan", scan);
            return;
        };
        let Some((shape, dtype)) = inner.result(graph, index) else {
            self.fault(node, "a scan has the result that is asked for", index);
            return;
        };
        let same = shape == graph.shape(node) && dtype == graph.dtype(node);
        let found = format!("{}{}", graph.dtype(node), shown(graph.shape(node)));
        self.demand(same, node, "a result has the type and shape that the body gives it", found);
    }
}
