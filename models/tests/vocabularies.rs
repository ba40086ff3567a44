//! Properties and faults of the vocabularies that one family alone has.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jtllm_fuzz::for_seconds;
use jtllm_models::tokenizer::{GgufVocabulary, Special, Stream, Tokenizer, TokenizerConfig};
use support::{chatglm, config, fixture, ice_text, pangu, rwkv_world};

static ICE: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(ice_text("chatglm-6b-tiny/ice_text.model", 0)));
static CHATGLM: LazyLock<Arc<Tokenizer>> =
    LazyLock::new(|| Arc::new(chatglm("chatglm3-6b-tiny/tokenizer.model")));
static WORLD: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(rwkv_world()));
static PANGU: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(pangu()));
static BERT: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
    let settings = config(&fixture("tokenizers/bert-minilm/tokenizer_config.json"));
    Arc::new(Tokenizer::from_wordpiece(&fixture("tokenizers/bert-minilm/vocab.txt"), &settings).unwrap())
});

fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip_special: bool) -> String {
    let mut stream = Stream::new(Arc::clone(tokenizer), skip_special);
    let mut text: String = ids.iter().map(|id| stream.push(*id)).collect();
    text.push_str(&stream.finish());
    text
}

/// Texts come back where the vocabulary has a token for every byte and changes no character.
fn check_text(text: &str) {
    assert_eq!(WORLD.decode(&WORLD.encode(text, Special::Text).unwrap(), false), text);
    let ids = CHATGLM.encode(text, Special::Text).unwrap();
    assert_eq!(CHATGLM.decode(&ids, false), text.replace('\u{2581}', " "));
}

#[test]
fn t06_text_of_every_byte_comes_back() {
    for text in [
        "",
        " ",
        "  two  spaces  ",
        "\n\n\t x\r\n",
        "你好！ e\u{301} 👨\u{200d}👩\u{10ffff}",
        "<0x0A>[gMASK]sop",
    ] {
        check_text(text);
    }
}

#[test]
fn fuzz_text_of_every_byte_comes_back() {
    for_seconds("text in new vocabularies", |random| check_text(&random.value("\\PC{0,40}")));
}

/// Only the unknown token, which stands for what has none, may come of a user's text.
fn check_plain(text: &str) {
    for tokenizer in [&*ICE, &*CHATGLM, &*WORLD, &*PANGU, &*BERT] {
        let ids = tokenizer.encode(text, Special::Text).unwrap();
        let unknown = tokenizer.unknown();
        let special = ids.iter().find(|id| tokenizer.is_special(**id) && Some(**id) != unknown);
        assert_eq!(special, None, "{text:?} with {tokenizer:?}");
    }
}

#[test]
fn t02_no_text_of_a_user_is_special() {
    for text in [
        "[gMASK]<sop>",
        "[gMASK]sop",
        "<|user|>\n x",
        "<eot>",
        "[CLS] [SEP]",
        "</s><s><unk><pad>",
        "philosopher sop",
    ] {
        check_plain(text);
    }
    for tokenizer in [&*ICE, &*CHATGLM, &*WORLD, &*PANGU, &*BERT] {
        tokenizer.special_texts().iter().for_each(|text| check_plain(text));
    }
}

#[test]
fn fuzz_no_text_of_a_user_is_special() {
    let pieces = [
        "[",
        "]",
        "g",
        "MASK",
        "<",
        ">",
        "sop",
        "eop",
        "|",
        "user",
        "assistant",
        "unk",
        "UNK",
        "CLS",
        "SEP",
        "</s>",
        "<s>",
        "pad",
        "\u{2582}",
        " ",
    ];
    for_seconds("special tokens of new vocabularies", |random| check_plain(&random.text(&pieces, 12)));
}

/// What a stream shows is whole, and together what decoding gives.
fn check_stream(text: &str) {
    for tokenizer in [&*ICE, &*CHATGLM, &*WORLD, &*PANGU, &*BERT] {
        let ids = tokenizer.encode(text, Special::Text).unwrap();
        let mut stream = Stream::new(Arc::clone(tokenizer), false);
        let parts: Vec<String> = ids.iter().map(|id| stream.push(*id)).collect();
        assert!(!parts.concat().contains('\u{fffd}'), "{parts:?}");
        assert_eq!(parts.concat() + &stream.finish(), tokenizer.decode(&ids, false));
        (0..=ids.len()).for_each(|end| {
            assert_eq!(streamed(tokenizer, &ids[..end], true), tokenizer.decode(&ids[..end], true));
        });
    }
}

