//! Addresses that are the same for all lanes.

use jtllm_ir::Expr;

use super::index::{OFFSET_MAX, sum_of};
use super::machine::{Address, Base, Reg, View};
use super::select::{Known, Selector};
use crate::kernel::Memory;

impl Selector<'_> {
    /// The address of an element, the same for all lanes: what loops do not change in a register of its own, the
    /// rest as an index that addresses share.
    pub(super) fn element(&mut self, memory: Memory, at: &Expr) -> Address {
        let bytes = at.clone() * self.kernel.memory_dtype(memory).size() as i64;
        let (terms, constant) = bytes.terms();
        let (offset, far) = if constant.abs() < OFFSET_MAX { (constant as i32, 0) } else { (0, constant) };
        let innermost = terms.iter().map(|(x, _)| self.place_of(self.needs(x))).max();
        let repeats = innermost == Some(self.depth());
        let (outer, inner) = if repeats { self.cut(&terms) } else { (terms, Vec::new()) };
        let base = Base::Reg(self.pointer(memory, &sum_of(outer, far)));
        let index = match inner.as_slice() {
            [] => None,
            [(x, c @ (1 | 2 | 4 | 8))] => Some((self.index(x), View::Quad, *c as u8)),
            _ => Some((self.index(&sum_of(inner, 0)), View::Quad, 1)),
        };
        Address { base, index, offset, broadcast: false }
    }

    fn pointer(&mut self, memory: Memory, bytes: &Expr) -> Reg {
        if bytes.as_int() == Some(0) {
            return self.memories[&memory];
        }
        let needed = self.needs(bytes);
        self.know(Known::Pointer(memory, bytes.clone()), needed, |selector| {
            let (terms, constant) = bytes.terms();
            let (outer, inner) = selector.cut(&terms);
            let base = selector.pointer(memory, &sum_of(outer, 0));
            let offset = selector.index(&sum_of(inner, constant));
            selector.add(base, Some((offset, 1)), 0)
        })
    }
}
