//! A kernel as an entry point.

use std::fmt::Write;

use jtllm_ir::{DType, Expr, Monoid};

use super::Joins;
use super::index::{condition, evidently_uniform, index};
use super::operation::{constant, scalar};
use crate::kernel::{Access, Kernel, Memory, Stmt, Value, ValueId};
use crate::target::EmitError;

/// What a kernel may call or name, an empty line between one and the next.
const FUNCTIONS: &str = include_str!("functions.wgsl");

/// Whether a word stands in a text by itself.
fn names(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).any(|other| other == word)
}

/// Those of [`FUNCTIONS`] that a text names, and those that they name.
fn called_by(text: &str) -> String {
    let mut rest: Vec<&str> = FUNCTIONS.split("\n\n").collect();
    let mut called = String::new();
    // A pass over all for each depth of calls.
    while let Some(at) = rest.iter().position(|function| {
        let head = function.split(['(', ':']).next().unwrap_or_default();
        let name = head.split_whitespace().last().unwrap_or_default();
        names(text, name) || names(&called, name)
    }) {
        called.push_str(rest.remove(at).trim_end());
        called.push('\n');
    }
    called
}

/// The type as which values of a type are carried.
pub(super) fn carried(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => "f32",
        DType::I32 | DType::I8 => "i32",
        DType::U32 | DType::U8 => "u32",
        DType::Bool => "bool",
    }
}

struct Emitter<'k> {
    kernel: &'k Kernel,
    joins: Joins,
    out: String,
    /// Names for what is read uniformly.
    uniform: usize,
}

pub(super) fn emit(kernel: &Kernel, joins: Joins) -> Result<String, EmitError> {
    let mut emitter = Emitter { kernel, joins, out: String::new(), uniform: 0 };
    emitter.globals();
    emitter.prologue()?;
    emitter.block(&kernel.body, 1)?;
    emitter.out.push_str("}\n");
    let functions = called_by(&emitter.out);
    emitter.out.push_str(&functions);
    Ok(emitter.out)
}

