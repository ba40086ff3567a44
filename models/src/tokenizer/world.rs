//! RWKV's World vocabulary: `rwkv_vocab_*.txt`.
//!
//! A text is cut from left to right, each time at the longest token that it begins with. Tokens are bytes
//! and need not be whole characters, so inside the engine they are spelled in GPT-2's alphabet.

use std::collections::HashMap;

use tokenizers::{AddedToken, Token};

use super::bytes::{Spelling, spell_byte};
use super::guarded::Subwords;
use super::{Parts, Tokenizer, TokenizerError};

const FILE: &str = "rwkv_vocab.txt";

/// Token 0 ends a document; the file does not list it.
const END: &str = "<|rwkv_tokenizer_end_of_text|>";

/// The longest token of the published vocabulary has 128 bytes.
const TOKEN_BYTES_MAX: usize = 1024;

/// A vocabulary of bytes in a tree of prefixes.
#[derive(Debug)]
pub(super) struct World {
    nodes: Vec<Node>,
    texts: HashMap<u32, String>,
    ids: HashMap<String, u32>,
}

#[derive(Debug, Default)]
struct Node {
    id: Option<u32>,
    /// Ascending by byte.
    children: Vec<(u8, u32)>,
}

impl World {
    fn new(tokens: &[(u32, Vec<u8>)]) -> Self {
        let mut world = World { nodes: vec![Node::default()], texts: HashMap::new(), ids: HashMap::new() };
        for (id, bytes) in tokens {
            let mut at = 0;
            for byte in bytes {
                at = match world.nodes[at].children.binary_search_by_key(byte, |(byte, _)| *byte) {
                    Ok(found) => world.nodes[at].children[found].1 as usize,
                    Err(place) => {
                        let next = world.nodes.len();
                        // Fewer nodes than bytes in a file of at most 64 MB.
                        world.nodes[at].children.insert(place, (*byte, next as u32));
                        world.nodes.push(Node::default());
                        next
                    }
                };
            }
            world.nodes[at].id = Some(*id);
            let text: String = bytes.iter().map(|byte| spell_byte(*byte)).collect();
            world.ids.insert(text.clone(), *id);
            world.texts.insert(*id, text);
        }
        world
    }

    /// The longest token that the bytes begin with, and its length.
    fn longest(&self, bytes: &[u8]) -> Option<(usize, u32)> {
        let (mut at, mut found) = (0, None);
        for (index, byte) in bytes.iter().enumerate() {
            let children = &self.nodes[at].children;
            let Ok(next) = children.binary_search_by_key(byte, |(byte, _)| *byte) else { break };
            at = children[next].1 as usize;
            found = self.nodes[at].id.map(|id| (index + 1, id)).or(found);
        }
        found
    }

    pub(super) fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let (length, id) = self
                .longest(&text.as_bytes()[at..])
                .ok_or_else(|| format!("no token begins with byte {:#04x}", text.as_bytes()[at]))?;
            tokens.push(Token { id, value: self.texts[&id].clone(), offsets: (at, at + length) });
            at += length;
        }
        Ok(tokens)
    }

    pub(super) fn ids(&self) -> &HashMap<String, u32> {
        &self.ids
    }

    pub(super) fn text(&self, id: u32) -> Option<&String> {
        self.texts.get(&id)
    }
}

impl Tokenizer {
    /// Reads a vocabulary of RWKV's World models: lines of an id, a Python literal of text or bytes, and the
    /// number of its bytes.
    pub fn from_rwkv_world(bytes: &[u8]) -> Result<Tokenizer, TokenizerError> {
        let file = std::str::from_utf8(bytes).map_err(|error| TokenizerError::format(FILE, "file", error))?;
        let mut tokens = Vec::new();
        for (index, line) in file.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = |why: &str| TokenizerError::format(FILE, format!("line {}", index + 1), why);
            let (id, rest) = line.split_once(' ').ok_or_else(|| wrong("expected an id and a literal"))?;
            let (literal, length) = rest.rsplit_once(' ').ok_or_else(|| wrong("expected a length"))?;
            let id: u32 = id.parse().map_err(|_| wrong("the id is no number"))?;
            let bytes = literal_bytes(literal).ok_or_else(|| wrong("expected a Python literal"))?;
            if length.trim().parse() != Ok(bytes.len()) || bytes.is_empty() || bytes.len() > TOKEN_BYTES_MAX {
                return Err(wrong(&format!("the literal has {} bytes, not {length}", bytes.len())));
            }
            tokens.push((id, bytes));
        }
        Self::of_world(FILE, &tokens)
    }

    /// A vocabulary of bytes with the token 0 that ends a document.
    pub(super) fn of_world(
        file: &'static str,
        tokens: &[(u32, Vec<u8>)],
    ) -> Result<Tokenizer, TokenizerError> {
        if tokens.is_empty() {
            return Err(TokenizerError::format(file, "vocabulary", "the vocabulary is empty"));
        }
        if let Some((id, _)) = tokens.iter().find(|(id, _)| *id == 0) {
            return Err(TokenizerError::format(file, "vocabulary", format!("token {id} is not the end")));
        }
        let mut tokenizer = Parts {
            file,
            model: Subwords::World(World::new(tokens)),
            preparation: None,
            pre_tokenizer: None,
            decoder: None,
            spelling: Spelling::ByteLevel,
            spelled: HashMap::new(),
            added: vec![(0, AddedToken::from(END.to_owned(), true).normalized(false))],
        }
        .assemble()?;
        tokenizer.eos = Some(0);
        Ok(tokenizer)
    }
}

/// The bytes of a Python literal `'..'`, `".."`, `b'..'` or `b".."`.
pub(super) fn literal_bytes(literal: &str) -> Option<Vec<u8>> {
    let (raw, body) = match literal.strip_prefix('b') {
        Some(body) => (true, body),
        None => (false, literal),
    };
    let quote = body.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    let body = body.strip_prefix(quote)?.strip_suffix(quote)?;
    unescape(body, raw)
}

/// Resolves Python's escapes. In text `\x41` is a character, in bytes a byte.
pub(super) fn unescape(body: &str, raw: bool) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len());
    let mut push = |code: u32| -> Option<()> {
        match u8::try_from(code) {
            Ok(byte) if raw => out.push(byte),
            _ => out.extend(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        Some(())
    };
    let mut rest = body.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            push(u32::from(character))?;
            continue;
        }
        let escape = rest.next()?;
        let digits = match escape {
            'n' | 't' | 'r' | '\\' | '\'' | '"' | '0' => 0,
            'x' => 2,
            'u' if !raw => 4,
            'U' if !raw => 8,
            _ => return None,
        };
        push(match escape {
            'n' => 0x0a,
            't' => 0x09,
            'r' => 0x0d,
            '0' => 0,
            '\\' | '\'' | '"' => u32::from(escape),
            _ => hexadecimal(rest.by_ref().take(digits), digits)?,
        })?;
    }
    Some(out)
}

fn hexadecimal(digits: impl Iterator<Item = char>, count: usize) -> Option<u32> {
    let text: String = digits.collect();
    let sound = text.len() == count && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    sound.then(|| u32::from_str_radix(&text, 16).ok())?
}
