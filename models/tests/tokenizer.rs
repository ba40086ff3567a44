//! Properties and faults of tokenizers, streams and stop strings.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jtllm_fuzz::for_seconds;
use jtllm_models::tokenizer::{
    GgufVocabulary, Passed, Special, Stops, Stream, Tokenizer, TokenizerConfig, TokenizerError,
};
use prost::Message as _;
use support::{asset, atom_tiny, demo, demo_tokenizer, fixture, gguf_tokenizer, llama2, qwen2_tiny};

static DEMO: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(demo_tokenizer()));
static QWEN2: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(qwen2_tiny()));
static ATOM: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(atom_tiny()));
static LLAMA2: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(llama2()));

fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> String {
    let mut stream = Stream::new(Arc::clone(tokenizer), skip_special);
    let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
    text.push_str(&stream.finish());
    text
}

/// Whatever a vocabulary of bytes encodes, it decodes to the same text.
fn check_byte_level(text: &str) {
    for tokenizer in [&*DEMO, &*QWEN2] {
        for special in [Special::Text, Special::Parse] {
            let ids = tokenizer.encode(text, special).unwrap();
            assert_eq!(tokenizer.decode(&ids, false), text);
        }
    }
}

/// So does SentencePiece, but for the character that it writes spaces with.
fn check_pieces(text: &str) {
    for tokenizer in [&*ATOM, &*LLAMA2] {
        let ids = tokenizer.encode(text, Special::Text).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), text.replace('\u{2581}', " "));
    }
}

/// A stream emits what decoding of the whole gives.
fn check_stream(ids: &[u32], skip: bool) {
    for tokenizer in [&*DEMO, &*QWEN2, &*ATOM, &*LLAMA2] {
        assert_eq!(streamed(tokenizer, ids, skip), tokenizer.decode(ids, skip), "{ids:?}");
    }
}

/// No text of a user is special.
fn check_plain(text: &str) {
    for tokenizer in [&*DEMO, &*QWEN2, &*ATOM, &*LLAMA2] {
        let ids = tokenizer.encode(text, Special::Text).unwrap();
        assert!(!ids.iter().any(|id| tokenizer.is_special(*id)), "{text:?}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids, true), text);
    }
}

#[test]
fn t06_text_comes_back() {
    for text in [
        "",
        " ",
        "  two  spaces  ",
        "\n\n\t x\r\n",
        "\0\u{7f}\u{80}\u{ad}",
        "Grüße, 你好！ مرحبا नमस्ते",
        "e\u{301} é ﬁ ① \u{212b}",
        "👨\u{200d}👩\u{200d}👧\u{fe0f} \u{10ffff}\u{fdd0}",
        "<0x0A><|im_end|></s>",
        "it's 1234567 a.b",
    ] {
        check_byte_level(text);
        check_pieces(text);
        check_plain(text);
        for tokenizer in [&*DEMO, &*QWEN2, &*ATOM, &*LLAMA2] {
            let ids = tokenizer.encode(text, Special::Text).unwrap();
            (0..=ids.len()).for_each(|end| check_stream(&ids[..end], false));
        }
    }
}

#[test]
fn fuzz_byte_level_text_comes_back() {
    for_seconds("byte-level text", |random| {
        check_byte_level(&random.value("(?s).{0,40}"));
        check_byte_level(&random.value("\\PC{0,40}"));
    });
}

#[test]
fn fuzz_sentencepiece_text_comes_back() {
    for_seconds("text of pieces", |random| check_pieces(&random.value("\\PC{0,40}")));
}

#[test]
fn fuzz_a_stream_emits_what_decode_gives() {
    for_seconds("streams", |random| {
        let ids: Vec<u32> = (0..random.below(60)).map(|_| random.below(1600) as u32).collect();
        check_stream(&ids, random.below(2) == 0);
    });
}

#[test]
fn fuzz_no_text_is_special() {
    let pieces = ["<s>", "</s>", "<unk>", "<|im_end|>", "<|", "<", "|", ">", "s", "/", "im_", "end", " "];
    for_seconds("text of special tokens", |random| check_plain(&random.text(&pieces, 12)));
}

#[test]
fn fuzz_stops_do_not_depend_on_the_parts() {
    let stops = || Stops::new(vec!["abba".to_owned(), "bb".to_owned(), "baab".to_owned()]).unwrap();
    for_seconds("stops", |random| {
        let text = random.text(&["a", "b"], 24);
        let mut whole = stops();
        let Passed { text: mut want, matched } = whole.push(&text);
        want.push_str(&whole.finish());
        let mut parts = stops();
        let (mut found, mut hit, mut from) = (String::new(), None, 0);
        let mut cuts: Vec<usize> = (0..random.below(8)).map(|_| random.below(text.len() + 1)).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        for cut in cuts {
            let passed = parts.push(&text[from..cut]);
            found.push_str(&passed.text);
            hit = passed.matched;
            from = cut;
        }
        found.push_str(&parts.finish());
        assert_eq!((&found, hit), (&want, matched));
        assert!(hit.is_some() || found == text);
        assert!(!found.contains("bb") && !found.contains("baab"));
    });
}

/// The shortest of three runs: what the code needs, without what other processes take.
fn shortest(work: impl Fn()) -> Duration {
    let runs = (0..if cfg!(debug_assertions) { 1 } else { 3 }).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed()
    });
    runs.min().unwrap()
}

