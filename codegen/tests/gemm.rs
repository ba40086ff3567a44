//! Matrix products of many rows on matrix units: the kernels on the loop-IR interpreter against the graph that they
//! were made from, operands rounded, on the graph interpreter.
#![allow(clippy::unwrap_used)]

mod common;

use common::case::{Case, int};
use common::{compiled_as, difference, run};
use jtllm_codegen::Compilation;
use jtllm_codegen::kernel::{Stmt, Value, ValueRecord};
use jtllm_codegen::options::{Compute, Options};
use jtllm_codegen::target::Caps;
use jtllm_ir::build::{self, linear, linear_heads, rms_norm, swiglu};
use jtllm_ir::expr::Symbol;
use jtllm_ir::format::{FORMATS, Format};
use jtllm_ir::{DType, Expr};

/// Sums of a few hundred products in another order.
const ORDER: f32 = 5e-6;
/// A rounded operand may fall to either side of a border.
const BORDER: f32 = 2e-3;
/// Operands of 8 significant bits, in sums whose terms cancel.
const BF16: f32 = 2e-2;

fn caps(lanes: u32) -> Caps {
    Caps::threads(128).with_matrix(lanes)
}

/// The rows of a case: a symbol where chunks have so many, else a number.
fn extent(case: &mut Case, count: usize) -> Expr {
    if !count.is_multiple_of(16) {
        return int(count);
    }
    case.bindings.symbols.insert("T".to_owned(), count as i64);
    case.graph.symbol(&Symbol::new("T", 16, 512, 16))
}

fn uses_matrix(compilation: &Compilation) -> usize {
    compilation.kernels.iter().filter(|kernel| !kernel.fragments.is_empty()).count()
}

/// Compares all outputs with the rewritten graph and, more loosely, with the graph as it was.
fn check(case: &Case, caps: &Caps, tolerance: f32) -> Compilation {
    let compilation = compiled_as(&case.graph, caps, &Options::default());
    let found = run(&compilation, caps, &mut case.bindings.clone());
    for (graph, tolerance) in [(&compilation.graph, tolerance), (&case.graph, BF16)] {
        for (name, expected) in jtllm_ir::interp::run(graph, &mut case.bindings.clone()).unwrap() {
            let error = difference(&found[&name], &expected.to_floats());
            assert!(error < tolerance, "{}: output {name} differs by {error}", case.graph.name);
        }
    }
    compilation
}

fn linear_case(format: &'static Format, [tokens, width, depth]: [usize; 3]) -> Case {
    let mut case = Case::new(&format!("linear {} {tokens}x{width}x{depth}", format.name));
    let t = extent(&mut case, tokens);
    let x = case.input("x", &[t.clone(), int(depth)], &[tokens, depth]);
    let residual = case.input("r", &[t, int(width)], &[tokens, width]);
    let w = case.weight(format, "w", &[width, depth]);
    let bias = case.weight(Format::find("f32").unwrap(), "b", &[width]);
    let y = linear(&mut case.graph, x, w, Some(bias));
    let y = build::add(&mut case.graph, y, residual);
    case.graph.output("y", y);
    case
}

#[test]
fn products_of_every_shape() {
    let shapes = [
        [16, 64, 32],
        [48, 100, 72],
        [300, 130, 96],
        [48, 64, 37],
        [64, 24, 96],
        [32, 256, 256],
        [512, 128, 16],
    ];
    for format in ["bf16", "f16", "f32"] {
        for (number, shape) in shapes.into_iter().enumerate() {
            let case = linear_case(Format::find(format).unwrap(), shape);
            for lanes in [[32, 256], [128, 256]][number % 2] {
                let compilation = check(&case, &caps(lanes), ORDER);
                let units = format != "f32" && (shape[1] >= 64 || lanes == 32);
                assert_eq!(uses_matrix(&compilation), usize::from(units), "{}", case.graph.name);
            }
        }
    }
}

