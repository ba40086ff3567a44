//! Rotary position embedding (Su et al., 2021) and the ways in which models stretch it.

use super::{broadcast, splat};
use crate::dtype::DType;
use crate::expr::Expr;
use crate::graph::{Graph, Node};
use crate::scalar::ScalarOp;
use crate::tensor::Tensor;

/// Which coordinates of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// `d` with `d + half` (Hugging Face's files).
    HalfSplit,
    /// `2 d` with `2 d + 1` (Meta's and GGUF's files).
    Interleaved,
}

/// How frequencies change beyond the context that a model was trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the length once it exceeds `original` positions (bloc97's NTK-aware rule as
    /// transformers has it): `base * (factor * length / original - (factor - 1))^(d / (d - 2))`.
    Dynamic {
        /// The factor of the rule.
        factor: f64,
        /// The context that the model was trained on.
        original: i64,
    },
    /// Low frequencies divided by `factor`, high ones kept, between them blended (LLaMA 3.1).
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are divided.
        low: f64,
        /// Wavelengths below `original / high` are kept.
        high: f64,
        /// The context that the model was trained on.
        original: f64,
    },
    /// YaRN (Peng et al., 2023).
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// The context that the model was trained on.
        original: f64,
        /// What sines and cosines are multiplied by; the paper's is [`yarn_magnitude`].
        attention_factor: f64,
        /// Whether the pairs between which frequencies are blended are rounded outwards to whole ones.
        truncate: bool,
    },
    /// One divisor for each frequency, as GGUF files carry them (`rope_freqs.weight`).
    Factors(Vec<f32>),
    /// Frequencies rounded to binary16, as ChatGLM-6B was trained with.
    HalfPrecision,
}

/// The rotation of a model's heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// How many of a head's first coordinates turn; even.
    pub width: i64,
    /// The base of the frequencies.
    pub base: f64,
    /// Which coordinates turn together.
    pub pairing: Pairing,
    /// How frequencies change for long contexts.
    pub scaling: RopeScaling,
}

impl Rope {
    /// The angle that each pair turns by from one position to the next, and what sines and cosines are
    /// multiplied by. Computed in the precision of the reference implementations: exponents in `f32`.
    fn frequencies(&self) -> (Vec<f32>, f32) {
        let plain: Vec<f32> = (0..self.width / 2)
            .map(|pair| 1.0 / (self.base as f32).powf((2 * pair) as f32 / self.width as f32))
            .collect();
        match &self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => (plain, 1.0),
            RopeScaling::Linear { factor } => (plain.into_iter().map(|f| f / *factor as f32).collect(), 1.0),
            RopeScaling::HalfPrecision => {
                (plain.into_iter().map(|f| half::f16::from_f32(f).to_f32()).collect(), 1.0)
            }
            RopeScaling::Factors(factors) => {
                (plain.into_iter().zip(factors).map(|(f, factor)| f / factor).collect(), 1.0)
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                let scaled = |f: f32| llama3(f, *factor as f32, *low as f32, *high as f32, *original as f32);
                (plain.into_iter().map(scaled).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor, truncate } => {
                let [low, high] = self.yarn_range([*beta_fast, *beta_slow], *original, *truncate);
                (yarn(&plain, *factor, low, high), *attention_factor as f32)
            }
        }
    }

