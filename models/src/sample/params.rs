//! The parameters of sampling.

use std::str::FromStr;

use super::SampleError;

/// One step on the way from logits to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// `repeat_penalty`, `presence_penalty` and `frequency_penalty`.
    Penalties,
    /// The `dry_*` penalty for repeated sequences.
    Dry,
    /// Drops what is more than `top_n_sigma` standard deviations below the best logit.
    TopNSigma,
    /// Keeps the `top_k` best.
    TopK,
    /// Keeps the tokens whose surprise is nearest to the expected one, up to `typical_p`.
    TypicalP,
    /// Keeps the best until their probabilities reach `top_p`.
    TopP,
    /// Drops what is less likely than `min_p` times the best.
    MinP,
    /// Now and then drops all but the least of the likely tokens.
    Xtc,
    /// Divides the logits by `temperature`.
    Temperature,
}

impl Stage {
    /// All stages in llama.cpp's order.
    pub const ORDER: [Stage; 9] = [
        Stage::Penalties,
        Stage::Dry,
        Stage::TopNSigma,
        Stage::TopK,
        Stage::TypicalP,
        Stage::TopP,
        Stage::MinP,
        Stage::Xtc,
        Stage::Temperature,
    ];

    /// The name in a list of samplers.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Penalties => "penalties",
            Stage::Dry => "dry",
            Stage::TopNSigma => "top_n_sigma",
            Stage::TopK => "top_k",
            Stage::TypicalP => "typ_p",
            Stage::TopP => "top_p",
            Stage::MinP => "min_p",
            Stage::Xtc => "xtc",
            Stage::Temperature => "temperature",
        }
    }

    /// Reads a list such as `penalties;top_k;temperature`.
    pub fn list(text: &str) -> Result<Vec<Stage>, SampleError> {
        text.split(';').map(str::trim).filter(|name| !name.is_empty()).map(Stage::from_str).collect()
    }
}

impl FromStr for Stage {
    type Err = SampleError;

    fn from_str(name: &str) -> Result<Self, SampleError> {
        Stage::ORDER.into_iter().find(|stage| stage.name() == name).ok_or_else(|| SampleError::Parameter {
            field: "samplers",
            value: format!("{name:?}"),
            expected: "of penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc, temperature",
        })
    }
}

/// From which token of an answer on a bias holds, and how it grows with each further one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bend {
    /// How many tokens the answer has before.
    pub from: u32,
    /// The bias there; minus infinity forbids.
    pub bias: f32,
    /// What each further token adds.
    pub slope: f32,
}

/// A bias on one token that changes with the length of the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// The token.
    pub token: u32,
    /// The parts of the curve, ascending.
    pub bends: &'static [Bend],
}

impl Pace {
    /// The bias for the token that follows `count` tokens of an answer.
    pub fn bias(&self, count: u32) -> f32 {
        let bend = self.bends.iter().rev().find(|bend| bend.from <= count);
        bend.map_or(0.0, |bend| bend.bias + bend.slope * (count - bend.from) as f32)
    }
}

/// How a token is chosen. The defaults are llama.cpp's and those of the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// At 0 or below the best token is taken, the lowest id among equals, after bias and penalties.
    pub temperature: f32,
    /// In (0, 1]; 1 is off.
    pub top_p: f32,
    /// 0 and -1 are off.
    pub top_k: i32,
    /// In [0, 1]; 0 is off.
    pub min_p: f32,
    /// In (0, 1]; 1 is off.
    pub typical_p: f32,
    /// In standard deviations; 0 and below are off.
    pub top_n_sigma: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 is off.
    pub repeat_penalty: f32,
    /// How many tokens are recent for the three penalties; 0 is off, -1 is all.
    pub repeat_last_n: i32,
    /// Taken off once from the logit of each recent token.
    pub presence_penalty: f32,
    /// Taken off for each occurrence.
    pub frequency_penalty: f32,
    /// Scale of the DRY penalty; 0 is off.
    pub dry_multiplier: f32,
    /// How fast the DRY penalty grows with the length of the repetition; at least 1.
    pub dry_base: f32,
    /// Repetitions shorter than this are free.
    pub dry_allowed_length: u32,
    /// How many tokens DRY looks back; 0 is off, -1 is all.
    pub dry_penalty_last_n: i32,
    /// DRY does not look across tokens that contain one of these.
    pub dry_sequence_breakers: Vec<String>,
    /// Chance of each token to be subject to XTC, in [0, 1]; 0 is off.
    pub xtc_probability: f32,
    /// Which tokens are likely for XTC, in [0, 1]; above 0.5 no two can be, and it is off.
    pub xtc_threshold: f32,
    /// 0 is off; 1 and 2 replace all cuts by a feedback loop on surprise, after bias, penalties and temperature.
    pub mirostat: u8,
    /// The surprise that mirostat aims at, in bits.
    pub mirostat_tau: f32,
    /// How fast mirostat learns.
    pub mirostat_eta: f32,
    /// Added to logits before all else; minus infinity forbids a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens that do not follow themselves.
    pub never_twice: Vec<u32>,
    /// Keeps the length of an answer in bounds.
    pub pace: Option<Pace>,
    /// Comes where logits are not finite numbers; `None`: that is an error.
    pub invalid: Option<u32>,
    /// `None` draws one.
    pub seed: Option<u64>,
    /// The stages in order; one that is missing does not happen.
    pub samplers: Vec<Stage>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.8,
            top_p: 0.95,
            top_k: 40,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: -1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: 64,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            logit_bias: Vec::new(),
            never_twice: Vec::new(),
            pace: None,
            invalid: None,
            seed: None,
            samplers: Stage::ORDER.to_vec(),
        }
    }
}