/// Whether lanes bring tiles to shared memory and multiply them themselves.
fn is_tiled(compilation: &Compilation) -> bool {
    let kernel = &compilation.kernels[compilation.steps[0].kernel];
    let joins = |record: &ValueRecord| matches!(record.value, Value::LaneReduce(..));
    kernel.shared.len() == 2 && kernel.fragments.is_empty() && !kernel.values.iter().any(joins)
}

#[test]
fn lanes_multiply_tiles_where_there_are_no_units() {
    let shapes = [[16usize, 64, 32], [48, 100, 72], [300, 130, 96], [48, 64, 37], [32, 24, 64]];
    for format in FORMATS {
        for shape in shapes {
            let [tokens, width, depth] = shape;
            if format.block > 1 && !depth.is_multiple_of(32) {
                continue;
            }
            let case = linear_case(format, [tokens, width, depth * (format.block / 32).max(1)]);
            let small = Caps { shared_bytes: 16 << 10, ..Caps::threads(64) };
            let compilation = check(&case, &small, ORDER);
            assert!(is_tiled(&compilation), "{}", case.graph.name);
        }
    }
    for lanes in [128, 256] {
        let case = linear_case(Format::find("q4_0").unwrap(), [48, 2100, 64]);
        assert!(is_tiled(&check(&case, &Caps::threads(lanes), ORDER)));
        let staged = linear_case(Format::find("f32").unwrap(), [48, 130, 100]);
        let compilation = check(&staged, &caps(lanes), ORDER);
        assert!(is_tiled(&compilation));
        assert!(stages(&compilation.kernels[0].body) > 0, "float32 is copied as it is");
    }
    // Few lanes go on as they did, unless tiles have groups of their own: then the bits are those of any such groups.
    let case = linear_case(Format::find("q4_0").unwrap(), [48, 130, 96]);
    assert!(!is_tiled(&check(&case, &Caps::threads(32), ORDER)));
    let own = [8, 32].map(|lanes| Caps { tile_lanes: 64, ..Caps::threads(lanes) });
    let bits = own.map(|caps| {
        let compilation = check(&case, &caps, ORDER);
        assert!(is_tiled(&compilation));
        assert_eq!(compilation.kernels[0].lanes, 64);
        run(&compilation, &caps, &mut case.bindings.clone())["y"].iter().map(|x| x.to_bits()).collect()
    });
    let [few, many]: [Vec<u32>; 2] = bits;
    assert_eq!(few, many);
}

#[test]
fn large_tiles_serve_wide_products() {
    let case = linear_case(Format::find("bf16").unwrap(), [144, 3080, 40]);
    let compilation = check(&case, &caps(256), ORDER);
    let groups = &compilation.kernels[compilation.steps.last().unwrap().kernel].grid[1];
    assert_eq!(groups.as_int(), Some(25), "tiles are 128 columns wide");
    check(&linear_case(Format::find("q4_0").unwrap(), [128, 3072, 64]), &caps(256), ORDER);
}

#[test]
fn packed_weights_are_unpacked_into_shared_memory() {
    for format in FORMATS.iter().filter(|format| !format.is_direct()) {
        let depth = 96 * (format.block / 32).max(1);
        let case = linear_case(format, [48, 130, depth]);
        let compilation = check(&case, &caps(128), ORDER);
        assert_eq!(uses_matrix(&compilation), 1, "{}", format.name);
    }
}

/// Whether a kernel copies from the buffer of that parameter asynchronously.
fn stages(body: &[Stmt]) -> usize {
    body.iter()
        .map(|stmt| match stmt {
            Stmt::Stage { .. } => 1,
            Stmt::Loop { body, .. } | Stmt::If { body, .. } => stages(body),
            _ => 0,
        })
        .sum()
}

/// A norm, gate and up with SwiGLU, and the way back.
fn block_case(format: &'static Format, tokens: usize) -> Case {
    let mut case = Case::new(&format!("block {} {tokens}", format.name));
    let (width, inner) = (256, 256);
    let t = extent(&mut case, tokens);
    let x = case.input("x", &[t, int(width)], &[tokens, width]);
    let norm = case.weight(Format::find("f32").unwrap(), "norm", &[width]);
    let y = rms_norm(&mut case.graph, x, norm, 1e-5);
    let gate = case.weight(format, "gate", &[inner, width]);
    let up = case.weight(format, "up", &[inner, width]);
    let down = case.weight(format, "down", &[width, inner]);
    let gate = linear(&mut case.graph, y, gate, None);
    let up = linear(&mut case.graph, y, up, None);
    let y = swiglu(&mut case.graph, gate, up);
    let y = linear(&mut case.graph, y, down, None);
    let y = build::add(&mut case.graph, y, x);
    case.graph.output("y", y);
    case
}

