//! Groups of more lanes than a subgroup, on an adapter whose own kernels have none.

use std::sync::Arc;

use jtllm_codegen::emit::wgsl::Wgsl;
use jtllm_codegen::kernel::build::Builder;
use jtllm_codegen::kernel::{Access, Kernel};
use jtllm_codegen::target::Target;
use jtllm_ir::format::Format;
use jtllm_ir::{DType, Expr, Monoid};
use jtllm_runtime::device::wgpu::{Adapter, Choice};
use jtllm_runtime::device::{Device, Span};

use crate::common::works::{gate_and_up, linear_case};
use crate::devices::Subject;
use crate::works::conform_as;

/// The adapter, and its target as if it were no software: with groups of 64 lanes where tiles are multiplied.
fn adapter() -> Option<(Adapter, Wgsl)> {
    match Adapter::open(&Choice::default()) {
        Ok(adapter) => {
            let caps = adapter.target().caps();
            let subgroup = (caps.lanes < 64).then_some(caps.lanes);
            let least = (64, 16 << 10, caps.max_bindings, caps.max_span);
            let target = Wgsl::new(least.0, least.1, least.2, least.3, subgroup).with_tiles(64);
            assert_eq!((target.caps().lanes, target.caps().tile_lanes), (caps.lanes, 64));
            Some((adapter, target))
        }
        Err(why) => {
            println!("skipped: wgpu: {why}");
            None
        }
    }
}

/// Each of 64 lanes stores what all of them give together.
fn joined(monoid: Monoid) -> Kernel {
    let mut b = Builder::new("joined", 64, [Expr::int(1), Expr::int(1), Expr::int(1)]);
    let x = b.param(DType::F32, Access::Read, Expr::int(64), true);
    let y = b.param(DType::F32, Access::Write, Expr::int(64), true);
    let lane = b.lane();
    let value = b.load(x, &lane);
    let all = b.lane_reduce(monoid, value);
    b.store(y, &lane, all);
    b.finish(&[])
}

#[test]
fn lanes_of_several_subgroups_join() {
    let Some((adapter, target)) = adapter() else { return };
    let values: Vec<f32> = (0..64).map(|at| (at * 37 % 64) as f32 - 20.0).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    for (monoid, expected) in
        [(Monoid::Add, values.iter().sum()), (Monoid::Max, 43.0f32), (Monoid::Min, -20.0)]
    {
        let kernel = joined(monoid);
        let program = adapter.load(&[(&kernel, target.emit(&kernel).unwrap())]).unwrap().remove(0);
        let [symbols, x, y]: [Span; 3] = [256, 256, 256].map(|len| adapter.alloc(len).unwrap().span());
        adapter.write(&x, &bytes).unwrap();
        adapter.launch(&program, [1, 1, 1], &symbols, &[x, y.clone()]).unwrap();
        let mut found = vec![0; 256];
        adapter.read(&y, &mut found).unwrap();
        assert_eq!(found, expected.to_le_bytes().repeat(64), "{monoid:?}");
    }
}

#[test]
fn tiles_have_groups_of_their_own() {
    let Some((adapter, target)) = adapter() else { return };
    let cases = || {
        let format = |name| Format::find(name).unwrap();
        vec![
            linear_case(format("bf16"), [48, 72, 64]),
            linear_case(format("q4_0"), [32, 70, 96]),
            gate_and_up("f16", 32),
        ]
    };
    for case in cases() {
        let compilation = crate::common::compiled(&case.graph, target.caps());
        let lanes: Vec<u32> = compilation.kernels.iter().map(|kernel| kernel.lanes).collect();
        assert!(lanes.contains(&64), "{}: {lanes:?}", case.graph.name);
    }
    let subject = Subject { name: "wgpu in tiles", device: Arc::new(adapter), is_exact: false };
    conform_as(&subject, &target, cases());
}
