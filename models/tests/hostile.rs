//! Random and damaged files: parsers return, take no more memory than the file's size and 64 MB, and what
//! they accept is what the file says.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::path::{Component, Path};

use jtllm_fuzz::{Random, for_seconds};
use jtllm_ir::{DType, Format};
use jtllm_models::arch::{self, Architecture, Pass, Rows, Weights};
use jtllm_models::chat::Message;
use jtllm_models::checkpoint::{gguf, index, names, safetensors};
use jtllm_models::embedding::Embedding;
use jtllm_models::tokenizer::Special;
use jtllm_models::{Checkpoint, Config, Language, LoadError};

#[path = "support/allocated.rs"]
mod allocated;
#[path = "support/damage.rs"]
mod damage;
#[path = "support/gguf_file.rs"]
mod gguf_file;

use gguf_file::{GgufFile, array, text};

/// Most memory beside the file's own size.
const ROOM: u64 = 64 << 20;

/// Parses, holds the memory to the bound, and passes on what was accepted; an error must have a text.
fn bounded<T>(bytes: &[u8], parse: impl FnOnce() -> Result<T, jtllm_models::LoadError>) -> Option<T> {
    let (parsed, peak) = allocated::peak(|| parse().map_err(|error| error.to_string()));
    assert!(peak <= bytes.len() as u64 + ROOM, "{peak} bytes for a file of {}", bytes.len());
    parsed.map_err(|error| assert!(!error.is_empty())).ok()
}

fn file() -> &'static Path {
    Path::new("hostile")
}

/// What is accepted fills the file from the header to the end, each byte once.
fn check_safetensors(bytes: &[u8]) {
    let Some(header) = bounded(bytes, || safetensors::parse(bytes, file())) else { return };
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let end = header.tensors.iter().fold(start, |next, tensor| {
        assert_eq!(tensor.offset, next, "{tensor:?}");
        let elements: u64 = tensor.shape.iter().product();
        assert_eq!(tensor.len, elements * tensor.element.bits / 8, "{tensor:?}");
        next + tensor.len
    });
    assert_eq!(end, bytes.len() as u64);
}

/// What is accepted lies inside the file, aligned and without overlaps.
fn check_gguf(bytes: &[u8]) {
    let Some(header) = bounded(bytes, || gguf::parse(bytes, file())) else { return };
    let end = header.tensors.iter().fold(0, |end, tensor| {
        assert!(tensor.offset >= end && tensor.offset % header.alignment == 0, "{tensor:?}");
        let elements: u64 = tensor.shape.iter().product();
        assert_eq!(tensor.len, elements / tensor.block.elements * tensor.block.bytes, "{tensor:?}");
        tensor.offset + tensor.len
    });
    assert!(end <= bytes.len() as u64);
    for (key, value) in header.metadata.iter() {
        assert_eq!(header.metadata.get(key).map(ToString::to_string), Some(value.to_string()));
        let _ = (value.unsigned(), value.integer(), value.float(), value.flag(), value.text());
        let _ = (value.texts().map(|all| all.iter().count()), value.integers(), value.floats());
    }
}

/// What is accepted names files of the folder, and one for each tensor.
fn check_index(bytes: &[u8]) {
    let Some(index) = bounded(bytes, || index::parse(bytes, file())) else { return };
    assert!(!index.shards.is_empty());
    for shard in index.shard_of.values() {
        assert!(Path::new(shard).components().all(|part| matches!(part, Component::Normal(_))), "{shard:?}");
        let tensor = &index.shards[shard];
        assert_eq!(&index.shard_of[tensor], shard);
    }
}

/// Weights that are all dense, and so many: a body of thousands of layers says no more than one of a few, and
/// takes seconds.
struct Dense(Cell<usize>);

