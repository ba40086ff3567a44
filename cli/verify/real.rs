//! Real models, of which the golden file holds tokens and the largest logits alone.
//!
//! Engines that compute in float32 agree to about 1e-3 on such logits, so a step whose two best tokens are
//! nearer than [`UNDECIDED`] may go either way: from there on the reference's own tokens are fed.

use jtllm_models::chat::Message;
use jtllm_models::embedding::Embedding;
use jtllm_models::tokenizer::Special;
use jtllm_models::{Language, LoadError};
use jtllm_serve::Engine;
use jtllm_serve::place::Placement;
use serde_json::{Value, json};

use super::golden::Golden;
use super::{Check, argmax, engine, margin};
use crate::args::VerifyArgs;

/// Margins below this decide nothing.
const UNDECIDED: f32 = 0.01;

/// How far logits may be apart.
const LOGITS: f32 = 1e-3;

/// How far the numbers of a vector of length 1 may be apart; the file has seven digits of them.
const EMBEDDING: f32 = 2e-6;

/// Compares every prompt of the file.
pub(super) fn checks(args: &VerifyArgs, golden: &Golden) -> anyhow::Result<(Vec<Check>, Placement)> {
    let json = golden.json();
    let lists = ["chat", "raw"];
    let mut context = 16;
    for prompt in lists.iter().flat_map(|list| golden.list(&json[*list])) {
        context = context.max(golden.list(&prompt["input_ids"]).len() + golden.list(&prompt["greedy"]).len());
    }
    for item in golden.list(&json["items"]) {
        context = context.max(golden.list(&item["input_ids"]).len());
    }
    let mut engine = engine(args, context, false)?;
    let mut checks = embeddings(golden, &mut engine)?;
    if !golden.list(&json["chat"]).is_empty() {
        checks.push(prompts(golden, &engine)?);
    }
    if golden.list(&json["raw"]).iter().any(|raw| raw["text"].is_string()) {
        checks.push(texts(golden, &engine)?);
    }
    for list in lists {
        for (number, prompt) in golden.list(&json[list]).iter().enumerate() {
            let name = format!("{list} {number}");
            checks.extend(positions(golden, &mut engine, &name, prompt)?);
            checks.extend(greedy(golden, &mut engine, &name, prompt)?);
        }
    }
    Ok((checks, engine.model().placement().clone()))
}

/// The vectors of texts, with their tokens.
fn embeddings(golden: &Golden, engine: &mut Engine) -> anyhow::Result<Vec<Check>> {
    let items = golden.list(&golden.json()["items"]);
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let checkpoint = engine.model().checkpoint();
    let language = Language::of(checkpoint)?;
    let how = Embedding::of(checkpoint)?;
    let how = how.ok_or_else(|| {
        golden.wrong("items", "none: the model's files speak of no pooling", &json!(items.len()))
    })?;
    let positions = engine.context();
    let mut checks = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let ids = golden.ids("items.input_ids", &item["input_ids"])?;
        let text = golden.text("items.text", &item["text"])?;
        let same = how.tokens(&language.tokenizer, text, positions)? == ids;
        let expected = golden.numbers("items.embedding", &item["embedding"])?;
        let found = engine.embed(&ids, &how)?;
        let check = Check::numbers(format!("embedding of text {number}"), &found, &expected, EMBEDDING);
        checks.push(check.and_tokens(usize::from(same), 1));
    }
    Ok(checks)
}

/// Each conversation as the model's own template and vocabulary write it.
fn prompts(golden: &Golden, engine: &Engine) -> anyhow::Result<Check> {
    let language = Language::of(engine.model().checkpoint())?;
    let chats = golden.list(&golden.json()["chat"]);
    let mut agree = 0;
    for chat in chats {
        let message = |value: &Value| -> Result<Message, LoadError> {
            let part = |field: &str| golden.text(&format!("chat.messages.{field}"), &value[field]);
            Ok(Message::new(part("role")?, part("content")?))
        };
        let messages = golden.list(&chat["messages"]).iter().map(message).collect::<Result<Vec<_>, _>>()?;
        agree += usize::from(language.chat(&messages)? == golden.ids("input_ids", &chat["input_ids"])?);
    }
    Ok(Check::tokens("chat: prompts", agree, chats.len()))
}

