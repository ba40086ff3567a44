//! Asynchronous copies: what a thread has begun, and what it has waited for.

use std::collections::VecDeque;

use crate::error::Broken;
use crate::instruction::{Address, Register};
use crate::run::block::Worker;
use crate::run::shared::Manner;
use crate::run::warp::{LANES, Warp, lanes};

/// One thread's copy of up to 16 bytes.
#[derive(Clone, Copy)]
struct Copy {
    to: u64,
    from: u64,
    /// Bytes that come from memory; the rest are 0.
    source: u8,
    bytes: u8,
}

/// The copies of a warp's lanes.
#[derive(Default)]
pub(crate) struct Copies {
    /// For each lane the groups that it has made, oldest first, and the copies that are in none.
    groups: [VecDeque<Vec<Copy>>; LANES],
    open: [Vec<Copy>; LANES],
}

impl Copies {
    /// What these lanes have begun since the last time is a group.
    pub(crate) fn commit(&mut self, active: u32) {
        for lane in lanes(active) {
            let group = std::mem::take(&mut self.open[lane]);
            self.groups[lane].push_back(group);
        }
    }
}

impl Worker<'_> {
    /// Begins a copy in each lane. Its bytes are looked at when the thread waits: any moment until then is as good.
    pub(crate) fn copy_start(
        &mut self,
        warp: &mut Warp,
        active: u32,
        to: Address,
        from: Address,
        bytes: u8,
        source: Option<Register>,
    ) -> Result<(), Broken> {
        let (to, from) = (warp.addresses(to, active)?, warp.addresses(from, active)?);
        let sizes = match source {
            Some(source) => *warp.get(source, active)?,
            None => [u64::from(bytes); LANES],
        };
        for lane in lanes(active) {
            let source = (sizes[lane] as u32).min(u32::from(bytes)) as u8;
            let by = Self::toucher(warp, lane);
            self.shared.touch(to[lane], usize::from(bytes), Manner::CopyBegins, by)?;
            if source > 0 {
                self.view.check(lane as u32, from[lane], u64::from(source), u64::from(bytes))?;
            }
            let copy = Copy { to: to[lane], from: from[lane], source, bytes };
            warp.copies.open[lane].push(copy);
        }
        Ok(())
    }

    /// Ends all groups of these lanes but the last `open`.
    pub(crate) fn copy_wait(&mut self, warp: &mut Warp, active: u32, open: u32) -> Result<(), Broken> {
        for lane in lanes(active) {
            while warp.copies.groups[lane].len() > open as usize {
                let group = warp.copies.groups[lane].pop_front().unwrap_or_default();
                for copy in group {
                    self.copy_end(warp, lane, copy)?;
                }
            }
        }
        Ok(())
    }

    fn copy_end(&mut self, warp: &Warp, lane: usize, copy: Copy) -> Result<(), Broken> {
        let mut bytes = [0u8; 16];
        for at in 0..copy.source {
            bytes[usize::from(at)] = self.view.load(lane as u32, copy.from + u64::from(at), 1)? as u8;
        }
        let by = Self::toucher(warp, lane);
        let at = self.shared.touch(copy.to, usize::from(copy.bytes), Manner::CopyEnds, by)?;
        self.shared.store(at, &bytes[..usize::from(copy.bytes)]);
        Ok(())
    }
}
