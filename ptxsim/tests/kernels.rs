//! Whole kernels: sums by threads, a softmax over blocks, matrices through shared memory.
#![allow(clippy::unwrap_used)]

mod common;

use common::run;
use half::{bf16, f16};
use jtllm_fuzz::Random;
use jtllm_ptxsim::Reason;

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut source = Random::new(seed);
    (0..count).map(|_| source.below(2000) as f32 / 500.0 - 2.0).collect()
}

/// One row for each block, 64 threads: largest value, sum, quotient, by shuffles and through shared memory.
const SOFTMAX: &str = include_str!("kernels/softmax.ptx");

#[test]
fn a_softmax_is_right_and_its_barriers_are_needed() {
    let (rows, width) = (3, 100);
    let values = random(1, rows * width);
    let buffers = [bytes(&values), vec![0; rows * width * 4]];
    let found = run(SOFTMAX, rows as u32, 64, &buffers).unwrap();
    for (row, out) in values.chunks(width).zip(floats(&found[1]).chunks(width)) {
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        let sum: f32 = row.iter().map(|x| (x - most).exp()).sum();
        for (x, y) in row.iter().zip(out) {
            assert!(((x - most).exp() / sum - y).abs() < 1e-6);
        }
    }
    let mut removed = 0;
    for (at, _) in SOFTMAX.match_indices("bar.sync 0;") {
        let planted = format!("{}{}", &SOFTMAX[..at], &SOFTMAX[at + "bar.sync 0;".len()..]);
        let fault = run(&planted, rows as u32, 64, &buffers).unwrap_err();
        assert!([Reason::Race, Reason::Uninitialised].contains(&fault.reason), "{fault}");
        removed += 1;
    }
    assert_eq!(removed, 3);
}

/// One warp: a product of 16 rows, 8 columns and a depth of 16, staged by asynchronous copies.
const PRODUCT: &str = include_str!("kernels/product.ptx");

fn halves(values: &[f32], is_bf16: bool) -> Vec<u8> {
    let bits = |x: &f32| if is_bf16 { bf16::from_f32(*x).to_bits() } else { f16::from_f32(*x).to_bits() };
    values.iter().flat_map(|x| bits(x).to_le_bytes()).collect()
}

#[test]
fn a_product_of_matrices_is_exact() {
    for (name, is_bf16) in [("bf16", true), ("f16", false)] {
        let source = PRODUCT.replace("TYPE", name);
        let whole = |seed| random(seed, 256).iter().map(|x| (x * 4.0).round()).collect::<Vec<f32>>();
        let (a, b) = (whole(2), whole(3)[..128].to_vec());
        let buffers = [halves(&a, is_bf16), halves(&b, is_bf16), vec![0; 16 * 8 * 4]];
        let found = floats(&run(&source, 1, 32, &buffers).unwrap()[2]);
        for row in 0..16 {
            for column in 0..8 {
                let sum: f32 = (0..16).map(|k| a[row * 16 + k] * b[column * 16 + k]).sum();
                assert_eq!(found[row * 8 + column], sum);
            }
        }
        let planted = source.replace("cp.async.wait_group 0;", "");
        assert_eq!(run(&planted, 1, 32, &buffers).unwrap_err().reason, Reason::PendingCopy);
        let planted = source.replace("bar.sync 0;", "");
        assert_eq!(run(&planted, 1, 32, &buffers).unwrap_err().reason, Reason::Race);
    }
}

/// The element that a lane holds of a matrix of bytes or halves: (row, depth) by register and place in the word.
fn left(lane: usize, register: usize, at: usize, per_word: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register % 2), register / 2 * per_word * 4 + lane % 4 * per_word + at)
}

fn right(lane: usize, register: usize, at: usize, per_word: usize) -> (usize, usize) {
    (register * per_word * 4 + lane % 4 * per_word + at, lane / 4)
}

