//! Kernels that press where the emitter is weakest: registers run out, loops do not turn, memory ends early.

use iced_x86::{Code as Opcode, Decoder, DecoderOptions};
use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::interp::{Buffer, Memories, Options, run};
use jtllm_codegen::kernel::{Access, CellId, Kernel, ValueId};
use jtllm_codegen::target::{EmitError, Target};
use jtllm_ir::{DType, Expr, Monoid, Scalar, ScalarOp, Symbol};
use memmap2::MmapMut;

use crate::code::Code;
use crate::native::{Native, Noise, as_floats, floats, groups, words};
use crate::targets;

fn one_direction(extent: &Expr) -> [Expr; 3] {
    [extent.clone(), Expr::int(1), Expr::int(1)]
}

/// What the interpreter leaves in the parameters that are written.
fn interpreted(kernel: &Kernel, params: &[Vec<u8>], symbols: &[i32]) -> Vec<Vec<u8>> {
    let mut params = params.to_vec();
    let buffers = params.iter_mut().zip(&kernel.params).map(|(bytes, param)| match param.access {
        Access::Read => Buffer::Read(bytes),
        _ => Buffer::Write(bytes),
    });
    let mut memories = Memories { params: buffers.collect(), symbols };
    run(kernel, &mut memories, Options::default()).unwrap();
    params
}

fn check(kernel: &Kernel, target: &X64, params: &[Vec<u8>], symbols: &[i32]) {
    let expected = interpreted(kernel, params, symbols);
    let mut found = params.to_vec();
    Code::of(target, kernel).run(&mut found, symbols);
    assert!(found == expected, "{}, symbols {symbols:?}\n{kernel}", target.variant());
}

fn random(noise: &mut Noise, count: usize) -> Vec<u8> {
    floats(&(0..count).map(|_| noise.float()).collect::<Vec<_>>())
}

/// `count` cells that change in a loop, and as many values that outlive it.
fn crowd(lanes: u32, count: i64, turns: &Expr, symbols: &[Symbol]) -> Kernel {
    let width = i64::from(lanes);
    let mut b = Builder::new("crowd", lanes, one_direction(&Expr::int(2)));
    let x = b.param(DType::F32, Access::Read, Expr::int(2 * count * width), false);
    let y = b.param(DType::F32, Access::Write, Expr::int(2 * count * width), false);
    let (group, lane) = (b.grid(0), b.lane());
    let at = |k: i64| (group.clone() * count + k) * width + lane.clone();
    let held: Vec<ValueId> = (0..count).map(|k| b.load(x, &at(k))).collect();
    let cells: Vec<CellId> = held.iter().map(|value| b.cell(*value)).collect();
    b.repeat(turns, |b, turn| {
        let turn = b.index(DType::I32, &(turn + 1));
        let turn = b.scalar(ScalarOp::Cast(DType::F32), &[turn]);
        for (k, cell) in cells.iter().enumerate() {
            let (before, other) = (b.get(*cell), b.get(cells[(k + 1) % cells.len()]));
            let after = b.scalar(ScalarOp::Fma, &[other, turn, before]);
            b.set(*cell, after);
        }
    });
    for (k, (cell, held)) in cells.iter().zip(&held).enumerate() {
        let value = b.get(*cell);
        let value = b.scalar(ScalarOp::Sub, &[value, *held]);
        b.store(y, &at(k as i64), value);
    }
    b.finish(symbols)
}

#[test]
fn more_values_than_registers() {
    let mut noise = Noise(3);
    for target in &targets() {
        let lanes = target.caps().lanes;
        for count in [5, 16, 33, 100] {
            let params =
                vec![random(&mut noise, 2 * count * lanes as usize), vec![0; 8 * count * lanes as usize]];
            check(&crowd(lanes, count as i64, &Expr::int(3), &[]), target, &params, &[]);
        }
    }
}

#[test]
fn loops_of_any_number_of_turns() {
    let mut noise = Noise(5);
    let symbol = Symbol::new("n", -3, 9, 1);
    for target in &targets() {
        let lanes = target.caps().lanes;
        let kernel = crowd(lanes, 7, &Expr::symbol(&symbol), std::slice::from_ref(&symbol));
        let params = vec![random(&mut noise, 14 * lanes as usize), vec![0; 56 * lanes as usize]];
        for turns in [-3, -1, 0, 1, 2, 9] {
            check(&kernel, target, &params, &[turns]);
        }
    }
}

