//! Attention of prompts by matrix units: the kernels on the loop-IR interpreter against the graph that they were made
//! from, operands rounded, on the graph interpreter; and as PTX, bit for bit.
#![allow(clippy::unwrap_used)]

mod common;

use common::attend::Places;
use common::case::{Case, int};
use common::ptx::{both, device};
use common::{Launch, compiled, compiled_as, difference, run, run_by};
use jtllm_codegen::Compilation;
use jtllm_codegen::kernel::interp::{self, Buffer, InterpError, Memories};
use jtllm_codegen::kernel::{Access, Kernel, Stmt};
use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::target::{Caps, Target};
use jtllm_ir::expr::Symbol;
use jtllm_ir::interp::Bindings;
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

const PLAIN: Shape = Shape { tokens: 48, heads: 2, key_heads: 2, width: 64, dtype: DType::F16, window: None };

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

/// Statements of a kernel that are like that, wherever they stand.
fn count(body: &[Stmt], like: &dyn Fn(&Stmt) -> bool) -> usize {
    let inside = |stmt: &Stmt| match stmt {
        Stmt::Loop { body, .. } | Stmt::If { body, .. } => count(body, like),
        other => usize::from(like(other)),
    };
    body.iter().map(inside).sum()
}

#[test]
fn caches_are_copied_as_they_lie() {
    let stages = |stmt: &Stmt| matches!(stmt, Stmt::Stage { .. });
    let case = Shape { heads: 4, width: 128, ..PLAIN }.case();
    let kernel = attention(&compiled(&case.graph, &caps(128))).clone();
    // Rows of 16 bytes a lane: of 32 queries, of 128 numbers of keys in blocks of 64, first and next, of 64 values.
    assert_eq!(count(&kernel.body, &stages), 4 + 2 * 8 + 8, "{kernel}");
    // Without such copies lanes bring all, and the result is the same.
    let plain = Caps { stage: false, ..caps(128) };
    let compilation = compiled(&case.graph, &plain);
    assert_eq!(count(&attention(&compilation).body, &stages), 0);
    let outputs = |compilation: &Compilation, caps: &Caps| run(compilation, caps, &mut case.bindings.clone());
    let by_lanes = outputs(&compilation, &plain);
    assert_eq!(by_lanes, outputs(&compiled(&case.graph, &caps(128)), &caps(128)));
}

#[test]
fn ptx_computes_the_same_bits() {
    let shapes = [
        Shape { tokens: 32, heads: 4, ..PLAIN },
        Shape { tokens: 32, width: 80, dtype: DType::BF16, window: Some(40), ..PLAIN },
        Shape { tokens: 16, width: 128, heads: 8, ..PLAIN },
        Shape { tokens: 304, heads: 1, key_heads: 1, ..PLAIN },
        Shape { tokens: 32, width: 256, ..PLAIN },
    ];
    for capability in [75, 80] {
        let target = device(capability);
        for shape in shapes {
            let case = shape.case();
            let compilation = compiled(&case.graph, target.caps());
            let units = !attention(&compilation).fragments.is_empty();
            assert_eq!(units, target.caps().matrix.unwrap().has(shape.dtype), "{}", case.graph.name);
            let mut bindings = case.bindings.clone();
            run_by(&compilation, target.caps(), &mut bindings, &mut |launch| both(&target, launch));
        }
    }
}

/// Whether a graph rounds something of that shape to a type.
fn rounds(compilation: &Compilation, dtype: DType, rank: usize) -> bool {
    let graph = &compilation.graph;
    graph.nodes().any(|node| {
        matches!(graph.op(node), Op::Map { op: ScalarOp::Cast(to), .. } if *to == dtype)
            && graph.shape(node).len() == rank
            && graph.shape(node)[1].as_int() == Some(4)
    })
}

#[test]
fn graphs_show_what_is_rounded() {
    let shape = Shape { heads: 4, ..PLAIN };
    for (dtype, caps, compute, expected) in [
        (DType::F16, caps(128), Compute::Auto, Some(DType::F16)),
        (DType::BF16, caps(128), Compute::Auto, Some(DType::BF16)),
        (DType::BF16, caps(128), Compute::F16, Some(DType::BF16)),
        (DType::F32, caps(128), Compute::Bf16, None),
        (DType::F16, caps(128), Compute::F32, None),
        (DType::F16, Caps::threads(128), Compute::Auto, None),
    ] {
        let case = Shape { dtype, ..shape }.case();
        let compilation = compiled_as(&case.graph, &caps, &Options { compute, ..Options::default() });
        for narrow in [DType::F16, DType::BF16] {
            // Queries and weights of four heads; keys and values have two.
            assert_eq!(rounds(&compilation, narrow, 3), expected == Some(narrow), "{dtype} {compute}");
        }
        assert_eq!(!attention(&compilation).fragments.is_empty(), expected.is_some(), "{dtype} {compute}");
    }
}

