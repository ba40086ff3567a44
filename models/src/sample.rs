//! From a row of logits to the next token.
//!
//! [`Sampling`] holds the parameters with llama.cpp's names and defaults, [`Sampler`] the state of one
//! sequence. The same seed, parameters and logits give the same tokens on every machine.

mod candidates;
mod dry;
mod params;
mod random;

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::tokenizer::Tokenizer;
use candidates::Candidates;
pub use params::{Bend, Pace, Sampling, Stage};
use random::Random;

/// Mirostat 1 estimates the shape of the distribution from this many of its best tokens, as in its paper.
const MIROSTAT_SHAPE: usize = 100;

/// The logit of the token that comes where none is finite; all others are 0 then.
const INVALID_LOGIT: f32 = 5e4;

/// Why there is no next token.
#[derive(Debug, Clone, PartialEq)]
pub enum SampleError {
    /// A parameter is outside its range.
    Parameter {
        /// The parameter's name in [`Sampling`].
        field: &'static str,
        /// The value given.
        value: String,
        /// The values that are possible.
        expected: &'static str,
    },
    /// The model produced infinity or no number at all: weights or arithmetic are broken.
    NonFinite {
        /// The token id of the first such logit.
        index: usize,
    },
    /// The row does not have one logit for each token of the vocabulary.
    Length {
        /// The number of logits.
        found: usize,
        /// The size of the vocabulary.
        expected: usize,
    },
    /// `logit_bias` forbids every token.
    Nothing,
}

impl fmt::Display for SampleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SampleError::Parameter { field, value, expected } => {
                write!(f, "{field} must be {expected}, got {value}")
            }
            SampleError::NonFinite { index } => write!(
                f,
                "the logit of token {index} is not finite: weights are damaged, or arithmetic overflowed"
            ),
            SampleError::Length { found, expected } => {
                write!(f, "{found} logits, expected one for each of {expected} tokens")
            }
            SampleError::Nothing => write!(f, "logit_bias forbids every token"),
        }
    }
}

impl std::error::Error for SampleError {}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    /// The token's id.
    pub id: u32,
    /// Natural logarithm of the probability that the model itself gave it: before bias, penalties and cuts.
    pub logprob: f32,
}

/// Chooses the tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    vocabulary: usize,
    seed: u64,
    random: Random,
    candidates: Candidates,
    row: Row,
    history: Vec<u32>,
    /// How often each token occurs in the last `repeat_last_n` of the history.
    counts: HashMap<u32, u32>,
    breakers: HashSet<u32>,
    /// Mirostat's running bound on surprise, in bits.
    surprise_max: f32,
    /// How many tokens were chosen since the text began.
    chosen: u32,
    /// How often logits were not finite.
    invalid: usize,
}

impl Sampler {
    /// Checks the parameters for a vocabulary of `vocabulary` tokens. Without a seed one is drawn.
    pub fn new(sampling: Sampling, vocabulary: usize) -> Result<Self, SampleError> {
        check(&sampling, vocabulary)?;
        let seed = sampling.seed.unwrap_or_else(random::seed);
        Ok(Sampler {
            surprise_max: 2.0 * sampling.mirostat_tau,
            sampling,
            vocabulary,
            seed,
            random: Random::new(seed),
            candidates: Candidates::default(),
            row: Row::default(),
            history: Vec::new(),
            counts: HashMap::new(),
            breakers: HashSet::new(),
            chosen: 0,
            invalid: 0,
        })
    }

    /// Goes on with other parameters. What was seen and drawn stays; so do the seed and the breakers of DRY.
    pub fn retune(&mut self, sampling: Sampling) -> Result<(), SampleError> {
        check(&sampling, self.vocabulary)?;
        self.sampling = sampling;
        Ok(())
    }

    /// How many rows of logits were not finite and gave `Sampling::invalid` its turn.
    pub fn invalid_rows(&self) -> usize {
        self.invalid
    }

