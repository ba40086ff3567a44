//! `jtllm bench`: kernels beside the machine's limits, sequences at once, a cache that is not empty.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use serde_json::Value;
use support::{answer, failure, fixture, json, run, stderr};

const DEMO: [&str; 9] = ["bench", "demo", "-p", "32", "-n", "4", "-r", "1", "-t"];

/// What the machine and the moment decide becomes `#`; the columns of a row then are one blank apart.
fn shape(row: &str) -> String {
    let words: Vec<&str> = row.split_whitespace().collect();
    // From behind: of, rate, operations, products, of, GB/s, bytes and unit, weights and unit, share, ms, time, launches.
    let measured = [1, 2, 5, 6, 11, 13];
    let word = |(at, word): (usize, &&str)| {
        let is_measured = measured.contains(&(words.len() - at)) && *word != "-";
        if is_measured { "#".to_owned() } else { (*word).to_owned() }
    };
    words.iter().enumerate().map(word).collect::<Vec<_>>().join(" ")
}

/// The tables of kernels: a header, the kernels by name, their sum, and what else there is.
fn tables(printed: &str) -> String {
    let mut text = String::new();
    for table in printed.split("\nkernels of ").skip(1) {
        let mut lines: Vec<&str> = table.trim_end().lines().collect();
        let last = lines.pop().unwrap();
        let header = lines.remove(0).split_whitespace().collect::<Vec<_>>().join(" ");
        let mut rows: Vec<String> = lines.into_iter().map(shape).collect();
        let sum = rows.pop().unwrap();
        rows.sort();
        let last: String = last
            .split(' ')
            .map(|word| if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word })
            .collect::<Vec<_>>()
            .join(" ");
        text.push_str(&format!("kernels of {header}\n{}\n{sum}\n{last}\n\n", rows.join("\n")));
    }
    text
}

#[test]
fn golden_kernels_of_the_demo_model() {
    let printed = answer(&[&DEMO[..], &["1", "--kernels", "--backend", "cpu"]].concat());
    let limits = printed.lines().find(|line| line.starts_with("measured limits: memory ")).unwrap();
    assert!(limits.contains(" f32 ") && limits.ends_with(" Gop/s"), "{limits}");
    let found = tables(&printed);
    let path = support::root().join("tests/files/bench/kernels.txt");
    if std::env::var_os("JTLLM_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{printed}");
}

#[test]
fn limits_that_were_not_measured_are_said_not_to_be() {
    let said = |arguments: &[&str]| stderr(&run(&[&DEMO[..], &["1", "--kernels"], arguments].concat()));
    let why = "what is possible at most was not measured: ";
    let limited = said(&["--backend", "cpu", "--mem-limit", "1GB"]);
    assert!(limited.contains(&format!("{why}that takes more memory than a limit leaves")), "{limited}");
    let interpreted = said(&["--backend", "graph"]);
    assert!(interpreted.contains(&format!("{why}the interpreter of graphs")), "{interpreted}");
    let plain = said(&["--backend", "cpu"]);
    assert!(!plain.contains(why), "{plain}");
}

#[test]
fn lengths_beyond_counting_are_refused() {
    let most = usize::MAX.to_string();
    let said = failure(&["bench", "demo", "-p", &most, "-n", "0", "-d", "1"], 2);
    assert!(said.contains("-p, -n and -d are too many tokens to count"), "{said}");
}

/// The kernels' fields are what the table says, and add up.
#[test]
fn kernels_are_counted_in_fields() {
    let rows = json(&[&DEMO[..], &["1", "--kernels", "--backend", "cpu", "-o", "json"]].concat());
    for (row, passes) in rows.as_array().unwrap().iter().zip([1, 4]) {
        assert_eq!(row["passes"], passes);
        let kernels = row["kernels"].as_array().unwrap();
        let sum = |field: &str| kernels.iter().map(|kernel| kernel[field].as_u64().unwrap()).sum::<u64>();
        assert_eq!(
            sum("time_ns") / 1000,
            row["kernels_time_ns"].as_u64().unwrap() / 1000,
            "to a microsecond"
        );
        assert!(row["kernels_time_ns"].as_u64() <= row["traced_time_ns"].as_u64());
        assert!(sum("weight_bytes") > 0 && sum("state_bytes") > 0 && sum("bytes") > sum("weight_bytes"));
        for kernel in kernels {
            assert_eq!(kernel["launches"].as_u64().unwrap() % passes, 0, "{kernel}");
            assert!(kernel["bytes_fraction"].as_f64().unwrap() > 0.0, "{kernel}");
            let operations = kernel["operations"].as_object().unwrap();
            assert_eq!(operations.is_empty(), kernel["operations_fraction"].is_null(), "{kernel}");
        }
        let limits = &row["limits"];
        assert!(limits["f32_per_s"].as_f64().unwrap() > 1e8);
        let reads = limits["reads"].as_array().unwrap();
        assert_eq!(reads.last().unwrap()["name"], "memory");
    }
}