/// Copies of one page whose end is the end of the buffer: behind it nothing may be touched.
struct Edge {
    pages: MmapMut,
}

impl Edge {
    fn new() -> Edge {
        let pages = MmapMut::map_anon(3 * 4096).unwrap();
        // SAFETY: the range is the last page of this mapping, which nobody uses.
        let guarded = unsafe { mprotect(pages.as_ptr().add(2 * 4096).cast_mut().cast(), 4096, 0) };
        assert_eq!(guarded, 0);
        Edge { pages }
    }

    /// The last `bytes` before the edge.
    fn last(&mut self, bytes: usize) -> &mut [u8] {
        &mut self.pages[2 * 4096 - bytes..2 * 4096]
    }
}

unsafe extern "C" {
    fn mprotect(start: *mut std::ffi::c_void, len: usize, protection: i32) -> i32;
}

/// `y[i] = x[i]` and, backwards, `z[i] = x[n - 1 - i]` for elements below `n` of any type.
pub(crate) fn tail(lanes: u32, dtype: DType, n: &Symbol) -> Kernel {
    let len = Expr::symbol(n);
    let width = i64::from(lanes);
    let groups = (len.clone() + (width - 1)).div_floor(width);
    let mut b = Builder::new("tail", lanes, one_direction(&groups));
    let x = b.param(dtype, Access::Read, len.clone(), false);
    let [y, z] = [(); 2].map(|()| b.param(dtype, Access::Write, len.clone(), false));
    let at = b.grid(0) * width + b.lane();
    b.when(&at.less_than(&len), |b| {
        let (forward, backward) = (b.load(x, &at), b.load(x, &(len.clone() - 1 - at.clone())));
        b.store(y, &at, forward);
        b.store(z, &at, backward);
    });
    b.finish(std::slice::from_ref(n))
}

/// Lanes without part neither load nor store: the buffers end at a page that may not be touched, and the interpreter of
/// x86-64 lets nobody beyond their ends.
#[test]
fn tails_stay_inside() {
    let n = Symbol::new("n", 0, 40, 1);
    for target in &targets() {
        for dtype in DType::ALL {
            let kernel = tail(target.caps().lanes, dtype, &n);
            let code = Code::of(target, &kernel);
            let native = target.is_here().then(|| Native::with(target, &kernel));
            let mut edges = [Edge::new(), Edge::new(), Edge::new()];
            for count in 0..=33usize {
                let bytes = count * dtype.size();
                // Numbers of every type, 0 and 1 of truth.
                let image: Vec<u8> = (0..bytes).map(|k| (k % 2) as u8).collect();
                let turned: Vec<u8> = image.chunks(dtype.size()).rev().flatten().copied().collect();
                // Buffers of the interpreter's have such an edge on either side.
                let mut params = vec![image.clone(), vec![0xaa; bytes], vec![0xaa; bytes]];
                code.run(&mut params, &[count as i32]);
                assert_eq!(params[1..], [image.clone(), turned.clone()], "{dtype}, {count} elements");
                let Some(native) = &native else { continue };
                let [x, y, z] = &mut edges;
                x.last(bytes).copy_from_slice(&image);
                y.last(bytes + 64).fill(0xaa);
                z.last(bytes + 64).fill(0xaa);
                let pointers =
                    [x.last(bytes).as_mut_ptr(), y.last(bytes).as_mut_ptr(), z.last(bytes).as_mut_ptr()];
                native.run_at(&pointers, &[count as i32]);
                assert_eq!(y.last(bytes), image, "{dtype}, {count} elements");
                assert_eq!(z.last(bytes), turned, "{dtype}, {count} elements backwards");
                for edge in [y, z] {
                    assert!(edge.last(bytes + 64)[..64].iter().all(|byte| *byte == 0xaa), "{dtype}, {count}");
                }
            }
        }
    }
}

