//! Every format: random blocks, unpacked to planes and decoded by the graph, against the direct formula.
#![allow(clippy::unwrap_used)]

mod graphs;

use half::{bf16, f16};
use jtllm_ir::interp::{Bindings, run};
use jtllm_ir::{Format, Layout, Tensor};

/// A small generator, so that blocks are the same on each run.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }

    fn half(&mut self) -> f16 {
        f16::from_f32((f32::from(self.byte()) - 100.0) / 64.0)
    }
}

/// A random block and the numbers that it stands for, by the formulas of ggml's reference.
fn block(format: &str, random: &mut Random) -> (Vec<u8>, Vec<f32>) {
    match format {
        "f32" => {
            let x = (f32::from(random.byte()) - 128.0) * 0.37;
            (x.to_le_bytes().to_vec(), vec![x])
        }
        "f16" => {
            let x = random.half();
            (x.to_le_bytes().to_vec(), vec![x.to_f32()])
        }
        "bf16" => {
            let x = bf16::from_f32((f32::from(random.byte()) - 128.0) * 0.37);
            (x.to_le_bytes().to_vec(), vec![x.to_f32()])
        }
        "q8_0" => {
            let scale = random.half();
            let quants: Vec<u8> = (0..32).map(|_| random.byte()).collect();
            let numbers = quants.iter().map(|q| scale.to_f32() * f32::from(*q as i8)).collect();
            ([scale.to_le_bytes().as_slice(), &quants].concat(), numbers)
        }
        "q4_0" | "q4_1" => {
            let (scale, minimum) = (random.half(), random.half());
            let quants: Vec<u8> = (0..16).map(|_| random.byte()).collect();
            let quant = |k: usize| f32::from(if k < 16 { quants[k] & 15 } else { quants[k - 16] >> 4 });
            let (s, m) = (scale.to_f32(), minimum.to_f32());
            if format == "q4_0" {
                let numbers = (0..32).map(|k| s * (quant(k) - 8.0)).collect();
                return ([scale.to_le_bytes().as_slice(), &quants].concat(), numbers);
            }
            let numbers = (0..32).map(|k| quant(k).mul_add(s, m)).collect();
            let halves = [scale.to_le_bytes(), minimum.to_le_bytes()].concat();
            ([halves.as_slice(), &quants].concat(), numbers)
        }
        other => panic!("no formula for {other}"),
    }
}

fn check(format: &Format, rows: usize, columns: usize) {
    let mut random = Random(rows as u64 * 1000 + columns as u64);
    let mut planes: Vec<Vec<u8>> = vec![Vec::new(); format.planes.len()];
    let mut expected = Vec::new();
    for _ in 0..rows * columns / format.block {
        let (bytes, numbers) = block(format.name, &mut random);
        assert_eq!(bytes.len(), format.block_bytes);
        let mut parts: Vec<Vec<u8>> = format
            .planes
            .iter()
            .map(|plane| vec![0; format.block / plane.span * plane.dtype.size()])
            .collect();
        let mut slices: Vec<&mut [u8]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
        (format.unpack)(&bytes, &mut slices);
        planes.iter_mut().zip(parts).for_each(|(plane, part)| plane.extend(part));
        expected.extend(numbers);
    }
    let graph = graphs::decode(format, rows as i64, columns as i64);
    let mut bindings = Bindings::new();
    for (plane, bytes) in format.planes.iter().zip(&planes) {
        let shape = [rows, columns / plane.span];
        let tensor = Tensor::from_bytes(plane.dtype, &shape, bytes).unwrap();
        assert_eq!(tensor.to_bytes(), *bytes);
        bindings.weights.insert(format.plane_name("w", plane), tensor);
    }
    let found = run(&graph, &mut bindings).unwrap()[0].1.to_floats();
    assert_eq!(found, expected, "{} {rows}x{columns}", format.name);
}

#[test]
fn each_format_decodes_what_its_blocks_say() {
    for format in jtllm_ir::format::FORMATS {
        // One row, rows that are no multiple of any group, several blocks a row.
        for (rows, columns) in [(1, 32), (3, 64), (17, 96), (5, 160)] {
            check(format, rows, columns);
        }
        if format.is_direct() {
            check(format, 3, 7);
        }
    }
}

#[test]
fn formats_are_found_by_name() {
    for format in jtllm_ir::format::FORMATS {
        assert_eq!(Format::find(format.name).unwrap().name, format.name);
    }
    assert!(Format::find("q9_9").is_none());
    let (weight, plane) = jtllm_ir::format::split_plane_name("blk.0.w#q");
    assert_eq!((weight, plane), ("blk.0.w", "q"));
    assert_eq!(jtllm_ir::format::split_plane_name("blk.0.w"), ("blk.0.w", ""));
}

#[test]
fn layouts_give_each_element_a_place_of_its_own() {
    use jtllm_ir::Expr;
    for layout in [Layout::RowMajor, Layout::RowInterleaved(4), Layout::RowInterleaved(16)] {
        for (rows, columns) in [(1, 3), (16, 2), (18, 5)] {
            let shape = [Expr::int(rows), Expr::int(columns)];
            let length = layout.len(&shape).as_int().unwrap();
            let offset = |at: i64| {
                layout.offset(&shape, &[Expr::int(at / columns), Expr::int(at % columns)]).as_int().unwrap()
            };
            let mut offsets: Vec<i64> = (0..rows * columns).map(offset).collect();
            offsets.sort_unstable();
            offsets.dedup();
            assert_eq!(offsets.len() as i64, rows * columns, "{}", layout.name());
            assert!(offsets.iter().all(|at| (0..length).contains(at)), "{}", layout.name());
        }
    }
    let shape = [Expr::int(20), Expr::int(3)];
    let at = [Expr::int(17), Expr::int(2)];
    assert_eq!(Layout::RowInterleaved(16).offset(&shape, &at), Expr::int((3 + 2) * 16 + 1));
    assert_eq!(Layout::RowInterleaved(16).len(&shape), Expr::int(32 * 3));
}
