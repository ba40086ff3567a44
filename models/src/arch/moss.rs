//! MOSS (Sun et al., 2023), built as CodeGen and GPT-J: attention and feed-forward layer side by side on one
//! norm, heads of which the first coordinates turn, queries, values and keys packed in four blocks.

use jtllm_ir::build::{Pairing, Rope, RopeScaling, gelu_tanh, rotary_table, rotate};
use jtllm_ir::{Graph, Node};

use super::build::{Build, Layer, Sight};
use super::settings::{SIZE_MAX, epsilon, few, positions_in, size, vocabulary};
use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

/// Blocks in which the rows of `qkv_proj` come: the model was trained on that many devices.
const BLOCKS: i64 = 4;

struct Moss {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    inner: i64,
    epsilon: f32,
    rope: Rope,
    positions: usize,
}

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "n_embd")?;
    let heads = few(config, "n_head")?;
    if width % heads != 0 || heads % BLOCKS != 0 {
        let expected = format!("a multiple of {BLOCKS} that divides n_embd ({width})");
        return Err(config.wrong("n_head", expected));
    }
    if !matches!(config.optional_text("activation_function")?, None | Some("gelu_new")) {
        return Err(config.wrong("activation_function", "gelu_new"));
    }
    let turning = config.count("rotary_dim", 2..=(width / heads).max(2) as u64)? as i64;
    if turning % 2 != 0 || turning > width / heads {
        return Err(config.wrong("rotary_dim", "an even number, at most a head's width"));
    }
    let scaling = RopeScaling::None;
    Ok(Box::new(Moss {
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers: few(config, "n_layer")?,
        heads,
        inner: config.optional_count("n_inner", 1..=SIZE_MAX)?.map_or(4 * width, |n| n as i64),
        epsilon: epsilon(config, "layer_norm_epsilon", 1e-5)?,
        rope: Rope { width: turning, base: 10_000.0, pairing: Pairing::Interleaved, scaling },
        positions: positions_in(config, "n_positions")?,
    }))
}

impl Moss {
    fn attention(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
        table: [Node; 2],
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.h.{layer}.attn.{part}");
        let head = self.width / self.heads;
        let local = self.heads / BLOCKS;
        let packed = build.linear(x, &name("qkv_proj"), [3 * self.width, self.width], false)?;
        let [q, v, k] = [0, 1, 2].map(|part| {
            build.heads(packed, [self.heads, head], |h, d| {
                let block = h.clone().div_floor(local) * 3 + part;
                (block * local + h.modulo(local)) * head + d
            })
        });
        let [q, k] = [q, k].map(|x| rotate(&mut build.graph, x, table, &self.rope));
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
        build.linear(mixed, &name("out_proj"), [self.width, self.width], false)
    }

    fn feed_forward(&self, build: &mut Build<'_>, x: Node, layer: i64) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.h.{layer}.mlp.{part}");
        let inner = build.linear(x, &name("fc_in"), [self.inner, self.width], true)?;
        let inner = gelu_tanh(&mut build.graph, inner);
        build.linear(inner, &name("fc_out"), [self.width, self.inner], true)
    }
}

impl Architecture for Moss {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let inputs = BodyInputs::declare(&mut build.graph, pass.rows, self.vocabulary);
        let mut hidden =
            build.embedding("transformer.wte.weight", [self.vocabulary, self.width], inputs.ids)?;
        let table = rotary_table(&mut build.graph, &self.rope, inputs.position, None);
        build.tap("hidden.embed", hidden);
        for layer in 0..self.layers {
            let x = build.layer_norm(hidden, &format!("transformer.h.{layer}.ln_1"), self.epsilon)?;
            let mixed = self.attention(&mut build, x, layer, &inputs, table)?;
            let inner = self.feed_forward(&mut build, x, layer)?;
            let both = build.add(mixed, inner);
            hidden = build.add(both, hidden);
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
        let logits = build.linear(x, "lm_head", [self.vocabulary, self.width], true)?;
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
