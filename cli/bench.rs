//! `jtllm bench`: llama-bench's tests, table and field names, beside what the machine could do at most.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jtllm_models::Checkpoint;
use jtllm_runtime::device::threads::{Pool, Threads};
use jtllm_runtime::machine::Machine;
use jtllm_runtime::probe;
use jtllm_runtime::trace::Trace;
use jtllm_serve::{Engine, LoadOptions, Model};
use serde_json::{Value, json};

use crate::args::{BackendName, BenchArgs, CapsName, Form};
use crate::failure::Usage;
use crate::load;
use crate::terminal::{Style, bytes, print, print_json, say};

/// How long the speed of memory is measured.
const PROBE: Duration = Duration::from_millis(500);

/// What is measured.
#[derive(Clone, Copy)]
enum Test {
    Prompt(usize),
    Generate(usize),
}

impl Test {
    fn name(self) -> String {
        match self {
            Test::Prompt(count) => format!("pp{count}"),
            Test::Generate(count) => format!("tg{count}"),
        }
    }

    fn tokens(self) -> usize {
        let (Test::Prompt(count) | Test::Generate(count)) = self;
        count
    }
}

/// A test's times, and the kernels of one more run.
struct Measured {
    test: Test,
    begin: SystemTime,
    samples: Vec<Duration>,
    trace: Trace,
}

impl Measured {
    /// Tokens a second of each run.
    fn rates(&self) -> Vec<f64> {
        self.samples.iter().map(|time| self.test.tokens() as f64 / time.as_secs_f64()).collect()
    }
}

/// What can be done at most, as far as it was measured.
#[derive(Default)]
struct Limits {
    /// Bytes a second.
    bandwidth: Option<f64>,
    /// Operations a second.
    peak: Option<f64>,
}

impl Limits {
    /// Those of so many threads of the processor.
    fn measure(threads: usize) -> anyhow::Result<Limits> {
        let pool = Pool::new(Threads { count: threads, pin: true });
        let most = probe::bandwidth_bytes(&Machine::probe());
        let bandwidth = 1e9 * probe::bandwidth(&pool, most, PROBE)?;
        Ok(Limits { bandwidth: Some(bandwidth), peak: Some(1e9 * probe::peak_f32(&pool)) })
    }

    /// Those of whatever the model is on. How much a device can multiply is not measured, nor what a device and the
    /// processor can do together.
    fn of(model: &Model) -> anyhow::Result<Limits> {
        let networks = model.networks();
        match (&model.placement().device, networks.as_slice()) {
            (None, _) => Limits::measure(model.options.threads),
            // The interpreter would take minutes.
            (Some(_), [one]) if one.device().target().name() == "interp" => Ok(Limits::default()),
            (Some(_), [one]) => {
                let bandwidth = probe::copy_bandwidth(one.device(), PROBE)?;
                Ok(Limits { bandwidth: Some(bandwidth), peak: None })
            }
            _ => Ok(Limits::default()),
        }
    }
}

/// What a model asks of the machine for each token.
struct Work {
    /// Bytes of weights that decoding reads.
    bytes: f64,
    /// Multiplications and additions with weights in a prompt.
    operations: f64,
}

/// Measures and prints.
pub(crate) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let tests: Vec<Test> = [Test::Prompt(args.n_prompt), Test::Generate(args.n_gen)]
        .into_iter()
        .filter(|test| test.tokens() > 0)
        .collect();
    if tests.is_empty() {
        return Err(Usage("-p 0 and -n 0 leave nothing to measure".to_owned()).into());
    }
    if cfg!(debug_assertions) {
        say(Style::Plain, format_args!("a build for development: only kernels run at full speed"));
    }
    let checkpoint = load::checkpoint(args.model.as_deref())?;
    let (backend, place) = load::place(&args.place, BackendName::Auto, CapsName::Vector4)?;
    let options = LoadOptions {
        backend,
        place,
        threads: load::threads(args.threads),
        context: args.n_prompt.max(args.n_gen),
        compute: load::compute(args.compute),
        keys: load::cache_type(args.cache_type_k),
        values: load::cache_type(args.cache_type_v),
        taps: false,
        sequences: 1,
    };
    let mut model = Model::load(checkpoint, options, load::caches())?;
    model.ready()?;
    load::remark_threads(&model, args.threads);
    model.tell(Box::new(|what| say(Style::Alarm, format_args!("{what}"))));
    say(Style::Faint, format_args!("{}", model.placement()));
    let mut engine = Engine::new(model, None);
    let measured: Result<Vec<Measured>, _> =
        tests.into_iter().map(|test| measure(&mut engine, test, args.repetitions)).collect();
    let measured = measured?;
    let limits = Limits::of(engine.model())?;
    let report = Report { engine: &engine, args, limits, work: work(&engine) };
    match args.output {
        Form::Md => print(&report.table(&measured)),
        Form::Json => print_json(&measured.iter().map(|m| report.fields(m)).collect()),
        Form::Jsonl => measured.iter().try_for_each(|m| print(&format!("{}\n", report.fields(m)))),
    }
}

