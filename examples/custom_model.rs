//! An architecture of one's own, generated from by the engine that serves every other model.
//!
//! ```text
//! cargo run --example custom_model
//! ```
//!
//! The model is a small language model over bytes. Its layers are *parallel*: attention and feed-forward read
//! the same norm, and both are added to the hidden vector (as in GPT-J and PaLM); all query heads share one
//! head of keys and values, and the feed-forward part is a gated `tanh`. Its weights are random, in a folder
//! such as Hugging Face's that is gone when the program ends.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use jtllm_models::arch::{Architecture, BodyInputs, Pass, Weights, head_rows};
use jtllm_models::sample::{Sampler, Sampling};
use jtllm_models::{Checkpoint, Config, LoadError};
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::ir::build::{
    Attention, Cache, PAGE, Pairing, Rope, RopeScaling, add, attention, linear, linear_heads, mul, rms_norm,
    rotary_table, rotate, silu, write_keys, write_values,
};
use jtllm_runtime::ir::{DType, Expr, Graph, Node, ScalarOp};
use jtllm_runtime::residence::Limit;
use jtllm_serve::{Backend, Engine, LoadOptions, Model, Place, Request};
use serde_json::{Map, Value, json};

/// An architecture with its numbers: what a file in `models/src/arch/` holds.
struct Parallel {
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    inner: i64,
}

impl Parallel {
    /// Reads the configuration. Each field has a range; what breaks it is an error that names file and field.
    fn read(config: &Config) -> Result<Parallel, LoadError> {
        let size = |field: &str| config.count(field, 1..=1 << 16).map(|n| n as i64);
        let (width, heads) = (size("hidden_size")?, size("num_attention_heads")?);
        if width % (2 * heads) != 0 {
            return Err(config.wrong("hidden_size", format!("a multiple of twice the heads ({heads})")));
        }
        let (layers, inner) = (size("num_hidden_layers")?, size("intermediate_size")?);
        Ok(Parallel { vocabulary: size("vocab_size")?, width, layers, heads, inner })
    }

    fn head_width(&self) -> i64 {
        self.width / self.heads
    }

    /// Every tensor, with its shape. Names are the checkpoint's.
    fn shapes(&self) -> Vec<(String, Vec<i64>)> {
        let (width, inner, head) = (self.width, self.inner, self.head_width());
        let mut all = vec![
            ("embedding".to_owned(), vec![self.vocabulary, width]),
            ("norm".to_owned(), vec![width]),
            ("head".to_owned(), vec![self.vocabulary, width]),
        ];
        for layer in 0..self.layers {
            let parts = [
                ("norm", vec![width]),
                ("queries", vec![width, width]),
                ("keys", vec![head, width]),
                ("values", vec![head, width]),
                ("mixed", vec![width, width]),
                ("gate", vec![inner, width]),
                ("up", vec![inner, width]),
                ("down", vec![width, inner]),
            ];
            all.extend(parts.map(|(part, shape)| (format!("layers.{layer}.{part}"), shape)));
        }
        all
    }

    /// A weight by name. The checkpoint says how its numbers are packed, and the graph unpacks them: the model
    /// is the same for `f32` and for four bits.
    fn weight(&self, graph: &mut Graph, weights: &dyn Weights, name: &str) -> Result<Node, LoadError> {
        let missing = || LoadError::Missing {
            file: "the checkpoint".into(),
            what: "tensors",
            names: vec![name.to_owned()],
        };
        let (_, shape) = self.shapes().into_iter().find(|(known, _)| known == name).ok_or_else(missing)?;
        let sizes: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
        let format = weights.format(name, &sizes)?;
        let shape: Vec<Expr> = shape.into_iter().map(Expr::int).collect();
        Ok(format.weight(graph, name, &shape))
    }

