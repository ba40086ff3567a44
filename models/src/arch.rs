//! Architectures: which graph a model is. One file each, one row in [`ARCHITECTURES`].
//!
//! A model is two graphs. The *body* takes tokens and gives the last hidden vectors; the *head* takes the
//! rows of those that are asked for and gives logits. Both are flat in tokens: one graph serves decoding,
//! ragged batches and chunks of prompts; what differs is how many tokens a [`Pass`] is made for.

mod bert;
mod bloom;
mod build;
mod chatglm;
mod chatglm2;
mod clip;
mod gemma3;
mod gpt2;
mod internlm2;
mod llama;
mod llava;
mod moss;
mod pangu;
mod rwkv;
mod settings;

use std::cell::RefCell;

use jtllm_ir::build::{Rope, RopeScaling};
use jtllm_ir::expr::Symbol;
use jtllm_ir::{DType, Expr, Format, Graph, Node, Scalar, ScalarOp};

use crate::config::Config;
use crate::error::LoadError;
use crate::image::Image;

/// The most sequences that one pass may hold.
pub const SEQUENCES: i64 = 16;

/// The most tokens of a chunk.
pub const CHUNK: i64 = 512;

/// The most positions of a sequence.
pub const POSITIONS: usize = 1 << 20;

/// The most tokens of a pass of any model.
const TOKENS_MAX: i64 = 1 << 16;

/// Rows of a chunk belong to one sequence in runs of this many; runs are padded.
pub const TILE: i64 = 16;

/// How many rows a graph is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// Exactly so many (1, 2, 4, 8 or 16): each token may belong to any sequence.
    Fixed(i64),
    /// Any multiple of [`TILE`] up to this many, known when the pass runs.
    Many(i64),
}

impl Rows {
    /// The number of rows: a constant, or the symbol of that name.
    pub fn extent(self, graph: &mut Graph, name: &str) -> Expr {
        match self {
            Rows::Fixed(count) => Expr::int(count),
            Rows::Many(most) => graph.symbol(&Symbol::new(name, TILE, most, TILE)),
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

/// The tensors of a checkpoint, as a graph wants them.
pub trait Weights {
    /// The format of a tensor of that shape (outermost first); an error if the checkpoint has none.
    fn format(&self, name: &str, shape: &[u64]) -> Result<&'static Format, LoadError>;
}

/// Notes what graphs ask for.
#[derive(Default)]
struct Asked(RefCell<Vec<(String, Vec<u64>)>>);

impl Weights for Asked {
    fn format(&self, name: &str, shape: &[u64]) -> Result<&'static Format, LoadError> {
        let mut asked = self.0.borrow_mut();
        if !asked.iter().any(|(known, _)| known == name) {
            asked.push((name.to_owned(), shape.to_vec()));
        }
        Ok(&jtllm_ir::format::F32)
    }
}

/// The names and shapes (outermost first) of all tensors that an architecture's graphs read.
pub fn tensors(architecture: &dyn Architecture) -> Result<Vec<(String, Vec<u64>)>, LoadError> {
    let asked = Asked::default();
    let pass = Pass { rows: Rows::Fixed(1), keys: DType::F32, values: DType::F32, taps: false };
    architecture.body(&asked, pass)?;
    architecture.head(&asked, pass)?;
    if let Some(vision) = architecture.vision() {
        vision.graph(&asked, pass)?;
    }
    Ok(asked.0.into_inner())
}

/// Which tokens of a sequence see later ones. Where any do, what the cache holds of a sequence is of no use to
/// another with the same beginning, and what sees ahead is computed in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LooksAhead {
    /// None.
    No,
    /// Those of the prompt.
    Prefix,
    /// All.
    All,
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

    /// How many values the head gives for a row.
    fn row_width(&self) -> usize {
        self.vocabulary()
    }

    /// Whether positions are rows of a learned table, so that there are none beyond.
    fn positions_are_learned(&self) -> bool {
        false
    }

    /// Which tokens see later ones.
    fn looks_ahead(&self) -> LooksAhead {
        LooksAhead::No
    }

    /// Whether what is kept of a sequence is a state without a past: then a sequence goes on or begins anew.
    fn is_recurrent(&self) -> bool {
        false
    }

    /// The most tokens of a chunk: a multiple of [`TILE`].
    fn chunk(&self) -> usize {
        CHUNK as usize
    }

    /// How the model sees, if it does: then its body takes rows of images as well.
    fn vision(&self) -> Option<&dyn Vision> {
        None
    }

    /// What the graphs want to know of a sequence, beside its tokens and positions: values of the body's
    /// further inputs (`i32 [16]` each), from all of the sequence's tokens. Tokens of an answer change none.
    fn facts(&self, tokens: &[u32]) -> Vec<(&'static str, i32)> {
        let _ = tokens;
        Vec::new()
    }
}

/// The part of a model that turns images into rows, which its body takes in place of tokens' embeddings.
pub trait Vision: Send + Sync {
    /// The graph from a tile's pixels (`input pixels : f32[3 * side * side]`) to the vectors of its rows
    /// (`output rows : f32[T, width]`); where images have line ends, `output line_end : f32[1, width]`.
    fn graph(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError>;

    /// Rows of a tile's pass: a multiple of [`TILE`].
    fn rows(&self) -> usize;

    /// Rows of a tile's pass that are no padding.
    fn tokens(&self) -> usize;

    /// The token that stands for a row of an image in a prompt.
    fn token(&self) -> u32;

    /// Cuts an image into tiles, and says which of their rows stand for it.
    fn look(&self, image: &Image) -> Look;

    /// The most bytes of memory that [`Vision::look`] takes for an image of so many pixels, what it gives included.
    fn bytes_to_look(&self, width: usize, height: usize) -> u64;
}

/// An image as a model gets to see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// The pixels of each tile: all red, all green, all blue, each row by row.
    pub tiles: Vec<Vec<f32>>,
    /// The vectors that stand for the image, in order.
    pub places: Vec<Place>,
}

/// Where a vector of an image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A row of a tile's pass.
    Row {
        /// The tile.
        tile: usize,
        /// Its row.
        row: usize,
    },
    /// The end of a line of rows.
    LineEnd,
}

