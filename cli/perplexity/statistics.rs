//! Likelihoods of tokens, and distances between probabilities, with llama-perplexity's formulas and words.

use std::fmt::Write;

use anyhow::bail;
use serde_json::{Value, json};

/// Below this logarithm a probability adds nothing to a divergence.
const NOTHING: f32 = -16.0;

/// What a place's logits have in common.
pub(super) struct Row {
    pub(super) largest: f32,
    pub(super) least: f32,
    /// The logarithm of the sum of their exponentials.
    pub(super) logarithm: f32,
}

impl Row {
    pub(super) fn of(logits: &[f32]) -> Row {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let least = logits.iter().copied().fold(f32::INFINITY, f32::min);
        let sum: f64 = logits.iter().map(|x| f64::from((x - largest).exp())).sum();
        Row { largest, least, logarithm: largest + sum.ln() as f32 }
    }

    /// The negative logarithm of a token's probability.
    pub(super) fn surprise(&self, logits: &[f32], token: u32) -> anyhow::Result<f64> {
        let Some(logit) = logits.get(token as usize) else {
            bail!("token {token} is none of the model's {}", logits.len());
        };
        let surprise = f64::from(self.logarithm - logit);
        if !surprise.is_finite() {
            bail!("the model gives no probabilities: a logarithm is {surprise}");
        }
        Ok(surprise)
    }
}

/// The mean of a sum, and how uncertain it is.
fn mean(sum: f64, squares: f64, count: usize) -> (f64, f64) {
    let n = count.max(1) as f64;
    let mean = sum / n;
    let variance = squares / n - mean * mean;
    (mean, if variance > 0.0 && count > 1 { (variance / (n - 1.0)).sqrt() } else { 0.0 })
}

/// How surprising tokens were.
#[derive(Default)]
pub(super) struct Likelihood {
    sum: f64,
    squares: f64,
    count: usize,
}

impl Likelihood {
    pub(super) fn add(&mut self, surprise: f64) {
        self.sum += surprise;
        self.squares += surprise * surprise;
        self.count += 1;
    }

    fn mean(&self) -> (f64, f64) {
        mean(self.sum, self.squares, self.count)
    }

    /// The perplexity and its uncertainty.
    pub(super) fn perplexity(&self) -> (f64, f64) {
        let (mean, uncertainty) = self.mean();
        (mean.exp(), mean.exp() * uncertainty)
    }
}

/// What a base has kept of a place's probabilities.
pub(super) struct Kept<'a> {
    pub(super) scale: f32,
    pub(super) least: f32,
    pub(super) numbers: &'a [[u8; 2]],
}

impl Kept<'_> {
    fn logarithm(&self, token: usize) -> f32 {
        self.scale * f32::from(u16::from_le_bytes(self.numbers[token])) + self.least
    }
}

/// The first of the largest.
fn largest(values: impl Iterator<Item = f32>) -> usize {
    values.enumerate().fold((0, f32::NEG_INFINITY), |best, (at, x)| if x > best.1 { (at, x) } else { best }).0
}

/// How far probabilities are from those of a base.
#[derive(Default)]
pub(super) struct Divergence {
    own: Likelihood,
    base: Likelihood,
    both: f64,
    divergences: Vec<f32>,
    /// Differences of the probability of the token that came.
    differences: Vec<f32>,
    same_top: usize,
}

impl Divergence {
    pub(super) fn add(&mut self, logits: &[f32], base: Kept<'_>, token: u32) -> anyhow::Result<()> {
        let row = Row::of(logits);
        let own = row.surprise(logits, token)?;
        let before = -f64::from(base.logarithm(token as usize));
        self.own.add(own);
        self.base.add(before);
        self.both += own * before;
        let mut divergence = 0.0;
        for (at, logit) in logits.iter().enumerate() {
            let expected = base.logarithm(at);
            if expected > NOTHING {
                divergence += f64::from(expected.exp() * (expected - logit + row.logarithm));
            }
        }
        self.divergences.push(divergence as f32);
        self.differences.push(((-own).exp() - (-before).exp()) as f32);
        let bases = largest((0..logits.len()).map(|at| base.logarithm(at)));
        self.same_top += usize::from(largest(logits.iter().copied()) == bases);
        Ok(())
    }

    fn count(&self) -> usize {
        self.own.count
    }

    fn mean_divergence(&self) -> (f64, f64) {
        moments(&self.divergences)
    }

