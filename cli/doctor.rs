//! `jtllm doctor`: what this machine has, what jtllm uses of it, and why not the rest.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use jtllm_runtime::cache::{KernelCache, default_directory};
use jtllm_runtime::codegen::emit::cranelift::Cranelift;
use jtllm_runtime::codegen::target::Target;
use jtllm_runtime::machine::Machine;
use serde_json::{Value, json};

use crate::args::DoctorArgs;
use crate::load;
use crate::terminal::{bytes, print, print_json};

/// The kernel cache on disk.
struct Cache {
    folder: Option<PathBuf>,
    entries: u64,
    bytes: u64,
    /// Why nothing is kept, if so.
    fault: Option<String>,
}

/// One way to compute.
struct Way {
    name: &'static str,
    usable: bool,
    /// What it is, or why it cannot be used.
    why: String,
}

/// Prints all that is known.
pub(crate) fn doctor(args: &DoctorArgs) -> anyhow::Result<()> {
    let machine = Machine::probe(Path::new("/"));
    let (cache, ways) = (cache(), ways());
    match args.json {
        true => print_json(&report(&machine, &cache, &ways)),
        false => print(&text(&machine, &cache, &ways)?),
    }
}

fn cache() -> Cache {
    let folder = default_directory(&|key| std::env::var(key).ok());
    let fault = KernelCache::open(folder.clone()).reason().map(str::to_owned);
    let files = folder.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let sizes = files.filter_map(|file| file.metadata().ok()).filter(std::fs::Metadata::is_file);
    let (entries, bytes) = sizes.fold((0, 0), |(count, sum), file| (count + 1, sum + file.len()));
    Cache { folder, entries, bytes, fault }
}

fn ways() -> Vec<Way> {
    let cpu = match Cranelift::host() {
        Ok(target) => Way {
            name: "cpu",
            usable: true,
            why: format!("{}, {} lanes of 32 bits: {}", target.name(), target.caps().lanes, target.variant()),
        },
        Err(error) => Way { name: "cpu", usable: false, why: error.to_string() },
    };
    let interpreter = |name, what: &str| Way { name, usable: true, why: format!("{what}: exact and slow") };
    let absent = |name, what: &str| {
        let why = format!("{what} kernels are not part of version {}", env!("CARGO_PKG_VERSION"));
        Way { name, usable: false, why }
    };
    vec![
        cpu,
        interpreter("interp", "interprets kernels"),
        interpreter("graph", "interprets graphs"),
        absent("cuda", "CUDA"),
        absent("wgpu", "WebGPU"),
    ]
}

fn text(machine: &Machine, cache: &Cache, ways: &[Way]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let size = |count: Option<u64>| count.map_or("unknown".to_owned(), bytes);
    let allowed = allowed();
    writeln!(
        text,
        "jtllm {} on {} {}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    )?;
    writeln!(text, "processor  {}", machine.processor.as_deref().unwrap_or("unknown"))?;
    let cores = machine.cores.map_or(String::new(), |cores| format!(" on {cores} cores"));
    let limit = machine.processor_limit.map_or(String::new(), |limit| format!(", limited to {limit:.1}"));
    writeln!(text, "threads    {} for {allowed} processors{cores}{limit}", load::threads(None))?;
    writeln!(text, "memory     {}, {} available", size(machine.memory), size(machine.memory_available))?;
    match machine.memory_limit {
        Some(limit) => writeln!(text, "limit      {} by control groups", bytes(limit))?,
        None => writeln!(text, "limit      none by control groups")?,
    }
    writeln!(text, "2 MB pages {}", machine.huge_pages.as_deref().unwrap_or("unknown"))?;
    match (&cache.folder, &cache.fault) {
        (_, Some(fault)) => writeln!(text, "kernels    not kept: {fault}")?,
        (folder, None) => {
            let folder = folder.as_ref().map_or(String::new(), |folder| folder.display().to_string());
            writeln!(text, "kernels    {} in {folder}, {}", cache.entries, bytes(cache.bytes))?;
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
    Ok(text)
}

fn report(machine: &Machine, cache: &Cache, ways: &[Way]) -> Value {
    let way = |way: &Way| json!({ "name": way.name, "usable": way.usable, "why": way.why });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "processor": machine.processor,
        "processors": allowed(),
        "cores": machine.cores,
        "processor_limit": machine.processor_limit,
        "threads": load::threads(None),
        "memory": machine.memory,
        "memory_available": machine.memory_available,
        "memory_limit": machine.memory_limit,
        "huge_pages": machine.huge_pages,
        "kernel_cache": {
            "folder": cache.folder,
            "entries": cache.entries,
            "bytes": cache.bytes,
            "fault": cache.fault,
        },
        "backends": ways.iter().map(way).collect::<Vec<Value>>(),
    })
}

/// Processors that this process may run on.
fn allowed() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
