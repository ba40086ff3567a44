//! The graph: nodes, what they are made of, and the builder that gives them shapes.

use crate::dtype::DType;
use crate::expr::{Expr, Kind, Symbol};
use crate::scalar::ScalarOp;
use crate::tensor::Tensor;

/// A node of a graph; prints as `%12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(pub u32);

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// An associative and commutative operation with a neutral element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Monoid {
    /// Sum.
    Add,
    /// Product.
    Mul,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

impl Monoid {
    /// The operation that joins two values.
    pub fn scalar(self) -> ScalarOp {
        match self {
            Monoid::Add => ScalarOp::Add,
            Monoid::Mul => ScalarOp::Mul,
            Monoid::Max => ScalarOp::Max,
            Monoid::Min => ScalarOp::Min,
        }
    }

    /// The name in text forms.
    pub fn name(self) -> &'static str {
        self.scalar().row().name
    }

    /// The monoid of that name.
    pub fn parse(name: &str) -> Option<Monoid> {
        [Monoid::Add, Monoid::Mul, Monoid::Max, Monoid::Min].into_iter().find(|m| m.name() == name)
    }

    /// The value that changes nothing, for elements of `dtype`.
    pub fn neutral(self, dtype: DType) -> crate::Scalar {
        use crate::Scalar::{Float, Int};
        let (low, high) = match dtype {
            DType::U32 => (0, i64::from(u32::MAX)),
            _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
        };
        match (self, dtype.is_float()) {
            (Monoid::Add, true) => Float(0.0),
            (Monoid::Add, false) => Int(0),
            (Monoid::Mul, true) => Float(1.0),
            (Monoid::Mul, false) => Int(1),
            (Monoid::Max, true) => Float(f32::NEG_INFINITY),
            (Monoid::Max, false) => Int(low),
            (Monoid::Min, true) => Float(f32::INFINITY),
            (Monoid::Min, false) => Int(high),
        }
    }
}

/// A serial loop over one axis.
///
/// The body's inputs are, in order, one per carry and one slice per `xs` (its shape without `axis`);
/// its outputs are, in order, the next carries and one slice per result. Result number `n` of the scan
/// is the last carry `n` for `n < carries.len()`, then the slices stacked along `axis`.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// The axis of `xs` and of the stacked results.
    pub axis: usize,
    /// The carries' values before the first iteration.
    pub carries: Vec<Node>,
    /// What is read slice by slice.
    pub xs: Vec<Node>,
    /// One iteration: Maps, Views and Reduces over its inputs.
    pub body: Graph,
}

impl std::hash::Hash for Scan {
    /// The body is left out: equal loops over different bodies are told apart by comparison.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.axis, &self.carries, &self.xs).hash(state);
    }
}

impl Scan {
    /// The shape and type of result number `index` of the scan in `graph`, if the body has it.
    pub fn result(&self, graph: &Graph, index: usize) -> Option<(Vec<Expr>, DType)> {
        let (_, out) = self.body.outputs.get(index)?;
        let record = self.body.nodes.get(out.0 as usize)?;
        let mut shape = record.shape.clone();
        if index >= self.carries.len() {
            let extent = graph.shape(*self.xs.first()?).get(self.axis)?.clone();
            shape.insert(self.axis.min(shape.len()), extent);
        }
        Some((shape, record.dtype))
    }
}

/// What a node computes. Five leaves, six operations, and the projection of a scan's results.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Op {
    /// Constant for ever, lives in a model file.
    Weight {
        /// Its name, with the plane's suffix for packed formats.
        name: String,
    },
    /// Survives passes; this is the version that a pass begins with. Changed only by `Write`.
    State {
        /// Its name.
        name: String,
    },
    /// Given anew each pass.
    Input {
        /// Its name.
        name: String,
        /// For integers: every element lies in `low..end`.
        range: Option<(i64, Expr)>,
    },
    /// A value known now.
    Const(Tensor),
    /// The value of an expression at each coordinate.
    Index {
        /// The expression, over the node's axes.
        value: Expr,
        /// The integer tensors that it reads.
        extras: Vec<Node>,
    },
    /// A scalar operation on tensors of one shape.
    Map {
        /// The operation.
        op: ScalarOp,
        /// Its operands.
        xs: Vec<Node>,
    },
    /// `out[i] = x[at(i)]` where `ok(i)`, else 0.
    View {
        /// What is read.
        x: Node,
        /// One expression per axis of `x`, over the node's axes.
        at: Vec<Expr>,
        /// Where to read at all; `None` is everywhere.
        ok: Option<Expr>,
        /// The integer tensors that the expressions read.
        extras: Vec<Node>,
    },
    /// Joins all elements along whole axes, which disappear.
    Reduce {
        /// How elements are joined.
        monoid: Monoid,
        /// What is reduced.
        x: Node,
        /// The axes, ascending.
        axes: Vec<usize>,
    },
    /// A loop in time.
    Scan(Box<Scan>),
    /// One result of a scan.
    Result {
        /// The scan.
        scan: Node,
        /// Which of its results.
        index: usize,
    },
    /// The next version of a state: `state` with `state[at(i)] = value[i]` where `ok(i)`.
    Write {
        /// The version that is replaced: a `State` or another `Write`.
        state: Node,
        /// One expression per axis of the state, over the axes of `value`.
        at: Vec<Expr>,
        /// Where to write at all; `None` is everywhere.
        ok: Option<Expr>,
        /// The integer tensors that the expressions read.
        extras: Vec<Node>,
        /// What is written.
        value: Node,
    },
    /// Not expressible here; a host function of that name must exist.
    Opaque {
        /// The function.
        name: String,
        /// Its operands.
        xs: Vec<Node>,
    },
}

