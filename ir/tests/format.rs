//! Every format: random blocks, unpacked to planes and decoded by the graph, against the direct formula.
#![allow(clippy::unwrap_used)]

mod graphs;

use std::path::Path;

use half::{bf16, f16};
use jtllm_ir::interp::{Bindings, run};
use jtllm_ir::{Format, Layout, Tensor};

/// Blocks of a format as a file holds them, and the numbers that they stand for: of packed formats what PyPI's
/// `gguf` says (`tests/gguf/blocks.py`), 16 of them.
fn blocks(format: &Format) -> (Vec<u8>, Vec<f32>) {
    let number = |k: u8| (f32::from(k) - 100.0) * 0.37;
    let numbers = (0..160).map(number);
    match format.name {
        "f32" => (numbers.clone().flat_map(f32::to_le_bytes).collect(), numbers.collect()),
        "f16" => {
            let numbers = numbers.map(f16::from_f32);
            (numbers.clone().flat_map(f16::to_le_bytes).collect(), numbers.map(f16::to_f32).collect())
        }
        "bf16" => {
            let numbers = numbers.map(bf16::from_f32);
            (numbers.clone().flat_map(bf16::to_le_bytes).collect(), numbers.map(bf16::to_f32).collect())
        }
        packed => {
            let file = format!("../tests/fixtures/gguf-blocks/{packed}.bin");
            let mut bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
            let numbers = bytes.split_off(16 * format.block_bytes);
            let numbers = numbers.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
            (bytes, numbers.collect())
        }
    }
}

/// Unpacks the blocks of a matrix with so many rows.
fn unpacked(format: &Format, bytes: &[u8], rows: usize) -> Bindings {
    let mut planes: Vec<Vec<u8>> = vec![Vec::new(); format.planes.len()];
    for block in bytes.chunks_exact(format.block_bytes) {
        // What a block's unpacking does not write would keep these bytes.
        let mut parts: Vec<Vec<u8>> = format
            .planes
            .iter()
            .map(|plane| vec![0xA5; format.block / plane.span * plane.dtype.size()])
            .collect();
        let mut slices: Vec<&mut [u8]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
        (format.unpack)(block, &mut slices);
        planes.iter_mut().zip(parts).for_each(|(plane, part)| plane.extend(part));
    }
    let mut bindings = Bindings::new();
    for (plane, bytes) in format.planes.iter().zip(&planes) {
        let shape = [rows, bytes.len() / plane.dtype.size() / rows];
        let tensor = Tensor::from_bytes(plane.dtype, &shape, bytes).unwrap();
        bindings.weights.insert(format.plane_name("w", plane), tensor);
    }
    bindings
}

#[test]
fn each_format_decodes_what_its_blocks_say() {
    for format in jtllm_ir::format::FORMATS {
        let (bytes, expected) = blocks(format);
        // One row, several blocks a row, one block a row.
        for rows in [1, 4, 16] {
            let graph = graphs::decode(format, rows as i64, (expected.len() / rows) as i64);
            let mut bindings = unpacked(format, &bytes, rows);
            let found = run(&graph, &mut bindings).unwrap()[0].1.to_floats();
            assert_eq!(found.len(), expected.len());
            for (k, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let same = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
                assert!(same, "{}, number {k}: {found} instead of {expected}", format.name);
            }
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
