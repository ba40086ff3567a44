//! Developer commands, run as `cargo xtask COMMAND`.
//!
//! * `check` does what a change must pass before it is proposed: formatting, clippy, documentation, tests, and
//!   `cargo deny` where it is installed.
//! * `bless` rewrites the golden files: it runs the tests with `golden` in their names with `JTLLM_BLESS=1`.
//! * `synthetic SHAPE FORMAT FILE [--layers N]` writes a model with random weights, for measurements of speed.
//! * `bench-tiers [--models DIR] [--quick] [--llama DIR] [--jtllm FILE] [-t N] [--rounds N] [--tokens N] [FILE..]` measures
//!   what limits of memory cost.
//! * `fuzz SECONDS` gives every test whose name begins with `fuzz_` that much time.
//!
//! # What this crate does not know
//!
//! What is checked, blessed or fuzzed: it finds tests by their names and runs cargo.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use xtask::synthetic::Synthetic;
use xtask::tiers;

const USAGE: &str = "usage: cargo xtask check | bless | fuzz SECONDS | synthetic SHAPE FORMAT FILE [--layers N] | bench-tiers \
     [--models DIR] [--quick] [--llama DIR] [--jtllm FILE] [-t N] [--rounds N] [--tokens N] [FILE..]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["check"] => check(),
        ["bless"] => bless(),
        ["synthetic", shape, format, file] => synthetic(shape, format, file, None),
        ["synthetic", shape, format, file, "--layers", count] => match count.parse() {
            Ok(count) if (1..=1000).contains(&count) => synthetic(shape, format, file, Some(count)),
            _ => Err(format!("`{count}` is no number of layers from 1 to 1000\n{USAGE}")),
        },
        ["bench-tiers", ref rest @ ..] => bench_tiers(rest),
        ["fuzz", seconds] => match seconds.parse() {
            Ok(seconds) if seconds > 0 => fuzz(seconds),
            _ => Err(format!("`{seconds}` is no number of seconds above 0\n{USAGE}")),
        },
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Cargo with these arguments, as the one that runs us.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// Says what is run, runs it, and fails if it does.
fn run(mut command: Command) -> Result<(), String> {
    let spelled = spell(&command);
    println!("==> {spelled}");
    let status = command.status().map_err(|error| format!("{spelled}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("failed ({status}): {spelled}")) }
}

/// The command as one would type it.
fn spell(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        Some(format!("{}={} ", name.to_string_lossy(), value?.to_string_lossy()))
    });
    let arguments = command.get_args().map(|argument| format!(" {}", argument.to_string_lossy()));
    variables.chain(["cargo".to_owned()]).chain(arguments).collect()
}

fn check() -> Result<(), String> {
    run(cargo(&["fmt", "--all", "--check"]))?;
    run(cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps"]);
    documentation.env("RUSTDOCFLAGS", "-D warnings");
    run(documentation)?;
    let mut version = cargo(&["deny", "--version"]);
    version.stdout(Stdio::null()).stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        run(cargo(&["deny", "check"]))?;
    } else {
        println!("skipped: cargo deny check, since cargo-deny is not installed");
    }
    run(cargo(&["test", "--workspace", "--release"]))
}

fn bless() -> Result<(), String> {
    let count = tests("golden")?.len();
    println!("{count} tests with golden files");
    let mut command = cargo(&["test", "--workspace", "--release", "--tests", "golden"]);
    command.env("JTLLM_BLESS", "1");
    run(command)
}

/// Measures what limits cost, and prints the table.
fn bench_tiers(words: &[&str]) -> Result<(), String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let mut options = tiers::Options {
        models: target.join("tiers"),
        files: Vec::new(),
        quick: false,
        llama: None,
        jtllm: target.join("release/jtllm"),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        rounds: 3,
        tokens: None,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value\n{USAGE}"));
        let count = |text: &str| match text.parse() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(format!("`{text}` is no number above 0\n{USAGE}")),
        };
        match *word {
            "--quick" => (options.quick, options.rounds) = (true, 1),
            "--models" => options.models = value()?.into(),
            "--llama" => options.llama = Some(value()?.into()),
            "--jtllm" => options.jtllm = value()?.into(),
            "-t" => options.threads = count(value()?)?,
            "--rounds" => options.rounds = count(value()?)?,
            "--tokens" => options.tokens = Some(count(value()?)?),
            flag if flag.starts_with('-') => return Err(format!("`{flag}` is not known\n{USAGE}")),
            file => options.files.push(file.into()),
        }
    }
    print!("{}", tiers::table(&tiers::bench(&options)?));
    Ok(())
}

/// Writes a model, and shows on a terminal how far it is.
fn synthetic(shape: &str, format: &str, file: &str, layers: Option<u64>) -> Result<(), String> {
    let model = Synthetic::of(shape, format, layers)?;
    let (total, begin) = (model.bytes() as f64, Instant::now());
    let mut shown = begin;
    let is_seen = std::io::stderr().is_terminal();
    let mut show = |done: u64| {
        if is_seen && shown.elapsed().as_millis() >= 500 {
            shown = Instant::now();
            let (done, seconds) = (done as f64, begin.elapsed().as_secs_f64());
            eprint!("\r{:.2} of {:.2} GB, {:.0} MB/s ", done / 1e9, total / 1e9, done / 1e6 / seconds);
            let _ = std::io::stderr().flush();
        }
    };
    model.write(file.as_ref(), &mut show)?;
    if is_seen {
        eprint!("\r\x1b[K");
    }
    println!("{file}: {} bytes in {:.1} s", model.bytes(), begin.elapsed().as_secs_f64());
    Ok(())
}

fn fuzz(seconds: u64) -> Result<(), String> {
    let names: Vec<String> = tests("fuzz_")?;
    println!("{} fuzz tests, {seconds} s each: {}", names.len(), names.join(" "));
    let mut command = cargo(&["test", "--workspace", "--release", "--tests", "fuzz_", "--", "--show-output"]);
    command.env("JTLLM_FUZZ_SECONDS", seconds.to_string());
    // A property that proptest repeats on its own counts cases, not seconds.
    command.env("PROPTEST_CASES", seconds.saturating_mul(1000).to_string());
    run(command)
}

/// The tests of the workspace with `filter` in their names; an error if there are none, since a command that
/// runs nothing must not look like one that found nothing wrong.
fn tests(filter: &str) -> Result<Vec<String>, String> {
    let mut command =
        cargo(&["test", "--quiet", "--workspace", "--release", "--tests", filter, "--", "--list"]);
    let spelled = spell(&command);
    println!("==> {spelled}");
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("{spelled}: {error}"))?;
    if !output.status.success() {
        return Err(format!("failed ({}): {spelled}", output.status));
    }
    let listed = String::from_utf8_lossy(&output.stdout);
    let names: Vec<_> =
        listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    if names.is_empty() { Err(format!("no test has `{filter}` in its name")) } else { Ok(names) }
}
