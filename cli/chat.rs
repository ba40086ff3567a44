//! The chat on a terminal.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use jtllm_models::chat::{Asked, Dialogue, Turn};
use jtllm_models::sample::Sampler;
use jtllm_runtime::cache::Status;
use jtllm_serve::{Finish, Timings};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::args::RunArgs;
use crate::failure::{Interrupted, told};
use crate::run::{Speaker, full, nobody_reads, pace};
use crate::terminal::{Style, bytes, say};
use crate::{interrupt, memory};

const PROMPT: &str = ">>> ";
const CONTINUATION: &str = "... ";

/// Begins and ends a message of several lines.
const FENCE: &str = "\"\"\"";

/// A second Ctrl-C within this time leaves the chat.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

const HELP: &str = "\
/clear        forget the conversation
/stats        times and memory
/bye, /exit   leave
/?, /help     this list
\"\"\"           begin and end a message of several lines
Ctrl-C        stop the answer; twice: leave
Ctrl-D        leave";

/// What the user wants next.
enum Wish {
    Say(String),
    Clear,
    Stats,
    Help,
    Unknown(String),
    Leave,
}

/// Talks until the user leaves.
pub(crate) fn chat(speaker: &mut Speaker, args: &RunArgs) -> anyhow::Result<()> {
    let mut editor = Editor::open()?;
    let mut sampler = speaker.sampler()?;
    let mut dialogue = speaker.language.dialogue(args.prompt.system.as_deref(), speaker.images.len())?;
    let mut last: Option<Timings> = None;
    say(Style::Faint, format_args!("/? for help, Ctrl-D to leave"));
    loop {
        match editor.wish()? {
            Wish::Leave => return Ok(()),
            Wish::Help => {
                [HELP, dialogue.commands()].iter().filter(|list| !list.is_empty()).for_each(|list| {
                    say(Style::Plain, format_args!("{list}"));
                });
            }
            Wish::Unknown(word) => {
                say(Style::Plain, format_args!("there is no {word}; /? lists what there is"))
            }
            Wish::Stats => stats(speaker, last.as_ref()),
            Wish::Clear => {
                dialogue.clear();
                speaker.engine.clear();
                sampler = speaker.sampler()?;
                say(Style::Faint, format_args!("the conversation is forgotten"));
            }
            Wish::Say(text) => {
                match line(speaker, args, &mut sampler, &mut *dialogue, &text) {
                    Ok(timings) => last = timings.or(last),
                    Err(error) if nobody_reads(&error) => return Err(error),
                    // A chat goes on: the message that could not be answered is taken back.
                    Err(error) => {
                        dialogue.withdraw();
                        say(Style::Alarm, format_args!("error: {}", told(&error)));
                    }
                }
                if args.prompt.single_turn {
                    return Ok(());
                }
            }
        }
    }
}

/// Does what a line asks for; gives an answer's times.
fn line(
    speaker: &mut Speaker,
    args: &RunArgs,
    sampler: &mut Sampler,
    dialogue: &mut dyn Dialogue,
    text: &str,
) -> anyhow::Result<Option<Timings>> {
    make_room(speaker, dialogue.bytes_to_ask(text))?;
    let turn = match dialogue.ask(&speaker.language, text, &speaker.sampling)? {
        Asked::Answer(turn) => turn,
        Asked::Note(note) => {
            say(Style::Plain, format_args!("{note}"));
            return Ok(None);
        }
    };
    let Turn { prompt, sampling, ends, tokens_max } = *turn;
    sampler.retune(sampling)?;
    let prompt = speaker.engine.with_images(&prompt, &speaker.images)?;
    let mut request = speaker.request(prompt, &args.answer);
    if !ends {
        request.stops.clone_from(&args.answer.reverse_prompt);
    }
    if args.answer.predict.is_none() {
        request.max_tokens = tokens_max.or(request.max_tokens);
    }
    let answer = interrupt::answering(|| speaker.answer(&request, sampler, true))?;
    match answer.finish {
        Finish::ContextFull => {
            let error = full(&speaker.engine, &request, &answer);
            say(Style::Alarm, format_args!("error: {error}; /clear makes room"));
        }
        Finish::Cancelled => say(Style::Faint, format_args!("stopped")),
        _ => {}
    }
    let ended = matches!(answer.finish, Finish::EndOfSequence | Finish::Stop(_));
    dialogue.answered(&speaker.language, &answer.ids, &answer.text, ended)?;
    Ok(Some(answer.timings))
}

