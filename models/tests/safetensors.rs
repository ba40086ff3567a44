//! What the safetensors parser must refuse, and how it says so.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use jtllm_models::checkpoint::safetensors::{self, Header};
use jtllm_models::{Checkpoint, LoadError};

#[path = "support/allocated.rs"]
mod allocated;

fn parse(bytes: &[u8]) -> Result<Header, LoadError> {
    safetensors::parse(bytes, Path::new("model.safetensors"))
}

/// A file of a header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn tensor(name: &str, dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
}

/// Parses, expects failure with exit status 4, and returns the message.
fn fails(bytes: &[u8]) -> String {
    let error = parse(bytes).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    error.to_string()
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
}

#[test]
fn a_sound_file_is_read() {
    let two = format!(
        r#"{{"__metadata__":{{"format":"pt"}},{},{}}}"#,
        tensor("b", "F16", "[3]", "[8,14]"),
        tensor("a", "F32", "[1,2]", "[0,8]")
    );
    let header = parse(&file(&two, 14)).unwrap();
    assert_eq!(header.metadata["format"], "pt");
    let start = 8 + two.len() as u64;
    let seen: Vec<_> = header
        .tensors
        .iter()
        .map(|tensor| (&*tensor.name, tensor.element.encoding, &*tensor.shape, tensor.offset, tensor.len))
        .collect();
    assert_eq!(seen, [("a", "f32", &[1, 2][..], start, 8), ("b", "f16", &[3][..], start + 8, 6)]);
    let empty = tensor("none", "F32", "[0,9223372036854775807]", "[0,0]");
    assert_eq!(parse(&file(&format!("{{{empty}}}"), 0)).unwrap().tensors[0].len, 0);
    assert!(parse(&file("{}", 0)).unwrap().tensors.is_empty());
}

#[test]
fn f01_header_too_small() {
    says(&fails(&[0; 8]), &["header too small", "length is 0"]);
    says(&fails(&[0; 7]), &["header too small", "has 7 bytes"]);
    says(&fails(&[]), &["header too small", "has 0 bytes"]);
}

#[test]
fn f02_header_length_of_all_ones_allocates_nothing() {
    let mut bytes = u64::MAX.to_le_bytes().to_vec();
    bytes.extend(b"{}");
    let (message, peak) = allocated::peak(|| fails(&bytes));
    says(&message, &["header too large", "18446744073709551615"]);
    assert!(peak < 1 << 20, "{peak} bytes");
}

#[test]
fn f03_header_of_more_than_100_mb() {
    let mut bytes = 100_000_001u64.to_le_bytes().to_vec();
    bytes.extend(b"{}");
    says(&fails(&bytes), &["header too large", "100000001", "at most 100000000"]);
    // One byte less passes this check, and is found to be missing.
    bytes[..8].copy_from_slice(&100_000_000u64.to_le_bytes());
    says(&fails(&bytes), &["truncated: expected 100000008, found 10 bytes"]);
}

