//! What binds the buffers of a launch is made once, kept as long as they are there, and never without bound.
#![allow(clippy::unwrap_used)]

use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::{Access, Kernel};
use jtllm_ir::{DType, Expr};
use jtllm_runtime::device::wgpu::{Adapter, Choice};
use jtllm_runtime::device::{Device, Mem, Program, Span};

/// Bytes between the places that launches write: what WebGPU lets a binding begin at.
const STEP: u64 = 256;

fn adapter() -> Option<Adapter> {
    match Adapter::open(&Choice::default()) {
        Ok(adapter) => Some(adapter),
        Err(why) => {
            println!("skipped: wgpu: {why}");
            None
        }
    }
}

/// `y[0] += 1`.
fn increment() -> Kernel {
    let mut b = Builder::new("increment", 1, [Expr::int(1), Expr::int(1), Expr::int(1)]);
    let y = b.param(DType::I32, Access::Update, Expr::int(1), true);
    let value = b.load(y, &Expr::int(0));
    let one = b.index(DType::I32, &Expr::int(1));
    let sum = b.scalar(jtllm_ir::ScalarOp::Add, &[value, one]);
    b.store(y, &Expr::int(0), sum);
    b.finish(&[])
}

fn load(adapter: &Adapter) -> Program {
    let kernel = increment();
    let artifact = adapter.target().emit(&kernel).unwrap();
    adapter.load(&[(&kernel, artifact)]).unwrap().remove(0)
}

fn launch(adapter: &Adapter, program: &Program, symbols: &Span, mem: &Mem, place: u64) {
    let span = Span { mem: mem.clone(), offset: place * STEP, len: 4 };
    adapter.launch(program, [1, 1, 1], symbols, &[span]).unwrap();
}

#[test]
fn bindings_are_made_once_and_go_with_their_memory() {
    let Some(adapter) = adapter() else { return };
    let program = load(&adapter);
    let (made, kept) = adapter.bindings();
    let symbols = adapter.alloc(256).unwrap();
    let memories = [adapter.alloc(4 * STEP).unwrap(), adapter.alloc(4 * STEP).unwrap()];
    for _turn in 0..50 {
        for mem in &memories {
            (0..4).for_each(|place| launch(&adapter, &program, &symbols.span(), mem, place));
        }
    }
    assert_eq!(adapter.bindings(), (made + 8, kept + 8));
    let mut found = [0; 4];
    let last = Span { mem: memories[1].clone(), offset: 3 * STEP, len: 4 };
    adapter.read(&last, &mut found).unwrap();
    assert_eq!(i32::from_le_bytes(found), 50);
    // Another program has another layout.
    launch(&adapter, &load(&adapter), &symbols.span(), &memories[0], 0);
    assert_eq!(adapter.bindings(), (made + 9, kept + 9));
    drop(last);
    let [first, second] = memories;
    drop(first);
    assert_eq!(adapter.bindings(), (made + 9, kept + 4));
    drop(symbols);
    assert_eq!(adapter.bindings(), (made + 9, kept));
    drop(second);
}

#[test]
fn bindings_that_are_kept_have_a_bound() {
    let Some(adapter) = adapter() else { return };
    let program = load(&adapter);
    let places = 20_000;
    let (symbols, mem) = (adapter.alloc(256).unwrap(), adapter.alloc(places * STEP).unwrap());
    (0..places).for_each(|place| launch(&adapter, &program, &symbols.span(), &mem, place));
    let (made, kept) = adapter.bindings();
    assert!(made >= places && kept <= 1 << 14, "{kept} of {made} are kept");
    let mut found = vec![0; (places * STEP) as usize];
    adapter.read(&mem.span(), &mut found).unwrap();
    assert!((0..places).all(|place| found[(place * STEP) as usize] == 1));
}
