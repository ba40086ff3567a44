//! Rust source as tokens, so that a rule never mistakes a string or a comment for code.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier, a keyword or a lifetime.
    Word,
    /// A string, character or number.
    Literal,
    /// One character of punctuation.
    Mark,
    /// A comment of either form, documentation included.
    Comment,
}

/// A piece of source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    /// What it is.
    pub(crate) kind: Kind,
    /// Its text, delimiters included.
    pub(crate) text: &'a str,
    /// The line on which it begins, from 1.
    pub(crate) line: usize,
}

impl Token<'_> {
    /// Whether this is code (not a literal or a comment) that reads `text`.
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Mark) && self.text == text
    }
}

/// The tokens of `source`; source that does not end properly ends its last token.
pub(crate) fn lex(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        if bytes[at].is_ascii_whitespace() {
            line += usize::from(bytes[at] == b'\n');
            at += 1;
            continue;
        }
        let (kind, end) = token_end(bytes, at);
        let end = end.min(bytes.len());
        let text = &source[at..end];
        tokens.push(Token { kind, text, line });
        line += text.matches('\n').count();
        at = end;
    }
    tokens
}

/// The tokens that are not comments.
pub(crate) fn code(source: &str) -> Vec<Token<'_>> {
    let mut tokens = lex(source);
    tokens.retain(|token| token.kind != Kind::Comment);
    tokens
}

fn token_end(bytes: &[u8], at: usize) -> (Kind, usize) {
    let next = bytes.get(at + 1).copied();
    match bytes[at] {
        b'/' if next == Some(b'/') => (Kind::Comment, line_end(bytes, at)),
        b'/' if next == Some(b'*') => (Kind::Comment, block_comment_end(bytes, at)),
        b'"' => (Kind::Literal, quoted_end(bytes, at + 1, b'"')),
        b'\'' => after_apostrophe(bytes, at),
        byte if byte.is_ascii_digit() => (Kind::Literal, number_end(bytes, at)),
        byte if is_word(byte) => word_or_prefixed(bytes, at),
        _ => (Kind::Mark, at + 1),
    }
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80
}

fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).copied().is_some_and(is_word) {
        at += 1;
    }
    at
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn block_comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        match &bytes[at..(at + 2).min(bytes.len())] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The end of a literal whose content begins at `at` and that `quote` closes.
fn quoted_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A character literal, or a lifetime: a literal if one character stands between two apostrophes.
fn after_apostrophe(bytes: &[u8], at: usize) -> (Kind, usize) {
    if bytes.get(at + 1) == Some(&b'\\') {
        return (Kind::Literal, quoted_end(bytes, at + 1, b'\''));
    }
    let mut end = at + 2;
    while bytes.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
        end += 1; // the rest of one character of several bytes
    }
    if bytes.get(end) == Some(&b'\'') {
        return (Kind::Literal, end + 1);
    }
    (Kind::Word, word_end(bytes, at + 1).max(at + 1))
}

fn number_end(bytes: &[u8], at: usize) -> usize {
    let mut end = word_end(bytes, at);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = word_end(bytes, end + 1);
    }
    end
}

/// A word, or the literal that a prefix such as `br##` opens.
fn word_or_prefixed(bytes: &[u8], at: usize) -> (Kind, usize) {
    let end = word_end(bytes, at);
    let prefix = &bytes[at..end];
    match bytes.get(end) {
        Some(b'"') if matches!(prefix, b"b" | b"c") => (Kind::Literal, quoted_end(bytes, end + 1, b'"')),
        Some(b'\'') if prefix == b"b" => (Kind::Literal, quoted_end(bytes, end + 1, b'\'')),
        Some(b'"' | b'#') if matches!(prefix, b"r" | b"br" | b"cr") => {
            let hashes = bytes[end..].iter().take_while(|byte| **byte == b'#').count();
            let open = end + hashes;
            if bytes.get(open) == Some(&b'"') {
                (Kind::Literal, raw_end(bytes, open + 1, hashes))
            } else if hashes == 1 {
                (Kind::Word, word_end(bytes, open)) // a raw identifier
            } else {
                (Kind::Word, end)
            }
        }
        _ => (Kind::Word, end),
    }
}

fn raw_end(bytes: &[u8], at: usize, hashes: usize) -> usize {
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    bytes[at..]
        .windows(close.len())
        .position(|window| window == close)
        .map_or(bytes.len(), |length| at + length + close.len())
}
