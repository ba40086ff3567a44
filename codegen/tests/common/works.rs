//! A case for each kind of work, of sizes that no lane count divides.

use jtllm_ir::build::{
    self, Pairing, Rope, RopeScaling, linear, linear_heads, rms_norm, rotary_table, rotate, swiglu,
};
use jtllm_ir::format::{APART, FORMATS, Format};
use jtllm_ir::{DType, Monoid, Node, ScalarOp};

use super::attend::Places;
use super::case::{Case, int, rows};

/// Exponentials of scores around 10, whose own rounding they magnify.
const ATTENTION_TOLERANCE: f32 = 1e-5;

/// A linear layer with a bias and a residual.
pub(crate) fn linear_case(format: &'static Format, [tokens, width, depth]: [usize; 3]) -> Case {
    let mut case = Case::new(&format!("linear {} {tokens}x{width}x{depth}", format.name));
    let t = rows(&mut case.graph, &mut case.bindings, tokens);
    let x = case.input("x", &[t.clone(), int(depth)], &[tokens, depth]);
    let residual = case.input("r", &[t, int(width)], &[tokens, width]);
    let w = case.weight(format, "w", &[width, depth]);
    let bias = case.weight(Format::find("f32").unwrap(), "b", &[width]);
    let y = linear(&mut case.graph, x, w, Some(bias));
    let y = build::add(&mut case.graph, y, residual);
    case.graph.output("y", y);
    case
}

/// Linear layers of every format, for one row, a few, and chunks.
pub(crate) fn linear_cases() -> Vec<Case> {
    let shapes = [[1, 48, 64], [1, 37, 96], [4, 48, 64], [16, 20, 32], [48, 37, 64]];
    let of = |format: &'static Format| {
        shapes.map(|[tokens, width, depth]| {
            linear_case(format, [tokens, width, depth * (format.block / 32).max(1)])
        })
    };
    FORMATS.iter().chain(APART).flat_map(|format| of(format)).collect()
}

/// A product whose depth is as odd as can be.
pub(crate) fn tail(depth: usize) -> Case {
    let mut case = Case::new(&format!("tail {depth}"));
    let x = case.input("x", &[int(1), int(depth)], &[1, depth]);
    let w = case.weight(Format::find("bf16").unwrap(), "w", &[19, depth]);
    let y = linear(&mut case.graph, x, w, None);
    case.graph.output("y", y);
    case
}

/// A product long enough for all lanes to take 16 bytes, with blocks whole and a rest that is not.
pub(crate) fn long_rows(format: &str, [tokens, depth]: [usize; 2]) -> Case {
    let mut case = Case::new(&format!("long rows {format} {tokens}x{depth}"));
    let x = case.input("x", &[int(tokens), int(depth)], &[tokens, depth]);
    let w = case.weight(Format::find(format).unwrap(), "w", &[9, depth]);
    let y = linear(&mut case.graph, x, w, None);
    case.graph.output("y", y);
    case
}

/// Columns of [`deep`]: more than a panel has, and no multiple of anything.
pub(crate) const DEEP_COLUMNS: usize = 66;

/// A product whose depth is taken in pieces where there are many rows, and does not end with a whole step of all lanes.
pub(crate) fn deep(format: &str, tokens: usize) -> Case {
    linear_case(Format::find(format).unwrap(), [tokens, DEEP_COLUMNS, 1500])
}

/// A matrix of many rows, and of rows enough for two: the second half is read from a row that nothing divides.
pub(crate) fn wide(format: &str, tokens: usize) -> Case {
    let mut case = Case::new(&format!("wide {format} {tokens}"));
    let format = Format::find(format).unwrap();
    let t = rows(&mut case.graph, &mut case.bindings, tokens);
    let x = case.input("x", &[t, int(256)], &[tokens, 256]);
    let both = case.weight(format, "both", &[1408, 256]);
    let half = |case: &mut Case, from: i64| {
        let half = case.graph.view(both, &[int(704), int(256)], &[], |c| vec![c.axis(0) + from, c.axis(1)]);
        linear(&mut case.graph, x, half, None)
    };
    let (gate, up) = (half(&mut case, 0), half(&mut case, 704));
    let y = swiglu(&mut case.graph, gate, up);
    case.graph.output("y", y);
    case
}

