//! The architectures that GGUF files of are understood: `llama.cpp/convert_hf_to_gguf.py` says what became of a
//! model's tensors and hyperparameters.

use serde_json::{Value as Json, json};

use super::config::Derivation;
use super::{Architecture, Fact, Form, Key, Kind, Row};
use crate::checkpoint::gguf::{Array, Value};
use crate::error::LoadError;

const fn same(gguf: &'static str, name: &'static str) -> Row {
    Row { gguf, name, form: Form::Same }
}

const fn bare(gguf: &'static str, name: &'static str) -> Row {
    Row { gguf, name, form: Form::Bare }
}

const fn vector(gguf: &'static str, name: &'static str) -> Row {
    Row { gguf, name, form: Form::Vector }
}

const fn heads(gguf: &'static str, name: &'static str) -> Row {
    Row { gguf, name, form: Form::Heads }
}

const fn stack(gguf: &'static str, name: &'static str, parts: &'static [&'static str]) -> Row {
    Row { gguf, name, form: Form::Stack(parts) }
}

const fn needs(suffix: &'static str, field: &'static str, kind: Kind) -> Key {
    Key { suffix, field, kind, required: true }
}

const fn may(suffix: &'static str, field: &'static str, kind: Kind) -> Key {
    Key { suffix, field, kind, required: false }
}

const DECODER_TENSORS: &[Row] =
    &[same("token_embd", "model.embed_tokens"), same("output_norm", "model.norm"), same("output", "lm_head")];

const DECODER_LAYER_TENSORS: &[Row] = &[
    same("attn_norm", "input_layernorm"),
    same("attn_q", "self_attn.q_proj"),
    same("attn_k", "self_attn.k_proj"),
    same("attn_v", "self_attn.v_proj"),
    same("attn_q_norm", "self_attn.q_norm"),
    same("attn_k_norm", "self_attn.k_norm"),
    same("attn_output", "self_attn.o_proj"),
    same("ffn_norm", "post_attention_layernorm"),
    same("ffn_gate", "mlp.gate_proj"),
    same("ffn_up", "mlp.up_proj"),
    same("ffn_down", "mlp.down_proj"),
];

const DECODER_KEYS: &[Key] = &[
    may("context_length", "max_position_embeddings", Kind::Size),
    needs("embedding_length", "hidden_size", Kind::Size),
    needs("block_count", "num_hidden_layers", Kind::Size),
    needs("feed_forward_length", "intermediate_size", Kind::Size),
    needs("attention.head_count", "num_attention_heads", Kind::Size),
    may("attention.head_count_kv", "num_key_value_heads", Kind::Size),
    may("attention.key_length", "head_dim", Kind::Size),
    may("attention.sliding_window", "sliding_window", Kind::Optional),
    needs("attention.layer_norm_rms_epsilon", "rms_norm_eps", Kind::Real),
    may("rope.freq_base", "rope_theta", Kind::Real),
    may("rope.freq_base_swa", "rope_local_base_freq", Kind::Real),
    may("attn_logit_softcapping", "attn_logit_softcapping", Kind::Real),
    may("final_logit_softcapping", "final_logit_softcapping", Kind::Real),
    may("expert_count", "num_local_experts", Kind::Optional),
    may("expert_used_count", "num_experts_per_tok", Kind::Optional),
];

/// LLaMA's row, which others change in a few places.
const LLAMA: Architecture = Architecture {
    gguf: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    rope_interleaved: true,
    tensors: DECODER_TENSORS,
    layers: "model.layers.",
    layer_tensors: DECODER_LAYER_TENSORS,
    keys: DECODER_KEYS,
    vocabulary: "vocab_size",
    facts: &[],
    derive: |_| Ok(()),
};

const GEMMA3: Architecture = Architecture {
    gguf: "gemma3",
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    rope_interleaved: false,
    layer_tensors: &[
        same("attn_norm", "input_layernorm"),
        same("attn_q", "self_attn.q_proj"),
        same("attn_k", "self_attn.k_proj"),
        same("attn_v", "self_attn.v_proj"),
        same("attn_q_norm", "self_attn.q_norm"),
        same("attn_k_norm", "self_attn.k_norm"),
        same("attn_output", "self_attn.o_proj"),
        same("post_attention_norm", "post_attention_layernorm"),
        same("ffn_norm", "pre_feedforward_layernorm"),
        same("ffn_gate", "mlp.gate_proj"),
        same("ffn_up", "mlp.up_proj"),
        same("ffn_down", "mlp.down_proj"),
        same("post_ffw_norm", "post_feedforward_layernorm"),
    ],
    facts: &[("norms_include_one", Fact::Flag(true))],
    derive: gemma3,
    ..LLAMA
};