/// Tokens spread over the vocabulary, the same in each run.
fn tokens(engine: &Engine, count: usize) -> Vec<u32> {
    let vocabulary = engine.model().architecture().vocabulary() as u64;
    (1..=count as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) % vocabulary) as u32).collect()
}

fn once(engine: &mut Engine, test: Test) -> anyhow::Result<Duration> {
    let tokens = tokens(engine, test.tokens());
    engine.clear();
    let begin = Instant::now();
    match test {
        Test::Prompt(_) => drop(engine.feed(&tokens, false)?),
        Test::Generate(count) => {
            for end in 1..=count {
                engine.feed(&tokens[..end], false)?;
            }
        }
    }
    Ok(begin.elapsed())
}

/// Runs a test once to warm up, as often as asked, and once more with a trace of its kernels.
fn measure(engine: &mut Engine, test: Test, repetitions: u32) -> anyhow::Result<Measured> {
    once(engine, test)?;
    let begin = SystemTime::now();
    let samples: Result<Vec<Duration>, _> = (0..repetitions).map(|_| once(engine, test)).collect();
    let samples = samples?;
    engine.trace = Some(Trace::default());
    once(engine, test)?;
    let trace = engine.trace.take().unwrap_or_default();
    Ok(Measured { test, begin, samples, trace })
}

/// What each token costs, by the tensors that the model reads whole. The embedding is read row by row, and a
/// prompt reaches the head with its last token alone.
fn work(engine: &Engine) -> Work {
    let model = engine.model();
    let read = model.memory().map_or(0, |memory| memory.adopted + memory.packed + memory.copied);
    let vocabulary = model.architecture().vocabulary() as u64;
    let tensors = jtllm_models::arch::tensors(model.architecture()).unwrap_or_default();
    let layers = tensors.iter().filter(|(_, shape)| shape.len() == 2 && shape[0] != vocabulary);
    let products: u64 = layers.map(|(_, shape)| shape.iter().product::<u64>()).sum();
    Work { bytes: read as f64, operations: 2.0 * products as f64 }
}

fn mean_and_deviation(samples: &[f64]) -> (f64, f64) {
    let count = samples.len() as f64;
    let mean = samples.iter().sum::<f64>() / count;
    if samples.len() < 2 {
        return (mean, 0.0);
    }
    let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0)).sqrt())
}

struct Report<'a> {
    engine: &'a Engine,
    args: &'a BenchArgs,
    limits: Limits,
    work: Work,
}