#[test]
fn what_units_cannot_cut_stays_with_lanes() {
    let by_lanes = |shape: Shape, caps: &Caps| {
        let compilation = compiled(&shape.case().graph, caps);
        assert!(attention(&compilation).fragments.is_empty());
        assert!(!rounds(&compilation, shape.dtype, 3));
    };
    let shape = Shape { heads: 4, ..PLAIN };
    by_lanes(Shape { width: 72, ..shape }, &caps(128));
    by_lanes(Shape { width: 128, ..shape }, &Caps { shared_bytes: 16 << 10, ..caps(128) });
    // Rows of a batch belong to a sequence each.
    let mut case = Case::new("batch");
    case.bindings.symbols.insert("T".to_owned(), 16);
    let t = case.graph.symbol(&Symbol::new("T", 16, 512, 16));
    let places = Places::of(&mut case, &t, 16, false);
    let qkv = ["q", "k", "v"].map(|name| case.input(name, &[t.clone(), int(2), int(64)], &[16, 2, 64]));
    let y = places.attend(&mut case, qkv, DType::F16, None);
    case.graph.output("y", y);
    assert!(attention(&compiled(&case.graph, &caps(128))).fragments.is_empty());
}

/// What the interpreter says of a compilation's attention after a change.
fn broken(
    compilation: &Compilation,
    bindings: &Bindings,
    change: &mut dyn FnMut(&mut Kernel),
) -> Result<(), InterpError> {
    let mut result = Ok(());
    run_by(compilation, &caps(128), &mut bindings.clone(), &mut |mut launch: Launch<'_>| {
        let mut kernel = launch.kernel.clone();
        if kernel.name != "attend" {
            return launch.interpret(&caps(128));
        }
        change(&mut kernel);
        let params = launch.params.iter_mut().zip(&kernel.params);
        let params = params.map(|(bytes, param)| match param.access {
            Access::Read => Buffer::Read(bytes),
            Access::Write | Access::Update => Buffer::Write(bytes),
        });
        let mut memories = Memories { params: params.collect(), symbols: launch.symbols };
        let options = interp::Options { threads: true };
        result = interp::run_groups(&kernel, &mut memories, 0..launch.groups, options);
    });
    result
}

/// Takes away the statement number `number` of those that are like that.
fn without(body: &mut Vec<Stmt>, number: &mut usize, like: &dyn Fn(&Stmt) -> bool) {
    body.retain_mut(|stmt| match stmt {
        Stmt::Loop { body, .. } | Stmt::If { body, .. } => {
            without(body, number, like);
            true
        }
        other if like(other) => {
            *number = number.wrapping_sub(1);
            *number != usize::MAX
        }
        _ => true,
    });
}

#[test]
fn every_barrier_and_every_wait_is_needed() {
    let case = Shape { heads: 1, key_heads: 1, ..PLAIN }.case();
    let compilation = compiled(&case.graph, &caps(128));
    assert!(broken(&compilation, &case.bindings, &mut |_| ()).is_ok());
    let barrier = |stmt: &Stmt| matches!(stmt, Stmt::Barrier);
    let wait = |stmt: &Stmt| matches!(stmt, Stmt::StageWait { .. });
    for like in [&barrier as &dyn Fn(&Stmt) -> bool, &wait] {
        let all = count(&attention(&compilation).body, like);
        assert!(all >= 2);
        for mut number in 0..all {
            let found = broken(&compilation, &case.bindings, &mut |kernel| {
                without(&mut kernel.body, &mut number, like);
            });
            let named = matches!(found, Err(InterpError::Race { .. } | InterpError::UnderWay { .. }));
            assert!(named, "{found:?}");
        }
    }
}

#[test]
fn what_nobody_sees_may_be_anything() {
    let case = Shape { tokens: 32, ..PLAIN }.case();
    let table = case.bindings.inputs["table"].clone();
    // The pasts of the two sequences, with their 16 rows of the chunk.
    let seen: Vec<i64> = [(0, 70 + 16), (1, 3 + 16)]
        .into_iter()
        .flat_map(|(sequence, length)| (0..length).map(move |at| (sequence, at)))
        .map(|(sequence, at)| table.get(sequence * 8 + at / 16).int() * 16 + (at % 16) as i64)
        .collect();
    let mut stale = case.bindings.clone();
    for (name, inner) in [("keys", 1), ("values", 64)] {
        let state = stale.states.get_mut(name).unwrap();
        let mut numbers = state.to_floats();
        for (at, number) in numbers.iter_mut().enumerate() {
            let slot = (at / (2 * 64 * 16) * 16 + at / inner % 16) as i64;
            if !seen.contains(&slot) {
                *number = f32::NAN;
            }
        }
        assert!(numbers.iter().any(|x| x.is_nan()) && numbers.iter().any(|x| !x.is_nan()));
        *state = jtllm_ir::Tensor::floats(DType::F16, &state.shape.clone(), numbers);
    }
    let compilation = compiled(&case.graph, &caps(128));
    let expected = run(&compilation, &caps(128), &mut case.bindings.clone());
    assert_eq!(run(&compilation, &caps(128), &mut stale), expected);
}
