//! Graph interpreter against compiled kernels on the loop-IR interpreter, for every caps.
#![allow(clippy::unwrap_used)]

mod common;

use common::{all_caps, compiled, difference, noise, run};
use jtllm_codegen::target::Caps;
use jtllm_ir::build::{
    self, Attention, Cache, Pairing, Rope, RopeScaling, attention, linear, linear_heads, rms_norm,
    rotary_table, rotate, swiglu, write_keys, write_values,
};
use jtllm_ir::expr::Symbol;
use jtllm_ir::format::{FORMATS, Format};
use jtllm_ir::interp::Bindings;
use jtllm_ir::{DType, Expr, Graph, Node, Tensor};

/// Sums of a few hundred products in another order.
const TOLERANCE: f32 = 2e-6;

/// Exponentials of scores around 10, whose own rounding they magnify.
const ATTENTION_TOLERANCE: f32 = 1e-5;

struct Case {
    graph: Graph,
    bindings: Bindings,
    seed: u64,
    tolerance: f32,
}

impl Case {
    fn new(name: &str) -> Case {
        Case { graph: Graph::new(name), bindings: Bindings::new(), seed: 7, tolerance: TOLERANCE }
    }

    fn floats(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| noise(&mut self.seed) * scale).collect()
    }

    fn input(&mut self, name: &str, shape: &[Expr], sizes: &[usize]) -> Node {
        let values = self.floats(sizes.iter().product(), 1.0);
        self.bindings.inputs.insert(name.to_owned(), Tensor::floats(DType::F32, sizes, values));
        self.graph.input(name, DType::F32, shape, None)
    }

    fn ints(
        &mut self,
        name: &str,
        shape: &[Expr],
        sizes: &[usize],
        range: (i64, Expr),
        values: Vec<i64>,
    ) -> Node {
        self.bindings.inputs.insert(name.to_owned(), Tensor::ints(DType::I32, sizes, values));
        self.graph.input(name, DType::I32, shape, Some(range))
    }

    fn weight(&mut self, format: &'static Format, name: &str, shape: &[usize]) -> Node {
        let columns = *shape.last().unwrap();
        let rows = shape.iter().product::<usize>() / columns;
        for plane in format.planes {
            let mut sizes = shape.to_vec();
            *sizes.last_mut().unwrap() = columns / plane.span;
            let count = rows * columns / plane.span;
            let tensor = match plane.dtype {
                DType::U32 => {
                    let mut word = || i64::from((noise(&mut self.seed) * 2e9) as i32 as u32);
                    let words = (0..count).map(|_| word()).collect();
                    Tensor::ints(DType::U32, &sizes, words)
                }
                dtype => {
                    // So that scores of attention are a few units large, as in models.
                    let scale = if format.is_direct() { 1.0 } else { 0.01 };
                    Tensor::floats(dtype, &sizes, self.floats(count, scale))
                }
            };
            self.bindings.weights.insert(format.plane_name(name, plane), tensor);
        }
        let shape: Vec<Expr> = shape.iter().map(|n| Expr::int(*n as i64)).collect();
        format.weight(&mut self.graph, name, &shape)
    }

    /// Compares all outputs and states for every caps.
    fn check(self) {
        let mut reference = self.bindings.clone();
        let expected = jtllm_ir::interp::run(&self.graph, &mut reference).unwrap();
        for (what, caps) in all_caps() {
            let mut bindings = self.bindings.clone();
            let compilation = compiled(&self.graph, &caps);
            let found = run(&compilation, &caps, &mut bindings);
            for (name, tensor) in &expected {
                let error = difference(&found[name], &tensor.to_floats());
                assert!(
                    error < self.tolerance,
                    "{} {what}: output {name} differs by {error}",
                    self.graph.name
                );
            }
            for (name, state) in &reference.states {
                let error = difference(&bindings.states[name].to_floats(), &state.to_floats());
                assert!(error < 1e-3, "{} {what}: state {name} differs by {error}", self.graph.name);
            }
        }
    }
}

fn int(n: usize) -> Expr {
    Expr::int(n as i64)
}

fn rows(graph: &mut Graph, bindings: &mut Bindings, count: usize) -> Expr {
    if count <= 16 {
        return int(count);
    }
    bindings.symbols.insert("T".to_owned(), count as i64);
    graph.symbol(&Symbol::new("T", 16, 512, 16))
}

#[test]
fn linear_layers_of_every_format() {
    for format in FORMATS {
        for (tokens, width, depth) in [(1, 48, 64), (1, 37, 96), (4, 48, 64), (16, 20, 32), (48, 37, 64)] {
            let mut case = Case::new(&format!("linear {} {tokens}x{width}x{depth}", format.name));
            let t = rows(&mut case.graph, &mut case.bindings, tokens);
            let x = case.input("x", &[t.clone(), int(depth)], &[tokens, depth]);
            let residual = case.input("r", &[t, int(width)], &[tokens, width]);
            let w = case.weight(format, "w", &[width, depth]);
            let bias = case.weight(Format::find("f32").unwrap(), "b", &[width]);
            let y = linear(&mut case.graph, x, w, Some(bias));
            let y = build::add(&mut case.graph, y, residual);
            case.graph.output("y", y);
            assert_eq!(
                compiled(&case.graph, &Caps::vector(4)).steps.len(),
                1,
                "bias and residual are epilogues"
            );
            case.check();
        }
    }
}

