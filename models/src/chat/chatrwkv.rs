//! The chat of ChatRWKV: a conversation that is a text, and commands that begin with `+`.
//!
//! The conversation is kept as tokens and only added to, so that a model's state goes on from where it is.

use super::Message;
use super::dialogue::{Asked, Dialogue, Turn};
use crate::language::{Language, LanguageError};
use crate::manner;
use crate::sample::{Bend, Pace, Sampling};

/// Tokens of a text that is written freely.
const FREE_TOKENS: usize = 200;

/// What is said after a question outside of the conversation has fewer line ends.
const QUESTION: &[Bend] =
    &[Bend { from: 0, bias: 0.0, slope: 0.0 }, Bend { from: 1, bias: -2.0, slope: 0.0 }];

const COMMANDS: &str = "\
+reset        begin the conversation again
+gen TEXT     go on with a text
+qa TEXT      a question outside of the conversation
+             another answer to the last message
++            another answer to the last +gen or +qa
-temp=X       anywhere in a line: the temperature, from 0.2 to 5
-top_p=X      anywhere in a line: the cut of unlikely tokens";

/// What was asked for last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Nothing,
    Chat,
    Free,
}

pub(super) struct ChatRwkv {
    /// What a conversation begins with.
    opening: String,
    system: Vec<Message>,
    initial: Vec<u32>,
    /// The conversation, each turn ended.
    chat: Vec<u32>,
    /// The conversation up to where the last answer began.
    before_answer: Option<Vec<u32>>,
    /// The prompt of the last text outside of the conversation.
    free: Option<Vec<u32>>,
    last: Last,
}

impl ChatRwkv {
    pub(super) fn new(language: &Language, system: Option<&str>) -> Result<ChatRwkv, LanguageError> {
        let system: Vec<Message> = system.iter().map(|text| Message::new("system", *text)).collect();
        let opening = language.rendered_open(&system)?;
        let initial = language.plain_ids(&opening)?;
        let chat = initial.clone();
        Ok(ChatRwkv { opening, system, initial, chat, before_answer: None, free: None, last: Last::Nothing })
    }

    /// A question and the word that begins its answer, as the conversation has them.
    fn question(&self, language: &Language, text: &str) -> Result<Vec<u32>, LanguageError> {
        // An empty line would end the turn.
        let mut text = text.trim().replace("\r\n", "\n");
        while text.contains("\n\n") {
            text = text.replace("\n\n", "\n");
        }
        let messages = [self.system.as_slice(), &[Message::new("user", text)]].concat();
        let whole = language.rendered(&messages)?;
        language.plain_ids(whole.strip_prefix(&self.opening).unwrap_or(&whole))
    }

    fn chat_turn(&mut self, sampling: Sampling) -> Asked {
        let Some(prompt) = self.before_answer.clone() else {
            return Asked::Note("there is no answer yet to give another for".to_owned());
        };
        self.last = Last::Chat;
        Asked::Answer(Box::new(Turn { prompt, sampling, ends: true, tokens_max: None }))
    }

    fn free_turn(&mut self, sampling: Sampling, pace: Option<Pace>) -> Asked {
        let Some(prompt) = self.free.clone() else {
            return Asked::Note("there is no +gen or +qa yet to answer again".to_owned());
        };
        self.last = Last::Free;
        let sampling = Sampling { pace, ..sampling };
        Asked::Answer(Box::new(Turn { prompt, sampling, ends: false, tokens_max: Some(FREE_TOKENS) }))
    }
}

/// Takes `NAME=NUMBER` out of a line; an error says what is wrong with it.
fn option(line: &mut String, name: &str) -> Result<Option<f32>, String> {
    let Some(start) = line.find(name) else { return Ok(None) };
    let rest = &line[start + name.len()..];
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    let number: Option<f32> = rest[..end].parse().ok().filter(|number: &f32| number.is_finite());
    let number = number.ok_or_else(|| format!("{name}{}: expected a number", &rest[..end]))?;
    line.replace_range(start..start + name.len() + end, "");
    Ok(Some(number))
}

/// What a line says beside its options, and the sampling with them.
fn options(line: &str, sampling: &Sampling) -> Result<(String, Sampling), String> {
    let mut line = line.replace("\\n", "\n");
    let mut sampling = sampling.clone();
    if let Some(temperature) = option(&mut line, "-temp=")? {
        sampling.temperature = temperature.clamp(0.2, 5.0);
    }
    if let Some(top_p) = option(&mut line, "-top_p=")? {
        sampling.top_p = top_p.clamp(f32::MIN_POSITIVE, 1.0);
    }
    Ok((line.trim().to_owned(), sampling))
}

/// What follows a command in a line, if the line begins with it.
fn after<'a>(line: &'a str, command: &str) -> Option<&'a str> {
    let head = line.get(..command.len())?;
    head.eq_ignore_ascii_case(command).then(|| line[command.len()..].trim())
}

impl Dialogue for ChatRwkv {
    fn ask(&mut self, language: &Language, line: &str, sampling: &Sampling) -> Result<Asked, LanguageError> {
        self.last = Last::Nothing;
        let (line, sampling) = match options(line, sampling) {
            Ok(read) => read,
            Err(why) => return Ok(Asked::Note(why)),
        };
        Ok(match line.as_str() {
            "" => Asked::Note("these options need a message".to_owned()),
            "+reset" => {
                self.clear();
                Asked::Note("Chat reset.".to_owned())
            }
            "+" => self.chat_turn(sampling),
            "++" => self.free_turn(sampling, None),
            _ => {
                if let Some(text) = after(&line, "+gen ") {
                    self.free = Some(language.plain_ids(&format!("\n{text}"))?);
                    self.free_turn(sampling, None)
                } else if let Some(text) = after(&line, "+qa ") {
                    self.free = Some([self.initial.clone(), self.question(language, text)?].concat());
                    let token = manner::line_end(&language.tokenizer);
                    self.free_turn(sampling, token.map(|token| Pace { token, bends: QUESTION }))
                } else {
                    let question = self.question(language, &line)?;
                    self.before_answer = Some([self.chat.clone(), question].concat());
                    self.chat_turn(sampling)
                }
            }
        })
    }

    fn answered(
        &mut self,
        language: &Language,
        ids: &[u32],
        _: &str,
        ended: bool,
    ) -> Result<(), LanguageError> {
        if let (Last::Chat, Some(before)) = (self.last, &self.before_answer) {
            self.chat = [before, ids].concat();
            if !ended {
                self.chat.extend(language.plain_ids("\n\n")?);
            }
        }
        Ok(())
    }

    /// A message counts once it is answered, so there is nothing to take back.
    fn withdraw(&mut self) {}

    fn clear(&mut self) {
        self.chat.clone_from(&self.initial);
        self.before_answer = None;
    }

    fn commands(&self) -> &'static str {
        COMMANDS
    }
}
