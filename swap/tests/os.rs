//! What both faces of the operating system promise, and what the portable one does without.
#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::ptr::NonNull;

use jtllm_swap::memory::Memory;
use jtllm_swap::os::{self, Access, portable};
use jtllm_swap::store::BLOCK_BYTES;

fn assert_zeroed(start: NonNull<u8>, bytes: usize) {
    assert!((start.as_ptr() as usize).is_multiple_of(BLOCK_BYTES as usize));
    // SAFETY: the caller's pages have so many bytes, and nobody else knows of them.
    let found = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) };
    assert!(found.iter().all(|byte| *byte == 0));
    found.fill(1);
}

#[test]
fn pages_are_zeroed_and_begin_at_a_block() {
    for bytes in [1, 4096, 100_000, (4 << 20) + 1] {
        let (ours, portable) = (os::Pages::new(bytes).unwrap(), portable::Pages::new(bytes).unwrap());
        assert_zeroed(ours.start(), bytes);
        assert_zeroed(portable.start(), bytes);
    }
    for refused in [usize::MAX, isize::MAX as usize] {
        assert!(os::Pages::new(refused).is_err());
        assert!(portable::Pages::new(refused).is_err());
    }
    assert!(Memory::new(u64::MAX).is_err());
}

#[test]
#[should_panic(expected = "2 bytes at 9 of 10")]
fn a_span_beyond_its_memory_is_a_fault() {
    Memory::new(10).unwrap().span(9, 2);
}

#[test]
fn the_portable_face_does_without() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let file = portable::create_private(&path).unwrap();
    assert_eq!(portable::create_private(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(portable::open(&path, Access::Read, true).unwrap_err().kind(), ErrorKind::InvalidInput);
    portable::open(&path, Access::Write, false).unwrap().set_len(5).unwrap();
    portable::set_direct(&file, false).unwrap();
    assert_eq!(portable::set_direct(&file, true).unwrap_err().kind(), ErrorKind::InvalidInput);
    portable::forget_cached(&file, 0, 5);
    assert_eq!(file.metadata().unwrap().len(), 5);
    assert!(portable::is_at(&file, &path) && !portable::is_at(&file, &folder.path().join("other")));
    assert!(!portable::wants_direct());
    assert_eq!(portable::free_bytes(folder.path()), None);
    assert!(!portable::is_in_memory(folder.path()));
    portable::check_private(folder.path()).unwrap();
    assert!(portable::check_private(&path).is_err());
}

#[test]
fn files_are_created_once_and_for_this_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let file = os::create_private(&path).unwrap();
    assert_eq!(os::create_private(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&file.metadata().unwrap()) & 0o777, 0o600);
    os::set_direct(&file, false).unwrap();
    assert!(os::is_at(&file, &path));
    #[cfg(unix)]
    {
        std::fs::rename(&path, folder.path().join("another")).unwrap();
        assert!(!os::is_at(&file, &path));
        std::fs::write(&path, "").unwrap();
        assert!(!os::is_at(&file, &path));
    }
    drop(file);
    os::check_private(folder.path()).unwrap();
    #[cfg(unix)]
    assert!(os::free_bytes(folder.path()).unwrap() > 0);
}
