//! What a kernel must keep, checked: every fault is listed, with its place.
//!
//! The rules: types agree; a value is defined by one `Let`, before its use, in the same or an enclosing block; a
//! cell is set before it is read, a fragment filled before it is used, a product waited for before anything else
//! touches its sums; axes are bound, once; loops, barriers, `lane_reduce` and what warps do together stand where
//! all lanes come along; no two lanes store to one element in one statement; every access is proven to be in
//! bounds, and those of tiles and asynchronous copies to begin at a multiple of 16 bytes; shared memory and
//! lanes keep the target's limits. Whether a target can bind the parameters is asked of [`crate::target::fits`]: that is
//! no fault of the kernel.
//!
//! A bound is proven from the ranges of an offset's leaves and from the conditions around the access.
//! Values that are index expressions are replaced by them first. Ranges that a kernel states for loaded
//! values are taken on trust: they come from the graph's inputs.

pub(super) mod bounds;
mod matrix;

use std::collections::{HashMap, HashSet};
use std::fmt;

use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr};

use super::names::{KernelNames, fits, stated_ranges};
use super::{Access, CellId, Kernel, LANE_AXIS, Memory, Stmt, Value, ValueId, Varying, has_products, types};
use crate::target::Caps;

/// One fault of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// Where: a value, a statement or a part of the header, in text form.
    pub place: String,
    /// What ought to hold.
    pub rule: &'static str,
    /// What is there instead.
    pub found: String,
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; found {}", self.place, self.rule, self.found)
    }
}

impl std::error::Error for KernelError {}

/// Checks a kernel against the rules and the limits of a target; gives every fault.
pub fn verify(kernel: &Kernel, caps: &Caps) -> Result<(), Vec<KernelError>> {
    let mut check = Check {
        kernel,
        varying: None,
        faults: Vec::new(),
        values: vec![State::Undefined; kernel.values.len()],
        cells: vec![false; kernel.cells.len()],
        fragments: vec![false; kernel.fragments.len()],
        under_way: vec![false; kernel.fragments.len()],
        axes: HashMap::new(),
        bound: HashSet::new(),
        conditions: Vec::new(),
        divergent: false,
    };
    check.header(caps);
    check.matrix_header(caps);
    check.types(&kernel.body);
    // Uniformity looks values up without a check; with a wrong id there is nothing more to say.
    if check.faults.is_empty() {
        check.varying = Some(kernel.varying());
        check.ranges();
        check.block(&kernel.body);
    }
    if check.faults.is_empty() { Ok(()) } else { Err(check.faults) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Undefined,
    Visible,
    OutOfScope,
}

struct Check<'k> {
    kernel: &'k Kernel,
    varying: Option<Varying>,
    faults: Vec<KernelError>,
    values: Vec<State>,
    cells: Vec<bool>,
    /// Which fragments have contents.
    fragments: Vec<bool>,
    /// Which sums a product may still be changing.
    under_way: Vec<bool>,
    /// The extents of the loops around.
    axes: HashMap<u16, Expr>,
    /// Every loop axis so far.
    bound: HashSet<u16>,
    /// The conditions around, one comparison each.
    conditions: Vec<Expr>,
    divergent: bool,
}

fn text(x: &Expr) -> String {
    x.display(&KernelNames).to_string()
}

