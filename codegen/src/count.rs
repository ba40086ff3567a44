//! How many multiplications and additions a region asks for, by the type of what is multiplied.
//!
//! Only products that are summed count: contractions and attention. What is done to single elements costs what it
//! moves, and bytes are counted by whoever binds them.

use std::collections::BTreeMap;

use jtllm_ir::graph::element_count;
use jtllm_ir::{DType, Expr, Graph, Node};

use crate::Compilation;
use crate::options::Compute;
use crate::region::{Attend, Product, Sum, Work};
use crate::schedule::narrow_type;

/// A number of operations: a multiplication and the addition of its product are two.
#[derive(Clone, Debug, PartialEq)]
pub enum Count {
    /// So many, over the graph's sizes.
    InAll(Expr),
    /// So many for each position that a row attends to.
    EachSeen(i64),
}

/// What the products of a sum multiply.
pub(crate) fn multiplied(graph: &Graph, sum: &Sum) -> Compute {
    match (sum.product, narrow_type(graph, sum.left), narrow_type(graph, sum.right)) {
        (Product::Bytes | Product::SignedBytes, ..) => Compute::Int8,
        (_, Some(DType::BF16), Some(DType::BF16)) => Compute::Bf16,
        (_, Some(DType::F16), Some(DType::F16)) => Compute::F16,
        _ => Compute::F32,
    }
}

impl Compilation {
    /// The operations of one of the partition's regions.
    pub fn operations(&self, region: usize) -> Vec<(Compute, Count)> {
        let graph = &self.graph;
        match &self.partition.regions[region].work {
            Work::Gemv(contraction) | Work::Gemm(contraction) => {
                let mut counts: BTreeMap<Compute, Expr> = BTreeMap::new();
                for sum in &contraction.sums {
                    let depth = sum.depth * sum.blocks.as_ref().map_or(1, |blocks| blocks.count);
                    // A depth of bytes is one of words.
                    let products = if sum.product.is_of_bytes() { 4 * depth } else { depth };
                    let all = element_count(graph.shape(sum.root)) * (2 * products);
                    let count = counts.entry(multiplied(graph, sum)).or_insert_with(|| Expr::int(0));
                    *count = count.clone() + all;
                }
                counts.into_iter().map(|(compute, count)| (compute, Count::InAll(count))).collect()
            }
            Work::Attend(attend) => vec![attention(graph, attend)],
            Work::Pointwise | Work::Rows | Work::Scan(_) => Vec::new(),
        }
    }
}

/// For each row and position that it sees a product with its key and one with its value, of each head.
fn attention(graph: &Graph, attend: &Attend) -> (Compute, Count) {
    let extent = |node: Node, axis: usize| graph.shape(node).get(axis).and_then(Expr::as_int).unwrap_or(0);
    let heads = extent(attend.root, 1);
    let width = extent(attend.key, 3) + extent(attend.root, 2);
    let compute = match attend.narrow {
        Some(DType::BF16) => Compute::Bf16,
        Some(DType::F16) => Compute::F16,
        _ => Compute::F32,
    };
    (compute, Count::EachSeen(2 * heads * width))
}
