//! What this machine is and how much of it the process may use.
//!
//! A container sees all of a host's cores and memory but may use few of them: the affinity mask, the control groups
//! (both versions) and the free memory count here, not the sizes of the hardware.

mod cgroup;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::os;

/// One machine as the process finds it. `jtllm doctor` prints it; defaults are computed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The CPU's own name, or the architecture's where the system does not tell.
    pub cpu: String,
    /// The logical CPUs that the process may run on.
    pub cores: Cores,
    /// CPUs' worth of time that the control group allows, rounded up; none where it sets no limit.
    pub cpu_quota: Option<usize>,
    /// Memory of the machine and of the control group.
    pub memory: Memory,
    /// Instruction-set extensions that kernels may use, named as Rust names them, in a fixed order.
    pub features: Vec<&'static str>,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Whether large buffers get 2 MB pages.
    pub huge_pages: HugePages,
    /// Bytes of the largest cache, where the system tells.
    pub cache_bytes: Option<u64>,
    /// Bytes of a core's second-level cache, where the system tells.
    pub core_cache_bytes: Option<u64>,
}

/// Logical CPUs, one of each physical core first, then the siblings that share a core with one of those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Numbers of logical CPUs; never empty.
    pub cpus: Vec<usize>,
    /// How many of them stand for a physical core of their own; at least 1.
    pub physical: usize,
}

/// Bytes of main memory; none where the system does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The machine's memory.
    pub total_bytes: Option<u64>,
    /// What can be taken now without swapping or passing the control group's limit.
    pub available_bytes: Option<u64>,
    /// The control group's limit, where it sets one below the machine's memory.
    pub limit_bytes: Option<u64>,
}

/// The system's policy on transparent 2 MB pages for anonymous memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// All large enough memory gets them.
    Always,
    /// Memory gets them that asks, as [`crate::memory::HostBuffer`] does.
    OnRequest,
    /// None.
    Never,
    /// The system does not tell.
    Unknown,
}

impl Machine {
    /// Looks at the machine now.
    pub fn probe() -> Machine {
        Machine::probe_at(Path::new("/"), os::allowed_cpus())
    }

    /// Looks at the `proc` and `sys` below `root`, for a process that may run on the CPUs in `allowed`. Features and
    /// page size are always those of the real machine.
    pub fn probe_at(root: &Path, allowed: Vec<usize>) -> Machine {
        let groups = cgroup::Groups::of_self(root);
        Machine {
            cpu: cpu_name(root),
            cores: Cores::at(root, allowed),
            cpu_quota: groups.cpu_quota(),
            memory: Memory::at(root, &groups),
            features: features(),
            page_bytes: os::page_size(),
            huge_pages: HugePages::at(root),
            cache_bytes: caches(root).map(|(_, bytes)| bytes).max(),
            core_cache_bytes: caches(root).find(|(level, _)| *level == Some(2)).map(|(_, bytes)| bytes),
        }
    }

    /// One thread for each physical core that the process may use, and no more than its quota, rounded up to whole CPUs.
    /// Siblings add nothing: one thread's vector units and cache misses are all that a core has.
    pub fn default_threads(&self) -> usize {
        self.cores.physical.min(self.cpu_quota.unwrap_or(usize::MAX)).max(1)
    }
}

impl Cores {
    /// Sorts the logical CPUs in `allowed` by what `/sys` tells of their cores.
    pub fn of(allowed: Vec<usize>) -> Cores {
        Cores::at(Path::new("/"), allowed)
    }