/// A product whose operands' words stand in memory as the lanes hold them: 4, 2 and 4 words for each lane.
fn product(shape: &str, words: [usize; 2], types: [&str; 3], a: &[u8], b: &[u8], c: &[u8]) -> Vec<u8> {
    let list = |prefix: &str, count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("%{prefix}{at}")).collect();
        format!("{{{}}}", names.join(", "))
    };
    let loads = |prefix: &str, count: usize, from: &str| {
        (0..count)
            .map(|at| format!("ld.global.b32 %{prefix}{at}, [{from}+{}];\n", at * 4))
            .collect::<String>()
    };
    let [sum, left, right] = types;
    let source = format!(
        ".version 7.0\n.target sm_80\n.address_size 64
.visible .entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc) {{
.reg .b32 %a<4>, %b<2>, %t; .reg .{sum} %c<4>; .reg .b64 %pa, %pb, %pc, %w;
ld.param.u64 %pa, [pa]; ld.param.u64 %pb, [pb]; ld.param.u64 %pc, [pc]; mov.u32 %t, %tid.x;
mul.wide.u32 %w, %t, 16; add.u64 %pa, %pa, %w; add.u64 %pc, %pc, %w;
mul.wide.u32 %w, %t, 8; add.u64 %pb, %pb, %w;
{}{}{}
mma.sync.aligned.{shape}.row.col.{sum}.{left}.{right}.{sum} {c}, {a}, {b}, {c};
st.global.v4.{sum} [%pc], {c};
ret; }}",
        loads("a", words[0], "%pa"),
        loads("b", words[1], "%pb"),
        loads("c", 4, "%pc"),
        a = list("a", words[0]),
        b = list("b", words[1]),
        c = list("c", 4),
    );
    run(&source, 1, 32, &[a.to_vec(), b.to_vec(), c.to_vec()]).unwrap().remove(2)
}

#[test]
fn every_shape_of_product_multiplies_by_its_map_of_lanes() {
    for (shape, depth) in [("m16n8k8", 8), ("m16n8k16", 16)] {
        for (ty, is_bf16) in [("f16", false), ("bf16", true)] {
            let (mut source, words) = (Random::new(9), [depth / 4, depth / 8]);
            let mut matrix = |rows: usize| -> Vec<f32> {
                (0..rows * depth).map(|_| source.below(17) as f32 - 8.0).collect()
            };
            let (a, b) = (matrix(16), matrix(8));
            let (mut fa, mut fb) = (vec![0.0; 32 * 4 * 2], vec![0.0; 32 * 2 * 2]);
            for lane in 0..32 {
                for (register, at) in (0..4).flat_map(|r| [(r, 0), (r, 1)]) {
                    if register < words[0] {
                        let (row, k) = left(lane, register, at, 2);
                        fa[(lane * 4 + register) * 2 + at] = a[row * depth + k];
                    }
                    if register < words[1] {
                        let (k, column) = right(lane, register, at, 2);
                        fb[(lane * 2 + register) * 2 + at] = b[column * depth + k];
                    }
                }
            }
            let start: Vec<f32> = (0..128).map(|x| x as f32).collect();
            let types = ["f32", ty, ty];
            let found = floats(&product(
                shape,
                words,
                types,
                &halves(&fa, is_bf16),
                &halves(&fb, is_bf16),
                &bytes(&start),
            ));
            for (at, found) in found.iter().enumerate() {
                let (lane, register) = (at / 4, at % 4);
                let (row, column) = (lane / 4 + 8 * (register / 2), lane % 4 * 2 + register % 2);
                let sum: f32 = (0..depth).map(|k| a[row * depth + k] * b[column * depth + k]).sum();
                assert_eq!(*found, start[at] + sum, "{shape} {ty}");
            }
        }
    }
}

