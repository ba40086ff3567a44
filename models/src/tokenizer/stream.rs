//! Text from tokens as they are generated.

use std::sync::Arc;

use super::Tokenizer;
use super::bytes::{Spelling, Utf8};

/// Turns token ids into text one by one, and emits only what no later token can change.
///
/// The parts emitted by [`Stream::push`] and [`Stream::finish`] together equal [`Tokenizer::decode`] of all
/// ids. A character whose bytes are spread over tokens is held back until it is complete. Work for one
/// token is bounded by the length of that token, except for vocabularies whose spelling depends on
/// neighbours: those decode a window that ends at the last stable text.
pub struct Stream {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    joined: Utf8,
    /// Only for spellings that depend on neighbours: the ids of the window, and how many of them are out.
    window: Vec<u32>,
    shown: usize,
}

/// A window this long without stable text is given up and emitted as it stands.
const WINDOW_MAX: usize = 64;

impl Stream {
    /// A stream whose first token begins a text.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self::starting(tokenizer, skip_special, true)
    }

    /// A stream whose first token continues a text: SentencePiece's leading space is kept.
    pub fn continuing(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self::starting(tokenizer, skip_special, false)
    }

    fn starting(tokenizer: Arc<Tokenizer>, skip_special: bool, at_start: bool) -> Self {
        let joined = Utf8::new(tokenizer.spelling, at_start);
        Stream { tokenizer, skip_special, joined, window: Vec::new(), shown: 0 }
    }

    /// Takes the next token and returns the text that became certain; often one word, sometimes nothing.
    pub fn push(&mut self, id: u32) -> String {
        let mut out = String::new();
        if self.skip_special && self.tokenizer.is_special(id) {
            return out;
        }
        if self.tokenizer.spelling == Spelling::Joined {
            return self.push_window(id);
        }
        if let Some(bytes) = self.tokenizer.token_bytes(id) {
            self.joined.push(&bytes, &mut out);
        }
        out
    }

    /// The answer ended: returns what was held back, with U+FFFD for an unfinished character.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        if self.tokenizer.spelling == Spelling::Joined {
            let tail = self.tail_of_window();
            self.window.clear();
            self.shown = 0;
            return tail;
        }
        self.joined.finish(&mut out);
        out
    }

    fn tail_of_window(&self) -> String {
        let before = self.tokenizer.decode(&self.window[..self.shown], self.skip_special);
        let mut all = self.tokenizer.decode(&self.window, self.skip_special);
        let mut from = before.len().min(all.len());
        while !all.is_char_boundary(from) {
            from -= 1;
        }
        all.split_off(from)
    }

    fn push_window(&mut self, id: u32) -> String {
        self.window.push(id);
        let tail = self.tail_of_window();
        if tail.is_empty() || (tail.ends_with('\u{fffd}') && self.window.len() < WINDOW_MAX) {
            return String::new();
        }
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        tail
    }
}
