//! The kernel cache: what comes back is what was put, or nothing.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use jtllm_runtime::cache::{KernelCache, Size, Status, key};

const KEY: u128 = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

fn open(folder: &Path) -> KernelCache {
    let cache = KernelCache::open(Some(folder.to_owned()));
    assert_eq!(cache.status(), &Status::On(folder.to_owned()));
    cache
}

/// A cache below a fresh folder, with one entry, and that entry's file.
fn filled(folder: &Path, payload: &[u8]) -> (KernelCache, PathBuf) {
    let cache = open(&folder.join("kernels"));
    cache.put(KEY, payload).unwrap();
    let path = folder.join("kernels/0123456789abcdef0011223344556677.bin");
    assert!(path.is_file());
    (cache, path)
}

#[test]
fn put_and_get() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder.path().join("deep/kernels"));
    assert_eq!(cache.get(KEY), None);
    for payload in [&b""[..], b"a kernel", &[0; 100_000]] {
        cache.put(KEY, payload).unwrap();
        assert_eq!(cache.get(KEY).as_deref(), Some(payload));
        assert_eq!(
            open(&folder.path().join("deep/kernels")).get(KEY).as_deref(),
            Some(payload),
            "another process"
        );
    }
    assert_eq!(cache.get(KEY + 1), None);
    assert_eq!(cache.corrupt(), 0);
    assert_eq!(cache.size().unwrap(), Size { entries: 1, bytes: 100_044 });
    assert_eq!(
        fs::read_dir(folder.path().join("deep/kernels")).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn keys_differ_where_parts_differ() {
    let lists: [&[&[u8]]; 6] = [&[], &[b""], &[b"ab"], &[b"a", b"b"], &[b"", b"ab"], &[b"ab", b""]];
    for (at, left) in lists.iter().enumerate() {
        assert_eq!(key(left), key(left));
        for right in &lists[..at] {
            assert_ne!(key(left), key(right));
        }
    }
}

#[test]
fn any_flipped_byte_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, path) = filled(folder.path(), b"forty-two bytes of machine code");
    let good = fs::read(&path).unwrap();
    let mut damaged = 0;
    for at in 0..good.len() {
        for flip in [1u8, 0x80, 0xFF] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(cache.get(KEY), None, "byte {at} flipped by {flip:#x}");
            assert!(!path.exists(), "a damaged entry is dropped");
            damaged += 1;
            assert_eq!(cache.corrupt(), damaged);
        }
    }
    assert_eq!(cache.get(KEY), None);
    assert_eq!(cache.corrupt(), damaged, "a missing entry is not a damaged one");
    cache.put(KEY, b"again").unwrap();
    assert_eq!(cache.get(KEY).unwrap(), b"again");
}

#[test]
fn any_other_length_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, path) = filled(folder.path(), b"machine code");
    let good = fs::read(&path).unwrap();
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        assert_eq!(cache.get(KEY), None, "cut to {len} bytes");
    }
    let mut longer = good.clone();
    longer.push(0);
    fs::write(&path, &longer).unwrap();
    assert_eq!(cache.get(KEY), None);
    assert_eq!(cache.corrupt() as usize, good.len() + 1);
}

#[test]
fn an_entry_under_another_name_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, path) = filled(folder.path(), b"machine code");
    fs::rename(&path, path.with_file_name(format!("{:032x}.bin", KEY + 1))).unwrap();
    assert_eq!(cache.get(KEY + 1), None);
    assert_eq!(cache.corrupt(), 1);
}

#[test]
fn what_is_not_a_file_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, path) = filled(folder.path(), b"machine code");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(cache.get(KEY), None);
    assert_eq!(cache.corrupt(), 1);
    let error = cache.put(KEY, b"code").unwrap_err();
    assert!(error.to_string().starts_with("cache: cannot write "), "{error}");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn too_large_a_payload_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&folder.path().join("kernels"));
    let error = cache.put(KEY, &vec![0; (64 << 20) + 1]).unwrap_err();
    assert!(error.to_string().contains("67108865 bytes"), "{error}");
    assert_eq!(cache.size().unwrap(), Size::default());
}

