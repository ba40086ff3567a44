//! Random, damaged and contradictory vocabularies: each is refused or works, within the memory that its file
//! may take.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, LazyLock};

use contained::for_seconds;
use jtllm_fuzz::Random;
use jtllm_models::chat::{ChatTemplate, Message};
use jtllm_models::tokenizer::{
    AddedText, GgufVocabulary, Special, Stream, Tokenizer, TokenizerConfig, TokenizerError,
};
use prost::Message as _;
use serde_json::Map;
use support::{demo, fixture};

#[path = "support/allocated.rs"]
mod allocated;
#[path = "support/contained.rs"]
mod contained;
#[path = "support/damage.rs"]
mod damage;

/// Most memory beside the file's own size.
const ROOM: u64 = 64 << 20;

/// Reads, holds the memory to the bound, and passes on what was accepted; an error must have a text.
fn bounded<T>(size: usize, read: impl FnOnce() -> Result<T, TokenizerError>) -> Option<T> {
    let (found, peak) = allocated::peak(read);
    assert!(peak <= size as u64 + ROOM, "{peak} bytes for a file of {size}");
    found.map_err(|error| assert!(!error.to_string().is_empty())).ok()
}

/// What a vocabulary may stumble over: its own tokens, byte pieces, spaces, marks, other scripts.
const PIECES: &[&str] = &[
    "a",
    "b",
    "ab",
    "the ",
    " ",
    "  ",
    "\n",
    "1",
    "\u{301}",
    "中",
    "你好",
    "😀",
    "[X]",
    "[UNK]",
    "</s>",
    "<s>",
    "<|im_end|>",
    "<|im_",
    "end|>",
    "<0x0A>",
    "\u{2581}",
    "\u{120}",
    "un",
    "able",
    "'s",
    "\0",
    "\u{fdd0}",
];

/// Gives back what a user says, whose special tokens are text.
static ECHO: LazyLock<ChatTemplate> =
    LazyLock::new(|| ChatTemplate::new("{{ messages[0].content }}", None, None).unwrap());

/// A vocabulary that was accepted gives ids of its own, and text for any ids, at once or one by one.
fn check(tokenizer: Tokenizer, text: &str) {
    let tokenizer = Arc::new(tokenizer);
    let known = |ids: &[u32]| ids.iter().all(|id| (*id as usize) < tokenizer.vocab_size());
    let beyond = u32::try_from(tokenizer.vocab_size()).unwrap();
    let mut all: Vec<Vec<u32>> = vec![(0..20).collect(), vec![beyond, u32::MAX, 0, 1, beyond]];
    for special in [Special::Text, Special::Parse] {
        let Ok(ids) = tokenizer.encode(text, special) else { continue };
        assert!(known(&ids), "{ids:?} of {tokenizer:?}");
        let prompt = tokenizer.encode_prompt(text, special).unwrap();
        assert!(known(&prompt), "{prompt:?} of {tokenizer:?}");
        all.push(prompt);
    }
    if let Ok(ids) = ECHO.encode(&tokenizer, &[Message::new("user", text)], false, &Map::new()) {
        assert!(known(&ids), "{ids:?} of {tokenizer:?}");
        all.push(ids);
    }
    for (ids, skip) in all.iter().flat_map(|ids| [(ids, true), (ids, false)]) {
        let mut stream = Stream::new(Arc::clone(&tokenizer), skip);
        let mut streamed: String = ids.iter().map(|id| stream.push(*id)).collect();
        streamed.push_str(&stream.finish());
        let decoded = tokenizer.decode(ids, skip);
        // Where the spelling of a token depends on its neighbours, a strange decoder may take back what it
        // gave before, and a stream cannot.
        if ids.iter().any(|id| tokenizer.token_bytes(*id).is_some()) {
            assert_eq!(streamed, decoded, "{ids:?} of {tokenizer:?}");
        }
    }
}

