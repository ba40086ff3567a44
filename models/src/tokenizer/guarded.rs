//! A subword model that never spells a special token by itself.
//!
//! Special tokens enter a token sequence only where the added vocabulary recognises them in text that is
//! allowed to contain them. A subword model may also hold them in its own vocabulary, and could then build
//! `</s>` out of a user's characters; this wrapper takes such a token apart again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{Model, Token};

use super::world::World;

/// How words become tokens.
pub(super) enum Subwords {
    /// An algorithm of the `tokenizers` crate.
    Listed(Box<ModelWrapper>),
    /// The longest token first.
    World(World),
}

impl Subwords {
    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        match self {
            Subwords::Listed(model) => model.tokenize(sequence),
            Subwords::World(world) => world.tokenize(sequence),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Subwords::Listed(model) => model.token_to_id(token),
            Subwords::World(world) => world.ids().get(token).copied(),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Subwords::Listed(model) => model.id_to_token(id),
            Subwords::World(world) => world.text(id).cloned(),
        }
    }

    pub(super) fn vocabulary(&self) -> HashMap<String, u32> {
        match self {
            Subwords::Listed(model) => model.get_vocab(),
            Subwords::World(world) => world.ids().clone(),
        }
    }
}

/// The model shared by the two engines of a tokenizer. Cloning copies two pointers.
#[derive(Clone)]
pub(super) struct Guarded {
    model: Arc<Subwords>,
    added: Arc<Added>,
}

/// What the file says about tokens outside the subword model.
#[derive(Default)]
pub(super) struct Added {
    /// The id of each added token: the file's own numbers win over the order of insertion.
    pub(super) ids: HashMap<String, u32>,
    /// The tokens that only the program may write, with their texts.
    pub(super) special: HashMap<u32, String>,
}

impl Guarded {
    pub(super) fn new(model: Subwords, added: Added) -> Self {
        Guarded { model: Arc::new(model), added: Arc::new(added) }
    }

    fn spells_special(&self, token: &Token, sequence: &str) -> bool {
        // The unknown token is special too, but stands for characters that are not its own text.
        let Some(text) = self.added.special.get(&token.id) else { return false };
        sequence.get(token.offsets.0..token.offsets.1) == Some(text)
    }

    fn take_apart(&self, token: &Token, sequence: &str, out: &mut Vec<Token>) -> tokenizers::Result<()> {
        let (start, end) = token.offsets;
        let text = &sequence[start..end];
        let Some(first) = text.chars().next().map(char::len_utf8).filter(|first| *first < text.len()) else {
            return Err(format!("the special token {text:?} is a single character of the text").into());
        };
        for (part, at) in [(&text[..first], start), (&text[first..], start + first)] {
            for mut piece in self.tokenize(part)? {
                piece.offsets = (piece.offsets.0 + at, piece.offsets.1 + at);
                out.push(piece);
            }
        }
        Ok(())
    }
}

impl Model for Guarded {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        let tokens = self.model.tokenize(sequence)?;
        if !tokens.iter().any(|token| self.spells_special(token, sequence)) {
            return Ok(tokens);
        }
        let mut apart = Vec::with_capacity(tokens.len() + 8);
        for token in tokens {
            if self.spells_special(&token, sequence) {
                self.take_apart(&token, sequence, &mut apart)?;
            } else {
                apart.push(token);
            }
        }
        Ok(apart)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added.ids.get(token).copied().or_else(|| self.model.token_to_id(token))
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.model.id_to_token(id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.model.vocabulary()
    }

    fn get_vocab_size(&self) -> usize {
        match &*self.model {
            Subwords::Listed(model) => model.get_vocab_size(),
            Subwords::World(world) => world.ids().len(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        match &*self.model {
            Subwords::Listed(model) => model.save(folder, prefix),
            Subwords::World(_) => Err("this vocabulary is read, never written".into()),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match &*self.model {
            Subwords::Listed(model) => model.get_trainer(),
            // The engine asks for one only when it is told to learn a vocabulary.
            Subwords::World(_) => ModelWrapper::WordPiece(WordPiece::default()).get_trainer(),
        }
    }
}
