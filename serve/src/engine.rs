//! From prompt to answer: one sequence, its cache, and the loop.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jtllm_models::LoadError;
use jtllm_models::arch::LooksAhead;
use jtllm_models::embedding::Embedding;
use jtllm_models::image::Image;
use jtllm_models::sample::{SampleError, Sampler};
use jtllm_models::tokenizer::{Stops, Stream, Tokenizer, TokenizerError};
use jtllm_runtime::network::{Batch, Row, Shown};
use jtllm_runtime::pages::PageTable;
use jtllm_runtime::swap::SwapError;
use jtllm_runtime::trace::Trace;

use crate::lookup::{Guesser, Lookup, Rows, Speculation};
use crate::model::Model;
use crate::place::TooLarge;
use crate::sight::{self, Seen};

/// What can go wrong between a prompt and its answer.
#[derive(Debug)]
pub enum EngineError {
    /// The model could not be loaded.
    Load(LoadError),
    /// A pass could not run.
    Runtime(jtllm_runtime::Error),
    /// The logits cannot be sampled from.
    Sample(SampleError),
    /// A stop string is malformed.
    Stop(TokenizerError),
    /// The prompt, or prompt and answer together, do not fit the context.
    ContextFull {
        /// Positions of the context.
        context: usize,
        /// Tokens that were to be kept.
        need: usize,
    },
    /// A context of more positions than passes can count.
    ContextTooLong {
        /// Positions that were asked for.
        asked: usize,
        /// The most there may be.
        most: usize,
    },
    /// A prompt without tokens.
    EmptyPrompt,
    /// There is no such device as was asked for, or none at all; why.
    NoDevice(String),
    /// Keys and values cannot go to a swap file where the model is; where.
    CannotSpill(String),
    /// The model does not fit into the device that was asked for.
    TooLarge(TooLarge),
    /// An image, for a model that sees none.
    Blind,
    /// The prompt has another number of places for images than there are images.
    Images {
        /// Places in the prompt.
        places: usize,
        /// Images.
        images: usize,
    },
    /// The model gives logits of tokens, not vectors of texts.
    NoEncoder,
    /// A token that the vocabulary does not have.
    NoSuchToken {
        /// The token.
        id: u32,
        /// Tokens of the vocabulary.
        vocabulary: usize,
    },
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::Load(error) => error.fmt(f),
            EngineError::Runtime(error) => error.fmt(f),
            EngineError::Sample(error) => error.fmt(f),
            EngineError::NoDevice(why) => f.write_str(why),
            EngineError::CannotSpill(place) => write!(
                f,
                "--kv-spill: keys and values go to a swap file from the processor's memory, or from a device's within \
                 --vram-limit, and the model would be on {place}: --backend cpu"
            ),
            EngineError::TooLarge(error) => error.fmt(f),
            EngineError::Stop(error) => error.fmt(f),
            EngineError::ContextFull { context, need } => {
                write!(f, "the context is full: {need} tokens do not fit in {context} positions")
            }
            EngineError::ContextTooLong { asked, most } => {
                write!(f, "a context of {asked} positions: at most {most} are possible")
            }
            EngineError::EmptyPrompt => f.write_str("the prompt has no tokens"),
            EngineError::Blind => f.write_str("the model sees no images"),
            EngineError::Images { places, images } => {
                write!(f, "the prompt has places for {places} images, and there are {images}")
            }
            EngineError::NoEncoder => f.write_str("the model is no encoder: it has no embeddings of texts"),
            EngineError::NoSuchToken { id, vocabulary } => {
                write!(f, "token {id} does not exist: the vocabulary has {vocabulary}")
            }
        }
    }
}

impl EngineError {
    /// Whether a pass ended because nobody wanted to wait for its weights any longer.
    fn is_cancelled(&self) -> bool {
        matches!(self, EngineError::Runtime(jtllm_runtime::Error::Swap(SwapError::Cancelled)))
    }
}

impl std::error::Error for EngineError {}

impl From<LoadError> for EngineError {
    fn from(error: LoadError) -> EngineError {
        EngineError::Load(error)
    }
}

impl From<jtllm_runtime::Error> for EngineError {
    fn from(error: jtllm_runtime::Error) -> EngineError {
        EngineError::Runtime(error)
    }
}