#[test]
fn f04_header_is_not_utf8_or_not_json() {
    let mut bytes = file(r#"{"abc":1}"#, 0);
    bytes[11] = 0xff;
    says(&fails(&bytes), &["at byte 11", "UTF-8"]);
    says(&fails(&file(r#"{"a":]"#, 0)), &["at byte 13", "JSON"]);
    says(&fails(&file("{\n\n  \"a\":]", 0)), &["at byte 17", "JSON"]);
    says(&fails(&file("[]", 0)), &["at byte 8", "must begin with {"]);
    says(&fails(&file("{} {}", 0)), &["at byte 11", "JSON"]);
    let negative = tensor("w", "F32", "[-1]", "[0,4]");
    says(&fails(&file(&format!("{{{negative}}}"), 4)), &["\"w\"", "-1", "u64"]);
    says(&fails(&file(r#"{"__metadata__":{"format":1}}"#, 0)), &["__metadata__", "integer `1`"]);
    says(&fails(&file(&"[".repeat(1000).replacen('[', "{\"a\":[", 1), 0)), &["JSON"]);
}

#[test]
fn f05_duplicate_tensor_name() {
    let twice = format!("{{{0},{0}}}", tensor("w", "F32", "[1]", "[0,4]"));
    says(&fails(&file(&twice, 4)), &["duplicate name \"w\""]);
    // The same name, written in another way.
    let escaped =
        format!("{{{},{}}}", tensor("w", "F32", "[1]", "[0,4]"), tensor(r"\u0077", "F32", "[1]", "[4,8]"));
    says(&fails(&file(&escaped, 8)), &["duplicate name \"w\""]);
    let metadata = r#"{"__metadata__":{},"__metadata__":{}}"#;
    says(&fails(&file(metadata, 0)), &["duplicate name \"__metadata__\""]);
}

#[test]
fn f06_hole_between_tensors() {
    let hole = format!("{{{},{}}}", tensor("a", "F32", "[1]", "[0,4]"), tensor("b", "F32", "[1]", "[8,12]"));
    says(&fails(&file(&hole, 12)), &["tensor \"b\"", "hole of 4 bytes", "\"a\""]);
    let first = tensor("a", "F32", "[1]", "[4,8]");
    says(&fails(&file(&format!("{{{first}}}"), 8)), &["tensor \"a\"", "hole of 4 bytes"]);
}

#[test]
fn f07_overlapping_tensors() {
    let overlap =
        format!("{{{},{}}}", tensor("a", "F32", "[2]", "[0,8]"), tensor("b", "F32", "[2]", "[4,12]"));
    says(&fails(&file(&overlap, 12)), &["tensor \"b\"", "overlaps \"a\" by 4 bytes"]);
}

#[test]
fn f08_trailing_bytes() {
    let one = format!("{{{}}}", tensor("a", "F32", "[1]", "[0,4]"));
    says(
        &fails(&file(&one, 5)),
        &["1 trailing bytes belong to no tensor", &format!("byte {}", 12 + one.len())],
    );
}

#[test]
fn f09_shape_overflows() {
    let huge = tensor("w", "F32", "[4294967296,4294967296,4]", "[0,4]");
    says(&fails(&file(&format!("{{{huge}}}"), 4)), &["tensor \"w\"", "overflows", "4294967296"]);
    let offsets = tensor("w", "U8", "[18446744073709551615]", "[0,18446744073709551615]");
    says(&fails(&file(&format!("{{{offsets}}}"), 4)), &["tensor \"w\"", "overflows"]);
    let bytes = tensor("w", "U8", "[2305843009213693951]", "[0,2305843009213693951]");
    says(&fails(&file(&format!("{{{bytes}}}"), 4)), &["truncated: expected 23058430092136"]);
}

#[test]
fn f10_shape_and_span_disagree() {
    let wrong = tensor("w.weight", "BF16", "[3,5]", "[0,28]");
    let message = fails(&file(&format!("{{{wrong}}}"), 28));
    says(&message, &["tensor \"w.weight\"", "[3, 5]", "BF16", "30 bytes", "span 28"]);
    let backwards = tensor("w", "F32", "[1]", "[4,0]");
    says(&fails(&file(&format!("{{{backwards}}}"), 4)), &["tensor \"w\"", "end before they begin"]);
    let deep = tensor("w", "F32", &format!("[{}]", vec!["1"; 65].join(",")), "[0,4]");
    says(&fails(&file(&format!("{{{deep}}}"), 4)), &["\"w\"", "more than 64 dimensions"]);
    let unknown = tensor("w", "F33", "[1]", "[0,4]");
    says(&fails(&file(&format!("{{{unknown}}}"), 4)), &["tensor \"w\"", "unknown dtype \"F33\""]);
    let half = tensor("w", "F4", "[3]", "[0,1]");
    says(&fails(&file(&format!("{{{half}}}"), 1)), &["tensor \"w\"", "inside a byte"]);
}

#[test]
fn f11_truncated_file() {
    let one = format!("{{{}}}", tensor("a", "F32", "[100]", "[0,400]"));
    let whole = file(&one, 400);
    let expected = whole.len();
    assert!(parse(&whole).is_ok());
    for found in [expected - 1, expected / 2, 8 + one.len()] {
        let message = fails(&whole[..found]);
        says(&message, &[&format!("truncated: expected {expected}, found {found} bytes")]);
    }
    let header = 8 + one.len();
    says(&fails(&whole[..20]), &[&format!("truncated: expected {header}, found 20 bytes")]);
}

#[test]
fn names_cannot_control_the_terminal() {
    let escape = tensor(r"\u001b[2J\n", "F33", "[1]", "[0,4]");
    let message = fails(&file(&format!("{{{escape}}}"), 4));
    assert!(!message.contains(['\u{1b}', '\n']), "{message:?}");
}

/// A folder with a configuration and these files.
fn folder(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn index(map: &str) -> (&'static str, Vec<u8>) {
    ("model.safetensors.index.json", format!(r#"{{"metadata":{{}},"weight_map":{{{map}}}}}"#).into_bytes())
}

fn shard(tensor_name: &str) -> Vec<u8> {
    file(&format!("{{{}}}", tensor(tensor_name, "F32", "[1]", "[0,4]")), 4)
}

fn open_fails(folder: &tempfile::TempDir) -> String {
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    error.to_string()
}

#[test]
fn f13_all_missing_shards_are_listed_at_once() {
    let folder = folder(&[
        index(r#""a":"one.safetensors","b":"two.safetensors","c":"three.safetensors""#),
        ("two.safetensors", shard("b")),
    ]);
    let message = open_fails(&folder);
    says(&message, &["2 shards missing", "\"one.safetensors\"", "\"three.safetensors\"", "index.json"]);
    assert!(!message.contains("two"), "{message}");
}

#[test]
fn f14_tensor_in_the_wrong_shard() {
    let swapped = folder(&[
        index(r#""a":"one.safetensors","b":"two.safetensors""#),
        ("one.safetensors", shard("b")),
        ("two.safetensors", shard("a")),
    ]);
    says(&open_fails(&swapped), &["tensor \"b\"", "places it in two.safetensors", "is in one.safetensors"]);
    let absent =
        folder(&[index(r#""a":"one.safetensors","b":"one.safetensors""#), ("one.safetensors", shard("a"))]);
    says(&open_fails(&absent), &["tensor \"b\"", "one.safetensors, which does not have it"]);
}

#[test]
fn f15_index_path_leads_out_of_the_folder() {
    for path in ["../../etc/passwd", "/etc/passwd", "a/../../b", r"..\\b", r"C:\\b", "", ".", "a\\u0000b"] {
        let folder = folder(&[index(&format!(r#""w":"{path}""#))]);
        says(&open_fails(&folder), &["tensor \"w\"", "not the name of a file in the model's folder"]);
    }
    let folder = folder(&[index(r#""w":"a","w":"b""#)]);
    says(&open_fails(&folder), &["duplicate name \"w\""]);
}

#[test]
fn folders_without_weights_say_what_is_missing() {
    says(&open_fails(&folder(&[])), &["model.safetensors", "*.gguf"]);
    says(&open_fails(&folder(&[])), &["pytorch_model.bin", "params.json", "*.pth"]);
    let bare = folder(&[("model.safetensors", shard("a"))]);
    std::fs::remove_file(bare.path().join("config.json")).unwrap();
    says(&open_fails(&bare), &["config.json"]);
    let error = Checkpoint::open(&bare.path().join("model.safetensors")).unwrap_err();
    says(&error.to_string(), &["without its folder", "name the folder"]);
    let error = Checkpoint::open(Path::new("no/such/folder")).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
}
