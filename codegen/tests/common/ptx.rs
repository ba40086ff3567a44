//! Runs emitted PTX on an interpreter of PTX, beside the interpreter of kernels.

use jtllm_codegen::emit::ptx::{ENTRY, Ptx, TEAMS, dispatch, dynamic_bytes};
use jtllm_codegen::kernel::has_products;
use jtllm_codegen::target::Target;
use jtllm_ir::interp::Bindings;
use jtllm_ir::{DType, Graph};
use jtllm_ptxsim::{Fault, Memory};

use super::{Launch, compiled, run_by};

/// Capabilities that have a level of their own.
pub(crate) const LEVELS: [u32; 3] = [70, 75, 80];

/// A device of a capability.
pub(crate) fn device(capability: u32) -> Ptx {
    Ptx::new(capability, 99 << 10)
}

/// A device whose units multiply for teams.
pub(crate) fn team_device() -> Ptx {
    Ptx::new(TEAMS, 227 << 10).with_teams()
}

/// Compares all kernels of a graph, bit for bit, at every level; gives how many of them are products of teams.
pub(crate) fn compare(graph: &Graph, bindings: &Bindings) -> usize {
    for capability in LEVELS {
        let target = device(capability);
        let compilation = compiled(graph, target.caps());
        run_by(&compilation, target.caps(), &mut bindings.clone(), &mut |launch| both(&target, launch));
    }
    let target = team_device();
    let compilation = compiled(graph, target.caps());
    let products = compilation.kernels.iter().filter(|kernel| has_products(&kernel.body)).count();
    // Other kernels are those of the level below.
    if products > 0 {
        run_by(&compilation, target.caps(), &mut bindings.clone(), &mut |launch| both(&target, launch));
    }
    products
}

/// Runs a launch in both ways; what they leave behind must be the same.
pub(crate) fn both(target: &Ptx, mut launch: Launch<'_>) {
    let before: Vec<Vec<u8>> = launch.params.to_vec();
    launch.interpret(target.caps());
    let kernel = launch.kernel;
    let after = emulate(target, &launch, &before);
    for (at, param) in kernel.params.iter().enumerate().filter(|(_, param)| param.access.writes()) {
        let size = param.dtype.size();
        let elements = after[at].chunks(size).zip(launch.params[at].chunks(size)).enumerate();
        for (place, (got, expected)) in elements {
            let same = got == expected || (is_nan(param.dtype, got) && is_nan(param.dtype, expected));
            assert!(
                same,
                "{}: p{at}[{place}] is {got:?}, expected {expected:?}\n{kernel}\n{}",
                target.variant(),
                String::from_utf8_lossy(&target.emit(kernel).unwrap().bytes)
            );
        }
    }
}

pub(crate) fn is_nan(dtype: DType, bytes: &[u8]) -> bool {
    let mut word = [0; 4];
    word[..bytes.len()].copy_from_slice(bytes);
    dtype.is_float() && jtllm_ir::Scalar::from_bits(dtype, u32::from_le_bytes(word)).float().is_nan()
}

/// What the emitted text leaves behind.
pub(crate) fn emulate(target: &dyn Target, launch: &Launch<'_>, before: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let kernel = launch.kernel;
    let text = String::from_utf8(target.emit(kernel).unwrap().bytes).unwrap();
    emulate_text(&text, launch, before)
        .unwrap_or_else(|fault| panic!("{}: {fault}\n{kernel}\n{text}", target.variant()))
}

/// What a text leaves behind that stands for a launch's kernel, or what it does wrong.
pub(crate) fn emulate_text(
    text: &str,
    launch: &Launch<'_>,
    before: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>, Fault> {
    let kernel = launch.kernel;
    let module = jtllm_ptxsim::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut memory = Memory::new();
    let symbols: Vec<u8> = launch.symbols.iter().flat_map(|symbol| symbol.to_le_bytes()).collect();
    let mut place = |bytes: &[u8]| {
        let address = memory.alloc(bytes.len() as u64);
        memory.write(address, bytes).unwrap();
        address
    };
    let addresses: Vec<u64> =
        std::iter::once(symbols.as_slice()).chain(before.iter().map(Vec::as_slice)).map(&mut place).collect();
    let parameters: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
    let grid = dispatch(launch.groups).unwrap();
    let entry = module.kernel(ENTRY).unwrap();
    let block = [kernel.lanes, 1, 1];
    let mut run = jtllm_ptxsim::Launch::new(entry, grid, block, &parameters);
    run.shared_bytes = dynamic_bytes(kernel);
    if launch.groups > 0 {
        run.run(&memory)?;
    }
    let read = |(address, bytes): (&u64, &Vec<u8>)| {
        let mut after = vec![0; bytes.len()];
        memory.read(*address, &mut after).unwrap();
        after
    };
    Ok(addresses[1..].iter().zip(before).map(read).collect())
}
