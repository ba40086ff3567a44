//! Folders and files of PyTorch's pickles: each form opens with the tensors and the configuration of the same
//! model in safetensors.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use jtllm_models::checkpoint::torch;
use jtllm_models::{Checkpoint, TensorEntry, arch};

#[path = "support/torch_file.rs"]
mod torch_file;

use torch_file::{TorchFile, dict, pickle, text};

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn element_bytes(encoding: &str) -> u64 {
    torch::ELEMENTS.iter().find(|element| element.encoding == encoding).unwrap().bytes
}

/// A tensor's elements, row after row, whatever rectangles they lie in.
fn assembled(entry: &TensorEntry) -> Vec<u8> {
    let size = element_bytes(entry.encoding);
    let cols = entry.shape.last().copied().unwrap_or(1);
    let rows = entry.shape.iter().product::<u64>().checked_div(cols).unwrap_or(0);
    let mut whole = vec![0; (rows * cols * size) as usize];
    let (mut top, mut left) = (0, 0);
    for piece in &entry.pieces {
        for row in 0..piece.rows {
            let from = &piece.bytes()[(row * piece.stride) as usize..][..(piece.cols * size) as usize];
            let to = ((top + row) * cols + left) * size;
            whole[to as usize..][..from.len()].copy_from_slice(from);
        }
        left += piece.cols;
        if left == cols {
            (top, left) = (top + piece.rows, 0);
        }
    }
    assert_eq!((top, left), (rows, 0), "the pieces of {} cover it", entry.name);
    whole
}

/// Copies some files of a fixture into a folder.
fn copied(name: &str, files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let to = folder.path().join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(fixture(name).join(file), to).unwrap();
    }
    folder
}

/// The architecture that the configuration names finds all that it reads.
fn architecture_is_served(checkpoint: &Checkpoint) {
    let architecture = arch::read(checkpoint.config()).unwrap();
    for (name, shape) in arch::tensors(&*architecture).unwrap() {
        assert_eq!(checkpoint.locate(&name).unwrap().shape, shape, "{name}");
    }
}

/// Both checkpoints have the same tensors, bit by bit.
fn same_tensors(pickled: &Checkpoint, safe: &Checkpoint, rename: impl Fn(&str) -> String) {
    assert_eq!(pickled.tensors().count(), safe.tensors().count());
    for entry in safe.tensors() {
        let found = pickled.locate(&rename(&entry.name)).unwrap();
        assert_eq!((&found.shape, found.encoding), (&entry.shape, entry.encoding), "{}", entry.name);
        assert_eq!(assembled(found), assembled(entry), "{}", entry.name);
    }
    pickled.verify_unchanged().unwrap();
}