/// A stack frame of many pages, and a sum of a memory's elements in every order.
#[test]
fn shared_memory_of_many_pages() {
    for target in &targets() {
        let lanes = i64::from(target.caps().lanes);
        let len = 15 * 1024;
        let mut b = Builder::new("pages", lanes as u32, one_direction(&Expr::int(3)));
        let y = b.param(DType::F32, Access::Write, Expr::int(3 * lanes), false);
        let shared = b.shared(DType::F32, len as u32);
        let (group, lane) = (b.grid(0), b.lane());
        b.repeat(&Expr::int(len / lanes), |b, step| {
            let at = step * lanes + lane.clone();
            let value = b.index(DType::I32, &(at.clone() + group.clone()));
            let value = b.scalar(ScalarOp::Cast(DType::F32), &[value]);
            b.store(shared, &at, value);
        });
        b.barrier();
        let zero = b.float(0.0);
        let sum = b.cell(zero);
        b.repeat(&Expr::int(len / lanes), |b, step| {
            let value = b.load(shared, &(Expr::int(len - 1) - step * lanes - lane.clone()));
            let before = b.get(sum);
            let after = b.scalar(ScalarOp::Add, &[before, value]);
            b.set(sum, after);
        });
        let each = b.get(sum);
        let all = b.lane_reduce(Monoid::Max, each);
        let each = b.scalar(ScalarOp::Sub, &[all, each]);
        b.store(y, &(group * lanes + lane), each);
        check(&b.finish(&[]), target, &[vec![0; 12 * lanes as usize]], &[]);
    }
}

/// A value is what the cell was when it was read, whatever becomes of the cell.
/// A byte is picked from the word that the shift read, though the cell that had it has another since.
#[test]
fn bytes_of_cells_outlive_their_change() {
    for target in &targets() {
        let lanes = i64::from(target.caps().lanes);
        for (shift, mask) in [(ScalarOp::Shr, 0xFF), (ScalarOp::Shl, 0xFF00_0000)] {
            let mut b = Builder::new("bytes", lanes as u32, one_direction(&Expr::int(1)));
            let x = b.param(DType::U32, Access::Read, Expr::int(lanes), false);
            let y = b.param(DType::U32, Access::Write, Expr::int(2 * lanes), false);
            let lane = b.lane();
            let word = b.load(x, &lane);
            let cell = b.cell(word);
            let before = b.get(cell);
            let [eight, mask] = [8, mask].map(|value| b.constant(DType::U32, Scalar::Int(value)));
            let shifted = b.scalar(shift, &[before, eight]);
            b.set(cell, eight);
            let byte = b.scalar(ScalarOp::And, &[shifted, mask]);
            b.store(y, &lane, byte);
            let after = b.get(cell);
            b.store(y, &(lane.clone() + lanes), after);
            let input: Vec<i32> = (0..lanes as i32).map(|at| 0x1182_7364 + at * 0x0101_0101).collect();
            check(&b.finish(&[]), target, &[words(&input), words(&vec![7; 2 * lanes as usize])], &[]);
        }
    }
}

#[test]
fn values_of_cells_outlive_their_change() {
    for target in &targets() {
        let lanes = i64::from(target.caps().lanes);
        let mut b = Builder::new("aliases", lanes as u32, one_direction(&Expr::int(1)));
        let y = b.param(DType::I32, Access::Write, Expr::int(6 * lanes), false);
        let lane = b.lane();
        let start = b.index(DType::I32, &lane);
        let cell = b.cell(start);
        let before = b.get(cell);
        let renamed = b.scalar(ScalarOp::Bitcast(DType::U32), &[before]);
        let one = b.constant(DType::I32, Scalar::Int(1));
        let place = b.scalar(ScalarOp::And, &[before, one]);
        let place = b.as_expr(place, 0, &Expr::int(2));
        b.repeat(&Expr::int(4), |b, turn| {
            let now = b.get(cell);
            b.when(&turn.equals(&Expr::int(2)).and(&lane.less_than(&Expr::int(3))), |b| {
                let again = b.get(cell);
                let sum = b.scalar(ScalarOp::Add, &[again, now]);
                b.set(cell, sum);
            });
            let next = b.get(cell);
            let next = b.scalar(ScalarOp::Add, &[next, one]);
            b.set(cell, next);
            b.store(y, &(lane.clone() + lanes), now);
        });
        let after = b.get(cell);
        let renamed = b.scalar(ScalarOp::Bitcast(DType::I32), &[renamed]);
        for (k, value) in [(0, before), (2, after), (3, renamed)] {
            b.store(y, &(lane.clone() + k * lanes), value);
        }
        b.store(y, &(lane.clone() * 2 + 4 * lanes + place), after);
        check(&b.finish(&[]), target, &[words(&vec![7; 6 * lanes as usize])], &[]);
    }
}

