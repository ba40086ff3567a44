//! How sure guesses are.

/// What is longer ago than this many guesses counts less and less.
const MEMORY: f64 = 64.0;

/// Before anything is learnt it is as if there had been so many guesses.
const BEFORE: f64 = 4.0;

/// How often the token came that had followed the same tokens before: after many it is surer than after few. One
/// chance for 1, 2, 3, up to 7, up to 15 and more tokens, so that all are soon learnt.
#[derive(Debug)]
pub(crate) struct Chances([Chance; 6]);

#[derive(Clone, Copy, Debug)]
struct Chance {
    right: f64,
    all: f64,
}

impl Default for Chances {
    fn default() -> Chances {
        Chances([0.25, 0.4, 0.5, 0.65, 0.8, 0.9].map(|chance| Chance { right: BEFORE * chance, all: BEFORE }))
    }
}

fn class(alike: usize) -> usize {
    match alike {
        0..=3 => alike.max(1) - 1,
        4..=7 => 3,
        8..=15 => 4,
        _ => 5,
    }
}

impl Chances {
    fn after(&self, alike: usize) -> f64 {
        let Chance { right, all } = self.0[class(alike)];
        right / all
    }

    /// Learns whether a guess after `alike` tokens was right.
    pub(crate) fn learn(&mut self, alike: usize, right: bool) {
        let chance = &mut self.0[class(alike)];
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