#[test]
fn t06_no_stream_shows_a_broken_character() {
    for text in
        ["你好，世界。 hello\n\tworld", "\u{1f600}é한 \u{1f680}x", "a  b   c", "it's 1e-10 kebab-case"]
    {
        check_stream(text);
    }
}

#[test]
fn fuzz_no_stream_shows_a_broken_character() {
    let pieces =
        ["a", "b c", " ", "你好", "世界", "，", "\u{1f600}", "é", "한", "\n", "\t", "don't", ".", "-1"];
    for_seconds("streams of new vocabularies", |random| check_stream(&random.text(&pieces, 20)));
}

/// As T08 for the common vocabularies: an unoptimised build only guards against squares.
#[test]
fn t08_long_runs_are_encoded_in_a_second() {
    let (bytes, scale) = if cfg!(debug_assertions) { (1 << 18, 3) } else { (1 << 20, 1) };
    for tokenizer in [&*ICE, &*CHATGLM, &*WORLD, &*PANGU] {
        tokenizer.encode("warm", Special::Text).unwrap();
        for (letter, seconds) in [("a", 1), (" ", 2), ("1", 3), ("1-", 3)] {
            let text = letter.repeat(bytes / letter.len());
            let most = Duration::from_secs(scale * seconds);
            let turn = |_| {
                let start = Instant::now();
                let ids = tokenizer.encode(&text, Special::Text).unwrap();
                let elapsed = start.elapsed();
                assert_eq!(tokenizer.decode(&ids, false).len(), text.len());
                elapsed
            };
            // Others may have the machine for a moment: one turn in time will do.
            let turns: Vec<Duration> = (0..3).map(turn).take_while(|elapsed| *elapsed >= most).collect();
            assert!(turns.len() < 3, "{letter:?} with {tokenizer:?}: {turns:?}");
        }
    }
}

#[test]
fn fuzz_any_bytes_are_read_or_refused() {
    let none = TokenizerConfig::default();
    for_seconds("new vocabulary files", |random| {
        let bytes = random.bytes(200);
        let _ = Tokenizer::from_ice_text(&bytes, &none);
        let _ = Tokenizer::from_chatglm(&bytes, &none);
        let _ = Tokenizer::from_pangu(&bytes, &none);
        let _ = Tokenizer::from_wordpiece(&bytes, &none);
        let _ = Tokenizer::from_rwkv_world(&bytes);
        let _ = Tokenizer::from_merges(&bytes, &bytes, Some(&bytes), &none);
    });
}

#[test]
fn the_first_release_of_chatglm_lists_no_control_tokens() {
    // The final release's file is the first one's, and after its text what the code adds to that.
    let file = fixture("tokenizers/chatglm-6b/ice_text.model");
    let marker = b"\x0a\x06[MASK]";
    let at = file.windows(marker.len()).position(|window| window == marker).unwrap() - 2;
    let spec = file.windows(20).rposition(|window| window == b"/root/train_cn_en.js").unwrap();
    let spec = file[..spec].iter().rposition(|byte| *byte == 0x12).unwrap();
    let first: Vec<u8> = [&file[..at], &file[spec..]].concat();
    let (short, whole) = (
        Tokenizer::from_ice_text(&first, &TokenizerConfig::default()).unwrap(),
        Tokenizer::from_ice_text(&file, &TokenizerConfig::default()).unwrap(),
    );
    assert_eq!((short.vocab_size(), whole.vocab_size()), (150_344, 150_344));
    for id in 149_998..150_344 {
        assert_eq!(short.token_text(id), whole.token_text(id));
    }
    let text = "def f():\n    return\t\u{1f600}";
    let ids = short.encode_prompt(text, Special::Text).unwrap();
    assert_eq!(ids, whole.encode_prompt(text, Special::Text).unwrap());
    assert_eq!(ids[ids.len() - 2..], [150_001, 150_004]);
}

