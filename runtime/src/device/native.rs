//! What turns kernels into machine code for the processor: a table, the best first.

use std::collections::BTreeSet;
use std::fmt;

use jtllm_codegen::emit::cranelift::Cranelift;
use jtllm_codegen::emit::x64::{Level, X64};
use jtllm_codegen::target::{EmitError, Target};

/// The environment variable that names one.
pub const VARIABLE: &str = "JTLLM_CPU";

/// The environment variable that names what code is to do without.
pub const WITHOUT: &str = "JTLLM_CPU_WITHOUT";

/// An extension of x86-64, by the name that Rust has for it.
struct Extension {
    name: &'static str,
    /// Cranelift's setting, where it makes use of it.
    setting: Option<&'static str>,
    /// Those that no processor has it without.
    needs: &'static [&'static str],
}

const fn extension(
    name: &'static str,
    setting: Option<&'static str>,
    needs: &'static [&'static str],
) -> Extension {
    Extension { name, setting, needs }
}

/// Those that decide about code, each behind those that it needs.
const EXTENSIONS: [Extension; 15] = [
    extension("ssse3", Some("has_ssse3"), &[]),
    extension("sse4.1", Some("has_sse41"), &["ssse3"]),
    extension("sse4.2", Some("has_sse42"), &["sse4.1"]),
    extension("avx", Some("has_avx"), &["sse4.2"]),
    extension("f16c", None, &["avx"]),
    extension("fma", Some("has_fma"), &["avx"]),
    extension("avx2", Some("has_avx2"), &["avx"]),
    extension("avxvnni", Some("has_avx_vnni"), &["avx2"]),
    extension("avx512f", Some("has_avx512f"), &["avx2", "fma", "f16c"]),
    extension("avx512bw", None, &["avx512f"]),
    extension("avx512dq", Some("has_avx512dq"), &["avx512f"]),
    extension("avx512vl", Some("has_avx512vl"), &["avx512f"]),
    extension("avx512vbmi", Some("has_avx512vbmi"), &["avx512bw"]),
    extension("avx512vnni", Some("has_avx512vnni"), &["avx512f"]),
    extension("avx512bf16", None, &["avx512bw"]),
];

/// Extensions that code does without although the processor may have them: as on an older one of the same kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(BTreeSet<&'static str>);

impl Mask {
    /// Hides the extensions of a list with commas, and those that need one of them.
    ///
    /// # Errors
    /// A name that is none.
    pub fn of(list: &str) -> Result<Mask, NoNative> {
        let names: Vec<&str> = list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        let known = |name: &str| EXTENSIONS.iter().any(|extension| extension.name == name);
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            let all = EXTENSIONS.map(|extension| extension.name).join(", ");
            return Err(NoNative(format!("{WITHOUT} has {unknown:?}; expected some of {all}")));
        }
        let mut mask = Mask::default();
        for Extension { name, needs, .. } in EXTENSIONS {
            if names.contains(&name) || mask.hides_any(needs) {
                mask.0.insert(name);
            }
        }
        Ok(mask)
    }

    /// The mask that the environment asks for; by default nothing is hidden.
    ///
    /// # Errors
    /// It names what is no extension.
    pub fn of_environment() -> Result<Mask, NoNative> {
        Mask::of(&std::env::var_os(WITHOUT).unwrap_or_default().to_string_lossy())
    }

    /// Whether code does without this one.
    pub fn hides(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn hides_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.hides(name))
    }

    fn x64(&self, level: Level) -> Result<Box<dyn Target>, EmitError> {
        let (needs, dot): (&[&str], _) = match level {
            Level::Avx2 => (&["avx2", "fma", "f16c"], "avxvnni"),
            Level::Avx512 => (&["avx512f", "avx512bw", "avx512dq", "avx512vl"], "avx512vnni"),
        };
        if self.hides_any(needs) {
            return Err(EmitError::Missing { what: level.needs(), target: "this processor" });
        }
        let mut target = X64::here(level)?;
        if self.hides(dot) {
            target = target.without_dot();
        }
        if self.hides("avx512vbmi") {
            target = target.without_bytes_anywhere();
        }
        if self.hides("avx512bf16") {
            target = target.without_dot2();
        }
        Ok(Box::new(target))
    }

    fn cranelift(&self) -> Result<Box<dyn Target>, EmitError> {
        let hidden = EXTENSIONS.iter().filter(|extension| self.hides(extension.name));
        // Other processors have none of these settings.
        let settings =
            hidden.filter_map(|extension| extension.setting.filter(|_| cfg!(target_arch = "x86_64")));
        Ok(Box::new(Cranelift::without(&settings.collect::<Vec<_>>())?))
    }
}

