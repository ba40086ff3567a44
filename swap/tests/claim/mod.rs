//! The name of a swap file, which another process may take at any moment before our lock, and after.
#![allow(clippy::unwrap_used)]

use std::fs;

use super::{Claim, abandoned};
use crate::os;
use crate::store::{FileStore, read_all, write_all};

#[repr(align(4096))]
struct Block([u8; 4096]);

/// A folder, and the path of a swap file in it as the first process of a container makes it.
fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jtllm-swap-1-0");
    (folder, path)
}

#[test]
fn s08_a_file_that_lost_its_name_is_used_and_who_has_the_name_is_not() {
    let (_folder, path) = place();
    let file = os::create_private(&path).unwrap();
    // Somebody takes it for abandoned; then the first process of another container makes its own.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "theirs").unwrap();
    let claim = Claim::of(file, path.clone()).unwrap().unwrap();
    assert!(!claim.named);
    let store = FileStore::of(claim.locked.try_clone().unwrap(), &path).unwrap();
    write_all(&store, 0, &Block([7; 4096]).0).unwrap();
    let mut back = Block([0; 4096]);
    read_all(&store, 0, &mut back.0).unwrap();
    assert_eq!(back.0, [7; 4096]);
    drop((claim, store));
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
}

#[test]
fn s08_a_name_that_was_lost_early_is_not_taken_away_later() {
    let (_folder, path) = place();
    let file = os::create_private(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let claim = Claim::of(file, path.clone()).unwrap().unwrap();
    fs::write(&path, "theirs").unwrap();
    drop(claim);
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
    // Nor by a process whose system lets open files keep their names.
    fs::remove_file(&path).unwrap();
    let locked = os::create_private(&path).unwrap();
    let claim = Claim { path: path.clone(), locked, named: true };
    fs::remove_file(&path).unwrap();
    fs::write(&path, "theirs").unwrap();
    drop(claim);
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
}

#[test]
fn s08_whoever_removes_a_file_has_its_lock_until_that_is_done() {
    let (folder, path) = place();
    let file = os::create_private(&path).unwrap();
    // Between the file and its lock.
    let found = abandoned(folder.path()).unwrap().next().unwrap().unwrap();
    assert_eq!((found.path(), found.bytes()), (path.as_path(), 0));
    assert!(Claim::of(file, path.clone()).unwrap().is_none());
    assert!(path.exists());
    assert!(abandoned(folder.path()).unwrap().next().is_none());
    found.remove().unwrap();
    assert!(!path.exists());
    // And if another file has come to its place by then, that one stays.
    fs::write(&path, "abandoned").unwrap();
    let found = abandoned(folder.path()).unwrap().next().unwrap().unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "theirs").unwrap();
    found.remove().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
}
