//! Prefetches: while a group sums, what is read after it is fetched into the caches.
//!
//! Rows of a weight come from memory that is further away than a core can see. Where a group's rows go on in the next
//! group (`schedule/contract.rs`, `Order`), each is a stream that the processor guesses, but for the first lines of each
//! page: so what is fetched lies a little further in the same stream. Where they end with the group, or all groups are one
//! run, it is what the next group will read at the same place, if that is a fixed distance ahead. Where groups beside each
//! other read the same, the next group is the first that reads something else: what it wants waits in the second-level
//! cache. Only large parameters that are read in loops are fetched so.

use iced_x86::Code;
use jtllm_ir::Expr;
use jtllm_ir::expr::Kind;

use super::isa::Level;
use super::machine::{Address, Operand};
use super::select::Selector;
use crate::kernel::{Access, GRID_AXIS, Memory, inline};

/// Parameters of fewer bytes than this stay in the caches from one token to the next, if any do.
const LARGE: i64 = 128 << 10;

/// The distances that are worth it: within a cache line there is nothing to fetch, and what comes too early goes again.
const NEAR: i64 = 256;
const FAR: i64 = 1 << 20;

/// How far ahead a stream is fetched that goes on in the next group.
const IN_STREAM: i32 = 1 << 10;

/// The scope of a group's body; loops are inside it.
const GROUP: usize = 1;

impl Selector<'_> {
    /// The address of an element that lanes load with its neighbours; and asks for what is read after it.
    pub(super) fn element_and_ahead(&mut self, memory: Memory, at: &Expr) -> Address {
        let address = self.element(memory, at);
        if self.mask.is_none()
            && let Some((code, distance)) = self.ahead(memory, at)
            && let Some(offset) = address.offset.checked_add(distance)
        {
            let next = Address { offset, ..address };
            self.effect(code, &[Operand::Memory(next)]);
        }
        address
    }

    /// How many bytes behind an element lies what is fetched, and what fetches it to where it can wait so long.
    fn ahead(&self, memory: Memory, at: &Expr) -> Option<(Code, i32)> {
        let Memory::Param(number) = memory else { return None };
        let param = &self.kernel.params[usize::from(number)];
        let size = param.dtype.size() as i64;
        let is_large = param.len.as_int().is_some_and(|len| len * size >= LARGE);
        if param.access != Access::Read
            || !is_large
            || !self.scopes.iter().skip(GROUP + 1).any(|scope| scope.repeated)
        {
            return None;
        }
        let (terms, _) = inline(self.kernel, at).terms();
        let mut axes = (GRID_AXIS..)
            .zip(&self.kernel.grid)
            .filter_map(|(axis, extent)| (extent.as_int() != Some(1)).then_some(axis));
        let moves = |axis: &u16| terms.iter().any(|(x, _)| x.mentions_axis(*axis));
        let first = axes.next()?;
        let (code, axis) = match moves(&first) {
            true => (Code::Prefetcht0_m8, first),
            // Vectors of 32 bytes load twice as often, and there is no room for more beside them.
            false if self.level == Level::Avx2 => return None,
            false => (Code::Prefetcht1_m8, axes.find(moves)?),
        };
        let is_group = |x: &Expr| matches!(x.kind(), Kind::Axis { index, .. } if *index == axis);
        let moving: Vec<_> = terms.iter().filter(|(x, _)| x.mentions_axis(axis)).collect();
        let (goes_on, step) = match moving.as_slice() {
            [(x, step)] if is_group(x) => (false, step),
            [(x, one), (y, other)] => match (x.kind(), y.kind()) {
                (Kind::Div(x, run), Kind::Mod(y, turn)) if run == turn && is_group(x) && is_group(y) => {
                    (true, other)
                }
                (Kind::Mod(x, turn), Kind::Div(y, run)) if run == turn && is_group(x) && is_group(y) => {
                    (true, one)
                }
                _ => return None,
            },
            _ => return None,
        };
        let distance = step * size;
        if !(NEAR..=FAR).contains(&distance) {
            return None;
        }
        let is_near = goes_on && code == Code::Prefetcht0_m8;
        Some((code, if is_near { IN_STREAM } else { distance as i32 }))
    }
}