impl From<TooLarge> for EngineError {
    fn from(error: TooLarge) -> EngineError {
        EngineError::TooLarge(error)
    }
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    EndOfSequence,
    /// This stop string came.
    Stop(usize),
    /// The limit of tokens was reached.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller wanted no more.
    Cancelled,
}

/// What is to be generated.
pub struct Request {
    /// The whole prompt: what the cache already holds of it is not computed again.
    pub prompt: Vec<u32>,
    /// The images that its image tokens stand for, in their order; see [`Engine::with_images`].
    pub images: Vec<Arc<Seen>>,
    /// The most tokens of the answer; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// The tokens that end an answer; empty: none does.
    pub end_ids: Vec<u32>,
    /// The texts that end an answer; they are not part of it.
    pub stops: Vec<String>,
    /// When the context is full: keep this many tokens of the start, drop half of the rest, go on. Not with
    /// images.
    pub shift_keep: Option<usize>,
}

/// How long an answer took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Tokens of the prompt that were computed.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that the cache held.
    pub cached_tokens: usize,
    /// Time for the prompt.
    pub prompt_time: Duration,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// Time for the answer.
    pub answer_time: Duration,
    /// Passes that computed tokens of the answer.
    pub answer_passes: usize,
    /// Tokens that were guessed and computed before they were said.
    pub drafted_tokens: usize,
    /// Those of them that were then said.
    pub accepted_tokens: usize,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its tokens, the one that ended it included.
    pub ids: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// How long it took.
    pub timings: Timings,
}

