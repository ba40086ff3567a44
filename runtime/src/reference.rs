//! Passes on the graph interpreter: what every device is compared with.

use std::collections::BTreeMap;

use jtllm_codegen::options::Options;
use jtllm_codegen::rewrite::round_operands;
use jtllm_ir::format::split_plane_name;
use jtllm_ir::interp::{self, Bindings};
use jtllm_ir::{DType, Graph, Op, Tensor};

use crate::error::Error;
use crate::network::{
    Batch, Bucket, Graphs, Inputs, Part, SEQUENCES, TILE, body_bucket, head_bucket, table_width,
};
use crate::weights::{Locate, Weights, zeroed};

/// A model on the graph interpreter.
pub struct Reference {
    graphs: Box<dyn Graphs>,
    options: Options,
    built: BTreeMap<(Part, Bucket), Graph>,
    weights: Weights,
    tensors: BTreeMap<String, Tensor>,
    states: BTreeMap<String, Tensor>,
    outputs: BTreeMap<String, Tensor>,
    pages: usize,
}

impl Reference {
    /// A model whose cache holds `positions` positions.
    pub fn new(graphs: Box<dyn Graphs>, options: Options, positions: usize) -> Reference {
        Reference {
            graphs,
            options,
            built: BTreeMap::new(),
            weights: Weights::default(),
            tensors: BTreeMap::new(),
            states: BTreeMap::new(),
            outputs: BTreeMap::new(),
            pages: positions.div_ceil(crate::network::TILE).max(1),
        }
    }

    /// Pages of the cache.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The named output of the last pass, for its first `rows` rows.
    pub fn tap(&mut self, name: &str, rows: usize) -> Result<Vec<f32>, Error> {
        let missing = || Error::Pass { why: format!("there is no output {name}") };
        let tensor = self.outputs.get(name).ok_or_else(missing)?;
        let width = tensor.shape.get(1).copied().unwrap_or(1);
        let mut all = tensor.to_floats();
        all.truncate(rows * width);
        Ok(all)
    }

    /// Runs one pass and gives the wanted rows' logits, one after another.
    pub fn pass(&mut self, batch: &Batch, locate: &Locate<'_>) -> Result<Vec<f32>, Error> {
        let (bucket, count) = body_bucket(batch, self.graphs.chunk())?;
        let mut given = given(batch, count, table_width(self.pages));
        if let Some(shown) = &batch.shown {
            let mut flags: Vec<i32> = shown.rows.iter().map(|row| i32::from(*row)).collect();
            flags.resize(count, 0);
            let width = shown.vectors.len() / shown.rows.len().max(1);
            let mut vectors = shown.vectors.clone();
            vectors.resize(count * width, 0.0);
            given.insert("shown".to_owned(), ints(&flags, &[count]));
            given.insert("rows".to_owned(), Tensor::floats(DType::F32, &[count, width], vectors));
        }
        self.run(Part::Body, bucket, given, &[("T", count)], locate)?;
        let hidden = self.outputs["hidden"].clone();
        let mut logits = Vec::new();
        for wanted in batch.wanted.chunks(self.graphs.chunk()) {
            let (bucket, asked) = head_bucket(wanted.len());
            let mut rows: Vec<i32> = wanted.iter().map(|row| *row as i32).collect();
            rows.resize(asked, 0);
            let given = BTreeMap::from([
                ("hidden".to_owned(), hidden.clone()),
                ("out_rows".to_owned(), ints(&rows, &[asked])),
            ]);
            self.run(Part::Head, bucket, given, &[("R", asked), ("T", count)], locate)?;
            let mut all = self.outputs["logits"].to_floats();
            all.truncate(all.len() / asked * wanted.len());
            logits.extend(all);
        }
        Ok(logits)
    }

    /// Runs the pass of a tile of an image that has so many rows; its outputs are taps.
    pub fn image(&mut self, tokens: usize, pixels: &[f32], locate: &Locate<'_>) -> Result<(), Error> {
        let count = tokens.next_multiple_of(TILE);
        let mut given = given(&Batch::of_tile(tokens), count, table_width(count / TILE));
        given.insert("pixels".to_owned(), Tensor::floats(DType::F32, &[pixels.len()], pixels.to_vec()));
        self.run(Part::Image, Bucket::Many, given, &[("T", count)], locate)
    }

