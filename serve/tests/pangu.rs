//! PanGu-alpha under the names of its port to transformers, against PCL's own.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use jtllm_models::Checkpoint;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::ir::DType;
use jtllm_runtime::residence::Limit;
use jtllm_serve::{Backend, Engine, LoadOptions, Model, Place};
use serde_json::{Map, Value, json};

/// The beginnings and parts of names, here and there.
const NAMES: [(&str, &str); 13] = [
    ("language_model.embedding.word_embeddings", "transformer.wte"),
    ("language_model.embedding.position_embeddings", "transformer.wpe"),
    ("language_model.topQueryEmbedding.top_query_embeddings", "transformer.wqe"),
    ("language_model.transformer.final_layernorm", "transformer.ln_f"),
    // The layer with learned queries is the last of the blocks: the fixture has two others.
    ("language_model.transformer.topQueryLayer", "transformer.h.2"),
    ("language_model.transformer.layers", "transformer.h"),
    ("post_attention_layernorm", "ln_2"),
    ("input_layernorm", "ln_1"),
    ("attention.query", "attn.q_proj"),
    ("attention.key", "attn.k_proj"),
    ("attention.value", "attn.v_proj"),
    ("attention.dense", "attn.c_proj"),
    ("mlp.dense_", "mlp."),
];

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/pangu-alpha-tiny")
}

fn renamed(name: &str) -> String {
    let name = NAMES.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
    name.replace("mlp.h_to_4h", "mlp.c_fc").replace("mlp.4h_to_h", "mlp.c_proj")
}

/// The fixture's weights under the other names, with the configuration that the port has.
fn port(folder: &Path) {
    let file = fs::read(fixture().join("model.safetensors")).unwrap();
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + len]).unwrap();
    let header: Map<String, Value> = header.into_iter().map(|(name, at)| (renamed(&name), at)).collect();
    let mut text = serde_json::to_vec(&header).unwrap();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text);
    out.extend(&file[8 + len..]);
    fs::write(folder.join("model.safetensors"), out).unwrap();
    let config = json!({
        "architectures": ["GPTPanguForCausalLM"],
        "model_type": "gpt_pangu",
        "activation_function": "gelu",
        "vocab_size": 263,
        "hidden_size": 64,
        "intermediate_size": null,
        "num_layers": 3,
        "num_heads": 4,
        "max_position_embeddings": 64,
        "layer_norm_epsilon": 1e-5,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn logits(folder: &Path, backend: Backend) -> Vec<f32> {
    let options = LoadOptions {
        backend,
        place: Place::default(),
        threads: 2,
        context: 64,
        compute: Compute::F32,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    };
    let checkpoint = Checkpoint::open(folder).unwrap();
    let mut engine = Engine::new(Model::load(checkpoint, options, KernelCache::off("a test")).unwrap(), None);
    let prompt: Vec<u32> = (0..20).map(|at| (at * 31 + 7) % 263).collect();
    engine.feed(&prompt, true).unwrap()
}

#[test]
fn the_port_to_transformers_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    port(folder.path());
    for backend in [Backend::Graph, Backend::Cpu] {
        assert_eq!(logits(folder.path(), backend.clone()), logits(&fixture(), backend));
    }
}
