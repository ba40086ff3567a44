//! Guesses at the tokens of answers.

use std::time::Duration;

use super::pace::Pace;
use super::{Found, Index, Lookup, Speculation};

/// Follows an answer, and guesses how it goes on. What it learnt of one answer is of use to the next.
#[derive(Default)]
pub(crate) struct Guesser {
    speculation: Speculation,
    pace: Pace,
    /// Nothing where nothing is guessed.
    index: Option<Index>,
    /// Where the text seems to be repeating itself, and the token that would come next.
    next: Option<(Found, u32)>,
}

impl Guesser {
    /// Guesses in that way from the next answer on.
    pub(crate) fn new(speculation: Speculation) -> Guesser {
        let pace = Pace::new(matches!(speculation, Speculation::Auto(_)));
        Guesser { speculation, pace, index: None, next: None }
    }

    pub(crate) fn speculation(&self) -> Speculation {
        self.speculation
    }

    /// Begins an answer to a prompt, in a context of so many positions, where making a plan takes so long; nothing is
    /// guessed unless it is possible.
    pub(crate) fn begin(&mut self, prompt: &[u32], context: usize, making: Duration, possible: bool) {
        self.pace.begin(making);
        let lookup = match self.speculation {
            Speculation::Auto(lookup) | Speculation::Always(lookup) if possible => Some(lookup),
            _ => None,
        };
        self.index = lookup.map(|lookup| Index::new(lookup, context));
        prompt.iter().for_each(|id| self.push(*id));
        self.look();
    }

    fn push(&mut self, id: u32) {
        if let Some(index) = &mut self.index {
            index.push(id);
        }
    }

    fn look(&mut self) {
        self.next = self.index.as_ref().and_then(|index| {
            let found = index.find()?;
            Some((found, index.guess(found, 1).next()?))
        });
    }

    /// Hears a token of the answer.
    pub(crate) fn hear(&mut self, id: u32) {
        // Whether a guess was right is learnt from every token, also from those for which no guess was computed.
        if let Some((found, next)) = self.next {
            self.pace.learn(found.alike, next == id);
        }
        self.push(id);
        self.look();
    }

    /// Guesses nothing from now on.
    pub(crate) fn stop(&mut self) {
        *self = Guesser::new(Speculation::Off);
    }

    /// Hears that passes run elsewhere now.
    pub(crate) fn moved(&mut self) {
        self.pace.moved();
    }

    /// Hears how long a pass of so many tokens took.
    pub(crate) fn took(&mut self, rows: usize, time: Duration) {
        self.pace.took(rows, time);
    }

    /// The tokens after the last one that are worth computing with it, at most `room`.
    pub(crate) fn guess(&mut self, room: usize) -> Vec<u32> {
        let (Some((found, _)), Some(index)) = (self.next, &self.index) else { return Vec::new() };
        let most = index.lookup().draft_max.min(Lookup::DRAFT_MAX);
        let count = self.pace.count(found.alike, most, room);
        index.guess(found, count).collect()
    }
}
