//! Graphs as text, one node a line; [`parse`](crate::parse::parse) reads it back to an equal graph.
//!
//! ```text
//! graph pass
//! sym T in 1..513
//! %0 = input ids in 0..259 : i32[T]
//! %1 = weight tok : f16[259,64]
//! %2 = view %1 {i,j -> $0[i], j} with %0 : f16[T,64]
//! output %2 as rows
//! ```

use std::fmt::{self, Write};

use crate::dtype::DType;
use crate::expr::{AxisNames, Expr, Names, Symbol};
use crate::graph::{Graph, Node, Op, Record};
use crate::scalar::Scalar;
use crate::tensor::Tensor;

/// The graph in text form.
pub fn print(graph: &Graph) -> String {
    graph.to_string()
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printer::new(self).graph("", f)
    }
}

/// The line that a node has in the graph's text form, without its end.
pub fn line(graph: &Graph, node: Node) -> impl fmt::Display + '_ {
    Line { graph, node }
}

struct Line<'g> {
    graph: &'g Graph,
    node: Node,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Printer::new(self.graph).line(self.node, "", f)
    }
}

/// Words that an expression understands, so that no symbol may have them as its name.
pub(crate) const RESERVED: [&str; 5] = ["min", "max", "div", "mod", "and"];

/// Whether text form can name a symbol so.
pub(crate) fn is_symbol_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !RESERVED.contains(&name)
}

/// Whether a name stands in text without quotes: `model.layers.0.weight#q` does.
pub(crate) fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '#')
}

struct Printer<'g> {
    graph: &'g Graph,
    /// Names of coordinates that no symbol has.
    letters: Vec<String>,
    /// The graph's symbols and, in a body, those of the graphs around it.
    symbols: Vec<&'g [Symbol]>,
}

/// `i j k ...`, each with as many `_` as it takes to differ from the symbols.
fn letters(symbols: &[&[Symbol]]) -> Vec<String> {
    let taken = |name: &str| symbols.iter().any(|symbols| symbols.iter().any(|s| s.name() == name));
    let free = |letter: &&str| {
        let mut name = (*letter).to_owned();
        while taken(&name) {
            name.push('_');
        }
        name
    };
    AxisNames::LETTERS.iter().map(free).collect()
}

impl Names for Printer<'_> {
    fn axis(&self, index: u16, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.letters.get(usize::from(index)) {
            Some(letter) => f.write_str(letter),
            None => write!(f, "axis{index}"),
        }
    }
}

