//! `cargo xtask bench-tiers`: what a limit of memory costs, beside the disk's own speed and llama.cpp's.
//!
//! Each program runs in a control group of its own with the same limit, on the same file, out of cold caches, in turns.
//! Speeds are those of decoding, as `jtllm run` and `llama-bench` tell them; what a token reads of the disk is the
//! difference between a run and one of twice as many tokens, so whatever a start reads is not in it.

mod child;
mod group;
mod table;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::synthetic::Synthetic;
use child::{Cost, run};
use table::median;
pub use table::{Row, table};

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where models and what is made of them lie; what is missing of the standard ones is written there.
    pub models: PathBuf,
    /// Files to measure instead of the standard ones.
    pub files: Vec<PathBuf>,
    /// A small model and one round, for tests.
    pub quick: bool,
    /// Where llama-bench is.
    pub llama: Option<PathBuf>,
    /// The program to measure.
    pub jtllm: PathBuf,
    /// Threads of both programs.
    pub threads: usize,
    /// How often each program runs.
    pub rounds: usize,
}

/// Limits, as parts of a file's length.
const PARTS: [f64; 2] = [0.8, 0.5];

/// What the largest file is measured with beside those: what JittorLLMs promises, and a fifth less.
const SMALL: u64 = 1_800_000_000;

/// What a control group has beyond the limit that is asked for: what a process may take more than its limit.
const SPARE: u64 = 64 << 20;

/// The models of the table: shape and encoding.
const MODELS: [(&str, &str); 3] = [("llama-1.1b", "q4_0"), ("chatglm2-6b", "q4_0"), ("chatglm2-6b", "bf16")];
const QUICK: [(&str, &str); 1] = [("chatglm2-100m", "bf16")];

/// Tokens of the shorter run.
const TOKENS: usize = 8;
const TOKENS_QUICK: usize = 3;

/// As much of a file `dd` reads at most.
const DD_BYTES: u64 = 2 << 30;
const DD_BLOCK: u64 = 4 << 20;

/// Measures, saying on stderr what is done, and gives the rows in the order of the files and limits.
///
/// # Errors
/// What is needed is not there, or a program fails; the message says what and why.
pub fn bench(options: &Options) -> Result<Vec<Row>, String> {
    if !options.jtllm.is_file() {
        return Err(format!("{} is not there: cargo build --release makes it", options.jtllm.display()));
    }
    let files = models(options)?;
    let mut rows = Vec::new();
    for file in &files {
        let len = fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?.len();
        let mut limits: Vec<u64> = PARTS.iter().map(|part| (len as f64 * part) as u64).collect();
        limits.extend((len > 4 * SMALL).then_some(SMALL));
        for limit in limits {
            rows.extend(measure(options, file, limit)?);
        }
    }
    Ok(rows)
}

/// The files to measure, those that were missing written.
fn models(options: &Options) -> Result<Vec<PathBuf>, String> {
    if !options.files.is_empty() {
        return Ok(options.files.clone());
    }
    fs::create_dir_all(&options.models).map_err(|error| format!("{}: {error}", options.models.display()))?;
    let wanted = if options.quick { &QUICK[..] } else { &MODELS };
    let file = |(shape, encoding): &(&str, &str)| {
        let path = options.models.join(format!("{shape}-{encoding}.gguf"));
        let model = Synthetic::of(shape, encoding, None)?;
        if fs::metadata(&path).map_or(0, |found| found.len()) != model.bytes() {
            eprintln!("writing {}", path.display());
            model.write(&path, &mut |_| {})?;
        }
        Ok(path)
    };
    wanted.iter().map(file).collect()
}

/// A program that decodes: how it is called, and where its answer has the speed.
struct Decoder {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    speed: fn(&Value) -> Option<f64>,
}

/// What one program cost in each round.
#[derive(Default)]
struct Rounds {
    speeds: Vec<f64>,
    reads: Vec<f64>,
    peak: Option<u64>,
    written: u64,
}

fn measure(options: &Options, file: &Path, limit: u64) -> Result<Vec<Row>, String> {
    let decoders = decoders(options, file, limit);
    let tokens = if options.quick { TOKENS_QUICK } else { TOKENS };
    // What is made once is made before: packed weights, kernels.
    once(&decoders[0], limit, 1)?;
    let mut all: Vec<Rounds> = decoders.iter().map(|_| Rounds::default()).collect();
    let (mut dd, mut foreseen) = (Vec::new(), Vec::new());
    for round in 0..options.rounds.max(1) {
        chill(options, file);
        dd.push(read_by_dd(file)?);
        foreseen.push(plan(options, file, limit)?);
        for turn in 0..decoders.len() {
            let which = (turn + round) % decoders.len();
            let (decoder, rounds) = (&decoders[which], &mut all[which]);
            eprintln!("{}, limit {} MB, {}", file.display(), limit / 1_000_000, decoder.name);
            let cold = |tokens| {
                chill(options, file);
                once(decoder, limit, tokens)
            };
            match cold(tokens).and_then(|short| Ok((short, cold(2 * tokens)?))) {
                Ok(((short, _), (long, speed))) => {
                    rounds.speeds.push(speed);
                    rounds.reads.push(long.read.saturating_sub(short.read) as f64 / tokens as f64);
                    rounds.peak = rounds.peak.max(short.peak).max(long.peak);
                    rounds.written = rounds.written.max(long.written);
                }
                // That others do not keep within the limit is a result, too.
                Err(why) if which > 0 => eprintln!("{why}"),
                Err(why) => return Err(why),
            }
        }
    }
    let llama = (all.len() > 1).then(|| median(all[1].speeds.clone()));
    let mut foreseen = Some([0, 1].map(|at| median(foreseen.iter().map(|one: &[f64; 2]| one[at]).collect())));
    let row = |(decoder, rounds): (&Decoder, Rounds)| Row {
        file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        program: decoder.name.to_owned(),
        limit,
        peak: rounds.peak,
        tokens_per_s: median(rounds.speeds),
        read_per_token: median(rounds.reads),
        written: rounds.written,
        dd_bytes_per_s: median(dd.clone()),
        foreseen: foreseen.take(),
        llama_tokens_per_s: llama,
    };
    Ok(decoders.iter().zip(all).map(row).collect())
}

