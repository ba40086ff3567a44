//! From text to kernels.

pub(crate) mod operand;
pub(crate) mod scope;

use std::collections::HashMap;
use std::sync::Arc;

use crate::decode::{self, Statement};
use crate::error::ParseError;
use crate::instruction::{Instruction, Op};
use crate::kernel::{Kernel, Module, Parameter};
use crate::lexer::tokens;
use crate::types::Type;
use operand::{Cursor, Number};
use scope::{Scope, Symbol, bits};

/// Bytes of shared memory that a text may declare: those of the largest processor.
const SHARED_MAX: u64 = 228 << 10;
/// Bytes of local memory of one thread.
const LOCAL_MAX: u64 = 512 << 10;
/// Bytes of all arrays of a module.
const MODULE_MAX: u64 = 64 << 10;
/// Bytes of all parameters of a kernel.
const PARAMETERS_MAX: u32 = 4352;

/// Reads a text: every instruction, operand and modifier must be known.
///
/// # Errors
/// The first fault, with its line. No text makes it panic, or take memory beyond a multiple of its length and of
/// the limits above.
pub fn parse(source: &str) -> Result<Module, ParseError> {
    let mut parser = Parser {
        cursor: Cursor::new(tokens(source)?),
        header: Header::default(),
        symbols: Vec::new(),
        shared_bytes: 0,
        memory: Vec::new(),
    };
    parser.header()?;
    let mut kernels: Vec<Kernel> = Vec::new();
    while !parser.cursor.is_done() {
        match parser.cursor.peek() {
            ".visible" | ".extern" | ".weak" => {
                parser.cursor.next()?;
            }
            ".shared" => {
                let (name, bytes) = array(&mut parser.cursor, &mut parser.shared_bytes, SHARED_MAX, true)?;
                parser.symbols.push((name, Symbol::Shared(bytes)));
            }
            ".global" | ".const" => parser.initialised()?,
            ".entry" => {
                let kernel = parser.kernel()?;
                if kernels.iter().any(|other| other.name == kernel.name) {
                    return parser.cursor.wrong(format!("a second kernel {}", kernel.name));
                }
                kernels.push(kernel);
            }
            other => return parser.cursor.wrong(format!("unexpected '{other}' outside of kernels")),
        }
    }
    let memory: Arc<[u8]> = parser.memory.into();
    kernels.iter_mut().for_each(|kernel| kernel.module_memory = memory.clone());
    let Header { version, target, exact } = parser.header;
    Ok(Module { version, target, exact, kernels })
}

/// What the text says of itself.
#[derive(Clone, Copy, Default)]
pub(crate) struct Header {
    pub(crate) version: (u32, u32),
    pub(crate) target: u32,
    pub(crate) exact: bool,
}

struct Parser<'a> {
    cursor: Cursor<'a>,
    header: Header,
    symbols: Vec<(String, Symbol)>,
    shared_bytes: u32,
    memory: Vec<u8>,
}

/// A declared type, with its dot.
fn ty(cursor: &mut Cursor<'_>) -> Result<Type, ParseError> {
    let found = cursor.peek().strip_prefix('.').and_then(Type::named);
    match found {
        Some(found) => cursor.next().map(|_| found),
        None => cursor.wrong(format!("'{}' is no type", cursor.peek())),
    }
}

/// What stands after `.align`, if that is there.
fn alignment(cursor: &mut Cursor<'_>) -> Result<u32, ParseError> {
    if !cursor.eat(".align") {
        return Ok(1);
    }
    let found = cursor.count("alignment", 1 << 10)?;
    match found.is_power_of_two() {
        true => Ok(found),
        false => cursor.wrong(format!("alignment {found} is no power of two")),
    }
}

/// `.shared .align 16 .b8 name[1024];` laid out after the `used` bytes: the name, and where it begins.
fn array(cursor: &mut Cursor<'_>, used: &mut u32, max: u64, open: bool) -> Result<(String, u32), ParseError> {
    let space = cursor.next()?;
    let align = alignment(cursor)?;
    let ty = ty(cursor)?;
    let name = cursor.next()?.to_owned();
    let mut bytes = u64::from(ty.bytes());
    if cursor.eat("[") {
        // An array without a length begins where the launch's own shared memory does.
        let len = if open && cursor.peek() == "]" { 0 } else { cursor.count("length", max)? };
        bytes *= u64::from(len);
        cursor.want("]")?;
    }
    let start = u64::from(*used).next_multiple_of(u64::from(align.max(u32::from(ty.bytes()))));
    if start + bytes > max {
        return cursor.wrong(format!("{} bytes of {space} memory, at most {max} are there", start + bytes));
    }
    *used = (start + bytes) as u32;
    cursor.want(";")?;
    Ok((name, start as u32))
}

