//! The vocabularies of ChatGLM: `ice_text.model` of ChatGLM-6B, and how ChatGLM2 and 3 use `tokenizer.model`.

use std::collections::HashMap;

use tokenizers::AddedToken;

use super::preparation::Step;
use super::sentencepiece::{self, Kind, Piece};
use super::{Tokenizer, TokenizerConfig, TokenizerError, contained};

const ICE: &str = "ice_text.model";

/// Runs of spaces up to this length have a token each.
pub(super) const BLANKS_MAX: usize = 80;

/// What ChatGLM-6B's code assumes where `tokenizer_config.json` does not say: the first release's number.
const IMAGE_TOKENS: u32 = 20_000;
const IMAGE_TOKENS_MAX: u32 = 1 << 20;

/// Tokens that the first release's file leaves to its code, and the final one lists, in this order.
const CONTROL: [&str; 8] =
    ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"];

/// Tokens after the vocabulary of ChatGLM2 and 3. The roles are ChatGLM3's; ChatGLM2 has rows for them and
/// no template that writes them.
const AFTER: [&str; 9] = [
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];

impl Tokenizer {
    /// Reads ChatGLM-6B's `ice_text.model`. Ids of text come after `num_image_tokens` ids of images, which no
    /// text spells; a prompt ends with `[gMASK]` and `<sop>`.
    pub fn from_ice_text(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        contained(|why| TokenizerError::format(ICE, "file", why), || Self::read_ice_text(bytes, config))
    }

    fn read_ice_text(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        let images = config.image_tokens.unwrap_or(IMAGE_TOKENS);
        if images > IMAGE_TOKENS_MAX {
            let why = format!("{images} is more than {IMAGE_TOKENS_MAX}");
            return Err(TokenizerError::format("tokenizer_config.json", "num_image_tokens", why));
        }
        let mut model = sentencepiece::read(ICE, bytes, config)?;
        let unused = |image| Piece { text: format!("<image_{image}>"), score: 0.0, kind: Kind::Unused };
        let text = std::mem::take(&mut model.pieces.pieces);
        let complete = text.iter().any(|piece| piece.text == CONTROL[1]);
        model.pieces.pieces = (0..images).map(unused).chain(text).collect();
        if !complete {
            model.pieces.pieces.extend(after_the_first_release());
        }
        model.pieces.byte_fallback = true;
        model.pieces.first = vec![Step::Blanks];
        model.pieces.spelled = spelled(&model.pieces.pieces, images);
        let mut tokenizer = model.pieces.assemble()?;
        tokenizer.closing = tokenizer.named(ICE, &["[gMASK]", "<sop>"])?;
        tokenizer.bos = tokenizer.token_id("<sop>");
        tokenizer.eos = tokenizer.token_id("<eop>");
        tokenizer.with_config(config)
    }

    /// Reads the `tokenizer.model` of ChatGLM2 and 3: SentencePiece with further tokens after its own; a
    /// prompt begins with `[gMASK]` and `sop`.
    pub fn from_chatglm(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        let failed = |why| TokenizerError::format(sentencepiece::FILE, "file", why);
        contained(failed, || Self::read_chatglm(bytes, config))
    }

    fn read_chatglm(bytes: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, TokenizerError> {
        let mut model = sentencepiece::read(sentencepiece::FILE, bytes, config)?;
        let ids = u32::try_from(model.pieces.pieces.len()).unwrap_or(u32::MAX)..;
        let after: Vec<(u32, AddedToken)> = ids.zip(AFTER).map(|(id, text)| (id, control(text))).collect();
        model.pieces.added.retain(|(id, _)| after.iter().all(|(other, _)| other != id));
        model.pieces.added.extend(after);
        let mut tokenizer = model.pieces.assemble()?;
        tokenizer.opening = tokenizer.named(sentencepiece::FILE, &OPENING)?;
        tokenizer.eos = model.eos;
        tokenizer.with_config(config)
    }

    pub(super) fn named(&self, file: &'static str, texts: &[&str]) -> Result<Vec<u32>, TokenizerError> {
        let id = |text: &&str| {
            let found = self.token_id(text).filter(|id| self.is_special(*id));
            found.ok_or_else(|| {
                TokenizerError::format(file, *text, "the vocabulary has no such control token")
            })
        };
        texts.iter().map(id).collect()
    }
}

/// `sop` is a syllable, too: only as a word of its own is it the token.
fn control(text: &str) -> AddedToken {
    let bare = text.starts_with(char::is_alphabetic);
    AddedToken::from(text.to_owned(), true).normalized(false).single_word(bare)
}

/// Takes the tokens after the vocabulary of ChatGLM2 and 3 from its pieces, where GGUF lists them: among the pieces
/// they would be syllables.
pub(super) fn take_after(pieces: &mut Vec<Piece>) -> Vec<(u32, AddedToken)> {
    let is_first = |piece: &Piece| piece.kind == Kind::Control && piece.text == AFTER[0];
    let first = pieces.iter().position(is_first).unwrap_or(pieces.len());
    let ids = u32::try_from(first).unwrap_or(u32::MAX)..;
    let after = pieces.split_off(first);
    let controls = ids.zip(after).filter(|(_, piece)| piece.kind == Kind::Control);
    controls.map(|(id, piece)| (id, control(&piece.text))).collect()
}

/// What the prompts of ChatGLM2 and 3 begin with.
pub(super) const OPENING: [&str; 2] = ["[gMASK]", "sop"];

/// The pieces by which the final release's file is longer than the first one's.
fn after_the_first_release() -> impl Iterator<Item = Piece> {
    let piece = |kind| move |text: String| Piece { text, score: 0.0, kind };
    let blanks = (2..=BLANKS_MAX).map(|length| format!("<|blank_{length}|>"));
    let control = CONTROL.iter().map(|text| (*text).to_owned()).map(piece(Kind::Control));
    let defined = std::iter::once("<|tab|>".to_owned()).chain(blanks).map(piece(Kind::UserDefined));
    control.chain(defined).chain((0..=255).map(|byte| format!("<0x{byte:02X}>")).map(piece(Kind::Byte)))
}

/// What the tokens for white space stand for; images have no text.
fn spelled(pieces: &[Piece], images: u32) -> HashMap<u32, Vec<u8>> {
    let mut spelled: HashMap<u32, Vec<u8>> = (0..images).map(|id| (id, Vec::new())).collect();
    for (id, piece) in (0..).zip(pieces).filter(|(_, piece)| piece.kind == Kind::UserDefined) {
        let blanks = piece.text.strip_prefix("<|blank_").and_then(|rest| rest.strip_suffix("|>"));
        let bytes = match (piece.text.as_str(), blanks.and_then(|length| length.parse().ok())) {
            ("<n>", _) => b"\n".to_vec(),
            ("<|tab|>", _) => b"\t".to_vec(),
            (_, Some(length)) if length <= BLANKS_MAX => vec![b' '; length],
            _ => continue,
        };
        spelled.insert(id, bytes);
    }
    spelled
}

/// White space as ChatGLM-6B writes it: line ends, tabs and runs of spaces, the longest first, are tokens.
pub(super) fn blanks(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = rest.bytes().take(BLANKS_MAX).take_while(|byte| *byte == b' ').count();
        let taken = match first {
            '\n' => {
                out.push_str("<n>");
                1
            }
            '\t' => {
                out.push_str("<|tab|>");
                1
            }
            ' ' if run > 1 => {
                out.push_str(&format!("<|blank_{run}|>"));
                run
            }
            _ => {
                out.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    out
}