impl Weights for Dense {
    fn format(&self, name: &str, _: &[u64]) -> Result<&'static Format, LoadError> {
        let missing = |names| LoadError::Missing { file: file().to_owned(), what: "tensors", names };
        let left = self.0.get().checked_sub(1).ok_or_else(|| missing(vec![name.to_owned()]))?;
        self.0.set(left);
        Ok(Format::find("f32").unwrap())
    }
}

/// What an architecture accepts becomes graphs.
fn check_architecture(config: &Config) {
    let Ok(model) = arch::read(config) else { return };
    assert!(model.vocabulary() > 0 && model.positions() > 0);
    for rows in [Rows::Fixed(1), Rows::Many(model.chunk() as i64)] {
        let pass = Pass { rows, keys: DType::F16, values: DType::F16, taps: true };
        for part in [Architecture::body, Architecture::head] {
            let weights = Dense(Cell::new(100));
            let graph = part(&*model, &weights, pass);
            assert!(graph.is_ok() || weights.0.get() == 0);
        }
    }
}

/// What is accepted answers every question, if only with an error.
fn check_config(bytes: &[u8]) {
    let Some(config) = bounded(bytes, || Config::from_json(bytes, file())) else { return };
    let _ = (config.architecture(), config.model_type(), config.dtype(), config.rope_theta());
    let _ = (config.eos_ids(), config.rope_scaling(), config.generation());
    check_architecture(&config);
    let whole = bounded(bytes, || config.with_generation(bytes, file())).unwrap();
    let _ = (whole.eos_ids(), whole.generation());
}

/// Gives bytes to every parser.
fn check_all(bytes: &[u8]) {
    for check in [check_safetensors, check_gguf, check_index, check_config] {
        check(bytes);
    }
}

/// A file of a header and so many bytes of data.
fn safetensors_file(header: &[u8], data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// Headers of 32 bytes of data.
fn safetensors_headers() -> Vec<Vec<u8>> {
    let headers = [
        concat!(
            r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"#,
            r#""b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}"#
        ),
        concat!(
            r#"{"x":{"dtype":"F4","shape":[32],"data_offsets":[16,32]},"s":{"dtype":"I64","shape":[],"#,
            r#""data_offsets":[0,8]},"e":{"dtype":"U8","shape":[0,7],"data_offsets":[8,8]},"#,
            r#""u":{"dtype":"BOOL","shape":[8,1],"data_offsets":[8,16]}}"#
        ),
    ];
    headers.iter().map(|header| header.as_bytes().to_vec()).collect()
}

fn indices() -> Vec<Vec<u8>> {
    let short = r#"{"metadata":{"total_size":8},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}}"#;
    vec![short.into(), fixture("llama2-gqa-tiny/model.safetensors.index.json")]
}

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(path)).unwrap()
}

/// Configurations of every kind of RoPE and of every family.
fn configs() -> Vec<Vec<u8>> {
    let short =
        r#"{"hidden_size":64,"eos_token_id":[1,2],"rope_scaling":{"type":"yarn","factor":4.0},"top_p":0.5}"#;
    let folders = [
        "llama3.1-ropescale-tiny",
        "llama-linear-rope-tiny",
        "qwen2-gqa-untied-tiny",
        "mistral-swa-tiny",
        "atom-7b-tiny",
    ];
    let files = folders.iter().map(|folder| fixture(&format!("{folder}/config.json")));
    let mut all: Vec<Vec<u8>> = files.chain([short.into()]).collect();
    let scalings = [
        r#"{"rope_type":"factors","factors":[1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0]}"#,
        r#"{"rope_type":"dynamic","factor":2.0}"#,
        r#"{"rope_type":"yarn","factor":2.0,"beta_fast":32.0,"beta_slow":1.0}"#,
    ];
    for scaling in scalings {
        let mut config: serde_json::Value = serde_json::from_slice(&all[0]).unwrap();
        config["rope_scaling"] = serde_json::from_str(scaling).unwrap();
        all.push(config.to_string().into_bytes());
    }
    all
}

