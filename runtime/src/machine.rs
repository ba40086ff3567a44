//! What the machine is, as its system describes it in files. Without them (other systems, sandboxes) what
//! they would say is unknown.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// The longest description that is read; that of a machine of a thousand processors has 2 MB.
const LONGEST: u64 = 16 << 20;

/// A machine, or the part of it that this process may use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// The processor's name.
    pub processor: Option<String>,
    /// Cores: processors that share one count once.
    pub cores: Option<usize>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory that could be used without swapping.
    pub memory_available: Option<u64>,
    /// Bytes of memory that this process's control groups allow it.
    pub memory_limit: Option<u64>,
    /// Processors' worth of time that its control groups allow it.
    pub processor_limit: Option<f64>,
    /// Whether the system gives out pages of 2 MB: `always`, `madvise`, `never`.
    pub huge_pages: Option<String>,
}

impl Machine {
    /// Reads the files below `root`, which is `/` but in tests.
    pub fn probe(root: &Path) -> Machine {
        let read = |file: &str| read(&root.join(file));
        let processors = read("proc/cpuinfo").unwrap_or_default();
        let memory = read("proc/meminfo").unwrap_or_default();
        let huge_pages = read("sys/kernel/mm/transparent_hugepage/enabled");
        let groups = read("proc/self/cgroup").unwrap_or_default();
        Machine {
            processor: field(&processors, "model name").map(str::to_owned),
            cores: cores(&processors),
            memory: kilobytes(&memory, "MemTotal"),
            memory_available: kilobytes(&memory, "MemAvailable"),
            memory_limit: memory_limit(root, &groups),
            processor_limit: processor_limit(root, &groups),
            huge_pages: huge_pages.and_then(|text| bracketed(&text)),
        }
    }

    /// Bytes of memory that a process can get at most, as far as known.
    pub fn usable_memory(&self) -> Option<u64> {
        self.memory_available.into_iter().chain(self.memory_limit).min()
    }

    /// Threads to compute with, where `allowed` processors may run this process: two threads on one core
    /// only get into each other's way.
    pub fn threads(&self, allowed: usize) -> usize {
        let time = self.processor_limit.map(|limit| limit.ceil() as usize);
        self.cores.into_iter().chain(time).fold(allowed, usize::min).max(1)
    }
}

fn read(file: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(file).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The first value of a key in lines of `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim())
    })
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Each processor's description ends with an empty line; what is the same in two of them is one core.
fn cores(text: &str) -> Option<usize> {
    let place = |part: &str| {
        let number = |key: &str| field(part, key).and_then(|value| value.parse::<u32>().ok());
        Some((number("physical id").unwrap_or(0), number("core id")?))
    };
    let places: HashSet<(u32, u32)> = text.split("\n\n").filter_map(place).collect();
    Some(places.len()).filter(|count| *count > 0)
}

/// The word in brackets of `always [madvise] never`.
fn bracketed(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// The folders of the group that `controller` puts this process in, innermost first: limits of outer groups
/// hold as well. Version 2 has one hierarchy, without a name; version 1 one for each controller.
fn folders(root: &Path, groups: &str, controller: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else { continue };
        let base = match names {
            "" => root.join("sys/fs/cgroup"),
            names if names.split(',').any(|name| name == controller) => {
                root.join("sys/fs/cgroup").join(controller)
            }
            _ => continue,
        };
        let inside: Vec<&std::ffi::OsStr> = Path::new(path)
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        found.extend(
            (0..=inside.len()).rev().map(|depth| base.join(inside[..depth].iter().collect::<PathBuf>())),
        );
    }
    found
}

fn memory_limit(root: &Path, groups: &str) -> Option<u64> {
    // Version 1 says "no limit" by a number near the largest.
    const NO_LIMIT: u64 = 1 << 60;
    let limit = |folder: PathBuf| {
        let text =
            read(&folder.join("memory.max")).or_else(|| read(&folder.join("memory.limit_in_bytes")))?;
        text.trim().parse::<u64>().ok().filter(|limit| *limit < NO_LIMIT)
    };
    folders(root, groups, "memory").into_iter().filter_map(limit).min()
}

fn processor_limit(root: &Path, groups: &str) -> Option<f64> {
    let limit = |folder: PathBuf| {
        let (quota, period) = match read(&folder.join("cpu.max")) {
            Some(text) => {
                let (quota, period) = text.trim().split_once(' ')?;
                (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?)
            }
            None => {
                let number = |file: &str| read(&folder.join(file))?.trim().parse::<f64>().ok();
                (number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
            }
        };
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    };
    folders(root, groups, "cpu").into_iter().filter_map(limit).reduce(f64::min)
}