#[test]
fn what_a_kernel_makes_for_a_product_is_stored_in_its_type() {
    for name in ["bf16", "f16", "q4_0", "q8_0", "q4_k"] {
        let format = Format::find(name).unwrap();
        let case = block_case(format, 48);
        let compilation = check(&case, &caps(128), BORDER);
        let names: Vec<&str> = compilation.partition.regions.iter().map(|r| r.work.name()).collect();
        assert_eq!(names, ["rows", "gemm", "gemm"], "{name}");
        let dtype = if name == "f16" { DType::F16 } else { DType::BF16 };
        for step in &compilation.steps[1..] {
            let kernel = &compilation.kernels[step.kernel];
            assert!(!kernel.fragments.is_empty(), "{name}: {kernel}");
            assert!(kernel.params.iter().any(|param| param.dtype == dtype), "{name}: {kernel}");
            assert!(stages(&kernel.body) > 0, "{name}: {kernel}");
        }
    }
}

#[test]
fn heads_and_gathered_rows_are_products_too() {
    let mut case = Case::new("heads");
    let t = extent(&mut case, 64);
    let hidden = case.input("hidden", &[t.clone(), int(96)], &[64, 96]);
    let end = t.clone();
    let ids = (0..48).map(|at| at * 37 % 64).collect();
    let out = case.ints("out", &[int(48)], &[48], (0, end), ids);
    let shape = [int(48), int(96)];
    let rows = case.graph.view(hidden, &shape, &[out], |c| vec![c.extra(0, &[c.axis(0)]), c.axis(1)]);
    let w = case.weight(Format::find("bf16").unwrap(), "w", &[4 * 24, 96]);
    let y = linear_heads(&mut case.graph, rows, w, None, [4, 24]);
    case.graph.output("y", y);
    let z = linear_heads(&mut case.graph, hidden, w, None, [4, 24]);
    case.graph.output("z", z);
    let compilation = check(&case, &caps(128), ORDER);
    assert_eq!(uses_matrix(&compilation), 2);
}

#[test]
fn columns_may_be_chosen_by_a_table_that_ends_inside_a_step() {
    let mut case = Case::new("columns");
    let [hidden, ids] = [
        case.input("hidden", &[int(32), int(5)], &[32, 5]),
        case.ints("ids", &[int(9)], &[9], (0, int(5)), (0..9).map(|at| at * 3 % 5).collect()),
    ];
    let shape = [int(32), int(9)];
    let x = case.graph.view(hidden, &shape, &[ids], |c| vec![c.axis(0), c.extra(0, &[c.axis(1)])]);
    let w = case.weight(Format::find("f32").unwrap(), "w", &[40, 9]);
    let y = linear(&mut case.graph, x, w, None);
    case.graph.output("y", y);
    // Where asynchronous copies could bring numbers that lie side by side, it is asked whether these do.
    let tiles = Caps { stage: true, ..Caps::threads(128) };
    for caps in [caps(128), tiles] {
        check(&case, &caps, ORDER);
    }
    case.check();
}