/// The programs, ours first.
fn decoders(options: &Options, file: &Path, limit: u64) -> Vec<Decoder> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let (path, threads) = (file.to_string_lossy(), options.threads.to_string());
    let mut all = vec![Decoder {
        name: "jtllm",
        program: options.jtllm.clone(),
        arguments: words(&[
            "run",
            &path,
            "--backend",
            "cpu",
            "--mem-limit",
            &limit.to_string(),
            "-t",
            &threads,
            "--raw",
            "-p",
            "x",
            "--temp",
            "0",
            "--ignore-eos",
            // A token a pass, as llama-bench has it and `jtllm plan` foresees it.
            "--spec-type",
            "none",
            "--json",
        ]),
        variables: vec![("JTLLM_CACHE", cache(options).display().to_string())],
        speed: |told| told["timings"]["predicted_per_second"].as_f64(),
    }];
    if let Some(folder) = &options.llama {
        all.push(Decoder {
            name: "llama.cpp",
            program: folder.join("llama-bench"),
            // Weights that it rearranges in memory of its own cannot be evicted: with them it is killed.
            arguments: words(&[
                "-m", &path, "-p", "0", "-r", "1", "-o", "json", "-t", &threads, "-lm", "mmap", "--repack",
                "0",
            ]),
            variables: vec![("LD_LIBRARY_PATH", folder.display().to_string())],
            speed: |told| told[0]["avg_ts"].as_f64(),
        });
    }
    all
}

/// What `jtllm plan` foresees: tokens a second, and the most bytes of memory.
fn plan(options: &Options, file: &Path, limit: u64) -> Result<[f64; 2], String> {
    let mut plan = Command::new(&options.jtllm);
    plan.arg("plan").arg(file).args(["--backend", "cpu", "--json"]);
    plan.args(["--mem-limit", &limit.to_string(), "-t", &options.threads.to_string()]);
    let output = plan.env("JTLLM_CACHE", cache(options)).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("jtllm plan: {error}"))?;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    match [&told["tokens_per_s"], &told["peak"]].map(Value::as_f64) {
        [Some(speed), Some(peak)] => Ok([speed, peak]),
        _ => Err(format!("jtllm plan: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

fn cache(options: &Options) -> PathBuf {
    options.models.join("jtllm-cache")
}

/// A run that decodes so many tokens, and how many a second it says they were.
fn once(decoder: &Decoder, limit: u64, tokens: usize) -> Result<(Cost, f64), String> {
    let program = decoder.program.to_string_lossy();
    let arguments: Vec<String> =
        decoder.arguments.iter().cloned().chain(["-n".to_owned(), tokens.to_string()]).collect();
    let cost = run(limit + SPARE, &program, &arguments, &decoder.variables)?;
    let told = serde_json::from_str(&cost.output).unwrap_or(Value::Null);
    let speed = (decoder.speed)(&told).ok_or_else(|| format!("{program} told no speed: {}", cost.output))?;
    Ok((cost, speed))
}

/// Has the system forget what it keeps of the files in memory, and of all others where it lets us.
fn chill(options: &Options, file: &Path) {
    let packed = fs::read_dir(cache(options).join("packed")).into_iter().flatten().flatten();
    for path in packed.map(|entry| entry.path()).chain([file.to_owned()]) {
        if let Ok(opened) = File::open(&path) {
            let len = opened.metadata().map_or(0, |found| found.len());
            // What is not on the disk yet cannot be forgotten.
            let _ = opened.sync_all();
            jtllm_swap::os::forget_cached(&opened, 0, len);
        }
    }
    if !options.quick {
        let _ = fs::write("/proc/sys/vm/drop_caches", "1");
    }
}

/// Bytes a second that `dd` reads of a file, past the page cache.
fn read_by_dd(file: &Path) -> Result<f64, String> {
    let len = fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?.len();
    let count = len.min(DD_BYTES) / DD_BLOCK;
    if count == 0 {
        return Err(format!("{} is too short to be measured: {len} bytes", file.display()));
    }
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", file.display())).args(["of=/dev/null", "bs=4M", "iflag=direct"]);
    dd.arg(format!("count={count}")).stdin(Stdio::null()).stderr(Stdio::piped());
    let begin = Instant::now();
    let output = dd.output().map_err(|error| format!("dd: {error}"))?;
    let seconds = begin.elapsed().as_secs_f64();
    match output.status.success() {
        true => Ok((count * DD_BLOCK) as f64 / seconds),
        false => Err(format!("dd: {}", String::from_utf8_lossy(&output.stderr))),
    }
}
