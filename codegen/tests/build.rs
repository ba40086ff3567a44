//! What the builder promises: sharing, hoisting, folding; and the analysis of what varies between lanes.

#![allow(clippy::unwrap_used)]

use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::{Access, Kernel, Memory, Stmt, Value, ValueId, verify};
use jtllm_codegen::target::Caps;
use jtllm_ir::{DType, Expr, Monoid, Scalar, ScalarOp, Symbol};

fn builder(lanes: u32) -> (Builder, Memory, Memory) {
    let mut b = Builder::new("test", lanes, [Expr::int(4), Expr::int(1), Expr::int(1)]);
    let x = b.param(DType::F32, Access::Read, Expr::int(1024), false);
    let y = b.param(DType::F32, Access::Write, Expr::int(1024), false);
    (b, x, y)
}

fn lets(body: &[Stmt]) -> Vec<ValueId> {
    body.iter().filter_map(|stmt| if let Stmt::Let(id) = stmt { Some(*id) } else { None }).collect()
}

fn loads(kernel: &Kernel, body: &[Stmt]) -> usize {
    lets(body).into_iter().filter(|id| matches!(kernel.record(*id).value, Value::Load { .. })).count()
}

fn inner(body: &[Stmt]) -> &[Stmt] {
    let found = body.iter().find_map(|stmt| match stmt {
        Stmt::Loop { body, .. } | Stmt::If { body, .. } => Some(body),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn equal_values_are_computed_once() {
    let (mut b, x, y) = builder(8);
    let lane = b.lane();
    let (one, other) = (b.load(x, &lane), b.load(x, &lane));
    assert_eq!(one, other);
    let (square, again) = (b.scalar(ScalarOp::Mul, &[one, one]), b.scalar(ScalarOp::Mul, &[other, one]));
    assert_eq!(square, again);
    b.store(y, &lane, again);
    assert_eq!(b.finish(&[]).values.len(), 2);
}

#[test]
fn cells_and_shared_memory_are_read_where_it_is_asked_for() {
    let (mut b, ..) = builder(8);
    let s = b.shared(DType::F32, 8);
    let lane = b.lane();
    let zero = b.float(0.0);
    let cell = b.cell(zero);
    assert_ne!(b.get(cell), b.get(cell));
    assert_ne!(b.load(s, &lane), b.load(s, &lane));
}

#[test]
fn an_invariant_load_leaves_the_loop() {
    let (mut b, x, y) = builder(8);
    let lane = b.lane();
    b.repeat(&Expr::int(5), |b, k| {
        let fixed = b.load(x, &lane);
        let moving = b.load(x, &(k.clone() * 8 + lane.clone()));
        let sum = b.scalar(ScalarOp::Add, &[fixed, moving]);
        b.store(y, &(k * 8 + lane.clone()), sum);
    });
    let kernel = b.finish(&[]);
    assert_eq!(verify(&kernel, &Caps::vector(8)), Ok(()));
    assert_eq!((loads(&kernel, &kernel.body), loads(&kernel, inner(&kernel.body))), (1, 1));
}

#[test]
fn a_load_stays_under_its_condition_but_leaves_loops_inside_it() {
    let (mut b, x, y) = builder(8);
    let (row, lane) = (b.grid(0), b.lane());
    b.when(&row.less_than(&Expr::int(3)), |b| {
        b.repeat(&Expr::int(5), |b, k| {
            let v = b.load(x, &lane);
            b.store(y, &(k * 8 + lane.clone()), v);
        });
    });
    let kernel = b.finish(&[]);
    let conditional = inner(&kernel.body);
    assert_eq!((loads(&kernel, &kernel.body), loads(&kernel, conditional)), (0, 1));
    assert_eq!(loads(&kernel, inner(conditional)), 0);
}

#[test]
fn constants_fold_except_through_transcendental_functions() {
    let (mut b, ..) = builder(8);
    let (two, three) = (b.float(2.0), b.float(3.0));
    assert_eq!(b.scalar(ScalarOp::Mul, &[two, three]), b.float(6.0));
    let e = b.scalar(ScalarOp::Exp, &[two]);
    assert!(b.as_expr(e, 0, &Expr::int(1)).as_int().is_none());
    let (tenth, rounded) =
        (b.constant(DType::F16, Scalar::Float(0.1)), b.constant(DType::F16, Scalar::Float(0.099_975_586)));
    assert_eq!(tenth, rounded, "constants are rounded to their type");
}

#[test]
fn symbols_that_bound_a_value_are_declared() {
    let pages = Symbol::new("pages", 1, 64, 1);
    let (mut b, x, y) = builder(8);
    let table = b.param(DType::I32, Access::Read, Expr::int(8), false);
    let page = b.load(table, &Expr::int(0));
    let page = b.as_expr(page, 0, &Expr::symbol(&pages));
    let lane = b.lane();
    let v = b.load(x, &(page * 8 + lane.clone()));
    b.store(y, &lane, v);
    let kernel = b.finish(&[Symbol::new("T", 1, 9, 1), pages.clone()]);
    assert_eq!(kernel.symbols, [(pages, 1)]);
    assert_eq!(verify(&kernel, &Caps::vector(8)), Ok(()));
}

#[test]
fn an_index_that_its_type_wraps_is_not_its_expression() {
    let (mut b, ..) = builder(8);
    let wide = b.grid(0) * (1 << 31);
    let value = b.index(DType::I32, &wide);
    assert_ne!(b.as_expr(value, 0, &Expr::int(4)), wide);
}

#[test]
fn what_depends_on_the_lane_varies() {
    let (mut b, x, _) = builder(8);
    let (row, lane) = (b.grid(0), b.lane());
    let same = b.load(x, &row);
    let own = b.load(x, &lane);
    let total = b.lane_reduce(Monoid::Add, own);
    let (late, early) = (b.cell(same), b.cell(same));
    // The first cell varies from its second round on: it takes what the second cell held before.
    let mut seen = Vec::new();
    b.repeat(&Expr::int(3), |b, _| {
        let held = b.get(early);
        b.set(late, held);
        b.set(early, own);
        seen.push(held);
    });
    let parted = b.cell(same);
    b.when(&lane.less_than(&Expr::int(2)), |b| b.set(parted, total));
    let y = b.param(DType::F32, Access::Write, Expr::int(64), false);
    for cell in [late, early, parted] {
        let v = b.get(cell);
        b.store(y, &lane, v);
    }
    let kernel = b.finish(&[]);
    let varying = kernel.varying();
    let of = |test: fn(&Value) -> bool| {
        let ids = (0..kernel.values.len() as u32).map(ValueId);
        ids.filter(|id| test(&kernel.record(*id).value)).map(|id| varying.value(id)).collect::<Vec<_>>()
    };
    assert_eq!(of(|v| matches!(v, Value::Load { .. })), [false, true]);
    assert_eq!(of(|v| matches!(v, Value::LaneReduce(..))), [false]);
    assert_eq!(of(|v| matches!(v, Value::Cell(_))), [true, true, true, true]);
    assert!(seen.len() == 1);
}

#[test]
fn the_key_is_the_kernel_without_its_name() {
    let build = |name: &str, factor: f32| {
        let mut b = Builder::new(name, 8, [Expr::int(1), Expr::int(1), Expr::int(1)]);
        let y = b.param(DType::F32, Access::Write, Expr::int(8), false);
        let (lane, v) = (b.lane(), b.float(factor));
        b.store(y, &lane, v);
        b.finish(&[])
    };
    let key = |kernel: &Kernel| kernel.key("cpu", "avx2");
    assert_eq!(key(&build("a", 1.0)), key(&build("b", 1.0)));
    assert_ne!(key(&build("a", 1.0)), key(&build("a", 2.0)));
    assert_ne!(build("a", 1.0).key("cpu", "avx2"), build("a", 1.0).key("cpu", ""));
    assert_ne!(build("a", 1.0).key("cpu", ""), build("a", 1.0).key("ptx", ""));
}

#[test]
fn numbers_do_not_matter() {
    let (mut b, x, y) = builder(8);
    let lane = b.lane();
    // Made inside the loop, yet defined before it.
    b.repeat(&Expr::int(5), |b, k| {
        let moving = b.load(x, &(k.clone() * 8 + lane.clone()));
        let fixed = b.load(x, &lane);
        let sum = b.scalar(ScalarOp::Add, &[fixed, moving]);
        b.store(y, &(k * 8 + lane.clone()), sum);
    });
    let kernel = b.finish(&[]);
    assert_eq!(lets(&kernel.body), [ValueId(0)]);
    assert_eq!(kernel.renumbered().canonical_text(), kernel.canonical_text());
}
