//! The loop-IR interpreter: arithmetic, masks, bounds, races, in every number of lanes.

#![allow(clippy::unwrap_used)]

use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::interp::{Buffer, InterpError, Memories, Options, run, run_groups};
use jtllm_codegen::kernel::{Access, Kernel, Memory, Stmt, lane_tree};
use jtllm_ir::scalar::TABLE;
use jtllm_ir::{DType, Expr, Monoid, Scalar, ScalarOp, Symbol};

const THREADS: Options = Options { threads: true };
const LANES: [u32; 5] = [4, 8, 16, 32, 128];

fn bytes(xs: &[f32]) -> Vec<u8> {
    xs.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
}

fn grid(n: i64) -> [Expr; 3] {
    [Expr::int(n), Expr::int(1), Expr::int(1)]
}

/// `y[g] = sum over k of x[g, k] * x[g, k]`, lanes over k.
fn sum_of_squares(lanes: u32, rows: i64, columns: i64) -> Kernel {
    let mut b = Builder::new("squares", lanes, grid(rows));
    let x = b.param(DType::F32, Access::Read, Expr::int(rows * columns), false);
    let y = b.param(DType::F32, Access::Write, Expr::int(rows), false);
    let zero = b.float(0.0);
    let sum = b.cell(zero);
    let (row, lane, width) = (b.grid(0), b.lane(), b.lanes());
    b.repeat(&Expr::int((columns + width - 1) / width), |b, k| {
        let column = k * width + lane.clone();
        b.when(&column.less_than(&Expr::int(columns)), |b| {
            let v = b.load(x, &(row.clone() * columns + column.clone()));
            let old = b.get(sum);
            let new = b.scalar(ScalarOp::Fma, &[v, v, old]);
            b.set(sum, new);
        });
    });
    let each = b.get(sum);
    let total = b.lane_reduce(Monoid::Add, each);
    b.when(&lane.equals(&Expr::int(0)), |b| b.store(y, &row, total));
    b.finish(&[])
}

#[test]
fn a_sum_is_joined_by_the_lane_tree() {
    let (rows, columns) = (3usize, 37usize);
    let x: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin()).collect();
    for lanes in LANES {
        let kernel = sum_of_squares(lanes, rows as i64, columns as i64);
        let (x_bytes, mut y) = (bytes(&x), vec![0u8; rows * 4]);
        let params = vec![Buffer::Read(&x_bytes), Buffer::Write(&mut y)];
        run(&kernel, &mut Memories { params, symbols: &[] }, THREADS).unwrap();
        for (row, got) in floats(&y).into_iter().enumerate() {
            let mut each = vec![0f32; lanes as usize];
            for (k, v) in x[row * columns..(row + 1) * columns].iter().enumerate() {
                each[k % lanes as usize] = v.mul_add(*v, each[k % lanes as usize]);
            }
            assert_eq!(got.to_bits(), lane_tree(each, |a, b| a + b).unwrap().to_bits(), "{lanes} lanes");
        }
    }
}

#[test]
fn only_the_groups_asked_for_run() {
    let kernel = sum_of_squares(4, 5, 8);
    let (x, mut y) = (bytes(&[1.0; 40]), bytes(&[-1.0; 5]));
    let params = vec![Buffer::Read(&x), Buffer::Write(&mut y)];
    run_groups(&kernel, &mut Memories { params, symbols: &[] }, 1..3, Options::default()).unwrap();
    assert_eq!(floats(&y), [-1.0, 8.0, 8.0, -1.0, -1.0]);
}

/// Shared memory turned around: lane `i` writes element `i`, a barrier, lane `i` reads element `n-1-i`.
fn reversed(lanes: u32, x_len: i64) -> Kernel {
    let mut b = Builder::new("reversed", lanes, grid(1));
    let x = b.param(DType::F32, Access::Read, Expr::int(x_len), false);
    let y = b.param(DType::F32, Access::Write, Expr::int(i64::from(lanes)), false);
    let s = b.shared(DType::F32, lanes);
    let lane = b.lane();
    let v = b.load(x, &lane);
    b.store(s, &lane, v);
    b.barrier();
    let turned = b.load(s, &(Expr::int(b.lanes() - 1) - lane.clone()));
    b.store(y, &lane, turned);
    b.finish(&[])
}

fn run_reversed(kernel: &Kernel, options: Options) -> Result<Vec<f32>, InterpError> {
    let x: Vec<f32> = (0..kernel.lanes).map(|i| i as f32).collect();
    let (x, mut y) = (bytes(&x), vec![0u8; kernel.lanes as usize * 4]);
    let params = vec![Buffer::Read(&x), Buffer::Write(&mut y)];
    run(kernel, &mut Memories { params, symbols: &[] }, options)?;
    Ok(floats(&y))
}

