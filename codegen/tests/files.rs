//! The golden kernels of `tests/files/kernel`: each begins with `# test WHAT`, holds a kernel, a line
//! `# expect`, and what is expected. `JTLLM_BLESS=1` writes what came out in its place.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use jtllm_codegen::kernel::{optimise, parse, verify};
use jtllm_codegen::target::Caps;

fn caps(words: &[&str]) -> Caps {
    match words {
        ["vector", lanes] => Caps::vector(lanes.parse().unwrap()),
        ["threads", lanes] => Caps::threads(lanes.parse().unwrap()),
        other => panic!("capabilities such as `vector 8` expected, not {other:?}"),
    }
}

fn faults(text: &str, caps: &Caps) -> String {
    match verify(&parse(text).unwrap(), caps) {
        Ok(()) => "ok\n".to_owned(),
        Err(faults) => faults.iter().map(|fault| format!("{fault}\n")).collect(),
    }
}

/// What the file's test gives.
fn outcome(test: &str, input: &str) -> String {
    let words: Vec<&str> = test.split_whitespace().collect();
    match words.as_slice() {
        ["print"] => match parse(input) {
            Ok(kernel) => kernel.to_string(),
            Err(error) => format!("{error}\n"),
        },
        ["verify", caps_words @ ..] => faults(input, &caps(caps_words)),
        ["optimise", caps_words @ ..] => {
            let caps = caps(caps_words);
            assert_eq!(faults(input, &caps), "ok\n", "before");
            let text = optimise(&parse(input).unwrap()).to_string();
            assert_eq!(faults(&text, &caps), "ok\n", "after");
            text
        }
        other => panic!("a test expected, not {other:?}"),
    }
}

fn check(path: &Path, bless: bool) -> Result<(), String> {
    let text = fs::read_to_string(path).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let test = first.strip_prefix("# test ").unwrap();
    let (input, expected) = rest.split_once("# expect\n").unwrap_or((rest, ""));
    let got = outcome(test, input);
    if bless {
        fs::write(path, format!("{first}\n{input}# expect\n{got}")).unwrap();
    } else if got != expected {
        return Err(format!("{}:\n--- expected\n{expected}--- got\n{got}", path.display()));
    }
    // Whatever prints, reads back and prints the same.
    if let Ok(kernel) = parse(&got) {
        assert_eq!(parse(&kernel.to_string()).unwrap().to_string(), kernel.to_string(), "{}", path.display());
    }
    Ok(())
}

#[test]
fn kernel_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files/kernel");
    let bless = std::env::var_os("JTLLM_BLESS").is_some();
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jk"));
    paths.sort();
    assert!(!paths.is_empty());
    let failures: Vec<String> = paths.iter().filter_map(|path| check(path, bless).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
