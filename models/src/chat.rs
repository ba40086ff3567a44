//! Chat templates: from messages to a prompt, and safely on to token ids.
//!
//! A template is a program by strangers, so it runs with limits: on steps, on depth and on output
//! ([`ChatError::Limit`]). Text of users is data by other strangers: [`ChatTemplate::encode`] lets only the
//! template write special tokens.
//!
//! Two things are not limited, because the engine offers no way to watch them: a template that doubles a
//! string again and again can use up the memory, and one that prints a namespace which contains itself can
//! use up any stack. Both need a hostile template, and both end the process without harm beyond it.

mod builtin;
mod chatrwkv;
mod dialogue;
mod guard;
mod python;

use std::fmt;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value, json};

use crate::tokenizer::{Special, Tokenizer, TokenizerError};
pub use dialogue::{Asked, Dialogue, Turn};
use guard::Guard;

/// Instructions of the template engine for one prompt: so many, and more for each byte of the messages, up
/// to a maximum. A message costs a template some hundred steps.
const STEPS_BASE: u64 = 100_000;
const STEPS_PER_BYTE: u64 = 20;
const STEPS_MAX: u64 = 1_000_000;
/// Nested calls of the engine.
const DEPTH_MAX: usize = 100;
/// The engine follows nested values and long `elif` chains on the stack. Within the limits on steps and
/// source this is deep enough for both; pages that are not touched cost nothing.
const STACK_BYTES: usize = 256 << 20;
/// A prompt may be this much, plus four times what the messages hold.
const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// The longest templates of public models have some 25 KB. The engine's time for an expression of nested
/// operators grows with the square of its length.
const SOURCE_BYTES_MAX: usize = 64 << 10;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what the template knows besides.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Images that come before it.
    pub images: usize,
    /// Further fields that templates read, such as `tool_calls`; a `content` here replaces the text above.
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), images: 0, extra: Map::new() }
    }

    /// The same after so many images.
    pub fn with_images(self, images: usize) -> Self {
        Message { images, ..self }
    }

    /// The message as templates see it: with images its content is a list of parts; for templates that know
    /// nothing else it is one in any case.
    fn to_value(&self, parts: bool) -> Value {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), Value::from(self.role.as_str()));
        let text = Value::from(self.content.as_str());
        let content = match parts || self.images > 0 {
            false => text,
            true => {
                let mut parts = vec![json!({"type": "image"}); self.images];
                parts.push(json!({"type": "text", "text": text}));
                Value::Array(parts)
            }
        };
        fields.insert("content".to_owned(), content);
        fields.extend(self.extra.iter().map(|(key, value)| (key.clone(), value.clone())));
        Value::Object(fields)
    }
}

/// Why a conversation did not become a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatError {
    /// The template is not in the template language.
    Syntax {
        /// Line in the source, from 1; 0 if unknown.
        line: usize,
        /// The parser's words.
        why: String,
    },
    /// The template refused the conversation by `raise_exception`.
    Raised {
        /// The template's words.
        message: String,
    },
    /// The template failed while it ran.
    Render {
        /// Line in the source, from 1; 0 if unknown.
        line: usize,
        /// The engine's words.
        why: String,
    },
    /// The template used more than one prompt may.
    Limit {
        /// What ran out: `steps`, `output bytes` or `source bytes`.
        what: &'static str,
        /// How many there were.
        limit: u64,
    },
    /// No built-in template has this name.
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The messages hold every character that could mark the borders of their text.
    NoMark,
    /// The prompt could not be encoded.
    Tokenizer(TokenizerError),
}

impl fmt::Display for ChatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChatError::Syntax { line, why } => write!(f, "chat template: line {line}: {why}"),
            ChatError::Raised { message } => write!(f, "{message}"),
            ChatError::Render { line, why } => write!(f, "chat template: line {line}: {why}"),
            ChatError::Limit { what, limit } => {
                write!(f, "chat template: more than {limit} {what}")
            }
            ChatError::Unknown { name } => {
                write!(f, "no chat template is called {name:?}, expected one of {}", builtin::names())
            }
            ChatError::NoMark => {
                write!(f, "the messages use every private character, none is left to mark their borders")
            }
            ChatError::Tokenizer(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChatError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ChatError::Tokenizer(error) => Some(error),
            _ => None,
        }
    }
}

impl From<TokenizerError> for ChatError {
    fn from(error: TokenizerError) -> Self {
        ChatError::Tokenizer(error)
    }
}

/// A chat template with the special tokens that it may name.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    bos: Option<String>,
    eos: Option<String>,
    /// Whether all content is a list of parts.
    parts: bool,
}