    /// The logarithm of the ratio of both perplexities.
    fn ratio(&self) -> (f64, f64) {
        let ((own, a), (base, b)) = (self.own.mean(), self.base.mean());
        let n = self.count().max(2) as f64;
        let covariance = (self.both / n - own * base) / (n - 1.0);
        (own - base, (a * a + b * b - 2.0 * covariance).max(0.0).sqrt())
    }

    /// The root of the mean square of the probabilities' differences.
    fn root_mean_square(&self) -> f64 {
        let squares: f64 = self.differences.iter().map(|x| f64::from(x * x)).sum();
        (squares / self.count().max(1) as f64).sqrt()
    }

    fn share_same_top(&self) -> f64 {
        self.same_top as f64 / self.count().max(1) as f64
    }

    /// What a piece's line says, all pieces so far together.
    pub(super) fn line(&self) -> String {
        let ((ppl, a), (ratio, b)) = (self.own.perplexity(), self.ratio());
        let (divergence, c) = self.mean_divergence();
        format!(
            "{ppl:9.4} ± {a:9.4}    {ratio:10.5} ± {b:10.5}    {divergence:10.5} ± {c:10.5}    {:6.3} %    {:6.3} %",
            100.0 * self.root_mean_square(),
            100.0 * self.share_same_top(),
        )
    }

    pub(super) fn table(&self) -> String {
        let mut text = "\n====== Perplexity statistics ======\n".to_owned();
        let mut row = |name: &str, (value, uncertainty): (f64, f64)| {
            let _infallible = writeln!(text, "{name:<30}: {value:10.6} ± {uncertainty:10.6}");
        };
        let (ratio, uncertainty) = self.ratio();
        row("Mean PPL(Q)", self.own.perplexity());
        row("Mean PPL(base)", self.base.perplexity());
        row("Mean ln(PPL(Q)/PPL(base))", (ratio, uncertainty));
        row("Mean PPL(Q)/PPL(base)", (ratio.exp(), ratio.exp() * uncertainty));
        text.push_str("\n====== KL divergence statistics ======\n");
        let (mean, uncertainty) = self.mean_divergence();
        let _infallible = writeln!(text, "Mean    KLD: {mean:10.6} ± {uncertainty:10.6}");
        let mut sorted = self.divergences.clone();
        sorted.sort_by(f32::total_cmp);
        let quantiles = [
            ("Maximum", 1.0),
            ("99.9%  ", 0.999),
            ("99.0%  ", 0.99),
            ("95.0%  ", 0.95),
            ("90.0%  ", 0.9),
            ("Median ", 0.5),
            ("10.0%  ", 0.1),
            (" 1.0%  ", 0.01),
            ("Minimum", 0.0),
        ];
        for (name, share) in quantiles {
            let _infallible = writeln!(text, "{name} KLD: {:10.6}", quantile(&sorted, share));
        }
        text.push_str("\n====== Token probability statistics ======\n");
        let (mean, uncertainty) = moments(&self.differences);
        let percent = |x: f64| 100.0 * x;
        let _infallible =
            writeln!(text, "Mean    Δp: {:6.3} ± {:5.3} %", percent(mean), percent(uncertainty));
        let _infallible = writeln!(text, "RMS Δp    : {:6.3} %", percent(self.root_mean_square()));
        let same = self.share_same_top();
        let error = (same * (1.0 - same) / (self.count().max(2) - 1) as f64).sqrt();
        let _infallible = writeln!(text, "Same top p: {:6.3} ± {:5.3} %", percent(same), percent(error));
        text
    }

    pub(super) fn report(&self) -> Value {
        let pair = |(value, uncertainty): (f64, f64)| json!({ "mean": value, "uncertainty": uncertainty });
        json!({
            "perplexity": pair(self.own.perplexity()),
            "perplexity_base": pair(self.base.perplexity()),
            "ln_ratio": pair(self.ratio()),
            "kl_divergence": pair(self.mean_divergence()),
            "rms_difference": self.root_mean_square(),
            "same_top": self.share_same_top(),
            "tokens": self.count(),
        })
    }
}

fn moments(values: &[f32]) -> (f64, f64) {
    let sum = values.iter().map(|x| f64::from(*x)).sum();
    let squares = values.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    mean(sum, squares, values.len())
}

/// The value below which a share of sorted values lies.
fn quantile(sorted: &[f32], share: f64) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let (below, part) = (place as usize, place.fract() as f32);
    sorted[below] * (1.0 - part) + sorted[(below + 1).min(last)] * part
}
