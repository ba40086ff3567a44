//! Guesses at what comes next, looked up in what was said: after words that were said before often comes what came
//! after them then (prompt lookup, or n-gram speculation). A pass that computes several guessed tokens at once costs
//! little more than a pass of one wherever reading the weights is what takes the time.
//!
//! Guesses change how many tokens a pass gives and never which: the sampler is asked for each token in turn, with the
//! logits that a pass of its own would have given it, and a guess counts only if it is the very token it chose. So
//! draws, penalties and all else that looks at the text see what they would see without guesses.

mod chances;
mod guesser;
mod pace;

pub(crate) use guesser::Guesser;

/// Whether tokens are guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculation {
    /// No: a pass for each token.
    #[default]
    Off,
    /// Where the passes so far let expect that it saves time.
    Auto(Lookup),
    /// Wherever guesses were right often enough, as if a pass of several tokens took as long as one of a single token.
    Always(Lookup),
}

/// Which repetitions are looked for, and how far guesses go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The longest run of last tokens that is looked for.
    pub ngram_max: usize,
    /// The shortest.
    pub ngram_min: usize,
    /// The most tokens that are guessed at once.
    pub draft_max: usize,
}

impl Lookup {
    /// The most tokens that one pass can verify: it has a row for each of them and one for the token before.
    pub const DRAFT_MAX: usize = jtllm_runtime::network::SEQUENCES - 1;
}

impl Default for Lookup {
    fn default() -> Lookup {
        Lookup { ngram_max: 3, ngram_min: 1, draft_max: Lookup::DRAFT_MAX }
    }
}

/// No place: positions are below.
const NOWHERE: u32 = u32::MAX;

/// The most tokens that two places are compared by.
const ALIKE_MAX: usize = 16;

/// Where each run of tokens was said last. A token takes the same time to add, and a guess to find, however long the
/// text is.
pub(crate) struct Index {
    lookup: Lookup,
    text: Vec<u32>,
    /// For each length of runs, by a hash of a run: where what followed it begins. One entry a hash: what was said
    /// later takes the place of what was said earlier, and of runs that share the hash.
    places: Vec<u32>,
}

/// Tokens that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where they were said.
    place: usize,
    /// How many tokens before them are the last that were said.
    pub(crate) alike: usize,
}

impl Index {
    /// An empty text, of which about so many tokens are to be known at a time.
    pub(crate) fn new(lookup: Lookup, tokens: usize) -> Index {
        let lengths = (lookup.ngram_max + 1).saturating_sub(lookup.ngram_min.max(1));
        // Twice as many entries as runs, so that few share one.
        let each = (2 * tokens).next_power_of_two().clamp(1 << 8, 1 << 24);
        Index { lookup, text: Vec::with_capacity(tokens), places: vec![NOWHERE; lengths * each] }
    }

    pub(crate) fn lookup(&self) -> Lookup {
        self.lookup
    }

    /// The entry of the run of `length` tokens that ends before `end`.
    fn entry(&self, end: usize, length: usize) -> usize {
        let each = self.places.len() / (self.lookup.ngram_max + 1 - self.lookup.ngram_min.max(1));
        let run = &self.text[end - length..end];
        // Each token moves all bits of those before it (FNV's scheme with the golden ratio for its prime); the upper
        // bits are the best mixed.
        let mix =
            |hash: u64, id: &u32| (hash ^ u64::from(*id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        let hash = run.iter().fold(length as u64, mix).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (length - self.lookup.ngram_min.max(1)) * each + (hash >> 32) as usize % each
    }

    /// The lengths of the runs that end where the text does, the longest first.
    fn lengths(&self) -> impl Iterator<Item = usize> + use<> {
        let most = self.lookup.ngram_max.min(self.text.len());
        (self.lookup.ngram_min.max(1)..=most).rev()
    }

    /// Adds a token to the text.
    pub(crate) fn push(&mut self, id: u32) {
        let at = self.text.len();
        // The runs before this token are known only from now on: so none finds itself.
        for length in self.lengths() {
            let entry = self.entry(at, length);
            self.places[entry] = u32::try_from(at).unwrap_or(NOWHERE);
        }
        self.text.push(id);
    }

    /// Where the longest run of last tokens was said before.
    pub(crate) fn find(&self) -> Option<Found> {
        let end = self.text.len();
        self.lengths().find_map(|length| {
            let place = self.places[self.entry(end, length)];
            let place = Some(place as usize).filter(|_| place != NOWHERE)?;
            let before = self.text[..place].iter().rev().zip(self.text.iter().rev());
            let alike = before.take(ALIKE_MAX).take_while(|(then, now)| then == now).count();
            (alike >= length).then_some(Found { place, alike })
        })
    }

    /// The first `count` tokens of what was found. Where the text ends before, it is taken to go round.
    pub(crate) fn guess(&self, found: Found, count: usize) -> impl Iterator<Item = u32> + '_ {
        let period = self.text.len() - found.place;
        (0..count).map(move |at| self.text[found.place + at % period])
    }
}

/// The logits of a pass: of the token that was appended, then of the guesses behind it.
pub(crate) struct Rows {
    logits: Vec<f32>,
    width: usize,
    guess: Vec<u32>,
    /// The row of the last token that was said.
    at: usize,
}

impl Rows {
    /// A pass's logits of so many for each token; guesses that have none were not computed.
    pub(crate) fn new(logits: Vec<f32>, width: usize, mut guess: Vec<u32>) -> Rows {
        guess.truncate((logits.len() / width).saturating_sub(1));
        Rows { logits, width, guess, at: 0 }
    }

    /// How many tokens the pass computed.
    pub(crate) fn count(&self) -> usize {
        1 + self.guess.len()
    }

    /// The logits of the last token that was said.
    pub(crate) fn last(&mut self) -> &mut [f32] {
        let end = if self.guess.is_empty() { self.logits.len() } else { (self.at + 1) * self.width };
        &mut self.logits[self.at * self.width..end]
    }

    /// Whether the pass has computed this token, as the one after the last: then it is the last.
    pub(crate) fn goes_on(&mut self, id: u32) -> bool {
        let guessed = self.guess.get(self.at) == Some(&id);
        self.at += usize::from(guessed);
        guessed
    }
}
