//! One small graph for each builder, for the tests that go over all of them.
#![allow(dead_code)]

use jtllm_ir::build::{self, Attention, Cache, Pairing, Rope, RopeScaling};
use jtllm_ir::{DType, Expr, Format, Graph, Node, Symbol};

pub(crate) fn tokens(graph: &mut Graph) -> Expr {
    graph.symbol(&Symbol::new("T", 1, 512, 1))
}

pub(crate) fn int(value: i64) -> Expr {
    Expr::int(value)
}

pub(crate) fn rope(scaling: RopeScaling, pairing: Pairing) -> Rope {
    Rope { width: 8, base: 10_000.0, pairing, scaling }
}

/// Every scaling with a name.
pub(crate) fn scalings() -> Vec<(&'static str, RopeScaling)> {
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 64.0 };
    let yarn = |truncate: bool, attention_factor: f64| RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        original: 64.0,
        attention_factor,
        truncate,
    };
    vec![
        ("plain", RopeScaling::None),
        ("linear", RopeScaling::Linear { factor: 4.0 }),
        ("dynamic", RopeScaling::Dynamic { factor: 2.0, original: 64 }),
        ("llama3", llama3),
        ("yarn", yarn(true, build::yarn_magnitude(4.0, 1.0))),
        ("yarn_exact", yarn(false, 0.75)),
        ("factors", RopeScaling::Factors(vec![1.0, 2.0, 4.0, 8.0])),
        ("half_precision", RopeScaling::HalfPrecision),
    ]
}

fn norm() -> Graph {
    let mut graph = Graph::new("rms_norm");
    let t = tokens(&mut graph);
    let x = graph.input("x", DType::F32, &[t, int(8)], None);
    let w = graph.weight("w", DType::F32, &[int(8)]);
    let y = build::rms_norm(&mut graph, x, w, 1e-5);
    graph.output("y", y);
    graph
}

fn linear(heads: bool) -> Graph {
    let mut graph = Graph::new(if heads { "linear_heads" } else { "linear" });
    let t = tokens(&mut graph);
    let x = graph.input("x", DType::F32, &[t, int(8)], None);
    let w = graph.weight("w", DType::F32, &[int(12), int(8)]);
    let b = graph.weight("b", DType::F32, &[int(12)]);
    let y = if heads {
        build::linear_heads(&mut graph, x, w, Some(b), [3, 4])
    } else {
        build::linear(&mut graph, x, w, Some(b))
    };
    graph.output("y", y);
    graph
}

fn swiglu() -> Graph {
    let mut graph = Graph::new("swiglu");
    let t = tokens(&mut graph);
    let shape = [t, int(8)];
    let gate = graph.input("gate", DType::F32, &shape, None);
    let up = graph.input("up", DType::F32, &shape, None);
    let y = build::swiglu(&mut graph, gate, up);
    graph.output("y", y);
    graph
}

/// Heads of `head` numbers turned by `rope`.
pub(crate) fn rotation(name: &str, rope: &Rope, head: i64) -> Graph {
    let mut graph = Graph::new(name);
    let t = tokens(&mut graph);
    let x = graph.input("x", DType::F32, &[t.clone(), int(2), int(head)], None);
    let positions = graph.input("pos", DType::I32, std::slice::from_ref(&t), Some((0, int(4096))));
    let lengths = matches!(rope.scaling, RopeScaling::Dynamic { .. })
        .then(|| graph.input("lengths", DType::I32, &[t], Some((0, int(4097)))));
    let table = build::rotary_table(&mut graph, rope, positions, lengths);
    let y = build::rotate(&mut graph, x, table, rope);
    graph.output("cos", table[0]);
    graph.output("sin", table[1]);
    graph.output("y", y);
    graph
}

