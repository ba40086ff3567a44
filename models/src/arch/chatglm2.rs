//! ChatGLM2-6B and ChatGLM3-6B (Zeng et al., 2023): multi-query attention, a rotation of the first half of
//! each head, one matrix for queries, keys and values, and one for gate and inner layer.

use jtllm_ir::build::{Pairing, Rope, RopeScaling, rotary_table, rotate, swiglu};
use jtllm_ir::{Graph, Node};

use super::build::{Build, Layer, Sight};
use super::settings::{SIZE_MAX, epsilon, few, key_heads, positions_in, size, vocabulary};
use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

struct ChatGlm2 {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    groups: i64,
    head_width: i64,
    inner: i64,
    epsilon: f32,
    bias: bool,
    packed_bias: bool,
    rope: Rope,
    tied: bool,
    positions: usize,
}

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    for (field, expected) in
        [("rmsnorm", true), ("post_layer_norm", true), ("apply_residual_connection_post_layernorm", false)]
    {
        if config.optional_flag(field)?.is_some_and(|found| found != expected) {
            return Err(config.wrong(field, expected.to_string()));
        }
    }
    let width = size(config, "hidden_size")?;
    let heads = few(config, "num_attention_heads")?;
    let shared = config.optional_flag("multi_query_attention")?.unwrap_or(false);
    let head_width = few(config, "kv_channels")?;
    if head_width % 4 != 0 {
        return Err(config.wrong("kv_channels", "a multiple of 4: half of a head turns, in pairs"));
    }
    let bias = config.optional_flag("add_bias_linear")?.unwrap_or(false);
    Ok(Box::new(ChatGlm2 {
        vocabulary: vocabulary(config, "padded_vocab_size")?,
        width,
        layers: few(config, "num_layers")?,
        heads,
        groups: if shared { key_heads(config, "multi_query_group_num", heads)? } else { heads },
        head_width,
        inner: config.count("ffn_hidden_size", 1..=SIZE_MAX)? as i64,
        epsilon: epsilon(config, "layernorm_epsilon", 1e-5)?,
        bias,
        packed_bias: bias || config.optional_flag("add_qkv_bias")?.unwrap_or(false),
        rope: rope(config, head_width / 2)?,
        tied: config.optional_flag("tie_word_embeddings")?.unwrap_or(false),
        positions: positions_in(config, "seq_length")?,
    }))
}

/// `rope_ratio` multiplies the base of the frequencies in ChatGLM3's and GLM-4's code, and divides positions in
/// ChatGLM2-6B-32k's; nothing else in the configuration tells the two apart than the name that it came under.
fn rope(config: &Config, width: i64) -> Result<Rope, LoadError> {
    const RULE: &str = "rope_ratio_scales";
    let ratio = config.optional_number("rope_ratio", 1e-3..=1e6)?.unwrap_or(1.0);
    let name = config.optional_text("_name_or_path")?.unwrap_or_default().to_ascii_lowercase();
    let newer = ["chatglm3", "glm-4", "glm4"].iter().any(|line| name.contains(line));
    let plain = |base: f64, scaling| Rope { width, base, pairing: Pairing::Interleaved, scaling };
    match config.optional_text(RULE)? {
        _ if ratio == 1.0 => Ok(plain(10_000.0, RopeScaling::None)),
        Some("base") => Ok(plain(10_000.0 * ratio, RopeScaling::None)),
        Some("positions") => Ok(plain(10_000.0, RopeScaling::Linear { factor: ratio })),
        None if newer => Ok(plain(10_000.0 * ratio, RopeScaling::None)),
        None => Err(config.wrong(
            RULE,
            "\"base\" (ChatGLM3's rule) or \"positions\" (ChatGLM2-6B-32k's): `rope_ratio` is not 1, and \
             `_name_or_path` names no model whose rule is known; add the field to the configuration",
        )),
        Some(_) => Err(config.wrong(RULE, "\"base\" or \"positions\"")),
    }
}

impl ChatGlm2 {
    fn attention(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
        table: [Node; 2],
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.encoder.layers.{layer}.self_attention.{part}");
        let head = self.head_width;
        let rows = (self.heads + 2 * self.groups) * head;
        let packed = build.linear(x, &name("query_key_value"), [rows, self.width], self.packed_bias)?;
        let mut part =
            |heads: i64, first: i64| build.heads(packed, [heads, head], |h, d| (h + first) * head + d);
        let q = part(self.heads, 0);
        let k = part(self.groups, self.heads);
        let v = part(self.groups, self.heads + self.groups);
        let [q, k] = [q, k].map(|x| rotate(&mut build.graph, x, table, &self.rope));
        let layer = Layer {
            name: &format!("layers.{layer}"),
            heads: self.heads,
            key_heads: self.groups,
            width: head,
            scale: 1.0 / (head as f32).sqrt(),
            sight: Sight::Past,
            slopes: None,
        };
        let mixed = build.attention(&layer, inputs, [q, k, v]);
        build.linear(mixed, &name("dense"), [self.width, self.heads * head], self.bias)
    }

    fn feed_forward(&self, build: &mut Build<'_>, x: Node, layer: i64) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.encoder.layers.{layer}.mlp.{part}");
        let (packed, inner) = ([2 * self.inner, self.width], self.inner);
        let gate = build.linear_rows(x, &name("dense_h_to_4h"), packed, self.bias, 0..inner)?;
        let up = build.linear_rows(x, &name("dense_h_to_4h"), packed, self.bias, inner..2 * inner)?;
        let inner = swiglu(&mut build.graph, gate, up);
        build.linear(inner, &name("dense_4h_to_h"), [self.width, self.inner], self.bias)
    }
}

impl Architecture for ChatGlm2 {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let inputs = BodyInputs::declare(&mut build.graph, pass.rows, self.vocabulary);
        let table = [self.vocabulary, self.width];
        let mut hidden =
            build.embedding("transformer.embedding.word_embeddings.weight", table, inputs.ids)?;
        let table = rotary_table(&mut build.graph, &self.rope, inputs.position, None);
        build.tap("hidden.embed", hidden);
        for layer in 0..self.layers {
            let norm = |part: &str| format!("transformer.encoder.layers.{layer}.{part}");
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
        let x = build.rms_norm(rows, "transformer.encoder.final_layernorm", self.epsilon)?;
        build.tap("hidden.final_norm", x);
        let name =
            if self.tied { "transformer.embedding.word_embeddings" } else { "transformer.output_layer" };
        let logits = build.linear(x, name, [self.vocabulary, self.width], false)?;
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
