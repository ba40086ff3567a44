//! Computes elements of nodes inside a kernel: views become coordinates, maps become scalar operations,
//! leaves and stored nodes become loads.

use std::collections::{HashMap, HashSet};
use std::ops::{Range, RangeInclusive};

use jtllm_ir::expr::Kind;
use jtllm_ir::graph::{element_count, row_major};
use jtllm_ir::{DType, Expr, Graph, Layout, Node, Op, Scalar, ScalarOp};

use super::{Scheduled, layout, parts};
use crate::kernel::build::Builder;
use crate::kernel::{Access, Memory, ValueId};
use crate::options::Options;
use crate::region::Region;
use crate::target::Caps;

/// What a launch binds to a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Argument {
    /// A weight's plane, by the leaf's name.
    Weight(String),
    /// These bytes of a weight's plane, where a launch does not read all of it.
    Part(String, Range<u64>),
    /// A state, by name.
    State(String),
    /// An input, by name.
    Input(String),
    /// The constant that a node of the canonical graph holds.
    Const(Node),
    /// The buffer of a stored node of the canonical graph.
    Value(Node),
    /// So many bytes for what the kernels of one region hand on to each other; the node is the region's first root.
    Scratch(Node, Expr),
}

/// A place in a parameter.
pub(super) struct Source {
    argument: Argument,
    dtype: DType,
    len: Expr,
    /// The element's offset.
    pub(super) offset: Expr,
}

/// A region on its way to a kernel.
#[derive(Clone)]
pub(super) struct Lower<'a> {
    pub(super) graph: &'a Graph,
    pub(super) region: &'a Region,
    pub(super) caps: &'a Caps,
    pub(super) options: &'a Options,
    pub(super) b: Builder,
    /// The columns of a contraction that the kernel computes; none: all of them.
    pub(super) part: Option<Range<i64>>,
    /// Rows of matrices, the first and the last, of which a launch that computes a part binds all or none, wherever in them
    /// its loads lie.
    pub(super) rows: Vec<(Node, RangeInclusive<i64>)>,
    stored: &'a HashSet<Node>,
    /// Nodes whose value at the place being computed is known: sums, mostly.
    bound: HashMap<Node, ValueId>,
    arguments: Vec<Argument>,
    memories: HashMap<(Argument, Access, DType), Memory>,
}

