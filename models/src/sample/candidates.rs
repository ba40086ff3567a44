//! The tokens still in question, and the ways to leave some out.
//!
//! Every cut keeps at least one token. Equal logits are ordered by id, so that a cut through equals is the
//! same on every machine.

use std::cmp::Ordering;

use super::random::Random;

/// A token with its logit and, after [`Candidates::softmax`], its share of the probability.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    p: f32,
}

/// Reused from token to token; it grows to the vocabulary once, at the first draw.
#[derive(Debug, Clone, Default)]
pub(super) struct Candidates {
    all: Vec<Candidate>,
    /// How many at the front are the best ones, in order.
    sorted: usize,
}

fn better_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

impl Candidates {
    /// Begins anew with all tokens that are not forbidden.
    pub(super) fn load(&mut self, logits: &[f32]) {
        self.sorted = 0;
        self.all.clear();
        self.all.extend(
            (0u32..)
                .zip(logits)
                .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
                .map(|(id, logit)| Candidate { id, logit: *logit, p: 0.0 }),
        );
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Puts the `count` best in front, in order.
    fn sort(&mut self, count: usize) {
        let count = count.min(self.all.len());
        if self.sorted >= count {
            return;
        }
        if count < self.all.len() {
            self.all.select_nth_unstable_by(count - 1, better_first);
        }
        self.all[..count].sort_unstable_by(better_first);
        self.sorted = count;
    }

    fn keep(&mut self, count: usize) {
        self.all.truncate(count.max(1));
        self.sorted = self.sorted.min(self.all.len());
    }

    fn retain(&mut self, holds: impl Fn(&Candidate) -> bool) {
        let front = self.all[..self.sorted].iter().filter(|candidate| holds(candidate)).count();
        self.all.retain(|candidate| holds(candidate));
        self.sorted = front;
    }

    fn highest(&self) -> f32 {
        match self.sorted {
            0 => self.all.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max),
            _ => self.all[0].logit,
        }
    }

    /// Gives every token its share.
    pub(super) fn softmax(&mut self) {
        let highest = self.highest();
        let mut sum = 0.0_f64;
        for candidate in &mut self.all {
            candidate.p = (candidate.logit - highest).exp();
            sum += f64::from(candidate.p);
        }
        for candidate in &mut self.all {
            candidate.p = (f64::from(candidate.p) / sum) as f32;
        }
    }

    pub(super) fn temperature(&mut self, temperature: f32) {
        for candidate in &mut self.all {
            // Without this bound a tiny temperature would make the best logit infinite.
            candidate.logit = (candidate.logit / temperature).clamp(f32::MIN / 4.0, f32::MAX / 4.0);
        }
    }

    pub(super) fn top_k(&mut self, k: i32) {
        let Some(k) = usize::try_from(k).ok().filter(|k| *k > 0) else { return };
        self.sort(k);
        self.keep(k);
    }

    pub(super) fn top_n_sigma(&mut self, n: f32) {
        if n <= 0.0 {
            return;
        }
        let count = self.all.len() as f64;
        let mean = self.all.iter().map(|candidate| f64::from(candidate.logit)).sum::<f64>() / count;
        let square = |candidate: &Candidate| (f64::from(candidate.logit) - mean).powi(2);
        let deviation = (self.all.iter().map(square).sum::<f64>() / count).sqrt();
        let least = f64::from(self.highest()) - f64::from(n) * deviation;
        self.retain(|candidate| f64::from(candidate.logit) >= least);
    }

    pub(super) fn top_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        self.softmax();
        // Most often a few tokens hold nearly all probability, so the rest is not sorted in vain.
        let (mut sum, mut seen, mut step) = (0.0_f64, 0, 128);
        while seen < self.all.len() {
            self.sort(seen + step);
            for candidate in &self.all[seen..self.sorted] {
                sum += f64::from(candidate.p);
                seen += 1;
                if sum >= f64::from(p) {
                    return self.keep(seen);
                }
            }
            step *= 8;
        }
    }

    pub(super) fn min_p(&mut self, p: f32) {
        if p > 0.0 {
            let least = self.highest() + p.ln();
            self.retain(|candidate| candidate.logit >= least);
        }
    }

    pub(super) fn typical_p(&mut self, p: f32) {
        if p >= 1.0 {
            return;
        }
        self.softmax();
        let surprise = |candidate: &Candidate| -f64::from(candidate.p.max(f32::MIN_POSITIVE)).ln();
        let expected: f64 =
            self.all.iter().map(|candidate| f64::from(candidate.p) * surprise(candidate)).sum();
        let distance = |candidate: &Candidate| (surprise(candidate) - expected).abs();
        self.all.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(better_first(a, b)));
        self.sorted = 0;
        let mut sum = 0.0;
        let reached = self.all.iter().position(|candidate| {
            sum += f64::from(candidate.p);
            sum > f64::from(p)
        });
        if let Some(last) = reached {
            self.keep(last + 1);
        }
    }

    /// Drops all likely tokens but the least of them, with a chance of `probability`.
    pub(super) fn xtc(&mut self, probability: f32, threshold: f32, random: &mut Random) {
        if probability <= 0.0 || threshold > 0.5 || self.all.len() < 2 {
            return;
        }
        if random.unit() >= f64::from(probability) {
            return;
        }
        self.softmax();
        let likely = |candidate: &&Candidate| candidate.p >= threshold;
        let Some(least) = self.all.iter().filter(likely).max_by(|a, b| better_first(a, b)).copied() else {
            return;
        };
        self.retain(|candidate| better_first(candidate, &least) != Ordering::Less);
    }

    /// Mirostat 2: drops what surprises more than `surprise_max` bits.
    pub(super) fn surprise_below(&mut self, surprise_max: f32) {
        self.sort(1);
        let best = self.all[0].id;
        self.softmax();
        self.retain(|candidate| candidate.id == best || -candidate.p.log2() <= surprise_max);
    }

    /// Mirostat 1: the Zipf exponent of the best `count` tokens, by least squares on their ratios.
    pub(super) fn zipf_exponent(&mut self, count: usize) -> f32 {
        self.softmax();
        self.sort(count);
        let best = &self.all[..count.min(self.all.len())];
        let (mut product, mut square) = (0.0_f32, 0.0_f32);
        for (rank, pair) in (1u16..).zip(best.windows(2)) {
            let rank = f32::from(rank);
            let ratio = ((rank + 1.0) / rank).ln();
            let least = f32::MIN_POSITIVE;
            product += ratio * (pair[0].p.max(least) / pair[1].p.max(least)).ln();
            square += ratio * ratio;
        }
        if square > 0.0 { product / square } else { 1.0 }
    }

    /// Chooses a token by its share; also returns that share.
    pub(super) fn pick(&mut self, random: &mut Random) -> Option<(u32, f32)> {
        self.softmax();
        let total: f64 = self.all.iter().map(|candidate| f64::from(candidate.p)).sum();
        let mut left = random.unit() * total;
        for candidate in &self.all {
            left -= f64::from(candidate.p);
            if left < 0.0 {
                return Some((candidate.id, candidate.p));
            }
        }
        // Rounding can leave a trace at the end; the last token that is possible at all takes it.
        self.all.iter().rev().find(|candidate| candidate.p > 0.0).map(|last| (last.id, last.p))
    }
}
