//! The table of limits, and what is refused before anything is measured.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use xtask::synthetic::Synthetic;
use xtask::tiers::{Row, table};

fn tiers(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).arg("bench-tiers").args(arguments).output().unwrap()
}

#[test]
fn a_row_has_its_ratios() {
    let row = Row {
        file: "m.gguf".to_owned(),
        program: "jtllm".to_owned(),
        limit: Some(500_000_000),
        peak: Some(512_340_000),
        tokens_per_s: 6.0,
        read_per_token: 150e6,
        written: 4096,
        dd_bytes_per_s: 1e9,
        foreseen: Some([6.5, 500e6]),
        llama_tokens_per_s: Some(1.5),
        unlimited_tokens_per_s: Some(8.0),
    };
    let failed = Row {
        program: "llama.cpp".to_owned(),
        peak: None,
        tokens_per_s: f64::NAN,
        foreseen: None,
        llama_tokens_per_s: None,
        unlimited_tokens_per_s: None,
        limit: None,
        ..row.clone()
    };
    let text = table(&[row, failed]);
    let lines: Vec<&str> = text.lines().skip(2).collect();
    assert_eq!(
        lines[0],
        "| m.gguf | 500.0 | jtllm | 512.3 | 6.00 | 150.0 | 0.0 | 0.90 | 4.00 | 0.75 | 6.50 | 500.0 |"
    );
    assert_eq!(lines[1], "| m.gguf | none | llama.cpp | unknown | - | 150.0 | 0.0 | - | - | - | - | - |");
}

#[test]
fn what_is_missing_is_told() {
    let missing = tiers(&["--jtllm", "/no/such/jtllm"]);
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && said.contains("/no/such/jtllm is not there"), "{said}");
    for arguments in [&["--models"][..], &["-t", "0"], &["--rounds", "x"], &["--tokens", "0"], &["--fast"]] {
        let refused = tiers(arguments);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("usage: cargo xtask"), "{arguments:?}");
    }
}

/// A program in the place of jtllm that reads the file it is given, and writes down what it may use.
#[test]
fn programs_run_within_their_limit_or_it_is_said_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let (model, program) = (folder.path().join("m.gguf"), folder.path().join("jtllm"));
    Synthetic::of("chatglm2-100m", "q8_0", Some(2)).unwrap().write(&model, &mut |_| {}).unwrap();
    let told = folder.path().join("told");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = plan ] && echo '{{ \"tokens_per_s\": 2, \"peak\": 3e8 }}' && exit\nlimit=none; for last; do [ \"$before\" = --mem-limit ] && limit=$last; before=$last; done\nfile=$2\necho \"$last $limit\" >> {}\ncat /proc/self/cgroup >> {}\n\
         i=0; while [ $i -lt \"$last\" ]; do cat \"$file\" > /dev/null; i=$((i + 1)); done\n\
         echo '{{ \"timings\": {{ \"predicted_per_second\": 2.5 }} }}'\n",
        told.display(),
        told.display(),
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let [model, program, models] =
        [model.as_path(), &program, folder.path()].map(|path| path.to_str().unwrap());
    let output = tiers(&["--quick", "--jtllm", program, "--models", models, "-t", "1", model]);
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    if !output.status.success() {
        // Not every machine lets its users make control groups.
        assert!(said.contains("run as root") || said.contains("control group is needed"), "{said}");
        return;
    }
    assert_eq!(text.lines().count(), 2 + 4, "{text}");
    assert!(
        text.lines().skip(2).all(|line| line.contains("| jtllm |") && line.contains("| 2.50 |")),
        "{text}"
    );
    // Of each limit a first run and one of each length, all of them inside a group; of the one within which all
    // fits, a quarter more than the plan says, the same without a limit.
    let told = fs::read_to_string(told).unwrap();
    assert_eq!(told.matches("/jtllm-tiers-").count(), 11, "{told}");
    let runs: Vec<&str> = told.lines().filter(|line| !line.contains(':')).collect();
    let len = Synthetic::of("chatglm2-100m", "q8_0", Some(2)).unwrap().bytes();
    let limits = [0.8, 0.5].map(|part| (len as f64 * part) as u64);
    let limits = limits.iter().copied().chain([375_000_000]);
    let expected = limits.flat_map(|limit| [1, 3, 6].map(|tokens| format!("{tokens} {limit}")));
    let expected: Vec<String> = expected.chain(["3 none".to_owned(), "6 none".to_owned()]).collect();
    assert_eq!(runs, expected);
}
