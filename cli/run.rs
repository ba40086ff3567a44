//! `jtllm run`: one answer.

use std::borrow::Cow;
use std::fmt::Display;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use jtllm_models::chat::Message;
use jtllm_models::image::{Image, ImageError};
use jtllm_models::manner::{Manner, PLAIN, Polish};
use jtllm_models::sample::{Sampler, Sampling};
use jtllm_models::tokenizer::{Special, bytes_to_encode};
use jtllm_models::{Language, LoadError};
use jtllm_serve::{Answer, Engine, EngineError, Finish, Request, Seen, Timings};
use serde_json::{Value, json};

use crate::args::{AnswerArgs, PromptArgs, RunArgs, SpecType};
use crate::failure::{Interrupted, OutputClosed, Usage};
use crate::terminal::{Style, bytes, print, print_json, say};
use crate::{chat, interrupt, load, memory, ps, sampling};

/// A model with its words, ready to answer.
pub(crate) struct Speaker {
    pub(crate) engine: Engine,
    pub(crate) language: Language,
    /// The images that the conversation begins with.
    pub(crate) images: Vec<Arc<Seen>>,
    pub(crate) sampling: Sampling,
    /// What ends and touches the answers: the prompt's manner, or none.
    pub(crate) manner: &'static Manner,
    /// The tokens that end an answer.
    end_ids: Vec<u32>,
    tokens_max: Option<usize>,
    /// Whether that is the model's own limit and not the user's.
    own_limit: bool,
}

/// Answers one prompt, or hands over to the chat.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<()> {
    let prompt = given_prompt(&args.prompt)?;
    let chats = prompt.is_none() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if chats && args.prompt.raw {
        return Err(Usage("--raw wants a prompt: a chat needs a chat template".to_owned()).into());
    }
    if chats && args.answer.json {
        return Err(Usage("--json wants a prompt: it prints one answer".to_owned()).into());
    }
    if args.answer.context_shift && !args.prompt.image.is_empty() {
        return Err(Usage("--context-shift does not go with --image".to_owned()).into());
    }
    interrupt::listen()?;
    let prompt = match prompt {
        Some(prompt) => Some(prompt),
        None if chats => None,
        None => Some(piped_prompt()?),
    };
    if prompt.as_ref().is_some_and(|prompt| prompt.is_empty()) {
        return Err(Usage("the prompt is empty".to_owned()).into());
    }
    let pictures = args.prompt.image.iter().map(|path| Picture::of(path)).collect::<Result<_, _>>()?;
    let mut speaker = speaker(args)?;
    load::announce(&speaker.engine);
    if args.speculation.spec_type == SpecType::NgramSimple && !speaker.engine.can_speculate() {
        let why = "the model keeps a state, which cannot take a wrong guess back";
        say(Style::Faint, format_args!("no tokens are guessed: {why}"));
    }
    ps::enter(&speaker.engine);
    let recommended = speaker.engine.model().checkpoint().config().recommends();
    if !speaker.language.family.name.is_empty() && !recommended {
        let what = sampling::manner(&speaker.sampling, speaker.language.family.name);
        say(Style::Faint, format_args!("{what}"));
    }
    speaker.look(pictures)?;
    match prompt {
        Some(prompt) => once(&mut speaker, args, &prompt),
        None => chat::chat(&mut speaker, args),
    }
}

fn given_prompt(args: &PromptArgs) -> anyhow::Result<Option<String>> {
    match (&args.prompt, &args.file) {
        (Some(text), _) => Ok(Some(text.clone())),
        (None, Some(file)) => Ok(Some(without_last_newline(text_of("--file", file)?))),
        (None, None) => Ok(None),
    }
}

/// The most bytes of a file that a flag names, and of a prompt on stdin: a device may have no end.
pub(crate) const FILE_MAX: u64 = 64 << 20;

/// All of a file that a flag names.
fn bytes_of(flag: &str, file: &Path) -> Result<Vec<u8>, Usage> {
    let wrong = |error: &dyn Display| Usage(format!("{flag} {}: {error}", file.display()));
    let opened = File::open(file).map_err(|error| wrong(&error))?;
    let mut bytes = Vec::new();
    opened.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
    match bytes.len() as u64 > FILE_MAX {
        true => Err(wrong(&format!("more than {FILE_MAX} bytes"))),
        false => Ok(bytes),
    }
}

fn text_of(flag: &str, file: &Path) -> Result<String, Usage> {
    let wrong = |error: FromUtf8Error| Usage(format!("{flag} {}: {}", file.display(), error.utf8_error()));
    String::from_utf8(bytes_of(flag, file)?).map_err(wrong)
}

