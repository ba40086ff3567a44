//! `jtllm perplexity`: a text's likelihood, and the distance between two runs.
#![allow(clippy::unwrap_used)]

#[path = "cli/support.rs"]
mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{answer, failure, fixture, json};

/// English of a kind, long enough for some pieces of 64 tokens.
fn text(folder: &Path) -> String {
    let words = ["the", "sea", "was", "calm", "and", "a", "boat", "came", "home", "late", "with", "fish"];
    let word = |at: usize| words[(at * at + 3 * at + at / 7) % words.len()];
    let text = (0..400).map(word).collect::<Vec<_>>().join(" ");
    let path = folder.join("text");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn close(a: f64, b: f64, relative: f64) {
    assert!((a - b).abs() <= relative * b.abs(), "{a} for {b}");
}

#[test]
fn the_lines_are_those_of_llama_perplexity() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(folder.path());
    let arguments = ["perplexity", "demo", "-f", &text, "-c", "64", "--chunks", "3", "--backend", "cpu"];
    let printed = answer(&arguments);
    let (running, estimate) = printed.trim_end().split_once("\n").unwrap();
    let values: Vec<f64> = running
        .trim_end_matches(',')
        .split(',')
        .enumerate()
        .map(|(at, part)| part.strip_prefix(&format!("[{}]", at + 1)).unwrap().parse().unwrap())
        .collect();
    assert_eq!(values.len(), 3);
    let estimate = estimate.strip_prefix("Final estimate: PPL = ").unwrap();
    let (value, uncertainty) = estimate.split_once(" +/- ").unwrap();
    assert_eq!(value.parse::<f64>().unwrap(), values[2], "the last running value is the estimate");
    let report = json(&[&arguments[..], &["--json"]].concat());
    assert_eq!(report["tokens"], 3 * (64 - 1 - 32));
    assert_eq!(format!("{:.4}", report["perplexity"].as_f64().unwrap()), value);
    assert_eq!(format!("{:.5}", report["uncertainty"].as_f64().unwrap()), uncertainty);
}

/// Each token's probability by the interpreter of graphs, piece by piece, by the definition.
#[test]
fn every_backend_measures_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(folder.path());
    let with = |backend: &str| {
        let arguments = ["perplexity", "demo", "-f", &text, "-c", "48", "--chunks", "2", "--json"];
        json(
            &[&arguments[..], &["--backend", backend, "--compute", "f32", "-ctk", "f32", "-ctv", "f32"]]
                .concat(),
        )
    };
    let [cpu, graph] = ["cpu", "graph"].map(|backend| with(backend)["perplexity"].as_f64().unwrap());
    close(cpu, graph, 1e-4);
    let alone = ["perplexity", "demo", "-f", &text, "-c", "48", "--chunks", "2", "--threads"];
    let [one, two] = ["1", "2"].map(|threads| answer(&[&alone[..], &[threads]].concat()));
    assert_eq!(one, two);
}

#[test]
fn a_run_is_no_distance_from_itself_and_some_from_another() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(folder.path());
    let base = folder.path().join("base");
    let base = base.to_str().unwrap();
    let keep =
        ["perplexity", "demo", "-f", &text, "-c", "64", "--compute", "f32", "--json", "--backend", "cpu"];
    let kept = json(&[&keep[..], &["--kl-divergence-base", base]].concat());
    let against = |compute: &str| -> Value {
        let compare = ["perplexity", "demo", "--kl-divergence-base", base, "--kl-divergence", "--json"];
        json(&[&compare[..], &["--backend", "cpu", "--compute", compute]].concat())
    };
    let same = against("f32");
    assert_eq!(same["tokens"], kept["tokens"]);
    close(same["perplexity"]["mean"].as_f64().unwrap(), kept["perplexity"].as_f64().unwrap(), 1e-6);
    // Sixteen bits for a logarithm.
    assert!(same["kl_divergence"]["mean"].as_f64().unwrap().abs() < 1e-4, "{same}");
    assert_eq!(same["same_top"], 1.0);
    let other = against("bf16");
    let divergence = other["kl_divergence"]["mean"].as_f64().unwrap();
    assert!(divergence > 1e-6 && divergence < 0.05, "{other}");
    let table = answer(&["perplexity", "demo", "--kl-divergence-base", base, "--kl-divergence"]);
    for line in ["Mean PPL(Q)  ", "Mean PPL(base)", "Mean    KLD:", "99.9%   KLD:", "Same top p:"] {
        assert!(table.contains(line), "{line} in {table}");
    }
}

#[test]
fn bases_that_are_none_and_texts_that_are_too_short_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = text(folder.path());
    let short = failure(&["perplexity", "demo", "-f", &text, "-c", "1000"], 1);
    assert!(short.contains("wants 2000 or more"), "{short}");
    // It says how many tokens there are: what ends the last line is none.
    let ended = fs::read_to_string(&text).unwrap() + "\n";
    fs::write(&text, ended).unwrap();
    assert_eq!(failure(&["perplexity", "demo", "-f", &text, "-c", "1000"], 1), short);
    for context in ["1", "2", "3"] {
        let refused = failure(&["perplexity", "demo", "-f", &text, "-c", context], 2);
        assert!(refused.contains("predicts none"), "{refused}");
    }
    let both = ["perplexity", "demo", "--kl-divergence-base", "x", "--kl-divergence", "-c", "64"];
    assert!(failure(&both, 2).contains("the base's own text"));
    assert!(failure(&["perplexity", "demo"], 2).contains("-f wants a file"));
    assert!(
        failure(&["perplexity", "demo", "-f", &text, "--kl-divergence"], 2).contains("what to compare with")
    );
    let path = folder.path().join("base");
    let compare = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let base = path.to_str().unwrap();
        failure(&["perplexity", "demo", "--kl-divergence-base", base, "--kl-divergence"], 1)
    };
    assert!(compare(b"no").contains("does not begin with"));
    // A head that promises more than memory has.
    let head = [b"_logits_".as_slice(), &[0xFF; 12]].concat();
    assert!(compare(&head).contains("but says it has"), "{}", compare(&head));
    let mut some = b"_logits_".to_vec();
    for number in [64u32, 5, 1] {
        some.extend(number.to_le_bytes());
    }
    some.resize(20 + 64 * 4 + 31 * (8 + 2 * 6), 0);
    assert!(compare(&some).contains("vocabulary of 5 tokens"), "{}", compare(&some));
    some.pop();
    assert!(compare(&some).contains("but says it has"));
    let latin = folder.path().join("latin");
    fs::write(&latin, b"caf\xe9").unwrap();
    let refused = failure(&["perplexity", "demo", "-f", latin.to_str().unwrap()], 1);
    assert!(refused.contains("no text in UTF-8: byte 3"), "{refused}");
    let encoder = fixture("bert-minilm-mean-tiny");
    let refused = failure(&["perplexity", &encoder, "-f", &text, "-c", "32"], 1);
    assert!(refused.contains("encoder"), "{refused}");
}
