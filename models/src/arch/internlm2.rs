//! InternLM2 (Cai et al., 2024): LLaMA's block with queries, keys and values packed in groups.
//!
//! The rows of `wqkv` come group by group: the queries that share a key head, the key head, the value head.

use jtllm_ir::build::{Rope, rotary_table, rotate, swiglu};
use jtllm_ir::{Expr, Graph, Node};

use super::build::{Build, Layer, Sight};
use super::settings::{epsilon, few, head_width, key_heads, positions, rope, size, vocabulary};
use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

struct InternLm2 {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    key_heads: i64,
    head_width: i64,
    inner: i64,
    epsilon: f32,
    bias: bool,
    rope: Rope,
    tied: bool,
    positions: usize,
}

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "hidden_size")?;
    let heads = few(config, "num_attention_heads")?;
    let head_width = head_width(config, width, heads)?;
    if config.text("hidden_act")? != "silu" {
        return Err(config.wrong("hidden_act", "silu"));
    }
    Ok(Box::new(InternLm2 {
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers: few(config, "num_hidden_layers")?,
        heads,
        key_heads: key_heads(config, "num_key_value_heads", heads)?,
        head_width,
        inner: size(config, "intermediate_size")?,
        epsilon: epsilon(config, "rms_norm_eps", 1e-6)?,
        bias: config.optional_flag("bias")?.unwrap_or(false),
        rope: rope(config, head_width)?,
        tied: config.optional_flag("tie_word_embeddings")?.unwrap_or(false),
        positions: positions(config)? as usize,
    }))
}

impl InternLm2 {
    fn attention(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
        table: [Node; 2],
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("model.layers.{layer}.attention.{part}");
        let head = self.head_width;
        let group = self.heads / self.key_heads;
        let rows = (self.heads + 2 * self.key_heads) * head;
        let packed = build.linear(x, &name("wqkv"), [rows, self.width], self.bias)?;
        // Where the coordinate of the member of a group stands.
        let place = |owner: Expr, member: Expr, d: Expr| (owner * (group + 2) + member) * head + d;
        let q = build
            .heads(packed, [self.heads, head], |h, d| place(h.clone().div_floor(group), h.modulo(group), d));
        let k = build.heads(packed, [self.key_heads, head], |h, d| place(h, Expr::int(group), d));
        let v = build.heads(packed, [self.key_heads, head], |h, d| place(h, Expr::int(group + 1), d));
        let [q, k] = [q, k].map(|x| rotate(&mut build.graph, x, table, &self.rope));
        let layer = Layer {
            name: &format!("layers.{layer}"),
            heads: self.heads,
            key_heads: self.key_heads,
            width: head,
            scale: 1.0 / (head as f32).sqrt(),
            sight: Sight::Past,
            slopes: None,
        };
        let mixed = build.attention(&layer, inputs, [q, k, v]);
        build.linear(mixed, &name("wo"), [self.width, self.heads * head], self.bias)
    }

    fn feed_forward(&self, build: &mut Build<'_>, x: Node, layer: i64) -> Result<Node, LoadError> {
        let name = |part: &str| format!("model.layers.{layer}.feed_forward.{part}");
        let gate = build.linear(x, &name("w1"), [self.inner, self.width], false)?;
        let up = build.linear(x, &name("w3"), [self.inner, self.width], false)?;
        let inner = swiglu(&mut build.graph, gate, up);
        build.linear(inner, &name("w2"), [self.width, self.inner], false)
    }
}

impl Architecture for InternLm2 {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let inputs = BodyInputs::declare(&mut build.graph, pass.rows, self.vocabulary);
        let table = [self.vocabulary, self.width];
        let mut hidden = build.embedding("model.tok_embeddings.weight", table, inputs.ids)?;
        let lengths = inputs.row_lengths(&mut build.graph, pass.rows, &self.rope);
        let table = rotary_table(&mut build.graph, &self.rope, inputs.position, lengths);
        build.tap("hidden.embed", hidden);
        for layer in 0..self.layers {
            let norm = |part: &str| format!("model.layers.{layer}.{part}");
            let x = build.rms_norm(hidden, &norm("attention_norm"), self.epsilon)?;
            let mixed = self.attention(&mut build, x, layer, &inputs, table)?;
            hidden = build.add(hidden, mixed);
            let x = build.rms_norm(hidden, &norm("ffn_norm"), self.epsilon)?;
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
        let x = build.rms_norm(rows, "model.norm", self.epsilon)?;
        build.tap("hidden.final_norm", x);
        let name = if self.tied { "model.tok_embeddings" } else { "output" };
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
