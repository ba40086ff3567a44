//! From tokens back to text, one token at a time.
//!
//! Almost every vocabulary spells a token as bytes that do not depend on its neighbours; only the joining
//! of bytes into characters, and one leading space, look at more than one token. [`Utf8`] holds that state,
//! so that decoding a whole answer and decoding it as it arrives are the same code.

/// How a vocabulary writes bytes as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's alphabet: each byte is one printable character.
    ByteLevel,
    /// SentencePiece: U+2581 is a space, `<0x0A>` is a byte, and `strip` leading spaces of a text are the
    /// encoder's own.
    Pieces { strip: usize },
    /// PanGu's: U+2581 only separates, U+2582 is a space and U+2583 a line end.
    Words,
    /// A rule that depends on neighbouring tokens, such as WordPiece's.
    Joined,
}

/// Joins bytes into characters; what is not UTF-8 becomes U+FFFD.
#[derive(Debug, Clone)]
pub(super) struct Utf8 {
    /// At most three bytes: the beginning of a character.
    pending: Vec<u8>,
    /// SentencePiece writes one U+FFFD for each bad byte, byte-level vocabularies one for each bad sequence.
    each_byte: bool,
    strip: usize,
}

impl Utf8 {
    pub(super) fn new(spelling: Spelling, at_start: bool) -> Self {
        let strip = match spelling {
            Spelling::Pieces { strip } if at_start => strip,
            _ => 0,
        };
        Utf8 { pending: Vec::new(), each_byte: matches!(spelling, Spelling::Pieces { .. }), strip }
    }

    /// Appends to `out` all characters that are complete after `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut String) {
        let from = out.len();
        self.pending.extend_from_slice(bytes);
        let joined = std::mem::take(&mut self.pending);
        let mut rest = &joined[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    break;
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    out.push_str(std::str::from_utf8(good).expect("valid_up_to counts valid bytes"));
                    let Some(length) = error.error_len() else {
                        self.pending.extend_from_slice(bad);
                        break;
                    };
                    out.push(char::REPLACEMENT_CHARACTER);
                    rest = &bad[if self.each_byte { 1 } else { length }..];
                }
            }
        }
        self.strip_from(out, from);
    }

    /// Appends what an unfinished character leaves behind at the end of the text.
    pub(super) fn finish(&mut self, out: &mut String) {
        let count = if self.each_byte { self.pending.len() } else { self.pending.len().min(1) };
        out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, count));
        self.pending.clear();
    }

    fn strip_from(&mut self, out: &mut String, from: usize) {
        while self.strip > 0 && out.len() > from {
            if out[from..].starts_with(' ') {
                out.remove(from);
                self.strip -= 1;
            } else {
                self.strip = 0;
            }
        }
    }
}

/// The bytes that a token of GPT-2's alphabet stands for; `None` if a character is outside the alphabet.
pub(super) fn byte_level(token: &str) -> Option<Vec<u8>> {
    token.chars().map(alphabet_byte).collect()
}

/// The inverse of GPT-2's `bytes_to_unicode`: printable Latin-1 stands for itself, the other 68 bytes are
/// numbered in order from U+0100.
fn alphabet_byte(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// GPT-2's `bytes_to_unicode`: the character that stands for a byte.
pub(super) fn spell_byte(byte: u8) -> char {
    let code = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0x00..=0x20 => u32::from(byte) + 0x100,
        0x7f..=0xa0 => u32::from(byte) - 0x7f + 0x121,
        0xad => 0x143,
    };
    char::from_u32(code).expect("every code here is below the surrogates")
}

/// The bytes that a piece of PanGu's vocabulary stands for.
pub(super) fn word(token: &str) -> Vec<u8> {
    token.replace('\u{2581}', "").replace('\u{2582}', " ").replace('\u{2583}', "\n").into_bytes()
}

/// The bytes that a SentencePiece piece stands for.
pub(super) fn piece(token: &str) -> Vec<u8> {
    match byte_piece(token) {
        Some(byte) => vec![byte],
        None => token.replace('\u{2581}', " ").into_bytes(),
    }
}

/// The byte of a piece `<0xNN>`.
pub(super) fn byte_piece(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return u8::from_str_radix(hex, 16).ok();
    }
    None
}