impl ChatTemplate {
    /// Takes the source of a template as `tokenizer_config.json`, `chat_template.jinja` or a GGUF file carry
    /// it. `bos` and `eos` become `bos_token` and `eos_token`; without one the name stays undefined.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, ChatError> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(ChatError::Limit { what: "source bytes", limit: SOURCE_BYTES_MAX as u64 });
        }
        let template = ChatTemplate {
            source: source.to_owned(),
            bos: bos.map(str::to_owned),
            eos: eos.map(str::to_owned),
            parts: false,
        };
        on_deep_stack(|| {
            let environment = environment(STEPS_BASE);
            let parsed = environment.template_from_str(&template.source).map(drop);
            parsed.map_err(|error| from_engine(&error, STEPS_BASE))
        })?;
        Ok(template)
    }

    /// The same for templates of processors, which take all content as a list of parts.
    pub fn of_parts(self) -> Self {
        ChatTemplate { parts: true, ..self }
    }

    /// A built-in template, for models that carry none; [`ChatTemplate::builtin_names`] lists them.
    pub fn named(name: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, ChatError> {
        let source = builtin::source(name).ok_or_else(|| ChatError::Unknown { name: name.to_owned() })?;
        Self::new(source, bos, eos)
    }

    /// The names that [`ChatTemplate::named`] knows.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        builtin::TEMPLATES.iter().map(|(name, _)| *name)
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt as text, as transformers renders it. `extra` are further variables, such as `tools` or
    /// `enable_thinking`. The text does not say which part a user wrote: for ids use [`ChatTemplate::encode`].
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<String, ChatError> {
        let messages: Vec<Value> = messages.iter().map(|message| message.to_value(self.parts)).collect();
        self.render_values(messages, add_generation_prompt, extra)
    }

    fn render_values(
        &self,
        messages: Vec<Value>,
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<String, ChatError> {
        let mut variables = Map::new();
        variables.insert("tools".to_owned(), Value::Null);
        variables.insert("documents".to_owned(), Value::Null);
        for (name, token) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            if let Some(token) = token {
                variables.insert(name.to_owned(), Value::from(token.as_str()));
            }
        }
        variables.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
        let input: usize = messages.iter().chain(variables.values()).map(text_bytes).sum();
        variables.insert("messages".to_owned(), Value::Array(messages));
        variables.insert("add_generation_prompt".to_owned(), Value::Bool(add_generation_prompt));

        let limit = OUTPUT_BYTES_MAX.saturating_add(input.saturating_mul(4));
        let steps = STEPS_BASE.saturating_add((input as u64).saturating_mul(STEPS_PER_BYTE)).min(STEPS_MAX);
        on_deep_stack(|| self.run(variables, steps, limit))
    }

    fn run(&self, variables: Map<String, Value>, steps: u64, limit: usize) -> Result<String, ChatError> {
        let environment = environment(steps);
        let failed = |error: minijinja::Error| from_engine(&error, steps);
        let template = environment.template_from_str(&self.source).map_err(failed)?;
        let mut output = Bounded { bytes: Vec::new(), limit, full: false };
        let result =
            template.render_captured_to(minijinja::Value::from(Serde(&variables)), &mut output).map(drop);
        if output.full {
            return Err(ChatError::Limit { what: "output bytes", limit: limit as u64 });
        }
        result.map_err(failed)?;
        String::from_utf8(output.bytes).map_err(|error| ChatError::Render { line: 0, why: error.to_string() })
    }

    /// The prompt as token ids. Special tokens come from the template alone: what looks like one in a
    /// message, a role or a tool description is encoded as ordinary characters. Where nothing does, the ids
    /// are those of the rendered text as a whole.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
        extra: &Map<String, Value>,
    ) -> Result<Vec<u32>, ChatError> {
        let mut values: Vec<Value> = messages.iter().map(|message| message.to_value(self.parts)).collect();
        let mut extra = extra.clone();
        let guard =
            Guard::new(tokenizer.special_texts(), &values, &extra, &self.source).ok_or(ChatError::NoMark)?;
        let mut marks = 0;
        for value in values.iter_mut().chain(extra.values_mut()) {
            marks += guard.mark(value);
        }
        let rendered = self.render_values(values, add_generation_prompt, &extra)?;
        Ok(if marks == 0 {
            tokenizer.encode(&rendered, Special::Parse)?
        } else {
            tokenizer.encode_marked(&rendered, guard.character())?
        })
    }
}

/// Runs the engine where hostile nesting does not reach the end of the stack.
fn on_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, ChatError> + Send) -> Result<T, ChatError> {
    let failed = |why: String| ChatError::Render { line: 0, why };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("chat template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| failed(format!("no thread: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("the template engine failed".to_owned())))
    })
}

fn environment(steps: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the usual delimiters are not ambiguous"),
    );
    environment.set_fuel(Some(steps));
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", python::raise_exception);
    environment.add_function("strftime_now", python::strftime_now);
    environment.add_filter("tojson", python::tojson);
    environment
}

fn from_engine(error: &minijinja::Error, steps: u64) -> ChatError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(raised) = found.downcast_ref::<python::Raised>() {
            return ChatError::Raised { message: raised.0.clone() };
        }
        cause = found.source();
    }
    let line = error.line().unwrap_or(0);
    let why = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.kind() {
        ErrorKind::OutOfFuel => ChatError::Limit { what: "steps", limit: steps },
        ErrorKind::SyntaxError => ChatError::Syntax { line, why },
        _ => ChatError::Render { line, why },
    }
}

/// How much text a value holds, keys included.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + text_bytes(value)).sum(),
        _ => 8,
    }
}

/// Output that ends where the limit is.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
    full: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        if part.len() > self.limit - self.bytes.len() {
            self.full = true;
            return Err(io::Error::other("the prompt is too long"));
        }
        self.bytes.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
