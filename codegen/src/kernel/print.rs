//! The text form of a kernel.
//!
//! ```text
//! kernel gemv grid=[64, 1, 1] lanes=8 (sym: T@0 in 1..513, p0: read f32[T*64], p1: write f32[64] aligned) {
//!   shared s0: f32[64]
//!   cell c0: f32
//!   let v0 = const 0.0 : f32
//!   set c0 = v0
//!   loop l4 0..T {
//!     let v1 = load p0[l4*64 + g0] : f32
//!     ...
//!   }
//! }
//! ```
//!
//! A value prints its operation and type, and `in LOW..END` where index expressions rely on a range that
//! does not follow from its operation. `#` begins a comment. Printing numbers values, cells and loops
//! canonically first, so equal kernels have equal texts.

use std::collections::HashMap;
use std::fmt::{self, Write};

use jtllm_ir::{DType, Expr, Scalar};

use super::names::{ValueRange, derived_range, stated_ranges};
use super::{Access, Kernel, KernelNames, Stmt, Value, ValueId};

/// What stands for the name in the canonical text.
const NAMELESS: &str = "_";

impl Kernel {
    /// The text that identifies the kernel: its text form without the name.
    pub fn canonical_text(&self) -> String {
        self.text(NAMELESS)
    }

    /// The key of the kernel's artifact in a cache: 128 bits of its canonical text, the target's name, what else the
    /// target's bytes depend on, and the sources of the emitters.
    pub fn key(&self, target: &str, variant: &str) -> u128 {
        let emitters = env!("JTLLM_CODEGEN_SOURCES");
        let text = format!("{emitters}\n{target}\n{}\n{variant}\n{}", variant.len(), self.canonical_text());
        xxhash_rust::xxh3::xxh3_128(text.as_bytes())
    }

    fn text(&self, name: &str) -> String {
        let kernel = self.renumbered();
        let printer = Printer { ranges: stated_ranges(&kernel), kernel: &kernel };
        let mut out = String::new();
        printer.kernel(name, &mut out).expect("writing to a string does not fail");
        out
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let mut name: String = self.name.chars().map(letter).collect();
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            name.insert_str(0, NAMELESS);
        }
        f.write_str(&self.text(&name))
    }
}

struct Printer<'k> {
    kernel: &'k Kernel,
    ranges: HashMap<ValueId, Vec<ValueRange>>,
}

fn show(x: &Expr) -> impl fmt::Display + '_ {
    x.display(&KernelNames)
}

