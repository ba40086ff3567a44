//! The texts of the golden files.

use std::fs;
use std::path::Path;

use crate::assembler::{assemble, find};

#[test]
fn golden_texts_are_accepted() {
    let Some(ptxas) = find() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/files/ptx");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = fs::read_to_string(&path).unwrap().replace("\r\n", "\n");
        let (test, rest) = file.split_once('\n').unwrap();
        let own = test.strip_prefix("# test ptx ").unwrap();
        // No later processor runs what is for `90a` alone.
        let processors = if own.ends_with('a') { vec![own] } else { vec![own, "120"] };
        let (_, expected) = rest.split_once("# expect\n").unwrap();
        for text in expected.split("// ").filter(|text| !text.is_empty()) {
            for processor in &processors {
                if let Err(words) = assemble(&ptxas, &format!("// {text}"), processor) {
                    panic!("{}, sm_{processor}: {words}", path.display());
                }
            }
            count += 1;
        }
    }
    assert!(count >= 8);
}