#[test]
fn a_removed_barrier_is_a_race() {
    for lanes in LANES {
        let mut kernel = reversed(lanes, i64::from(lanes));
        let expected: Vec<f32> = (0..lanes).rev().map(|i| i as f32).collect();
        assert_eq!(run_reversed(&kernel, THREADS).unwrap(), expected);
        kernel.body.retain(|stmt| !matches!(stmt, Stmt::Barrier));
        assert_eq!(run_reversed(&kernel, Options::default()).unwrap(), expected);
        let error = run_reversed(&kernel, THREADS).unwrap_err();
        let race = matches!(
            error,
            InterpError::Race { memory: Memory::Shared(0), offset, lane: 0, does: "loads", .. }
                if offset == i64::from(lanes) - 1
        );
        assert!(race, "{error}");
    }
}

#[test]
fn a_load_of_unwritten_shared_memory_is_an_error() {
    let mut kernel = reversed(8, 8);
    kernel.body.retain(|stmt| !matches!(stmt, Stmt::Store { memory: Memory::Shared(_), .. }));
    let error = run_reversed(&kernel, THREADS).unwrap_err();
    assert!(matches!(error, InterpError::Undefined { offset: 7, lane: 0, .. }), "{error}");
}

#[test]
fn an_access_out_of_bounds_is_named() {
    let error = run_reversed(&reversed(8, 5), Options::default()).unwrap_err();
    let expected =
        InterpError::OutOfBounds { memory: Memory::Param(0), offset: 5, len: 5, group: 0, lane: 5 };
    assert_eq!(error, expected);
    assert_eq!(error.to_string(), "p0[5] is outside of 5 elements (group 0, lane 5)");
}

#[test]
fn lanes_that_disagree_on_an_element_are_an_error() {
    let build = |value: fn(&Expr) -> Expr| {
        let mut b = Builder::new("conflict", 8, grid(1));
        let y = b.param(DType::I32, Access::Write, Expr::int(4), false);
        let lane = b.lane();
        let v = b.index(DType::I32, &value(&lane));
        b.store(y, &lane.clone().modulo(4), v);
        b.finish(&[])
    };
    let mut y = vec![0u8; 16];
    let mut run_it = |kernel: &Kernel| {
        let params = vec![Buffer::Write(&mut y)];
        run(kernel, &mut Memories { params, symbols: &[] }, Options::default())
    };
    run_it(&build(|lane| lane.clone().modulo(4))).unwrap();
    let error = run_it(&build(Expr::clone)).unwrap_err();
    assert!(matches!(error, InterpError::Conflict { offset: 0, lanes: [0, 4], .. }), "{error}");
}

#[test]
fn a_barrier_where_lanes_parted_is_refused() {
    let mut b = Builder::new("parted", 8, grid(1));
    let lane = b.lane();
    b.when(&lane.less_than(&Expr::int(3)), |b| b.barrier());
    let error = run(&b.finish(&[]), &mut Memories { params: vec![], symbols: &[] }, THREADS).unwrap_err();
    assert!(matches!(error, InterpError::Malformed { .. }), "{error}");
}

#[test]
fn bindings_are_checked() {
    let t = Symbol::new("T", 1, 512, 1);
    let mut b = Builder::new("copy", 4, grid(1));
    let x = b.param(DType::F32, Access::Read, Expr::symbol(&t), false);
    let y = b.param(DType::F32, Access::Write, Expr::symbol(&t), false);
    let v = b.load(x, &Expr::int(0));
    let lane = b.lane();
    b.when(&lane.equals(&Expr::int(0)), |b| b.store(y, &Expr::int(0), v));
    let kernel = b.finish(std::slice::from_ref(&t));
    let (x, mut y) = (bytes(&[3.0; 8]), vec![0u8; 32]);
    let mut attempt = |x: &[u8], symbols: &[i32]| {
        let params = vec![Buffer::Read(x), Buffer::Write(&mut y)];
        run(&kernel, &mut Memories { params, symbols }, THREADS)
    };
    assert_eq!(attempt(&x, &[8]), Ok(()));
    assert!(matches!(attempt(&x[..28], &[8]), Err(InterpError::Binding { .. })));
    assert!(matches!(attempt(&x, &[]), Err(InterpError::Binding { .. })));
    let params = vec![Buffer::Read(&x), Buffer::Read(&x)];
    let refused = run(&kernel, &mut Memories { params, symbols: &[8] }, THREADS);
    assert!(matches!(refused, Err(InterpError::Binding { .. })));
}

