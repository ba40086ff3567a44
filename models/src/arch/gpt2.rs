//! GPT-2 (Radford et al., 2019): learned positions, layer norms, matrices stored transposed.

use jtllm_ir::build::gelu_tanh;
use jtllm_ir::{Graph, Node};

use super::build::{Build, Layer, Sight};
use super::settings::{SIZE_MAX, epsilon, few, only, positions_in, size, vocabulary};
use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

struct Gpt2 {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    inner: i64,
    epsilon: f32,
    positions: usize,
    /// Whether matrices have a row for each input, as OpenAI's files do; GGUF's have one for each output.
    transposed: bool,
}

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "n_embd")?;
    let heads = few(config, "n_head")?;
    if width % heads != 0 {
        return Err(config.wrong("n_embd", format!("a multiple of the number of heads ({heads})")));
    }
    if !matches!(config.optional_text("activation_function")?, None | Some("gelu_new")) {
        return Err(config.wrong("activation_function", "gelu_new"));
    }
    only(
        config,
        &[
            ("scale_attn_weights", true),
            ("scale_attn_by_inverse_layer_idx", false),
            ("add_cross_attention", false),
        ],
    )?;
    Ok(Box::new(Gpt2 {
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers: few(config, "n_layer")?,
        heads,
        inner: config.optional_count("n_inner", 1..=SIZE_MAX)?.map_or(4 * width, |n| n as i64),
        epsilon: epsilon(config, "layer_norm_epsilon", 1e-5)?,
        positions: positions_in(config, "n_positions")?,
        transposed: !config.optional_flag("linear_rows_are_outputs")?.unwrap_or(false),
    }))
}

impl Gpt2 {
    fn linear(
        &self,
        build: &mut Build<'_>,
        x: Node,
        prefix: &str,
        [outputs, inputs]: [i64; 2],
    ) -> Result<Node, LoadError> {
        match self.transposed {
            true => build.linear_transposed(x, prefix, [outputs, inputs]),
            false => build.linear(x, prefix, [outputs, inputs], true),
        }
    }

    fn attention(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.h.{layer}.attn.{part}");
        let head = self.width / self.heads;
        let packed = self.linear(build, x, &name("c_attn"), [3 * self.width, self.width])?;
        let [q, k, v] = [0, 1, 2]
            .map(|part| build.heads(packed, [self.heads, head], |h, d| h * head + d + part * self.width));
        let layer = Layer {
            name: &format!("layers.{layer}"),
            heads: self.heads,
            key_heads: self.heads,
            width: head,
            scale: 1.0 / (head as f32).sqrt(),
            sight: Sight::Past,
            slopes: None,
        };
        let mixed = build.attention(&layer, inputs, [q, k, v]);
        self.linear(build, mixed, &name("c_proj"), [self.width, self.width])
    }

    fn feed_forward(&self, build: &mut Build<'_>, x: Node, layer: i64) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.h.{layer}.mlp.{part}");
        let inner = self.linear(build, x, &name("c_fc"), [self.inner, self.width])?;
        let inner = gelu_tanh(&mut build.graph, inner);
        self.linear(build, inner, &name("c_proj"), [self.width, self.inner])
    }
}

impl Architecture for Gpt2 {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let inputs =
            BodyInputs::declare_within(&mut build.graph, pass.rows, self.vocabulary, self.positions as i64);
        let words = build.embedding("transformer.wte.weight", [self.vocabulary, self.width], inputs.ids)?;
        let table = [self.positions as i64, self.width];
        let places = build.embedding("transformer.wpe.weight", table, inputs.position)?;
        let mut hidden = build.add(words, places);
        build.tap("hidden.embed", hidden);
        for layer in 0..self.layers {
            let norm = |part: &str| format!("transformer.h.{layer}.{part}");
            let x = build.layer_norm(hidden, &norm("ln_1"), self.epsilon)?;
            let mixed = self.attention(&mut build, x, layer, &inputs)?;
            hidden = build.add(hidden, mixed);
            let x = build.layer_norm(hidden, &norm("ln_2"), self.epsilon)?;
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
        let logits = build.linear(x, "transformer.wte", [self.vocabulary, self.width], false)?;
        build.graph.output("logits", logits);
        Ok(build.graph)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary as usize
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn positions_are_learned(&self) -> bool {
        true
    }
}