/// Two products of one operand, joined by an activation.
pub(crate) fn gate_and_up(format: &str, tokens: usize) -> Case {
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
    case
}

/// A norm over rows.
pub(crate) fn norm(tokens: usize, width: usize) -> Case {
    let mut case = Case::new(&format!("norm {tokens}x{width}"));
    let t = rows(&mut case.graph, &mut case.bindings, tokens);
    let x = case.input("x", &[t, int(width)], &[tokens, width]);
    let w = case.weight(Format::find("f32").unwrap(), "w", &[width]);
    let y = rms_norm(&mut case.graph, x, w, 1e-5);
    case.graph.output("y", y);
    case
}

/// A layer's attention with rotation, ragged sequences and pages out of order.
pub(crate) fn attention(
    name: &str,
    tokens: usize,
    keys: DType,
    window: Option<i64>,
    pairing: Pairing,
) -> Case {
    layer(name, tokens, keys, (window, pairing), None)
}

/// The same with so many positions before the pass, if not the usual ones.
fn layer(
    name: &str,
    tokens: usize,
    keys: DType,
    (window, pairing): (Option<i64>, Pairing),
    past: Option<[usize; 2]>,
) -> Case {
    let mut case = Case::new(&format!("attention {name}"));
    // A key on the border between two half-precision numbers may fall either way.
    case.tolerance = if keys == DType::F32 { ATTENTION_TOLERANCE } else { 1e-3 };
    let (heads, key_heads, width) = (4usize, 2usize, 24usize);
    let t = rows(&mut case.graph, &mut case.bindings, tokens);
    let places = match past {
        Some(past) => Places::behind(&mut case, &t, tokens, past, 16),
        None => Places::new(&mut case, &t, tokens),
    };
    let [q, k, v] = [("q", heads), ("k", key_heads), ("v", key_heads)].map(|(name, heads)| {
        let x = case.input(&format!("x{name}"), &[t.clone(), int(32)], &[tokens, 32]);
        let w = case.weight(Format::find("q8_0").unwrap(), name, &[heads * width, 32]);
        linear_heads(&mut case.graph, x, w, None, [heads as i64, width as i64])
    });
    let rope = Rope { width: 16, base: 10000.0, pairing, scaling: RopeScaling::None };
    let rotation = rotary_table(&mut case.graph, &rope, places.position, None);
    let q = rotate(&mut case.graph, q, rotation, &rope);
    let k = rotate(&mut case.graph, k, rotation, &rope);
    let y = places.attend(&mut case, [q, k, v], keys, window);
    case.graph.output("y", y);
    case
}

/// Attention of decoding rows and of chunks, over caches of each type.
pub(crate) fn attention_cases() -> Vec<Case> {
    vec![
        attention("decode 1", 1, DType::F32, None, Pairing::HalfSplit),
        attention("decode 2 f16", 2, DType::F16, None, Pairing::Interleaved),
        attention("decode 16", 16, DType::F32, Some(9), Pairing::HalfSplit),
        attention("chunk", 48, DType::F32, None, Pairing::HalfSplit),
        attention("chunk window bf16", 32, DType::BF16, Some(20), Pairing::Interleaved),
        // Rows of 16 of which some see a block, and some begin or end before it.
        layer("chunk behind", 48, DType::F32, (Some(20), Pairing::HalfSplit), Some([56, 120])),
    ]
}