/// Groups in parts give what all at once give.
#[test]
fn groups_of_three_directions_in_parts() {
    let n = Symbol::new("n", 0, 9, 1);
    for target in &targets() {
        let lanes = i64::from(target.caps().lanes);
        let grid = [Expr::int(3), Expr::symbol(&n), Expr::int(2)];
        let mut b = Builder::new("grid", lanes as u32, grid.clone());
        let len = grid.iter().fold(Expr::int(lanes), |product, x| product * x.clone());
        let y = b.param(DType::F32, Access::Write, len, false);
        let group = (b.grid(2) * grid[1].clone() + b.grid(1)) * 3 + b.grid(0);
        let place = group * lanes + b.lane();
        let value = b.index(DType::I32, &place);
        let value = b.scalar(ScalarOp::Cast(DType::F32), &[value]);
        b.store(y, &place, value);
        let kernel = b.finish(std::slice::from_ref(&n));
        let code = Code::of(target, &kernel);
        let mut params = vec![vec![0; 4 * 30 * lanes as usize]];
        assert_eq!(groups(&kernel, &[5]), 30);
        for (first, end) in [(0, 7), (7, 8), (8, 8), (8, 30), (30, 29)] {
            code.run_groups(&mut params, &[5], first, end);
        }
        let expected: Vec<f32> = (0..30 * lanes).map(|at| at as f32).collect();
        assert_eq!(as_floats(&params[0]), expected);
    }
}

#[test]
fn limits_and_missing_functions_are_told() {
    for (level, _) in Level::ALL {
        let target = X64::level(level);
        let lanes = target.caps().lanes;
        let kernel = |lanes: u32, op: Option<ScalarOp>| {
            let mut b = Builder::new("small", lanes, one_direction(&Expr::int(1)));
            let y = b.param(DType::F32, Access::Write, Expr::int(i64::from(lanes)), false);
            let lane = b.lane();
            let x = b.index(DType::I32, &lane);
            let x = b.scalar(ScalarOp::Cast(DType::F32), &[x]);
            let x = op.map_or(x, |op| b.scalar(op, &[x]));
            b.store(y, &lane, x);
            b.finish(&[])
        };
        let error = target.emit(&kernel(2 * lanes, None)).unwrap_err();
        assert_eq!(error, EmitError::Limit { what: "lanes", need: 2 * u64::from(lanes), have: lanes.into() });
        let error = target.emit(&kernel(lanes / 2, None)).unwrap_err();
        let need = u64::from(lanes);
        assert_eq!(error, EmitError::Limit { what: "lanes at least", need, have: need / 2 });
        let error = target.emit(&kernel(lanes, Some(ScalarOp::Exp))).unwrap_err();
        assert_eq!(error.to_string(), "cpu-x64 cannot compute exp of f32");
    }
}

/// Every fourth element, the last of a memory among them: what is loaded for several lanes at once ends where it does.
#[test]
fn lanes_that_take_every_fourth_element() {
    for target in targets() {
        let lanes = target.caps().lanes;
        let (width, groups) = (i64::from(lanes), 3);
        let mut b = Builder::new("fourth", lanes, one_direction(&Expr::int(groups)));
        let x = b.param(DType::F32, Access::Read, Expr::int(groups * 4 * width), false);
        let y = b.param(DType::F32, Access::Write, Expr::int(groups * 4 * width), false);
        let (group, lane) = (b.grid(0), b.lane());
        for k in 0..4 {
            let value = b.load(x, &((group.clone() * width + lane.clone()) * 4 + k));
            b.store(y, &((group.clone() * 4 + k) * width + lane.clone()), value);
        }
        let kernel = b.finish(&[]);
        let mut noise = Noise(11);
        let count = 12 * lanes as usize;
        check(&kernel, &target, &[random(&mut noise, count), vec![0; 4 * count]], &[]);
        let bytes = target.emit(&kernel).unwrap().bytes;
        let mut code = Decoder::new(64, &bytes, DecoderOptions::NONE);
        let gathers = code.iter().any(|x| x.code() == Opcode::VEX_Vpgatherdd_ymm_vm32y_ymm);
        assert!(!gathers, "{}", target.variant());
    }
}