/// A file that holds an image, which is decoded when the model looks at it.
struct Picture {
    path: PathBuf,
    /// The file's bytes, if it can be read only once.
    kept: Option<Vec<u8>>,
    /// Bytes of memory that decoding it takes, the file included.
    takes: u64,
}

impl Picture {
    /// Looks at its header.
    fn of(path: &Path) -> Result<Picture, Usage> {
        let file = bytes_of("--image", path)?;
        let takes = Image::bytes_to_decode(&file).map_err(|error| Picture::wrong(path, &error))?;
        let is_file = path.metadata().is_ok_and(|found| found.is_file());
        let takes = takes + file.len() as u64;
        Ok(Picture { path: path.to_owned(), kept: (!is_file).then_some(file), takes })
    }

    fn decode(self) -> Result<Image, Usage> {
        let file = self.kept.map_or_else(|| bytes_of("--image", &self.path), Ok)?;
        Image::decode(&file).map_err(|error| Picture::wrong(&self.path, &error))
    }

    fn wrong(path: &Path, error: &ImageError) -> Usage {
        Usage(format!("--image {}: {error}", path.display()))
    }
}

fn piped_prompt() -> anyhow::Result<String> {
    Ok(without_last_newline(piped("the prompt", FILE_MAX)?))
}

/// All of stdin, which is text of at most so many bytes.
pub(crate) fn piped(what: &str, most: u64) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.with_context(|| format!("cannot read {what} from stdin"))?;
    if bytes.len() as u64 > most {
        return Err(Usage(format!("{what} from stdin: more than {most} bytes")).into());
    }
    let wrong = |error: FromUtf8Error| Usage(format!("{what} from stdin: {}", error.utf8_error()));
    Ok(String::from_utf8(bytes).map_err(wrong)?)
}

/// The newline that ends a file is not part of the prompt in it.
fn without_last_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

fn speaker(args: &RunArgs) -> anyhow::Result<Speaker> {
    let name = args.model.as_deref().or(args.model_flag.as_deref());
    let checkpoint = load::checkpoint(name)?;
    let architecture = jtllm_models::arch::read(checkpoint.config())?;
    if architecture.row_width() != architecture.vocabulary() {
        let file = checkpoint.path().to_owned();
        let what = "answering by an encoder of texts".to_owned();
        return Err(LoadError::Unsupported {
            file,
            what,
            supported: "jtllm embed gives its vectors".to_owned(),
        }
        .into());
    }
    if let (Some(file), None) = (args.prompt.image.first(), architecture.vision()) {
        return Err(Usage(format!("--image {}: {}", file.display(), EngineError::Blind)).into());
    }
    let mut language = Language::of(&checkpoint)?;
    if let Some(name) = &args.prompt.chat_template {
        language.use_named(name).map_err(|error| Usage(format!("--chat-template: {error}")))?;
    }
    if let Some(file) = &args.prompt.chat_template_file {
        language.use_source(&text_of("--chat-template-file", file)?)?;
    }
    let manner = if args.prompt.raw { &PLAIN } else { language.prompted };
    let generation = checkpoint.config().generation()?;
    let family = language.family.sampling(&language.tokenizer, checkpoint.config().recommends());
    let mut sampling = sampling::effective(&args.sampling, &generation, family)?;
    sampling.pace = (manner.pace)(&language.tokenizer);
    let own = generation.max_new_tokens.and_then(|most| usize::try_from(most).ok()).or(manner.tokens_max);
    let end_ids = [language.end_ids.as_slice(), &manner.end_ids(&language.tokenizer)].concat();
    let own_limit = args.answer.predict.is_none();
    let tokens_max = args.answer.predict.map_or(own, |most| usize::try_from(most).ok());
    let tokens = language.tokenizer.vocab_size();
    let model = load::model(checkpoint, &args.machine)?;
    let rows = model.architecture().vocabulary();
    if tokens > rows {
        let file = model.checkpoint().path().to_owned();
        let what = format!("a tokenizer of {tokens} tokens for a model with embeddings of {rows}");
        let supported = "the model needs a row for each token".to_owned();
        return Err(LoadError::Unsupported { file, what, supported }.into());
    }
    let mut engine = Engine::new(model, Some(language.tokenizer.clone()));
    engine.speculate(args.speculation.chosen());
    let images = Vec::new();
    let speaker = Speaker { engine, language, images, sampling, manner, end_ids, tokens_max, own_limit };
    speaker.sampler()?;
    Ok(speaker)
}

