//! A pass from kernel to kernel that changes no result and no order of arithmetic.
//!
//! * What nothing uses goes: values, cells that are never read, blocks that have become empty.
//! * Offsets are split: the part that a loop does not change becomes a value before the loop, and of that
//!   part what the next loop outwards does not change, and so on. Terms that vary between lanes stay in
//!   the access, where emitters recognise `base + lane` as one vector; but so many lanes as a warp has are
//!   threads, with registers of their own for addresses. `verify` reads through such values,
//!   so every bound that could be proven still can.

use std::collections::{HashMap, HashSet};

use jtllm_ir::expr::Kind;
use jtllm_ir::{DType, Expr};

use super::names::{derived_range, fits};
use super::{CellId, Kernel, LOOP_AXIS, Panel, Stmt, Value, ValueId, ValueRecord, Varying, WARP};

/// The kernel without dead code and with offsets split, in canonical numbers.
pub fn optimise(kernel: &Kernel) -> Kernel {
    split_offsets(&drop_dead(kernel)).renumbered()
}

/// Values and cells that something with an effect needs.
struct Live<'k> {
    kernel: &'k Kernel,
    values: HashSet<ValueId>,
    cells: HashSet<CellId>,
}

fn drop_dead(kernel: &Kernel) -> Kernel {
    let mut live = Live { kernel, values: HashSet::new(), cells: HashSet::new() };
    loop {
        let before = (live.values.len(), live.cells.len());
        live.mark(&kernel.body);
        if before == (live.values.len(), live.cells.len()) {
            break;
        }
    }
    Kernel { body: live.keep(&kernel.body), ..kernel.clone() }
}

impl Live<'_> {
    /// Marks what the statements of a block need; gives whether the block has an effect.
    fn mark(&mut self, body: &[Stmt]) -> bool {
        let mut effect = false;
        for stmt in body {
            effect |= match stmt {
                Stmt::Let(_) => false,
                Stmt::Set(cell, value) => {
                    let live = self.cells.contains(cell);
                    if live {
                        self.value(*value);
                    }
                    live
                }
                Stmt::Store { at, value, .. } => {
                    self.value(*value);
                    self.expr(at);
                    true
                }
                Stmt::Loop { extent: x, body, .. } | Stmt::If { cond: x, body } => {
                    let live = x.as_int() != Some(0) && self.mark(body);
                    if live {
                        self.expr(x);
                    }
                    live
                }
                _ => {
                    stmt.exprs().into_iter().for_each(|x| self.expr(x));
                    true
                }
            };
        }
        effect
    }

    fn expr(&mut self, x: &Expr) {
        let mut found = Vec::new();
        x.any(&mut |leaf| {
            if let Kind::Extra { slot, .. } = leaf.kind() {
                found.push(ValueId(*slot));
            }
            false
        });
        found.into_iter().for_each(|value| self.value(value));
    }

    fn value(&mut self, value: ValueId) {
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let Some(record) = self.kernel.values.get(value.0 as usize) else { continue };
            if !self.values.insert(value) {
                continue;
            }
            match &record.value {
                Value::Const(_) => {}
                Value::Index(x) | Value::Load { at: x, .. } => self.expr(x),
                Value::Cell(cell) => {
                    self.cells.insert(*cell);
                }
                Value::Scalar(_, xs) => open.extend(xs),
                Value::LaneReduce(_, x) => open.push(*x),
            }
        }
    }

    fn keep(&self, body: &[Stmt]) -> Vec<Stmt> {
        body.iter()
            .filter_map(|stmt| match stmt {
                Stmt::Let(id) => self.values.contains(id).then(|| stmt.clone()),
                Stmt::Set(cell, _) => self.cells.contains(cell).then(|| stmt.clone()),
                Stmt::Loop { axis, extent, body } => {
                    let body = self.keep_block(extent, body)?;
                    Some(Stmt::Loop { axis: *axis, extent: extent.clone(), body })
                }
                Stmt::If { cond, body } => {
                    let body = self.keep_block(cond, body)?;
                    Some(Stmt::If { cond: cond.clone(), body })
                }
                _ => Some(stmt.clone()),
            })
            .collect()
    }

    fn keep_block(&self, runs: &Expr, body: &[Stmt]) -> Option<Vec<Stmt>> {
        let body = if runs.as_int() == Some(0) { Vec::new() } else { self.keep(body) };
        (!body.is_empty()).then_some(body)
    }
}

/// A block under construction.
struct Frame {
    is_loop: bool,
    out: Vec<Stmt>,
    /// Values made here, by expression.
    known: HashMap<Expr, ValueId>,
}

impl Frame {
    fn new(is_loop: bool) -> Frame {
        Frame { is_loop, out: Vec::new(), known: HashMap::new() }
    }
}

struct Splitter {
    values: Vec<ValueRecord>,
    varying: Varying,
    frames: Vec<Frame>,
    value_depth: HashMap<ValueId, usize>,
    axis_depth: HashMap<u16, usize>,
    /// Whether what varies between lanes leaves loops too.
    threads: bool,
}

fn split_offsets(kernel: &Kernel) -> Kernel {
    let mut splitter = Splitter {
        values: kernel.values.clone(),
        varying: kernel.varying(),
        frames: Vec::new(),
        value_depth: HashMap::new(),
        axis_depth: HashMap::new(),
        threads: kernel.lanes >= WARP,
    };
    let body = splitter.block(&kernel.body, false);
    Kernel { values: splitter.values, body, ..kernel.clone() }
}

