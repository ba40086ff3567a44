//! Vocabularies in which any text is a prompt, because bytes are tokens; all further pieces are made up.

use super::gguf::Header;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// The texts of the first three tokens.
const SPECIAL: [(&str, i32); 3] = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];

/// As SentencePiece has it: pieces with scores. The given control tokens come last.
pub(super) fn pieces(size: u64, controls: &[&str], header: &mut Header) {
    header.string("tokenizer.ggml.model", "llama");
    let words = size - controls.len() as u64;
    let bytes = (0..256).map(|byte| (format!("<0x{byte:02X}>"), BYTE));
    let made_up = (259..words).map(|id| (format!("token{id}"), NORMAL));
    let controls = controls.iter().map(|text| ((*text).to_owned(), CONTROL));
    tokens(special().chain(bytes).chain(made_up).chain(controls).collect(), header);
    header.array("tokenizer.ggml.scores", 6, size);
    (0..size).for_each(|id| header.bytes.extend((-(id as f32)).to_le_bytes()));
}

/// As GPT-2 has it: bytes, each as a printable character, and what they merge to. Some readers know no other.
pub(super) fn merges(size: u64, header: &mut Header) {
    header.string("tokenizer.ggml.model", "gpt2");
    header.string("tokenizer.ggml.pre", "gpt-2");
    let bytes = printable();
    // Pairs of bytes, those of letters that words have first; each piece is named by what it merges.
    let merged: Vec<(char, char)> = letters()
        .flat_map(|left| letters().map(move |right| (left, right)))
        .chain(
            bytes
                .iter()
                .flat_map(|left| bytes.iter().map(|right| (*left, *right)))
                .filter(|(left, right)| !(left.is_ascii_lowercase() && right.is_ascii_lowercase())),
        )
        .take((size - 259) as usize)
        .collect();
    let singles = bytes.iter().map(|byte| (byte.to_string(), NORMAL));
    let pairs = merged.iter().map(|(left, right)| (format!("{left}{right}"), NORMAL));
    tokens(special().chain(singles).chain(pairs).collect(), header);
    header.array("tokenizer.ggml.merges", 8, merged.len() as u64);
    merged.iter().for_each(|(left, right)| header.text(&format!("{left} {right}")));
}

fn special() -> impl Iterator<Item = (String, i32)> {
    SPECIAL.into_iter().map(|(text, kind)| (text.to_owned(), kind))
}

fn letters() -> impl Iterator<Item = char> {
    'a'..='z'
}

/// The character by which GPT-2's vocabulary writes each byte: itself if it is printable Latin-1, else one from U+0100.
fn printable() -> Vec<char> {
    let mut further = '\u{100}'..;
    let plain = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    (0..=255u8)
        .map(|byte| {
            if plain(&byte) { char::from(byte) } else { further.next().expect("few bytes are not printable") }
        })
        .collect()
}

fn tokens(tokens: Vec<(String, i32)>, header: &mut Header) {
    header.array("tokenizer.ggml.tokens", 8, tokens.len() as u64);
    tokens.iter().for_each(|(text, _)| header.text(text));
    header.array("tokenizer.ggml.token_type", 5, tokens.len() as u64);
    tokens.iter().for_each(|(_, kind)| header.bytes.extend(kind.to_le_bytes()));
}
