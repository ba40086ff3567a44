//! LLaMA and its kin: LLaMA 1 to 3, Mistral, Qwen 1.5 and 2, Atom, BELLE-LLaMA, SmolLM2.
//!
//! Pre-norm blocks of rotary attention with grouped heads and a SwiGLU feed-forward layer (Touvron et al.,
//! 2023). Tensor names are Hugging Face's.

use std::path::PathBuf;

use jtllm_ir::build::{
    self, Attention, Cache, PAGE, Pairing, Rope, RopeScaling, attention, linear, linear_heads, rms_norm,
    rotary_table, rotate, swiglu, write_keys, write_values,
};
use jtllm_ir::{DType, Expr, Graph, Node};

use super::{Architecture, BodyInputs, Pass, Weights, head_rows};
use crate::config::{Config, Fields};
use crate::error::LoadError;

struct Llama {
    /// The configuration file, for errors.
    source: PathBuf,
    vocabulary: i64,
    width: i64,
    layers: i64,
    heads: i64,
    key_heads: i64,
    head_width: i64,
    inner: i64,
    epsilon: f32,
    rope: Rope,
    tied: bool,
    attention_bias: AttentionBias,
    inner_bias: bool,
    window: Option<i64>,
    positions: usize,
}

/// Which projections of attention add a bias.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AttentionBias {
    None,
    /// Queries, keys and values (Qwen 1.5 and 2).
    Inputs,
    /// The output as well.
    All,
}

/// Reads a configuration of the family.
pub(super) fn read(config: &Config) -> Result<Box<dyn Architecture>, LoadError> {
    let qwen = config.architecture()?.starts_with("Qwen2");
    let size = |field: &str, most: u64| config.count(field, 1..=most).map(|n| n as i64);
    let width = size("hidden_size", SIZE_MAX)?;
    let heads = size("num_attention_heads", HEADS_MAX)?;
    let key_heads = match config.optional_count("num_key_value_heads", 1..=HEADS_MAX)? {
        Some(count) if heads % count as i64 != 0 => {
            return Err(
                config.wrong("num_key_value_heads", format!("a divisor of num_attention_heads ({heads})"))
            );
        }
        Some(count) => count as i64,
        None => heads,
    };
    let head_width = match config.optional_count("head_dim", 1..=HEADS_MAX)? {
        Some(width) => width as i64,
        None if width % heads == 0 => width / heads,
        None => {
            return Err(config.wrong("hidden_size", format!("a multiple of num_attention_heads ({heads})")));
        }
    };
    if !matches!(config.optional_text("hidden_act")?, None | Some("silu")) {
        return Err(config.wrong("hidden_act", "silu"));
    }
    let attention_bias = match (qwen, config.optional_flag("attention_bias")?.unwrap_or(false)) {
        (true, _) => AttentionBias::Inputs,
        (false, true) => AttentionBias::All,
        (false, false) => AttentionBias::None,
    };
    Ok(Box::new(Llama {
        source: config.file().to_owned(),
        vocabulary: size("vocab_size", 1 << 24)?,
        width,
        layers: size("num_hidden_layers", HEADS_MAX)?,
        heads,
        key_heads,
        head_width,
        inner: size("intermediate_size", SIZE_MAX)?,
        epsilon: config.optional_number("rms_norm_eps", 0.0..=1.0)?.unwrap_or(1e-6) as f32,
        rope: rope(config, head_width)?,
        tied: config.optional_flag("tie_word_embeddings")?.unwrap_or(false),
        attention_bias,
        inner_bias: config.optional_flag("mlp_bias")?.unwrap_or(false),
        window: window(config, qwen)?,
        positions: positions(config)? as usize,
    }))
}

/// The widest layer that is believed.
const SIZE_MAX: u64 = 1 << 20;

/// The most heads, layers, or coordinates of a head that are believed.
const HEADS_MAX: u64 = 4096;

/// The longest context that is believed.
const POSITIONS_MAX: u64 = 1 << 24;

fn positions(config: &Config) -> Result<i64, LoadError> {
    Ok(config.optional_count("max_position_embeddings", 1..=POSITIONS_MAX)?.unwrap_or(2048) as i64)
}