#[test]
fn t08_a_megabyte_is_encoded_in_a_second() {
    let mut tokenizers = vec![Arc::clone(&DEMO), Arc::clone(&QWEN2), Arc::clone(&ATOM), Arc::clone(&LLAMA2)];
    for name in ["llama3", "qwen3"] {
        if let Some(file) = asset(&format!("{name}/tokenizer.json")) {
            tokenizers.push(Arc::new(Tokenizer::from_json(&file).unwrap()));
        }
    }
    if let Some(file) = asset("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") {
        tokenizers.push(Arc::new(gguf_tokenizer(&file)));
    }
    // A second is for a megabyte by optimised code; an unoptimised build gets a quarter of that text and
    // only guards against squares. Digits are a million words of their own for some vocabularies.
    let (bytes, scale) = if cfg!(debug_assertions) { (1 << 18, 3) } else { (1 << 20, 1) };
    for tokenizer in tokenizers {
        for (letter, seconds) in [("a", 1), (" ", 2), ("1", 3)] {
            let text = letter.repeat(bytes);
            let ids = tokenizer.encode(&text, Special::Parse).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).len(), text.len());
            let elapsed = shortest(|| drop(tokenizer.encode(&text, Special::Parse)));
            println!("{letter:?}: {} tokens in {elapsed:?}, {tokenizer:?}", ids.len());
            assert!(
                elapsed < Duration::from_secs(scale * seconds),
                "{letter:?} with {tokenizer:?}: {elapsed:?}"
            );
        }
    }
}

#[test]
fn a_stream_keeps_spaces_and_whole_characters() {
    let ids = LLAMA2.encode("Hello world 👨\u{200d}👩\u{200d}👧!", Special::Text).unwrap();
    assert!(streamed(&LLAMA2, &ids, true).starts_with("Hello world"));
    let mut later = Stream::continuing(Arc::clone(&LLAMA2), true);
    assert!(later.push(ids[0]).starts_with(' '));
    let mut stream = Stream::new(Arc::clone(&DEMO), true);
    let parts: Vec<String> =
        DEMO.encode("😀é中", Special::Text).unwrap().iter().map(|id| stream.push(*id)).collect();
    assert!(parts.iter().all(|part| !part.contains('\u{fffd}')), "{parts:?}");
    assert!(parts.iter().any(String::is_empty));
    assert_eq!(parts.concat(), "😀é中");
    assert_eq!(stream.finish(), "");
}

