//! Machines described in files, and what they can do at most.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use jtllm_runtime::device::threads::{Pool, Threads};
use jtllm_runtime::machine::Machine;
use jtllm_runtime::probe;

fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = root.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    root
}

const CPUINFO: &str = "processor\t: 0\nmodel name\t: Test CPU @ 3 GHz: fast\nphysical id\t: 0\ncore id\t\t: 0\n\n\
                       processor\t: 1\nmodel name\t: Test CPU\nphysical id\t: 0\ncore id\t\t: 0\n\n\
                       processor\t: 2\nphysical id\t: 1\ncore id\t\t: 0\n\n";

#[test]
fn a_machine_is_read_from_its_files() {
    let root = root(&[
        ("proc/cpuinfo", CPUINFO),
        ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    8192 kB\n"),
        ("proc/self/cgroup", "0::/a/b\n"),
        ("sys/fs/cgroup/a/memory.max", "4194304\n"),
        ("sys/fs/cgroup/a/b/memory.max", "max\n"),
        ("sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"),
        ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ]);
    let machine = Machine::probe(root.path());
    let expected = Machine {
        processor: Some("Test CPU @ 3 GHz: fast".to_owned()),
        cores: Some(2),
        memory: Some(16 << 20),
        memory_available: Some(8 << 20),
        memory_limit: Some(4 << 20),
        processor_limit: Some(1.5),
        huge_pages: Some("madvise".to_owned()),
    };
    assert_eq!(machine, expected);
    assert_eq!(machine.usable_memory(), Some(4 << 20));
    assert_eq!(machine.threads(8), 2);
    assert_eq!(machine.threads(1), 1);
}

#[test]
fn the_first_version_of_control_groups_is_read_too() {
    let root = root(&[
        ("proc/self/cgroup", "5:memory:/box\n4:cpu,cpuacct:/box\n1:name=systemd:/x\n"),
        ("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1048576\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "50000\n"),
        ("sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
        ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
    ]);
    let machine = Machine::probe(root.path());
    assert_eq!((machine.memory_limit, machine.processor_limit), (Some(1 << 20), Some(0.5)));
    assert_eq!(machine.threads(8), 1);
}

#[test]
fn what_no_file_says_is_unknown() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(Machine::probe(empty.path()), Machine::default());
    assert_eq!(Machine::default().threads(8), 8);
    let odd = root(&[
        ("proc/cpuinfo", "processor : 0\ncore id : many\n"),
        ("proc/meminfo", "MemTotal: 99999999999999999999 kB\nMemAvailable: 3 MB\n"),
        ("proc/self/cgroup", "nonsense\n0::/../../etc\n"),
        ("sys/fs/cgroup/cpu.max", "100000 0\n"),
        ("sys/fs/cgroup/memory.max", "-4\n"),
    ]);
    assert_eq!(Machine::probe(odd.path()), Machine::default());
}

#[test]
fn a_path_of_a_group_stays_below_the_root() {
    let root = root(&[("proc/self/cgroup", "0::/../secret\n"), ("secret/memory.max", "1\n")]);
    assert_eq!(Machine::probe(root.path()).memory_limit, None);
}

#[test]
fn limits_are_measured() {
    let pool = Pool::new(Threads { count: 2, pin: false });
    let short = Duration::from_millis(5);
    let bandwidth = probe::bandwidth(&pool, short).unwrap();
    assert!(bandwidth > 1e8 && bandwidth < 1e13, "{bandwidth} bytes a second");
    let peak = probe::peak_f32(&pool, short);
    assert!(peak > 1e7 && peak < 1e15, "{peak} operations a second");
}
