//! Operations as they are written, before shapes are known.

use super::cursor::Cursor;
use super::expression::{Syntax, syntax};
use super::{ParseError, Parser, SCAN_DEPTH_MAX};
use crate::RANK_MAX;
use crate::dtype::DType;
use crate::expr::{Expr, Symbol};
use crate::graph::{Graph, Monoid, Node};
use crate::scalar::ScalarOp;

/// Operations inside one another, at most.
const NESTED_MAX: usize = 32;

/// `{i,j -> ...}`; the place is a byte offset.
pub(super) struct Function {
    pub(super) at: usize,
    pub(super) axes: Vec<String>,
    pub(super) values: Vec<Syntax>,
}

/// `{...} with ... ok {...}`.
pub(super) struct Addressing {
    pub(super) function: Function,
    pub(super) extras: Vec<Term>,
    pub(super) ok: Option<Function>,
}

/// An operand.
pub(super) enum Term {
    Node(Node),
    /// A number, and where it stands.
    Number(String, usize),
    Nested(Box<Nested>),
}

/// An operation, with its type and shape if they are written.
pub(super) struct Nested {
    pub(super) at: usize,
    pub(super) operation: Operation,
    pub(super) annotation: Option<(DType, Vec<Expr>)>,
}

pub(super) enum Operation {
    Weight(String),
    State(String),
    Input(String, Option<(i64, Expr)>),
    /// The numbers with their places, and whether they stand in brackets.
    Const(Vec<(String, usize)>, bool),
    Index(Function, Vec<Term>),
    Map(ScalarOp, Vec<Term>),
    View(Term, Addressing),
    Reduce(Monoid, Term, Vec<usize>),
    Scan {
        axis: usize,
        carries: Vec<Term>,
        xs: Vec<Term>,
        body: Graph,
    },
    Result(Term, usize),
    Write(Term, Addressing, Term),
    Opaque(String, Vec<Term>),
}

