//! The vocabulary that a GGUF file carries in its metadata.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, ModelWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::bytes::Spelling;
use super::guarded::Subwords;
use super::preparation::Preparation;
use super::sentencepiece::{Kind, Method, Piece, Pieces};
use super::world::unescape;
use super::{Parts, Tokenizer, TokenizerConfig, TokenizerError, chatglm, contained};

const FILE: &str = "gguf";

/// The values of the `tokenizer.ggml.*` keys, each under its last name.
#[derive(Debug, Clone, Default)]
pub struct GgufVocabulary<'a> {
    /// `model`: `gpt2` for byte-level BPE, `llama` for SentencePiece, `rwkv` for RWKV's World, `bert` for WordPiece.
    pub model: &'a str,
    /// `pre`: the name of the rule that cuts text into words; empty where the file has none.
    pub pre: &'a str,
    /// `tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `scores`: one for each token; needed by `llama`.
    pub scores: Vec<f32>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; may be empty.
    pub types: Vec<i32>,
    /// `merges`: pairs parted by a space; needed by `gpt2`.
    pub merges: Vec<String>,
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`
    pub eos: Option<u32>,
    /// `unknown_token_id`
    pub unknown: Option<u32>,
    /// `add_bos_token`; where the key is missing, the rule of the vocabulary's kind holds.
    pub add_bos: Option<bool>,
    /// `add_eos_token`
    pub add_eos: Option<bool>,
    /// `add_space_prefix`
    pub add_space_prefix: Option<bool>,
    /// `normalizer.lowercase`; `bert` alone has it, and is lower case where the key is missing.
    pub lower_case: Option<bool>,
    /// `normalizer.strip_accents`
    pub strip_accents: Option<bool>,
}

/// How a byte-level vocabulary cuts text into words, by the name in `tokenizer.ggml.pre`.
pub(super) struct Words {
    names: &'static [&'static str],
    /// Applied one after the other: each match becomes a word of its own.
    cuts: &'static [&'static str],
    /// Whether the usual GPT-2 rule cuts the rest further.
    gpt2: bool,
    /// Whether a word that is a token as a whole is not merged from its letters.
    whole_words: bool,
    add_bos: bool,
    compose: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

/// The rules as llama.cpp names them; the expressions are those of the models' own `tokenizer.json`.
const WORDS: &[Words] = &[
    Words {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe", "trillion", "granite-docling"],
        cuts: &[],
        gpt2: true,
        whole_words: false,
        add_bos: false,
        compose: false,
    },
    Words {
        names: &["", "default"],
        cuts: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        gpt2: false,
        whole_words: false,
        add_bos: false,
        compose: false,
    },
    Words {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        cuts: &[r"\p{N}"],
        gpt2: true,
        whole_words: false,
        add_bos: false,
        compose: false,
    },
    Words {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        cuts: &[LLAMA3],
        gpt2: false,
        whole_words: true,
        add_bos: true,
        compose: false,
    },
    Words {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        cuts: &[LLAMA3],
        gpt2: false,
        whole_words: false,
        add_bos: false,
        compose: false,
    },
    Words {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        cuts: &[QWEN2],
        gpt2: false,
        whole_words: false,
        add_bos: false,
        compose: true,
    },
    Words {
        names: &["stablelm2"],
        cuts: &[QWEN2],
        gpt2: false,
        whole_words: false,
        add_bos: false,
        compose: false,
    },
    Words {
        names: &["tekken"],
        cuts: &[TEKKEN],
        gpt2: false,
        whole_words: true,
        add_bos: true,
        compose: false,
    },
    Words {
        names: &["bloom", "gpt3-finnish"],
        cuts: &[BLOOM],
        gpt2: false,
        whole_words: false,
        add_bos: false,
        compose: false,
    },
];

impl Words {
    fn pre_tokenizer(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        for cut in self.cuts {
            let pattern = SplitPattern::Regex((*cut).to_owned());
            steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into());
        }
        steps.push(ByteLevel::new(false, true, self.gpt2).into());
        Ok(Sequence::new(steps).into())
    }
}

impl Tokenizer {
    /// Builds the tokenizer of a GGUF file from its metadata. A `model` or `pre` that is not known is an
    /// error that names it: guessing would give wrong ids without a word.
    pub fn from_gguf(vocabulary: GgufVocabulary<'_>) -> Result<Tokenizer, TokenizerError> {
        let failed = |why| TokenizerError::format(FILE, "tokenizer.ggml", why);
        contained(failed, || Self::read_gguf(vocabulary))
    }

    fn read_gguf(vocabulary: GgufVocabulary<'_>) -> Result<Tokenizer, TokenizerError> {
        let count = vocabulary.tokens.len();
        check_length("tokenizer.ggml.token_type", vocabulary.types.len(), count, true)?;
        for (field, id) in [("bos", vocabulary.bos), ("eos", vocabulary.eos), ("unknown", vocabulary.unknown)]
        {
            if id.is_some_and(|id| id as usize >= count) {
                let why = format!("expected an id below {count}");
                return Err(TokenizerError::format(FILE, format!("tokenizer.ggml.{field}_token_id"), why));
            }
        }
        let (bos, eos, add_bos, add_eos) =
            (vocabulary.bos, vocabulary.eos, vocabulary.add_bos, vocabulary.add_eos);
        let unknown = vocabulary.unknown;
        let (mut tokenizer, bos_by_kind) = match vocabulary.model {
            "gpt2" => merged(vocabulary)?,
            "llama" => (scored(vocabulary)?, true),
            "rwkv" => (world(&vocabulary)?, false),
            "bert" => return wordpieces(vocabulary),
            other => {
                return Err(TokenizerError::Unsupported {
                    file: FILE,
                    field: "tokenizer.ggml.model".to_owned(),
                    value: other.to_owned(),
                    known: "bert, gpt2, llama, rwkv".to_owned(),
                });
            }
        };
        tokenizer.bos = bos;
        tokenizer.eos = eos;
        tokenizer.unknown = unknown.or(tokenizer.unknown);
        tokenizer.add_bos = add_bos.unwrap_or(bos_by_kind) && bos.is_some();
        tokenizer.add_eos = add_eos.unwrap_or(false) && eos.is_some();
        Ok(tokenizer)
    }
}

fn check_length(field: &str, found: usize, want: usize, may_miss: bool) -> Result<(), TokenizerError> {
    if found == want || (may_miss && found == 0) {
        return Ok(());
    }
    Err(TokenizerError::format(
        FILE,
        field,
        format!("{found} entries, expected one for each of {want} tokens"),
    ))
}

fn kind(types: &[i32], id: usize) -> Result<Kind, TokenizerError> {
    let Some(number) = types.get(id) else { return Ok(Kind::Normal) };
    Kind::from_number(*number).ok_or_else(|| {
        TokenizerError::format(
            FILE,
            format!("tokenizer.ggml.token_type[{id}]"),
            format!("{number} is no type"),
        )
    })
}

fn scored(vocabulary: GgufVocabulary<'_>) -> Result<Tokenizer, TokenizerError> {
    check_length("tokenizer.ggml.scores", vocabulary.scores.len(), vocabulary.tokens.len(), false)?;
    let mut pieces = Vec::with_capacity(vocabulary.tokens.len());
    for (id, (text, score)) in vocabulary.tokens.into_iter().zip(vocabulary.scores).enumerate() {
        pieces.push(Piece { text, score, kind: kind(&vocabulary.types, id)? });
    }
    let is_glm = vocabulary.pre == "chatglm-spm";
    let added = if is_glm { chatglm::take_after(&mut pieces) } else { Vec::new() };
    let mut tokenizer = Pieces {
        file: FILE,
        byte_fallback: pieces.iter().any(|piece| piece.kind == Kind::Byte),
        pieces,
        method: Method::Merges,
        leading_space: vocabulary.add_space_prefix.unwrap_or(true),
        legacy: true,
        collapse_spaces: false,
        characters: Vec::new(),
        added,
        first: Vec::new(),
        spelling: None,
        spelled: HashMap::new(),
    }
    .assemble()?;
    if is_glm {
        tokenizer.opening = tokenizer.named(FILE, &chatglm::OPENING)?;
    }
    Ok(tokenizer)
}

/// BERT's pieces as llama.cpp has them: those that begin a word are marked, not those that go on.
fn wordpieces(vocabulary: GgufVocabulary<'_>) -> Result<Tokenizer, TokenizerError> {
    let mut ids = Vocab::new();
    for (id, text) in vocabulary.tokens.into_iter().enumerate() {
        let text = match (kind(&vocabulary.types, id)?, text.strip_prefix('\u{2581}')) {
            (Kind::Control, _) => text,
            (_, Some(first)) => first.to_owned(),
            (_, None) => format!("##{text}"),
        };
        ids.insert(text, u32::try_from(id).unwrap_or(u32::MAX));
    }
    let config = TokenizerConfig {
        lower_case: vocabulary.lower_case,
        strip_accents: vocabulary.strip_accents,
        ..TokenizerConfig::default()
    };
    Tokenizer::of_wordpieces(FILE, ids, &config)
}

fn known_words() -> String {
    let names: Vec<&str> =
        WORDS.iter().flat_map(|words| words.names).copied().filter(|name| !name.is_empty()).collect();
    names.join(", ")
}

/// The rule of that name.
pub(super) fn words_named(name: &str) -> Option<&'static Words> {
    WORDS.iter().find(|words| words.names.contains(&name))
}

/// Tokens as Python writes bytes; unused ones fill the table up. The first one ends a document. No text spells it:
/// what stands there is the converter's invention.
fn world(vocabulary: &GgufVocabulary<'_>) -> Result<Tokenizer, TokenizerError> {
    let rest = vocabulary.tokens.get(1..).unwrap_or_default();
    let mut read = Vec::with_capacity(rest.len());
    for (id, text) in (1..).zip(rest) {
        if kind(&vocabulary.types, id as usize)? == Kind::Unused {
            continue;
        }
        let bytes = unescape(text, true).filter(|bytes| !bytes.is_empty()).ok_or_else(|| {
            TokenizerError::format(FILE, format!("tokenizer.ggml.tokens[{id}]"), "expected escaped bytes")
        })?;
        read.push((id, bytes));
    }
    Tokenizer::of_world(FILE, &read)
}

fn merged(vocabulary: GgufVocabulary<'_>) -> Result<(Tokenizer, bool), TokenizerError> {
    let Some(words) = words_named(vocabulary.pre) else {
        return Err(TokenizerError::Unsupported {
            file: FILE,
            field: "tokenizer.ggml.pre".to_owned(),
            value: vocabulary.pre.to_owned(),
            known: known_words(),
        });
    };
    let mut added = Vec::new();
    for (id, text) in vocabulary.tokens.iter().enumerate() {
        let kind = kind(&vocabulary.types, id)?;
        if matches!(kind, Kind::Control | Kind::UserDefined) {
            let token = AddedToken::from(text.clone(), kind == Kind::Control).normalized(false);
            added.push((u32::try_from(id).unwrap_or(u32::MAX), token));
        }
    }
    let mut merges: Merges = Vec::with_capacity(vocabulary.merges.len());
    for (rank, merge) in vocabulary.merges.iter().enumerate() {
        // A space is never a character of this alphabet, so the first one parts the pair.
        let Some((left, right)) = merge.split_once(' ') else {
            let field = format!("tokenizer.ggml.merges[{rank}]");
            return Err(TokenizerError::format(FILE, field, "expected two tokens and a space between them"));
        };
        merges.push((left.to_owned(), right.to_owned()));
    }
    let ids: Vocab = vocabulary.tokens.into_iter().zip(0u32..).collect();
    Ok((byte_level(FILE, words, ids, merges, added)?, words.add_bos))
}

/// A vocabulary in GPT-2's alphabet, whatever file it came from.
pub(super) fn byte_level(
    file: &'static str,
    words: &Words,
    ids: Vocab,
    merges: Merges,
    added: Vec<(u32, AddedToken)>,
) -> Result<Tokenizer, TokenizerError> {
    let field = if file == FILE { "tokenizer.ggml.merges" } else { "merges" };
    let wrong = |error: &dyn std::fmt::Display| TokenizerError::format(file, field, error);
    let model = BPE::builder().vocab_and_merges(ids, merges).ignore_merges(words.whole_words).build();
    Parts {
        file,
        model: Subwords::Listed(Box::new(ModelWrapper::BPE(model.map_err(|error| wrong(&error))?))),
        preparation: words.compose.then(|| Preparation::from(NFC)),
        pre_tokenizer: Some(words.pre_tokenizer().map_err(|error| wrong(&error))?),
        decoder: None,
        spelling: Spelling::ByteLevel,
        spelled: HashMap::new(),
        added,
    }
    .assemble()
}
