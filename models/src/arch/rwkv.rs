//! RWKV-4 to RWKV-7 (Peng et al., 2023 to 2025; the code of ChatRWKV and of the `rwkv` package).
//!
//! A layer mixes each token with the one before, then carries a state through time: three vectors (version 4) or
//! a matrix for each head. Tensor names are those of the authors' files; Hugging Face's are translated.

mod heads;
mod time;

use jtllm_ir::build::{self, Sequences};
use jtllm_ir::{DType, Expr, Graph, Node, ScalarOp};

use super::build::Build;
use super::settings::{HEADS_MAX, few, size, vocabulary};
use super::{Architecture, BodyInputs, Pass, SEQUENCES, Weights, head_rows};
use crate::config::Config;
use crate::error::LoadError;

const EPSILON: f32 = 1e-5;

/// Which revision of the architecture; later ones compare greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    V4,
    /// A matrix for each head, with one decay for the head.
    V5,
    /// With a gate.
    V5_1,
    /// A decay for each coordinate of a key.
    V5_2,
    /// Decays and mixtures that depend on the token.
    V6,
    /// The generalised delta rule.
    V7,
}

struct Rwkv {
    version: Version,
    vocabulary: i64,
    width: i64,
    layers: i64,
    inner: i64,
    heads: i64,
    ranks: Ranks,
    /// Whether tensors have Hugging Face's names.
    huggingface: bool,
    /// Whether narrow matrices have a row for each output, as in GGUF; the authors' have one for each input.
    rows_are_outputs: bool,
    /// After how many layers the sum is halved: the weights of those that follow were divided to match.
    rescale_every: Option<i64>,
}

/// Inner widths of the pairs of narrow matrices that versions 6 and 7 have.
#[derive(Default)]
struct Ranks {
    mixture: i64,
    decay: i64,
    rate: i64,
    value: i64,
    gate: i64,
}

impl Ranks {
    fn read(config: &Config, version: Version) -> Result<Ranks, LoadError> {
        let rank = |field: &str| few(config, field);
        match version {
            Version::V6 => {
                Ok(Ranks { mixture: rank("rank_mixture")?, decay: rank("rank_decay")?, ..Ranks::default() })
            }
            Version::V7 => Ok(Ranks {
                mixture: 0,
                decay: rank("rank_decay")?,
                rate: rank("rank_rate")?,
                value: rank("rank_value")?,
                gate: rank("rank_gate")?,
            }),
            _ => Ok(Ranks::default()),
        }
    }
}

fn read_version(config: &Config, version: Version) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "n_embd")?;
    let heads = if version == Version::V4 { 1 } else { few(config, "n_head")? };
    if width % heads != 0 {
        return Err(config.wrong("n_embd", format!("a multiple of the number of heads ({heads})")));
    }
    Ok(Box::new(Rwkv {
        version,
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers: few(config, "n_layer")?,
        inner: size(config, "n_ffn")?,
        heads,
        ranks: Ranks::read(config, version)?,
        huggingface: false,
        rows_are_outputs: config.optional_flag("linear_rows_are_outputs")?.unwrap_or(false),
        rescale_every: config.optional_count("rescale_every", 1..=HEADS_MAX)?.map(|every| every as i64),
    }))
}

/// Reads what the shapes of a file of the authors say.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let version = match config.architecture()? {
        "Rwkv4" => Version::V4,
        "Rwkv5" => Version::V5,
        "Rwkv5_1" => Version::V5_1,
        "Rwkv5_2" => Version::V5_2,
        "Rwkv6" => Version::V6,
        _ => Version::V7,
    };
    read_version(config, version)
}

/// Reads a configuration of Hugging Face's version 4.
pub(super) fn read_huggingface(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let width = size(config, "hidden_size")?;
    Ok(Box::new(Rwkv {
        version: Version::V4,
        vocabulary: vocabulary(config, "vocab_size")?,
        width,
        layers: few(config, "num_hidden_layers")?,
        inner: config.optional_count("intermediate_size", 1..=1 << 20)?.map_or(4 * width, |n| n as i64),
        heads: 1,
        ranks: Ranks::default(),
        huggingface: true,
        rows_are_outputs: false,
        rescale_every: None,
    }))
}

