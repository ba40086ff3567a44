//! `--mem-limit`: how much of the host's memory the process may take, and what it takes it for.

use jtllm_models::Checkpoint;
use jtllm_runtime::machine::{Machine, disk_bytes, resident_bytes};
use jtllm_runtime::residence::{Counted, Limit, Most, Traffic};
use jtllm_serve::Model;
use serde_json::{Value, json};

use crate::args::MemoryArgs;
use crate::environment;
use crate::failure::Usage;
use crate::size;
use crate::terminal::{Style, bytes, say};

/// What a model takes beside its weights, at the least.
const SPARE: u64 = 64 << 20;

/// Of the memory that is there a sixteenth is left to others.
const LEFT: u64 = 16;

/// The limit that is asked for, or else the memory that there is, if the model does not fit into it: a mapped file of
/// which a part is missing has the system read again and again what is wanted next.
pub(crate) fn limit(flags: &MemoryArgs, checkpoint: &Checkpoint) -> Result<Limit, Usage> {
    match environment::host(flags.mem_limit)? {
        Some(size::Limit::Bytes(most)) => return Ok(Limit::of(Most::Process(most))),
        Some(size::Limit::None) => return Ok(Limit::default()),
        None => {}
    }
    let weights = checkpoint.total_bytes();
    let room = Machine::probe().memory.available_bytes;
    match room.filter(|room| weights + SPARE > room - room / LEFT) {
        Some(room) => Ok(Limit::of(Most::Process(room - room / LEFT + resident_bytes().unwrap_or(0)))),
        None => Ok(Limit::default()),
    }
}

/// Those that hold weights within a limit.
fn limited(model: &Model) -> impl Iterator<Item = (Counted, u64, Traffic)> + '_ {
    let networks = model.networks().into_iter().filter_map(|network| network.residence());
    networks.filter_map(|one| Some((one.counted()?, one.staying(), one.traffic())))
}

/// Says what the limit is spent on, or that it has no effect.
pub(crate) fn announce(model: &Model, flags: &MemoryArgs) {
    let Most::Process(limit) = model.options.memory.most else { return };
    if flags.mem_limit.is_some() && model.networks().iter().all(|network| network.residence().is_none()) {
        say(Style::Plain, format_args!("--mem-limit has no effect: the model is {}", model.placement()));
    }
    for (counted, stay, _) in limited(model) {
        let own = counted.own;
        let asked = if flags.mem_limit.is_some() { "limit" } else { "are there" };
        say(
            Style::Faint,
            format_args!(
                "memory: {} {asked}: weights {} of {} stay, cache {}, buffers {}, all else {}",
                bytes(limit),
                bytes(stay),
                bytes(counted.all),
                bytes(own.cache),
                bytes(own.buffers),
                bytes(counted.rest() - own.cache - own.buffers),
            ),
        );
    }
}

/// Says what the limit has cost so far.
pub(crate) fn spent(model: &Model) {
    for (_, _, traffic) in limited(model) {
        let Traffic { bytes_read, stall, passes, .. } = traffic;
        let each = bytes(bytes_read.checked_div(passes).unwrap_or(0));
        let (all, waited) = (bytes(bytes_read), stall.as_secs_f64());
        say(
            Style::Faint,
            format_args!(
                "weights: {all} read in {passes} passes, {each} each; {waited:.3} s waited for them"
            ),
        );
    }
}

/// The same as fields; null without a limit.
pub(crate) fn report(model: &Model) -> Value {
    let disk = disk_bytes();
    let fields = |(counted, stay, traffic): (Counted, u64, Traffic)| {
        json!({
            "weights": counted.all,
            "weights_stay": stay,
            "cache": counted.own.cache,
            "buffers": counted.own.buffers,
            "rest": counted.rest(),
            "bytes_read": traffic.bytes_read,
            "passes": traffic.passes,
            "stalls": traffic.stalls,
            "stall_ms": traffic.stall.as_secs_f64() * 1e3,
            "disk_read": disk.map(|[read, _]| read),
            "disk_written": disk.map(|[_, written]| written),
        })
    };
    limited(model).map(fields).next().unwrap_or(Value::Null)
}
