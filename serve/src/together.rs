//! Sequences side by side: their prompts in common chunks, then a token of each in one pass.

use std::sync::Arc;

use jtllm_models::arch::LooksAhead;
use jtllm_runtime::network::{Batch, Row, SEQUENCES, TILE};
use jtllm_runtime::pages::PageTable;
use jtllm_runtime::trace::Trace;

use crate::engine::{EngineError, Fact};
use crate::model::Model;

/// Some sequences of one model, each with a cache of its own. The model must have been loaded for as many
/// ([`LoadOptions::sequences`](crate::LoadOptions::sequences)).
///
/// A device that fails is an error here: nothing is computed again elsewhere.
pub struct Together<'a> {
    model: &'a mut Model,
    pages: PageTable,
    /// Tokens that the cache holds of each sequence.
    held: Vec<usize>,
    facts: Vec<Vec<Fact>>,
    /// Times of kernels, while somebody wants them.
    pub trace: Option<Trace>,
}

/// Rows of a chunk, and which of them are the last of their sequence's tokens.
#[derive(Default)]
struct Chunk {
    rows: Vec<Row>,
    lengths: Vec<usize>,
    /// The row, and the sequence.
    last: Vec<(usize, usize)>,
}

impl<'a> Together<'a> {
    /// So many empty sequences: at most 16.
    pub fn new(model: &'a mut Model, count: usize) -> Together<'a> {
        let count = count.clamp(1, SEQUENCES);
        let pages = PageTable::new(model.pages(), count);
        let facts = vec![Vec::new(); count];
        Together { model, pages, held: vec![0; count], facts, trace: None }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.model
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        for sequence in 0..self.held.len() {
            self.pages.truncate(sequence, 0);
        }
        self.held.fill(0);
        self.model.forget();
    }

    /// Adds tokens to each sequence, as many as there are for it, and gives the logits of the last of each; none for a
    /// sequence that gets none. Sequences share chunks.
    ///
    /// # Errors
    /// The context is full, a token does not exist, or a pass fails.
    pub fn feed(&mut self, tokens: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.check(&tokens.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let architecture = self.model.shared_architecture();
        let most = architecture.chunk();
        for (sequence, tokens) in tokens.iter().enumerate().filter(|(_, tokens)| !tokens.is_empty()) {
            if architecture.looks_ahead() != LooksAhead::No
                && (self.held[sequence] > 0 || tokens.len() > most)
            {
                return Err(EngineError::ContextFull {
                    context: most,
                    need: self.held[sequence] + tokens.len(),
                });
            }
            if self.held[sequence] == 0 {
                self.facts[sequence] = architecture.facts(tokens);
            }
        }
        let whole = architecture.looks_ahead() != LooksAhead::No;
        let mut done = vec![0; tokens.len()];
        let mut logits = vec![Vec::new(); tokens.len()];
        while done.iter().zip(tokens).any(|(done, tokens)| *done < tokens.len()) {
            let chunk = self.chunk(tokens, &mut done, most, whole);
            let wanted = chunk.last.iter().map(|(row, _)| *row).collect();
            let found = self.pass(chunk.rows, true, chunk.lengths, wanted)?;
            let width = found.len() / chunk.last.len().max(1);
            for (at, (_, sequence)) in chunk.last.into_iter().enumerate() {
                logits[sequence] = found[at * width..][..width].to_vec();
            }
        }
        Ok(logits)
    }

    /// Adds one token to each sequence, in one pass, and gives the logits of each, one after another.
    ///
    /// # Errors
    /// As for [`Together::feed`].
    pub fn append(&mut self, ids: &[u32]) -> Result<Vec<f32>, EngineError> {
        self.check(&ids.iter().map(std::slice::from_ref).collect::<Vec<_>>())?;
        let row = |(sequence, id): (usize, &u32)| self.row(*id, sequence, self.held[sequence]);
        let rows: Vec<Row> = ids.iter().enumerate().map(row).collect();
        let lengths = self.held.iter().enumerate().map(|(at, held)| held + usize::from(at < ids.len()));
        let wanted = (0..ids.len()).collect();
        self.pass(rows, false, lengths.collect(), wanted)
    }

    /// Makes room for these tokens, if they exist and fit.
    fn check(&mut self, tokens: &[&[u32]]) -> Result<(), EngineError> {
        if tokens.len() > self.held.len() || tokens.iter().all(|tokens| tokens.is_empty()) {
            return Err(EngineError::EmptyPrompt);
        }
        let architecture = self.model.shared_architecture();
        let learned = architecture.positions_are_learned().then_some(architecture.positions());
        let context = learned.unwrap_or(usize::MAX).min(self.model.options.context);
        let vocabulary = architecture.vocabulary();
        for (sequence, tokens) in tokens.iter().enumerate() {
            if let Some(id) = tokens.iter().copied().find(|id| *id as usize >= vocabulary) {
                return Err(EngineError::NoSuchToken { id, vocabulary });
            }
            let need = self.held[sequence] + tokens.len();
            let full = EngineError::ContextFull { context, need };
            if need > context || self.pages.reserve(sequence, need).is_err() {
                return Err(full);
            }
        }
        Ok(())
    }

    fn row(&self, id: u32, sequence: usize, position: usize) -> Row {
        Row { id, position, sequence, slot: self.pages.slot(sequence, position).unwrap_or(-1) }
    }

    /// The next chunk of at most `most` rows; each sequence begins at a multiple of 16. Where tokens see later ones a
    /// sequence is not cut.
    fn chunk(&self, tokens: &[Vec<u32>], done: &mut [usize], most: usize, whole: bool) -> Chunk {
        let mut chunk = Chunk { lengths: self.held.clone(), ..Chunk::default() };
        for (sequence, tokens) in tokens.iter().enumerate() {
            let begin = chunk.rows.len().next_multiple_of(TILE);
            let left = tokens.len() - done[sequence];
            let count = left.min(most.saturating_sub(begin));
            if count == 0 || (whole && count < left) {
                continue;
            }
            // A tile's rows speak for one sequence, padding included.
            let before = chunk.rows.last().map_or(0, |row| row.sequence);
            chunk.rows.resize(begin, Row { id: 0, position: 0, sequence: before, slot: -1 });
            let start = self.held[sequence];
            let ids = tokens[done[sequence]..][..count].iter().enumerate();
            chunk.rows.extend(ids.map(|(at, id)| self.row(*id, sequence, start + at)));
            done[sequence] += count;
            chunk.lengths[sequence] = start + count;
            if done[sequence] == tokens.len() {
                chunk.last.push((chunk.rows.len() - 1, sequence));
            }
        }
        chunk
    }

    /// Runs a pass, after which the sequences have these lengths.
    fn pass(
        &mut self,
        rows: Vec<Row>,
        chunk: bool,
        lengths: Vec<usize>,
        wanted: Vec<usize>,
    ) -> Result<Vec<f32>, EngineError> {
        let names = self.facts.iter().find(|facts| !facts.is_empty());
        let names: Vec<&'static str> = names.into_iter().flatten().map(|(name, _)| *name).collect();
        let value = |facts: &Vec<Fact>, at: usize| facts.get(at).map_or(0, |(_, value)| *value);
        let facts = names
            .into_iter()
            .enumerate()
            .map(|(at, name)| (name, self.facts.iter().map(|facts| value(facts, at)).collect()));
        let batch = Batch {
            rows,
            chunk,
            tables: (0..self.held.len()).map(|sequence| Arc::clone(self.pages.pages(sequence))).collect(),
            lengths,
            wanted,
            facts: facts.collect(),
            shown: None,
        };
        let logits = self.model.pass(&batch, self.trace.as_mut())?;
        self.held = batch.lengths;
        Ok(logits)
    }
}
