//! The table of kernels: what each moves and multiplies, and how near that comes to the machine's limits.

use jtllm_runtime::codegen::options::Compute;
use jtllm_runtime::probe::{Limits, Multiplied};
use jtllm_runtime::trace::Entry;
use serde_json::{Map, Value, json};

use super::measure::Measured;
use crate::load;
use crate::terminal::bytes;

/// A test's kernels beside what the machine can do.
pub(crate) struct Kernels<'a> {
    pub(crate) measured: &'a Measured,
    pub(crate) limits: &'a Limits,
    /// Passes of a run.
    pub(crate) passes: usize,
    /// Passes of the run that was traced.
    pub(crate) watched: usize,
}

/// The type whose limit holds for a product.
fn multiplied(compute: Compute) -> Multiplied {
    match compute {
        Compute::Int8 => Multiplied::Bytes,
        Compute::Bf16 => Multiplied::Bf16,
        // No emitter of processors multiplies halves: they are widened.
        Compute::Auto | Compute::F32 | Compute::F16 => Multiplied::F32,
    }
}

/// What a limit leaves of a time, in hundredths; as text.
fn percent(fraction: Option<f64>) -> String {
    fraction.map_or_else(|| "-".to_owned(), |fraction| format!("{:.0}%", 100.0 * fraction))
}

impl<'a> Kernels<'a> {
    /// The kernels of a test whose prompts are read in chunks of so many tokens.
    pub(crate) fn of(measured: &'a Measured, limits: &'a Limits, chunk: usize) -> Kernels<'a> {
        let (passes, watched) = (measured.passes(chunk), measured.passes_watched(chunk));
        Kernels { measured, limits, passes, watched }
    }

    /// Bytes of weights and states that a pass goes through: they come round once a pass, so they lie where all of them
    /// have room.
    pub(crate) fn stream(&self) -> u64 {
        let all = self
            .measured
            .trace
            .entries()
            .iter()
            .map(|entry| entry.weight_bytes + entry.state_bytes)
            .sum::<u64>();
        all / self.watched.max(1) as u64
    }

    /// The least seconds for the bytes of an entry: what comes round once a pass from where a pass's has room, all else
    /// from where that of one launch has.
    fn least_for_bytes(&self, entry: &Entry) -> Option<f64> {
        // A weight may be bound whole where a kernel reads a part.
        let stream = (entry.weight_bytes + entry.state_bytes).min(entry.bytes);
        let rest = entry.bytes - stream;
        let far = self.limits.reading(self.stream())?.speed;
        let near = self.limits.reading(rest / entry.launches.max(1))?.speed;
        Some(stream as f64 / far + rest as f64 / near)
    }

    /// The least seconds for the products of an entry; none if there are none.
    fn least_for_products(&self, entry: &Entry) -> Option<f64> {
        let least = |(compute, count): (&Compute, &u64)| {
            Some(*count as f64 / self.limits.peak(multiplied(*compute))?)
        };
        let all: Vec<f64> =
            entry.operations.iter().filter(|(_, count)| **count > 0).map(least).collect::<Option<_>>()?;
        (!all.is_empty()).then(|| all.iter().sum())
    }

    /// All kernels as one.
    pub(crate) fn sum(&self) -> Entry {
        let mut sum = Entry { name: "all".to_owned(), ..Entry::default() };
        for entry in self.measured.trace.entries() {
            sum.launches += entry.launches;
            sum.groups += entry.groups;
            sum.time += entry.time;
            sum.bytes += entry.bytes;
            sum.weight_bytes += entry.weight_bytes;
            sum.state_bytes += entry.state_bytes;
            for (compute, count) in &entry.operations {
                *sum.operations.entry(*compute).or_insert(0) += count;
            }
        }
        sum
    }

    /// Operations of all kernels, and the most of this mixture that the machine does in a second.
    pub(crate) fn products(&self) -> (f64, Option<f64>) {
        let sum = self.sum();
        let all = sum.operations.values().sum::<u64>() as f64;
        (all, self.least_for_products(&sum).map(|least| all / least))
    }

    /// The fractions that bytes and products are of the machine's limits.
    fn fractions(&self, entry: &Entry) -> [Option<f64>; 2] {
        let seconds = entry.time.as_secs_f64().max(1e-9);
        [self.least_for_bytes(entry), self.least_for_products(entry)].map(|least| Some(least? / seconds))
    }

    fn row(&self, entry: &Entry) -> String {
        let seconds = entry.time.as_secs_f64().max(1e-9);
        let launches = entry.launches.max(1);
        let [of_bytes, of_products] = self.fractions(entry);
        let operations: u64 = entry.operations.values().sum();
        let types: Vec<&str> = entry.operations.keys().map(|compute| compute.name()).collect();
        let (kind, each, rate) = match operations {
            0 => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
            count => (
                types.join("+"),
                load::count(count / launches).replace(' ', ""),
                format!("{:.1}", count as f64 / seconds / 1e9),
            ),
        };
        format!(
            "{:<44} {:>8} {:>10.3} ms {:>5.1}% {:>9} {:>9} {:>7.1} {:>5} {:>8} {:>7} {:>8} {:>5}\n",
            entry.name,
            entry.launches,
            seconds * 1e3,
            100.0 * entry.time.as_secs_f64() / self.measured.trace.time().as_secs_f64().max(1e-9),
            bytes(entry.weight_bytes / launches),
            bytes(entry.bytes / launches),
            entry.bytes as f64 / seconds / 1e9,
            percent(of_bytes),
            kind,
            each,
            rate,
            percent(of_products),
        )
    }

    /// The table: bytes and operations are those of one launch, "of" the fraction of what the machine can do.
    pub(crate) fn table(&self) -> String {
        let name = format!("kernels of {}", self.measured.name());
        let mut text = format!(
            "\n{name:<44} {:>8} {:>13} {:>6} {:>9} {:>9} {:>7} {:>5} {:>8} {:>7} {:>8} {:>5}\n",
            "launches", "time", "share", "weights", "bytes", "GB/s", "of", "products", "ops", "Gop/s", "of"
        );
        self.measured.trace.entries().iter().for_each(|entry| text.push_str(&self.row(entry)));
        text.push_str(&self.row(&self.sum()));
        let [passes, watched] = [self.passes, self.watched].map(|count| count.max(1) as f64);
        let kernels = 1e3 * self.measured.trace.time().as_secs_f64() / watched;
        let whole = 1e3 * self.measured.traced.as_secs_f64() / watched;
        text.push_str(&format!(
            "a pass takes {:.3} ms; watched {whole:.3} ms: its kernels {kernels:.3} ms, all else {:.3} ms ({:.1}%)\n",
            1e3 * self.measured.seconds() / passes,
            whole - kernels,
            100.0 * (whole - kernels) / whole
        ));
        text
    }

    /// The same, for programs.
    pub(crate) fn fields(&self) -> Value {
        let entry = |entry: &Entry| {
            let seconds = entry.time.as_secs_f64().max(1e-9);
            let [of_bytes, of_products] = self.fractions(entry);
            let operations: Map<String, Value> = entry
                .operations
                .iter()
                .map(|(compute, count)| (compute.name().to_owned(), json!(count)))
                .collect();
            let all: u64 = entry.operations.values().sum();
            json!({
                "name": entry.name,
                "launches": entry.launches,
                "time_ns": entry.time.as_nanos() as u64,
                "bytes": entry.bytes,
                "weight_bytes": entry.weight_bytes,
                "state_bytes": entry.state_bytes,
                "gb_per_s": entry.bytes as f64 / seconds / 1e9,
                "bytes_fraction": of_bytes,
                "operations": operations,
                "gop_per_s": all as f64 / seconds / 1e9,
                "operations_fraction": of_products,
            })
        };
        self.measured.trace.entries().into_iter().map(entry).collect()
    }
}

