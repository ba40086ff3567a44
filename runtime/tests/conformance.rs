//! Every device against the graph interpreter.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use jtllm_ir::interp::{self, Bindings};
use jtllm_ir::{DType, Expr, Graph, Monoid, ScalarOp, Tensor};
use jtllm_runtime::device::Device;
use jtllm_runtime::device::wgpu::Adapter;
use jtllm_runtime::single::Single;

fn noise(count: usize, scale: f32) -> Vec<f32> {
    let mut seed = 7u64;
    let mut next = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
    };
    (0..count).map(|_| next()).collect()
}

fn both(device: &Arc<dyn Device>, graph: &Graph, x: &Tensor) -> (Vec<f32>, Vec<f32>) {
    let mut bindings = Bindings::new();
    bindings.inputs.insert("x".into(), x.clone());
    let expected = interp::run(graph, &mut bindings).unwrap()[0].1.to_floats();
    let mut single = Single::new(device.clone(), graph, Default::default(), &|_| None).unwrap();
    single.give("x", x).unwrap();
    single.run().unwrap();
    (single.read("y").unwrap().to_floats(), expected)
}

#[test]
fn functions() {
    let device: Arc<dyn Device> = Arc::new(Adapter::open().unwrap());
    use ScalarOp as S;
    for op in [
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
    ] {
        let mut graph = Graph::new("f");
        let x = graph.input("x", DType::F32, &[Expr::int(64)], None);
        let y = graph.map(op, &[x]);
        graph.output("y", y);
        let positive = matches!(op, S::Log | S::Sqrt | S::Rsqrt);
        let values: Vec<f32> =
            noise(64, 6.0).into_iter().map(|x| if positive { x.abs() + 0.01 } else { x }).collect();
        let (found, expected) = both(&device, &graph, &Tensor::floats(DType::F32, &[64], values));
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{op:?}: {worst}");
    }
    for monoid in [Monoid::Add, Monoid::Max] {
        for width in [8i64, 16, 64, 100] {
            let mut graph = Graph::new("r");
            let x = graph.input("x", DType::F32, &[Expr::int(3), Expr::int(width)], None);
            let y = graph.reduce(monoid, x, &[1]);
            graph.output("y", y);
            let x = Tensor::floats(DType::F32, &[3, width as usize], noise(3 * width as usize, 1.0));
            let (found, expected) = both(&device, &graph, &x);
            println!("{monoid:?} {width}: {found:?} {expected:?}");
        }
    }
}
