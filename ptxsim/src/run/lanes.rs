//! What the lanes of a warp do together: shuffles, votes, reductions.

use crate::error::{Broken, Reason};
use crate::instruction::{Binary, Register, Shuffle, Vote};
use crate::run::integer;
use crate::run::warp::{LANES, Warp, lanes};
use crate::types::Type;

impl Warp {
    /// The member mask of an instruction, once all that it names are there. All lanes must name the same.
    pub(crate) fn converged(&self, members: Register, active: u32) -> Result<u32, Broken> {
        let members = self.get(members, active)?;
        let first = active.trailing_zeros() as usize;
        let mask = members[first] as u32;
        let broken = |lane: u32, why: String| Err(Broken::new(Reason::Convergence, lane, why));
        for lane in lanes(active) {
            let own = members[lane] as u32;
            if own != mask {
                return broken(
                    lane as u32,
                    format!("it names the lanes {own:#010x}, lane {first} {mask:#010x}"),
                );
            }
        }
        let outside = active & !mask;
        if outside != 0 {
            let lane = outside.trailing_zeros();
            return broken(lane, format!("the lane takes part and is not among the named {mask:#010x}"));
        }
        let missing = mask & !active;
        if missing != 0 {
            let lane = missing.trailing_zeros();
            let how = if self.gone >> lane & 1 == 1 { "has left, or never was" } else { "is elsewhere" };
            return broken(lane, format!("the lane is named in {mask:#010x} and {how}"));
        }
        Ok(mask)
    }

    /// Reads another lane's value.
    pub(crate) fn shuffle(
        &mut self,
        active: u32,
        kind: Shuffle,
        (to, inside): (Register, Option<Register>),
        a: Register,
        [by, clamp, members]: [Register; 3],
    ) -> Result<(), Broken> {
        self.converged(members, active)?;
        let (a, by, clamp) = (*self.get(a, active)?, *self.get(by, active)?, *self.get(clamp, active)?);
        let (mut out, mut valid) = ([0; LANES], [0; LANES]);
        for lane in lanes(active) {
            let distance = (by[lane] & 31) as i64;
            let (bound, segment) = ((clamp[lane] & 31) as i64, (clamp[lane] >> 8 & 31) as i64);
            let me = lane as i64;
            let most = (me & segment) | (bound & !segment);
            let least = me & segment;
            let from = match kind {
                Shuffle::Up => me - distance,
                Shuffle::Down => me + distance,
                Shuffle::Butterfly => me ^ distance,
                Shuffle::Index => least | (distance & !segment),
            };
            let within = if kind == Shuffle::Up { from >= most } else { from <= most };
            let from = if within { from as usize } else { lane };
            if active >> from & 1 == 0 {
                let why = format!("it reads lane {from}, which takes no part");
                return Err(Broken::new(Reason::InactiveLane, lane as u32, why));
            }
            out[lane] = a[from];
            valid[lane] = u64::from(within);
        }
        self.set(to, active, &out);
        if let Some(inside) = inside {
            self.set(inside, active, &valid);
        }
        Ok(())
    }

    pub(crate) fn vote(
        &mut self,
        active: u32,
        kind: Vote,
        to: Register,
        (a, negated): (Register, bool),
        members: Register,
    ) -> Result<(), Broken> {
        let mask = self.converged(members, active)?;
        let truth = self.truth(a, active)?;
        let truth = if negated { mask & !truth } else { truth };
        let found = match kind {
            Vote::All => u64::from(truth == mask),
            Vote::Any => u64::from(truth != 0),
            Vote::Uniform => u64::from(truth == 0 || truth == mask),
            Vote::Ballot => u64::from(truth),
        };
        self.set(to, active, &[found; LANES]);
        Ok(())
    }

    pub(crate) fn reduce(
        &mut self,
        active: u32,
        op: Binary,
        ty: Type,
        [to, a, members]: [Register; 3],
    ) -> Result<(), Broken> {
        self.converged(members, active)?;
        let values = self.get(a, active)?;
        let joined = lanes(active).map(|lane| values[lane]).reduce(|a, b| integer::join(op, ty, a, b));
        self.set(to, active, &[joined.unwrap_or(0); LANES]);
        Ok(())
    }
}
