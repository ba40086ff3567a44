//! Algebraic rewrites: the only pass that may change arithmetic.
//!
//! 1. Factors that are constant in a block leave the block's sum: `sum_k s[k div B] * x[k]` becomes
//!    `sum_b s[b] * sum_u x[b B + u]`. So a block format's scale is applied once a block.
//! 2. In 16-bit compute both operands of a contraction are rounded to that type. A scale is then part
//!    of what is rounded: sums inside blocks would have to leave the matrix units to be scaled, once a block, for
//!    an error that is no larger than the left operand's own.
//! 3. In 8-bit compute activations become bytes with a scale for each block, and packed weights are multiplied as the
//!    bytes that their words hold; an offset leaves the block's sum with the sum of the activations.
//! 4. Attention that matrix units can compute has its queries and weights rounded to the cache's type.

mod integer;
mod places;
mod round;

use jtllm_ir::graph::axes;
use jtllm_ir::{Expr, Graph, Monoid, Node, Op, ScalarOp};

use crate::access::{read_coordinates, spans};
use crate::options::Options;
use crate::target::Caps;

/// Applies every rewrite wherever it fits.
pub fn rewrite(graph: &Graph, caps: &Caps, options: &Options) -> Graph {
    each(graph, &mut |graph, node| {
        integer::contraction(graph, node, caps, options.compute)
            .or_else(|| round::contraction(graph, node, caps, options.compute))
            .or_else(|| round::attention(graph, node, caps, options.compute))
            .or_else(|| split_blocks(graph, node))
    })
}

/// Narrows operands as [`rewrite`] does on a target that does so only if it is told to, and nothing else: for
/// interpreters of graphs.
pub fn round_operands(graph: &Graph, options: &Options) -> Graph {
    let caps = Caps::vector(4);
    each(graph, &mut |graph, node| {
        integer::contraction(graph, node, &caps, options.compute)
            .or_else(|| round::contraction(graph, node, &caps, options.compute))
    })
}

/// The graph with what a rewrite gives in the place of each node.
fn each(graph: &Graph, replaced: &mut dyn FnMut(&mut Graph, Node) -> Option<Node>) -> Graph {
    let mut result = Graph::new(&graph.name);
    result.symbols.clone_from(&graph.symbols);
    let mut place: Vec<Node> = Vec::with_capacity(graph.len());
    for node in graph.nodes() {
        let record = graph.record(node);
        let op = record.op.map_operands(&mut |x| place[x.0 as usize]);
        let new =
            result.push(jtllm_ir::graph::Record { op, shape: record.shape.clone(), dtype: record.dtype });
        place.push(replaced(&mut result, new).unwrap_or(new));
    }
    for (name, node) in &graph.outputs {
        result.output(name, place[node.0 as usize]);
    }
    result.layers = graph.layers.iter().map(|node| place[node.0 as usize]).collect();
    result
}

/// One factor of a product: a node, read at coordinates over the product's own.
#[derive(Clone)]
struct Factor {
    node: Node,
    at: Vec<Expr>,
    /// Whether it is made of weights and constants alone; only such a factor has blocks.
    fixed: bool,
}

fn split_blocks(graph: &mut Graph, sum: Node) -> Option<Node> {
    let Op::Reduce { monoid: Monoid::Add, x, axes: reduced } = graph.op(sum).clone() else { return None };
    let space = graph.shape(x).to_vec();
    let last = space.len() - 1;
    if !graph.dtype(x).is_float() || reduced != [last] {
        return None;
    }
    let depth = space[last].as_int()?;
    let mut factors = Vec::new();
    product_factors(graph, x, &axes(&space), &mut factors);
    let block = block_of(graph, &factors, last as u16, depth)?;
    let (constant, inner): (Vec<Factor>, Vec<Factor>) =
        factors.into_iter().partition(|factor| !varies_in_block(graph, factor, last as u16, block, depth));
    if constant.is_empty() || inner.is_empty() {
        return None;
    }

    let mut blocked = space[..last].to_vec();
    blocked.push(Expr::int(depth / block));
    blocked.push(Expr::int(block));
    let here = axes(&blocked);
    let mut along = here[..last].to_vec();
    along.push(here[last].clone() * block + here[last + 1].clone());
    let inside = product(graph, inner, &blocked, &along);
    let inside = graph.reduce(Monoid::Add, inside, &[last + 1]);
    let mut at_block = here[..last].to_vec();
    at_block.push(here[last].clone() * block);
    let scale = product(graph, constant, &blocked[..=last], &at_block);
    let scaled = graph.map(ScalarOp::Mul, &[inside, scale]);
    Some(graph.reduce(Monoid::Add, scaled, &[last]))
}

