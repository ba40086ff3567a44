//! `jtllm plan`: what a model takes of a machine within its limits, and what that makes of its speed, before a token is
//! computed. The decisions are those that will be taken, on a clock instead of on a disk. Weights that a run would pack, since
//! nobody has done so yet, are packed for it, if the limit is not too low: it is from there that they would be read.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jtllm_models::{Checkpoint, Language};
use jtllm_runtime::machine::{Machine, resident_bytes};
use jtllm_runtime::probe::disk_bandwidth;
use jtllm_runtime::residence::outlook::{Change, Outlook, Rates};
use jtllm_runtime::residence::{Limit, Most};
use jtllm_serve::Model;
use serde_json::{Value, json};

use crate::args::PlanArgs;
use crate::download::client;
use crate::failure::Usage;
use crate::models::table;
use crate::terminal::{Style, bytes, print, print_json, say};
use crate::{load, memory};

/// How long the disk is measured.
const DISK: Duration = Duration::from_millis(700);

/// Bits of a weight in Q4_0.
const FOUR_BITS: f64 = 4.5;

/// A pass that waits less than this part of its time is bound by memory.
const WAITING: f64 = 0.05;

/// Something that can be asked for, and what it would make of the speed.
struct Knob {
    what: String,
    speed: f64,
}

/// Prints the plan.
pub(crate) fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let checkpoint = match args.model.as_str() {
        load::DEMO if !Path::new(load::DEMO).exists() => Checkpoint::demo()?,
        name => Checkpoint::open(&client().locate(name)?)?,
    };
    // A run holds it, too, and it is counted with the program; what is wrong with it a run will say.
    let _held = Language::of(&checkpoint).ok();
    let bits = checkpoint.total_bytes() as f64 * 8.0 / load::parameters(&checkpoint).max(1) as f64;
    let limit = match memory::limit(&args.machine.memory)? {
        // Within it all may fit: then it is known how much is taken of it.
        within @ Limit { most: Most::Process(_), .. } => Limit { if_needed: false, ..within },
        _ => Limit::of(Most::Process(available())),
    };
    let mut model = load::unread(checkpoint, &args.machine, limit)?;
    model.prepare()?;
    let unforeseen =
        || Usage(format!("the model would be {}: what that costs is not foreseen", model.placement()));
    let steps = model.rehearse()?.ok_or_else(unforeseen)?;
    let streamed = streamed(&model);
    let disk = streamed.as_ref().and_then(|(file, ranges)| disk(file, ranges));
    let file = streamed.map(|(file, _)| file);
    let rates = Rates { disk: disk.unwrap_or(f64::INFINITY), steps };
    let outlook = model.outlook(&rates, &Change::NONE)?.ok_or_else(unforeseen)?;
    let knobs = knobs(&model, &rates, &outlook, bits)?;
    match args.json {
        true => print_json(&report(&rates, file.as_deref(), &outlook, &knobs)),
        false => print(&text(&rates, &outlook, &knobs)?),
    }
}

/// What the process may have of the machine's memory.
fn available() -> u64 {
    let room = Machine::probe().memory.available_bytes.unwrap_or(u64::MAX / 2);
    room.saturating_add(resident_bytes().unwrap_or(0))
}

/// The file that most weights would be read from, the model's own or a packed one, if they are in files, and where they lie.
fn streamed(model: &Model) -> Option<(Arc<Path>, Vec<Range<u64>>)> {
    model.networks().into_iter().find_map(|network| network.residence()?.main_file())
}

/// The speed of the disk where a file is, read as it will be, if it can be.
fn disk(file: &Path, ranges: &[Range<u64>]) -> Option<f64> {
    let failed = |error: &io::Error| {
        say(Style::Plain, format_args!("{}: {error}; taken to come at once", file.display()));
    };
    disk_bandwidth(file, ranges, DISK).inspect_err(failed).ok()
}

/// What other limits, fewer bits and a shorter context buy.
fn knobs(model: &Model, rates: &Rates, now: &Outlook, bits: f64) -> anyhow::Result<Vec<Knob>> {
    let speed = |change: &Change| -> anyhow::Result<f64> {
        Ok(model.outlook(rates, change)?.map_or(0.0, |outlook| outlook.forecast.passes_per_s()))
    };
    let mut knobs = Vec::new();
    let streams = now.forecast.bytes_read >= 1.0;
    if streams {
        let Most::Process(limit) = now.counted.limit else { return Ok(knobs) };
        // A sixty-fourth more, for what grows with the limit.
        let whole = now.counted.rest() + now.counted.all + now.counted.all / 64;
        let between = Some(limit + limit / 2).filter(|more| *more < whole / 10 * 9);
        for limit in between.into_iter().chain([whole]) {
            let change = Change { limit: Some(Most::Process(limit)), ..Change::NONE };
            knobs.push(Knob {
                what: format!("--mem-limit {}MB", limit.div_ceil(1_000_000)),
                speed: speed(&change)?,
            });
        }
        let half = Change { cache: 0.5, ..Change::NONE };
        knobs.push(Knob { what: format!("-c {}", model.options.context / 2), speed: speed(&half)? });
    }
    if bits > FOUR_BITS + 1.0 {
        let change = Change { weights: FOUR_BITS / bits, ..Change::NONE };
        knobs.push(Knob { what: "4-bit weights (Q4_0)".to_owned(), speed: speed(&change)? });
    }
    Ok(knobs)
}

