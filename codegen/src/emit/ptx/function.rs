//! A kernel as an entry point: blocks, cells, and lanes that join their values.

use std::collections::HashMap;
use std::fmt::Write;

use jtllm_ir::{DType, Expr};

use super::index::Known;
use super::memory::{Bundle, Places};
use super::operation::constant;
use super::uses::Uses;
use super::{ENTRY, LANES, LEVELS};
use crate::kernel::{GRID_AXIS, Kernel, LANE_AXIS, Stmt, Value, ValueId, Varying};

/// Registers of a processor, which its groups share.
const REGISTERS: u32 = 65536;

/// Groups of usual size that should fit a processor at a time.
const GROUPS_AT_ONCE: u32 = 3;

/// The kinds of virtual registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// 32 bits.
    Word,
    /// 64 bits.
    Long,
    /// 16 bits.
    Half,
    /// A float of 32 bits.
    Float,
    /// A truth value.
    Truth,
}

/// Each class with the type of its declaration and the first letters of its names, in the order of [`Class`].
const CLASSES: [(&str, &str); 5] = [("b32", "r"), ("b64", "rd"), ("b16", "h"), ("f32", "f"), ("pred", "p")];

impl Class {
    /// The class that carries values of a type.
    pub(super) fn of(dtype: DType) -> Class {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Class::Float,
            DType::Bool => Class::Truth,
            DType::I32 | DType::U32 | DType::I8 | DType::U8 => Class::Word,
        }
    }

    /// The type under which a register moves.
    pub(super) fn moved(self) -> &'static str {
        CLASSES[self as usize].0
    }
}

/// A block under construction, and what has been computed in it.
#[derive(Default)]
pub(super) struct Frame {
    pub(super) text: String,
    pub(super) known: HashMap<Known, String>,
}

pub(super) struct Emitter<'k> {
    pub(super) kernel: &'k Kernel,
    /// What the device has, and the least that the text needs.
    level: u32,
    needed: u32,
    pub(super) frames: Vec<Frame>,
    /// The block at whose end instructions are written: the innermost, or one outside for what may stand there.
    pub(super) at: usize,
    /// Where values and axes are, and the block that has them.
    pub(super) values: HashMap<ValueId, (String, usize)>,
    pub(super) axes: HashMap<u16, (String, usize)>,
    cells: Vec<String>,
    /// The registers of each fragment.
    pub(super) fragments: Vec<Vec<String>>,
    /// Loads that come together, by each of them.
    pub(super) bundles: HashMap<ValueId, Bundle>,
    pub(super) places: Places,
    varying: Varying,
    uses: Uses,
    /// Where the next operation leaves its result, if that is not a new register.
    destination: Option<String>,
    registers: [usize; 5],
    labels: usize,
    /// Whether lanes may still read what was joined before.
    pub(super) joined: bool,
}

pub(super) fn emit(kernel: &Kernel, level: u32) -> String {
    let mut emitter = Emitter {
        kernel,
        level,
        needed: LEVELS[0].0,
        frames: vec![Frame::default()],
        at: 0,
        values: HashMap::new(),
        axes: HashMap::new(),
        cells: Vec::new(),
        fragments: Vec::new(),
        bundles: HashMap::new(),
        places: Places::of(kernel),
        varying: kernel.varying(),
        uses: Uses::of(kernel),
        destination: None,
        registers: [0; 5],
        labels: 0,
        joined: false,
    };
    emitter.prologue();
    emitter.cells = kernel.cells.iter().map(|dtype| emitter.register(Class::of(*dtype))).collect();
    emitter.fragments();
    emitter.block(&kernel.body);
    emitter.line("ret");
    emitter.finish()
}

