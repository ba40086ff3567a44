//! How a family's own code makes an answer of what its model says: sampling, ends, last touches.
//!
//! One row for each family whose files leave that open. What files say wins over a row, and what a user says
//! over both.

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
    /// The most tokens of an answer.
    pub tokens_max: Option<usize>,
    /// The sampling that files and users change.
    pub sampling: fn(&Tokenizer) -> Sampling,
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
    tokens_max: None,
    sampling: |_| Sampling::default(),
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
fn chatglm(temperature: f32, top_p: f32) -> Sampling {
    Sampling { invalid: Some(5), ..transformers(temperature, 50, top_p) }
}

/// Of an answer of ChatGLM and its successors.
const TRAINING_TIME: &[(&str, &str)] = &[("[[训练时间]]", "2023年")];

/// ChatRWKV does not let these follow themselves.
const NEVER_TWICE: [&str; 5] = ["，", "。", "：", "？", "！"];

/// ChatRWKV cuts by top-p before it divides by the temperature. Token 0 ends documents and never comes.
fn rwkv(tokenizer: &Tokenizer) -> Sampling {
    let never_twice = NEVER_TWICE.iter().filter_map(|text| single(tokenizer, text)).collect();
    let logit_bias = vec![(0, f32::NEG_INFINITY)];
    let (temperature, top_k, top_p, min_p) = (1.0, 0, 0.85, 0.0);
    Sampling { temperature, top_k, top_p, min_p, never_twice, logit_bias, ..Sampling::default() }
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
        sampling: |_| chatglm(0.95, 0.7),
        touches: Touches { trims: true, replaced: TRAINING_TIME, wide: true, ..Touches::NONE },
        ..PLAIN
    },
    Manner {
        name: "chatglm2",
        sampling: |_| chatglm(0.8, 0.8),
        touches: Touches { trims: true, replaced: TRAINING_TIME, ..Touches::NONE },
        ..PLAIN
    },
    Manner {
        name: "chatglm3",
        sampling: |_| chatglm(0.8, 0.8),
        touches: Touches { trims: true, replaced: TRAINING_TIME, ..Touches::NONE },
        ..PLAIN
    },
    Manner {
        name: "pangu",
        stops: &["问", "答"],
        tokens_max: Some(100),
        sampling: |_| transformers(1.0, 2, 1.0),
        ..PLAIN
    },
    rwkv_named("rwkv"),
    rwkv_named("rwkv-world"),
    Manner { name: "atom", stops: &["\n"], sampling: |_| transformers(0.95, 50, 0.7), ..PLAIN },
    Manner {
        name: "llama",
        stops: &["\n"],
        tokens_max: Some(256),
        sampling: |_| transformers(0.8, 0, 0.95),
        touches: Touches { opening: "AI: ", trims: true, ..Touches::NONE },
        ..PLAIN
    },
    Manner { name: "llama2", sampling: |_| transformers(0.6, 0, 0.9), ..PLAIN },
    Manner { name: "qwen2", sampling: |_| penalised(transformers(0.7, 20, 0.8), 1.1), ..PLAIN },
    Manner { name: "moss", sampling: |_| penalised(transformers(0.7, 40, 0.8), 1.02), ..PLAIN },
    // BELLE's demonstration searches instead of sampling; without its beams that is the likeliest token.
    Manner { name: "belle", sampling: |_| penalised(transformers(0.0, 0, 1.0), 1.2), ..PLAIN },
];

const fn rwkv_named(name: &'static str) -> Manner {
    Manner {
        name,
        stops: &["\n\n"],
        tokens_max: Some(999),
        sampling: rwkv,
        pace: rwkv_pace,
        touches: Touches { trims: true, ..Touches::NONE },
        takes_commands: true,
    }
}

/// The manner of the family of that name.
pub fn of(name: &str) -> &'static Manner {
    MANNERS.iter().find(|manner| manner.name == name).unwrap_or(&PLAIN)
}