/// What an architecture wants to know of a sequence; see `Architecture::facts`.
pub(crate) type Fact = (&'static str, i32);

/// A model with one conversation.
pub struct Engine {
    model: Model,
    tokenizer: Option<Arc<Tokenizer>>,
    pages: PageTable,
    /// The tokens whose keys and values the cache holds.
    held: Vec<u32>,
    /// What the architecture wants to know of them; what is appended changes none of it.
    facts: Vec<Fact>,
    /// The images that the tokens stand for.
    images: Vec<Arc<Seen>>,
    /// Bytes of those that were looked at since.
    looked: u64,
    /// Bytes that the caller is going to take.
    room: u64,
    guesser: Guesser,
    /// Times of kernels, while somebody wants them.
    pub trace: Option<Trace>,
}

impl Engine {
    /// An engine without a conversation. Without a tokenizer answers have ids and no text.
    pub fn new(model: Model, tokenizer: Option<Arc<Tokenizer>>) -> Engine {
        let pages = PageTable::new(model.pages(), 1);
        let (held, facts, images) = (Vec::new(), Vec::new(), Vec::new());
        let guesser = Guesser::new(Speculation::default());
        Engine { model, tokenizer, pages, held, facts, images, looked: 0, room: 0, guesser, trace: None }
    }

    /// Says whether tokens of answers are guessed. Answers have the same tokens in any case.
    pub fn speculate(&mut self, speculation: Speculation) {
        self.guesser = Guesser::new(speculation);
    }

    /// Whether tokens of answers are guessed, as far as that is possible.
    pub fn speculation(&self) -> Speculation {
        match self.can_speculate() {
            true => self.guesser.speculation(),
            false => Speculation::Off,
        }
    }

    /// Whether a token that was computed can be taken back: a state that has gone on has no past.
    pub fn can_speculate(&self) -> bool {
        let architecture = self.model.architecture();
        !architecture.is_recurrent() && architecture.looks_ahead() != LooksAhead::All
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model, for passes of the caller's own.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Positions of the context.
    pub fn context(&self) -> usize {
        self.model.options.context
    }

    /// Tokens that the cache holds.
    pub fn held(&self) -> &[u32] {
        &self.held
    }

    /// Has a limit of memory leave so many bytes to what the caller does next, until it says 0: a text is tokenised (see
    /// [`jtllm_models::tokenizer::bytes_to_encode`]), an image is decoded.
    ///
    /// # Errors
    /// The limit does not hold them, and nothing has changed.
    pub fn make_room(&mut self, bytes: u64) -> Result<(), EngineError> {
        self.model.keep_beside(self.kept() + bytes)?;
        self.room = bytes;
        Ok(())
    }

    /// Bytes that a limit leaves to the caller now.
    pub fn room(&self) -> u64 {
        self.room
    }

    /// Bytes of images in the conversation, and of those that were looked at for it.
    fn kept(&self) -> u64 {
        sight::bytes(&self.images) + self.looked
    }

    /// Looks at an image, for [`Request::images`] or [`Engine::show`]. A limit of memory counts it from now on, beside those
    /// that were shown; the image's own pixels it counts while they are looked at.
    ///
    /// # Errors
    /// The model sees no images, the limit does not hold what is made of this one, or a pass fails.
    pub fn see(&mut self, image: &Image) -> Result<Arc<Seen>, EngineError> {
        match self.model.see(image, self.kept() + self.room.max(image.bytes.len() as u64)) {
            Err(EngineError::Runtime(error)) => {
                self.retreat(error)?;
                self.see(image)
            }
            seen => {
                let seen = seen?;
                self.looked += seen.bytes();
                Ok(Arc::new(seen))
            }
        }
    }

    /// Goes on without the device that failed, if the model's options allow it; what the cache held is lost.
    fn retreat(&mut self, error: jtllm_runtime::Error) -> Result<(), EngineError> {
        // States may have come half of the way: what is held is computed again in any case.
        self.guesser.moved();
        self.clear();
        self.model.retreat(error)
    }

    /// Says which images the image tokens of what is fed from now on stand for, in their order. What the cache
    /// holds of others is forgotten, and a limit of memory counts them and no others.
    ///
    /// # Errors
    /// What must leave memory for them cannot be written.
    pub fn show(&mut self, images: &[Arc<Seen>]) -> Result<(), EngineError> {
        let common = sight::common(&self.images, images);
        if let Some(vision) = self.model.shared_architecture().vision()
            && common < self.images.len().max(images.len())
        {
            let before: usize = self.images[..common].iter().map(|image| image.tokens()).sum();
            let token = vision.token();
            let mut places = self.held.iter().enumerate().filter(|(_, id)| **id == token).map(|(at, _)| at);
            if let Some(first) = places.nth(before) {
                self.truncate(first);
            }
        }
        self.images = images.to_vec();
        self.looked = 0;
        self.model.keep_beside(sight::bytes(images) + self.room)
    }

    /// A prompt in which each image has one token, with as many as stand for it.
    pub fn with_images(&self, prompt: &[u32], images: &[Arc<Seen>]) -> Result<Vec<u32>, EngineError> {
        match self.model.architecture().vision() {
            Some(vision) => sight::expanded(prompt, vision.token(), images),
            None if images.is_empty() => Ok(prompt.to_vec()),
            None => Err(EngineError::Blind),
        }
    }

    /// Forgets the conversation.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    fn truncate(&mut self, len: usize) {
        self.held.truncate(len);
        self.pages.truncate(0, len);
        if len == 0 {
            self.model.forget();
        }
    }

    /// Makes the cache hold exactly `tokens` and gives the logits of the last one (or of each, if `all`).
    ///
    /// A device that fails meanwhile is left, if the model's options allow it: all tokens are then computed
    /// again where the model went.
    pub fn feed(&mut self, tokens: &[u32], all: bool) -> Result<Vec<f32>, EngineError> {
        let mut logits = Vec::new();
        let first = if all { 0 } else { tokens.len().saturating_sub(1) };
        match self.feed_here(tokens, first, !all, &mut |some| logits.extend_from_slice(some)) {
            Err(EngineError::Runtime(error)) => {
                self.retreat(error)?;
                self.feed(tokens, all)
            }
            done => done.map(|()| logits),
        }
    }

    /// Reads a text anew and hands out the logits of the token at `first` and of each one after it, with its place.
    /// Few of them are in memory at a time.
    pub fn score(
        &mut self,
        tokens: &[u32],
        first: usize,
        hear: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        let vocabulary = self.model.architecture().vocabulary();
        let mut next = first;
        loop {
            let begin = next;
            let mut each = |logits: &[f32]| {
                for row in logits.chunks(vocabulary) {
                    hear(next, row);
                    next += 1;
                }
            };
            match self.feed_here(tokens, begin, false, &mut each) {
                Err(EngineError::Runtime(error)) => self.retreat(error)?,
                done => return done,
            }
        }
    }

    /// Hands out the logits of tokens from `first` on, chunk by chunk; what the cache holds may be reused or not.
    fn feed_here(
        &mut self,
        tokens: &[u32],
        first: usize,
        reuse: bool,
        hear: &mut dyn FnMut(&[f32]),
    ) -> Result<(), EngineError> {
        if tokens.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        let context = self.room_for(tokens.len())?;
        tokens.iter().try_for_each(|id| self.know(*id))?;
        let facts = self.model.architecture().facts(tokens);
        let keep = if reuse { self.reusable(tokens, &facts) } else { 0 };
        let chunk = self.model.architecture().chunk();
        if keep == 0 && tokens.len() > chunk && self.model.architecture().looks_ahead() != LooksAhead::No {
            return Err(EngineError::ContextFull { context: chunk, need: tokens.len() });
        }
        self.truncate(keep);
        self.facts = facts;
        let full = |_| EngineError::ContextFull { context, need: tokens.len() };
        self.pages.reserve(0, tokens.len()).map_err(full)?;
        while self.held.len() < tokens.len() {
            let start = self.held.len();
            let end = (start + chunk).min(tokens.len());
            let wanted = (first.max(start)..end).map(|place| place - start).collect();
            let vision = self.model.architecture().vision();
            let shown =
                vision.and_then(|vision| sight::shown(&self.images, vision.token(), tokens, start..end));
            let logits = self.pass(&tokens[start..end], end - start > 1, wanted, shown)?;
            hear(&logits);
        }
        Ok(())
    }

    /// Checks that so many tokens fit, and gives how many would.
    fn room_for(&self, tokens: usize) -> Result<usize, EngineError> {
        let architecture = self.model.architecture();
        let learned = architecture.positions_are_learned().then_some(architecture.positions());
        let context = learned.map_or(self.context(), |positions| self.context().min(positions));
        match tokens <= context {
            true => Ok(context),
            false => Err(EngineError::ContextFull { context, need: tokens }),
        }
    }

    fn know(&self, id: u32) -> Result<(), EngineError> {
        let vocabulary = self.model.architecture().vocabulary();
        match (id as usize) < vocabulary {
            true => Ok(()),
            false => Err(EngineError::NoSuchToken { id, vocabulary }),
        }
    }

    /// Appends a token of an answer to what the cache holds and gives its logits. What this takes beside the pass does
    /// not grow with what is held.
    ///
    /// A device that fails meanwhile is left as in [`Engine::feed`].
    pub fn append(&mut self, id: u32) -> Result<Vec<f32>, EngineError> {
        self.append_guessing(id, &[])
    }

    /// As [`Engine::append`], with the logits of tokens that may follow, in the same pass: those of `id`, then of each
    /// guess, as if all before it had been appended. Only `id` is held then: the cache has room for what was guessed,
    /// which is held as soon as somebody says so and overwritten otherwise.
    ///
    /// Guesses that the pass or the context have no room for, or that no pass by rows can compute, are left out.
    pub(crate) fn append_guessing(&mut self, id: u32, guess: &[u32]) -> Result<Vec<f32>, EngineError> {
        let architecture = self.model.architecture();
        let image = architecture.vision().map(|vision| vision.token());
        if self.held.is_empty() || image == Some(id) || architecture.looks_ahead() == LooksAhead::All {
            return self.feed(&self.with(id), false);
        }
        let held = self.held.len();
        let need = held + 1;
        let context = self.room_for(need)?;
        self.know(id)?;
        self.pages.reserve(0, need).map_err(|_| EngineError::ContextFull { context, need })?;
        let most = if architecture.is_recurrent() { 0 } else { (context - need).min(Lookup::DRAFT_MAX) };
        let possible = |id: &&u32| Some(**id) != image && self.know(**id).is_ok();
        let guess = guess.iter().take(most).take_while(possible);
        let mut rows: Vec<u32> = std::iter::once(&id).chain(guess).copied().collect();
        if self.pages.reserve(0, held + rows.len()).is_err() {
            rows.truncate(1);
        }
        match self.pass(&rows, false, (0..rows.len()).collect(), None) {
            Err(EngineError::Runtime(error)) if rows.len() > 1 && error.is_full() => {
                // What runs already has its memory: only the plan of so many rows has none.
                self.model.say(&format!("{error}; no more tokens are guessed"));
                self.guesser.stop();
                self.append(id)
            }
            Err(EngineError::Runtime(error)) => {
                let all = self.with(id);
                self.retreat(error)?;
                self.feed(&all, false)
            }
            done => {
                self.held.truncate(need);
                done
            }
        }
    }

    /// What is held, and one token more.
    fn with(&self, id: u32) -> Vec<u32> {
        [self.held.as_slice(), &[id]].concat()
    }

    /// The vector of a text, of which these are the tokens.
    pub fn embed(&mut self, tokens: &[u32], how: &Embedding) -> Result<Vec<f32>, EngineError> {
        let architecture = self.model.architecture();
        if architecture.looks_ahead() != LooksAhead::All {
            return Err(EngineError::NoEncoder);
        }
        let width = architecture.row_width();
        let hidden = self.feed(tokens, true)?;
        Ok(how.vector(&hidden, width))
    }

    /// How many of `tokens` the cache holds already. The last one is always computed: its logits are wanted.
    fn reusable(&self, tokens: &[u32], facts: &[Fact]) -> usize {
        let common = self.held.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let architecture = self.model.architecture();
        let keeps = match architecture.looks_ahead() {
            // A state has no past to go back to.
            LooksAhead::No if architecture.is_recurrent() => {
                common == self.held.len() && common < tokens.len()
            }
            LooksAhead::No => true,
            // What a longer answer is appended to stays as it is; a longer prompt changes all of it.
            LooksAhead::Prefix => common == self.held.len() && architecture.facts(&self.held) == facts,
            LooksAhead::All => false,
        };
        if keeps { common.min(tokens.len() - 1) } else { 0 }
    }

    /// Runs the pass for the tokens that follow those that are held, which it holds then too.
    fn pass(
        &mut self,
        tokens: &[u32],
        chunk: bool,
        wanted: Vec<usize>,
        shown: Option<Shown>,
    ) -> Result<Vec<f32>, EngineError> {
        let start = self.held.len();
        let row = |(at, id): (usize, &u32)| Row {
            id: *id,
            position: start + at,
            sequence: 0,
            slot: self.pages.slot(0, start + at).unwrap_or(-1),
        };
        let batch = Batch {
            rows: tokens.iter().enumerate().map(row).collect(),
            chunk,
            tables: vec![self.pages.pages(0).clone()],
            lengths: vec![start + tokens.len()],
            wanted,
            facts: self.facts.iter().map(|(name, value)| (*name, vec![*value])).collect(),
            shown,
        };
        let logits = self.model.pass(&batch, self.trace.as_mut());
        if let Err(EngineError::Load(_)) = logits {
            // The model is no longer what computed the cache.
            self.clear();
        }
        let logits = logits?;
        self.held.extend_from_slice(tokens);
        Ok(logits)
    }

    /// Generates an answer. `hear` gets each piece of text when no later token can change it, and the token
    /// that completed it; it may end the answer. Of an answer that an error ends it hears all there was.
    pub fn generate(
        &mut self,
        request: &Request,
        sampler: &mut Sampler,
        hear: &mut dyn FnMut(&str, u32) -> ControlFlow<()>,
    ) -> Result<Answer, EngineError> {
        let stops = Stops::new(request.stops.clone()).map_err(EngineError::Stop)?;
        let stream = self.tokenizer.clone().map(|tokenizer| Stream::continuing(tokenizer, true));
        let mut voice = Voice { stream, stops, hear, ids: Vec::new(), text: String::new() };
        let mut timings = Timings::default();
        let begin = Instant::now();
        self.show(&request.images)?;
        let facts = self.model.architecture().facts(&request.prompt);
        let reused = if request.prompt.is_empty() { 0 } else { self.reusable(&request.prompt, &facts) };
        let device = self.model.device_name();
        let logits = match self.feed(&request.prompt, false) {
            Err(error) if error.is_cancelled() => {
                let (ids, text, finish) = (Vec::new(), String::new(), Finish::Cancelled);
                return Ok(Answer { ids, text, finish, timings });
            }
            fed => fed?,
        };
        // Who leaves a device leaves what it held.
        timings.cached_tokens = if device == self.model.device_name() { reused } else { 0 };
        timings.prompt_tokens = request.prompt.len() - timings.cached_tokens;
        timings.prompt_time = begin.elapsed();
        // The prompt holds all earlier turns; what the sampler has seen of them counts once.
        sampler.forget();
        request.prompt.iter().for_each(|id| sampler.accept(*id));

        let begin = Instant::now();
        let finish = match self.answer(logits, request, sampler, &mut voice, &mut timings) {
            Err(error) if error.is_cancelled() => Ok(Finish::Cancelled),
            ended => ended,
        };
        // Room for guesses that did not come.
        self.pages.truncate(0, self.held.len());
        if !matches!(finish, Ok(Finish::Stop(_))) {
            voice.finish();
        }
        timings.answer_tokens = voice.ids.len();
        timings.answer_time = begin.elapsed();
        Ok(Answer { ids: voice.ids, text: voice.text, finish: finish?, timings })
    }

    /// The loop from logits to the next token and its logits.
    fn answer(
        &mut self,
        logits: Vec<f32>,
        request: &Request,
        sampler: &mut Sampler,
        voice: &mut Voice<'_>,
        timings: &mut Timings,
    ) -> Result<Finish, EngineError> {
        // A body and a head, of two bodies and a head.
        let making = self.model.memory().unwrap_or_default().compiled.time / 2;
        self.guesser.begin(&request.prompt, self.context(), making, self.can_speculate());
        let width = self.model.architecture().row_width();
        let mut rows = Rows::new(logits, width, Vec::new());
        let most = request.max_tokens.unwrap_or(usize::MAX);
        if most == 0 {
            return Ok(Finish::Length);
        }
        loop {
            let id = sampler.sample(rows.last()).map_err(EngineError::Sample)?.id;
            sampler.accept(id);
            voice.ids.push(id);
            self.guesser.hear(id);
            if request.end_ids.contains(&id) {
                return Ok(Finish::EndOfSequence);
            }
            if let Some(finish) = voice.say(id) {
                return Ok(finish);
            }
            // Of the last token nobody wants to know what follows it.
            let left = most - voice.ids.len();
            if left == 0 {
                return Ok(Finish::Length);
            }
            if rows.goes_on(id) {
                self.held.push(id);
                timings.accepted_tokens += 1;
                continue;
            }
            if self.held.len() == self.context() {
                // Rows of images have their order alone to say what they are of.
                let keep = request.shift_keep.filter(|_| request.images.is_empty());
                let Some(keep) = keep else { return Ok(Finish::ContextFull) };
                self.shift(keep)?;
            }
            let guess =
                self.guesser.guess((left - 1).min(self.context().saturating_sub(self.held.len() + 1)));
            let begin = Instant::now();
            rows = Rows::new(self.append_guessing(id, &guess)?, width, guess);
            self.guesser.took(rows.count(), begin.elapsed());
            timings.answer_passes += 1;
            timings.drafted_tokens += rows.count() - 1;
        }
    }

    /// Drops half of what follows the first `keep` tokens and computes the rest again at its new positions.
    fn shift(&mut self, keep: usize) -> Result<(), EngineError> {
        let held = self.held.clone();
        let keep = keep.min(held.len() / 2);
        let drop = ((held.len() - keep) / 2).max(1);
        let kept = [&held[..keep], &held[keep + drop..]].concat();
        self.truncate(keep);
        if !kept.is_empty() {
            self.feed(&kept, false)?;
        }
        Ok(())
    }
}

/// From tokens to text that somebody hears.
struct Voice<'a> {
    stream: Option<Stream>,
    stops: Stops,
    hear: &'a mut dyn FnMut(&str, u32) -> ControlFlow<()>,
    ids: Vec<u32>,
    text: String,
}

impl Voice<'_> {
    /// Says what a token adds; gives the reason if it was the last.
    fn say(&mut self, id: u32) -> Option<Finish> {
        let piece = self.stream.as_mut().map(|stream| stream.push(id)).unwrap_or_default();
        let passed = self.stops.push(&piece);
        self.text.push_str(&passed.text);
        let more = (self.hear)(&passed.text, id);
        match passed.matched {
            Some(stop) => Some(Finish::Stop(stop)),
            None => more.is_break().then_some(Finish::Cancelled),
        }
    }

    /// Says what was held back because a later token might have changed it.
    fn finish(&mut self) {
        let rest = self.stream.as_mut().map(Stream::finish).unwrap_or_default();
        let mut rest = self.stops.push(&rest).text;
        rest.push_str(&self.stops.finish());
        if !rest.is_empty() {
            self.text.push_str(&rest);
            let _last = (self.hear)(&rest, self.ids.last().copied().unwrap_or(0));
        }
    }
}
