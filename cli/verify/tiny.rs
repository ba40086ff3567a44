//! Tiny models with random weights: every logit and every hidden vector is compared.

use jtllm_models::embedding::Embedding;
use jtllm_models::tokenizer::Special;
use jtllm_models::{Language, LoadError};
use jtllm_serve::Engine;
use jtllm_serve::place::Placement;
use serde_json::Value;

use super::golden::Golden;
use super::{Check, argmax, engine, images, margin};
use crate::args::VerifyArgs;
use crate::load;

/// Compares everything that the golden files hold.
pub(super) fn checks(args: &VerifyArgs, golden: &Golden) -> anyhow::Result<(Vec<Check>, Placement)> {
    let bound = golden.bound("logits_max_abs")?;
    let json = golden.json();
    let context = longest(golden)?;
    let mut engine = engine(args, context, false)?;
    let mut checks = Vec::new();
    for case in golden.list(&json["cases"]) {
        if case["logits"].is_string() {
            checks.extend(images::look(golden, &mut engine, case)?);
            checks.push(logits(golden, &mut engine, case, bound)?);
        }
    }
    if json["hidden"].is_object() {
        checks.extend(hidden(args, golden)?);
    }
    for (number, generate) in golden.list(&json["generate"]).iter().enumerate() {
        let prompt = golden.ids("generate.prompt", &generate["prompt"])?;
        let name = format!("generate {number}");
        if let Some(case) = golden.case(&generate["case"]) {
            images::look(golden, &mut engine, case)?;
        }
        checks.extend(generated(golden, &mut engine, &name, &prompt, generate, bound)?);
    }
    checks.extend(texts(args, golden, &mut engine)?);
    checks.extend(embeddings(golden, &mut engine)?);
    Ok((checks, engine.model().placement().clone()))
}

/// The hidden vectors of an encoder, text by text.
fn embeddings(golden: &Golden, engine: &mut Engine) -> anyhow::Result<Vec<Check>> {
    let items = golden.list(&golden.json()["items"]);
    let bound = if items.is_empty() { 0.0 } else { golden.hidden_bound()? };
    let how = Embedding::of(engine.model().checkpoint())?;
    let mut checks = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let ids = golden.ids("items.input_ids", &item["input_ids"])?;
        let expected = golden.tensor(golden.text("items.last_hidden_state", &item["last_hidden_state"])?)?;
        let found = engine.feed(&ids, true)?;
        checks.push(Check::numbers(format!("hidden vectors of text {number}"), &found, &expected, bound));
        if let (Some(how), Some(name)) = (&how, item["embedding"].as_str()) {
            // Of vectors of texts the reference's error is kept in the place of that of logits.
            let (expected, bound) = (golden.tensor(name)?, golden.bound("logits_max_abs")?);
            let found = how.vector(&found, engine.model().architecture().row_width());
            checks.push(Check::numbers(format!("embedding of text {number}"), &found, &expected, bound));
        }
    }
    Ok(checks)
}

/// The rows of a case: those of different lengths where it has them, else its batch.
fn rows(golden: &Golden, case: &Value) -> Result<Vec<Vec<u32>>, LoadError> {
    let field = if case["rows"].is_array() { "rows" } else { "input_ids" };
    golden.list(&case[field]).iter().map(|row| golden.ids(&format!("cases.{field}"), row)).collect()
}

/// Tokens of the longest sequence that any case needs.
fn longest(golden: &Golden) -> Result<usize, LoadError> {
    let json = golden.json();
    let mut most = 16;
    for case in golden.list(&json["cases"]) {
        most = rows(golden, case)?.iter().map(Vec::len).fold(most, usize::max);
    }
    for item in golden.list(&json["items"]) {
        most = most.max(golden.list(&item["input_ids"]).len());
    }
    for list in ["generate", "chat_generate", "text_generate"] {
        for generate in golden.list(&json[list]) {
            let prompt = generate["prompt"].as_array().or(generate["input_ids"].as_array());
            most = most.max(prompt.map_or(0, Vec::len) + golden.list(&generate["tokens"]).len());
        }
    }
    Ok(most)
}

