//! Byte-level BPE in two files: `vocab.json` and `merges.txt`, as GPT-2 began it.

use tokenizers::AddedToken;
use tokenizers::models::bpe::{Merges, Vocab};

use super::gguf::{byte_level, words_named};
use super::{Tokenizer, TokenizerConfig, TokenizerError, contained};

const FILE: &str = "vocab.json";

/// GPT-2's only special token; vocabularies made from its code have it, too.
const END: &str = "<|endoftext|>";

/// How text is cut into words, by the class that reads the files in transformers: name, and the name of the
/// rule in GGUF files. Classes that are not here are GPT-2's, or copies of it.
const CLASSES: [(&str, &str); 2] = [("Qwen2Tokenizer", "qwen2"), ("Qwen2TokenizerFast", "qwen2")];

impl Tokenizer {
    /// Reads `vocab.json`, `merges.txt` and, where a model has it, `added_tokens.json`. All tokens of the
    /// last are special; what else is, `config` names.
    pub fn from_merges(
        vocabulary: &[u8],
        merges: &[u8],
        added: Option<&[u8]>,
        config: &TokenizerConfig,
    ) -> Result<Tokenizer, TokenizerError> {
        let failed = |why| TokenizerError::format(FILE, "file", why);
        contained(failed, || Self::read_merges(vocabulary, merges, added, config))
    }

    fn read_merges(
        vocabulary: &[u8],
        merges: &[u8],
        added: Option<&[u8]>,
        config: &TokenizerConfig,
    ) -> Result<Tokenizer, TokenizerError> {
        let ids: Vocab = serde_json::from_slice(vocabulary)
            .map_err(|error| TokenizerError::format(FILE, "file", error))?;
        let mut special: Vec<(u32, AddedToken)> = Vec::new();
        let mut add = |id: u32, token: AddedToken| {
            if special.iter().all(|(other, _)| *other != id) {
                special.push((id, token));
            }
        };
        for token in &config.added {
            let read = AddedToken::from(token.content.clone(), token.special)
                .normalized(token.normalized)
                .lstrip(token.lstrip)
                .rstrip(token.rstrip)
                .single_word(token.single_word);
            add(token.id, read);
        }
        for (text, id) in added_tokens(added)? {
            add(id, AddedToken::from(text, true).normalized(false));
        }
        let named = [config.bos.as_deref(), config.eos.as_deref(), config.unknown.as_deref(), Some(END)];
        for text in named.into_iter().flatten() {
            if let Some(id) = ids.get(text) {
                add(*id, AddedToken::from(text.to_owned(), true).normalized(false));
            }
        }
        let class = config.class.as_deref().unwrap_or_default();
        let rule = CLASSES.iter().find(|(known, _)| *known == class).map_or("gpt-2", |(_, rule)| rule);
        let words = words_named(rule).expect("the table of classes names rules that the other table has");
        let mut tokenizer = byte_level(FILE, words, ids, pairs(merges)?, special)?;
        tokenizer.eos = tokenizer.token_id(END);
        tokenizer.with_config(config)
    }
}

fn added_tokens(file: Option<&[u8]>) -> Result<Vec<(String, u32)>, TokenizerError> {
    let Some(bytes) = file else { return Ok(Vec::new()) };
    let read: Vocab = serde_json::from_slice(bytes)
        .map_err(|error| TokenizerError::format("added_tokens.json", "file", error))?;
    Ok(read.into_iter().collect())
}

/// One pair a line; the first line may be a remark on the version.
fn pairs(file: &[u8]) -> Result<Merges, TokenizerError> {
    const FILE: &str = "merges.txt";
    let text = std::str::from_utf8(file).map_err(|error| TokenizerError::format(FILE, "file", error))?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(index, line)| !line.is_empty() && (*index > 0 || !line.starts_with("#version")));
    let pair = |(index, line): (usize, &str)| match line.split_once(' ') {
        Some((left, right)) => Ok((left.to_owned(), right.to_owned())),
        None => {
            let field = format!("line {}", index + 1);
            Err(TokenizerError::format(FILE, field, "expected two tokens and a space between them"))
        }
    };
    lines.map(pair).collect()
}