#[test]
fn products_of_bytes_keep_their_signs() {
    for (ty, signs) in [("s8", [true, true]), ("u8", [false, true])] {
        let mut source = Random::new(4);
        let mut matrix =
            |rows: usize| -> Vec<u8> { (0..rows * 32).map(|_| source.below(256) as u8).collect() };
        let (a, b) = (matrix(16), matrix(8));
        let (mut fa, mut fb) = (vec![0u8; 32 * 16], vec![0u8; 32 * 8]);
        for lane in 0..32 {
            for (register, at) in (0..4).flat_map(|r| (0..4).map(move |at| (r, at))) {
                let (row, k) = left(lane, register, at, 4);
                fa[(lane * 4 + register) * 4 + at] = a[row * 32 + k];
                if register < 2 {
                    let (k, column) = right(lane, register, at, 4);
                    fb[(lane * 2 + register) * 4 + at] = b[column * 32 + k];
                }
            }
        }
        let found = product("m16n8k32", [4, 2], ["s32", ty, "s8"], &fa, &fb, &vec![0; 512]);
        let value = |x: u8, signed: bool| if signed { i32::from(x as i8) } else { i32::from(x) };
        for (at, found) in found.as_chunks::<4>().0.iter().enumerate() {
            let (lane, register) = (at / 4, at % 4);
            let (row, column) = (lane / 4 + 8 * (register / 2), lane % 4 * 2 + register % 2);
            let term = |k: usize| value(a[row * 32 + k], signs[0]) * value(b[column * 32 + k], signs[1]);
            assert_eq!(i32::from_le_bytes(*found), (0..32).map(term).sum::<i32>(), "{ty}");
        }
    }
}

#[test]
fn matrices_are_loaded_whole_and_turned() {
    let source = |modifier: &str| {
        format!(
            ".version 7.0\n.target sm_80\n.address_size 64
.visible .entry k(.param .u64 out) {{
.reg .b32 %r<9>; .reg .b16 %h<3>; .reg .b64 %out, %w; .shared .align 16 .b8 mem[512];
ld.param.u64 %out, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, mem;
shl.b32 %r3, %r1, 4; add.u32 %r3, %r3, %r2;
shl.b32 %r4, %r1, 3; mad.lo.u32 %r5, %r4, 65537, 65536;
st.shared.u32 [%r3], %r5; add.u32 %r5, %r5, 131074; st.shared.u32 [%r3+4], %r5;
add.u32 %r5, %r5, 131074; st.shared.u32 [%r3+8], %r5; add.u32 %r5, %r5, 131074; st.shared.u32 [%r3+12], %r5;
bar.sync 0;
ldmatrix.sync.aligned.m8n8.x4{modifier}.shared.b16 {{%r5, %r6, %r7, %r8}}, [%r3];
mul.wide.u32 %w, %r1, 16; add.u64 %out, %out, %w; st.global.v4.u32 [%out], {{%r5, %r6, %r7, %r8}}; ret; }}"
        )
    };
    // Element (row, column) of matrix m is 8 * (8 * m + row) + column.
    for (modifier, turned) in [("", false), (".trans", true)] {
        let found = run(&source(modifier), 1, 32, &[vec![0; 512]]).unwrap().remove(0);
        let found: Vec<u16> = found.as_chunks::<2>().0.iter().map(|x| u16::from_le_bytes(*x)).collect();
        for (at, found) in found.iter().enumerate() {
            let (lane, matrix, part) = (at / 8, at / 2 % 4, at % 2);
            let (mut row, mut column) = (lane / 4, lane % 4 * 2 + part);
            if turned {
                (row, column) = (column, row);
            }
            assert_eq!(usize::from(*found), 8 * (8 * matrix + row) + column, "{modifier}");
        }
    }
}

#[test]
fn blocks_run_on_several_threads_and_atomic_sums_are_whole() {
    let source = ".version 7.0\n.target sm_70\n.address_size 64
.visible .entry k(.param .u64 out) { .reg .b64 %out; .reg .b32 %r<3>; .reg .f32 %f1;
ld.param.u64 %out, [out]; atom.global.add.u32 %r1, [%out], 1; red.global.max.u32 [%out+4], %r1;
mov.f32 %f1, 0f3F800000; red.global.add.f32 [%out+8], %f1; ret; }";
    let found = common::run_with(source, 50, 96, &[vec![0; 12]], |launch| launch.threads = 4).unwrap();
    let word = |at: usize| u32::from_le_bytes(found[0][at * 4..][..4].try_into().unwrap());
    assert_eq!((word(0), word(1), f32::from_bits(word(2))), (4800, 4799, 4800.0));
}