#[test]
fn an_unfinished_character_is_shown_at_the_end() {
    for tokenizer in [&*DEMO, &*ATOM] {
        let ids = tokenizer.encode("a😀", Special::Text).unwrap();
        let cut = &ids[..ids.len() - 1];
        let text = tokenizer.decode(cut, true);
        assert!(text.starts_with('a') && text.ends_with('\u{fffd}'), "{text:?}");
        assert_eq!(streamed(tokenizer, cut, true), text);
    }
}

#[test]
fn a_vocabulary_whose_spelling_depends_on_neighbours_streams_too() {
    let file = r###"{"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "un": 1, "##able": 2, "to": 3, "go": 4},
        "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
        "pre_tokenizer": {"type": "Whitespace"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false}}"###;
    let tokenizer = Arc::new(Tokenizer::from_json(file.as_bytes()).unwrap());
    let ids = tokenizer.encode("unable to go un", Special::Text).unwrap();
    assert_eq!(ids, [1, 2, 3, 4, 1]);
    assert_eq!(tokenizer.decode(&ids, true), "unable to go un");
    assert_eq!(streamed(&tokenizer, &ids, true), "unable to go un");
    assert_eq!(tokenizer.unknown(), Some(0));
}

#[test]
fn tokens_of_the_configuration_are_added() {
    let settings = TokenizerConfig::from_json(
        br#"{"eos_token": "<|end|>", "added_tokens_decoder": {"400": {"content": "<|end|>", "special": true}}}"#,
    );
    let file = fixture("atom-7b-tiny/tokenizer.model");
    let tokenizer = Tokenizer::from_sentencepiece(&file, &settings.unwrap()).unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.vocab_size()), (Some(400), 401));
    assert_eq!(tokenizer.encode("<|end|>", Special::Parse).unwrap(), [400]);
    let text = tokenizer.encode("<|end|>", Special::Text).unwrap();
    assert!(!text.contains(&400) && tokenizer.decode(&text, true) == "<|end|>");
}

#[test]
fn stops_hold_back_and_report() {
    let mut stops = Stops::new(vec!["</answer>".to_owned(), "\nuser:".to_owned()]).unwrap();
    let mut push = |text: &str| {
        let Passed { text, matched } = stops.push(text);
        (text, matched)
    };
    assert_eq!(push("4 < 5 and <"), ("4 < 5 and ".to_owned(), None));
    assert_eq!(push("b> is\n"), ("<b> is".to_owned(), None));
    assert_eq!(push("us"), (String::new(), None));
    assert_eq!(push("er: hi"), (String::new(), Some(1)));
    assert_eq!(push("more"), (String::new(), Some(1)));
    let mut ended = Stops::new(vec!["stop".to_owned()]).unwrap();
    assert_eq!(ended.push("full st").text, "full ");
    assert_eq!(ended.finish(), "st");
    assert_eq!(
        Stops::new(vec!["a".to_owned(), String::new()]).unwrap_err(),
        TokenizerError::EmptyStop { index: 1 }
    );
    assert_eq!(Stops::new(Vec::new()).unwrap().push("all").text, "all");
}

/// The scores of a `tokenizer.model`, which the tokenizer itself does not give away.
#[derive(prost::Message)]
struct ModelFile {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceOfFile>,
}

#[derive(prost::Message)]
struct PieceOfFile {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

fn atom_as_gguf() -> GgufVocabulary<'static> {
    let pieces = ModelFile::decode(&fixture("atom-7b-tiny/tokenizer.model")[..]).unwrap().pieces;
    GgufVocabulary {
        model: "llama",
        pre: "default",
        tokens: pieces.iter().map(|piece| piece.text.clone()).collect(),
        scores: pieces.iter().map(|piece| piece.score).collect(),
        types: pieces.iter().map(|piece| piece.kind.unwrap_or(1)).collect(),
        bos: Some(1),
        eos: Some(2),
        unknown: Some(0),
        ..GgufVocabulary::default()
    }
}

