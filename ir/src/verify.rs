//! Lists every fault of a graph.
//!
//! A graph without faults has a meaning: operands come first, shapes and types agree, and every coordinate
//! of every View, Write and extra is proven to lie inside what it addresses, for all sizes that the symbols
//! can take and all values that the extras are declared to have.

mod expression;
mod scan;
mod state;

use std::collections::HashMap;
use std::fmt;

use crate::RANK_MAX;
use crate::dtype::DType;
use crate::expr::{Expr, Symbol, proves_nonnegative};
use crate::graph::{Graph, Node, Op, is_extent};
use expression::Access;

/// A rule that a node breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyError {
    /// The node; for a fault inside a scan's body, the scan.
    pub node: Node,
    /// The rule.
    pub rule: &'static str,
    /// What was found instead.
    pub found: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; found {}", self.node, self.rule, self.found)
    }
}

impl std::error::Error for VerifyError {}

/// All faults of the graph, in node order; `Ok` if there are none.
pub fn verify(graph: &Graph) -> Result<(), Vec<VerifyError>> {
    let mut checker = Checker { graph, symbols: &graph.symbols, faults: Vec::new() };
    checker.graph();
    checker.faults.sort_by_key(|fault| fault.node);
    if checker.faults.is_empty() { Ok(()) } else { Err(checker.faults) }
}

struct Checker<'g> {
    graph: &'g Graph,
    /// Those that expressions may mention: a body's are those of the graph around it.
    symbols: &'g [Symbol],
    faults: Vec<VerifyError>,
}

impl<'g> Checker<'g> {
    fn fault(&mut self, node: Node, rule: &'static str, found: impl fmt::Display) {
        self.faults.push(VerifyError { node, rule, found: found.to_string() });
    }

    /// Records a fault unless `holds`; tells whether it holds.
    fn demand(&mut self, holds: bool, node: Node, rule: &'static str, found: impl fmt::Display) -> bool {
        if !holds {
            self.fault(node, rule, found);
        }
        holds
    }