/// Each text that is no conversation as the model's own vocabulary writes it.
fn texts(golden: &Golden, engine: &Engine) -> anyhow::Result<Check> {
    let language = Language::of(engine.model().checkpoint())?;
    let raws = golden.list(&golden.json()["raw"]);
    let mut agree = 0;
    for raw in raws {
        let found = language.prompt(golden.text("raw.text", &raw["text"])?, Special::Parse)?;
        agree += usize::from(found == golden.ids("input_ids", &raw["input_ids"])?);
    }
    Ok(Check::tokens("raw: texts", agree, raws.len()))
}

/// The likeliest token after each position of the prompt, and the logits after the last.
fn positions(golden: &Golden, engine: &mut Engine, name: &str, prompt: &Value) -> anyhow::Result<Vec<Check>> {
    let ids = golden.ids("input_ids", &prompt["input_ids"])?;
    let logits = engine.feed(&ids, true)?;
    let width = engine.model().architecture().row_width();
    let rows: Vec<&[f32]> = logits.chunks(width).collect();
    let mut checks = Vec::new();
    if prompt["argmax_each_position"].is_array() {
        let expected = golden.ids("argmax_each_position", &prompt["argmax_each_position"])?;
        let decided = rows.iter().zip(&expected).filter(|(row, _)| margin(row) >= UNDECIDED);
        let (agree, of) = decided.fold((0, 0), |(agree, of), (row, expected)| {
            (agree + usize::from(argmax(row) == *expected as usize), of + 1)
        });
        checks.push(Check::tokens(format!("{name}: after each token"), agree, of));
    }
    let top = |field: &str| format!("{field}_ids");
    for field in ["top50", "top10"].iter().filter(|field| prompt[top(field)].is_array()) {
        let ids = golden.ids(&top(field), &prompt[top(field)])?;
        let expected = golden.numbers(field, &prompt[format!("{field}_logits")])?;
        let last = rows.last().copied().unwrap_or_default();
        let found: Vec<f32> = ids.iter().filter_map(|id| last.get(*id as usize).copied()).collect();
        checks.push(Check::numbers(format!("{name}: {} logits", ids.len()), &found, &expected, LOGITS));
    }
    Ok(checks)
}

/// The reference's greedy tokens: those before the first undecided step as this model would generate them
/// by itself, those after it fed one by one.
fn greedy(golden: &Golden, engine: &mut Engine, name: &str, prompt: &Value) -> anyhow::Result<Vec<Check>> {
    let mut sequence = golden.ids("input_ids", &prompt["input_ids"])?;
    let tokens = golden.ids("greedy", &prompt["greedy"])?;
    let margins = match prompt["greedy_margins"].is_array() {
        true => golden.numbers("greedy_margins", &prompt["greedy_margins"])?,
        false => vec![f32::INFINITY; tokens.len()],
    };
    let own = margins.iter().position(|margin| *margin < UNDECIDED).unwrap_or(tokens.len());
    let (mut counts, mut totals) = ([0, 0], [0, 0]);
    engine.clear();
    for (at, (token, margin)) in tokens.iter().zip(margins).enumerate() {
        let logits = engine.feed(&sequence, false)?;
        if margin >= UNDECIDED {
            let part = usize::from(at >= own);
            counts[part] += usize::from(argmax(&logits) == *token as usize);
            totals[part] += 1;
        }
        sequence.push(*token);
    }
    let mut checks = vec![Check::tokens(format!("{name}: greedy tokens"), counts[0], totals[0])];
    if totals[1] > 0 {
        checks.push(Check::tokens(format!("{name}: fed tokens"), counts[1], totals[1]));
    }
    Ok(checks)
}