#[test]
fn writers_and_readers_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kernels");
    // Lengths and contents differ, so that a mixture of two entries could not pass as either.
    let payload = |writer: u8| vec![writer; 3_000 + 1_000 * writer as usize];
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let path = &path;
            scope.spawn(move || {
                let cache = open(path);
                for _ in 0..100 {
                    cache.put(KEY, &payload(writer)).unwrap();
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(|| {
                let cache = open(&path);
                for _ in 0..300 {
                    if let Some(bytes) = cache.get(KEY) {
                        assert_eq!(bytes, payload(bytes[0]));
                    }
                }
                assert_eq!(cache.corrupt(), 0);
            });
        }
    });
    assert!(open(&path).get(KEY).is_some());
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
}

#[test]
fn clear_removes_its_own_files_only() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, path) = filled(folder.path(), b"machine code");
    cache.put(KEY + 1, b"more").unwrap();
    let note = path.with_file_name("note.txt");
    fs::write(&note, "mine").unwrap();
    fs::write(path.with_file_name("x.1.1.tmp"), "half").unwrap();
    assert_eq!(cache.size().unwrap().entries, 2);
    cache.clear().unwrap();
    assert_eq!(cache.size().unwrap(), Size::default());
    assert!(note.exists());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn opening_sweeps_what_dead_processes_left() {
    let folder = tempfile::tempdir().unwrap();
    let (_, path) = filled(folder.path(), b"machine code");
    let (old, new) = (path.with_file_name("a.1.0.tmp"), path.with_file_name("b.1.0.tmp"));
    fs::write(&new, "half").unwrap();
    fs::write(&old, "half").unwrap();
    let writer = fs::File::open(&new).unwrap();
    writer.lock().unwrap();
    let cache = open(path.parent().unwrap());
    assert!(!old.exists() && new.exists(), "a living process writes it");
    drop(writer);
    open(path.parent().unwrap());
    assert!(!new.exists());
    assert!(cache.get(KEY).is_some());
}

#[test]
fn the_folder_comes_from_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let with = |pairs: &[(&str, &str)]| {
        let pairs: Vec<(String, OsString)> = pairs
            .iter()
            .map(|(name, value)| {
                let below_root = value.strip_prefix('+').map(|path| root.join(path).into());
                (name.to_string(), below_root.unwrap_or_else(|| value.into()))
            })
            .collect();
        let cache =
            KernelCache::open_in(None, |name| Some(pairs.iter().find(|(given, _)| given == name)?.1.clone()));
        cache.status().clone()
    };
    let on = |path: &str| Status::On(root.join(path));
    let all = [("JTLLM_CACHE", "+own"), ("XDG_CACHE_HOME", "+xdg"), ("HOME", "+home")];
    assert_eq!(with(&all), on("own/kernels"));
    assert_eq!(with(&all[1..]), on("xdg/jtllm/kernels"));
    assert_eq!(with(&all[2..]), on("home/.cache/jtllm/kernels"));
    assert_eq!(
        with(&[("JTLLM_CACHE", ""), ("XDG_CACHE_HOME", "relative"), ("HOME", "+h")]),
        on("h/.cache/jtllm/kernels")
    );
    let Status::Off(why) = with(&[]) else { panic!("a cache without a folder") };
    assert_eq!(why, "none of JTLLM_CACHE, XDG_CACHE_HOME and HOME is set");
}

#[test]
fn a_folder_that_cannot_be_used_turns_the_cache_off() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let cache = KernelCache::open(Some(path.clone()));
        let Status::Off(why) = cache.status() else { panic!("{} is not a folder", path.display()) };
        assert!(why.starts_with(&format!("{}: ", path.display())), "{why}");
        cache.put(KEY, b"code").unwrap();
        assert_eq!(cache.get(KEY), None);
        assert_eq!(cache.size().unwrap(), Size::default());
        cache.clear().unwrap();
    }
    assert_eq!(KernelCache::off("told so").status(), &Status::Off("told so".to_owned()));
}

#[cfg(unix)]
#[test]
fn nobody_else_may_write_code_that_is_run() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let folder = tempfile::tempdir().unwrap();
    let (_, path) = filled(folder.path(), b"machine code");
    let place = path.parent().unwrap();
    assert_eq!(fs::metadata(place).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o077, 0);
    for mode in [0o770, 0o702] {
        fs::set_permissions(place, fs::Permissions::from_mode(mode)).unwrap();
        let cache = KernelCache::open(Some(place.to_owned()));
        let Status::Off(why) = cache.status() else { panic!("mode {mode:o} is accepted") };
        assert!(why.ends_with(&format!("writable by other users (mode {mode:o})")), "{why}");
        assert_eq!(cache.get(KEY), None);
    }
}
