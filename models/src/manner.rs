//! How a family's own code makes an answer of what its model says: sampling, ends, last touches.
//!
//! One row for each family whose files may leave that open. Sampling that files recommend takes the place of a
//! row's, and what a user says wins over both.

mod polish;

use crate::sample::{Bend, Pace, Sampling, Stage};
use crate::tokenizer::Tokenizer;
pub use polish::{Polish, Touches};

/// The manner of a family.
#[derive(Debug)]
pub struct Manner {
    /// The family, by the name of its chat template.
    pub name: &'static str,
    /// Texts that end an answer to the family's own prompt; they are not part of it.
    pub stops: &'static [&'static str],
    /// Tokens that end such an answer, by all of the text that they add.
    pub end_tokens: &'static [&'static str],
    /// The most tokens of an answer.
    pub tokens_max: Option<usize>,
    /// The sampling of models whose files recommend none.
    pub sampling: fn() -> Sampling,
    /// What holds for the family's tokens whatever files recommend.
    pub rules: fn(&Tokenizer, &mut Sampling),
    /// How the length of answers to the family's own prompt is kept in bounds.
    pub pace: fn(&Tokenizer) -> Option<Pace>,
    /// What is changed in the text of an answer to the family's own prompt.
    pub touches: Touches,
    /// Whether a chat takes ChatRWKV's commands.
    pub takes_commands: bool,
}

/// The manner of all models that have none of their own.
pub static PLAIN: Manner = Manner {
    name: "",
    stops: &[],
    end_tokens: &[],
    tokens_max: None,
    sampling: Sampling::default,
    rules: |_, _| {},
    pace: |_| None,
    touches: Touches::NONE,
    takes_commands: false,
};

/// The order in which transformers cuts, for the code that samples by it.
const TRANSFORMERS: [Stage; 9] = [
    Stage::Penalties,
    Stage::Dry,
    Stage::Temperature,
    Stage::TopNSigma,
    Stage::TopK,
    Stage::TopP,
    Stage::MinP,
    Stage::TypicalP,
    Stage::Xtc,
];

/// Temperature, top-k (0: off) and top-p (1: off) of code that samples with transformers.
fn transformers(temperature: f32, top_k: i32, top_p: f32) -> Sampling {
    let samplers = TRANSFORMERS.to_vec();
    Sampling { temperature, top_k, top_p, min_p: 0.0, samplers, ..Sampling::default() }
}

/// The same, with a penalty for whatever occurred in prompt or answer.
fn penalised(sampling: Sampling, repeat_penalty: f32) -> Sampling {
    Sampling { repeat_penalty, repeat_last_n: -1, ..sampling }
}

/// ChatGLM's rule for logits that are not numbers: all count the same, but for token 5 (the beginning of a
/// word), which comes.
fn chatglm(_: &Tokenizer, sampling: &mut Sampling) {
    sampling.invalid = Some(5);
}

/// Of an answer of ChatGLM and its successors.
const TRAINING_TIME: &[(&str, &str)] = &[("[[训练时间]]", "2023年")];

/// What PanGu-alpha's demonstration draws anew until it is something else.
fn pangu(tokenizer: &Tokenizer, sampling: &mut Sampling) {
    sampling.logit_bias.extend(tokenizer.unknown().map(|id| (id, f32::NEG_INFINITY)));
}

/// ChatRWKV does not let these follow themselves.
const NEVER_TWICE: [&str; 5] = ["，", "。", "：", "？", "！"];

/// Token 0 ends documents and never comes.
fn rwkv(tokenizer: &Tokenizer, sampling: &mut Sampling) {
    sampling.never_twice = NEVER_TWICE.iter().filter_map(|text| single(tokenizer, text)).collect();
    sampling.logit_bias.push((0, f32::NEG_INFINITY));
}

/// An answer of ChatRWKV begins in its first line, ends rarely within 40 tokens, freely up to 150, and soon
/// after those: a bias on the line end, by the number of tokens before it.
fn rwkv_pace(tokenizer: &Tokenizer) -> Option<Pace> {
    const BENDS: &[Bend] = &[
        Bend { from: 0, bias: f32::NEG_INFINITY, slope: 0.0 },
        Bend { from: 2, bias: -3.9, slope: 0.1 },
        Bend { from: 42, bias: 0.0, slope: 0.0 },
        Bend { from: 152, bias: 0.25, slope: 0.25 },
    ];
    Some(Pace { token: line_end(tokenizer)?, bends: BENDS })
}

