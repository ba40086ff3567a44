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

/// By how much guesses must be expected to be faster: what is expected is learnt of few tokens, and costs are measured
/// beside other work.
const MARGIN: f64 = 1.1;

/// How many times the time that making a plan takes must be there as credit.
const EARNED: f64 = 1.5;

/// Of what was measured before, how much is left by a new measurement.
const KEPT: f64 = 0.75;

/// The most passes of one row that are kept as credit, unless making a plan takes longer.
const CREDIT: f64 = 8.0;

/// How sure guesses are, and what passes of more rows cost.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    chances: Chances,
    /// Nothing where guesses are wanted anyway.
    costs: Option<Costs>,
}

/// What passes were seen to cost, and what guesses saved.
#[derive(Debug, Default)]
struct Costs {
    /// Seconds of a pass of 1, 2, 4, 8 and 16 rows.
    passes: [Option<f64>; 5],
    /// Whether the plan of so many rows has been made: its first pass did that.
    made: [bool; 5],
    /// Seconds that making a plan takes.
    making: f64,
    /// Seconds that guesses saved, or would have saved where they were left out; less what wrong ones cost.
    credit: f64,
    /// Guesses of the last pass that may still come true.
    computed: usize,
    /// Whether a guess was just left out for want of credit.
    left_out: bool,
}

fn size(rows: usize) -> usize {
    (rows.next_power_of_two().ilog2() as usize).min(4)
}

impl Costs {
    /// How many passes of one row a pass of so many takes.
    fn of(&self, rows: usize) -> f64 {
        let measured = |rows: usize| Some(self.passes[size(rows)]? / self.passes[0]?);
        let row = measured(1 + FEW).map_or(ROW_UNKNOWN, |few| (few - 1.0).max(0.0) / FEW as f64);
        measured(rows).unwrap_or(1.0 + row * (rows.next_power_of_two() - 1) as f64)
    }

    fn took(&mut self, rows: usize, seconds: f64) {
        let made = std::mem::replace(&mut self.made[size(rows)], true);
        self.computed = rows - 1;
        if let (Some(one), true) = (self.passes[0], rows > 1) {
            self.credit -= seconds - one;
            if !made {
                self.making = (seconds - self.of(rows) * one).max(0.0);
                return;
            }
        }
        let pass = &mut self.passes[size(rows)];
        *pass = Some(pass.map_or(seconds, |before| KEPT * before + (1.0 - KEPT) * seconds));
    }

    /// Whether there is credit for a pass of so many rows that is expected to save so many passes of one row. A plan is
    /// made, and guesses go on after wrong ones, only when others saved as much time, or would have: so a text in which
    /// they would not takes as long as without them.
    fn affords(&self, rows: usize, saved: f64) -> bool {
        match (self.passes[0], self.made[size(rows)]) {
            (None, _) => false,
            (Some(_), false) => self.credit >= EARNED * self.making,
            (Some(one), true) => self.credit + saved * one >= 0.0,
        }
    }

    /// Counts what a guess saved, or would have saved.
    fn learn(&mut self, right: bool) {
        let Some(one) = self.passes[0] else { return };
        if std::mem::take(&mut self.left_out) {
            // What would have been wrong takes away what others would have saved, and no more than that.
            let least = self.credit.min(0.0);
            let saved = if right { 1.0 - ROW_UNKNOWN } else { 1.0 - self.of(1 + FEW) };
            self.credit = (self.credit + saved * one).max(least);
        } else if right && self.computed > 0 {
            self.computed -= 1;
            self.credit += one;
        } else {
            self.computed = 0;
        }
        self.credit = self.credit.min((EARNED * self.making).max(CREDIT * one));
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
        let mut best = (0, if self.costs.is_some() { MARGIN } else { 1.0 });
        let mut left_out = false;
        for count in [FEW.min(most), most].into_iter().filter(|count| *count <= room) {
            let tokens = 1.0 + self.chances.expected(alike, count);
            let costs = self.costs.as_ref();
            let cost = costs.map_or(1.0 + ROW_WANTED * count as f64, |costs| costs.of(1 + count));
            if tokens / cost > best.1 {
                match costs.is_none_or(|costs| costs.affords(1 + count, tokens - cost)) {
                    true => best = (count, tokens / cost),
                    false => left_out = true,
                }
            }
        }
        if let Some(costs) = &mut self.costs {
            costs.left_out = left_out && best.0 == 0;
        }
        best.0
    }
}

#[cfg(test)]
#[path = "../../tests/pace/mod.rs"]
mod tests;