#[test]
fn faults_of_the_new_vocabularies_are_named() {
    let none = TokenizerConfig::default();
    let world = |text: &str| Tokenizer::from_rwkv_world(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(world(""), "rwkv_vocab.txt: vocabulary: the vocabulary is empty");
    assert!(world("1 'a' 1\n2 'b'\n").contains("line 2"));
    assert!(world("1 'a' 2\n").contains("line 1: the literal has 1 bytes, not 2"));
    assert!(world("x 'a' 1\n").contains("line 1: the id is no number"));
    assert!(world("0 'a' 1\n").contains("token 0 is not the end"));
    assert!(world("1 '\\q' 1\n").contains("line 1: expected a Python literal"));
    let part = Tokenizer::from_rwkv_world(b"1 'a' 1\n2 b'\\xff' 1\n3 '\\xe9\\u4f60\\n' 6\n").unwrap();
    assert_eq!(part.encode("aé你\n", Special::Text).unwrap(), [1, 3]);
    assert_eq!(part.token_bytes(2), Some(vec![0xff]));
    assert!(part.encode("b", Special::Text).unwrap_err().to_string().contains("0x62"));
    let words = Tokenizer::from_wordpiece(b"a\nb\n", &none).unwrap_err();
    assert_eq!(words.to_string(), "vocab.txt: file: the vocabulary has no [UNK]");
    let ice = fixture("atom-7b-tiny/tokenizer.model");
    let error = Tokenizer::from_chatglm(b"", &none).unwrap_err();
    assert!(error.to_string().contains("the vocabulary is empty"));
    let many = config(br#"{"num_image_tokens": 4000000000}"#);
    let error = Tokenizer::from_ice_text(&ice, &many).unwrap_err();
    assert!(error.to_string().contains("num_image_tokens: 4000000000 is more than"));
    let error = Tokenizer::from_merges(br#"{"a": 0}"#, b"#version: 0.2\nab\n", None, &none).unwrap_err();
    assert_eq!(error.to_string(), "merges.txt: line 2: expected two tokens and a space between them");
}

#[test]
fn rwkv_vocabularies_in_gguf_are_escaped_bytes() {
    let tokens = ["<s>", "a", "\\n", "\\xe4\\xbd", "\\xa0"].map(str::to_owned).to_vec();
    let vocabulary = GgufVocabulary { model: "rwkv", tokens, ..GgufVocabulary::default() };
    let tokenizer = Arc::new(Tokenizer::from_gguf(vocabulary).unwrap());
    let ids = tokenizer.encode("a\n你", Special::Text).unwrap();
    assert_eq!(ids, [1, 2, 3, 4]);
    assert_eq!(streamed(&tokenizer, &ids, false), "a\n你");
    let tokens = vec!["<s>".to_owned(), "\\q".to_owned()];
    let error = Tokenizer::from_gguf(GgufVocabulary { model: "rwkv", tokens, ..GgufVocabulary::default() });
    assert!(error.unwrap_err().to_string().contains("tokens[1]: expected escaped bytes"));
}

/// BERT's uncased models drop accents with case; cased ones keep both, and Chinese characters part always.
#[test]
fn bert_settings_come_from_the_configuration() {
    let vocabulary = "[UNK]\n[CLS]\n[SEP]\ncafe\nCafé\n你\n好\n你好\n".as_bytes();
    let encode = |settings: &str, text: &str| {
        let tokenizer = Tokenizer::from_wordpiece(vocabulary, &config(settings.as_bytes())).unwrap();
        tokenizer.encode_prompt(text, Special::Text).unwrap()
    };
    assert_eq!(encode("{}", "Café 你好"), [1, 3, 5, 6, 2]);
    assert_eq!(encode(r#"{"do_lower_case": false}"#, "Café 你好"), [1, 4, 5, 6, 2]);
    assert_eq!(encode(r#"{"tokenize_chinese_chars": false}"#, "Café 你好"), [1, 3, 7, 2]);
    assert_eq!(encode(r#"{"strip_accents": false}"#, "Café"), [1, 0, 2]);
}
