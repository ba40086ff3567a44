//! The limits of the control groups that the process is in, versions 1 and 2.
//!
//! `/proc/self/cgroup` names the group of each controller, `/proc/self/mountinfo` says where its files are. A limit of
//! any group above holds too, so each is followed up to its mount point.

use std::path::{Component, Path, PathBuf};

use super::{below, read};

/// The folders of the groups that the process is in, inner first.
pub(super) struct Groups {
    unified: Vec<PathBuf>,
    cpu: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

/// One group's memory, in bytes.
pub(super) struct GroupMemory {
    pub(super) limit: u64,
    pub(super) used: u64,
    /// The part of `used` that the kernel gives up for others: cached pages of files. Those of a model that ran twice count
    /// as used lately, and can be given up all the same.
    pub(super) reclaimable: u64,
}

impl Groups {
    /// Finds the groups; a system without control groups has none.
    pub(super) fn of_self(root: &Path) -> Groups {
        let mounts = read(&root.join("proc/self/mountinfo")).unwrap_or_default();
        let own = read(&root.join("proc/self/cgroup")).unwrap_or_default();
        let mut groups = Groups { unified: Vec::new(), cpu: Vec::new(), memory: Vec::new() };
        // A line is `4:cpu,cpuacct:/path`, for version 2 `0::/path`.
        for line in own.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            if controllers.is_empty() {
                groups.unified = folders(root, &mounts, None, path);
            }
            for controller in controllers.split(',') {
                match controller {
                    "cpu" => groups.cpu = folders(root, &mounts, Some("cpu"), path),
                    "memory" => groups.memory = folders(root, &mounts, Some("memory"), path),
                    _ => {}
                }
            }
        }
        groups
    }

    /// The tightest quota, in CPUs, rounded up.
    pub(super) fn cpu_quota(&self) -> Option<usize> {
        let unified = self.unified.iter().filter_map(|folder| {
            let text = read(&folder.join("cpu.max"))?;
            let (quota, period) = text.trim().split_once(' ')?;
            cpus(quota.parse().ok()?, period.parse().ok()?)
        });
        let separate = self.cpu.iter().filter_map(|folder| {
            // A quota of -1 is none.
            cpus(number(&folder.join("cpu.cfs_quota_us"))?, number(&folder.join("cpu.cfs_period_us"))?)
        });
        unified.chain(separate).min()
    }

    /// Every group with a memory limit.
    pub(super) fn memory(&self) -> impl Iterator<Item = GroupMemory> + '_ {
        let unified = self.unified.iter().filter_map(|folder| {
            // Above `memory.high` the kernel slows the process down to a crawl: as good as a limit.
            let limits = [number(&folder.join("memory.max")), number(&folder.join("memory.high"))];
            group(
                folder,
                limits.into_iter().flatten().min()?,
                "memory.current",
                ["inactive_file", "active_file"],
            )
        });
        let separate = self.memory.iter().filter_map(|folder| {
            let limit = number(&folder.join("memory.limit_in_bytes"))?;
            let cached = ["total_inactive_file", "total_active_file"];
            group(folder, limit, "memory.usage_in_bytes", cached)
        });
        unified.chain(separate)
    }
}

fn group(folder: &Path, limit: u64, used: &str, cached: [&str; 2]) -> Option<GroupMemory> {
    let used = number(&folder.join(used)).unwrap_or(0);
    let stat = read(&folder.join("memory.stat")).unwrap_or_default();
    let rows = stat.lines().filter_map(|line| line.split_once(' ')).filter(|(name, _)| cached.contains(name));
    let reclaimable =
        rows.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).fold(0, u64::saturating_add);
    Some(GroupMemory { limit, used, reclaimable })
}

fn cpus(quota: u64, period: u64) -> Option<usize> {
    if quota == 0 || period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period)).ok()
}

fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

/// The folder of group `path` and those above it up to the mount point of `controller` (none: version 2).
fn folders(root: &Path, mounts: &str, controller: Option<&str>, path: &str) -> Vec<PathBuf> {
    let Some((mounted, point)) = mounts.lines().find_map(|line| mount(line, controller)) else {
        return Vec::new();
    };
    let point = below(root, point);
    // In a container without a namespace of its own the path is the host's, and the mount shows only its tail. A path
    // that leads out of the mount belongs to another namespace and says nothing here.
    let path = Path::new(path);
    let tail = path.strip_prefix(mounted).or_else(|_| path.strip_prefix("/")).unwrap_or(Path::new(""));
    if tail.components().any(|part| !matches!(part, Component::Normal(_))) {
        return vec![point];
    }
    tail.ancestors().map(|part| point.join(part)).filter(|folder| folder.is_dir()).collect()
}

/// Root and mount point of a line of `mountinfo`, if it mounts this controller.
fn mount<'a>(line: &'a str, controller: Option<&str>) -> Option<(&'a str, &'a str)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (mounted, point) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let system = kind.next()?;
    let fits = match controller {
        None => system == "cgroup2",
        Some(name) => system == "cgroup" && kind.nth(1)?.split(',').any(|option| option == name),
    };
    fits.then_some((mounted, point))
}