/// What llama.cpp concludes for Gemma 3: the scale of scores from the widths (the model of 62 layers counts
/// heads), and which layers have a window.
fn gemma3(derivation: &mut Derivation<'_>) -> Result<(), LoadError> {
    const LAYERS_27B: u64 = 62;
    let number = |field: &str| derivation.number(field).unwrap_or(1);
    let by_heads = number("hidden_size") / number("num_attention_heads");
    let scaled = match number("num_hidden_layers") {
        LAYERS_27B => by_heads,
        _ => derivation.number("head_dim").unwrap_or(by_heads),
    };
    let layers = number("num_hidden_layers").min(1 << 16) as usize;
    derivation.set("query_pre_attn_scalar", scaled);
    let key = "gemma3.attention.sliding_window_pattern";
    let pattern = derivation.source.metadata.get(key);
    let types = |windows: &mut dyn Iterator<Item = bool>| {
        let kind = |window| if window { "sliding_attention" } else { "full_attention" };
        Json::from(windows.map(kind).collect::<Vec<_>>())
    };
    if derivation.number("sliding_window").is_none() {
        derivation.set("sliding_window", 1);
        derivation.set("layer_types", types(&mut (0..layers).map(|_| false)));
        return Ok(());
    }
    match pattern {
        None => {}
        Some(Value::Array(Array::Bool(windows))) => {
            let types = types(&mut windows.iter().copied());
            derivation.set("layer_types", types);
        }
        Some(_) => {
            let every = derivation.source.whole(key, 1)?;
            derivation.set("sliding_window_pattern", every);
        }
    }
    Ok(())
}

const BLOOM: Architecture = Architecture {
    gguf: "bloom",
    model_type: "bloom",
    class: "BloomForCausalLM",
    rope_interleaved: false,
    tensors: &[
        same("token_embd", "transformer.word_embeddings"),
        same("token_embd_norm", "transformer.word_embeddings_layernorm"),
        same("output_norm", "transformer.ln_f"),
        same("output", "lm_head"),
    ],
    layers: "transformer.h.",
    layer_tensors: &[
        same("attn_norm", "input_layernorm"),
        same("attn_qkv", "self_attention.query_key_value"),
        same("attn_output", "self_attention.dense"),
        same("ffn_norm", "post_attention_layernorm"),
        same("ffn_up", "mlp.dense_h_to_4h"),
        same("ffn_down", "mlp.dense_4h_to_h"),
    ],
    keys: &[
        needs("context_length", "seq_length", Kind::Size),
        needs("embedding_length", "hidden_size", Kind::Size),
        needs("block_count", "n_layer", Kind::Size),
        needs("attention.head_count", "n_head", Kind::Size),
        needs("attention.layer_norm_epsilon", "layer_norm_epsilon", Kind::Real),
    ],
    facts: &[("qkv_by_part", Fact::Flag(true))],
    ..LLAMA
};

const GPT2: Architecture = Architecture {
    gguf: "gpt2",
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    rope_interleaved: false,
    tensors: &[
        same("token_embd", "transformer.wte"),
        same("position_embd", "transformer.wpe"),
        same("output_norm", "transformer.ln_f"),
        same("output", "lm_head"),
    ],
    layers: "transformer.h.",
    layer_tensors: &[
        same("attn_norm", "ln_1"),
        same("attn_qkv", "attn.c_attn"),
        same("attn_output", "attn.c_proj"),
        same("ffn_norm", "ln_2"),
        same("ffn_up", "mlp.c_fc"),
        same("ffn_down", "mlp.c_proj"),
    ],
    keys: &[
        needs("context_length", "n_positions", Kind::Size),
        needs("embedding_length", "n_embd", Kind::Size),
        needs("block_count", "n_layer", Kind::Size),
        needs("feed_forward_length", "n_inner", Kind::Size),
        needs("attention.head_count", "n_head", Kind::Size),
        needs("attention.layer_norm_epsilon", "layer_norm_epsilon", Kind::Real),
    ],
    facts: &[("linear_rows_are_outputs", Fact::Flag(true))],
    ..LLAMA
};

