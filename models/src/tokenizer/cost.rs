//! What tokenising takes of memory, known before it is begun: who has a limit can refuse a text that would break it.

/// For each byte of a text: copies of it, where each byte came from, and tokens of few bytes.
const PER_BYTE: u64 = 220;

/// For each word beside: the engine keeps a text of its own for every one.
const PER_WORD: u64 = 340;

/// The most bytes of memory that tokenising a text takes beside the text, by any vocabulary, as measured with texts of all
/// kinds: prose takes 80 to 170 bytes for each of its own, a text of signs and line ends up to 450. It is all free again
/// but the ids.
pub fn bytes_to_encode(text: &str) -> u64 {
    let longer: u64 = text.chars().filter(|character| !character.is_ascii()).map(longer).sum();
    (text.len() as u64 + longer) * PER_BYTE + words(text) * PER_WORD
}

/// Bytes that a character may be longer by after a vocabulary's normalisation (NFKC or NFKD): a ligature of a whole sentence,
/// of words and numbers, accents and parts of syllables apart.
fn longer(character: char) -> u64 {
    match character {
        '\u{fdfa}' => 36,
        '\u{fdfb}' => 16,
        '\u{2100}'..='\u{24ff}' | '\u{3200}'..='\u{33ff}' | '\u{fb00}'..='\u{fdff}' => 16,
        '\u{2a00}'..='\u{2aff}' | '\u{1d000}'..='\u{1d1ff}' | '\u{1f100}'..='\u{1f2ff}' => 8,
        '\u{ac00}'..='\u{d7a3}' => 6,
        '\u{80}'..='\u{1fff}' => 4,
        '\u{f900}'..='\u{faff}' | '\u{fe00}'..='\u{ffef}' => 6,
        _ => 0,
    }
}

/// About as many words as vocabularies cut a text into at the most: letters belong to the letter or to the one space before
/// them, and all else stands alone.
fn words(text: &str) -> u64 {
    let mut words = 0;
    let mut joins = false;
    for character in text.chars() {
        let is_letter = character.is_alphabetic();
        words += u64::from(!(is_letter && joins));
        joins = is_letter || character == ' ';
    }
    words
}
