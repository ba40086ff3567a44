//! Products of teams: under way from their statement until somebody waits.

use std::collections::VecDeque;

use super::InterpError;
use super::index::Place;
use super::machine::Machine;
use super::memory::{Access, decode};
use crate::kernel::{FragmentId, Memory, Role, TEAM, TEAM_ROWS, WARP, matrix::chunk};

/// An operand in shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct PanelPlace {
    pub(super) memory: Memory,
    pub(super) at: Place,
    pub(super) stride: u32,
    pub(super) rows: u32,
}

/// A product under way.
struct Running {
    sums: Vec<usize>,
    /// What it reads, by the first lanes of the teams that do.
    reads: Vec<Access>,
}

/// Products under way, the oldest first.
#[derive(Default)]
pub(super) struct Products(VecDeque<Running>);

impl Machine<'_, '_, '_> {
    /// Fails if a product of a fragment is under way.
    pub(super) fn settled(&self, fragments: &[usize]) -> Result<(), InterpError> {
        let busy = |fragment: &&usize| self.products.0.iter().any(|running| running.sums.contains(fragment));
        match fragments.iter().find(busy) {
            None => Ok(()),
            Some(fragment) => {
                let fragment = FragmentId(*fragment as u32);
                Err(InterpError::Unfinished { fragment, group: self.group })
            }
        }
    }

    /// Adds the products at once, where nobody may look until they are waited for.
    pub(super) fn product(
        &mut self,
        sums: &[usize],
        [left, right]: &[PanelPlace; 2],
        depth: u32,
    ) -> Result<(), InterpError> {
        let mut reads = Vec::new();
        let depth = depth as usize;
        let warps = (TEAM / WARP) as usize;
        let (rows, columns) = (Role::Sum.rows() as usize, Role::Sum.columns() as usize);
        for team in 0..self.program.lanes / TEAM as usize {
            let lines = self.panel(left, depth, team, &mut reads)?;
            let others = self.panel(right, depth, team, &mut reads)?;
            for (sum, others) in sums.iter().zip(others.chunks_exact(columns * depth)) {
                let tiles = &mut self.fragments.tiles[*sum][team * warps * rows * columns..];
                let tiles = tiles[..TEAM_ROWS as usize * columns].chunks_exact_mut(columns);
                for (row, left) in tiles.zip(lines.chunks_exact(depth)) {
                    for (sum, right) in row.iter_mut().zip(others.chunks_exact(depth)) {
                        *sum = left.iter().zip(right).fold(*sum, |sum, (x, y)| sum + x * y);
                    }
                }
            }
        }
        self.products.0.push_back(Running { sums: sums.to_vec(), reads });
        Ok(())
    }

    /// A team's operand, row by row.
    fn panel(
        &mut self,
        panel: &PanelPlace,
        depth: usize,
        team: usize,
        reads: &mut Vec<Access>,
    ) -> Result<Vec<f32>, InterpError> {
        let Memory::Shared(shared) = panel.memory else {
            return Err(InterpError::Malformed { what: format!("a panel in {}", panel.memory) });
        };
        let (lane, group) = (team as u32 * TEAM, self.group);
        let first = self.agreed(panel.memory, panel.at, team, TEAM)?;
        let dtype = self.aligned(panel.memory, first, lane)?;
        self.aligned(panel.memory, i64::from(panel.stride), lane)?;
        let (_, len) = self.facts(panel.memory);
        let piece = chunk(dtype);
        let mut numbers = Vec::with_capacity(panel.rows as usize * depth);
        for row in 0..i64::from(panel.rows) {
            for k in 0..depth as i64 {
                let at = first + k / piece * i64::from(panel.stride) + row * piece + k % piece;
                let offset = self.in_bounds(panel.memory, at, len, lane as usize)?;
                if let Some(races) = &mut self.races {
                    let access = Access { shared, offset, lane, group };
                    races.begin_product(access)?;
                    reads.push(access);
                }
                let bits = decode(dtype, &self.shared[usize::from(shared)], offset);
                numbers.push(f32::from_bits(bits));
            }
        }
        Ok(numbers)
    }

    /// Waits for all products but the newest `pending`.
    pub(super) fn finish_products(&mut self, pending: usize) -> Result<(), InterpError> {
        let done = self.products.0.len().saturating_sub(pending);
        for running in self.products.0.drain(..done) {
            let Some(races) = &mut self.races else { continue };
            running.reads.into_iter().try_for_each(|access| races.end_product(access))?;
        }
        Ok(())
    }
}