/// One way to make code for the processor.
#[derive(Clone, Copy)]
pub struct Native {
    /// The name in [`VARIABLE`].
    pub name: &'static str,
    /// Makes the target, if this processor, but for what is hidden, has what its code needs.
    pub open: fn(&Mask) -> Result<Box<dyn Target>, EmitError>,
}

/// Every way, the best first. The last one is for every processor.
pub const NATIVES: [Native; 3] = [
    Native { name: "avx512", open: |mask| mask.x64(Level::Avx512) },
    Native { name: "avx2", open: |mask| mask.x64(Level::Avx2) },
    Native { name: "cranelift", open: Mask::cranelift },
];

/// A target, and the name of the way that it comes by.
pub struct Chosen {
    /// The name.
    pub name: &'static str,
    /// The target.
    pub target: Box<dyn Target>,
    /// What the processor has not got, if that is why it is the portable way, which nobody asked for.
    pub lacks: Option<&'static str>,
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

/// The best way for this processor, but for what is hidden of it, or the one that [`VARIABLE`] names.
///
/// # Errors
/// There is no such way, or this processor lacks what it needs.
pub fn choose(mask: &Mask, wanted: Option<&str>) -> Result<Chosen, NoNative> {
    let open =
        |native: &Native| (native.open)(mask).map(|target| Chosen { name: native.name, target, lacks: None });
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
        let mut reasons = Vec::new();
        for native in NATIVES {
            match open(&native) {
                Ok(chosen) => return Ok(Chosen { lacks: lacking(native, reasons.last()), ..chosen }),
                Err(why) => reasons.push(why),
            }
        }
        let reasons: Vec<String> = reasons.iter().map(EmitError::to_string).collect();
        return Err(NoNative(reasons.join("; ")));
    };
    let Some(native) = NATIVES.iter().find(|native| native.name == wanted) else {
        let all = NATIVES.map(|native| native.name).join(", ");
        return Err(NoNative(format!("{VARIABLE} is {wanted:?}; expected one of {all}")));
    };
    open(native).map_err(|why| {
        let here: Vec<&str> =
            NATIVES.iter().filter(|native| open(native).is_ok()).map(|native| native.name).collect();
        NoNative(format!("{VARIABLE} is {wanted}, but {why}; it can have {}", here.join(", ")))
    })
}

/// What is missing where the portable way is taken, which elsewhere than on x86-64 and Unix has no rivals.
fn lacking(taken: Native, refusal: Option<&EmitError>) -> Option<&'static str> {
    let portable = NATIVES.last().is_some_and(|last| last.name == taken.name);
    match refusal {
        Some(EmitError::Missing { what, .. }) if portable && cfg!(all(target_arch = "x86_64", unix)) => {
            Some(what)
        }
        _ => None,
    }
}

/// The best way for this processor, or the one that the environment names.
///
/// # Errors
/// There is no such way, or this processor lacks what it needs.
pub fn host() -> Result<Chosen, NoNative> {
    let wanted = std::env::var_os(VARIABLE).map(|wanted| wanted.to_string_lossy().into_owned());
    choose(&Mask::of_environment()?, wanted.as_deref())
}