    /// Between which pairs YaRN blends: those that turn `fast` and `slow` times within `original` positions.
    fn yarn_range(&self, [fast, slow]: [f64; 2], original: f64, truncate: bool) -> [f64; 2] {
        let width = self.width as f64;
        let pair = |rotations: f64| {
            width * (original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * self.base.ln())
        };
        let (low, high) = (pair(fast), pair(slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        [low.max(0.0), high.min(width - 1.0)]
    }
}

/// YaRN's magnitude for a factor: `0.1 weight ln(factor) + 1`, and 1 for contexts that are not stretched.
pub fn yarn_magnitude(factor: f64, weight: f64) -> f64 {
    0.1 * weight * factor.max(1.0).ln() + 1.0
}

fn yarn(plain: &[f32], factor: f64, low: f64, high: f64) -> Vec<f32> {
    let span = if low == high { 0.001 } else { high - low };
    let blend = |(pair, f): (usize, &f32)| {
        let ramp = ((pair as f64 - low) / span).clamp(0.0, 1.0) as f32;
        f / factor as f32 * ramp + f * (1.0 - ramp)
    };
    plain.iter().enumerate().map(blend).collect()
}

fn llama3(frequency: f32, factor: f32, low: f32, high: f32, original: f32) -> f32 {
    let wavelength = std::f32::consts::TAU / frequency;
    if wavelength < original / high {
        frequency
    } else if wavelength > original / low {
        frequency / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// The cosines and sines of a pass: `f32 [T, width / 2]` each.
///
/// `positions` is `i32 [T]`. `lengths` (`i32 [T]`: how long the sequence of each is) are needed by
/// [`RopeScaling::Dynamic`] alone.
pub fn rotary_table(graph: &mut Graph, rope: &Rope, positions: Node, lengths: Option<Node>) -> [Node; 2] {
    let (frequencies, factor) = rope.frequencies();
    let pairs = frequencies.len();
    let space = [graph.shape(positions)[0].clone(), Expr::int(pairs as i64)];
    let frequencies = match (&rope.scaling, lengths) {
        (RopeScaling::Dynamic { factor, original }, Some(lengths)) => {
            dynamic(graph, rope, lengths, *factor as f32, *original as f32, &space)
        }
        _ => {
            let frequencies = graph.constant(Tensor::floats(DType::F32, &[pairs], frequencies));
            broadcast(graph, frequencies, &space, &[1])
        }
    };
    let positions = graph.map(ScalarOp::Cast(DType::F32), &[positions]);
    let positions = broadcast(graph, positions, &space, &[0]);
    let angles = graph.map(ScalarOp::Mul, &[positions, frequencies]);
    [ScalarOp::Cos, ScalarOp::Sin].map(|op| {
        let value = graph.map(op, &[angles]);
        if factor == 1.0 {
            return value;
        }
        let factor = splat(graph, factor, &space);
        graph.map(ScalarOp::Mul, &[value, factor])
    })
}

/// Frequencies whose base depends on the length of the sequence.
fn dynamic(
    graph: &mut Graph,
    rope: &Rope,
    lengths: Node,
    factor: f32,
    original: f32,
    space: &[Expr],
) -> Node {
    let each = &space[..1];
    let length = graph.map(ScalarOp::Cast(DType::F32), &[lengths]);
    let original_node = splat(graph, original, each);
    let length = graph.map(ScalarOp::Max, &[length, original_node]);
    let slope = splat(graph, factor / original, each);
    let offset = splat(graph, 1.0 - factor, each);
    let growth = graph.map(ScalarOp::Fma, &[length, slope, offset]);
    // base * growth^(d / (d - 2)), then to the power of -2 i / d: in logarithms.
    let log_growth = graph.map(ScalarOp::Log, &[growth]);
    let width = rope.width as f32;
    let exponent = splat(graph, width / (width - 2.0), each);
    let log_base = splat(graph, rope.base.ln() as f32, each);
    let log_base = graph.map(ScalarOp::Fma, &[log_growth, exponent, log_base]);
    let log_base = broadcast(graph, log_base, space, &[0]);
    let powers = (0..rope.width / 2).map(|pair| -((2 * pair) as f32) / width).collect();
    let powers = graph.constant(Tensor::floats(DType::F32, &[(rope.width / 2) as usize], powers));
    let powers = broadcast(graph, powers, space, &[1]);
    let logarithm = graph.map(ScalarOp::Mul, &[log_base, powers]);
    graph.map(ScalarOp::Exp, &[logarithm])
}

/// `x [T, heads, head width]` with the first `rope.width` coordinates of each head turned by the angles of
/// `table` (see [`rotary_table`]).
pub fn rotate(graph: &mut Graph, x: Node, table: [Node; 2], rope: &Rope) -> Node {
    let space = graph.shape(x).to_vec();
    let head = space[2].as_int().expect("the width of a head is a constant");
    let half = rope.width / 2;
    let turning = rope.width;
    // Coordinates that do not turn read a partner inside the head and are replaced at the end.
    let inside = |d: Expr| d.minimum(&Expr::int(head - 1));
    let (pair, partner, first): (Expr, Expr, Expr) = {
        let d = Expr::axis(2, &space[2]);
        match rope.pairing {
            Pairing::HalfSplit => (
                d.clone().modulo(half),
                inside((d.clone() + half).modulo(turning)),
                d.less_than(&Expr::int(half)),
            ),
            Pairing::Interleaved => (
                d.clone().div_floor(2).minimum(&Expr::int(half - 1)),
                inside(d.clone().div_floor(2) * 2 + Expr::int(1) - d.clone().modulo(2)),
                d.modulo(2).less_than(&Expr::int(1)),
            ),
        }
    };
    let partner = graph.view(x, &space, &[], |c| vec![c.axis(0), c.axis(1), partner]);
    let opposite = graph.map(ScalarOp::Neg, &[partner]);
    let first = graph.index(DType::Bool, &space, &[], |_| first);
    let turned = graph.map(ScalarOp::Select, &[first, opposite, partner]);
    let [cosine, sine] = table.map(|t| graph.view(t, &space, &[], |c| vec![c.axis(0), pair.clone()]));
    let along = graph.map(ScalarOp::Mul, &[x, cosine]);
    let across = graph.map(ScalarOp::Mul, &[turned, sine]);
    let rotated = graph.map(ScalarOp::Add, &[along, across]);
    if turning == head {
        return rotated;
    }
    let turns = graph.index(DType::Bool, &space, &[], |c| c.axis(2).less_than(&Expr::int(turning)));
    graph.map(ScalarOp::Select, &[turns, rotated, x])
}