const CHATGLM: Architecture = Architecture {
    gguf: "chatglm",
    model_type: "chatglm",
    class: "ChatGLMModel",
    rope_interleaved: true,
    tensors: &[
        same("token_embd", "transformer.embedding.word_embeddings"),
        same("output_norm", "transformer.encoder.final_layernorm"),
        same("output", "transformer.output_layer"),
    ],
    layers: "transformer.encoder.layers.",
    layer_tensors: &[
        same("attn_norm", "input_layernorm"),
        same("attn_qkv", "self_attention.query_key_value"),
        same("attn_output", "self_attention.dense"),
        same("ffn_norm", "post_attention_layernorm"),
        same("ffn_up", "mlp.dense_h_to_4h"),
        same("ffn_down", "mlp.dense_4h_to_h"),
    ],
    keys: &[
        needs("context_length", "seq_length", Kind::Size),
        needs("embedding_length", "hidden_size", Kind::Size),
        needs("block_count", "num_layers", Kind::Size),
        needs("feed_forward_length", "ffn_hidden_size", Kind::Size),
        needs("attention.head_count", "num_attention_heads", Kind::Size),
        needs("attention.head_count_kv", "multi_query_group_num", Kind::Size),
        may("attention.key_length", "kv_channels", Kind::Size),
        needs("attention.layer_norm_rms_epsilon", "layernorm_epsilon", Kind::Real),
        may("rope.freq_base", "rope_theta", Kind::Real),
    ],
    vocabulary: "padded_vocab_size",
    facts: &[
        ("multi_query_attention", Fact::Flag(true)),
        // The converter multiplies the base of the frequencies, whatever the model's own code does.
        ("rope_ratio_scales", Fact::Text("base")),
    ],
    derive: |derivation| {
        let number = |field: &str| derivation.number(field).unwrap_or(1);
        if derivation.number("kv_channels").is_none() {
            derivation.set("kv_channels", number("hidden_size") / number("num_attention_heads"));
        }
        let bias = "transformer.encoder.layers.0.self_attention.query_key_value.bias";
        derivation.set("add_qkv_bias", (derivation.shape)(bias).is_some());
        let base = derivation.fields.get("rope_theta").and_then(Json::as_f64).unwrap_or(10_000.0);
        derivation.set("rope_ratio", base / 10_000.0);
        Ok(())
    },
};

const BERT: Architecture = Architecture {
    gguf: "bert",
    model_type: "bert",
    class: "BertModel",
    rope_interleaved: false,
    tensors: &[
        same("token_embd", "bert.embeddings.word_embeddings"),
        same("token_types", "bert.embeddings.token_type_embeddings"),
        same("position_embd", "bert.embeddings.position_embeddings"),
        same("token_embd_norm", "bert.embeddings.LayerNorm"),
    ],
    layers: "bert.encoder.layer.",
    layer_tensors: &[
        same("attn_q", "attention.self.query"),
        same("attn_k", "attention.self.key"),
        same("attn_v", "attention.self.value"),
        same("attn_output", "attention.output.dense"),
        same("attn_output_norm", "attention.output.LayerNorm"),
        same("ffn_up", "intermediate.dense"),
        same("ffn_down", "output.dense"),
        same("layer_output_norm", "output.LayerNorm"),
    ],
    keys: &[
        needs("context_length", "max_position_embeddings", Kind::Size),
        needs("embedding_length", "hidden_size", Kind::Size),
        needs("block_count", "num_hidden_layers", Kind::Size),
        needs("feed_forward_length", "intermediate_size", Kind::Size),
        needs("attention.head_count", "num_attention_heads", Kind::Size),
        needs("attention.layer_norm_epsilon", "layer_norm_eps", Kind::Real),
    ],
    derive: |derivation| {
        let kinds = (derivation.shape)("bert.embeddings.token_type_embeddings.weight");
        derivation.set("type_vocab_size", kinds.and_then(|shape| shape.first().copied()));
        Ok(())
    },
    ..LLAMA
};

const RWKV_TENSORS: &[Row] = &[
    same("token_embd", "emb"),
    same("token_embd_norm", "blocks.0.ln0"),
    same("output_norm", "ln_out"),
    same("output", "head"),
];

const RWKV_KEYS: &[Key] = &[
    needs("embedding_length", "n_embd", Kind::Size),
    needs("block_count", "n_layer", Kind::Size),
    needs("feed_forward_length", "n_ffn", Kind::Size),
    needs("wkv.head_size", "head_size", Kind::Size),
    may("rescale_every_n_layers", "rescale_every", Kind::Optional),
];

