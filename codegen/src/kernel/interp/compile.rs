//! From a kernel to what the interpreter runs: ids checked, expressions resolved.

use std::collections::HashMap;

use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr, Monoid, ScalarOp};

use super::InterpError;
use super::index::{Action, Place, Step};
use super::matrix::TileManner;
use super::product::PanelPlace;
use super::scalar::{Types, to_register};
use crate::kernel::{
    Access, Fragment, GRID_AXIS, Kernel, LANE_AXIS, Memory, Panel, Shared, Stmt, Value, ValueId, ValueRecord,
    Varying, WARP, matrix, types,
};

/// The most lanes that a group may have here.
const LANES_MAX: u32 = 1024;
/// The most bytes that a group's lanes may share here.
const SHARED_BYTES_MAX: u64 = 16 << 20;

/// A statement, resolved. Registers are rows: first the values', then the cells'.
#[derive(Debug)]
pub(super) enum Node {
    Step(Step),
    Const { bits: u32, to: usize },
    Index { at: Place, dtype: DType, to: usize },
    Copy { from: usize, to: usize, masked: bool },
    Load { memory: Memory, at: Place, to: usize, varying: bool },
    Scalar { op: ScalarOp, types: Types, xs: Vec<usize>, to: usize, varying: bool },
    LaneReduce { monoid: Monoid, types: Types, x: usize, to: usize },
    Store { memory: Memory, at: Place, from: usize },
    Loop { axis: u32, extent: Place, body: Vec<Node> },
    If { cond: Place, varying: bool, body: Vec<Node> },
    Barrier,
    Clear { sum: usize },
    Tile { fragment: usize, memory: Memory, at: Place, stride: u32, manner: TileManner },
    Scale { sum: usize, memory: Memory, at: Place, stride: u32 },
    Mma { sum: usize, left: usize, right: usize },
    Stage { to: Memory, at: Place, from: Memory, from_at: Place },
    Product { sums: Vec<usize>, panels: [PanelPlace; 2], depth: u32 },
    ProductWait { pending: usize },
    Publish,
    StageCommit,
    StageWait { pending: usize },
}

/// A parameter's facts.
#[derive(Debug)]
pub(super) struct ParamFacts {
    pub(super) dtype: DType,
    pub(super) access: Access,
    pub(super) len: Place,
}

/// A kernel, ready to run.
#[derive(Debug)]
pub struct Program {
    pub(super) lanes: usize,
    pub(super) registers: usize,
    pub(super) uniforms: usize,
    pub(super) rows: usize,
    /// Index registers and the slots in the symbol block that they are read from.
    pub(super) symbols: Vec<(u32, u32)>,
    pub(super) params: Vec<ParamFacts>,
    pub(super) shared: Vec<Shared>,
    pub(super) fragments: Vec<Fragment>,
    pub(super) grid: [Place; 3],
    /// What depends on symbols alone.
    pub(super) prologue: Vec<Node>,
    pub(super) body: Vec<Node>,
}

struct Compiler<'k> {
    kernel: &'k Kernel,
    varying: Varying,
    uniforms: u32,
    rows: u32,
    /// The index register of each bound loop axis.
    axes: HashMap<u16, u32>,
    symbols: Vec<(u32, u32)>,
    /// What has been computed already, per open block.
    known: Vec<HashMap<Expr, Place>>,
}

fn malformed<T>(what: String) -> Result<T, InterpError> {
    Err(InterpError::Malformed { what })
}

