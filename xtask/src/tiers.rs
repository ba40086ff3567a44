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
    /// Tokens of the shorter run where weights stream, if others than usual.
    pub tokens: Option<usize>,
}

/// Limits, as parts of a file's length.
const PARTS: [f64; 2] = [0.8, 0.5];

/// A limit within which all fits, as a part of what `jtllm plan` says that a run without a limit takes.
const PLENTY: f64 = 1.25;

/// What the largest file is measured with beside those: what JittorLLMs promises, and a fifth less.
const SMALL: u64 = 1_800_000_000;

/// What a control group has beyond the limit that is asked for: what a process may take more than its limit.
const SPARE: u64 = 64 << 20;

/// The models of the table: shape and encoding.
const MODELS: [(&str, &str); 3] = [("llama-1.1b", "q4_0"), ("chatglm2-6b", "q4_0"), ("chatglm2-6b", "bf16")];
const QUICK: [(&str, &str); 1] = [("chatglm2-100m", "bf16")];

/// Tokens of the shorter run; where all fits a token reads nothing and takes little time.
const TOKENS: usize = 8;
const TOKENS_FITTING: usize = 32;
const TOKENS_QUICK: usize = 3;

/// Keys and values have room for a multiple of so many positions, as few as will do: llama-bench has it so.
const CONTEXT: usize = 256;

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
        let plenty = (plan(options, file, None)?[1] * PLENTY) as u64;
        for limit in limits {
            rows.extend(measure(options, file, limit, false)?);
        }
        rows.extend(measure(options, file, plenty, true)?);
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
    /// The most memory it may have, in bytes.
    limit: Option<u64>,
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

/// The rows of one file and limit: ours, ours without a limit where `all_fits`, and llama.cpp's.
fn measure(options: &Options, file: &Path, limit: u64, all_fits: bool) -> Result<Vec<Row>, String> {
    let mut decoders = vec![ours(options, file, Some(limit))];
    decoders.extend(all_fits.then(|| ours(options, file, None)));
    decoders.extend(options.llama.as_ref().map(|folder| llama(options, folder, file, limit)));
    let usual = match options.quick {
        true => TOKENS_QUICK,
        false if all_fits => TOKENS_FITTING,
        false => TOKENS,
    };
    // Few tokens are asked for where each takes long; what fits is quick, and few tokens of it tell little.
    let tokens = options.tokens.filter(|_| !all_fits).unwrap_or(usual);
    // What is made once is made before: packed weights, kernels.
    once(&decoders[0], 1)?;
    let mut all: Vec<Rounds> = decoders.iter().map(|_| Rounds::default()).collect();
    let (mut dd, mut foreseen) = (Vec::new(), Vec::new());
    for round in 0..options.rounds.max(1) {
        chill(options, file);
        dd.push(read_by_dd(file)?);
        foreseen.push(plan(options, file, Some(limit))?);
        for turn in 0..decoders.len() {
            let which = (turn + round) % decoders.len();
            let (decoder, rounds) = (&decoders[which], &mut all[which]);
            eprintln!("{}, {}, {}", file.display(), within(decoder.limit), decoder.name);
            let cold = |tokens| {
                chill(options, file);
                once(decoder, tokens)
            };
            match cold(tokens).and_then(|short| Ok((short, cold(2 * tokens)?))) {
                Ok(((short, _), (long, speed))) => {
                    rounds.speeds.push(speed);
                    rounds.reads.push(long.read.saturating_sub(short.read) as f64 / tokens as f64);
                    rounds.peak = rounds.peak.max(short.peak).max(long.peak);
                    rounds.written = rounds.written.max(long.written);
                }
                // That others do not keep within the limit is a result, too.
                Err(why) if decoder.name == LLAMA => eprintln!("{why}"),
                Err(why) => return Err(why),
            }
        }
        // What is read often some disks give faster: so `dd` has the last word as it had the first.
        chill(options, file);
        dd.push(read_by_dd(file)?);
    }
    let speed_of =
        |is: &dyn Fn(&Decoder) -> bool| decoders.iter().position(is).map(|at| median(all[at].speeds.clone()));
    let (peer, unlimited) = (speed_of(&|one| one.name == LLAMA), speed_of(&|one| one.limit.is_none()));
    let foreseen = [0, 1].map(|at| median(foreseen.iter().map(|one: &[f64; 2]| one[at]).collect()));
    let row = |(decoder, rounds): (&Decoder, &Rounds)| Row {
        file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        program: decoder.name.to_owned(),
        limit: decoder.limit,
        peak: rounds.peak,
        tokens_per_s: median(rounds.speeds.clone()),
        read_per_token: median(rounds.reads.clone()),
        written: rounds.written,
        dd_bytes_per_s: median(dd.clone()),
        foreseen: (decoder.name != LLAMA && decoder.limit.is_some()).then_some(foreseen),
        llama_tokens_per_s: peer,
        unlimited_tokens_per_s: unlimited,
    };
    Ok(decoders.iter().zip(&all).map(row).collect())
}