#[test]
fn gguf_llama_equals_sentencepiece() {
    let tokenizer = Tokenizer::from_gguf(atom_as_gguf()).unwrap();
    assert!(tokenizer.add_bos() && !tokenizer.add_eos());
    for text in ["Hello, world!", "你好，世界！", "  a  b\n", "😀", "<s>x</s> y"] {
        for special in [Special::Parse, Special::Text] {
            assert_eq!(tokenizer.encode(text, special).unwrap(), ATOM.encode(text, special).unwrap());
        }
    }
    let bare = Tokenizer::from_gguf(GgufVocabulary {
        add_space_prefix: Some(false),
        add_bos: Some(false),
        ..atom_as_gguf()
    });
    let bare = bare.unwrap();
    assert!(!bare.add_bos());
    assert_eq!(bare.encode(" the", Special::Text).unwrap(), tokenizer.encode("the", Special::Text).unwrap());
    assert_eq!(bare.decode(&bare.encode(" the", Special::Text).unwrap(), true), " the");
}

#[test]
fn legacy_false_puts_the_space_before_the_first_text_only() {
    let settings = TokenizerConfig { legacy: Some(false), ..TokenizerConfig::default() };
    let newer = Tokenizer::from_sentencepiece(&fixture("atom-7b-tiny/tokenizer.model"), &settings).unwrap();
    assert_eq!(newer.encode("the", Special::Parse).unwrap(), ATOM.encode("the", Special::Parse).unwrap());
    let after = |tokenizer: &Tokenizer| tokenizer.encode("<s>the", Special::Parse).unwrap();
    assert_eq!(after(&ATOM)[1..], ATOM.encode("the", Special::Parse).unwrap());
    assert_ne!(after(&newer), after(&ATOM));
    assert_eq!(newer.decode(&after(&newer), true), "the");
}

