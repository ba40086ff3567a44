//! Regions: which nodes share a kernel, and what kind of loop nest that kernel is.

mod print;

use std::collections::HashSet;

use jtllm_ir::{DType, Expr, Graph, Node, Op, ScalarOp};

/// One kernel's part of a graph.
#[derive(Clone, Debug)]
pub struct Region {
    /// What the kernel stores: Maps, Views and Reduces into buffers of their own, Writes into their state.
    pub roots: Vec<Node>,
    /// The reductions that it computes, operands first.
    pub reduces: Vec<Node>,
    /// The shape over which the reductions' results are spread (or the only root, without reductions).
    pub space: Vec<Expr>,
    /// The kind of loop nest.
    pub work: Work,
}

/// The shape of a loop nest; one schedule each.
#[derive(Clone, Debug)]
pub enum Work {
    /// Each element on its own.
    Pointwise,
    /// One group a row: reductions over the row, then whatever needs their results.
    Rows,
    /// Products of a left and a right operand summed over a common axis; few rows on the left.
    Gemv(Contraction),
    /// The same with many rows on the left.
    Gemm(Contraction),
    /// A softmax-weighted sum over the past.
    Attend(Attend),
    /// A loop in time.
    Scan(Node),
}

impl Work {
    /// The name in text forms.
    pub fn name(&self) -> &'static str {
        match self {
            Work::Pointwise => "pointwise",
            Work::Rows => "rows",
            Work::Gemv(_) => "gemv",
            Work::Gemm(_) => "gemm",
            Work::Attend(_) => "attend",
            Work::Scan(_) => "scan",
        }
    }
}

/// Sums of products that share their left operand: several in one region are sibling accumulators.
#[derive(Clone, Debug)]
pub struct Contraction {
    /// The sums.
    pub sums: Vec<Sum>,
    /// The axes of the region's space that only the left operand depends on (or nobody).
    pub left_axes: Vec<usize>,
    /// The axes of the region's space that the right operands depend on.
    pub right_axes: Vec<usize>,
}

/// What a sum of products multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Two `f32`s.
    Floats,
    /// Four unsigned bytes of the right operand and four signed ones of the left, as [`jtllm_ir::ScalarOp::Dot4`] does.
    Bytes,
    /// Four signed bytes of each, as [`jtllm_ir::ScalarOp::Dot4Signed`] does.
    SignedBytes,
}

impl Product {
    /// Whether operands are words of four bytes.
    pub fn is_of_bytes(self) -> bool {
        self != Product::Floats
    }
}

/// `sum_u left[u] * right[u]`; or with blocks `sum_b each(b)`, where `each` is made of such a sum inside the block.
#[derive(Clone, Debug, PartialEq)]
pub struct Sum {
    /// The node whose value this is.
    pub root: Node,
    /// The left operand, over the region's space, the block axis if there are blocks, and the depth.
    pub left: Node,
    /// The right operand, over the same.
    pub right: Node,
    /// What is multiplied.
    pub product: Product,
    /// With blocks: the sum inside a block, and what becomes of it.
    pub blocks: Option<Blocks>,
    /// Products in a sum (in a block, if there are blocks).
    pub depth: i64,
}

/// The outer level of a blocked sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// The sum inside a block.
    pub inner: Node,
    /// What is added for each block: Maps over space and block axis above `inner`.
    pub each: Node,
    /// How many blocks.
    pub count: i64,
}

impl Blocks {
    /// What the sum inside a block is multiplied by, if nothing else becomes of it.
    pub fn scale(&self, graph: &Graph) -> Option<Node> {
        match graph.op(self.each) {
            Op::Map { op: ScalarOp::Mul, xs } if xs[0] == self.inner => Some(xs[1]),
            _ => None,
        }
    }
}

/// The nodes of an attention pattern (see `jtllm_ir::build::attention`).
#[derive(Clone, Debug)]
pub struct Attend {
    /// The quotient, `[T, heads, width]`.
    pub root: Node,
    /// The sum over the head's width, `[T, heads, J]`.
    pub dot: Node,
    /// The query inside the dot product, `[T, heads, J, width]`.
    pub query: Node,
    /// The key inside the dot product, `[T, heads, J, width]`.
    pub key: Node,
    /// The scaled score, `[T, heads, J]`.
    pub score: Node,
    /// Whether a position is seen, `[T, heads, J]`.
    pub visible: Node,
    /// The sum of the weights, `[T, heads]`.
    pub total: Node,
    /// The weighted sum of values, `[T, heads, width]`.
    pub sum: Node,
    /// The value inside the weighted sum, `[T, heads, width, J]`.
    pub value: Node,
    /// The type to which weights are rounded before they are multiplied with values, if they are.
    pub narrow: Option<DType>,
}

/// A graph cut into kernels.
pub struct Partition {
    /// The kernels, in an order in which each follows those that it reads from.
    pub regions: Vec<Region>,
    /// The nodes that have a buffer of their own (roots that are no Writes).
    pub stored: HashSet<Node>,
}