    /// Looks up which tokens contain a string of `dry_sequence_breakers`; repetition does not count across
    /// them. Breakers that only several tokens together spell are not seen.
    pub fn with_breakers(mut self, tokenizer: &Tokenizer) -> Self {
        let breakers = &self.sampling.dry_sequence_breakers;
        if self.sampling.dry_multiplier > 0.0 && !breakers.is_empty() {
            let size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
            self.breakers = (0..size)
                .filter(|id| {
                    let text = tokenizer.decode(&[*id], false);
                    breakers.iter().any(|breaker| text.contains(breaker.as_str()))
                })
                .collect();
        }
        self
    }

    /// The seed in use: the one given, or the one drawn.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The parameters in use.
    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// Forgets which tokens were seen, for a text that begins anew; draws go on where they are.
    pub fn forget(&mut self) {
        self.history.clear();
        self.counts.clear();
        self.chosen = 0;
    }

    /// Tells the sampler which token became part of the sequence, prompt tokens included.
    pub fn accept(&mut self, id: u32) {
        self.history.push(id);
        *self.counts.entry(id).or_insert(0) += 1;
        let Ok(window) = usize::try_from(self.sampling.repeat_last_n) else { return };
        if self.history.len() > window {
            let gone = self.history[self.history.len() - 1 - window];
            if let Some(count) = self.counts.get_mut(&gone) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&gone);
                }
            }
        }
    }

    /// Chooses a token from the model's logits (f32, one for each token of the vocabulary) and uses them up: bias and penalties are
    /// applied in place. The token is not yet part of the sequence; [`Sampler::accept`] makes it so.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<Sampled, SampleError> {
        if logits.len() != self.vocabulary {
            return Err(SampleError::Length { found: logits.len(), expected: self.vocabulary });
        }
        if let Some(index) = logits.iter().position(|logit| !logit.is_finite()) {
            let token = self.sampling.invalid.ok_or(SampleError::NonFinite { index })?;
            logits.fill(0.0);
            logits[token as usize] = INVALID_LOGIT;
            self.invalid += 1;
        }
        let (highest, log_sum) = log_sum_exp(logits);
        self.row.clear();
        self.bias(logits);
        self.chosen = self.chosen.saturating_add(1);
        self.penalise(logits);
        let id = if self.sampling.temperature <= 0.0 { greatest(logits) } else { self.draw(logits) };
        let id = id.ok_or(SampleError::Nothing)?;
        let own = self.row.original(id).unwrap_or(logits[id as usize]);
        Ok(Sampled { id, logprob: (f64::from(own - highest) - log_sum) as f32 })
    }

    fn bias(&mut self, logits: &mut [f32]) {
        let Sampler { sampling, row, history, chosen, .. } = self;
        let pace = sampling.pace.map(|pace| (pace.token, pace.bias(*chosen)));
        let last = history.last().filter(|last| sampling.never_twice.contains(last));
        let twice = last.map(|last| (*last, f32::NEG_INFINITY));
        for (id, bias) in sampling.logit_bias.iter().copied().chain(pace).chain(twice) {
            match bias {
                f32::NEG_INFINITY => row.forbid(logits, id),
                bias => row.change(logits, id, |logit| logit + bias),
            }
        }
    }

    fn penalise(&mut self, logits: &mut [f32]) {
        let Sampler { sampling, row, counts, .. } = self;
        if sampling.samplers.contains(&Stage::Penalties) {
            let (repeat, once, each) =
                (sampling.repeat_penalty, sampling.presence_penalty, sampling.frequency_penalty);
            for (id, count) in counts.iter().filter(|_| repeat != 1.0 || once != 0.0 || each != 0.0) {
                row.change(logits, *id, |logit| {
                    let scaled = if logit <= 0.0 { logit * repeat } else { logit / repeat };
                    scaled - *count as f32 * each - once
                });
            }
        }
        if sampling.samplers.contains(&Stage::Dry) {
            for (id, penalty) in dry::penalties(sampling, &self.history, &self.breakers) {
                row.change(logits, id, |logit| logit - penalty);
            }
        }
    }

    fn draw(&mut self, logits: &[f32]) -> Option<u32> {
        let Sampler { sampling, candidates, random, .. } = self;
        candidates.load(logits);
        if candidates.is_empty() {
            return None;
        }
        if sampling.mirostat > 0 {
            return self.draw_by_surprise();
        }
        for stage in &sampling.samplers {
            match stage {
                Stage::Penalties | Stage::Dry => {}
                Stage::TopNSigma => candidates.top_n_sigma(sampling.top_n_sigma),
                Stage::TopK => candidates.top_k(sampling.top_k),
                Stage::TypicalP => candidates.typical_p(sampling.typical_p),
                Stage::TopP => candidates.top_p(sampling.top_p),
                Stage::MinP => candidates.min_p(sampling.min_p),
                Stage::Xtc => candidates.xtc(sampling.xtc_probability, sampling.xtc_threshold, random),
                Stage::Temperature => candidates.temperature(sampling.temperature),
            }
        }
        candidates.pick(random).map(|(id, _)| id)
    }

    /// Mirostat (Basu et al. 2020): keeps the surprise of the text near `mirostat_tau` bits a token.
    fn draw_by_surprise(&mut self) -> Option<u32> {
        let Sampler { sampling, candidates, random, .. } = self;
        candidates.temperature(sampling.temperature);
        if sampling.mirostat == 1 {
            let exponent = candidates.zipf_exponent(MIROSTAT_SHAPE);
            let excess = exponent - 1.0;
            let size = self.vocabulary as f32;
            let count = (excess * self.surprise_max.exp2() / (1.0 - size.powf(-excess))).powf(1.0 / exponent);
            // A shape without a solution, such as equal logits, leaves all tokens in.
            candidates.top_k(if count.is_nan() { 0 } else { (count.round() as i32).max(1) });
        } else {
            candidates.surprise_below(self.surprise_max);
        }
        let (id, p) = candidates.pick(random)?;
        self.surprise_max -= sampling.mirostat_eta * (-p.log2() - sampling.mirostat_tau);
        Some(id)
    }
}