#[test]
fn odd_depths_have_tails() {
    for depth in [1, 3, 5, 172, 173] {
        let mut case = Case::new(&format!("tail {depth}"));
        let x = case.input("x", &[int(1), int(depth)], &[1, depth]);
        let w = case.weight(Format::find("bf16").unwrap(), "w", &[19, depth]);
        let y = linear(&mut case.graph, x, w, None);
        case.graph.output("y", y);
        case.check();
    }
}

#[test]
fn gate_and_up_share_a_kernel() {
    for format in ["f16", "q4_0", "q8_0", "q4_1"] {
        for tokens in [1, 2, 32] {
            let mut case = Case::new(&format!("swiglu {format} {tokens}"));
            let format = Format::find(format).unwrap();
            let t = rows(&mut case.graph, &mut case.bindings, tokens);
            let x = case.input("x", &[t, int(64)], &[tokens, 64]);
            let gate = case.weight(format, "gate", &[96, 64]);
            let up = case.weight(format, "up", &[96, 64]);
            let gate = linear(&mut case.graph, x, gate, None);
            let up = linear(&mut case.graph, x, up, None);
            let y = swiglu(&mut case.graph, gate, up);
            case.graph.output("y", y);
            assert_eq!(compiled(&case.graph, &Caps::vector(4)).steps.len(), 1);
            case.check();
        }
    }
}

#[test]
fn norms_are_one_kernel() {
    for (tokens, width) in [(1, 64), (3, 100), (32, 576)] {
        let mut case = Case::new(&format!("norm {tokens}x{width}"));
        let t = rows(&mut case.graph, &mut case.bindings, tokens);
        let x = case.input("x", &[t, int(width)], &[tokens, width]);
        let w = case.weight(Format::find("f32").unwrap(), "w", &[width]);
        let y = rms_norm(&mut case.graph, x, w, 1e-5);
        case.graph.output("y", y);
        assert_eq!(compiled(&case.graph, &Caps::vector(4)).steps.len(), 1);
        case.check();
    }
}

/// Where the tokens of an attention case stand.
struct Places {
    sequence: Vec<i64>,
    position: Vec<i64>,
    table: Vec<i64>,
    slot: Vec<i64>,
}

impl Places {
    fn of(tokens: usize) -> Places {
        let many = tokens > 16;
        // Sequence 0 owns rows 0..16 of a chunk, sequence 1 the rest; decoding rows alternate.
        let sequence: Vec<i64> =
            (0..tokens).map(|r| if many { (r >= 16) as i64 } else { r as i64 % 2 }).collect();
        let past = [70i64, 3];
        let position: Vec<i64> = (0..tokens)
            .map(|r| {
                let before = sequence[..r].iter().filter(|s| **s == sequence[r]).count() as i64;
                past[sequence[r] as usize] + before
            })
            .collect();
        let table: Vec<i64> =
            (0..16 * 8).map(|at| (at * 7 + 5) % 8 + if at / 8 == 1 { 8 } else { 0 }).collect();
        let slot = (0..tokens).map(|r| {
            if r + 1 == tokens && tokens > 1 {
                return -1;
            }
            table[(sequence[r] * 8 + position[r] / 16) as usize] * 16 + position[r] % 16
        });
        let slot: Vec<i64> = slot.collect();
        Places { sequence, position, table, slot }
    }
}

