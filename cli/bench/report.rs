//! Results as tables and as fields.

use std::time::{SystemTime, UNIX_EPOCH};

use jtllm_models::Checkpoint;
use jtllm_runtime::probe::Limits;
use jtllm_serve::Engine;
use serde_json::{Value, json};

use super::kernels::{Kernels, limits_fields, limits_line};
use super::measure::{Measured, Test};
use crate::args::BenchArgs;
use crate::load;

pub(crate) struct Report<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) args: &'a BenchArgs,
    pub(crate) limits: Limits,
}

impl Report<'_> {
    fn checkpoint(&self) -> &Checkpoint {
        self.engine.model().checkpoint()
    }

    /// The processor's threads, which may be fewer than were asked for.
    fn threads(&self) -> usize {
        let model = self.engine.model();
        model.placement().processor.map_or(model.options.threads, |processor| processor.threads)
    }

    fn model_type(&self) -> String {
        let checkpoint = self.checkpoint();
        let kind = checkpoint.config().model_type().unwrap_or("model");
        let size = load::count(load::parameters(checkpoint)).replace(' ', "");
        format!("{kind} {size} {}", load::dtype(checkpoint).to_uppercase())
    }

    fn kernels<'a>(&'a self, measured: &'a Measured) -> Kernels<'a> {
        Kernels::of(measured, &self.limits, self.engine.model().architecture().chunk())
    }

    /// What was reached, what is possible if that was measured, and what both are counted in: bytes that come round once
    /// a pass where tokens are decoded, operations where prompts are read.
    fn reached(&self, measured: &Measured) -> (f64, Option<f64>, &'static str) {
        let kernels = self.kernels(measured);
        let seconds = measured.seconds();
        match measured.test {
            Test::Generate(_) => {
                let stream = kernels.stream();
                let limit = self.limits.reading(stream).map(|reach| reach.speed);
                (stream as f64 * kernels.passes as f64 / seconds, limit, "B/s")
            }
            Test::Prompt(_) => {
                let (all, limit) = kernels.products();
                (all / seconds, limit, "op/s")
            }
        }
    }

    /// What was reached of what is possible, on a line.
    fn reached_line(&self, measured: &Measured) -> String {
        let (reached, limit, unit) = self.reached(measured);
        let (name, giga) = (measured.name(), reached / 1e9);
        match limit {
            None => format!("{name}: {giga:.1} G{unit}\n"),
            Some(limit) => {
                let (share, limit) = (100.0 * reached / limit, limit / 1e9);
                format!("{name}: {giga:.1} of {limit:.1} G{unit} measured, {share:.0}%\n")
            }
        }
    }

    /// llama-bench's table.
    pub(crate) fn table(&self, measured: &[Measured]) -> String {
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
                self.threads(),
                row.name(),
                format!("{mean:.2} ± {deviation:.2}"),
            ));
        }
        self.finished(text, measured)
    }

    /// llama-batched-bench's table: tokens and times of all sequences together.
    pub(crate) fn batched_table(&self, all: &[[Measured; 2]]) -> String {
        let mut text = String::from(
            "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |\n\
             |-------|--------|------|--------|----------|----------|----------|----------|----------|----------|\n",
        );
        for both in all {
            let row = Batched::of(both);
            text.push_str(&format!(
                "|{:6} | {:6} | {:4} | {:6} | {:8.3} | {:8.2} | {:8.3} | {:8.2} | {:8.3} | {:8.2} |\n",
                both[0].test.tokens(),
                both[1].test.tokens(),
                both[0].sequences,
                row.held,
                row.seconds[0],
                row.rates[0],
                row.seconds[1],
                row.rates[1],
                row.seconds[0] + row.seconds[1],
                row.rate,
            ));
        }
        self.finished(text, all.as_flattened())
    }

    /// A table, and what follows it.
    fn finished(&self, mut text: String, measured: &[Measured]) -> String {
        let measured = || measured.iter().filter(|measured| measured.test.tokens() > 0);
        text.push('\n');
        measured().for_each(|row| text.push_str(&self.reached_line(row)));
        if self.args.kernels {
            text.push_str(&limits_line(&self.limits));
            measured().for_each(|row| text.push_str(&self.kernels(row).table()));
        }
        text
    }

    /// Fields that each row has.
    fn shared_fields(&self) -> Value {
        let checkpoint = self.checkpoint();
        let (options, placement) = (&self.engine.model().options, self.engine.model().placement());
        json!({
            "build_commit": option_env!("JTLLM_BUILD_COMMIT").unwrap_or("unknown"),
            "build_version": env!("CARGO_PKG_VERSION"),
            "backends": placement.backend.to_uppercase(),
            "device": placement.device_name(),
            "placement": placement.to_string(),
            "model_filename": checkpoint.path().display().to_string(),
            "model_type": self.model_type(),
            "model_size": checkpoint.total_bytes(),
            "model_n_params": load::parameters(checkpoint),
            "n_threads": self.threads(),
            "compute": options.compute.name(),
            "type_k": options.keys.name(),
            "type_v": options.values.name(),
            "n_depth": self.args.n_depth,
        })
    }

    /// llama-bench's fields.
    pub(crate) fn fields(&self, measured: &Measured) -> Value {
        let nanoseconds: Vec<f64> = measured.samples.iter().map(|time| time.as_nanos() as f64).collect();
        let (mean_ns, deviation_ns) = mean_and_deviation(&nanoseconds);
        let rates = measured.rates();
        let (mean, deviation) = mean_and_deviation(&rates);
        let (n_prompt, n_gen) = match measured.test {
            Test::Prompt(count) => (count, 0),
            Test::Generate(count) => (0, count),
        };
        let (reached, limit, unit) = self.reached(measured);
        let mut fields = self.shared_fields();
        let own = json!({
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
        join(&mut fields, own);
        if self.args.kernels {
            join(&mut fields, self.kernel_fields(measured));
        }
        fields
    }

    fn kernel_fields(&self, measured: &Measured) -> Value {
        let kernels = self.kernels(measured);
        json!({
            "limits": limits_fields(&self.limits),
            "passes": kernels.watched,
            "kernels": kernels.fields(),
            "kernels_time_ns": measured.trace.time().as_nanos() as u64,
            "traced_time_ns": measured.traced.as_nanos() as u64,
        })
    }

    /// llama-batched-bench's fields.
    pub(crate) fn batched_fields(&self, both: &[Measured; 2]) -> Value {
        let row = Batched::of(both);
        let mut fields = self.shared_fields();
        let own = json!({
            "is_pp_shared": 0,
            "pp": both[0].test.tokens(),
            "tg": both[1].test.tokens(),
            "pl": both[0].sequences,
            "n_kv": row.held,
            "t_pp": row.seconds[0],
            "speed_pp": row.rates[0],
            "t_tg": row.seconds[1],
            "speed_tg": row.rates[1],
            "t": row.seconds[0] + row.seconds[1],
            "speed": row.rate,
            "test_time": utc(both[0].begin),
            "samples_pp_ns": both[0].samples.iter().map(|time| time.as_nanos() as u64).collect::<Vec<u64>>(),
            "samples_tg_ns": both[1].samples.iter().map(|time| time.as_nanos() as u64).collect::<Vec<u64>>(),
        });
        join(&mut fields, own);
        if self.args.kernels {
            fields["prompt"] = self.kernel_fields(&both[0]);
            fields["decode"] = self.kernel_fields(&both[1]);
        }
        fields
    }
}

/// Figures of sequences at once.
struct Batched {
    /// Tokens that the cache holds at the end.
    held: usize,
    /// Of prompts and of decoding.
    seconds: [f64; 2],
    /// Tokens a second, of prompts and of decoding.
    rates: [f64; 2],
    /// Of both together.
    rate: f64,
}

impl Batched {
    fn of(both: &[Measured; 2]) -> Batched {
        let seconds = both.each_ref().map(Measured::seconds);
        let tokens = both.each_ref().map(Measured::tokens);
        let rate = |tokens: usize, seconds: f64| if tokens == 0 { 0.0 } else { tokens as f64 / seconds };
        Batched {
            held: both[0].depth * both[0].sequences + tokens[0] + tokens[1],
            seconds,
            rates: [rate(tokens[0], seconds[0]), rate(tokens[1], seconds[1])],
            rate: rate(tokens[0] + tokens[1], seconds[0] + seconds[1]),
        }
    }
}

/// Adds the fields of one object to another.
fn join(to: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (to, from) {
        to.extend(from);
    }
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