impl Op {
    /// The nodes that the operation reads, in a fixed order.
    pub fn operands(&self) -> Vec<Node> {
        match self {
            Op::Weight { .. } | Op::State { .. } | Op::Input { .. } | Op::Const(_) => Vec::new(),
            Op::Index { extras, .. } => extras.clone(),
            Op::Map { xs, .. } | Op::Opaque { xs, .. } => xs.clone(),
            Op::View { x, extras, .. } => [&[*x], extras.as_slice()].concat(),
            Op::Reduce { x, .. } => vec![*x],
            Op::Scan(scan) => [scan.carries.as_slice(), scan.xs.as_slice()].concat(),
            Op::Result { scan, .. } => vec![*scan],
            Op::Write { state, value, extras, .. } => [&[*state, *value], extras.as_slice()].concat(),
        }
    }

    /// The operation with each node that it reads replaced.
    pub fn map_operands(&self, replace: &mut dyn FnMut(Node) -> Node) -> Op {
        let mut op = self.clone();
        let each = |xs: &mut Vec<Node>, replace: &mut dyn FnMut(Node) -> Node| {
            xs.iter_mut().for_each(|x| *x = replace(*x));
        };
        match &mut op {
            Op::Weight { .. } | Op::State { .. } | Op::Input { .. } | Op::Const(_) => {}
            Op::Index { extras, .. } => each(extras, replace),
            Op::Map { xs, .. } | Op::Opaque { xs, .. } => each(xs, replace),
            Op::View { x, extras, .. } => {
                *x = replace(*x);
                each(extras, replace);
            }
            Op::Reduce { x, .. } => *x = replace(*x),
            Op::Scan(scan) => {
                each(&mut scan.carries, replace);
                each(&mut scan.xs, replace);
            }
            Op::Result { scan, .. } => *scan = replace(*scan),
            Op::Write { state, value, extras, .. } => {
                *state = replace(*state);
                *value = replace(*value);
                each(extras, replace);
            }
        }
        op
    }
}

/// A node's operation, and the shape and type of its value.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Record {
    /// What it computes.
    pub op: Op,
    /// The extent of each axis, outermost first; no axes or extras inside.
    pub shape: Vec<Expr>,
    /// The element type.
    pub dtype: DType,
}

/// A tensor program: nodes in an order in which each one follows its operands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// The name in text form.
    pub name: String,
    /// The sizes that a pass binds; the position of each one is its slot in the symbol block.
    pub symbols: Vec<Symbol>,
    nodes: Vec<Record>,
    /// What a pass gives back, by name.
    pub outputs: Vec<(String, Node)>,
    /// The values with which the layers of a model end, first to last: where [`cut`](crate::cut::cut) may cut.
    pub layers: Vec<Node>,
}

/// What an expression of a View, Index or Write may mention: the coordinates and the extras.
pub struct Coordinates<'g> {
    graph: &'g Graph,
    axes: Vec<Expr>,
    extras: &'g [Node],
}

impl Coordinates<'_> {
    /// Coordinate `index`.
    pub fn axis(&self, index: usize) -> Expr {
        self.axes[index].clone()
    }

    /// All coordinates.
    pub fn axes(&self) -> &[Expr] {
        &self.axes
    }

    /// The element of extra `slot` at `at`.
    pub fn extra(&self, slot: usize, at: &[Expr]) -> Expr {
        let (low, end) = self.graph.value_range(self.extras[slot]);
        Expr::extra(slot as u32, at.to_vec(), low, &end)
    }
}

