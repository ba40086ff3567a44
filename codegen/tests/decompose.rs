//! Decomposed functions against `f64`, swept over their whole range; what they give at the edges; and
//! that the pass leaves a correct kernel with nothing else changed.

#![allow(clippy::unwrap_used)]

use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::decompose::decompose;
use jtllm_codegen::kernel::interp::{Buffer, Memories, Options, run};
use jtllm_codegen::kernel::{Access, Kernel, Value, verify};
use jtllm_codegen::target::Caps;
use jtllm_ir::{DType, Expr, Scalar, ScalarOp};

const LANES: u32 = 16;

/// `y[i] = op(x[i])` for `count` elements, a multiple of the lanes.
fn pointwise(op: ScalarOp, count: usize) -> Kernel {
    let groups = Expr::int(count as i64 / i64::from(LANES));
    let mut b = Builder::new(&op.name(), LANES, [groups, Expr::int(1), Expr::int(1)]);
    let len = Expr::int(count as i64);
    let x = b.param(DType::F32, Access::Read, len.clone(), false);
    let y = b.param(DType::F32, Access::Write, len, false);
    let at = b.grid(0) * i64::from(LANES) + b.lane();
    let value = b.load(x, &at);
    let value = b.scalar(op, &[value]);
    b.store(y, &at, value);
    b.finish(&[])
}

/// What the decomposed function gives.
fn apply(op: ScalarOp, xs: &[f32]) -> Vec<f32> {
    let mut padded = xs.to_vec();
    padded.resize(xs.len().next_multiple_of(LANES as usize), 0.0);
    let caps = Caps::vector(LANES);
    let kernel = decompose(&pointwise(op, padded.len()), &caps);
    verify(&kernel, &caps).unwrap();
    let used =
        |name: ScalarOp| kernel.values.iter().any(|r| matches!(&r.value, Value::Scalar(o, _) if *o == name));
    assert!(!used(op), "{} is still there", op.name());
    let input: Vec<u8> = padded.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut output = vec![0; input.len()];
    let params = vec![Buffer::Read(&input), Buffer::Write(&mut output)];
    run(&kernel, &mut Memories { params, symbols: &[] }, Options::default()).unwrap();
    let values = output.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
    values.take(xs.len()).collect()
}

/// Floats of all exponents between two magnitudes, both signs.
fn sweep(low: f32, high: f32, step: usize) -> Vec<f32> {
    (low.to_bits()..high.to_bits())
        .step_by(step)
        .flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)])
        .collect()
}

/// The distance in units of the last place of the exact value, subnormal ones included.
fn ulps(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if rounded.is_infinite() || got.is_infinite() {
        return if rounded == got { 0.0 } else { f64::INFINITY };
    }
    let magnitude = rounded.abs().max(f32::MIN_POSITIVE);
    let unit = f64::from(f32::from_bits(magnitude.to_bits() & 0x7f80_0000)) * 2f64.powi(-23);
    (f64::from(got) - exact).abs() / unit
}

fn worst(op: ScalarOp, xs: &[f32], error: impl Fn(f32, f32) -> f64) -> (f64, f32) {
    let pairs = xs.iter().zip(apply(op, xs));
    let mut worst = (0.0, 0.0);
    for (x, y) in pairs {
        let error = error(*x, y);
        assert!(!error.is_nan(), "{} of {x:e} is {y}", op.name());
        if error > worst.0 {
            worst = (error, *x);
        }
    }
    println!("{}: {:.3e} at {:e}", op.name(), worst.0, worst.1);
    worst
}

#[test]
fn exp_is_within_one_and_a_half_ulp() {
    let mut xs = sweep(1e-8, 110.0, 4919);
    xs.extend((0..40_000).map(|i| -87.0 - i as f32 * 5e-4));
    xs.extend((0..20_000).map(|i| 88.0 + i as f32 * 1e-4));
    let (error, at) = worst(ScalarOp::Exp, &xs, |x, y| ulps(y, f64::from(x).exp()));
    assert!(error <= 1.5, "{error} ulp at {at:e}");
}

#[test]
fn log_is_within_one_and_a_half_ulp() {
    let mut xs: Vec<f32> = (1..f32::INFINITY.to_bits()).step_by(16411).map(f32::from_bits).collect();
    xs.extend((0x3f00_0000..0x4000_0000u32).step_by(307).map(f32::from_bits));
    let (error, at) = worst(ScalarOp::Log, &xs, |x, y| ulps(y, f64::from(x).ln()));
    assert!(error <= 1.5, "{error} ulp at {at:e}");
}

