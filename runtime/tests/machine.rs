//! The machine, as told by folders of `/proc` and `/sys` texts and by the real one; and its measured limits.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use jtllm_runtime::device::threads::{Pool, Threads};
use jtllm_runtime::machine::{Cores, HugePages, Machine, Memory, features};
use jtllm_runtime::probe::{Limits, Multiplied, Reach};
use jtllm_runtime::{os, probe};

const GB: u64 = 1 << 30;

/// A folder with these files.
fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

fn probe(files: &[(&str, &str)], allowed: &[usize]) -> Machine {
    Machine::probe_at(system(files).path(), allowed.to_vec())
}

const MEMINFO: (&str, &str) = (
    "proc/meminfo",
    "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nBuffers:  1 kB\n",
);
const MOUNT_2: (&str, &str) = (
    "proc/self/mountinfo",
    "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n",
);
const OWN_2: (&str, &str) = ("proc/self/cgroup", "0::/user.slice/box\n");

/// Four cores of two siblings each, numbered as Linux does on servers: the siblings are 4 apart.
fn siblings() -> Vec<(String, String)> {
    let path = |cpu| format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    (0..8).map(|cpu| (path(cpu), format!("{},{}\n", cpu % 4, cpu % 4 + 4))).collect()
}

fn cores(files: &[(String, String)], allowed: &[usize]) -> Cores {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    Cores::at(system(&files).path(), allowed.to_vec())
}

#[test]
fn siblings_count_once() {
    let all: Vec<usize> = (0..8).collect();
    assert_eq!(cores(&siblings(), &all), Cores { cpus: (0..8).collect(), physical: 4 });
    assert_eq!(cores(&siblings(), &[1, 5, 6]), Cores { cpus: vec![1, 6, 5], physical: 2 });
    assert_eq!(cores(&siblings(), &[5, 4, 5]), Cores { cpus: vec![4, 5], physical: 2 });
    // Numbered pairwise, as desktops are, and written as a range.
    let pairs: Vec<(String, String)> = siblings()
        .into_iter()
        .enumerate()
        .map(|(cpu, (path, _))| (path, format!("{}-{}", cpu & !1, cpu | 1)))
        .collect();
    assert_eq!(cores(&pairs, &all), Cores { cpus: vec![0, 2, 4, 6, 1, 3, 5, 7], physical: 4 });
}

#[test]
fn without_a_topology_every_cpu_is_a_core() {
    assert_eq!(cores(&[], &[3, 1]), Cores { cpus: vec![1, 3], physical: 2 });
    assert_eq!(cores(&[], &[]), Cores { cpus: vec![0], physical: 1 });
    for text in ["", "x", "0-", "-", "9-1", "0-99999999999999999999", "0-9999999999"] {
        let files: Vec<(String, String)> =
            siblings().into_iter().map(|(path, _)| (path, text.to_owned())).collect();
        let found = cores(&files, &[0, 1]);
        assert_eq!(found.cpus, [0, 1], "{text:?}");
    }
}

#[test]
fn an_empty_system() {
    let machine = probe(&[], &[0, 1]);
    assert_eq!(machine.cpu, std::env::consts::ARCH);
    assert_eq!(machine.memory, Memory { total_bytes: None, available_bytes: None, limit_bytes: None });
    assert_eq!(
        (machine.cpu_quota, machine.huge_pages, machine.cache_bytes),
        (None, HugePages::Unknown, None)
    );
    assert_eq!(machine.default_threads(), 2);
}

#[test]
fn names_of_cpus() {
    let x86 = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9B45\nmodel name\t: other\n";
    assert_eq!(probe(&[("proc/cpuinfo", x86)], &[0]).cpu, "AMD EPYC 9B45");
    let arm = ("proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n");
    assert_eq!(probe(&[arm], &[0]).cpu, "implementer 0x41 part 0xd40");
    assert_eq!(probe(&[arm, ("proc/device-tree/model", "Raspberry Pi 5\0")], &[0]).cpu, "Raspberry Pi 5");
}