impl Speaker {
    /// Looks at images, one after another: of each no more than its vectors stay in memory.
    fn look(&mut self, pictures: Vec<Picture>) -> anyhow::Result<()> {
        for picture in pictures {
            let begin = Instant::now();
            let name = picture.path.display().to_string();
            memory::make_room(&mut self.engine, &format_args!("decoding {name}"), picture.takes)?;
            let image = picture.decode()?;
            self.engine.make_room(0)?;
            let seen = self.engine.see(&image)?;
            let (time, tokens) = (begin.elapsed().as_secs_f64(), seen.tokens());
            let size = format!("{} x {} pixels", image.width, image.height);
            say(Style::Faint, format_args!("{name}: {size}, {tokens} tokens, in {time:.3} s"));
            self.images.push(seen);
        }
        Ok(())
    }

    /// A sampler for one answer; without a seed it draws one.
    pub(crate) fn sampler(&self) -> Result<Sampler, Usage> {
        let vocabulary = self.engine.model().architecture().vocabulary();
        let sampler = Sampler::new(self.sampling.clone(), vocabulary);
        sampler.map(|s| s.with_breakers(&self.language.tokenizer)).map_err(|error| Usage(error.to_string()))
    }

    /// What to generate for a prompt.
    pub(crate) fn request(&self, prompt: Vec<u32>, args: &AnswerArgs) -> Request {
        Request {
            prompt,
            images: self.images.clone(),
            max_tokens: self.tokens_max,
            end_ids: if args.ignore_eos { Vec::new() } else { self.end_ids.clone() },
            stops: {
                let own = self.manner.stops.iter().filter(|_| !args.ignore_eos);
                own.map(|stop| (*stop).to_owned()).chain(args.reverse_prompt.iter().cloned()).collect()
            },
            shift_keep: args.context_shift.then_some(args.keep),
        }
    }

    /// The prompt of a conversation that begins with the system prompt, if there is one.
    pub(crate) fn conversation(&self, system: Option<&str>, turns: &[Message]) -> anyhow::Result<Vec<u32>> {
        let system = system.map(|text| Message::new("system", text));
        let messages: Vec<Message> = system.into_iter().chain(turns.iter().cloned()).collect();
        Ok(self.engine.with_images(&self.language.chat(&messages)?, &self.images)?)
    }
}

/// An answer while it comes: its text, touched up, goes to stdout if it is shown.
struct Voice {
    polish: Polish,
    show: bool,
    said: String,
    closed: Option<anyhow::Error>,
    /// Whether stdout is one.
    terminal: bool,
}

impl Voice {
    /// The text for a terminal, which must not obey what a model writes.
    fn harmless<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
        match self.terminal && text.contains(obeyed) {
            true => Cow::Owned(text.replace(obeyed, "\u{fffd}")),
            false => Cow::Borrowed(text),
        }
    }

    fn say(&mut self, text: &str) {
        self.said.push_str(text);
        if self.show && !text.is_empty() && self.closed.is_none() {
            self.closed = print(&self.harmless(text)).err();
        }
    }
}

