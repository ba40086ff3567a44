//! Memory and code: pages, their protection, and the two makes of the operating-system calls.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use jtllm_runtime::code::{CodeError, CodeMemory};
use jtllm_runtime::memory::{ALIGNMENT, HostBuffer};
use jtllm_runtime::os;

/// `fn() -> u32` that returns 42, and `fn()`.
#[cfg(target_arch = "x86_64")]
const FUNCTIONS: [&[u8]; 2] = [&[0xB8, 42, 0, 0, 0, 0xC3], &[0xC3]];
#[cfg(target_arch = "aarch64")]
const FUNCTIONS: [&[u8]; 2] = [&[0x40, 0x05, 0x80, 0x52, 0xC0, 0x03, 0x5F, 0xD6], &[0xC0, 0x03, 0x5F, 0xD6]];

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn code_runs() {
    let code = CodeMemory::new(&FUNCTIONS).unwrap();
    assert_eq!(code.len(), 2);
    for index in 0..2 {
        assert_eq!(code.entry(index).addr() % 64, 0);
    }
    // SAFETY: the bytes are functions of these types, and `code` lives on.
    let (answer, nothing) = unsafe {
        (
            std::mem::transmute::<*const u8, extern "C" fn() -> u32>(code.entry(0)),
            std::mem::transmute::<*const u8, extern "C" fn()>(code.entry(1)),
        )
    };
    nothing();
    assert_eq!(answer(), 42);
    // Code is not bound to the thread that loaded it.
    let code = Arc::new(code);
    let moved = code.clone();
    std::thread::spawn(move || {
        // SAFETY: as above; the thread holds the code.
        let answer = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(moved.entry(0)) };
        assert_eq!(answer(), 42);
    })
    .join()
    .unwrap();
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn code_addresses_are_used_again_with_fresh_code() {
    // A stale instruction cache would return an older number.
    for number in 0..200u8 {
        #[cfg(target_arch = "x86_64")]
        let bytes = [0xB8, number, 0, 0, 0, 0xC3];
        #[cfg(target_arch = "aarch64")]
        let bytes = [number << 5, number >> 3, 0x80, 0x52, 0xC0, 0x03, 0x5F, 0xD6];
        let code = CodeMemory::new(&[&bytes]).unwrap();
        // SAFETY: the bytes are a function of this type, and `code` lives on.
        let answer = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(code.entry(0)) };
        assert_eq!(answer(), u32::from(number));
    }
}

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[test]
fn code_is_executable_and_never_writable() {
    let code = CodeMemory::new(&FUNCTIONS).unwrap();
    let address = code.entry(0).addr();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        (usize::from_str_radix(from, 16).unwrap()..usize::from_str_radix(to, 16).unwrap()).contains(&address)
    });
    assert!(line.unwrap().contains(" r-xp "), "{line:?}");
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn code_is_copied_whole_and_gaps_trap() {
    let sizes = [1usize, 63, 64, 65, 4096, 100_000];
    let functions: Vec<Vec<u8>> =
        sizes.iter().map(|&size| (0..size).map(|at| (at * 7 + size) as u8).collect()).collect();
    let slices: Vec<&[u8]> = functions.iter().map(Vec::as_slice).collect();
    let code = CodeMemory::new(&slices).unwrap();
    assert!(code.bytes() >= sizes.iter().sum());
    for (index, bytes) in functions.iter().enumerate() {
        // SAFETY: the function's bytes are mapped and readable.
        assert_eq!(unsafe { std::slice::from_raw_parts(code.entry(index), bytes.len()) }, bytes);
    }
    // SAFETY: the gap after the first function is mapped.
    let gap = unsafe { std::slice::from_raw_parts(code.entry(0).add(1), 63) };
    let filler = if cfg!(target_arch = "x86_64") { 0xCC } else { 0 };
    assert!(gap.iter().all(|&byte| byte == filler));
}

#[test]
fn code_lists_are_checked() {
    let none = CodeMemory::new(&[]).unwrap();
    assert!(none.is_empty() && none.bytes() == 0);
    assert!(std::panic::catch_unwind(|| none.entry(0)).is_err());
    let error = CodeMemory::new(&[&[0xC3], &[]]).unwrap_err();
    assert!(matches!(error, CodeError::Empty { index: 1 }));
    assert_eq!(error.to_string(), "function 1 has no code; expected at least one byte");
}

