//! `--mem-limit` and `--vram-limit`: how much of the host's and of a device's memory a model may take, and what for.

use std::fmt;

use anyhow::Context;
use jtllm_runtime::Error;
use jtllm_runtime::machine::{Machine, Memory, disk_bytes, peak_resident_bytes, resident_bytes};
use jtllm_runtime::residence::{Counted, Limit, Most, Own, Residence, Spill, Traffic};
use jtllm_runtime::spill::SwapFolder;
use jtllm_serve::{Engine, Model};
use serde_json::{Value, json};

use crate::args::MemoryArgs;
use crate::failure::{NoRoom, Usage};
use crate::terminal::{Style, bytes, say};
use crate::{environment, interrupt, size};

/// Of the memory that is there a sixteenth is left to others.
const LEFT: u64 = 16;

/// The limit that is asked for, or else the memory that there is, for a model that does not fit into it: of a mapped file
/// of which a part is missing the system reads again and again what is wanted next.
///
/// Who lets keys and values go to disk has that limit whatever fits: nobody knows yet how long they will be. Ctrl-C is heard
/// while a pass waits for weights.
pub(crate) fn limit(flags: &MemoryArgs) -> Result<Limit, Usage> {
    let asked = environment::host(flags.mem_limit)?;
    let spill = spill(flags, asked)?;
    let Memory { available_bytes: room, limit_bytes: group, .. } = Machine::probe().memory;
    let held = resident_bytes().unwrap_or(0);
    let there = |room: u64| room - room / LEFT + held;
    let most = match (asked, room) {
        (Some(size::Limit::Bytes(most)), Some(room)) => {
            let lower = group.filter(|group| *group < most);
            remark(most, lower, there(room), room + held);
            // Beyond the group's the system would end the process.
            Most::Process(lower.map_or(most, |_| there(room)))
        }
        (Some(size::Limit::Bytes(most)), None) => Most::Process(most),
        (None, Some(room)) => Most::Process(there(room)),
        (Some(size::Limit::None), _) | (None, None) => Most::Unlimited,
    };
    let if_needed = asked.is_none() && spill.is_none();
    Ok(Limit { if_needed, spill, cancel: interrupt::flag(), ..Limit::of(most) })
}

/// Work that takes no more than this goes on what a limit leaves for what nobody counts.
const UNCOUNTED: u64 = 4 << 20;

/// Has the limit leave memory for work that takes up to so much of it, until [`Engine::make_room`] says 0; `what` it is
/// done to is for the error.
pub(crate) fn make_room(engine: &mut Engine, what: &dyn fmt::Display, takes: u64) -> anyhow::Result<()> {
    if takes > UNCOUNTED {
        // Within a limit weights make room for it.
        if !limited(engine.model()).any(Residence::limits_host) {
            check_room(what, takes, None)?;
        }
        engine.make_room(takes).with_context(|| needs(what, takes))?;
    }
    Ok(())
}

/// Fails if work that takes up to so much memory cannot be done within the limit, when there is no model yet.
pub(crate) fn check_before(flags: &MemoryArgs, what: &dyn fmt::Display, takes: u64) -> anyhow::Result<()> {
    if takes <= UNCOUNTED {
        return Ok(());
    }
    Ok(check_room(what, takes, environment::host(flags.mem_limit)?.and_then(size::Limit::bytes))?)
}

/// Fails if there are not so many bytes within a limit for the process; without one says so if the machine has fewer.
fn check_room(what: &dyn fmt::Display, takes: u64, limit: Option<u64>) -> Result<(), NoRoom> {
    let left = match limit {
        Some(most) => Some(most.saturating_sub(resident_bytes().unwrap_or(0))),
        None => Machine::probe().memory.available_bytes,
    };
    let Some(left) = left.filter(|left| *left < takes) else { return Ok(()) };
    let told = format!("{}, and {} are left", needs(what, takes), bytes(left));
    match limit {
        Some(_) => Err(NoRoom(told)),
        None => {
            say(Style::Plain, format_args!("{told}"));
            Ok(())
        }
    }
}

fn needs(what: &dyn fmt::Display, takes: u64) -> String {
    format!("{what} may take {} of memory for a while", bytes(takes))
}

/// Says what a limit that is asked for means if a control group has a lower one, or if there is less memory now.
fn remark(asked: u64, lower: Option<u64>, kept: u64, there: u64) {
    let asked_for = bytes(asked);
    match lower {
        Some(group) => {
            let (group, kept) = (bytes(group), bytes(kept));
            say(
                Style::Plain,
                format_args!("a memory limit of {asked_for}: the control group has {group}; {kept} it is"),
            );
        }
        None if asked > there => {
            say(
                Style::Plain,
                format_args!("a memory limit of {asked_for}: only {} are there now", bytes(there)),
            );
        }
        None => {}
    }
}

