//! `jtllm verify`: a model against the stored outputs of its reference implementation.
//!
//! A folder holds `golden.json` and, for tiny models with random weights, `golden.safetensors` with the
//! reference's tensors; for real models the JSON file alone has token ids, margins and the largest logits.

mod golden;
mod images;
mod real;
mod tiny;

use anyhow::bail;
use jtllm_runtime::cache::KernelCache;
use jtllm_runtime::ir::DType;
use jtllm_serve::{Engine, LoadOptions, Model};
use serde_json::{Value, json};

use crate::args::{BackendName, CapsName, VerifyArgs};
use crate::failure::Usage;
use crate::load;
use crate::memory;
use crate::terminal::{Style, print, print_json, say};
use golden::Golden;

/// One comparison.
pub(crate) struct Check {
    /// What was compared.
    name: String,
    /// The largest difference, and the same relative to the largest reference value.
    error: Option<[f32; 2]>,
    /// The difference that is allowed.
    bound: Option<f32>,
    /// How many tokens agree, of how many that had to.
    tokens: Option<[usize; 2]>,
}

impl Check {
    /// Numbers that must not differ by more than `bound`.
    fn numbers(name: impl Into<String>, found: &[f32], expected: &[f32], bound: f32) -> Check {
        let mut check = Check { name: name.into(), error: None, bound: Some(bound), tokens: None };
        if found.len() != expected.len() {
            check.error = Some([f32::INFINITY; 2]);
            return check;
        }
        // A comparison with NaN is false, so that a NaN on either side counts as infinitely wrong.
        let worst = found.iter().zip(expected).fold(0f32, |worst, (a, b)| {
            let difference = (a - b).abs();
            if difference <= worst {
                worst
            } else if difference.is_nan() {
                f32::INFINITY
            } else {
                difference
            }
        });
        let scale = expected.iter().fold(f32::MIN_POSITIVE, |scale, x| scale.max(x.abs()));
        check.error = Some([worst, worst / scale]);
        check
    }

    /// Tokens that must all agree.
    fn tokens(name: impl Into<String>, agree: usize, of: usize) -> Check {
        Check { name: name.into(), error: None, bound: None, tokens: Some([agree, of]) }
    }

    /// Adds tokens that must all agree.
    fn and_tokens(mut self, agree: usize, of: usize) -> Check {
        self.tokens = Some([agree, of]);
        self
    }

    fn passed(&self) -> bool {
        let near = self.error.is_none_or(|[absolute, _]| self.bound.is_none_or(|bound| absolute <= bound));
        near && self.tokens.is_none_or(|[agree, of]| agree == of)
    }

    fn row(&self) -> String {
        let number = |value: Option<f32>| value.map_or(String::new(), |value| format!("{value:.3e}"));
        let tokens = self.tokens.map_or(String::new(), |[agree, of]| format!("{agree}/{of}"));
        format!(
            "{:<34} {:>10} {:>10} {:>10} {:>9}  {}\n",
            self.name,
            number(self.error.map(|e| e[0])),
            number(self.error.map(|e| e[1])),
            number(self.bound),
            tokens,
            if self.passed() { "ok" } else { "FAILED" },
        )
    }

    fn report(&self) -> Value {
        json!({
            "name": self.name,
            "max_abs": self.error.map(|e| e[0]),
            "max_rel": self.error.map(|e| e[1]),
            "bound": self.bound,
            "tokens_equal": self.tokens.map(|t| t[0]),
            "tokens": self.tokens.map(|t| t[1]),
            "passed": self.passed(),
        })
    }
}

/// Where a row's largest value is; the first of equals.
fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, at| if row[at] > row[best] { at } else { best })
}

/// How far the largest value is above the second.
fn margin(row: &[f32]) -> f32 {
    let best = argmax(row);
    let rest = row.iter().enumerate().filter(|(at, _)| *at != best).map(|(_, x)| *x);
    row.get(best).map_or(0.0, |top| top - rest.fold(f32::NEG_INFINITY, f32::max))
}

/// Compares, prints, and fails if anything is out of tolerance.
pub(crate) fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    if args.caps.is_some() && args.place.backend != Some(BackendName::Interp) {
        return Err(Usage(
            "--caps wants --backend interp: nothing else pretends to be another machine".to_owned(),
        )
        .into());
    }
    let golden = Golden::open(&args.folder)?;
    let (checks, placement) =
        if golden.has_tensors() { tiny::checks(args, &golden)? } else { real::checks(args, &golden)? };
    say(Style::Faint, format_args!("{placement}"));
    let failed = checks.iter().filter(|check| !check.passed()).count();
    if args.json {
        print_json(&json!({
            "folder": args.folder.display().to_string(),
            "backend": placement.backend,
            "device": placement.device_name(),
            "placement": placement.to_string(),
            "compute": load::compute(args.compute).name(),
            "passed": failed == 0,
            "checks": checks.iter().map(Check::report).collect::<Vec<Value>>(),
        }))?;
    } else {
        let mut table =
            format!("{:<34} {:>10} {:>10} {:>10} {:>9}\n", "", "max abs", "max rel", "bound", "tokens");
        checks.iter().for_each(|check| table.push_str(&check.row()));
        print(&table)?;
    }
    match (failed, checks.len()) {
        (_, 0) => bail!("{} has no cases", args.folder.display()),
        (0, _) => Ok(()),
        (failed, all) => bail!("{failed} of {all} comparisons are out of tolerance"),
    }
}

/// The model under test for contexts of `context` tokens; all that is kept in float32, as the references were.
fn engine(args: &VerifyArgs, context: usize, taps: bool) -> anyhow::Result<Engine> {
    let folder = args.folder.display().to_string();
    let checkpoint = load::checkpoint(Some(args.model.as_deref().unwrap_or(&folder)))?;
    let caps = args.caps.unwrap_or(CapsName::Vector4);
    let (backend, place) = load::place(&args.place, BackendName::Cpu, caps)?;
    let options = LoadOptions {
        backend,
        place,
        threads: load::threads(args.threads),
        context,
        compute: load::compute(args.compute),
        keys: DType::F32,
        values: DType::F32,
        taps,
        sequences: 1,
        memory: memory::limit(&args.memory)?,
    };
    // The cache of kernels is left alone: what is verified is what this program compiles now.
    let mut model = Model::load(checkpoint, options, KernelCache::off("comparisons compile anew"))?;
    model.tell(Box::new(|what| say(Style::Alarm, format_args!("{what}"))));
    Ok(Engine::new(model, None))
}