impl<'a> Parser<'a> {
    fn header(&mut self) -> Result<(), ParseError> {
        let cursor = &mut self.cursor;
        cursor.want(".version")?;
        let version = cursor.next()?;
        let parts = version.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let Some(version) = parts else { return cursor.wrong(format!("'{version}' is no version")) };
        cursor.want(".target")?;
        let target = cursor.next()?;
        let exact = target.ends_with('a');
        let digits = target.strip_prefix("sm_").map(|digits| digits.strip_suffix('a').unwrap_or(digits));
        let Some(number) = digits.and_then(|digits| digits.parse().ok()) else {
            return cursor.wrong(format!("'{target}' is no target"));
        };
        cursor.want(".address_size")?;
        cursor.want("64")?;
        self.header = Header { version, target: number, exact };
        Ok(())
    }

    /// An array of the module, which kernels may read.
    fn initialised(&mut self) -> Result<(), ParseError> {
        let cursor = &mut self.cursor;
        cursor.next()?;
        let align = alignment(cursor)?;
        let ty = ty(cursor)?;
        let size = usize::from(ty.bytes());
        let name = cursor.next()?.to_owned();
        let mut len = 1;
        if cursor.eat("[") {
            len = cursor.count("length", MODULE_MAX)? as usize;
            cursor.want("]")?;
        }
        let start = self.memory.len().next_multiple_of(size.max(align as usize));
        if (start + len * size) as u64 > MODULE_MAX {
            return cursor.wrong(format!("more than {MODULE_MAX} bytes of arrays"));
        }
        self.memory.resize(start + len * size, 0);
        cursor.want("=")?;
        cursor.want("{")?;
        for at in 0..len {
            let number: Number = cursor.number()?;
            let Some(bits) = bits(number, ty) else { return cursor.wrong("a number of another type") };
            self.memory[start + at * size..][..size].copy_from_slice(&bits.to_le_bytes()[..size]);
            if at + 1 < len && !cursor.eat(",") {
                break;
            }
        }
        cursor.want("}")?;
        cursor.want(";")?;
        self.symbols.push((name, Symbol::Module(start as u32)));
        Ok(())
    }

    fn kernel(&mut self) -> Result<Kernel, ParseError> {
        self.cursor.want(".entry")?;
        let name = self.cursor.next()?.to_owned();
        let mut scope = Scope::new(self.symbols.clone());
        let (parameters, parameter_bytes) = self.parameters(&mut scope)?;
        let threads_max = self.directives()?;
        let mut body = Body {
            header: self.header,
            scope,
            shared_bytes: self.shared_bytes,
            local_bytes: 0,
            code: Vec::new(),
            labels: HashMap::new(),
            jumps: Vec::new(),
        };
        body.read(&mut self.cursor)?;
        body.link()?;
        Ok(Kernel {
            name,
            parameters,
            parameter_bytes,
            registers: body.scope.count(),
            constants: body.scope.constants(),
            specials: body.scope.specials(),
            names: body.scope.names,
            shared_bytes: body.shared_bytes,
            local_bytes: body.local_bytes,
            threads_max,
            multiplies: body.code.iter().any(|instruction| matches!(instruction.op, Op::ProductStart { .. })),
            code: body.code,
            module_memory: Arc::new([]),
        })
    }

    fn parameters(&mut self, scope: &mut Scope) -> Result<(Vec<Parameter>, u32), ParseError> {
        let cursor = &mut self.cursor;
        let mut found: Vec<Parameter> = Vec::new();
        let mut end = 0u32;
        if !cursor.eat("(") || cursor.eat(")") {
            return Ok((found, end));
        }
        loop {
            cursor.want(".param")?;
            let mut align = alignment(cursor)?;
            let ty = ty(cursor)?;
            // `.ptr` says of what the address is; nothing here depends on it.
            if cursor.eat(".ptr") {
                while [".global", ".const", ".shared", ".local"].contains(&cursor.peek()) {
                    cursor.next()?;
                }
                alignment(cursor)?;
            }
            align = align.max(u32::from(ty.bytes()));
            let name = cursor.next()?;
            let mut bytes = u32::from(ty.bytes());
            if cursor.eat("[") {
                bytes *= cursor.count("length", u64::from(PARAMETERS_MAX))?;
                cursor.want("]")?;
            }
            let offset = end.next_multiple_of(align);
            end = offset.saturating_add(bytes);
            if end > PARAMETERS_MAX {
                return cursor.wrong(format!("more than {PARAMETERS_MAX} bytes of parameters"));
            }
            scope.symbols.push((name.to_owned(), Symbol::Parameter(offset)));
            found.push(Parameter { offset, bytes });
            if cursor.eat(")") {
                return Ok((found, end));
            }
            cursor.want(",")?;
        }
    }

