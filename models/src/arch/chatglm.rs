//! ChatGLM-6B (Du et al., 2022; Zeng et al., 2023), in its final revision with a vocabulary of 130528.
//!
//! The prompt, up to and without the token that begins the answer, sees itself whole. A position is two
//! numbers: the place in the prompt (in the answer: the place of the mask that the answer fills), and the place
//! in the answer. Each turns one half of a head.

use jtllm_ir::build::{Pairing, Rope, RopeScaling, gelu_tanh, rotary_table, rotate};
use jtllm_ir::{DType, Expr, Graph, Node, Scalar, ScalarOp};

use super::build::{Build, Layer, Sight};
use super::settings::{SIZE_MAX, epsilon, few, positions_in, size, vocabulary};
use super::{Architecture, BodyInputs, LooksAhead, Pass, SEQUENCES, TILE, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

/// The vocabulary of the first revision, whose image tokens came first and whose positions differed.
const FIRST_VOCABULARY: i64 = 150_528;

/// The square of what a norm's output is multiplied by on its way around a layer: twice the 28 layers of the
/// model. The reference takes this number whatever the configuration says.
const RESIDUAL: f32 = 56.0;

struct ChatGlm {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    inner: i64,
    epsilon: f32,
    positions: usize,
    /// The token that begins an answer.
    begin: u32,
    /// The tokens that stand for what an answer fills; the first that occurs counts, in this order.
    masks: [u32; 2],
}

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "hidden_size")?;
    let heads = few(config, "num_attention_heads")?;
    if width % (4 * heads) != 0 {
        let expected = format!("a multiple of 4 times the number of heads ({heads})");
        return Err(config.wrong("hidden_size", expected));
    }
    if !config.optional_flag("position_encoding_2d")?.unwrap_or(true) {
        return Err(config.wrong("position_encoding_2d", "true"));
    }
    let vocabulary = vocabulary(config, "vocab_size")?;
    if vocabulary == FIRST_VOCABULARY {
        return Err(config.wrong(
            "vocab_size",
            "130528: this is ChatGLM-6B's first revision, which numbers positions and tokens differently; \
             take the files of the model's present revision",
        ));
    }
    let token = |field: &str, most: i64| config.count(field, 0..=most as u64 - 1).map(|id| id as u32);
    Ok(Box::new(ChatGlm {
        vocabulary,
        width,
        layers: few(config, "num_layers")?,
        heads,
        inner: config.optional_count("inner_hidden_size", 1..=SIZE_MAX)?.map_or(4 * width, |n| n as i64),
        epsilon: epsilon(config, "layernorm_epsilon", 1e-5)?,
        positions: positions_in(config, "max_sequence_length")?,
        begin: token("bos_token_id", vocabulary)?,
        masks: [token("gmask_token_id", vocabulary)?, token("mask_token_id", vocabulary)?],
    }))
}

impl ChatGlm {
    fn rope(&self) -> Rope {
        let width = self.width / self.heads / 2;
        Rope { width, base: 10_000.0, pairing: Pairing::HalfSplit, scaling: RopeScaling::HalfPrecision }
    }

    /// Both numbers of each token's position, and the input that holds the prompts' lengths.
    fn positions(&self, graph: &mut Graph, inputs: &BodyInputs) -> ([Node; 2], Node) {
        let sequences = [Expr::int(SEQUENCES)];
        let range = Some((0, Expr::int(1 << 20)));
        let prefix = graph.input("prefix", DType::I32, &sequences, range.clone());
        let mask = graph.input("mask", DType::I32, &sequences, range);
        let each = [inputs.tokens.clone()];
        let of_token = |graph: &mut Graph, x: Node| {
            graph.view(x, &each, &[inputs.sequence], |c| vec![c.extra(0, &[c.axis(0)])])
        };
        let prefix_here = of_token(graph, prefix);
        let mask_here = of_token(graph, mask);
        let inside = graph.map(ScalarOp::Lt, &[inputs.position, prefix_here]);
        let first = graph.map(ScalarOp::Select, &[inside, inputs.position, mask_here]);
        let answered = graph.map(ScalarOp::Sub, &[inputs.position, prefix_here]);
        let one = jtllm_ir::build::splat_scalar(graph, DType::I32, Scalar::Int(1), &each);
        let place = graph.map(ScalarOp::Add, &[answered, one]);
        let zero = jtllm_ir::build::splat_scalar(graph, DType::I32, Scalar::Int(0), &each);
        let second = graph.map(ScalarOp::Max, &[place, zero]);
        ([first, second], prefix)
    }

