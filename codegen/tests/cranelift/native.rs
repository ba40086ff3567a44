//! Runs emitted code, and lays out buffers of elements as bytes.

use std::sync::LazyLock;

use jtllm_codegen::emit::cranelift::{Cranelift, Entry};
use jtllm_codegen::kernel::Kernel;
use jtllm_codegen::target::Target;
use jtllm_ir::expr::Environment;
use jtllm_ir::{DType, Scalar, Symbol};
use memmap2::{Mmap, MmapMut};

/// The target under test.
pub(crate) static HOST: LazyLock<Cranelift> = LazyLock::new(|| Cranelift::host().unwrap());

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

impl Native {
    /// Compiles a kernel for `target`.
    pub(crate) fn with(target: &Cranelift, kernel: &Kernel) -> Native {
        let artifact = target.emit(kernel).unwrap();
        let mut map = MmapMut::map_anon(artifact.bytes.len()).unwrap();
        map.copy_from_slice(&artifact.bytes);
        let code = map.make_exec().unwrap();
        Native { code, grid: kernel.grid.clone(), symbols: kernel.symbols.clone() }
    }

    /// Compiles a kernel for this machine.
    pub(crate) fn new(kernel: &Kernel) -> Native {
        Native::with(&HOST, kernel)
    }

    /// How many groups there are.
    pub(crate) fn groups(&self, symbols: &[i32]) -> u64 {
        let extents = self.grid.iter().map(|x| x.evaluate(&Bindings(&self.symbols, symbols)));
        extents.map(|extent| u64::try_from(extent).unwrap_or(0)).product()
    }

    /// Runs all groups.
    pub(crate) fn run(&self, params: &mut [Vec<u8>], symbols: &[i32]) {
        self.run_groups(params, symbols, 0, self.groups(symbols));
    }

    /// Runs some groups.
    pub(crate) fn run_groups(&self, params: &mut [Vec<u8>], symbols: &[i32], first: u64, end: u64) {
        let pointers: Vec<*mut u8> = params.iter_mut().map(|bytes| bytes.as_mut_ptr()).collect();
        // SAFETY: the bytes are a function of this type that the emitter made for this processor, in
        // executable memory; it touches only the buffers, which the tests make large enough.
        let entry: Entry = unsafe { std::mem::transmute(self.code.as_ptr()) };
        // SAFETY: as above; `symbols` and `pointers` outlive the call.
        unsafe { entry(pointers.as_ptr(), symbols.as_ptr(), first, end) }
    }
}

/// Elements, given by their bits, as they lie in memory.
pub(crate) fn bytes(dtype: DType, bits: &[u32]) -> Vec<u8> {
    bits.iter().flat_map(|bits| bits.to_le_bytes()[..dtype.size()].to_vec()).collect()
}

/// The bits of the elements in `bytes`.
pub(crate) fn bits(dtype: DType, bytes: &[u8]) -> Vec<u32> {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
    bytes.chunks(dtype.size()).map(word).collect()
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

/// Whether two elements are the same: equal bits, or both not a number.
pub(crate) fn same(dtype: DType, a: u32, b: u32) -> bool {
    let not_number = |bits| matches!(Scalar::from_bits(dtype, bits), Scalar::Float(x) if x.is_nan());
    a == b || (dtype.is_float() && not_number(a) && not_number(b))
}

/// Numbers that look random and are the same in every run.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    /// The next 32 bits.
    pub(crate) fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// The next number below `end`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(end)) >> 32) as u32
    }

    /// The next float in `-1..1`.
    pub(crate) fn float(&mut self) -> f32 {
        self.word() as i32 as f32 / 2_147_483_648.0
    }
}