impl Sampling {
    /// The best token each time.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// Checks all ranges; the error names the field.
    pub fn validate(&self) -> Result<(), SampleError> {
        self.validate_numbers()?;
        if self.dry_sequence_breakers.iter().any(String::is_empty) {
            return Err(wrong("dry_sequence_breakers", "\"\"", "strings that are not empty"));
        }
        for (id, bias) in &self.logit_bias {
            if bias.is_nan() || *bias == f32::INFINITY {
                return Err(wrong("logit_bias", format!("{bias} for token {id}"), "finite or -inf"));
            }
        }
        for (at, stage) in self.samplers.iter().enumerate() {
            if self.samplers[..at].contains(stage) {
                return Err(wrong("samplers", stage.name(), "named at most once each"));
            }
        }
        Ok(())
    }

    fn validate_numbers(&self) -> Result<(), SampleError> {
        let finite = |_: f32| true;
        let share = |value: f32| (0.0..=1.0).contains(&value);
        let part = |value: f32| value > 0.0 && value <= 1.0;
        let no_less = |value: f32| value >= 0.0;
        type Range<'a> = (&'static str, f32, &'a dyn Fn(f32) -> bool, &'static str);
        let reals: [Range<'_>; 14] = [
            ("temperature", self.temperature, &finite, "finite"),
            ("top_p", self.top_p, &part, "in (0, 1]"),
            ("min_p", self.min_p, &share, "in [0, 1]"),
            ("typical_p", self.typical_p, &part, "in (0, 1]"),
            ("top_n_sigma", self.top_n_sigma, &finite, "finite"),
            ("repeat_penalty", self.repeat_penalty, &|value| value > 0.0, "above 0"),
            ("presence_penalty", self.presence_penalty, &finite, "finite"),
            ("frequency_penalty", self.frequency_penalty, &finite, "finite"),
            ("dry_multiplier", self.dry_multiplier, &no_less, "at least 0"),
            ("dry_base", self.dry_base, &|value| value >= 1.0, "at least 1"),
            ("xtc_probability", self.xtc_probability, &share, "in [0, 1]"),
            ("xtc_threshold", self.xtc_threshold, &share, "in [0, 1]"),
            ("mirostat_tau", self.mirostat_tau, &no_less, "at least 0"),
            ("mirostat_eta", self.mirostat_eta, &no_less, "at least 0"),
        ];
        for (field, value, holds, expected) in reals {
            if !value.is_finite() || !holds(value) {
                return Err(wrong(field, value, expected));
            }
        }
        let counts = [
            ("top_k", self.top_k),
            ("repeat_last_n", self.repeat_last_n),
            ("dry_penalty_last_n", self.dry_penalty_last_n),
        ];
        for (field, value) in counts {
            if value < -1 {
                return Err(wrong(field, value, "at least -1"));
            }
        }
        if self.mirostat > 2 {
            return Err(wrong("mirostat", self.mirostat, "0, 1 or 2"));
        }
        Ok(())
    }
}

fn wrong(field: &'static str, value: impl ToString, expected: &'static str) -> SampleError {
    SampleError::Parameter { field, value: value.to_string(), expected }
}
