//! Every vendored model folder, and the demo model, opens with the tensors and fields that it must have.
#![allow(clippy::unwrap_used)]

#[path = "../../tests/fixtures/list.rs"]
mod list;

use std::path::{Path, PathBuf};

use jtllm_models::Checkpoint;

/// What `config.json` calls models with LLaMA's tensors.
const LLAMA: [&str; 4] = ["llama", "mistral", "qwen2", "qwen3"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// Opens a folder and checks every tensor against the configuration, as the architectures will.
fn check(checkpoint: &Checkpoint) {
    let config = checkpoint.config();
    let any = 1..=1 << 20;
    let count = |field: &str| config.count(field, any.clone()).unwrap();
    let (hidden, inner, vocabulary) = (count("hidden_size"), count("intermediate_size"), count("vocab_size"));
    let heads = count("num_attention_heads");
    let key_heads = config.optional_count("num_key_value_heads", any.clone()).unwrap().unwrap_or(heads);
    let head = config.optional_count("head_dim", any.clone()).unwrap().unwrap_or(hidden / heads);
    let shape = |name: &str| checkpoint.locate(name).unwrap().shape.clone();
    assert_eq!(shape("model.embed_tokens.weight"), [vocabulary, hidden]);
    assert_eq!(shape("model.norm.weight"), [hidden]);
    let tied = config.optional_flag("tie_word_embeddings").unwrap().unwrap_or(true);
    assert_eq!(checkpoint.tensor("lm_head.weight").is_none(), tied);
    for layer in 0..count("num_hidden_layers") {
        let shape = |part: &str| shape(&format!("model.layers.{layer}.{part}.weight"));
        assert_eq!(shape("self_attn.q_proj"), [heads * head, hidden]);
        assert_eq!(shape("self_attn.k_proj"), [key_heads * head, hidden]);
        assert_eq!(shape("self_attn.v_proj"), [key_heads * head, hidden]);
        assert_eq!(shape("self_attn.o_proj"), [hidden, heads * head]);
        assert_eq!(shape("mlp.down_proj"), [hidden, inner]);
        assert_eq!(shape("mlp.up_proj"), [inner, hidden]);
        assert_eq!(shape("input_layernorm"), [hidden]);
    }
    for tensor in checkpoint.tensors() {
        let elements: u64 = tensor.shape.iter().product();
        let piece = &tensor.pieces[0];
        assert_eq!(piece.rows * piece.cols, elements, "{}", tensor.name);
        assert_eq!(piece.stride * piece.rows, piece.len, "{}", tensor.name);
        assert_eq!(piece.bytes().len() as u64, piece.len);
    }
    assert!(!config.rope_interleaved);
    checkpoint.verify_unchanged().unwrap();
}

#[test]
fn every_folder_opens_and_agrees_with_its_configuration() {
    let mut llamas = 0;
    for name in &list::all() {
        let checkpoint = Checkpoint::open(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        if checkpoint.config().model_type().is_ok_and(|kind| LLAMA.contains(&kind)) {
            check(&checkpoint);
            llamas += 1;
        }
        assert!(checkpoint.gguf().is_none());
        assert!(checkpoint.file("golden.json").unwrap().is_some());
        assert!(checkpoint.file("no-such-file").unwrap().is_none());
        assert!(checkpoint.file("../demo/golden.json").is_err());
    }
    assert!(llamas >= 10, "{llamas} are like LLaMA");
}

#[test]
fn a_sharded_folder_has_the_tensors_of_all_shards() {
    let checkpoint = Checkpoint::open(&fixture("llama2-gqa-tiny")).unwrap();
    assert_eq!(checkpoint.total_bytes(), 664_832, "total_size of the index");
    let files: std::collections::HashSet<_> =
        checkpoint.tensors().map(|tensor| tensor.pieces[0].storage.path().to_owned()).collect();
    assert_eq!(files.len(), 2);
}

#[test]
fn the_demo_model_opens_from_memory() {
    let checkpoint = Checkpoint::demo().unwrap();
    check(&checkpoint);
    assert_eq!(checkpoint.total_bytes(), 2 * 1_377_920);
    let config = checkpoint.config();
    assert_eq!(config.architecture().unwrap(), "LlamaForCausalLM");
    assert_eq!(config.dtype().unwrap(), Some("bfloat16"));
    assert_eq!(config.rope_theta().unwrap(), 10_000.0);
    assert!(config.rope_scaling().unwrap().is_none());
    assert_eq!(config.eos_ids().unwrap(), [2]);
    assert_eq!(config.generation().unwrap().do_sample, Some(false));
    assert!(checkpoint.file("tokenizer.json").unwrap().unwrap().starts_with(b"{"));
    assert!(checkpoint.file("chat_template.jinja").unwrap().is_some());
    assert!(checkpoint.tensors().all(|tensor| tensor.encoding == "bf16"));
}

#[test]
fn a_tensors_bytes_are_those_of_its_file() {
    let folder = fixture("llama-7b-tiny");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let data = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    // The first tensor of the file, and the second, as its header lists them.
    assert_eq!(checkpoint.locate("lm_head.weight").unwrap().pieces[0].bytes(), &file[data..data + 66_304]);
    let embedding = checkpoint.locate("model.embed_tokens.weight").unwrap();
    assert_eq!(embedding.pieces[0].bytes(), &file[data + 66_304..data + 132_608]);
    assert_eq!(
        (embedding.pieces[0].rows, embedding.pieces[0].cols, embedding.pieces[0].stride),
        (259, 64, 256)
    );
}

#[test]
fn configuration_of_both_generations_is_read_alike() {
    let open = |name: &str| Checkpoint::open(&fixture(name)).unwrap();
    let linear = open("llama-linear-rope-tiny");
    let scaling = linear.config().rope_scaling().unwrap().unwrap();
    assert_eq!(scaling.text("rope_type").unwrap(), "linear");
    assert_eq!(scaling.number("factor", 1.0..=1e6).unwrap(), 4.0);

    let llama3 = open("llama3.1-ropescale-tiny");
    assert_eq!(llama3.config().rope_theta().unwrap(), 500_000.0);
    assert_eq!(llama3.config().rope_scaling().unwrap().unwrap().text("rope_type").unwrap(), "llama3");
    assert_eq!(llama3.config().eos_ids().unwrap(), [2, 4, 5]);
    assert_eq!(llama3.config().dtype().unwrap(), Some("bfloat16"));

    let qwen = open("qwen2-gqa-untied-tiny");
    assert_eq!(qwen.config().eos_ids().unwrap(), [4, 3], "config.json first, then generation_config.json");
    assert_eq!(qwen.config().model_type().unwrap(), "qwen2");
    assert!(qwen.tensor("model.layers.0.self_attn.q_proj.bias").is_some());
}