#[test]
fn sin_and_cos_are_within_1e_7_up_to_a_million() {
    let mut xs = sweep(1e-6, 1e6, 4919);
    // Multiples of a quarter turn, where the remainder cancels; positions times a frequency.
    xs.extend((0..640_000).step_by(5).map(|n| (f64::from(n) * std::f64::consts::FRAC_PI_2) as f32));
    xs.extend((0..131_072).map(|n| n as f32));
    type Reference = fn(f64) -> f64;
    for (op, exact) in [(ScalarOp::Sin, f64::sin as Reference), (ScalarOp::Cos, f64::cos as Reference)] {
        let (error, at) = worst(op, &xs, |x, y| (f64::from(y) - exact(f64::from(x))).abs());
        assert!(error <= 1e-7, "{} is off by {error:e} at {at:e}", op.name());
    }
}

#[test]
fn tanh_and_erf_are_within_5e_7_of_their_values() {
    let mut xs = sweep(1e-30, 20.0, 4919);
    xs.extend((0..60_000).map(|i| i as f32 * 1e-4));
    let tanh = |x: f32, y: f32| (f64::from(y) / f64::from(x).tanh() - 1.0).abs();
    let (error, at) = worst(ScalarOp::Tanh, &xs[..xs.len() - 60_000], tanh);
    assert!(error <= 5e-7, "tanh is off by {error:e} at {at:e}");
    let exact = |x: f32| f64::from(ScalarOp::Erf.evaluate(DType::F32, &[Scalar::Float(x)]).float());
    let erf = |x: f32, y: f32| if x == 0.0 { 0.0 } else { (f64::from(y) / exact(x) - 1.0).abs() };
    let (error, at) = worst(ScalarOp::Erf, &xs, erf);
    assert!(error <= 5e-7, "erf is off by {error:e} at {at:e}");
}

#[test]
fn rsqrt_is_within_one_and_a_half_ulp() {
    let xs: Vec<f32> = (1..f32::INFINITY.to_bits()).step_by(16411).map(f32::from_bits).collect();
    let (error, at) = worst(ScalarOp::Rsqrt, &xs, |x, y| ulps(y, 1.0 / f64::from(x).sqrt()));
    assert!(error <= 1.5, "{error} ulp at {at:e}");
}

#[test]
fn edges_are_exact() {
    use ScalarOp as S;
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let cases: &[(S, &[(f32, f32)])] = &[
        (
            S::Exp,
            &[
                (0.0, 1.0),
                (-0.0, 1.0),
                (inf, inf),
                (-inf, 0.0),
                (nan, nan),
                (89.0, inf),
                (1e30, inf),
                (-104.0, 0.0),
                (-1e30, 0.0),
            ],
        ),
        (
            S::Log,
            &[
                (1.0, 0.0),
                (0.0, -inf),
                (-0.0, -inf),
                (-1.0, nan),
                (-inf, nan),
                (-1e-45, nan),
                (inf, inf),
                (nan, nan),
            ],
        ),
        (S::Sin, &[(0.0, 0.0), (-0.0, 0.0), (inf, nan), (-inf, nan), (nan, nan)]),
        (S::Cos, &[(0.0, 1.0), (-0.0, 1.0), (inf, nan), (-inf, nan), (nan, nan)]),
        (
            S::Tanh,
            &[(0.0, 0.0), (-0.0, 0.0), (inf, 1.0), (-inf, -1.0), (nan, nan), (50.0, 1.0), (-1e30, -1.0)],
        ),
        (
            S::Erf,
            &[(0.0, 0.0), (-0.0, -0.0), (inf, 1.0), (-inf, -1.0), (nan, nan), (6.0, 1.0), (-1e30, -1.0)],
        ),
        (S::Rsqrt, &[(0.0, inf), (4.0, 0.5), (inf, 0.0), (-1.0, nan), (nan, nan)]),
    ];
    for (op, points) in cases {
        let xs: Vec<f32> = points.iter().map(|(x, _)| *x).collect();
        for ((x, expected), got) in points.iter().zip(apply(*op, &xs)) {
            let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
            assert!(same, "{} of {x} is {got}, not {expected}", op.name());
        }
    }
    for y in apply(S::Sin, &[1e8, -1e12, 3e38, f32::MAX]) {
        assert!(y.abs() <= 1.0, "{y}");
    }
}

#[test]
fn targets_with_functions_keep_all_but_sin_and_cos() {
    let caps = Caps { decompose: false, ..Caps::vector(LANES) };
    for op in [ScalarOp::Exp, ScalarOp::Log, ScalarOp::Tanh, ScalarOp::Erf, ScalarOp::Rsqrt, ScalarOp::Sqrt] {
        let kernel = pointwise(op, 16);
        assert_eq!(decompose(&kernel, &caps).values.len(), kernel.values.len(), "{}", op.name());
    }
    for op in [ScalarOp::Sin, ScalarOp::Cos] {
        let kernel = pointwise(op, 16);
        assert!(decompose(&kernel, &caps).values.len() > kernel.values.len(), "{}", op.name());
    }
}