/// Qwen names a window that it uses only on request.
fn window(config: &Config, qwen: bool) -> Result<Option<i64>, LoadError> {
    if qwen && !config.optional_flag("use_sliding_window")?.unwrap_or(false) {
        return Ok(None);
    }
    Ok(config.optional_count("sliding_window", 1..=POSITIONS_MAX)?.map(|n| n as i64))
}

fn rope(config: &Config, head_width: i64) -> Result<Rope, LoadError> {
    let fraction = config.optional_number("partial_rotary_factor", 0.0..=1.0)?.unwrap_or(1.0);
    let width = match config.optional_count("rotary_dim", 2..=HEADS_MAX)? {
        Some(width) => width as i64,
        None => (head_width as f64 * fraction) as i64,
    };
    if width < 2 || width % 2 != 0 || width > head_width {
        return Err(config.wrong("head_dim", "an even number of coordinates, at least 2"));
    }
    let scaling = match config.rope_scaling()? {
        Some(fields) => scaling(&fields, positions(config)?)?,
        None => RopeScaling::None,
    };
    let pairing = if config.rope_interleaved { Pairing::Interleaved } else { Pairing::HalfSplit };
    Ok(Rope { width, base: config.rope_theta()?, pairing, scaling })
}

fn scaling(fields: &Fields, trained: i64) -> Result<RopeScaling, LoadError> {
    let original = fields.optional_count("original_max_position_embeddings", 1..=POSITIONS_MAX)?;
    let original = original.map_or(trained, |n| n as i64);
    let positive = 1e-6..=1e6;
    let factor = || fields.number("factor", positive.clone());
    let or = |field: &str, default: f64| {
        fields.optional_number(field, positive.clone()).map(|value| value.unwrap_or(default))
    };
    match fields.text("rope_type")? {
        "default" | "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: factor()? }),
        "dynamic" => Ok(RopeScaling::Dynamic { factor: factor()?, original }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: factor()?,
            low: fields.number("low_freq_factor", positive.clone())?,
            high: fields.number("high_freq_factor", positive.clone())?,
            original: original as f64,
        }),
        "yarn" => Ok(RopeScaling::Yarn {
            factor: factor()?,
            beta_fast: or("beta_fast", 32.0)?,
            beta_slow: or("beta_slow", 1.0)?,
            original: original as f64,
            attention_factor: fields.optional_number("attention_factor", positive.clone())?,
        }),
        "factors" => {
            let factors = fields.numbers("factors", positive.clone())?;
            Ok(RopeScaling::Factors(factors.into_iter().map(|factor| factor as f32).collect()))
        }
        _ => Err(fields.wrong("rope_type", "default, linear, dynamic, llama3 or yarn")),
    }
}

/// A body under construction.
struct Body<'a> {
    model: &'a Llama,
    weights: &'a dyn Weights,
    graph: Graph,
    pass: Pass,
}

