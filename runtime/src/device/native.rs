//! What turns kernels into machine code for the processor: a table, the best first.

use std::fmt;

use jtllm_codegen::emit::cranelift::Cranelift;
use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::target::{EmitError, Target};

/// The environment variable that names one.
pub const VARIABLE: &str = "JTLLM_CPU";

/// One way to make code for the processor.
#[derive(Clone, Copy)]
pub struct Native {
    /// The name in [`VARIABLE`].
    pub name: &'static str,
    /// Makes the target, if this processor has what its code needs.
    pub open: fn() -> Result<Box<dyn Target>, EmitError>,
}

/// Every way, the best first. The last one is for every processor.
pub const NATIVES: [Native; 3] = [
    Native { name: "avx512", open: || Ok(Box::new(X64::here(Level::Avx512)?)) },
    Native { name: "avx2", open: || Ok(Box::new(X64::here(Level::Avx2)?)) },
    Native { name: "cranelift", open: || Ok(Box::new(Cranelift::host()?)) },
];

/// A target, and the name of the way that it comes by.
pub struct Chosen {
    /// The name.
    pub name: &'static str,
    /// The target.
    pub target: Box<dyn Target>,
}

/// The way that was asked for is not there, or none is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoNative(pub String);

impl fmt::Display for NoNative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoNative {}

/// The best way of a table for this processor, or the one that [`VARIABLE`] names.
///
/// # Errors
/// There is no such way, or this processor lacks what it needs.
pub fn choose(natives: &[Native], wanted: Option<&str>) -> Result<Chosen, NoNative> {
    let open = |native: &Native| (native.open)().map(|target| Chosen { name: native.name, target });
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        let mut reasons = Vec::new();
        for native in natives {
            match open(native) {
                Ok(chosen) => return Ok(chosen),
                Err(why) => reasons.push(why.to_string()),
            }
        }
        return Err(NoNative(reasons.join("; ")));
    };
    let all: Vec<&str> = natives.iter().map(|native| native.name).collect();
    let Some(native) = natives.iter().find(|native| native.name == wanted) else {
        let all = all.join(", ");
        return Err(NoNative(format!("{VARIABLE} is {wanted:?}; expected one of {all}")));
    };
    open(native).map_err(|why| {
        let here: Vec<&str> =
            natives.iter().filter(|native| open(native).is_ok()).map(|native| native.name).collect();
        NoNative(format!("{VARIABLE} is {wanted}, but {why}; it can have {}", here.join(", ")))
    })
}

/// The best way for this processor, or the one that the environment names.
///
/// # Errors
/// There is no such way, or this processor lacks what it needs.
pub fn host() -> Result<Chosen, NoNative> {
    let wanted = std::env::var_os(VARIABLE).map(|wanted| wanted.to_string_lossy().into_owned());
    choose(&NATIVES, wanted.as_deref())
}
