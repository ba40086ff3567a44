//! Architectures: which graph a model is. One file each, one row in [`ARCHITECTURES`].
//!
//! A model is two graphs. The *body* takes tokens and gives the last hidden vectors; the *head* takes the
//! rows of those that are asked for and gives logits. Both are flat in tokens: one graph serves decoding,
//! ragged batches and chunks of prompts; what differs is how many tokens a [`Pass`] is made for.

mod llama;

use jtllm_ir::expr::Symbol;
use jtllm_ir::{DType, Expr, Format, Graph, Node};

use crate::config::Config;
use crate::error::LoadError;

/// The most sequences that one pass may hold.
pub const SEQUENCES: i64 = 16;

/// The most tokens of a chunk.
pub const CHUNK: i64 = 512;

/// Rows of a chunk belong to one sequence in runs of this many; runs are padded.
pub const TILE: i64 = 16;

/// How many rows a graph is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// Exactly so many (1, 2, 4, 8 or 16): each token may belong to any sequence.
    Fixed(i64),
    /// Any multiple of [`TILE`] up to [`CHUNK`], known when the pass runs.
    Many,
}

impl Rows {
    /// The number of rows: a constant, or the symbol of that name.
    pub fn extent(self, graph: &mut Graph, name: &str) -> Expr {
        match self {
            Rows::Fixed(count) => Expr::int(count),
            Rows::Many => graph.symbol(&Symbol::new(name, TILE, CHUNK, TILE)),
        }
    }
}

/// What a graph is built for.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// How many tokens (body) or rows of logits (head).
    pub rows: Rows,
    /// The type in which keys are kept.
    pub keys: DType,
    /// The type in which values are kept.
    pub values: DType,
    /// Whether hidden vectors come out as well, for comparison with references.
    pub taps: bool,
}

/// A weight matrix or vector in a checkpoint, as a graph wants it.
pub trait Weights {
    /// The format of a tensor, or `None` if the checkpoint has no such tensor.
    fn format(&self, name: &str) -> Option<&'static Format>;
}

/// An architecture with its numbers.
pub trait Architecture: Send + Sync {
    /// The graph from tokens to hidden vectors (`output hidden : f32[T, width]`).
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError>;

    /// The graph from rows of hidden vectors to logits (`output logits : f32[R, vocabulary]`).
    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError>;

    /// How many tokens the vocabulary has.
    fn vocabulary(&self) -> usize;

    /// How many positions the model was made for.
    fn positions(&self) -> usize;

    /// The names and shapes (outermost first) of all tensors that the graphs read.
    fn tensors(&self) -> Vec<(String, Vec<u64>)>;
}

/// One architecture: the names under which configurations know it, and how it reads one.
pub struct Row {
    /// Names in `architectures` of a `config.json`.
    pub names: &'static [&'static str],
    /// From a configuration.
    pub read: fn(&Config) -> Result<Box<dyn Architecture>, LoadError>,
}

/// Every architecture.
pub static ARCHITECTURES: &[Row] = &[Row {
    names: &[
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "AtomForCausalLM",
    ],
    read: llama::read,
}];

/// The architecture that a configuration names.
pub fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let name = config.architecture()?;
    match ARCHITECTURES.iter().find(|row| row.names.contains(&name)) {
        Some(row) => (row.read)(config),
        None => {
            let known: Vec<&str> = ARCHITECTURES.iter().flat_map(|row| row.names).copied().collect();
            Err(config.wrong("architectures", format!("one of {}", known.join(", "))))
        }
    }
}

/// The inputs of a body, by the names that the runtime fills.
pub struct BodyInputs {
    /// How many tokens.
    pub tokens: Expr,
    /// `i32 [T]`: the token at each row.
    pub ids: Node,
    /// `i32 [T]`: its position in its sequence.
    pub position: Node,
    /// `i32 [T]`: its sequence, `0..16`.
    pub sequence: Node,
    /// `i32 [T]`: where its key and value go, page * 16 + place; -1: nowhere.
    pub slot: Node,
    /// `i32 [16, P]`: the pages of each sequence.
    pub table: Node,
    /// `i32 [16]`: how many positions each sequence has after the pass.
    pub lengths: Node,
    /// How many pages there are.
    pub pages: Expr,
}

impl BodyInputs {
    /// Declares the inputs in `graph`.
    pub fn declare(graph: &mut Graph, rows: Rows, vocabulary: i64) -> BodyInputs {
        let tokens = rows.extent(graph, "T");
        let table_pages = graph.symbol(&Symbol::new("P", 8, 1 << 16, 8));
        let pages = graph.symbol(&Symbol::new("pages", 1, 1 << 20, 1));
        let each = std::slice::from_ref(&tokens);
        let sequences = Expr::int(SEQUENCES);
        let below = |end: Expr| Some((0, end));
        BodyInputs {
            ids: graph.input("ids", DType::I32, each, below(Expr::int(vocabulary))),
            position: graph.input("pos", DType::I32, each, below(Expr::int(1 << 20))),
            sequence: graph.input("seq", DType::I32, each, below(sequences.clone())),
            slot: graph.input("slot", DType::I32, each, Some((-1, pages.clone() * TILE))),
            table: {
                let shape = [sequences.clone(), table_pages.clone()];
                graph.input("table", DType::I32, &shape, below(pages.clone()))
            },
            lengths: graph.input("lens", DType::I32, &[sequences], below(table_pages * TILE + 1)),
            tokens,
            pages,
        }
    }

    /// Which row of `sequence` speaks for row `t`: in chunks the first of its tile, so that a tile of
    /// queries provably belongs to one sequence.
    pub fn speaker(rows: Rows) -> impl Fn(Expr) -> Expr {
        move |t: Expr| match rows {
            Rows::Fixed(_) => t,
            Rows::Many => t.div_floor(TILE) * TILE,
        }
    }
}

/// The rows of a body's hidden vectors that a head works on: `f32 [R, width]`.
pub fn head_rows(graph: &mut Graph, rows: Rows, width: i64) -> Node {
    let asked = rows.extent(graph, "R");
    let tokens = graph.symbol(&Symbol::new("T", 1, CHUNK, 1));
    let hidden = graph.input("hidden", DType::F32, &[tokens.clone(), Expr::int(width)], None);
    let range = Some((0, tokens));
    let chosen = graph.input("out_rows", DType::I32, std::slice::from_ref(&asked), range);
    graph.view(hidden, &[asked, Expr::int(width)], &[chosen], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)])
}
