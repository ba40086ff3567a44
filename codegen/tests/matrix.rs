//! Matrix units and asynchronous copies on the loop-IR interpreter: sums, and every way to get the order wrong.

#![allow(clippy::unwrap_used)]

use jtllm_codegen::emit::cranelift::Cranelift;
use jtllm_codegen::emit::wgsl::Wgsl;
use jtllm_codegen::kernel::interp::{Buffer, InterpError, Memories, Options, Program, run};
use jtllm_codegen::kernel::{FragmentId, Kernel, Memory, Role, Stmt, optimise, parse, verify};
use jtllm_codegen::target::{Caps, EmitError, Target};
use jtllm_ir::{DType, Expr};

const THREADS: Options = Options { threads: true };

/// Two warps, each with its own 8 columns, over a depth of 32 that comes in two steps by way of two buffers.
const PRODUCT: &str = "
kernel product grid=[1, 1, 1] lanes=64 (p0: read bf16[512] aligned, p1: read bf16[512] aligned, p2: write f32[256]) {
  shared s0: bf16[768]
  shared s1: bf16[768]
  shared s2: f32[320]
  fragment f0: sum f32
  fragment f1: left bf16
  fragment f2: right bf16
  clear f0
  if lane < 32 {
    stage s0[lane div 2*24 + lane mod 2*8] = p0[lane div 2*32 + lane mod 2*8]
    stage s1[lane div 2*24 + lane mod 2*8] = p1[lane div 2*32 + lane mod 2*8]
  }
  stage_commit
  loop l4 0..2 {
    stage_wait 0
    barrier
    if l4 < 1 and lane < 32 {
      stage s0[l4*384 + lane div 2*24 + lane mod 2*8 + 384] = p0[lane div 2*32 + lane mod 2*8 + 16]
      stage s1[l4*384 + lane div 2*24 + lane mod 2*8 + 384] = p1[lane div 2*32 + lane mod 2*8 + 16]
    }
    stage_commit
    fetch f1 = s0[l4*384] stride 24
    fetch f2 = s1[l4*384 + lane div 32*192] stride 24
    mma f0, f1, f2
  }
  spill s2[lane div 32*8] stride 20 = f0
  barrier
  loop l5 0..4 {
    let v0 = load s2[l5*80 + lane div 16*20 + lane mod 16] : f32
    store p2[l5*64 + lane] = v0
  }
}";

fn caps() -> Caps {
    Caps::threads(64).with_matrix(64)
}

fn sound() -> Kernel {
    let kernel = parse(PRODUCT).unwrap();
    assert_eq!(verify(&kernel, &caps()), Ok(()));
    kernel
}

fn number(seed: usize) -> f32 {
    half::bf16::from_f32((seed as f32 * 0.37).sin()).to_f32()
}

/// Runs a kernel on `left[16, 32]` and `right[16, 32]`.
fn product(kernel: &Kernel) -> Result<Vec<f32>, InterpError> {
    let brain = |seed: usize| half::bf16::from_f32(number(seed)).to_le_bytes();
    let left: Vec<u8> = (0..512).flat_map(brain).collect();
    let right: Vec<u8> = (1000..1512).flat_map(brain).collect();
    let mut sums = vec![0; 1024];
    let params = vec![Buffer::Read(&left), Buffer::Read(&right), Buffer::Write(&mut sums)];
    run(kernel, &mut Memories { params, symbols: &[] }, THREADS)?;
    Ok(sums.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect())
}

/// Takes away or changes statements, wherever they stand.
fn edit(body: &mut Vec<Stmt>, change: &mut dyn FnMut(Stmt) -> Option<Stmt>) {
    for stmt in std::mem::take(body) {
        let Some(mut stmt) = change(stmt) else { continue };
        if let Stmt::Loop { body, .. } | Stmt::If { body, .. } = &mut stmt {
            edit(body, change);
        }
        body.push(stmt);
    }
}

fn broken(mut change: impl FnMut(Stmt) -> Option<Stmt>) -> InterpError {
    let mut kernel = sound();
    edit(&mut kernel.body, &mut change);
    product(&kernel).unwrap_err()
}

#[test]
fn products_are_added_in_the_order_of_the_depth() {
    for kernel in [sound(), optimise(&sound())] {
        for (at, got) in product(&kernel).unwrap().into_iter().enumerate() {
            let (row, column) = (at / 16, at % 16);
            let terms = (0..32).map(|k| number(row * 32 + k) * number(1000 + column * 32 + k));
            assert_eq!(got.to_bits(), terms.fold(0f32, |sum, x| sum + x).to_bits(), "{row}, {column}");
        }
    }
}

#[test]
fn a_copy_that_nobody_waits_for_is_under_way() {
    let error = broken(|stmt| (!matches!(stmt, Stmt::StageWait { .. })).then_some(stmt));
    assert!(matches!(error, InterpError::UnderWay { does: "loads", .. }), "{error}");
    let error = broken(|stmt| (!matches!(stmt, Stmt::StageCommit)).then_some(stmt));
    assert!(matches!(error, InterpError::UnderWay { does: "loads", .. }), "{error}");
    let early = |stmt| match stmt {
        Stmt::StageWait { .. } => Some(Stmt::StageWait { pending: 1 }),
        other => Some(other),
    };
    let error = broken(early);
    assert!(matches!(error, InterpError::UnderWay { does: "loads", .. }), "{error}");
}