impl Program {
    /// Resolves a kernel.
    pub fn new(kernel: &Kernel) -> Result<Program, InterpError> {
        if !kernel.lanes.is_power_of_two() || kernel.lanes > LANES_MAX {
            return malformed(format!("{} lanes, where a power of two is expected", kernel.lanes));
        }
        let shared: u64 = kernel.shared.iter().map(|s| u64::from(s.len) * s.dtype.size() as u64).sum();
        if shared > SHARED_BYTES_MAX {
            return malformed(format!("{shared} bytes of shared memory"));
        }
        check_fragments(kernel)?;
        check_values(kernel)?;
        check_block(kernel, &kernel.body)?;
        let mut compiler = Compiler {
            kernel,
            varying: kernel.varying(),
            uniforms: 3,
            rows: 1,
            axes: HashMap::new(),
            symbols: Vec::new(),
            known: vec![HashMap::new()],
        };
        let mut prologue = Vec::new();
        let mut grid = [Place::Const(1); 3];
        for (place, extent) in grid.iter_mut().zip(&kernel.grid) {
            *place = compiler.size(extent, &mut prologue)?;
        }
        let mut params = Vec::new();
        for param in &kernel.params {
            let len = compiler.size(&param.len, &mut prologue)?;
            params.push(ParamFacts { dtype: param.dtype, access: param.access, len });
        }
        let body = compiler.block(&kernel.body, false)?;
        Ok(Program {
            lanes: kernel.lanes as usize,
            registers: kernel.values.len() + kernel.cells.len(),
            uniforms: compiler.uniforms as usize,
            rows: compiler.rows as usize,
            symbols: compiler.symbols,
            params,
            shared: kernel.shared.clone(),
            fragments: kernel.fragments.clone(),
            grid,
            prologue,
            body,
        })
    }
}

/// Every id in range, every operation on types that it takes: what later steps index without a look.
fn check_values(kernel: &Kernel) -> Result<(), InterpError> {
    for (id, record) in kernel.values.iter().enumerate() {
        match types::of(kernel, &record.value, record.dtype) {
            Ok(dtype) if dtype == record.dtype => {}
            Ok(dtype) => return malformed(format!("v{id} is {dtype}, not {}", record.dtype)),
            Err(found) => return malformed(format!("v{id}: {found}")),
        }
    }
    Ok(())
}

/// Fragments of types that there are, held by whole warps.
fn check_fragments(kernel: &Kernel) -> Result<(), InterpError> {
    for (at, fragment) in kernel.fragments.iter().enumerate() {
        if let Some(found) = matrix::fragment_fault(fragment.role, fragment.dtype) {
            return malformed(format!("f{at}: {found}"));
        }
        if !kernel.lanes.is_multiple_of(WARP) {
            return malformed(format!("f{at} among {} lanes, which are no whole warps", kernel.lanes));
        }
    }
    Ok(())
}

fn check_block(kernel: &Kernel, body: &[Stmt]) -> Result<(), InterpError> {
    let dtype_of = |value: &ValueId| kernel.values.get(value.0 as usize).map(|record| record.dtype);
    for stmt in body {
        match stmt {
            Stmt::Let(id) if dtype_of(id).is_none() => {
                return malformed(format!("v{} does not exist", id.0));
            }
            Stmt::Set(cell, value) => {
                let dtype = dtype_of(value);
                if dtype.is_none() || kernel.cells.get(cell.0 as usize) != dtype.as_ref() {
                    return malformed(format!("c{} cannot be set to v{}", cell.0, value.0));
                }
            }
            Stmt::Store { memory, value, .. } => {
                let exists = kernel.memory_exists(*memory);
                if !exists || dtype_of(value) != Some(kernel.memory_dtype(*memory)) {
                    return malformed(format!("v{} cannot be stored to {memory}", value.0));
                }
                if kernel.access(*memory) == Some(Access::Read) {
                    return malformed(format!("a store to {memory}, which is only read"));
                }
            }
            Stmt::Loop { body, .. } | Stmt::If { body, .. } => check_block(kernel, body)?,
            other => {
                if let Some(found) = matrix::fault(kernel, other) {
                    return malformed(found);
                }
            }
        }
    }
    Ok(())
}