#[test]
fn a_compute_type_rounds_operands_on_every_target() {
    for compute in [Compute::Bf16, Compute::F16] {
        for tokens in [1, 48] {
            for format in ["f32", "q4_0"] {
                let case = match tokens {
                    48 => block_case(Format::find(format).unwrap(), tokens),
                    _ => linear_case(Format::find(format).unwrap(), [tokens, 64, 96]),
                };
                for caps in [Caps::vector(8), Caps::threads(32), caps(128)] {
                    let compilation =
                        compiled_as(&case.graph, &caps, &Options { compute, ..Options::default() });
                    let found = run(&compilation, &caps, &mut case.bindings.clone());
                    let same = jtllm_ir::interp::run(&compilation.graph, &mut case.bindings.clone()).unwrap();
                    let exact = jtllm_ir::interp::run(&case.graph, &mut case.bindings.clone()).unwrap();
                    let [same, exact] =
                        [same, exact].map(|outputs| difference(&found["y"], &outputs[0].1.to_floats()));
                    assert!(same < BORDER, "{} {compute}: {same}", case.graph.name);
                    assert!(exact > 1e-6 && exact < BF16, "{} {compute}: {exact}", case.graph.name);
                }
            }
        }
    }
}

#[test]
fn float32_is_the_same_with_and_without_matrix_units() {
    let case = block_case(Format::find("q4_0").unwrap(), 48);
    let options = Options { compute: Compute::F32, ..Options::default() };
    let [with, without] = [caps(128), Caps::threads(128)].map(|caps| {
        let compilation = compiled_as(&case.graph, &caps, &options);
        assert_eq!(uses_matrix(&compilation), 0);
        run(&compilation, &caps, &mut case.bindings.clone()).remove("y").unwrap()
    });
    assert_eq!(with, without);
}

/// A device whose units multiply for teams of 128 lanes, two a group.
fn teams() -> Caps {
    Caps { shared_bytes: 223 << 10, ..Caps::threads(128).with_matrix(128).with_teams(256) }
}

/// Kernels in which teams multiply, and how many columns each of their tiles has.
fn team_columns(compilation: &Compilation) -> Vec<usize> {
    fn columns(body: &[Stmt]) -> Option<usize> {
        body.iter().find_map(|stmt| match stmt {
            Stmt::Product { sums, .. } => Some(sums.len() * 8),
            Stmt::Loop { body, .. } | Stmt::If { body, .. } => columns(body),
            _ => None,
        })
    }
    compilation.kernels.iter().filter_map(|kernel| columns(&kernel.body)).collect()
}

#[test]
fn teams_multiply_tiles_of_every_shape() {
    let shapes = [
        [16, 64, 32],
        [48, 100, 72],
        [300, 130, 96],
        [48, 64, 37],
        [64, 64, 64],
        [160, 256, 256],
        [144, 128, 200],
        [512, 128, 456],
    ];
    for (number, shape) in shapes.into_iter().enumerate() {
        let format = ["bf16", "f16"][number % 2];
        let compilation = check(&linear_case(Format::find(format).unwrap(), shape), &teams(), ORDER);
        assert_eq!(team_columns(&compilation), [64], "{shape:?}");
    }
    // Where lanes multiply, or a warp's units.
    for (format, shape) in [("f32", [48, 64, 32]), ("bf16", [33, 64, 32]), ("bf16", [48, 48, 32])] {
        let compilation = check(&linear_case(Format::find(format).unwrap(), shape), &teams(), ORDER);
        assert_eq!(team_columns(&compilation), [0; 0], "{shape:?}");
    }
}

#[test]
fn teams_take_wide_tiles_where_there_are_enough() {
    for (width, columns) in [(3072, 128), (6144, 256)] {
        let case = linear_case(Format::find("bf16").unwrap(), [16, width, 64]);
        let compilation = check(&case, &teams(), ORDER);
        assert_eq!(team_columns(&compilation), [columns], "{width}");
    }
}

#[test]
fn teams_multiply_what_lanes_have_unpacked() {
    for format in FORMATS.iter().filter(|format| !format.is_direct()) {
        let depth = 96 * (format.block / 32).max(1);
        for depth in [depth, depth * 2 / 3] {
            let compilation = check(&linear_case(format, [48, 130, depth]), &teams(), ORDER);
            assert_eq!(team_columns(&compilation), [64], "{}", format.name);
        }
    }
}

#[test]
fn teams_hold_sums_of_siblings() {
    for name in ["bf16", "q4_0"] {
        let compilation = check(&block_case(Format::find(name).unwrap(), 48), &teams(), BORDER);
        assert_eq!(team_columns(&compilation), [64, 64], "{name}");
    }
}