#[test]
fn buffers_are_zero_aligned_and_writable() {
    for len in [1, 255, 4096, 4097, 1 << 20, os::HUGE_PAGE_BYTES, os::HUGE_PAGE_BYTES + 1, 5 << 20] {
        let mut buffer = HostBuffer::new(len).unwrap();
        assert_eq!((buffer.len(), buffer.bytes().len()), (len, len));
        assert!(!buffer.is_empty());
        assert_eq!(buffer.as_ptr().addr() % ALIGNMENT, 0);
        if len >= os::HUGE_PAGE_BYTES {
            assert_eq!(buffer.as_ptr().addr() % os::HUGE_PAGE_BYTES, 0, "{len} bytes");
        }
        assert!(buffer.bytes().iter().all(|&byte| byte == 0));
        buffer.bytes_mut().fill(0xA5);
        // SAFETY: the last byte lies inside, and no slice of it is in use.
        unsafe { buffer.as_mut_ptr().add(len - 1).write(7) };
        assert_eq!(buffer.bytes()[len - 1], 7);
        assert!(buffer.bytes()[..len - 1].iter().all(|&byte| byte == 0xA5));
    }
}

#[test]
fn buffers_are_written_by_several_threads() {
    let buffer = HostBuffer::new(1 << 16).unwrap();
    std::thread::scope(|scope| {
        for part in 0..4usize {
            let buffer = &buffer;
            // SAFETY: the quarters do not overlap.
            scope.spawn(move || unsafe {
                buffer.as_mut_ptr().add(part << 14).write_bytes(part as u8 + 1, 1 << 14)
            });
        }
    });
    assert!(buffer.bytes().iter().enumerate().all(|(at, &byte)| byte as usize == (at >> 14) + 1));
}

#[test]
fn empty_and_impossible_buffers() {
    let empty = HostBuffer::new(0).unwrap();
    assert!(empty.is_empty() && empty.bytes().is_empty() && !empty.as_ptr().is_null());
    for len in [usize::MAX, isize::MAX as usize, 1 << 60] {
        let error = HostBuffer::new(len).unwrap_err();
        assert_eq!(error.bytes, len);
        assert!(
            error.to_string().starts_with(&format!("cannot allocate {len} bytes of host memory: ")),
            "{error}"
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn buffers_are_given_back() {
    // More than this process may ever hold at once in address space of 47 bits, one after the other; each
    // small enough that a system which counts address space as memory grants it.
    for _ in 0..40_000 {
        let buffer = HostBuffer::new(4 << 30).unwrap();
        assert_eq!(buffer.len(), 4 << 30);
    }
}

#[test]
fn portable_pages() {
    use os::portable::Mapping;
    for bytes in [1, 4096, 4097, os::HUGE_PAGE_BYTES, (4 << 20) + 5] {
        let mapping = Mapping::new(bytes).unwrap();
        assert!(mapping.bytes() >= bytes && mapping.bytes() - bytes < 4096);
        assert_eq!(mapping.as_ptr().addr() % 4096, 0);
        // SAFETY: the mapping is that long and nobody else knows of it.
        let pages = unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr(), mapping.bytes()) };
        assert!(pages.iter().all(|&byte| byte == 0));
        pages.fill(1);
    }
    assert!(Mapping::new(0).is_err() && Mapping::new(usize::MAX).is_err());
    assert_eq!(Mapping::new(1).unwrap().into_code().unwrap_err().kind(), std::io::ErrorKind::Unsupported);
    assert!(os::Mapping::new(0).is_err() && os::Mapping::new(usize::MAX).is_err());
}

/// Both makes of waiting, with the same demands.
fn check_waiting(wait: fn(&AtomicU32, u32), wake_all: fn(&AtomicU32)) {
    let word = AtomicU32::new(1);
    // A word that has changed already is not waited for.
    wait(&word, 0);
    let woken = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while word.load(Ordering::SeqCst) == 1 {
                    wait(&word, 1);
                }
                assert!(woken.load(Ordering::SeqCst));
            });
        }
        std::thread::sleep(Duration::from_millis(20));
        woken.store(true, Ordering::SeqCst);
        word.store(2, Ordering::SeqCst);
        wake_all(&word);
    });
}

#[test]
fn waiting_and_waking() {
    check_waiting(os::wait, os::wake_all);
    check_waiting(os::portable::wait, os::portable::wake_all);
}

#[test]
fn cpus_of_the_process() {
    for cpus in [os::allowed_cpus(), os::portable::allowed_cpus()] {
        assert!(!cpus.is_empty() && cpus.is_sorted());
    }
    assert!(os::portable::pin(&[0]).is_err() && os::portable::current_cpu().is_none());
    if let Some(cpu) = os::current_cpu() {
        assert!(os::allowed_cpus().contains(&cpu));
        assert!(os::pin(&[1 << 20]).is_err(), "no machine has so many CPUs");
    }
    assert!(os::page_size().is_power_of_two() && os::page_size() >= os::portable::page_size());
}

#[test]
fn folders_and_files_by_the_standard_library() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    assert!(os::portable::check_private(&path).is_err());
    os::portable::create_private_folder(&path).unwrap();
    os::portable::check_private(&path).unwrap();
    let file = path.join("f");
    os::portable::create_private_file(&file).unwrap();
    assert_eq!(
        os::portable::create_private_file(&file).unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
    assert_eq!(os::portable::check_private(&file).unwrap_err(), "not a folder");
}