/// Where keys and values may go; tries whether they can be written there.
fn spill(flags: &MemoryArgs, asked: Option<size::Limit>) -> Result<Option<Spill>, Usage> {
    let required = match (environment::spill(flags.kv_spill)?, asked) {
        (Some(true), Some(size::Limit::None)) => {
            return Err(Usage("--kv-spill wants a limit, and --mem-limit -1 is none".to_owned()));
        }
        (Some(required), _) => required,
        (None, _) if flags.swap_dir.is_some() => {
            return Err(Usage("--swap-dir wants --kv-spill: without it nothing is written there".to_owned()));
        }
        (None, _) => return Ok(None),
    };
    match SwapFolder::ready(flags.swap_dir.clone()).map_err(Error::Swap) {
        Ok(folder) => Ok(Some(Spill { required, ..Spill::to(&folder) })),
        // Who named neither flag nor folder has asked for what can be.
        Err(error) if !required && flags.swap_dir.is_none() => {
            say(Style::Plain, format_args!("keys and values stay in memory: {error}"));
            Ok(None)
        }
        Err(error) => Err(Usage(error.to_string())),
    }
}

/// Those that hold weights within a limit.
fn limited(model: &Model) -> impl Iterator<Item = &Residence> {
    model.networks().into_iter().filter_map(|network| network.residence())
}

/// Says what the limits are spent on, or that the host's has no effect.
pub(crate) fn announce(model: &Model, flags: &MemoryArgs) {
    let is_asked = environment::limits_host(flags.mem_limit);
    if let Most::Process(_) = model.options.memory.most
        && is_asked
        && limited(model).next().is_none()
    {
        say(Style::Plain, format_args!("--mem-limit has no effect: the model is {}", model.placement()));
    }
    if model.options.memory.spill.is_some() && !limited(model).any(Residence::spills) {
        say(Style::Plain, format_args!("keys and values stay in memory: the model is {}", model.placement()));
    }
    for residence in limited(model) {
        let stay = residence.staying();
        if let Some(counted) = residence.counted_apart() {
            let device = model.placement().device_name();
            let pages = Pages(residence, counted.paged);
            say(Style::Faint, format_args!("{device}: {}{pages}", Spent(&counted, "limit", Some(stay))));
        }
        if let Some(counted) = residence.counted() {
            let asked = if is_asked { "limit" } else { "are there" };
            match residence.counted_apart() {
                Some(_) => say(Style::Faint, format_args!("memory: {}", Spent(&counted, asked, None))),
                None => {
                    let pages = Pages(residence, counted.paged);
                    say(Style::Faint, format_args!("memory: {}{pages}", Spent(&counted, asked, Some(stay))));
                }
            }
        }
    }
}

/// What becomes of keys and values that may leave the memory where they are used, of which there can be so many bytes.
struct Pages<'a>(&'a Residence, u64);

impl fmt::Display for Pages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pages(residence, most) = self;
        let [stay, now] = residence.pages_staying();
        match residence.spills() {
            true => {
                let (stay, now) = (bytes(stay), bytes(now));
                write!(f, "; keys and values: {stay} of {now} stay now, {} in a full context", bytes(*most))
            }
            false => Ok(()),
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
                let all = counted.all + counted.paged;
                write!(f, "on their way {}", bytes(limit.saturating_sub(counted.rest()).min(all)))?
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
    let spent = limited(model).map(|residence| (residence.spills(), residence.traffic()));
    for (spills, traffic) in spent.filter(|(_, traffic)| traffic.passes > 0) {
        let Traffic { bytes_read, bytes_written, bytes_copied, stall, passes, .. } = traffic;
        let (what, written) = match spills {
            true => {
                ("weights, keys and values", format!(", {} written to the swap file", bytes(bytes_written)))
            }
            false => ("weights", String::new()),
        };
        let each = |all: u64| bytes(all / passes);
        let copied = match bytes_copied {
            0 => String::new(),
            _ => {
                format!(", {} copied to the device or back, {} each", bytes(bytes_copied), each(bytes_copied))
            }
        };
        let (all, each, waited) = (bytes(bytes_read), each(bytes_read), stall.as_secs_f64());
        say(
            Style::Faint,
            format_args!(
                "{what}: {all} read in {passes} passes, {each} each{written}{copied}; {waited:.3} s waited for them"
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
            "pages": counted.paged,
            "pages_now": residence.pages_staying()[1],
            "pages_stay": residence.pages_staying()[0],
            "bytes_read": traffic.bytes_read,
            "bytes_written": traffic.bytes_written,
            "swap_bytes": traffic.swap_bytes,
            "bytes_copied": traffic.bytes_copied,
            "passes": traffic.passes,
            "stalls": traffic.stalls,
            "stall_ms": traffic.stall.as_secs_f64() * 1e3,
            "peak_resident": peak_resident_bytes(),
            "disk_read": disk.map(|[read, _]| read),
            "disk_written": disk.map(|[_, written]| written),
        }))
    };
    limited(model).find_map(fields).unwrap_or(Value::Null)
}