/// The token of a line end.
pub(crate) fn line_end(tokenizer: &Tokenizer) -> Option<u32> {
    single(tokenizer, "\n")
}

/// The token that is this text, if one is.
fn single(tokenizer: &Tokenizer, text: &str) -> Option<u32> {
    match tokenizer.encode(text, crate::tokenizer::Special::Text).ok()?.as_slice() {
        [id] => Some(*id),
        _ => None,
    }
}

/// The families, by the names of their chat templates.
static MANNERS: &[Manner] = &[
    Manner {
        name: "chatglm",
        sampling: || transformers(0.95, 50, 0.7),
        rules: chatglm,
        touches: Touches { trims: true, replaced: TRAINING_TIME, wide: true, ..Touches::NONE },
        ..PLAIN
    },
    Manner {
        name: "chatglm2",
        sampling: || transformers(0.8, 50, 0.8),
        rules: chatglm,
        touches: Touches { trims: true, replaced: TRAINING_TIME, ..Touches::NONE },
        ..PLAIN
    },
    Manner {
        name: "chatglm3",
        sampling: || transformers(0.8, 50, 0.8),
        rules: chatglm,
        touches: Touches { trims: true, replaced: TRAINING_TIME, ..Touches::NONE },
        ..PLAIN
    },
    Manner {
        name: "pangu",
        end_tokens: &["问", "答"],
        tokens_max: Some(100),
        sampling: || transformers(1.0, 2, 1.0),
        rules: pangu,
        ..PLAIN
    },
    rwkv_named("rwkv"),
    rwkv_named("rwkv-world"),
    Manner { name: "atom", stops: &["\n"], sampling: || transformers(0.95, 50, 0.7), ..PLAIN },
    Manner {
        name: "llama",
        stops: &["\n"],
        tokens_max: Some(256),
        sampling: || transformers(0.8, 0, 0.95),
        touches: Touches { opening: "AI: ", trims: true, ..Touches::NONE },
        ..PLAIN
    },
    Manner { name: "llama2", sampling: || transformers(0.6, 0, 0.9), ..PLAIN },
    Manner { name: "qwen2", sampling: || penalised(transformers(0.7, 20, 0.8), 1.1), ..PLAIN },
    Manner { name: "moss", sampling: || penalised(transformers(0.7, 40, 0.8), 1.02), ..PLAIN },
    // BELLE's demonstration searches instead of sampling; without its beams that is the likeliest token.
    Manner { name: "belle", sampling: || penalised(transformers(0.0, 0, 1.0), 1.2), ..PLAIN },
];

const fn rwkv_named(name: &'static str) -> Manner {
    Manner {
        name,
        stops: &["\n\n"],
        end_tokens: &[],
        tokens_max: Some(999),
        // The cut by top-p comes before the division by the temperature, as in the usual order.
        sampling: || Sampling { temperature: 1.0, top_k: 0, top_p: 0.85, min_p: 0.0, ..Sampling::default() },
        rules: rwkv,
        pace: rwkv_pace,
        touches: Touches { trims: true, ..Touches::NONE },
        takes_commands: true,
    }
}

impl Manner {
    /// The sampling that files and users change, where files recommend any or not.
    pub fn sampling(&self, tokenizer: &Tokenizer, files_recommend: bool) -> Sampling {
        let mut sampling = if files_recommend { Sampling::default() } else { (self.sampling)() };
        (self.rules)(tokenizer, &mut sampling);
        sampling
    }

    /// The tokens that end an answer to the family's own prompt.
    pub fn end_ids(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        if self.end_tokens.is_empty() {
            return Vec::new();
        }
        let ends = |id: &u32| {
            let text = tokenizer.decode(&[*id], true);
            self.end_tokens.iter().any(|end| text.trim() == *end)
        };
        (0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX)).filter(ends).collect()
    }
}

/// The manner of the family of that name.
pub fn of(name: &str) -> &'static Manner {
    MANNERS.iter().find(|manner| manner.name == name).unwrap_or(&PLAIN)
}
