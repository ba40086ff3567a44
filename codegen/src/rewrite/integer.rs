//! Contractions in integers: activations as bytes, packed weights as the bytes that their words hold.
//!
//! A weight is `sum_j c_j * f_j[b] * n_j[k]`: at most one `n` is a byte of a word, the others are 1, and the factors
//! `f` do not change inside block `b`. Activations become, once a block, `x[k] = s[b] * q[k]` with `q` in -127..=127 and
//! `s` a 127th of the block's largest magnitude. So the sum is
//!
//! ```text
//! sum_b  f32(dot4(n, q) + start[b]) * (c f[b] * s[b])  +  (c' f'[b]) * (s[b] * sum(q))
//! ```
//!
//! where `dot4` is exact, and `start` takes back what made signed bytes unsigned. What is not a number stays so:
//! the largest magnitude is found among the bits of floats, where it is larger than infinity.

use jtllm_ir::build::{broadcast, splat, splat_scalar};
use jtllm_ir::format::words;
use jtllm_ir::graph::{axes, element_count};
use jtllm_ir::{DType, Expr, Graph, Monoid, Node, Op, Scalar, ScalarOp};

use super::{Factor, block_coordinates, places, round, varies_in_block};
use crate::classify;
use crate::options::Compute;
use crate::target::Caps;

/// Numbers of activations that share a scale, if the weights' blocks are as long; else the second.
const BLOCKS: [i64; 2] = [32, 16];

/// Numbers of a word.
const BYTES: i64 = 4;

/// The largest activation of a block becomes this.
const LARGEST: f32 = 127.0;

/// Magnitudes below count as this one, whose inverse is finite: such blocks come out smaller than they are.
const TINY: f32 = 1e-30;

/// A summand of a weight.
#[derive(Clone)]
struct Term {
    constant: f32,
    /// What does not change in a block.
    factors: Vec<Factor>,
    number: Option<Number>,
}

/// A byte of each word.
#[derive(Clone)]
struct Number {
    /// The words, which four neighbours along the depth share.
    words: Factor,
    signed: bool,
    /// How many bits of each byte, from its lowest on, are 0.
    spare: u32,
}

/// The sum in integers, if `node` is a contraction of packed weights that is to be computed so.
pub(super) fn contraction(graph: &mut Graph, node: Node, caps: &Caps, compute: Compute) -> Option<Node> {
    if !(compute == Compute::Int8 || (compute == Compute::Auto && caps.bytes)) {
        return None;
    }
    let found = round::plain_contraction(graph, node)?;
    let sum = &found.sums[0];
    let space = graph.shape(node).to_vec();
    let at = axes(graph.shape(sum.right));
    let terms = terms(graph, sum.right, &at)?;
    let mut numbers = terms.iter().filter_map(|term| term.number.as_ref());
    let (Some(number), None) = (numbers.next(), numbers.next()) else { return None };
    let depth = Depth::choose(graph, &terms, number, space.len(), sum.depth)?;
    let bytes = Bytes::of(graph, sum.left, &found.left_axes, &depth)?;
    Some(assemble(graph, &space, &terms, (&bytes, &depth), caps))
}

