//! Rotary tables and rotations against the formulas of the papers and of transformers, in `f64`.
#![allow(clippy::unwrap_used)]

mod graphs;

use jtllm_ir::build::{Pairing, Rope, RopeScaling};
use jtllm_ir::interp::{Bindings, run};
use jtllm_ir::{DType, Tensor};

const POSITIONS: [i64; 5] = [0, 1, 7, 100, 1000];

/// The frequencies of the eight-wide heads of `graphs::rope`, and what sines and cosines are multiplied by.
fn frequencies(scaling: &RopeScaling, length: f64) -> (Vec<f64>, f64) {
    let (width, base) = (8.0f64, 10_000.0f64);
    let plain: Vec<f64> = (0..4).map(|i| base.powf(-2.0 * f64::from(i) / width)).collect();
    let map =
        |f: &dyn Fn(usize, f64) -> f64| plain.iter().enumerate().map(|(i, x)| f(i, *x)).collect::<Vec<_>>();
    match scaling {
        RopeScaling::None => (plain, 1.0),
        RopeScaling::Linear { factor } => (map(&|_, x| x / factor), 1.0),
        RopeScaling::Factors(factors) => (map(&|i, x| x / f64::from(factors[i])), 1.0),
        RopeScaling::HalfPrecision => (map(&|_, x| half::f16::from_f64(x).to_f64()), 1.0),
        RopeScaling::Dynamic { factor, original } => {
            let original = *original as f64;
            let growth = factor * length.max(original) / original - (factor - 1.0);
            let base = base * growth.powf(width / (width - 2.0));
            (map(&|i, _| base.powf(-2.0 * i as f64 / width)), 1.0)
        }
        RopeScaling::Llama3 { factor, low, high, original } => {
            let scaled = |_: usize, x: f64| {
                let wavelength = std::f64::consts::TAU / x;
                if wavelength < original / high {
                    return x;
                }
                if wavelength > original / low {
                    return x / factor;
                }
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * x / factor + smooth * x
            };
            (map(&scaled), 1.0)
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original, attention_factor, truncate } => {
            let pair = |rotations: f64| {
                width * (original / (rotations * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
            };
            let (low, high) = (pair(*beta_fast), pair(*beta_slow));
            let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
            let (low, high) = (low.max(0.0), high.min(width - 1.0));
            let scaled = |i: usize, x: f64| {
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                x / factor * ramp + x * (1.0 - ramp)
            };
            (map(&scaled), *attention_factor)
        }
    }
}

/// Cosines, sines and the rotated heads, as the graph gives them for two heads of `head` numbers.
fn rotated(rope: &Rope, head: usize, length: i64) -> (Vec<f32>, [Vec<f32>; 3]) {
    let graph = graphs::rotation("rope", rope, head as i64);
    let mut bindings = Bindings::new();
    bindings.symbols.insert("T".into(), POSITIONS.len() as i64);
    let count = POSITIONS.len() * 2 * head;
    let x: Vec<f32> = (0..count).map(|at| ((at * 37 % 101) as f32 - 50.0) / 25.0).collect();
    let shape = [POSITIONS.len(), 2, head];
    bindings.inputs.insert("x".into(), Tensor::floats(DType::F32, &shape, x.clone()));
    bindings.inputs.insert("pos".into(), Tensor::ints(DType::I32, &[POSITIONS.len()], POSITIONS.to_vec()));
    let lengths = vec![length; POSITIONS.len()];
    bindings.inputs.insert("lengths".into(), Tensor::ints(DType::I32, &[POSITIONS.len()], lengths));
    let outputs = run(&graph, &mut bindings).unwrap();
    (x, [0, 1, 2].map(|at: usize| outputs[at].1.to_floats()))
}

fn assert_close(found: f32, expected: f64, tolerance: f64, what: &str) {
    assert!((f64::from(found) - expected).abs() <= tolerance, "{what}: {found} for {expected}");
}

#[test]
fn tables_have_the_angles_of_the_formulas() {
    for (name, scaling) in graphs::scalings() {
        for length in [32, 1001] {
            let (expected, factor) = frequencies(&scaling, length as f64);
            let rope = graphs::rope(scaling.clone(), Pairing::HalfSplit);
            let (_, [cosines, sines, _]) = rotated(&rope, 8, length);
            for (row, position) in POSITIONS.iter().enumerate() {
                for (pair, frequency) in expected.iter().enumerate() {
                    let angle = *position as f64 * frequency;
                    // An f32 angle has a relative error of about 2^-23, more where the base is a logarithm.
                    let tolerance = 1e-6 + angle * 6e-7;
                    let what = format!("{name} of {length}, position {position}, pair {pair}");
                    assert_close(cosines[row * 4 + pair], factor * angle.cos(), tolerance, &what);
                    assert_close(sines[row * 4 + pair], factor * angle.sin(), tolerance, &what);
                }
            }
        }
    }
}

#[test]
fn pairs_turn_and_the_rest_of_a_head_stays() {
    for (pairing, head) in [
        (Pairing::HalfSplit, 8),
        (Pairing::HalfSplit, 12),
        (Pairing::Interleaved, 8),
        (Pairing::Interleaved, 12),
        (Pairing::HalfSplit, 9),
        (Pairing::Interleaved, 9),
    ] {
        let rope = graphs::rope(RopeScaling::None, pairing);
        let (x, [_, _, y]) = rotated(&rope, head, 1);
        let (frequencies, _) = frequencies(&rope.scaling, 1.0);
        for (row, position) in POSITIONS.iter().enumerate() {
            for start in [row * 2 * head, (row * 2 + 1) * head] {
                for (pair, frequency) in frequencies.iter().enumerate() {
                    let (a, b) = match pairing {
                        Pairing::HalfSplit => (start + pair, start + pair + 4),
                        Pairing::Interleaved => (start + 2 * pair, start + 2 * pair + 1),
                    };
                    let angle = *position as f64 * frequency;
                    let (from, to) = (f64::from(x[a]), f64::from(x[b]));
                    let what = format!("{pairing:?} {head}, position {position}, pair {pair}");
                    let tolerance = 1e-5 + angle * 1e-6;
                    assert_close(y[a], from * angle.cos() - to * angle.sin(), tolerance, &what);
                    assert_close(y[b], from * angle.sin() + to * angle.cos(), tolerance, &what);
                }
                for d in 8..head {
                    assert_eq!(y[start + d], x[start + d], "coordinate {d} of {head} does not turn");
                }
            }
        }
    }
}

#[test]
fn the_magnitude_of_yarn_is_its_papers() {
    use jtllm_ir::build::yarn_magnitude;
    assert!((yarn_magnitude(4.0, 1.0) - (0.1 * 4.0f64.ln() + 1.0)).abs() < 1e-15);
    assert!((yarn_magnitude(40.0, 0.707) - (0.0707 * 40.0f64.ln() + 1.0)).abs() < 1e-15);
    assert_eq!([yarn_magnitude(1.0, 1.0), yarn_magnitude(0.5, 1.0)], [1.0; 2], "nothing is stretched");
}
