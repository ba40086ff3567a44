//! `--mem-limit` and `--vram-limit`: how much of the host's and of a device's memory a model may take, and what for.

use std::fmt;

use jtllm_models::Checkpoint;
use jtllm_runtime::machine::{Machine, disk_bytes, resident_bytes};
use jtllm_runtime::residence::{Counted, Limit, Most, Own, Residence, Traffic};
use jtllm_serve::Model;
use serde_json::{Value, json};

use crate::args::MemoryArgs;
use crate::failure::Usage;
use crate::terminal::{Style, bytes, say};
use crate::{environment, interrupt, size};

/// What a model takes beside its weights, at the least.
const SPARE: u64 = 64 << 20;

/// Of the memory that is there a sixteenth is left to others.
const LEFT: u64 = 16;

/// The limit that is asked for, or else the memory that there is, if the model does not fit into it: a mapped file of
/// which a part is missing has the system read again and again what is wanted next.
pub(crate) fn limit(flags: &MemoryArgs, checkpoint: &Checkpoint) -> Result<Limit, Usage> {
    match environment::host(flags.mem_limit)? {
        Some(size::Limit::Bytes(most)) => return Ok(within(most)),
        Some(size::Limit::None) => return Ok(Limit::default()),
        None => {}
    }
    let weights = checkpoint.total_bytes();
    let room = Machine::probe().memory.available_bytes;
    match room.filter(|room| weights + SPARE > room - room / LEFT) {
        Some(room) => Ok(within(room - room / LEFT + resident_bytes().unwrap_or(0))),
        None => Ok(Limit::default()),
    }
}

/// So many bytes for the process; Ctrl-C is heard while it waits for weights.
fn within(most: u64) -> Limit {
    Limit { cancel: interrupt::flag(), ..Limit::of(Most::Process(most)) }
}

/// Those that hold weights within a limit.
fn limited(model: &Model) -> impl Iterator<Item = &Residence> {
    model.networks().into_iter().filter_map(|network| network.residence())
}

/// Says what the limits are spent on, or that the host's has no effect.
pub(crate) fn announce(model: &Model, flags: &MemoryArgs) {
    if let Most::Process(_) = model.options.memory.most
        && flags.mem_limit.is_some()
        && limited(model).next().is_none()
    {
        say(Style::Plain, format_args!("--mem-limit has no effect: the model is {}", model.placement()));
    }
    for residence in limited(model) {
        let stay = residence.staying();
        if let Some(counted) = residence.counted_apart() {
            let device = model.placement().device_name();
            say(Style::Faint, format_args!("{device}: {}", Spent(&counted, "limit", Some(stay))));
        }
        if let Some(counted) = residence.counted() {
            let asked = if flags.mem_limit.is_some() { "limit" } else { "are there" };
            let stay = Some(stay).filter(|_| residence.counted_apart().is_none());
            say(Style::Faint, format_args!("memory: {}", Spent(&counted, asked, stay)));
        }
    }
}

/// What a limit is spent on, and how many bytes of weights stay if it is there that they are used.
struct Spent<'a>(&'a Counted, &'a str, Option<u64>);

impl fmt::Display for Spent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spent(counted, asked, stay) = self;
        let (Most::Process(limit) | Most::Weights(limit) | Most::Device(limit)) = counted.limit else {
            return Ok(());
        };
        write!(f, "{} {asked}: weights ", bytes(limit))?;
        match stay {
            Some(stay) => write!(f, "{} of {} stay", bytes(*stay), bytes(counted.all))?,
            None => {
                write!(f, "on their way {}", bytes(limit.saturating_sub(counted.rest()).min(counted.all)))?
            }
        }
        if let Most::Weights(_) = counted.limit {
            return Ok(());
        }
        let Own { cache, buffers, .. } = counted.own;
        let rest = counted.rest() - cache - buffers;
        write!(f, ", cache {}, buffers {}, all else {}", bytes(cache), bytes(buffers), bytes(rest))
    }
}

/// Says what the limits have cost so far.
pub(crate) fn spent(model: &Model) {
    for traffic in limited(model).map(Residence::traffic).filter(|traffic| traffic.passes > 0) {
        let Traffic { bytes_read, bytes_copied, stall, passes, .. } = traffic;
        let each = |all: u64| bytes(all / passes);
        let copied = match bytes_copied {
            0 => String::new(),
            _ => format!(", {} copied to the device, {} each", bytes(bytes_copied), each(bytes_copied)),
        };
        let (all, each, waited) = (bytes(bytes_read), each(bytes_read), stall.as_secs_f64());
        say(
            Style::Faint,
            format_args!(
                "weights: {all} read in {passes} passes, {each} each{copied}; {waited:.3} s waited for them"
            ),
        );
    }
}

/// The same as fields; null without a limit.
pub(crate) fn report(model: &Model) -> Value {
    let disk = disk_bytes();
    let fields = |residence: &Residence| {
        let (stay, traffic) = (residence.staying(), residence.traffic());
        let counted = residence.counted_apart().or_else(|| residence.counted())?;
        Some(json!({
            "weights": counted.all,
            "weights_stay": stay,
            "cache": counted.own.cache,
            "buffers": counted.own.buffers,
            "rest": counted.rest(),
            "bytes_read": traffic.bytes_read,
            "bytes_copied": traffic.bytes_copied,
            "passes": traffic.passes,
            "stalls": traffic.stalls,
            "stall_ms": traffic.stall.as_secs_f64() * 1e3,
            "disk_read": disk.map(|[read, _]| read),
            "disk_written": disk.map(|[_, written]| written),
        }))
    };
    limited(model).find_map(fields).unwrap_or(Value::Null)
}