/// Takes a weight's decoding apart; `None` if it is no such sum.
fn terms(graph: &mut Graph, node: Node, at: &[Expr]) -> Option<Vec<Term>> {
    if let Some((words, signed)) = words::bytes_of(graph, node) {
        let spare = places::spare(graph, words);
        let words = Factor { node: words, at: at.to_vec(), fixed: true };
        // A signed number stands at the top of its word.
        let constant = if signed { 24.0f32.exp2() } else { 1.0 } * (spare as f32).exp2();
        let number = Some(Number { words, signed, spare });
        return Some(vec![Term { constant, factors: Vec::new(), number }]);
    }
    if let Some(constant) = classify::constant(graph, node) {
        return Some(vec![Term { constant, factors: Vec::new(), number: None }]);
    }
    let alone = |node| {
        let factor = Factor { node, at: at.to_vec(), fixed: true };
        Some(vec![Term { constant: 1.0, factors: vec![factor], number: None }])
    };
    match graph.op(node).clone() {
        Op::View { x, at: inner, ok: None, extras } if extras.is_empty() => {
            let inner: Vec<Expr> = inner.iter().map(|e| e.at(at)).collect();
            terms(graph, x, &inner)
        }
        Op::Map { op, xs } => {
            let mut operand = |index: usize| terms(graph, xs[index], at);
            match op {
                ScalarOp::Neg => Some(negated(operand(0)?)),
                ScalarOp::Add => Some([operand(0)?, operand(1)?].concat()),
                ScalarOp::Sub => Some([operand(0)?, negated(operand(1)?)].concat()),
                ScalarOp::Mul => product(&operand(0)?, &operand(1)?),
                ScalarOp::Fma => Some([product(&operand(0)?, &operand(1)?)?, operand(2)?].concat()),
                // Once a block, if what divides does not change inside blocks.
                ScalarOp::Div => {
                    let numerator = operand(0)?;
                    let shape = graph.shape(xs[1]).to_vec();
                    let one = splat(graph, 1.0, &shape);
                    product(&numerator, &alone(graph.map(ScalarOp::Div, &[one, xs[1]]))?)
                }
                _ => alone(node),
            }
        }
        _ => alone(node),
    }
}

fn negated(mut terms: Vec<Term>) -> Vec<Term> {
    terms.iter_mut().for_each(|term| term.constant = -term.constant);
    terms
}

/// Each summand of one times each of the other; `None` if that multiplies numbers with each other.
fn product(a: &[Term], b: &[Term]) -> Option<Vec<Term>> {
    let one = |a: &Term, b: &Term| {
        let number = match (&a.number, &b.number) {
            (Some(_), Some(_)) => return None,
            (number, None) | (None, number) => number.clone(),
        };
        let factors = [a.factors.as_slice(), &b.factors].concat();
        Some(Term { constant: a.constant * b.constant, factors, number })
    };
    a.iter().flat_map(|a| b.iter().map(move |b| one(a, b))).collect()
}

/// How the depth is cut.
struct Depth {
    /// Its axis.
    axis: usize,
    blocks: i64,
    /// Numbers of a block.
    block: i64,
}

impl Depth {
    /// The longest blocks in which no factor changes.
    fn choose(graph: &Graph, terms: &[Term], number: &Number, axis: usize, depth: i64) -> Option<Depth> {
        let place = axis as u16;
        let is_word = |coordinates: &[Expr]| !coordinates.iter().any(|x| x.mentions_axis(place + 1));
        let fits = |block: &i64| {
            let mut factors = terms.iter().flat_map(|term| &term.factors);
            depth % block == 0 && !factors.any(|factor| varies_in_block(graph, factor, place, *block, depth))
        };
        if depth % BYTES != 0 || !is_word(&block_coordinates(graph, &number.words, place, BYTES, depth)) {
            return None;
        }
        let block = BLOCKS.into_iter().find(fits)?;
        Some(Depth { axis, blocks: depth / block, block })
    }

    fn words(&self) -> i64 {
        self.block / BYTES
    }

    /// `space` and its blocks, and so many places in each.
    fn shape(&self, space: &[Expr], inner: Option<i64>) -> Vec<Expr> {
        let inner = [Some(self.blocks), inner].into_iter().flatten().map(Expr::int);
        space.iter().cloned().chain(inner).collect()
    }

    /// A factor's value over `space`, blocks and what is left of `shape`, at number `place` of each block.
    fn view(&self, graph: &mut Graph, factor: &Factor, shape: &[Expr], place: Expr) -> Node {
        let here = axes(shape);
        let mut along = here[..self.axis].to_vec();
        along.push(here[self.axis].clone() * self.block + place);
        let at = factor.at.iter().map(|x| x.at(&along)).collect();
        graph.view(factor.node, shape, &[], |_| at)
    }
}

/// Activations as bytes, over the axes that they depend on.
struct Bytes {
    /// Which axes of the sum's space those are.
    axes: Vec<usize>,
    /// Four bytes, each in a word: `[.., blocks, words]`.
    words: Node,
    /// What a byte stands for: `[.., blocks]`.
    scale: Node,
    /// The sum of a block's bytes, as `i32`: `[.., blocks]`.
    sum: Node,
}

