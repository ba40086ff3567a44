//! `jtllm perplexity`: how well a model predicts a text, by llama-perplexity's method; and how far its probabilities
//! are from those of another run.
//!
//! The text's tokens are cut in pieces as long as the context; each piece is read anew, its first token replaced by
//! the one that begins texts, and the tokens of its second half are predicted. What a base run keeps of its
//! probabilities is llama.cpp's file, so that either program can be compared with the other.

mod base;
mod statistics;

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use jtllm_models::Language;
use jtllm_models::arch::{self, LooksAhead};
use jtllm_models::tokenizer::{Special, bytes_to_encode};
use jtllm_serve::Engine;
use serde_json::json;

use crate::args::{MemoryArgs, PerplexityArgs};
use crate::failure::Usage;
use crate::terminal::{print, print_json};
use crate::{load, memory};
use base::{Reader, Writer};
use statistics::{Divergence, Likelihood, Row};

/// Tokens of a piece, unless the flag or the base says otherwise.
const CONTEXT: usize = 512;

/// Pieces of fewer tokens predict nothing.
const SHORTEST: usize = 4;

/// The tokens of a text, and how they are read.
struct Text {
    tokens: Vec<u32>,
    /// Tokens of a piece.
    context: usize,
    pieces: usize,
    /// What each piece begins with.
    begin: Option<u32>,
}

impl Text {
    /// As many whole pieces as there are, at most `pieces`.
    fn read(
        language: &Language,
        path: &Path,
        context: usize,
        pieces: Option<usize>,
        limits: &MemoryArgs,
    ) -> anyhow::Result<Text> {
        let shown = path.display();
        if context < SHORTEST {
            return Err(Usage(format!(
                "a context of {context} tokens predicts none: -c wants {SHORTEST} or more"
            ))
            .into());
        }
        let len = fs::metadata(path).map_or(0, |found| found.len());
        memory::check_before(limits, &format_args!("reading {shown}"), len)?;
        let bytes = fs::read(path).with_context(|| format!("{shown} cannot be read"))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            anyhow::anyhow!("{shown} is no text in UTF-8: byte {at} is none of it")
        })?;
        // What ends the file's last line is no part of the text, as llama-perplexity has it.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        memory::check_before(limits, &format_args!("tokenising {shown}"), bytes_to_encode(text))?;
        let tokens = language.prompt(text, Special::Text)?;
        if tokens.len() < 2 * context {
            bail!(
                "{shown} has {} tokens: a context of {context} wants {} or more, and -c asks for a shorter one",
                tokens.len(),
                2 * context
            );
        }
        let pieces = pieces.unwrap_or(usize::MAX).min(tokens.len() / context);
        Ok(Text { tokens, context, pieces, begin: begin(language) })
    }

    fn piece(&self, number: usize) -> Vec<u32> {
        let mut piece = self.tokens[number * self.context..][..self.context].to_vec();
        piece[0] = self.begin.unwrap_or(piece[0]);
        piece
    }

    /// The first place of a piece whose next token counts.
    fn first(&self) -> usize {
        self.context / 2
    }

    /// How many tokens of a piece are predicted.
    fn predicted(&self) -> usize {
        self.context - 1 - self.first()
    }
}

/// The token that this vocabulary begins texts with, if it does.
fn begin(language: &Language) -> Option<u32> {
    language.tokenizer.bos().filter(|_| language.tokenizer.add_bos())
}