    fn run(
        &mut self,
        part: Part,
        bucket: Bucket,
        mut inputs: BTreeMap<String, Tensor>,
        sizes: &[(&str, usize)],
        locate: &Locate<'_>,
    ) -> Result<(), Error> {
        if !self.built.contains_key(&(part, bucket)) {
            let graph = round_operands(&self.graphs.graph(part, bucket)?, &self.options);
            self.leaves(&graph, locate)?;
            self.built.insert((part, bucket), graph);
        }
        let graph = &self.built[&(part, bucket)];
        no_images(graph, &mut inputs, sizes);
        let fixed = [("P", table_width(self.pages)), ("pages", self.pages)];
        let mut bindings = Bindings::new();
        bindings.symbols = fixed.iter().chain(sizes).map(|(n, v)| ((*n).to_owned(), *v as i64)).collect();
        bindings.inputs = inputs;
        bindings.weights = std::mem::take(&mut self.tensors);
        bindings.states = std::mem::take(&mut self.states);
        let result = interp::run(graph, &mut bindings);
        self.tensors = bindings.weights;
        self.states = bindings.states;
        let outputs = result.map_err(|error| Error::Pass { why: error.to_string() })?;
        self.outputs.extend(outputs);
        Ok(())
    }

    /// Reads the weights and makes the states that a graph mentions.
    fn leaves(&mut self, graph: &Graph, locate: &Locate<'_>) -> Result<(), Error> {
        for node in graph.nodes() {
            let record = graph.record(node);
            let sizes = record.shape.iter().map(|n| n.as_int().map_or(self.pages, |n| n as usize));
            let shape: Vec<usize> = sizes.collect();
            match &record.op {
                Op::Weight { name } if !self.tensors.contains_key(name) => {
                    let tensor = self.plane(name, record.dtype, &shape, locate)?;
                    self.tensors.insert(name.clone(), tensor);
                }
                Op::State { name } if !self.states.contains_key(name) => {
                    // A tensor takes four bytes a float, and eight an integer.
                    drop(zeroed(shape.iter().product::<usize>() as u64 * 8)?);
                    self.states.insert(name.clone(), Tensor::zeros(record.dtype, &shape));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn plane(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        locate: &Locate<'_>,
    ) -> Result<Tensor, Error> {
        let (weight, _) = split_plane_name(name);
        self.weights.source(weight, locate)?;
        let rows = if shape.len() < 2 { 1 } else { shape[..shape.len() - 1].iter().product() };
        let all: Vec<u32> = (0..rows as u32).collect();
        let mut bytes = zeroed((shape.iter().product::<usize>() * dtype.size()) as u64)?;
        self.weights.gather(name, &all, &mut bytes)?;
        let wrong = || Error::Weight { name: name.to_owned(), why: format!("its shape is not {shape:?}") };
        Tensor::from_bytes(dtype, shape, &bytes).ok_or_else(wrong)
    }
}

fn ints(values: &[i32], shape: &[usize]) -> Tensor {
    Tensor::ints(DType::I32, shape, values.iter().map(|x| i64::from(*x)).collect())
}

/// The inputs of a pass, its rows padded to `count`; `width` is the table's.
fn given(batch: &Batch, count: usize, width: usize) -> BTreeMap<String, Tensor> {
    let inputs = Inputs::of(batch, count, width);
    let mut given: BTreeMap<String, Tensor> = inputs
        .columns()
        .into_iter()
        .map(|(name, values)| (name.to_owned(), ints(values, &[values.len()])))
        .collect();
    let mut table = inputs.table.clone();
    table.resize(SEQUENCES * width, 0);
    given.insert("table".to_owned(), ints(&table, &[SEQUENCES, width]));
    for (name, values) in &inputs.facts {
        given.insert((*name).to_owned(), ints(values, &[SEQUENCES]));
    }
    given
}

/// Tells a body that asks for rows of images that there are none, where nothing was said.
fn no_images(graph: &Graph, inputs: &mut BTreeMap<String, Tensor>, sizes: &[(&str, usize)]) {
    for node in graph.nodes() {
        let record = graph.record(node);
        let Op::Input { name, .. } = &record.op else { continue };
        if !inputs.contains_key(name) && ["shown", "rows"].contains(&name.as_str()) {
            let tokens = sizes.first().map_or(0, |(_, size)| *size);
            let extent = |n: &jtllm_ir::Expr| n.as_int().map_or(tokens, |n| n as usize);
            let shape: Vec<usize> = record.shape.iter().map(extent).collect();
            inputs.insert(name.clone(), Tensor::zeros(record.dtype, &shape));
        }
    }
}
