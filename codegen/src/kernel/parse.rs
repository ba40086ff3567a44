//! Reads the text form of kernels (see the printer in `print.rs`).
//!
//! Whatever the text is, the answer is a kernel or an error with its place: sizes, nesting and numbers
//! are bounded. Whether the kernel is a legal one is for `verify` to say.

mod expr;
mod lexer;
mod matrix;

use std::fmt;

use jtllm_ir::{DType, Expr, Monoid, Scalar, ScalarOp, Symbol};

use super::names::{ValueRange, derived_range};
use super::{
    Access, CellId, Kernel, LOOP_AXIS, Memory, Param, Shared, Stmt, Value, ValueId, ValueRecord, types,
};
use expr::Scope;
use lexer::{Lexer, Token, TokenKind};

/// The most bytes of text.
const TEXT_MAX: usize = 4 << 20;
/// How deep blocks nest.
const DEPTH_MAX: usize = 32;
/// The largest number of anything that has one, and the largest slot.
const COUNT_MAX: i64 = 60_000;

/// Why a text is not a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What was expected.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for ParseError {}

/// The kernel of a text that holds one kernel.
pub fn parse(text: &str) -> Result<Kernel, ParseError> {
    if text.len() > TEXT_MAX {
        let message = format!("a text of at most {TEXT_MAX} bytes expected, not {}", text.len());
        return Err(ParseError { line: 1, column: 1, message });
    }
    let tokens = Lexer::new(text).tokens()?;
    let mut parser = Parser { tokens, at: 0, depth: 0 };
    let kernel = parser.kernel()?;
    match parser.peek().kind {
        TokenKind::End => Ok(kernel),
        _ => parser.expected("the end of the text"),
    }
}

struct Parser<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
    /// How deep the expression or block at hand is nested.
    depth: usize,
}

