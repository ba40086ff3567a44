//! Products of the shapes that models of 7 thousand million weights have, in every format.

use jtllm_codegen::compile;
use jtllm_codegen::emit::ptx::Ptx;
use jtllm_codegen::kernel::has_products;
use jtllm_codegen::options::Options;
use jtllm_codegen::target::Target;
use jtllm_ir::build::{add, linear, swiglu};
use jtllm_ir::expr::Symbol;
use jtllm_ir::format::FORMATS;
use jtllm_ir::{DType, Expr, Format, Graph};

use crate::assembler::{Kernels, find};
use crate::common::attend::Places;
use crate::common::case::{Case, int, rows};
use crate::common::ptx::team_device;

/// A projection with a residual, and a gate with its partner.
fn graph(format: &Format, rows: &Expr, symbol: Option<&Symbol>) -> Graph {
    let mut graph = Graph::new("layers");
    if let Some(symbol) = symbol {
        graph.symbol(symbol);
    }
    let (width, depth) = (Expr::int(4096), Expr::int(11008));
    let x = graph.input("x", DType::F32, &[rows.clone(), depth.clone()], None);
    let residual = graph.input("residual", DType::F32, &[rows.clone(), width.clone()], None);
    let down = format.weight(&mut graph, "down", &[width.clone(), depth.clone()]);
    let y = linear(&mut graph, x, down, None);
    let y = add(&mut graph, y, residual);
    let gate = format.weight(&mut graph, "gate", &[depth.clone(), width.clone()]);
    let up = format.weight(&mut graph, "up", &[depth, width]);
    let gate = linear(&mut graph, y, gate, None);
    let up = linear(&mut graph, y, up, None);
    let z = swiglu(&mut graph, gate, up);
    graph.output("z", z);
    graph
}

/// All formats for a new device, with matrix units; some for an old one, without those for bf16.
#[test]
fn large_products_of_every_format_stay_in_registers() {
    let Some(ptxas) = find() else { return };
    let symbol = Symbol::new("T", 16, 512, 16);
    for capability in [75, 90] {
        let target = Ptx::new(capability, 99 << 10);
        let mut kernels = Kernels::default();
        let old = ["f32", "f16", "bf16", "q4_0", "q6_k"];
        for format in FORMATS.iter().filter(|format| capability > 75 || old.contains(&format.name)) {
            let one = graph(format, &Expr::int(1), None);
            let many = graph(format, &Expr::symbol(&symbol), Some(&symbol));
            for graph in [one, many] {
                kernels.add(&compile(&graph, target.caps(), &Options::default()).kernels);
            }
        }
        assert!(kernels.len() >= 20, "{}", kernels.len());
        kernels.assemble(&ptxas, &target, &capability.to_string());
    }
    // Few rows that share what is unpacked.
    let target = Ptx::new(90, 99 << 10);
    let mut kernels = Kernels::default();
    for format in FORMATS.iter().filter(|format| ["bf16", "q4_0"].contains(&format.name)) {
        kernels
            .add(&compile(&graph(format, &Expr::int(16), None), target.caps(), &Options::default()).kernels);
    }
    kernels.assemble(&ptxas, &target, "90");
}

#[test]
fn large_products_of_teams_stay_in_registers() {
    let Some(ptxas) = find() else { return };
    let symbol = Symbol::new("T", 16, 512, 16);
    let target = team_device();
    let mut kernels = Kernels::default();
    for format in FORMATS {
        let graph = graph(format, &Expr::symbol(&symbol), Some(&symbol));
        let compilation = compile(&graph, target.caps(), &Options::default());
        let products = compilation.kernels.iter().filter(|kernel| has_products(&kernel.body)).count();
        assert_eq!(products, if format.name == "f32" { 0 } else { 2 }, "{}", format.name);
        kernels.add(&compilation.kernels);
    }
    kernels.assemble(&ptxas, &target, "90a");
}

/// Heads, their width, what the cache holds, and how many heads have keys of their own.
const ATTENTION: [(usize, usize, DType, usize); 12] = [
    (8, 128, DType::F16, 2),
    (8, 128, DType::BF16, 2),
    (8, 64, DType::F32, 2),
    (8, 256, DType::F16, 2),
    (8, 64, DType::F16, 2),
    (8, 64, DType::F16, 8),
    (8, 80, DType::F16, 8),
    (8, 96, DType::BF16, 4),
    (8, 128, DType::F16, 8),
    (8, 256, DType::BF16, 8),
    (16, 128, DType::F16, 2),
    (14, 64, DType::BF16, 2),
];

#[test]
fn attention_of_large_heads_stays_in_registers() {
    let Some(ptxas) = find() else { return };
    for capability in [75, 90] {
        let target = Ptx::new(capability, 99 << 10);
        let mut kernels = Kernels::default();
        for (heads, width, keys, key_heads) in ATTENTION {
            for tokens in [1, 16, 48] {
                let mut case = Case::new("attention");
                let t = rows(&mut case.graph, &mut case.bindings, tokens);
                let places = Places::new(&mut case, &t, tokens);
                let qkv = [("q", heads), ("k", key_heads), ("v", key_heads)].map(|(name, heads)| {
                    case.input(name, &[t.clone(), int(heads), int(width)], &[tokens, heads, width])
                });
                let y = places.attend(&mut case, qkv, keys, None);
                case.graph.output("y", y);
                kernels.add(&compile(&case.graph, target.caps(), &Options::default()).kernels);
            }
        }
        kernels.assemble(&ptxas, &target, &capability.to_string());
    }
}
