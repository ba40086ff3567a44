//! Loops in time.

use jtllm_ir::build::{Sequences, broadcast};
use jtllm_ir::{DType, Expr, Graph, Monoid, Node, ScalarOp, Tensor};

use super::case::{Case, int, rows};

/// Homes of states.
const HOMES: usize = 4;

/// The most rows of a pass.
const MOST: i64 = 512;

/// A pass of `tokens` rows, of sequences that each have a start and a count.
fn sequences(case: &mut Case, tokens: usize, ragged: [(i64, i64); 3]) -> Sequences {
    let t = rows(&mut case.graph, &mut case.bindings, tokens);
    let below = |end: Expr| (0, end);
    let starts = ragged.iter().map(|(start, _)| *start).collect();
    let counts = ragged.iter().map(|(_, count)| *count).collect();
    let mut owner = vec![0; tokens];
    for (sequence, (start, count)) in ragged.iter().enumerate() {
        (*start..start + count).for_each(|row| owner[row as usize] = sequence as i64);
    }
    Sequences {
        tokens: t.clone(),
        most: MOST,
        start: case.ints("start", &[int(3)], &[3], below(t.clone()), starts),
        count: case.ints("count", &[int(3)], &[3], below(t.clone() + 1), counts),
        home: case.ints("home", &[int(3)], &[3], below(int(HOMES)), vec![2, 0, 3]),
        sequence: case.ints("seq", &[t], &[tokens], below(int(3)), owner),
    }
}

fn state(case: &mut Case, name: &str, sizes: &[usize]) -> Node {
    let count = sizes.iter().product();
    let values = case.floats(count, 1.0);
    case.bindings.states.insert(name.to_owned(), Tensor::floats(DType::F32, sizes, values));
    let shape: Vec<Expr> = sizes.iter().map(|n| int(*n)).collect();
    case.graph.state(name, DType::F32, &shape)
}

fn columns(case: &mut Case, name: &str, t: &Expr, tokens: usize, inner: &[usize]) -> Node {
    let shape: Vec<Expr> = [t.clone()].into_iter().chain(inner.iter().map(|n| int(*n))).collect();
    let sizes: Vec<usize> = [tokens].into_iter().chain(inner.iter().copied()).collect();
    case.input(name, &shape, &sizes)
}

/// Each element decays and takes in what comes: `a' = exp(-k^2) a + v`, and gives `a + u v`.
pub(crate) fn decay(tokens: usize, ragged: [(i64, i64); 3], width: usize) -> Case {
    let mut case = Case::new(&format!("decay of {tokens} rows, {width} wide"));
    let sequences = sequences(&mut case, tokens, ragged);
    let t = sequences.tokens.clone();
    let k = columns(&mut case, "k", &t, tokens, &[width]);
    let v = columns(&mut case, "v", &t, tokens, &[width]);
    let u = case.input("u", &[int(width)], &[width]);
    let memory = state(&mut case, "memory", &[HOMES, width]);
    let mut place = state(&mut case, "place", &[MOST as usize, width]);
    let graph = &mut case.graph;
    let xs = [sequences.rows(graph, k), sequences.rows(graph, v), sequences.constant(graph, u)];
    let first = sequences.kept(graph, memory, &[1]);
    let (carries, results) = sequences.scan(graph, &[first], &xs, |body, carries, xs| {
        let (a, [k, v, u]) = (carries[0], [xs[0], xs[1], xs[2]]);
        let square = body.map(ScalarOp::Mul, &[k, k]);
        let square = body.map(ScalarOp::Neg, &[square]);
        let factor = body.map(ScalarOp::Exp, &[square]);
        let next = body.map(ScalarOp::Fma, &[a, factor, v]);
        let out = body.map(ScalarOp::Fma, &[u, v, a]);
        (vec![next], vec![out])
    });
    sequences.keep(graph, memory, carries[0], &[1]);
    let out = sequences.flat(graph, &mut place, results[0]);
    graph.output("out", out);
    case
}

/// A matrix a head (RWKV-7): `S' = S diag(w) + (S a) b^T + v k^T`, and gives `S' r`.
pub(crate) fn matrices(tokens: usize, ragged: [(i64, i64); 3], heads: usize, width: usize) -> Case {
    let mut case = Case::new(&format!("matrices of {tokens} rows, {heads} heads of {width}"));
    let sequences = sequences(&mut case, tokens, ragged);
    let t = sequences.tokens.clone();
    let inputs =
        ["r", "w", "k", "v", "a", "b"].map(|name| columns(&mut case, name, &t, tokens, &[heads, width]));
    let memory = state(&mut case, "memory", &[HOMES, heads, width, width]);
    let mut place = state(&mut case, "place", &[MOST as usize, heads, width]);
    let graph = &mut case.graph;
    let xs = inputs.map(|x| sequences.rows(graph, x));
    // The state lies with its rows last, so that lanes over rows read neighbours.
    let first = sequences.kept(graph, memory, &[1, 3, 2]);
    let (carries, results) = sequences.scan(graph, &[first], &xs, |body, carries, xs| {
        let s = carries[0];
        let full = body.shape(s).to_vec();
        let by_row = |body: &mut Graph, x| broadcast(body, x, &full, &[0, 1, 2]);
        let by_column = |body: &mut Graph, x| broadcast(body, x, &full, &[0, 1, 3]);
        let [r, w, k, a, b] = [0, 1, 2, 4, 5].map(|at| by_column(body, xs[at]));
        let v = by_row(body, xs[3]);
        let product = body.map(ScalarOp::Mul, &[s, a]);
        let seen = body.reduce(Monoid::Add, product, &[3]);
        let seen = by_row(body, seen);
        let added = body.map(ScalarOp::Mul, &[v, k]);
        let added = body.map(ScalarOp::Fma, &[seen, b, added]);
        let next = body.map(ScalarOp::Fma, &[s, w, added]);
        let product = body.map(ScalarOp::Mul, &[next, r]);
        let out = body.reduce(Monoid::Add, product, &[3]);
        (vec![next], vec![out])
    });
    sequences.keep(graph, memory, carries[0], &[1, 3, 2]);
    let out = sequences.flat(graph, &mut place, results[0]);
    graph.output("out", out);
    case
}

pub(crate) const ONE: [(i64, i64); 3] = [(0, 1), (0, 0), (0, 0)];
pub(crate) const THREE: [(i64, i64); 3] = [(0, 1), (1, 2), (3, 1)];
pub(crate) const RAGGED: [(i64, i64); 3] = [(0, 19), (32, 0), (32, 16)];

/// A case of each kind, of each way in which rows come.
pub(crate) fn cases() -> Vec<Case> {
    vec![
        decay(1, ONE, 40),
        decay(4, THREE, 7),
        decay(48, RAGGED, 40),
        matrices(1, ONE, 2, 16),
        matrices(4, THREE, 3, 8),
        matrices(48, RAGGED, 2, 20),
    ]
}