fn fault(result: Result<Tokenizer, TokenizerError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn faults_of_gguf_vocabularies_name_their_key() {
    let with = |change: fn(&mut GgufVocabulary<'static>)| {
        let mut vocabulary = atom_as_gguf();
        change(&mut vocabulary);
        fault(Tokenizer::from_gguf(vocabulary))
    };
    assert!(with(|it| it.model = "t5").starts_with("gguf: tokenizer.ggml.model: \"t5\" is not known"));
    assert!(with(|it| it.scores.truncate(3)).starts_with("gguf: tokenizer.ggml.scores: 3 entries"));
    assert!(with(|it| it.types.truncate(3)).starts_with("gguf: tokenizer.ggml.token_type: 3 entries"));
    assert!(with(|it| it.types[5] = 9).starts_with("gguf: tokenizer.ggml.token_type[5]: 9 is no type"));
    assert!(
        with(|it| it.eos = Some(1 << 20))
            .starts_with("gguf: tokenizer.ggml.eos_token_id: expected an id below")
    );
    assert!(with(|it| it.tokens[300] = "a".repeat(2000)).starts_with("gguf: pieces[300]: longer than"));
    let gpt2 = |pre, merge: &str| {
        let tokens = ["a", "b", "ab"].map(str::to_owned).to_vec();
        Tokenizer::from_gguf(GgufVocabulary {
            model: "gpt2",
            pre,
            tokens,
            merges: vec![merge.to_owned()],
            ..GgufVocabulary::default()
        })
    };
    assert_eq!(gpt2("gpt-2", "a b").unwrap().encode("abb", Special::Text).unwrap(), [2, 1]);
    let unknown = fault(gpt2("my-own", "a b"));
    assert!(
        unknown.starts_with("gguf: tokenizer.ggml.pre: \"my-own\" is not known, expected one of gpt-2"),
        "{unknown}"
    );
    assert!(fault(gpt2("gpt-2", "ab")).starts_with("gguf: tokenizer.ggml.merges[0]: expected two tokens"));
    assert!(fault(gpt2("gpt-2", "a c")).starts_with("gguf: tokenizer.ggml.merges"));
    assert!(
        fault(Tokenizer::from_gguf(GgufVocabulary { model: "llama", ..GgufVocabulary::default() }))
            .contains("empty")
    );
}

#[test]
fn every_pre_tokenizer_of_gguf_is_sound() {
    let alphabet: Vec<String> =
        (0x21u8..0x7f).map(|byte| char::from(byte).to_string()).chain(["Ġ".to_owned()]).collect();
    let error = Tokenizer::from_gguf(GgufVocabulary { model: "gpt2", pre: "?", ..GgufVocabulary::default() })
        .unwrap_err();
    let TokenizerError::Unsupported { known, .. } = error else { panic!("{error}") };
    let names: Vec<&str> = known.split(',').map(str::trim).collect();
    assert!(names.contains(&"smollm") && names.contains(&"llama-bpe") && names.contains(&"qwen2"));
    for pre in names.into_iter().chain([""]) {
        let vocabulary =
            GgufVocabulary { model: "gpt2", pre, tokens: alphabet.clone(), ..GgufVocabulary::default() };
        let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
        let ids = tokenizer.encode("It's 1234 (words), no?", Special::Text).unwrap();
        assert_eq!(tokenizer.decode(&ids, false), "It's 1234 (words), no?", "{pre}");
    }
}

#[test]
fn faults_of_json_files_name_their_field() {
    let file = |change: fn(&mut serde_json::Value)| {
        let mut root: serde_json::Value = serde_json::from_slice(&demo("tokenizer.json")).unwrap();
        change(&mut root);
        Tokenizer::from_json(root.to_string().as_bytes())
    };
    assert!(file(|_| ()).is_ok());
    for (field, found) in [
        ("file", Tokenizer::from_json(b"{")),
        ("file", Tokenizer::from_json(b"{}")),
        ("model", file(|root| root["model"] = serde_json::Value::Null)),
        ("model", file(|root| root["model"]["merges"][0] = "none such".into())),
        ("pre_tokenizer", file(|root| root["pre_tokenizer"]["type"] = "Magic".into())),
        ("normalizer", file(|root| root["normalizer"] = 7.into())),
        ("decoder", file(|root| root["decoder"] = "ByteLevel".into())),
        ("added_tokens", file(|root| root["added_tokens"][0]["id"] = (-1).into())),
    ] {
        let error = fault(found);
        assert!(error.starts_with(&format!("tokenizer.json: {field}: ")), "{error}");
    }
    let config = |text: &str| TokenizerConfig::from_json(text.as_bytes()).unwrap_err().to_string();
    assert!(config(r#"{"bos_token": 1}"#).starts_with("tokenizer_config.json: bos_token: "));
    assert!(config(r#"{"add_bos_token": "yes"}"#).starts_with("tokenizer_config.json: add_bos_token: "));
    assert!(config(r#"{"added_tokens_decoder": {"x": {}}}"#).contains("added_tokens_decoder.x"));
    assert!(config(r#"{"chat_template": [{"name": "a"}]}"#).contains("chat_template[0]"));
    let missing = TokenizerConfig { eos: Some("<|never|>".to_owned()), ..TokenizerConfig::default() };
    let error = fault(demo_tokenizer().with_config(&missing));
    assert_eq!(error, "tokenizer_config.json: eos_token: the vocabulary has no token \"<|never|>\"");
}

#[test]
fn tokens_are_found_by_text_and_by_id() {
    assert_eq!(DEMO.token_id("<|im_end|>"), Some(2));
    assert_eq!(DEMO.token_text(2).as_deref(), Some("<|im_end|>"));
    assert_eq!((DEMO.vocab_size(), DEMO.eos(), DEMO.bos()), (1536, Some(2), None));
    assert_eq!((DEMO.token_id("no such token"), DEMO.token_text(9999)), (None, None));
    assert_eq!(DEMO.decode(&[2, 9999, 2], false), "<|im_end|><|im_end|>");
    assert_eq!(DEMO.decode(&[2, 9999, 2], true), "");
    assert_eq!(ATOM.token_bytes(13), Some(vec![b'\n']));
    assert_eq!(ATOM.token_bytes(9999), None);
}