/// Has memory for the whole conversation while it is tokenised, which each line does: the room is kept, and grows by a half at
/// least, since weights may have to leave for it.
fn make_room(speaker: &mut Speaker, takes: u64) -> anyhow::Result<()> {
    let kept = speaker.engine.room();
    if takes <= kept {
        return Ok(());
    }
    let what = "tokenising the conversation";
    match kept {
        0 => memory::make_room(&mut speaker.engine, &what, takes),
        _ => memory::make_room(&mut speaker.engine, &what, takes.max(kept + kept / 2))
            .or_else(|_| memory::make_room(&mut speaker.engine, &what, takes)),
    }
}

fn stats(speaker: &Speaker, last: Option<&Timings>) {
    match last {
        Some(timings) => say(Style::Plain, format_args!("{}", pace(timings))),
        None => say(Style::Plain, format_args!("no answer yet")),
    }
    let engine = &speaker.engine;
    memory::spent(engine.model());
    say(Style::Plain, format_args!("context: {} of {} positions", engine.held().len(), engine.context()));
    if let Some(memory) = engine.model().memory() {
        let (mapped, copied) = (bytes(memory.adopted), bytes(memory.copied));
        let (cache, buffers) = (bytes(memory.cache), bytes(memory.buffers));
        say(
            Style::Plain,
            format_args!(
                "memory: weights {mapped} mapped and {copied} copied, cache {cache}, buffers {buffers}"
            ),
        );
    }
}

/// The line editor with its history, which outlives the program where there is a folder for it.
struct Editor {
    lines: DefaultEditor,
    history: Option<PathBuf>,
    interrupted: Option<Instant>,
}

impl Editor {
    fn open() -> anyhow::Result<Editor> {
        let mut lines = DefaultEditor::new().context("cannot use the terminal")?;
        let history = match crate::load::kernel_cache().status() {
            Status::On(kernels) => kernels.parent().map(|parent| parent.join("history")),
            Status::Off(_) => None,
        };
        if let Some(file) = &history {
            let _none_yet = lines.load_history(file);
        }
        Ok(Editor { lines, history, interrupted: None })
    }

    fn wish(&mut self) -> anyhow::Result<Wish> {
        loop {
            let Some(text) = self.message()? else { return Ok(Wish::Leave) };
            let word = text.trim();
            return Ok(match word {
                "" => continue,
                "/bye" | "/exit" => Wish::Leave,
                "/clear" => Wish::Clear,
                "/stats" => Wish::Stats,
                "/help" | "/?" => Wish::Help,
                _ if word.starts_with('/') && !word.contains(char::is_whitespace) => {
                    Wish::Unknown(word.to_owned())
                }
                _ => Wish::Say(text),
            });
        }
    }

    /// A message, or `None` where the input ends.
    fn message(&mut self) -> anyhow::Result<Option<String>> {
        let Some(first) = self.line(PROMPT)? else { return Ok(None) };
        let Some(rest) = first.trim_start().strip_prefix(FENCE) else {
            self.keep(&first);
            return Ok(Some(first));
        };
        let mut text = rest.to_owned();
        while !text.trim_end().ends_with(FENCE) {
            let Some(line) = self.line(CONTINUATION)? else { return Ok(None) };
            text.push('\n');
            text.push_str(&line);
        }
        let text = text.trim_end().trim_end_matches(FENCE).trim_matches('\n').to_owned();
        self.keep(&format!("{FENCE}{text}{FENCE}"));
        Ok(Some(text))
    }

    fn line(&mut self, prompt: &str) -> anyhow::Result<Option<String>> {
        loop {
            match self.lines.readline(prompt) {
                Ok(line) => {
                    self.interrupted = None;
                    return Ok(Some(line));
                }
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Interrupted) => {
                    if self.interrupted.is_some_and(|at| at.elapsed() < LEAVE_WITHIN) {
                        return Err(Interrupted.into());
                    }
                    self.interrupted = Some(Instant::now());
                    say(Style::Faint, format_args!("Ctrl-D or /bye leaves"));
                }
                Err(error) => return Err(anyhow::Error::new(error).context("cannot read from the terminal")),
            }
        }
    }

    /// Remembers a line for the arrow keys. A history that cannot be written is not worth an error.
    fn keep(&mut self, line: &str) {
        let _added = self.lines.add_history_entry(line);
        if let Some(file) = &self.history {
            let _saved = self.lines.append_history(file);
        }
    }
}