/// The coordinates of a tensor of that shape.
pub fn axes(shape: &[Expr]) -> Vec<Expr> {
    shape.iter().enumerate().map(|(index, extent)| Expr::axis(index as u16, extent)).collect()
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph { name: name.to_owned(), ..Graph::default() }
    }

    /// How many nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Every node, in order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = Node> + use<> {
        (0..self.nodes.len() as u32).map(Node)
    }

    /// A node's record.
    pub fn record(&self, node: Node) -> &Record {
        &self.nodes[node.0 as usize]
    }

    /// A node's operation.
    pub fn op(&self, node: Node) -> &Op {
        &self.record(node).op
    }

    /// A node's shape.
    pub fn shape(&self, node: Node) -> &[Expr] {
        &self.record(node).shape
    }

    /// A node's element type.
    pub fn dtype(&self, node: Node) -> DType {
        self.record(node).dtype
    }

    /// Appends a node as it is; `verify` says whether it is well formed.
    pub fn push(&mut self, record: Record) -> Node {
        self.nodes.push(record);
        Node(self.nodes.len() as u32 - 1)
    }

    /// Declares a symbol and gives its value.
    pub fn symbol(&mut self, symbol: &Symbol) -> Expr {
        if !self.symbols.contains(symbol) {
            self.symbols.push(symbol.clone());
        }
        Expr::symbol(symbol)
    }

    /// The range `low..end` of an integer node's elements, as far as the leaves tell.
    pub fn value_range(&self, mut node: Node) -> (i64, Expr) {
        let mut masked = false;
        let (low, end) = loop {
            match self.op(node) {
                Op::Input { range: Some((low, end)), .. } => break (*low, end.clone()),
                Op::Index { value, .. } => break (value.low(), Expr::int(value.high() + 1)),
                Op::View { x, ok, .. } => {
                    masked |= ok.is_some();
                    node = *x;
                }
                _ => break self.dtype(node).range(),
            }
        };
        // Where a view's condition does not hold, it is 0.
        if masked { (low.min(0), end.maximum(&Expr::int(1))) } else { (low, end) }
    }

    /// A weight.
    pub fn weight(&mut self, name: &str, dtype: DType, shape: &[Expr]) -> Node {
        self.push(Record { op: Op::Weight { name: name.to_owned() }, shape: shape.to_vec(), dtype })
    }

    /// A state, as a pass finds it.
    pub fn state(&mut self, name: &str, dtype: DType, shape: &[Expr]) -> Node {
        self.push(Record { op: Op::State { name: name.to_owned() }, shape: shape.to_vec(), dtype })
    }

    /// An input; integers should come with the range `low..end` of their elements.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[Expr], range: Option<(i64, Expr)>) -> Node {
        self.push(Record { op: Op::Input { name: name.to_owned(), range }, shape: shape.to_vec(), dtype })
    }

    /// A constant tensor.
    pub fn constant(&mut self, value: Tensor) -> Node {
        let shape = value.shape.iter().map(|n| Expr::int(*n as i64)).collect();
        let dtype = value.dtype;
        self.push(Record { op: Op::Const(value), shape, dtype })
    }

    fn coordinates<'g>(&'g self, shape: &[Expr], extras: &'g [Node]) -> Coordinates<'g> {
        Coordinates { graph: self, axes: axes(shape), extras }
    }

    /// The value of an expression at each coordinate of `shape`, as `dtype` (`i32`, `u32` or `bool`).
    pub fn index(
        &mut self,
        dtype: DType,
        shape: &[Expr],
        extras: &[Node],
        value: impl FnOnce(&Coordinates<'_>) -> Expr,
    ) -> Node {
        let value = value(&self.coordinates(shape, extras));
        let op = Op::Index { value, extras: extras.to_vec() };
        self.push(Record { op, shape: shape.to_vec(), dtype })
    }

    /// A scalar operation on operands of one shape.
    pub fn map(&mut self, op: ScalarOp, xs: &[Node]) -> Node {
        let dtypes: Vec<DType> = xs.iter().map(|x| self.dtype(*x)).collect();
        let dtype = match op.result(&dtypes) {
            Ok(dtype) => dtype,
            Err(expected) => panic!("{} of {dtypes:?}: it takes {expected}", op.name()),
        };
        let shape = self.shape(xs[0]).to_vec();
        for x in xs {
            assert!(self.shape(*x) == shape, "operands of {} differ in shape", op.name());
        }
        self.push(Record { op: Op::Map { op, xs: xs.to_vec() }, shape, dtype })
    }

    /// `out[i] = x[at(i)]`.
    pub fn view(
        &mut self,
        x: Node,
        shape: &[Expr],
        extras: &[Node],
        at: impl FnOnce(&Coordinates<'_>) -> Vec<Expr>,
    ) -> Node {
        self.view_where(x, shape, extras, |c| (at(c), None))
    }

    /// `out[i] = x[at(i)]` where `ok(i)`, else 0.
    pub fn view_where(
        &mut self,
        x: Node,
        shape: &[Expr],
        extras: &[Node],
        at: impl FnOnce(&Coordinates<'_>) -> (Vec<Expr>, Option<Expr>),
    ) -> Node {
        let (at, ok) = at(&self.coordinates(shape, extras));
        assert!(at.len() == self.shape(x).len(), "a view gives one expression per axis of what it reads");
        let ok = ok.filter(|ok| ok.as_int() != Some(1));
        let dtype = self.dtype(x);
        let op = Op::View { x, at, ok, extras: extras.to_vec() };
        self.push(Record { op, shape: shape.to_vec(), dtype })
    }

    /// Joins all elements along `axes`.
    pub fn reduce(&mut self, monoid: Monoid, x: Node, axes: &[usize]) -> Node {
        let record = self.record(x);
        let dtype = record.dtype;
        let kept = record.shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
        let shape = kept.map(|(_, extent)| extent.clone()).collect();
        self.push(Record { op: Op::Reduce { monoid, x, axes: axes.to_vec() }, shape, dtype })
    }

    /// The next version of `state`.
    pub fn write(
        &mut self,
        state: Node,
        value: Node,
        extras: &[Node],
        at: impl FnOnce(&Coordinates<'_>) -> (Vec<Expr>, Option<Expr>),
    ) -> Node {
        let shape = self.shape(value).to_vec();
        let (at, ok) = at(&self.coordinates(&shape, extras));
        let record = self.record(state);
        let (shape, dtype) = (record.shape.clone(), record.dtype);
        let op = Op::Write { state, at, ok, extras: extras.to_vec(), value };
        self.push(Record { op, shape, dtype })
    }

    /// A loop in time; see [`Scan`]. Gives its results, last carries first.
    pub fn scan(&mut self, scan: Scan) -> Vec<Node> {
        let count = scan.body.outputs.len();
        let result = |index| scan.result(self, index).expect("a scan's body has the nodes that it gives");
        let results: Vec<(Vec<Expr>, DType)> = (0..count).map(result).collect();
        let (shape, dtype) = results.first().cloned().unwrap_or((Vec::new(), DType::F32));
        let scan = self.push(Record { op: Op::Scan(Box::new(scan)), shape, dtype });
        let project =
            |(index, (shape, dtype))| self.push(Record { op: Op::Result { scan, index }, shape, dtype });
        results.into_iter().enumerate().map(project).collect()
    }

    /// Names a node as an output of the pass.
    pub fn output(&mut self, name: &str, node: Node) {
        self.outputs.push((name.to_owned(), node));
    }

    /// Says that the next layer ends with this value. It costs nothing: no value is kept for it.
    pub fn end_layer(&mut self, node: Node) {
        self.layers.push(node);
    }

    /// Which nodes read each node; outputs do not count.
    pub fn users(&self) -> Vec<Vec<Node>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for node in self.nodes() {
            let mut operands = self.op(node).operands();
            operands.sort_unstable();
            operands.dedup();
            operands.into_iter().for_each(|x| users[x.0 as usize].push(node));
        }
        users
    }

    /// The state that a version belongs to: a `State` leaf, and how many writes lie between.
    pub fn state_of(&self, mut node: Node) -> Option<(Node, usize)> {
        let mut version = 0;
        loop {
            match self.op(node) {
                Op::State { .. } => return Some((node, version)),
                Op::Write { state, .. } => node = *state,
                _ => return None,
            }
            version += 1;
        }
    }
}

/// The number of elements of a shape.
pub fn element_count(shape: &[Expr]) -> Expr {
    shape.iter().fold(Expr::int(1), |product, extent| product * extent.clone())
}

/// The row-major position of a coordinate.
pub fn row_major(shape: &[Expr], at: &[Expr]) -> Expr {
    shape.iter().zip(at).fold(Expr::int(0), |position, (extent, x)| position * extent.clone() + x.clone())
}

/// Whether an expression is one of a shape: only constants and symbols.
pub fn is_extent(x: &Expr) -> bool {
    !x.any(&mut |leaf| matches!(leaf.kind(), Kind::Axis { .. } | Kind::Extra { .. }))
}
