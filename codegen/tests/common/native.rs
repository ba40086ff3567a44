//! Runs emitted code, and lays out buffers of elements as bytes.
#![allow(clippy::unwrap_used, dead_code)]

use jtllm_codegen::emit::cranelift::Entry;
use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::target::Target;
use jtllm_ir::expr::Environment;
use jtllm_ir::{DType, Symbol};
use memmap2::{Mmap, MmapMut};

pub(crate) use crate::common::scalars::{Noise, bits, same};

/// Code in executable memory.
pub(crate) struct Native {
    code: Mmap,
    grid: [jtllm_ir::Expr; 3],
    symbols: Vec<(Symbol, u32)>,
}

struct Bindings<'a>(&'a [(Symbol, u32)], &'a [i32]);

impl Environment for Bindings<'_> {
    fn axis(&self, _: u16) -> i64 {
        panic!("a grid mentions no axis")
    }

    fn symbol(&self, symbol: &Symbol) -> i64 {
        let (_, slot) = self.0.iter().find(|(known, _)| known == symbol).unwrap();
        i64::from(self.1[*slot as usize])
    }

    fn extra(&self, _: u32, _: &[i64]) -> i64 {
        panic!("a grid mentions no value")
    }
}

fn count(grid: &[jtllm_ir::Expr; 3], known: &[(Symbol, u32)], symbols: &[i32]) -> u64 {
    let extents = grid.iter().map(|x| x.evaluate(&Bindings(known, symbols)));
    extents.map(|extent| u64::try_from(extent).unwrap_or(0)).product()
}

/// How many groups a kernel has.
pub(crate) fn groups(kernel: &Kernel, symbols: &[i32]) -> u64 {
    count(&kernel.grid, &kernel.symbols, symbols)
}

impl Native {
    /// Compiles a kernel for `target`.
    pub(crate) fn with(target: &dyn Target, kernel: &Kernel) -> Native {
        let artifact = target.emit(kernel).unwrap();
        let mut map = MmapMut::map_anon(artifact.bytes.len()).unwrap();
        map.copy_from_slice(&artifact.bytes);
        let code = map.make_exec().unwrap();
        Native { code, grid: kernel.grid.clone(), symbols: kernel.symbols.clone() }
    }

    /// How many groups there are.
    pub(crate) fn groups(&self, symbols: &[i32]) -> u64 {
        count(&self.grid, &self.symbols, symbols)
    }

    /// Runs all groups.
    pub(crate) fn run(&self, params: &mut [Vec<u8>], symbols: &[i32]) {
        self.run_groups(params, symbols, 0, self.groups(symbols));
    }

    /// Runs some groups.
    pub(crate) fn run_groups(&self, params: &mut [Vec<u8>], symbols: &[i32], first: u64, end: u64) {
        let pointers: Vec<*mut u8> = params.iter_mut().map(|bytes| bytes.as_mut_ptr()).collect();
        self.call(&pointers, symbols, first, end);
    }

    /// Runs all groups on memory that the caller vouches for.
    pub(crate) fn run_at(&self, params: &[*mut u8], symbols: &[i32]) {
        self.call(params, symbols, 0, self.groups(symbols));
    }

    fn call(&self, pointers: &[*mut u8], symbols: &[i32], first: u64, end: u64) {
        // SAFETY: the bytes are a function of this type that the emitter made for this processor, in
        // executable memory; it touches only the buffers, which the tests make large enough.
        let entry: Entry = unsafe { std::mem::transmute(self.code.as_ptr()) };
        // SAFETY: as above; `symbols` and `pointers` outlive the call.
        unsafe { entry(pointers.as_ptr(), symbols.as_ptr(), first, end) }
    }
}

/// Floats as bytes.
pub(crate) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Bytes as floats.
pub(crate) fn as_floats(bytes: &[u8]) -> Vec<f32> {
    bits(DType::F32, bytes).into_iter().map(f32::from_bits).collect()
}

/// Integers as bytes.
pub(crate) fn words(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}
