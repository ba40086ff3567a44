//! The portable processor target: kernels as machine code for the host, by way of Cranelift.
//!
//! # What the code is
//!
//! One function of type [`Entry`], without relocations, so that the bytes may be kept in a file and
//! mapped by another process. It has to lie at a multiple of [`CODE_ALIGN`] bytes.
//!
//! # How kernels become vectors
//!
//! A group's four lanes are the elements of a 128-bit register. A varying value is a vector, a uniform
//! one a scalar that is spread where a vector is wanted. Integers of every width and the bits of 16-bit
//! floats are carried in 32-bit elements; truth values are masks of all ones.
//!
//! Cranelift runs without its optimiser, which would pull unrolled loops apart and spill their
//! accumulators; what it would have found is found here: index arithmetic is computed once, as far out
//! as its leaves allow (see `index`), constants stand at the entry, and constant offsets go into the
//! instructions.
//!
//! # Where arithmetic differs from the rule
//!
//! `Fma` rounds once on processors with the instruction. On x86-64 without it the product and the sum
//! are computed in `f64`, where the product is exact: the result is rounded twice, and differs in the
//! last bit where the sum lies within 2^-29 of a tie.

mod convert;
mod function;
mod index;
mod memory;
mod operation;
mod pattern;
mod vector;

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{AbiParam, Function, Signature, UserFuncName, types};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, VERSION};
use cranelift_frontend::FunctionBuilderContext;

use crate::kernel::Kernel;
use crate::target::{Artifact, Caps, EmitError, Target, limit, operations, plain_only};

/// The type of emitted code: runs the groups `first..end`, counted with the first grid direction fastest.
///
/// `params` has the address of each of the kernel's parameters, in order; `symbols` is the symbol block.
pub type Entry = unsafe extern "C" fn(params: *const *mut u8, symbols: *const i32, first: u64, end: u64);

/// What the address of emitted code must be a multiple of: constants stand in the code.
pub const CODE_ALIGN: usize = 64;

/// Lanes of a group: 32-bit elements of the widest register that Cranelift knows.
const LANES: usize = 4;

/// What the emitter asks of a processor.
#[derive(Clone, Copy, Debug)]
struct Features {
    /// Whether there is an instruction for `Fma`.
    fused: bool,
    /// Whether there are instructions that round to integers.
    rounds: bool,
    /// Whether one instruction puts any byte of each element anywhere (x86-64's `pshufb`).
    shuffles: bool,
}

/// The target `cpu-cranelift`.
pub struct Cranelift {
    isa: OwnedTargetIsa,
    features: Features,
    caps: Caps,
    variant: String,
}

impl Cranelift {
    /// For the processor that this program runs on.
    pub fn host() -> Result<Cranelift, EmitError> {
        Cranelift::without(&[])
    }

    /// For the processor that this program runs on, leaving out instruction sets by Cranelift's names,
    /// such as `has_fma`: code for an older one of the same kind.
    pub fn without(features: &[&str]) -> Result<Cranelift, EmitError> {
        let refused = |why: String| EmitError::Refused { why };
        let mut builder = cranelift_native::builder().map_err(|why| refused(why.to_owned()))?;
        for feature in features {
            builder.set(feature, "false").map_err(|error| refused(format!("{feature}: {error}")))?;
        }
        let isa = builder.finish(flags()?).map_err(|error| refused(error.to_string()))?;
        Ok(Cranelift::of(isa))
    }

    fn of(isa: OwnedTargetIsa) -> Cranelift {
        let mut enabled: Vec<&str> = Vec::new();
        let values = isa.isa_flags();
        enabled.extend(values.iter().filter(|flag| flag.as_bool() == Some(true)).map(|flag| flag.name));
        let architecture = isa.triple().architecture.to_string();
        let x86 = architecture == "x86_64";
        let has = |name: &str| enabled.contains(&name);
        let features = Features {
            fused: !x86 || (has("has_avx") && has("has_fma")),
            rounds: !x86 || has("has_sse41"),
            shuffles: x86 && has("has_ssse3"),
        };
        let variant = format!("cranelift {VERSION} {architecture} {}", enabled.join(" "));
        Cranelift { isa, features, caps: caps(), variant }
    }

    /// Turns down what the target has no code for.
    fn check(&self, kernel: &Kernel) -> Result<(), EmitError> {
        plain_only(kernel, self.name())?;
        if kernel.lanes != 1 {
            limit("lanes", u64::from(kernel.lanes), u64::from(self.caps.lanes))?;
            limit("lanes at least", u64::from(self.caps.lanes), u64::from(kernel.lanes))?;
        }
        operations(kernel, self.name(), operation::is_supported)
    }
}

impl Target for Cranelift {
    fn name(&self) -> &'static str {
        "cpu-cranelift"
    }

    fn variant(&self) -> String {
        self.variant.clone()
    }

    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn emit(&self, kernel: &Kernel) -> Result<Artifact, EmitError> {
        self.check(kernel)?;
        let mut signature = Signature::new(self.isa.default_call_conv());
        signature.params = vec![AbiParam::new(types::I64); 4];
        let mut function = Function::with_name_signature(UserFuncName::default(), signature);
        let mut scratch = FunctionBuilderContext::new();
        function::emit(kernel, self.features, &mut function, &mut scratch, self.isa.frontend_config());
        let mut context = Context::for_function(function);
        let refused = |why: String| EmitError::Refused { why: format!("{}: {why}", kernel.name) };
        let compiled = context
            .compile(&*self.isa, &mut ControlPlane::default())
            .map_err(|error| refused(format!("{:?}", error.inner)))?;
        match compiled.buffer.relocs().first() {
            None => Ok(Artifact { bytes: compiled.code_buffer().to_vec() }),
            Some(relocation) => Err(refused(format!("its code calls {:?}", relocation.target))),
        }
    }
}

/// A fused product needs a copy of its sum while both factors are still wanted (Cranelift has no form
/// that overwrites the sum), so of 16 registers 8 may be sums: with 12 the loop spills.
fn caps() -> Caps {
    Caps { accumulators: 8, bytes: true, ..Caps::vector(LANES as u32) }
}

/// Code that can lie anywhere and needs nothing at run time; checked by the verifier in debug builds.
fn flags() -> Result<settings::Flags, EmitError> {
    let mut builder = settings::builder();
    let chosen = [
        ("opt_level", "none"),
        ("is_pic", "true"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ("enable_probestack", "true"),
        ("probestack_strategy", "inline"),
        ("unwind_info", "false"),
    ];
    for (name, value) in chosen {
        builder
            .set(name, value)
            .map_err(|error| EmitError::Refused { why: format!("the setting {name}: {error}") })?;
    }
    Ok(settings::Flags::new(builder))
}