/// Takes a product apart. Its weights' side comes apart into all its factors, through views that only
/// move; what is computed anew each pass (a norm's output, say) stays whole.
fn product_factors(graph: &Graph, node: Node, at: &[Expr], factors: &mut Vec<Factor>) {
    let Op::Map { op: ScalarOp::Mul, xs } = graph.op(node) else { return };
    for x in xs {
        match is_fixed(graph, *x) {
            true => fixed_factors(graph, *x, at, factors),
            false => factors.push(Factor { node: *x, at: at.to_vec(), fixed: false }),
        }
    }
}

/// Whether a value is made of weights and constants alone.
pub(crate) fn is_fixed(graph: &Graph, node: Node) -> bool {
    match graph.op(node) {
        Op::Weight { .. } | Op::Const(_) => true,
        Op::Index { extras, .. } => extras.is_empty(),
        Op::Map { xs, .. } => xs.iter().all(|x| is_fixed(graph, *x)),
        Op::View { x, extras, .. } => extras.is_empty() && is_fixed(graph, *x),
        _ => false,
    }
}

fn fixed_factors(graph: &Graph, node: Node, at: &[Expr], factors: &mut Vec<Factor>) {
    match graph.op(node) {
        Op::Map { op: ScalarOp::Mul, xs } => xs.iter().for_each(|x| fixed_factors(graph, *x, at, factors)),
        Op::View { x, at: inner, ok: None, extras } if extras.is_empty() => {
            let inner: Vec<Expr> = inner.iter().map(|e| e.at(at)).collect();
            fixed_factors(graph, *x, &inner, factors);
        }
        _ => factors.push(Factor { node, at: at.to_vec(), fixed: true }),
    }
}

/// The length of the blocks: the shortest of those that some factor is constant in, each as long as it can be.
/// So all factors which are constant in longer blocks leave the sum too.
fn block_of(graph: &Graph, factors: &[Factor], axis: u16, depth: i64) -> Option<i64> {
    let own = |factor: &Factor| {
        let coordinates = read_coordinates(graph, factor.node, &factor.at, &|_| false);
        let fits = |block: &i64| *block > 1 && depth % block == 0 && *block < depth;
        let constant = |block: &i64| constant_in_block(graph, factor, axis, *block, depth);
        spans(&coordinates, axis).into_iter().filter(fits).find(constant)
    };
    factors.iter().filter(|factor| factor.fixed).filter_map(own).min()
}

/// Whether a factor depends on the block, but not on the place within it.
fn constant_in_block(graph: &Graph, factor: &Factor, axis: u16, block: i64, depth: i64) -> bool {
    factor.fixed && {
        let coordinates = block_coordinates(graph, factor, axis, block, depth);
        coordinates.iter().any(|x| x.mentions_axis(axis))
            && !coordinates.iter().any(|x| x.mentions_axis(axis + 1))
    }
}

/// Whether a factor must stay inside the block's sum. A plain constant need not.
fn varies_in_block(graph: &Graph, factor: &Factor, axis: u16, block: i64, depth: i64) -> bool {
    !factor.fixed
        || block_coordinates(graph, factor, axis, block, depth).iter().any(|x| x.mentions_axis(axis + 1))
}

/// The coordinates that a factor reads, with `axis` split into blocks and the places within them.
fn block_coordinates(graph: &Graph, factor: &Factor, axis: u16, block: i64, depth: i64) -> Vec<Expr> {
    let outer = Expr::axis(axis, &Expr::int(depth / block));
    let inner = Expr::axis(axis + 1, &Expr::int(block));
    let along = outer * block + inner;
    let split = |x: &Expr| {
        x.substitute(&mut |leaf| match leaf.kind() {
            jtllm_ir::expr::Kind::Axis { index, .. } if *index == axis => Some(along.clone()),
            _ => None,
        })
    };
    let at: Vec<Expr> = factor.at.iter().map(split).collect();
    read_coordinates(graph, factor.node, &at, &|_| false)
}

/// The product of the factors at coordinates `along` over `space`.
fn product(graph: &mut Graph, factors: Vec<Factor>, space: &[Expr], along: &[Expr]) -> Node {
    let views: Vec<Node> = factors
        .into_iter()
        .map(|factor| {
            let at = factor.at.iter().map(|x| x.at(along)).collect();
            graph.view(factor.node, space, &[], |_| at)
        })
        .collect();
    let mut views = views.into_iter();
    let first = views.next().expect("a product has factors");
    views.fold(first, |product, view| graph.map(ScalarOp::Mul, &[product, view]))
}
