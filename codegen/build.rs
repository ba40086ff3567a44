//! Names the state of this crate's sources: kernels that were kept on disk by another state are compiled anew.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).expect("the crate's sources can be listed");
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

fn main() {
    println!("cargo::rerun-if-changed=src");
    let mut sources = Vec::new();
    files(Path::new("src"), &mut sources);
    sources.sort();
    let mut hash = DefaultHasher::new();
    for path in sources {
        path.hash(&mut hash);
        std::fs::read(&path).expect("the crate's sources can be read").hash(&mut hash);
    }
    println!("cargo::rustc-env=JTLLM_CODEGEN_SOURCES={:016x}", hash.finish());
}