/// One architecture: the names under which configurations know it, and how it reads one.
pub struct Row {
    /// Names in `architectures` of a `config.json`.
    pub names: &'static [&'static str],
    /// From a configuration.
    pub read: fn(&Config) -> Result<Box<dyn Architecture>, LoadError>,
}

/// Every architecture.
pub static ARCHITECTURES: &[Row] = &[
    Row {
        names: &[
            "LlamaForCausalLM",
            "LLaMAForCausalLM",
            "MistralForCausalLM",
            "Qwen2ForCausalLM",
            "Qwen3ForCausalLM",
            "AtomForCausalLM",
        ],
        read: llama::read,
    },
    Row { names: &["LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"], read: llava::read },
    Row { names: &["ChatGLMModel", "ChatGLMForConditionalGeneration"], read: read_chatglm },
    Row { names: &["InternLM2ForCausalLM"], read: internlm2::read },
    Row { names: &["Gemma3ForCausalLM"], read: gemma3::read },
    Row { names: &["BloomForCausalLM"], read: bloom::read },
    Row { names: &["MossForCausalLM"], read: moss::read },
    Row { names: &["GPT2LMHeadModel"], read: gpt2::read },
    Row { names: &["PanguAlpha"], read: pangu::read },
    Row { names: &["GPTPanguForCausalLM"], read: pangu::read_huggingface },
    Row { names: &["BertModel"], read: bert::read },
    Row { names: &["Rwkv4", "Rwkv5", "Rwkv5_1", "Rwkv5_2", "Rwkv6", "Rwkv7"], read: rwkv::read },
    Row { names: &["RwkvForCausalLM"], read: rwkv::read_huggingface },
];

/// ChatGLM-6B and its successors go by one name; only the latter pad their vocabulary.
fn read_chatglm(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    if config.optional_count("pre_seq_len", 0..=1 << 20)?.is_some_and(|len| len > 0) {
        return Err(config.wrong("pre_seq_len", "nothing: prefixes of P-tuning are not read"));
    }
    match config.raw("padded_vocab_size") {
        Some(_) => chatglm2::read(config),
        None => chatglm::read(config),
    }
}