#[test]
fn sound_files_are_accepted() {
    for header in safetensors_headers() {
        safetensors::parse(&safetensors_file(&header, 32), file()).unwrap();
    }
    indices().iter().for_each(|bytes| drop(index::parse(bytes, file()).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let words = gguf_files().into_iter().filter(|model| {
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, model.bytes()).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        arch::read(checkpoint.config()).unwrap();
        Language::of(&checkpoint).is_ok()
    });
    // Those with scores, with merges, and BERT's: the others are without a vocabulary.
    assert_eq!(words.count(), 3);
    let read = configs().into_iter().filter(|bytes| {
        let config = Config::from_json(bytes, file()).unwrap();
        check_config(bytes);
        arch::read(&config).is_ok()
    });
    assert_eq!(read.count(), 8);
}

#[test]
fn fuzz_safetensors_header() {
    let headers = safetensors_headers();
    let files: Vec<_> = headers.iter().map(|header| safetensors_file(header, 32)).collect();
    for_seconds("safetensors header", |random| {
        let bytes = match random.below(3) {
            0 => damage::bytes(random, &files),
            1 => [b"\x20\0\0\0\0\0\0\0{".as_slice(), &random.bytes(400)].concat(),
            _ => safetensors_file(&damage::json(random, &headers), *random.choice(&[32, 32, 32, 0, 24])),
        };
        check_safetensors(&bytes);
    });
}

#[test]
fn fuzz_weights_index() {
    let files = indices();
    for_seconds("weights index", |random| check_index(&damage::json(random, &files)));
}

#[test]
fn fuzz_config() {
    let files = configs();
    for_seconds("config.json", |random| check_config(&damage::json(random, &files)));
}

/// Models of each architecture, with vocabularies of both kinds and with what else has a shape of its own.
fn gguf_files() -> Vec<GgufFile> {
    let mut plain = GgufFile::llama();
    plain.set("test.nested", 9, array(9, &[array(8, &[text("x")])]));
    let mut scored = GgufFile::llama();
    scored.set("llama.rope.scaling.type", 8, text("yarn"));
    scored.set("llama.rope.scaling.factor", 6, 2f32.to_le_bytes().to_vec());
    scored.set("llama.rope.scaling.attn_factor", 6, 1f32.to_le_bytes().to_vec());
    scored.set("tokenizer.ggml.model", 8, text("llama"));
    scored.set(
        "tokenizer.ggml.scores",
        9,
        array(6, &[0f32, 0., 0., -1., -2.].map(|x| x.to_le_bytes().to_vec())),
    );
    scored.set(
        "tokenizer.ggml.token_type",
        9,
        array(5, &[2i32, 3, 3, 1, 1].map(|x| x.to_le_bytes().to_vec())),
    );
    let mut merged = GgufFile::llama();
    merged.set("tokenizer.ggml.model", 8, text("gpt2"));
    merged.set("tokenizer.ggml.pre", 8, text("llama-bpe"));
    merged.set("tokenizer.ggml.tokens", 9, array(8, &["a", "b", "</s>", "ab", "Ġ"].map(text)));
    merged.set("tokenizer.ggml.merges", 9, array(8, &[text("a b")]));
    merged.set(
        "tokenizer.ggml.token_type",
        9,
        array(5, &[1i32, 1, 3, 1, 1].map(|x| x.to_le_bytes().to_vec())),
    );
    merged.set("tokenizer.ggml.add_bos_token", 7, vec![1]);
    merged.set("general.alignment", 4, 32u32.to_le_bytes().to_vec());
    merged.set(
        "tokenizer.chat_template",
        8,
        text("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"),
    );
    let others = names::ARCHITECTURES.iter().map(|architecture| of_architecture(&plain, architecture.gguf));
    [plain.clone(), scored, merged].into_iter().chain(others).collect()
}

/// The file under the name of another architecture, with keys and tensors that only some read.
fn of_architecture(plain: &GgufFile, name: &str) -> GgufFile {
    let mut file = plain.clone();
    file.set("general.architecture", 8, text(name));
    file.keys.iter_mut().for_each(|(key, ..)| *key = key.replace("llama.", &format!("{name}.")));
    file.set(&format!("{name}.attention.layer_norm_epsilon"), 6, 1e-5f32.to_le_bytes().to_vec());
    for (key, value) in [
        ("wkv.head_size", 16u32),
        ("rescale_every_n_layers", 1),
        ("attention.sliding_window", 8),
        ("attention.sliding_window_pattern", 2),
        ("pooling_type", 2),
    ] {
        file.set(&format!("{name}.{key}"), 4, value.to_le_bytes().to_vec());
    }
    if name == "bert" {
        file.set("tokenizer.ggml.model", 8, text("bert"));
        file.set(
            "tokenizer.ggml.tokens",
            9,
            array(8, &["[UNK]", "[CLS]", "[SEP]", "\u{2581}a", "b"].map(text)),
        );
        file.set(
            "tokenizer.ggml.token_type",
            9,
            array(5, &[3i32, 3, 3, 1, 1].map(|x| x.to_le_bytes().to_vec())),
        );
    }
    file.tensor("token_types.weight", &[64, 2], 0, 512);
    for layer in 0..2 {
        let mut add = |part: &str, dimensions: &[u64], len| {
            file.tensor(&format!("blk.{layer}.{part}.weight"), dimensions, 0, len);
        };
        add("channel_mix_key", &[64, 96], 96 * 256);
        add("time_mix_r_k", &[64], 256);
        add("time_mix_first", &[16, 4], 256);
        add("time_mix_decay", &[64], 256);
        add("time_mix_decay_w1", &[64, 8], 8 * 256);
        for part in ["w1", "a1", "v1", "g1"] {
            add(&format!("time_mix_{part}"), &[64, 10], 10 * 256);
        }
        let parts = if name == "rwkv6" { 5 } else { 6 };
        add("time_mix_lerp_fused", &[64, 1, 1, parts], parts as usize * 256);
    }
    file
}

/// A file whose parts contradict each other.
fn broken(random: &mut Random, mut file: GgufFile) -> GgufFile {
    for _ in 0..1 + random.below(3) {
        let (key, tensor) = (random.below(file.keys.len()), random.below(file.tensors.len()));
        let other = random.below(file.tensors.len());
        match random.below(12) {
            0 => file.key_count = Some(damage::extreme(random)),
            1 => file.tensor_count = Some(damage::extreme(random)),
            2 => file.keys[key].1 = random.below(15) as u32,
            3 => file.keys[key].0 = file.keys[random.below(file.keys.len())].0.clone(),
            4 => drop(file.keys.remove(key)),
            5..8 => file.keys[key].2 = damage::bytes(random, &[file.keys[key].2.clone()]),
            8 => file.tensors[tensor].kind = random.below(45) as u32,
            9 => file.tensors[tensor].offset = Some(damage::extreme(random)),
            10 => file.tensors[tensor].name = file.tensors[other].name.clone(),
            _ => {
                let axis = random.below(file.tensors[tensor].dimensions.len());
                file.tensors[tensor].dimensions[axis] = damage::extreme(random);
            }
        }
    }
    file
}

/// A file whose parts contradict each other, or one whose head is damaged while the tensors' bytes are not.
fn hostile_gguf(random: &mut Random, files: &[GgufFile]) -> Vec<u8> {
    let file = files[random.below(files.len())].clone();
    if random.below(2) == 0 {
        return broken(random, file).bytes();
    }
    let data: usize = file.tensors.iter().map(|tensor| tensor.bytes.len().next_multiple_of(32)).sum();
    let mut bytes = file.bytes();
    let data = bytes.split_off(bytes.len() - data);
    [damage::bytes(random, &[bytes]), data].concat()
}

#[test]
fn fuzz_gguf() {
    let files = gguf_files();
    for_seconds("GGUF", |random| {
        let bytes = match random.below(4) {
            0 => [b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".as_slice(), &random.bytes(400)]
                .concat(),
            _ => hostile_gguf(random, &files),
        };
        check_gguf(&bytes);
    });
}

/// Damaged models open whole or not at all, and so do their words.
#[test]
fn fuzz_gguf_models() {
    let files = gguf_files();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for file in &files {
        std::fs::write(&path, file.bytes()).unwrap();
        arch::read(Checkpoint::open(&path).unwrap().config()).map_err(|error| error.to_string()).unwrap();
    }
    for_seconds("GGUF models", |random| {
        std::fs::write(&path, hostile_gguf(random, &files)).unwrap();
        let Ok(checkpoint) = Checkpoint::open(&path) else { return };
        let pieces = checkpoint.tensors().flat_map(|tensor| &tensor.pieces);
        let read: usize = pieces.map(|piece| piece.bytes().len()).sum();
        assert_eq!(read as u64, checkpoint.total_bytes());
        let config = checkpoint.config();
        let _ = (config.eos_ids(), config.rope_scaling(), config.rope_theta(), config.generation());
        let heads = ["num_attention_heads", "n_head"].map(|name| config.count(name, 1..=u64::from(u32::MAX)));
        assert!(heads.iter().any(Result::is_ok) || config.raw("head_size").is_some());
        let _ = Embedding::of(&checkpoint);
        check_architecture(config);
        let Ok(language) = Language::of(&checkpoint) else { return };
        for special in [Special::Text, Special::Parse] {
            if let Ok(ids) = language.prompt("ab a</s> \u{e9}", special) {
                assert!(ids.iter().all(|id| (*id as usize) < language.tokenizer.vocab_size()), "{ids:?}");
                language.tokenizer.decode(&ids, false);
            }
        }
        let _ = language.chat(&[Message::new("user", "ab </s>")]).map_err(|error| error.to_string());
    });
}

/// Text of which a parser could make many times as much memory.
#[test]
fn dense_json_stays_within_the_bound() {
    let member = |index: usize| format!(r#""{index}":{{"dtype":"F32","shape":[],"data_offsets":[0,0]}},"#);
    let long = "x".repeat(24 << 20);
    let texts = [
        (0..130_000).map(member).collect::<String>(),
        format!(r#""w":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,0]}},"#, "1,".repeat(12 << 20)),
        format!(r#""__metadata__":{{{}"b":""}},"#, r#""a":"","#.repeat(1 << 21)),
        format!(r#""{long}":{{"dtype":"F32","shape":[],"data_offsets":[0,4]}},"#),
        format!(r#""weight_map":{{{}"b":""}},"#, r#""a":"c","#.repeat(1 << 21)),
        format!(r#""sizes":[{}1],"#, "1,".repeat(524_000)),
        format!(
            r#""sizes":{{{}"b":0}},"#,
            (0..110_000).map(|key| format!(r#""{key}":0,"#)).collect::<String>()
        ),
    ];
    for text in texts {
        let json = format!("{{{}\"end\":{{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}}}", text);
        check_all(json.as_bytes());
        check_all(&safetensors_file(json.as_bytes(), 4));
    }
}

/// Values whose memory would be many times their bytes in the file, if they were kept one by one.
#[test]
fn large_arrays_take_no_more_than_their_bytes() {
    let zeros = |kind: u32, count: u64, size: usize| {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes.resize(bytes.len() + count as usize * size, 0);
        bytes
    };
    for (kind, size) in [(0, 1), (7, 1), (8, 8), (10, 8)] {
        let mut file = GgufFile::llama();
        file.set("test.large", 9, zeros(kind, (32 << 20) / size as u64, size));
        let bytes = file.bytes();
        let (header, peak) = allocated::peak(|| gguf::parse(&bytes, Path::new("large")).unwrap());
        assert!(header.metadata.get("test.large").is_some());
        assert!(peak <= bytes.len() as u64 + (1 << 20), "type {kind}: {peak} bytes");
    }
}