/// A layer under construction: where its tensors are, and the pass's sequences.
struct Block<'a> {
    layer: i64,
    sequences: &'a Sequences,
    /// `bool [B]`: whether a sequence begins with this pass.
    fresh: Node,
}

impl Rwkv {
    /// A tensor's name in the file at hand.
    fn name(&self, name: &str) -> String {
        if !self.huggingface {
            return name.to_owned();
        }
        let pairs = [
            (".att.", ".attention."),
            (".ffn.", ".feed_forward."),
            (".ln0", ".pre_ln"),
            ("time_mix_k", "time_mix_key"),
            ("time_mix_v", "time_mix_value"),
            ("time_mix_r", "time_mix_receptance"),
            ("emb.", "embeddings."),
        ];
        let name = pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to));
        if name.starts_with("head") { name } else { format!("rwkv.{name}") }
    }

    fn tensor(&self, block: &Block<'_>, part: &str) -> String {
        self.name(&format!("blocks.{}.{part}", block.layer))
    }

    /// `x` times a matrix with a row for each output.
    fn linear(
        &self,
        build: &mut Build<'_>,
        x: Node,
        block: &Block<'_>,
        part: &str,
        shape: [i64; 2],
    ) -> Result<Node, LoadError> {
        build.linear(x, &self.tensor(block, part), shape, false)
    }

    /// A vector that the file keeps as `[1, 1, width]`.
    fn vector(&self, build: &mut Build<'_>, block: &Block<'_>, part: &str) -> Result<Node, LoadError> {
        let whole = build.weight(&self.tensor(block, part), &[1, 1, self.width])?;
        let space = [Expr::int(self.width)];
        Ok(build.graph.view(whole, &space, &[], |c| vec![Expr::int(0), Expr::int(0), c.axis(0)]))
    }

    /// The token before each token, as the layer's state `name` and the pass have them. The state keeps the
    /// last token of each sequence.
    fn shifted(&self, build: &mut Build<'_>, block: &Block<'_>, name: &str, x: Node) -> Node {
        let sequences = block.sequences;
        let graph = &mut build.graph;
        let shape = [Expr::int(SEQUENCES), Expr::int(self.width)];
        let state = graph.state(&format!("layers.{}.{name}", block.layer), DType::F32, &shape);
        let kept = sequences.kept(graph, state, &[1]);
        let before = beginning(graph, block.fresh, 0.0, kept);
        let previous = sequences.previous(graph, x, before);
        let last = sequences.last(graph, x);
        sequences.keep(graph, state, last, &[1]);
        previous
    }

    /// `x` and the token before it, mixed by the vector `part`.
    fn mixed(
        &self,
        build: &mut Build<'_>,
        block: &Block<'_>,
        [x, previous]: [Node; 2],
        part: &str,
    ) -> Result<Node, LoadError> {
        let mix = self.vector(build, block, part)?;
        Ok(blend(&mut build.graph, previous, x, mix))
    }

    /// The layer's feed-forward part.
    fn channels(&self, build: &mut Build<'_>, block: &Block<'_>, x: Node) -> Result<Node, LoadError> {
        let previous = self.shifted(build, block, "channels", x);
        let (mix_key, mix_gate) = match self.version {
            Version::V7 => ("ffn.x_k", None),
            Version::V6 => ("ffn.time_maa_k", Some("ffn.time_maa_r")),
            _ => ("ffn.time_mix_k", Some("ffn.time_mix_r")),
        };
        // From version 6 on a mixture says how much of the token before comes in.
        let pair = if self.version >= Version::V6 { [previous, x] } else { [x, previous] };
        let key = self.mixed(build, block, pair, mix_key)?;
        let key = self.linear(build, key, block, "ffn.key", [self.inner, self.width])?;
        let key = positive_square(&mut build.graph, key);
        let value = self.linear(build, key, block, "ffn.value", [self.width, self.inner])?;
        let Some(mix_gate) = mix_gate else { return Ok(value) };
        let gate = self.mixed(build, block, pair, mix_gate)?;
        let gate = self.linear(build, gate, block, "ffn.receptance", [self.width; 2])?;
        let gate = sigmoid(&mut build.graph, gate);
        Ok(build::mul(&mut build.graph, gate, value))
    }
}