impl Splitter {
    fn block(&mut self, body: &[Stmt], is_loop: bool) -> Vec<Stmt> {
        self.frames.push(Frame::new(is_loop));
        for stmt in body {
            let stmt = self.statement(stmt);
            self.frames.last_mut().expect("the frame was pushed above").out.push(stmt);
        }
        self.frames.pop().map(|frame| frame.out).unwrap_or_default()
    }

    fn statement(&mut self, stmt: &Stmt) -> Stmt {
        let depth = self.frames.len() - 1;
        match stmt {
            Stmt::Let(id) => {
                if let Value::Load { memory, at } = self.values[id.0 as usize].value.clone() {
                    let at = self.split(&at, depth);
                    self.values[id.0 as usize].value = Value::Load { memory, at };
                }
                self.value_depth.insert(*id, depth);
                stmt.clone()
            }
            Stmt::Store { memory, at, value } => {
                Stmt::Store { memory: *memory, at: self.split(at, depth), value: *value }
            }
            Stmt::Loop { axis, extent, body } => {
                self.axis_depth.insert(*axis, depth + 1);
                Stmt::Loop { axis: *axis, extent: extent.clone(), body: self.block(body, true) }
            }
            Stmt::If { cond, body } => Stmt::If { cond: cond.clone(), body: self.block(body, false) },
            Stmt::Fetch { fragment, memory, at, stride, turned } => {
                let at = self.split(at, depth);
                Stmt::Fetch { fragment: *fragment, memory: *memory, at, stride: *stride, turned: *turned }
            }
            Stmt::Spill { sum, memory, at, stride } => {
                Stmt::Spill { sum: *sum, memory: *memory, at: self.split(at, depth), stride: *stride }
            }
            Stmt::Scale { sum, memory, at, stride } => {
                Stmt::Scale { sum: *sum, memory: *memory, at: self.split(at, depth), stride: *stride }
            }
            Stmt::Stage { to, at, from, from_at } => {
                let (at, from_at) = (self.split(at, depth), self.split(from_at, depth));
                Stmt::Stage { to: *to, at, from: *from, from_at }
            }
            Stmt::Product { sums, left, right, depth: deep } => {
                let [left, right] =
                    [left, right].map(|panel| Panel { at: self.split(&panel.at, depth), ..*panel });
                Stmt::Product { sums: sums.clone(), left, right, depth: *deep }
            }
            Stmt::Set(..)
            | Stmt::Barrier
            | Stmt::Clear(_)
            | Stmt::Mma { .. }
            | Stmt::ProductWait { .. }
            | Stmt::Publish
            | Stmt::StageCommit
            | Stmt::StageWait { .. } => stmt.clone(),
        }
    }

    /// The block in which all leaves of an expression are defined.
    fn depth(&self, x: &Expr) -> usize {
        let mut depth = 0;
        x.any(&mut |leaf| {
            let found = match leaf.kind() {
                Kind::Axis { index, .. } if *index >= LOOP_AXIS => self.axis_depth.get(index),
                Kind::Extra { slot, .. } => self.value_depth.get(&ValueId(*slot)),
                _ => None,
            };
            depth = depth.max(found.copied().unwrap_or(0));
            false
        });
        depth
    }

    /// `x` as it is written in the block at `depth`, with what the loop around that block does not change
    /// taken out of it.
    fn split(&mut self, x: &Expr, depth: usize) -> Expr {
        let Some(around) = (1..=depth).rev().find(|depth| self.frames[*depth].is_loop) else {
            return x.clone();
        };
        let (terms, _) = x.terms();
        let outer = terms
            .iter()
            .filter(|(term, _)| self.depth(term) < around && (self.threads || !self.varies(term)));
        let outer = outer.fold(Expr::int(0), |sum, (term, c)| sum + term.clone() * *c);
        if !takes_work(&outer) || !fits(&outer, DType::I32) {
            return x.clone();
        }
        let rest = x.clone() - outer.clone();
        let depth = self.depth(&outer);
        let outer = self.split(&outer, depth);
        rest + self.value(outer, depth)
    }

    fn varies(&self, x: &Expr) -> bool {
        // Values made by this pass have numbers that the analysis does not know; they leave no loop again.
        self.varying.expr(x)
    }

    /// The value of an expression, made at the end of the block at `depth` as far as it stands.
    fn value(&mut self, x: Expr, depth: usize) -> Expr {
        let frame = &mut self.frames[depth];
        let id = *frame.known.entry(x.clone()).or_insert_with(|| {
            let id = ValueId(self.values.len() as u32);
            self.values.push(ValueRecord { value: Value::Index(x), dtype: DType::I32 });
            frame.out.push(Stmt::Let(id));
            id
        });
        self.value_depth.insert(id, depth);
        let (low, end) = derived_range(&self.values[id.0 as usize]);
        Expr::extra(id.0, Vec::new(), low, &end)
    }
}

/// Whether computing an expression takes an operation at all.
fn takes_work(x: &Expr) -> bool {
    !matches!(x.kind(), Kind::Int(_) | Kind::Sym(_) | Kind::Axis { .. } | Kind::Extra { .. })
}