impl<'g> Printer<'g> {
    fn new(graph: &'g Graph) -> Printer<'g> {
        Printer { graph, letters: letters(&[&graph.symbols]), symbols: vec![&graph.symbols] }
    }

    fn graph(&self, indent: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{indent}graph {}", Name(&self.graph.name))?;
        // A body speaks of the symbols around it without declaring them again.
        let outer = &self.symbols[..self.symbols.len() - 1];
        let is_new = |symbol: &&Symbol| !outer.iter().any(|symbols| symbols.contains(*symbol));
        for symbol in self.graph.symbols.iter().filter(is_new) {
            write!(
                f,
                "{indent}sym {} in {}..{}",
                symbol.name(),
                symbol.low(),
                symbol.high().saturating_add(1)
            )?;
            if symbol.divisor() != 1 {
                write!(f, " step {}", symbol.divisor())?;
            }
            f.write_char('\n')?;
        }
        for node in self.graph.nodes() {
            f.write_str(indent)?;
            self.line(node, indent, f)?;
            f.write_char('\n')?;
        }
        for (name, node) in &self.graph.outputs {
            writeln!(f, "{indent}output {node} as {}", Name(name))?;
        }
        for node in &self.graph.layers {
            writeln!(f, "{indent}layer {node}")?;
        }
        Ok(())
    }

    fn line(&self, node: Node, indent: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let record = self.graph.record(node);
        write!(f, "{node} = ")?;
        self.operation(record, indent, f)?;
        write!(f, " : {}{}", record.dtype, Shape(&record.shape))
    }

    fn operation(&self, record: &Record, indent: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rank = record.shape.len();
        match &record.op {
            Op::Weight { name } => write!(f, "weight {}", Name(name)),
            Op::State { name } => write!(f, "state {}", Name(name)),
            Op::Input { name, range: None } => write!(f, "input {}", Name(name)),
            Op::Input { name, range: Some((low, end)) } => write!(f, "input {} in {low}..{end}", Name(name)),
            Op::Const(value) => {
                f.write_str("const ")?;
                constant(value, f)
            }
            Op::Index { value, extras } => {
                write!(f, "index ")?;
                self.function(rank, std::slice::from_ref(value), f)?;
                list(" with ", extras, f)
            }
            Op::Map { op, xs } => {
                write!(f, "map {}", op.name())?;
                spaced(xs, f)
            }
            Op::View { x, at, ok, extras } => {
                write!(f, "view {x} ")?;
                self.addressing(rank, at, ok.as_ref(), extras, f)
            }
            Op::Reduce { monoid, x, axes } => {
                write!(f, "reduce {} {x} over ", monoid.name())?;
                separated(axes, ",", f)
            }
            Op::Scan(scan) => {
                write!(f, "scan over {}", scan.axis)?;
                list(" carry ", &scan.carries, f)?;
                list(" xs ", &scan.xs, f)?;
                f.write_str(" {\n")?;
                let mut symbols = self.symbols.clone();
                symbols.push(&scan.body.symbols);
                let letters = letters(&symbols);
                Printer { graph: &scan.body, letters, symbols }.graph(&format!("{indent}  "), f)?;
                write!(f, "{indent}}}")
            }
            Op::Result { scan, index } => write!(f, "result {scan} {index}"),
            Op::Write { state, at, ok, extras, value } => {
                let rank = self.graph.nodes().nth(value.0 as usize).map_or(0, |x| self.graph.shape(x).len());
                write!(f, "write {state} ")?;
                self.addressing(rank, at, ok.as_ref(), extras, f)?;
                write!(f, " = {value}")
            }
            Op::Opaque { name, xs } => {
                write!(f, "opaque {}", Name(name))?;
                spaced(xs, f)
            }
        }
    }

    fn addressing(
        &self,
        rank: usize,
        at: &[Expr],
        ok: Option<&Expr>,
        extras: &[Node],
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        self.function(rank, at, f)?;
        list(" with ", extras, f)?;
        if let Some(ok) = ok {
            f.write_str(" ok ")?;
            self.function(rank, std::slice::from_ref(ok), f)?;
        }
        Ok(())
    }

    /// `{i,j -> ...}`.
    fn function(&self, rank: usize, values: &[Expr], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let axes: Vec<String> = (0..rank)
            .map(|axis| self.letters.get(axis).cloned().unwrap_or_else(|| format!("axis{axis}")))
            .collect();
        f.write_str("{")?;
        separated(&axes, ",", f)?;
        f.write_str(if rank == 0 { "->" } else { " ->" })?;
        for (at, value) in values.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { " " } else { ", " }, value.display(self))?;
        }
        f.write_str("}")
    }
}

struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_empty() && !self.0.starts_with('#') && self.0.chars().all(is_bare) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                _ => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

struct Shape<'a>(&'a [Expr]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        separated(self.0, ",", f)?;
        f.write_str("]")
    }
}

fn separated<T: fmt::Display>(xs: &[T], separator: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, x) in xs.iter().enumerate() {
        if at > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{x}")?;
    }
    Ok(())
}

/// `word` and the nodes, or nothing if there are none.
fn list(word: &str, nodes: &[Node], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if nodes.is_empty() {
        return Ok(());
    }
    f.write_str(word)?;
    separated(nodes, ", ", f)
}

fn spaced(nodes: &[Node], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    nodes.iter().try_for_each(|node| write!(f, " {node}"))
}

/// A scalar alone, anything else as its elements in brackets.
fn constant(value: &Tensor, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let scalar = value.shape.is_empty();
    f.write_str(if scalar { "" } else { "[" })?;
    for at in 0..value.len() {
        if at > 0 {
            f.write_str(", ")?;
        }
        number(value.get(at), value.dtype, f)?;
    }
    f.write_str(if scalar { "" } else { "]" })
}

/// The shortest decimal that reads back as the same number; what is not a number as its bits.
fn number(x: Scalar, dtype: DType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match x {
        Scalar::Float(x) if x.is_nan() => write!(f, "0x{:08x}", x.to_bits()),
        Scalar::Float(x) if dtype.is_float() => write!(f, "{x:?}"),
        _ => write!(f, "{}", x.int()),
    }
}