/// The architecture that a configuration names.
pub fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let name = config.architecture()?;
    if config.raw("quantization_config").is_some() {
        let expected = "nothing: weights quantised by other tools are read from GGUF files alone";
        return Err(config.wrong("quantization_config", expected));
    }
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
        BodyInputs::declare_within(graph, rows, vocabulary, POSITIONS as i64)
    }

    /// Declares the inputs, for a model of that many positions.
    pub fn declare_within(graph: &mut Graph, rows: Rows, vocabulary: i64, positions: i64) -> BodyInputs {
        let table_pages = graph.symbol(&Symbol::new("P", 8, 1 << 16, 8));
        let pages = graph.symbol(&Symbol::new("pages", 1, 1 << 20, 1));
        BodyInputs::declare_in(graph, rows, vocabulary, positions, [pages, table_pages])
    }

    /// Declares the inputs of a graph with a cache of its own, of so many pages.
    fn declare_cache(graph: &mut Graph, rows: Rows, positions: i64, pages: i64) -> BodyInputs {
        let table_pages = (pages as u64).next_multiple_of(8) as i64;
        BodyInputs::declare_in(graph, rows, 1, positions, [pages, table_pages].map(Expr::int))
    }

    fn declare_in(
        graph: &mut Graph,
        rows: Rows,
        vocabulary: i64,
        positions: i64,
        [pages, table_pages]: [Expr; 2],
    ) -> BodyInputs {
        let tokens = rows.extent(graph, "T");
        let each = std::slice::from_ref(&tokens);
        let sequences = Expr::int(SEQUENCES);
        let below = |end: Expr| Some((0, end));
        BodyInputs {
            ids: graph.input("ids", DType::I32, each, below(Expr::int(vocabulary))),
            position: graph.input("pos", DType::I32, each, below(Expr::int(positions))),
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

    /// Declares which rows come from images (`i32 [T]`: 1, else 0), and those (`f32 [T, width]`, of which the
    /// other rows hold anything); gives `embedded` with them in place.
    fn shown(&self, graph: &mut Graph, embedded: Node) -> Node {
        let each = std::slice::from_ref(&self.tokens);
        let space = graph.shape(embedded).to_vec();
        let shown = graph.input("shown", DType::I32, each, Some((0, Expr::int(2))));
        let rows = graph.input("rows", DType::F32, &space, None);
        let shown =
            graph.index(DType::Bool, &space, &[shown], |c| Expr::int(0).less_than(&c.extra(0, &[c.axis(0)])));
        graph.map(ScalarOp::Select, &[shown, rows, embedded])
    }

    /// How long the sequence of each row is (`i32 [T]`), if the rotation depends on it: after the pass in a chunk, so
    /// that a token turns by another angle there than alone, as in the reference implementations; else at the row, so
    /// that rows of one sequence are computed as one after another.
    fn row_lengths(&self, graph: &mut Graph, rows: Rows, rope: &Rope) -> Option<Node> {
        let each = std::slice::from_ref(&self.tokens);
        matches!(rope.scaling, RopeScaling::Dynamic { .. }).then(|| match rows {
            Rows::Many(_) => {
                graph.view(self.lengths, each, &[self.sequence], |c| vec![c.extra(0, &[c.axis(0)])])
            }
            Rows::Fixed(_) => {
                let one = jtllm_ir::build::splat_scalar(graph, DType::I32, Scalar::Int(1), each);
                graph.map(ScalarOp::Add, &[self.position, one])
            }
        })
    }

    /// Which row of `sequence` speaks for row `t`: in chunks the first of its tile, so that a tile of
    /// queries provably belongs to one sequence.
    pub fn speaker(rows: Rows) -> impl Fn(Expr) -> Expr + Copy {
        move |t: Expr| match rows {
            Rows::Fixed(_) => t,
            Rows::Many(_) => t.div_floor(TILE) * TILE,
        }
    }
}

/// The rows of a body's hidden vectors that a head works on: `f32 [R, width]`.
pub fn head_rows(graph: &mut Graph, rows: Rows, width: i64) -> Node {
    let asked = rows.extent(graph, "R");
    let tokens = graph.symbol(&Symbol::new("T", 1, TOKENS_MAX, 1));
    let hidden = graph.input("hidden", DType::F32, &[tokens.clone(), Expr::int(width)], None);
    let range = Some((0, tokens));
    let chosen = graph.input("out_rows", DType::I32, std::slice::from_ref(&asked), range);
    graph.view(hidden, &[asked, Expr::int(width)], &[chosen], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)])
}