/// Each row by itself: without padding, as a prompt in one chunk.
fn logits(golden: &Golden, engine: &mut Engine, case: &Value, bound: f32) -> anyhow::Result<Check> {
    let name = golden.text("cases.name", &case["name"])?;
    let all = golden.text("cases.logits_kind", &case["logits_kind"])?.starts_with("all positions");
    let expected = golden.tensor(golden.text("cases.logits", &case["logits"])?)?;
    let mut found = Vec::with_capacity(expected.len());
    for row in rows(golden, case)? {
        found.extend(engine.feed(&row, all)?);
    }
    let width = engine.model().architecture().row_width();
    let (agree, of) = agreement(&found, &expected, width, bound);
    Ok(Check::numbers(format!("logits {name}"), &found, &expected, bound).and_tokens(agree, of))
}

/// How many rows have the same largest logit, of those where the bound leaves no choice.
fn agreement(found: &[f32], expected: &[f32], width: usize, bound: f32) -> (usize, usize) {
    let pairs = found.chunks(width).zip(expected.chunks(width));
    let decided = pairs.filter(|(_, expected)| margin(expected) > 2.0 * bound);
    decided.fold((0, 0), |(agree, of), (found, expected)| {
        (agree + usize::from(argmax(found) == argmax(expected)), of + 1)
    })
}

fn hidden(args: &VerifyArgs, golden: &Golden) -> anyhow::Result<Vec<Check>> {
    let hidden = &golden.json()["hidden"];
    let bound = golden.hidden_bound()?;
    let rows = hidden_rows(golden, hidden)?;
    let mut engine = engine(args, rows.iter().map(Vec::len).max().unwrap_or(0).max(16), true)?;
    let mut checks = Vec::new();
    if let Some(case) = golden.case(&hidden["case"]) {
        checks.extend(images::hidden(golden, &mut engine, case, bound)?);
    }
    let names: Vec<&Value> =
        golden.list(&hidden["tensors"]).iter().filter(|name| !images::has(name)).collect();
    let mut found: Vec<Vec<f32>> = vec![Vec::new(); names.len()];
    for row in &rows {
        engine.feed(row, true)?;
        for (found, name) in found.iter_mut().zip(&names) {
            found.extend(engine.model_mut().tap(golden.text("hidden.tensors", name)?, row.len())?);
        }
    }
    for (found, name) in found.iter().zip(&names) {
        let name = golden.text("hidden.tensors", name)?;
        checks.push(Check::numbers(name, found, &golden.tensor(name)?, bound));
    }
    Ok(checks)
}

/// The sequences whose hidden vectors are stored: given as one, as a batch, or by the name of a text.
fn hidden_rows(golden: &Golden, hidden: &Value) -> Result<Vec<Vec<u32>>, LoadError> {
    let item = hidden["case"].as_str().and_then(|name| name.strip_prefix("text")?.parse::<usize>().ok());
    if let (Some(item), Value::Null) = (item, &hidden["input_ids"]) {
        return Ok(vec![golden.ids("items.input_ids", &golden.json()["items"][item]["input_ids"])?]);
    }
    if let (Some(case), Value::Null) = (golden.case(&hidden["case"]), &hidden["input_ids"]) {
        return self::rows(golden, case);
    }
    let rows = golden.list(&hidden["input_ids"]);
    if rows.first().is_some_and(Value::is_number) {
        return Ok(vec![golden.ids("hidden.input_ids", &hidden["input_ids"])?]);
    }
    rows.iter().map(|row| golden.ids("hidden.input_ids", row)).collect()
}

