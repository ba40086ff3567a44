//! Loops in time over a pass whose sequences are ragged: the rows of each lie together in the flat pass.

use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Coordinates, Graph, Node, Scan};

/// Which rows of a pass belong to which sequence, and where each keeps its state.
#[derive(Clone, Debug)]
pub struct Sequences {
    /// How many rows the pass has.
    pub tokens: Expr,
    /// The most rows that any pass has.
    pub most: i64,
    /// `i32 [B]`: the first row of each sequence.
    pub start: Node,
    /// `i32 [B]`: how many rows it has; 0: it takes no part.
    pub count: Node,
    /// `i32 [B]`: its row of the states.
    pub home: Node,
    /// `i32 [T]`: the sequence of each row.
    pub sequence: Node,
}

/// Where a state has what is seen at `c`, its home being extra 0.
fn at_home(c: &Coordinates<'_>, order: &[usize]) -> Vec<Expr> {
    let mut at = vec![c.extra(0, &[c.axis(0)]); order.len() + 1];
    order.iter().enumerate().for_each(|(axis, place)| at[*place] = c.axis(axis + 1));
    at
}

impl Sequences {
    fn number(&self, graph: &Graph) -> Expr {
        graph.shape(self.start)[0].clone()
    }

    /// The rows `x [T, ..]` as `[B, T, ..]`: each sequence's own from its first on; beyond its last, any.
    pub fn rows(&self, graph: &mut Graph, x: Node) -> Node {
        let inner = graph.shape(x)[1..].to_vec();
        let space = [&[self.number(graph), self.tokens.clone()], inner.as_slice()].concat();
        let last = self.tokens.clone() - 1;
        graph.view(x, &space, &[self.start], |c| {
            let row = (c.extra(0, &[c.axis(0)]) + c.axis(1)).minimum(&last);
            [&[row], &c.axes()[2..]].concat()
        })
    }

    /// A value that no row changes, `x [..]` as `[B, T, ..]`.
    pub fn constant(&self, graph: &mut Graph, x: Node) -> Node {
        let space = [&[self.number(graph), self.tokens.clone()], graph.shape(x).to_vec().as_slice()].concat();
        graph.view(x, &space, &[], |c| c.axes()[2..].to_vec())
    }

    /// Whether a sequence has a row of that number: `bool [B, T]`.
    pub fn live(&self, graph: &mut Graph) -> Node {
        let space = [self.number(graph), self.tokens.clone()];
        graph.index(DType::Bool, &space, &[self.count], |c| c.axis(1).less_than(&c.extra(0, &[c.axis(0)])))
    }

    /// Each sequence's row of a state `[homes, ..]`: `[B, ..]`, of which axis `i + 1` is the state's axis
    /// `order[i]`.
    pub fn kept(&self, graph: &mut Graph, state: Node, order: &[usize]) -> Node {
        let shape = graph.shape(state).to_vec();
        let inner = order.iter().map(|axis| shape[*axis].clone());
        let space: Vec<Expr> = [self.number(graph)].into_iter().chain(inner).collect();
        graph.view(state, &space, &[self.home], |c| at_home(c, order))
    }

    /// Keeps `x [B, ..]` as the state of those sequences that take part; see [`Sequences::kept`].
    pub fn keep(&self, graph: &mut Graph, state: Node, x: Node, order: &[usize]) -> Node {
        graph.write(state, x, &[self.home, self.count], |c| {
            (at_home(c, order), Some(Expr::int(0).less_than(&c.extra(1, &[c.axis(0)]))))
        })
    }

