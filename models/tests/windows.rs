//! Which layers of a model look at a window of their past alone, and which configurations are refused.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use jtllm_ir::{DType, Format};
use jtllm_models::arch::{self, Pass, Rows, Weights};
use jtllm_models::{Config, LoadError};
use serde_json::{Value, json};

struct Dense;

impl Weights for Dense {
    fn format(&self, _: &str, _: &[u64]) -> Result<&'static Format, LoadError> {
        Ok(Format::find("f32").unwrap())
    }
}

/// The body of a tiny model of that name, whose configuration has these fields as well.
fn body(architecture: &str, more: &Value) -> String {
    let mut config = json!({
        "architectures": [architecture],
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "vocab_size": 50,
        "max_position_embeddings": 64,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config = Config::from_json(config.to_string().as_bytes(), Path::new("config.json")).unwrap();
    let pass = Pass { rows: Rows::Fixed(1), keys: DType::F32, values: DType::F32, taps: false };
    arch::read(&config).unwrap().body(&Dense, pass).unwrap().to_string()
}

#[test]
fn a_window_is_for_those_that_have_one() {
    let window = json!({"sliding_window": 4});
    let none = json!({});
    assert_ne!(body("MistralForCausalLM", &window), body("MistralForCausalLM", &none));
    for architecture in ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        assert_eq!(body(architecture, &window), body(architecture, &none), "{architecture}");
    }
}

#[test]
fn qwen_says_which_layers_have_one() {
    let body = |more: Value| body("Qwen2ForCausalLM", &more);
    let asked = |more: Value| {
        let mut all = json!({"use_sliding_window": true, "sliding_window": 4});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body(all)
    };
    let none = body(json!({}));
    assert_eq!(
        asked(json!({"max_window_layers": 3})),
        none,
        "all layers come before the first with a window"
    );
    assert_eq!(asked(json!({"layer_types": vec!["full_attention"; 3]})), none);
    let last = asked(json!({"max_window_layers": 2}));
    assert_ne!(last, none);
    let types = ["full_attention", "full_attention", "sliding_attention"];
    assert_eq!(asked(json!({"layer_types": types})), last);
}

#[test]
fn what_changes_the_arithmetic_and_is_not_built_is_refused() {
    let plain = json!({
        "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "vocab_size": 50,
        "max_position_embeddings": 64, "n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 64, "type_vocab_size": 2,
    });
    for (class, field, value) in [
        ("LlamaForCausalLM", "quantization_config", json!({"quant_method": "gptq"})),
        ("GPT2LMHeadModel", "scale_attn_weights", json!(false)),
        ("GPT2LMHeadModel", "scale_attn_by_inverse_layer_idx", json!(true)),
        ("GPT2LMHeadModel", "add_cross_attention", json!(true)),
        ("BertModel", "is_decoder", json!(true)),
    ] {
        let mut config = plain.clone();
        config["architectures"] = json!([class]);
        let read = |config: &Value| {
            let config = Config::from_json(config.to_string().as_bytes(), Path::new("config.json")).unwrap();
            arch::read(&config).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(read(&config), Ok(()), "{class}");
        config[field] = value;
        let error = read(&config).unwrap_err();
        assert!(error.contains(&format!("field {field}: expected")), "{error}");
    }
}