const RWKV6: Architecture = Architecture {
    gguf: "rwkv6",
    model_type: "rwkv",
    class: "Rwkv6",
    rope_interleaved: false,
    tensors: RWKV_TENSORS,
    layers: "blocks.",
    layer_tensors: &[
        same("attn_norm", "ln1"),
        same("attn_norm_2", "ln2"),
        bare("time_mix_w1", "att.time_maa_w1"),
        bare("time_mix_w2", "att.time_maa_w2"),
        vector("time_mix_lerp_x", "att.time_maa_x"),
        vector("time_mix_lerp_w", "att.time_maa_w"),
        vector("time_mix_lerp_k", "att.time_maa_k"),
        vector("time_mix_lerp_v", "att.time_maa_v"),
        vector("time_mix_lerp_r", "att.time_maa_r"),
        vector("time_mix_lerp_g", "att.time_maa_g"),
        stack("time_mix_lerp_fused", "att.time_maa_", &["w", "k", "v", "r", "g"]),
        heads("time_mix_first", "att.time_faaaa"),
        vector("time_mix_decay", "att.time_decay"),
        bare("time_mix_decay_w1", "att.time_decay_w1"),
        bare("time_mix_decay_w2", "att.time_decay_w2"),
        same("time_mix_key", "att.key"),
        same("time_mix_value", "att.value"),
        same("time_mix_receptance", "att.receptance"),
        same("time_mix_gate", "att.gate"),
        same("time_mix_ln", "att.ln_x"),
        same("time_mix_output", "att.output"),
        vector("channel_mix_lerp_k", "ffn.time_maa_k"),
        vector("channel_mix_lerp_r", "ffn.time_maa_r"),
        same("channel_mix_key", "ffn.key"),
        same("channel_mix_receptance", "ffn.receptance"),
        same("channel_mix_value", "ffn.value"),
    ],
    keys: RWKV_KEYS,
    facts: &[("linear_rows_are_outputs", Fact::Flag(true))],
    derive: |derivation| {
        rwkv(
            derivation,
            &[("rank_mixture", "0.att.time_maa_w1", 5), ("rank_decay", "0.att.time_decay_w1", 1)],
        )
    },
    ..LLAMA
};

const RWKV7: Architecture = Architecture {
    gguf: "rwkv7",
    class: "Rwkv7",
    layer_tensors: &[
        same("attn_norm", "ln1"),
        same("attn_norm_2", "ln2"),
        stack("time_mix_lerp_fused", "att.x_", &["r", "w", "k", "v", "a", "g"]),
        vector("time_mix_w0", "att.w0"),
        bare("time_mix_w1", "att.w1"),
        bare("time_mix_w2", "att.w2"),
        vector("time_mix_a0", "att.a0"),
        bare("time_mix_a1", "att.a1"),
        bare("time_mix_a2", "att.a2"),
        vector("time_mix_v0", "att.v0"),
        bare("time_mix_v1", "att.v1"),
        bare("time_mix_v2", "att.v2"),
        bare("time_mix_g1", "att.g1"),
        bare("time_mix_g2", "att.g2"),
        vector("time_mix_k_k", "att.k_k"),
        vector("time_mix_k_a", "att.k_a"),
        heads("time_mix_r_k", "att.r_k"),
        same("time_mix_key", "att.key"),
        same("time_mix_value", "att.value"),
        same("time_mix_receptance", "att.receptance"),
        same("time_mix_ln", "att.ln_x"),
        same("time_mix_output", "att.output"),
        vector("channel_mix_lerp_k", "ffn.x_k"),
        same("channel_mix_key", "ffn.key"),
        same("channel_mix_value", "ffn.value"),
    ],
    derive: |derivation| {
        // The first layer mixes no earlier values; its matrices for that are copies of others.
        let value = if derivation.number("n_layer") == Some(1) { "0.att.v1" } else { "1.att.v1" };
        let ranks = [
            ("rank_decay", "0.att.w1", 1),
            ("rank_rate", "0.att.a1", 1),
            ("rank_value", value, 1),
            ("rank_gate", "0.att.g1", 1),
        ];
        rwkv(derivation, &ranks)
    },
    ..RWKV6
};

/// How many heads there are, and the inner widths of narrow matrices: a field, a tensor, and how many stand in it.
fn rwkv(derivation: &mut Derivation<'_>, ranks: &[(&str, &str, u64)]) -> Result<(), LoadError> {
    let number = |field: &str| derivation.number(field).unwrap_or(1);
    let (width, size) = (number("n_embd"), number("head_size"));
    derivation.set("n_head", width / size);
    for (field, tensor, parts) in ranks {
        let shape = (derivation.shape)(&format!("blocks.{tensor}"));
        derivation.set(field, shape.map_or(json!(null), |shape| json!(shape[0] / parts)));
    }
    Ok(())
}

/// Every architecture. Mistral, SmolLM2, Atom and BELLE-LLaMA files call themselves `llama`; once the converter has
/// parted its packed projection, InternLM2 is LLaMA too.
pub const ARCHITECTURES: &[Architecture] = &[
    LLAMA,
    Architecture {
        gguf: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        rope_interleaved: false,
        ..LLAMA
    },
    Architecture {
        gguf: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        rope_interleaved: false,
        ..LLAMA
    },
    GEMMA3,
    Architecture { gguf: "internlm2", model_type: "internlm2", ..LLAMA },
    CHATGLM,
    BLOOM,
    GPT2,
    RWKV6,
    RWKV7,
    BERT,
];
