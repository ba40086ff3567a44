//! Reads the text form of graphs, which [`print`](crate::print::print) writes.
//!
//! Beyond what is printed it takes, for texts written by hand: comments from `#` to the end of a line,
//! names for nodes (`%kr`), operations in place of operands (`(map mul %x %x)`), numbers as operands of
//! a map, which are broadcast to its shape, and `write k3.0 ...` for the first version of the state `k3`.
//! A node's type and shape may be left out where the operands tell them; they are never checked here, so
//! that a text can spell any fault that [`verify`](crate::verify::verify) finds.
//!
//! Any text gives a graph or an error; the depth of nesting and the size of expressions are bounded.

mod cursor;
mod expression;
mod operation;
mod resolve;

use std::collections::HashMap;
use std::fmt;

use crate::dtype::DType;
use crate::expr::{Expr, Symbol};
use crate::graph::{Graph, Node, Op};
use crate::print::is_symbol_name;
use cursor::Cursor;
use expression::Scope;

/// Text that is not a graph, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What could have stood there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ParseError { line, column, expected, found } = self;
        write!(f, "line {line}, column {column}: expected {expected}, found {found}")
    }
}

impl std::error::Error for ParseError {}

/// The graph that the text describes.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut cursor = Cursor::new(text);
    let graph = Parser::new(&[], 0).graph(&mut cursor)?;
    cursor.skip_lines();
    if cursor.is_at_end() { Ok(graph) } else { Err(cursor.error("a statement")) }
}

/// Sizes and numbers in text stay below this, so that arithmetic on them is far from overflow.
const NUMBER_MAX: i64 = 1 << 48;

/// How deep scans may stand inside each other.
const SCAN_DEPTH_MAX: usize = 4;

/// A graph under construction.
struct Parser {
    graph: Graph,
    names: HashMap<String, Node>,
    /// The versions of each state, so far.
    versions: HashMap<String, Vec<Node>>,
    /// The symbols of the graphs around this one.
    outer: Vec<Symbol>,
    depth: usize,
}

impl Parser {
    fn new(outer: &[Symbol], depth: usize) -> Parser {
        Parser {
            graph: Graph::default(),
            names: HashMap::new(),
            versions: HashMap::new(),
            outer: outer.to_vec(),
            depth,
        }
    }

    /// A whole graph, up to the end of the text or the brace that closes a body.
    fn graph(mut self, cursor: &mut Cursor<'_>) -> Result<Graph, ParseError> {
        cursor.skip_lines();
        cursor.expect("graph")?;
        self.graph.name = cursor.name("the graph's name")?;
        loop {
            let lines = cursor.skip_lines();
            if cursor.is_at_end() || cursor.sees("}") {
                return Ok(self.graph);
            }
            if cursor.eat("sym") {
                self.symbol(cursor)?;
                continue;
            }
            if lines == 0 {
                return Err(cursor.error("the end of the line"));
            }
            self.statement(cursor)?;
        }
    }

    /// `T in 16..513 step 16`, half open.
    fn symbol(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
        let start = cursor.clone();
        let name = cursor.word().filter(|name| is_symbol_name(name)).map(str::to_owned);
        let name = name.ok_or_else(|| start.error("the symbol's name"))?;
        if self.symbols().any(|symbol| symbol.name() == name) {
            return Err(start.error("a symbol with a name of its own"));
        }
        cursor.expect("in")?;
        let start = cursor.clone();
        let low = cursor.integer()?;
        cursor.expect("..")?;
        let end = cursor.integer()?;
        if end <= low {
            return Err(start.error("a range that is not empty"));
        }
        let divisor = if cursor.eat("step") { cursor.integer()? } else { 1 };
        if divisor < 1 {
            return Err(cursor.error("a step of at least 1"));
        }
        self.graph.symbol(&Symbol::new(&name, low, end - 1, divisor));
        Ok(())
    }

    fn statement(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
        if cursor.eat("output") {
            let node = self.node(cursor)?;
            cursor.expect("as")?;
            let name = cursor.name("the output's name")?;
            self.graph.output(&name, node);
        } else if cursor.eat("layer") {
            let node = self.node(cursor)?;
            self.graph.end_layer(node);
        } else if cursor.eat("next") {
            let node = self.node(cursor)?;
            self.graph.output("next", node);
        } else if cursor.eat("out") {
            let node = self.node(cursor)?;
            self.graph.output("out", node);
        } else {
            let start = cursor.clone();
            let name = cursor.node_name().ok_or_else(|| start.error("a node, `output`, `layer` or `sym`"))?;
            if self.names.contains_key(name) {
                return Err(start.error("a node with a name of its own"));
            }
            let name = name.to_owned();
            cursor.expect("=")?;
            let nested = self.nested(cursor, 0)?;
            let node = self.resolve(cursor, &nested, None, None)?;
            self.names.insert(name, node);
        }
        Ok(())
    }

    /// A node that has a name.
    fn node(&mut self, cursor: &mut Cursor<'_>) -> Result<Node, ParseError> {
        let start = cursor.clone();
        let node = cursor.node_name().and_then(|name| self.names.get(name).copied());
        node.ok_or_else(|| start.error("a node that stands above"))
    }

    /// `f32[T,64]`.
    fn annotation(&mut self, cursor: &mut Cursor<'_>) -> Result<(DType, Vec<Expr>), ParseError> {
        let start = cursor.clone();
        let dtype = cursor.word().and_then(DType::parse).ok_or_else(|| start.error("an element type"))?;
        let mut shape = Vec::new();
        if cursor.eat("[") && !cursor.eat("]") {
            loop {
                shape.push(self.extent(cursor)?);
                if cursor.eat("]") {
                    break;
                }
                cursor.expect(",")?;
            }
        }
        Ok((dtype, shape))
    }

    /// An expression over symbols.
    fn extent(&mut self, cursor: &mut Cursor<'_>) -> Result<Expr, ParseError> {
        let syntax = expression::syntax(cursor)?;
        syntax.build(&Scope { axes: &[], symbols: self.symbols().collect(), extras: &[] }, cursor)
    }

    fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.graph.symbols.iter().chain(&self.outer)
    }

    /// Appends a node and keeps the list of versions.
    fn push(&mut self, op: Op, shape: Vec<Expr>, dtype: DType) -> Node {
        let node = self.graph.push(crate::graph::Record { op, shape, dtype });
        if matches!(self.graph.op(node), Op::State { .. } | Op::Write { .. })
            && let Some((leaf, version)) = self.graph.state_of(node)
            && let Op::State { name } = self.graph.op(leaf)
        {
            let versions = self.versions.entry(name.clone()).or_default();
            if versions.len() == version {
                versions.push(node);
            }
        }
        node
    }
}