impl Parser {
    pub(super) fn nested(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Nested, ParseError> {
        let at = cursor.position();
        let operation = self.operation(cursor, depth)?;
        let annotation = if cursor.eat(":") { Some(self.annotation(cursor)?) } else { None };
        Ok(Nested { at, operation, annotation })
    }

    fn operation(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Operation, ParseError> {
        let start = cursor.clone();
        Ok(match cursor.word() {
            Some("weight") => Operation::Weight(cursor.name("the weight's name")?),
            Some("state") => Operation::State(cursor.name("the state's name")?),
            Some("input") => self.input(cursor)?,
            Some("const") => constant(cursor)?,
            Some("index") => {
                let function = function(cursor)?;
                Operation::Index(function, self.list(cursor, "with", depth)?)
            }
            Some("map") => {
                let start = cursor.clone();
                let op = cursor.word().and_then(ScalarOp::parse);
                let op = op.ok_or_else(|| start.error("a scalar operation"))?;
                Operation::Map(op, self.terms(cursor, depth)?)
            }
            Some("view") => {
                let x = self.term(cursor, depth)?;
                Operation::View(x, self.addressing(cursor, depth)?)
            }
            Some("reduce") => {
                let start = cursor.clone();
                let monoid = cursor.word().and_then(Monoid::parse);
                let monoid = monoid.ok_or_else(|| start.error("`add`, `mul`, `max` or `min`"))?;
                let x = self.term(cursor, depth)?;
                cursor.expect("over")?;
                let mut axes = Vec::new();
                while cursor.sees_char(|c| c.is_ascii_digit()) {
                    axes.push(small(cursor)?);
                    if !cursor.eat(",") {
                        break;
                    }
                }
                Operation::Reduce(monoid, x, axes)
            }
            Some("scan") => self.scan(cursor, depth)?,
            Some("result") => {
                let scan = self.term(cursor, depth)?;
                Operation::Result(scan, small(cursor)?)
            }
            Some("write") => {
                let state = self.state_version(cursor, depth)?;
                let addressing = self.addressing(cursor, depth)?;
                cursor.expect("=")?;
                Operation::Write(state, addressing, self.term(cursor, depth)?)
            }
            Some("opaque") => {
                let name = cursor.name("the function's name")?;
                Operation::Opaque(name, self.terms(cursor, depth)?)
            }
            _ => return Err(start.error("an operation")),
        })
    }

    fn input(&mut self, cursor: &mut Cursor<'_>) -> Result<Operation, ParseError> {
        let name = cursor.name("the input's name")?;
        let range = if cursor.eat("in") {
            let low = cursor.integer()?;
            cursor.expect("..")?;
            Some((low, self.extent(cursor)?))
        } else {
            None
        };
        Ok(Operation::Input(name, range))
    }

    /// A node, a number, or an operation in parentheses.
    fn term(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Term, ParseError> {
        if cursor.sees("(") {
            if depth >= NESTED_MAX {
                return Err(cursor.error("operations nested at most 32 deep"));
            }
            cursor.expect("(")?;
            let nested = self.nested(cursor, depth + 1)?;
            cursor.expect(")")?;
            return Ok(Term::Nested(Box::new(nested)));
        }
        if cursor.sees_number() {
            let at = cursor.position();
            return Ok(Term::Number(cursor.number().to_owned(), at));
        }
        Ok(Term::Node(self.node(cursor)?))
    }

    fn terms(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Vec<Term>, ParseError> {
        let mut terms = Vec::new();
        while cursor.sees("%") || cursor.sees("(") || cursor.sees_number() {
            terms.push(self.term(cursor, depth)?);
        }
        Ok(terms)
    }

    /// `word` and terms with commas between, or nothing.
    fn list(&mut self, cursor: &mut Cursor<'_>, word: &str, depth: usize) -> Result<Vec<Term>, ParseError> {
        let mut terms = Vec::new();
        if cursor.eat(word) {
            terms.push(self.term(cursor, depth)?);
            while cursor.eat(",") {
                terms.push(self.term(cursor, depth)?);
            }
        }
        Ok(terms)
    }

    fn addressing(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Addressing, ParseError> {
        let at = function(cursor)?;
        let extras = self.list(cursor, "with", depth)?;
        let ok = if cursor.eat("ok") { Some(function(cursor)?) } else { None };
        Ok(Addressing { function: at, extras, ok })
    }

    /// A node, or `k3.0`: version 0 of the state `k3`.
    fn state_version(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Term, ParseError> {
        if cursor.sees("%") || cursor.sees("(") {
            return self.term(cursor, depth);
        }
        let start = cursor.clone();
        let name = cursor.name("a version of a state")?;
        let found = name.rsplit_once('.').and_then(|(name, version)| {
            self.versions.get(name)?.get(version.parse::<usize>().ok()?).copied()
        });
        found.map(Term::Node).ok_or_else(|| start.error("a version of a state that stands above"))
    }

    /// `over 0 carry ... xs ... { graph ... }`.
    fn scan(&mut self, cursor: &mut Cursor<'_>, depth: usize) -> Result<Operation, ParseError> {
        cursor.expect("over")?;
        let axis = small(cursor)?;
        let carries = self.list(cursor, "carry", depth)?;
        let xs = self.list(cursor, "xs", depth)?;
        if self.depth >= SCAN_DEPTH_MAX {
            return Err(cursor.error("scans nested at most 4 deep"));
        }
        cursor.expect("{")?;
        let symbols: Vec<Symbol> = self.symbols().cloned().collect();
        let body = Parser::new(&symbols, self.depth + 1).graph(cursor)?;
        cursor.expect("}")?;
        Ok(Operation::Scan { axis, carries, xs, body })
    }
}

/// An axis or the number of a result.
fn small(cursor: &mut Cursor<'_>) -> Result<usize, ParseError> {
    let start = cursor.clone();
    let number = cursor.digits().and_then(|value| usize::try_from(value).ok());
    number.filter(|value| *value < 1 << 16).ok_or_else(|| start.error("a small number"))
}

fn function(cursor: &mut Cursor<'_>) -> Result<Function, ParseError> {
    let at = cursor.position();
    cursor.expect("{")?;
    let mut axes: Vec<String> = Vec::new();
    while !cursor.eat("->") {
        if !axes.is_empty() {
            cursor.expect(",")?;
        }
        let start = cursor.clone();
        let axis = cursor.word().ok_or_else(|| start.error("a coordinate's name or `->`"))?;
        if axes.iter().any(|known| known == axis) {
            return Err(start.error("a coordinate with a name of its own"));
        }
        if axes.len() == RANK_MAX {
            return Err(start.error("at most 8 coordinates"));
        }
        axes.push(axis.to_owned());
    }
    let mut values = Vec::new();
    if !cursor.eat("}") {
        values.push(syntax(cursor)?);
        while cursor.eat(",") {
            values.push(syntax(cursor)?);
        }
        cursor.expect("}")?;
    }
    Ok(Function { at, axes, values })
}

/// `const 1.5` or `const [1, 2, 3]`.
fn constant(cursor: &mut Cursor<'_>) -> Result<Operation, ParseError> {
    let mut numbers = Vec::new();
    let mut number = |cursor: &mut Cursor<'_>| {
        let at = cursor.position();
        numbers.push((cursor.number().to_owned(), at));
    };
    let brackets = cursor.eat("[");
    if !brackets {
        number(cursor);
    } else if !cursor.eat("]") {
        number(cursor);
        while cursor.eat(",") {
            number(cursor);
        }
        cursor.expect("]")?;
    }
    Ok(Operation::Const(numbers, brackets))
}