/// Greedy tokens, one after another with the cache; then the same logits without it.
fn generated(
    golden: &Golden,
    engine: &mut Engine,
    name: &str,
    prompt: &[u32],
    generate: &Value,
    bound: f32,
) -> anyhow::Result<Vec<Check>> {
    let tokens = golden.ids("generate.tokens", &generate["tokens"])?;
    engine.clear();
    let mut sequence = prompt.to_vec();
    let (mut agree, mut cached) = (0, Vec::new());
    for token in &tokens {
        let logits = engine.feed(&sequence, false)?;
        agree += usize::from(argmax(&logits) == *token as usize);
        cached.extend(logits);
        sequence.push(*token);
    }
    let greedy = Check::tokens(format!("{name}: greedy tokens"), agree, tokens.len());
    if generate["same_without_cache"].as_bool() == Some(false) {
        return Ok(vec![greedy, without_cache(golden, engine, name, prompt, generate)?]);
    }
    engine.clear();
    let whole = engine.feed(&sequence[..sequence.len() - 1], true)?;
    let width = engine.model().architecture().row_width();
    let last = &whole[(prompt.len() - 1) * width..];
    Ok(vec![greedy, Check::numbers(format!("{name}: cache or recompute"), &cached, last, bound)])
}

/// Where the reference's cache changes the result: each prefix by itself, against what it gives then.
fn without_cache(
    golden: &Golden,
    engine: &mut Engine,
    name: &str,
    prompt: &[u32],
    generate: &Value,
) -> anyhow::Result<Check> {
    let tokens = golden.ids("generate.tokens_without_cache", &generate["tokens_without_cache"])?;
    let mut sequence = prompt.to_vec();
    let mut agree = 0;
    for token in &tokens {
        engine.clear();
        agree += usize::from(argmax(&engine.feed(&sequence, false)?) == *token as usize);
        sequence.push(*token);
    }
    Ok(Check::tokens(format!("{name}: recomputed tokens"), agree, tokens.len()))
}

/// From text to tokens, and on to the tokens of the answer.
fn texts(args: &VerifyArgs, golden: &Golden, engine: &mut Engine) -> anyhow::Result<Vec<Check>> {
    let json = golden.json();
    let lists = ["tokenizer_cases", "chat_generate", "text_generate"].map(|list| golden.list(&json[list]));
    if lists.iter().all(|list| list.is_empty()) {
        return Ok(Vec::new());
    }
    let folder = args.folder.display().to_string();
    let language = Language::of(&load::checkpoint(Some(args.model.as_deref().unwrap_or(&folder)))?)?;
    let [cases, chats, plain] = lists;
    let mut checks = Vec::new();
    let mut agree = 0;
    for case in cases {
        let text = golden.text("tokenizer_cases.text", &case["text"])?;
        let bare = language.tokenizer.encode(text, Special::Parse)?;
        let whole = language.prompt(text, Special::Parse)?;
        let expected = golden.ids("tokenizer_cases.ids", &case["ids"])?;
        agree += usize::from(bare == expected || whole == expected);
    }
    if !cases.is_empty() {
        checks.push(Check::tokens("tokenizer: texts", agree, cases.len()));
    }
    for (list, generates) in [("chat_generate", chats), ("text_generate", plain)] {
        for (number, generate) in generates.iter().enumerate() {
            let prompt = golden.ids("input_ids", &generate["input_ids"])?;
            let encoded = match list {
                "chat_generate" => language
                    .tokenizer
                    .encode(golden.text("chat_generate.rendered", &generate["rendered"])?, Special::Parse)?,
                _ => {
                    language.prompt(golden.text("text_generate.text", &generate["text"])?, Special::Parse)?
                }
            };
            let name = format!("{} {number}", list.replace('_', " "));
            checks.push(Check::tokens(format!("{name}: prompt"), usize::from(encoded == prompt), 1));
            let bound = golden.bound("logits_max_abs")?;
            checks.extend(generated(golden, engine, &name, &prompt, generate, bound)?);
        }
    }
    Ok(checks)
}
