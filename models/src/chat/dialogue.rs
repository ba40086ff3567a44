//! What the lines of a chat ask for.

use super::Message;
use super::chatrwkv::ChatRwkv;
use crate::language::{Language, LanguageError};
use crate::sample::Sampling;
use crate::tokenizer::bytes_to_encode;

/// What a line asks for.
#[derive(Debug)]
pub enum Asked {
    /// An answer.
    Answer(Box<Turn>),
    /// None: this is to be said instead.
    Note(String),
}

/// A prompt, and how it is answered.
#[derive(Debug)]
pub struct Turn {
    /// The whole prompt, earlier turns included.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whether the texts that end the family's answers end this one.
    pub ends: bool,
    /// The most tokens, where it is not the family's usual number.
    pub tokens_max: Option<usize>,
}

/// A chat from its first line on.
pub trait Dialogue {
    /// What a line asks for. `sampling` is what is in force unless the line says otherwise.
    fn ask(&mut self, language: &Language, line: &str, sampling: &Sampling) -> Result<Asked, LanguageError>;

    /// The most bytes of memory that [`Dialogue::ask`] takes for a line; most are free again when it has answered.
    fn bytes_to_ask(&self, line: &str) -> u64 {
        bytes_to_encode(line)
    }

    /// Takes the answer to what was asked for last: its tokens and its text, and whether it ended by itself.
    fn answered(
        &mut self,
        language: &Language,
        ids: &[u32],
        text: &str,
        ended: bool,
    ) -> Result<(), LanguageError>;

    /// What was asked for last, if it got no answer, never was.
    fn withdraw(&mut self);

    /// Begins anew.
    fn clear(&mut self);

    /// The commands among the lines, one in a row; empty if there are none.
    fn commands(&self) -> &'static str {
        ""
    }
}

impl Language {
    /// A chat that begins with this system prompt and so many images, by the rules of the prompt's makers.
    pub fn dialogue(&self, system: Option<&str>, images: usize) -> Result<Box<dyn Dialogue>, LanguageError> {
        Ok(match self.prompted.takes_commands {
            true => Box::new(ChatRwkv::new(self, system)?),
            false => Box::new(Turns::new(system, images)),
        })
    }
}

/// Messages, rendered anew for each answer.
struct Turns {
    messages: Vec<Message>,
    /// How many of them are there before anybody speaks.
    first: usize,
    /// Images that come before the first question.
    images: usize,
}

impl Turns {
    fn new(system: Option<&str>, images: usize) -> Turns {
        let messages: Vec<Message> = system.iter().map(|text| Message::new("system", *text)).collect();
        Turns { first: messages.len(), messages, images }
    }
}

impl Dialogue for Turns {
    fn ask(&mut self, language: &Language, line: &str, sampling: &Sampling) -> Result<Asked, LanguageError> {
        let images = if self.messages.len() == self.first { self.images } else { 0 };
        self.messages.push(Message::new("user", line).with_images(images));
        let prompt = language.chat(&self.messages)?;
        let sampling = sampling.clone();
        Ok(Asked::Answer(Box::new(Turn { prompt, sampling, ends: true, tokens_max: None })))
    }

    fn bytes_to_ask(&self, line: &str) -> u64 {
        let said = self.messages.iter().map(|message| bytes_to_encode(&message.content));
        said.sum::<u64>() + bytes_to_encode(line)
    }

    fn answered(&mut self, _: &Language, _: &[u32], text: &str, _: bool) -> Result<(), LanguageError> {
        self.messages.push(Message::new("assistant", text));
        Ok(())
    }

    fn withdraw(&mut self) {
        // A line that was refused before anybody asked is not there.
        if self.messages.len() > self.first && self.messages.last().is_some_and(|last| last.role == "user") {
            self.messages.pop();
        }
    }

    fn clear(&mut self) {
        self.messages.truncate(self.first);
    }
}