impl Check<'_> {
    fn fault(&mut self, place: impl Into<String>, rule: &'static str, found: impl Into<String>) {
        self.faults.push(KernelError { place: place.into(), rule, found: found.into() });
    }

    fn limit(&mut self, place: &str, rule: &'static str, found: u64, most: u64) {
        if found > most {
            self.fault(place, rule, format!("{found}, where the target has {most}"));
        }
    }

    fn header(&mut self, caps: &Caps) {
        let kernel = self.kernel;
        if !kernel.lanes.is_power_of_two() {
            self.fault("lanes", "lanes are a power of two", kernel.lanes.to_string());
        }
        let lanes = match caps.matrix {
            Some(matrix) if has_products(&kernel.body) => matrix.teams,
            Some(matrix) if !kernel.fragments.is_empty() => matrix.lanes,
            _ => caps.lanes.max(caps.tile_lanes),
        };
        self.limit("lanes", "a group has as many lanes as the target", kernel.lanes.into(), lanes.into());
        let shared: u64 = kernel.shared.iter().map(|s| u64::from(s.len) * s.dtype.size() as u64).sum();
        self.limit("shared", "shared memory fits the target's", shared, caps.shared_bytes.into());
        let lens = kernel.params.iter().enumerate().map(|(at, param)| (format!("p{at}"), &param.len));
        let grid = kernel.grid.iter().enumerate().map(|(at, extent)| (format!("grid {at}"), extent));
        for (place, x) in lens.chain(grid).collect::<Vec<_>>() {
            if x.any(&mut |leaf| matches!(leaf.kind(), Kind::Axis { .. } | Kind::Extra { .. })) {
                self.fault(place.clone(), "a size mentions symbols only", text(x));
            }
            if x.low() < 0 {
                self.fault(place.clone(), "a size is not negative", text(x));
            }
            self.symbols(&place, x);
        }
    }

    fn symbols(&mut self, place: &str, x: &Expr) {
        let mut missing = Vec::new();
        x.any(&mut |leaf| {
            if let Kind::Sym(symbol) = leaf.kind()
                && !self.kernel.symbols.iter().any(|(known, _)| known == symbol)
            {
                missing.push(symbol.name().to_owned());
            }
            false
        });
        for name in missing {
            self.fault(place, "symbols are declared with a slot", name);
        }
    }

    /// Ids exist and types agree, for every statement.
    fn types(&mut self, body: &[Stmt]) {
        let kernel = self.kernel;
        let dtype_of = |value: &ValueId| kernel.values.get(value.0 as usize).map(|record| record.dtype);
        let shown = |dtype: Option<DType>| dtype.map_or("nothing".to_owned(), |dtype| dtype.to_string());
        for stmt in body {
            match stmt {
                Stmt::Let(id) => match kernel.values.get(id.0 as usize) {
                    None => self.fault(format!("v{}", id.0), "values exist", "no such value"),
                    Some(record) => match types::of(kernel, &record.value, record.dtype) {
                        Err(found) => self.fault(format!("v{}", id.0), "operands have types that fit", found),
                        Ok(dtype) if dtype != record.dtype => {
                            let found = format!("{} for a {dtype}", record.dtype);
                            self.fault(format!("v{}", id.0), "a value has the type of its operation", found);
                        }
                        Ok(_) => {}
                    },
                },
                Stmt::Set(cell, value) => {
                    let (want, have) = (kernel.cells.get(cell.0 as usize).copied(), dtype_of(value));
                    if want.is_none() || want != have {
                        let found = format!("{} set to {}", shown(want), shown(have));
                        let place = format!("set c{} = v{}", cell.0, value.0);
                        self.fault(place, "a cell is set to its type", found);
                    }
                }
                Stmt::Store { memory, value, .. } => {
                    let want = kernel.memory_exists(*memory).then(|| kernel.memory_dtype(*memory));
                    if want.is_none() || want != dtype_of(value) {
                        let found = format!("{} stored to {}", shown(dtype_of(value)), shown(want));
                        self.fault(format!("store {memory}"), "a store has the memory's type", found);
                    }
                }
                Stmt::Loop { body, .. } | Stmt::If { body, .. } => self.types(body),
                other => self.matrix_types(other),
            }
        }
    }

    /// Each value that is part of an index has one stated range.
    fn ranges(&mut self) {
        let mut several: Vec<_> =
            stated_ranges(self.kernel).into_iter().filter(|(_, ranges)| ranges.len() > 1).collect();
        several.sort_by_key(|(value, _)| *value);
        for (value, ranges) in several {
            let found: Vec<String> =
                ranges.iter().map(|(low, end)| format!("{low}..{}", text(end))).collect();
            self.fault(format!("v{}", value.0), "a value has one range", found.join(" and "));
        }
    }

    fn varies(&self, x: &Expr) -> bool {
        self.varying.as_ref().is_some_and(|varying| varying.expr(x))
    }

    /// Statements of one block; what it defines ends with it.
    fn block(&mut self, body: &[Stmt]) {
        let (values, cells, fragments) = (self.values.clone(), self.cells.clone(), self.fragments.clone());
        body.iter().for_each(|stmt| self.statement(stmt));
        for (now, before) in self.values.iter_mut().zip(values) {
            if before == State::Undefined && *now == State::Visible {
                *now = State::OutOfScope;
            }
        }
        self.cells = cells;
        self.fragments = fragments;
    }

    fn statement(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let(id) => self.define(*id),
            Stmt::Set(CellId(cell), value) => {
                self.used(&format!("set c{cell}"), *value);
                self.cells[*cell as usize] = true;
            }
            Stmt::Store { memory, at, value } => {
                let place = format!("store {memory}[{}]", text(at));
                self.used(&place, *value);
                if self.kernel.access(*memory) == Some(Access::Read) {
                    self.fault(
                        place.clone(),
                        "stores go to written parameters or shared memory",
                        "a read one",
                    );
                }
                self.access(&place, *memory, at);
                if self.varying.is_some() && !self.lanes_part(at) {
                    self.fault(place, "no two lanes store to one element", text(at));
                }
            }
            Stmt::Loop { axis, extent, body } => self.repeat(*axis, extent, body),
            Stmt::If { cond, body } => {
                let place = format!("if {}", text(cond));
                self.expr(&place, cond);
                let (outer, depth) = (self.divergent, self.conditions.len());
                self.divergent |= self.varies(cond);
                let inlined = self.inlined(cond);
                self.conditions.extend(inlined.conjuncts());
                self.nested(body, false);
                self.conditions.truncate(depth);
                self.divergent = outer;
            }
            Stmt::Barrier => self.together("barrier"),
            other => self.matrix_statement(other),
        }
    }

    fn repeat(&mut self, axis: u16, extent: &Expr, body: &[Stmt]) {
        let place = format!("loop l{axis} 0..{}", text(extent));
        self.together(&place);
        self.expr(&place, extent);
        if self.varies(extent) {
            self.fault(place.clone(), "a loop runs equally often for all lanes", text(extent));
        }
        if axis <= LANE_AXIS || !self.bound.insert(axis) {
            self.fault(place, "an axis is bound once", format!("l{axis} again"));
        }
        self.axes.insert(axis, extent.clone());
        self.nested(body, true);
        self.axes.remove(&axis);
    }

    /// A statement that needs all lanes.
    fn together(&mut self, place: &str) {
        if self.divergent {
            let rule = "loops, barriers, lane_reduce and warps' work stand where all lanes come along";
            self.fault(place, rule, "a condition around it that varies");
        }
    }

    fn define(&mut self, id: ValueId) {
        let place = format!("v{}", id.0);
        if self.values[id.0 as usize] != State::Undefined {
            self.fault(place.clone(), "a value is defined once", "another let of it");
        }
        match &self.kernel.record(id).value {
            Value::Const(_) => {}
            Value::Index(x) => self.expr(&place, x),
            Value::Cell(cell) => {
                if !self.cells[cell.0 as usize] {
                    let found = format!("c{} with no set before it", cell.0);
                    self.fault(place, "a cell is set before it is read", found);
                }
            }
            Value::Load { memory, at } => {
                if self.kernel.access(*memory) == Some(Access::Write) {
                    let found = format!("{memory}, which is written");
                    self.fault(place.clone(), "loads come from read parameters or shared memory", found);
                }
                self.access(&format!("{place} = load {memory}[{}]", text(at)), *memory, at);
            }
            Value::Scalar(_, xs) => xs.iter().for_each(|x| self.used(&place, *x)),
            Value::LaneReduce(_, x) => {
                self.together(&place);
                self.used(&place, *x);
            }
        }
        self.values[id.0 as usize] = State::Visible;
    }

    fn used(&mut self, place: &str, value: ValueId) {
        let found = match self.values.get(value.0 as usize) {
            Some(State::Visible) => return,
            Some(State::OutOfScope) => format!("v{}, whose block has ended", value.0),
            _ => format!("v{}, which is not defined before", value.0),
        };
        self.fault(place, "a value is defined before its use, in the same or an enclosing block", found);
    }

    /// Every leaf of an index expression is known here, with the range that it claims.
    fn expr(&mut self, place: &str, x: &Expr) {
        self.symbols(place, x);
        let mut leaves = Vec::new();
        x.any(&mut |leaf| {
            if matches!(leaf.kind(), Kind::Axis { .. } | Kind::Extra { .. }) {
                leaves.push(leaf.clone());
            }
            false
        });
        for leaf in leaves {
            match leaf.kind() {
                Kind::Axis { index, extent } => self.axis(place, *index, extent),
                Kind::Extra { slot, at, .. } => self.extra(place, ValueId(*slot), at),
                _ => {}
            }
        }
    }

    fn axis(&mut self, place: &str, index: u16, extent: &Expr) {
        let known = match index {
            LANE_AXIS => Some(Expr::int(self.kernel.lanes.into())),
            grid if grid < LANE_AXIS => Some(self.kernel.grid[usize::from(grid)].clone()),
            bound => self.axes.get(&bound).cloned(),
        };
        let name = text(&Expr::axis(index, &Expr::int(2)));
        match known {
            None => self.fault(place, "axes are used inside their loop", name),
            Some(known) if known != *extent => {
                let found = format!("{name} in 0..{}, bound in 0..{}", text(extent), text(&known));
                self.fault(place, "an axis has the range that its loop gives it", found);
            }
            Some(_) => {}
        }
    }

    fn extra(&mut self, place: &str, value: ValueId, at: &[Expr]) {
        self.used(place, value);
        let Some(record) = self.kernel.values.get(value.0 as usize) else { return };
        let name = format!("v{}", value.0);
        if record.dtype.is_float() || !at.is_empty() {
            self.fault(place, "values in indices are integers, without coordinates", name);
        } else if let Value::Index(x) = &record.value
            && !fits(x, record.dtype)
        {
            let found = format!("{name}, {} as {}", text(x), record.dtype);
            self.fault(place, "an index that is part of another fits its type", found);
        }
    }

    fn access(&mut self, place: &str, memory: Memory, at: &Expr) {
        self.span(place, memory, at, 1);
    }

    /// That `count` elements from `at` on are in bounds.
    fn span(&mut self, place: &str, memory: Memory, at: &Expr, count: i64) {
        let before = self.faults.len();
        self.expr(place, at);
        if self.faults.len() > before {
            return;
        }
        let at = self.inlined(at);
        let len = self.kernel.memory_len(memory);
        if !self.proves(&at) {
            self.fault(place, "an access is in bounds", format!("no proof of {} >= 0", text(&at)));
        }
        let last = at + (count - 1);
        if !self.proves(&(len.clone() - last.clone() - 1)) {
            let found = format!("no proof of {} < {}", text(&last), text(&len));
            self.fault(place, "an access is in bounds", found);
        }
    }
}
