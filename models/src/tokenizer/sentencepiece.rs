//! SentencePiece's `tokenizer.model`, and the same kind of vocabulary from other files.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Prepend, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::bytes::{Spelling, byte_piece};
use super::charsmap::Charsmap;
use super::guarded::Subwords;
use super::preparation::{Preparation, Step};
use super::{AddedText, Parts, Tokenizer, TokenizerConfig, TokenizerError, contained};

pub(super) const FILE: &str = "tokenizer.model";

/// Longer pieces would make the search for merges quadratic; SentencePiece itself stops far below.
const PIECE_CHARS_MAX: usize = 1024;

/// The score of pieces that no text spells: below any sum of scores that could be had instead.
const NEVER: f64 = -1e6;

/// The fields of `sentencepiece_model.proto` that change how text is cut.
#[derive(Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Message)]
struct PieceProto {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "41")]
    bos_id: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos_id: Option<i32>,
}

#[derive(Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
}

/// What a piece is for. The numbers are SentencePiece's, and GGUF's `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    pub(super) fn from_number(number: i32) -> Option<Kind> {
        Some(match number {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => return None,
        })
    }
}

/// One entry of the vocabulary; its id is its position.
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// How a text is cut into pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Merges,
    Unigram,
}

/// A vocabulary of scored pieces with its rules, whatever file it came from.
pub(super) struct Pieces {
    pub(super) file: &'static str,
    pub(super) pieces: Vec<Piece>,
    pub(super) method: Method,
    pub(super) byte_fallback: bool,
    pub(super) leading_space: bool,
    pub(super) legacy: bool,
    pub(super) collapse_spaces: bool,
    pub(super) characters: Vec<u8>,
    pub(super) added: Vec<(u32, AddedToken)>,
    /// Changes to a text before the file's own.
    pub(super) first: Vec<Step>,
    /// SentencePiece's own spelling if `None`, and the bytes of tokens that are spelled otherwise.
    pub(super) spelling: Option<Spelling>,
    pub(super) spelled: HashMap<u32, Vec<u8>>,
}

impl Pieces {
    pub(super) fn assemble(self) -> Result<Tokenizer, TokenizerError> {
        let file = self.file;
        if self.pieces.is_empty() {
            return Err(TokenizerError::format(file, "pieces", "the vocabulary is empty"));
        }
        let unknown = self.pieces.iter().position(|piece| piece.kind == Kind::Unknown);
        let model = match self.method {
            Method::Merges => self.merging_model(unknown)?,
            Method::Unigram => self.unigram_model(unknown)?,
        };
        let (preparation, pre_tokenizer) = self.spacing()?;
        let mut added = self.control_tokens();
        // What the configuration says of a token wins over what its kind implies.
        added.retain(|(id, _)| !self.added.iter().any(|(other, _)| other == id));
        added.extend(self.added);
        let mut tokenizer = Parts {
            file,
            model: Subwords::Listed(Box::new(model)),
            preparation: Some(preparation),
            pre_tokenizer,
            decoder: None,
            spelling: self.spelling.unwrap_or(Spelling::Pieces { strip: usize::from(self.leading_space) }),
            spelled: self.spelled,
            added,
        }
        .assemble()?;
        tokenizer.unknown = unknown.and_then(|id| u32::try_from(id).ok());
        Ok(tokenizer)
    }

    /// Control and unknown pieces are special; user-defined pieces are found in any text, before all merges.
    /// A search over all cuts has no such step before it: there their score makes them win.
    fn control_tokens(&self) -> Vec<(u32, AddedToken)> {
        let special = |kind| matches!(kind, Kind::Control | Kind::Unknown);
        let before = self.method == Method::Merges;
        (0u32..)
            .zip(&self.pieces)
            .filter(|(_, piece)| special(piece.kind) || (before && piece.kind == Kind::UserDefined))
            .map(|(id, piece)| {
                let token = AddedToken::from(piece.text.clone(), special(piece.kind));
                (id, token.normalized(false))
            })
            .collect()
    }

