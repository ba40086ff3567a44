//! Last touches to an answer while it streams.

/// What is changed in the text of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Touches {
    /// Left out where the answer begins with it.
    pub opening: &'static str,
    /// Whether white space at the beginning and at the end is left out.
    pub trims: bool,
    /// Texts and what stands in their place.
    pub replaced: &'static [(&'static str, &'static str)],
    /// Whether punctuation beside a Chinese character takes its wide form.
    pub wide: bool,
}

impl Touches {
    /// Nothing is changed.
    pub const NONE: Touches = Touches { opening: "", trims: false, replaced: &[], wide: false };
}

/// Punctuation and its wide form.
const WIDE: [(char, char); 5] = [(',', '，'), ('!', '！'), (':', '：'), (';', '；'), ('?', '？')];

fn is_chinese(character: char) -> bool {
    ('\u{4e00}'..='\u{9fff}').contains(&character)
}

/// Applies [`Touches`] to text that comes in parts. The result does not depend on how it was cut; what waits
/// is what the next character may still change.
#[derive(Debug)]
pub struct Polish {
    touches: Touches,
    held: String,
    /// The last character that was let through.
    last: Option<char>,
    begun: bool,
}

impl Polish {
    /// For one answer.
    pub fn new(touches: Touches) -> Polish {
        Polish { touches, held: String::new(), last: None, begun: false }
    }

    /// Takes the next part of the text and gives what is certain.
    pub fn push(&mut self, text: &str) -> String {
        self.held.push_str(text);
        self.advance(false)
    }

    /// The text ended: gives the rest of it.
    pub fn finish(&mut self) -> String {
        self.advance(true)
    }

    fn advance(&mut self, ended: bool) -> String {
        let mut held = std::mem::take(&mut self.held);
        let mut out = String::new();
        if self.begin(&mut held, ended) {
            let mut rest = held.as_str();
            while let Some((piece, len)) = self.next(rest, ended) {
                self.last = piece.chars().next_back().or(self.last);
                out.push_str(&piece);
                rest = &rest[len..];
            }
            held = rest.to_owned();
        }
        self.held = held;
        out
    }

    /// Takes off the beginning; false while it is not known.
    fn begin(&mut self, held: &mut String, ended: bool) -> bool {
        if self.begun {
            return true;
        }
        let trims = self.touches.trims;
        let trim = |text: &str| if trims { text.trim_start().to_owned() } else { text.to_owned() };
        let opening = self.touches.opening;
        let text = trim(held);
        if text.is_empty() || (!ended && text.len() < opening.len() && opening.starts_with(&text)) {
            return false;
        }
        let rest = text.strip_prefix(opening).map(trim).unwrap_or(text);
        // White space behind the opening may go on in the next part.
        self.begun = !rest.is_empty();
        *held = if self.begun { rest } else { opening.to_owned() };
        self.begun
    }

    /// What the beginning of `rest` becomes and how long it was; `None` if that is not known, or nothing is left.
    fn next(&self, rest: &str, ended: bool) -> Option<(String, usize)> {
        let first = rest.chars().next()?;
        for (from, to) in self.touches.replaced {
            if rest.starts_with(from) {
                return Some(((*to).to_owned(), from.len()));
            }
            if !ended && from.starts_with(rest) {
                return None;
            }
        }
        if self.touches.trims && first.is_whitespace() {
            let len = rest.len() - rest.trim_start().len();
            return (len < rest.len()).then(|| (rest[..len].to_owned(), len));
        }
        let mut character = first;
        if let Some((_, wide)) = WIDE.iter().find(|(narrow, _)| self.touches.wide && *narrow == first) {
            let next = rest[first.len_utf8()..].chars().next();
            let before = self.last.is_some_and(is_chinese);
            if !before && next.is_none() && !ended {
                return None;
            }
            if before || next.is_some_and(is_chinese) {
                character = *wide;
            }
        }
        Some((character.to_string(), first.len_utf8()))
    }
}