/// What a pass waits for.
fn bottleneck(outlook: &Outlook) -> &'static str {
    match outlook.forecast.stall_seconds > WAITING * outlook.forecast.seconds {
        true => "disk",
        false => "memory",
    }
}

/// Bytes of a second; of a disk that was not measured nothing is known.
fn rate(bytes_per_s: f64) -> String {
    if bytes_per_s.is_finite() { bytes(bytes_per_s as u64) } else { "?".to_owned() }
}

fn text(rates: &Rates, outlook: &Outlook, knobs: &[Knob]) -> anyhow::Result<String> {
    let Outlook { counted, forecast, used, peak } = outlook;
    let own = counted.own;
    let read = forecast.bytes_read as u64;
    let rest = counted.rest() - own.cache - own.buffers - own.copied - counted.margin();
    let row = |what: &str, memory: u64, disk: String| [what.to_owned(), bytes(memory), disk];
    let streamed = match (read, forecast.bytes_written as u64) {
        (0, _) => String::new(),
        (_, 0) => format!("{} read for each token", bytes(read)),
        (_, written) => format!("{} read and {} written for each token", bytes(read), bytes(written)),
    };
    // Where keys and values may go to disk they are as many as in a full context.
    let (what, used) = match counted.paged {
        0 => ("weights", *used),
        paged => ("weights, keys and values", used + paged),
    };
    let mut rows = vec![
        [String::new(), "MEMORY".to_owned(), "DISK".to_owned()],
        row(what, (used - read.min(used)) + own.copied, streamed),
        row("on their way", forecast.peak_bytes[1].saturating_sub(used - read.min(used)), String::new()),
        row("keys, values, states", own.cache, String::new()),
        row("buffers", own.buffers, String::new()),
        row("program and all else", rest, String::new()),
        row("at the most", *peak, String::new()),
    ];
    if read == 0 {
        rows.remove(2);
    }
    let mut text = table(rows);
    if let Most::Process(limit) = counted.limit {
        text += &format!("\nlimit       {}\n", bytes(limit));
    }
    let each = forecast.seconds;
    text += &format!(
        "machine     disk {}/s, weights in memory {}/s\nspeed       {:.2} tokens/s: {each:.3} s a token, {:.3} s of them \
         waiting for the disk\nbottleneck  {}\n",
        rate(rates.disk),
        bytes((used as f64 / rates.computing()) as u64),
        forecast.passes_per_s(),
        forecast.stall_seconds,
        bottleneck(outlook),
    );
    for (knob, head) in knobs.iter().zip(std::iter::once("it helps").chain(std::iter::repeat(""))) {
        text += &format!("{head:<11} {}: {:.2} tokens/s\n", knob.what, knob.speed);
    }
    Ok(text)
}

fn report(rates: &Rates, file: Option<&Path>, outlook: &Outlook, knobs: &[Knob]) -> Value {
    let Outlook { counted, forecast, used, peak } = outlook;
    let limit = match counted.limit {
        Most::Process(limit) | Most::Weights(limit) | Most::Device(limit) => Some(limit),
        Most::Unlimited => None,
    };
    json!({
        "limit": limit,
        "peak": peak,
        "weights": used,
        "weights_read": forecast.bytes_read,
        "cache": counted.own.cache,
        "pages": counted.paged,
        "swap": if forecast.bytes_written >= 1.0 { counted.paged } else { 0 },
        "swap_written": forecast.bytes_written,
        "buffers": counted.own.buffers,
        "base": counted.base,
        "disk_file": file.map(|path| path.display().to_string()),
        "disk_bytes_per_s": rates.disk,
        "memory_bytes_per_s": *used as f64 / rates.computing(),
        "seconds": forecast.seconds,
        "stall_seconds": forecast.stall_seconds,
        "tokens_per_s": forecast.passes_per_s(),
        "bottleneck": bottleneck(outlook),
        "knobs": knobs.iter().map(|knob| json!({ "what": knob.what, "tokens_per_s": knob.speed })).collect::<Vec<_>>(),
    })
}