impl Speaker {
    /// Generates an answer and shows it as it comes, if `show`, with a line end. Once nobody reads, it stops.
    pub(crate) fn answer(
        &mut self,
        request: &Request,
        sampler: &mut Sampler,
        show: bool,
    ) -> anyhow::Result<Answer> {
        let polish = Polish::new(self.manner.touches);
        let terminal = std::io::stdout().is_terminal();
        let mut voice = Voice { polish, show, said: String::new(), closed: None, terminal };
        let invalid = sampler.invalid_rows();
        let answer = self.engine.generate(request, sampler, &mut |text, _| {
            let text = voice.polish.push(text);
            voice.say(&text);
            match voice.closed.is_some() || interrupt::stopped() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        let rest = voice.polish.finish();
        voice.say(&rest);
        if let Some(error) = voice.closed {
            return Err(error);
        }
        // An answer has a line end even if it is empty, or cut short by an error.
        if show && (!voice.said.is_empty() || answer.is_ok()) {
            print("\n")?;
        }
        let answer = Answer { text: voice.said, ..answer? };
        self.remark(&answer, request.max_tokens, sampler.invalid_rows() - invalid);
        Ok(answer)
    }

    /// Says what the family's manner did to an answer that its text does not show.
    fn remark(&self, answer: &Answer, tokens_max: Option<usize>, invalid: usize) {
        if invalid > 0 {
            let name = self.language.family.name;
            let what = "were not finite: weights are damaged, or arithmetic overflowed";
            say(
                Style::Alarm,
                format_args!("the logits of {invalid} tokens {what}; {name}'s rule chose those tokens"),
            );
        }
        if let (Finish::Length, Some(most), true) = (&answer.finish, tokens_max, self.own_limit) {
            say(
                Style::Faint,
                format_args!("ended at the model's own limit of {most} tokens; -n sets another"),
            );
        }
    }
}

/// What is tokenised, for the error if there is no memory to do so.
pub(crate) fn tokenising(text: &str) -> impl Display {
    format!("tokenising a text of {}", bytes(text.len() as u64))
}

/// The tokens of a prompt.
fn prompted(speaker: &mut Speaker, args: &RunArgs, prompt: &str) -> anyhow::Result<Vec<u32>> {
    let system = args.prompt.system.as_deref();
    let takes = bytes_to_encode(prompt) + system.map_or(0, bytes_to_encode);
    memory::make_room(&mut speaker.engine, &tokenising(prompt), takes)?;
    let ids = if args.prompt.raw {
        let ids = speaker.language.prompt(prompt, Special::Parse)?;
        speaker.engine.with_images(&ids, &speaker.images)?
    } else {
        let question = Message::new("user", prompt).with_images(speaker.images.len());
        speaker.conversation(system, &[question])?
    };
    speaker.engine.make_room(0)?;
    Ok(ids)
}

fn once(speaker: &mut Speaker, args: &RunArgs, prompt: &str) -> anyhow::Result<()> {
    let ids = prompted(speaker, args, prompt)?;
    let mut sampler = speaker.sampler()?;
    let request = speaker.request(ids, &args.answer);
    let show = !args.answer.json;
    let answer = speaker.answer(&request, &mut sampler, show)?;
    if args.answer.json {
        let mut report = report(&answer, &request);
        report["memory"] = memory::report(speaker.engine.model());
        report["sampling"] = sampling::report(sampler.sampling(), sampler.seed());
        report["model"] = json!(speaker.engine.model().checkpoint().path().display().to_string());
        print_json(&report)?;
    } else {
        say(Style::Faint, format_args!("{}", pace(&answer.timings)));
        memory::spent(speaker.engine.model());
    }
    match answer.finish {
        Finish::Cancelled => Err(Interrupted.into()),
        Finish::ContextFull => Err(full(&speaker.engine, &request, &answer).into()),
        _ => Ok(()),
    }
}

/// The error of an answer that the context had no room for.
pub(crate) fn full(engine: &Engine, request: &Request, answer: &Answer) -> EngineError {
    EngineError::ContextFull { context: engine.context(), need: request.prompt.len() + answer.ids.len() }
}

fn report(answer: &Answer, request: &Request) -> Value {
    let (reason, stop) = match answer.finish {
        Finish::EndOfSequence => ("stop", None),
        Finish::Stop(at) => ("stop", request.stops.get(at)),
        Finish::Length => ("length", None),
        Finish::ContextFull => ("context_full", None),
        Finish::Cancelled => ("cancelled", None),
    };
    let t = &answer.timings;
    json!({
        "text": answer.text,
        "ids": answer.ids,
        "prompt_ids": request.prompt,
        "finish_reason": reason,
        "stop": stop,
        "timings": {
            "cache_n": t.cached_tokens,
            "prompt_n": t.prompt_tokens,
            "prompt_ms": t.prompt_time.as_secs_f64() * 1e3,
            "prompt_per_second": rate(t.prompt_tokens, t.prompt_time.as_secs_f64()),
            "predicted_n": t.answer_tokens,
            "predicted_ms": t.answer_time.as_secs_f64() * 1e3,
            "predicted_per_second": rate(t.answer_tokens, t.answer_time.as_secs_f64()),
            "passes": t.answer_passes,
            "draft_n": t.drafted_tokens,
            "draft_n_accepted": t.accepted_tokens,
        },
    })
}

fn rate(tokens: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}

/// One line on how fast it went.
pub(crate) fn pace(t: &Timings) -> String {
    let (prompt, answer) = (t.prompt_time.as_secs_f64(), t.answer_time.as_secs_f64());
    let guesses = match (t.drafted_tokens, t.accepted_tokens) {
        (0, _) => String::new(),
        (drafted, right) => {
            let each = rate(t.answer_passes + right, t.answer_passes as f64);
            format!("; {each:.2} tokens a pass, {right} of {drafted} guesses right")
        }
    };
    format!(
        "prompt {} tokens ({} cached) in {:.3} s, {:.1} tokens/s; answer {} tokens in {:.3} s, {:.1} tokens/s{guesses}",
        t.prompt_tokens,
        t.cached_tokens,
        prompt,
        rate(t.prompt_tokens, prompt),
        t.answer_tokens,
        answer,
        rate(t.answer_tokens, answer),
    )
}

/// Whether an error only means that nobody reads any more.
pub(crate) fn nobody_reads(error: &anyhow::Error) -> bool {
    error.is::<OutputClosed>()
}
