//! Swap files: they go with their process, never touch another's, and refuse a folder that is not theirs alone.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use jtllm_swap::file::{SwapFile, remove_abandoned};
use jtllm_swap::store::{read_all, write_all};
use jtllm_swap::{BlobId, SwapError};

mod folder;

use folder::on_disk;

/// Set where this binary is started again, to be a process that dies: the folder of its swap files.
const FOLDER: &str = "JTLLM_TEST_SWAP_FOLDER";

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The other process: it holds a swap file with a name, as on systems where open files keep theirs, and one without.
#[test]
fn s08_other_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let held = File::create(Path::new(&folder).join("jtllm-swap-1-0")).unwrap();
    held.lock().unwrap();
    let _swap = SwapFile::create(Path::new(&folder), 1 << 20).unwrap();
    println!("\nready");
    std::thread::sleep(std::time::Duration::from_secs(600));
}

#[test]
fn s08_what_a_killed_process_leaves_is_removed_and_what_a_living_one_has_is_not() {
    let Some(folder) = on_disk() else { return };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "s08_other_process", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line == "ready"));
    fs::write(folder.path().join("jtllm-swap-1-1"), "abandoned").unwrap();
    fs::write(folder.path().join("somebody's"), "letter").unwrap();
    drop(SwapFile::create(folder.path(), 1 << 20).unwrap());
    assert_eq!(names(folder.path()), ["jtllm-swap-1-0", "somebody's"]);
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    assert_eq!(names(folder.path()), ["jtllm-swap-1-0", "somebody's"]);
    remove_abandoned(folder.path()).unwrap();
    assert_eq!(names(folder.path()), ["somebody's"]);
}

#[test]
fn s10_a_swap_file_has_no_name_and_is_this_users_alone() {
    let Some(folder) = on_disk() else { return };
    let mut swap = SwapFile::create(folder.path(), 1 << 20).unwrap();
    assert!(names(folder.path()).is_empty());
    assert!(swap.path().starts_with(folder.path()));
    let other = SwapFile::create(folder.path(), 1 << 20).unwrap();
    assert_ne!(swap.path(), other.path());
    #[repr(align(4096))]
    struct Block([u8; 8192]);
    let block = Block([7; 8192]);
    let (extent, part) = swap.admit(BlobId(3), &block.0).unwrap();
    assert_eq!(part, 0..extent.len);
    write_all(&*swap.store(), extent.offset, &block.0).unwrap();
    let mut back = Block([0; 8192]);
    read_all(&*swap.store(), extent.offset, &mut back.0).unwrap();
    assert_eq!(back.0, block.0);
    assert_eq!(swap.find(BlobId(3)).unwrap().0, extent);
    assert_eq!((swap.bytes(), other.bytes()), (8192, 0));
    swap.forget(BlobId(3));
    assert_eq!((swap.bytes(), swap.store().size().unwrap()), (0, 0));
    assert!(swap.find(BlobId(3)).is_none());
}

#[test]
fn s09_a_folder_that_is_not_ours_alone_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        let error = SwapFile::create(path, 1 << 20).unwrap_err();
        assert!(matches!(error, SwapError::Folder { .. }), "{error}");
        error.to_string()
    };
    refused(&folder.path().join("missing"));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(refused(&file).ends_with("it is no folder"));
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/", &link).unwrap();
    assert!(refused(&link).ends_with("it is a symbolic link, and not the folder itself"));
    // Nobody can make files there, whoever asks.
    refused(Path::new("/proc/self"));
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(refused(&open).ends_with("others may write to it"));
    assert!(names(&open).is_empty());
}

/// Bytes there take the memory that they were to leave.
#[cfg(target_os = "linux")]
#[test]
fn s09_a_folder_in_memory_is_refused() {
    use jtllm_swap::os;
    assert!(!os::is_in_memory(Path::new("/proc")) && !os::is_in_memory(Path::new("/no/such/folder")));
    let shared = Path::new("/dev/shm");
    let Some(folder) = tempfile::tempdir_in(shared).ok().filter(|_| os::is_in_memory(shared)) else {
        println!("skipped: there is no tmpfs at /dev/shm that we may write to");
        return;
    };
    let error = SwapFile::create(folder.path(), 1 << 20).unwrap_err();
    let place = folder.path().display();
    let why = "no place for swap files: its files lie in memory (tmpfs), and not on a disk";
    assert_eq!(error.to_string(), format!("{place}: {why}"));
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_limit_is_a_limit_and_so_is_the_disk() {
    let Some(folder) = on_disk() else { return };
    let mut swap = SwapFile::create(folder.path(), 3 * 4096).unwrap();
    swap.admit(BlobId(0), &[0; 8192]).unwrap();
    let full = |path: &Path| SwapError::DiskFull { path: path.into(), need: 8192, have: 4096 };
    assert_eq!(swap.admit(BlobId(1), &[0; 8192]).unwrap_err(), full(swap.path()));
    swap.forget(BlobId(0));
    swap.admit(BlobId(1), &[0; 8192]).unwrap();
    let room = Box::new(|| Some(4096));
    let mut small = SwapFile::over(folder.path().into(), swap.store(), 1 << 20, room);
    assert_eq!(small.admit(BlobId(0), &[0; 8192]).unwrap_err(), full(folder.path()));
    small.admit(BlobId(0), &[0; 4096]).unwrap();
}
