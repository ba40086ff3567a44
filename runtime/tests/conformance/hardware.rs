//! CUDA: what a device computes, beside what the interpreter of PTX computes from the same text; and all of the suite
//! on the mock driver, where there is no device.

use std::process::Command;

use jtllm_codegen::kernel::has_products;
use jtllm_ir::Format;
use jtllm_runtime::device::Device;

use crate::common::case::Case;
use crate::common::ptx::{emulate, is_nan};
use crate::common::{Launch, compiled, recurrence, run_by, works};
use crate::devices::{ON_MOCK, device, mock_driver};

/// How far sums of matrix units may be apart, of the largest: they add in an order of their own, and drop bits.
const UNITS: f32 = 1e-2;

/// Runs a launch on the device; leaves behind what it left.
fn launch(device: &dyn Device, launch: &mut Launch<'_>) {
    let artifact = device.target().emit(launch.kernel).unwrap();
    let program = device.load(&[(launch.kernel, artifact)]).unwrap().remove(0);
    let mut args = Vec::new();
    for bytes in launch.params.iter() {
        let mem = device.alloc(bytes.len() as u64).unwrap();
        device.write(&mem.span(), bytes).unwrap();
        args.push(mem.span());
    }
    let symbols = device.alloc(256).unwrap().span();
    let block: Vec<u8> = launch.symbols.iter().flat_map(|x| x.to_le_bytes()).collect();
    device.write(&symbols, &block).unwrap();
    device.launch(&program, [launch.groups as u32, 1, 1], &symbols, &args).unwrap();
    for (span, bytes) in args.iter().zip(launch.params.iter_mut()) {
        device.read(span, bytes).unwrap();
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

/// Compares what a launch left behind in both ways.
fn same(launch: &Launch<'_>, emulated: &[Vec<u8>]) {
    let kernel = launch.kernel;
    for (at, param) in kernel.params.iter().enumerate().filter(|(_, param)| param.access.writes()) {
        let (found, expected) = (&launch.params[at], &emulated[at]);
        if !kernel.fragments.is_empty() {
            let error = crate::common::difference(&floats(found), &floats(expected));
            assert!(error < UNITS, "p{at} differs by {error}\n{kernel}");
            continue;
        }
        let size = param.dtype.size();
        for (place, (x, y)) in found.chunks(size).zip(expected.chunks(size)).enumerate() {
            let both_nan = is_nan(param.dtype, x) && is_nan(param.dtype, y);
            assert!(x == y || both_nan, "p{at}[{place}] is {x:?}, interpreted {y:?}\n{kernel}");
        }
    }
}

/// Products deep enough for every buffer of a tile to be used again, with rows and columns beyond the last tile.
fn products() -> Vec<Case> {
    let shapes = [("bf16", [160, 136, 640]), ("f16", [48, 260, 328]), ("q4_0", [144, 100, 384])];
    shapes.map(|(format, shape)| works::linear_case(Format::find(format).unwrap(), shape)).into()
}

#[test]
fn a_device_computes_what_the_ptx_interpreter_does() {
    let Some(subject) = device("cuda") else { return };
    let target = subject.device.target();
    let mut of_teams = 0;
    for case in works::cases().into_iter().chain(products()).chain(recurrence::cases()) {
        let compilation = compiled(&case.graph, target.caps());
        of_teams += compilation.kernels.iter().filter(|kernel| has_products(&kernel.body)).count();
        run_by(&compilation, target.caps(), &mut case.bindings.clone(), &mut |mut each| {
            let before = each.params.to_vec();
            let emulated = emulate(target, &each, &before);
            launch(&*subject.device, &mut each);
            same(&each, &emulated);
        });
    }
    let teams = target.caps().matrix.is_some_and(|matrix| matrix.teams > 0);
    assert_eq!(of_teams > 2, teams, "{of_teams} products of teams");
}

#[test]
fn the_suite_passes_on_the_mock_driver() {
    let (None, Some(library)) = (device("cuda"), mock_driver()) else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(library, folder.path().join("libcuda.so")).unwrap();
    let mut suite = Command::new(std::env::current_exe().unwrap());
    suite.env("LD_LIBRARY_PATH", folder.path()).env("VK_ICD_FILENAMES", "/nonexistent").env(ON_MOCK, "1");
    let output = suite.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
}
