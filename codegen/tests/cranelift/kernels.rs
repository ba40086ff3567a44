//! Kernels as schedules write them, against plain loops.

use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::{Access, CellId, Kernel, Memory, ValueId, lane_tree};
use jtllm_codegen::target::{EmitError, Target};
use jtllm_ir::{DType, Expr, Monoid, Scalar, ScalarOp, Symbol};

use crate::native::{Noise, as_floats, floats, words};
use crate::{HOST, on_host};

fn one_direction(extent: &Expr) -> [Expr; 3] {
    [extent.clone(), Expr::int(1), Expr::int(1)]
}

fn random(noise: &mut Noise, count: usize) -> Vec<f32> {
    (0..count).map(|_| noise.float()).collect()
}

/// `y[n] = sum over k of w[n, k] * x[k]`, `rows` rows a group, lanes over k, `unroll` steps at a time.
pub(crate) fn matvec(n: i64, k: i64, rows: i64, unroll: i64) -> Kernel {
    let mut b = Builder::new("matvec", 4, one_direction(&Expr::int(n / rows)));
    let w = b.param(DType::F32, Access::Read, Expr::int(n * k), true);
    let x = b.param(DType::F32, Access::Read, Expr::int(k), true);
    let y = b.param(DType::F32, Access::Write, Expr::int(n), true);
    let zero = b.float(0.0);
    let sums: Vec<CellId> = (0..rows).map(|_| b.cell(zero)).collect();
    let (group, lane) = (b.grid(0), b.lane());
    b.repeat(&Expr::int(k / 4 / unroll), |b, step| {
        for part in 0..unroll {
            let at = (step.clone() * unroll + part) * 4 + lane.clone();
            let v = b.load(x, &at);
            for (row, sum) in sums.iter().enumerate() {
                let weight = b.load(w, &((group.clone() * rows + row as i64) * k + at.clone()));
                add_product(b, *sum, weight, v);
            }
        }
    });
    for (row, sum) in sums.iter().enumerate() {
        let each = b.get(*sum);
        let total = b.lane_reduce(Monoid::Add, each);
        let at = group.clone() * rows + row as i64;
        b.when(&lane.equals(&Expr::int(0)), |b| b.store(y, &at, total));
    }
    b.finish(&[])
}

fn add_product(b: &mut Builder, sum: CellId, x: ValueId, y: ValueId) {
    let old = b.get(sum);
    let new = b.scalar(ScalarOp::Fma, &[x, y, old]);
    b.set(sum, new);
}

#[test]
fn a_matvec_adds_in_the_order_of_the_lanes() {
    let (n, k) = (24usize, 36usize);
    let mut noise = Noise(3);
    let (w, x) = (random(&mut noise, n * k), random(&mut noise, k));
    let mut params = vec![floats(&w), floats(&x), vec![0; n * 4]];
    on_host(&matvec(n as i64, k as i64, 8, 3)).run(&mut params, &[]);
    for (row, got) in as_floats(&params[2]).into_iter().enumerate() {
        let lanes = (0..4).map(|lane| {
            (0..k / 4).fold(0f32, |sum, step| w[row * k + step * 4 + lane].mul_add(x[step * 4 + lane], sum))
        });
        let expected = lane_tree(lanes.collect(), |a, b| a + b).unwrap();
        assert_eq!(got.to_bits(), expected.to_bits(), "row {row}");
    }
}

