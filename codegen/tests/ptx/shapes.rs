//! Products of the shapes that models of 7 thousand million weights have, in every format.

use jtllm_codegen::compile;
use jtllm_codegen::emit::ptx::Ptx;
use jtllm_codegen::options::Options;
use jtllm_codegen::target::Target;
use jtllm_ir::build::{add, linear, swiglu};
use jtllm_ir::expr::Symbol;
use jtllm_ir::format::FORMATS;
use jtllm_ir::{DType, Expr, Format, Graph};

use crate::assembler::{Kernels, find};

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

#[test]
fn large_products_of_every_format_stay_in_registers() {
    let Some(ptxas) = find() else { return };
    let symbol = Symbol::new("T", 16, 512, 16);
    for capability in [75, 90] {
        let target = Ptx::new(capability, 99 << 10);
        let mut kernels = Kernels::default();
        for format in FORMATS {
            for rows in [1, 16] {
                let graph = graph(format, &Expr::int(rows), None);
                kernels.add(&compile(&graph, target.caps(), &Options::default()).kernels);
            }
            let graph = graph(format, &Expr::symbol(&symbol), Some(&symbol));
            kernels.add(&compile(&graph, target.caps(), &Options::default()).kernels);
        }
        assert!(kernels.len() >= FORMATS.len() * 2);
        kernels.assemble(&ptxas, &target, capability);
    }
}