#[test]
fn lanes_that_do_not_take_part_keep_their_cells() {
    let mut b = Builder::new("nested", 8, grid(1));
    let y = b.param(DType::I32, Access::Write, Expr::int(8), false);
    let lane = b.lane();
    let start = b.constant(DType::I32, Scalar::Int(-1));
    let cell = b.cell(start);
    b.when(&lane.less_than(&Expr::int(6)), |b| {
        let outer = b.constant(DType::I32, Scalar::Int(10));
        b.set(cell, outer);
        b.when(&Expr::int(2).less_than(&lane), |b| {
            let inner = b.index(DType::I32, &(lane.clone() * 100));
            b.set(cell, inner);
        });
    });
    let v = b.get(cell);
    b.store(y, &lane, v);
    let mut y = vec![0u8; 32];
    let params = vec![Buffer::Write(&mut y)];
    run(&b.finish(&[]), &mut Memories { params, symbols: &[] }, THREADS).unwrap();
    let got: Vec<i32> = y.chunks_exact(4).map(|x| i32::from_le_bytes(x.try_into().unwrap())).collect();
    assert_eq!(got, [10, 10, 10, 300, 400, 500, -1, -1]);
}

/// Bit patterns that reach every corner: small, large, signed, not a number.
fn patterns(dtype: DType, seed: u32) -> Vec<u32> {
    let odd = [0, 1, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0xffff_ffff, 0x3f80_0000];
    let mut state = seed;
    let random = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    });
    let mask = u32::MAX >> (32 - 8 * dtype.size());
    let all = odd.into_iter().cycle().skip(seed as usize % 8).take(16).chain(random.take(112));
    all.map(|bits| if dtype == DType::Bool { bits & 1 } else { bits & mask }).collect()
}

/// Runs one operation on 128 elements in the interpreter and compares with `ScalarOp::evaluate`.
fn check_operation(op: ScalarOp, operands: &[DType]) {
    let Ok(result) = op.result(operands) else { return };
    let lanes = 16;
    let mut b = Builder::new("op", lanes, grid(128 / i64::from(lanes)));
    let at = b.grid(0) * i64::from(lanes) + b.lane();
    let xs: Vec<_> = operands
        .iter()
        .map(|dtype| {
            let x = b.param(*dtype, Access::Read, Expr::int(128), false);
            b.load(x, &at)
        })
        .collect();
    let y = b.param(result, Access::Write, Expr::int(128), false);
    let v = b.scalar(op, &xs);
    b.store(y, &at, v);
    let inputs: Vec<Vec<u32>> =
        operands.iter().enumerate().map(|(at, dtype)| patterns(*dtype, at as u32 * 77 + 5)).collect();
    let packed: Vec<Vec<u8>> = inputs
        .iter()
        .zip(operands)
        .map(|(xs, dtype)| xs.iter().flat_map(|x| x.to_le_bytes()[..dtype.size()].to_vec()).collect())
        .collect();
    let mut y = vec![0u8; 128 * result.size()];
    let mut params: Vec<Buffer<'_>> = packed.iter().map(|x| Buffer::Read(x)).collect();
    params.push(Buffer::Write(&mut y));
    run(&b.finish(&[]), &mut Memories { params, symbols: &[] }, THREADS).unwrap();
    for at in 0..128 {
        let xs: Vec<Scalar> =
            inputs.iter().zip(operands).map(|(x, dtype)| Scalar::from_bits(*dtype, x[at])).collect();
        let want = op.evaluate(*operands.last().unwrap(), &xs).to_bits(result);
        let mut word = [0; 4];
        word[..result.size()].copy_from_slice(&y[at * result.size()..(at + 1) * result.size()]);
        let got = u32::from_le_bytes(word);
        let mask = u32::MAX >> (32 - 8 * result.size());
        let nan = result.is_float()
            && Scalar::from_bits(result, got).float().is_nan()
            && Scalar::from_bits(result, want).float().is_nan();
        assert!(nan || got == want & mask, "{} {operands:?} of {xs:?}: {got:x}, {want:x}", op.name());
    }
}

#[test]
fn every_operation_means_what_the_table_says() {
    for row in TABLE {
        let ops: Vec<ScalarOp> = match row.op {
            ScalarOp::Cast(_) => DType::ALL.map(ScalarOp::Cast).to_vec(),
            ScalarOp::Bitcast(_) => DType::ALL.map(ScalarOp::Bitcast).to_vec(),
            op => vec![op],
        };
        for op in ops {
            for dtype in DType::ALL {
                check_operation(op, &op.operands(dtype));
            }
        }
    }
}