impl Body<'_> {
    fn vector(&mut self, name: &str, len: i64) -> Result<Node, LoadError> {
        self.model.weight(self.weights, &mut self.graph, name, &[len])
    }

    fn matrix(&mut self, name: &str, rows: i64, columns: i64) -> Result<Node, LoadError> {
        self.model.weight(self.weights, &mut self.graph, name, &[rows, columns])
    }

    fn tap(&mut self, name: &str, node: Node) {
        if self.pass.taps {
            self.graph.output(name, node);
        }
    }

    /// `x` projected to heads: `[T, heads, width of a head]`.
    fn heads(&mut self, x: Node, name: &str, heads: i64) -> Result<Node, LoadError> {
        let (width, head_width) = (self.model.width, self.model.head_width);
        let weight = self.matrix(&format!("{name}.weight"), heads * head_width, width)?;
        let bias = match self.model.attention_bias {
            AttentionBias::None => None,
            _ => Some(self.vector(&format!("{name}.bias"), heads * head_width)?),
        };
        Ok(linear_heads(&mut self.graph, x, weight, bias, [heads, head_width]))
    }

    fn attention(
        &mut self,
        x: Node,
        layer: i64,
        inputs: &BodyInputs,
        table: [Node; 2],
    ) -> Result<Node, LoadError> {
        let m = self.model;
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
        let q = self.heads(x, &name("q_proj"), m.heads)?;
        let k = self.heads(x, &name("k_proj"), m.key_heads)?;
        let v = self.heads(x, &name("v_proj"), m.key_heads)?;
        let pass = self.pass;
        let graph = &mut self.graph;
        let q = rotate(graph, q, table, &m.rope);
        let k = rotate(graph, k, table, &m.rope);
        let pages = &inputs.pages;
        let (heads, width, page) = (Expr::int(m.key_heads), Expr::int(m.head_width), Expr::int(PAGE));
        let keys = [pages.clone(), heads.clone(), width.clone(), page.clone()];
        let keys = graph.state(&format!("layers.{layer}.keys"), pass.keys, &keys);
        let values = [pages.clone(), heads, page, width];
        let values = graph.state(&format!("layers.{layer}.values"), pass.values, &values);
        let keys = write_keys(graph, keys, k, inputs.slot);
        let values = write_values(graph, values, v, inputs.slot);
        let cache = Cache { keys, values, table: inputs.table };
        let window = m.window;
        let mixed = attention(
            graph,
            q,
            &cache,
            &Attention {
                scale: 1.0 / (m.head_width as f32).sqrt(),
                group: m.heads / m.key_heads,
                sequence: inputs.sequence,
                extras: &[inputs.position],
                row: &BodyInputs::speaker(pass.rows),
                visible: &|c, token, j| {
                    let position = c.extra(1, &[token]);
                    let causal = j.at_most(&position);
                    match window {
                        None => causal,
                        Some(window) => causal.and(&position.less_than(&(j + window))),
                    }
                },
            },
        );
        let space = [inputs.tokens.clone(), Expr::int(m.heads * m.head_width)];
        let width = m.head_width;
        let flat = graph.view(mixed, &space, &[], |c| {
            vec![c.axis(0), c.axis(1).div_floor(width), c.axis(1).modulo(width)]
        });
        let weight = self.matrix(&name("o_proj.weight"), m.width, m.heads * m.head_width)?;
        let bias = match m.attention_bias {
            AttentionBias::All => Some(self.vector(&name("o_proj.bias"), m.width)?),
            _ => None,
        };
        Ok(linear(&mut self.graph, flat, weight, bias))
    }

    fn feed_forward(&mut self, x: Node, layer: i64) -> Result<Node, LoadError> {
        let m = self.model;
        let project = |body: &mut Self, x: Node, part: &str, rows: i64, columns: i64| {
            let name = format!("model.layers.{layer}.mlp.{part}");
            let weight = body.matrix(&format!("{name}.weight"), rows, columns)?;
            let bias = match m.inner_bias {
                true => Some(body.vector(&format!("{name}.bias"), rows)?),
                false => None,
            };
            Ok(linear(&mut body.graph, x, weight, bias))
        };
        let gate = project(self, x, "gate_proj", m.inner, m.width)?;
        let up = project(self, x, "up_proj", m.inner, m.width)?;
        let inner = swiglu(&mut self.graph, gate, up);
        project(self, inner, "down_proj", m.width, m.inner)
    }
}

impl Llama {
    fn weight(
        &self,
        weights: &dyn Weights,
        graph: &mut Graph,
        name: &str,
        shape: &[i64],
    ) -> Result<Node, LoadError> {
        let format = weights.format(name).ok_or_else(|| LoadError::Missing {
            file: self.source.clone(),
            what: "tensors",
            names: vec![name.to_owned()],
        })?;
        let shape: Vec<Expr> = shape.iter().map(|n| Expr::int(*n)).collect();
        Ok(format.weight(graph, name, &shape))
    }

    fn head_name(&self) -> &'static str {
        if self.tied { "model.embed_tokens.weight" } else { "lm_head.weight" }
    }
}

