//! Gemma 3's text model (Gemma Team, 2025): norms before and after each layer, heads normalised before they
//! turn, five layers with a window to one without, and a gate by the Gaussian error linear unit.

use jtllm_ir::build::{self, Rope, RopeScaling, rotary_table, rotate};
use jtllm_ir::{Graph, Node};

use super::build::{Build, Gain, Layer, Sight};
use super::settings::{
    POSITIONS_MAX, epsilon, few, head_width, key_heads, local_layers, only, positions, rope, size, vocabulary,
};
use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

struct Gemma3 {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    key_heads: i64,
    head_width: i64,
    inner: i64,
    epsilon: f32,
    scale: f32,
    gain: Gain,
    rope: Rope,
    local_rope: Rope,
    window: i64,
    /// Which layers look at the window alone.
    local: Vec<bool>,
    positions: usize,
}

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "hidden_size")?;
    let heads = few(config, "num_attention_heads")?;
    let head_width = head_width(config, width, heads)?;
    if !matches!(config.optional_text("hidden_activation")?, None | Some("gelu_pytorch_tanh")) {
        return Err(config.wrong("hidden_activation", "gelu_pytorch_tanh"));
    }
    for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if config.optional_number(field, f64::MIN..=f64::MAX)?.is_some() {
            return Err(config.wrong(field, "null, as all of Gemma 3 has it"));
        }
    }
    if config.optional_flag("attention_bias")?.unwrap_or(false) {
        return Err(config.wrong("attention_bias", "false"));
    }
    let layers = few(config, "num_hidden_layers")?;
    let scaled = config.optional_number("query_pre_attn_scalar", 1e-3..=1e6)?.unwrap_or(256.0);
    let rope = rope(config, head_width)?;
    let base = config.optional_number("rope_local_base_freq", 1.0..=1e15)?.unwrap_or(10_000.0);
    // llama.cpp's converter adds the 1 when it writes the norms.
    let plain = config.optional_flag("norms_include_one")?.unwrap_or(false);
    only(config, &[("use_bidirectional_attention", false)])?;
    Ok(Box::new(Gemma3 {
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers,
        heads,
        key_heads: key_heads(config, "num_key_value_heads", heads)?,
        head_width,
        inner: size(config, "intermediate_size")?,
        epsilon: epsilon(config, "rms_norm_eps", 1e-6)?,
        scale: 1.0 / (scaled as f32).sqrt(),
        gain: if plain { Gain::Weight } else { Gain::OnePlusWeight },
        local_rope: Rope { base, scaling: RopeScaling::None, ..rope.clone() },
        rope,
        window: config.count("sliding_window", 1..=POSITIONS_MAX)? as i64,
        local: local(config, layers)?,
        positions: positions(config)? as usize,
    }))
}

/// Layer by layer (`layer_types`), or all but every n-th (`sliding_window_pattern`).
fn local(config: &Config, layers: i64) -> Result<Vec<bool>, LoadError> {
    if let Some(local) = local_layers(config, layers)? {
        return Ok(local);
    }
    let pattern = config.optional_count("sliding_window_pattern", 1..=4096)?.unwrap_or(6) as i64;
    Ok((1..=layers).map(|number| number % pattern != 0).collect())
}

impl Gemma3 {
    fn attention(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
        tables: [[Node; 2]; 2],
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
        let local = self.local[layer as usize];
        let (table, rope) = if local { (tables[1], &self.local_rope) } else { (tables[0], &self.rope) };
        let head = self.head_width;
        let mut heads = |part: &str, count: i64| {
            let x = build.linear(x, &name(part), [count * head, self.width], false)?;
            Ok::<Node, LoadError>(build.heads(x, [count, head], |h, d| h * head + d))
        };
        let q = heads("q_proj", self.heads)?;
        let k = heads("k_proj", self.key_heads)?;
        let v = heads("v_proj", self.key_heads)?;
        let q = build.rms_norm_by(q, &name("q_norm"), self.epsilon, self.gain)?;
        let k = build.rms_norm_by(k, &name("k_norm"), self.epsilon, self.gain)?;
        let [q, k] = [q, k].map(|x| rotate(&mut build.graph, x, table, rope));
        let layer = Layer {
            name: &format!("layers.{layer}"),
            heads: self.heads,
            key_heads: self.key_heads,
            width: head,
            scale: self.scale,
            sight: if local { Sight::Window(self.window) } else { Sight::Past },
            slopes: None,
        };
        let mixed = build.attention(&layer, inputs, [q, k, v]);
        build.linear(mixed, &name("o_proj"), [self.width, self.heads * head], false)
    }

    fn feed_forward(&self, build: &mut Build<'_>, x: Node, layer: i64) -> Result<Node, LoadError> {
        let name = |part: &str| format!("model.layers.{layer}.mlp.{part}");
        let gate = build.linear(x, &name("gate_proj"), [self.inner, self.width], false)?;
        let up = build.linear(x, &name("up_proj"), [self.inner, self.width], false)?;
        let gate = build::gelu_tanh(&mut build.graph, gate);
        let inner = build::mul(&mut build.graph, gate, up);
        build.linear(inner, &name("down_proj"), [self.width, self.inner], false)
    }
}

impl Architecture for Gemma3 {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let inputs = BodyInputs::declare(&mut build.graph, pass.rows, self.vocabulary);
        let table = [self.vocabulary, self.width];
        let hidden = build.embedding("model.embed_tokens.weight", table, inputs.ids)?;
        let mut hidden = build.scaled(hidden, (self.width as f32).sqrt());
        let tables =
            [&self.rope, &self.local_rope].map(|r| rotary_table(&mut build.graph, r, inputs.position, None));
        build.tap("hidden.embed", hidden);
        for layer in 0..self.layers {
            let norm = |build: &mut Build<'_>, x: Node, part: &str| {
                build.rms_norm_by(x, &format!("model.layers.{layer}.{part}"), self.epsilon, self.gain)
            };
            let x = norm(&mut build, hidden, "input_layernorm")?;
            let mixed = self.attention(&mut build, x, layer, &inputs, tables)?;
            let mixed = norm(&mut build, mixed, "post_attention_layernorm")?;
            hidden = build.add(hidden, mixed);
            let x = norm(&mut build, hidden, "pre_feedforward_layernorm")?;
            let inner = self.feed_forward(&mut build, x, layer)?;
            let inner = norm(&mut build, inner, "post_feedforward_layernorm")?;
            hidden = build.add(hidden, inner);
            build.end_layer(layer, hidden);
        }
        build.graph.output("hidden", hidden);
        Ok(build.graph)
    }

    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("head", weights, pass);
        let rows = head_rows(&mut build.graph, pass.rows, self.width);
        let x = build.rms_norm_by(rows, "model.norm", self.epsilon, self.gain)?;
        build.tap("hidden.final_norm", x);
        let logits = build.linear(x, "model.embed_tokens", [self.vocabulary, self.width], false)?;
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