impl Compiler<'_> {
    fn size(&mut self, x: &Expr, out: &mut Vec<Node>) -> Result<Place, InterpError> {
        if x.any(&mut |leaf| matches!(leaf.kind(), Kind::Axis { .. } | Kind::Extra { .. })) {
            return malformed("a size that mentions more than symbols".to_owned());
        }
        self.expr(x, out)
    }

    fn block(&mut self, body: &[Stmt], divergent: bool) -> Result<Vec<Node>, InterpError> {
        self.known.push(HashMap::new());
        let mut out = Vec::new();
        for stmt in body {
            self.statement(stmt, divergent, &mut out)?;
        }
        self.known.pop();
        Ok(out)
    }

    fn statement(&mut self, stmt: &Stmt, divergent: bool, out: &mut Vec<Node>) -> Result<(), InterpError> {
        let uniform_only = |what: &str| match divergent {
            true => malformed(format!("a {what} where lanes may have parted")),
            false => Ok(()),
        };
        let node = match stmt {
            Stmt::Let(id) => {
                let record = self.kernel.record(*id);
                if matches!(record.value, Value::LaneReduce(..)) {
                    uniform_only("lane_reduce")?;
                }
                self.value(*id, record, out)?
            }
            Stmt::Set(cell, value) => {
                let to = self.kernel.values.len() + cell.0 as usize;
                Node::Copy { from: value.0 as usize, to, masked: divergent }
            }
            Stmt::Store { memory, at, value } => {
                let at = self.expr(at, out)?;
                Node::Store { memory: *memory, at, from: value.0 as usize }
            }
            Stmt::Loop { axis, extent, body } => {
                uniform_only("loop")?;
                let extent = self.expr(extent, out)?;
                if matches!(extent, Place::Lanes(_)) {
                    return malformed(format!("loop l{axis} runs for a number of times that varies"));
                }
                let slot = self.uniform_slot();
                if *axis <= LANE_AXIS || self.axes.insert(*axis, slot).is_some() {
                    return malformed(format!("axis {axis} is bound twice"));
                }
                let body = self.block(body, divergent)?;
                Node::Loop { axis: slot, extent, body }
            }
            Stmt::If { cond, body } => {
                let cond = self.expr(cond, out)?;
                let varying = matches!(cond, Place::Lanes(_));
                let body = self.block(body, divergent || varying)?;
                Node::If { cond, varying, body }
            }
            Stmt::Barrier => {
                uniform_only("barrier")?;
                Node::Barrier
            }
            Stmt::Stage { to, at, from, from_at } => {
                let (at, from_at) = (self.expr(at, out)?, self.expr(from_at, out)?);
                Node::Stage { to: *to, at, from: *from, from_at }
            }
            other => {
                uniform_only("warp's work")?;
                self.warps(other, out)?
            }
        };
        out.push(node);
        Ok(())
    }

    /// What warps do together.
    fn warps(&mut self, stmt: &Stmt, out: &mut Vec<Node>) -> Result<Node, InterpError> {
        if let Some(tile) = stmt.tile() {
            let at = self.expr(tile.at, out)?;
            let (memory, stride) = (tile.memory, tile.stride);
            let manner = TileManner { turned: tile.turned, stores: tile.stores };
            return Ok(Node::Tile { fragment: tile.fragment.0 as usize, memory, at, stride, manner });
        }
        Ok(match stmt {
            Stmt::Clear(sum) => Node::Clear { sum: sum.0 as usize },
            Stmt::Mma { sum, left, right } => {
                let [sum, left, right] = [sum, left, right].map(|fragment| fragment.0 as usize);
                Node::Mma { sum, left, right }
            }
            Stmt::Scale { sum, memory, at, stride } => {
                let at = self.expr(at, out)?;
                Node::Scale { sum: sum.0 as usize, memory: *memory, at, stride: *stride }
            }
            Stmt::Product { sums, left, right, depth } => {
                let panels = matrix::panels(sums, left, right);
                let [left, right] = panels.map(|(panel, rows)| self.panel(panel, rows, out));
                let sums = sums.iter().map(|sum| sum.0 as usize).collect();
                Node::Product { sums, panels: [left?, right?], depth: *depth }
            }
            Stmt::ProductWait { pending } => Node::ProductWait { pending: *pending as usize },
            Stmt::Publish => Node::Publish,
            Stmt::StageWait { pending } => Node::StageWait { pending: *pending as usize },
            _ => Node::StageCommit,
        })
    }

    fn panel(&mut self, panel: &Panel, rows: u32, out: &mut Vec<Node>) -> Result<PanelPlace, InterpError> {
        let at = self.expr(&panel.at, out)?;
        Ok(PanelPlace { memory: panel.memory, at, stride: panel.stride, rows })
    }

    fn value(&mut self, id: ValueId, record: &ValueRecord, out: &mut Vec<Node>) -> Result<Node, InterpError> {
        let to = id.0 as usize;
        let varying = self.varying.value(id);
        let dtype_of = |x: ValueId| self.kernel.record(x).dtype;
        Ok(match &record.value {
            Value::Const(constant) => Node::Const { bits: to_register(*constant, record.dtype), to },
            Value::Index(x) => Node::Index { at: self.expr(x, out)?, dtype: record.dtype, to },
            Value::Cell(cell) => {
                let from = self.kernel.values.len() + cell.0 as usize;
                Node::Copy { from, to, masked: false }
            }
            Value::Load { memory, at } => {
                Node::Load { memory: *memory, at: self.expr(at, out)?, to, varying }
            }
            Value::Scalar(op, xs) => {
                let from = xs.last().map_or(record.dtype, |x| dtype_of(*x));
                let types = Types { from, to: record.dtype };
                let xs = xs.iter().map(|x| x.0 as usize).collect();
                Node::Scalar { op: *op, types, xs, to, varying }
            }
            Value::LaneReduce(monoid, x) => {
                let types = Types { from: record.dtype, to: record.dtype };
                Node::LaneReduce { monoid: *monoid, types, x: x.0 as usize, to }
            }
        })
    }

    fn uniform_slot(&mut self) -> u32 {
        self.uniforms += 1;
        self.uniforms - 1
    }

    /// The place of an expression; what it takes to compute it is appended to `out`.
    fn expr(&mut self, x: &Expr, out: &mut Vec<Node>) -> Result<Place, InterpError> {
        if let Some(value) = x.as_int() {
            return Ok(Place::Const(value));
        }
        if let Some(place) = self.known.iter().find_map(|known| known.get(x)) {
            return Ok(*place);
        }
        let action = match x.kind() {
            Kind::Sym(_) | Kind::Axis { .. } => {
                let place = self.leaf(x)?;
                self.known[0].insert(x.clone(), place);
                return Ok(place);
            }
            Kind::Sum(terms, constant) => self.sum(terms, *constant, out)?,
            _ => self.action(x, out)?,
        };
        let varies = match &action {
            Action::Value(value, _) => self.varying.value(ValueId(*value as u32)),
            action => operands(action).iter().any(|place| matches!(place, Place::Lanes(_))),
        };
        let to = if varies {
            self.rows += 1;
            Place::Lanes(self.rows - 1)
        } else {
            Place::Uniform(self.uniform_slot())
        };
        out.push(Node::Step(Step { action, to }));
        self.known.last_mut().expect("a block is open").insert(x.clone(), to);
        Ok(to)
    }

    fn leaf(&mut self, x: &Expr) -> Result<Place, InterpError> {
        match x.kind() {
            Kind::Sym(symbol) => {
                let Some((_, slot)) = self.kernel.symbols.iter().find(|(known, _)| known == symbol) else {
                    return malformed(format!("symbol {} has no slot", symbol.name()));
                };
                let register = self.uniform_slot();
                self.symbols.push((register, *slot));
                Ok(Place::Uniform(register))
            }
            Kind::Axis { index, .. } if *index == LANE_AXIS => Ok(Place::Lanes(0)),
            Kind::Axis { index, .. } if *index < LANE_AXIS => {
                Ok(Place::Uniform(u32::from(*index - GRID_AXIS)))
            }
            Kind::Axis { index, .. } => match self.axes.get(index) {
                Some(slot) => Ok(Place::Uniform(*slot)),
                None => malformed(format!("axis l{index} is used outside of its loop")),
            },
            _ => malformed("an unknown leaf in an index".to_owned()),
        }
    }

    fn sum(
        &mut self,
        terms: &[(Expr, i64)],
        constant: i64,
        out: &mut Vec<Node>,
    ) -> Result<Action, InterpError> {
        let mut uniform = Vec::new();
        let mut varying = Vec::new();
        for (x, c) in terms {
            match self.expr(x, out)? {
                place @ Place::Lanes(_) => varying.push((place, *c)),
                place => uniform.push((place, *c)),
            }
        }
        let base = Place::Const(constant);
        if varying.is_empty() || uniform.is_empty() {
            let terms = if varying.is_empty() { uniform } else { varying };
            return Ok(Action::Sum { base, terms: terms.into() });
        }
        let to = Place::Uniform(self.uniform_slot());
        out.push(Node::Step(Step { action: Action::Sum { base, terms: uniform.into() }, to }));
        Ok(Action::Sum { base: to, terms: varying.into() })
    }

    fn action(&mut self, x: &Expr, out: &mut Vec<Node>) -> Result<Action, InterpError> {
        let mut all = |xs: &[Expr], out: &mut Vec<Node>| {
            xs.iter().map(|x| self.expr(x, out)).collect::<Result<Box<[Place]>, _>>()
        };
        Ok(match x.kind() {
            Kind::Product(xs) => Action::Product(all(xs, out)?),
            Kind::And(xs) => Action::All(all(xs, out)?),
            Kind::Div(x, d) if d.count_ones() == 1 => Action::Shift(self.expr(x, out)?, d.trailing_zeros()),
            Kind::Mod(x, d) if d.count_ones() == 1 => Action::Mask(self.expr(x, out)?, d - 1),
            Kind::Div(x, d) => Action::Div(self.expr(x, out)?, *d),
            Kind::Mod(x, d) => Action::Mod(self.expr(x, out)?, *d),
            Kind::Min(a, b) => Action::Min(self.expr(a, out)?, self.expr(b, out)?),
            Kind::Max(a, b) => Action::Max(self.expr(a, out)?, self.expr(b, out)?),
            Kind::Lt(a, b) => Action::Less(self.expr(a, out)?, self.expr(b, out)?),
            Kind::Eq(a, b) => Action::Equal(self.expr(a, out)?, self.expr(b, out)?),
            Kind::Extra { slot, at, .. } => {
                let dtype = self.kernel.values.get(*slot as usize).map(|record| record.dtype);
                match dtype {
                    Some(dtype) if at.is_empty() && !dtype.is_float() => Action::Value(*slot as usize, dtype),
                    _ => return malformed(format!("v{slot} cannot be part of an index")),
                }
            }
            _ => return malformed("an unknown kind of index".to_owned()),
        })
    }
}

fn operands(action: &Action) -> Vec<Place> {
    match action {
        Action::Sum { base, terms } => terms.iter().map(|(x, _)| *x).chain([*base]).collect(),
        Action::Product(xs) | Action::All(xs) => xs.to_vec(),
        Action::Div(x, _) | Action::Mod(x, _) | Action::Shift(x, _) | Action::Mask(x, _) => vec![*x],
        Action::Min(a, b) | Action::Max(a, b) | Action::Less(a, b) | Action::Equal(a, b) => vec![*a, *b],
        Action::Value(..) => Vec::new(),
    }
}