    /// As [`Cores::of`], with `sys` below `root`. A CPU without an entry counts as a core; an empty list as CPU 0.
    pub fn at(root: &Path, mut allowed: Vec<usize>) -> Cores {
        allowed.sort_unstable();
        allowed.dedup();
        if allowed.is_empty() {
            allowed.push(0);
        }
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for &cpu in &allowed {
            let list = root.join(format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
            let siblings = read(&list).map(|text| cpu_list(&text)).unwrap_or_default();
            // A core is counted at the first of its siblings that the process may use.
            let shares = first.iter().any(|earlier| siblings.contains(earlier));
            if shares { rest.push(cpu) } else { first.push(cpu) }
        }
        let physical = first.len();
        first.append(&mut rest);
        Cores { cpus: first, physical }
    }
}

impl Memory {
    fn at(root: &Path, groups: &cgroup::Groups) -> Memory {
        let text = read(&root.join("proc/meminfo")).unwrap_or_default();
        let total_bytes = kilobytes(&text, "MemTotal:");
        // Kernels before 3.14 have no estimate of their own.
        let available = kilobytes(&text, "MemAvailable:").or_else(|| kilobytes(&text, "MemFree:"));
        let mut memory = Memory { total_bytes, available_bytes: available, limit_bytes: None };
        for group in groups.memory() {
            // Version 1 writes "no limit" as a number larger than any machine.
            if group.limit >= total_bytes.unwrap_or(u64::MAX / 2) {
                continue;
            }
            memory.limit_bytes = Some(memory.limit_bytes.map_or(group.limit, |limit| limit.min(group.limit)));
            let room = group.limit.saturating_sub(group.used.saturating_sub(group.reclaimable));
            memory.available_bytes =
                Some(memory.available_bytes.map_or(room, |available| available.min(room)));
        }
        memory
    }
}

impl HugePages {
    fn at(root: &Path) -> HugePages {
        let text = read(&root.join("sys/kernel/mm/transparent_hugepage/enabled")).unwrap_or_default();
        // The policy in force stands in brackets: `always [madvise] never`.
        match text.split(['[', ']']).nth(1) {
            Some("always") => HugePages::Always,
            Some("madvise") => HugePages::OnRequest,
            Some("never") => HugePages::Never,
            _ => HugePages::Unknown,
        }
    }
}

/// Bytes of memory that the process holds now, where the system tells.
pub fn resident_bytes() -> Option<u64> {
    kilobytes(&read(Path::new("/proc/self/status"))?, "VmRSS:")
}

/// The most bytes of memory that the process has held at once, where the system tells.
pub fn peak_resident_bytes() -> Option<u64> {
    kilobytes(&read(Path::new("/proc/self/status"))?, "VmHWM:")
}

/// Bytes that the process has read from disks and written to them, where the system tells.
pub fn disk_bytes() -> Option<[u64; 2]> {
    let text = read(Path::new("/proc/self/io"))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok();
    Some([field("read_bytes:")?, field("write_bytes:")?])
}

/// The text of a small file of the system, none where it cannot be read. Longer ones (`cpuinfo` of a large machine)
/// are cut: what is wanted stands at the top.
fn read(path: &Path) -> Option<String> {
    const MOST: u64 = 1 << 20;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MOST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The value of a `Name:   123 kB` line, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads `0-3,8,10-11`. What is not a number or a range is left out.
fn cpu_list(text: &str) -> Vec<usize> {
    /// More CPUs than any machine has; a broken file must not fill memory.
    const MOST: usize = 1 << 16;
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().take(MOST).collect()
}

fn cpu_name(root: &Path) -> String {
    let text = read(&root.join("proc/cpuinfo")).unwrap_or_default();
    let named = |wanted: &str| {
        let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
        pairs.find(|(name, _)| name.trim() == wanted).map(|(_, value)| value.trim().to_owned())
    };
    // x86 has a name; Arm boards have one in the device tree, Arm servers only numbers.
    named("model name")
        .or_else(|| read(&root.join("proc/device-tree/model")).map(|text| text.trim_matches('\0').to_owned()))
        .or_else(|| Some(format!("implementer {} part {}", named("CPU implementer")?, named("CPU part")?)))
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Level and bytes of each `cache/index*` of CPU 0, whose `size` is like `266240K`.
fn caches(root: &Path) -> impl Iterator<Item = (Option<u64>, u64)> {
    let folder = root.join("sys/devices/system/cpu/cpu0/cache");
    let bytes = |text: &str| {
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let factor = match unit {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(factor)
    };
    let cache = move |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path();
        let level = read(&path.join("level")).and_then(|text| text.trim().parse().ok());
        Some((level, bytes(read(&path.join("size"))?.trim())?))
    };
    std::fs::read_dir(folder).into_iter().flatten().filter_map(cache)
}

/// Detects each named extension at run time and lists those present.
macro_rules! detect {
    ($is:ident: $($name:tt)*) => {
        [$(($name, std::arch::$is!($name))),*].into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
    };
}

/// The extensions that matter to kernels, of those that the CPU and the system offer.
pub fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    return detect!(is_x86_feature_detected: "sse4.1" "avx" "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl"
        "avx512vbmi" "avx512vnni" "avx512bf16" "avxvnni");
    #[cfg(target_arch = "aarch64")]
    return detect!(is_aarch64_feature_detected: "neon" "dotprod" "i8mm" "bf16");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Vec::new();
}

/// `path` as it stands in a system's text (`/sys/fs/cgroup`), below `root`.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}