#[test]
fn a_missing_barrier_after_the_wait_is_a_race() {
    let mut barriers = 0;
    let error = broken(|stmt| {
        barriers += usize::from(matches!(stmt, Stmt::Barrier));
        (!matches!(stmt, Stmt::Barrier) || barriers > 1).then_some(stmt)
    });
    assert!(matches!(error, InterpError::Race { does: "loads", .. }), "{error}");
}

#[test]
fn a_copy_into_the_tile_that_is_being_read_is_a_race() {
    // The second step lands in the first one's buffer, which the other lanes read since the last barrier.
    let shift = |stmt| match stmt {
        Stmt::Stage { to, at, from, from_at } if at.mentions_axis(4) => {
            Some(Stmt::Stage { to, at: at - 384, from, from_at })
        }
        other => Some(other),
    };
    let error = broken(shift);
    let found = matches!(error, InterpError::UnderWay { .. } | InterpError::Race { .. });
    assert!(found, "{error}");
}

#[test]
fn spilled_sums_are_read_after_a_barrier() {
    let mut barriers = 0;
    let error = broken(|stmt| {
        barriers += usize::from(matches!(stmt, Stmt::Barrier));
        (!matches!(stmt, Stmt::Barrier) || barriers != 2).then_some(stmt)
    });
    assert!(matches!(error, InterpError::Race { memory: Memory::Shared(2), does: "loads", .. }), "{error}");
}

#[test]
fn places_are_checked_when_a_kernel_runs() {
    let places = |place: fn(Expr) -> Expr| {
        broken(move |stmt| match stmt {
            Stmt::Fetch { fragment, memory, at, stride, turned } => {
                Some(Stmt::Fetch { fragment, memory, at: place(at), stride, turned })
            }
            other => Some(other),
        })
    };
    let lane = || Expr::axis(3, &Expr::int(64));
    let error = places(|at| at + 4);
    assert!(matches!(error, InterpError::Misaligned { offset: 4, .. }), "{error}");
    let error = places(|at| at + 800);
    assert!(matches!(error, InterpError::OutOfBounds { offset: 800, .. }), "{error}");
    let error = broken(move |stmt| match stmt {
        Stmt::Fetch { fragment, memory, at, stride, turned } => {
            Some(Stmt::Fetch { fragment, memory, at: at + lane() * 8, stride, turned })
        }
        other => Some(other),
    });
    assert!(matches!(error, InterpError::Parted { lane: 1, .. }), "{error}");
    let error = broken(|stmt| match stmt {
        Stmt::Stage { to, at, from, from_at } => Some(Stmt::Stage { to, at, from, from_at: from_at + 1 }),
        other => Some(other),
    });
    assert!(matches!(error, InterpError::Misaligned { memory: Memory::Param(0), .. }), "{error}");
}

#[test]
fn what_is_malformed_is_refused() {
    let refused = |plant: &dyn Fn(&mut Kernel)| {
        let mut kernel = sound();
        plant(&mut kernel);
        assert!(verify(&kernel, &caps()).is_err());
        assert!(matches!(Program::new(&kernel), Err(InterpError::Malformed { .. })));
    };
    let [sum, left, right, absent] = [0, 1, 2, 3].map(FragmentId);
    refused(&|k| k.body.push(Stmt::Clear(absent)));
    refused(&|k| k.body.push(Stmt::Clear(left)));
    refused(&|k| k.body.push(Stmt::Mma { sum, left: right, right: left }));
    refused(&|k| k.fragments[2].dtype = DType::F16);
    refused(&|k| k.fragments[1].dtype = DType::F32);
    refused(&|k| k.lanes = 16);
    let at = || Expr::int(0);
    refused(&|k| k.body.push(Stmt::Spill { sum, memory: Memory::Shared(0), at: at(), stride: 24 }));
    refused(&|k| {
        k.body.push(Stmt::Fetch {
            fragment: left,
            memory: Memory::Param(0),
            at: at(),
            stride: 24,
            turned: false,
        })
    });
    let copy = |to, from| Stmt::Stage { to, at: at(), from, from_at: at() };
    refused(&|k| k.body.push(copy(Memory::Shared(2), Memory::Param(0))));
    refused(&|k| k.body.push(copy(Memory::Shared(0), Memory::Param(2))));
    refused(&|k| k.body.push(copy(Memory::Shared(0), Memory::Shared(0))));
}

#[test]
fn roles_have_their_names() {
    for (role, name) in Role::ALL {
        assert_eq!(role.name(), name);
    }
}

#[test]
fn targets_without_matrix_units_say_so() {
    let mut kernel = sound();
    let missing = |error: EmitError| error.to_string();
    assert_eq!(missing(Wgsl::least().emit(&kernel).unwrap_err()), "wgsl has no matrix units");
    let native = Cranelift::host().unwrap();
    assert_eq!(missing(native.emit(&kernel).unwrap_err()), "cpu-cranelift has no matrix units");
    kernel.fragments.clear();
    assert_eq!(missing(native.emit(&kernel).unwrap_err()), "cpu-cranelift has no asynchronous copies");
}
