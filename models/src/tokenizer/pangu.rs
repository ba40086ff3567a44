//! PanGu-alpha's `vocab.model`: Chinese words first, then SentencePiece.

use super::bytes::Spelling;
use super::preparation::Step;
use super::sentencepiece::{self, Kind};
use super::{Tokenizer, TokenizerConfig, TokenizerError, contained};

const FILE: &str = "vocab.model";

/// What SentencePiece writes for a character outside its vocabulary.
const UNKNOWN: &str = "\u{2047}";

impl Tokenizer {
    /// Reads PanGu-alpha's vocabulary. A text is parted into words by jieba; spaces and line ends are tokens
    /// of their own, and `<eot>` ends an answer.
    pub fn from_pangu(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        contained(|why| TokenizerError::format(FILE, "file", why), || Self::read_pangu(bytes, config))
    }

    fn read_pangu(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        let mut model = sentencepiece::read(FILE, bytes, config)?;
        for piece in &mut model.pieces.pieces {
            // The file defines its control tokens like the two marks for white space.
            if piece.kind == Kind::UserDefined && piece.text.starts_with('<') && piece.text.ends_with('>') {
                piece.kind = Kind::Control;
            }
        }
        let unknown = model.pieces.pieces.iter().position(|piece| piece.kind == Kind::Unknown);
        let unknown = unknown.and_then(|id| u32::try_from(id).ok());
        model.pieces.spelled = unknown.map(|id| (id, UNKNOWN.as_bytes().to_vec())).into_iter().collect();
        model.pieces.first = vec![Step::Words];
        model.pieces.spelling = Some(Spelling::Words);
        let mut tokenizer = model.pieces.assemble()?;
        tokenizer.eos = tokenizer.token_id("<eot>").or(model.eos);
        tokenizer.with_config(config)
    }
}