/// Measures and prints.
pub(crate) fn perplexity(args: &PerplexityArgs) -> anyhow::Result<()> {
    if args.kl_divergence && args.kl_divergence_base.is_none() {
        return Err(
            Usage("--kl-divergence wants --kl-divergence-base: what to compare with".to_owned()).into()
        );
    }
    if args.kl_divergence && (args.file.is_some() || args.machine.ctx_size.is_some()) {
        return Err(Usage(
            "--kl-divergence reads the base's own text, in its pieces: no -f and no -c".to_owned(),
        )
        .into());
    }
    let mut base = match (&args.kl_divergence_base, args.kl_divergence) {
        (Some(path), true) => Some(Reader::open(path)?),
        _ => None,
    };
    let checkpoint = load::checkpoint(Some(&args.model))?;
    let language = Language::of(&checkpoint)?;
    let context = match args.machine.ctx_size {
        None => CONTEXT,
        Some(0) => arch::read(checkpoint.config())?.positions(),
        Some(size) => size,
    };
    let text = match (&mut base, &args.file) {
        (Some(base), _) => {
            let text = base.text(begin(&language))?;
            Text { pieces: args.chunks.map_or(text.pieces, |most| text.pieces.min(most as usize)), ..text }
        }
        (None, Some(path)) => {
            let limits = &args.machine.memory;
            Text::read(&language, path, context, args.chunks.map(|n| n as usize), limits)?
        }
        (None, None) => return Err(Usage("-f wants a file: the text to predict".to_owned()).into()),
    };
    let mut machine = args.machine.clone();
    machine.ctx_size = Some(text.context);
    let mut engine = Engine::new(load::model(checkpoint, &machine)?, None);
    load::announce(&engine);
    if engine.model().architecture().looks_ahead() == LooksAhead::All {
        bail!("the model is an encoder: it predicts no tokens");
    }
    if engine.context() < text.context {
        bail!("pieces of {} tokens do not fit the model's {} positions", text.context, engine.context());
    }
    match base {
        Some(base) => compare(args, &mut engine, &text, base),
        None => measure(args, &mut engine, &text),
    }
}

/// Gets the logits of a place and the token that came.
type Hear<'a> = dyn FnMut(&[f32], u32) -> anyhow::Result<()> + 'a;

/// Reads each piece; `hear` gets its places in order, and `done` its number when it has been read.
fn predict(
    engine: &mut Engine,
    text: &Text,
    hear: &mut Hear<'_>,
    done: &mut dyn FnMut(usize) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for number in 0..text.pieces {
        let piece = text.piece(number);
        let mut heard = Ok(());
        // The last token predicts nothing that is here.
        engine.score(&piece[..text.context - 1], text.first(), &mut |place, logits| {
            if heard.is_ok() {
                heard = hear(logits, piece[place + 1]);
            }
        })?;
        heard?;
        done(number)?;
    }
    Ok(())
}

/// The perplexity of a text; keeps probabilities if a file is named for them.
fn measure(args: &PerplexityArgs, engine: &mut Engine, text: &Text) -> anyhow::Result<()> {
    let vocabulary = engine.model().architecture().vocabulary();
    let mut writer = match &args.kl_divergence_base {
        Some(path) => Some(Writer::create(path, text, vocabulary)?),
        None => None,
    };
    let likelihood = std::cell::RefCell::new(Likelihood::default());
    predict(
        engine,
        text,
        &mut |logits, token| {
            let row = Row::of(logits);
            likelihood.borrow_mut().add(row.surprise(logits, token)?);
            writer.as_mut().map_or(Ok(()), |writer| writer.row(logits, &row))
        },
        &mut |number| match args.json {
            true => Ok(()),
            false => said(&format!("[{}]{:.4},", number + 1, likelihood.borrow().perplexity().0)),
        },
    )?;
    if let Some(writer) = writer {
        writer.finish()?;
    }
    let (value, uncertainty) = likelihood.borrow().perplexity();
    match args.json {
        true => print_json(&json!({
            "perplexity": value,
            "uncertainty": uncertainty,
            "chunks": text.pieces,
            "n_ctx": text.context,
            "tokens": text.pieces * text.predicted(),
        })),
        false => print(&format!("\nFinal estimate: PPL = {value:.4} +/- {uncertainty:.5}\n")),
    }
}

/// The distance to the base's probabilities.
fn compare(args: &PerplexityArgs, engine: &mut Engine, text: &Text, mut base: Reader) -> anyhow::Result<()> {
    let vocabulary = engine.model().architecture().vocabulary();
    if base.vocabulary != vocabulary {
        bail!(
            "{} was made with a vocabulary of {} tokens, the model has {vocabulary}",
            base.path.display(),
            base.vocabulary
        );
    }
    let divergence = std::cell::RefCell::new(Divergence::default());
    predict(
        engine,
        text,
        &mut |logits, token| divergence.borrow_mut().add(logits, base.row()?, token),
        &mut |number| match args.json {
            true => Ok(()),
            false => print(&format!("{:4}    {}\n", number + 1, divergence.borrow().line())),
        },
    )?;
    let divergence = divergence.into_inner();
    match args.json {
        true => print_json(&divergence.report()),
        false => print(&divergence.table()),
    }
}

/// Prints a part of a line at once.
fn said(text: &str) -> anyhow::Result<()> {
    print(text)?;
    Ok(std::io::stdout().flush()?)
}