    /// What stands between parameters and body: how many threads a block may have.
    fn directives(&mut self) -> Result<Option<u32>, ParseError> {
        let cursor = &mut self.cursor;
        let mut threads = None;
        loop {
            let bounds = [".maxntid", ".reqntid"].contains(&cursor.peek());
            if !bounds && ![".minnctapersm", ".maxnreg"].contains(&cursor.peek()) {
                return Ok(threads);
            }
            cursor.next()?;
            let mut product = cursor.count("bound", 1 << 16)?;
            while cursor.eat(",") {
                product = product.saturating_mul(cursor.count("bound", 1 << 16)?);
            }
            if bounds {
                threads = Some(product);
            }
        }
    }
}

/// A kernel's text inside its braces.
struct Body<'a> {
    header: Header,
    scope: Scope,
    shared_bytes: u32,
    local_bytes: u32,
    code: Vec<Instruction>,
    labels: HashMap<&'a str, u32>,
    /// Branches and the labels that they name.
    jumps: Vec<(usize, &'a str)>,
}

impl<'a> Body<'a> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), ParseError> {
        cursor.want("{")?;
        let mut depth = 1;
        while depth > 0 {
            match cursor.peek() {
                "{" => {
                    cursor.next()?;
                    self.scope.open();
                    depth += 1;
                }
                "}" => {
                    cursor.next()?;
                    self.scope.close();
                    depth -= 1;
                }
                ".reg" => self.registers(cursor)?,
                ".shared" => {
                    let (name, at) = array(cursor, &mut self.shared_bytes, SHARED_MAX, false)?;
                    self.scope.symbols.push((name, Symbol::Shared(at)));
                }
                ".local" => {
                    let (name, at) = array(cursor, &mut self.local_bytes, LOCAL_MAX, false)?;
                    self.scope.symbols.push((name, Symbol::Local(at)));
                }
                ".pragma" | ".loc" => while cursor.next()? != ";" {},
                _ if cursor.peek_second() == ":" => {
                    let label = cursor.next()?;
                    cursor.next()?;
                    if self.labels.insert(label, self.code.len() as u32).is_some() {
                        return cursor.wrong(format!("a second label {label}"));
                    }
                }
                _ => self.statement(cursor)?,
            }
        }
        let line = cursor.line();
        self.code.push(Instruction { op: Op::Exit, guard: None, line });
        Ok(())
    }

    fn registers(&mut self, cursor: &mut Cursor<'a>) -> Result<(), ParseError> {
        cursor.next()?;
        let ty = ty(cursor)?;
        loop {
            let name = cursor.next()?;
            let count = match cursor.eat("<") {
                true => {
                    let count = cursor.count("number of registers", u64::from(scope::REGISTERS_MAX))?;
                    cursor.want(">")?;
                    Some(count)
                }
                false => None,
            };
            if !self.scope.declare(name, count, ty) {
                return cursor.wrong(format!("more than {} registers", scope::REGISTERS_MAX));
            }
            if cursor.eat(";") {
                return Ok(());
            }
            cursor.want(",")?;
        }
    }

    fn statement(&mut self, cursor: &mut Cursor<'a>) -> Result<(), ParseError> {
        let line = cursor.line();
        let guard = match cursor.eat("@") {
            true => {
                let negated = cursor.eat("!");
                let name = cursor.next()?;
                match self.scope.register(name) {
                    Some((register, Type::Pred)) => Some((register, negated)),
                    _ => return cursor.wrong(format!("'{name}' is no predicate")),
                }
            }
            false => None,
        };
        let mnemonic = cursor.next()?;
        if mnemonic == "bra" || mnemonic == "bra.uni" {
            self.jumps.push((self.code.len(), cursor.next()?));
            cursor.want(";")?;
            self.code.push(Instruction { op: Op::Branch { target: 0 }, guard, line });
            return Ok(());
        }
        let operands = cursor.operands()?;
        let statement = Statement { line, mnemonic, operands };
        let op = decode::decode(statement, self.header, &mut self.scope)?;
        self.code.push(Instruction { op, guard, line });
        Ok(())
    }

    /// Gives branches their targets.
    fn link(&mut self) -> Result<(), ParseError> {
        for (at, label) in &self.jumps {
            let found = self.labels.get(label);
            let line = self.code[*at].line;
            let target =
                *found.ok_or_else(|| ParseError { line, why: format!("there is no label {label}") })?;
            self.code[*at].op = Op::Branch { target };
        }
        Ok(())
    }
}