/// A layer's attention with rotation, ragged sequences and pages out of order.
fn attention_case(name: &str, tokens: usize, keys: DType, window: Option<i64>, pairing: Pairing) -> Case {
    let mut case = Case::new(name);
    // A key on the border between two half-precision numbers may fall either way.
    case.tolerance = if keys == DType::F32 { ATTENTION_TOLERANCE } else { 1e-3 };
    let (heads, key_heads, width, pages) = (4usize, 2usize, 24usize, 24usize);
    let many = tokens > 16;
    let t = rows(&mut case.graph, &mut case.bindings, tokens);
    let p = case.graph.symbol(&Symbol::new("P", 8, 64, 8));
    let n = case.graph.symbol(&Symbol::new("pages", 1, 1 << 20, 1));
    case.bindings.symbols.insert("P".to_owned(), 8);
    case.bindings.symbols.insert("pages".to_owned(), pages as i64);
    let Places { sequence, position, table, slot } = Places::of(tokens);
    let each = std::slice::from_ref(&t).to_vec();
    let pos = case.ints("pos", &each, &[tokens], (0, int(4096)), position);
    let seq = case.ints("seq", &each, &[tokens], (0, int(16)), sequence);
    let slot = case.ints("slot", &each, &[tokens], (-1, n.clone() * 16), slot);
    let table = case.ints("table", &[int(16), p], &[16, 8], (0, n.clone()), table);
    let [q, k, v] = [("q", heads), ("k", key_heads), ("v", key_heads)].map(|(name, heads)| {
        let x = case.input(&format!("x{name}"), &[t.clone(), int(32)], &[tokens, 32]);
        let w = case.weight(Format::find("q8_0").unwrap(), name, &[heads * width, 32]);
        linear_heads(&mut case.graph, x, w, None, [heads as i64, width as i64])
    });
    let rope = Rope { width: 16, base: 10000.0, pairing, scaling: RopeScaling::None };
    let rotation = rotary_table(&mut case.graph, &rope, pos, None);
    let q = rotate(&mut case.graph, q, rotation, &rope);
    let k = rotate(&mut case.graph, k, rotation, &rope);
    for (name, shape) in [("keys", [pages, key_heads, width, 16]), ("values", [pages, key_heads, 16, width])]
    {
        let values = case.floats(shape.iter().product(), 1.0);
        case.bindings.states.insert(name.to_owned(), Tensor::floats(keys, &shape, values));
    }
    let graph = &mut case.graph;
    let state = graph.state("keys", keys, &[n.clone(), int(key_heads), int(width), int(16)]);
    let new_keys = write_keys(graph, state, k, slot);
    let state = graph.state("values", keys, &[n, int(key_heads), int(16), int(width)]);
    let new_values = write_values(graph, state, v, slot);
    let spec = Attention {
        scale: 0.2,
        group: 2,
        sequence: seq,
        extras: &[pos],
        row: &|t| if many { t.div_floor(16) * 16 } else { t },
        visible: &|c, token, j| {
            let position = c.extra(1, &[token]);
            let causal = j.at_most(&position);
            match window {
                None => causal,
                Some(window) => causal.and(&position.less_than(&(j + window))),
            }
        },
    };
    let y = attention(graph, q, &Cache { keys: new_keys, values: new_values, table }, &spec);
    graph.output("y", y);
    case
}

#[test]
fn attention_of_decode_and_chunks() {
    attention_case("decode 1", 1, DType::F32, None, Pairing::HalfSplit).check();
    attention_case("decode 2 f16", 2, DType::F16, None, Pairing::Interleaved).check();
    attention_case("decode 16", 16, DType::F32, Some(9), Pairing::HalfSplit).check();
    attention_case("chunk", 48, DType::F32, None, Pairing::HalfSplit).check();
    attention_case("chunk window bf16", 32, DType::BF16, Some(20), Pairing::Interleaved).check();
}

#[test]
fn an_attention_layer_is_few_kernels() {
    let case = attention_case("decode 1", 1, DType::F32, None, Pairing::HalfSplit);
    let compilation = compiled(&case.graph, &Caps::vector(4));
    let names: Vec<&str> = compilation.partition.regions.iter().map(|r| r.work.name()).collect();
    // cos, sin, q, k, v (with its write), turned q, turned k (with its write), attention.
    assert_eq!(names.len(), 8, "{names:?}");
}

#[test]
fn packed_tables_are_gathered_by_row() {
    for format in FORMATS {
        let mut case = Case::new(&format!("embedding {}", format.name));
        let table = case.weight(format, "table", &[50, 64]);
        let ids = case.ints("ids", &[int(3)], &[3], (0, int(50)), vec![7, 0, 49]);
        let rows =
            case.graph.view(table, &[int(3), int(64)], &[ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
        case.graph.output("rows", rows);
        let compilation = compiled(&case.graph, &Caps::vector(4));
        assert_eq!(compilation.gathers.len(), format.planes.len());
        assert!(
            !compilation
                .graph
                .nodes()
                .any(|n| matches!(compilation.graph.op(n), jtllm_ir::Op::Weight { .. }))
        );
        case.check();
    }
}

#[test]
fn a_packed_embedding_feeds_a_norm_and_a_product() {
    let mut case = Case::new("embedding, norm, product");
    let format = Format::find("q8_0").unwrap();
    let table = case.weight(format, "table", &[50, 64]);
    let ids = case.ints("ids", &[int(2)], &[2], (0, int(50)), vec![7, 49]);
    let x = case.graph.view(table, &[int(2), int(64)], &[ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
    let weight = case.weight(Format::find("f32").unwrap(), "norm", &[64]);
    let normal = rms_norm(&mut case.graph, x, weight, 1e-5);
    let w = case.weight(format, "w", &[64, 64]);
    let y = linear(&mut case.graph, normal, w, None);
    let y = build::add(&mut case.graph, y, x);
    case.graph.output("y", y);
    let compilation = compiled(&case.graph, &Caps::vector(4));
    let names: Vec<&str> = compilation.partition.regions.iter().map(|r| r.work.name()).collect();
    assert_eq!(names, ["pointwise", "rows", "gemv"]);
    case.check();
}