    fn attention(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
        (table, prefix): ([Node; 2], Node),
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.layers.{layer}.attention.{part}");
        let head = self.width / self.heads;
        let quarter = head / 4;
        let packed = build.linear(x, &name("query_key_value"), [3 * self.width, self.width], true)?;
        // Each half of a head turns by itself, its coordinates paired with those a quarter further. Put in the
        // order of quarters 0, 2, 1, 3 the whole head turns as one; the order cancels in products.
        let mut turned = |part: i64| {
            let x = build.heads(packed, [self.heads, head], |h, d| {
                let half = d.clone().div_floor(2 * quarter);
                let block = d.clone().div_floor(quarter).modulo(2);
                (h * 3 + part) * head + block * (2 * quarter) + half * quarter + d.modulo(quarter)
            });
            let rope = Rope { width: head, ..self.rope() };
            rotate(&mut build.graph, x, table, &rope)
        };
        let (q, k) = (turned(0), turned(1));
        let v = build.heads(packed, [self.heads, head], |h, d| (h * 3 + 2) * head + d);
        let layer = Layer {
            name: &format!("layers.{layer}"),
            heads: self.heads,
            key_heads: self.heads,
            width: head,
            scale: 1.0 / (head as f32).sqrt(),
            sight: Sight::Prefix(prefix),
            slopes: None,
        };
        let mixed = build.attention(&layer, inputs, [q, k, v]);
        build.linear(mixed, &name("dense"), [self.width, self.width], true)
    }

    fn feed_forward(&self, build: &mut Build<'_>, x: Node, layer: i64) -> Result<Node, LoadError> {
        let name = |part: &str| format!("transformer.layers.{layer}.mlp.{part}");
        let inner = build.linear(x, &name("dense_h_to_4h"), [self.inner, self.width], true)?;
        let inner = gelu_tanh(&mut build.graph, inner);
        build.linear(inner, &name("dense_4h_to_h"), [self.width, self.inner], true)
    }
}

impl Architecture for ChatGlm {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let inputs = BodyInputs::declare(&mut build.graph, pass.rows, self.vocabulary);
        let table = [self.vocabulary, self.width];
        let mut hidden = build.embedding("transformer.word_embeddings.weight", table, inputs.ids)?;
        build.tap("hidden.embed", hidden);
        let (places, prefix) = self.positions(&mut build.graph, &inputs);
        let [first, second] = places.map(|x| rotary_table(&mut build.graph, &self.rope(), x, None));
        let table = [build.beside(first[0], second[0]), build.beside(first[1], second[1])];
        let alpha = RESIDUAL.sqrt();
        for layer in 0..self.layers {
            let norm = |part: &str| format!("transformer.layers.{layer}.{part}");
            let x = build.layer_norm(hidden, &norm("input_layernorm"), self.epsilon)?;
            let mixed = self.attention(&mut build, x, layer, &inputs, (table, prefix))?;
            let kept = build.scaled(x, alpha);
            hidden = build.add(kept, mixed);
            let x = build.layer_norm(hidden, &norm("post_attention_layernorm"), self.epsilon)?;
            let inner = self.feed_forward(&mut build, x, layer)?;
            let kept = build.scaled(x, alpha);
            hidden = build.add(kept, inner);
            build.end_layer(layer, hidden);
        }
        build.graph.output("hidden", hidden);
        Ok(build.graph)
    }

    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("head", weights, pass);
        let rows = head_rows(&mut build.graph, pass.rows, self.width);
        let x = build.layer_norm(rows, "transformer.final_layernorm", self.epsilon)?;
        build.tap("hidden.final_norm", x);
        let logits = build.linear(x, "lm_head", [self.vocabulary, self.width], false)?;
        build.graph.output("logits", logits);
        Ok(build.graph)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary as usize
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn looks_ahead(&self) -> LooksAhead {
        LooksAhead::Prefix
    }

    fn chunk(&self) -> usize {
        self.positions.next_multiple_of(TILE as usize)
    }

    fn facts(&self, tokens: &[u32]) -> Vec<(&'static str, i32)> {
        let place = |id: u32| tokens.iter().position(|token| *token == id);
        let mask = self.masks.iter().find_map(|id| place(*id)).unwrap_or(0);
        vec![("prefix", place(self.begin).unwrap_or(0) as i32), ("mask", mask as i32)]
    }
}
