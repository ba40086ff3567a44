//! What happens to a text before it is cut into tokens.

use std::sync::Arc;

use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use super::charsmap::Charsmap;
use super::chatglm::blanks;
use super::words::words;

/// One change to a text.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A rule of the `tokenizers` crate.
    Rule(Box<NormalizerWrapper>),
    /// SentencePiece's map of characters.
    Characters(Arc<Charsmap>),
    /// PanGu's: Chinese words apart, each space and line end a character of its own.
    Words,
    /// ChatGLM-6B's: white space becomes the text of its tokens.
    Blanks,
}

/// Changes to a text, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Preparation(Vec<Step>);

impl Preparation {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Preparation(steps)
    }

    /// The same, after one more change.
    pub(super) fn after(&self, first: impl Into<NormalizerWrapper>) -> Self {
        let first = Step::Rule(Box::new(first.into()));
        Preparation(std::iter::once(first).chain(self.0.iter().cloned()).collect())
    }
}

impl<T: Into<NormalizerWrapper>> From<T> for Preparation {
    fn from(rule: T) -> Self {
        Preparation(vec![Step::Rule(Box::new(rule.into()))])
    }
}

impl Normalizer for Preparation {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        // Positions in the text before are lost with a new text, and nobody asks for them.
        for step in &self.0 {
            match step {
                Step::Rule(rule) => rule.normalize(text)?,
                Step::Characters(map) => *text = NormalizedString::from(map.rewrite(text.get())),
                Step::Blanks => *text = NormalizedString::from(blanks(text.get())),
                Step::Words => *text = NormalizedString::from(words(text.get())),
            }
        }
        Ok(())
    }
}