impl Emitter<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        _ = writeln!(self.out, "{:indent$}{text}", "", indent = depth * 2);
    }

    fn globals(&mut self) {
        self.line(0, "@group(0) @binding(0) var<uniform> symbols: array<vec4<i32>, 16>;");
        for (at, param) in self.kernel.params.iter().enumerate() {
            let element = match (param.dtype.size(), param.access) {
                (4, _) => carried(param.dtype),
                (_, Access::Read) => "u32",
                (_, Access::Write | Access::Update) => "atomic<u32>",
            };
            let binding = at + 1;
            self.line(
                0,
                &format!("@group(0) @binding({binding}) var<storage, read_write> p{at}: array<{element}>;"),
            );
        }
        for (at, shared) in self.kernel.shared.iter().enumerate() {
            let element = carried(shared.dtype);
            self.line(0, &format!("var<workgroup> s{at}: array<{element}, {}>;", shared.len));
        }
        let trees = joined(self.kernel);
        let mut memories: Vec<&str> = trees.iter().map(|(_, dtype)| carried(*dtype)).collect();
        memories.sort_unstable();
        memories.dedup();
        memories.retain(|_| self.joins == Joins::Shared);
        for name in memories {
            self.line(0, &format!("var<workgroup> tree_{name}: array<{name}, {}>;", self.kernel.lanes));
        }
        for (monoid, dtype) in trees {
            self.tree(monoid, dtype);
        }
    }

    /// The group's place in the grid; groups beyond its end have nothing to do.
    fn prologue(&mut self) -> Result<(), EmitError> {
        let kernel = self.kernel;
        self.line(0, &format!("@compute @workgroup_size({})", kernel.lanes));
        self.line(
            0,
            "fn main(@builtin(workgroup_id) place: vec3<u32>, @builtin(num_workgroups) all: vec3<u32>, \
             @builtin(local_invocation_index) thread: u32) {",
        );
        let [x, y, z] = [0, 1, 2].map(|at| index(kernel, &kernel.grid[at]));
        self.line(1, "let lane = i32(thread);");
        self.line(1, "let group = i32(place.x + place.y * all.x);");
        self.line(1, &format!("let wide = {x};"));
        self.line(1, &format!("let high = {y};"));
        self.line(1, &format!("if (group >= wide * high * {z}) {{ return; }}"));
        self.line(1, "let g0 = group % wide;");
        self.line(1, "let g1 = (group / wide) % high;");
        self.line(1, "let g2 = group / (wide * high);");
        for (at, dtype) in kernel.cells.iter().enumerate() {
            self.line(1, &format!("var c{at}: {};", carried(*dtype)));
        }
        let most = i64::from(i32::MAX);
        for param in &kernel.params {
            if let Some(need) = param.len.as_int().filter(|len| *len > most) {
                let (need, have) = (need as u64, most as u64);
                return Err(EmitError::Limit { what: "elements of a binding", need, have });
            }
        }
        Ok(())
    }

    fn block(&mut self, body: &[Stmt], depth: usize) -> Result<(), EmitError> {
        for stmt in body {
            match stmt {
                Stmt::Let(id) => self.define(*id, depth),
                Stmt::Set(cell, value) => self.line(depth, &format!("c{} = v{};", cell.0, value.0)),
                Stmt::Store { memory, at, value } => self.store(*memory, at, *value, depth),
                Stmt::Loop { axis, extent, body } => {
                    let extent = self.same(extent, body, depth);
                    self.line(depth, &format!("for (var l{axis} = 0; l{axis} < {extent}; l{axis}++) {{"));
                    self.block(body, depth + 1)?;
                    self.line(depth, "}");
                }
                Stmt::If { cond, body } => {
                    let text = match joins(self.kernel, body) && !evidently_uniform(cond) {
                        true => format!("({} != 0)", self.same(cond, body, depth)),
                        false => condition(self.kernel, cond),
                    };
                    self.line(depth, &format!("if {text} {{"));
                    self.block(body, depth + 1)?;
                    self.line(depth, "}");
                }
                Stmt::Barrier => self.line(depth, "workgroupBarrier();"),
                // Refused before.
                _ => {}
            }
        }
        Ok(())
    }

    /// A uniform expression, so that browsers see that it is uniform where a barrier depends on it.
    fn same(&mut self, x: &Expr, body: &[Stmt], depth: usize) -> String {
        let text = index(self.kernel, x);
        let name = format!("u{}", self.uniform);
        self.uniform += 1;
        if joins(self.kernel, body) && !evidently_uniform(x) {
            self.line(depth, &format!("if (lane == 0) {{ same = {text}; }}"));
            self.line(depth, &format!("let {name} = workgroupUniformLoad(&same);"));
        } else {
            self.line(depth, &format!("let {name} = {text};"));
        }
        name
    }

    fn define(&mut self, id: ValueId, depth: usize) {
        let record = self.kernel.record(id);
        let dtype = record.dtype;
        let text = match &record.value {
            Value::Const(value) => constant(*value, dtype),
            Value::Index(x) => match dtype {
                DType::Bool => condition(self.kernel, x),
                DType::U32 => format!("u32({})", index(self.kernel, x)),
                _ => index(self.kernel, x),
            },
            Value::Cell(cell) => format!("c{}", cell.0),
            Value::Load { memory, at } => self.load(*memory, at),
            Value::Scalar(op, operands) => {
                let operands: Vec<(String, DType)> =
                    operands.iter().map(|x| (format!("v{}", x.0), self.kernel.record(*x).dtype)).collect();
                scalar(*op, &operands)
            }
            Value::LaneReduce(monoid, x) => format!("{}(v{}, thread)", join(*monoid, dtype), x.0),
        };
        self.line(depth, &format!("let v{}: {} = {text};", id.0, carried(dtype)));
    }

    /// A function that joins lanes in the order of the fixed tree. A loop, because each barrier costs a driver
    /// that runs lanes one after another a place to come back to.
    fn tree(&mut self, monoid: Monoid, dtype: DType) {
        let (name, tree) = (carried(dtype), format!("tree_{}", carried(dtype)));
        if self.joins == Joins::Subgroup {
            let sides = ["all".to_owned(), "other".to_owned()];
            let joined = scalar(monoid.scalar(), &sides.map(|side| (side, dtype)));
            let half = self.kernel.lanes / 2;
            self.line(0, &format!("fn {}(x: {name}, thread: u32) -> {name} {{", join(monoid, dtype)));
            self.line(1, "var all = x;");
            self.line(1, &format!("for (var half = {half}u; half > 0u; half /= 2u) {{"));
            self.line(2, "let other = subgroupShuffleXor(all, half);");
            self.line(2, &format!("all = {joined};"));
            self.line(1, "}");
            self.line(1, "return all;");
            self.line(0, "}");
            return;
        }
        let sides = [format!("{tree}[thread]"), format!("{tree}[thread + half]")];
        let joined = scalar(monoid.scalar(), &sides.map(|side| (side, dtype)));
        let half = self.kernel.lanes / 2;
        self.line(0, &format!("fn {}(x: {name}, thread: u32) -> {name} {{", join(monoid, dtype)));
        self.line(1, &format!("{tree}[thread] = x;"));
        self.line(1, &format!("for (var half = {half}u; half > 0u; half /= 2u) {{"));
        self.line(2, "workgroupBarrier();");
        self.line(2, &format!("if (thread < half) {{ {tree}[thread] = {joined}; }}"));
        self.line(1, "}");
        self.line(1, "workgroupBarrier();");
        self.line(1, &format!("let all = {tree}[0];"));
        self.line(1, "workgroupBarrier();");
        self.line(1, "return all;");
        self.line(0, "}");
    }

    fn load(&self, memory: Memory, at: &Expr) -> String {
        let dtype = self.kernel.memory_dtype(memory);
        let at = index(self.kernel, at);
        if dtype.size() == 4 || matches!(memory, Memory::Shared(_)) {
            return format!("{memory}[{at}]");
        }
        let word = |per: u32| {
            let element = format!("{memory}[({at}) / {per}]");
            let element = match self.kernel.access(memory).is_some_and(Access::writes) {
                true => format!("atomicLoad(&{element})"),
                false => element,
            };
            format!("({element} >> ((u32({at}) % {per}u) * {}u))", 32 / per)
        };
        match dtype {
            DType::F16 => format!("half_value({} & 0xffffu)", word(2)),
            DType::BF16 => format!("brain_value({} & 0xffffu)", word(2)),
            DType::I8 => format!("(bitcast<i32>({} << 24u) >> 24u)", word(4)),
            DType::Bool => format!("(({} & 0xffu) != 0u)", word(4)),
            _ => format!("({} & 0xffu)", word(4)),
        }
    }

    fn store(&mut self, memory: Memory, at: &Expr, value: ValueId, depth: usize) {
        let dtype = self.kernel.memory_dtype(memory);
        let at = index(self.kernel, at);
        let value = format!("v{}", value.0);
        if dtype.size() == 4 || matches!(memory, Memory::Shared(_)) {
            self.line(depth, &format!("{memory}[{at}] = {value};"));
            return;
        }
        let (per, mask) = if dtype.size() == 2 { (2, "0xffffu") } else { (4, "0xffu") };
        let bits = match dtype {
            DType::F16 => format!("half_bits({value})"),
            DType::BF16 => format!("brain_bits({value})"),
            DType::I8 => format!("(bitcast<u32>({value}) & 0xffu)"),
            DType::Bool => format!("select(0u, 1u, {value})"),
            _ => format!("({value} & 0xffu)"),
        };
        self.line(depth, "{");
        self.line(depth + 1, &format!("let at = u32({at});"));
        self.line(depth + 1, &format!("let shift = (at % {per}u) * {}u;", 32 / per));
        self.line(depth + 1, &format!("atomicAnd(&{memory}[at / {per}u], ~({mask} << shift));"));
        self.line(depth + 1, &format!("atomicOr(&{memory}[at / {per}u], {bits} << shift);"));
        self.line(depth, "}");
    }
}

/// Whether lanes meet in a block.
fn joins(kernel: &Kernel, body: &[Stmt]) -> bool {
    body.iter().any(|stmt| match stmt {
        Stmt::Barrier => true,
        Stmt::Let(id) => matches!(kernel.record(*id).value, Value::LaneReduce(..)),
        Stmt::Loop { body, .. } | Stmt::If { body, .. } => joins(kernel, body),
        _ => false,
    })
}

/// How lanes join values: each way once, by type as it is carried.
fn joined(kernel: &Kernel) -> Vec<(Monoid, DType)> {
    let mut found: Vec<(Monoid, DType)> = Vec::new();
    for record in &kernel.values {
        if let Value::LaneReduce(monoid, _) = record.value
            && !found.iter().any(|(known, dtype)| join(*known, *dtype) == join(monoid, record.dtype))
        {
            found.push((monoid, record.dtype));
        }
    }
    found
}

/// The name of a function that joins lanes.
fn join(monoid: Monoid, dtype: DType) -> String {
    format!("join_{}_{}", monoid.name(), carried(dtype))
}