/// The limits on one line.
pub(crate) fn limits_line(limits: &Limits) -> String {
    let reads = limits.reads.iter().rev().map(|reach| {
        let up_to = match reach.bytes {
            u64::MAX => String::new(),
            most => format!(" ({})", bytes(most)),
        };
        format!("{}{up_to} {:.1} GB/s", reach.name, reach.speed / 1e9)
    });
    let name = |what: &Multiplied| match what {
        Multiplied::F32 => "f32",
        Multiplied::Bf16 => "bf16",
        Multiplied::Bytes => "int8",
    };
    let peaks = limits.peaks.iter().map(|(what, peak)| format!("{} {:.0} Gop/s", name(what), peak / 1e9));
    let all: Vec<String> = reads.chain(peaks).collect();
    match all.is_empty() {
        true => String::new(),
        false => format!("\nmeasured limits: {}\n", all.join(", ")),
    }
}

/// The limits, for programs.
pub(crate) fn limits_fields(limits: &Limits) -> Value {
    let reads: Vec<Value> = limits
        .reads
        .iter()
        .map(|reach| {
            let most = (reach.bytes != u64::MAX).then_some(reach.bytes);
            json!({ "name": reach.name, "bytes_max": most, "bytes_per_s": reach.speed })
        })
        .collect();
    let peak = |what| limits.peaks.get(&what);
    json!({
        "reads": reads,
        "f32_per_s": peak(Multiplied::F32),
        "bf16_per_s": peak(Multiplied::Bf16),
        "int8_per_s": peak(Multiplied::Bytes),
    })
}