/// `a + (b - a) * mix`, `mix` for each column.
fn blend(graph: &mut Graph, a: Node, b: Node, mix: Node) -> Node {
    let space = graph.shape(a).to_vec();
    let mix = build::broadcast(graph, mix, &space, &[1]);
    let difference = graph.map(ScalarOp::Sub, &[b, a]);
    graph.map(ScalarOp::Fma, &[difference, mix, a])
}

/// `kept`, or `first` where a sequence begins.
fn beginning(graph: &mut Graph, fresh: Node, first: f32, kept: Node) -> Node {
    let space = graph.shape(kept).to_vec();
    let fresh = build::broadcast(graph, fresh, &space, &[0]);
    let first = build::splat(graph, first, &space);
    graph.map(ScalarOp::Select, &[fresh, first, kept])
}

fn positive_square(graph: &mut Graph, x: Node) -> Node {
    let shape = graph.shape(x).to_vec();
    let zero = build::splat(graph, 0.0, &shape);
    let positive = graph.map(ScalarOp::Max, &[x, zero]);
    build::mul(graph, positive, positive)
}

fn sigmoid(graph: &mut Graph, x: Node) -> Node {
    let shape = graph.shape(x).to_vec();
    let one = build::splat(graph, 1.0, &shape);
    let negative = graph.map(ScalarOp::Neg, &[x]);
    let power = graph.map(ScalarOp::Exp, &[negative]);
    let sum = build::add(graph, one, power);
    graph.map(ScalarOp::Div, &[one, sum])
}

/// The inputs that say which rows belong to which sequence.
fn sequences(graph: &mut Graph, inputs: &BodyInputs, most: i64) -> (Sequences, Node) {
    let shape = [Expr::int(SEQUENCES)];
    let mut input = |name: &str, end: Expr| graph.input(name, DType::I32, &shape, Some((0, end)));
    let tokens = inputs.tokens.clone();
    let start = input("start", tokens.clone());
    let count = input("count", tokens.clone() + 1);
    let home = input("home", Expr::int(SEQUENCES));
    let fresh = graph.index(DType::Bool, &shape, &[inputs.lengths, count], |c| {
        c.extra(0, &[c.axis(0)]).at_most(&c.extra(1, &[c.axis(0)]))
    });
    (Sequences { tokens, most, start, count, home, sequence: inputs.sequence }, fresh)
}

impl Architecture for Rwkv {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("body", weights, pass);
        let inputs = BodyInputs::declare(&mut build.graph, pass.rows, self.vocabulary);
        let (sequences, fresh) = sequences(&mut build.graph, &inputs, self.chunk() as i64);
        let table = [self.vocabulary, self.width];
        let words = build.embedding(&self.name("emb.weight"), table, inputs.ids)?;
        let mut hidden = build.layer_norm(words, &self.name("blocks.0.ln0"), EPSILON)?;
        let mut time = time::Time::new(self, &mut build.graph);
        for layer in 0..self.layers {
            let block = Block { layer, sequences: &sequences, fresh };
            let x = build.layer_norm(hidden, &self.tensor(&block, "ln1"), EPSILON)?;
            let mixed = time.mix(&mut build, &block, x)?;
            hidden = build.add(hidden, mixed);
            let x = build.layer_norm(hidden, &self.tensor(&block, "ln2"), EPSILON)?;
            let inner = self.channels(&mut build, &block, x)?;
            hidden = build.add(hidden, inner);
            if self.rescale_every.is_some_and(|every| (layer + 1) % every == 0) {
                hidden = build.scaled(hidden, 0.5);
            }
            build.graph.end_layer(hidden);
            if pass.taps {
                let normed = build.layer_norm(hidden, &self.name("ln_out"), EPSILON)?;
                build.tap(&format!("hidden.layer{layer}_lnout"), normed);
            }
        }
        build.graph.output("hidden", hidden);
        Ok(build.graph)
    }

    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut build = Build::new("head", weights, pass);
        let rows = head_rows(&mut build.graph, pass.rows, self.width);
        let x = build.layer_norm(rows, &self.name("ln_out"), EPSILON)?;
        let logits = build.linear(x, "head", [self.vocabulary, self.width], false)?;
        build.graph.output("logits", logits);
        Ok(build.graph)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary as usize
    }

    /// The state has no end; this is what the authors train with at most.
    fn positions(&self) -> usize {
        1 << 20
    }

    fn is_recurrent(&self) -> bool {
        true
    }
}
