//! `jtllm doctor`: what this machine has, what jtllm uses of it, and why not the rest.

use std::fmt::Write;

use jtllm_runtime::cache::Size;
use jtllm_runtime::device::native::{self, Mask, NATIVES, Native};
use jtllm_runtime::machine::Machine;
use jtllm_serve::place::{self, Found as Device};
use serde_json::{Value, json};

use crate::args::DoctorArgs;
use crate::clean::{Found, KINDS};
use crate::failure::Usage;
use crate::load;
use crate::terminal::{bytes, print, print_json};

/// One way to compute.
struct Way {
    name: &'static str,
    usable: bool,
    /// What it is, or why it cannot be used.
    why: String,
}

/// Prints all that is known.
pub(crate) fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    let mask = Mask::of_environment().map_err(|error| Usage(error.to_string()))?;
    let mut machine = Machine::probe();
    machine.features.retain(|name| !mask.hides(name));
    let devices = place::devices();
    let caches: Vec<(&str, Found)> = KINDS.iter().map(|kind| (kind.name, kind.look())).collect();
    let (ways, natives) = (ways(), natives(&mask));
    match args.json {
        true => print_json(&report(&machine, &caches, [&ways, &natives], &devices)),
        false => print(&text(&machine, &caches, [&ways, &natives], &devices)?),
    }
}

/// The backends that have devices, with the one that each would take.
fn others() -> Vec<Way> {
    let way = |way: place::Way| match (way.open)(None, true) {
        Ok(device) => {
            let memory = device.free_memory().map_or(String::new(), |free| format!(", {} free", bytes(free)));
            let info = device.info();
            let without = info.without.map_or(String::new(), |without| format!(" ({without})"));
            Way { name: way.backend, usable: true, why: info.name + &memory + &without }
        }
        Err(why) => Way { name: way.backend, usable: false, why },
    };
    place::ways().into_iter().map(way).collect()
}

/// What can make code for the processor.
fn natives(mask: &Mask) -> Vec<Way> {
    let way = |Native { name, open }: Native| match open(mask) {
        Ok(target) => {
            let why =
                format!("{}, {} lanes of 32 bits: {}", target.name(), target.caps().lanes, target.variant());
            Way { name, usable: true, why }
        }
        Err(error) => Way { name, usable: false, why: error.to_string() },
    };
    NATIVES.into_iter().map(way).collect()
}

fn ways() -> Vec<Way> {
    let cpu = match native::host() {
        Ok(chosen) => {
            let lacks = chosen.lacks.map_or(String::new(), |what| format!(", since there is no {what}"));
            Way { name: "cpu", usable: true, why: format!("code by {}{lacks}", chosen.name) }
        }
        Err(error) => Way { name: "cpu", usable: false, why: error.to_string() },
    };
    let interpreter = |name, what: &str| Way { name, usable: true, why: format!("{what}: exact and slow") };
    let own = [cpu, interpreter("interp", "interprets kernels"), interpreter("graph", "interprets graphs")];
    own.into_iter().chain(others()).collect()
}

fn text(
    machine: &Machine,
    caches: &[(&str, Found)],
    [ways, natives]: [&[Way]; 2],
    devices: &[Device],
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let size = |count: Option<u64>| count.map_or("unknown".to_owned(), bytes);
    writeln!(
        text,
        "jtllm {} on {} {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )?;
    writeln!(text, "processor  {}: {}", machine.cpu, machine.features.join(" "))?;
    let limit = machine.cpu_quota.map_or(String::new(), |limit| format!(", limited to {limit}"));
    let cores = &machine.cores;
    let threads = load::threads(None);
    writeln!(
        text,
        "threads    {threads} for {} processors on {} cores{limit}",
        cores.cpus.len(),
        cores.physical
    )?;
    let memory = &machine.memory;
    writeln!(text, "memory     {}, {} available", size(memory.total_bytes), size(memory.available_bytes))?;
    match memory.limit_bytes {
        Some(limit) => writeln!(text, "limit      {} by control groups", bytes(limit))?,
        None => writeln!(text, "limit      none by control groups")?,
    }
    writeln!(text, "2 MB pages {:?}", machine.huge_pages)?;
    for (name, cache) in caches {
        match (&cache.folder, &cache.fault) {
            (_, Some(fault)) => writeln!(text, "{name:<10} not kept: {fault}")?,
            (folder, None) => {
                let folder = folder.as_ref().map_or(String::new(), |folder| folder.display().to_string());
                let Size { entries, bytes: size } = cache.size;
                writeln!(text, "{name:<10} {entries} in {folder}, {}", bytes(size))?;
            }
        }
    }
    for way in ways {
        writeln!(
            text,
            "backend    {:<6} {:<3} {}",
            way.name,
            if way.usable { "yes" } else { "no" },
            way.why
        )?;
    }
    for way in natives {
        let usable = if way.usable { "yes" } else { "no" };
        writeln!(text, "code       {:<9} {usable:<3} {}", way.name, way.why)?;
    }
    for device in devices {
        let why = if device.is_software { ": computes on the processor, so only on demand" } else { "" };
        writeln!(text, "device     {:<6} {:<3} {}{why}", device.backend, device.number, device.name)?;
    }
    Ok(text)
}

fn report(
    machine: &Machine,
    caches: &[(&str, Found)],
    [ways, natives]: [&[Way]; 2],
    devices: &[Device],
) -> Value {
    let way = |way: &Way| json!({ "name": way.name, "usable": way.usable, "why": way.why });
    let device = |device: &Device| {
        let Device { backend, number, name, is_software } = device;
        json!({ "backend": backend, "number": number, "name": name, "software": is_software })
    };
    let kept = |name: &str| {
        let found = caches.iter().find(|(kind, _)| *kind == name).map(|(_, found)| found);
        found.map(|Found { folder, size, fault }| {
            json!({ "folder": folder, "entries": size.entries, "bytes": size.bytes, "fault": fault })
        })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "processor": machine.cpu,
        "features": machine.features,
        "processors": machine.cores.cpus,
        "cores": machine.cores.physical,
        "processor_limit": machine.cpu_quota,
        "threads": load::threads(None),
        "memory": machine.memory.total_bytes,
        "memory_available": machine.memory.available_bytes,
        "memory_limit": machine.memory.limit_bytes,
        "huge_pages": format!("{:?}", machine.huge_pages),
        "kernel_cache": kept("kernels"),
        "packed_cache": kept("packed"),
        "code": natives.iter().map(way).collect::<Vec<Value>>(),
        "backends": ways.iter().map(way).collect::<Vec<Value>>(),
        "devices": devices.iter().map(device).collect::<Vec<Value>>(),
    })
}
