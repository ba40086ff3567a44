//! From a model's name to its files: on this machine if they are there, else from a hub.
//!
//! [`resolve`] looks in the cache alone. A [`Client`] also downloads: from the hubs of its [`Settings`] in turn,
//! into the cache that `huggingface_hub` shares. A file is taken from any server that gives bytes of the promised
//! hash, and has its final name only when they were checked.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::checkpoint::{gguf::Split, index};
use crate::error::LoadError;

mod cache;
mod client;
mod digest;
mod endpoint;
mod error;
mod http;
mod lock;
pub mod names;
mod nearest;
mod pip;
mod select;
mod settings;
mod transfer;

pub use cache::Cached;
pub use client::Client;
pub use endpoint::{Endpoint, Protocol};
pub use error::HubError;
pub use settings::{Patience, Proxies, Settings};

/// What happens during a download.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something that a person may want to know, as a sentence without its full stop.
    Note(String),
    /// A repository was found, and its files come now.
    Begin {
        /// The repository.
        repository: &'a str,
        /// The hub's address.
        from: &'a str,
        /// How many files are needed.
        files: usize,
        /// Their bytes together, as far as the hub tells.
        size: u64,
    },
    /// A file is not in the cache yet and comes now.
    File {
        /// Its name in the repository.
        path: &'a str,
        /// Its bytes, if the hub tells.
        size: Option<u64>,
        /// Bytes of it that an earlier download left.
        from: u64,
    },
    /// So many bytes came.
    Bytes(u64),
    /// So many bytes turned out useless.
    Dropped(u64),
    /// The file is whole.
    Whole {
        /// Whether there was a hash to check it with; else it is as long as the server said.
        checked: bool,
    },
    /// All files are there.
    End,
}

/// Who is told what happens during a download.
pub type Watch<'a> = &'a dyn Fn(Event<'_>);

/// Finds a model without asking anybody. `name` is an existing path, a short name of [`names::NAMES`] with or
/// without `:` and a size, or a repository `org/name`; the last two optionally with `:` and the name of a file or
/// of a quantisation (`:Q4_K_M`). `environment` gives the value of an environment variable, as
/// [`Settings::from_environment`] reads them.
pub fn resolve(name: &str, environment: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, LoadError> {
    locate(&Settings::from_environment(environment), name)
}

fn locate(settings: &Settings, name: &str) -> Result<PathBuf, LoadError> {
    lookup(settings, name)?.ok_or_else(|| refused(settings, name).unwrap_or_else(|| unknown(settings, name)))
}

/// Why a repository of the cache does not have what a name chooses of it.
fn refused(settings: &Settings, name: &str) -> Option<LoadError> {
    let wanted = names::parse(name)?;
    let snapshot = cache::Folder::of(settings.cache.as_deref()?, &wanted.repository).snapshot().ok()??;
    let files = cache::files(&snapshot);
    let paths: Vec<&str> = files.iter().map(String::as_str).collect();
    let select::Refusal { why, suggestions } = select::select(&paths, wanted.choice.as_deref()).err()?;
    let why = format!("{}: {why}", snapshot.display());
    Some(LoadError::NotFound { name: name.to_owned(), why, suggestions })
}

/// The path of a model that is on this machine with all its files.
fn lookup(settings: &Settings, name: &str) -> Result<Option<PathBuf>, LoadError> {
    let path = Path::new(name);
    if !name.is_empty() && path.exists() {
        return Ok(Some(path.to_owned()));
    }
    let Some(wanted) = names::parse(name) else {
        return Ok(None);
    };
    let choice = wanted.choice.as_deref();
    let wheel = wanted.wheel.map(|wheel| wheel.repository);
    if let Some(cache) = settings.cache.as_deref() {
        for repository in [Some(wanted.repository.as_str()), wheel].into_iter().flatten() {
            if let Some(snapshot) = cache::Folder::of(cache, repository).snapshot()?
                && let Some(found) = complete(&snapshot, choice)
            {
                return Ok(Some(found));
            }
        }
    }
    let names = [wanted.modelscope, Some(wanted.repository.as_str())];
    let folders = names.into_iter().flatten().flat_map(|name| modelscope_folders(settings, name));
    Ok(folders.filter(|folder| folder.is_dir()).find_map(|folder| complete(&folder, choice)))
}

/// Where ModelScope's tools keep a repository, of both layouts that they had.
fn modelscope_folders(settings: &Settings, repository: &str) -> Vec<PathBuf> {
    let Some((owner, name)) = repository.split_once('/') else {
        return Vec::new();
    };
    let old = name.replace('.', "___");
    let of = |root: &PathBuf| {
        let new = root.join("models").join(format!("{owner}--{name}")).join("snapshots").join("master");
        [new, root.join("models").join(owner).join(&old), root.join(owner).join(&old)]
    };
    settings.modelscope_caches.iter().flat_map(of).collect()
}

/// The path by which a folder's model is opened, if all its files are there.
fn complete(folder: &Path, choice: Option<&str>) -> Option<PathBuf> {
    let files = cache::files(folder);
    let paths: Vec<&str> = files.iter().map(String::as_str).collect();
    let selection = select::select(&paths, choice).ok()?;
    let chosen: Vec<&str> = selection.files.iter().map(|&at| paths[at]).collect();
    for path in &chosen {
        if path.ends_with(".index.json") {
            let index = index::read(&folder.join(path)).ok()?;
            if !index.shards.keys().all(|shard| chosen.contains(&shard.as_str())) {
                return None;
            }
        }
        if let Some(split) = Split::of(path)
            && !(1..=split.count).all(|number| chosen.contains(&split.name(number).as_str()))
        {
            return None;
        }
    }
    Some(selection.main.map_or_else(|| folder.to_owned(), |main| folder.join(main)))
}

/// The name of a file that a folder lacks.
fn lacks(folder: &Path) -> String {
    let files = cache::files(folder);
    let indices = files.iter().filter(|path| path.ends_with(".index.json"));
    let shards = indices.filter_map(|path| index::read(&folder.join(path)).ok());
    let mut shards = shards.flat_map(|index| index.shards.into_keys());
    shards.find(|shard| !files.contains(shard)).unwrap_or_else(|| "model.safetensors".to_owned())
}

fn unknown(settings: &Settings, name: &str) -> LoadError {
    let model = name.split_once(':').map_or(name, |(model, _)| model);
    let cache = settings.cache.as_deref();
    let why = match cache {
        Some(cache) if names::parse(name).is_some() => {
            format!("it is not in {}; jtllm pull fetches it", cache.display())
        }
        Some(cache) => format!("it is no path, no model in {}, and no name of a model", cache.display()),
        None => "it is no path and no name of a model, and there is no cache to look in".to_owned(),
    };
    let mut known = cache.map(cache::repositories).unwrap_or_default();
    known.extend(names::NAMES.iter().map(|row| row.name.to_owned()));
    LoadError::NotFound { name: name.to_owned(), why, suggestions: nearest::nearest(model, &known) }
}
