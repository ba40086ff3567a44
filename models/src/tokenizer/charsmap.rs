//! SentencePiece's `precompiled_charsmap`: which characters a text is rewritten with before it is cut.
//!
//! The map is a trie of the sequences to rewrite, as a double array (darts-clone's units), and a block of the
//! texts to put in their place, each ended by a zero. At each place of a text the longest sequence counts.

/// The map of one vocabulary.
#[derive(Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    texts: Vec<u8>,
}

/// The label of a unit, and the mark of units that are leaves.
const LABEL: u32 = 0x8000_00ff;
const LEAF: u32 = 1 << 8;
const VALUE: u32 = 0x7fff_ffff;

/// How far from a unit its children lie.
fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize
}

impl Charsmap {
    /// Takes the map as the file has it: the byte length of the trie, the trie, the texts.
    pub(super) fn new(bytes: &[u8]) -> Result<Self, String> {
        let (length, rest) = bytes.split_first_chunk().ok_or("the map has no length")?;
        let length = u32::from_le_bytes(*length) as usize;
        let trie = rest.get(..length).filter(|trie| trie.len() % 4 == 0);
        let trie = trie.ok_or_else(|| {
            let room = rest.len();
            format!("the table of characters has a trie of {length} bytes, but room for {room}")
        })?;
        let unit = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("chunks of four bytes"));
        Ok(Charsmap { units: trie.chunks_exact(4).map(unit).collect(), texts: rest[length..].to_vec() })
    }

    /// The text with all sequences of the map rewritten.
    pub(super) fn rewrite(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (length, new) = self.longest(rest).unwrap_or_else(|| {
                let length = first.len_utf8();
                (length, &rest[..length])
            });
            out.push_str(new);
            rest = &rest[length..];
        }
        out
    }

    /// The longest sequence that the text begins with: its length, and what stands for it.
    fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (index, byte) in text.bytes().enumerate().take_while(|(_, byte)| *byte != 0) {
            at ^= usize::from(byte);
            let Some(unit) = self.units.get(at).filter(|unit| **unit & LABEL == u32::from(byte)) else {
                break;
            };
            at ^= offset(*unit);
            if unit & LEAF != 0 {
                found = self.units.get(at).map(|leaf| (index + 1, (leaf & VALUE) as usize)).or(found);
            }
        }
        let (length, start) = found.filter(|(length, _)| text.is_char_boundary(*length))?;
        let new = self.texts.get(start..)?.split(|byte| *byte == 0).next()?;
        Some((length, std::str::from_utf8(new).ok()?))
    }
}
