//! Prefetches: while a group sums, what the next group will read at the same place is fetched into the caches.
//!
//! Rows of a weight come from memory that is further away than a core can see, several at a time, and each is too short
//! for the processor to guess how they go on. Only large parameters that are read in loops are fetched so, and only
//! where that group's address is a fixed distance ahead. Where groups beside each other read the same, the next group is
//! the first that reads something else: what it wants waits in the second-level cache.

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

/// The scope of a group's body; loops are inside it.
const GROUP: usize = 1;

impl Selector<'_> {
    /// The address of an element that lanes load with its neighbours; and asks for the next group's.
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

    /// How many bytes behind an element the next group's lies, and what fetches it to where it can wait so long.
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
        let mut moving = terms.iter().filter(|(x, _)| x.mentions_axis(axis));
        let (x, step) = moving.next()?;
        let distance = step * size;
        let fixed = is_group(x) && moving.next().is_none() && (NEAR..=FAR).contains(&distance);
        fixed.then_some((code, distance as i32))
    }
}
