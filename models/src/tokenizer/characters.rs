//! SentencePiece's table of replaced characters, before the `tokenizers` crate reads it.
//!
//! The table begins with the length of its trie in bytes, little endian, and its reader reserves memory for
//! that much before it looks how much there is.

use serde_json::Value;

fn check_length(length: u32, room: usize) -> Result<(), String> {
    match usize::try_from(length) {
        Ok(length) if length <= room => Ok(()),
        _ => Err(format!("the table of characters has a trie of {length} bytes, but room for {room}")),
    }
}

/// Checks every table, in base64, inside the normalizer of a `tokenizer.json`.
pub(super) fn check_json(normalizer: &Value) -> Result<(), String> {
    match normalizer {
        Value::Array(items) => items.iter().try_for_each(check_json),
        Value::Object(fields) => {
            let table = fields.get("precompiled_charsmap").and_then(Value::as_str).unwrap_or_default();
            if let Some(length) = table.as_bytes().first_chunk().and_then(first_number) {
                check_length(length, table.len() / 4 * 3)?;
            }
            fields.values().try_for_each(check_json)
        }
        _ => Ok(()),
    }
}

/// The first four bytes, as a number, of what is base64 in RFC 4648's first alphabet; others are refused by
/// the reader.
fn first_number(text: &[u8; 6]) -> Option<u32> {
    let digits = text.iter().try_fold(0u64, |bits, digit| {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        Some(bits << 6 | u64::from(value))
    })?;
    // Six digits are 36 bits, of which the last four belong to the next byte.
    u32::try_from(digits >> 4).ok().map(u32::swap_bytes)
}
