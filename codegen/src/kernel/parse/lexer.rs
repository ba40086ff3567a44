//! Words, numbers and marks, with their places.

use std::fmt;

use super::ParseError;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind<'t> {
    /// A letter or underscore, then letters, digits and underscores.
    Word(&'t str),
    /// Begins with a digit; may hold a fraction and an exponent.
    Number(&'t str),
    /// Punctuation.
    Mark(&'t str),
    /// After the last token.
    End,
}

impl fmt::Display for TokenKind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenKind::Word(text) | TokenKind::Number(text) | TokenKind::Mark(text) => write!(f, "`{text}`"),
            TokenKind::End => f.write_str("the end of the text"),
        }
    }
}

/// A token and where it begins, from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'t> {
    pub(super) kind: TokenKind<'t>,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Longer marks before those that begin them.
const MARKS: [&str; 15] = ["..", "==", "=", "<", "+", "-", "*", ",", ":", "@", "(", ")", "[", "]", "{"];
const CLOSE: &str = "}";

pub(super) struct Lexer<'t> {
    rest: &'t str,
    line: usize,
    column: usize,
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Lexer<'t> {
        Lexer { rest: text, line: 1, column: 1 }
    }

    /// Every token; the last one is `End`.
    pub(super) fn tokens(mut self) -> Result<Vec<Token<'t>>, ParseError> {
        let mut tokens = Vec::new();
        loop {
            self.skip();
            let (line, column) = (self.line, self.column);
            let kind = self.token()?;
            tokens.push(Token { kind, line, column });
            if kind == TokenKind::End {
                return Ok(tokens);
            }
        }
    }

    fn advance(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        for c in taken.chars() {
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        taken
    }

    fn skip(&mut self) {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.advance(blank);
            if !self.rest.starts_with('#') {
                return;
            }
            let comment = self.rest.find('\n').unwrap_or(self.rest.len());
            self.advance(comment);
        }
    }

    fn token(&mut self) -> Result<TokenKind<'t>, ParseError> {
        let Some(first) = self.rest.chars().next() else { return Ok(TokenKind::End) };
        if first.is_ascii_alphabetic() || first == '_' {
            let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let len = self.rest.find(|c| !inside(c)).unwrap_or(self.rest.len());
            return Ok(TokenKind::Word(self.advance(len)));
        }
        if first.is_ascii_digit() {
            let len = number_length(self.rest.as_bytes());
            return Ok(TokenKind::Number(self.advance(len)));
        }
        match MARKS.iter().chain([&CLOSE]).find(|mark| self.rest.starts_with(**mark)) {
            Some(mark) => Ok(TokenKind::Mark(self.advance(mark.len()))),
            None => {
                let message = format!("{first:?} has no meaning here");
                Err(ParseError { line: self.line, column: self.column, message })
            }
        }
    }
}

/// The bytes of `12`, `0x7f800000`, `1.5`, `2e-7`; in `0..4` the number ends before the dots.
fn number_length(text: &[u8]) -> usize {
    let digits = |from: usize| text[from..].iter().take_while(|c| c.is_ascii_alphanumeric()).count();
    let mut len = digits(0);
    if text[..len].starts_with(b"0x") {
        return len;
    }
    if text.get(len) == Some(&b'.') && text.get(len + 1).is_some_and(u8::is_ascii_digit) {
        len += 1 + digits(len + 1);
    }
    if matches!(text[len - 1], b'e' | b'E') && text.get(len) == Some(&b'-') {
        len += 1 + digits(len + 1);
    }
    len
}
