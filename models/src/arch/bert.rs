//! BERT (Devlin et al., 2019) as an encoder of texts: every token sees all, norms follow each layer, and what
//! comes out are the hidden vectors themselves.

use jtllm_ir::build::gelu;
use jtllm_ir::{Expr, Graph, Node};

use super::build::{Build, Layer, Sight};
use super::settings::{epsilon, few, only, positions_in, size, vocabulary};
use super::{Architecture, BodyInputs, LooksAhead, Pass, TILE, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

struct Bert {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    inner: i64,
    epsilon: f32,
    positions: usize,
    /// Kinds of text that the model tells apart; here all text is of the first.
    kinds: i64,
}

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "hidden_size")?;
    let heads = few(config, "num_attention_heads")?;
    if width % heads != 0 {
        return Err(config.wrong("hidden_size", format!("a multiple of the number of heads ({heads})")));
    }
    for (field, expected) in [("hidden_act", "gelu"), ("position_embedding_type", "absolute")] {
        if config.optional_text(field)?.is_some_and(|found| found != expected) {
            return Err(config.wrong(field, expected));
        }
    }
    only(config, &[("is_decoder", false), ("add_cross_attention", false)])?;
    Ok(Box::new(Bert {
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers: few(config, "num_hidden_layers")?,
        heads,
        inner: size(config, "intermediate_size")?,
        epsilon: epsilon(config, "layer_norm_eps", 1e-12)?,
        positions: positions_in(config, "max_position_embeddings")?,
        kinds: few(config, "type_vocab_size")?,
    }))
}

impl Bert {
    fn embedding(&self, build: &mut Build<'_>, inputs: &BodyInputs) -> Result<Node, LoadError> {
        let name = |part: &str| format!("bert.embeddings.{part}_embeddings.weight");
        let words = build.embedding(&name("word"), [self.vocabulary, self.width], inputs.ids)?;
        let table = [self.positions as i64, self.width];
        let places = build.embedding(&name("position"), table, inputs.position)?;
        let kinds = build.matrix(&name("token_type"), self.kinds, self.width)?;
        let space = build.graph.shape(words).to_vec();
        let kind = build.graph.view(kinds, &space, &[], |c| vec![Expr::int(0), c.axis(1)]);
        let sum = build.add(words, kind);
        let sum = build.add(sum, places);
        build.layer_norm(sum, "bert.embeddings.LayerNorm", self.epsilon)
    }

    fn layer(
        &self,
        build: &mut Build<'_>,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
    ) -> Result<Node, LoadError> {
        let name = |part: &str| format!("bert.encoder.layer.{layer}.{part}");
        let head = self.width / self.heads;
        let mut heads = |part: &str| {
            let x = build.linear(x, &name(&format!("attention.self.{part}")), [self.width; 2], true)?;
            Ok::<Node, LoadError>(build.heads(x, [self.heads, head], |h, d| h * head + d))
        };
        let qkv = [heads("query")?, heads("key")?, heads("value")?];
        let spec = Layer {
            name: &format!("layers.{layer}"),
            heads: self.heads,
            key_heads: self.heads,
            width: head,
            scale: 1.0 / (head as f32).sqrt(),
            sight: Sight::All,
            slopes: None,
        };
        let mixed = build.attention(&spec, inputs, qkv);
        let mixed = build.linear(mixed, &name("attention.output.dense"), [self.width; 2], true)?;
        let sum = build.add(x, mixed);
        let x = build.layer_norm(sum, &name("attention.output.LayerNorm"), self.epsilon)?;
        let inner = build.linear(x, &name("intermediate.dense"), [self.inner, self.width], true)?;
        let inner = gelu(&mut build.graph, inner);
        let inner = build.linear(inner, &name("output.dense"), [self.width, self.inner], true)?;
        let sum = build.add(x, inner);
        build.layer_norm(sum, &name("output.LayerNorm"), self.epsilon)
    }
}

impl Architecture for Bert {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let positions = self.positions as i64;
        let inputs = BodyInputs::declare_within(&mut build.graph, pass.rows, self.vocabulary, positions);
        let mut hidden = self.embedding(&mut build, &inputs)?;
        build.tap("hidden.embeddings", hidden);
        for layer in 0..self.layers {
            hidden = self.layer(&mut build, hidden, layer, &inputs)?;
            build.end_layer(layer, hidden);
        }
        build.graph.output("hidden", hidden);
        Ok(build.graph)
    }

    /// The rows as they are.
    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("head", weights, pass);
        let rows = head_rows(&mut build.graph, pass.rows, self.width);
        build.graph.output("logits", rows);
        Ok(build.graph)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary as usize
    }

    fn row_width(&self) -> usize {
        self.width as usize
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn positions_are_learned(&self) -> bool {
        true
    }

    fn looks_ahead(&self) -> LooksAhead {
        LooksAhead::All
    }

    fn chunk(&self) -> usize {
        self.positions.next_multiple_of(TILE as usize)
    }
}