#[test]
fn memory_huge_pages_and_caches() {
    let machine = probe(
        &[
            MEMINFO,
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/devices/system/cpu/cpu0/cache/index0/size", "48K\n"),
            ("sys/devices/system/cpu/cpu0/cache/index2/level", "2\n"),
            ("sys/devices/system/cpu/cpu0/cache/index2/size", "2048K\n"),
            ("sys/devices/system/cpu/cpu0/cache/index3/level", "3\n"),
            ("sys/devices/system/cpu/cpu0/cache/index3/size", "260M\n"),
            ("sys/devices/system/cpu/cpu0/cache/index4/size", "9X\n"),
        ],
        &[0],
    );
    assert_eq!(machine.memory.total_bytes, Some(16 * GB));
    assert_eq!(machine.memory.available_bytes, Some(8 * GB));
    assert_eq!(machine.memory.limit_bytes, None);
    assert_eq!(machine.huge_pages, HugePages::OnRequest);
    assert_eq!((machine.cache_bytes, machine.core_cache_bytes), (Some(260 << 20), Some(2 << 20)));
    for (text, wanted) in
        [("[always] madvise never", HugePages::Always), ("always madvise [never]", HugePages::Never)]
    {
        let file = ("sys/kernel/mm/transparent_hugepage/enabled", text);
        assert_eq!(probe(&[file], &[0]).huge_pages, wanted);
    }
}

#[test]
fn limits_of_version_2() {
    let group = "sys/fs/cgroup/user.slice/box";
    let (max, high, used, stat, cpu) = (
        format!("{group}/memory.max"),
        format!("{group}/memory.high"),
        format!("{group}/memory.current"),
        format!("{group}/memory.stat"),
        format!("{group}/cpu.max"),
    );
    let base = [MEMINFO, MOUNT_2, OWN_2];
    let with = |more: &[(&str, &str)]| probe(&[&base[..], more].concat(), &[0, 1, 2, 3, 4, 5, 6, 7]);

    let stat_text = format!("anon {GB}\ninactive_file {}\nactive_file {}\nfile 1\n", GB / 4, GB / 4);
    let machine = with(&[
        (&max, "4294967296\n"),
        (&used, "2147483648\n"),
        (&stat, &stat_text),
        (&cpu, "250000 100000\n"),
    ]);
    assert_eq!(machine.memory.limit_bytes, Some(4 * GB));
    assert_eq!(machine.memory.available_bytes, Some(4 * GB - (2 * GB - GB / 2)));
    assert_eq!(machine.cpu_quota, Some(3), "two and a half CPUs");
    assert_eq!(machine.default_threads(), 3);

    let machine = with(&[(&max, "max\n"), (&high, "max\n"), (&cpu, "max 100000\n")]);
    assert_eq!((machine.memory.limit_bytes, machine.cpu_quota), (None, None));
    assert_eq!(machine.default_threads(), 8);

    let machine = with(&[(&max, "max\n"), (&high, "3221225472\n")]);
    assert_eq!(machine.memory.limit_bytes, Some(3 * GB), "throttling counts as a limit");

    let outer = [
        ("sys/fs/cgroup/user.slice/memory.max", "1073741824"),
        ("sys/fs/cgroup/user.slice/cpu.max", "1000 100000"),
    ];
    let machine =
        with(&[&[(max.as_str(), "4294967296"), (cpu.as_str(), "400000 100000")], &outer[..]].concat());
    assert_eq!(machine.memory.limit_bytes, Some(GB), "the group above is tighter");
    assert_eq!(machine.cpu_quota, Some(1));

    let machine = with(&[(&max, "1073741824"), (&used, "2147483648")]);
    assert_eq!(machine.memory.available_bytes, Some(0), "over the limit already");

    let machine = with(&[(&max, "99999999999999999999999"), (&cpu, "0 0"), (&high, "-5"), (&used, "?")]);
    assert_eq!((machine.memory.limit_bytes, machine.cpu_quota), (None, None), "nonsense is no limit");
}

