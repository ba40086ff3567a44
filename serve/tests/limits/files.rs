//! Models whose files change while they are used: what is held stays whole, or the request fails; nothing ends the process,
//! and no number comes of other bytes.
#![cfg(unix)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use jtllm_models::LoadError;
use jtllm_runtime::Error;
use jtllm_runtime::residence::{Limit, Most};
use jtllm_runtime::swap::SwapError;
use jtllm_serve::{Engine, EngineError};
use tempfile::TempDir;

use super::{bits, engine, synthetic};

/// Limits under which a model's file is streamed, and none, where it is mapped.
fn ways() -> [Limit; 2] {
    [Limit::of(Most::Weights(60_000)), Limit::default()]
}

/// An engine that has answered once, and what it said.
fn started(file: &Path, packed: &Path, limit: Limit) -> (Engine, Vec<u32>) {
    let mut engine = engine(file, packed, 1, limit);
    let expected = bits(&mut engine).unwrap();
    (engine, expected)
}

fn says_that_it_changed(error: &EngineError) -> bool {
    match error {
        EngineError::Load(LoadError::Changed { .. }) | EngineError::Runtime(Error::File { .. }) => true,
        EngineError::Runtime(Error::Swap(SwapError::Io { why, .. } | SwapError::PreviousIo { why, .. })) => {
            why.contains("it ends at")
        }
        EngineError::Runtime(Error::Swap(SwapError::Corrupt { .. })) => true,
        _ => false,
    }
}

#[test]
fn s18_a_file_whose_name_another_takes_is_held_whole() {
    for limit in ways() {
        let (folder, file) = synthetic("bf16");
        let packed = TempDir::new().unwrap();
        let (mut engine, expected) = started(&file, packed.path(), limit);
        let other = folder.path().join("other");
        fs::write(&other, vec![0x55; fs::metadata(&file).unwrap().len() as usize]).unwrap();
        fs::rename(&other, &file).unwrap();
        assert!(bits(&mut engine).unwrap() == expected);
        fs::remove_file(&file).unwrap();
        assert!(bits(&mut engine).unwrap() == expected);
    }
}

#[test]
fn s18_a_file_that_is_written_to_fails_the_request() {
    for limit in ways() {
        let (_folder, file) = synthetic("bf16");
        let packed = TempDir::new().unwrap();
        let (mut engine, _) = started(&file, packed.path(), limit);
        let open = OpenOptions::new().write(true).open(&file).unwrap();
        let len = open.metadata().unwrap().len();
        open.write_all_at(&[0x55; 8192], len - 8192).unwrap();
        for _ in 0..2 {
            let error = bits(&mut engine).unwrap_err();
            assert!(says_that_it_changed(&error), "{error}");
        }
    }
}

/// Mapped pages that are gone would end the process with a signal.
#[test]
fn s18_a_file_that_is_shortened_fails_the_request() {
    for limit in ways() {
        for part in [0, 2] {
            let (_folder, file) = synthetic("bf16");
            let packed = TempDir::new().unwrap();
            let (mut engine, _) = started(&file, packed.path(), limit.clone());
            let open = OpenOptions::new().write(true).open(&file).unwrap();
            open.set_len(open.metadata().unwrap().len() / 4 * part).unwrap();
            for _ in 0..2 {
                let error = bits(&mut engine).unwrap_err();
                assert!(says_that_it_changed(&error), "{error}");
            }
        }
    }
}

#[test]
fn s18_a_packed_file_that_is_shortened_fails_the_request() {
    for limit in ways() {
        let (_folder, file) = synthetic("q8_0");
        let packed = TempDir::new().unwrap();
        // The first start writes it, the second one reads it.
        drop(started(&file, packed.path(), limit.clone()));
        let (mut engine, _) = started(&file, packed.path(), limit);
        // Within a limit other weights are packed.
        let written = fs::read_dir(packed.path()).unwrap().map(|entry| entry.unwrap().path());
        for path in written.filter(|path| path.extension().is_some_and(|end| end == "packed")) {
            let open = OpenOptions::new().write(true).open(path).unwrap();
            open.set_len(open.metadata().unwrap().len() / 2).unwrap();
        }
        let error = bits(&mut engine).unwrap_err();
        assert!(says_that_it_changed(&error), "{error}");
    }
}