impl Emitter<'_> {
    /// Whether the device has what a capability adds.
    pub(super) fn has(&self, capability: u32) -> bool {
        self.level >= capability
    }

    /// Notes that the text needs a capability.
    pub(super) fn needs(&mut self, capability: u32) {
        self.needed = self.needed.max(capability);
    }

    /// Writes an instruction.
    pub(super) fn line(&mut self, instruction: &str) {
        _ = writeln!(self.frames[self.at].text, "  {instruction};");
    }

    /// A new register.
    pub(super) fn register(&mut self, class: Class) -> String {
        let count = &mut self.registers[class as usize];
        *count += 1;
        format!("%{}{}", CLASSES[class as usize].1, *count - 1)
    }

    /// Where an operation leaves its result.
    pub(super) fn result(&mut self, class: Class) -> String {
        self.destination.take().unwrap_or_else(|| self.register(class))
    }

    /// Writes an instruction whose result is a new register.
    pub(super) fn make(&mut self, class: Class, instruction: &str, operands: &[&str]) -> String {
        let result = self.register(class);
        self.line(&format!("{instruction} {result}, {}", operands.join(", ")));
        result
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!("L{}", self.labels - 1)
    }

    /// The header, the declarations, and the body between them.
    fn finish(mut self) -> String {
        let row = LEVELS.iter().find(|(capability, _, _)| *capability == self.needed);
        let (_, version, processor) = row.expect("only what a level adds is needed");
        let mut text = format!(".version {version}\n.target {processor}\n.address_size 64\n");
        if self.places.is_dynamic() {
            text.push_str(".extern .shared .align 16 .b8 shared[];\n");
        }
        _ = write!(text, ".visible .entry {ENTRY}(\n  .param .u64 symbols");
        for at in 0..self.kernel.params.len() {
            _ = write!(text, ",\n  .param .u64 p{at}");
        }
        _ = writeln!(text, "\n)\n.reqntid {}", self.kernel.lanes);
        // Left alone the assembler would rather spill than give groups more than it likes.
        let lanes = self.kernel.lanes;
        let threads = if lanes <= LANES { lanes * GROUPS_AT_ONCE } else { lanes };
        let registers = (REGISTERS / threads).min(255) / 8 * 8;
        _ = writeln!(text, ".maxnreg {registers}");
        text.push_str("{\n");
        for (count, (kind, letters)) in self.registers.iter().zip(CLASSES) {
            if *count > 0 {
                _ = writeln!(text, "  .reg .{kind} %{letters}<{count}>;");
            }
        }
        if !self.places.is_dynamic() && self.places.bytes() > 0 {
            _ = writeln!(text, "  .shared .align 16 .b8 shared[{}];", self.places.bytes());
        }
        let body = self.frames.pop().expect("the kernel's own block stays open");
        text.push_str(&body.text);
        text.push_str("}\n");
        text
    }

    /// The lane, and the group's place in the grid, whose first direction counts fastest.
    fn prologue(&mut self) {
        let lane = self.make(Class::Word, "mov.u32", &["%tid.x"]);
        self.axes.insert(LANE_AXIS, (lane, 0));
        let extents = &self.kernel.grid;
        let mut wide = (0..3u16).filter(|at| extents[usize::from(*at)].as_int() != Some(1)).peekable();
        if wide.peek().is_none() {
            return;
        }
        let mut group = self.make(Class::Word, "mov.u32", &["%ctaid.x"]);
        while let Some(at) = wide.next() {
            let mut place = group.clone();
            if wide.peek().is_some() {
                let extent = self.word(&extents[usize::from(at)]);
                group = self.make(Class::Word, "div.u32", &[&place, &extent]);
                let whole = self.make(Class::Word, "mul.lo.u32", &[&group, &extent]);
                place = self.make(Class::Word, "sub.u32", &[&place, &whole]);
            }
            self.axes.insert(GRID_AXIS + at, (place, 0));
        }
    }

    fn block(&mut self, body: &[Stmt]) {
        self.bundle(body);
        let mut rest = body;
        while let Some((stmt, after)) = rest.split_first() {
            rest = after;
            match stmt {
                Stmt::Let(id) if self.joins(*id) => rest = self.join_all(*id, after),
                Stmt::Let(id) => self.define(*id, after.first()),
                Stmt::Set(cell, value) => {
                    let class = Class::of(self.kernel.cells[cell.0 as usize]);
                    let (cell, value) = (self.cells[cell.0 as usize].clone(), self.value(*value));
                    if cell != value {
                        self.line(&format!("mov.{} {cell}, {value}", class.moved()));
                    }
                }
                Stmt::Store { .. } => rest = self.stores(stmt, after),
                Stmt::Loop { axis, extent, body } => self.repeat(*axis, extent, body),
                Stmt::If { cond, body } => self.conditional(cond, body),
                Stmt::Barrier => {
                    self.line("bar.sync 0");
                    self.joined = false;
                }
                _ => rest = self.matrix(stmt, after),
            }
        }
    }

    /// A block inside the present one.
    fn inner(&mut self, body: &[Stmt]) -> String {
        self.frames.push(Frame::default());
        self.at += 1;
        self.block(body);
        self.at -= 1;
        self.frames.pop().map(|frame| frame.text).unwrap_or_default()
    }

    /// The extent is the same for all lanes, which `.uni` tells the compiler.
    fn repeat(&mut self, axis: u16, extent: &Expr, body: &[Stmt]) {
        let (start, end) = (self.label(), self.label());
        let extent_word = self.word(extent);
        let turn = self.make(Class::Word, "mov.b32", &["0"]);
        self.axes.insert(axis, (turn.clone(), self.at + 1));
        let before = self.joined;
        self.joined |= self.joins_in(body);
        let body = self.inner(body);
        self.joined |= before;
        // Behind what the body has left to this block, which others may use after the loop.
        if extent.low() < 1 {
            let none = self.make(Class::Truth, "setp.lt.s32", &[&extent_word, "1"]);
            self.line(&format!("@{none} bra.uni {end}"));
        }
        _ = write!(self.frames[self.at].text, "{start}:\n{body}");
        self.line(&format!("add.s32 {turn}, {turn}, 1"));
        let again = self.make(Class::Truth, "setp.lt.s32", &[&turn, &extent_word]);
        self.line(&format!("@{again} bra.uni {start}"));
        if extent.low() < 1 {
            _ = writeln!(self.frames[self.at].text, "{end}:");
        }
    }

    fn conditional(&mut self, cond: &Expr, body: &[Stmt]) {
        let end = self.label();
        let cond_truth = self.truth(cond);
        let uniform = if self.varying.expr(cond) { "" } else { ".uni" };
        let before = self.joined;
        let body = self.inner(body);
        self.joined |= before;
        self.line(&format!("@!{cond_truth} bra{uniform} {end}"));
        _ = writeln!(self.frames[self.at].text, "{body}{end}:");
    }

    /// The register of a value, or the constant.
    pub(super) fn value(&self, id: ValueId) -> String {
        self.values[&id].0.clone()
    }

    /// Computes a value; `next` is the statement behind.
    pub(super) fn define(&mut self, id: ValueId, next: Option<&Stmt>) {
        let record = self.kernel.record(id);
        let class = Class::of(record.dtype);
        let operand = match &record.value {
            // Loaded with its neighbours.
            Value::Load { .. } if self.values.contains_key(&id) => return,
            Value::Load { memory, at } => return self.load(id, *memory, at),
            Value::Const(value) if class == Class::Truth => {
                self.make(class, "mov.pred", &[if value.truth() { "1" } else { "0" }])
            }
            Value::Const(value) => constant(*value, record.dtype),
            Value::Index(x) if class == Class::Truth => self.truth(x),
            Value::Index(x) => self.word(x),
            Value::Cell(cell) => {
                let cell = self.cells[cell.0 as usize].clone();
                match self.uses.outlives(id) {
                    true => self.make(class, &format!("mov.{}", class.moved()), &[&cell]),
                    false => cell,
                }
            }
            // Part of the spelling of another.
            Value::Scalar(..) if self.uses.count(id) == 0 => return,
            Value::Scalar(op, operands) => match self.small(id) {
                Some(value) => value,
                None => {
                    let operands: Vec<(String, DType)> =
                        operands.iter().map(|x| (self.value(*x), self.kernel.record(*x).dtype)).collect();
                    self.destination = self.set_next(id, next);
                    let value = self.scalar(*op, &operands);
                    self.destination = None;
                    value
                }
            },
            Value::LaneReduce(..) => unreachable!("lanes are joined by the block"),
        };
        self.values.insert(id, (operand, self.at));
    }

    /// The cell that becomes a value next, if nothing else uses it.
    fn set_next(&self, id: ValueId, next: Option<&Stmt>) -> Option<String> {
        match next {
            Some(Stmt::Set(cell, value)) if *value == id && self.uses.count(id) == 1 => {
                Some(self.cells[cell.0 as usize].clone())
            }
            _ => None,
        }
    }

    pub(super) fn joins(&self, id: ValueId) -> bool {
        matches!(self.kernel.record(id).value, Value::LaneReduce(..))
    }
}
