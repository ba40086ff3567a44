//! Canonical graphs: no node twice, none unused, reductions over the last axes, versions of states that a Write
//! replaces read by Views alone, and tables read by row replaced by the rows themselves.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use jtllm_ir::expr::Kind;
use jtllm_ir::graph::{Record, axes};
use jtllm_ir::{DType, Expr, Graph, Monoid, Node, Op};

/// Rows of a weight's plane that a pass needs: the runtime copies row `ids[t]` of the plane to row `t` of
/// the input before the pass, so that a table read only by row need not be resident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    /// The input that takes the rows.
    pub input: String,
    /// The plane, as the weight leaf named it.
    pub weight: String,
    /// The input that says which rows.
    pub ids: String,
    /// The type of the plane's elements.
    pub dtype: DType,
    /// Elements of a row.
    pub width: i64,
}

/// A canonical graph.
pub struct Canonical {
    /// The graph.
    pub graph: Graph,
    /// The rows that it wants gathered.
    pub gathers: Vec<Gather>,
}

/// Drops what no output and no write needs, merges equal nodes, moves the axes of reductions to the end, puts
/// Views before what a Write replaces, and replaces row gathers by inputs.
pub fn canon(graph: &Graph) -> Canonical {
    let mut merged = Merge::new(&graph.name);
    merged.graph.symbols.clone_from(&graph.symbols);
    let needed = needed(graph);
    let replaced: HashSet<Node> = graph.nodes().filter_map(|node| replaced_by(graph, node)).collect();
    let mut place: Vec<Option<Node>> = vec![None; graph.len()];
    for node in graph.nodes().filter(|node| needed[node.0 as usize]) {
        let at = |x: Node| place[x.0 as usize].expect("operands come before their users");
        let record = graph.record(node);
        let op = merged.through_views(&record.op, &replaced, &at);
        let record = Record { op, shape: record.shape.clone(), dtype: record.dtype };
        place[node.0 as usize] = Some(match &record.op {
            Op::View { x, at, ok: None, extras } if !extras.is_empty() && merged.is_fixed(*x) => {
                merged.sink(*x, at, extras, &record.shape)
            }
            Op::Reduce { monoid, x, axes } => merged.trailing(*monoid, *x, axes, record.shape.clone()),
            _ => merged.add(record),
        });
    }
    for (name, node) in &graph.outputs {
        let node = place[node.0 as usize].expect("outputs are needed");
        merged.graph.output(name, node);
    }
    // A layer whose end nobody needs is no place to cut: then none is.
    let ends: Option<Vec<Node>> = graph.layers.iter().map(|node| place[node.0 as usize]).collect();
    merged.graph.layers = ends.unwrap_or_default();
    Canonical { graph: merged.graph, gathers: merged.gathers }
}

/// The version of a state that a Write replaces.
fn replaced_by(graph: &Graph, write: Node) -> Option<Node> {
    match graph.op(write) {
        Op::Write { state, .. } => Some(*state),
        _ => None,
    }
}

fn needed(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.len()];
    for (_, node) in &graph.outputs {
        needed[node.0 as usize] = true;
    }
    for node in graph.nodes().rev() {
        if matches!(graph.op(node), Op::Write { .. }) {
            needed[node.0 as usize] = true;
        }
        if needed[node.0 as usize] {
            graph.op(node).operands().into_iter().for_each(|x| needed[x.0 as usize] = true);
        }
    }
    needed
}

struct Merge {
    graph: Graph,
    gathers: Vec<Gather>,
    known: HashMap<u64, Vec<Node>>,
}

impl Merge {
    fn new(name: &str) -> Merge {
        Merge { graph: Graph::new(name), gathers: Vec::new(), known: HashMap::new() }
    }

    fn add(&mut self, record: Record) -> Node {
        let mut hasher = DefaultHasher::new();
        record.hash(&mut hasher);
        let bucket = self.known.entry(hasher.finish()).or_default();
        if let Some(equal) = bucket.iter().find(|node| *self.graph.record(**node) == record) {
            return *equal;
        }
        let node = self.graph.push(record);
        bucket.push(node);
        node
    }

    /// An operation over the new nodes; what a Write replaces is read by Views alone.
    fn through_views(&mut self, op: &Op, replaced: &HashSet<Node>, at: &dyn Fn(Node) -> Node) -> Op {
        let (whole, value) = match op {
            Op::View { x, .. } => (Some(*x), None),
            Op::Write { state, value, .. } => (Some(*state), Some(*value)),
            _ => (None, None),
        };
        let mut read = |x: Node, whole: bool| match replaced.contains(&x) && !whole {
            true => self.copied(at(x)),
            false => at(x),
        };
        let mut result = op.map_operands(&mut |x| read(x, whole == Some(x)));
        if let (Op::Write { value, .. }, Some(old)) = (&mut result, value) {
            *value = read(old, false);
        }
        result
    }

