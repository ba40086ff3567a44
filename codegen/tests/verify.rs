//! Faults that a text cannot hold, planted into a kernel by hand; the others are files.

#![allow(clippy::unwrap_used)]

use jtllm_codegen::kernel::interp::Program;
use jtllm_codegen::kernel::{CellId, Kernel, Memory, Stmt, Value, ValueId, ValueRecord, parse, verify};
use jtllm_codegen::target::Caps;
use jtllm_ir::{DType, Expr, Scalar, Symbol};

fn sound() -> Kernel {
    let text = "
kernel sound grid=[T, 1, 1] lanes=8 (sym: T@0 in 1..513, p0: read i32[512], p1: write f32[4096]) {
  cell c0: f32
  let v0 = const 1.0 : f32
  set c0 = v0
  let v1 = load p0[g0] : i32 in 0..512
  loop l4 0..4 {
    let v2 = c0 : f32
    store p1[v1*8 + lane] = v2
  }
}";
    let kernel = parse(text).unwrap();
    assert_eq!(verify(&kernel, &Caps::vector(8)), Ok(()));
    kernel
}

/// Plants a fault and gives the rules that it breaks.
fn broken(plant: impl FnOnce(&mut Kernel)) -> Vec<&'static str> {
    let mut kernel = sound();
    plant(&mut kernel);
    // Whatever verify refuses, the interpreter must at least survive.
    let _ = Program::new(&kernel);
    let faults = verify(&kernel, &Caps::vector(8)).unwrap_err();
    faults.into_iter().map(|fault| fault.rule).collect()
}

fn store(at: Expr) -> Stmt {
    Stmt::Store { memory: Memory::Param(1), at, value: ValueId(0) }
}

fn lane() -> Expr {
    Expr::axis(3, &Expr::int(8))
}

#[test]
fn an_axis_is_used_inside_its_loop_with_its_range() {
    let outside = store(Expr::axis(4, &Expr::int(4)) * 8 + lane());
    assert_eq!(broken(|k| k.body.push(outside)), ["axes are used inside their loop"]);
    let narrow = store(Expr::axis(0, &Expr::int(3)) * 8 + lane());
    assert_eq!(broken(|k| k.body.push(narrow)), ["an axis has the range that its loop gives it"]);
    let again = Stmt::Loop { axis: 4, extent: Expr::int(2), body: vec![store(lane())] };
    assert_eq!(broken(|k| k.body.push(again)), ["an axis is bound once"]);
}

#[test]
fn a_value_is_defined_once_and_has_one_range() {
    assert_eq!(broken(|k| k.body.push(Stmt::Let(ValueId(0)))), ["a value is defined once"]);
    let other = store(Expr::extra(1, Vec::new(), 0, &Expr::int(500)) * 8 + lane());
    assert_eq!(broken(|k| k.body.push(other)), ["a value has one range"]);
}

#[test]
fn ids_exist_and_types_agree() {
    assert_eq!(broken(|k| k.body.push(Stmt::Let(ValueId(77)))), ["values exist"]);
    assert_eq!(broken(|k| k.body.push(Stmt::Set(CellId(9), ValueId(0)))), ["a cell is set to its type"]);
    assert_eq!(broken(|k| k.body.push(Stmt::Set(CellId(0), ValueId(1)))), ["a cell is set to its type"]);
    let wrong = Stmt::Store { memory: Memory::Param(1), at: lane(), value: ValueId(1) };
    assert_eq!(broken(|k| k.body.push(wrong)), ["a store has the memory's type"]);
    let nowhere = Stmt::Store { memory: Memory::Shared(0), at: lane(), value: ValueId(0) };
    assert_eq!(broken(|k| k.body.push(nowhere)), ["a store has the memory's type"]);
    assert_eq!(broken(|k| k.values[0].dtype = DType::I32), ["a cell is set to its type"]);
    assert_eq!(broken(|k| k.values[2].dtype = DType::I32).len(), 2);
}

#[test]
fn indices_hold_integers_that_fit() {
    let float = store(Expr::extra(0, Vec::new(), 0, &Expr::int(8)) * 8 + lane());
    assert_eq!(broken(|k| k.body.push(float)), ["values in indices are integers, without coordinates"]);
    let wrapping = |k: &mut Kernel| {
        let grid = Expr::axis(0, &k.grid[0]);
        k.values.push(ValueRecord { value: Value::Index(grid * (1 << 31)), dtype: DType::I32 });
        let id = ValueId(k.values.len() as u32 - 1);
        k.body.push(Stmt::Let(id));
        k.body.push(store(Expr::extra(id.0, Vec::new(), 0, &Expr::int(8)) * 8 + lane()));
    };
    assert_eq!(broken(wrapping), ["an index that is part of another fits its type"]);
}

#[test]
fn the_header_keeps_its_rules() {
    let unknown = Expr::symbol(&Symbol::new("U", 1, 8, 1));
    assert_eq!(broken(|k| k.params[1].len = unknown + 4096), ["symbols are declared with a slot"]);
    assert_eq!(broken(|k| k.params[0].len = Expr::int(-1))[0], "a size is not negative");
    assert!(broken(|k| k.grid[1] = lane()).contains(&"a size mentions symbols only"));
    assert!(broken(|k| k.lanes = 6).contains(&"lanes are a power of two"));
}

#[test]
fn every_fault_is_listed() {
    let faults = broken(|k| {
        k.values[0].value = Value::Const(Scalar::Float(2.0));
        k.body.push(store(lane() + 4096));
        k.body.push(store(lane() - 1));
        k.body.push(store(Expr::int(0)));
    });
    let bounds = "an access is in bounds";
    assert_eq!(faults, [bounds, bounds, "no two lanes store to one element"]);
}
