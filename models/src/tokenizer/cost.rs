//! What tokenising takes of memory, known before it is begun: who has a limit can refuse a text that would break it.

/// For each byte of a text: copies of it, where each byte came from, and tokens of few bytes.
const PER_BYTE: u64 = 220;

/// For each word beside: the engine keeps a text of its own for every one.
const PER_WORD: u64 = 340;

/// The most bytes of memory that tokenising a text takes beside the text, by any vocabulary, as measured with texts of all
/// kinds: prose takes 80 to 170 bytes for each of its own, a text of signs and line ends up to 450. It is all free again
/// but the ids.
pub fn bytes_to_encode(text: &str) -> u64 {
    text.len() as u64 * PER_BYTE + words(text) * PER_WORD
}

/// No fewer words than any vocabulary cuts a text into: letters belong to the letter or to the one space before them, and
/// all else stands alone.
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
