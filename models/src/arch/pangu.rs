//! PanGu-alpha (Zeng et al., 2021): GPT-2's blocks, and above them a layer whose queries are a learned table
//! of positions instead of hidden vectors. Tensor names are those of PCL's Megatron code, or of its port to
//! transformers (`GPTPanguForCausalLM`), where that layer is the last of the blocks.

use jtllm_ir::build::gelu;
use jtllm_ir::{Graph, Node};

use super::build::{Build, Layer, Sight};
use super::settings::{SIZE_MAX, epsilon, few, positions_in, size, vocabulary};
use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

/// What the tensors are called.
struct Names {
    words: &'static str,
    places: &'static str,
    queries: &'static str,
    norm: &'static str,
    /// What precedes the number of a block.
    blocks: &'static str,
    /// The layer above the blocks, where it is not the one of the next number.
    top: Option<&'static str>,
    /// The norms of a block, queries, keys, values and what joins them, and both matrices of the inner layer.
    parts: [&'static str; 8],
}

const MEGATRON: Names = Names {
    words: "language_model.embedding.word_embeddings",
    places: "language_model.embedding.position_embeddings.weight",
    queries: "language_model.topQueryEmbedding.top_query_embeddings.weight",
    norm: "language_model.transformer.final_layernorm",
    blocks: "language_model.transformer.layers",
    top: Some("language_model.transformer.topQueryLayer"),
    parts: [
        "input_layernorm",
        "post_attention_layernorm",
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ],
};

const HUGGING_FACE: Names = Names {
    words: "transformer.wte",
    places: "transformer.wpe.weight",
    queries: "transformer.wqe.weight",
    norm: "transformer.ln_f",
    blocks: "transformer.h",
    top: None,
    parts: [
        "ln_1",
        "ln_2",
        "attn.q_proj",
        "attn.k_proj",
        "attn.v_proj",
        "attn.c_proj",
        "mlp.c_fc",
        "mlp.c_proj",
    ],
};

struct Pangu {
    names: &'static Names,
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    epsilon: f32,
    positions: usize,
}

/// Reads the arguments that the model was trained with.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let epsilon = epsilon(config, "layernorm_epsilon", 1e-5)?;
    let (layers, heads) = (few(config, "num_layers")?, few(config, "num_attention_heads")?);
    made(config, &MEGATRON, layers, heads, epsilon)
}

/// Reads the configuration of the port to transformers.
pub(super) fn read_huggingface(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "hidden_size")?;
    if config.optional_text("activation_function")?.is_some_and(|found| found != "gelu") {
        return Err(config.wrong("activation_function", "gelu"));
    }
    if config.optional_count("intermediate_size", 0..=SIZE_MAX)?.is_some_and(|n| n as i64 != 4 * width) {
        return Err(config.wrong("intermediate_size", format!("{}, four times hidden_size", 4 * width)));
    }
    let layers = few(config, "num_layers")?;
    if layers < 2 {
        return Err(config.wrong("num_layers", "at least 2, of which the last has learned queries"));
    }
    let epsilon = epsilon(config, "layer_norm_epsilon", 1e-5)?;
    made(config, &HUGGING_FACE, layers - 1, few(config, "num_heads")?, epsilon)
}

fn made(
    config: &Config,
    names: &'static Names,
    layers: i64,
    heads: i64,
    epsilon: f32,
) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "hidden_size")?;
    if width % heads != 0 {
        return Err(config.wrong("hidden_size", format!("a multiple of the number of heads ({heads})")));
    }
    Ok(Box::new(Pangu {
        names,
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers,
        heads,
        epsilon,
        positions: positions_in(config, "max_position_embeddings")?,
    }))
}

/// One block's place among tensors and states.
struct Block {
    prefix: String,
    state: String,
}

impl Pangu {
    /// Attention of `queries` on what `x` says, and the feed-forward layer, both added to `residual`.
    fn block(
        &self,
        build: &mut Build<'_>,
        block: &Block,
        inputs: &BodyInputs,
        hidden: Node,
        queries: Option<Node>,
    ) -> Result<Node, LoadError> {
        let [before, between, query, key, value, joined, widen, narrow] =
            self.names.parts.map(|part| format!("{}.{part}", block.prefix));
        let head = self.width / self.heads;
        let x = build.layer_norm(hidden, &before, self.epsilon)?;
        let mut heads = |x: Node, name: &str| {
            let x = build.linear(x, name, [self.width; 2], true)?;
            Ok::<Node, LoadError>(build.heads(x, [self.heads, head], |h, d| h * head + d))
        };
        let qkv = [heads(queries.unwrap_or(x), &query)?, heads(x, &key)?, heads(x, &value)?];
        let layer = Layer {
            name: &block.state,
            heads: self.heads,
            key_heads: self.heads,
            width: head,
            scale: 1.0 / (head as f32).sqrt(),
            sight: Sight::Past,
            slopes: None,
        };
        let mixed = build.attention(&layer, inputs, qkv);
        let mixed = build.linear(mixed, &joined, [self.width; 2], true)?;
        let hidden = build.add(hidden, mixed);
        let x = build.layer_norm(hidden, &between, self.epsilon)?;
        let inner = build.linear(x, &widen, [4 * self.width, self.width], true)?;
        let inner = gelu(&mut build.graph, inner);
        let inner = build.linear(inner, &narrow, [self.width, 4 * self.width], true)?;
        Ok(build.add(hidden, inner))
    }
}

impl Architecture for Pangu {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let positions = self.positions as i64;
        let inputs = BodyInputs::declare_within(&mut build.graph, pass.rows, self.vocabulary, positions);
        let words = build.embedding(
            &format!("{}.weight", self.names.words),
            [self.vocabulary, self.width],
            inputs.ids,
        )?;
        let table = [positions, self.width];
        let places = build.embedding(self.names.places, table, inputs.position)?;
        let mut hidden = build.add(words, places);
        build.tap("hidden.embed", hidden);
        for layer in 0..self.layers {
            let prefix = format!("{}.{layer}", self.names.blocks);
            let block = Block { prefix, state: format!("layers.{layer}") };
            hidden = self.block(&mut build, &block, &inputs, hidden, None)?;
            build.end_layer(layer, hidden);
        }
        hidden = build.layer_norm(hidden, self.names.norm, self.epsilon)?;
        build.tap("hidden.final_norm", hidden);
        let queries = build.embedding(self.names.queries, table, inputs.position)?;
        build.tap("hidden.top_query_embedding", queries);
        let next = || format!("{}.{}", self.names.blocks, self.layers);
        let prefix = self.names.top.map_or_else(next, str::to_owned);
        let top = Block { prefix, state: "top".to_owned() };
        hidden = self.block(&mut build, &top, &inputs, hidden, Some(queries))?;
        build.tap("hidden.top_query_layer", hidden);
        build.graph.output("hidden", hidden);
        Ok(build.graph)
    }

    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("head", weights, pass);
        let rows = head_rows(&mut build.graph, pass.rows, self.width);
        let logits = build.linear(rows, self.names.words, [self.vocabulary, self.width], false)?;
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
