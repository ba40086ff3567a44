//! BERT's `vocab.txt`: one piece a line, its id the number of the line.

use std::collections::HashMap;

use tokenizers::decoders::wordpiece::WordPiece as Joiner;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, ModelWrapper};

use super::bytes::Spelling;
use super::guarded::Subwords;
use super::{Parts, Tokenizer, TokenizerConfig, TokenizerError, contained};

const FILE: &str = "vocab.txt";

/// BERT's own names; a model has those of them that its vocabulary lists.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// A word longer than this is unknown as a whole, as in BERT's own code.
const WORD_CHARS_MAX: usize = 100;

impl Tokenizer {
    /// Reads a BERT vocabulary. Case, accents and Chinese characters are treated as `config` says; a prompt
    /// stands between `[CLS]` and `[SEP]`.
    pub fn from_wordpiece(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        contained(|why| TokenizerError::format(FILE, "file", why), || Self::read_wordpiece(bytes, config))
    }

    fn read_wordpiece(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        let wrong = |error: &dyn std::fmt::Display| TokenizerError::format(FILE, "file", error);
        let file = std::str::from_utf8(bytes).map_err(|error| wrong(&error))?;
        let mut ids = Vocab::new();
        for (line, id) in file.lines().zip(0..) {
            ids.insert(line.trim_end().to_owned(), id);
        }
        Self::of_wordpieces(FILE, ids, config)
    }

    /// A vocabulary of WordPiece, whatever file it came from.
    pub(super) fn of_wordpieces(
        file: &'static str,
        ids: Vocab,
        config: &TokenizerConfig,
    ) -> Result<Tokenizer, TokenizerError> {
        let wrong = |error: &dyn std::fmt::Display| TokenizerError::format(file, "file", error);
        let unknown = config.unknown.clone().unwrap_or_else(|| "[UNK]".to_owned());
        let Some(unknown_id) = ids.get(&unknown).copied() else {
            return Err(wrong(&format!("the vocabulary has no {unknown}")));
        };
        let (opening, closing) = (ids.get("[CLS]").copied(), ids.get("[SEP]").copied());
        let special = |text: &str| {
            ids.get(text).map(|id| (*id, AddedToken::from(text.to_owned(), true).normalized(false)))
        };
        let added = SPECIAL.iter().filter_map(|text| special(text)).collect();
        let model = WordPiece::builder()
            .vocab(ids.clone())
            .unk_token(unknown)
            .max_input_chars_per_word(WORD_CHARS_MAX)
            .build()
            .map_err(|error| wrong(&error))?;
        let cased = config.lower_case.unwrap_or(true);
        let normalizer =
            BertNormalizer::new(true, config.chinese_characters.unwrap_or(true), config.strip_accents, cased);
        let mut tokenizer = Parts {
            file,
            model: Subwords::Listed(Box::new(ModelWrapper::WordPiece(model))),
            preparation: Some(normalizer.into()),
            pre_tokenizer: Some(BertPreTokenizer.into()),
            decoder: Some(Joiner::new("##".to_owned(), true).into()),
            spelling: Spelling::Joined,
            spelled: HashMap::new(),
            added,
        }
        .assemble()?;
        tokenizer.unknown = Some(unknown_id);
        (tokenizer.bos, tokenizer.eos) = (opening, closing);
        (tokenizer.add_bos, tokenizer.add_eos) = (opening.is_some(), closing.is_some());
        tokenizer.with_config(config)
    }
}