    /// Attention of the rows `x` to their own past. New keys and values go to the cache first.
    fn attention(
        &self,
        graph: &mut Graph,
        [queries, keys, values]: [Node; 3],
        layer: i64,
        inputs: &BodyInputs,
        pass: Pass,
    ) -> Node {
        let rope = Rope {
            width: self.head_width(),
            base: 1e4,
            pairing: Pairing::HalfSplit,
            scaling: RopeScaling::None,
        };
        let table = rotary_table(graph, &rope, inputs.position, None);
        let queries = rotate(graph, queries, table, &rope);
        let keys = rotate(graph, keys, table, &rope);
        // The cache is a state: tensors of pages that live as long as the model does.
        let (pages, one) = (inputs.pages.clone(), Expr::int(1));
        let (width, page) = (Expr::int(self.head_width()), Expr::int(PAGE));
        let shape = [pages.clone(), one.clone(), width.clone(), page.clone()];
        let old_keys = graph.state(&format!("layers.{layer}.keys"), pass.keys, &shape);
        let shape = [pages, one, page, width];
        let old_values = graph.state(&format!("layers.{layer}.values"), pass.values, &shape);
        let keys = write_keys(graph, old_keys, keys, inputs.slot);
        let values = write_values(graph, old_values, values, inputs.slot);
        let spec = Attention {
            scale: 1.0 / (self.head_width() as f32).sqrt(),
            group: self.heads,
            sequence: inputs.sequence,
            extras: &[inputs.position],
            row: &BodyInputs::speaker(pass.rows),
            slopes: None,
            visible: &|c, token, place| place.at_most(&c.extra(1, &[token])),
        };
        attention(graph, queries, &Cache { keys, values, table: inputs.table }, &spec)
    }

    /// What a layer adds to the hidden vectors.
    fn layer(
        &self,
        graph: &mut Graph,
        weights: &dyn Weights,
        hidden: Node,
        layer: i64,
        inputs: &BodyInputs,
        pass: Pass,
    ) -> Result<Node, LoadError> {
        let weight =
            |graph: &mut Graph, part: &str| self.weight(graph, weights, &format!("layers.{layer}.{part}"));
        let norm = weight(graph, "norm")?;
        let x = rms_norm(graph, hidden, norm, 1e-5);
        let heads = |graph: &mut Graph, part: &str, count: i64| -> Result<Node, LoadError> {
            let matrix = weight(graph, part)?;
            Ok(linear_heads(graph, x, matrix, None, [count, self.head_width()]))
        };
        let queries = heads(graph, "queries", self.heads)?;
        let (keys, values) = (heads(graph, "keys", 1)?, heads(graph, "values", 1)?);
        let mixed = self.attention(graph, [queries, keys, values], layer, inputs, pass);
        // `[T, heads, width of a head]` read as `[T, width]`.
        let space = [inputs.tokens.clone(), Expr::int(self.width)];
        let head = self.head_width();
        let mixed = graph
            .view(mixed, &space, &[], |c| vec![c.axis(0), c.axis(1).div_floor(head), c.axis(1).modulo(head)]);
        let matrix = weight(graph, "mixed")?;
        let mixed = linear(graph, mixed, matrix, None);

        let (gate, up) = (weight(graph, "gate")?, weight(graph, "up")?);
        let (gate, up) = (linear(graph, x, gate, None), linear(graph, x, up, None));
        let (gate, up) = (silu(graph, gate), graph.map(ScalarOp::Tanh, &[up]));
        let joined = mul(graph, gate, up);
        let matrix = weight(graph, "down")?;
        let fed = linear(graph, joined, matrix, None);
        Ok(add(graph, mixed, fed))
    }
}