/// Attention of a pass over a paged cache: `heads` query heads in groups of `group`, `width` wide, causal,
/// within `window` positions.
pub(crate) fn attention(heads: i64, group: i64, width: i64, window: Option<i64>, cache: DType) -> Graph {
    let mut graph = Graph::new("attention");
    let t = tokens(&mut graph);
    let b = graph.symbol(&Symbol::new("B", 1, 16, 1));
    let p = graph.symbol(&Symbol::new("P", 1, 64, 1));
    let pages = graph.symbol(&Symbol::new("pages", 1, 1024, 1));
    let kv = int(heads / group);
    let query = graph.input("q", DType::F32, &[t.clone(), int(heads), int(width)], None);
    let key = graph.input("k", DType::F32, &[t.clone(), kv.clone(), int(width)], None);
    let value = graph.input("v", DType::F32, &[t.clone(), kv.clone(), int(width)], None);
    let per_token = std::slice::from_ref(&t);
    let sequence = graph.input("seq", DType::I32, per_token, Some((0, b.clone())));
    let position = graph.input("pos", DType::I32, per_token, Some((0, int(1024))));
    let slot = graph.input("slot", DType::I32, per_token, Some((-1, pages.clone() * 16)));
    let table = graph.input("table", DType::I32, &[b, p], Some((0, pages.clone())));
    let keys = graph.state("k0", cache, &[pages.clone(), kv.clone(), int(width), int(16)]);
    let values = graph.state("v0", cache, &[pages, kv, int(16), int(width)]);
    let keys = build::write_keys(&mut graph, keys, key, slot);
    let values = build::write_values(&mut graph, values, value, slot);
    let visible = |c: &jtllm_ir::graph::Coordinates<'_>, token: Expr, j: Expr| {
        let position = c.extra(1, &[token]);
        let causal = j.clone().at_most(&position);
        match window {
            None => causal,
            Some(window) => causal.and(&position.less_than(&(j + window))),
        }
    };
    let spec = Attention {
        scale: 0.5,
        group,
        sequence,
        extras: &[position],
        row: &|token| token,
        visible: &visible,
        slopes: None,
    };
    let out = build::attention(&mut graph, query, &Cache { keys, values, table }, &spec);
    graph.output("out", out);
    graph
}

/// The decoded matrix of a format, `rows` by `columns`.
pub(crate) fn decode(format: &Format, rows: i64, columns: i64) -> Graph {
    let mut graph = Graph::new(format.name);
    let numbers = format.weight(&mut graph, "w", &[int(rows), int(columns)]);
    // An output is stored, and a bare weight is one as well as any other node.
    graph.output("numbers", numbers);
    graph
}

fn recurrence() -> Graph {
    let mut graph = Graph::new("recurrence");
    let t = tokens(&mut graph);
    let width = [int(4)];
    let mut body = Graph::new("body");
    let carry = body.input("c", DType::F32, &width, None);
    let k = body.input("k", DType::F32, &width, None);
    let v = body.input("v", DType::F32, &width, None);
    let next = body.map(jtllm_ir::ScalarOp::Fma, &[carry, k, v]);
    body.output("next", next);
    body.output("out", carry);
    let start = graph.state("s", DType::F32, &width);
    let k = graph.input("k", DType::F32, &[t.clone(), int(4)], None);
    let v = graph.input("v", DType::F32, &[t, int(4)], None);
    let scan = jtllm_ir::graph::Scan { axis: 0, carries: vec![start], xs: vec![k, v], body };
    let results = graph.scan(scan);
    let last = graph.write(start, results[0], &[], |c| (c.axes().to_vec(), None));
    graph.output("all", results[1]);
    graph.output("last", last);
    graph
}

fn opaque() -> Graph {
    let mut graph = Graph::new("opaque");
    let t = tokens(&mut graph);
    let x = graph.input("x", DType::F32, std::slice::from_ref(&t), None);
    let op = jtllm_ir::Op::Opaque { name: "sort".into(), xs: vec![x] };
    let record = jtllm_ir::graph::Record { op, shape: vec![t], dtype: DType::F32 };
    let sorted: Node = graph.push(record);
    graph.output("sorted", sorted);
    graph
}

/// Every builder once, with the name of its golden file.
pub(crate) fn all() -> Vec<(String, Graph)> {
    let mut graphs = vec![
        ("rms_norm".to_owned(), norm()),
        ("linear".to_owned(), linear(false)),
        ("linear_heads".to_owned(), linear(true)),
        ("swiglu".to_owned(), swiglu()),
        ("attention".to_owned(), attention(4, 1, 8, None, DType::F32)),
        ("attention_grouped".to_owned(), attention(4, 2, 8, None, DType::F16)),
        ("attention_window".to_owned(), attention(4, 2, 8, Some(6), DType::F32)),
        ("scan".to_owned(), recurrence()),
        ("opaque".to_owned(), opaque()),
    ];
    for (name, scaling) in scalings() {
        let rope = rope(scaling, Pairing::HalfSplit);
        graphs.push((format!("rope_{name}"), rotation("rope", &rope, 8)));
    }
    let partial = rope(RopeScaling::None, Pairing::HalfSplit);
    graphs.push(("rope_partial".to_owned(), rotation("rope", &partial, 12)));
    let interleaved = rope(RopeScaling::None, Pairing::Interleaved);
    graphs.push(("rope_interleaved".to_owned(), rotation("rope", &interleaved, 8)));
    graphs.push(("rope_interleaved_partial".to_owned(), rotation("rope", &interleaved, 12)));
    for format in jtllm_ir::format::FORMATS {
        graphs.push((format!("decode_{}", format.name), decode(format, 3, format.block.max(64) as i64)));
    }
    graphs
}
