//! Files that are no files, and files that change under their reader.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;

use jtllm_models::{Checkpoint, LoadError, Storage};

fn not_regular(path: &Path, kind: &str) {
    for error in [Storage::open(path).unwrap_err(), Checkpoint::open(path).unwrap_err()] {
        assert_eq!(error.exit_code(), 4, "{error}");
        assert!(error.to_string().contains(&format!("not a regular file but {kind}")), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn f16_pipe_device_and_directory_are_no_weight_files() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.gguf");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    // Opening a pipe that nobody writes to would block for ever.
    not_regular(&pipe, "a pipe");
    not_regular(Path::new("/dev/zero"), "a device");
    let link = folder.path().join("link.gguf");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    not_regular(&link, "a device");
    let error = Storage::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("not a regular file but a directory"), "{error}");

    // The same inside a model's folder.
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("not a regular file but a directory"), "{error}");
    std::fs::remove_dir(folder.path().join("model.safetensors")).unwrap();
    std::fs::rename(&pipe, folder.path().join("model.safetensors")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("not a regular file but a pipe"), "{error}");
}

#[test]
fn f17_a_file_that_shrinks_is_an_error_on_that_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, vec![5; 100_000]).unwrap();
    let storage = Storage::open(&path).unwrap();
    storage.verify_unchanged().unwrap();
    let mut buffer = [0; 1000];
    storage.read_at(99_000, &mut buffer).unwrap();
    assert_eq!(buffer, [5; 1000]);

    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(50_500).unwrap();
    storage.read_at(49_500, &mut buffer).unwrap();
    let error = storage.read_at(50_000, &mut buffer).unwrap_err();
    assert!(matches!(error, LoadError::Truncated { expected: 51_000, found: 50_500, .. }), "{error}");
    let error = storage.verify_unchanged().unwrap_err();
    assert!(matches!(error, LoadError::Changed { .. }), "{error}");
    assert!(error.to_string().contains("had 100000 bytes and has 50500 now"), "{error}");
    assert_eq!(error.exit_code(), 4);
    // What is left can be touched.
    assert_eq!(storage.as_ref()[..4096], [5; 4096]);
}

#[test]
fn a_file_that_is_rewritten_or_replaced_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, [1; 10]).unwrap();
    let storage = Storage::open(&path).unwrap();
    let other = folder.path().join("other");
    std::fs::write(&other, [2; 10]).unwrap();
    std::fs::rename(&other, &path).unwrap();
    let error = storage.verify_unchanged().unwrap_err();
    assert!(error.to_string().contains("another file took its place"), "{error}");
    assert_eq!(storage.as_ref(), [1; 10], "the holder keeps the old bytes");

    let storage = Storage::open(&path).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(&[3]).unwrap();
    let later = storage.identity().unwrap().modified.unwrap() + std::time::Duration::from_secs(2);
    file.set_modified(later).unwrap();
    let error = storage.verify_unchanged().unwrap_err();
    assert!(error.to_string().contains("was written to"), "{error}");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn embedded_bytes_and_empty_files_are_storages_too() {
    let storage = Storage::embedded("demo/weights", &[1, 2, 3]);
    let mut buffer = [0; 2];
    storage.read_at(1, &mut buffer).unwrap();
    assert_eq!(buffer, [2, 3]);
    assert!(matches!(
        storage.read_at(2, &mut buffer),
        Err(LoadError::Truncated { expected: 4, found: 3, .. })
    ));
    assert!(storage.read_at(u64::MAX, &mut buffer).is_err());
    storage.verify_unchanged().unwrap();
    assert!(storage.identity().is_none());

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.gguf");
    std::fs::write(&path, []).unwrap();
    assert!(Storage::open(&path).unwrap().is_empty());
    assert_eq!(Checkpoint::open(&path).unwrap_err().exit_code(), 4);
}

#[test]
fn a_checkpoint_can_be_shared_between_threads() {
    let checkpoint = std::sync::Arc::new(Checkpoint::demo().unwrap());
    let other = std::sync::Arc::clone(&checkpoint);
    let bytes = std::thread::spawn(move || other.total_bytes()).join().unwrap();
    assert_eq!(bytes, checkpoint.total_bytes());
}

#[test]
fn a_side_file_is_read_only_up_to_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let mut weights = 2u64.to_le_bytes().to_vec();
    weights.extend(b"{}");
    std::fs::write(folder.path().join("model.safetensors"), weights).unwrap();
    let sparse = std::fs::File::create(folder.path().join("tokenizer.json")).unwrap();
    sparse.set_len(64_000_001).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let error = checkpoint.file("tokenizer.json").unwrap_err();
    assert!(error.to_string().contains("64000001 bytes"), "{error}");
    assert_eq!(checkpoint.file("config.json").unwrap().unwrap(), b"{}");
    for outside in ["../x", "/etc/passwd", "", ".."] {
        assert_eq!(checkpoint.file(outside).unwrap_err().exit_code(), 3);
    }
}

/// Kilobytes of a mapping that this process has pages of.
#[cfg(target_os = "linux")]
fn held_kb(bytes: &[u8]) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", bytes.as_ptr() as usize);
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
    let held = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    held.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn pages_come_in_bulk_and_are_given_back() {
    const MIB: usize = 1 << 20;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &vec![7; 8 * MIB]).unwrap();
    let storage = Storage::open(file.path()).unwrap();
    assert_eq!(held_kb(storage.as_ref()), 0);
    storage.fetch(MIB..5 * MIB);
    let held = held_kb(storage.as_ref());
    assert!((4 << 10..8 << 10).contains(&held), "{held} kB of 4 MiB");
    storage.release(MIB..5 * MIB);
    assert!(held_kb(storage.as_ref()) < 4 << 10, "given back");
    assert_eq!(storage.as_ref()[2 * MIB], 7);
}