/// The sum of squares of each row of `columns` numbers, a symbol; the tail is masked.
#[test]
fn a_row_reduction_masks_its_tail() {
    let columns = Symbol::new("columns", 1, 100, 1);
    let rows = Symbol::new("rows", 0, 100, 1);
    let (width, height) = (Expr::symbol(&columns), Expr::symbol(&rows));
    let mut b = Builder::new("rows", 4, one_direction(&height));
    let x = b.param(DType::F32, Access::Read, height.clone() * width.clone(), false);
    let y = b.param(DType::F32, Access::Write, height, false);
    let zero = b.float(0.0);
    let sum = b.cell(zero);
    let (row, lane) = (b.grid(0), b.lane());
    b.repeat(&(width.clone() + 3).div_floor(4), |b, step| {
        let column = step * 4 + lane.clone();
        b.when(&column.less_than(&width), |b| {
            let v = b.load(x, &(row.clone() * width.clone() + column.clone()));
            add_product(b, sum, v, v);
        });
    });
    let each = b.get(sum);
    let total = b.lane_reduce(Monoid::Add, each);
    b.store(y, &row, total);
    let native = on_host(&b.finish(&[rows, columns]));
    let mut noise = Noise(5);
    for columns in [1usize, 3, 4, 5, 17, 100] {
        let x = random(&mut noise, 7 * columns);
        let mut params = vec![floats(&x), vec![0; 28]];
        native.run(&mut params, &[7, columns as i32]);
        for (row, got) in as_floats(&params[1]).into_iter().enumerate() {
            let mut lanes = vec![0f32; 4];
            for (k, v) in x[row * columns..][..columns].iter().enumerate() {
                lanes[k % 4] = v.mul_add(*v, lanes[k % 4]);
            }
            let expected = lane_tree(lanes, |a, b| a + b).unwrap();
            assert_eq!(got.to_bits(), expected.to_bits(), "{columns} columns, row {row}");
        }
    }
    native.run(&mut [Vec::new(), Vec::new()], &[0, 1]);
}

/// Rows of a table by number, as an embedding reads it.
#[test]
fn rows_are_gathered_by_value() {
    let mut b = Builder::new("gather", 4, [Expr::int(2), Expr::int(5), Expr::int(1)]);
    let table = b.param(DType::F16, Access::Read, Expr::int(9 * 8), false);
    let ids = b.param(DType::I32, Access::Read, Expr::int(5), false);
    let y = b.param(DType::F32, Access::Write, Expr::int(5 * 8), false);
    let (column, token) = (b.grid(0) * 4 + b.lane(), b.grid(1));
    let id = b.load(ids, &token);
    let row = b.as_expr(id, 0, &Expr::int(9));
    let half = b.load(table, &(row * 8 + column.clone()));
    let value = b.scalar(ScalarOp::Cast(DType::F32), &[half]);
    b.store(y, &(token * 8 + column), value);
    let table: Vec<f32> = (0..72).map(|i| i as f32 * 0.25).collect();
    let halves = table.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect();
    let ids = [3, 0, 8, 8, 1];
    let mut params = vec![halves, words(&ids), vec![0; 160]];
    on_host(&b.finish(&[])).run(&mut params, &[]);
    let expected: Vec<f32> = ids.iter().flat_map(|id| table[*id as usize * 8..][..8].to_vec()).collect();
    assert_eq!(as_floats(&params[2]), expected);
}

/// Four-bit numbers: each lane its own word of eight, a scale for each 32.
#[test]
fn four_bit_numbers_are_unpacked_and_scaled() {
    let k = 256i64;
    let mut b = Builder::new("nibbles", 4, one_direction(&Expr::int(1)));
    let w = b.param(DType::U32, Access::Read, Expr::int(k / 8), false);
    let scales = b.param(DType::F16, Access::Read, Expr::int(k / 32), false);
    let y = b.param(DType::F32, Access::Write, Expr::int(k), false);
    let lane = b.lane();
    b.repeat(&Expr::int(k / 32), |b, step| {
        let word = b.load(w, &(step.clone() * 4 + lane.clone()));
        let scale = b.load(scales, &step);
        let scale = b.scalar(ScalarOp::Cast(DType::F32), &[scale]);
        for nibble in 0..8 {
            let count = b.constant(DType::U32, Scalar::Int(4 * nibble));
            let mask = b.constant(DType::U32, Scalar::Int(15));
            let (eight, zero) = (b.float(8.0), b.float(0.0));
            let bits = b.scalar(ScalarOp::Shr, &[word, count]);
            let bits = b.scalar(ScalarOp::And, &[bits, mask]);
            let value = b.scalar(ScalarOp::Cast(DType::F32), &[bits]);
            let value = b.scalar(ScalarOp::Sub, &[value, eight]);
            let value = b.scalar(ScalarOp::Fma, &[value, scale, zero]);
            b.store(y, &(step.clone() * 32 + lane.clone() * 8 + nibble), value);
        }
    });
    let mut noise = Noise(11);
    let packed: Vec<i32> = (0..k / 8).map(|_| noise.word() as i32).collect();
    let scales: Vec<half::f16> = (0..k / 32).map(|_| half::f16::from_f32(noise.float())).collect();
    let bytes = scales.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut params = vec![words(&packed), bytes, vec![0; k as usize * 4]];
    on_host(&b.finish(&[])).run(&mut params, &[]);
    for (at, got) in as_floats(&params[2]).into_iter().enumerate() {
        let number = (packed[at / 8] >> (4 * (at % 8)) & 15) - 8;
        assert_eq!(got, (number as f32).mul_add(scales[at / 32].to_f32(), 0.0), "element {at}");
    }
}

