//! The reference interpreter: what a graph means, computed plainly.
//!
//! Nodes are evaluated a block of points at a time. Views, indices and most maps are never stored: a
//! `Reduce` over the product of two broadcast matrices asks for the product's elements block by block.
//! Stored are the results of `Reduce`, `Scan`, `Write` and `Opaque`, the outputs, and maps whose elements
//! would otherwise be computed at least twice; each value is dropped after its last reader.
//!
//! A graph must have passed [`verify`](crate::verify::verify); coordinates are checked all the same.

mod block;
mod evaluate;
mod plan;
mod scan;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use crate::dtype::DType;
use crate::graph::{Graph, Node, Op};
use crate::tensor::Tensor;
use block::Points;
use evaluate::Machine;
use plan::Plan;

/// A host function that stands for an `Opaque` node.
pub type HostFunction = std::sync::Arc<dyn Fn(&[&Tensor]) -> Tensor + Send + Sync>;

/// The values of a graph's leaves. States are read and, after a pass that succeeds, replaced by their
/// last versions; everything else is only read. Names that the graph does not mention are ignored.
#[derive(Clone, Default)]
pub struct Bindings {
    /// Sizes, by the symbol's name.
    pub symbols: BTreeMap<String, i64>,
    /// Weights, by name.
    pub weights: BTreeMap<String, Tensor>,
    /// Inputs, by name.
    pub inputs: BTreeMap<String, Tensor>,
    /// States, by name.
    pub states: BTreeMap<String, Tensor>,
    /// Host functions, by the name of the `Opaque` node.
    pub functions: BTreeMap<String, HostFunction>,
}

impl Bindings {
    /// No bindings.
    pub fn new() -> Bindings {
        Bindings::default()
    }
}

/// Why a graph could not be run.
#[derive(Clone, Debug, PartialEq)]
pub enum InterpError {
    /// A leaf has no value.
    Missing {
        /// `symbol`, `weight`, `input`, `state` or `function`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A symbol's value breaks the bounds that the symbol was declared with.
    Symbol {
        /// Its name.
        name: String,
        /// The value.
        value: i64,
        /// What the declaration says.
        expected: String,
    },
    /// A tensor has another type or shape than its node.
    Mismatch {
        /// `weight`, `input`, `state` or `function`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The node's type and shape.
        expected: String,
        /// The tensor's.
        found: String,
    },
    /// An element of an input lies outside the input's range.
    Range {
        /// The input's name.
        name: String,
        /// The coordinates of the element.
        at: Vec<usize>,
        /// The element.
        value: i64,
        /// The smallest value allowed.
        low: i64,
        /// One more than the largest value allowed.
        end: i64,
    },
    /// A coordinate lies outside the tensor that is read or written.
    OutOfBounds {
        /// The node that reads or writes.
        node: Node,
        /// The coordinates.
        at: Vec<i64>,
        /// The shape of the tensor.
        shape: Vec<usize>,
    },
    /// A tensor would have more elements than any machine holds, or fewer than none.
    Size {
        /// The node.
        node: Node,
        /// Its extents.
        extents: Vec<i64>,
    },
    /// The graph breaks a rule that `verify` checks.
    Malformed {
        /// The node.
        node: Node,
        /// What is wrong.
        why: &'static str,
    },
}

impl fmt::Display for InterpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InterpError::Missing { kind, name } => write!(f, "{kind} {name} has no value"),
            InterpError::Symbol { name, value, expected } => {
                write!(f, "symbol {name} is {value}, expected {expected}")
            }
            InterpError::Mismatch { kind, name, expected, found } => {
                write!(f, "{kind} {name} is {found}, expected {expected}")
            }
            InterpError::Range { name, at, value, low, end } => {
                write!(f, "input {name} at {at:?} is {value}, expected a value in {low}..{end}")
            }
            InterpError::OutOfBounds { node, at, shape } => {
                write!(f, "{node} addresses {at:?} of a tensor of shape {shape:?}")
            }
            InterpError::Size { node, extents } => write!(f, "{node} would have the extents {extents:?}"),
            InterpError::Malformed { node, why } => write!(f, "{node} is malformed: {why}"),
        }
    }
}

impl std::error::Error for InterpError {}

/// Runs one pass: the outputs by name, in the order in which the graph names them.
///
/// After an error no state has changed.
pub fn run(graph: &Graph, bindings: &mut Bindings) -> Result<Vec<(String, Tensor)>, InterpError> {
    check_symbols(graph, bindings)?;
    let plan = Plan::new(graph, &bindings.symbols)?;
    let mut machine = Machine::new(graph, &plan, &bindings.symbols, &bindings.functions);
    for node in graph.nodes() {
        if let Some(value) = leaf(graph, &plan, node, bindings)? {
            machine.give(node, Cow::Borrowed(value));
        }
    }
    machine.check_ranges()?;
    machine.run()?;
    let outputs = machine.outputs()?;
    let states = machine.last_versions();
    bindings.states.extend(states);
    Ok(outputs)
}

fn check_symbols(graph: &Graph, bindings: &Bindings) -> Result<(), InterpError> {
    for symbol in &graph.symbols {
        let name = symbol.name().to_owned();
        let Some(value) = bindings.symbols.get(&name).copied() else {
            return Err(InterpError::Missing { kind: "symbol", name });
        };
        if value < symbol.low() || value > symbol.high() || value % symbol.divisor() != 0 {
            let (low, high, step) = (symbol.low(), symbol.high(), symbol.divisor());
            let expected = format!("a multiple of {step} from {low} to {high}");
            return Err(InterpError::Symbol { name, value, expected });
        }
    }
    Ok(())
}

/// The value that `bindings` hold for a leaf, if the node is a leaf that needs one.
fn leaf<'a>(
    graph: &'a Graph,
    plan: &Plan,
    node: Node,
    bindings: &'a Bindings,
) -> Result<Option<&'a Tensor>, InterpError> {
    let (kind, name, table) = match graph.op(node) {
        Op::Weight { name } => ("weight", name, &bindings.weights),
        Op::State { name } => ("state", name, &bindings.states),
        Op::Input { name, .. } => ("input", name, &bindings.inputs),
        Op::Const(value) => return Ok(Some(value)),
        _ => return Ok(None),
    };
    let value = table.get(name).ok_or_else(|| InterpError::Missing { kind, name: name.clone() })?;
    check_tensor(kind, name, graph.dtype(node), plan.shape(node), value)?;
    Ok(Some(value))
}

fn check_tensor(
    kind: &'static str,
    name: &str,
    dtype: DType,
    shape: &[usize],
    value: &Tensor,
) -> Result<(), InterpError> {
    if value.dtype == dtype && value.shape == shape {
        return Ok(());
    }
    Err(InterpError::Mismatch {
        kind,
        name: name.to_owned(),
        expected: format!("{dtype}{shape:?}"),
        found: format!("{}{:?}", value.dtype, value.shape),
    })
}

/// The coordinates of position `position` in a row-major tensor.
fn coordinates(shape: &[usize], position: usize) -> Vec<usize> {
    let mut rest = position;
    let mut at: Vec<usize> = shape
        .iter()
        .rev()
        .map(|extent| {
            let x = rest % extent.max(&1);
            rest /= extent.max(&1);
            x
        })
        .collect();
    at.reverse();
    at
}
