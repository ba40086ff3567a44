//! The words of a Chinese text, as Python's jieba cuts them for PanGu-alpha.
//!
//! `jieba-rs` has jieba's dictionary and model of unknown words. Two of its rules differ from Python's, and
//! ids with them: it takes rarer Chinese characters as parts of words, and any character as a decimal point.

use std::sync::LazyLock;

use jieba_rs::Jieba;

/// Half a second to build, and the same for everyone.
static DICTIONARY: LazyLock<Jieba> = LazyLock::new(Jieba::new);

/// The words of a text with one space between them; spaces and line ends become U+2582 and U+2583.
pub(super) fn words(text: &str) -> String {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = rest.find(|character| !in_words(character)).unwrap_or(rest.len());
        let length = match run {
            0 if rest.starts_with("\r\n") => 2,
            0 => first.len_utf8(),
            _ => run,
        };
        let (part, after) = rest.split_at(length);
        if run == 0 {
            found.push(part);
        } else {
            cut(part, &mut found);
        }
        rest = after;
    }
    let spelt: Vec<String> =
        found.into_iter().map(|word| word.replace(' ', "\u{2582}").replace('\n', "\u{2583}")).collect();
    spelt.join(" ")
}

/// The characters of which Python's jieba makes words.
fn in_words(character: char) -> bool {
    matches!(character, '\u{4e00}'..='\u{9fd5}') || in_names(character)
}

fn in_names(character: char) -> bool {
    character.is_ascii_alphanumeric() || "+#&._%-".contains(character)
}

/// Cuts a text of such characters.
fn cut<'a>(text: &'a str, found: &mut Vec<&'a str>) {
    let mut rest = text;
    // The words are neighbouring parts of the text; those of a run that was cut anew are passed over.
    let mut passed = 0;
    for word in DICTIONARY.cut(text, true) {
        if passed > 0 {
            passed -= word.len().min(passed);
        } else if has_wrong_point(word) {
            let run = rest.find(|character| !in_names(character)).unwrap_or(rest.len());
            numbers(&rest[..run], found);
            passed = run - word.len().min(run);
        } else {
            found.push(word);
        }
        rest = &rest[word.len()..];
    }
}

/// Whether a word is letters or digits, one character that is neither nor a point, and digits.
fn has_wrong_point(word: &str) -> bool {
    let rest = word.trim_start_matches(|character: char| character.is_ascii_alphanumeric());
    rest.len() < word.len()
        && !rest.starts_with(['.', '%'])
        && rest[rest.len().min(1)..].starts_with(|character: char| character.is_ascii_digit())
}

/// Python's rule for what is not Chinese: letters and digits, with a decimal part and a per cent sign, are a
/// word, and so is what stands between such words.
fn numbers<'a>(text: &'a str, found: &mut Vec<&'a str>) {
    let mut rest = text;
    while !rest.is_empty() {
        let bytes = rest.as_bytes();
        let count =
            |from: usize, is: fn(&u8) -> bool| bytes[from..].iter().take_while(|byte| is(byte)).count();
        let mut length = count(0, u8::is_ascii_alphanumeric);
        if length == 0 {
            length = count(0, |byte| !byte.is_ascii_alphanumeric());
        } else {
            let digits =
                if bytes.get(length) == Some(&b'.') { count(length + 1, u8::is_ascii_digit) } else { 0 };
            length += if digits > 0 { 1 + digits } else { 0 };
            length += usize::from(bytes.get(length) == Some(&b'%'));
        }
        let (word, after) = rest.split_at(length);
        found.push(word);
        rest = after;
    }
}
