//! PanGu-alpha (Zeng et al., 2021): GPT-2's blocks, and above them a layer whose queries are a learned table
//! of positions instead of hidden vectors. Tensor names are those of PCL's Megatron code.

use jtllm_ir::build::gelu;
use jtllm_ir::{Graph, Node};

use super::build::{Build, Layer, Sight};
use super::settings::{epsilon, few, positions_in, size, vocabulary};
use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

const WORDS: &str = "language_model.embedding.word_embeddings";

struct Pangu {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    epsilon: f32,
    positions: usize,
}

/// Reads the arguments that the model was trained with.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "hidden_size")?;
    let heads = few(config, "num_attention_heads")?;
    if width % heads != 0 {
        return Err(config.wrong("hidden_size", format!("a multiple of the number of heads ({heads})")));
    }
    Ok(Box::new(Pangu {
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers: few(config, "num_layers")?,
        heads,
        epsilon: epsilon(config, "layernorm_epsilon", 1e-5)?,
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
        let name = |part: &str| format!("{}.{part}", block.prefix);
        let head = self.width / self.heads;
        let x = build.layer_norm(hidden, &name("input_layernorm"), self.epsilon)?;
        let mut heads = |x: Node, part: &str| {
            let x = build.linear(x, &name(&format!("attention.{part}")), [self.width; 2], true)?;
            Ok::<Node, LoadError>(build.heads(x, [self.heads, head], |h, d| h * head + d))
        };
        let qkv = [heads(queries.unwrap_or(x), "query")?, heads(x, "key")?, heads(x, "value")?];
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
        let mixed = build.linear(mixed, &name("attention.dense"), [self.width; 2], true)?;
        let hidden = build.add(hidden, mixed);
        let x = build.layer_norm(hidden, &name("post_attention_layernorm"), self.epsilon)?;
        let inner = build.linear(x, &name("mlp.dense_h_to_4h"), [4 * self.width, self.width], true)?;
        let inner = gelu(&mut build.graph, inner);
        let inner = build.linear(inner, &name("mlp.dense_4h_to_h"), [self.width, 4 * self.width], true)?;
        Ok(build.add(hidden, inner))
    }
}

impl Architecture for Pangu {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let positions = self.positions as i64;
        let inputs = BodyInputs::declare_within(&mut build.graph, pass.rows, self.vocabulary, positions);
        let words = build.embedding(&format!("{WORDS}.weight"), [self.vocabulary, self.width], inputs.ids)?;
        let table = [positions, self.width];
        let places = "language_model.embedding.position_embeddings.weight";
        let places = build.embedding(places, table, inputs.position)?;
        let mut hidden = build.add(words, places);
        build.tap("hidden.embed", hidden);
        for layer in 0..self.layers {
            let prefix = format!("language_model.transformer.layers.{layer}");
            let block = Block { prefix, state: format!("layers.{layer}") };
            hidden = self.block(&mut build, &block, &inputs, hidden, None)?;
            build.tap(&format!("hidden.layer{layer}"), hidden);
        }
        hidden = build.layer_norm(hidden, "language_model.transformer.final_layernorm", self.epsilon)?;
        build.tap("hidden.final_norm", hidden);
        let queries = "language_model.topQueryEmbedding.top_query_embeddings.weight";
        let queries = build.embedding(queries, table, inputs.position)?;
        build.tap("hidden.top_query_embedding", queries);
        let prefix = "language_model.transformer.topQueryLayer".to_owned();
        let top = Block { prefix, state: "top".to_owned() };
        hidden = self.block(&mut build, &top, &inputs, hidden, Some(queries))?;
        build.tap("hidden.top_query_layer", hidden);
        build.graph.output("hidden", hidden);
        Ok(build.graph)
    }

    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("head", weights, pass);
        let rows = head_rows(&mut build.graph, pass.rows, self.width);
        let logits = build.linear(rows, WORDS, [self.vocabulary, self.width], false)?;
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
