//! LLaMA and its kin: LLaMA 1 to 3, Mistral, Qwen 1.5, 2 and 3, Atom, BELLE-LLaMA, SmolLM2.
//!
//! Pre-norm blocks of rotary attention with grouped heads and a SwiGLU feed-forward layer (Touvron et al.,
//! 2023). Tensor names are Hugging Face's.

use jtllm_ir::build::{Rope, rotary_table, rotate, swiglu};
use jtllm_ir::{Graph, Node};

use super::build::{Build, Layer, Sight};
use super::settings::{
    POSITIONS_MAX, epsilon, few, head_width, key_heads, local_layers, positions, rope, size, vocabulary,
};
use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

pub(super) struct Llama {
    /// What all names of tensors begin with.
    prefix: &'static str,
    /// Whether rows may come from images.
    sees: bool,
    vocabulary: i64,
    pub(super) width: i64,
    layers: i64,
    heads: i64,
    key_heads: i64,
    head_width: i64,
    inner: i64,
    epsilon: f32,
    rope: Rope,
    tied: bool,
    attention_bias: AttentionBias,
    inner_bias: bool,
    /// Whether the heads of queries and keys are normalised before they turn (Qwen 3).
    head_norms: bool,
    /// The window of each layer that has one.
    windows: Vec<Option<i64>>,
    positions: usize,
}

/// Which projections of attention add a bias.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AttentionBias {
    None,
    /// Queries, keys and values (Qwen 1.5 and 2).
    Inputs,
    /// The output as well.
    All,
}

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    Ok(Box::new(Llama::read(config)?))
}

/// The language model of a model that sees, whose tensors' names begin with `prefix`.
pub(super) fn read_part(config: &Config, prefix: &'static str) -> Result<Llama, LoadError> {
    Ok(Llama { prefix, sees: true, ..Llama::read(config)? })
}
/// The window of each layer: Mistral has one for all; Qwen has one on request, for the layers that `layer_types`
/// says, or from `max_window_layers` on; the others have none, whatever their configuration carries along.
fn windows(config: &Config, layers: i64) -> Result<Vec<Option<i64>>, LoadError> {
    let name = config.architecture()?;
    let qwen = name.starts_with("Qwen");
    let on_request = qwen && config.optional_flag("use_sliding_window")?.unwrap_or(false);
    let window = match name.starts_with("Mistral") || on_request {
        true => config.optional_count("sliding_window", 1..=POSITIONS_MAX)?.map(|n| n as i64),
        false => None,
    };
    let first = match qwen {
        true => config.optional_count("max_window_layers", 0..=POSITIONS_MAX)?.unwrap_or(28) as i64,
        false => 0,
    };
    let local = match local_layers(config, layers)? {
        Some(local) if qwen => local,
        _ => (0..layers).map(|layer| layer >= first).collect(),
    };
    Ok(local.into_iter().map(|local| window.filter(|_| local)).collect())
}

impl Llama {
    fn read(config: &Config) -> Result<Llama, LoadError> {
        let name = config.architecture()?;
        let [qwen2, qwen3] = ["Qwen2", "Qwen3"].map(|family| name.starts_with(family));
        let width = size(config, "hidden_size")?;
        let heads = few(config, "num_attention_heads")?;
        let head_width = head_width(config, width, heads)?;
        if !matches!(config.optional_text("hidden_act")?, None | Some("silu")) {
            return Err(config.wrong("hidden_act", "silu"));
        }
        let attention_bias = match (qwen2, config.optional_flag("attention_bias")?.unwrap_or(false)) {
            (true, _) => AttentionBias::Inputs,
            (false, true) => AttentionBias::All,
            (false, false) => AttentionBias::None,
        };
        Ok(Llama {
            prefix: "",
            sees: false,
            vocabulary: vocabulary(config, "vocab_size")?,
            width,
            layers: few(config, "num_hidden_layers")?,
            heads,
            key_heads: key_heads(config, "num_key_value_heads", heads)?,
            head_width,
            inner: size(config, "intermediate_size")?,
            epsilon: epsilon(config, "rms_norm_eps", 1e-6)?,
            rope: rope(config, head_width)?,
            tied: config.optional_flag("tie_word_embeddings")?.unwrap_or(false),
            attention_bias,
            inner_bias: config.optional_flag("mlp_bias")?.unwrap_or(false),
            head_norms: qwen3,
            windows: windows(config, few(config, "num_hidden_layers")?)?,
            positions: positions(config)? as usize,
        })
    }