impl Bytes {
    /// `left` is over the sum's space and depth.
    fn of(graph: &mut Graph, left: Node, left_axes: &[usize], depth: &Depth) -> Option<Bytes> {
        let shape = graph.shape(left).to_vec();
        let (mut node, mut at) = (left, axes(&shape));
        while let Op::View { x, at: inner, ok: None, extras } = graph.op(node) {
            if !extras.is_empty() {
                break;
            }
            at = inner.iter().map(|e| e.at(&at)).collect();
            node = *x;
        }
        let space: Vec<Expr> = left_axes.iter().map(|axis| shape[*axis].clone()).collect();
        let elements = element_count(&space) * (depth.blocks * depth.block);
        // What is computed for each column is no input of a matrix.
        if element_count(graph.shape(node)) != elements {
            return None;
        }
        // From coordinates over the sum's space and depth to those over the rows' own.
        let mut to = vec![Expr::int(0); shape.len()];
        for (place, axis) in left_axes.iter().enumerate() {
            to[*axis] = Expr::axis(place as u16, &shape[*axis]);
        }
        to[depth.axis] = Expr::axis(space.len() as u16, &shape[depth.axis]);
        let at = at.iter().map(|x| x.at(&to)).collect();
        let x = Factor { node, at, fixed: false };
        let own = Depth { axis: space.len(), ..*depth };
        Some(quantise(graph, &x, &space, &own, left_axes))
    }

    /// One of the tensors over the sum's space.
    fn spread(&self, graph: &mut Graph, node: Node, shape: &[Expr], rank: usize) -> Node {
        let kept: Vec<usize> = self.axes.iter().copied().chain(rank..shape.len()).collect();
        broadcast(graph, node, shape, &kept)
    }
}

/// The bytes of rows `x`, over `space` and the depth.
fn quantise(graph: &mut Graph, x: &Factor, space: &[Expr], depth: &Depth, left_axes: &[usize]) -> Bytes {
    let last = depth.axis + 1;
    let (blocks, full) = (depth.shape(space, None), depth.shape(space, Some(depth.block)));
    let each = Expr::axis(last as u16, &full[last]);
    let numbers = depth.view(graph, x, &full, each);
    let bits = graph.map(ScalarOp::Bitcast(DType::U32), &[numbers]);
    let magnitude = splat_scalar(graph, DType::U32, Scalar::Int(0x7FFF_FFFF), &full);
    let bits = graph.map(ScalarOp::And, &[bits, magnitude]);
    let largest = graph.reduce(Monoid::Max, bits, &[last]);
    let largest = graph.map(ScalarOp::Bitcast(DType::F32), &[largest]);
    let step = splat(graph, 1.0 / LARGEST, &blocks);
    let scale = graph.map(ScalarOp::Mul, &[largest, step]);
    let tiny = splat(graph, TINY, &blocks);
    let divisor = graph.map(ScalarOp::Max, &[largest, tiny]);
    let most = splat(graph, LARGEST, &blocks);
    let inverse = graph.map(ScalarOp::Div, &[most, divisor]);
    let rounded = |graph: &mut Graph, numbers: Node, shape: &[Expr]| {
        let kept: Vec<usize> = (0..last).collect();
        let inverse = broadcast(graph, inverse, shape, &kept);
        let number = graph.map(ScalarOp::Mul, &[numbers, inverse]);
        let number = graph.map(ScalarOp::Round, &[number]);
        graph.map(ScalarOp::Cast(DType::I32), &[number])
    };
    let sum = rounded(graph, numbers, &full);
    let sum = graph.reduce(Monoid::Add, sum, &[last]);
    let shape = depth.shape(space, Some(depth.words()));
    let word = Expr::axis(last as u16, &shape[last]);
    let bytes: Vec<Node> = (0..BYTES)
        .map(|byte| {
            let numbers = depth.view(graph, x, &shape, word.clone() * BYTES + byte);
            let number = rounded(graph, numbers, &shape);
            let number = graph.map(ScalarOp::Bitcast(DType::U32), &[number]);
            let number = match byte + 1 < BYTES {
                true => {
                    let mask = splat_scalar(graph, DType::U32, Scalar::Int(0xFF), &shape);
                    graph.map(ScalarOp::And, &[number, mask])
                }
                // What is above goes.
                false => number,
            };
            if byte == 0 {
                return number;
            }
            let up = splat_scalar(graph, DType::U32, Scalar::Int(8 * byte), &shape);
            graph.map(ScalarOp::Shl, &[number, up])
        })
        .collect();
    let words = bytes.into_iter().reduce(|word, byte| graph.map(ScalarOp::Or, &[word, byte]));
    let words = words.expect("a word has bytes");
    Bytes { axes: left_axes.to_vec(), words, scale, sum }
}

