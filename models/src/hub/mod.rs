//! From a model's name to its files on this machine.
//!
//! Models that other tools downloaded are found in the cache that `huggingface_hub` keeps:
//! `models--org--name/refs/main` holds a revision, `snapshots/<revision>/` the files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::checkpoint::gguf::Split;
use crate::error::LoadError;

mod nearest;

/// Short names for well-known repositories.
pub const SHORT_NAMES: &[(&str, &str)] = &[
    ("atom", "FlagAlpha/Atom-7B-Chat"),
    ("llama2", "meta-llama/Llama-2-7b-chat-hf"),
    ("llama3.1", "meta-llama/Llama-3.1-8B-Instruct"),
    ("llama3.2", "meta-llama/Llama-3.2-1B-Instruct"),
    ("mistral", "mistralai/Mistral-7B-Instruct-v0.3"),
    ("qwen1.5", "Qwen/Qwen1.5-0.5B-Chat"),
    ("qwen2", "Qwen/Qwen2-0.5B-Instruct"),
    ("qwen2.5", "Qwen/Qwen2.5-0.5B-Instruct"),
    ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
];

/// The longest name that is looked up.
const LONGEST_NAME: usize = 256;

/// Finds a model. `name` is an existing path, a short name, or a repository `org/name`, either of the latter
/// optionally with `:` and the name of a GGUF file or of a quantisation (`:Q4_K_M`). `environment` gives the
/// value of an environment variable: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HOME` and `USERPROFILE`
/// say, in this order, where the cache is. Nothing is downloaded.
pub fn resolve(name: &str, environment: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, LoadError> {
    let path = Path::new(name);
    if !name.is_empty() && path.exists() {
        return Ok(path.to_owned());
    }
    let cache = cache_folder(environment);
    let (model, choice) = match name.split_once(':') {
        Some((model, choice)) => (model, Some(choice)),
        None => (name, None),
    };
    let model = match SHORT_NAMES.iter().find(|(short, _)| short.eq_ignore_ascii_case(model)) {
        Some((_, repository)) => repository,
        None => model,
    };
    let cached = cache.as_deref().map(cached_repositories).unwrap_or_default();
    let snapshot = match (cache.as_deref(), is_repository(model)) {
        (Some(cache), true) => snapshot(cache, model)?,
        _ => None,
    };
    match (snapshot, choice) {
        (Some(snapshot), None) => Ok(snapshot),
        (Some(snapshot), Some(choice)) => choose(&snapshot, choice),
        (None, _) => Err(unknown(name, model, cached, cache.as_deref())),
    }
}

fn unknown(name: &str, model: &str, cached: Vec<String>, cache: Option<&Path>) -> LoadError {
    let place = match cache {
        Some(cache) => format!("no path, and no model in {}", cache.display()),
        None => "no path, and there is no Hugging Face cache to look in".to_owned(),
    };
    let mut names = cached;
    names.extend(SHORT_NAMES.iter().map(|(short, _)| (*short).to_owned()));
    LoadError::NotFound {
        name: name.to_owned(),
        why: format!("it is {place}; downloads come with a later version"),
        suggestions: nearest::nearest(model, &names),
    }
}

fn cache_folder(environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |key: &str| environment(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let below = |key: &str, rest: &str| set(key).map(|folder| folder.join(rest));
    set("HF_HUB_CACHE")
        .or_else(|| below("HF_HOME", "hub"))
        .or_else(|| below("XDG_CACHE_HOME", "huggingface/hub"))
        .or_else(|| below("HOME", ".cache/huggingface/hub"))
        .or_else(|| below("USERPROFILE", ".cache/huggingface/hub"))
}

/// Whether a name has Hugging Face's form `org/name`. Each part becomes a piece of a folder's name, so none
/// may lead out of the cache.
fn is_repository(name: &str) -> bool {
    let part = |part: &str| {
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        !part.is_empty() && part.chars().all(plain) && !part.contains("..") && !part.contains("--")
    };
    name.len() <= LONGEST_NAME
        && name.split_once('/').is_some_and(|(organisation, model)| part(organisation) && part(model))
}

/// The folder with a repository's files as of its main revision; without that, its only revision.
fn snapshot(cache: &Path, repository: &str) -> Result<Option<PathBuf>, LoadError> {
    let folder = cache.join(format!("models--{}", repository.replace('/', "--")));
    let snapshots = folder.join("snapshots");
    let reference = folder.join("refs").join("main");
    if let Some(revision) = crate::checkpoint::storage::read_small(&reference, 1024)? {
        let revision = String::from_utf8_lossy(&revision).trim().to_owned();
        if revision.is_empty() || !revision.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(LoadError::header(&reference, 0, "expected the hash of a revision"));
        }
        let found = snapshots.join(revision);
        return Ok(found.is_dir().then_some(found));
    }
    let mut revisions = entries(&snapshots);
    match (revisions.pop(), revisions.is_empty()) {
        (Some(only), true) => Ok(Some(snapshots.join(only))),
        _ => Ok(None),
    }
}

/// A GGUF file of a snapshot by its name or by a part of it, as `Q4_K_M`.
fn choose(snapshot: &Path, choice: &str) -> Result<PathBuf, LoadError> {
    let mut models: Vec<String> =
        entries(snapshot).into_iter().filter(|name| name.ends_with(".gguf")).collect();
    models.retain(|name| Split::of(name).is_none_or(|split| split.number == 1));
    if let Some(exact) = models.iter().find(|name| *name == choice) {
        return Ok(snapshot.join(exact));
    }
    let wanted = choice.to_ascii_lowercase();
    let matching: Vec<&String> = models.iter().filter(|name| has_part(name, &wanted)).collect();
    match matching.as_slice() {
        [one] => Ok(snapshot.join(one)),
        _ => Err(LoadError::NotFound {
            name: choice.to_owned(),
            why: match matching.len() {
                0 => format!("{} has no GGUF file of this name or quantisation", snapshot.display()),
                count => format!("{count} GGUF files in {} match it", snapshot.display()),
            },
            suggestions: nearest::nearest(choice, &models),
        }),
    }
}

/// Whether a file name contains `part` as a word of its own, so that `q4_k` does not match `q4_k_m`.
fn has_part(name: &str, part: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let joins = |character: char| character.is_ascii_alphanumeric() || character == '_';
    !part.is_empty()
        && name.match_indices(part).any(|(start, _)| {
            !name[..start].ends_with(joins) && !name[start + part.len()..].starts_with(joins)
        })
}

fn cached_repositories(cache: &Path) -> Vec<String> {
    let repository = |name: String| {
        let (organisation, model) = name.strip_prefix("models--")?.split_once("--")?;
        Some(format!("{organisation}/{model}"))
    };
    entries(cache).into_iter().filter_map(repository).collect()
}

/// The names in a folder in alphabetical order; none, if it cannot be read.
fn entries(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}