    /// SentencePiece merges the pair whose joined piece has the best score; a pair's rank says the same.
    fn merging_model(&self, unknown: Option<usize>) -> Result<ModelWrapper, TokenizerError> {
        let ids: HashMap<&str, u32> =
            self.pieces.iter().zip(0u32..).map(|(piece, id)| (piece.text.as_str(), id)).collect();
        let mut ranked = Vec::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            if piece.text.chars().count() > PIECE_CHARS_MAX {
                let why = format!("longer than {PIECE_CHARS_MAX} characters");
                return Err(TokenizerError::format(self.file, format!("pieces[{id}]"), why));
            }
            if matches!(piece.kind, Kind::Control | Kind::Unknown | Kind::Byte) {
                continue;
            }
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                    ranked.push((piece.score, id, *left_id, *right_id));
                }
            }
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let text = |id: u32| self.pieces[id as usize].text.clone();
        let merges: Merges = ranked.iter().map(|(_, _, left, right)| (text(*left), text(*right))).collect();
        let vocabulary: Vocab = ids.iter().map(|(text, id)| ((*text).to_owned(), *id)).collect();
        let mut builder = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .fuse_unk(true)
            .byte_fallback(self.byte_fallback);
        if let Some(unknown) = unknown {
            builder = builder.unk_token(self.pieces[unknown].text.clone());
        }
        let model = builder.build().map_err(|error| TokenizerError::format(self.file, "pieces", error))?;
        Ok(ModelWrapper::BPE(model))
    }

    fn unigram_model(&self, unknown: Option<usize>) -> Result<ModelWrapper, TokenizerError> {
        let normal = self.pieces.iter().filter(|piece| piece.kind == Kind::Normal);
        let best = normal.map(|piece| f64::from(piece.score)).fold(f64::NEG_INFINITY, f64::max);
        let best = if best.is_finite() { best } else { 0.0 };
        let score = |piece: &Piece| match piece.kind {
            Kind::Normal => f64::from(piece.score),
            // SentencePiece's rule: as good as the best piece for each of its bytes.
            Kind::UserDefined => piece.text.len() as f64 * best - 0.1,
            _ => NEVER,
        };
        let vocabulary = self.pieces.iter().map(|piece| (piece.text.clone(), score(piece))).collect();
        let model = Unigram::from(vocabulary, unknown, self.byte_fallback)
            .map_err(|error| TokenizerError::format(self.file, "pieces", error))?;
        Ok(ModelWrapper::Unigram(model))
    }

    fn spacing(&self) -> Result<(Preparation, Option<PreTokenizerWrapper>), TokenizerError> {
        let wrong =
            |error: &dyn std::fmt::Display| TokenizerError::format(self.file, "normalizer_spec", error);
        let mut rules: Vec<NormalizerWrapper> = Vec::new();
        if self.collapse_spaces {
            let spaces = tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".to_owned());
            rules.push(Strip::new(true, true).into());
            rules.push(Replace::new(spaces, " ").map_err(|error| wrong(&error))?.into());
        }
        if self.leading_space && self.legacy {
            rules.push(Prepend::new("\u{2581}".to_owned()).into());
        }
        rules.push(Replace::new(" ", "\u{2581}").map_err(|error| wrong(&error))?.into());
        // The newer rule puts the space before the first text only, which needs the position in the whole.
        let first = self.leading_space && !self.legacy;
        let pre_tokenizer = first.then(|| Metaspace::new('\u{2581}', PrependScheme::First, false).into());
        let mut steps = self.first.clone();
        if !self.characters.is_empty() {
            let map = Charsmap::new(&self.characters).map_err(|error| wrong(&error))?;
            steps.push(Step::Characters(Arc::new(map)));
        }
        steps.push(Step::Rule(Box::new(Sequence::new(rules).into())));
        Ok((Preparation::new(steps), pre_tokenizer))
    }
}

fn added_token(added: &AddedText) -> (u32, AddedToken) {
    let token = AddedToken::from(added.content.clone(), added.special)
        .normalized(added.normalized)
        .lstrip(added.lstrip)
        .rstrip(added.rstrip)
        .single_word(added.single_word);
    (added.id, token)
}

/// A file's pieces, and its own begin and end tokens.
pub(super) struct Scored {
    pub(super) pieces: Pieces,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
}

impl Tokenizer {
    /// Reads a SentencePiece `tokenizer.model` of the BPE or the unigram kind. `config` gives the begin and
    /// end tokens and their use; without it a prompt begins with the file's own begin token, as LLaMA's does.
    pub fn from_sentencepiece(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        let failed = |why| TokenizerError::format(FILE, "file", why);
        contained(failed, || Self::read_sentencepiece(bytes, config))
    }

    fn read_sentencepiece(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        let Scored { pieces, bos, eos } = read(FILE, bytes, config)?;
        let mut tokenizer = pieces.assemble()?;
        (tokenizer.bos, tokenizer.eos, tokenizer.add_bos) = (bos, eos, bos.is_some());
        tokenizer.with_config(config)
    }
}

/// Reads the pieces of a SentencePiece file, which users know as `file`.
pub(super) fn read(
    file: &'static str,
    bytes: &[u8],
    config: &TokenizerConfig,
) -> Result<Scored, TokenizerError> {
    let proto = ModelProto::decode(bytes).map_err(|error| TokenizerError::format(file, "file", error))?;
    let trainer = proto.trainer_spec.unwrap_or_default();
    let normalizer = proto.normalizer_spec.unwrap_or_default();
    let method = match trainer.model_type.unwrap_or(1) {
        1 => Method::Unigram,
        2 => Method::Merges,
        other => {
            return Err(TokenizerError::Unsupported {
                file,
                field: "trainer_spec.model_type".to_owned(),
                value: other.to_string(),
                known: "1 (unigram), 2 (BPE)".to_owned(),
            });
        }
    };
    let mut pieces = Vec::with_capacity(proto.pieces.len());
    for (id, piece) in proto.pieces.into_iter().enumerate() {
        let number = piece.kind.unwrap_or(1);
        let kind = Kind::from_number(number).ok_or_else(|| {
            TokenizerError::format(file, format!("pieces[{id}].type"), format!("{number} is no type"))
        })?;
        pieces.push(Piece { text: piece.piece, score: piece.score, kind });
    }
    let any_byte = pieces.iter().any(|piece| byte_piece(&piece.text).is_some() && piece.kind == Kind::Byte);
    let own = |id: Option<i32>, default: i32| {
        let id = usize::try_from(id.unwrap_or(default)).ok()?;
        pieces.get(id).filter(|piece| piece.kind == Kind::Control)?;
        u32::try_from(id).ok()
    };
    let (bos, eos) = (own(trainer.bos_id, 1), own(trainer.eos_id, 2));
    let pieces = Pieces {
        file,
        pieces,
        method,
        byte_fallback: trainer.byte_fallback.unwrap_or(any_byte),
        leading_space: config.add_prefix_space.or(normalizer.add_dummy_prefix).unwrap_or(true),
        legacy: config.legacy.unwrap_or(true),
        // LLaMA's converters drop this field, and its own files say false.
        collapse_spaces: normalizer.remove_extra_whitespaces.unwrap_or(true),
        characters: normalizer.precompiled_charsmap.unwrap_or_default(),
        added: config.added.iter().map(added_token).collect(),
        first: Vec::new(),
        spelling: None,
        spelled: HashMap::new(),
    };
    Ok(Scored { pieces, bos, eos })
}