/// What the engine asks of an architecture. Graphs are flat in tokens: the same two functions build the graphs
/// for one token, for a chunk of a prompt, and for rows of several sequences; `pass.rows` is the difference.
impl Architecture for Parallel {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut graph = Graph::new("body");
        let inputs = BodyInputs::declare(&mut graph, pass.rows, self.vocabulary);
        let table = self.weight(&mut graph, weights, "embedding")?;
        let space = [inputs.tokens.clone(), Expr::int(self.width)];
        let mut hidden =
            graph.view(table, &space, &[inputs.ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
        for layer in 0..self.layers {
            let change = self.layer(&mut graph, weights, hidden, layer, &inputs, pass)?;
            hidden = add(&mut graph, hidden, change);
        }
        graph.output("hidden", hidden);
        Ok(graph)
    }

    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut graph = Graph::new("head");
        let rows = head_rows(&mut graph, pass.rows, self.width);
        let norm = self.weight(&mut graph, weights, "norm")?;
        let x = rms_norm(&mut graph, rows, norm, 1e-5);
        let matrix = self.weight(&mut graph, weights, "head")?;
        let logits = linear(&mut graph, x, matrix, None);
        graph.output("logits", logits);
        Ok(graph)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary as usize
    }

    fn positions(&self) -> usize {
        256
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let config = json!({
        "architectures": ["ParallelForCausalLM"],
        "vocab_size": 256,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string())?;
    let parallel =
        Parallel::read(&Config::from_json(config.to_string().as_bytes(), Path::new("config.json"))?)?;
    write_random_weights(&folder.path().join("model.safetensors"), &parallel.shapes())?;

    let prompt: Vec<u32> = "The sun rises in the ".bytes().map(u32::from).collect();
    let (compiled, ids) = generate(folder.path(), Backend::Cpu, &prompt)?;
    println!("machine code generates      {ids:?}");
    let (interpreted, same) = generate(folder.path(), Backend::Graph, &prompt)?;
    println!("the interpreter generates   {same:?}");
    let difference = compiled.iter().zip(&interpreted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("logits of the prompt's {} tokens differ by at most {difference:e}", prompt.len());
    if ids == same && difference < 1e-4 { Ok(()) } else { Err("the two disagree".into()) }
}

/// The logits of all tokens of a prompt, and the likeliest continuation.
fn generate(folder: &Path, backend: Backend, prompt: &[u32]) -> Result<(Vec<f32>, Vec<u32>), Box<dyn Error>> {
    let checkpoint = Checkpoint::open(folder)?;
    let parallel = Arc::new(Parallel::read(checkpoint.config())?);
    let options = LoadOptions {
        backend,
        place: Place::default(),
        threads: 2,
        context: parallel.positions(),
        compute: Compute::Auto,
        keys: DType::F32,
        values: DType::F32,
        taps: false,
        sequences: 1,
        memory: Limit::default(),
    };
    // An architecture with a row in `jtllm_models::arch::ARCHITECTURES` is found by the name in its
    // configuration, and `Model::load` will do.
    let vocabulary = parallel.vocabulary();
    let model = Model::with_architecture(checkpoint, parallel, options, KernelCache::off("an example"))?;
    // Tokens are bytes, so there is no tokenizer: the engine gives ids and leaves the text to us.
    let mut engine = Engine::new(model, None);
    let logits = engine.feed(prompt, true)?;
    let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() }, vocabulary)?;
    let request = Request {
        prompt: prompt.to_vec(),
        max_tokens: Some(16),
        end_ids: Vec::new(),
        stops: Vec::new(),
        images: Vec::new(),
        shift_keep: None,
    };
    let answer = engine.generate(&request, &mut sampler, &mut |_, _| ControlFlow::Continue(()))?;
    Ok((logits, answer.ids))
}

/// Writes a safetensors file: the header's length, the header, the tensors' bytes.
fn write_random_weights(path: &Path, shapes: &[(String, Vec<i64>)]) -> std::io::Result<()> {
    let mut header = Map::new();
    let mut tensors: Vec<u8> = Vec::new();
    let mut state = 1u32;
    for (name, shape) in shapes {
        let start = tensors.len();
        // Norms begin as ones; matrices keep the size of what they multiply.
        let (mean, size) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, (3.0 / shape[1] as f32).sqrt()) };
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            let unit = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            tensors.extend((mean + size * unit).to_le_bytes());
        }
        let place = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, tensors.len()] });
        header.insert(name.clone(), place);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], header.as_bytes(), &tensors].concat())
}