/// The sum over blocks of each block's terms.
fn assemble(
    graph: &mut Graph,
    space: &[Expr],
    terms: &[Term],
    (bytes, depth): (&Bytes, &Depth),
    caps: &Caps,
) -> Node {
    let rank = space.len();
    let blocks = depth.shape(space, None);
    let scale = bytes.spread(graph, bytes.scale, &blocks, rank);
    let mut all = Vec::new();
    for term in terms {
        let mut factor = None;
        if term.constant != 1.0 || term.factors.is_empty() {
            factor = Some(splat(graph, term.constant, &blocks));
        }
        for each in &term.factors {
            let each = depth.view(graph, each, &blocks, Expr::int(0));
            factor = Some(factor.map_or(each, |factor| graph.map(ScalarOp::Mul, &[each, factor])));
        }
        let factor = factor.expect("a term without factors has a constant");
        all.push(match &term.number {
            Some(number) => {
                let products = products(graph, space, number, (bytes, depth), caps);
                let products = graph.map(ScalarOp::Cast(DType::F32), &[products]);
                let factor = graph.map(ScalarOp::Mul, &[factor, scale]);
                graph.map(ScalarOp::Mul, &[products, factor])
            }
            None => {
                let sum = graph.map(ScalarOp::Cast(DType::F32), &[bytes.sum]);
                let sum = graph.map(ScalarOp::Mul, &[sum, bytes.scale]);
                let sum = bytes.spread(graph, sum, &blocks, rank);
                graph.map(ScalarOp::Mul, &[factor, sum])
            }
        });
    }
    let all = all.into_iter().reduce(|sum, term| graph.map(ScalarOp::Add, &[sum, term]));
    graph.reduce(Monoid::Add, all.expect("a weight has terms"), &[rank])
}

/// The sum of products inside each block, as `i32`.
fn products(
    graph: &mut Graph,
    space: &[Expr],
    number: &Number,
    (bytes, depth): (&Bytes, &Depth),
    caps: &Caps,
) -> Node {
    let rank = space.len();
    let (blocks, full) = (depth.shape(space, None), depth.shape(space, Some(depth.words())));
    let word = Expr::axis(rank as u16 + 1, &full[rank + 1]);
    // Small numbers can be summed in words of 16 bits where there is no instruction for four products.
    let node = places::down(graph, number.words.node, number.spare);
    let words = Factor { node, ..number.words.clone() };
    let mut words = depth.view(graph, &words, &full, word * BYTES);
    let half = 128 >> number.spare;
    let op = match number.signed && number.spare == 0 && caps.signed_bytes {
        true => ScalarOp::Dot4Signed,
        false => ScalarOp::Dot4,
    };
    let is_moved = number.signed && op == ScalarOp::Dot4;
    if is_moved {
        // Signed numbers become unsigned ones that are larger by half of what there is.
        let top = splat_scalar(graph, DType::U32, Scalar::Int(0x0101_0101 * half), &full);
        words = graph.map(ScalarOp::Xor, &[words, top]);
    }
    let left = bytes.spread(graph, bytes.words, &full, rank);
    let zero = splat_scalar(graph, DType::I32, Scalar::Int(0), &full);
    let products = graph.map(op, &[words, left, zero]);
    let products = graph.reduce(Monoid::Add, products, &[rank + 1]);
    if !is_moved {
        return products;
    }
    let shape = graph.shape(bytes.sum).to_vec();
    let back = splat_scalar(graph, DType::I32, Scalar::Int(-half), &shape);
    let back = graph.map(ScalarOp::Mul, &[bytes.sum, back]);
    let back = bytes.spread(graph, back, &blocks, rank);
    graph.map(ScalarOp::Add, &[products, back])
}