#[test]
fn limits_of_version_1() {
    let mounts = "32 31 0:29 /box /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  33 31 0:30 /box /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                  35 31 0:32 /box /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
    let base = [
        MEMINFO,
        ("proc/self/mountinfo", mounts),
        ("proc/self/cgroup", "9:name=systemd:/\n4:memory:/box/inner\n1:cpu,cpuacct:/box\n0::/\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "2147483648\n"),
        ("sys/fs/cgroup/memory/inner/memory.usage_in_bytes", "1610612736\n"),
        (
            "sys/fs/cgroup/memory/inner/memory.stat",
            "inactive_file 1\nactive_file 2\ntotal_inactive_file 1073741000\ntotal_active_file 824\n",
        ),
        ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
    ];
    let with = |quota| {
        probe(&[&base[..], &[("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", quota)]].concat(), &[0, 1, 2])
    };
    let machine = with("200000\n");
    assert_eq!(machine.memory.limit_bytes, Some(2 * GB));
    assert_eq!(machine.memory.available_bytes, Some(GB + GB / 2));
    assert_eq!((machine.cpu_quota, machine.default_threads()), (Some(2), 2));
    assert_eq!(with("-1\n").cpu_quota, None);
    assert_eq!(with("1\n").default_threads(), 1);
}

#[test]
fn a_path_of_another_namespace_means_the_mount_point() {
    for own in ["0::/../outside\n", "0::/no/such/group\n", "0::/\n"] {
        let limit = ("sys/fs/cgroup/memory.max", "1073741824\n");
        let machine = probe(&[MEMINFO, MOUNT_2, ("proc/self/cgroup", own), limit], &[0]);
        assert_eq!(machine.memory.limit_bytes, Some(GB), "{own:?}");
    }
    for own in ["", "0\n", "0:\n", ":::\n", "0::\n", "\0\0", "0:memory:/\n"] {
        let machine = probe(&[MEMINFO, MOUNT_2, ("proc/self/cgroup", own)], &[0]);
        assert_eq!(machine.memory.limit_bytes, None, "{own:?}");
    }
}

#[test]
fn this_machine() {
    let machine = Machine::probe();
    println!("{machine:#?}\ndefault threads: {}", machine.default_threads());
    assert_eq!(machine.cores.cpus.len(), os::allowed_cpus().len());
    assert!((1..=machine.cores.cpus.len()).contains(&machine.cores.physical));
    assert!((1..=machine.cores.physical).contains(&machine.default_threads()));
    assert_eq!(machine.features, features());
    assert!(!machine.cpu.is_empty() && machine.page_bytes >= 4096);
    if cfg!(target_os = "linux") {
        let Memory { total_bytes, available_bytes, .. } = machine.memory;
        assert!(available_bytes.unwrap() > 0 && available_bytes <= total_bytes);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn resident_memory_follows_what_is_touched() {
    use jtllm_runtime::machine::{peak_resident_bytes, resident_bytes};
    use jtllm_runtime::memory::HostBuffer;
    let mut buffer = HostBuffer::new(64 << 20).unwrap();
    buffer.bytes_mut().fill(1);
    let (now, peak) = (resident_bytes().unwrap(), peak_resident_bytes().unwrap());
    // Other tests come and go meanwhile, so only the floor is certain.
    assert!(now >= buffer.len() as u64, "{now}");
    assert!(peak >= now - (4 << 20), "{peak} {now}");
}

/// What a thread frees below something that lives stays in its arena, unless the system is given it back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn what_was_freed_goes_back_to_the_system() {
    use jtllm_runtime::machine::resident_bytes;
    const PIECES: usize = 200 << 10;
    let last = std::thread::spawn(|| {
        let mut pieces: Vec<Box<[u8]>> = (0..PIECES).map(|_| vec![1; 1 << 10].into_boxed_slice()).collect();
        pieces.pop()
    });
    let last = last.join().unwrap();
    let before = resident_bytes().unwrap();
    os::trim_heap();
    let after = resident_bytes().unwrap();
    // Other tests take and give at most half of it meanwhile.
    assert!(after + ((PIECES as u64) << 9) <= before, "{before} {after}");
    drop(last);
}

#[test]
fn limits_are_measured() {
    let pool = Pool::new(Threads { count: 2, pin: true });
    let bandwidth = probe::bandwidth(&pool, 64 << 20, Duration::from_millis(100)).unwrap();
    let peak = probe::peak(&pool, Multiplied::F32).unwrap();
    println!("{bandwidth:.1} GB/s, {peak:.1} GFLOP/s with {} threads", pool.count());
    // Far below any machine that runs this, even unoptimised, and far above what one can be.
    assert!((0.01..100_000.0).contains(&bandwidth) && (0.001..1_000_000.0).contains(&peak));
    assert!(probe::bandwidth(&pool, 0, Duration::ZERO).unwrap() > 0.0);
    assert!(probe::bandwidth(&pool, usize::MAX, Duration::ZERO).is_err());
}

#[test]
fn narrow_numbers_are_multiplied_faster_where_there_is_an_instruction() {
    let pool = Pool::new(Threads { count: 1, pin: true });
    let has = |name: &str| features().contains(&name);
    let mut best = [None; 3];
    // What else runs on the machine may slow one of them down; not each of several times.
    for _ in 0..5 {
        for (best, what) in best.iter_mut().zip([Multiplied::F32, Multiplied::Bf16, Multiplied::Bytes]) {
            *best = probe::peak(&pool, what).map(|found| found.max(best.unwrap_or(0.0)));
        }
        let [floats, halves, bytes] = best;
        println!("f32 {floats:?}, bf16 {halves:?}, int8 {bytes:?} G/s");
        assert_eq!(halves.is_some(), has("avx512f") && has("avx512bf16"));
        assert_eq!(bytes.is_some(), has("avx2"));
        // Processors issue fewer of the instructions that multiply more (half of a Sapphire Rapids' `f32` for bf16).
        let floats = floats.unwrap();
        let faster = halves.is_none_or(|halves| halves > 0.3 * floats)
            && bytes.is_none_or(|bytes| bytes > 0.9 * floats);
        if faster || cfg!(debug_assertions) {
            return;
        }
    }
    panic!("{best:?}");
}

#[test]
fn limits_of_a_working_set() {
    let pool = Pool::new(Threads { count: 1, pin: true });
    let mut machine = probe(&[], &[0]);
    // So that the reading of memory is short.
    machine.memory.available_bytes = Some(64 << 20);
    let measure = |machine: &Machine, stream| {
        let limits = Limits::measure(&pool, machine, stream, Duration::from_millis(20)).unwrap();
        limits.reads.iter().map(|reach| (reach.name, reach.bytes)).collect::<Vec<_>>()
    };
    assert_eq!(measure(&machine, 1 << 20), [("memory", u64::MAX)], "nothing is known of caches");
    machine.core_cache_bytes = Some(1 << 20);
    machine.cache_bytes = Some(8 << 20);
    let inner = ("second-level cache", 1 << 20);
    assert_eq!(measure(&machine, 9 << 20), [inner, ("memory", u64::MAX)], "too much for any cache");
    assert_eq!(measure(&machine, 1 << 20), [inner, ("memory", u64::MAX)], "the inner one holds it");
    assert_eq!(measure(&machine, 4 << 20), [inner, ("outer cache", 4 << 20), ("memory", u64::MAX)]);

    let reach = |name, bytes, speed| Reach { name, bytes, speed };
    let limits = Limits {
        reads: vec![reach("second-level cache", 100, 9.0), reach("memory", u64::MAX, 2.0)],
        peaks: [(Multiplied::F32, 5.0), (Multiplied::Bytes, 20.0)].into(),
    };
    let speed = |bytes| limits.reading(bytes).unwrap().speed;
    assert_eq!((speed(0), speed(100), speed(101), speed(u64::MAX)), (9.0, 9.0, 2.0, 2.0));
    let peaks = [Multiplied::F32, Multiplied::Bf16, Multiplied::Bytes].map(|what| limits.peak(what));
    assert_eq!(peaks, [Some(5.0), Some(5.0), Some(20.0)], "bf16 are multiplied as f32 where nothing else is");
    let slow = Limits { peaks: [(Multiplied::F32, 5.0), (Multiplied::Bf16, 3.0)].into(), ..limits.clone() };
    assert_eq!(slow.peak(Multiplied::Bf16), Some(5.0), "nor where that is slower");
    assert_eq!(Limits::default().peak(Multiplied::F32), None);
    assert_eq!(Limits::default().reading(1), None);
}

/// Three ways to be given less than the machine, all at once: an affinity mask, siblings, and a quota.
#[test]
fn threads_follow_the_tightest_of_mask_siblings_and_quota() {
    let own = ("proc/self/cgroup", "0::/box\n");
    let with = |allowed: &[usize], quota: &str| {
        let siblings = siblings();
        let mut files: Vec<(&str, &str)> =
            siblings.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        files.extend([MOUNT_2, own, ("sys/fs/cgroup/box/cpu.max", quota)]);
        probe(&files, allowed).default_threads()
    };
    let all: Vec<usize> = (0..8).collect();
    assert_eq!(with(&all, "max 100000"), 4, "8 logical CPUs on 4 cores");
    assert_eq!(with(&all, "800000 100000"), 4, "a quota for siblings buys no core");
    assert_eq!(with(&all, "150000 100000"), 2, "one and a half CPUs are two threads");
    assert_eq!(with(&[2, 6, 3], "max 100000"), 2, "the mask leaves two cores");
    assert_eq!(with(&[2, 6, 3], "100000 100000"), 1);
    assert_eq!(with(&[6, 7], "max 100000"), 2, "the second sibling of a core stands for it");
    assert_eq!(with(&[5], "800000 100000"), 1);
}

#[test]
fn the_size_to_read_respects_caches_and_memory() {
    let mut machine = probe(&[], &[0]);
    assert_eq!(probe::bandwidth_bytes(&machine), 256 << 20);
    machine.cache_bytes = Some(260 << 20);
    assert_eq!(probe::bandwidth_bytes(&machine), 520 << 20);
    machine.cache_bytes = Some(u64::MAX);
    assert_eq!(probe::bandwidth_bytes(&machine), 1 << 30);
    machine.memory.available_bytes = Some(GB);
    assert_eq!(probe::bandwidth_bytes(&machine), 256 << 20);
}

#[test]
fn sums_of_any_length() {
    for length in [0, 1, 63, 64, 65, 200, 1024, 4097] {
        let words: Vec<u64> = (0..length).map(|at: u64| at.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        assert_eq!(
            probe::sum(&words),
            words.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word)),
            "{length} words"
        );
    }
}

#[test]
fn detected_features_are_the_systems() {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) || flags.is_empty() {
        println!("skipped: no x86 Linux");
        return;
    }
    let flags: Vec<&str> =
        flags.lines().find(|line| line.starts_with("flags")).unwrap().split_whitespace().collect();
    for (name, flag) in [
        ("sse4.1", "sse4_1"),
        ("avx2", "avx2"),
        ("fma", "fma"),
        ("avx512f", "avx512f"),
        ("avxvnni", "avx_vnni"),
    ] {
        // Not the reverse: a hypervisor or an emulator may hide what the kernel lists.
        assert!(!features().contains(&name) || flags.contains(&flag), "{name}");
    }
}
