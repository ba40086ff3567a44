//! Attention of prompts by matrix units: the kernels on the loop-IR interpreter against the graph that they were made
//! from, operands rounded, on the graph interpreter; and as PTX, bit for bit.
#![allow(clippy::unwrap_used)]

mod common;

use common::attend::Places;
use common::case::{Case, int};
use common::ptx::{both, device};
use common::{compiled_as, difference, run, run_by};
use jtllm_codegen::kernel::interp::InterpError;
use jtllm_codegen::kernel::{Kernel, Stmt};
use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::target::{Caps, Target};
use jtllm_codegen::Compilation;
use jtllm_ir::expr::Symbol;
use jtllm_ir::{DType, Op, ScalarOp};

/// What is attended to.
#[derive(Clone, Copy)]
struct Shape {
    tokens: usize,
    heads: usize,
    key_heads: usize,
    width: usize,
    dtype: DType,
    window: Option<i64>,
}

const PLAIN: Shape =
    Shape { tokens: 48, heads: 2, key_heads: 2, width: 64, dtype: DType::F16, window: None };

impl Shape {
    fn case(self) -> Case {
        let Shape { tokens, heads, key_heads, width, dtype, .. } = self;
        let mut case = Case::new(&format!("attend {tokens} {heads} of {key_heads} {width} {dtype}"));
        case.bindings.symbols.insert("T".to_owned(), tokens as i64);
        let t = case.graph.symbol(&Symbol::new("T", 16, 512, 16));
        let places = Places::of(&mut case, &t, tokens, true);
        let qkv = [("q", heads), ("k", key_heads), ("v", key_heads)];
        let qkv = qkv.map(|(name, heads)| {
            case.input(name, &[t.clone(), int(heads), int(width)], &[tokens, heads, width])
        });
        let y = places.attend(&mut case, qkv, dtype, self.window);
        case.graph.output("y", y);
        case
    }

    /// How far a weight may be off that is rounded relative to the largest score so far instead of the row's: half
    /// of the last place on either side.
    fn tolerance(self) -> f32 {
        if self.dtype == DType::BF16 { 4e-3 } else { 5e-4 }
    }
}

fn caps(lanes: u32) -> Caps {
    Caps { shared_bytes: 99 << 10, ..Caps::threads(128) }.with_matrix(lanes)
}

fn attention(compilation: &Compilation) -> &Kernel {
    compilation.kernels.iter().find(|kernel| kernel.name == "attend").unwrap()
}

/// Compares with the graph whose operands are rounded and, more loosely, with the graph as it was.
fn check(shape: Shape, caps: &Caps) -> Compilation {
    let case = shape.case();
    let compilation = compiled_as(&case.graph, caps, &Options::default());
    assert!(!attention(&compilation).fragments.is_empty(), "{}", case.graph.name);
    let found = run(&compilation, caps, &mut case.bindings.clone());
    for (graph, more) in [(&compilation.graph, 1.0), (&case.graph, 3.0)] {
        for (name, expected) in jtllm_ir::interp::run(graph, &mut case.bindings.clone()).unwrap() {
            let error = difference(&found[&name], &expected.to_floats());
            assert!(error < shape.tolerance() * more, "{}: {name} differs by {error}", case.graph.name);
        }
    }
    compilation
}

#[test]
fn prompts_of_every_shape() {
    for dtype in [DType::F16, DType::BF16] {
        for (tokens, width) in [(16, 64), (32, 80), (48, 128), (304, 64)] {
            check(Shape { tokens, width, dtype, ..PLAIN }, &caps(128));
        }
    }
    for (width, lanes) in [(16, 128), (96, 128), (256, 128), (64, 32), (80, 64), (128, 256)] {
        check(Shape { width, ..PLAIN }, &caps(lanes));
    }
}

#[test]
fn heads_that_share_keys_share_a_group() {
    for (heads, key_heads, together) in [(4, 2, 2), (8, 2, 4), (8, 1, 4), (6, 2, 1), (3, 3, 1)] {
        let compilation = check(Shape { heads, key_heads, ..PLAIN }, &caps(128));
        let groups = attention(&compilation).grid[0].as_int();
        assert_eq!(groups, Some((heads / together) as i64), "{heads} of {key_heads}");
    }
}

#[test]
fn windows_skip_blocks() {
    for window in [5, 40, 100] {
        check(Shape { window: Some(window), ..PLAIN }, &caps(128));
    }
}