impl Report<'_> {
    fn checkpoint(&self) -> &Checkpoint {
        self.engine.model().checkpoint()
    }

    fn model_type(&self) -> String {
        let checkpoint = self.checkpoint();
        let kind = checkpoint.config().model_type().unwrap_or("model");
        let size = load::count(load::parameters(checkpoint)).replace(' ', "");
        format!("{kind} {size} {}", load::dtype(checkpoint).to_uppercase())
    }

    /// What was reached, what is possible if that was measured, and what both are counted in.
    fn reached(&self, measured: &Measured) -> (f64, Option<f64>, &'static str) {
        let (rate, _) = mean_and_deviation(&measured.rates());
        match measured.test {
            Test::Generate(_) => (rate * self.work.bytes, self.limits.bandwidth, "B/s"),
            Test::Prompt(_) => (rate * self.work.operations, self.limits.peak, "FLOP/s"),
        }
    }

    fn table(&self, measured: &[Measured]) -> String {
        let checkpoint = self.checkpoint();
        let mut text = String::from(
            "| model                          |       size |     params | backend    | threads |            test |                  t/s |\n\
             | ------------------------------ | ---------: | ---------: | ---------- | ------: | --------------: | -------------------: |\n",
        );
        let size = format!("{:.2} MiB", checkpoint.total_bytes() as f64 / f64::from(1 << 20));
        let params = load::count(load::parameters(checkpoint));
        for row in measured {
            let (mean, deviation) = mean_and_deviation(&row.rates());
            text.push_str(&format!(
                "| {:<30} | {size:>10} | {params:>10} | {:<10} | {:>7} | {:>15} | {:>20} |\n",
                self.model_type(),
                self.engine.model().placement().backend.to_uppercase(),
                self.engine.model().options.threads,
                row.test.name(),
                format!("{mean:.2} ± {deviation:.2}"),
            ));
        }
        text.push('\n');
        for row in measured {
            let (reached, limit, unit) = self.reached(row);
            let (name, giga) = (row.test.name(), reached / 1e9);
            text.push_str(&match limit {
                None => format!("{name}: {giga:.1} G{unit}\n"),
                Some(limit) => {
                    let (share, limit) = (100.0 * reached / limit, limit / 1e9);
                    format!("{name}: {giga:.1} of {limit:.1} G{unit} measured, {share:.0}%\n")
                }
            });
        }
        if self.args.kernels {
            measured.iter().for_each(|row| text.push_str(&kernel_table(row)));
        }
        text
    }

    fn fields(&self, measured: &Measured) -> Value {
        let checkpoint = self.checkpoint();
        let (options, placement) = (&self.engine.model().options, self.engine.model().placement());
        let nanoseconds: Vec<f64> = measured.samples.iter().map(|time| time.as_nanos() as f64).collect();
        let (mean_ns, deviation_ns) = mean_and_deviation(&nanoseconds);
        let rates = measured.rates();
        let (mean, deviation) = mean_and_deviation(&rates);
        let (n_prompt, n_gen) = match measured.test {
            Test::Prompt(count) => (count, 0),
            Test::Generate(count) => (0, count),
        };
        let (reached, limit, unit) = self.reached(measured);
        let mut fields = json!({
            "build_commit": option_env!("JTLLM_BUILD_COMMIT").unwrap_or("unknown"),
            "build_version": env!("CARGO_PKG_VERSION"),
            "backends": placement.backend.to_uppercase(),
            "device": placement.device_name(),
            "placement": placement.to_string(),
            "model_filename": checkpoint.path().display().to_string(),
            "model_type": self.model_type(),
            "model_size": checkpoint.total_bytes(),
            "model_n_params": load::parameters(checkpoint),
            "n_threads": options.threads,
            "compute": options.compute.name(),
            "type_k": options.keys.name(),
            "type_v": options.values.name(),
            "n_prompt": n_prompt,
            "n_gen": n_gen,
            "test_time": utc(measured.begin),
            "avg_ns": mean_ns.round() as u64,
            "stddev_ns": deviation_ns.round() as u64,
            "avg_ts": mean,
            "stddev_ts": deviation,
            "samples_ns": measured.samples.iter().map(|time| time.as_nanos() as u64).collect::<Vec<u64>>(),
            "samples_ts": rates,
            "limit_unit": unit,
            "limit_measured": limit,
            "limit_reached": reached,
            "limit_fraction": limit.map(|limit| reached / limit),
        });
        if self.args.kernels {
            fields["kernels"] = kernels(measured).collect();
        }
        fields
    }
}

fn kernels(measured: &Measured) -> impl Iterator<Item = Value> {
    measured.trace.entries().into_iter().map(|(name, entry)| {
        json!({
            "name": name,
            "launches": entry.launches,
            "time_ns": entry.time.as_nanos() as u64,
            "bytes": entry.bytes,
            "gb_per_s": entry.bytes as f64 / entry.time.as_secs_f64().max(1e-9) / 1e9,
        })
    })
}

fn kernel_table(measured: &Measured) -> String {
    let entries = measured.trace.entries();
    let all: Duration = entries.iter().map(|(_, entry)| entry.time).sum();
    let mut text = format!(
        "\n{:<36} {:>9} {:>12} {:>7} {:>12} {:>8}\n",
        format!("kernels of {}", measured.test.name()),
        "launches",
        "time",
        "share",
        "bound",
        "GB/s"
    );
    for (name, entry) in entries {
        let seconds = entry.time.as_secs_f64();
        text.push_str(&format!(
            "{name:<36} {:>9} {:>9.3} ms {:>6.1}% {:>12} {:>8.1}\n",
            entry.launches,
            seconds * 1e3,
            100.0 * seconds / all.as_secs_f64().max(1e-9),
            bytes(entry.bytes / entry.launches.max(1)),
            entry.bytes as f64 / seconds.max(1e-9) / 1e9,
        ));
    }
    text
}

/// `2026-01-31T12:00:00Z`, by the proleptic Gregorian calendar.
fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (mut days, rest) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1, days + 1)
}