    fn attention(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
        table: [Node; 2],
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("{}model.layers.{layer}.self_attn.{part}", self.prefix);
        let bias = self.attention_bias != AttentionBias::None;
        let mut heads = |part: &str, count: i64| {
            let x = build.linear(x, &name(part), [count * self.head_width, self.width], bias)?;
            Ok(build.heads(x, [count, self.head_width], |head, d| head * self.head_width + d))
        };
        let q = heads("q_proj", self.heads)?;
        let k = heads("k_proj", self.key_heads)?;
        let v = heads("v_proj", self.key_heads)?;
        let [q, k] = match self.head_norms {
            true => [
                build.rms_norm(q, &name("q_norm"), self.epsilon)?,
                build.rms_norm(k, &name("k_norm"), self.epsilon)?,
            ],
            false => [q, k],
        };
        let [q, k] = [q, k].map(|x| rotate(&mut build.graph, x, table, &self.rope));
        let layer = Layer {
            name: &format!("layers.{layer}"),
            heads: self.heads,
            key_heads: self.key_heads,
            width: self.head_width,
            scale: 1.0 / (self.head_width as f32).sqrt(),
            sight: self.windows[layer as usize].map_or(Sight::Past, Sight::Window),
            slopes: None,
        };
        let mixed = build.attention(&layer, inputs, [q, k, v]);
        let bias = self.attention_bias == AttentionBias::All;
        build.linear(mixed, &name("o_proj"), [self.width, self.heads * self.head_width], bias)
    }

    fn feed_forward(&self, build: &mut Build<'_>, x: Node, layer: i64) -> Result<Node, LoadError> {
        let name = |part: &str| format!("{}model.layers.{layer}.mlp.{part}", self.prefix);
        let gate = build.linear(x, &name("gate_proj"), [self.inner, self.width], self.inner_bias)?;
        let up = build.linear(x, &name("up_proj"), [self.inner, self.width], self.inner_bias)?;
        let inner = swiglu(&mut build.graph, gate, up);
        build.linear(inner, &name("down_proj"), [self.width, self.inner], self.inner_bias)
    }
}

impl Architecture for Llama {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let inputs = BodyInputs::declare(&mut build.graph, pass.rows, self.vocabulary);
        let table = format!("{}model.embed_tokens.weight", self.prefix);
        let mut hidden = build.embedding(&table, [self.vocabulary, self.width], inputs.ids)?;
        if self.sees {
            hidden = inputs.shown(&mut build.graph, hidden);
        }
        let lengths = inputs.row_lengths(&mut build.graph, pass.rows, &self.rope);
        let table = rotary_table(&mut build.graph, &self.rope, inputs.position, lengths);
        build.tap(if self.sees { "hidden.merged_inputs_embeds" } else { "hidden.embed" }, hidden);
        for layer in 0..self.layers {
            let norm = |part: &str| format!("{}model.layers.{layer}.{part}", self.prefix);
            let x = build.rms_norm(hidden, &norm("input_layernorm"), self.epsilon)?;
            let mixed = self.attention(&mut build, x, layer, &inputs, table)?;
            hidden = build.add(hidden, mixed);
            let x = build.rms_norm(hidden, &norm("post_attention_layernorm"), self.epsilon)?;
            let inner = self.feed_forward(&mut build, x, layer)?;
            hidden = build.add(hidden, inner);
            build.end_layer(layer, hidden);
        }
        build.graph.output("hidden", hidden);
        Ok(build.graph)
    }

    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("head", weights, pass);
        let rows = head_rows(&mut build.graph, pass.rows, self.width);
        let x = build.rms_norm(rows, &format!("{}model.norm", self.prefix), self.epsilon)?;
        build.tap("hidden.final_norm", x);
        let name = if self.tied { "model.embed_tokens" } else { "lm_head" };
        let logits =
            build.linear(x, &format!("{}{name}", self.prefix), [self.vocabulary, self.width], false)?;
        build.graph.output("logits", logits);
        Ok(build.graph)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary as usize
    }

    fn positions(&self) -> usize {
        self.positions
    }
}
