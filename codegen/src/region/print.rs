//! Partitions as text: each region's kind, what it reads, what it computes, and what it stores.
//!
//! ```text
//! region 0: gemv over [1,48]; sums of 2x32 products
//!   read     %0 = input x : f32[1,64]
//!   compute  %2 = view %0 {i,j,k,l -> i, k*32 + l} : f32[1,48,2,32]
//!   reduce   %9 = reduce add %8 over 2 : f32[1,48]
//!   epilogue %11 = map add %9 %10 : f32[1,48]
//!   store    %11 : f32[1,48]
//! ```
//!
//! `read` is a leaf of the graph or what another region has stored. A node that several regions compute again
//! stands in each of them.

use std::collections::BTreeSet;
use std::fmt;

use jtllm_ir::print::line;
use jtllm_ir::{Graph, Node, Op};

use super::{Contraction, Partition, Region, Work};

impl Partition {
    /// The text form of a partition of `graph`.
    pub fn display<'a>(&'a self, graph: &'a Graph) -> impl fmt::Display + 'a {
        Printer { partition: self, graph }
    }
}

struct Printer<'a> {
    partition: &'a Partition,
    graph: &'a Graph,
}

impl fmt::Display for Printer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, region) in self.partition.regions.iter().enumerate() {
            let space: Vec<String> = region.space.iter().map(ToString::to_string).collect();
            write!(f, "region {number}: {} over [{}]", region.work.name(), space.join(","))?;
            work(&region.work, f)?;
            self.nodes(region, f)?;
            for root in &region.roots {
                self.store(*root, f)?;
            }
        }
        Ok(())
    }
}

/// What the kind of work says beyond its name, and the end of the line.
fn work(work: &Work, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match work {
        Work::Pointwise | Work::Rows => writeln!(f),
        Work::Scan(scan) => writeln!(f, "; loop {scan}"),
        Work::Gemv(contraction) | Work::Gemm(contraction) => sums(contraction, f),
        Work::Attend(a) => {
            writeln!(f, "; query {}, key {}, value {}, visible {}", a.query, a.key, a.value, a.visible)
        }
    }
}

/// How many products each sum adds, `blocks x depth` if they come in blocks.
fn sums(contraction: &Contraction, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, sum) in contraction.sums.iter().enumerate() {
        f.write_str(if at == 0 { "; sums of " } else { ", " })?;
        if let Some(blocks) = &sum.blocks {
            write!(f, "{}x", blocks.count)?;
        }
        write!(f, "{}", sum.depth)?;
        if sum.product.is_of_bytes() {
            f.write_str("x4 bytes'")?;
        }
    }
    writeln!(f, " products")
}

impl Printer<'_> {
    /// What a region reads, what it computes up to its reductions, and what comes after them.
    fn nodes(&self, region: &Region, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots = region.roots.iter().flat_map(|root| self.stored_from(*root)).collect();
        let (reads, computed) = self.needed(region, roots);
        for node in reads {
            write!(f, "  read     ")?;
            match self.partition.stored.contains(&node) {
                true => self.value(node, f)?,
                false => writeln!(f, "{}", line(self.graph, node))?,
            }
        }
        let (_, before) = self.needed(region, region.reduces.clone());
        let inner = |node: &Node| region.reduces.is_empty() || before.contains(node);
        for node in computed.iter().filter(|node| inner(node)) {
            let word = if region.reduces.contains(node) { "reduce  " } else { "compute " };
            writeln!(f, "  {word} {}", line(self.graph, *node))?;
        }
        for node in computed.iter().filter(|node| !inner(node)) {
            writeln!(f, "  epilogue {}", line(self.graph, *node))?;
        }
        Ok(())
    }

    /// What a region reads and computes for the sake of some of its nodes.
    fn needed(&self, region: &Region, mut open: Vec<Node>) -> (BTreeSet<Node>, BTreeSet<Node>) {
        let (mut reads, mut computed) = (BTreeSet::new(), BTreeSet::new());
        while let Some(node) = open.pop() {
            if self.is_read(region, node) {
                reads.insert(node);
            } else if computed.insert(node) {
                open.extend(self.graph.op(node).operands());
            }
        }
        (reads, computed)
    }

    /// The nodes that a root's store needs: itself, or what a Write writes and where.
    fn stored_from(&self, root: Node) -> Vec<Node> {
        match self.graph.op(root) {
            Op::Write { value, extras, .. } => extras.iter().copied().chain([*value]).collect(),
            _ => vec![root],
        }
    }

    fn is_read(&self, region: &Region, node: Node) -> bool {
        let stored = self.partition.stored.contains(&node) && !region.roots.contains(&node);
        let leaf = match self.graph.op(node) {
            Op::Weight { .. } | Op::Input { .. } | Op::State { .. } | Op::Write { .. } => true,
            Op::Const(tensor) => !tensor.shape.is_empty(),
            _ => false,
        };
        stored || leaf
    }

    fn store(&self, root: Node, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  store    ")?;
        match self.graph.op(root) {
            Op::Write { .. } => writeln!(f, "{}", line(self.graph, root)),
            _ => self.value(root, f),
        }
    }

    /// A node that has a buffer: its type and shape alone.
    fn value(&self, node: Node, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape: Vec<String> = self.graph.shape(node).iter().map(ToString::to_string).collect();
        writeln!(f, "{node} : {}[{}]", self.graph.dtype(node), shape.join(","))
    }
}
