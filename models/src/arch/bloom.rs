//! BLOOM (BigScience, 2022) and BELLE's fine-tunes of it: positions by a slope for each head (ALiBi), a norm
//! of the embedding, queries, keys and values of a head side by side.

use jtllm_ir::build::gelu_tanh;
use jtllm_ir::{DType, Expr, Graph, Node, Tensor};

use super::build::{Build, Layer, Sight};
use super::settings::{HEADS_MAX, SIZE_MAX, epsilon, positions_in, vocabulary};
use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

struct Bloom {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    epsilon: f32,
    positions: usize,
    /// Whether all queries come first, then all keys, then all values, as in GGUF; else they come head by head.
    by_part: bool,
}

/// Reads a configuration of the family, under its newer or its older field names.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let either = |names: [&str; 2], most: u64| match config.optional_count(names[0], 1..=most)? {
        Some(count) => Ok(count as i64),
        None => config.count(names[1], 1..=most).map(|count| count as i64),
    };
    let width = either(["n_embed", "hidden_size"], SIZE_MAX)?;
    let heads = either(["num_attention_heads", "n_head"], HEADS_MAX)?;
    if width % heads != 0 {
        return Err(config.wrong("hidden_size", format!("a multiple of the number of heads ({heads})")));
    }
    if config.optional_flag("apply_residual_connection_post_layernorm")?.unwrap_or(false) {
        return Err(config.wrong("apply_residual_connection_post_layernorm", "false"));
    }
    Ok(Box::new(Bloom {
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers: either(["num_hidden_layers", "n_layer"], HEADS_MAX)?,
        heads,
        epsilon: epsilon(config, "layer_norm_epsilon", 1e-5)?,
        positions: positions_in(config, "seq_length")?,
        by_part: config.optional_flag("qkv_by_part")?.unwrap_or(false),
    }))
}

/// The slope of each head: a geometric sequence for the largest power of two that fits, and every other value
/// of the sequence for twice as many for the rest (Press et al., 2022, and their code).
fn slopes(heads: i64) -> Vec<f32> {
    let power = 1i64 << heads.ilog2();
    let base = |count: i64| 2f64.powf(-(2f64.powf(-((count as f64).log2() - 3.0))));
    let first = (1..=power).map(|exponent| base(power).powi(exponent as i32));
    let rest = (0..heads - power).map(|at| base(2 * power).powi(2 * at as i32 + 1));
    first.chain(rest).map(|slope| slope as f32).collect()
}

impl Bloom {
    fn attention(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.h.{layer}.self_attention.{part}");
        let head = self.width / self.heads;
        let packed = build.linear(x, &name("query_key_value"), [3 * self.width, self.width], true)?;
        let place = |part: i64, h: Expr, d: Expr| match self.by_part {
            true => (h + part * self.heads) * head + d,
            false => (h * 3 + part) * head + d,
        };
        let qkv = [0, 1, 2].map(|part| build.heads(packed, [self.heads, head], |h, d| place(part, h, d)));
        let slopes = Tensor::floats(DType::F32, &[self.heads as usize], slopes(self.heads));
        let layer = Layer {
            name: &format!("layers.{layer}"),
            heads: self.heads,
            key_heads: self.heads,
            width: head,
            scale: 1.0 / (head as f32).sqrt(),
            sight: Sight::Past,
            slopes: Some(build.graph.constant(slopes)),
        };
        let mixed = build.attention(&layer, inputs, qkv);
        build.linear(mixed, &name("dense"), [self.width, self.width], true)
    }

    fn feed_forward(&self, build: &mut Build<'_>, x: Node, layer: i64) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.h.{layer}.mlp.{part}");
        let inner = build.linear(x, &name("dense_h_to_4h"), [4 * self.width, self.width], true)?;
        let inner = gelu_tanh(&mut build.graph, inner);
        build.linear(inner, &name("dense_4h_to_h"), [self.width, 4 * self.width], true)
    }
}

impl Architecture for Bloom {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let inputs = BodyInputs::declare(&mut build.graph, pass.rows, self.vocabulary);
        let table = [self.vocabulary, self.width];
        let words = build.embedding("transformer.word_embeddings.weight", table, inputs.ids)?;
        build.tap("hidden.word_embeddings", words);
        let mut hidden = build.layer_norm(words, "transformer.word_embeddings_layernorm", self.epsilon)?;
        build.tap("hidden.embed", hidden);
        for layer in 0..self.layers {
            let norm = |part: &str| format!("transformer.h.{layer}.{part}");
            let x = build.layer_norm(hidden, &norm("input_layernorm"), self.epsilon)?;
            let mixed = self.attention(&mut build, x, layer, &inputs)?;
            hidden = build.add(hidden, mixed);
            let x = build.layer_norm(hidden, &norm("post_attention_layernorm"), self.epsilon)?;
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
        let x = build.layer_norm(rows, "transformer.ln_f", self.epsilon)?;
        build.tap("hidden.final_norm", x);
        let logits = build.linear(x, "transformer.word_embeddings", [self.vocabulary, self.width], false)?;
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