/// Whether the parameters make sense for a vocabulary of that size.
fn check(sampling: &Sampling, vocabulary: usize) -> Result<(), SampleError> {
    sampling.validate()?;
    let outside = |id: &u32| *id as usize >= vocabulary;
    let biased = sampling.logit_bias.iter().map(|(id, _)| *id).find(outside);
    let found =
        biased.map(|id| ("logit_bias", id)).or(sampling.invalid.filter(outside).map(|id| ("invalid", id)));
    match found {
        Some((field, id)) => Err(SampleError::Parameter {
            field,
            value: format!("token {id}"),
            expected: "about tokens of the vocabulary",
        }),
        None => Ok(()),
    }
}

/// The logits of a row that are no longer the model's own, as they were.
#[derive(Debug, Clone, Default)]
struct Row {
    changed: Vec<(u32, f32)>,
}

impl Row {
    fn clear(&mut self) {
        self.changed.clear();
    }

    /// Changes a logit, unless its token is forbidden. No change reaches infinity.
    fn change(&mut self, logits: &mut [f32], id: u32, change: impl FnOnce(f32) -> f32) {
        let Some(logit) = logits.get_mut(id as usize) else { return };
        self.changed.push((id, *logit));
        if *logit > f32::NEG_INFINITY {
            *logit = change(*logit).clamp(f32::MIN, f32::MAX);
        }
    }

    fn forbid(&mut self, logits: &mut [f32], id: u32) {
        if let Some(logit) = logits.get_mut(id as usize) {
            self.changed.push((id, *logit));
            *logit = f32::NEG_INFINITY;
        }
    }

    fn original(&self, id: u32) -> Option<f32> {
        self.changed.iter().find(|(changed, _)| *changed == id).map(|(_, logit)| *logit)
    }
}

/// The highest logit h and the logarithm of the sum of exp(logit - h).
fn log_sum_exp(logits: &[f32]) -> (f32, f64) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - highest).exp())).sum();
    (highest, sum.ln())
}

/// The lowest id among the highest logits; `None` if all are forbidden.
fn greatest(logits: &[f32]) -> Option<u32> {
    let mut best = (None, f32::NEG_INFINITY);
    for (id, logit) in (0u32..).zip(logits) {
        if *logit > best.1 {
            best = (Some(id), *logit);
        }
    }
    best.0
}
