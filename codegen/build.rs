//! Names the state of the sources that code is made by, this crate's, `jtllm-ir`'s and, by the lock file, those of the
//! assembler and of Cranelift: kernels that were kept on disk by another state are compiled anew.

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
    let mut sources = Vec::new();
    // Beside the crate there is nothing where it was not built in its workspace.
    for place in
        ["src", "../ir/src", "../Cargo.lock"].map(Path::new).into_iter().filter(|place| place.exists())
    {
        println!("cargo::rerun-if-changed={}", place.display());
        match place.is_dir() {
            true => files(place, &mut sources),
            false => sources.push(place.to_owned()),
        }
    }
    sources.sort();
    let mut hash = DefaultHasher::new();
    for path in sources {
        path.hash(&mut hash);
        std::fs::read(&path).expect("the crate's sources can be read").hash(&mut hash);
    }
    println!("cargo::rustc-env=JTLLM_CODEGEN_SOURCES={:016x}", hash.finish());
}
