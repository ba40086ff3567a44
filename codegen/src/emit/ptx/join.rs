//! Lanes that join their values, in the order of the tree.

use jtllm_ir::{DType, Monoid};

use super::JOINED_TOGETHER;
use super::function::{Class, Emitter};
use super::index::Known;
use crate::kernel::{LANE_AXIS, Stmt, Value, ValueId, WARP, lane_tree};

impl Emitter<'_> {
    pub(super) fn joins_in(&self, body: &[Stmt]) -> bool {
        body.iter().any(|stmt| match stmt {
            Stmt::Let(id) => self.joins(*id),
            Stmt::Loop { body, .. } | Stmt::If { body, .. } => self.joins_in(body),
            _ => false,
        })
    }

    /// Joins lanes for a value and for those behind it that only cells stand between, so that they share their
    /// barriers; gives the statements that are left.
    pub(super) fn join_all<'s>(&mut self, first: ValueId, after: &'s [Stmt]) -> &'s [Stmt] {
        let mut all = vec![first];
        let mut taken = 0;
        for stmt in after {
            match stmt {
                Stmt::Let(id) if matches!(self.kernel.record(*id).value, Value::Cell(_)) => {
                    self.define(*id, None);
                }
                Stmt::Let(id) if self.joins(*id) && all.len() < JOINED_TOGETHER => {
                    let Value::LaneReduce(_, x) = self.kernel.record(*id).value else { break };
                    if all.contains(&x) {
                        break;
                    }
                    all.push(*id);
                }
                _ => break,
            }
            taken += 1;
        }
        let columns = if self.kernel.lanes > WARP { self.columns(&all) } else { self.alone(&all) };
        for (id, column) in all.into_iter().zip(columns) {
            let joined = self.shuffle(id, column);
            self.values.insert(id, (joined, self.at));
        }
        &after[taken..]
    }

    fn operand(&self, id: ValueId) -> (Monoid, ValueId, Class) {
        let record = self.kernel.record(id);
        let Value::LaneReduce(monoid, x) = record.value else { unreachable!("{id:?} joins lanes") };
        (monoid, x, Class::of(record.dtype))
    }

    fn alone(&mut self, all: &[ValueId]) -> Vec<String> {
        all.iter().map(|id| self.value(self.operand(*id).1)).collect()
    }

    /// The values of the same thread of every warp, joined in the order of the tree; every warp does so.
    fn columns(&mut self, all: &[ValueId]) -> Vec<String> {
        let lanes = self.kernel.lanes;
        if self.joined {
            self.line("bar.sync 0");
        }
        let lane = self.axes[&LANE_AXIS].0.clone();
        let base = self.shared_base();
        let mine = self.know(Known::Joins(false), 0, |emitter| {
            emitter.make(Class::Word, "mad.lo.s32", &[&lane, "4", &base])
        });
        let first = self.know(Known::Joins(true), 0, |emitter| {
            let place = emitter.make(Class::Word, "and.b32", &[&lane, "31"]);
            emitter.make(Class::Word, "mad.lo.s32", &[&place, "4", &base])
        });
        let start = |at: usize| self.places.joins + at as u32 * lanes * 4;
        let starts: Vec<u32> = (0..all.len()).map(start).collect();
        for (id, start) in all.iter().zip(&starts) {
            let (_, x, class) = self.operand(*id);
            let x = self.value(x);
            self.line(&format!("st.shared.{} [{mine}+{start}], {x}", class.moved()));
        }
        self.line("bar.sync 0");
        self.joined = true;
        let mut columns = Vec::new();
        for (id, start) in all.iter().zip(&starts) {
            let (monoid, x, class) = self.operand(*id);
            let dtype = self.kernel.record(x).dtype;
            let load = format!("ld.shared.{}", class.moved());
            let warps = (0..lanes / WARP).map(|warp| start + warp * WARP * 4);
            let parts = warps.map(|at| self.make(class, &load, &[&format!("[{first}+{at}]")])).collect();
            let joined = lane_tree(parts, |a, b| self.scalar(monoid.scalar(), &[(a, dtype), (b, dtype)]));
            columns.push(joined.expect("a group has lanes"));
        }
        columns
    }

    /// All lanes of a warp joined. Each lane's own value comes first, so where the order of operands matters
    /// (what is not a number, zeros of both signs) lane 0 has the result and hands it to the others.
    fn shuffle(&mut self, id: ValueId, mut value: String) -> String {
        let (monoid, x, class) = self.operand(id);
        let dtype = self.kernel.record(x).dtype;
        let width = self.kernel.lanes.min(WARP);
        let members = if width == WARP { u32::MAX } else { (1 << width) - 1 };
        let mut half = width / 2;
        // Shuffles take registers.
        if half > 0 && !value.starts_with('%') {
            value = self.make(class, &format!("mov.{}", class.moved()), &[&value]);
        }
        while half > 0 {
            let operands = [&value, &half.to_string(), "31", &members.to_string()];
            let other = self.make(class, "shfl.sync.bfly.b32", &operands);
            value = self.scalar(monoid.scalar(), &[(value, dtype), (other, dtype)]);
            half /= 2;
        }
        if width > 1 && matches!(monoid, Monoid::Min | Monoid::Max) && dtype == DType::F32 {
            value = self.make(class, "shfl.sync.idx.b32", &[&value, "0", "31", &members.to_string()]);
        }
        value
    }
}
