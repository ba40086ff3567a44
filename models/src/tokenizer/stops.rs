//! Stop strings in a stream of text.

use super::TokenizerError;

/// Looks for stop strings in text that arrives in parts, and lets no part of one through.
///
/// Invariant: the text held back is always a proper beginning of some stop string, so at most the longest
/// stop string less one character waits. The result does not depend on how the text was cut into parts: the
/// stop string that is complete first wins, and of those that end together the longest.
#[derive(Debug, Clone)]
pub struct Stops {
    stops: Vec<String>,
    held: String,
    matched: Option<usize>,
}

/// What [`Stops::push`] lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Text that is certainly not part of a stop string.
    pub text: String,
    /// The index of the stop string that ended the text, if one did.
    pub matched: Option<usize>,
}

impl Stops {
    /// Takes the stop strings; none of them may be empty.
    pub fn new(stops: Vec<String>) -> Result<Self, TokenizerError> {
        match stops.iter().position(String::is_empty) {
            Some(index) => Err(TokenizerError::EmptyStop { index }),
            None => Ok(Stops { stops, held: String::new(), matched: None }),
        }
    }

    /// Takes the next part of the text and returns what may be shown. After a match nothing more passes.
    pub fn push(&mut self, text: &str) -> Passed {
        if self.matched.is_some() {
            return Passed { text: String::new(), matched: self.matched };
        }
        self.held.push_str(text);
        let hits = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            self.held.find(stop.as_str()).map(|start| (start + stop.len(), start, index))
        });
        if let Some((_, start, index)) = hits.min() {
            self.matched = Some(index);
            self.held.truncate(start);
            return Passed { text: std::mem::take(&mut self.held), matched: self.matched };
        }
        let waiting = self.held.split_off(self.held.len() - self.waiting_bytes());
        Passed { text: std::mem::replace(&mut self.held, waiting), matched: None }
    }

    /// The text ended: returns what was held back in vain.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The longest end of the held text that begins a stop string.
    fn waiting_bytes(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        (from..self.held.len())
            .filter(|at| self.held.is_char_boundary(*at))
            .find(|at| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..])))
            .map_or(0, |at| self.held.len() - at)
    }
}
