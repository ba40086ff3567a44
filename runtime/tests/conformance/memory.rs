//! Memory: what is written is read, whatever the offset and the length.

use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::{Access, Kernel};
use jtllm_ir::{DType, Expr, ScalarOp};
use jtllm_runtime::device::{DeviceError, Span};

use crate::devices::{for_each_device, plain_lanes};

fn pattern(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 + seed * 7 + 1) as u8).collect()
}

#[test]
fn new_memory_is_zero() {
    for_each_device(|subject| {
        for len in [1u64, 4, 255, 65537] {
            let mem = subject.device.alloc(len).unwrap();
            assert_eq!(mem.len(), len);
            let mut bytes = vec![1; len as usize];
            subject.device.read(&mem.span(), &mut bytes).unwrap();
            assert!(bytes.iter().all(|byte| *byte == 0), "{} {len}", subject.name);
        }
    });
}

#[test]
fn parts_are_written_and_read() {
    for_each_device(|subject| {
        let device = &*subject.device;
        let mem = device.alloc(4096).unwrap();
        let mut image = pattern(4096, 0);
        device.write(&mem.span(), &image).unwrap();
        for (offset, len) in [(0, 1), (256, 3), (512, 4), (768, 255), (1024, 1022), (4092, 4)] {
            let part = pattern(len, offset);
            image[offset..offset + len].copy_from_slice(&part);
            let span = Span { mem: mem.clone(), offset: offset as u64, len: len as u64 };
            device.write(&span, &part).unwrap();
            let mut found = vec![0; len];
            device.read(&span, &mut found).unwrap();
            assert_eq!(found, part, "{}: {len} bytes at {offset}", subject.name);
            let mut whole = vec![0; 4096];
            device.read(&mem.span(), &mut whole).unwrap();
            assert!(whole == image, "{}: {len} bytes at {offset} changed others", subject.name);
        }
    });
}

/// `y[i] += 1`, by groups of so many lanes.
fn increment(count: usize, lanes: u32) -> Kernel {
    let groups = Expr::int(count as i64 / i64::from(lanes));
    let mut b = Builder::new("increment", lanes, [groups, Expr::int(1), Expr::int(1)]);
    let x = b.param(DType::I32, Access::Read, Expr::int(count as i64), true);
    let y = b.param(DType::I32, Access::Write, Expr::int(count as i64), true);
    let at = b.grid(0) * i64::from(lanes) + b.lane();
    let value = b.load(x, &at);
    let one = b.index(DType::I32, &Expr::int(1));
    let sum = b.scalar(ScalarOp::Add, &[value, one]);
    b.store(y, &at, sum);
    b.finish(&[])
}

#[test]
fn launches_and_writes_keep_their_order() {
    for_each_device(|subject| {
        let device = &*subject.device;
        let lanes = plain_lanes(device);
        let kernel = increment(64, lanes);
        let artifact = device.target().emit(&kernel).unwrap();
        let program = device.load(&[(&kernel, artifact)]).unwrap().remove(0);
        let symbols = device.alloc(256).unwrap().span();
        let memory = device.alloc(512).unwrap();
        let half = |offset| Span { mem: memory.clone(), offset, len: 256 };
        let words = |value: i32| value.to_le_bytes().repeat(64);
        // There and back between the halves, with a write from outside between launches.
        device.write(&half(0), &words(10)).unwrap();
        for turn in 0..50 {
            device.launch(&program, [64 / lanes, 1, 1], &symbols, &[half(0), half(256)]).unwrap();
            device.launch(&program, [64 / lanes, 1, 1], &symbols, &[half(256), half(0)]).unwrap();
            if turn == 20 {
                device.write(&half(0), &words(1000)).unwrap();
            }
        }
        let mut found = vec![0; 256];
        device.read(&half(0), &mut found).unwrap();
        assert_eq!(found, words(1000 + 2 * 29), "{}", subject.name);
        device.launch(&program, [0, 1, 1], &symbols, &[half(0), half(256)]).unwrap();
    });
}

#[test]
fn memory_that_nobody_has_is_refused() {
    for_each_device(|subject| {
        let refused = subject.device.alloc(1 << 60).err();
        let Some(DeviceError::OutOfMemory { need, .. }) = refused else {
            panic!("{}: {refused:?}", subject.name);
        };
        assert_eq!(need, 1 << 60);
    });
}