/// Rows of a table, chosen by an input.
pub(crate) fn gathered(format: &'static Format) -> Case {
    let mut case = Case::new(&format!("embedding {}", format.name));
    let width = format.block.max(64);
    let table = case.weight(format, "table", &[50, width]);
    let ids = case.ints("ids", &[int(3)], &[3], (0, int(50)), vec![7, 0, 49]);
    let shape = [int(3), int(width)];
    let rows = case.graph.view(table, &shape, &[ids], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
    case.graph.output("rows", rows);
    case
}

/// A gathered row, its norm, a product, and what came in.
pub(crate) fn embedded() -> Case {
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
    case
}

/// Each element so many times.
fn scaled(case: &mut Case, x: Node, factor: f32) -> Node {
    let shape = case.graph.shape(x).to_vec();
    let factor = build::splat(&mut case.graph, factor, &shape);
    build::mul(&mut case.graph, x, factor)
}

/// A function of each element.
pub(crate) fn function(op: ScalarOp, count: usize) -> Case {
    let mut case = Case::new(&format!("{} of {count}", op.name()));
    let x = case.input("x", &[int(count)], &[count]);
    // Roots and logarithms are of what is positive.
    let x = match op {
        ScalarOp::Log | ScalarOp::Sqrt | ScalarOp::Rsqrt => {
            let square = case.graph.map(ScalarOp::Mul, &[x, x]);
            let least = build::splat(&mut case.graph, 0.01, &[int(count)]);
            case.graph.map(ScalarOp::Add, &[square, least])
        }
        _ => scaled(&mut case, x, 6.0),
    };
    let y = case.graph.map(op, &[x]);
    case.graph.output("y", y);
    case
}

/// Rows joined by each monoid.
pub(crate) fn joined(monoid: Monoid, rows: usize, width: usize) -> Case {
    let mut case = Case::new(&format!("{} of {rows}x{width}", monoid.name()));
    let x = case.input("x", &[int(rows), int(width)], &[rows, width]);
    let y = case.graph.reduce(monoid, x, &[1]);
    case.graph.output("y", y);
    case
}

/// A conversion to a type in memory and back, of a count that fills no word.
pub(crate) fn stored(dtype: DType, count: usize) -> Case {
    let mut case = Case::new(&format!("{count} stored as {dtype}"));
    let x = case.input("x", &[int(count)], &[count]);
    let x = scaled(&mut case, x, 100.0);
    let y = case.graph.map(ScalarOp::Cast(dtype), &[x]);
    case.graph.output("y", y);
    case
}

/// All of the above.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = linear_cases();
    cases.extend([1, 3, 5, 172, 173].map(tail));
    for format in ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q6_k", "q2_k"] {
        cases.extend([[1, 1024], [1, 1536], [4, 2048]].map(|sizes| long_rows(format, sizes)));
    }
    cases.extend([("f32", 1), ("q8_0", 2), ("bf16", 32)].map(|(format, tokens)| wide(format, tokens)));
    cases.extend(["f32", "f16"].map(|format| deep(format, 32)));
    for format in ["f16", "q4_0", "q8_0", "q4_1"] {
        cases.extend([1, 2, 32].map(|tokens| gate_and_up(format, tokens)));
    }
    cases.extend([(1, 64), (3, 100), (32, 576)].map(|(tokens, width)| norm(tokens, width)));
    cases.extend(attention_cases());
    cases.extend(FORMATS.iter().map(|format| gathered(format)));
    cases.push(embedded());
    use ScalarOp as S;
    let functions = [
        S::Exp,
        S::Log,
        S::Sqrt,
        S::Rsqrt,
        S::Sin,
        S::Cos,
        S::Tanh,
        S::Erf,
        S::Floor,
        S::Round,
        S::Neg,
        S::Abs,
    ];
    cases.extend(functions.map(|op| function(op, 67)));
    for monoid in [Monoid::Add, Monoid::Mul, Monoid::Max, Monoid::Min] {
        cases.extend([1, 8, 33, 64, 100, 257].map(|width| joined(monoid, 3, width)));
    }
    for dtype in [DType::F16, DType::BF16, DType::I8, DType::U8, DType::I32, DType::Bool] {
        cases.extend([1, 3, 130].map(|count| stored(dtype, count)));
    }
    cases
}