impl Architecture for Llama {
    fn body(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut body = Body { model: self, weights, graph: Graph::new("body"), pass };
        let inputs = BodyInputs::declare(&mut body.graph, pass.rows, self.vocabulary);
        let embedding = body.matrix("model.embed_tokens.weight", self.vocabulary, self.width)?;
        let space = [inputs.tokens.clone(), Expr::int(self.width)];
        let mut hidden =
            body.graph.view(embedding, &space, &[inputs.ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
        let length = self.longest(&mut body.graph, &inputs);
        let table = rotary_table(&mut body.graph, &self.rope, inputs.position, length);
        body.tap("hidden.embed", hidden);
        for layer in 0..self.layers {
            let norm = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let weight = body.vector(&norm("input_layernorm"), self.width)?;
            let x = rms_norm(&mut body.graph, hidden, weight, self.epsilon);
            let mixed = body.attention(x, layer, &inputs, table)?;
            hidden = build::add(&mut body.graph, hidden, mixed);
            let weight = body.vector(&norm("post_attention_layernorm"), self.width)?;
            let x = rms_norm(&mut body.graph, hidden, weight, self.epsilon);
            let inner = body.feed_forward(x, layer)?;
            hidden = build::add(&mut body.graph, hidden, inner);
            body.tap(&format!("hidden.layer{layer}"), hidden);
        }
        body.graph.output("hidden", hidden);
        Ok(body.graph)
    }

    fn head(&self, weights: &dyn Weights, pass: Pass) -> Result<Graph, LoadError> {
        let mut graph = Graph::new("head");
        let rows = head_rows(&mut graph, pass.rows, self.width);
        let weight = self.weight(weights, &mut graph, "model.norm.weight", &[self.width])?;
        let x = rms_norm(&mut graph, rows, weight, self.epsilon);
        if pass.taps {
            graph.output("hidden.final_norm", x);
        }
        let weight = self.weight(weights, &mut graph, self.head_name(), &[self.vocabulary, self.width])?;
        let logits = linear(&mut graph, x, weight, None);
        graph.output("logits", logits);
        Ok(graph)
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary as usize
    }

    fn positions(&self) -> usize {
        self.positions
    }

    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        let (width, inner) = (self.width as u64, self.inner as u64);
        let queries = (self.heads * self.head_width) as u64;
        let keys = (self.key_heads * self.head_width) as u64;
        let mut all = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocabulary as u64, width]),
            ("model.norm.weight".to_owned(), vec![width]),
        ];
        if !self.tied {
            all.push(("lm_head.weight".to_owned(), vec![self.vocabulary as u64, width]));
        }
        for layer in 0..self.layers {
            let mut add = |part: &str, shape: &[u64]| {
                all.push((format!("model.layers.{layer}.{part}"), shape.to_vec()));
            };
            add("input_layernorm.weight", &[width]);
            add("post_attention_layernorm.weight", &[width]);
            for (part, rows) in [("q", queries), ("k", keys), ("v", keys)] {
                add(&format!("self_attn.{part}_proj.weight"), &[rows, width]);
                if self.attention_bias != AttentionBias::None {
                    add(&format!("self_attn.{part}_proj.bias"), &[rows]);
                }
            }
            add("self_attn.o_proj.weight", &[width, queries]);
            if self.attention_bias == AttentionBias::All {
                add("self_attn.o_proj.bias", &[width]);
            }
            for (part, rows, columns) in
                [("gate", inner, width), ("up", inner, width), ("down", width, inner)]
            {
                add(&format!("mlp.{part}_proj.weight"), &[rows, columns]);
                if self.inner_bias {
                    add(&format!("mlp.{part}_proj.bias"), &[rows]);
                }
            }
        }
        all
    }
}

impl Llama {
    /// The longest sequence's length, where the rotation depends on it.
    fn longest(&self, graph: &mut Graph, inputs: &BodyInputs) -> Option<Node> {
        if !matches!(self.rope.scaling, RopeScaling::Dynamic { .. }) {
            return None;
        }
        let lengths = graph
            .view(inputs.lengths, &[Expr::int(1), Expr::int(super::SEQUENCES)], &[], |c| vec![c.axis(1)]);
        debug_assert_eq!(graph.dtype(lengths), DType::I32);
        Some(graph.reduce(jtllm_ir::Monoid::Max, lengths, &[1]))
    }
}
