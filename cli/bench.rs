//! `jtllm bench`: llama-bench's and llama-batched-bench's tests, tables and field names, beside what the machine could
//! do at most.

mod kernels;
mod measure;
mod report;

use std::time::Duration;

use jtllm_runtime::device::threads::{Pool, Threads};
use jtllm_runtime::machine::Machine;
use jtllm_runtime::probe::{self, Limits};
use jtllm_runtime::residence::Most;
use jtllm_serve::{Engine, LoadOptions, Model};

use crate::args::{BackendName, BenchArgs, CapsName, Form};
use crate::failure::Usage;
use crate::load;
use crate::memory;
use crate::terminal::{Style, print, print_json, say};
use kernels::Kernels;
use measure::{Measured, Test, measure, measure_together};
use report::Report;

/// How long each speed of memory is measured.
const PROBE: Duration = Duration::from_millis(500);

/// Measures and prints.
pub(crate) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    if args.n_prompt == 0 && args.n_gen == 0 {
        return Err(Usage("-p 0 and -n 0 leave nothing to measure".to_owned()).into());
    }
    if cfg!(debug_assertions) {
        say(Style::Plain, format_args!("a build for development: only kernels run at full speed"));
    }
    let mut engine = Engine::new(open(args)?, None);
    let (depth, times) = (args.n_depth, args.repetitions);
    let mut alone = Vec::new();
    let mut together = Vec::new();
    if args.parallel.is_empty() {
        let tests = [Test::Prompt(args.n_prompt), Test::Generate(args.n_gen)];
        for test in tests.into_iter().filter(|test| test.tokens() > 0) {
            alone.push(measure(&mut engine, test, depth, times)?);
        }
    }
    for count in args.parallel.iter().map(|count| usize::from(*count)) {
        let lengths = [args.n_prompt, args.n_gen];
        together.push(measure_together(&mut engine, count, lengths, depth, times)?);
    }
    memory::spent(engine.model());
    let limits = limits(engine.model(), alone.iter().chain(together.iter().flatten()))?;
    let report = Report { engine: &engine, args, limits };
    let rows: Vec<_> = match together.is_empty() {
        true => alone.iter().map(|measured| report.fields(measured)).collect(),
        false => together.iter().map(|both| report.batched_fields(both)).collect(),
    };
    match args.output {
        Form::Md if together.is_empty() => print(&report.table(&alone)),
        Form::Md => print(&report.batched_table(&together)),
        Form::Json => print_json(&rows.into()),
        Form::Jsonl => rows.iter().try_for_each(|row| print(&format!("{row}\n"))),
    }
}

/// The model, ready to run.
fn open(args: &BenchArgs) -> anyhow::Result<Model> {
    let checkpoint = load::checkpoint(args.model.as_deref())?;
    let (backend, place) = load::place(&args.place, BackendName::Auto, CapsName::Vector4)?;
    let longest = match args.parallel.is_empty() {
        true => Some(args.n_prompt.max(args.n_gen)),
        false => args.n_prompt.checked_add(args.n_gen),
    };
    let context = longest.and_then(|longest| longest.checked_add(args.n_depth));
    let context = context.ok_or_else(|| Usage("-p, -n and -d are too many tokens to count".to_owned()))?;
    let options = LoadOptions {
        backend,
        place,
        threads: load::threads(args.threads),
        context,
        compute: load::compute(args.compute),
        keys: load::cache_type(args.cache_type_k),
        values: load::cache_type(args.cache_type_v),
        taps: false,
        sequences: args.parallel.iter().max().map_or(1, |most| usize::from(*most)),
        memory: memory::limit(&args.memory)?,
    };
    let mut model = Model::load(checkpoint, options, load::caches())?;
    model.ready()?;
    load::remark_threads(&model, args.threads);
    load::remark_compute(&model);
    model.tell(Box::new(|what| say(Style::Alarm, format_args!("{what}"))));
    say(Style::Faint, format_args!("{}", model.placement()));
    memory::announce(&model, &args.memory);
    Ok(model)
}

/// What whatever the model is on can do at most. How much a device can multiply is not measured, nor what a device and
/// the processor can do together.
fn limits<'a>(model: &Model, measured: impl Iterator<Item = &'a Measured>) -> anyhow::Result<Limits> {
    let unknown = |why: &str| {
        say(Style::Plain, format_args!("what is possible at most was not measured: {why}"));
        Ok(Limits::default())
    };
    if model.options.memory.most != Most::Unlimited {
        return unknown("that takes more memory than a limit leaves");
    }
    let networks = model.networks();
    match (&model.placement().device, networks.as_slice()) {
        (None, [one]) => {
            // What decoding goes through; prompts go through the same weights.
            let none = Limits::default();
            let chunk = model.architecture().chunk();
            let stream = |measured: &'a Measured| Kernels::of(measured, &none, chunk).stream();
            let stream = measured.map(stream).max().unwrap_or(0);
            let pool = Pool::new(Threads { count: one.device().info().threads, pin: true });
            Ok(Limits::measure(&pool, &Machine::probe(), stream, PROBE)?)
        }
        (Some(_), [one]) if one.device().target().name() != "interp" => {
            Ok(Limits::of_memory(probe::copy_bandwidth(one.device(), PROBE)?))
        }
        (Some(_), [_]) => unknown("the interpreter of kernels would take minutes"),
        (_, []) => unknown("the interpreter of graphs runs no kernels"),
        _ => unknown("the model is on a device and on the processor"),
    }
}