#[test]
fn sequences_at_once_have_the_fields_of_llama_batched_bench() {
    let arguments = [&DEMO[..], &["1", "-npl", "1,3", "-d", "16"]].concat();
    let table = answer(&arguments);
    let head = "|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |";
    assert_eq!(table.lines().next(), Some(head), "{table}");
    let cells = |at: usize| -> Vec<String> {
        let line = table.lines().nth(at).unwrap().trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    assert_eq!(cells(2)[..4], ["32", "4", "1", "52"]);
    assert_eq!(cells(3)[..4], ["32", "4", "3", "156"]);
    assert!(table.contains("tg4 @ d48 of 3 sequences: "), "{table}");
    let rows = json(&[&arguments[..], &["-o", "json", "--kernels"]].concat());
    let row = &rows[1];
    for (field, value) in
        [("pp", 32), ("tg", 4), ("pl", 3), ("n_kv", 156), ("n_depth", 16), ("is_pp_shared", 0)]
    {
        assert_eq!(row[field], value, "{field}");
    }
    let number = |field: &str| row[field].as_f64().unwrap();
    let close = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-6, "{a} {b}");
    close(number("speed_pp"), 96.0 / number("t_pp"));
    close(number("speed_tg"), 12.0 / number("t_tg"));
    close(number("speed"), 108.0 / number("t"));
    close(number("t"), number("t_pp") + number("t_tg"));
    // A pass of three sequences reads the weights once, as one of a single sequence does.
    let weights = |row: &Value| {
        let kernels = row["decode"]["kernels"].as_array().unwrap();
        kernels.iter().map(|kernel| kernel["weight_bytes"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((&row["decode"]["passes"], weights(row)), (&Value::from(4), weights(&rows[0])));
    failure(&[&DEMO[..], &["1", "--parallel", "17"]].concat(), 2);
    failure(&[&DEMO[..], &["1", "--parallel", "0"]].concat(), 2);
}

/// Every family can be run at once, prompts or decoding alone too.
#[test]
fn families_are_decoded_side_by_side() {
    for name in ["rwkv-7-tiny", "chatglm-6b-tiny", "mistral-swa-tiny"] {
        for lengths in [["0", "2"], ["16", "0"], ["5", "2"]] {
            let [prompt, generate] = lengths;
            let base = ["bench", &fixture(name), "-r", "1", "-t", "1", "-npl", "2", "-o", "jsonl"];
            let printed = answer(&[&base[..], &["-p", prompt, "-n", generate]].concat());
            let row: Value = serde_json::from_str(&printed).unwrap();
            assert_eq!((&row["pl"], row["pp"].to_string()), (&Value::from(2), prompt.to_owned()), "{name}");
            assert_eq!(row["speed_pp"].as_f64().unwrap() > 0.0, prompt != "0");
            assert_eq!(row["speed_tg"].as_f64().unwrap() > 0.0, generate != "0");
        }
    }
}

#[test]
fn a_depth_is_read_before_the_clock_starts() {
    let states = |depth: &str| {
        let rows = json(&[&DEMO[..], &["1", "-d", depth, "-o", "json", "--kernels"]].concat());
        let of_row = |row: &Value| {
            let kernels = row["kernels"].as_array().unwrap();
            let attend =
                kernels.iter().filter(|kernel| kernel["name"].as_str().unwrap().starts_with("attend"));
            attend.map(|kernel| kernel["state_bytes"].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(rows[0]["n_depth"].to_string(), depth);
        [of_row(&rows[0]), of_row(&rows[1])]
    };
    // A prompt of 32 tokens reads what is before them and themselves; 4 decoded ones read 1 to 4 positions more each.
    let ([prompt, decode], [deep_prompt, deep_decode]) = (states("0"), states("64"));
    assert_eq!(deep_prompt, prompt * (64 + 32) / 32);
    assert_eq!(deep_decode, decode * (4 * 64 + 10) / 10);
    let table = answer(&[&DEMO[..], &["1", "-d", "64"]].concat());
    assert!(table.contains("pp32 @ d64") && table.contains("tg4 @ d64"), "{table}");
}

/// A folder with a program in it that answers as one of llama.cpp's does.
fn pretend(programs: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in programs {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    folder
}

/// What one of our scripts prints with these arguments; none where there is no python3.
fn script(path: &str, arguments: &[&str]) -> Option<String> {
    let python = std::process::Command::new("python3").arg("--version").output();
    if !cfg!(unix) || !python.is_ok_and(|output| output.status.success()) {
        println!("skipped: no python3");
        return None;
    }
    let mut command = std::process::Command::new("python3");
    command.arg(support::root().join(path)).args(["--jtllm", env!("CARGO_BIN_EXE_jtllm")]).args(arguments);
    support::isolate(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn peers_are_compared_row_by_row() {
    let bench = r#"case "$*" in *"-d 8"*) echo '{"avg_ts": 1.5}';; *) echo '{"avg_ts": 2.0}';; esac"#;
    let batched = r#"echo 'loading'; echo '{"pl": 2, "speed_tg": 0.5}'"#;
    let folder = pretend(&[("llama-bench", bench), ("llama-batched-bench", batched)]);
    let llama = folder.path().to_str().unwrap();
    let lengths = ["-p", "16", "-n", "4", "-d", "8", "-b", "2", "-t", "1", "--rounds", "2"];
    let Some(table) = script("benches/peers/compare", &[&["--llama", llama, "demo"], &lengths[..]].concat())
    else {
        return;
    };
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| demo"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let works: Vec<&str> = rows.iter().map(|row| row[2]).collect();
    assert_eq!(works, ["pp16", "tg4", "tg4 @ d8", "tg2 x 2"], "{table}");
    for (row, theirs) in rows.iter().zip([2.0, 2.0, 1.5, 0.5]) {
        let number = |text: &str| text.split(' ').next().unwrap().parse::<f64>().unwrap();
        assert_eq!(number(row[4]), theirs, "{table}");
        let ratio = number(row[3]) / theirs;
        assert!((number(row[5]) / ratio - 1.0).abs() < 0.05, "{table}");
        assert_eq!(row[6].split(", ").count(), 2, "the share of a CPU that each got: {table}");
    }
}

#[test]
fn precision_is_compared_row_by_row() {
    let perplexity = r#"case "$*" in
        *--kl-divergence) echo 'Mean PPL(Q)                   :  11.000000 ±   1.0'; echo 'Mean    KLD:   0.004000 ±   0.1';;
        *) touch "$(echo "$*" | sed 's/.*--kl-divergence-base \([^ ]*\).*/\1/')"; echo 'Final estimate: PPL = 10.0000 +/- 1.0';;
        esac"#;
    let quantise = r#"test "$1" = --allow-requantize && test "$4" = F32 && touch "$3""#;
    let folder = pretend(&[("llama-perplexity", perplexity), ("llama-quantize", quantise)]);
    let llama = folder.path().to_str().unwrap();
    let arguments = ["--llama", llama, "-c", "64", "--chunks", "2", "--compute", "bf16", "demo"];
    let Some(table) = script("benches/quality/compare", &arguments) else { return };
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| demo"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let names: Vec<&str> = rows.iter().map(|row| row[1]).collect();
    assert_eq!(names, ["jtllm f32", "jtllm bf16", "llama.cpp F32", "llama.cpp"], "{table}");
    assert_eq!(rows[3][2..], ["11.000", "+10.00 %", "0.00400 ± 0.10000"], "{table}");
    let (divergence, error) = rows[1][4].split_once(" ± ").unwrap();
    let divergence: f64 = divergence.parse().unwrap();
    assert!(error.parse::<f64>().unwrap() < divergence, "{table}");
    assert!((1e-7..0.1).contains(&divergence), "{table}");
    assert_eq!((rows[0][3], rows[0][4], rows[2][4]), ("", "", ""), "{table}");
}

#[test]
fn the_wait_for_a_first_token_is_compared() {
    // It has to read as many tokens as were asked for, and not to warm up.
    let answer = r#"case "$*" in *--no-warmup*) sleep 2; echo hello; echo 'prompt eval time = 1.00 ms / 20 tokens' >&2;; esac"#;
    let folder = pretend(&[("llama-completion", answer)]);
    let llama = folder.path().to_str().unwrap();
    let arguments = ["--llama", llama, "--rounds", "2", "-c", "128", "-p", "20", "demo"];
    let Some(table) = script("benches/peers/first-token", &arguments) else { return };
    let row = table.lines().find(|line| line.starts_with("| demo")).unwrap();
    let row: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let [ours, theirs] = [row[2], row[3]].map(|text| text.split(' ').next().unwrap().parse::<f64>().unwrap());
    assert!((2.0..4.0).contains(&theirs), "{table}");
    let ratio: f64 = row[4].parse().unwrap();
    assert!((ratio - ours / theirs).abs() < 0.1, "{table}");
    assert_eq!(row[5].split(", ").count(), 2, "{table}");
}