    /// The rows of `x [B, T, ..]` back in the flat pass: `[T, ..]`. `place` is a state of `most` rows that they
    /// pass through; its next version replaces it.
    pub fn flat(&self, graph: &mut Graph, place: &mut Node, x: Node) -> Node {
        let most = Expr::int(self.most);
        *place = graph.write(*place, x, &[self.start, self.count], |c| {
            let row = c.extra(0, &[c.axis(0)]) + c.axis(1);
            let live = c.axis(1).less_than(&c.extra(1, &[c.axis(0)]));
            let ok = live.and(&row.less_than(&most));
            ([&[row], &c.axes()[2..]].concat(), Some(ok))
        });
        let space = [std::slice::from_ref(&self.tokens), &graph.shape(*place)[1..]].concat();
        graph.view(*place, &space, &[], |c| c.axes().to_vec())
    }

    /// The row before each row of `x [T, D]` in its sequence; before the first that which `before [B, D]` has.
    pub fn previous(&self, graph: &mut Graph, x: Node, before: Node) -> Node {
        let space = graph.shape(x).to_vec();
        let earlier = graph.view(x, &space, &[], |c| vec![c.axis(0).maximum(&Expr::int(1)) - 1, c.axis(1)]);
        let kept =
            graph.view(before, &space, &[self.sequence], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
        let first = graph.index(DType::Bool, &space, &[self.sequence, self.start], |c| {
            let sequence = c.extra(0, &[c.axis(0)]);
            c.axis(0).at_most(&c.extra(1, &[sequence]))
        });
        graph.map(crate::scalar::ScalarOp::Select, &[first, kept, earlier])
    }

    /// The last row of each sequence: `[B, D]` of `x [T, D]`.
    pub fn last(&self, graph: &mut Graph, x: Node) -> Node {
        let space = [self.number(graph), graph.shape(x)[1].clone()];
        let most = self.tokens.clone() - 1;
        graph.view(x, &space, &[self.start, self.count], |c| {
            let row = c.extra(0, &[c.axis(0)]) + c.extra(1, &[c.axis(0)]);
            vec![row.maximum(&Expr::int(1)).minimum(&(most.clone() + 1)) - 1, c.axis(1)]
        })
    }

    /// A loop over the rows of each sequence.
    ///
    /// `carries` are `[B, ..]`, `xs` are `[B, T, ..]` (see [`Sequences::rows`]). `step` gets the body's graph, the
    /// carries and the slices; it gives the next carries and the results of the step. Rows that a sequence
    /// does not have change nothing. Gives the last carries and the results, `[B, T, ..]`.
    pub fn scan(
        &self,
        graph: &mut Graph,
        carries: &[Node],
        xs: &[Node],
        step: impl FnOnce(&mut Graph, &[Node], &[Node]) -> (Vec<Node>, Vec<Node>),
    ) -> (Vec<Node>, Vec<Node>) {
        let live = self.live(graph);
        let mut body = Graph::new("step");
        body.symbols.clone_from(&graph.symbols);
        let held: Vec<Node> = carries
            .iter()
            .enumerate()
            .map(|(at, x)| body.input(&format!("carry{at}"), graph.dtype(*x), graph.shape(*x), None))
            .collect();
        let number = [self.number(graph)];
        let mask = body.input("live", DType::Bool, &number, None);
        let slices: Vec<Node> = xs
            .iter()
            .enumerate()
            .map(|(at, x)| {
                let shape = graph.shape(*x);
                let shape = [&shape[..1], &shape[2..]].concat();
                body.input(&format!("slice{at}"), graph.dtype(*x), &shape, None)
            })
            .collect();
        let (next, results) = step(&mut body, &held, &slices);
        for (at, (old, new)) in held.iter().zip(next).enumerate() {
            let space = body.shape(*old).to_vec();
            let here = body.view(mask, &space, &[], |c| vec![c.axis(0)]);
            let chosen = body.map(crate::scalar::ScalarOp::Select, &[here, new, *old]);
            body.output(&format!("carry{at}"), chosen);
        }
        for (at, result) in results.iter().enumerate() {
            body.output(&format!("result{at}"), *result);
        }
        let xs = [&[live], xs].concat();
        let mut all = graph.scan(Scan { axis: 1, carries: carries.to_vec(), xs, body });
        let results = all.split_off(carries.len());
        (all, results)
    }
}