/// A file of a model and nothing else.
fn bare(model: &str) -> Vec<u8> {
    format!(r#"{{"model": {model}}}"#).into_bytes()
}

/// Strange models.
fn strange_models() -> Vec<Vec<u8>> {
    vec![
        bare(r#"{"type": "Unigram", "vocab": [], "unk_id": 0}"#),
        bare(r#"{"type": "Unigram", "vocab": [], "unk_id": null}"#),
        bare(r#"{"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 100}"#),
        bare(r#"{"type": "Unigram", "vocab": [["a", 1e300], ["", 0.0]], "unk_id": null}"#),
        bare(
            r#"{"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0]], "unk_id": 0, "byte_fallback": true}"#,
        ),
        bare(r#"{"type": "BPE", "vocab": {"a": 0}, "merges": [], "unk_token": "none"}"#),
        bare(r#"{"type": "BPE", "vocab": {}, "merges": []}"#),
        bare(r#"{"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}"#),
        bare(r#"{"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2}, "merges": ["a b"]}"#),
        bare(
            r#"{"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "continuing_subword_prefix": "éé"}"#,
        ),
        bare(r#"{"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "dropout": 7.0}"#),
        bare(
            r#"{"type": "WordPiece", "vocab": {}, "unk_token": "[UNK]", "continuing_subword_prefix": "", "max_input_chars_per_word": 0}"#,
        ),
        bare(r#"{"type": "WordLevel", "vocab": {}, "unk_token": "[UNK]"}"#),
    ]
}

/// Strange settings around a sound model.
fn strange_settings() -> Vec<Vec<u8>> {
    let bpe = r#"{"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 7}, "merges": [["a", "b"]]}"#;
    let with = |rest: &str| format!(r#"{{"model": {bpe}, {rest}}}"#).into_bytes();
    vec![
        with(
            r#""pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false}"#,
        ),
        with(
            r#""pre_tokenizer": {"type": "Split", "pattern": {"Regex": "((((a{9}){9}){9}){9}){9}"}, "behavior": "Isolated", "invert": false}"#,
        ),
        with(
            r#""pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}"#,
        ),
        with(
            r#""pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?=a)|"}, "behavior": "Removed", "invert": true}"#,
        ),
        with(r#""normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}"#),
        with(r#""normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAA="}"#),
        with(r#""normalizer": {"type": "Replace", "pattern": {"Regex": ""}, "content": "bb"}"#),
        with(r#""normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "bb"}"#),
        with(
            r#""added_tokens": [{"id": 9, "content": "", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]"#,
        ),
        with(
            r#""added_tokens": [{"id": 4294967295, "content": "a", "single_word": true, "lstrip": true, "rstrip": true, "normalized": true, "special": true}]"#,
        ),
        with(
            r#""post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}], "pair": [], "special_tokens": {}}"#,
        ),
        with(
            r#""post_processor": {"type": "RobertaProcessing", "sep": ["a", 99], "cls": ["b", 98], "trim_offsets": true, "add_prefix_space": true}"#,
        ),
        with(
            r#""decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 18446744073709551615, "stop": 0}]}"#,
        ),
        with(r#""decoder": {"type": "Strip", "content": "a", "start": 5, "stop": 5}"#),
        with(r#""decoder": {"type": "BPEDecoder", "suffix": ""}"#),
        with(r#""decoder": {"type": "CTC", "pad_token": "a", "word_delimiter_token": "", "cleanup": true}"#),
    ]
}

/// A small file of each kind of model, with the settings that published files have.
fn usual_files() -> Vec<Vec<u8>> {
    let added = r#""added_tokens": [{"id": 9, "content": "</s>", "single_word": false, "lstrip": false,
        "rstrip": true, "normalized": false, "special": true}]"#;
    let space = r#"{"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}"#;
    let pieces = r#"{"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#;
    let ends = r#"{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [9], "tokens": ["</s>"]}}}"#;
    let files = [
        format!(
            r#"{{"model": {{"type": "BPE", "vocab": {{"<unk>": 0, "a": 1, "b": 2, "ab": 3, "▁": 4, "▁a": 5, "<0x0A>": 6}},
            "merges": ["a b", "▁ a"], "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true}},
            {added}, "normalizer": {space}, "decoder": {pieces}, "post_processor": {ends}}}"#
        ),
        format!(
            r#"{{"model": {{"type": "Unigram", "unk_id": 0, "byte_fallback": false,
            "vocab": [["<unk>", 0.0], ["▁a", -1.0], ["b", -2.0], ["▁", -3.0], ["ab", -1.5]]}}, {added},
            "pre_tokenizer": {{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}},
            "decoder": {{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}}}}"#
        ),
        WORDS.to_owned(),
    ];
    let mut files = files.map(String::into_bytes).to_vec();
    // The smaller of the published ones more often: the larger takes ten times as long.
    files.extend(vec![fixture("qwen2-gqa-untied-tiny/tokenizer.json"); 4]);
    files.push(demo("tokenizer.json"));
    files
}

const WORDS: &str = r###"{"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "un": 1, "##able": 2, "to": 3, "a": 4},
    "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
    "pre_tokenizer": {"type": "Whitespace"},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false}}"###;

/// Settings beside a vocabulary.
fn configs() -> Vec<Vec<u8>> {
    let folders = ["atom-7b-tiny", "qwen2-gqa-untied-tiny", "tokenizers/llama2", "tokenizers/qwen3"];
    let mut files: Vec<_> =
        folders.iter().map(|folder| fixture(&format!("{folder}/tokenizer_config.json"))).collect();
    files.push(
        br#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": null, "add_bos_token": true,
        "add_eos_token": false, "legacy": false, "add_prefix_space": true,
        "added_tokens_decoder": {"9": {"content": "[X]", "special": true, "lstrip": true, "normalized": false}},
        "chat_template": [{"name": "default", "template": "{{ messages }}"}]}"#
            .to_vec(),
    );
    files
}

#[test]
fn sound_files_are_accepted() {
    for file in usual_files() {
        check(Tokenizer::from_json(&file).unwrap(), "ab a the </s> 中");
    }
    configs().iter().for_each(|file| drop(TokenizerConfig::from_json(file).unwrap()));
    vocabularies().into_iter().for_each(|it| check(Tokenizer::from_gguf(it).unwrap(), "ab a </s> 中"));
}

/// Files that are sound JSON and say strange things: each is refused, or works without a panic.
#[test]
fn strange_json_files_do_not_panic() {
    for file in strange_models().into_iter().chain(strange_settings()) {
        for text in ["", "a", "ab ab\u{301} 中 [X]", &"a".repeat(4000)] {
            if let Some(tokenizer) = bounded(file.len(), || Tokenizer::from_json(&file)) {
                check(tokenizer, text);
            }
        }
    }
    let fault = |model: &str| Tokenizer::from_json(&bare(model)).unwrap_err().to_string();
    let prefix = r#"{"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "continuing_subword_prefix": "éé"}"#;
    let error = fault(prefix);
    assert!(error.starts_with("tokenizer.json: file: the vocabulary contradicts itself"), "{error}");
    let error = fault(r#"{"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}"#);
    assert!(error.starts_with("tokenizer.json: vocabulary: id 4294967295"), "{error}");
}

/// The reader of this table reserves what its first number says: here eight gigabytes.
#[test]
fn a_table_of_characters_that_is_shorter_than_it_says_is_refused() {
    let mut model = few_pieces(1);
    model.normalizer =
        Some(Normalizer { characters: Some(b"\xFC\xFF\xFF\xFFabcd".to_vec()), ..Default::default() });
    let file = model.encode_to_vec();
    let (error, peak) = allocated::peak(|| {
        Tokenizer::from_sentencepiece(&file, &TokenizerConfig::default()).unwrap_err().to_string()
    });
    let why = "the table of characters has a trie of 4294967292 bytes, but room for 4";
    assert_eq!(error, format!("tokenizer.model: normalizer_spec: {why}"));
    assert!(peak < 1 << 20, "{peak} bytes");
    let table = r#"{"type": "Precompiled", "precompiled_charsmap": "/P///2FiY2Q="}"#;
    for normalizer in [table, &format!(r#"{{"type": "Sequence", "normalizers": [{table}]}}"#)] {
        let file = format!(
            r#"{{"model": {{"type": "BPE", "vocab": {{}}, "merges": []}}, "normalizer": {normalizer}}}"#
        );
        let (error, peak) =
            allocated::peak(|| Tokenizer::from_json(file.as_bytes()).unwrap_err().to_string());
        assert!(error.starts_with("tokenizer.json: normalizer: the table of characters"), "{error}");
        assert!(peak < 1 << 20, "{peak} bytes");
    }
}

/// A prompt would begin with an id that the model has no row for.
#[test]
fn ends_beyond_the_vocabulary_are_refused() {
    let file = r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "post_processor": {"type":
        "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}}"#;
    let error = Tokenizer::from_json(file.as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "tokenizer.json: post_processor: expected ids below 1, found 1");
}

/// The engine would find nothing without end.
#[test]
fn a_token_of_which_normalisation_leaves_nothing_is_not_looked_for() {
    let file = few_pieces(1).encode_to_vec();
    let space = AddedText { id: 9, content: "  ".to_owned(), normalized: true, ..AddedText::default() };
    let config = TokenizerConfig { added: vec![space], ..TokenizerConfig::default() };
    let tokenizer = Tokenizer::from_sentencepiece(&file, &config).unwrap();
    let ids = tokenizer.encode("ab  a", Special::Parse).unwrap();
    assert!(!ids.contains(&9), "{ids:?}");
    assert_eq!((tokenizer.token_id("  "), tokenizer.decode(&[9], false).as_str()), (Some(9), " "));
}

#[test]
fn fuzz_tokenizer_json() {
    let mut files = usual_files();
    files.extend(strange_models());
    files.extend(strange_settings());
    for_seconds("tokenizer.json", |random| {
        let file = damage::json(random, &files);
        let Some(tokenizer) = bounded(file.len(), || Tokenizer::from_json(&file)) else { return };
        check(tokenizer, &random.text(PIECES, 12));
    });
}

#[test]
fn fuzz_tokenizer_config() {
    let files = configs();
    let vocabulary = usual_files().swap_remove(0);
    for_seconds("tokenizer_config.json", |random| {
        let file = damage::json(random, &files);
        let Some(config) = bounded(file.len(), || TokenizerConfig::from_json(&file)) else { return };
        if let Some(tokenizer) =
            bounded(file.len(), || Tokenizer::from_json(&vocabulary).and_then(|it| it.with_config(&config)))
        {
            check(tokenizer, &random.text(PIECES, 12));
        }
    });
}

/// The parts of a `tokenizer.model` that are read.
#[derive(Clone, PartialEq, prost::Message)]
struct ModelFile {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Piece {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Trainer {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
    #[prost(int32, optional, tag = "41")]
    bos: Option<i32>,
    #[prost(int32, optional, tag = "42")]
    eos: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Normalizer {
    #[prost(bytes = "vec", optional, tag = "2")]
    characters: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    leading_space: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    collapse_spaces: Option<bool>,
}

/// A file of few pieces, of the unigram kind if `model_type` is 1 and of the merging kind if it is 2.
fn few_pieces(model_type: i32) -> ModelFile {
    let pieces =
        [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<0x0A>", 6), ("▁a", 1), ("a", 1), ("b", 1), ("ab", 1)];
    let piece = |(at, (text, kind)): (usize, (&str, i32))| Piece {
        text: text.to_owned(),
        score: -(at as f32),
        kind: Some(kind),
    };
    ModelFile {
        pieces: pieces.into_iter().enumerate().map(piece).collect(),
        trainer: Some(Trainer {
            model_type: Some(model_type),
            byte_fallback: None,
            bos: Some(1),
            eos: Some(2),
        }),
        normalizer: Some(Normalizer {
            characters: None,
            leading_space: Some(true),
            collapse_spaces: Some(model_type == 1),
        }),
    }
}

/// A number of the kind that a signed field of a file may hold.
fn signed(random: &mut Random) -> i32 {
    match random.below(3) {
        0 => *random.choice(&[-1, i32::MIN, i32::MAX, 0]),
        _ => random.below(9) as i32,
    }
}

fn score(random: &mut Random) -> f32 {
    *random.choice(&[0.0, -0.0, 1.0, -1e30, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e-40])
}

/// A text for a token: of the kinds that mean something, repeated, or any.
fn token(random: &mut Random) -> String {
    match random.below(4) {
        0 => random.value("\\PC{0,8}"),
        1 => random.choice::<&str>(PIECES).repeat(random.below(400)),
        _ => random.text(PIECES, 3),
    }
}

fn contradict(random: &mut Random, file: &mut ModelFile) {
    let (at, other) = (random.below(file.pieces.len()), random.below(file.pieces.len()));
    let trainer = file.trainer.get_or_insert_default();
    let normalizer = file.normalizer.get_or_insert_default();
    match random.below(12) {
        _ if file.pieces.is_empty() => file.pieces.push(Piece::default()),
        0 => drop(file.pieces.remove(at)),
        1 => file.pieces[at].text = file.pieces[other].text.clone(),
        2 | 3 => file.pieces[at].text = token(random),
        4 => file.pieces[at].score = score(random),
        5 => file.pieces[at].kind = Some(signed(random)),
        6 => trainer.model_type = Some(signed(random)),
        7 => (trainer.bos, trainer.eos) = (Some(signed(random)), Some(signed(random))),
        8 => trainer.byte_fallback = Some(true),
        // The length of a table, the table, and the texts that it leads to.
        9 => {
            normalizer.characters =
                Some(damage::bytes(random, &[b"\x08\0\0\0\0\x04\0\0a\0\0\x01b\0a\0".to_vec()]))
        }
        10 => normalizer.collapse_spaces = Some(random.below(2) == 0),
        _ => file.trainer = None,
    }
}

fn settings(random: &mut Random) -> TokenizerConfig {
    let mut added = Vec::new();
    for _ in 0..random.below(3) {
        added.push(AddedText {
            id: damage::extreme(random) as u32,
            content: token(random),
            special: random.below(2) == 0,
            normalized: random.below(2) == 0,
            lstrip: random.below(2) == 0,
            ..AddedText::default()
        });
    }
    TokenizerConfig { added, legacy: *random.choice(&[None, Some(false)]), ..TokenizerConfig::default() }
}

#[test]
fn fuzz_sentencepiece() {
    let atom = fixture("atom-7b-tiny/tokenizer.model");
    let models = [few_pieces(1), few_pieces(2), ModelFile::decode(&atom[..]).unwrap()];
    let mut files: Vec<_> = models.iter().map(ModelFile::encode_to_vec).collect();
    files.push(atom);
    let plain = |file: &[u8]| Tokenizer::from_sentencepiece(file, &TokenizerConfig::default());
    files.iter().for_each(|file| check(plain(file).unwrap(), "ab a </s> 中"));
    for_seconds("tokenizer.model", |random| {
        let file = match random.below(2) {
            0 => damage::bytes(random, &files),
            _ => {
                let mut model = random.choice(&models).clone();
                (0..1 + random.below(4)).for_each(|_| contradict(random, &mut model));
                model.encode_to_vec()
            }
        };
        let config = settings(random);
        let read = bounded(file.len(), || Tokenizer::from_sentencepiece(&file, &config));
        read.into_iter().for_each(|tokenizer| check(tokenizer, &random.text(PIECES, 12)));
    });
}

/// Vocabularies of both kinds, as GGUF's metadata hold them.
fn vocabularies() -> Vec<GgufVocabulary<'static>> {
    let pieces = few_pieces(2).pieces;
    let scored = GgufVocabulary {
        model: "llama",
        tokens: pieces.iter().map(|piece| piece.text.clone()).collect(),
        scores: pieces.iter().map(|piece| piece.score).collect(),
        types: pieces.iter().map(|piece| piece.kind.unwrap()).collect(),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        ..GgufVocabulary::default()
    };
    let merged = GgufVocabulary {
        model: "gpt2",
        pre: "smollm",
        tokens: ["a", "b", "ab", "Ġ", "Ġa", "</s>", "1", "Ċ"].map(str::to_owned).to_vec(),
        types: vec![1, 1, 1, 1, 1, 3, 1, 4],
        merges: vec!["a b".to_owned(), "Ġ a".to_owned()],
        eos: Some(5),
        ..GgufVocabulary::default()
    };
    vec![scored, merged]
}

fn contradict_gguf(random: &mut Random, it: &mut GgufVocabulary<'static>) {
    let at = random.below(it.tokens.len());
    let id = |random: &mut Random| Some(damage::extreme(random) as u32 % 12);
    match random.below(13) {
        0 => drop(it.tokens.pop()),
        1 => it.tokens.push(token(random)),
        2 if at < it.tokens.len() => it.tokens[at] = token(random),
        3 => it.scores.truncate(at),
        4 if at < it.scores.len() => it.scores[at] = score(random),
        5 => it.types.clear(),
        6 if at < it.types.len() => it.types[at] = signed(random),
        7 => it.merges.push(format!("{} {}", token(random), random.choice(&it.tokens.clone()))),
        8 => it.merges.push(token(random)),
        9 => (it.bos, it.eos, it.unknown) = (id(random), id(random), id(random)),
        10 => it.model = *random.choice(&["llama", "gpt2", "", "bert"]),
        11 => it.pre = *random.choice(&["", "llama-bpe", "qwen2", "tekken", "bloom", "gpt-2", "?"]),
        _ => (it.add_bos, it.add_eos, it.add_space_prefix) = (Some(true), Some(true), Some(at == 0)),
    }
}

#[test]
fn fuzz_gguf_vocabulary() {
    let sound = vocabularies();
    for_seconds("GGUF vocabulary", |random| {
        let mut vocabulary = random.choice(&sound).clone();
        (0..1 + random.below(4)).for_each(|_| contradict_gguf(random, &mut vocabulary));
        let size = vocabulary.tokens.iter().chain(&vocabulary.merges).map(String::len).sum();
        let read = bounded(size, || Tokenizer::from_gguf(vocabulary));
        read.into_iter().for_each(|tokenizer| check(tokenizer, &random.text(PIECES, 12)));
    });
}
