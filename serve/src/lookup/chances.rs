//! How sure guesses are.

use super::ALIKE_MAX;

/// What is longer ago than this many guesses counts less and less.
const MEMORY: f64 = 64.0;

/// Before anything is learnt it is as if there had been so many guesses.
const BEFORE: f64 = 4.0;

/// How often the token came that had followed the same tokens before, for each number of them: after many it is surer
/// than after few.
#[derive(Debug)]
pub(crate) struct Chances([Chance; ALIKE_MAX]);

#[derive(Clone, Copy, Debug)]
struct Chance {
    right: f64,
    all: f64,
}

impl Default for Chances {
    fn default() -> Chances {
        // A third after one token, nine tenths after eight: what comes is soon learnt better.
        let chance = |at: usize| Chance { right: BEFORE * (1.0 - 1.0 / (at as f64 + 1.5)), all: BEFORE };
        Chances(std::array::from_fn(chance))
    }
}

impl Chances {
    fn after(&self, alike: usize) -> f64 {
        let Chance { right, all } = self.0[alike.clamp(1, ALIKE_MAX) - 1];
        right / all
    }

    /// Learns whether a guess after `alike` tokens was right.
    pub(crate) fn learn(&mut self, alike: usize, right: bool) {
        let chance = &mut self.0[alike.clamp(1, ALIKE_MAX) - 1];
        if chance.all >= MEMORY {
            chance.right /= 2.0;
            chance.all /= 2.0;
        }
        chance.all += 1.0;
        chance.right += f64::from(u8::from(right));
    }

    /// How many of `count` guesses after `alike` tokens may be expected to be right: those before the first wrong one.
    pub(crate) fn expected(&self, alike: usize, count: usize) -> f64 {
        let so_far = (alike..alike + count).scan(1.0, |all, alike| {
            *all *= self.after(alike);
            Some(*all)
        });
        so_far.sum()
    }
}