impl Printer<'_> {
    fn kernel(&self, name: &str, out: &mut String) -> fmt::Result {
        let kernel = self.kernel;
        let [x, y, z] = &kernel.grid;
        write!(out, "kernel {name} grid=[{}, {}, {}] lanes={} (", show(x), show(y), show(z), kernel.lanes)?;
        let mut separator = "";
        for (symbol, slot) in &kernel.symbols {
            let (name, low, end) = (symbol.name(), symbol.low(), symbol.high() + 1);
            write!(out, "{separator}sym: {name}@{slot} in {low}..{end}")?;
            if symbol.divisor() > 1 {
                write!(out, " step {}", symbol.divisor())?;
            }
            separator = ", ";
        }
        for (at, param) in kernel.params.iter().enumerate() {
            let access = match param.access {
                Access::Read => "read",
                Access::Write => "write",
                Access::Update => "update",
            };
            write!(out, "{separator}p{at}: {access} {}[{}]", param.dtype, show(&param.len))?;
            out.push_str(if param.aligned { " aligned" } else { "" });
            separator = ", ";
        }
        out.push_str(") {\n");
        for (at, shared) in kernel.shared.iter().enumerate() {
            writeln!(out, "  shared s{at}: {}[{}]", shared.dtype, shared.len)?;
        }
        for (at, dtype) in kernel.cells.iter().enumerate() {
            writeln!(out, "  cell c{at}: {dtype}")?;
        }
        for (at, fragment) in kernel.fragments.iter().enumerate() {
            writeln!(out, "  fragment f{at}: {} {}", fragment.role.name(), fragment.dtype)?;
        }
        self.block(&kernel.body, 1, out)?;
        out.push_str("}\n");
        Ok(())
    }

    fn block(&self, body: &[Stmt], depth: usize, out: &mut String) -> fmt::Result {
        for stmt in body {
            write!(out, "{:indent$}", "", indent = depth * 2)?;
            match stmt {
                Stmt::Let(id) => self.define(*id, out)?,
                Stmt::Set(cell, value) => writeln!(out, "set c{} = v{}", cell.0, value.0)?,
                Stmt::Store { memory, at, value } => {
                    writeln!(out, "store {memory}[{}] = v{}", show(at), value.0)?;
                }
                Stmt::Loop { axis, extent, body } => {
                    writeln!(out, "loop l{axis} 0..{} {{", show(extent))?;
                    self.block(body, depth + 1, out)?;
                    writeln!(out, "{:indent$}}}", "", indent = depth * 2)?;
                }
                Stmt::If { cond, body } => {
                    writeln!(out, "if {} {{", show(cond))?;
                    self.block(body, depth + 1, out)?;
                    writeln!(out, "{:indent$}}}", "", indent = depth * 2)?;
                }
                Stmt::Barrier => out.push_str("barrier\n"),
                Stmt::Clear(sum) => writeln!(out, "clear f{}", sum.0)?,
                Stmt::Fetch { fragment, memory, at, stride, turned } => {
                    let turned = if *turned { " turned" } else { "" };
                    writeln!(out, "fetch f{} = {memory}[{}] stride {stride}{turned}", fragment.0, show(at))?;
                }
                Stmt::Mma { sum, left, right } => {
                    writeln!(out, "mma f{}, f{}, f{}", sum.0, left.0, right.0)?;
                }
                Stmt::Product { sums, left, right, depth } => {
                    let sums: Vec<String> = sums.iter().map(|sum| format!("f{}", sum.0)).collect();
                    let [left, right] = [left, right].map(|panel| {
                        format!("{}[{}] stride {}", panel.memory, show(&panel.at), panel.stride)
                    });
                    writeln!(out, "product {} by {left}, {right} depth {depth}", sums.join(", "))?;
                }
                Stmt::ProductWait { pending } => writeln!(out, "product_wait {pending}")?,
                Stmt::Publish => out.push_str("publish\n"),
                Stmt::Spill { sum, memory, at, stride } => {
                    writeln!(out, "spill {memory}[{}] stride {stride} = f{}", show(at), sum.0)?;
                }
                Stmt::Scale { sum, memory, at, stride } => {
                    writeln!(out, "scale f{} by {memory}[{}] stride {stride}", sum.0, show(at))?;
                }
                Stmt::Stage { to, at, from, from_at } => {
                    writeln!(out, "stage {to}[{}] = {from}[{}]", show(at), show(from_at))?;
                }
                Stmt::StageCommit => out.push_str("stage_commit\n"),
                Stmt::StageWait { pending } => writeln!(out, "stage_wait {pending}")?,
            }
        }
        Ok(())
    }

    fn define(&self, id: ValueId, out: &mut String) -> fmt::Result {
        write!(out, "let v{} = ", id.0)?;
        let Some(record) = self.kernel.values.get(id.0 as usize) else {
            return out.write_str("nothing\n");
        };
        match &record.value {
            Value::Const(constant) => {
                out.push_str("const ");
                print_constant(*constant, record.dtype, out)?;
            }
            Value::Index(x) => write!(out, "index {}", show(x))?,
            Value::Cell(cell) => write!(out, "c{}", cell.0)?,
            Value::Load { memory, at } => write!(out, "load {memory}[{}]", show(at))?,
            Value::Scalar(op, xs) => {
                out.push_str(&op.name());
                for (at, x) in xs.iter().enumerate() {
                    write!(out, "{} v{}", if at == 0 { "" } else { "," }, x.0)?;
                }
            }
            Value::LaneReduce(monoid, x) => write!(out, "lane_reduce {} v{}", monoid.name(), x.0)?,
        }
        write!(out, " : {}", record.dtype)?;
        if let Some((low, end)) = self.ranges.get(&id).and_then(|ranges| ranges.first()) {
            let derived = derived_range(record);
            if (*low, end) != (derived.0, &derived.1) {
                write!(out, " in {low}..{}", show(end))?;
            }
        }
        out.push('\n');
        Ok(())
    }
}

/// Decimal where that reads back as the same bits, else the bits of the equal `f32`.
fn print_constant(constant: Scalar, dtype: DType, out: &mut String) -> fmt::Result {
    if !dtype.is_float() {
        return write!(out, "{}", dtype.wrap(constant.int()));
    }
    let x = dtype.round(constant.float());
    if x.is_finite() { write!(out, "{x:?}") } else { write!(out, "{:#010x}", x.to_bits()) }
}