#[test]
fn hugging_face_pickles_equal_their_safetensors() {
    for name in ["chatglm-6b-tiny", "bloom-belle-tiny"] {
        let folder = copied(name, &["config.json", "pytorch_model.bin"]);
        let pickled = Checkpoint::open(folder.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let safe = Checkpoint::open(&fixture(name)).unwrap();
        same_tensors(&pickled, &safe, str::to_owned);
        architecture_is_served(&pickled);
        assert_eq!(pickled.config().architecture().unwrap(), safe.config().architecture().unwrap());
        let file = |checkpoint: &Checkpoint| {
            checkpoint.tensors().next().unwrap().pieces[0].storage.path().extension().unwrap().to_owned()
        };
        assert_eq!((file(&pickled), file(&safe)), ("bin".into(), "safetensors".into()), "the latter wins");
    }
}

#[test]
fn metas_llama_equals_hugging_faces() {
    let meta = Checkpoint::open(&fixture("llama-7b-tiny/original")).unwrap();
    let safe = Checkpoint::open(&fixture("llama-7b-tiny")).unwrap();
    assert_eq!(meta.tensors().count(), safe.tensors().count());
    for entry in safe.tensors() {
        let found = meta.locate(&entry.name).unwrap();
        let mut bytes = assembled(found);
        if entry.name.contains("q_proj") || entry.name.contains("k_proj") {
            // Meta's rows 2i and 2i + 1 of a head are Hugging Face's i and i + 8.
            let row = |row: usize| row / 16 * 16 + row % 8 * 2 + row % 16 / 8;
            bytes = (0..64).flat_map(|at| bytes[row(at) * 256..][..256].to_vec()).collect();
        }
        assert_eq!((&found.shape, bytes), (&entry.shape, assembled(entry)), "{}", entry.name);
    }
    let (ours, theirs) = (meta.config(), safe.config());
    assert!(ours.rope_interleaved && !theirs.rope_interleaved);
    for field in [
        "architectures",
        "model_type",
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "rms_norm_eps",
        "vocab_size",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_id",
        "tie_word_embeddings",
    ] {
        assert_eq!(ours.raw(field), theirs.raw(field), "{field}");
    }
}

#[test]
fn what_metas_parameters_leave_out_comes_from_shapes() {
    let folder = copied("llama-7b-tiny/original", &["consolidated.00.pth"]);
    let open = |params: &str| {
        std::fs::write(folder.path().join("params.json"), params).unwrap();
        Checkpoint::open(folder.path())
    };
    let old = r#"{"dim":64,"multiple_of":256,"n_heads":4,"n_layers":2,"norm_eps":1e-05,"vocab_size":-1}"#;
    let config = open(old).unwrap().config().clone();
    let count = |field: &str| config.count(field, 1..=1 << 20).unwrap();
    let fields = ["vocab_size", "intermediate_size", "num_key_value_heads", "max_position_embeddings"];
    assert_eq!(fields.map(count), [259, 172, 4, 4096]);
    assert_eq!(config.rope_theta().unwrap(), 10_000.0);
    let new = r#"{"dim":64,"n_heads":4,"n_kv_heads":2,"n_layers":2,"norm_eps":1e-05,"rope_theta":500000.0,"use_scaled_rope":true}"#;
    let config = open(new).unwrap().config().clone();
    assert_eq!(config.count("num_key_value_heads", 1..=4).unwrap(), 2);
    assert_eq!(config.rope_theta().unwrap(), 500_000.0);
    let scaling = config.rope_scaling().unwrap().unwrap();
    assert_eq!(
        (scaling.text("rope_type").unwrap(), scaling.number("factor", 1.0..=9.0).unwrap()),
        ("llama3", 8.0)
    );
    let fails = |params: &str| {
        let error = open(params).unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        error.to_string()
    };
    says(&fails("{"), &["params.json", "invalid JSON"]);
    says(&fails(&old.replace(":64", ":-1")), &["params.json: field dim", "found -1"]);
    says(&fails(&old.replace("n_heads", "heads")), &["field n_heads", "found nothing"]);
    says(&fails(&new.replace("use_scaled_rope", "moe")), &["field moe", "not supported"]);
}

/// Splits LLaMA's tensors as Meta's code does for two devices.
fn llama_in_two(embedding_by_rows: bool) -> [TorchFile; 2] {
    let path = fixture("llama-7b-tiny/original/consolidated.00.pth");
    let bytes = std::fs::read(&path).unwrap();
    let mut parts = [TorchFile::default(), TorchFile::default()];
    for tensor in torch::parse(&bytes, &path).unwrap().tensors().unwrap() {
        let data = &bytes[tensor.offset as usize..][..tensor.len as usize];
        let shape: Vec<i32> = tensor.shape.iter().map(|size| *size as i32).collect();
        let (rows, width) = (tensor.rows as usize, tensor.cols as usize * 4);
        let by_columns = ["wo.", "w2."].iter().any(|part| tensor.name.contains(part))
            || tensor.name.starts_with("tok") && !embedding_by_rows;
        for (at, part) in parts.iter_mut().enumerate() {
            let mut add = |shape: &[i32], data| part.bytes(&tensor.name, "FloatStorage", 4, shape, data);
            match shape.as_slice() {
                [_] => add(&shape, data.to_vec()),
                _ if by_columns => {
                    let half = |row: &[u8]| row[at * width / 2..][..width / 2].to_vec();
                    add(&[shape[0], shape[1] / 2], data.chunks(width).flat_map(half).collect());
                }
                _ => {
                    let here = if at == 0 { 0..rows / 2 } else { rows / 2..rows };
                    let data = data[here.start * width..here.end * width].to_vec();
                    add(&[here.len() as i32, shape[1]], data);
                }
            }
        }
    }
    parts
}

#[test]
fn llama_in_two_files_is_put_together() {
    let whole = Checkpoint::open(&fixture("llama-7b-tiny/original")).unwrap();
    for embedding_by_rows in [false, true] {
        let folder = copied("llama-7b-tiny/original", &["params.json"]);
        let write = |at: usize, bytes: Vec<u8>| {
            std::fs::write(folder.path().join(format!("consolidated.0{at}.pth")), bytes).unwrap();
        };
        let [one, two] = llama_in_two(embedding_by_rows);
        write(0, one.zipped());
        let error = Checkpoint::open(folder.path()).unwrap_err();
        says(&error.to_string(), &["1 shards missing: \"consolidated.01.pth\""]);
        write(1, two.legacy());
        let split = Checkpoint::open(folder.path()).unwrap();
        same_tensors(&split, &whole, str::to_owned);
        architecture_is_served(&split);
        assert_eq!(split.locate("model.layers.1.mlp.down_proj.weight").unwrap().pieces.len(), 2);
        assert_eq!(split.config().raw("intermediate_size"), whole.config().raw("intermediate_size"));
        write(3, two.legacy());
        let error = Checkpoint::open(folder.path()).unwrap_err();
        says(&error.to_string(), &["1 shards missing: \"consolidated.02.pth\""]);
    }
}

#[test]
fn llama_parts_that_do_not_fit_are_named() {
    let folder = copied("llama-7b-tiny/original", &["params.json"]);
    let open = |one: &TorchFile, two: &TorchFile| {
        std::fs::write(folder.path().join("consolidated.00.pth"), one.zipped()).unwrap();
        std::fs::write(folder.path().join("consolidated.01.pth"), two.zipped()).unwrap();
        Checkpoint::open(folder.path()).unwrap_err().to_string()
    };
    let [one, two] = llama_in_two(false);
    let mut other = two.clone();
    let wo = other.tensors.iter_mut().find(|tensor| tensor.name == "layers.1.attention.wo.weight").unwrap();
    (wo.shape, wo.strides) = (vec![32, 64], vec![64, 1]);
    says(
        &open(&one, &other),
        &["consolidated.01.pth", "\"layers.1.attention.wo.weight\"", "[32, 64]", "[64, 32]"],
    );
    let mut other = two.clone();
    other.tensors.retain(|tensor| tensor.name != "norm.weight");
    says(&open(&one, &other), &["consolidated.01.pth", "not those of consolidated.00.pth"]);
    let mut other = two;
    other.floats("layers.0.attention.wz.weight", &[2], 0.0);
    says(&open(&one, &other), &["\"layers.0.attention.wz.weight\"", "no tensor of LLaMA"]);
}

const PANGU: &str = "checkpoint/iter_0001000/mp_rank_00/model_optim_rng.pt";
const TRACKER: &str = "checkpoint/latest_checkpointed_iteration.txt";

#[test]
fn pangus_megatron_folder_equals_its_safetensors() {
    let folder = copied("pangu-alpha-tiny", &[TRACKER, PANGU]);
    let safe = Checkpoint::open(&fixture("pangu-alpha-tiny")).unwrap();
    for path in [folder.path().to_owned(), folder.path().join("checkpoint")] {
        let pickled = Checkpoint::open(&path).unwrap();
        same_tensors(&pickled, &safe, str::to_owned);
        architecture_is_served(&pickled);
        for field in [
            "architectures",
            "num_layers",
            "hidden_size",
            "num_attention_heads",
            "max_position_embeddings",
            "layernorm_epsilon",
            "vocab_size",
        ] {
            assert_eq!(pickled.config().raw(field), safe.config().raw(field), "{field}");
        }
    }
    std::fs::write(folder.path().join(TRACKER), "soon").unwrap();
    says(&Checkpoint::open(folder.path()).unwrap_err().to_string(), &["number of an iteration", "\"soon\""]);
    std::fs::write(folder.path().join(TRACKER), "7").unwrap();
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    says(&message, &["iter_0000007", "model_optim_rng.pt", "model_optim_rng.pth"]);
}

#[test]
fn pangu_without_saved_arguments_reads_those_beside_it() {
    let mut file = TorchFile::default();
    file.floats("weight", &[5, 4], 0.0);
    let table = || file.dict_code(false);
    let inner = |name: &str| dict(&[(name, file.dict_code(false))]);
    let embedding = [
        b"}(".to_vec(),
        text("word_embeddings"),
        file.dict_code(false),
        text("position_embeddings"),
        file.dict_code(false),
        b"u".to_vec(),
    ]
    .concat();
    let model =
        dict(&[("language_model", dict(&[("embedding", embedding), ("transformer", inner("layers.0.x"))]))]);
    let bytes = file.zipped_around(&pickle(&dict(&[("model", model), ("rng", table())])));
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("release/mp_rank_00");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(folder.path().join("latest_checkpointed_iteration.txt"), "release\n").unwrap();
    std::fs::write(state.join("model_optim_rng.pth"), bytes).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let any = 1..=100;
    let count = |checkpoint: &Checkpoint, field: &str| checkpoint.config().count(field, any.clone());
    assert_eq!(count(&checkpoint, "num_layers").unwrap(), 1);
    assert_eq!(count(&checkpoint, "vocab_size").unwrap(), 5);
    assert_eq!(checkpoint.tensors().count(), 3, "what else was saved is no part of the model");
    says(
        &count(&checkpoint, "num_attention_heads").unwrap_err().to_string(),
        &["num_attention_heads", "nothing"],
    );
    std::fs::write(folder.path().join("args.json"), r#"{"num_attention_heads":2,"vocab_size":9}"#).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(count(&checkpoint, "num_attention_heads").unwrap(), 2);
    assert_eq!(count(&checkpoint, "vocab_size").unwrap(), 5, "as many as the table has rows");
    std::fs::create_dir(folder.path().join("release/mp_rank_01")).unwrap();
    says(&Checkpoint::open(folder.path()).unwrap_err().to_string(), &["parallel parts", "mp_rank_00"]);
}

#[test]
fn rwkv_4_is_read_by_itself_and_as_the_only_one_of_a_folder() {
    let file = fixture("rwkv-4-tiny/RWKV-4-tiny.pth");
    let safe = Checkpoint::open(&fixture("rwkv-4-tiny/hf")).unwrap();
    let rename = |name: &str| {
        let name = name.strip_prefix("rwkv.").unwrap_or(name).replace(".attention.", ".att.");
        let name =
            name.replace(".feed_forward.", ".ffn.").replace("pre_ln", "ln0").replace("embeddings", "emb");
        ["key", "value", "receptance"].iter().fold(name, |name, part| {
            name.replace(&format!("time_mix_{part}"), &format!("time_mix_{}", &part[..1]))
        })
    };
    let folder = copied("rwkv-4-tiny", &["RWKV-4-tiny.pth"]);
    for path in [&*file, folder.path()] {
        let checkpoint = Checkpoint::open(path).unwrap();
        same_tensors(&checkpoint, &safe, rename);
        let config = checkpoint.config();
        assert_eq!(config.architecture().unwrap(), "Rwkv4");
        let count = |field: &str| config.count(field, 1..=1000).unwrap();
        assert_eq!(["n_layer", "n_embd", "n_ffn", "vocab_size"].map(count), [2, 64, 256, 267]);
        assert!(config.raw("n_head").is_none());
        assert_eq!(config.eos_ids().unwrap(), [0]);
    }
    std::fs::copy(&file, folder.path().join("other.pth")).unwrap();
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    says(&message, &["2 .pth files", "RWKV-4-tiny.pth, other.pth"]);
}

#[test]
fn rwkv_generations_are_told_by_their_tensors() {
    type Generation = (&'static str, &'static [(&'static str, &'static [i32])]);
    let generations: [Generation; 6] = [
        ("Rwkv4", &[("time_decay", &[6]), ("time_first", &[6])]),
        ("Rwkv5", &[("time_decay", &[3]), ("time_first", &[3]), ("ln_x.weight", &[6])]),
        ("Rwkv5_1", &[("time_decay", &[3]), ("gate.weight", &[6, 6]), ("ln_x.weight", &[6])]),
        ("Rwkv5_2", &[("time_decay", &[3, 2]), ("time_faaaa", &[3, 2]), ("ln_x.weight", &[6])]),
        (
            "Rwkv6",
            &[
                ("time_maa_x", &[1, 1, 6]),
                ("time_faaaa", &[3, 2]),
                ("time_maa_w1", &[6, 10]),
                ("time_decay_w1", &[6, 2]),
            ],
        ),
        ("Rwkv7", &[("r_k", &[3, 2]), ("w1", &[6, 2]), ("a1", &[6, 2]), ("v1", &[6, 2]), ("g1", &[6, 4])]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pth");
    for (architecture, tensors) in generations {
        let mut file = TorchFile::default();
        file.floats("emb.weight", &[11, 6], 0.0);
        file.floats("blocks.3.ffn.key.weight", &[9, 6], 0.0);
        file.floats("blocks.0.ffn.key.weight", &[9, 6], 0.0);
        for (name, shape) in tensors {
            file.floats(&format!("blocks.0.att.{name}"), shape, 0.0);
        }
        std::fs::write(&path, file.legacy()).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let config = checkpoint.config();
        assert_eq!(config.architecture().unwrap(), architecture);
        assert_eq!(
            config.raw("n_head").and_then(|heads| heads.as_u64()),
            (architecture != "Rwkv4").then_some(3)
        );
        assert_eq!(config.count("n_layer", 1..=9).unwrap(), 4);
        let ranked = matches!(architecture, "Rwkv6" | "Rwkv7");
        assert_eq!(config.raw("rank_decay").and_then(|rank| rank.as_u64()), ranked.then_some(2));
        file.tensors.retain(|tensor| tensor.name != "emb.weight");
        std::fs::write(&path, file.zipped()).unwrap();
        says(&Checkpoint::open(&path).unwrap_err().to_string(), &["1 tensors missing: \"emb.weight\""]);
    }
    let mut file = TorchFile::default();
    file.floats("blocks.0.att.time_first", &[6], 0.0);
    file.floats("blocks.1.tiny_q.weight", &[6, 6], 0.0);
    std::fs::write(&path, file.zipped()).unwrap();
    says(&Checkpoint::open(&path).unwrap_err().to_string(), &["RWKV-4a or 4b", "\"blocks.1.tiny_q.weight\""]);
    let mut file = TorchFile::default();
    file.floats("model.norm.weight", &[6], 0.0);
    std::fs::write(&path, file.zipped()).unwrap();
    says(&Checkpoint::open(&path).unwrap_err().to_string(), &["no RWKV model", "config.json"]);
}

#[test]
fn pickled_shards_follow_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("config.json", b"{}");
    let index = r#"{"weight_map":{"a":"pytorch_model-1.bin","b":"pytorch_model-2.bin"}}"#;
    write("pytorch_model.bin.index.json", index.as_bytes());
    let mut one = TorchFile::default();
    one.floats("a", &[2], 1.0);
    one.floats("unlisted", &[2], 1.0);
    write("pytorch_model-1.bin", &one.zipped());
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    says(&message, &["1 shards missing: \"pytorch_model-2.bin\"", "pytorch_model.bin.index.json"]);
    write("pytorch_model-2.bin", &one.zipped());
    let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
    says(&message, &["tensor \"b\"", "pytorch_model-2.bin, which does not have it"]);
    let mut two = TorchFile::default();
    two.floats("b", &[3], 5.0);
    write("pytorch_model-2.bin", &two.legacy());
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let names: Vec<_> = checkpoint.tensors().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(assembled(checkpoint.locate("b").unwrap()), [5f32, 6.0, 7.0].map(f32::to_le_bytes).concat());
}

#[test]
fn a_pickle_of_chatglms_own_integers_counts_numbers_and_not_bytes() {
    let mut file = TorchFile::default();
    file.bytes("a.weight", "CharStorage", 1, &[2, 4], (0..8).collect());
    file.bytes("a.weight_scale", "HalfStorage", 2, &[2], vec![0, 0x3c, 0, 0x40]);
    file.floats("norm.weight", &[4], 1.0);
    for (bits, encoding, columns) in [(8, "chatglm_int8", 4), (4, "chatglm_int4", 8)] {
        let folder = copied("chatglm-6b-tiny", &["config.json"]);
        let config = folder.path().join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replacen('{', &format!("{{\"quantization_bit\": {bits},"), 1)).unwrap();
        for bytes in [file.zipped(), file.legacy()] {
            std::fs::write(folder.path().join("pytorch_model.bin"), bytes).unwrap();
            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            let matrix = checkpoint.tensor("a.weight").unwrap();
            assert_eq!((matrix.encoding, matrix.shape.as_slice()), (encoding, [2, columns].as_slice()));
            let piece = &matrix.pieces[0];
            assert_eq!(
                (piece.rows, piece.cols, piece.stride, piece.bytes()),
                (2, columns, 4, [0, 1, 2, 3, 4, 5, 6, 7].as_slice())
            );
            let scale = checkpoint.tensor("a.weight_scale").unwrap();
            assert_eq!((scale.encoding, scale.shape.as_slice()), ("f16", [2, 1].as_slice()));
            assert_eq!((scale.pieces[0].rows, scale.pieces[0].cols, scale.pieces[0].stride), (2, 1, 2));
            assert_eq!(checkpoint.tensor("norm.weight").unwrap().shape, [4]);
        }
    }
}
