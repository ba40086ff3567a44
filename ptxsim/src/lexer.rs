//! PTX text as words, numbers and signs, each with its line.

use crate::error::ParseError;

/// A piece of text that means something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: u32,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// Bytes of the word at the beginning; `L1::no_allocate` is one word.
fn word(text: &str) -> usize {
    let mut end = 0;
    loop {
        end += text[end..].find(|c| !is_word(c)).unwrap_or(text.len() - end);
        match text[end..].strip_prefix("::") {
            Some(rest) if end > 0 && rest.starts_with(is_word) => end += 2,
            _ => return end,
        }
    }
}

/// All tokens; a string is one, with its quotes.
pub(crate) fn tokens(source: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut line = 1u32;
    while let Some(c) = rest.chars().next() {
        let unfinished = |what: &str| ParseError { line, why: format!("{what} does not end") };
        let len = if c.is_whitespace() {
            c.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").ok_or_else(|| unfinished("a comment"))? + 2
        } else {
            let len = match c {
                '"' => rest[1..].find('"').ok_or_else(|| unfinished("a string"))? + 2,
                _ => word(rest).max(c.len_utf8()),
            };
            found.push(Token { text: &rest[..len], line });
            len
        };
        line += rest[..len].bytes().filter(|byte| *byte == b'\n').count() as u32;
        rest = &rest[len..];
    }
    Ok(found)
}