/// The kernel so far, and what its statements may mention.
struct Context {
    kernel: Kernel,
    scope: Scope,
    next_axis: u16,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Token<'t> {
        self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token<'t> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn error_at<T>(&self, token: Token<'_>, message: String) -> Result<T, ParseError> {
        Err(ParseError { line: token.line, column: token.column, message })
    }

    fn expected<T>(&self, what: &str) -> Result<T, ParseError> {
        let token = self.peek();
        self.error_at(token, format!("{what} expected, not {}", token.kind))
    }

    fn take(&mut self, text: &str) -> bool {
        let found = match self.peek().kind {
            TokenKind::Word(word) | TokenKind::Mark(word) => word == text,
            TokenKind::Number(_) | TokenKind::End => false,
        };
        self.at += usize::from(found);
        found
    }

    fn demand(&mut self, text: &str) -> Result<(), ParseError> {
        if self.take(text) { Ok(()) } else { self.expected(&format!("`{text}`")) }
    }

    fn word(&mut self, what: &str) -> Result<&'t str, ParseError> {
        match self.peek().kind {
            TokenKind::Word(word) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.expected(what),
        }
    }

    /// An integer in `low..=high`, with its sign.
    fn integer(&mut self, low: i64, high: i64) -> Result<i64, ParseError> {
        let first = self.peek();
        let negative = self.take("-");
        let TokenKind::Number(digits) = self.peek().kind else { return self.expected("an integer") };
        let value = digits.parse::<i64>().ok().map(|x| if negative { -x } else { x });
        match value.filter(|x| (low..=high).contains(x)) {
            Some(value) => {
                self.at += 1;
                Ok(value)
            }
            None => self.error_at(first, format!("an integer in {low}..={high} expected, not {digits}")),
        }
    }

    fn dtype(&mut self) -> Result<DType, ParseError> {
        let token = self.peek();
        let word = self.word("a type")?;
        DType::parse(word).map_or_else(|| self.error_at(token, format!("a type expected, not `{word}`")), Ok)
    }

    /// A number behind a letter: `v12`.
    fn numbered(&mut self, letter: char, what: &str) -> Result<u32, ParseError> {
        let number = match self.peek().kind {
            TokenKind::Word(word) => word.strip_prefix(letter).and_then(plain_number),
            _ => None,
        };
        match number {
            Some(number) => {
                self.at += 1;
                Ok(number)
            }
            None => self.expected(&format!("{what} (`{letter}` and its number)")),
        }
    }

    /// The number that comes next in order, behind a letter.
    fn in_order(&mut self, letter: char, next: usize) -> Result<(), ParseError> {
        let token = self.peek();
        let number = self.numbered(letter, "the next number")?;
        if number as usize != next || next as i64 > COUNT_MAX {
            return self.error_at(token, format!("`{letter}{next}` expected: numbers are in order"));
        }
        Ok(())
    }

    fn kernel(&mut self) -> Result<Kernel, ParseError> {
        self.demand("kernel")?;
        let name = self.word("the kernel's name")?.to_owned();
        self.demand("grid")?;
        self.demand("=")?;
        // The grid mentions symbols, which are declared after it: it is read again once they are known.
        let grid_at = self.at;
        while !self.take("lanes") {
            if matches!(self.next().kind, TokenKind::End) {
                return self.expected("`lanes`");
            }
        }
        self.demand("=")?;
        let lanes = self.integer(1, 1 << 20)? as u32;
        let one = || Expr::int(1);
        let kernel = Kernel {
            name,
            symbols: Vec::new(),
            params: Vec::new(),
            shared: Vec::new(),
            cells: Vec::new(),
            fragments: Vec::new(),
            values: Vec::new(),
            grid: [one(), one(), one()],
            lanes,
            body: Vec::new(),
        };
        let mut context = Context { kernel, scope: Scope::default(), next_axis: LOOP_AXIS };
        self.params(&mut context)?;
        let after = std::mem::replace(&mut self.at, grid_at);
        self.grid(&mut context)?;
        self.demand("lanes")?;
        self.at = after;
        context.scope.bind_group(&context.kernel.grid, lanes);
        self.demand("{")?;
        self.declarations(&mut context)?;
        context.kernel.body = self.statements(&mut context)?;
        Ok(context.kernel)
    }

    fn grid(&mut self, context: &mut Context) -> Result<(), ParseError> {
        for (direction, open) in ["[", ",", ","].into_iter().enumerate() {
            self.demand(open)?;
            context.kernel.grid[direction] = self.expr(&context.scope)?;
        }
        self.demand("]")
    }

    fn params(&mut self, context: &mut Context) -> Result<(), ParseError> {
        self.demand("(")?;
        if self.take(")") {
            return Ok(());
        }
        loop {
            if self.take("sym") {
                self.demand(":")?;
                self.symbol(context)?;
            } else {
                self.param(context)?;
            }
            if !self.take(",") {
                return self.demand(")");
            }
        }
    }

    fn symbol(&mut self, context: &mut Context) -> Result<(), ParseError> {
        let token = self.peek();
        let name = self.word("a symbol's name")?;
        self.demand("@")?;
        let slot = self.integer(0, COUNT_MAX)? as u32;
        self.demand("in")?;
        let low = self.integer(-expr::LIMIT, expr::LIMIT)?;
        self.demand("..")?;
        let end = self.integer(-expr::LIMIT, expr::LIMIT)?;
        let step = if self.take("step") { self.integer(1, expr::LIMIT)? } else { 1 };
        if low >= end {
            return self.error_at(token, format!("symbol {name} has no values in {low}..{end}"));
        }
        let symbol = Symbol::new(name, low, end - 1, step);
        if !context.scope.declare(&symbol) {
            return self.error_at(token, format!("symbol {name} is declared twice or has a taken name"));
        }
        context.kernel.symbols.push((symbol, slot));
        Ok(())
    }

    fn param(&mut self, context: &mut Context) -> Result<(), ParseError> {
        self.in_order('p', context.kernel.params.len())?;
        self.demand(":")?;
        let access = match () {
            () if self.take("read") => Access::Read,
            () if self.take("write") => Access::Write,
            () if self.take("update") => Access::Update,
            () => return self.expected("`read` or `write`"),
        };
        let dtype = self.dtype()?;
        self.demand("[")?;
        let len = self.expr(&context.scope)?;
        self.demand("]")?;
        let aligned = self.take("aligned");
        context.kernel.params.push(Param { dtype, access, len, aligned });
        Ok(())
    }

    fn declarations(&mut self, context: &mut Context) -> Result<(), ParseError> {
        loop {
            if self.take("shared") {
                self.in_order('s', context.kernel.shared.len())?;
                self.demand(":")?;
                let dtype = self.dtype()?;
                self.demand("[")?;
                let len = self.integer(0, i64::from(u32::MAX))? as u32;
                self.demand("]")?;
                context.kernel.shared.push(Shared { dtype, len });
            } else if self.take("cell") {
                self.in_order('c', context.kernel.cells.len())?;
                self.demand(":")?;
                let dtype = self.dtype()?;
                context.kernel.cells.push(dtype);
            } else if self.take("fragment") {
                self.fragment_declaration(context)?;
            } else {
                return Ok(());
            }
        }
    }

    /// Statements up to and including the closing brace.
    fn statements(&mut self, context: &mut Context) -> Result<Vec<Stmt>, ParseError> {
        if self.depth == DEPTH_MAX {
            return self.expected("fewer nested blocks");
        }
        self.depth += 1;
        let mut body = Vec::new();
        while !self.take("}") {
            body.push(self.statement(context)?);
        }
        self.depth -= 1;
        Ok(body)
    }

    fn statement(&mut self, context: &mut Context) -> Result<Stmt, ParseError> {
        let token = self.peek();
        match self.word("a statement")? {
            "let" => self.define(context),
            "set" => {
                let cell = self.cell(context)?;
                self.demand("=")?;
                Ok(Stmt::Set(cell, self.value(context)?))
            }
            "store" => {
                let (memory, at) = self.element(context)?;
                self.demand("=")?;
                Ok(Stmt::Store { memory, at, value: self.value(context)? })
            }
            "loop" => {
                let axis = context.next_axis;
                self.in_order('l', usize::from(axis))?;
                context.next_axis += 1;
                self.integer(0, 0)?;
                self.demand("..")?;
                let extent = self.expr(&context.scope)?;
                self.demand("{")?;
                context.scope.bind(axis, &extent);
                let body = self.statements(context)?;
                context.scope.release(axis);
                Ok(Stmt::Loop { axis, extent, body })
            }
            "if" => {
                let cond = self.expr(&context.scope)?;
                self.demand("{")?;
                Ok(Stmt::If { cond, body: self.statements(context)? })
            }
            "barrier" => Ok(Stmt::Barrier),
            other => self.matrix_statement(context, token, other),
        }
    }

    fn value(&mut self, context: &Context) -> Result<ValueId, ParseError> {
        let token = self.peek();
        let number = self.numbered('v', "a value")?;
        if (number as usize) < context.kernel.values.len() {
            return Ok(ValueId(number));
        }
        self.error_at(token, format!("v{number} is not defined before"))
    }

    fn cell(&mut self, context: &Context) -> Result<CellId, ParseError> {
        let token = self.peek();
        let number = self.numbered('c', "a cell")?;
        if (number as usize) < context.kernel.cells.len() {
            return Ok(CellId(number));
        }
        self.error_at(token, format!("c{number} is not declared"))
    }

    /// An element of a memory: `p0[...]` or `s0[...]`.
    fn element(&mut self, context: &Context) -> Result<(Memory, Expr), ParseError> {
        let token = self.peek();
        let word = self.word("a memory")?;
        let number = |letter| word.strip_prefix(letter).and_then(plain_number);
        let memory = match (number('p'), number('s')) {
            (Some(param), _) => u16::try_from(param).ok().map(Memory::Param),
            (_, Some(shared)) => u16::try_from(shared).ok().map(Memory::Shared),
            _ => None,
        };
        let Some(memory) = memory.filter(|memory| context.kernel.memory_exists(*memory)) else {
            return self.error_at(token, format!("a memory expected, not `{word}`"));
        };
        self.demand("[")?;
        let at = self.expr(&context.scope)?;
        self.demand("]")?;
        Ok((memory, at))
    }

    fn define(&mut self, context: &mut Context) -> Result<Stmt, ParseError> {
        let token = self.peek();
        let number = context.kernel.values.len();
        self.in_order('v', number)?;
        self.demand("=")?;
        let (value, stated) = self.operation(context)?;
        self.demand(":")?;
        let dtype = self.dtype()?;
        let value = match (value, stated) {
            (_, Some(constant)) => match constant.read(dtype) {
                Some(constant) => Value::Const(constant),
                None => return self.error_at(token, format!("a constant of {dtype} expected")),
            },
            (value, None) => value,
        };
        match types::of(&context.kernel, &value, dtype) {
            Ok(real) if real == dtype => {}
            Ok(real) => return self.error_at(token, format!("v{number} is {real}, not {dtype}")),
            Err(found) => {
                return self.error_at(token, format!("v{number} has operands that do not fit: {found}"));
            }
        }
        let record = ValueRecord { value, dtype };
        let range = self.range(context, &record)?;
        context.scope.define(number as u32, &record, range);
        context.kernel.values.push(record);
        Ok(Stmt::Let(ValueId(number as u32)))
    }

    fn range(&mut self, context: &Context, record: &ValueRecord) -> Result<ValueRange, ParseError> {
        if !self.take("in") {
            return Ok(derived_range(record));
        }
        let low = self.integer(-expr::LIMIT, expr::LIMIT)?;
        self.demand("..")?;
        let token = self.peek();
        let end = self.expr(&context.scope)?;
        if !jtllm_ir::graph::is_extent(&end) {
            return self.error_at(token, "a range ends at a number or symbol".to_owned());
        }
        Ok((low, end))
    }

    /// What stands between `=` and `:`; a constant is read once its type is known.
    fn operation(&mut self, context: &Context) -> Result<(Value, Option<Constant<'t>>), ParseError> {
        let token = self.peek();
        let word = self.word("an operation")?;
        let value = match word {
            "const" => {
                let negative = self.take("-");
                let TokenKind::Number(digits) = self.next().kind else {
                    return self.error_at(token, "a number expected after `const`".to_owned());
                };
                return Ok((Value::Const(Scalar::Int(0)), Some(Constant { negative, digits })));
            }
            "index" => Value::Index(self.expr(&context.scope)?),
            "load" => {
                let (memory, at) = self.element(context)?;
                Value::Load { memory, at }
            }
            "lane_reduce" => {
                let token = self.peek();
                let name = self.word("a monoid")?;
                let Some(monoid) = Monoid::parse(name) else {
                    return self.error_at(token, format!("add, mul, max or min expected, not `{name}`"));
                };
                Value::LaneReduce(monoid, self.value(context)?)
            }
            word if word.strip_prefix('c').and_then(plain_number).is_some() => {
                self.at -= 1;
                Value::Cell(self.cell(context)?)
            }
            word => match ScalarOp::parse(word) {
                Some(op) => Value::Scalar(op, self.operands(context)?),
                None => return self.error_at(token, format!("an operation expected, not `{word}`")),
            },
        };
        Ok((value, None))
    }

    fn operands(&mut self, context: &Context) -> Result<Vec<ValueId>, ParseError> {
        let mut xs = vec![self.value(context)?];
        while xs.len() < 3 && self.take(",") {
            xs.push(self.value(context)?);
        }
        Ok(xs)
    }
}

/// A number without sign or leading zeros.
fn plain_number(digits: &str) -> Option<u32> {
    let canonical = digits == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c));
    digits.parse().ok().filter(|_| canonical)
}

/// A constant's text.
#[derive(Clone, Copy)]
struct Constant<'t> {
    negative: bool,
    digits: &'t str,
}

impl Constant<'_> {
    fn read(self, dtype: DType) -> Option<Scalar> {
        if !dtype.is_float() {
            let value = self.digits.parse::<i64>().ok()?;
            let value = if self.negative { -value } else { value };
            return (dtype.wrap(value) == value).then_some(Scalar::Int(value));
        }
        let value = match self.digits.strip_prefix("0x") {
            Some(bits) => f32::from_bits(u32::from_str_radix(bits, 16).ok()?),
            None => self.digits.parse::<f32>().ok().filter(|x| x.is_finite())?,
        };
        let value = if self.negative { -value } else { value };
        let same = dtype.round(value).to_bits() == value.to_bits() || value.is_nan();
        same.then_some(Scalar::Float(value))
    }
}
