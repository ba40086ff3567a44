//! How many tokens are worth guessing.

use std::time::Duration;

use super::chances::Chances;

/// How many tokens are guessed when not the most that are allowed: a pass of 4 rows is little slower than one of 1 on
/// every device, and each number of rows is a plan that must be made.
const FEW: usize = 3;

/// What a row more costs, in passes of one row, where guesses are wanted anyway: little, but not nothing, so that those
/// that are never right come to an end.
const ROW_WANTED: f64 = 0.02;

/// The same before it is measured: as on a processor whose caches do not hold the weights.
const ROW_UNKNOWN: f64 = 0.1;

/// By how much guesses must be expected to be faster: costs are measured beside other work.
const MARGIN: f64 = 1.05;

/// Of what was measured before, how much is left by a new measurement.
const KEPT: f64 = 0.75;

/// How sure guesses are, and what passes of more rows cost.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    chances: Chances,
    /// Nothing where guesses are wanted anyway.
    costs: Option<Costs>,
}

/// What passes were seen to cost.
#[derive(Debug, Default)]
struct Costs {
    /// Seconds of a pass of 1, 2, 4, 8 and 16 rows.
    passes: [Option<f64>; 5],
    /// Whether the plan of so many rows has been made: its first pass did that.
    made: [bool; 5],
    /// Seconds that making a plan takes.
    making: f64,
    /// Seconds that would have been saved so far by guesses whose plan is not made.
    missed: f64,
    /// Whether such a guess was just left out.
    misses: bool,
}

fn size(rows: usize) -> usize {
    (rows.next_power_of_two().ilog2() as usize).min(4)
}

impl Costs {
    /// How many passes of one row a pass of so many takes.
    fn of(&self, rows: usize) -> f64 {
        match (self.passes[0], self.passes[size(rows)]) {
            (Some(one), Some(pass)) => pass / one,
            _ => 1.0 + ROW_UNKNOWN * (rows.next_power_of_two() - 1) as f64,
        }
    }

    fn took(&mut self, rows: usize, seconds: f64) {
        let made = std::mem::replace(&mut self.made[size(rows)], true);
        if rows > 1 && !made {
            self.making = seconds;
            return;
        }
        let pass = &mut self.passes[size(rows)];
        *pass = Some(pass.map_or(seconds, |before| KEPT * before + (1.0 - KEPT) * seconds));
    }

    /// Whether a pass of so many rows is worth its plan, if it is expected to save so many passes of one row. A plan is
    /// made when guesses would already have saved as much time as it takes: so where none would, none is.
    fn affords(&mut self, rows: usize, saved: f64) -> bool {
        let Some(one) = self.passes[0] else { return false };
        let affords = self.made[size(rows)] || self.missed + saved * one >= self.making;
        self.misses = !affords;
        if affords && !self.made[size(rows)] {
            self.missed = 0.0;
        }
        affords
    }

    /// Counts what a guess that was left out would have saved.
    fn learn(&mut self, right: bool) {
        if let (true, Some(one)) = (std::mem::take(&mut self.misses), self.passes[0]) {
            let saved = if right { 1.0 - ROW_UNKNOWN } else { 1.0 - self.of(1 + FEW) };
            self.missed = (self.missed + saved * one).max(0.0);
        }
    }
}

impl Pace {
    /// Guesses are weighed against what passes cost, or wanted anyway.
    pub(crate) fn new(weighed: bool) -> Pace {
        Pace { chances: Chances::default(), costs: weighed.then(Costs::default) }
    }

    /// Forgets what passes cost: they run elsewhere now.
    pub(crate) fn moved(&mut self) {
        if let Some(costs) = &mut self.costs {
            *costs = Costs::default();
        }
    }

    /// Hears how long making a plan is expected to take, as long as none was made for guesses.
    pub(crate) fn begin(&mut self, making: Duration) {
        if let Some(costs) = self.costs.as_mut().filter(|costs| !costs.made[1..].contains(&true)) {
            costs.making = making.as_secs_f64();
        }
    }

    /// Learns whether the token came that had followed `alike` last tokens before.
    pub(crate) fn learn(&mut self, alike: usize, right: bool) {
        self.chances.learn(alike, right);
        if let Some(costs) = &mut self.costs {
            costs.learn(right);
        }
    }

    /// Learns how long a pass of so many rows took.
    pub(crate) fn took(&mut self, rows: usize, time: Duration) {
        if let Some(costs) = &mut self.costs {
            costs.took(rows, time.as_secs_f64());
        }
    }

    /// How many tokens are worth guessing after `alike` tokens that were said before: at most `most`, of which there is
    /// room for `room`.
    pub(crate) fn count(&mut self, alike: usize, most: usize, room: usize) -> usize {
        let mut best = (0, if self.costs.is_some() { MARGIN } else { 1.0 }, 0.0);
        for count in [FEW.min(most), most].into_iter().filter(|count| *count <= room) {
            let tokens = 1.0 + self.chances.expected(alike, count);
            let cost = match &self.costs {
                Some(costs) => costs.of(1 + count),
                None => 1.0 + ROW_WANTED * count as f64,
            };
            if tokens / cost > best.1 {
                best = (count, tokens / cost, tokens - cost);
            }
        }
        let (count, _, saved) = best;
        let affords = match &mut self.costs {
            Some(costs) if count > 0 => costs.affords(1 + count, saved),
            _ => true,
        };
        if affords { count } else { 0 }
    }
}
