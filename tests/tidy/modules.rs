//! Which files a crate is made of, found by following `mod` declarations from its root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::lexer::{Kind, Token, code};
use crate::rules::group_end;

/// The files that `file` declares as modules: for each declaration the places where the compiler looks.
/// `is_root` says that the file begins a crate, whatever it is called.
pub(crate) fn declared(file: &Path, source: &str, is_root: bool) -> Vec<PathBuf> {
    let folder = file.parent().unwrap_or(Path::new(""));
    let beside = is_root || file.ends_with("mod.rs");
    let nested = if beside { folder.to_owned() } else { file.with_extension("") };
    let tokens = code(source);
    let mut found = Vec::new();
    let mut inside: Vec<(String, usize)> = Vec::new(); // modules written in place, and where they end
    for at in 0..tokens.len() {
        inside.retain(|(_, end)| at < *end);
        let named = tokens.get(at + 1).filter(|name| name.kind == Kind::Word);
        let (true, Some(name), Some(after)) = (tokens[at].is("mod"), named, tokens.get(at + 2)) else {
            continue;
        };
        let name = name.text.trim_start_matches("r#").to_owned();
        if after.is("{") {
            inside.push((name, group_end(&tokens, at + 2)));
        } else if after.is(";") {
            let mut place = nested.clone();
            place.extend(inside.iter().map(|(name, _)| name));
            if let Some(path) = path_attribute(&tokens[..at]) {
                found.push(joined(if inside.is_empty() { folder } else { &place }, &path));
            } else {
                found.push(place.join(format!("{name}.rs")));
                found.push(place.join(&name).join("mod.rs"));
            }
        }
    }
    found
}

/// A path from a folder, without the steps back up.
fn joined(folder: &Path, path: &str) -> PathBuf {
    let mut place = folder.to_owned();
    for part in Path::new(path) {
        if part == ".." {
            place.pop();
        } else {
            place.push(part);
        }
    }
    place
}

/// The value of `#[path = ".."]` if that is the last attribute, visibility aside.
fn path_attribute(before: &[Token<'_>]) -> Option<String> {
    let mut end = before.len();
    if end > 0 && before[end - 1].is(")") {
        end = before[..end].iter().rposition(|token| token.is("("))?; // pub(crate)
    }
    if end > 0 && before[end - 1].is("pub") {
        end -= 1;
    }
    let [.., word, equals, value, close] = &before[..end] else { return None };
    let found = word.is("path") && equals.is("=") && close.is("]");
    found.then(|| value.text.trim_matches('"').to_owned())
}

/// The files of `all` that cannot be reached from `roots`. `read` gives a file's text.
pub(crate) fn dead(
    roots: &[PathBuf],
    all: &BTreeSet<PathBuf>,
    read: impl Fn(&Path) -> Option<String>,
) -> Vec<PathBuf> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<PathBuf> = roots.to_vec();
    while let Some(file) = open.pop() {
        if !reached.contains(&file)
            && let Some(source) = read(&file)
        {
            open.extend(declared(&file, &source, roots.contains(&file)));
            reached.insert(file);
        }
    }
    all.difference(&reached).cloned().collect()
}
