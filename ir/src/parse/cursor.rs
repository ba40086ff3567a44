//! A place in the text, and the smallest things that can stand there.

use super::{NUMBER_MAX, ParseError};
use crate::print::is_bare;

#[derive(Clone, Debug)]
pub(super) struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl<'t> Cursor<'t> {
    pub(super) fn new(text: &'t str) -> Cursor<'t> {
        Cursor { text, at: 0 }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let length = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Skips spaces and a comment, up to the end of the line.
    fn skip_blank(&mut self) {
        self.take(|c| matches!(c, ' ' | '\t' | '\r'));
        if self.rest().starts_with('#') {
            self.take(|c| c != '\n');
        }
    }

    /// Skips blank lines and the ends of statements; says how many ends there were.
    pub(super) fn skip_lines(&mut self) -> usize {
        let mut lines = 0;
        loop {
            self.skip_blank();
            let ends = self.take(|c| matches!(c, '\n' | ';'));
            if ends.is_empty() {
                return lines;
            }
            lines += ends.len();
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest().is_empty()
    }

    /// The byte offset, after blanks.
    pub(super) fn position(&mut self) -> usize {
        self.skip_blank();
        self.at
    }

    /// The cursor at a byte offset that [`position`](Cursor::position) gave.
    pub(super) fn back_to(&self, at: usize) -> Cursor<'t> {
        Cursor { text: self.text, at }
    }

    pub(super) fn sees(&mut self, token: &str) -> bool {
        self.skip_blank();
        let Some(after) = self.rest().strip_prefix(token) else { return false };
        let ends_word = token.ends_with(is_word);
        !(ends_word && after.starts_with(is_word))
    }

    /// Whether the next character satisfies `test`.
    pub(super) fn sees_char(&mut self, test: impl Fn(char) -> bool) -> bool {
        self.skip_blank();
        self.rest().starts_with(test)
    }

    pub(super) fn eat(&mut self, token: &str) -> bool {
        let sees = self.sees(token);
        if sees {
            self.at += token.len();
        }
        sees
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<(), ParseError> {
        if self.eat(token) { Ok(()) } else { Err(self.error(&format!("`{token}`"))) }
    }

    /// Letters, digits and `_`, not beginning with a digit.
    pub(super) fn word(&mut self) -> Option<&'t str> {
        self.skip_blank();
        if !self.rest().starts_with(|c: char| is_word(c) && !c.is_ascii_digit()) {
            return None;
        }
        Some(self.take(is_word))
    }

    /// The name after a `%`.
    pub(super) fn node_name(&mut self) -> Option<&'t str> {
        if !self.eat("%") {
            return None;
        }
        Some(self.take(is_word)).filter(|name| !name.is_empty())
    }

    /// A name, in quotes if it has unusual characters.
    pub(super) fn name(&mut self, what: &str) -> Result<String, ParseError> {
        self.skip_blank();
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        let start = self.clone();
        let name = self.take(is_bare);
        if name.is_empty() { Err(start.error(what)) } else { Ok(name.to_owned()) }
    }

    fn quoted(&mut self) -> Result<String, ParseError> {
        let start = self.clone();
        let mut name = String::new();
        let mut letters = self.rest().char_indices().skip(1);
        while let Some((offset, c)) = letters.next() {
            match c {
                '"' => {
                    self.at += offset + 1;
                    return Ok(name);
                }
                '\\' => match letters.next() {
                    Some((_, 'n')) => name.push('\n'),
                    Some((_, c @ ('"' | '\\'))) => name.push(c),
                    _ => return Err(start.error("a name whose backslashes stand before `\"`, `\\` or `n`")),
                },
                '\n' => break,
                c => name.push(c),
            }
        }
        Err(start.error("a name that ends with `\"`"))
    }

    /// An integer, perhaps negative.
    pub(super) fn integer(&mut self) -> Result<i64, ParseError> {
        let start = self.clone();
        let negative = self.eat("-");
        let value = self.digits().ok_or_else(|| start.error("an integer below 2^48"))?;
        Ok(if negative { -value } else { value })
    }

    /// An integer without sign.
    pub(super) fn digits(&mut self) -> Option<i64> {
        self.skip_blank();
        let digits = self.take(|c| c.is_ascii_digit());
        digits.parse().ok().filter(|value| *value < NUMBER_MAX)
    }

    /// Whether a number can begin here.
    pub(super) fn sees_number(&mut self) -> bool {
        self.sees_char(|c| c.is_ascii_digit() || matches!(c, '-' | '.'))
            || self.sees("inf")
            || self.sees("nan")
    }

    /// The text of a number of a constant.
    pub(super) fn number(&mut self) -> &'t str {
        self.skip_blank();
        self.take(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'))
    }

    pub(super) fn error(&self, expected: &str) -> ParseError {
        let mut here = self.clone();
        here.skip_blank();
        let before = &self.text[..here.at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let rest = here.rest();
        let found = match rest.chars().next() {
            None => "the end of the text".to_owned(),
            Some('\n') => "the end of the line".to_owned(),
            Some(c) if is_word(c) => format!("`{}`", here.take(is_word).chars().take(40).collect::<String>()),
            Some(c) => format!("`{c}`"),
        };
        ParseError { line, column, expected: expected.to_owned(), found }
    }
}
