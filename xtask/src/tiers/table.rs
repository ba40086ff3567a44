//! The table of what was measured.

use std::fmt::Write;

/// One program on one file under one limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The file's name.
    pub file: String,
    /// The program's name.
    pub program: String,
    /// The limit of memory, in bytes, if there is one.
    pub limit: Option<u64>,
    /// The most memory that the group had, in bytes, where the system tells.
    pub peak: Option<u64>,
    /// Decoded tokens a second, the median of the rounds; no number where the program did not end well.
    pub tokens_per_s: f64,
    /// Bytes read from the disk for a token.
    pub read_per_token: f64,
    /// Bytes written to the disk in a whole run.
    pub written: u64,
    /// What `dd` reads of the same file past the page cache, in bytes a second, the median of the rounds.
    pub dd_bytes_per_s: f64,
    /// What `jtllm plan` foresees of the speed and of the peak, the median of the rounds; of our own program alone.
    pub foreseen: Option<[f64; 2]>,
    /// The speed of llama.cpp with the same file and limit, where it was measured.
    pub llama_tokens_per_s: Option<f64>,
    /// Our own speed with the same file and no limit, where it was measured.
    pub unlimited_tokens_per_s: Option<f64>,
}

impl Row {
    /// What the program reads in a second, of what `dd` does.
    pub fn of_dd(&self) -> f64 {
        self.read_per_token * self.tokens_per_s / self.dd_bytes_per_s
    }

    /// How many times as fast as llama.cpp.
    pub fn of_llama(&self) -> Option<f64> {
        self.llama_tokens_per_s.map(|speed| self.tokens_per_s / speed)
    }

    /// How fast beside our own program without a limit.
    pub fn of_unlimited(&self) -> Option<f64> {
        self.unlimited_tokens_per_s.map(|speed| self.tokens_per_s / speed)
    }
}

/// Rows as a table for RESULTS.md.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| file | limit MB | program | peak MB | tokens/s | read MB a token | written MB | of dd | of llama.cpp \
         | of unlimited | foreseen tokens/s | foreseen peak MB |\n\
         |---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let megabytes = |bytes: f64| format!("{:.1}", bytes / 1e6);
    for row in rows {
        let number = |value: f64| if value.is_finite() { format!("{value:.2}") } else { "-".to_owned() };
        let peak = row.peak.map_or("unknown".to_owned(), |peak| megabytes(peak as f64));
        let none = || [(); 2].map(|()| "-".to_owned());
        let [speed, most] = row.foreseen.map_or_else(none, |[speed, peak]| [number(speed), megabytes(peak)]);
        let [llama, unlimited] =
            [row.of_llama(), row.of_unlimited()].map(|ratio| ratio.map_or("-".to_owned(), number));
        let _infallible = writeln!(
            text,
            "| {} | {} | {} | {peak} | {} | {} | {} | {} | {llama} | {unlimited} | {speed} | {most} |",
            row.file,
            row.limit.map_or("none".to_owned(), |limit| megabytes(limit as f64)),
            row.program,
            number(row.tokens_per_s),
            megabytes(row.read_per_token),
            megabytes(row.written as f64),
            number(row.of_dd()),
        );
    }
    text
}

/// The middle one; the mean of the two middle ones of an even number.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}