    fn graph(&mut self) {
        for node in self.graph.nodes() {
            // Nothing further can be asked of a node whose operands cannot be looked up.
            if self.operands(node) {
                self.shape(node);
                self.operation(node);
            }
        }
        for (name, node) in &self.graph.outputs {
            let exists = (node.0 as usize) < self.graph.len();
            self.demand(exists, *node, "outputs exist", format_args!("output {name} of no node"));
        }
        for node in &self.graph.layers {
            let exists = (node.0 as usize) < self.graph.len();
            self.demand(exists, *node, "layers end with nodes", "a layer that ends with no node");
        }
        let mut names: Vec<&(String, Node)> = self.graph.outputs.iter().collect();
        names.sort();
        for pair in names.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            self.fault(pair[1].1, "outputs have different names", format_args!("{} twice", pair[1].0));
        }
        self.names();
        self.states();
    }

    fn operands(&mut self, node: Node) -> bool {
        let late = self.graph.op(node).operands().into_iter().find(|x| *x >= node);
        late.is_none_or(|x| self.demand(false, node, "operands come before their users", x))
    }

    fn shape(&mut self, node: Node) {
        let shape = self.graph.shape(node);
        self.demand(shape.len() <= RANK_MAX, node, "a tensor has at most 8 axes", shape.len());
        for extent in shape {
            self.demand(is_extent(extent), node, "an extent is made of constants and symbols", extent);
            let bounded = proves_nonnegative(extent, &[]);
            self.demand(bounded, node, "an extent is not negative", extent);
            self.declared(node, extent);
        }
    }

    fn operation(&mut self, node: Node) {
        let graph = self.graph;
        let dtype = graph.dtype(node);
        match graph.op(node) {
            Op::Weight { .. } | Op::State { .. } | Op::Opaque { .. } => {}
            Op::Input { range, .. } => {
                if let Some((low, end)) = range {
                    self.range(node, *low, end);
                }
            }
            Op::Const(value) => {
                let shape: Vec<Expr> = value.shape.iter().map(|n| Expr::int(*n as i64)).collect();
                let same = value.dtype == dtype && shape == graph.shape(node);
                self.demand(same, node, "a constant has the node's type and shape", value.dtype);
            }
            Op::Index { value, extras } => self.index(node, value, extras),
            Op::Map { op, xs } => {
                let dtypes: Vec<DType> = xs.iter().map(|x| graph.dtype(*x)).collect();
                let names: Vec<&str> = dtypes.iter().map(|x| x.name()).collect();
                let fits = op.result(&dtypes) == Ok(dtype);
                let found = format!("{} of ({}) giving {dtype}", op.name(), names.join(", "));
                self.demand(fits, node, "a map's types are those of its operation", found);
                for x in xs {
                    let same = graph.shape(*x) == graph.shape(node);
                    let found = format!("{x} {}", shown(graph.shape(*x)));
                    self.demand(same, node, "a map and its operands have one shape", found);
                }
            }
            Op::View { x, at, ok, extras } => {
                self.demand(dtype == graph.dtype(*x), node, "a view has the type of what it reads", dtype);
                let space = graph.shape(node);
                let access = Access { node, space, extras, at, ok: ok.as_ref(), target: *x };
                self.access(&access);
            }
            Op::Reduce { x, axes, .. } => self.reduce(node, *x, axes),
            Op::Scan(scan) => self.scan(node, scan),
            Op::Result { scan, index } => self.result(node, *scan, *index),
            Op::Write { state, at, ok, extras, value } => {
                let is_state = graph.state_of(*state).is_some();
                self.demand(is_state, node, "a write replaces a version of a state", state);
                let same = graph.shape(*state) == graph.shape(node) && graph.dtype(*state) == dtype;
                self.demand(same, node, "a write has the type and shape of its state", dtype);
                let found = graph.dtype(*value);
                self.demand(found == dtype, node, "what is written has the state's type", found);
                let space = graph.shape(*value);
                let access = Access { node, space, extras, at, ok: ok.as_ref(), target: *state };
                self.access(&access);
            }
        }
        let direct = |x: &Node| matches!(graph.op(*x), Op::Scan(_));
        if !matches!(graph.op(node), Op::Result { .. })
            && let Some(scan) = graph.op(node).operands().into_iter().find(direct)
        {
            self.fault(node, "a scan is read through its results", scan);
        }
    }

    fn range(&mut self, node: Node, low: i64, end: &Expr) {
        let dtype = self.graph.dtype(node);
        self.demand(!dtype.is_float(), node, "only integers have a range", dtype);
        self.demand(is_extent(end), node, "a range is made of constants and symbols", end);
        self.declared(node, end);
        let fits =
            dtype.is_float() || (dtype.wrap(low) == low && dtype.wrap(end.high() - 1) == end.high() - 1);
        self.demand(fits, node, "a range fits its type", format_args!("{low}..{end}"));
        let some = end.high() > low;
        self.demand(some, node, "a range is not empty", format_args!("{low}..{end}"));
    }

    fn index(&mut self, node: Node, value: &Expr, extras: &[Node]) {
        let dtype = self.graph.dtype(node);
        let integer = matches!(dtype, DType::I32 | DType::U32 | DType::Bool);
        self.demand(integer, node, "an index is i32, u32 or bool", dtype);
        let fits =
            !integer || (dtype.wrap(value.low()) == value.low() && dtype.wrap(value.high()) == value.high());
        let found = format!("{dtype} for values from {} to {}", value.low(), value.high());
        self.demand(fits, node, "the values of an index fit its type", found);
        self.extras(node, extras);
        self.expression(node, value, self.graph.shape(node), extras, &[]);
    }

    fn reduce(&mut self, node: Node, x: Node, axes: &[usize]) {
        let graph = self.graph;
        let (from, dtype) = (graph.shape(x), graph.dtype(x));
        let arithmetic = matches!(dtype, DType::F32 | DType::I32 | DType::U32);
        self.demand(arithmetic, node, "f32, i32 and u32 can be reduced", dtype);
        self.demand(dtype == graph.dtype(node), node, "a reduction keeps the type", graph.dtype(node));
        let ascending = axes.windows(2).all(|pair| pair[0] < pair[1]) && !axes.is_empty();
        let inside = axes.iter().all(|axis| *axis < from.len());
        let found = format!("{axes:?} of {} axes", from.len());
        self.demand(ascending && inside, node, "reduced axes ascend and exist, and there is one", found);
        let kept = from.iter().enumerate().filter(|(axis, _)| !axes.contains(axis)).map(|(_, extent)| extent);
        let same = kept.eq(graph.shape(node));
        self.demand(same, node, "a reduction has the axes that are left", shown(graph.shape(node)));
    }

    /// Leaves that share a name are the same leaf.
    fn names(&mut self) {
        let graph = self.graph;
        let mut first: HashMap<(&str, &str), Node> = HashMap::new();
        for node in graph.nodes() {
            let (kind, name, rule) = match graph.op(node) {
                Op::Weight { name } => ("weight", name, "weights with one name agree in type and shape"),
                Op::State { name } => ("state", name, "states with one name agree in type and shape"),
                Op::Input { name, .. } => ("input", name, "inputs with one name agree"),
                _ => continue,
            };
            let known = *first.entry((kind, name)).or_insert(node);
            self.demand(
                graph.record(known) == graph.record(node),
                node,
                rule,
                format_args!("{name} as {known}"),
            );
        }
    }

    /// Each symbol of an expression is declared, once and with the same bounds.
    fn declared(&mut self, node: Node, x: &Expr) {
        let symbols = self.symbols;
        let mut unknown = Vec::new();
        expression::visit_leaves(x, &mut |leaf| {
            if let crate::expr::Kind::Sym(symbol) = leaf.kind() {
                let named = symbols.iter().filter(|s| s.name() == symbol.name());
                if named.count() != 1 || !symbols.contains(symbol) {
                    unknown.push(symbol.name().to_owned());
                }
            }
        });
        unknown.sort();
        unknown.dedup();
        if let Some(symbol) = symbols.iter().find(|s| !crate::print::is_symbol_name(s.name())) {
            self.fault(node, "a symbol's name is a word that no expression understands", symbol.name());
        }
        for name in unknown {
            self.fault(node, "a symbol is declared once, with the bounds of its uses", name);
        }
    }
}

fn shown(shape: &[Expr]) -> String {
    let extents: Vec<String> = shape.iter().map(Expr::to_string).collect();
    format!("[{}]", extents.join(","))
}