    /// A View of all of a tensor.
    fn copied(&mut self, x: Node) -> Node {
        let Record { shape, dtype, .. } = self.graph.record(x).clone();
        let op = Op::View { x, at: axes(&shape), ok: None, extras: Vec::new() };
        self.add(Record { op, shape, dtype })
    }

    /// A reduction, with the axes that it takes away moved behind all others.
    fn trailing(&mut self, monoid: Monoid, x: Node, reduced: &[usize], shape: Vec<Expr>) -> Node {
        let Record { shape: full, dtype, .. } = self.graph.record(x).clone();
        let kept = (0..full.len()).filter(|axis| !reduced.contains(axis));
        let order: Vec<usize> = kept.chain(reduced.iter().copied()).collect();
        let moved = if order.is_sorted() {
            x
        } else {
            let full: Vec<Expr> = order.iter().map(|axis| full[*axis].clone()).collect();
            let mut at = axes(&full);
            order.iter().zip(axes(&full)).for_each(|(axis, place)| at[*axis] = place);
            let op = Op::View { x, at, ok: None, extras: Vec::new() };
            self.add(Record { op, shape: full, dtype })
        };
        let axes = (order.len() - reduced.len()..order.len()).collect();
        self.add(Record { op: Op::Reduce { monoid, x: moved, axes }, shape, dtype })
    }

    /// Whether a value is made of weights and constants alone.
    fn is_fixed(&self, node: Node) -> bool {
        match self.graph.op(node) {
            Op::Weight { .. } | Op::Const(_) => true,
            Op::Index { extras, .. } => extras.is_empty(),
            Op::Map { xs, .. } => xs.iter().all(|x| self.is_fixed(*x)),
            Op::View { x, ok, extras, .. } => ok.is_none() && extras.is_empty() && self.is_fixed(*x),
            _ => false,
        }
    }

    /// A fixed value read at coordinates `at` over `shape`, with the reading moved down to the weights: what
    /// is gathered from a packed table are its planes' rows.
    fn sink(&mut self, node: Node, at: &[Expr], extras: &[Node], shape: &[Expr]) -> Node {
        let record = self.graph.record(node).clone();
        let op = match record.op {
            Op::Map { op, xs } => {
                let xs = xs.iter().map(|x| self.sink(*x, at, extras, shape)).collect();
                Op::Map { op, xs }
            }
            Op::View { x, at: inner, .. } => {
                let inner: Vec<Expr> = inner.iter().map(|e| e.at(at)).collect();
                return self.sink(x, &inner, extras, shape);
            }
            Op::Index { value, .. } => {
                let value = value.at(at);
                let extras = mentioned(extras, std::slice::from_ref(&value));
                Op::Index { value, extras }
            }
            _ => {
                let extras = mentioned(extras, at);
                let view = Op::View { x: node, at: at.to_vec(), ok: None, extras };
                let view = Record { op: view, shape: shape.to_vec(), dtype: record.dtype };
                let view = self.rows(view);
                return self.add(view);
            }
        };
        self.add(Record { op, shape: shape.to_vec(), dtype: record.dtype })
    }

    /// A view of a weight's rows by an input becomes a view of an input of just those rows.
    fn rows(&mut self, record: Record) -> Record {
        let Op::View { x, at, extras, .. } = &record.op else { return record };
        let (Op::Weight { name }, [count, width]) = (self.graph.op(*x), self.graph.shape(*x)) else {
            return record;
        };
        let (Some(_), Some(width)) = (count.as_int(), width.as_int()) else { return record };
        let Kind::Extra { slot, at: index, .. } = at[0].kind() else { return record };
        let [row] = index.as_slice() else { return record };
        let ids = extras[*slot as usize];
        let Op::Input { name: ids_name, .. } = self.graph.op(ids) else { return record };
        if mentions_extra(&at[1]) {
            return record;
        }
        let gather = Gather {
            input: format!("rows {name} by {ids_name}"),
            weight: name.clone(),
            ids: ids_name.clone(),
            dtype: record.dtype,
            width,
        };
        let shape = vec![self.graph.shape(ids)[0].clone(), Expr::int(width)];
        let op = Op::Input { name: gather.input.clone(), range: None };
        let at = vec![row.clone(), at[1].clone()];
        if !self.gathers.contains(&gather) {
            self.gathers.push(gather);
        }
        let x = self.add(Record { op, shape, dtype: record.dtype });
        Record { op: Op::View { x, at, ok: None, extras: Vec::new() }, ..record }
    }
}

/// All of the extras if one of the expressions takes any, else none.
fn mentioned(extras: &[Node], xs: &[Expr]) -> Vec<Node> {
    if xs.iter().any(mentions_extra) { extras.to_vec() } else { Vec::new() }
}

fn mentions_extra(x: &Expr) -> bool {
    x.any(&mut |leaf| matches!(leaf.kind(), Kind::Extra { .. }))
}