impl<'a> Lower<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        stored: &'a HashSet<Node>,
        region: &'a Region,
        (caps, options): (&'a Caps, &'a Options),
        part: Option<Range<i64>>,
    ) -> Lower<'a> {
        let one = || Expr::int(1);
        let b = Builder::new(region.work.name(), caps.lanes, [one(), one(), one()]);
        Lower {
            graph,
            region,
            caps,
            options,
            b,
            part,
            rows: Vec::new(),
            stored,
            bound: HashMap::new(),
            arguments: Vec::new(),
            memories: HashMap::new(),
        }
    }

    /// Starts the kernel: nothing may have been computed before.
    pub(super) fn grid(&mut self, lanes: u32, grid: [Expr; 3]) {
        self.b = Builder::new(self.region.work.name(), lanes, grid);
    }

    pub(super) fn finish(self) -> Scheduled {
        Scheduled { kernel: self.b.finish(&self.graph.symbols), arguments: self.arguments }
    }

    /// Another kernel of the same region.
    pub(super) fn another(&self) -> Lower<'a> {
        Lower::new(self.graph, self.stored, self.region, (self.caps, self.options), self.part.clone())
    }

    /// The `f32`s that the kernels of the region hand on to each other.
    pub(super) fn scratch(&mut self, access: Access, len: &Expr) -> Memory {
        let argument = Argument::Scratch(self.region.roots[0], len.clone() * DType::F32.size() as i64);
        self.memory(argument, access, DType::F32, len.clone())
    }

    /// Says what a node's value is at the place being computed; replaces an earlier answer.
    pub(super) fn bind(&mut self, node: Node, value: ValueId) {
        self.bound.insert(node, value);
    }

    pub(super) fn is_stored(&self, node: Node) -> bool {
        self.stored.contains(&node) && !self.region.roots.contains(&node)
    }

    /// The state of which a node is a version.
    fn state(&self, node: Node) -> Argument {
        let (leaf, _) = self.graph.state_of(node).expect("verify: a write's state is a version of a state");
        let Op::State { name } = self.graph.op(leaf) else { unreachable!("state_of gives a State leaf") };
        Argument::State(name.clone())
    }

    /// Whether the region writes what an argument names.
    fn writes(&self, argument: &Argument) -> bool {
        let Argument::State(name) = argument else { return false };
        self.region.roots.iter().any(|root| match self.graph.state_of(*root) {
            Some((leaf, _)) => matches!(self.graph.op(leaf), Op::State { name: written } if written == name),
            None => false,
        })
    }

    /// The parameter of an argument. A state that is read and written is one: browsers let no launch bind a buffer
    /// twice if it is written.
    fn memory(&mut self, argument: Argument, access: Access, dtype: DType, len: Expr) -> Memory {
        let is_read_too = self.memories.contains_key(&(argument.clone(), Access::Update, dtype));
        let access = match access {
            Access::Read if self.writes(&argument) => Access::Update,
            Access::Write if is_read_too => Access::Update,
            _ => access,
        };
        if let Some(known) = self.memories.get(&(argument.clone(), access, dtype)) {
            return *known;
        }
        // Weights may be adopted from a mapped file, unless the target loads or copies vectors of them.
        let own = self.caps.vector_bytes > 0 || self.caps.stage;
        let aligned = own || !matches!(argument, Argument::Weight(_) | Argument::Part(..));
        let memory = self.b.param(dtype, access, len, aligned);
        self.arguments.push(argument.clone());
        self.memories.insert((argument, access, dtype), memory);
        memory
    }

    /// The node's element at `at`.
    pub(super) fn value(&mut self, node: Node, at: &[Expr]) -> ValueId {
        if let Some(value) = self.bound.get(&node) {
            return *value;
        }
        if self.is_stored(node) {
            return self.load(node, Argument::Value(node), at);
        }
        let graph = self.graph;
        match graph.op(node) {
            Op::Weight { name } => self.load_weight(node, name, at),
            Op::Input { name, .. } => self.load(node, Argument::Input(name.clone()), at),
            Op::State { .. } | Op::Write { .. } => self.load(node, self.state(node), at),
            Op::Const(tensor) if tensor.shape.is_empty() => self.b.constant(tensor.dtype, tensor.get(0)),
            Op::Const(_) => self.load(node, Argument::Const(node), at),
            Op::Index { value, extras } => {
                let value = self.resolve(value, at, extras);
                self.b.index(graph.dtype(node), &value)
            }
            Op::View { x, at: inner, ok, extras } => {
                let Some(ok) = ok else {
                    let inner: Vec<Expr> = inner.iter().map(|e| self.resolve(e, at, extras)).collect();
                    return self.value(*x, &inner);
                };
                let ok = self.resolve(ok, at, extras);
                self.value_where(*x, inner, at, extras, &ok)
            }
            Op::Map { op, xs } => {
                let xs: Vec<ValueId> = xs.iter().map(|x| self.value(*x, at)).collect();
                self.b.scalar(*op, &xs)
            }
            Op::Reduce { .. } | Op::Scan(_) | Op::Result { .. } | Op::Opaque { .. } => {
                panic!("{node} is read in region {:?} before it is computed", self.region.roots)
            }
        }
    }

    /// The element at `inner`, which is over `at`, where `ok`, else 0.
    fn value_where(&mut self, x: Node, inner: &[Expr], at: &[Expr], extras: &[Node], ok: &Expr) -> ValueId {
        let dtype = self.graph.dtype(x);
        let zero = self.b.constant(dtype, if dtype.is_float() { Scalar::Float(0.0) } else { Scalar::Int(0) });
        if ok.as_int() == Some(0) {
            return zero;
        }
        let cell = self.b.cell(zero);
        // A block of its own: the address may be outside of the tensor where the condition does not hold.
        self.conditional(ok, |lower| {
            let inner: Vec<Expr> = inner.iter().map(|e| lower.resolve(e, at, extras)).collect();
            let value = lower.value(x, &inner);
            lower.b.set(cell, value);
        });
        self.b.get(cell)
    }

    /// Runs `body` under a condition.
    pub(super) fn conditional(&mut self, cond: &Expr, body: impl FnOnce(&mut Lower<'a>)) {
        match cond.as_int() {
            Some(0) => {}
            Some(_) => body(self),
            None => {
                self.b.open_when(cond);
                body(self);
                self.b.close();
            }
        }
    }

    /// Runs `body` for each value of a new axis.
    pub(super) fn repeat(&mut self, extent: &Expr, body: impl FnOnce(&mut Lower<'a>, Expr)) {
        if extent.as_int() == Some(1) {
            return body(self, Expr::int(0));
        }
        let axis = self.b.open_loop(extent);
        body(self, axis);
        self.b.close();
    }

    /// An index expression at coordinates `at`, with each extra replaced by the integer that it reads. Both are
    /// replaced at once: integers that `at` mentions look like extras, but belong to the kernel already.
    pub(super) fn resolve(&mut self, x: &Expr, at: &[Expr], extras: &[Node]) -> Expr {
        x.substitute(&mut |leaf| match leaf.kind() {
            Kind::Axis { index, .. } => at.get(usize::from(*index)).cloned(),
            Kind::Extra { slot, at, low, end } => {
                let extra = extras[*slot as usize];
                let value = self.value(extra, at);
                Some(self.b.as_expr(value, *low, end))
            }
            _ => None,
        })
    }

    /// Where the element of `dtype` lies that a node's is made of by nothing but moving and widening it.
    pub(super) fn source(&mut self, node: Node, at: &[Expr], dtype: DType) -> Option<Source> {
        let graph = self.graph;
        if self.bound.contains_key(&node) {
            return None;
        }
        let argument = match graph.op(node) {
            _ if self.is_stored(node) => Argument::Value(node),
            Op::Weight { name } => Argument::Weight(name.clone()),
            Op::Input { name, .. } => Argument::Input(name.clone()),
            Op::State { .. } | Op::Write { .. } => {
                let argument = self.state(node);
                // What the kernel itself changes must be loaded by lanes.
                if self.writes(&argument) {
                    return None;
                }
                argument
            }
            Op::View { x, at: inner, ok: None, extras } => {
                let inner: Vec<Expr> = inner.iter().map(|e| self.resolve(e, at, extras)).collect();
                return self.source(*x, &inner, dtype);
            }
            Op::Map { op: ScalarOp::Cast(DType::F32), xs } => return self.source(xs[0], at, dtype),
            _ => return None,
        };
        let found = graph.dtype(node);
        let source = match argument {
            Argument::Weight(name) => self.weight(node, &name, at),
            argument => self.whole(node, argument, at, Layout::RowMajor),
        };
        (found == dtype).then_some(source)
    }

    /// The parameter in which a source lies.
    pub(super) fn open(&mut self, source: &Source) -> Memory {
        self.memory(source.argument.clone(), Access::Read, source.dtype, source.len.clone())
    }

    /// Two neighbours of 16 bits that begin at a source, the first one in the lower half of the word. They must lie at a
    /// multiple of two elements.
    pub(super) fn load_pair(&mut self, source: &Source) -> ValueId {
        let len = source.len.clone().div_floor(2);
        let memory = self.memory(source.argument.clone(), Access::Read, DType::U32, len);
        self.b.load(memory, &source.offset.clone().div_floor(2))
    }

    fn load_weight(&mut self, node: Node, name: &str, at: &[Expr]) -> ValueId {
        let source = self.weight(node, name, at);
        let memory = self.open(&source);
        self.b.load(memory, &source.offset)
    }

    /// Where an element of a weight lies.
    fn weight(&self, node: Node, name: &str, at: &[Expr]) -> Source {
        let layout = layout(name, self.graph.shape(node).len(), self.caps);
        match self.window(node, at, layout) {
            Some(rows) => self.inside(node, name, at, (rows, layout)),
            None => self.whole(node, Argument::Weight(name.to_owned()), at, layout),
        }
    }

    /// The rows of a matrix that a load may touch, if a launch does not bind all.
    fn window(&self, node: Node, at: &[Expr], layout: Layout) -> Option<Range<i64>> {
        let rows = self.graph.shape(node)[0].as_int().filter(|_| at.len() == 2)?;
        let unit = parts::unit(self, node, layout)?;
        let (low, high) = (at[0].low(), at[0].high());
        let has = |span: &&(Node, RangeInclusive<i64>)| {
            span.0 == node && span.1.contains(&low) && span.1.contains(&high)
        };
        let (low, high) =
            self.rows.iter().find(has).map_or((low, high), |(_, span)| (*span.start(), *span.end()));
        let first = low.max(0) / unit * unit;
        Some(first..((high / unit + 1) * unit).min(rows))
    }

    /// An element of a matrix of which these rows are bound.
    fn inside(&self, node: Node, name: &str, at: &[Expr], window: (Range<i64>, Layout)) -> Source {
        let (rows, layout) = window;
        let (columns, dtype) = (&self.graph.shape(node)[1], self.graph.dtype(node));
        let shape = [Expr::int(rows.end - rows.start), columns.clone()];
        let len = layout.len(&shape);
        let constant = |x: &Expr| x.as_int().expect("weights have constant shapes") as u64;
        let start = rows.start as u64 * constant(columns) * dtype.size() as u64;
        let bytes = start..start + constant(&len) * dtype.size() as u64;
        let place = [at[0].clone() - rows.start, at[1].clone()];
        let offset = layout.offset(&shape, &place);
        Source { argument: Argument::Part(name.to_owned(), bytes), dtype, len, offset }
    }

    fn whole(&self, node: Node, argument: Argument, at: &[Expr], layout: Layout) -> Source {
        let shape = self.graph.shape(node);
        let (offset, len) = (layout.offset(shape, at), layout.len(shape));
        Source { argument, dtype: self.graph.dtype(node), len, offset }
    }

    fn load(&mut self, node: Node, argument: Argument, at: &[Expr]) -> ValueId {
        let source = self.whole(node, argument, at, Layout::RowMajor);
        let memory = self.open(&source);
        self.b.load(memory, &source.offset)
    }

    /// Stores the values of those roots that have `rank` axes at `at`. If all lanes hold the same value
    /// (`alone`), one of them stores it.
    pub(super) fn store_roots(&mut self, rank: usize, at: &[Expr], alone: bool) {
        for root in &self.region.roots {
            let value = match self.graph.op(*root) {
                Op::Write { value, .. } => *value,
                _ => *root,
            };
            if self.graph.shape(value).len() == rank {
                self.store_root(*root, at, alone);
            }
        }
    }

    /// Stores a root's element at `at`.
    pub(super) fn store_root(&mut self, root: Node, at: &[Expr], alone: bool) {
        let graph = self.graph;
        let shape = graph.shape(root);
        let len = element_count(shape);
        let Op::Write { at: place, ok, extras, value, .. } = graph.op(root) else {
            let value = self.value(root, at);
            let memory = self.memory(Argument::Value(root), Access::Write, graph.dtype(root), len);
            return self.store(memory, &row_major(shape, at), value, alone);
        };
        let value = self.value(*value, at);
        let memory = self.memory(self.state(root), Access::Write, graph.dtype(root), len);
        let ok = ok.as_ref().map_or(Expr::int(1), |ok| self.resolve(ok, at, extras));
        let place: Vec<Expr> = place.iter().map(|e| self.resolve(e, at, extras)).collect();
        self.conditional(&ok, |lower| lower.store(memory, &row_major(shape, &place), value, alone));
    }

    /// Stores a value; if `alone`, by the first lane only.
    pub(super) fn store(&mut self, memory: Memory, at: &Expr, value: ValueId, alone: bool) {
        let first = if alone { self.b.lane().equals(&Expr::int(0)) } else { Expr::int(1) };
        self.conditional(&first, |lower| lower.b.store(memory, at, value));
    }
}
