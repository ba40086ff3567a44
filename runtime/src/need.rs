//! How much memory a model takes of a device, layer by layer, before any of it is allocated.

use jtllm_codegen::canon::canon;
use jtllm_codegen::compile;
use jtllm_codegen::options::Options;
use jtllm_codegen::schedule::{Argument, layout};
use jtllm_codegen::target::Caps;
use jtllm_ir::{DType, Graph, Node, Op};

use crate::error::Error;
use crate::network::{Bucket, Graphs, Part, SEQUENCES, TILE, table_width};
use crate::plan::{Sizes, Values, bytes_of, positions};

/// Buffers of a plan live side by side at most so often: those of a layer's widest values.
const WIDEST_AT_ONCE: u64 = 4;

/// Bytes of memory that a model takes: weights, cache and buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Weights and cache of each layer.
    pub layers: Vec<u64>,
    /// Weights of the head, of what follows the last layer, and of what sees images.
    pub head: u64,
    /// Buffers of a chunk, about, and what decode attention hands on between its kernels.
    pub buffers: u64,
}

impl Need {
    /// What a model asks for on a device of these caps, with a cache of so many positions that so many
    /// sequences share.
    ///
    /// # Errors
    /// A graph cannot be built.
    pub fn of(graphs: &dyn Graphs, caps: &Caps, positions: usize, sequences: usize) -> Result<Need, Error> {
        let pages = positions.div_ceil(TILE).max(1);
        let rows = graphs.chunk().max(SEQUENCES);
        let each = [("T", rows), ("R", SEQUENCES), ("P", table_width(pages)), ("pages", pages)];
        let limits: Sizes = each.into_iter().map(|(name, value)| (name.to_owned(), value as i64)).collect();
        let body = canon(&graphs.graph(Part::Body, Bucket::Many)?).graph;
        let head = canon(&graphs.graph(Part::Head, Bucket::Fixed(1))?).graph;
        let mut layers = vec![0; body.layers.len()];
        let mut last = 0;
        for node in body.nodes() {
            let place = body.layers.partition_point(|end| *end < node);
            *layers.get_mut(place).unwrap_or(&mut last) += resident(&body, node, caps, &limits);
        }
        let all = |graph: &Graph| graph.nodes().map(|node| resident(graph, node, caps, &limits)).sum::<u64>();
        last += all(&head);
        if let Ok(image) = graphs.graph(Part::Image, Bucket::Many) {
            last += all(&canon(&image).graph);
        }
        let given = given(&body, &limits) + given(&head, &limits);
        let mut buffers = widest(&body, &limits) * WIDEST_AT_ONCE + given;
        // Each number of rows has a plan of its own.
        let most = sequences.clamp(1, SEQUENCES).next_power_of_two();
        for rows in (0..).map(|power| 1 << power).take_while(|rows| *rows <= most) {
            buffers += handed_on(graphs, caps, rows, &limits)?;
        }
        Ok(Need { layers, head: last, buffers })
    }

    /// Bytes for the head and the last `count - 1` layers; nothing for 0.
    pub fn bytes(&self, count: usize) -> u64 {
        match count.checked_sub(1) {
            None => 0,
            Some(layers) => self.layers.iter().rev().take(layers).sum::<u64>() + self.head + self.buffers,
        }
    }

    /// Bytes for the whole model.
    pub fn all(&self) -> u64 {
        self.bytes(self.layers.len() + 1)
    }

    /// The largest count of [`Need::bytes`] that fits in so many bytes.
    pub fn most(&self, memory: u64) -> usize {
        (0..=self.layers.len() + 1).rev().find(|count| self.bytes(*count) <= memory).unwrap_or(0)
    }
}

/// The bytes of a leaf that stays in memory from pass to pass.
fn resident(graph: &Graph, node: Node, caps: &Caps, limits: &Sizes) -> u64 {
    let (shape, dtype) = (graph.shape(node), graph.dtype(node));
    match graph.op(node) {
        Op::Weight { name } => {
            layout(name, shape.len(), caps).len(shape).high().max(0) as u64 * dtype.size() as u64
        }
        Op::State { .. } => bytes_of(shape, dtype, limits),
        _ => 0,
    }
}

/// The bytes of the largest value that kernels leave for others: sums with a row for each token. Those with a
/// column for each position are scores of attention, which stay in registers.
fn widest(graph: &Graph, limits: &Sizes) -> u64 {
    let is_row = |node: &Node| match graph.shape(*node) {
        [first, rest @ ..] => first.as_int().is_none() && rest.iter().all(|n| n.as_int().is_some()),
        [] => false,
    };
    let sums = graph.nodes().filter(|node| matches!(graph.op(*node), Op::Reduce { .. }));
    let bytes = sums.filter(is_row).map(|node| bytes_of(graph.shape(node), DType::F32, limits));
    bytes.max().unwrap_or(0)
}

/// The bytes that the kernels of one region hand on to each other where so many rows are decoded: layers do so one
/// after another, in the same place.
fn handed_on(graphs: &dyn Graphs, caps: &Caps, rows: usize, limits: &Sizes) -> Result<u64, Error> {
    if caps.attend_groups == 0 {
        return Ok(0);
    }
    let graph = graphs.graph(Part::Body, Bucket::Fixed(rows))?;
    let options = Options { positions: positions(limits), ..Options::default() };
    let compilation = compile(&graph, caps, &options);
    let bytes = compilation.steps.iter().flat_map(|step| &step.arguments).map(|argument| match argument {
        Argument::Scratch(_, bytes) => bytes.evaluate(&Values(limits)).max(0) as u64,
        _ => 0,
    });
    Ok(bytes.max().unwrap_or(0))
}

/// The bytes of inputs and outputs.
fn given(graph: &Graph, limits: &Sizes) -> u64 {
    let inputs = graph.nodes().filter(|node| matches!(graph.op(*node), Op::Input { .. }));
    let all = inputs.chain(graph.outputs.iter().map(|(_, node)| *node));
    all.map(|node| bytes_of(graph.shape(node), graph.dtype(node), limits)).sum()
}