/// A group's memory, written by lanes and read crosswise, in a grid of three directions.
#[test]
fn shared_memory_and_grids_of_three_directions() {
    let n = Symbol::new("n", 0, 9, 1);
    let grid = [Expr::int(3), Expr::symbol(&n), Expr::int(2)];
    let mut b = Builder::new("shared", 4, grid.clone());
    let len = grid.iter().fold(Expr::int(4), |product, x| product * x.clone());
    let x = b.param(DType::F32, Access::Read, len.clone(), false);
    let y = b.param(DType::F32, Access::Write, len, false);
    let turned = b.shared(DType::F32, 4);
    let group = (b.grid(2) * grid[1].clone() + b.grid(1)) * 3 + b.grid(0);
    let lane = b.lane();
    let value = b.load(x, &(group.clone() * 4 + lane.clone()));
    b.store(turned, &lane, value);
    b.barrier();
    let other = b.load(turned, &(Expr::int(3) - lane.clone()));
    b.store(y, &(group * 4 + lane), other);
    let native = on_host(&b.finish(&[n]));
    let x: Vec<f32> = (0..5 * 24).map(|i| i as f32).collect();
    let expected: Vec<f32> = (0..x.len()).map(|i| (i / 4 * 4 + 3 - i % 4) as f32).collect();
    let mut params = vec![floats(&x), vec![0; x.len() * 4]];
    assert_eq!(native.groups(&[5]), 30);
    for (first, end) in [(0, 7), (7, 8), (8, 8), (8, 30)] {
        native.run_groups(&mut params, &[5], first, end);
    }
    assert_eq!(as_floats(&params[1]), expected);
}

/// Lanes that take no part touch nothing: the buffers end where the last lane's element would begin.
#[test]
fn lanes_without_part_stay_inside() {
    let mut b = Builder::new("masked", 4, one_direction(&Expr::int(2)));
    let n = Symbol::new("n", 1, 8, 1);
    let len = Expr::symbol(&n);
    let x = b.param(DType::F32, Access::Read, len.clone(), false);
    let y = b.param(DType::F32, Access::Write, len.clone(), false);
    let at = b.grid(0) * 4 + b.lane();
    b.when(&at.less_than(&len), |b| {
        let value = b.load(x, &at);
        let value = b.scalar(ScalarOp::Add, &[value, value]);
        b.store(y, &at, value);
    });
    let native = on_host(&b.finish(&[n]));
    for n in 1..=8usize {
        let mut buffer = vec![floats(&[1.5; 12]), floats(&[-1.0; 12])];
        native.run(&mut buffer, &[n as i32]);
        let expected: Vec<f32> = (0..12).map(|i| if i < n { 3.0 } else { -1.0 }).collect();
        assert_eq!(as_floats(&buffer[1]), expected, "{n} elements");
    }
}

#[test]
fn limits_and_missing_functions_are_told() {
    let mut b = Builder::new("wide", 8, one_direction(&Expr::int(1)));
    let y: Memory = b.param(DType::F32, Access::Write, Expr::int(8), false);
    let one = b.float(1.0);
    let lane = b.lane();
    b.store(y, &lane, one);
    let error = HOST.emit(&b.finish(&[])).unwrap_err();
    assert_eq!(error, EmitError::Limit { what: "lanes", need: 8, have: 4 });
    let mut b = Builder::new("exp", 4, one_direction(&Expr::int(1)));
    let y = b.param(DType::F32, Access::Write, Expr::int(4), false);
    let lane = b.lane();
    let x = b.index(DType::I32, &lane);
    let x = b.scalar(ScalarOp::Cast(DType::F32), &[x]);
    let x = b.scalar(ScalarOp::Exp, &[x]);
    b.store(y, &lane, x);
    let error = HOST.emit(&b.finish(&[])).unwrap_err();
    assert_eq!(error.to_string(), "cpu-cranelift cannot compute exp of f32");
}