fn within(limit: Option<u64>) -> String {
    limit.map_or("no limit".to_owned(), |limit| format!("limit {} MB", limit / 1_000_000))
}

const LLAMA: &str = "llama.cpp";

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn ours(options: &Options, file: &Path, limit: Option<u64>) -> Decoder {
    let mut arguments = vec!["run".to_owned(), file.to_string_lossy().into_owned()];
    arguments.extend(budget(options, limit));
    // A token a pass, as llama-bench has it and `jtllm plan` foresees it.
    arguments.extend(words(&[
        "--raw",
        "-p",
        "x",
        "--temp",
        "0",
        "--ignore-eos",
        "--spec-type",
        "none",
        "--json",
    ]));
    Decoder {
        name: "jtllm",
        program: options.jtllm.clone(),
        arguments,
        variables: vec![("JTLLM_CACHE", cache(options).display().to_string())],
        limit,
        speed: |told| told["timings"]["predicted_per_second"].as_f64(),
    }
}

/// What our runs and plans have in common.
fn budget(options: &Options, limit: Option<u64>) -> Vec<String> {
    // The longest run has twice the tokens that are asked for, behind a prompt of a few.
    let positions = 2 * options.tokens.unwrap_or(0).max(TOKENS_FITTING) + 16;
    let (threads, context) = (options.threads.to_string(), positions.next_multiple_of(CONTEXT).to_string());
    let mut arguments = words(&["--backend", "cpu", "-t", &threads, "-c", &context]);
    arguments.extend(limit.into_iter().flat_map(|limit| ["--mem-limit".to_owned(), limit.to_string()]));
    arguments
}

fn llama(options: &Options, folder: &Path, file: &Path, limit: u64) -> Decoder {
    let (path, threads) = (file.to_string_lossy(), options.threads.to_string());
    Decoder {
        name: LLAMA,
        program: folder.join("llama-bench"),
        // Weights that it rearranges in memory of its own cannot be evicted: with them it is killed.
        arguments: words(&[
            "-m", &path, "-p", "0", "-r", "1", "-o", "json", "-t", &threads, "-lm", "mmap", "--repack", "0",
        ]),
        variables: vec![("LD_LIBRARY_PATH", folder.display().to_string())],
        limit: Some(limit),
        speed: |told| told[0]["avg_ts"].as_f64(),
    }
}

/// What `jtllm plan` foresees: tokens a second, and the most bytes of memory.
fn plan(options: &Options, file: &Path, limit: Option<u64>) -> Result<[f64; 2], String> {
    let mut plan = Command::new(&options.jtllm);
    plan.arg("plan").arg(file).arg("--json").args(budget(options, limit));
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
fn once(decoder: &Decoder, tokens: usize) -> Result<(Cost, f64), String> {
    let program = decoder.program.to_string_lossy();
    let arguments: Vec<String> =
        decoder.arguments.iter().cloned().chain(["-n".to_owned(), tokens.to_string()]).collect();
    let cost = run(decoder.limit.map(|limit| limit + SPARE), &program, &arguments, &decoder.variables)?;
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
